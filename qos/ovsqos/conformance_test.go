package ovsqos_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovsqos"
	"github.com/vnet-go/vnet/qos/qostest"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

func TestConformance(t *testing.T) {
	s := newSite(t, "netdev")
	qostest.Run(t, qostest.Harness{Make: s.tenant})
}

// Queues are refused where they would harm others; see the package's documentation.
func TestQueuesRefused(t *testing.T) {
	x := newSite(t, "netdev").newTenant(t)
	_, err := ovsqos.New(x.h[0], &ovsqos.Options{Queues: true})
	var u *vnet.UnsupportedError
	require.ErrorAs(t, err, &u)
}

// TestGuestKernelDatapath: meters of the kernel's datapath.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	s := newSite(t, "system")
	qostest.RunTraffic(t, qostest.Harness{Make: s.tenant, Rates: []uint32{1000, 10_000}, UplinkKbps: 8_000, Only: func(name string) bool {
		return name == "accuracy" || name == "change" || name == "mark" || name == "gateway and floating IP" || strings.HasPrefix(name, "guarantee")
	}})
}

// TestGuestQueues: rows of uplinks, and what ports are sent waits in queues.
func TestGuestQueues(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	s := newSite(t, "system")
	t.Run("uplinks", s.queues)
	s.queued = true
	qostest.RunTraffic(t, qostest.Harness{Make: s.tenant, Rates: []uint32{1000, 10_000}, Only: func(name string) bool { return name == "accuracy" || name == "before plugging" }})
}

// site is two hosts with Open vSwitch that all cases use, each with an owner of its own.
type site struct {
	l        *lab.Lab
	sw       []*lab.Switch
	datapath string
	queued   bool // backends have queues towards ports
	n        int
}

func newSite(t testing.TB, datapath string) *site {
	s := &site{l: lab.New(t), datapath: datapath}
	s.sw = s.l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}, Datapath: datapath}, lab.SwitchOptions{Name: "h2", Physical: []string{"ex"}, Datapath: datapath})
	return s
}

// tenant is the site as one owner has it.
type tenant struct {
	*site
	t      testing.TB
	owner  vnet.Owner
	number int // of the tenant
	h      [2]*ovs.Switch
	ov     [2]*ovsoverlay.Backend
	next   byte
}

func (s *site) tenant(t testing.TB) qostest.Site { return s.newTenant(t).harness() }

func (s *site) newTenant(t testing.TB) *tenant {
	s.n++
	x := &tenant{site: s, t: t, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n))), number: s.n, next: 10}
	for i := range x.h {
		x.h[i] = x.open(i)
		t.Cleanup(func() {
			if err := x.h[i].Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
		})
		var err error
		x.ov[i], err = ovsoverlay.New(x.h[i], nil)
		require.NoError(t, err)
		x.network(i, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}, MTU: 1450, Subnets: []overlay.Subnet{
			{ID: "net4", CIDR: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")},
			{ID: "net6", CIDR: netip.MustParsePrefix("2001:db8:1::/64"), Gateway: netip.MustParseAddr("2001:db8:1::1")}}})
	}
	return x
}

func (x *tenant) harness() qostest.Site {
	return qostest.Site{Backend: x.backend(x.h[0]), Host: "h1", Reopen: func(testing.TB) qos.Backend { return x.backend(x.open(0)) },
		Writes:  func() int { return int(x.h[0].Writes()) },
		Foreign: x.foreign,
		VM: func(t testing.TB, id string, remote bool) qostest.VM {
			if remote {
				return x.vm(1, id)()
			}
			return x.vm(0, id)()
		},
		Late:   func(t testing.TB, id string) func() qostest.VM { return x.vm(0, id) },
		Routed: x.routed,
		Uplink: x.uplink,
	}
}

func (x *tenant) open(i int) *ovs.Switch {
	sw := x.sw[i]
	h, err := ovs.Open(context.Background(), x.owner, &ovs.Options{Name: sw.Short, Database: sw.Endpoint, RunDir: sw.Dir, Control: sw.Vswitchd.Ctl, Netns: sw.Path,
		TunnelIP: sw.EncapIP, PhysicalNetworks: sw.Mappings, DatapathType: x.datapath})
	require.NoError(x.t, err)
	x.t.Cleanup(func() { h.Close() })
	return h
}

func (x *tenant) backend(h *ovs.Switch) qos.Backend {
	b, err := ovsqos.New(h, &ovsqos.Options{Devices: map[string]string{qos.Tunnelled: "tun0", "ex": "ex"}, Queues: x.queued})
	require.NoError(x.t, err)
	if x.queued {
		served, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.Serve(served) }()
		x.t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				x.t.Error(err)
			}
		})
	}
	return b
}

// uplink makes two pairs of machines whose traffic leaves h1 by an uplink.
func (x *tenant) uplink(t testing.TB, name string) qostest.Uplinked {
	u := qostest.Uplinked{Name: name}
	if name != qos.Tunnelled {
		u.Name = "ex"
		x.network(0, external())
	}
	ctx := x.t.Context()
	for i := range u.From {
		from, to := fmt.Sprintf("from%d-%d", i, len(name)), fmt.Sprintf("to%d-%d", i, len(name))
		if name == qos.Tunnelled {
			u.From[i], u.To[i] = x.vm(0, from)(), x.vm(1, to)()
			continue
		}
		v := qostest.VM{PortID: from, NS: x.l.NS(from), V4: fmt.Sprintf("203.0.113.%d", 100+i)}
		require.NoError(t, x.ov[0].EnsurePort(ctx, overlay.Port{ID: from, NetworkID: "ext", MAC: vnet.MAC{2, 0x73, 0, 0, 0, byte(i)}, FixedIPs: []netip.Addr{netip.MustParseAddr(v.V4)}}))
		_, err := x.ov[0].Plug(ctx, overlay.Attachment{PortID: from, Kind: overlay.Veth, Name: "eth0", Netns: v.NS.Path})
		require.NoError(t, err)
		v.NS.Configure("eth0", []string{v.V4 + "/24"})
		u.From[i] = v
		u.To[i] = qostest.VM{NS: x.l.NS(to), V4: fmt.Sprintf("203.0.113.%d", 200+i)}
		x.l.Plug(x.l.Wire("ex"), u.To[i].NS, "eth0")
		u.To[i].NS.Configure("eth0", []string{u.To[i].V4 + "/24"})
	}
	return u
}

// queues: what is promised is conflict-free, in rows of the switch, and gone with
// the uplink; also one that somebody takes away comes back.
func (s *site) queues(t *testing.T) {
	x := s.newTenant(t)
	ctx, b := t.Context(), x.backend(x.h[0])
	x.vm(0, "p1")
	x.vm(0, "p2")
	want := qos.State{Uplinks: []qos.Uplink{{Name: "ex", Kbps: 100_000}, {Name: qos.Tunnelled, Kbps: 50_000}}, Ports: []qos.Port{
		{ID: "p1", Uplink: "ex", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 60_000}}}, {ID: "p2", Uplink: "ex", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 40_000}}}}}
	require.NoError(t, b.Sync(ctx, want, vnet.SyncOptions{}))
	writes := x.h[0].Writes()
	require.NoError(t, b.Sync(ctx, want, vnet.SyncOptions{}))
	require.Equal(t, writes, x.h[0].Writes(), "twice is once")
	more := want.Ports[1]
	more.Egress.MinKbps++
	require.ErrorIs(t, b.EnsurePort(ctx, more), vnet.ErrConflict)
	require.ErrorIs(t, b.EnsureUplink(ctx, qos.Uplink{Name: "ex", Kbps: 99_999}), vnet.ErrConflict)
	require.ErrorIs(t, b.DeleteUplink(ctx, "ex"), vnet.ErrInUse)
	require.Contains(t, x.sw[0].Vsctl("list", "QoS"), "linux-htb")
	require.Equal(t, 2+1+1, strings.Count(x.sw[0].Vsctl("list", "Queue"), "min-rate="))
	x.sw[0].Vsctl("clear", "Port", "ex", "qos")
	require.NoError(t, x.backend(x.open(0)).Sync(ctx, want, vnet.SyncOptions{}))
	require.NotContains(t, x.sw[0].Vsctl("get", "Port", "ex", "qos"), "[]")
	foreign := &tenant{site: s, t: t, owner: vnet.Owner(x.l.Owner("q"))}
	h := foreign.open(0)
	defer h.Cleanup(context.Background())
	require.ErrorIs(t, foreign.backend(h).EnsureUplink(ctx, qos.Uplink{Name: "ex", Kbps: 1000}), vnet.ErrConflict)
	require.NoError(t, b.Sync(ctx, qos.State{}, vnet.SyncOptions{Force: true}))
	require.Empty(t, strings.TrimSpace(x.sw[0].Vsctl("list", "QoS")+x.sw[0].Vsctl("list", "Queue")))
}

func (x *tenant) network(i int, n overlay.Network) {
	require.NoError(x.t, x.ov[i].EnsureNetwork(x.t.Context(), n))
}

// vm makes a port on a host; the function returned plugs a machine in.
func (x *tenant) vm(host int, id string) func() qostest.VM {
	x.next++
	mac := vnet.MAC{2, 0x72, 0, 0, 0, x.next}
	v := qostest.VM{PortID: id, V4: fmt.Sprintf("10.0.0.%d", x.next), V6: fmt.Sprintf("2001:db8:1::%x", x.next)}
	ips := []netip.Addr{netip.MustParseAddr(v.V4), netip.MustParseAddr(v.V6)}
	ctx := x.t.Context()
	require.NoError(x.t, x.ov[host].EnsurePort(ctx, overlay.Port{ID: id, NetworkID: "net", MAC: mac, FixedIPs: ips}))
	require.NoError(x.t, x.ov[1-host].EnsureRemotePort(ctx, overlay.RemotePort{ID: id, NetworkID: "net", MAC: mac, IPs: append(ips, mac.LinkLocal()), Endpoint: x.sw[host].EncapIP}))
	return func() qostest.VM {
		v.NS = x.l.NS(fmt.Sprint(id, "-", x.number))
		_, err := x.ov[host].Plug(ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: v.NS.Path})
		require.NoError(x.t, err)
		v.NS.Configure("eth0", []string{v.V4 + "/24", v.V6 + "/64"}, "10.0.0.1", "2001:db8:1::1")
		return v
	}
}

// external is the network of the wire "ex".
func external() overlay.Network {
	return overlay.Network{ID: "ext", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"}, MTU: 1500, Subnets: []overlay.Subnet{
		{ID: "ext4", CIDR: netip.MustParsePrefix("203.0.113.0/24")}, {ID: "ext6", CIDR: netip.MustParsePrefix("2001:db8:2::/64")}}}
}

// routed makes a router on h1, and a machine outside.
func (x *tenant) routed(t testing.TB) qostest.Routed {
	ctx, p := x.t.Context(), netip.MustParsePrefix
	x.network(0, external())
	out := x.l.NS("outside")
	x.l.Plug(x.l.Wire("ex"), out, "eth0")
	out.NoOffload("eth0")
	out.Configure("eth0", []string{"203.0.113.10/24", "2001:db8:2::10/64"})
	out.Route("2001:db8:1::/64", "2001:db8:2::5")
	mac := vnet.MAC{2, 0x72, 1, 0, 0, 2}
	r := qostest.Routed{Floating: x.vm(0, "floating")(), Plain: x.vm(0, "plain")(), Outside: qostest.VM{NS: out, V4: "203.0.113.10", V6: "2001:db8:2::10"},
		Gateway:    qos.Gateway{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", MAC: mac, Host: "h1"},
		FloatingIP: qos.FloatingIP{ID: "f1", RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", FloatingIP: netip.MustParseAddr("203.0.113.9"), FixedPortID: "floating", Host: "h1"}}
	b, err := ovsrouter.New(x.h[0], nil)
	require.NoError(t, err)
	served, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(served) }()
	x.t.Cleanup(func() { stop(); <-done })
	require.NoError(t, b.EnsureRouter(ctx, router.Router{ID: "r1", Host: "h1",
		Interfaces: []router.Interface{{PortID: "r1-net", NetworkID: "net", MAC: vnet.MAC{2, 0x72, 1, 0, 0, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24"), p("2001:db8:1::1/64")}, MTU: 1450}},
		Gateway:    &router.Gateway{PortID: "r1-ext", NetworkID: "ext", MAC: mac, Addresses: []netip.Prefix{p("203.0.113.5/24"), p("2001:db8:2::5/64")}, MTU: 1500}}))
	require.NoError(t, b.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: r.FloatingIP.FloatingIP, FixedIP: netip.MustParseAddr(r.Floating.V4)}))
	for _, dst := range []string{r.Outside.V4, r.Outside.V6} {
		require.NoError(t, r.Plain.NS.Ping(dst, 3), dst)
	}
	return r
}

// foreign makes limits of another owner on the same switch.
func (x *tenant) foreign(t testing.TB) func(testing.TB) {
	other := &tenant{site: x.site, t: x.t, owner: vnet.Owner(x.l.Owner(fmt.Sprint("f", x.n)))}
	h := other.open(0)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ov, err := ovsoverlay.New(h, nil)
	require.NoError(t, err)
	require.NoError(t, ov.EnsureNetwork(t.Context(), overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, ov.EnsurePort(t.Context(), overlay.Port{ID: "p1", NetworkID: "net", MAC: vnet.MAC{2, 9, 9, 9, 9, 9}}))
	b := other.backend(h)
	p := qos.Port{ID: "p1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000, PPS: 100}, Ingress: qos.Limits{Kbps: 2000}}}
	require.NoError(t, b.EnsurePort(t.Context(), p))
	return func(t testing.TB) {
		plan, err := b.Plan(t.Context(), qos.State{Ports: []qos.Port{p}})
		require.NoError(t, err)
		require.Empty(t, plan.Changes, plan.String())
	}
}
