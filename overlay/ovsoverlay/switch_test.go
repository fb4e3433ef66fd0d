package ovsoverlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

const patience = 30 * time.Second

// only is one host.
func only(t testing.TB) *host {
	l := lab.New(t)
	s := &site{l: l, sw: l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}})}
	return s.hosts(t, 1)[0]
}

// on is the handle and a fabric over it.
func (h *host) on(t testing.TB) (*ovs.Switch, *overlay.Fabric) {
	t.Helper()
	s := h.handle(t)
	b, err := ovsoverlay.New(s, nil)
	require.NoError(t, err)
	f, err := overlay.New(b, nil)
	require.NoError(t, err)
	return s, f
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

func address6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", i+1)) }

func nth(network string, i int) overlay.Port {
	return overlay.Port{ID: fmt.Sprint("p", i), NetworkID: network, MAC: vnet.MAC{2, 8, 0, byte(i >> 16), byte(i >> 8), byte(i)}, FixedIPs: []netip.Addr{address(i), address6(i)}}
}

func wide(id string, s overlay.Segment) overlay.Network {
	return overlay.Network{ID: id, Segment: s, Subnets: []overlay.Subnet{
		{ID: id + "-4", CIDR: netip.MustParsePrefix("10.1.0.0/16")}, {ID: id + "-6", CIDR: netip.MustParsePrefix("2001:db8:1::/64")}}}
}

// crowd is n ports on one network.
func crowd(n int) overlay.State {
	s := overlay.State{Networks: []overlay.Network{wide("n", overlay.Segment{Type: overlay.VXLAN, ID: 7})}}
	for i := range n {
		s.Ports = append(s.Ports, nth("n", i))
	}
	return s
}

// plugged puts a machine at a port.
func plugged(t *testing.T, l *lab.Lab, f *overlay.Fabric, p overlay.Port) *lab.NS {
	t.Helper()
	vm := l.NS(p.ID)
	_, err := f.Plug(t.Context(), overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
	require.NoError(t, err)
	vm.Up("eth0")
	return vm
}

// asks sends a frame until what it leads to is heard: a device that has just
// been plugged may be deaf for a moment.
func asks(t *testing.T, from *lab.NS, f lab.Frame, at *lab.Capture, match func(lab.Frame) bool) (got lab.Frame) {
	t.Helper()
	require.Eventually(t, func() (ok bool) {
		from.Inject("eth0", f.Bytes())
		got, ok = at.Find(200*time.Millisecond, match)
		return ok
	}, patience, time.Millisecond, "nothing came of %s", f)
	return got
}

// Two thousand ports of one network: nothing is written twice, one more is as
// cheap as among ten, and a frame to all of them comes to all.
func TestCrowd(t *testing.T) {
	h := only(t)
	sw, f := h.on(t)
	ctx := t.Context()
	const many = 2000
	state := crowd(10)
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	one := func() uint64 {
		before := sw.Writes()
		require.NoError(t, f.EnsurePort(ctx, nth("n", 3000)))
		wrote := sw.Writes() - before
		require.NoError(t, f.DeletePort(ctx, "p3000"))
		return wrote
	}
	few := one()
	state = crowd(many)
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	require.LessOrEqual(t, one(), few+3, "a chunk of its own, at most")

	before := sw.Writes()
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	again, g := h.on(t)
	p, err := g.Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, p.Changes)
	require.NoError(t, g.Sync(ctx, state, vnet.SyncOptions{}))
	for i := range 10 {
		require.NoError(t, g.EnsurePort(ctx, state.Ports[i*many/10]))
	}
	require.Equal(t, before, sw.Writes())
	require.Zero(t, again.Writes())

	l := lab.New(t)
	from, first, last := plugged(t, l, f, state.Ports[5]), plugged(t, l, f, state.Ports[0]), plugged(t, l, f, state.Ports[many-1])
	caps := []*lab.Capture{first.Capture("eth0"), last.Capture("eth0")}
	require.NoError(t, sw.Settle(ctx))
	for _, c := range caps {
		asks(t, from, lab.ARPRequest(state.Ports[5].MAC, address(5), address(9999)), c, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.TPA == address(9999) })
	}
	for _, flow := range []string{"arp,arp_op=1,arp_tpa=10.1.99.99", "udp,nw_dst=255.255.255.255"} {
		n, _ := sw.Number("port", "p5")
		text, err := sw.Trace(ctx, fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=ff:ff:ff:ff:ff:ff,%s", n, state.Ports[5].MAC, flow))
		require.NoError(t, err)
		require.NotContains(t, text, "resubmit actions", "Open vSwitch gave up")
		require.Len(t, strings.Split(text[strings.LastIndex(text, "Datapath actions:"):], ","), 2, text[strings.LastIndex(text, "Final flow:"):])
	}
}

// What the switch knows is gone when it has been restarted: nothing passes
// until Sync, and everything after.
func TestRestart(t *testing.T) {
	h := only(t)
	sw, f := h.on(t)
	l := lab.New(t)
	state := crowd(2)
	require.NoError(t, f.Sync(t.Context(), state, vnet.SyncOptions{}))
	a, b := plugged(t, l, f, state.Ports[0]), plugged(t, l, f, state.Ports[1])
	a.Configure("eth0", []string{address(0).String() + "/16"})
	b.Configure("eth0", []string{address(1).String() + "/16"})
	lab.Eventually(t, patience, "packets pass", func() bool { return a.Ping(address(1).String(), 5) == nil })

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	events := f.Watch(ctx)
	told := make(chan vnet.Event, 1)
	go func() {
		for e := range events {
			if e.Kind == ovs.EventRestarted {
				told <- e
				return
			}
		}
		close(told)
	}()
	h.sw.Vswitchd.Kill()
	h.sw.Vswitchd.Start()
	_, ok := <-told
	require.True(t, ok, "nobody said so")
	heard := b.Capture("eth0")
	require.Error(t, a.Ping(address(1).String(), 2), "nothing passes")
	require.Empty(t, heard.Frames())
	p, err := f.Plan(t.Context(), state)
	require.NoError(t, err)
	require.Equal(t, 3, p.Count(vnet.Create), "%s", p)
	require.NoError(t, f.Sync(t.Context(), state, vnet.SyncOptions{}))
	lab.Eventually(t, patience, "packets pass again", func() bool { return a.Ping(address(1).String(), 5) == nil })
	n, _ := sw.Number("port", "p0")
	require.EqualValues(t, 1, n, "numbers stay")
}

// Machines find out whether an address is another's, and are not told that
// their own is.
func TestDuplicateAddressDetection(t *testing.T) {
	h := only(t)
	_, f := h.on(t)
	l := lab.New(t)
	state := crowd(2)
	state.RemotePorts = []overlay.RemotePort{{ID: "far", NetworkID: "n", MAC: vnet.MAC{2, 9, 5: 1}, IPs: []netip.Addr{address(100), address6(100)}, Endpoint: netip.MustParseAddr("100.127.0.99")}}
	require.NoError(t, f.Sync(t.Context(), state, vnet.SyncOptions{}))
	a, b := plugged(t, l, f, state.Ports[0]), plugged(t, l, f, state.Ports[1])
	toA, toB := a.Capture("eth0"), b.Capture("eth0")
	mac := state.Ports[0].MAC
	answered := func(who netip.Addr) func(lab.Frame) bool {
		return func(f lab.Frame) bool { return f.ARP != nil && f.ARP.Op == 2 && f.ARP.SPA == who }
	}
	probe := func(i int) lab.Frame { return lab.ARPRequest(mac, netip.IPv4Unspecified(), address(i)) }
	asks(t, a, probe(0), toB, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.TPA == address(0) }) // its own
	require.Equal(t, state.Ports[1].MAC, asks(t, a, probe(1), toA, answered(address(1))).ARP.SHA)
	require.Equal(t, vnet.MAC{2, 9, 5: 1}, asks(t, a, probe(100), toA, answered(address(100))).ARP.SHA)
	_, wrong := toA.Find(0, answered(address(0)))
	require.False(t, wrong)

	// From nowhere, for who has an address: the holder is asked, not we.
	for _, i := range []int{0, 1} {
		a.Inject("eth0", lab.NeighborSolicitation(mac, netip.IPv6Unspecified(), address6(i)).Bytes())
		toB.Wait(patience, func(f lab.Frame) bool {
			return f.ICMPType == 135 && f.Target == address6(i) && f.Src == netip.IPv6Unspecified()
		})
	}
}

// Frames for the next bridge go nowhere, and tags do not lead from a flat
// network into a VLAN.
func TestFlatIsFlat(t *testing.T) {
	h := only(t)
	sw, f := h.on(t)
	l := lab.New(t)
	flat, vlan := wide("flat", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "physnet"}), wide("vlan", overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "physnet", ID: 5})
	a, b, c := nth("flat", 0), nth("flat", 1), nth("vlan", 2)
	require.NoError(t, f.Sync(t.Context(), overlay.State{Networks: []overlay.Network{flat, vlan}, Ports: []overlay.Port{a, b, c}}, vnet.SyncOptions{}))
	vm := plugged(t, l, f, a)
	heard := plugged(t, l, f, b).Capture("eth0")
	n, _ := sw.Number("port", a.ID)
	leaves := func(flow string) string {
		text, err := sw.Trace(t.Context(), fmt.Sprintf("in_port=%d,dl_src=%s,%s", n, a.MAC, flow))
		require.NoError(t, err)
		return strings.TrimSpace(text[strings.LastIndex(text, "Datapath actions:"):])
	}
	require.Contains(t, leaves("dl_dst=02:99:00:00:00:01"), ",", "untagged, to the wire and its other machines")
	for _, flow := range []string{"dl_vlan=5,dl_dst=02:99:00:00:00:01", "dl_dst=01:80:c2:00:00:00", "dl_dst=01:80:c2:00:00:0e"} {
		require.Equal(t, "Datapath actions: drop", leaves(flow), flow)
	}
	reserved := lab.ARPRequest(a.MAC, address(0), address(99))
	reserved.DstMAC = vnet.MAC{1, 0x80, 0xc2, 5: 0}
	known := func(f lab.Frame) bool { return f.ARP != nil && f.ARP.TPA == address(98) }
	asks(t, vm, lab.ARPRequest(a.MAC, address(0), address(98)), heard, known)
	heard.Reset()
	vm.Inject("eth0", reserved.Bytes())
	asks(t, vm, lab.ARPRequest(a.MAC, address(0), address(98)), heard, known)
	for _, f := range heard.Frames() {
		require.NotEqual(t, reserved.DstMAC, f.DstMAC)
	}
}

// A frame to all goes once to each of many hosts.
func TestManyHosts(t *testing.T) {
	h := only(t)
	sw, f := h.on(t)
	l := lab.New(t)
	const hosts = 200
	state := crowd(2)
	for i := range hosts {
		state.RemotePorts = append(state.RemotePorts, overlay.RemotePort{ID: fmt.Sprint("r", i), NetworkID: "n", MAC: vnet.MAC{2, 9, 5: byte(i)}, Endpoint: netip.AddrFrom4([4]byte{100, 127, 0, byte(20 + i)})})
		_, err := h.sw.Vswitchd.Appctl("tnl/neigh/set", "br-phy", state.RemotePorts[i].Endpoint.String(), fmt.Sprintf("02:aa:00:00:00:%02x", i))
		require.NoError(t, err)
	}
	require.NoError(t, f.Sync(t.Context(), state, vnet.SyncOptions{}))
	vm := plugged(t, l, f, state.Ports[0])
	near := plugged(t, l, f, state.Ports[1]).Capture("eth0")
	wire := h.sw.CaptureBoth("tun0")
	require.NoError(t, sw.Settle(t.Context()))
	group := lab.Frame{SrcMAC: state.Ports[0].MAC, DstMAC: vnet.MAC{1, 0, 0x5e, 5: 0xfb}, Src: address(0), Dst: netip.MustParseAddr("224.0.0.251"), Proto: lab.UDP, SrcPort: 9, DstPort: 9, Payload: []byte("to each once")}
	asks(t, vm, lab.ARPRequest(state.Ports[0].MAC, address(0), address(99)), near, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.TPA == address(99) })
	vm.Inject("eth0", group.Bytes())
	near.Wait(patience, func(f lab.Frame) bool { return f.DstPort == 9 })
	got := map[netip.Addr]int{}
	require.Eventually(t, func() bool {
		clear(got)
		for _, f := range wire.Frames() {
			if f.DstPort == 4789 && strings.Contains(string(f.Payload), "to each once") {
				got[f.Dst]++
			}
		}
		return len(got) == hosts
	}, patience, 50*time.Millisecond, "%d hosts", len(got))
	for to, n := range got {
		require.Equal(t, 1, n, to)
	}
}
