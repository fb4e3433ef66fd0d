package secgrouptest

import (
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// removalCases take away what allows one connection and leave another.
func removalCases() []PacketCase {
	web := rule(in, ip4, ports("tcp", 80, 80))
	ssh := rule(in, ip4, ports("tcp", 22, 22))
	dns := rule(in, ip4, ports("udp", 53, 53))
	ssh6 := rule(in, ip6, ports("tcp", 22, 22))
	web6 := rule(in, ip6, ports("tcp", 80, 80))
	from := func(r secgroup.Rule, f func(*secgroup.Rule)) secgroup.Rule { f(&r); return r }

	base := func(w *world, groups []secgroup.Group, b secgroup.Port) secgroup.State {
		return secgroup.State{
			Groups:        append([]secgroup.Group{all(both, in, out)}, groups...),
			AddressGroups: []secgroup.AddressGroup{{ID: "ag", Prefixes: []netip.Prefix{prefix("10.0.0.1/32"), prefix("10.0.0.3/32")}}},
			Ports:         []secgroup.Port{w.port("a", both), b, w.port("c", both)},
		}
	}
	// cut opens every connection, takes something away, and sends on each in
	// both directions: those marked ends must be cut, the others flow on.
	// Under [Limits.OpenerEnds] the opener sends first.
	type conn struct {
		from, to string
		frame    lab.Frame
		v6, ends bool
	}
	cut := func(take func(w *world), conns ...conn) func(w *world) []round {
		return func(w *world) []round {
			var open, answer, data, later, back []probe
			for _, c := range conns {
				p := w.fill(probe{"opens", c.from, c.to, c.frame, c.v6, true})
				open = append(open, p)
				r := probe{"answers", c.to, c.from, reply(p), c.v6, true}
				answer = append(answer, r)
				more := p.frame
				more.Payload = nil
				if more.Proto == lab.TCP {
					more.Flags, more.Seq, more.Ack = lab.ACK|lab.PSH, p.frame.Seq+1+uint32(len(p.frame.Payload)), 5001+12
				}
				data = append(data, probe{"more", c.from, c.to, more, c.v6, true})
				if more.Proto == lab.TCP {
					more.Seq += 12
				}
				later = append(later, probe{"afterwards", c.from, c.to, more, c.v6, !c.ends})
				b := r.frame
				b.Payload = nil
				if b.Proto == lab.TCP {
					b.Flags, b.Seq, b.Ack = lab.ACK|lab.PSH, 5001+12, more.Seq
				}
				back = append(back, probe{"afterwards, back", c.to, c.from, b, c.v6, !c.ends})
			}
			if w.limit.OpenerEnds {
				return []round{{probes: open}, {probes: answer}, {probes: data}, {do: take}, {probes: later}, {probes: back}}
			}
			return []round{{probes: open}, {probes: answer}, {probes: data}, {do: take}, {probes: back}, {probes: later}}
		}
	}
	const says = "When a rule, group, member or address goes, connections that only it allowed end at once, and no others."
	return []PacketCase{
		{"rule removed", says,
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", web, ssh, dns, web6, ssh6)}, w.port("b", "g"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error {
					return e.EnsureGroup(w.ctx, group("g", ssh, ssh6))
				})
			},
				conn{"a", "b", tcp(80), false, true}, conn{"a", "b", tcp(22), false, false}, conn{"a", "b", udp(53), false, true},
				conn{"c", "b", tcp(80), false, true}, conn{"c", "b", tcp(22), false, false}, conn{"a", "b", tcp(80), true, true}, conn{"c", "b", tcp(22), true, false})},
		{"rule removed, another allows it", says,
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", web, ssh), group("h", rule(in, ip4, ports("tcp", 70, 90)))}, w.port("b", "g", "h"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error { return e.EnsureGroup(w.ctx, group("g", ssh)) })
			}, conn{"a", "b", tcp(80), false, false}, conn{"c", "b", tcp(80), false, false}, conn{"a", "b", tcp(22), false, false})},
		{"egress rule removed", says,
			func(w *world) secgroup.State {
				s := base(w, []secgroup.Group{group("g", rule(out, ip4, ports("tcp", 80, 80)), rule(out, ip4, ports("tcp", 22, 22)))}, w.port("b", both))
				s.Ports[0] = w.port("a", "g")
				return s
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error {
					return e.EnsureGroup(w.ctx, group("g", rule(out, ip4, ports("tcp", 22, 22))))
				})
			}, conn{"a", "b", tcp(80), false, true}, conn{"a", "c", tcp(80), false, true}, conn{"a", "b", tcp(22), false, false}, conn{"a", "c", tcp(22), false, false})},
		{"group taken from a port", says,
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", web), group("h", ssh)}, w.port("b", "g", "h"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error { return e.EnsurePort(w.ctx, w.port("b", "h")) })
			}, conn{"a", "b", tcp(80), false, true}, conn{"c", "b", tcp(80), false, true}, conn{"a", "b", tcp(22), false, false}, conn{"c", "b", tcp(22), false, false})},
		{"member left a remote group", says,
			func(w *world) secgroup.State {
				s := base(w, []secgroup.Group{group("m"), group("g", from(web, func(r *secgroup.Rule) { r.RemoteGroup = "m" }), ssh)}, w.port("b", "g"))
				s.Ports[0], s.Ports[2] = w.port("a", both, "m"), w.port("c", both, "m")
				return s
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error { return e.EnsurePort(w.ctx, w.port("c", both)) })
			}, conn{"a", "b", tcp(80), false, false}, conn{"c", "b", tcp(80), false, true}, conn{"c", "b", tcp(22), false, false})},
		{"prefix left an address group", says,
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", from(web, func(r *secgroup.Rule) { r.RemoteAddressGroup = "ag" }))}, w.port("b", "g"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error {
					return e.EnsureAddressGroup(w.ctx, secgroup.AddressGroup{ID: "ag", Prefixes: []netip.Prefix{prefix("10.0.0.3/32")}})
				})
			}, conn{"a", "b", tcp(80), false, true}, conn{"c", "b", tcp(80), false, false})},
		{"rule narrowed", says,
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", rule(in, ip4, proto("tcp")))}, w.port("b", "g"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error {
					return e.EnsureGroup(w.ctx, group("g", rule(in, ip4, ports("tcp", 80, 80))))
				})
			}, conn{"a", "b", tcp(80), false, false}, conn{"c", "b", tcp(81), false, true})},
		{"address taken from a port", says,
			func(w *world) secgroup.State { return base(w, nil, w.port("b", both)) },
			cut(func(w *world) {
				p := w.port("b", both)
				p.FixedIPs = slices.DeleteFunc(slices.Clone(p.FixedIPs), netip.Addr.Is6)
				w.each(func(e *secgroup.Enforcer) error { return e.EnsurePort(w.ctx, p) })
			}, conn{"b", "a", tcp(80), true, true}, conn{"b", "a", tcp(80), false, false}, conn{"a", "b", tcp(80), false, false})},
		{"port security switched on", says,
			func(w *world) secgroup.State {
				s := base(w, []secgroup.Group{group("g", ssh)}, w.open("b"))
				return s
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error { return e.EnsurePort(w.ctx, w.port("b", "g")) })
			}, conn{"a", "b", tcp(80), false, true}, conn{"a", "b", tcp(22), false, false})},
		{"sync with less", "The same by Sync: what the new state does not allow ends, the rest flows on.",
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", web, ssh, dns)}, w.port("b", "g"))
			},
			cut(func(w *world) {
				w.sync(base(w, []secgroup.Group{group("g", ssh, dns)}, w.port("b", "g")))
			}, conn{"a", "b", tcp(80), false, true}, conn{"a", "b", tcp(22), false, false}, conn{"c", "b", tcp(22), false, false}, conn{"c", "b", udp(53), false, false})},
		{"until the opener speaks", "When what allowed a connection goes, it ends at once; or, where that is a limit, with the next packet of who opened it.",
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", dns)}, w.port("b", "g"))
			},
			func(w *world) []round {
				var open, answer, later, back []probe
				for _, from := range []string{"a", "c"} {
					p := w.fill(probe{"opens", from, "b", udp(53), false, true})
					open = append(open, p)
					r := probe{"answers", "b", from, reply(p), false, true}
					answer = append(answer, r)
					r.frame.Payload, p.frame.Payload = nil, nil
					r.pass, p.pass = w.limit.OpenerEnds, false
					later, back = append(later, p), append(back, r)
				}
				closed := slices.Clone(back)
				for i := range closed {
					closed[i].pass = false
				}
				return []round{{probes: open}, {probes: answer},
					{do: func(w *world) {
						w.each(func(e *secgroup.Enforcer) error { return e.EnsureGroup(w.ctx, group("g")) })
					}, probes: back}, {probes: later}, {probes: closed}}
			}},
		{"something added", "Adding ends no connection.",
			func(w *world) secgroup.State {
				return base(w, []secgroup.Group{group("g", web)}, w.port("b", "g"))
			},
			cut(func(w *world) {
				w.each(func(e *secgroup.Enforcer) error { return e.EnsureGroup(w.ctx, group("g", web, ssh, ssh6)) })
			}, conn{"a", "b", tcp(80), false, false}, conn{"c", "b", tcp(80), false, false})},
	}
}
