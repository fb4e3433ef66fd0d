package ovnqos

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// installation is a Northbound with networks N and E, and ports P and Q on N,
// beside a Southbound with a chassis.
type installation struct {
	nb, sb *ovsdbtest.Server
	c      *ovn.Conn
	b      *Backend
}

func newInstallation(t testing.TB) *installation {
	t.Helper()
	x := &installation{nb: ovsdbtest.New(t, ovsdbtest.NB), sb: ovsdbtest.New(t, ovsdbtest.SB)}
	x.sb.Run("ovn-sbctl", "--db="+x.sb.Endpoint(), "--id=@e", "create", "Encap", "type=geneve", "ip=192.0.2.9", "chassis_name=hv1",
		"--", "create", "Chassis", "name=hv1", "hostname=hv1", "encaps=@e", "other_config:datapath-type=system")
	x.c, x.b = x.open(t)
	require.NoError(t, x.c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		network(tx, "N", "P", "Q")
		network(tx, "E")
		return nil
	}))
	return x
}

func (x *installation) open(t testing.TB) (*ovn.Conn, *Backend) {
	c, err := ovn.Dial(t.Context(), "o", []string{x.nb.Endpoint()}, &ovn.Options{Southbound: []string{x.sb.Endpoint()}})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	b, err := New(c, &Options{Shares: true})
	require.NoError(t, err)
	return c, b
}

func network(tx *ovn.Tx, id string, ports ...string) {
	r := ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", id)})
	for _, p := range ports {
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, r.UUID), "ports", ovn.Ensure(tx, "port", p, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(p)}).UUID)
	}
}

// gateway makes the port of a gateway, as part router does.
func gateway(tx *ovn.Tx, name string) {
	r := ovn.Ensure(tx, "port", "G", &nbrow.LogicalSwitchPort{Name: tx.Conn().Name("gateway", name), Type: "router"})
	tx.Hold(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "E"), "ports", r.UUID)
}

func (x *installation) print(t testing.TB, f func(w *writer) error) string {
	t.Helper()
	s, err := x.c.Print(t.Context(), vnet.PartQoS, func(tx *ovn.Tx) error { return (&writer{tx: tx}).do(f) })
	require.NoError(t, err)
	return regexp.MustCompile(`(\["burst",\d+\]),(\["rate",\d+\])`).ReplaceAllString(s, "$2,$1") // maps have no order
}

// example has something of everything.
func example() qos.State {
	mark := uint8(26)
	return qos.State{
		Uplinks: []qos.Uplink{{Name: "physnet1", Kbps: 1_000_000, Host: "hv1"}, {Name: qos.Tunnelled, Kbps: 500_000, Host: "hv1"}},
		Ports: []qos.Port{
			{ID: "P", Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000}, Ingress: qos.Limits{Kbps: 20_000, BurstKbit: 3000}, DSCP: &mark}},
			{ID: "Q", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 100_000}}, Uplink: qos.Tunnelled, Host: "hv1"}},
		Gateways: []qos.Gateway{{RouterID: "R", PortID: "G", NetworkID: "E", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000}, Ingress: qos.Limits{Kbps: 2000}}}},
		FloatingIPs: []qos.FloatingIP{{ID: "F", RouterID: "R", PortID: "G", NetworkID: "E", FixedPortID: "P", FloatingIP: netip.MustParseAddr("203.0.113.50"),
			Shape: qos.Shape{Egress: qos.Limits{Kbps: 500}, DSCP: &mark}}},
	}.Canonical()
}

func TestWorkedExample(t *testing.T) {
	x, s := newInstallation(t), example()
	all := func(s qos.State) func(w *writer) error {
		return func(w *writer) error { _, err := w.all(s); return err }
	}
	golden(t, "example.txt", x.print(t, all(s)))
	require.NoError(t, x.b.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Empty(t, x.print(t, all(s)))
	text := ""
	for _, o := range [][2]string{{"port", "P"}, {"port", "Q"}, {"gateway", "R"}, {"floatingip", "F"}, {"uplink", qos.Tunnelled}} {
		e, err := x.b.Explain(t.Context(), o[0], o[1])
		require.NoError(t, err)
		text += e.String()
		_, err = x.b.Explain(t.Context(), o[0], "none")
		require.ErrorIs(t, err, vnet.ErrNotFound)
	}
	golden(t, "example-explain.txt", text)
	s.Ports[0].Egress.Kbps = 30_000
	golden(t, "example-change.txt", x.print(t, all(s)))
	golden(t, "example-gone.txt", x.print(t, all(qos.State{})))
	plan, err := x.b.Plan(t.Context(), qos.State{})
	require.NoError(t, err)
	golden(t, "example-plan.txt", plan.String())
}

// TestWithTheOverlay: a port and its limits are one transaction, and go in one.
func TestWithTheOverlay(t *testing.T) {
	x := newInstallation(t)
	ctx := t.Context()
	port := qos.Port{ID: "new", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000}, Ingress: qos.Limits{Kbps: 1000}}}
	require.ErrorIs(t, x.b.EnsurePort(ctx, port), vnet.ErrNotFound)
	batch := x.c.Batch()
	b, err := New(batch, nil)
	require.NoError(t, err)
	require.NoError(t, batch.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error { network(tx, "N", "new"); return nil }))
	require.NoError(t, b.EnsurePort(ctx, port))
	require.NoError(t, batch.Commit(ctx))
	plan, err := x.b.Plan(ctx, qos.State{Ports: []qos.Port{port}})
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
	require.Contains(t, x.list(), "o/new")

	// It moves to another network: limits are a switch's.
	require.NoError(t, x.c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error { network(tx, "E", "new"); return nil }))
	require.NoError(t, x.b.EnsurePort(ctx, port))
	require.Empty(t, x.nb.Run("ovn-nbctl", "--db="+x.nb.Endpoint(), "qos-list", "o/network/N"))
	require.Contains(t, x.nb.Run("ovn-nbctl", "--db="+x.nb.Endpoint(), "qos-list", "o/network/E"), "o/new")

	require.NoError(t, x.c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "new"))
		return nil
	}))
	require.Empty(t, x.list())
	require.NoError(t, x.b.DeletePort(ctx, "new"))
}

func (x *installation) list() string {
	return x.nb.Run("ovn-nbctl", "--db="+x.nb.Endpoint(), "--bare", "--columns=match", "list", "QoS")
}

// TestGatewayNames: matches follow the name of the gateway's port.
func TestGatewayNames(t *testing.T) {
	x := newInstallation(t)
	ctx := t.Context()
	s := qos.State{Gateways: example().Gateways}
	require.NoError(t, x.b.Sync(ctx, s, vnet.SyncOptions{}))
	require.Contains(t, x.list(), `inport == "o/gateway/G" && ip && is_chassis_resident("cr-o/router-port/G")`)
	for _, name := range []string{"G/first", "G/second"} {
		require.NoError(t, x.c.Submit(ctx, vnet.PartRouter, func(tx *ovn.Tx) error { gateway(tx, name); return nil }))
		require.Contains(t, x.list(), `inport == "o/gateway/`+name+`" && `)
		require.Contains(t, x.list(), `outport == "o/gateway/`+name+`" && `)
		plan, err := x.b.Plan(ctx, s)
		require.NoError(t, err)
		require.True(t, plan.Empty(), plan.String())
	}
}

// TestDrift: what someone has changed by hand is told of, and mended.
func TestDrift(t *testing.T) {
	x, s := newInstallation(t), example()
	ctx := t.Context()
	require.NoError(t, x.b.Sync(ctx, s, vnet.SyncOptions{}))
	row := func() *nbrow.QoS {
		v, err := x.c.View(ctx)
		require.NoError(t, err)
		return ovn.Find[nbrow.QoS](v, vnet.PartQoS, kindPort, "P/egress")
	}
	for _, args := range [][]string{
		{"set", "QoS", row().UUID, "bandwidth:rate=7"},
		{"qos-del", "o/network/N"},
		{"set", "Logical_Switch_Port", "o/P", `external_ids:vnet\:qos\:port=nonsense`},
	} {
		x.nb.Run("ovn-nbctl", append([]string{"--db=" + x.nb.Endpoint()}, args...)...)
		require.Eventually(t, func() bool {
			plan, err := x.b.Plan(ctx, s)
			require.NoError(t, err)
			return !plan.Empty()
		}, waitLimit, pollEvery, args)
		require.NoError(t, x.b.Sync(ctx, s, vnet.SyncOptions{}))
		require.Equal(t, 10_000, row().Bandwidth["rate"])
		plan, err := x.b.Plan(ctx, s)
		require.NoError(t, err)
		require.True(t, plan.Empty(), plan.String())
	}
}

// TestPromisedAtOnce: two who promise the rest of an uplink at the same moment
// do not both succeed.
func TestPromisedAtOnce(t *testing.T) {
	x := newInstallation(t)
	ctx := t.Context()
	up := qos.Uplink{Name: "physnet1", Kbps: 100_000, Host: "hv1"}
	_, other := x.open(t)
	for range 10 {
		require.NoError(t, x.b.Sync(ctx, qos.State{Uplinks: []qos.Uplink{up}}, vnet.SyncOptions{Force: true}))
		require.Eventually(t, func() bool {
			plan, err := other.Plan(ctx, qos.State{Uplinks: []qos.Uplink{up}})
			require.NoError(t, err)
			return plan.Empty()
		}, waitLimit, pollEvery)
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, b := range []*Backend{x.b, other} {
			wg.Go(func() {
				errs[i] = b.EnsurePort(ctx, qos.Port{ID: []string{"P", "Q"}[i], Uplink: up.Name, Host: "hv1", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 60_000}}})
			})
		}
		wg.Wait()
		require.True(t, (errs[0] == nil) != (errs[1] == nil), "%v, %v", errs[0], errs[1])
		for _, err := range errs {
			if err != nil {
				require.ErrorIs(t, err, vnet.ErrConflict)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	x := newInstallation(t)
	ctx := t.Context()
	b, err := New(x.c, nil)
	require.NoError(t, err)
	for _, err := range []error{
		b.EnsurePort(ctx, qos.Port{ID: "P", Shape: qos.Shape{Egress: qos.Limits{PPS: 1000}}}),
		b.EnsureGateway(ctx, qos.Gateway{RouterID: "R", PortID: "G", NetworkID: "E", Shape: qos.Shape{Ingress: qos.Limits{PPS: 1000}}}),
		b.EnsureFloatingIP(ctx, qos.FloatingIP{ID: "F", RouterID: "R", PortID: "G", NetworkID: "E", FloatingIP: netip.MustParseAddr("203.0.113.50"), Shape: qos.Shape{Ingress: qos.Limits{PPS: 1000}}}),
		b.EnsureUplink(ctx, qos.Uplink{Name: "physnet1", Kbps: 1000}),
		b.EnsurePort(ctx, qos.Port{ID: "P", Uplink: "physnet1", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 1000}}}),
		b.Sync(ctx, qos.State{Uplinks: []qos.Uplink{{Name: qos.Tunnelled, Kbps: 1000}}}, vnet.SyncOptions{}),
		func() error { _, err := b.Statistics(ctx); return err }(),
	} {
		var u *vnet.UnsupportedError
		require.ErrorAs(t, err, &u)
		require.NotEmpty(t, u.Need)
	}
	// A promise that is not to be enforced is the ledger's.
	require.NoError(t, b.EnsurePort(ctx, qos.Port{ID: "P", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 1000, MinPPS: 10}}}))
	x.sb.Run("ovn-sbctl", "--db="+x.sb.Endpoint(), "set", "Chassis", "hv1", "other_config:datapath-type=netdev")
	require.Eventually(t, func() bool { return !x.b.Features(ctx).Guarantees }, waitLimit, pollEvery)
	_, err = New(nil, nil)
	var f *vnet.FieldError
	require.ErrorAs(t, err, &f)
	_, err = Meters(context.Background(), "tcp:192.0.2.1:6653")
	require.ErrorAs(t, err, &f)
	for _, o := range []*SharesOptions{nil, {}, {Devices: map[string]string{"a": "eth0", "b": "eth0"}}, {Devices: map[string]string{"a": ""}}} {
		_, err = NewShares(x.c, "hv1", o)
		require.ErrorAs(t, err, &f)
	}
}

const (
	waitLimit = 10 * time.Second
	pollEvery = 5 * time.Millisecond
)
