package ovsrouter_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovs"
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

func newTwo(t *testing.T, datapath string) *two { return newTwoAt(t, datapath, 1) }

// newTwoAt has the machines on that host.
func newTwoAt(t *testing.T, datapath string, host int) *two {
	s := newSite(t, 2, datapath)
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
	w.x.at["a"], w.x.at["b"] = host, host
	w.a = w.machine(t, fabric, "a", "in", []string{"10.0.0.1", "2001:db8:1::1"}, 0x11, "10.0.0.5/24", "2001:db8:1::5/64")
	w.b = w.machine(t, fabric, "b", "in2", []string{"10.0.1.1", "2001:db8:2::1"}, 0x12, "10.0.1.5/24", "2001:db8:2::5/64")
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

func (w *two) machine(t *testing.T, fabric *overlay.Fabric, name, network string, gateways []string, n byte, addrs ...string) *lab.NS {
	ns := w.l.NS(name)
	ns.Sysctl("net/ipv6/conf/default/dad_transmits", "0")
	p := overlay.Port{ID: name, NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}}
	for _, a := range prefixes(addrs...) {
		p.FixedIPs = append(p.FixedIPs, a.Addr())
	}
	require.NoError(t, fabric.EnsurePort(t.Context(), p))
	_, err := w.x.Plug(t.Context(), overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
	require.NoError(t, err)
	ns.Configure("eth0", addrs, gateways...)
	return ns
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
	w := newTwo(t, "netdev")
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

// What a router says reaches a machine whose port is filtered too, on the router's
// host and on another: filters look packets up again, as one that no port sent.
func TestSaysToFiltered(t *testing.T) {
	for name, host := range map[string]int{"at home": 0, "away": 1} {
		t.Run(name, func(t *testing.T) {
			w := newTwoAt(t, "netdev", host)
			ctx := t.Context()
			require.NoError(t, w.svc.Sync(ctx, w.state, vnet.SyncOptions{}))
			for _, h := range w.x.hosts {
				sw := h.handle(t, w.x.owner)
				defer sw.Close()
				require.NoError(t, sw.Submit(ctx, vnet.PartSecGroup, func(tx *ovs.Tx) error {
					tx.Put("port", "all", []byte("{}"),
						of.Flow{Table: pipeline.ToPort, Priority: 1000, Match: of.IP4(), Actions: []of.Action{of.CT{ZoneFrom: of.Reg(pipeline.RegNetwork).Range(0, 15), Table: pipeline.Deliver}}},
						of.Flow{Table: pipeline.ToPort, Priority: 1000, Match: of.IP6(), Actions: []of.Action{of.CT{ZoneFrom: of.Reg(pipeline.RegNetwork).Range(0, 15), Table: pipeline.Deliver}}})
					return nil
				}))
			}
			w.serve(t)
			for _, x := range []struct{ to, says string }{{"10.0.1.5", "Time to live exceeded"}, {"2001:db8:2::5", "Hop limit"}} {
				lab.Eventually(t, patience, x.to, func() bool { return w.a.Ping(x.to, 1) == nil })
				lab.Eventually(t, patience, x.says, func() bool {
					out, _ := w.a.Exec(ctx, "ping", "-t", "1", "-c", "1", "-W", "1", x.to)
					return strings.Contains(out, x.says)
				})
			}
		})
	}
}

// Each host has a Local network of its own: a router is on that of its home, and
// nobody answers for it on the others. Who is on it there reaches all hosts.
func TestShortCutLocal(t *testing.T) {
	w := newTwo(t, "netdev")
	ctx := t.Context()
	fabric, err := overlay.New(w.x, nil)
	require.NoError(t, err)
	require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: "own", Segment: overlay.Segment{Type: overlay.Local}}))
	w.x.at["c"], w.x.at["d"] = 0, 1
	c := w.machine(t, fabric, "c", "own", []string{"10.0.9.1", "2001:db8:9::1"}, 0x21, "10.0.9.5/24", "2001:db8:9::5/64")
	d := w.machine(t, fabric, "d", "own", []string{"10.0.9.1", "2001:db8:9::1"}, 0x22, "10.0.9.6/24", "2001:db8:9::6/64")
	w.state.Routers[0].Interfaces = append(w.state.Routers[0].Interfaces, router.Interface{PortID: "r1-own", NetworkID: "own", MAC: vnet.MAC{2, 0, 0, 0, 1, 4},
		Addresses: prefixes("10.0.9.1/24", "2001:db8:9::1/64"), RA: &router.RA{Mode: router.SLAAC}})
	require.NoError(t, w.svc.Sync(ctx, w.state, vnet.SyncOptions{}))
	heard := d.Capture("eth0")
	w.serve(t)
	for _, to := range []string{"10.0.9.1", "2001:db8:9::1", "10.0.0.5", "2001:db8:1::5"} {
		lab.Eventually(t, patience, to, func() bool { return c.Ping(to, 1) == nil })
	}
	for _, to := range []string{"10.0.9.5", "2001:db8:9::5"} { // by way of the router's host
		lab.Eventually(t, patience, to, func() bool { return w.a.Ping(to, 1) == nil })
	}
	for _, to := range []string{"10.0.9.1", "2001:db8:9::1", "10.0.0.5", "2001:db8:1::5"} {
		require.Error(t, d.Ping(to, 1), to)
	}
	// Nor by the router's MAC, as one that has moved may know it.
	d.IP("neigh", "replace", "10.0.9.1", "lladdr", "02:00:00:00:01:04", "dev", "eth0")
	d.IP("neigh", "replace", "2001:db8:9::1", "lladdr", "02:00:00:00:01:04", "dev", "eth0")
	for _, to := range []string{"10.0.9.1", "2001:db8:9::1", "10.0.0.5", "2001:db8:1::5"} {
		require.Error(t, d.Ping(to, 1), to)
	}
	for _, f := range heard.Frames() {
		require.NotEqual(t, vnet.MAC{2, 0, 0, 0, 1, 4}.String(), f.SrcMAC.String(), f)
	}
}

// A router moves when all hosts are told so; machines and the outside find it
// at its new place, with its floating IPs.
func TestMove(t *testing.T) {
	w := newTwo(t, "netdev")
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

// With DistributedFloatingIPs, floating IPs are on the host of their port, and
// pass neither tunnel nor the router's home.
func TestDistributedFloatingIPs(t *testing.T) {
	w := newTwo(t, "netdev")
	ctx := t.Context()
	var all []*router.Service
	for i, h := range w.x.hosts {
		b, err := ovsrouter.New(h.handle(t, w.x.owner), &ovsrouter.Options{DistributedFloatingIPs: true})
		require.NoError(t, err)
		svc, err := router.New(b, nil)
		require.NoError(t, err)
		all = append(all, svc)
		served, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- b.Serve(served) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done, "host %d", i) })
	}
	mac := func(n byte) vnet.MAC { return vnet.MAC{2, 0, 0, 9, 0, n} }
	w.state.Routers[0].Host = "h1"
	w.state.FloatingIPs = []router.FloatingIP{
		{ID: "fa", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5"), PortID: "a", ExternalMAC: mac(1)},
		{ID: "fb", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.51"), FixedIP: netip.MustParseAddr("10.0.1.5"), PortID: "b", ExternalMAC: mac(2)}}
	w.x.mu.Lock()
	w.x.routers = map[string]router.Router{"r1": w.state.Routers[0]}
	require.NoError(t, w.x.write(ctx))
	w.x.mu.Unlock()
	cap := w.ext.Capture("eth0")
	for _, svc := range all {
		require.NoError(t, svc.EnsureRouter(ctx, w.state.Routers[0]))
		for _, f := range w.state.FloatingIPs {
			require.NoError(t, svc.EnsureFloatingIP(ctx, f))
		}
		n := w.x.writes()
		p, err := svc.Plan(ctx, w.state)
		require.NoError(t, err)
		require.Empty(t, p.Changes, p.String())
		require.NoError(t, svc.Sync(ctx, w.state, vnet.SyncOptions{}))
		require.Equal(t, n, w.x.writes())
		x, err := svc.Explain(ctx, "floatingip", "fa")
		require.NoError(t, err)
		require.Contains(t, x.String(), "its port")
	}
	cap.Wait(patience, func(f lab.Frame) bool {
		return f.ARP != nil && f.ARP.SPA.String() == "203.0.113.50" && f.ARP.TPA == f.ARP.SPA && f.ARP.SHA == mac(1)
	})
	reach := func(m *lab.NS, to string) func() bool { return func() bool { return m.Ping(to, 1) == nil } }
	lab.Eventually(t, patience, "the floating IP", reach(w.ext, "203.0.113.50"))
	w.away.CutTunnels()
	cap.Reset()
	require.NoError(t, w.ext.Ping("203.0.113.50", 3))
	lab.Eventually(t, patience, "the outside", reach(w.a, "203.0.113.1"))
	cap.Wait(patience, func(f lab.Frame) bool {
		return f.ICMPType == 8 && f.Src.String() == "203.0.113.50" && f.SrcMAC == mac(1)
	})
	for _, to := range []string{"10.0.1.5", "203.0.113.51", "203.0.113.50", "10.0.0.1", "203.0.113.2"} {
		lab.Eventually(t, patience, to, reach(w.a, to))
	}
	heard := w.b.Capture("eth0")
	require.NoError(t, w.a.Ping("203.0.113.51", 1))
	heard.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 8 && f.Src.String() == "203.0.113.50" && f.TTL == 63 })
	w.away.JoinTunnels()
	// Without its floating IP a machine's way is by the router's home again.
	for _, svc := range all {
		require.NoError(t, svc.DeleteFloatingIP(ctx, "fa"))
	}
	cap.Reset()
	lab.Eventually(t, patience, "the outside by the router", reach(w.a, "203.0.113.1"))
	cap.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 8 && f.Src.String() == "203.0.113.2" })
	lab.Eventually(t, patience, "another's floating IP", reach(w.a, "203.0.113.51"))
	require.Error(t, w.ext.Ping("203.0.113.50", 1))
	// What cannot be is refused by name.
	p := router.PortForward{ID: "p", RouterID: "r1", Protocol: "tcp", ExternalIP: netip.MustParseAddr("203.0.113.2"), ExternalPort: router.PortRange{First: 22},
		InternalIP: netip.MustParseAddr("10.0.1.5"), InternalPort: router.PortRange{First: 22}}
	require.ErrorIs(t, all[0].EnsurePortForward(ctx, p), vnet.ErrUnsupported)
}

// Several parts of a router in one batch are one bundle, and the same as one by
// one. Planning writes nothing.
func TestBatch(t *testing.T) {
	s := newSite(t, 1, "netdev")
	ctx := t.Context()
	sw := (&host{sw: s.sw[0], o: ovs.Options{Name: "h1", Database: s.sw[0].Endpoint, Control: s.sw[0].Vswitchd.Ctl, Netns: s.sw[0].Path}}).handle(t, vnet.Owner(s.l.Owner("b")))
	defer sw.Close()
	defer func() { require.NoError(t, sw.Cleanup(context.Background())) }()
	service := func(t ovs.Target) *router.Service {
		b, err := ovsrouter.New(t, nil)
		if err != nil {
			panic(err)
		}
		svc, err := router.New(b, nil)
		if err != nil {
			panic(err)
		}
		return svc
	}
	st := many(3)
	batch, wrote := sw.Batch(), sw.Writes()
	b := service(batch)
	require.ErrorIs(t, b.EnsureFloatingIP(ctx, st.FloatingIPs[0]), vnet.ErrNotFound)
	require.NoError(t, b.EnsureRouter(ctx, st.Routers[0]))
	for _, f := range st.FloatingIPs {
		require.NoError(t, b.EnsureFloatingIP(ctx, f))
	}
	require.ErrorIs(t, b.DeleteRouter(ctx, "r1"), vnet.ErrInUse)
	p, err := b.Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, p.Changes)
	require.Len(t, batch.Changes().Changes, 4)
	require.Equal(t, wrote, sw.Writes())
	require.NoError(t, batch.Commit(ctx))
	wrote = sw.Writes()
	p, err = service(sw).Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, p.Changes, p.String())
	require.NoError(t, service(sw).Sync(ctx, st, vnet.SyncOptions{}))
	require.Equal(t, wrote, sw.Writes())
	// What somebody has changed is noticed, and made good.
	s.sw[0].Ofctl("del-flows", sw.Bridge(), "table=46,ip,nw_dst=198.18.0.1")
	p, err = service(sw).Plan(ctx, st)
	require.NoError(t, err)
	require.NotEmpty(t, p.Changes)
	require.NoError(t, service(sw).Sync(ctx, st, vnet.SyncOptions{}))
	require.Contains(t, s.sw[0].Ofctl("dump-flows", sw.Bridge(), "table=46"), "nw_dst=198.18.0.1")
	p, err = service(sw).Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, p.Changes, p.String())
}

// Serve ends when the switch's handle is closed, also while it advertises.
func TestServeEnds(t *testing.T) {
	s := newSite(t, 1, "netdev")
	h := &host{sw: s.sw[0], o: ovs.Options{Name: "h1", Database: s.sw[0].Endpoint, Control: s.sw[0].Vswitchd.Ctl, Netns: s.sw[0].Path}}
	owner := vnet.Owner(s.l.Owner("e"))
	defer func() { require.NoError(t, h.handle(t, owner).Cleanup(context.Background())) }()
	sw, err := ovs.Open(t.Context(), owner, &h.o)
	require.NoError(t, err)
	b, err := ovsrouter.New(sw, nil)
	require.NoError(t, err)
	svc, err := router.New(b, nil)
	require.NoError(t, err)
	require.NoError(t, svc.EnsureRouter(t.Context(), router.Router{ID: "r1", Interfaces: []router.Interface{
		{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: prefixes("2001:db8:1::1/64"), RA: &router.RA{Mode: router.SLAAC}}}}))
	ended := make(chan error, 1)
	go func() {
		err := vnet.ErrConflict
		for errors.Is(err, vnet.ErrConflict) { // with who looks whether it runs
			err = svc.Serve(t.Context())
		}
		ended <- err
	}()
	lab.Eventually(t, patience, "Serve", func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return errors.Is(b.Serve(ctx), vnet.ErrConflict)
	})
	sw.Close()
	select {
	case err := <-ended:
		require.Error(t, err)
	case <-time.After(patience):
		t.Fatal("Serve goes on")
	}
}

// The kernel's datapath, which is in the guest, carries the same flows: routes,
// connection tracking in two zones, what is learned, and what Serve says.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	w := newTwo(t, "system")
	ctx := t.Context()
	w.state.FloatingIPs = []router.FloatingIP{{ID: "fa", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}}
	require.NoError(t, w.svc.Sync(ctx, w.state, vnet.SyncOptions{}))
	w.serve(t)
	reach := func(m *lab.NS, to string) {
		t.Helper()
		lab.Eventually(t, 2*patience, to, func() bool { return m.Ping(to, 1) == nil })
	}
	for _, to := range []string{"10.0.0.1", "2001:db8:1::1", "10.0.1.5", "2001:db8:2::5", "203.0.113.2", "203.0.113.50"} {
		reach(w.a, to)
	}
	cap := w.ext.Capture("eth0")
	reach(w.a, "203.0.113.1")
	reach(w.b, "203.0.113.1")
	reach(w.b, "203.0.113.50")
	reach(w.ext, "203.0.113.50")
	for _, src := range []string{"203.0.113.50", "203.0.113.2"} {
		cap.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 8 && f.Src.String() == src })
	}
	p, err := w.svc.Plan(ctx, w.state)
	require.NoError(t, err)
	require.Empty(t, p.Changes, p.String())
	require.NoError(t, w.svc.DeleteFloatingIP(ctx, "fa"))
	require.Error(t, w.ext.Ping("203.0.113.50", 1))
	cap.Reset()
	reach(w.a, "203.0.113.1")
	cap.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 8 && f.Src.String() == "203.0.113.2" })
}
