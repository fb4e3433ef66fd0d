package linuxmetadata_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/linuxmetadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

// hypervisor is a host with overlay, routers and metadata on it.
type hypervisor struct {
	h        *linux.Host
	fabric   *overlay.Fabric
	routers  *router.Service
	metadata *metadata.Service
	table    *metadatatest.Table
	reg      *prometheus.Registry
}

func open(t *testing.T, l *lab.Lab, ns *lab.NS, physnets map[string]string) *hypervisor {
	ctx := context.Background()
	v := &hypervisor{table: &metadatatest.Table{}, reg: prometheus.NewRegistry()}
	var err error
	v.h, err = linux.Open(ctx, vnet.Owner(l.Owner("")), &linux.Options{Name: ns.Short, Netns: ns.Path, NetnsDir: l.NetnsDir(), PhysicalNetworks: physnets})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := v.h.Cleanup(ctx); err != nil {
			t.Error(err)
		}
		v.h.Close()
	})
	ob, err := linuxoverlay.New(v.h, nil)
	require.NoError(t, err)
	v.fabric, err = overlay.New(ob, nil)
	require.NoError(t, err)
	rb, err := linuxrouter.New(v.h, nil)
	require.NoError(t, err)
	v.routers, err = router.New(rb, nil)
	require.NoError(t, err)
	mb, err := linuxmetadata.New(v.h, &linuxmetadata.Options{Instances: v.table, Metrics: v.reg})
	require.NoError(t, err)
	v.metadata, err = metadata.New(mb, nil)
	require.NoError(t, err)
	return v
}

func (v *hypervisor) serve(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.metadata.Serve(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
}

func (v *hypervisor) plug(t *testing.T, network string, vm *lab.NS, mac vnet.MAC, addr string) {
	p := overlay.Port{ID: vm.Short, NetworkID: network, MAC: mac}
	require.NoError(t, v.fabric.EnsurePort(t.Context(), p))
	_, err := v.fabric.Plug(t.Context(), overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
	require.NoError(t, err)
	vm.Configure("eth0", []string{addr})
}

func fetch(vm *lab.NS, url string) (string, error) {
	c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = vm.Do(func() error { c, err = (&net.Dialer{Timeout: time.Second}).Dial(network, addr); return err })
		return c, err
	}}}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

const url = "http://169.254.169.254/latest/meta-data/hostname"

func eventually(t *testing.T, vm *lab.NS, want string) {
	t.Helper()
	lab.Eventually(t, 8*time.Second, want, func() bool { got, err := fetch(vm, url); return err == nil && got == want })
}

// One network on two hosts, each with the same endpoint: every machine is
// answered by its own host, and nothing of the endpoints crosses the wire.
func TestEndpointOfANetworkStaysOnItsHost(t *testing.T) {
	l := lab.New(t)
	wire := l.Wire("phys")
	e := metadata.Endpoint{ID: "ep", NetworkID: "net", PortID: "ep", MAC: vnet.MustParseMAC("02:a9:fe:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}
	var vms []*lab.NS
	for i, name := range []string{"h1", "h2"} {
		ns := l.NS(name)
		l.Plug(wire, ns, "phys0")
		v := open(t, l, ns, map[string]string{"phys": "phys0"})
		require.NoError(t, v.metadata.EnsureEndpoint(t.Context(), e))
		v.serve(t)
		// The network comes later than its endpoint.
		require.NoError(t, v.fabric.EnsureNetwork(t.Context(), overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "phys"}}))
		vm := l.NS("vm" + name)
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)})
		v.plug(t, "net", vm, vnet.MAC{2, 0, 0, 0, 0, byte(11 + i)}, addr.String()+"/24")
		vm.Route("169.254.169.254/32", "10.0.0.2")
		v.table.Put(metadata.NewAsker("", "net", addr), &metadata.Instance{UUID: name, Hostname: name})
		vms = append(vms, vm)
	}
	caps := []*lab.Capture{wire.Capture("h1"), wire.Capture("h2")}
	eventually(t, vms[0], "h1")
	eventually(t, vms[1], "h2")
	require.NoError(t, vms[0].Ping("10.0.0.12", 1), "the network is one")
	for range 5 { // whatever was learned from ARP: still the own host
		vms[0].IP("neigh", "flush", "all")
		got, err := fetch(vms[0], url)
		require.NoError(t, err)
		require.Equal(t, "h1", got)
	}
	for _, c := range caps {
		for _, f := range c.Frames() {
			require.NotEqual(t, e.MAC, f.SrcMAC, "a frame of the endpoint on the wire: %v", f)
		}
	}
}

func TestRouterThatChanges(t *testing.T) {
	l := lab.New(t)
	v := open(t, l, l.NS("h1"), nil)
	ctx := t.Context()
	for _, n := range []string{"n1", "n2", "out"} {
		require.NoError(t, v.fabric.EnsureNetwork(ctx, overlay.Network{ID: n, Segment: overlay.Segment{Type: overlay.Local}}))
	}
	vm1, vm2, ext := l.NS("vm1"), l.NS("vm2"), l.NS("ext")
	m1, m2 := vnet.MustParseMAC("02:00:00:00:00:11"), vnet.MustParseMAC("02:00:00:00:00:12")
	v.plug(t, "n1", vm1, m1, "10.0.1.5/24")
	v.plug(t, "n2", vm2, m2, "10.0.2.5/24")
	v.plug(t, "out", ext, vnet.MustParseMAC("02:00:00:00:00:13"), "203.0.113.1/24")
	vm1.Route("default", "10.0.1.1")
	vm2.Route("default", "10.0.2.1")
	r := router.Router{ID: "r1",
		Interfaces: []router.Interface{{PortID: "i1", NetworkID: "n1", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")}}},
		Gateway:    &router.Gateway{PortID: "g1", NetworkID: "out", MAC: vnet.MustParseMAC("02:00:00:00:00:09"), Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24")}, NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1")}},
	}
	require.NoError(t, v.routers.EnsureRouter(ctx, r))
	e := metadata.Endpoint{ID: "ep", RouterID: "r1"}
	require.NoError(t, v.metadata.EnsureEndpoint(ctx, e))
	v.table.Put(metadata.NewAsker("r1", "", netip.MustParseAddr("10.0.1.5")), &metadata.Instance{UUID: "1", Hostname: "one"})
	v.table.Put(metadata.NewAsker("r1", "", netip.MustParseAddr("10.0.2.5")), &metadata.Instance{UUID: "2", Hostname: "two"})
	v.table.Put(metadata.NewAsker("r1", "n2", m2.LinkLocal()), &metadata.Instance{UUID: "2", Hostname: "two by link-local"})
	v.serve(t)
	eventually(t, vm1, "one")

	// An interface more, while serving.
	r.Interfaces = append(r.Interfaces, router.Interface{PortID: "i2", NetworkID: "n2", MAC: vnet.MustParseMAC("02:00:00:00:00:02"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.1/24")}})
	require.NoError(t, v.routers.EnsureRouter(ctx, r))
	eventually(t, vm2, "two")
	lab.Need(t, "curl")
	lab.Eventually(t, 5*time.Second, "link-local", func() bool {
		out, err := vm2.Exec(ctx, "curl", "-sSgf", "-m", "2", "http://[fe80::a9fe:a9fe%25eth0]/latest/meta-data/hostname")
		return err == nil && out == "two by link-local"
	})
	plan, err := v.metadata.Plan(ctx, metadata.State{Endpoints: []metadata.Endpoint{e}})
	require.NoError(t, err)
	require.Empty(t, plan.Changes, plan.String())
	rp, err := v.routers.Plan(ctx, router.State{Routers: []router.Router{r}})
	require.NoError(t, err)
	require.Empty(t, rp.Changes, "the router does not mind what is metadata's: %s", rp)

	// From outside there is no way in, and nothing goes out.
	ext.Route("169.254.169.254/32", "203.0.113.2")
	cap := ext.Capture("eth0")
	for _, u := range []string{url, "http://203.0.113.2:9697/latest", "http://203.0.113.2/latest"} {
		_, err := fetch(ext, u)
		require.Error(t, err, u)
	}
	_, err = vm1.Exec(ctx, "curl", "-s", "-m", "1", "http://169.254.169.254:8080/")
	require.Error(t, err)
	for _, f := range cap.Frames() {
		require.False(t, f.Dst == metadata.IPv4() && f.SrcMAC == r.Gateway.MAC, "a metadata packet was routed outside: %v", f)
	}

	// The router goes and comes back.
	require.NoError(t, v.routers.DeleteRouter(ctx, "r1"))
	_, err = fetch(vm1, url)
	require.Error(t, err)
	require.NoError(t, v.routers.EnsureRouter(ctx, r))
	eventually(t, vm1, "one")
	require.NoError(t, v.metadata.DeleteEndpoint(ctx, "ep"))
	_, err = fetch(vm1, url)
	require.Error(t, err)
}

func TestEventsMetricsHealth(t *testing.T) {
	l := lab.New(t)
	v := open(t, l, l.NS("h1"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan vnet.Event, 10)
	seq := v.metadata.Watch(ctx)
	go func() {
		for e := range seq {
			events <- e
		}
	}()
	require.False(t, v.metadata.Health(ctx).Complete, "not serving")
	require.NoError(t, v.fabric.EnsureNetwork(ctx, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}}))
	vm := l.NS("vm")
	v.plug(t, "net", vm, vnet.MustParseMAC("02:00:00:00:00:11"), "10.0.0.5/24")
	vm.Route("169.254.169.254/32", "10.0.0.2")
	require.NoError(t, v.metadata.EnsureEndpoint(ctx, metadata.Endpoint{ID: "ep", NetworkID: "net", PortID: "ep", MAC: vnet.MustParseMAC("02:a9:fe:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}))
	v.serve(t)
	lab.Eventually(t, 5*time.Second, "an answer", func() bool { _, err := fetch(vm, url); return err == nil })
	select {
	case e := <-events:
		require.Equal(t, "refused", e.Kind)
		require.Equal(t, "ep", e.ID)
		require.Equal(t, "10.0.0.5", e.Detail["address"])
	case <-time.After(2 * time.Second):
		t.Fatal("no event")
	}
	hl := v.metadata.Health(ctx)
	require.True(t, hl.Complete, hl.Detail)
	mfs, err := v.reg.Gather()
	require.NoError(t, err)
	var b bytes.Buffer
	for _, mf := range mfs {
		b.WriteString(mf.String())
	}
	require.True(t, strings.Contains(b.String(), "vnet_metadata_unknown_total"), b.String())
	x, err := v.metadata.Explain(ctx, "endpoint", "ep")
	require.NoError(t, err)
	require.Contains(t, x.String(), "this process answers at it")
}
