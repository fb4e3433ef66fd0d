package overlaytest

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// two networks with the same addresses on three hosts:
//
//	blue    h1: a b   h2: c c2   h3: d
//	green   h1: x     h2: y
func (b *bench) colours(change func(blue *overlay.Network)) *world {
	b.t.Helper()
	t := b.tunnelled()
	blue, green := b.network("blue", t, 100), b.network("green", t, 101)
	if change != nil {
		change(&blue)
	}
	w := b.world(blue, green)
	w.add("a", 0, "blue", 1)
	w.add("b", 0, "blue", 2)
	w.add("c", 1, "blue", 3)
	w.add("c2", 1, "blue", 4)
	w.add("d", 2, "blue", 5)
	w.add("x", 0, "green", 1)
	w.add("y", 1, "green", 3)
	return w
}

// all says that every pair of stations of one network reaches each other, and
// nobody else hears of it.
func (w *world) all() (out []probe) {
	for _, from := range w.stations {
		for _, to := range w.stations {
			if from != to && from.port.NetworkID == to.port.NetworkID {
				for _, v6 := range []bool{false, true} {
					out = append(out, probe{says: "unicast between ports of a network", from: from.name, frame: udp(from, to, v6), to: []string{to.name}})
				}
			}
		}
	}
	return out
}

// spread is the frames of a station that go to nobody in particular.
func spread(a *station) (broadcast, unknown, multicast4, multicast6, arp, ns lab.Frame) {
	broadcast = udp(a, a, false)
	broadcast.DstMAC, broadcast.Dst = lab.BroadcastMAC, netip.MustParseAddr("255.255.255.255")
	unknown = udp(a, a, false)
	unknown.DstMAC, unknown.Dst = mac(999), ip4(999)
	multicast4 = udp(a, a, false)
	multicast4.DstMAC, multicast4.Dst = vnet.MAC{1, 0, 0x5e, 0, 0, 0xfb}, netip.MustParseAddr("224.0.0.251")
	multicast6 = udp(a, a, true)
	multicast6.DstMAC, multicast6.Dst = vnet.MAC{0x33, 0x33, 0, 0, 0, 0xfb}, netip.MustParseAddr("ff02::fb")
	arp = lab.ARPRequest(a.port.MAC, a.port.FixedIPs[0], ip4(999))
	ns = lab.NeighborSolicitation(a.port.MAC, a.port.FixedIPs[1], ip6(999))
	return
}

// flood checks what of a's flooded frames stays on the host and what goes to all.
func (w *world) flood(bcast, unicast, mcast bool) {
	w.t.Helper()
	goes := func(far bool) ([]string, *bool) {
		if far {
			return []string{"b", "c", "c2", "d"}, yes()
		}
		return []string{"b"}, no()
	}
	f := w.f[0].Features(w.ctx)
	bcast, unicast, mcast = bcast || f.Floods.Broadcast, unicast || f.Floods.UnknownUnicast, mcast || !f.Floods.NoMulticast && f.Central
	broadcast, unknown, multicast4, multicast6, arp, ns := spread(w.at("a"))
	var probes []probe
	for _, p := range []struct {
		says  string
		frame lab.Frame
		far   bool
	}{
		{"broadcast", broadcast, bcast}, {"ARP for an unknown address", arp, bcast}, {"unknown unicast", unknown, unicast},
		{"IPv4 multicast", multicast4, mcast}, {"IPv6 multicast", multicast6, mcast}, {"ND for an unknown address", ns, mcast},
	} {
		to, crosses := goes(p.far)
		if f.DropsUnknown && p.frame.DstMAC == unknown.DstMAC {
			to, crosses = nil, no()
		}
		probes = append(probes, probe{p.says, "a", p.frame, to, crosses})
	}
	w.check(probes...)
}

// floodCase is a case about tunnels of whatever type there is. A network that
// asks for what the backend does not do is refused by name.
func floodCase(name, says string, ask overlay.Flooding, run func(b *bench, w *world)) Case {
	return Case{Name: name, Says: says, Hosts: 3, run: func(b *bench) {
		t := b.tunnelled()
		if !t.Tunnel() {
			return // refused by name, as another case checks
		}
		if n := b.network("n", t, 100); ask != (overlay.Flooding{}) {
			if n.Flooding = ask; !b.supports(n) {
				require.ErrorIs(b.t, b.f[0].EnsureNetwork(b.ctx, n), vnet.ErrUnsupported)
				return
			}
		}
		w := b.colours(func(n *overlay.Network) { n.Flooding = ask })
		run(b, w)
	}}
}

func packetCases() []Case {
	return []Case{
		{Name: "unicast", Says: "Ports of a network reach each other, on one host and across hosts; networks with the same addresses do not hear each other.", Hosts: 3, run: func(b *bench) {
			w := b.colours(nil)
			w.start()
			w.check(w.all()...)
		}},
		floodCase("answers", "ARP and ND for remote ports are answered on the host: no broadcast and no solicitation crosses the underlay.", overlay.Flooding{}, func(b *bench, w *world) {
			w.start()
			w.settle()
			a := w.at("a")
			for _, name := range []string{"c", "c2", "d"} {
				far := w.at(name)
				arp := lab.ARPRequest(a.port.MAC, a.port.FixedIPs[0], far.port.FixedIPs[0])
				ns := lab.NeighborSolicitation(a.port.MAC, a.port.FixedIPs[1], far.port.FixedIPs[1])
				a.cap.Reset()
				a.Inject("eth0", arp.Bytes())
				a.Inject("eth0", ns.Bytes())
				got := a.cap.Wait(patience, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.Op == 2 && f.ARP.SPA == far.port.FixedIPs[0] })
				require.Equal(b.t, far.port.MAC, got.ARP.SHA)
				require.Equal(b.t, a.port.MAC, got.DstMAC)
				if b.f[0].Features(b.ctx).AsksHolder {
					far.cap.Wait(patience, func(f lab.Frame) bool {
						return f.ICMPType == 135 && f.Target == far.port.FixedIPs[1] && f.DstMAC == far.port.MAC
					})
					continue
				}
				na := a.cap.Wait(patience, func(f lab.Frame) bool { return f.ICMPType == 136 && f.Target == far.port.FixedIPs[1] })
				require.Equal(b.t, far.port.MAC, na.LinkAddr)
				for i, got := range w.send([]probe{{from: "a", frame: arp}, {from: "a", frame: ns}}) {
					require.NotContains(b.t, got.to, name, "question %d reached the one it is about", i)
					require.Zero(b.t, got.crossed, "question %d crossed the underlay", i)
				}
			}
		}),
		floodCase("flooding", "Neither broadcast nor unknown unicast crosses tunnels, unless the platform says that they do; multicast does, a copy a host.", overlay.Flooding{}, func(b *bench, w *world) {
			w.start()
			w.flood(false, false, true)
			_, _, multicast, _, _, _ := spread(w.at("a"))
			if got := w.send([]probe{{from: "a", frame: multicast, to: []string{"b", "c", "c2", "d"}}}); w.seen != nil {
				require.Equal(b.t, 2, got[0].crossed, "one copy for each of two other hosts")
			}
		}),
		floodCase("flooding nothing", "Multicast does not cross with NoMulticast.", overlay.Flooding{NoMulticast: true}, func(b *bench, w *world) {
			w.start()
			w.flood(false, false, false)
			w.check(w.all()...)
		}),
		floodCase("flooding broadcast", "Broadcast crosses where the network asks.", overlay.Flooding{Broadcast: true}, func(b *bench, w *world) {
			w.start()
			w.flood(true, false, true)
			w.check(w.all()...)
		}),
		floodCase("flooding unknown unicast", "Unknown unicast crosses where the network asks, until it has been learned where the MAC is.", overlay.Flooding{UnknownUnicast: true}, func(b *bench, w *world) {
			w.untold["c2"] = true
			w.start()
			w.flood(false, true, true)
			if b.f[0].Features(b.ctx).Central {
				return
			}
			a, c2 := w.at("a"), w.at("c2")
			first := udp(a, c2, false)
			got := w.send([]probe{{from: "a", frame: first, to: []string{"c2"}}})
			require.Contains(b.t, got[0].to, "c2")
			require.Contains(b.t, got[0].to, "d", "nobody knew where it was")
			w.check(probe{"the answer", "c2", udp(c2, a, false), []string{"a"}, yes()})
			w.check(probe{"once learned", "a", udp(a, c2, false), []string{"c2"}, yes()})
		}),
		floodCase("flooding changes", "What is flooded follows the network, without a new tunnel where it can.", overlay.Flooding{}, func(b *bench, w *world) {
			w.start()
			for _, fl := range []overlay.Flooding{{NoMulticast: true}, {Broadcast: true, UnknownUnicast: true}, {Broadcast: true}, {}} {
				n := w.networks[0]
				if n.Flooding = fl; !b.supports(n) {
					require.ErrorIs(b.t, b.f[0].EnsureNetwork(b.ctx, n), vnet.ErrUnsupported)
					continue
				}
				w.networks[0].Flooding = fl
				for _, f := range w.f {
					b.ok(f.EnsureNetwork(b.ctx, w.networks[0]))
				}
				w.flood(fl.Broadcast, fl.UnknownUnicast, !fl.NoMulticast)
			}
			w.check(w.all()...)
			for i, f := range w.f {
				b.planned(f, w.state(i))
			}
		}),
		{Name: "MTU", Says: "Frames of the network's MTU pass, also in tunnels; devices have that MTU.", Hosts: 2, run: func(b *bench) {
			t := b.tunnelled()
			small := b.network("small", t, 101)
			small.MTU = 1280
			w := b.world(b.network("auto", t, 100), small)
			w.add("a", 0, "auto", 1)
			w.add("b", 1, "auto", 2)
			w.add("c", 0, "small", 1)
			w.add("d", 1, "small", 2)
			w.start()
			require.Equal(b.t, 1280, w.at("c").dev.MTU)
			require.LessOrEqual(b.t, w.at("a").dev.MTU, 1500-overlay.Overhead(t, b.hosts[0].Endpoint))
			var probes []probe
			for _, pair := range [][2]string{{"a", "b"}, {"c", "d"}} {
				from, to := w.at(pair[0]), w.at(pair[1])
				require.Contains(b.t, from.IP("link", "show", "dev", "eth0"), fmt.Sprintf("mtu %d ", from.dev.MTU))
				for _, v6 := range []bool{false, true} {
					f := udp(from, to, v6)
					head := 20 + 8
					if v6 {
						head = 40 + 8
					}
					f.Payload = append(f.Payload, make([]byte, from.dev.MTU-head-len(f.Payload))...)
					probes = append(probes, probe{"a full frame", from.name, f, []string{to.name}, nil})
				}
			}
			w.check(probes...)
		}},
		{Name: "a port that is down", Says: "Nothing passes a port that is down, in either direction.", Hosts: 2, run: func(b *bench) {
			w := b.world(b.network("n", b.tunnelled(), 100))
			w.add("a", 0, "n", 1)
			w.add("b", 0, "n", 2)
			w.add("c", 1, "n", 3)
			w.start()
			b2 := w.at("b")
			b2.port.AdminDown = true
			b.ok(b.f[0].EnsurePort(b.ctx, b2.port))
			w.check(
				probe{"to a port that is down", "a", udp(w.at("a"), b2, false), nil, nil},
				probe{"to a port that is down", "c", udp(w.at("c"), b2, true), nil, nil},
				probe{"between others", "a", udp(w.at("a"), w.at("c"), false), []string{"c"}, nil})
			b2.port.AdminDown = false
			b.ok(b.f[0].EnsurePort(b.ctx, b2.port))
			w.check(w.all()...)
		}},
		{Name: "a network that is down", Says: "No frame is carried on a network that is down, and all again when it is up.", Hosts: 3, run: func(b *bench) {
			w := b.colours(nil)
			w.start()
			w.networks[0].AdminDown = true
			for _, f := range w.f {
				b.ok(f.EnsureNetwork(b.ctx, w.networks[0]))
			}
			var probes []probe
			for _, p := range w.all() {
				if w.at(p.from).port.NetworkID == "blue" {
					p.to = nil
				}
				probes = append(probes, p)
			}
			w.check(probes...)
			w.networks[0].AdminDown = false
			for _, f := range w.f {
				b.ok(f.EnsureNetwork(b.ctx, w.networks[0]))
			}
			w.check(w.all()...)
			for i, f := range w.f {
				b.planned(f, w.state(i))
			}
		}},
		{Name: "born closed", Says: "A filtered port that nobody has filled passes nothing in either direction.", Hosts: 2, run: func(b *bench) {
			w := b.world(b.network("n", b.tunnelled(), 100))
			w.add("a", 0, "n", 1)
			w.add("b", 0, "n", 2).port.Filtered = true
			w.add("c", 1, "n", 3)
			w.start()
			a, b2, c := w.at("a"), w.at("b"), w.at("c")
			hello := udp(a, b2, false)
			hello.DstMAC, hello.Dst = lab.BroadcastMAC, netip.MustParseAddr("255.255.255.255")
			from := udp(b2, a, false)
			from.DstMAC, from.Dst = lab.BroadcastMAC, netip.MustParseAddr("255.255.255.255")
			var heard []string // c is on another host
			if b.f[0].Features(b.ctx).Floods.Broadcast {
				heard = []string{"c"}
			}
			w.check(
				probe{"to it", "a", udp(a, b2, false), nil, nil},
				probe{"to it, from another host", "c", udp(c, b2, true), nil, nil},
				probe{"broadcast to it", "a", hello, heard, nil},
				probe{"ARP to it", "a", lab.ARPRequest(a.port.MAC, a.port.FixedIPs[0], b2.port.FixedIPs[0]), nil, no()},
				probe{"from it", "b", udp(b2, a, false), nil, nil},
				probe{"from it, to another host", "b", udp(b2, c, true), nil, no()},
				probe{"broadcast from it", "b", from, nil, no()},
				probe{"ARP from it", "b", lab.ARPRequest(b2.port.MAC, b2.port.FixedIPs[0], ip4(77)), nil, no()},
				probe{"ND to all, not to it", "a", lab.NeighborSolicitation(a.port.MAC, a.port.FixedIPs[1], ip6(78)), []string{"c"}, nil},
				probe{"ND from it", "b", lab.NeighborSolicitation(b2.port.MAC, b2.port.FixedIPs[1], ip6(77)), nil, no()},
				probe{"between others", "a", udp(a, c, false), []string{"c"}, nil})
			b2.port.Filtered = false
			b.ok(b.f[0].EnsurePort(b.ctx, b2.port))
			w.check(w.all()...)
		}},
		{Name: "a port moves", Says: "A port that moves to another network or host is reached there, and others do not notice.", Hosts: 3, run: func(b *bench) {
			w := b.colours(nil)
			w.start()
			// To another network, with its device.
			b2 := w.at("b")
			b2.port.NetworkID = "green"
			b.ok(b.f[0].EnsurePort(b.ctx, b2.port))
			w.sync()
			w.check(w.all()...)
			// To another host, with another device.
			c := w.at("c")
			b.ok(b.f[1].DeletePort(b.ctx, "c"))
			c.host, c.port.Host = 2, b.hosts[2].Name
			w.sync()
			w.plug(c)
			w.check(w.all()...)
		}},
		{Name: "a MAC changes", Says: "A port that gets another MAC is reached by that, and its machine has it after plugging again.", Hosts: 3, run: func(b *bench) {
			w := b.colours(nil)
			w.start()
			c := w.at("c")
			c.port.MAC = mac(55)
			b.ok(b.f[1].EnsurePort(b.ctx, c.port))
			w.sync()
			_, err := b.f[1].Plug(b.ctx, b.veth("c"))
			b.ok(err)
			require.Equal(b.t, mac(55), c.NS.MAC("eth0"))
			w.check(w.all()...)
		}},
		{Name: "traffic flows on", Says: "Traffic that was allowed before a restart and is after flows on through Sync and through Ensure of what stands.", Hosts: 2, run: func(b *bench) {
			w := b.world(b.network("n", b.tunnelled(), 100))
			w.add("a", 0, "n", 1)
			w.add("b", 0, "n", 2)
			w.add("c", 1, "n", 3)
			w.start()
			w.check(w.all()...)
			done := make(chan []lab.Frame)
			stop := make(chan struct{})
			go func() {
				var sent []lab.Frame
				defer func() { done <- sent }()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
					f := udp(w.at("a"), w.at([]string{"b", "c"}[i%2]), i%4 > 1)
					sent = append(sent, f)
					w.at("a").Inject("eth0", f.Bytes())
				}
			}()
			for i := range b.hosts {
				f := b.reopen(i)
				b.sync(f, w.state(i))
				b.ensure(f, w.state(i))
			}
			w.networks = append(w.networks, b.network("more", b.tunnelled(), 102))
			for i, f := range b.f {
				b.sync(f, w.state(i))
				b.ensure(b.reopen(i), w.state(i))
			}
			close(stop)
			lost := 0
			sent, end := <-done, time.Now().Add(lab.Patience(patience))
			for i, f := range sent {
				if _, ok := w.at([]string{"b", "c"}[i%2]).cap.Find(time.Until(end), is(f)); !ok {
					lost++
				}
			}
			require.Zero(b.t, lost, "frames were lost")
		}},
		{Name: "a device of the caller's", Says: "An existing device carries the port's frames as one that Plug made.", Hosts: 2, run: func(b *bench) {
			w := b.world(b.network("n", b.tunnelled(), 100))
			w.add("a", 0, "n", 1)
			w.add("c", 1, "n", 3)
			w.sync()
			a := w.at("a")
			a.NS = b.vm("a")
			silence(a.NS)
			b.device("mytap", "a")
			a.SetMAC("eth0", a.port.MAC)
			a.Up("eth0")
			a.cap = a.Capture("eth0")
			d, err := b.f[0].Plug(b.ctx, overlay.Attachment{PortID: "a", Kind: overlay.Existing, Name: "mytap"})
			b.ok(err)
			require.Equal(b.t, "mytap", d.Name)
			w.plug(w.at("c"))
			w.check(w.all()...)
			b.ok(b.f[0].Unplug(b.ctx, "a"))
			a.dev = overlay.Device{}
			w.check(probe{"after Unplug", "c", udp(w.at("c"), a, false), nil, nil}, probe{"after Unplug", "a", udp(a, w.at("c"), false), nil, no()})
		}},
		{Name: "the host is apart", Says: "A machine does not reach the host's own stack.", Hosts: 2, run: func(b *bench) {
			w := b.world(b.network("n", b.tunnelled(), 100))
			w.add("a", 0, "n", 1)
			w.add("b", 1, "n", 2)
			w.start()
			a, host := w.at("a"), b.hosts[0].Endpoint
			if host.Is4() {
				a.Inject("eth0", lab.ARPRequest(a.port.MAC, a.port.FixedIPs[0], host).Bytes())
				a.Inject("eth0", tagged(lab.Frame{SrcMAC: a.port.MAC, DstMAC: lab.BroadcastMAC, Src: a.port.FixedIPs[0], Dst: host, Proto: lab.ICMP, ICMPType: 8}).Bytes())
			} else {
				a.Inject("eth0", lab.NeighborSolicitation(a.port.MAC, a.port.FixedIPs[1], host).Bytes())
			}
			a.cap.None(lab.Patience(5*quiet), func(f lab.Frame) bool { return f.SrcMAC != a.port.MAC })
		}},
		physicalCase("flat network", overlay.Flat),
		physicalCase("VLAN network", overlay.VLAN),
		{Name: "VLANs apart", Says: "VLANs of one physical network do not hear each other.", Hosts: 2, Needs: []overlay.SegmentType{overlay.VLAN}, run: func(b *bench) {
			w := b.world(b.network("v1", overlay.VLAN, 11), b.network("v2", overlay.VLAN, 12))
			w.add("a", 0, "v1", 1)
			w.add("b", 1, "v1", 2)
			w.add("x", 0, "v2", 1)
			w.add("y", 1, "v2", 2)
			w.start()
			hello := udp(w.at("a"), w.at("b"), false)
			hello.DstMAC = lab.BroadcastMAC
			w.known(hello)
			w.check(w.all()...)
		}},
		{Name: "local network", Says: "A local network never leaves the host.", Hosts: 2, Needs: []overlay.SegmentType{overlay.Local}, run: func(b *bench) {
			w := b.world(b.network("l", overlay.Local, 0))
			w.add("a", 0, "l", 1)
			w.add("b", 0, "l", 2)
			w.add("c", 1, "l", 3)
			w.start()
			hello := udp(w.at("a"), w.at("c"), false)
			hello.DstMAC = lab.BroadcastMAC
			unknown := []string{"b"} // flooded on the host
			if b.f[0].Features(b.ctx).DropsUnknown {
				unknown = nil
			}
			w.check(
				probe{"on the host", "a", udp(w.at("a"), w.at("b"), true), []string{"b"}, no()},
				probe{"to another host", "a", udp(w.at("a"), w.at("c"), false), unknown, no()},
				probe{"broadcast", "a", hello, []string{"b"}, no()})
		}},
	}
}

// physicalCase checks a network that is on a wire between the hosts.
func physicalCase(name string, t overlay.SegmentType) Case {
	return Case{Name: name, Says: "Ports of a network on a physical network reach each other by that, and broadcasts cross as on Ethernet.", Hosts: 2, Needs: []overlay.SegmentType{t}, run: func(b *bench) {
		w := b.world(b.network("n", t, 11))
		w.add("a", 0, "n", 1)
		w.add("b", 0, "n", 2)
		w.add("c", 1, "n", 3)
		w.start()
		a := w.at("a")
		hello := udp(a, a, false)
		hello.DstMAC, hello.Dst = lab.BroadcastMAC, netip.MustParseAddr("255.255.255.255")
		w.known(hello)
		w.check(w.all()...)
		w.check(probe{"ARP", "a", lab.ARPRequest(a.port.MAC, a.port.FixedIPs[0], ip4(999)), []string{"b", "c"}, no()})
	}}
}

// known sends a broadcast from everybody, so that switches on the way have
// learned where they are.
func (w *world) known(hello lab.Frame) {
	w.t.Helper()
	for _, s := range w.stations {
		w.check(probe{"broadcast", s.name, withSource(hello, s), others(w, s), no()})
	}
}

func withSource(f lab.Frame, s *station) lab.Frame {
	f.SrcMAC, f.Src = s.port.MAC, s.port.FixedIPs[0]
	return tagged(f)
}

func others(w *world, but *station) (out []string) {
	for _, s := range w.stations {
		if s != but && s.port.NetworkID == but.port.NetworkID {
			out = append(out, s.name)
		}
	}
	return out
}
