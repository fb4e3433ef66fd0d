package ovsrouter_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

// three are hosts, or two, of which the first two may have the router; machine a
// (10.0.0.5) is on the last and b (10.0.1.5) on the second, ext is outside.
type three struct {
	*site
	x         *cloud
	a, b, ext *lab.NS
	state     router.State
	svcs      []*router.Service
	o         ovsrouter.Options
}

func newThree(t *testing.T, hosts int, opts ovsrouter.Options) *three {
	var o []lab.SwitchOptions
	s := &site{l: lab.New(t), datapath: "netdev"}
	for i := range hosts {
		o = append(o, lab.SwitchOptions{Name: fmt.Sprintf("h%d", i+1), Physical: []string{"ex"}, Datapath: s.datapath})
	}
	s.sw = s.l.Switches(o...)
	h := s.host(t, overlay.VXLAN, overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"})
	w := &three{site: s, x: h.Overlay.(*cloud), o: opts}
	ctx := t.Context()
	fabric, err := overlay.New(w.x, nil)
	require.NoError(t, err)
	for i, id := range []string{"in", "in2"} {
		require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: id, Segment: overlay.Segment{Type: overlay.VXLAN, ID: uint32(7 + i)}}))
	}
	require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: "out", Segment: h.Out}))
	w.x.at["a"], w.x.at["b"] = hosts-1, 1
	machine := func(name, network, gateway string, n byte, addr string) *lab.NS {
		ns := s.l.NS(name)
		p := overlay.Port{ID: name, NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}, FixedIPs: []netip.Addr{netip.MustParsePrefix(addr).Addr()}}
		require.NoError(t, fabric.EnsurePort(ctx, p))
		_, err := w.x.Plug(ctx, overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
		require.NoError(t, err)
		ns.Configure("eth0", []string{addr}, gateway)
		return ns
	}
	w.a = machine("a", "in", "10.0.0.1", 0x11, "10.0.0.5/24")
	w.b = machine("b", "in2", "10.0.1.1", 0x12, "10.0.1.5/24")
	w.ext = s.l.NS("ext")
	h.Station(t, w.ext, overlay.Port{MAC: vnet.MAC{2, 0, 0, 0, 0, 0x15}})
	w.ext.Configure("eth0", []string{"203.0.113.1/24"})
	w.state = router.State{
		Routers: []router.Router{{ID: "r1", Host: "h1",
			Interfaces: []router.Interface{
				{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: prefixes("10.0.0.1/24")},
				{PortID: "r1-in2", NetworkID: "in2", MAC: vnet.MAC{2, 0, 0, 0, 1, 2}, Addresses: prefixes("10.0.1.1/24")}},
			Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Addresses: prefixes("203.0.113.2/24"), Hosts: []string{"h1", "h2"}}}},
		FloatingIPs: []router.FloatingIP{{ID: "f1", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}},
		PortForwards: []router.PortForward{{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: netip.MustParseAddr("203.0.113.60"), ExternalPort: router.PortRange{First: 2222},
			InternalIP: netip.MustParseAddr("10.0.1.5"), InternalPort: router.PortRange{First: 22}}},
	}
	peers := map[string]netip.Addr{}
	for _, sw := range s.sw {
		peers[sw.Short] = sw.EncapIP
	}
	for _, h := range w.x.hosts {
		h.o.Peers = peers
		w.svcs = append(w.svcs, w.process(t, h, true))
	}
	return w
}

// process is a process on a host; one that serves does so until the test ends.
func (w *three) process(t *testing.T, h *host, serves bool) *router.Service {
	b, err := ovsrouter.New(h.handle(t, w.x.owner), &w.o)
	require.NoError(t, err)
	svc, err := router.New(b, nil)
	require.NoError(t, err)
	if serves {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- svc.Serve(ctx) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	}
	return svc
}

// where says on which hosts the router is at home, as each of some hosts sees it.
func (w *three) where(t *testing.T, want string, hosts ...int) {
	t.Helper()
	lab.Eventually(t, 3*patience, "the router at "+want, func() bool {
		for _, i := range hosts {
			x, err := w.svcs[i].Explain(t.Context(), "router", "r1")
			sees := "short cut to host " + want
			switch want {
			case fmt.Sprint("h", i+1):
				sees = "at home"
			case "":
				sees = "at home nowhere"
			}
			if err != nil || !strings.Contains(x.Text, sees+" (of h1, h2)") {
				return false
			}
		}
		return true
	})
}

// watched waits until all hosts have been heard of.
func (w *three) watched(t *testing.T) {
	t.Helper()
	lab.Eventually(t, 3*patience, "all peers", func() bool {
		for i := range w.x.hosts {
			want := len(w.x.hosts) - 1
			all, _ := w.x.hosts[i].open[len(w.x.hosts[i].open)-1].Probes()
			for _, p := range all {
				if p.Up {
					want--
				}
			}
			if want != 0 {
				return false
			}
		}
		return true
	})
}

// steady checks that there is nothing to do, also for a new process.
func (w *three) steady(t *testing.T, hosts ...int) {
	t.Helper()
	for _, i := range hosts {
		n := w.x.writes()
		for _, svc := range []*router.Service{w.svcs[i], w.process(t, w.x.hosts[i], false)} {
			p, err := svc.Plan(t.Context(), w.state)
			require.NoError(t, err)
			require.Empty(t, p.Changes, p.String())
			require.NoError(t, svc.Sync(t.Context(), w.state, vnet.SyncOptions{}))
		}
		require.Equal(t, n, w.x.writes(), "host %d", i)
	}
}

// reach waits until all passes.
func (w *three) reach(t *testing.T) {
	t.Helper()
	lab.Eventually(t, patience, "the outside from a", func() bool { return w.a.Ping("203.0.113.1", 1) == nil })
	lab.Eventually(t, patience, "the outside from b", func() bool { return w.b.Ping("203.0.113.1", 1) == nil })
	lab.Eventually(t, patience, "the floating IP", func() bool { return w.ext.Ping("203.0.113.50", 1) == nil })
	require.NoError(t, w.a.Ping("10.0.1.5", 1))
}

var received = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// pinged says for how long pings are not answered while f does something, and
// until all passes after it.
func (w *three) pinged(t *testing.T, what string, f func()) {
	t.Helper()
	const every = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ping := func(ns *lab.NS, to string) chan time.Duration {
		lost := make(chan time.Duration, 1)
		cmd := ns.Command(ctx, "ping", "-n", "-q", "-i", fmt.Sprint(every.Seconds()), to)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it sums up then
		go func() {
			var out []byte
			_ = ns.Do(func() error { var err error; out, err = cmd.Output(); return err })
			m := received.FindStringSubmatch(string(out))
			if m == nil {
				lost <- -1
				return
			}
			sent, _ := strconv.Atoi(m[1])
			got, _ := strconv.Atoi(m[2])
			lost <- time.Duration(sent-got) * every
		}()
		return lost
	}
	out, in := ping(w.a, "203.0.113.1"), ping(w.ext, "203.0.113.50")
	f()
	w.reach(t)
	stop()
	a, b := <-out, <-in
	require.True(t, a >= 0 && b >= 0, "ping")
	t.Logf("%s: nothing for %v from a machine to the outside, for %v from there to its floating IP", what, a, b)
}

// A router that may be on several hosts is on the first that is there. All
// hosts find out by themselves.
func TestFailover(t *testing.T) {
	w := newThree(t, 3, ovsrouter.Options{})
	ctx := t.Context()
	for _, svc := range w.svcs {
		require.NoError(t, svc.Sync(ctx, w.state, vnet.SyncOptions{}))
	}
	w.where(t, "h1", 0, 1, 2) // at once, as nobody has been seen to be gone
	w.reach(t)
	w.watched(t)
	w.steady(t, 0, 1, 2)

	cap := w.ext.Capture("eth0")
	w.pinged(t, "ovs-vswitchd is killed", func() {
		w.sw[0].Vswitchd.Kill()
		w.where(t, "h2", 1, 2)
	})
	for _, a := range []string{"203.0.113.2", "203.0.113.50", "203.0.113.60"} {
		cap.Wait(patience, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.SPA.String() == a && f.ARP.TPA == f.ARP.SPA })
	}
	w.steady(t, 1, 2)

	// What is deleted and made while it stands in.
	require.NoError(t, w.svcs[1].DeletePortForward(ctx, "p1"))
	require.NoError(t, w.svcs[2].DeletePortForward(ctx, "p1"))
	w.state.PortForwards = nil

	w.pinged(t, "the host is back", func() {
		w.sw[0].Vswitchd.Start()
		lab.Eventually(t, 3*patience, "h1 holds back", func() bool {
			return strings.Contains(w.sw[1].Vsctl("--columns=bfd_status", "list", "Interface"), "Concatenated Path Down")
		})
		require.NoError(t, w.ext.Ping("203.0.113.50", 3))
		w.x.mu.Lock()
		require.NoError(t, w.x.write(ctx))
		w.x.mu.Unlock()
		require.NoError(t, w.svcs[0].Sync(ctx, w.state, vnet.SyncOptions{Force: true}))
		w.where(t, "h1", 0, 1, 2)
	})
	w.steady(t, 0, 1, 2)

	// Who is cut off from all has no router: or there would be two outside.
	w.pinged(t, "the host is cut off", func() {
		w.sw[0].CutTunnels()
		w.where(t, "h2", 1, 2)
		w.where(t, "", 0)
	})
	w.steady(t, 0, 1, 2)
	w.pinged(t, "it is joined again", func() {
		w.sw[0].JoinTunnels()
		w.where(t, "h1", 0, 1, 2)
	})

	// A process that ends and one that starts change nothing; a host without gateway may go.
	w.sw[2].CutTunnels()
	w.where(t, "", 2)
	w.where(t, "h1", 0, 1)
	require.NoError(t, w.b.Ping("203.0.113.1", 3))
	w.sw[2].JoinTunnels()
	w.where(t, "h1", 2)
	w.reach(t)

	// With one host or none it is as ever.
	w.state.Routers[0].Gateway.Hosts = []string{"h2"}
	for _, svc := range w.svcs {
		require.NoError(t, svc.EnsureRouter(ctx, w.state.Routers[0]))
	}
	x, err := w.svcs[1].Explain(ctx, "router", "r1")
	require.NoError(t, err)
	require.Contains(t, x.Text, "short cut to host h1, ")
	require.NotContains(t, w.sw[1].Vsctl("--columns=bfd", "list", "Interface"), "enable")

	w.state.Routers[0].Gateway.Hosts = []string{"h1", "h7"}
	n := w.x.writes()
	for _, err := range []error{w.svcs[0].EnsureRouter(ctx, w.state.Routers[0]), w.svcs[0].Sync(ctx, w.state, vnet.SyncOptions{})} {
		var fe *vnet.FieldError
		require.ErrorAs(t, err, &fe)
		require.Equal(t, "h7", fe.Value)
		require.Contains(t, fe.Field, "gateway.hosts[1]")
	}
	require.Equal(t, n, w.x.writes())
}

// Two hosts that know nobody else both have the router while they cannot see
// each other. When they can, the outside believes the right one.
func TestTwoHomes(t *testing.T) {
	w := newThree(t, 2, ovsrouter.Options{})
	for _, svc := range w.svcs {
		require.NoError(t, svc.Sync(t.Context(), w.state, vnet.SyncOptions{}))
	}
	w.where(t, "h1", 0, 1)
	w.reach(t)
	w.watched(t)
	w.sw[0].CutTunnels()
	w.where(t, "h2", 1)
	w.where(t, "h1", 0)
	w.reach(t) // of the second: the first has no way to the machines
	w.steady(t, 0, 1)
	w.pinged(t, "they see each other again", func() {
		w.sw[0].JoinTunnels()
		w.where(t, "h1", 0, 1)
	})
	w.steady(t, 0, 1)
	x, err := w.svcs[1].Explain(t.Context(), "floatingip", "f1")
	require.NoError(t, err)
	require.Contains(t, x.Text, "where the router is at home")
}

// A floating IP on the host of its port does not care where the gateway is,
// unless that host becomes it.
func TestDistributedFailover(t *testing.T) {
	w := newThree(t, 3, ovsrouter.Options{DistributedFloatingIPs: true})
	for i, x := range []struct{ id, ext, fixed string }{{"a", "203.0.113.50", "10.0.0.5"}, {"b", "203.0.113.51", "10.0.1.5"}} {
		f := router.FloatingIP{ID: "f" + x.id, RouterID: "r1", FloatingIP: netip.MustParseAddr(x.ext), FixedIP: netip.MustParseAddr(x.fixed), PortID: x.id, ExternalMAC: vnet.MAC{2, 0, 0, 9, 0, byte(i)}}
		w.state.FloatingIPs = append(w.state.FloatingIPs[:i], f)
	}
	w.state.PortForwards = nil
	for _, svc := range w.svcs {
		require.NoError(t, svc.Sync(t.Context(), w.state, vnet.SyncOptions{}))
	}
	both := func() {
		t.Helper()
		w.reach(t)
		lab.Eventually(t, patience, "the other floating IP", func() bool { return w.ext.Ping("203.0.113.51", 1) == nil })
	}
	w.where(t, "h1", 0, 1, 2)
	both()
	w.watched(t)
	w.steady(t, 0, 1, 2)
	w.pinged(t, "ovs-vswitchd is killed", func() {
		w.sw[0].Vswitchd.Kill()
		w.where(t, "h2", 1, 2)
	})
	both()
	w.steady(t, 1, 2)
	require.NoError(t, w.svcs[1].DeleteFloatingIP(t.Context(), "fb"))
	lab.Eventually(t, patience, "by the gateway", func() bool { return w.b.Ping("203.0.113.1", 1) == nil })
	w.sw[0].Vswitchd.Start()
}
