package ovsrouter_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

const patience = 20 * time.Second

// two are hosts with machines a (on "in", 10.0.0.5) and b (on "in2",
// 10.0.1.5), both on the second, and ext (203.0.113.1) outside.
type two struct {
	*site
	x          *cloud
	svc        *router.Service
	a, b, ext  *lab.NS
	state      router.State
	home, away *lab.Switch
}

func newTwo(t *testing.T) *two {
	s := newSite(t, 2)
	h := s.host(t, overlay.VXLAN, overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"})
	w := &two{site: s, x: h.Overlay.(*cloud), home: s.sw[0], away: s.sw[1]}
	ctx := t.Context()
	fabric, err := overlay.New(w.x, nil)
	require.NoError(t, err)
	for i, id := range []string{"in", "in2"} {
		require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: id, Segment: overlay.Segment{Type: overlay.VXLAN, ID: uint32(7 + i)}}))
	}
	require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: "out", Segment: h.Out}))
	w.svc, err = router.New(h.Router, nil)
	require.NoError(t, err)
	w.x.at["a"], w.x.at["b"] = 1, 1
	machine := func(name, network, gateway string, n byte, addrs ...string) *lab.NS {
		ns := s.l.NS(name)
		ns.Sysctl("net/ipv6/conf/default/dad_transmits", "0")
		p := overlay.Port{ID: name, NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}}
		for _, a := range prefixes(addrs...) {
			p.FixedIPs = append(p.FixedIPs, a.Addr())
		}
		require.NoError(t, fabric.EnsurePort(ctx, p))
		_, err := w.x.Plug(ctx, overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
		require.NoError(t, err)
		ns.Configure("eth0", addrs, gateway)
		return ns
	}
	w.a = machine("a", "in", "10.0.0.1", 0x11, "10.0.0.5/24", "2001:db8:1::5/64")
	w.b = machine("b", "in2", "10.0.1.1", 0x12, "10.0.1.5/24", "2001:db8:2::5/64")
	w.ext = s.l.NS("ext")
	h.Station(t, w.ext, overlay.Port{MAC: vnet.MAC{2, 0, 0, 0, 0, 0x15}})
	w.ext.Configure("eth0", []string{"203.0.113.1/24"})
	w.state = router.State{Routers: []router.Router{{ID: "r1",
		Interfaces: []router.Interface{
			{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: prefixes("10.0.0.1/24", "2001:db8:1::1/64")},
			{PortID: "r1-in2", NetworkID: "in2", MAC: vnet.MAC{2, 0, 0, 0, 1, 2}, Addresses: prefixes("10.0.1.1/24", "2001:db8:2::1/64")}},
		Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Addresses: prefixes("203.0.113.2/24")}}}}
	return w
}

// serve runs Serve until the test ends.
func (w *two) serve(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.svc.Serve(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
}

// Between networks a machine is routed on its own host: also when that host is
// alone in the world. What leaves by the gateway needs the router's host.
func TestShortCut(t *testing.T) {
	w := newTwo(t)
	require.NoError(t, w.svc.Sync(t.Context(), w.state, vnet.SyncOptions{}))
	w.serve(t)
	reach := func(m *lab.NS, to string) func() bool { return func() bool { return m.Ping(to, 1) == nil } }
	lab.Eventually(t, patience, "the other network", reach(w.a, "10.0.1.5"))
	lab.Eventually(t, patience, "the outside", reach(w.a, "203.0.113.1"))
	w.away.CutTunnels()
	require.NoError(t, w.a.Ping("10.0.1.5", 3))
	require.Error(t, w.a.Ping("203.0.113.1", 1))
	// The host's own Serve says that a TTL has ended.
	cap := w.a.Capture("eth0")
	lab.Eventually(t, patience, "time exceeded", func() bool {
		w.a.Inject("eth0", lab.Frame{SrcMAC: w.a.MAC("eth0"), DstMAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Src: prefixes("10.0.0.5/24")[0].Addr(), Dst: prefixes("10.0.1.5/24")[0].Addr(),
			Proto: lab.UDP, SrcPort: 1, DstPort: 2, TTL: 1}.Bytes())
		_, ok := cap.Find(time.Second, func(f lab.Frame) bool { return f.Proto == lab.ICMP && f.ICMPType == 11 && f.Src.String() == "10.0.0.1" })
		return ok
	})
	w.away.JoinTunnels()
	lab.Eventually(t, patience, "the outside again", reach(w.a, "203.0.113.1"))
}

// A router moves when all hosts are told so; machines and the outside find it
// at its new place, with its floating IPs.
func TestMove(t *testing.T) {
	w := newTwo(t)
	ctx := t.Context()
	var backends []*ovsrouter.Backend
	for _, h := range w.x.hosts {
		b, err := ovsrouter.New(h.handle(t, w.x.owner), nil)
		require.NoError(t, err)
		backends = append(backends, b)
		served, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- b.Serve(served) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	}
	w.state.FloatingIPs = []router.FloatingIP{{ID: "f1", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}}
	place := func(host int) {
		t.Helper()
		w.x.mu.Lock()
		w.x.home = host
		w.x.routers = map[string]router.Router{"r1": w.state.Routers[0]}
		require.NoError(t, w.x.write(ctx))
		w.x.mu.Unlock()
		w.state.Routers[0].Host = []string{"h1", "h2"}[host]
		for _, b := range backends {
			svc, err := router.New(b, nil)
			require.NoError(t, err)
			require.NoError(t, svc.Sync(ctx, w.state, vnet.SyncOptions{Force: true}))
			p, err := svc.Plan(ctx, w.state)
			require.NoError(t, err)
			require.Empty(t, p.Changes, p.String())
		}
	}
	for _, host := range []int{0, 1, 0} {
		place(host)
		cap := w.ext.Capture("eth0")
		lab.Eventually(t, patience, "the outside", func() bool { return w.a.Ping("203.0.113.1", 1) == nil && w.b.Ping("203.0.113.1", 1) == nil })
		lab.Eventually(t, patience, "the floating IP", func() bool { return w.ext.Ping("203.0.113.50", 1) == nil })
		for _, src := range []string{"203.0.113.50", "203.0.113.2"} {
			cap.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 8 && f.Src.String() == src })
		}
	}
	// The host that it is not at may go.
	w.away.CutTunnels()
	require.NoError(t, w.ext.Ping("203.0.113.2", 3))
}
