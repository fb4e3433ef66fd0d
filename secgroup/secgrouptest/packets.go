package secgrouptest

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// PacketCase is a check of ring 2: a state, and frames that do or do not
// arrive. A later round sees the connections of the earlier ones.
type PacketCase struct {
	Name   string
	Says   string // the sentence of the contract
	state  func(w *world) secgroup.State
	rounds func(w *world) []round
}

// round is what is sent at once, after doing something.
type round struct {
	do     func(w *world)
	probes []probe
}

func runPackets(t *testing.T, w *world, only func(name string) bool) {
	if only == nil {
		only = func(string) bool { return true }
	}
	in := func(t *testing.T, f func()) {
		outer := w.t
		w.t = t
		defer func() { w.t = outer }()
		f()
	}
	t.Run("born closed", func(t *testing.T) {
		t.Log("A port that wants filtering passes nothing in either direction until its filters stand.")
		in(t, func() {
			w.check(t, []probe{
				{"out", "a", "d", tcp(80), false, false}, {"in", "d", "a", tcp(80), true, false}, {"between", "a", "b", udp(80), false, false},
				{"DHCP request", "a", "d", dst(src(udpFrom(68, 67), "0.0.0.0"), "255.255.255.255"), false, false},
				{"from another host", "c", "d", udp(1), false, false}, {"to another host", "d", "c", udp(1), false, false},
			})
			w.sync(secgroup.State{Groups: []secgroup.Group{all(both, secgroup.Ingress, secgroup.Egress)}, Ports: []secgroup.Port{w.port("a", both)}})
			w.check(t, []probe{{"filled", "a", "d", tcp(80), false, true}, {"filled", "d", "a", tcp(80), true, true}, {"still closed", "a", "b", udp(80), false, false}, {"still closed", "b", "d", udp(80), true, false}})
		})
	})
	for _, c := range packetCases() {
		if !only(c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Log(c.Says)
			in(t, func() {
				s := c.state(w)
				w.sync(s)
				for i, r := range c.rounds(w) {
					if r.do != nil {
						r.do(w)
					}
					if i == 0 {
						w.judged(t, s, w.portable(r.probes))
					}
					w.check(t, r.probes)
					if t.Failed() {
						t.Logf("round %d, state %s", i+1, stateText(s))
						return
					}
				}
			})
		})
	}
	if !only("plugged again") {
		return
	}
	t.Run("plugged again", func(t *testing.T) {
		t.Log("A port may be ensured before or after its device is plugged.")
		in(t, func() {
			w.sync(secgroup.State{Groups: []secgroup.Group{all(both, secgroup.Ingress, secgroup.Egress)}, Ports: []secgroup.Port{w.port("a", both), w.port("b", both)}})
			a := w.vms["a"]
			require.NoError(t, w.hosts[a.host].Overlay.Unplug(w.ctx, "a"))
			w.plug(a)
			w.check(t, []probe{{"out", "a", "b", tcp(80), false, true}, {"in", "b", "a", tcp(80), true, true}, {"not its own", "a", "b", src(udp(80), "10.0.0.77"), false, false}})
		})
	})
	t.Run("closed again", func(t *testing.T) {
		t.Log("DeletePort ends the filtering; a device that was to be filtered is closed from then on.")
		in(t, func() {
			w.each(func(e *secgroup.Enforcer) error { return e.DeletePort(w.ctx, "a") })
			w.check(t, []probe{{"out", "a", "d", tcp(80), false, false}, {"in", "d", "a", udp(80), true, false}, {"others", "b", "d", tcp(80), false, true}})
		})
	})
}

// portable leaves out what the platform is known to do otherwise.
func (w *world) portable(probes []probe) []probe {
	return slices.DeleteFunc(slices.Clone(probes), func(p probe) bool {
		return w.limit.RouterAdvertisements && p.frame.Proto == lab.ICMPv6 && (p.frame.ICMPType == 134 || p.frame.ICMPType == 130) || w.limit.OwnAddressesOnly && p.name == "to an address not its own"
	})
}

// Building blocks of states.

var sport atomic.Uint32

// nextPort is a source port that no connection of this run has.
func nextPort() uint16 { return uint16(20000 + sport.Add(1)%40000) }

func rule(d secgroup.Direction, e secgroup.Ethertype, f func(*secgroup.Rule)) secgroup.Rule {
	r := secgroup.Rule{ID: "r", Direction: d, Ethertype: e}
	if f != nil {
		f(&r)
	}
	return r
}

func ports(proto string, lo, hi uint16) func(*secgroup.Rule) {
	return func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = proto, num(lo), num(hi) }
}

func proto(name string) func(*secgroup.Rule) {
	return func(r *secgroup.Rule) { r.Protocol = name }
}

// group numbers the rules.
func group(id string, rules ...secgroup.Rule) secgroup.Group {
	g := secgroup.Group{ID: id}
	for i, r := range rules {
		r.ID = "r" + string(rune('a'+i))
		g.Rules = append(g.Rules, r)
	}
	return g
}

// all allows everything in the directions.
func all(id string, dirs ...secgroup.Direction) secgroup.Group {
	var rules []secgroup.Rule
	for _, d := range dirs {
		rules = append(rules, rule(d, secgroup.IPv4, nil), rule(d, secgroup.IPv6, nil))
	}
	return group(id, rules...)
}

const (
	in   = secgroup.Ingress
	out  = secgroup.Egress
	ip4  = secgroup.IPv4
	ip6  = secgroup.IPv6
	both = "both" // name of the group that allows everything
)

// Frames.

func tcp(dst uint16) lab.Frame {
	return lab.Frame{Proto: lab.TCP, SrcPort: nextPort(), DstPort: dst, Flags: lab.SYN, Seq: 1000}
}

func udp(dst uint16) lab.Frame { return lab.Frame{Proto: lab.UDP, SrcPort: nextPort(), DstPort: dst} }

func udpFrom(src, dst uint16) lab.Frame { return lab.Frame{Proto: lab.UDP, SrcPort: src, DstPort: dst} }

func icmp(typ, code uint8) lab.Frame {
	return lab.Frame{Proto: lab.ICMP, ICMPType: typ, ICMPCode: code, ICMPID: nextPort(), ICMPSeq: 1}
}

func icmp6(typ, code uint8) lab.Frame {
	return lab.Frame{Proto: lab.ICMPv6, ICMPType: typ, ICMPCode: code, ICMPID: nextPort(), ICMPSeq: 1}
}

func ipProto(n uint8) lab.Frame { return lab.Frame{Proto: n} }

func src(f lab.Frame, a string) lab.Frame { f.Src = addr(a); return f }

func dst(f lab.Frame, a string) lab.Frame { f.Dst = addr(a); return f }

func srcMAC(f lab.Frame, m vnet.MAC) lab.Frame { f.SrcMAC = m; return f }

// reply is the answer to a frame that was sent.
func reply(p probe) lab.Frame {
	f := p.frame
	r := lab.Frame{Proto: f.Proto, SrcPort: f.DstPort, DstPort: f.SrcPort, Src: f.Dst, Dst: f.Src, ICMPID: f.ICMPID, ICMPSeq: f.ICMPSeq, ICMPCode: f.ICMPCode}
	switch f.Proto {
	case lab.TCP:
		r.Flags, r.Seq, r.Ack = lab.SYN|lab.ACK, 5000, f.Seq+1+uint32(len(f.Payload))
	case lab.ICMP:
		r.ICMPType = 0
	case lab.ICMPv6:
		r.ICMPType = 129
	}
	return r
}

// icmpError is an ICMP error about a frame that was sent, from its receiver.
func icmpError(p probe, typ, code uint8) lab.Frame {
	f := p.frame
	e := lab.Frame{Proto: lab.ICMP, ICMPType: typ, ICMPCode: code, Src: f.Dst, Dst: f.Src, Payload: f.IPBytes()}
	if f.Src.Is6() {
		e.Proto = lab.ICMPv6
	}
	if typ == 3 && code == 4 || e.Proto == lab.ICMPv6 && typ == 2 {
		e.ICMPSeq = 1300 // the MTU
	}
	return e
}

func packetCases() []PacketCase {
	out := append(ruleCases(), groupCases()...)
	out = append(out, connectionCases()...)
	out = append(out, spoofCases()...)
	return append(out, removalCases()...)
}

// ruleCases has a case for every kind of rule: one rule at b (ingress) or at
// a (egress), where the other side allows everything.
func ruleCases() []PacketCase {
	type shot struct {
		from, to string
		frame    lab.Frame
		v6, pass bool
	}
	type kind struct {
		name  string
		rule  secgroup.Rule
		shots []shot
	}
	with := func(fs ...func(*secgroup.Rule)) func(*secgroup.Rule) {
		return func(r *secgroup.Rule) {
			for _, f := range fs {
				f(r)
			}
		}
	}
	remote := func(p string) func(*secgroup.Rule) {
		return func(r *secgroup.Rule) { r.RemotePrefix = prefix(p) }
	}
	inGroup := func(g string) func(*secgroup.Rule) { return func(r *secgroup.Rule) { r.RemoteGroup = g } }
	inAG := func(g string) func(*secgroup.Rule) { return func(r *secgroup.Rule) { r.RemoteAddressGroup = g } }
	typ := func(proto string, t uint16) func(*secgroup.Rule) {
		return func(r *secgroup.Rule) { r.Protocol, r.PortMin = proto, num(t) }
	}
	kinds := []kind{
		{"any IPv4 in", rule(in, ip4, nil), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", udp(53), false, true}, {"a", "b", icmp(8, 0), false, true}, {"a", "b", ipProto(47), false, true}, {"a", "b", tcp(80), true, false}}},
		{"any IPv6 in", rule(in, ip6, nil), []shot{{"a", "b", tcp(80), true, true}, {"c", "b", udp(53), true, true}, {"c", "b", icmp6(128, 0), true, true}, {"a", "b", udp(53), false, false}}},
		{"tcp in", rule(in, ip4, proto("tcp")), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", tcp(1), false, true}, {"a", "b", udp(80), false, false}, {"a", "b", tcp(80), true, false}}},
		{"tcp port in", rule(in, ip4, ports("tcp", 80, 80)), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", tcp(80), false, true}, {"a", "b", tcp(81), false, false}, {"c", "b", tcp(79), false, false}, {"a", "b", udp(80), false, false}}},
		{"tcp range in, IPv6", rule(in, ip6, ports("tcp", 80, 90)), []shot{{"a", "b", tcp(80), true, true}, {"c", "b", tcp(90), true, true}, {"a", "b", tcp(91), true, false}, {"a", "b", tcp(79), true, false}, {"a", "b", tcp(85), false, false}}},
		{"open range in", rule(in, ip4, func(r *secgroup.Rule) { r.Protocol, r.PortMin = "udp", num(1024) }), []shot{{"a", "b", udp(1024), false, true}, {"a", "b", udp(65535), false, true}, {"a", "b", udp(1023), false, false}}},
		{"udp port in", rule(in, ip4, ports("17", 53, 53)), []shot{{"a", "b", udp(53), false, true}, {"a", "b", udp(54), false, false}, {"a", "b", tcp(53), false, false}}},
		{"protocol number in", rule(in, ip4, proto("47")), []shot{{"a", "b", ipProto(47), false, true}, {"a", "b", ipProto(50), false, false}, {"a", "b", tcp(47), false, false}}},
		{"protocol name in, IPv6", rule(in, ip6, proto("vrrp")), []shot{{"a", "b", ipProto(112), true, true}, {"a", "b", ipProto(50), true, false}}},
		{"icmp in", rule(in, ip4, proto("icmp")), []shot{{"a", "b", icmp(8, 0), false, true}, {"c", "b", icmp(13, 0), false, true}, {"a", "b", udp(8), false, false}}},
		{"icmp type in", rule(in, ip4, typ("icmp", 8)), []shot{{"a", "b", icmp(8, 0), false, true}, {"a", "b", icmp(13, 0), false, false}, {"a", "b", icmp6(128, 0), true, false}}},
		{"icmp type and code in", rule(in, ip4, ports("icmp", 8, 0)), []shot{{"a", "b", icmp(8, 0), false, true}, {"a", "b", icmp(8, 1), false, false}}},
		{"icmpv6 in", rule(in, ip6, proto("icmpv6")), []shot{{"a", "b", icmp6(128, 0), true, true}, {"a", "b", icmp(8, 0), false, false}, {"a", "b", udp(1), true, false}}},
		{"icmp means ICMPv6", rule(in, ip6, typ("icmp", 128)), []shot{{"a", "b", icmp6(128, 0), true, true}, {"c", "b", icmp6(128, 0), true, true}, {"a", "b", icmp6(139, 0), true, false}}},
		{"prefix in", rule(in, ip4, remote("10.0.0.1/32")), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", tcp(80), false, false}, {"a", "b", tcp(80), true, false}}},
		{"prefix in, IPv6", rule(in, ip6, with(ports("udp", 9, 9), remote("2001:db8::2/127"))), []shot{{"c", "b", udp(9), true, true}, {"a", "b", udp(9), true, false}, {"c", "b", udp(10), true, false}}},
		{"prefix and port in", rule(in, ip4, with(ports("tcp", 80, 90), remote("10.0.0.2/31"))), []shot{{"c", "b", tcp(85), false, true}, {"a", "b", tcp(85), false, false}, {"c", "b", tcp(91), false, false}}},
		{"prefix and icmp in", rule(in, ip4, with(typ("icmp", 8), remote("10.0.0.1/32"))), []shot{{"a", "b", icmp(8, 0), false, true}, {"c", "b", icmp(8, 0), false, false}, {"a", "b", icmp(13, 0), false, false}}},
		{"remote group in", rule(in, ip4, with(ports("tcp", 80, 80), inGroup("ga"))), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", tcp(80), false, false}, {"a", "b", tcp(81), false, false}}},
		{"remote group of another host in, IPv6", rule(in, ip6, inGroup("gc")), []shot{{"c", "b", tcp(80), true, true}, {"a", "b", tcp(80), true, false}}},
		{"address group in", rule(in, ip4, with(proto("tcp"), inAG("ag"))), []shot{{"a", "b", tcp(80), false, true}, {"c", "b", tcp(80), false, false}}},
		{"address group in, IPv6", rule(in, ip6, inAG("ag")), []shot{{"c", "b", udp(80), true, true}, {"a", "b", udp(80), true, false}}},

		{"any IPv4 out", rule(out, ip4, nil), []shot{{"a", "b", tcp(80), false, true}, {"a", "c", udp(53), false, true}, {"a", "c", icmp(8, 0), false, true}, {"a", "b", tcp(80), true, false}}},
		{"any IPv6 out", rule(out, ip6, nil), []shot{{"a", "b", tcp(80), true, true}, {"a", "c", icmp6(128, 0), true, true}, {"a", "b", tcp(80), false, false}}},
		{"udp port out, IPv6", rule(out, ip6, ports("udp", 53, 53)), []shot{{"a", "b", udp(53), true, true}, {"a", "c", udp(53), true, true}, {"a", "c", udp(54), true, false}}},
		{"prefix and port out", rule(out, ip4, with(ports("tcp", 80, 90), remote("10.0.0.3/32"))), []shot{{"a", "c", tcp(85), false, true}, {"a", "b", tcp(85), false, false}, {"a", "c", tcp(91), false, false}}},
		{"icmp type out", rule(out, ip4, typ("icmp", 8)), []shot{{"a", "b", icmp(8, 0), false, true}, {"a", "c", icmp(13, 0), false, false}}},
		{"remote group out", rule(out, ip4, inGroup("gc")), []shot{{"a", "c", tcp(80), false, true}, {"a", "b", tcp(80), false, false}}},
		{"address group out, IPv6", rule(out, ip6, with(proto("tcp"), inAG("ag"))), []shot{{"a", "c", tcp(80), true, true}, {"a", "b", tcp(80), true, false}, {"a", "c", udp(80), true, false}}},
	}
	var cases []PacketCase
	for _, k := range kinds {
		cases = append(cases, PacketCase{
			Name: "rule " + k.name,
			Says: "A rule allows what it describes; what no rule allows is dropped.",
			state: func(w *world) secgroup.State {
				s := secgroup.State{
					Groups:        []secgroup.Group{all(both, in, out), group("g", k.rule), group("ga"), group("gc")},
					AddressGroups: []secgroup.AddressGroup{{ID: "ag", Prefixes: []netip.Prefix{prefix("10.0.0.0/31"), prefix("2001:db8::3/128")}}},
				}
				pa, pb := w.port("a", both, "ga"), w.port("b", "g")
				if k.rule.Direction == out {
					pa, pb = w.port("a", "g", "ga"), w.port("b", both)
				}
				s.Ports = []secgroup.Port{pa, pb, w.port("c", both, "gc")}
				return s
			},
			rounds: func(w *world) []round {
				var r round
				for _, s := range k.shots {
					r.probes = append(r.probes, probe{name: k.name, from: s.from, to: s.to, frame: s.frame, v6: s.v6, pass: s.pass})
				}
				return []round{r}
			},
		})
	}
	return cases
}

func groupCases() []PacketCase {
	return []PacketCase{
		{"default group", "DefaultGroup: everything out, in from the group's own members, both IP versions.",
			func(w *world) secgroup.State {
				return secgroup.State{
					Groups: []secgroup.Group{secgroup.DefaultGroup("default"), all(both, in, out)},
					Ports:  []secgroup.Port{w.port("a", "default"), w.port("b", "default"), w.port("c", "default"), w.open("d"), w.port("x", both), w.port("y", "default")},
				}
			},
			func(w *world) []round {
				var p []probe
				for _, v6 := range []bool{false, true} {
					p = append(p,
						probe{"member", "a", "b", tcp(80), v6, true}, probe{"member", "b", "a", udp(80), v6, true},
						probe{"member of another host", "c", "a", tcp(22), v6, true}, probe{"member of another host", "a", "c", udp(22), v6, true},
						probe{"stranger", "d", "a", tcp(22), v6, false}, probe{"stranger of another host", "d", "c", tcp(22), v6, false},
						probe{"to a stranger", "a", "d", tcp(22), v6, true},
						// y's group has a's address, which x has too: rules know addresses, not machines.
						probe{"an address is what counts", "x", "y", tcp(22), v6, true},
					)
				}
				return []round{{probes: p}}
			}},
		{"several groups", "What no rule of any of a port's groups allows is dropped; what one allows passes.",
			func(w *world) secgroup.State {
				return secgroup.State{
					Groups: []secgroup.Group{all(both, in, out), group("one", rule(in, ip4, ports("tcp", 80, 80))), group("two", rule(in, ip4, ports("tcp", 443, 443)), rule(in, ip6, ports("tcp", 80, 80)))},
					Ports:  []secgroup.Port{w.port("a", both), w.port("b", "one", "two"), w.port("c", "two")},
				}
			},
			func(w *world) []round {
				return []round{{probes: []probe{
					{"first group", "a", "b", tcp(80), false, true}, {"second group", "a", "b", tcp(443), false, true}, {"second group", "a", "b", tcp(80), true, true},
					{"no group", "a", "b", tcp(22), false, false}, {"the other port", "a", "c", tcp(443), false, true}, {"the other port", "a", "c", tcp(80), false, false},
				}}}
			}},
		{"many rules of one kind", "Rules add up, however many.",
			func(w *world) secgroup.State {
				g := group("g")
				for i := range uint16(300) {
					n := rule(in, ip4, ports("tcp", 1000+3*i, 1000+3*i))
					n.ID = "p" + string(rune('a'+i%26)) + string(rune('a'+i/26))
					m := rule(in, ip4, ports("udp", 5000+i, 5000+i))
					m.ID, m.RemotePrefix = "q"+n.ID, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
					g.Rules = append(g.Rules, n, m)
				}
				return secgroup.State{Groups: []secgroup.Group{all(both, in, out), g}, Ports: []secgroup.Port{w.port("a", both), w.port("b", "g"), w.port("c", both)}}
			},
			func(w *world) []round {
				return []round{{probes: []probe{
					{"first", "a", "b", tcp(1000), false, true}, {"between", "a", "b", tcp(1001), false, false}, {"last", "a", "b", tcp(1897), false, true}, {"after", "a", "b", tcp(1900), false, false},
					{"a's port", "a", "b", udp(5001), false, true}, {"c's port", "a", "b", udp(5003), false, false}, {"c's port", "c", "b", udp(5003), false, true},
				}}}
			}},
		{"closed port", "A port with port security and no groups is closed, but DHCP requests, ARP and ND always pass, as do DHCP answers, ND and RA to the port.",
			func(w *world) secgroup.State {
				return secgroup.State{Ports: []secgroup.Port{w.port("a"), w.port("b"), w.open("d")}}
			},
			func(w *world) []round {
				a, d := w.vms["a"], w.vms["d"]
				llA := func(f lab.Frame) lab.Frame { f.Src = a.ll; return f }
				llD := func(f lab.Frame) lab.Frame { f.Src = d.ll; return f }
				answer := lab.Frame{DstMAC: a.mac, SrcMAC: d.mac, ARP: &lab.ARP{Op: 2, SHA: d.mac, SPA: d.v4, THA: a.mac, TPA: a.v4}}
				return []round{{probes: []probe{
					{"tcp out", "a", "d", tcp(80), false, false}, {"udp out", "a", "d", udp(80), true, false}, {"tcp in", "d", "a", tcp(80), false, false}, {"udp in", "d", "a", udp(80), true, false}, {"between closed ones", "a", "b", icmp(8, 0), false, false},
					{"DHCP request", "a", "d", dst(src(udpFrom(68, 67), "0.0.0.0"), "255.255.255.255"), false, true},
					{"DHCP renewal", "a", "d", udpFrom(68, 67), false, true},
					{"DHCP answer", "d", "a", udpFrom(67, 68), false, true},
					{"DHCPv6 request", "a", "d", llA(dst(udpFrom(546, 547), "ff02::1:2")), true, true},
					{"DHCPv6 answer", "d", "a", llD(udpFrom(547, 546)), true, true},
					{"ARP request out", "a", "d", lab.ARPRequest(a.mac, a.v4, addr("10.0.7.1")), false, true},
					{"ARP request in", "d", "a", lab.ARPRequest(d.mac, d.v4, addr("10.0.7.2")), false, true},
					{"ARP answer in", "d", "a", answer, false, true},
					{"NS out", "a", "d", lab.NeighborSolicitation(a.mac, a.v6, addr("2001:db8::7:1")), true, true},
					{"NS in", "d", "a", lab.NeighborSolicitation(d.mac, d.v6, addr("2001:db8::7:2")), true, true},
					{"NA in", "d", "a", lab.Frame{Proto: lab.ICMPv6, ICMPType: 136, Src: d.v6, Target: d.v6, LinkAddr: d.mac}, true, true},
					{"RS out", "a", "d", llA(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 133, TTL: 255}, "ff02::2")), true, true},
					{"RA in", "d", "a", llD(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 134, TTL: 255}, "ff02::1")), true, true},
					{"MLD query out", "a", "d", llA(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 130, TTL: 1}, "ff02::1")), true, w.limit.RouterAdvertisements},
					{"echo in", "d", "a", icmp6(128, 0), true, false},
				}}}
			}},
		{"multicast", "All else, also multicast and broadcast, is for the rules.",
			func(w *world) secgroup.State {
				return secgroup.State{
					Groups: []secgroup.Group{all(both, in, out), group("m", rule(in, ip4, ports("udp", 5353, 5353)), rule(in, ip6, ports("udp", 5353, 5353)))},
					Ports:  []secgroup.Port{w.port("a", both), w.port("b", "m"), w.port("c", "m"), w.open("d")},
				}
			},
			func(w *world) []round {
				bcast := func(f lab.Frame) lab.Frame { f.DstMAC, f.Dst = lab.BroadcastMAC, addr("255.255.255.255"); return f }
				return []round{{probes: []probe{
					{"allowed group", "a", "b", dst(udp(5353), "239.1.1.1"), false, true}, {"allowed group", "a", "b", dst(udp(5353), "ff0e::fb"), true, true},
					{"other port", "a", "b", dst(udp(5354), "239.1.1.1"), false, false}, {"other port", "a", "b", dst(udp(5354), "ff0e::fb"), true, false},
					{"broadcast allowed", "a", "b", bcast(udp(5353)), false, true}, {"broadcast not allowed", "a", "b", bcast(udp(5354)), false, false},
					{"unfiltered receiver", "a", "d", bcast(udp(5354)), false, true},
					{"another host", "a", "c", dst(udp(5353), "239.1.1.1"), false, true}, {"another host", "a", "c", dst(udp(5354), "239.1.1.1"), false, false},
				}}}
			}},
	}
}

// outOnly lets everything out and nothing in.
func outOnly(w *world) secgroup.State {
	s := secgroup.State{Groups: []secgroup.Group{all("out", out), all(both, in, out)}}
	for _, name := range []string{"a", "c", "x"} {
		s.Ports = append(s.Ports, w.port(name, "out"))
	}
	for _, name := range []string{"b", "y"} {
		s.Ports = append(s.Ports, w.port(name, both))
	}
	return s
}

func connectionCases() []PacketCase {
	return []PacketCase{
		{"replies", "Packets of a connection that was allowed pass in both directions; new ones the other way do not.", outOnly, func(w *world) []round {
			var first, second, third []probe
			for _, v6 := range []bool{false, true} {
				for _, pair := range [][2]string{{"a", "b"}, {"c", "b"}} {
					echo := icmp(8, 0)
					if v6 {
						echo = icmp6(128, 0)
					}
					for _, f := range []lab.Frame{tcp(80), udp(53), echo} {
						p := w.fill(probe{"opens", pair[0], pair[1], f, v6, true})
						first = append(first, p)
						second = append(second, probe{"reply", pair[1], pair[0], reply(p), v6, true})
					}
					third = append(third,
						probe{"new the other way", pair[1], pair[0], tcp(80), v6, false},
						probe{"new the other way", pair[1], pair[0], udp(53), v6, false})
				}
			}
			return []round{{probes: first}, {probes: second}, {probes: third}}
		}},
		{"no reply without a request", "A packet that looks like a reply passes only if there is a connection.", outOnly, func(w *world) []round {
			f := tcp(80)
			f.Flags = lab.SYN | lab.ACK
			return []round{{probes: []probe{{"SYN ACK", "b", "a", f, false, false}, {"echo reply", "b", "a", icmp(0, 0), false, false}, {"echo reply", "b", "a", icmp6(129, 0), true, false}}}}
		}},
		{"related errors", "ICMP errors related to an allowed connection pass; others do not.", outOnly, func(w *world) []round {
			u4, u6 := w.fill(probe{"udp", "a", "b", udp(9), false, true}), w.fill(probe{"udp", "a", "b", udp(9), true, true})
			c4, c6 := w.fill(probe{"udp", "c", "b", tcp(9), false, true}), w.fill(probe{"udp", "c", "b", tcp(9), true, true})
			none4, none6 := w.fill(probe{"never sent", "a", "b", udp(9), false, true}), w.fill(probe{"never sent", "a", "b", udp(9), true, true})
			return []round{
				{probes: []probe{u4, u6, c4, c6}},
				{probes: []probe{
					{"port unreachable", "b", "a", icmpError(u4, 3, 3), false, true}, {"fragmentation needed", "b", "a", icmpError(u4, 3, 4), false, true},
					{"port unreachable, IPv6", "b", "a", icmpError(u6, 1, 4), true, true}, {"packet too big", "b", "a", icmpError(u6, 2, 0), true, true},
					{"to another host", "b", "c", icmpError(c4, 3, 4), false, true}, {"to another host, IPv6", "b", "c", icmpError(c6, 2, 0), true, true},
					{"about nothing", "b", "a", icmpError(none4, 3, 3), false, false}, {"about nothing, IPv6", "b", "a", icmpError(none6, 2, 0), true, false},
				}},
			}
		}},
		{"invalid", "Invalid packets are dropped, whatever the rules.",
			func(w *world) secgroup.State {
				return secgroup.State{Groups: []secgroup.Group{all(both, in, out)}, Ports: []secgroup.Port{w.port("a", both), w.port("b", both), w.port("c", both)}}
			},
			func(w *world) []round {
				ack, fin := tcp(80), tcp(80)
				ack.Flags, fin.Flags = lab.ACK, lab.FIN|lab.ACK
				return []round{{probes: []probe{
					{"from the middle of a stream", "a", "b", ack, false, false}, {"the end of no stream", "a", "b", fin, true, false}, {"from another host", "c", "b", ack, true, false},
					{"a beginning", "a", "b", tcp(80), false, true},
				}}}
			}},
		{"overlapping networks", "Connections of different networks never meet, also when the addresses are the same.", outOnly, func(w *world) []round {
			p := w.fill(probe{"in net1", "a", "b", tcp(80), false, true})
			u := w.fill(probe{"in net1", "a", "b", udp(53), true, true})
			q := w.fill(probe{"in net2", "x", "y", tcp(80), false, true})
			return []round{
				{probes: []probe{p, u}},
				{probes: []probe{{"reply of net1 in net2", "y", "x", reply(p), false, false}, {"reply of net1 in net2", "y", "x", reply(u), true, false}, {"not to the other network", "a", "y", udp(1), false, false}}},
				{probes: []probe{q, {"reply in net1", "b", "a", reply(p), false, true}}},
				{probes: []probe{{"reply in net2", "y", "x", reply(q), false, true}}},
			}
		}},
		{"stateless", "Stateless groups allow packets, not connections: replies need rules of their own.",
			func(w *world) secgroup.State {
				s := secgroup.State{Groups: []secgroup.Group{
					all(both, in, out), all("out", out),
					group("web", rule(in, ip4, ports("tcp", 80, 80))),
					group("full", rule(in, ip4, ports("tcp", 80, 80)), rule(out, ip4, proto("tcp"))),
				}, Ports: []secgroup.Port{w.port("a", "out"), w.port("b", "web"), w.port("c", "full"), w.open("d")}}
				s.Groups[2].Stateless, s.Groups[3].Stateless = true, true
				return s
			},
			func(w *world) []round {
				ab, ac := w.fill(probe{"in", "a", "b", tcp(80), false, true}), w.fill(probe{"in, another host", "a", "c", tcp(80), false, true})
				mid := tcp(80)
				mid.Flags = lab.ACK
				return []round{
					{probes: []probe{ab, ac, {"no rule", "a", "b", tcp(81), false, false}, {"no rule", "a", "b", udp(80), false, false},
						{"from the middle of a stream", "c", "d", mid, false, true}, {"from the middle, in", "d", "b", mid, false, true}}},
					{probes: []probe{
						{"reply without a rule", "b", "a", reply(ab), false, false}, {"reply with a rule, to a stateful port", "c", "a", reply(ac), false, true},
						{"error without a rule", "c", "a", icmpError(ac, 3, 3), false, false},
					}},
				}
			}},
		{"stateless at the opener", "Stateless groups allow packets: the opener's replies need a rule too.",
			func(w *world) secgroup.State {
				s := secgroup.State{Groups: []secgroup.Group{all(both, in, out), all("so", out), group("back", rule(in, ip4, ports("tcp", 20000, 65535)))},
					Ports: []secgroup.Port{w.port("a", "so"), w.port("b", both), w.port("c", "so", "back")}}
				s.Groups[1].Stateless, s.Groups[2].Stateless = true, true
				return s
			},
			func(w *world) []round {
				ab, cb := w.fill(probe{"out", "a", "b", tcp(80), false, true}), w.fill(probe{"out, another host", "c", "b", tcp(80), false, true})
				return []round{{probes: []probe{ab, cb}}, {probes: []probe{{"reply without a rule", "b", "a", reply(ab), false, false}, {"reply with a rule", "b", "c", reply(cb), false, true}}}}
			}},
		{"stateless beside stateful", "A packet that a stateless rule allows opens no connection, even when a stateful rule would allow it too; other packets of the port open connections.",
			func(w *world) secgroup.State {
				s := secgroup.State{Groups: []secgroup.Group{all(both, in, out), all("out", out), group("less", rule(out, ip4, ports("udp", 53, 53)))},
					Ports: []secgroup.Port{w.port("a", "out", "less"), w.port("b", both), w.port("c", both)}}
				s.Groups[2].Stateless = true
				return s
			},
			func(w *world) []round {
				less, ful := w.fill(probe{"stateless", "a", "b", udp(53), false, true}), w.fill(probe{"stateful", "a", "b", udp(54), false, true})
				ful6, far := w.fill(probe{"stateful", "a", "b", udp(53), true, true}), w.fill(probe{"stateful", "a", "c", tcp(80), false, true})
				return []round{{probes: []probe{less, ful, ful6, far}}, {probes: []probe{
					{"reply", "b", "a", reply(less), false, false}, {"reply", "b", "a", reply(ful), false, true}, {"reply", "b", "a", reply(ful6), true, true}, {"reply", "c", "a", reply(far), false, true},
				}}}
			}},
	}
}
