package ovsdhcp_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovs"
)

const patience = 15 * time.Second

func scopeOn(network string) dhcp.Scope {
	return dhcp.Scope{
		ID: "s-" + network, NetworkID: network, Subnet: netip.MustParsePrefix("10.0.0.0/24"), ServerIP: netip.MustParseAddr("10.0.0.2"),
		Router: netip.MustParseAddr("10.0.0.1"), MTU: 1450,
	}
}

func clientOn(network string, n byte) dhcp.Reservation {
	return dhcp.Reservation{ID: fmt.Sprintf("p-%s-%d", network, n), NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n})}}
}

func serve(t testing.TB, b dhcp.Backend) *dhcp.Service {
	svc, err := dhcp.New(b, nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := svc.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return svc
}

func (p *place) vm(t testing.TB, network string, r dhcp.Reservation) *lab.NS {
	vm := p.l.NS(fmt.Sprint("vm", p.n.Add(1)))
	vm.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	p.plug(t, network, vm.Path, "eth0", r.MAC)
	vm.Up("eth0")
	return vm
}

// asks reports whether udhcpc gets an address.
func asks(t testing.TB, vm *lab.NS) bool {
	lab.Need(t, "udhcpc")
	_, err := vm.Exec(t.Context(), "udhcpc", "-i", "eth0", "-s", "/bin/true", "-n", "-q", "-f", "-t", "3", "-T", "1")
	return err == nil
}

// The switch restarts: nothing passes until the application syncs, and then
// the same process serves on.
func TestSwitchRestarts(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	svc := serve(t, p.backend(t, p.sw, nil))
	p.network(t, "net")
	r := clientOn("net", 10)
	st := dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}, Reservations: []dhcp.Reservation{r}}
	require.NoError(t, svc.Sync(ctx, st, vnet.SyncOptions{}))
	vm := p.vm(t, "net", r)
	require.True(t, asks(t, vm))
	watching, stop := context.WithCancel(ctx)
	defer stop()
	restarted := make(chan struct{}, 1)
	events := p.sw.Watch(watching)
	go func() {
		for e := range events {
			if e.Kind == ovs.EventRestarted {
				restarted <- struct{}{}
			}
		}
	}()
	p.hv.Vswitchd.Restart()
	select {
	case <-restarted:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	require.False(t, asks(t, vm), "closed")
	plan, err := svc.Plan(ctx, st)
	require.NoError(t, err)
	require.Equal(t, 2, plan.Count(vnet.Create), plan.String())
	require.NoError(t, svc.Sync(ctx, st, vnet.SyncOptions{}))
	p.again(t)
	lab.Eventually(t, patience, "a lease", func() bool { return asks(t, vm) })
	plan, err = svc.Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
}

// A new process serves what stands before it is told anything.
func TestNewProcessServesAtOnce(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	p.network(t, "net")
	r := clientOn("net", 10)
	first, err := dhcp.New(p.backend(t, p.sw, nil), nil)
	require.NoError(t, err)
	require.NoError(t, first.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}, Reservations: []dhcp.Reservation{r}}, vnet.SyncOptions{}))
	vm := p.vm(t, "net", r)
	require.False(t, asks(t, vm), "nobody serves")
	svc := serve(t, p.backend(t, p.open(t, p.owner), nil))
	require.True(t, asks(t, vm))
	var got []netip.Addr
	for l, err := range svc.Leases(ctx) {
		require.NoError(t, err)
		got = append(got, l.IP)
	}
	require.Equal(t, r.IPs, got)
}

// What others have in the table stays, and an owner's network does not hear another's.
func TestForeignFlowsStay(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	ofctl := func(args ...string) string {
		out, err := p.hv.NS.Exec(ctx, "ovs-ofctl", append([]string{"-O", "OpenFlow15"}, args...)...)
		require.NoError(t, err, out)
		return out
	}
	mgmt := "unix:" + p.hv.Dir + "/" + p.sw.Bridge() + ".mgmt"
	ofctl("add-flow", mgmt, "cookie=0x77,table=20,priority=1000,udp,tp_dst=9 actions=drop")
	b := p.backend(t, p.sw, nil)
	svc, err := dhcp.New(b, nil)
	require.NoError(t, err)
	require.NoError(t, svc.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}}, vnet.SyncOptions{}))
	require.NoError(t, svc.Sync(ctx, dhcp.State{}, vnet.SyncOptions{}))
	require.Equal(t, 1, strings.Count(ofctl("dump-flows", mgmt, "table=20,cookie=0x77/-1"), "tp_dst=9"))
	require.NotContains(t, ofctl("dump-flows", mgmt, "table=20"), "controller")
	_, claimed := p.sw.Number("network", "net")
	require.False(t, claimed, "the number is free again")
}

// A port that floods is cut off in the switch, and heard again afterwards.
func TestFloodIsCutOff(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	svc := serve(t, p.backend(t, p.sw, &ovsdhcp.Options{ClientRate: 5, ClientBurst: 5}))
	p.network(t, "net")
	r, calm := clientOn("net", 10), clientOn("net", 11)
	require.NoError(t, svc.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}, Reservations: []dhcp.Reservation{r, calm}}, vnet.SyncOptions{}))
	vm, other := p.vm(t, "net", r), p.vm(t, "net", calm)
	require.True(t, asks(t, vm))
	mgmt := "unix:" + p.hv.Dir + "/" + p.sw.Bridge() + ".mgmt"
	cut := func() bool {
		out, err := p.hv.NS.Exec(ctx, "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", mgmt, "table=20")
		require.NoError(t, err, out)
		return strings.Contains(out, "hard_timeout=1")
	}
	ask := lab.Frame{SrcMAC: r.MAC, DstMAC: lab.BroadcastMAC, Src: netip.IPv4Unspecified(), Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		Proto: lab.UDP, SrcPort: 68, DstPort: 67, Payload: make([]byte, 300)}.Bytes()
	lab.Eventually(t, patience, "a cut", func() bool {
		for range 200 {
			vm.Inject("eth0", ask)
		}
		return cut()
	})
	require.True(t, asks(t, other), "others are heard")
	lab.Eventually(t, patience, "the end of it", func() bool { return !cut() })
	lab.Eventually(t, patience, "a lease", func() bool { return asks(t, vm) })
	plan, err := svc.Plan(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}, Reservations: []dhcp.Reservation{r, calm}})
	require.NoError(t, err)
	require.Empty(t, plan.Changes, "cuts are nobody's objects")
}

// A batch carries DHCP with what other packages write, and is seen before it
// is committed by itself only.
func TestBatch(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	direct := p.backend(t, p.sw, nil)
	batch := p.sw.Batch()
	b, err := direct.With(batch)
	require.NoError(t, err)
	r := clientOn("a", 10)
	require.NoError(t, b.EnsureScope(ctx, scopeOn("a")))
	require.NoError(t, b.EnsureReservation(ctx, r))
	require.NoError(t, batch.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error { tx.NetworkNumber("a"); return nil }))
	require.Equal(t, 2, batch.Changes().Count(vnet.Create))
	_, err = b.Explain(ctx, "scope", "s-a")
	require.ErrorIs(t, err, vnet.ErrNotFound, "not committed yet")
	require.NoError(t, batch.Commit(ctx))
	x, err := direct.Explain(ctx, "scope", "s-a")
	require.NoError(t, err)
	require.Contains(t, x.String(), "nw_dst=255.255.255.255")

	// The address moves to another reservation within one batch.
	moved := clientOn("a", 10)
	moved.ID, moved.MAC = "other", vnet.MAC{2, 0, 0, 0, 0, 99}
	require.ErrorIs(t, b.EnsureReservation(ctx, moved), vnet.ErrConflict)
	require.NoError(t, b.DeleteReservation(ctx, r.ID))
	require.NoError(t, b.EnsureReservation(ctx, moved))
	require.NoError(t, batch.Commit(ctx))
	st := dhcp.State{Scopes: []dhcp.Scope{scopeOn("a")}, Reservations: []dhcp.Reservation{moved}}
	plan, err := direct.Plan(ctx, st.Canonical())
	require.NoError(t, err)
	require.Empty(t, plan.Changes)

	// Two scopes of one network and version do not take each other's flows.
	second := scopeOn("a")
	second.ID, second.Subnet, second.ServerIP, second.Router = "s-b", netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.1")
	require.NoError(t, b.EnsureScope(ctx, second))
	require.NoError(t, batch.Commit(ctx))
	st.Scopes = append(st.Scopes, second)
	plan, err = direct.Plan(ctx, st.Canonical())
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
	require.NoError(t, direct.DeleteScope(ctx, "s-a"))
	_, claimed := p.sw.Number("network", "a")
	require.True(t, claimed)
}

// A relay on a physical network asks for machines behind it.
func TestRelayOnTheWire(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, "phys")
	p := s.place(t)
	svc := serve(t, p.backend(t, p.sw, nil))
	p.networkOn(t, "net", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "phys"})
	sc, r := scopeOn("net"), clientOn("net", 10)
	sc.Relays = []netip.Prefix{netip.MustParsePrefix("10.0.0.254/32")}
	require.NoError(t, svc.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{sc}, Reservations: []dhcp.Reservation{r}}, vnet.SyncOptions{}))
	relay := s.l.Station(s.l.Wire("phys"), "relay", "10.0.0.254/24")
	dev := "eth0"
	mac := relay.MAC(dev)
	cap := relay.Capture(dev)
	relayIP := netip.MustParseAddr("10.0.0.254")
	var server vnet.MAC
	lab.Eventually(t, patience, "ARP", func() bool {
		relay.Inject(dev, lab.ARPRequest(mac, relayIP, sc.ServerIP).Bytes())
		f, ok := cap.Find(500*time.Millisecond, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.Op == 2 && f.DstMAC == mac })
		server = f.SrcMAC
		return ok
	})
	msg := make([]byte, 240)
	msg[0], msg[1], msg[2], msg[3] = 1, 1, 6, 1
	copy(msg[24:], relayIP.AsSlice())
	copy(msg[28:], r.MAC[:])
	copy(msg[236:], []byte{99, 130, 83, 99})
	msg = append(msg, 53, 1, 1, 255)
	msg = append(msg, make([]byte, 60)...)
	relay.Inject(dev, lab.Frame{SrcMAC: mac, DstMAC: server, Src: relayIP, Dst: sc.ServerIP, Proto: lab.UDP, SrcPort: 67, DstPort: 67, Payload: msg}.Bytes())
	f := cap.Wait(patience, func(f lab.Frame) bool { return f.Proto == lab.UDP && f.DstPort == 67 && f.Dst == relayIP })
	require.Equal(t, r.IPs[0].AsSlice(), f.Payload[16:20])
	require.Equal(t, mac, f.DstMAC)
	// A machine on the wire is not this server's.
	cap.Reset()
	relay.Inject(dev, lab.Frame{SrcMAC: mac, DstMAC: lab.BroadcastMAC, Src: netip.IPv4Unspecified(), Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}), Proto: lab.UDP, SrcPort: 68, DstPort: 67, Payload: msg}.Bytes())
	cap.None(500*time.Millisecond, func(f lab.Frame) bool { return f.Proto == lab.UDP && f.SrcPort == 67 })
}

// The kernel's datapath, in the guest.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	ctx := t.Context()
	p := newSiteOn(t, "system").place(t)
	svc := serve(t, p.backend(t, p.sw, nil))
	p.network(t, "net")
	r := clientOn("net", 10)
	r.IPs = append(r.IPs, netip.MustParseAddr("2001:db8::10"))
	six := dhcp.Scope{ID: "six", NetworkID: "net", Subnet: netip.MustParsePrefix("2001:db8::/64")}
	require.NoError(t, svc.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net"), six}, Reservations: []dhcp.Reservation{r}}, vnet.SyncOptions{}))
	vm := p.vm(t, "net", r)
	lab.Eventually(t, 2*patience, "a lease", func() bool { return asks(t, vm) })
	cap := vm.Capture("eth0")
	server := netip.MustParseAddr("10.0.0.2")
	lab.Eventually(t, 2*patience, "ARP", func() bool {
		vm.Inject("eth0", lab.ARPRequest(r.MAC, r.IPs[0], server).Bytes())
		_, ok := cap.Find(time.Second, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.Op == 2 && f.ARP.SPA == server })
		return ok
	})
	solicit := append([]byte{1, 0, 0, 7, 0, 1, 0, 10, 0, 3, 0, 1}, r.MAC[:]...) // client identifier: DUID-LL
	solicit = append(solicit, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)  // IA_NA
	lab.Eventually(t, 2*patience, "an advertisement", func() bool {
		vm.Inject("eth0", lab.Frame{SrcMAC: r.MAC, DstMAC: vnet.MAC{0x33, 0x33, 0, 1, 0, 2}, Src: r.MAC.LinkLocal(), Dst: netip.MustParseAddr("ff02::1:2"),
			Proto: lab.UDP, SrcPort: 546, DstPort: 547, Payload: solicit}.Bytes())
		_, ok := cap.Find(time.Second, func(f lab.Frame) bool { return f.SrcPort == 547 && len(f.Payload) > 0 && f.Payload[0] == 2 })
		return ok
	})
}
