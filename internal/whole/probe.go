package whole

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router"
)

// probe is a frame on its way.
type probe struct {
	what  string
	from  *machine
	k     reach.Packet // that it is, or that it answers
	v     reach.Verdict
	frame lab.Frame // but for DstMAC
	tag   uint32
	hop   netip.Addr // whom the machine hands it to; invalid: it has no route
	// want is how a machine must get it, and at which; nil: none must.
	want *reach.Arrival
	at   string
	seen *lab.Frame
	// hairpin: it, or what it answers, is from inside to a floating IP.
	hairpin bool
	// routed: it, or what it answers, has passed a router. routedIn: it answers what came from outside to a fixed address.
	routed, routedIn bool
}

// everyWay is a packet from everybody to every address, and to what is forwarded.
func everyWay(w reach.World) (out []reach.Packet) {
	for i, from := range reachtest.Senders(w) {
		for j, to := range reachtest.Addresses(w) {
			k := reach.Packet{From: from, Dst: to, SrcPort: 1, DstPort: reachtest.Ports[(i+j)%len(reachtest.Ports)]}
			switch (i + j) % 4 {
			case 0:
				k.Proto = reach.TCP
			case 1:
				k.Proto = reach.UDP
			case 2:
				k.Proto, k.Middle = reach.TCP, j%3 == 0
			default:
				k.Proto, k.ICMPType, k.SrcPort, k.DstPort = reach.ICMP, 8, 0, 0
				if to.Is6() {
					k.Proto, k.ICMPType = reach.ICMPv6, 128
				}
			}
			out = append(out, k)
		}
		for _, f := range w.Router.PortForwards {
			for _, proto := range []uint8{reach.TCP, reach.UDP} {
				out = append(out, reach.Packet{From: from, Dst: f.ExternalIP, Proto: proto, SrcPort: 1, DstPort: f.ExternalPort.First + uint16(i)%3})
			}
		}
	}
	return out
}

// probe is the first packet of a connection that is like no other.
func (c *cloud) probe(k reach.Packet) *probe {
	p := &probe{what: "packet", from: c.machines[k.From], tag: tags.Add(1)}
	if k.SrcPort != 0 {
		k.SrcPort = uint16(20000 + p.tag%40000)
	}
	if k.Proto == 47 && !(k.From == "p0" && c.neighbourly(k)) {
		// Without ports there is one connection between two addresses: who has
		// answered may not open one. p0 is asked by nobody, and has the same
		// number on whatever network it is.
		k.Proto, k.SrcPort, k.DstPort = reach.UDP, uint16(20000+p.tag%40000), 80
	}
	hop, src, err := c.m.Route(k.From, k.Dst)
	if err == nil {
		p.hop = hop
	}
	if !k.Src.IsValid() {
		k.Src = src
	}
	p.k, p.v = k, c.m.Send(k)
	p.routed = p.passedOn()
	p.hairpin = !p.from.station() && p.passes("floating IP ")
	p.frame = lab.Frame{SrcMAC: k.SrcMAC, Src: k.Src, Dst: k.Dst, Proto: k.Proto, SrcPort: k.SrcPort, DstPort: k.DstPort, Flags: lab.SYN, Seq: 1000,
		ICMPType: k.ICMPType, ICMPCode: k.ICMPCode, ICMPID: uint16(p.tag), ICMPSeq: 1, TTL: k.TTL, Payload: payload(p.tag)}
	if k.SrcMAC.IsZero() {
		p.frame.SrcMAC = p.from.hardware()
	}
	if k.Middle {
		p.frame.Flags = lab.ACK
	}
	if p.want = heard(p.v); p.want != nil {
		p.at = c.machines[p.want.ID].name
	}
	return p
}

// heard is how a machine hears of a packet: it gets it, or sent it and gets the
// answer of a router. nil: none does.
func heard(v reach.Verdict) *reach.Arrival {
	if v.OK() && v.Arrivals[0].Kind == "router" {
		v = v.Reply()
	}
	if !v.OK() || v.Arrivals[0].Kind == "router" {
		return nil
	}
	return &v.Arrivals[0]
}

// neighbourly reports whether k stays on its sender's network.
func (c *cloud) neighbourly(k reach.Packet) bool {
	p := byID(c.was.Overlay.Ports, k.From, portID)
	for _, s := range byID(c.was.Overlay.Networks, p.NetworkID, netID).Subnets {
		if s.CIDR.Contains(k.Dst) {
			return true
		}
	}
	return false
}

// answered reports whether the machine that got p is to answer: who gets what
// is not for it does not, and what came from another's address would be
// answered to somebody who has not asked.
func (c *cloud) answered(p *probe) bool {
	if p.seen == nil || p.v.Arrivals[0].Kind == "router" || p.want.Foreign || p.k.Middle {
		return false
	}
	from, to := byID(c.was.Overlay.Ports, p.k.From, portID), byID(c.was.Overlay.Ports, p.want.ID, portID)
	if _, src, err := c.m.Route(p.k.From, p.k.Dst); err != nil || src != p.k.Src || !p.k.SrcMAC.IsZero() {
		return false
	}
	if c.Limits.Shortcuts && from != nil && to != nil && from.NetworkID == to.NetworkID && p.seen.Src == p.k.Src && p.seen.SrcMAC != p.frame.SrcMAC {
		c.left["shortcuts"]++
		return false
	}
	return true
}

// answer is what the machine that p came to says to whom it seems to come
// from: the answer, or, to every other UDP packet, that nobody is there.
func (c *cloud) answer(p *probe) *probe {
	r := &probe{what: "answer", from: c.machines[p.want.ID], k: p.k, tag: tags.Add(1), hairpin: p.hairpin,
		routedIn: p.seen.Dst == p.k.Dst && p.passes("network "+reachtest.External)}
	if hop, _, err := c.m.Route(p.want.ID, p.seen.Src); err == nil {
		r.hop = hop
	}
	f := *p.seen
	r.frame = lab.Frame{SrcMAC: r.from.hardware(), Src: f.Dst, Dst: f.Src}
	switch {
	case f.Proto == lab.UDP && p.tag%2 == 0:
		r.what, r.v = "refusal", p.v.Unreachable()
		r.frame.ICMPID, r.frame.ICMPSeq = uint16(r.tag>>16), uint16(r.tag)
		r.frame.Proto, r.frame.ICMPType, r.frame.ICMPCode, r.frame.Payload = lab.ICMP, 3, 3, f.IPBytes()
		if f.Src.Is6() {
			r.frame.Proto, r.frame.ICMPType, r.frame.ICMPCode = lab.ICMPv6, 1, 4
		}
	default:
		r.v = p.v.Reply()
		r.frame.Proto, r.frame.SrcPort, r.frame.DstPort, r.frame.Payload = f.Proto, f.DstPort, f.SrcPort, payload(r.tag)
		r.frame.ICMPID, r.frame.ICMPSeq, r.frame.ICMPCode = f.ICMPID, f.ICMPSeq, f.ICMPCode
		switch f.Proto {
		case lab.TCP:
			r.frame.Flags, r.frame.Seq, r.frame.Ack = lab.SYN|lab.ACK, 5000, f.Seq+1+uint32(len(f.Payload))
		case lab.ICMPv6:
			r.frame.ICMPType = 129
		}
	}
	r.routed = p.routed || r.passedOn()
	if r.v.OK() && r.v.Arrivals[0].Kind != "router" {
		r.want = &r.v.Arrivals[0]
		r.want.AnySrcPort = false // whoever asked hears from whom it asked
		r.at = c.machines[r.want.ID].name
	}
	return r
}

const (
	// settled is how long after the last expected frame an unwanted one may come.
	settled = 60 * time.Millisecond
	// again is how long a machine waits before it sends again, and patience how
	// often it does.
	again    = 300 * time.Millisecond
	patience = 20 * time.Second
)

// send sends them all, and says what went otherwise than the model says.
func (c *cloud) send(probes []*probe) error {
	missing := func(p *probe) bool { return p.want != nil && p.seen == nil }
	for first, end := true, time.Now().Add(patience); ; first = false {
		if err := c.resolve(probes, missing); err != nil {
			return err
		}
		for _, p := range probes {
			if (first || missing(p)) && !p.frame.DstMAC.IsZero() {
				p.from.send(p.frame)
			}
		}
		for stop := time.Now().Add(again); time.Now().Before(stop) && slices.ContainsFunc(probes, missing); time.Sleep(time.Millisecond) {
			for _, p := range probes {
				if missing(p) {
					p.seen = c.arrived(p)
				}
			}
		}
		if !slices.ContainsFunc(probes, missing) || time.Now().After(end) {
			break
		}
	}
	// What must not arrive is sent again when all know their neighbours.
	for _, p := range probes {
		if p.want == nil && !p.frame.DstMAC.IsZero() && !(c.Limits.SYNOnce && p.frame.Proto == lab.TCP) {
			p.from.send(p.frame)
		}
	}
	time.Sleep(settled)
	var err error
	for _, p := range probes {
		why := c.judge(p)
		c.compared++
		if why == "" {
			c.matched++
			continue
		}
		if p.v.OK() && p.v.Arrivals[0].Kind == "router" {
			why += "\nits answer " + p.v.Reply().Explain().String()
		}
		if err == nil {
			err = fmt.Errorf("%s, %s of %s: %s: %s\n%s", p.k, p.what, p.from.id, p.frame, why, p.v.Explain())
		}
	}
	return err
}

// resolve finds the neighbours that frames are handed to, as machines do, by
// asking. Who may not even ask sends to whom it would find, which tells more
// than sending nothing.
func (c *cloud) resolve(probes []*probe, missing func(*probe) bool) error {
	type question struct {
		from *machine
		hop  netip.Addr
	}
	asked := map[question]bool{}
	for _, p := range probes {
		if q := (question{p.from, p.hop}); p.hop.IsValid() && !asked[q] {
			asked[q] = true
			if _, ok := p.from.neighbour(p.hop); !ok {
				p.from.ask(p.hop)
			}
		}
	}
	unknown := func(p *probe) bool {
		_, ok := p.from.neighbour(p.hop)
		return !ok && missing(p)
	}
	for stop := time.Now().Add(again); time.Now().Before(stop) && slices.ContainsFunc(probes, unknown); {
		time.Sleep(time.Millisecond)
	}
	for _, p := range probes {
		if !p.hop.IsValid() {
			continue
		}
		is, known := c.holders(p.from.id)[p.hop]
		mac, ok := p.from.neighbour(p.hop)
		switch {
		case ok && !known:
			return fmt.Errorf("%s: %s answers for %s, which nobody has", p.from.id, mac, p.hop)
		case ok && mac != is:
			return fmt.Errorf("%s: %s answers for %s, which is at %s", p.from.id, mac, p.hop, is)
		case ok || !missing(p):
			p.frame.DstMAC = is // zero: nobody's
		}
	}
	return nil
}

// holders are the MACs of all who have an address on a machine's network.
func (c *cloud) holders(id string) map[netip.Addr]vnet.MAC {
	out := map[netip.Addr]vnet.MAC{}
	network := reachtest.External
	if p := byID(c.was.Overlay.Ports, id, portID); p != nil {
		network = p.NetworkID
	}
	add := func(n string, mac vnet.MAC, as ...netip.Addr) {
		for _, a := range as {
			if n == network {
				out[a] = mac
			}
		}
	}
	for _, p := range c.was.Overlay.Ports {
		add(p.NetworkID, p.MAC, has(c.was, p)...)
	}
	for _, s := range c.was.Stations {
		add(s.NetworkID, s.MAC, addresses(s.Addresses)...)
	}
	for _, r := range c.was.Router.Routers {
		if r.AdminDown {
			continue
		}
		for _, i := range r.Interfaces {
			add(i.NetworkID, i.MAC, addresses(i.Addresses)...)
		}
		if g := r.Gateway; g != nil {
			add(g.NetworkID, g.MAC, addresses(g.Addresses)...)
			for _, f := range c.was.Router.FloatingIPs {
				if f.RouterID == r.ID {
					add(g.NetworkID, g.MAC, f.FloatingIP)
				}
			}
			for _, f := range c.was.Router.PortForwards {
				if f.RouterID == r.ID {
					add(g.NetworkID, g.MAC, f.ExternalIP)
				}
			}
		}
	}
	return out
}

// arrived finds p where it must arrive.
func (c *cloud) arrived(p *probe) *lab.Frame {
	for _, x := range c.ear.heard(p.tag) {
		if x.at == p.at {
			return &x.frame
		}
	}
	return nil
}

// judge compares what has come of p with what must.
func (c *cloud) judge(p *probe) string {
	if p.want != nil && p.seen == nil {
		if _, ok := p.from.neighbour(p.hop); !ok {
			return fmt.Sprintf("nobody answers for %s", p.hop)
		}
		return "does not arrive at " + p.at
	}
	for _, x := range c.ear.heard(p.tag) {
		if p.want == nil || p.at != x.at {
			return fmt.Sprintf("arrives at %s as %s", x.at, x.frame)
		}
		f := x.frame
		switch {
		case p.v.Arrivals[0].Kind == "router":
			f.TTL = p.want.Packet.TTL // with which a router begins is its business
		case p.hairpin && c.limited(router.LimitHairpinTTL) && f.TTL == p.want.Packet.TTL-1:
			f.TTL++
		}
		if why := unlike(p.want, f, x.quoted); why != "" {
			return fmt.Sprintf("arrives at %s as %s: %s", x.at, x.frame, why)
		}
	}
	return ""
}

// unlike says in what a frame is not as the model says.
func unlike(a *reach.Arrival, f lab.Frame, quoted *lab.Frame) string {
	k := a.Packet
	var out []string
	differ := func(what string, want, got any) {
		if want != got {
			out = append(out, fmt.Sprintf("%s is %v, not %v", what, got, want))
		}
	}
	differ("source MAC", k.SrcMAC, f.SrcMAC)
	differ("source", k.Src, f.Src)
	differ("destination", k.Dst, f.Dst)
	differ("protocol", k.Proto, f.Proto)
	if !a.AnySrcPort {
		differ("source port", k.SrcPort, f.SrcPort)
	}
	differ("destination port", k.DstPort, f.DstPort)
	differ("ICMP type", k.ICMPType, f.ICMPType)
	differ("TTL", k.TTL, f.TTL)
	if (k.About != nil) != (quoted != nil) {
		return "one quotes a packet and the other does not"
	}
	if q := k.About; q != nil {
		differ("quoted source", q.Src, quoted.Src)
		differ("quoted destination", q.Dst, quoted.Dst)
		differ("quoted source port", q.SrcPort, quoted.SrcPort)
		differ("quoted destination port", q.DstPort, quoted.DstPort)
	}
	return strings.Join(out, ", ")
}
