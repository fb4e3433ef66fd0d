package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// maxHops ends packets that routers hand each other for ever, beside the TTL.
const maxHops = 16

// Send says what becomes of the first packet of a connection.
func (m *Model) Send(k Packet) Verdict {
	w := m.walk()
	w.leave(k)
	if !w.v.OK() && len(w.v.Drops) == 0 {
		w.drop("network", k.From, "nobody there takes it")
	}
	return w.v
}

// Reply says what becomes of the answer to a packet that arrived at a machine
// or a router's own address: by the same connection, to whom it seemed to come
// from. For ICMP echo it is the echo reply; for the rest the same protocol with
// ports swapped. OK of the result means that the sender gets it as the answer
// to what it sent.
func (v Verdict) Reply() Verdict { return v.back(false) }

// Unreachable says what becomes of an ICMP error about a packet that arrived
// at a machine: port unreachable (RFC 792; RFC 4443, 3.1), from the machine to
// whom the packet seemed to come from. It passes where the packet made a
// connection, is translated as replies are, and the packet inside it too.
func (v Verdict) Unreachable() Verdict { return v.back(true) }

func (v Verdict) back(refused bool) Verdict {
	if !v.OK() {
		return Verdict{Drops: []Drop{{"sender", "nobody", "nothing arrived that could be answered"}}, m: v.m}
	}
	a := v.Arrivals[0]
	if a.Foreign {
		return Verdict{Drops: []Drop{{"sender", a.Kind + " " + a.ID, a.Packet.Dst.String() + " is not its address"}}, m: v.m}
	}
	if !a.Packet.isIP() || a.Packet.DstMAC[0]&1 == 1 {
		return Verdict{Drops: []Drop{{"sender", a.Kind + " " + a.ID, "what is sent to a group, or is not IP, has no answer of its connection"}}, m: v.m}
	}
	k := Packet{From: a.ID, Src: a.Packet.Dst, Dst: a.Packet.Src, Proto: a.Packet.Proto, SrcPort: a.Packet.DstPort, DstPort: a.Packet.SrcPort, Middle: a.Packet.Proto == TCP}
	switch {
	case refused:
		about := a.Packet
		k = Packet{From: a.ID, Src: k.Src, Dst: k.Dst, Proto: ICMP, ICMPType: 3, ICMPCode: 3, About: &about}
		if k.Dst.Is6() {
			k.Proto, k.ICMPType, k.ICMPCode = ICMPv6, 1, 4
		}
	case k.Proto == ICMP && a.Packet.ICMPType == 8:
		k.ICMPType = 0
	case k.Proto == ICMPv6 && a.Packet.ICMPType == 128:
		k.ICMPType = 129
	default:
		k.ICMPType, k.ICMPCode = a.Packet.ICMPType, a.Packet.ICMPCode
	}
	w := v.m.walk()
	w.reply, w.v.conn = true, v.conn
	if a.Kind == "router" || a.Kind == "metadata" {
		w.leaveService(a, k)
	} else {
		w.leave(k)
	}
	return w.v
}

// Connect says whether a connection comes about: the packet arrives, and its
// answer comes back to the sender, from the address that it was sent to.
func (m *Model) Connect(k Packet) (there, back Verdict, ok bool) {
	there = m.Send(k)
	if !there.OK() {
		return there, back, false
	}
	back = there.Reply()
	if !back.OK() {
		return there, back, false
	}
	a := back.Arrivals[0]
	sent := m.filled(k)
	return there, back, a.ID == k.From && a.Packet.Src == sent.Dst && a.Packet.Dst == sent.Src && a.Packet.SrcPort == sent.DstPort
}

// filled is k with the source address the sender would take.
func (m *Model) filled(k Packet) Packet {
	if !k.Src.IsValid() && k.Dst.IsValid() {
		if s, ok := m.sender(k.From); ok {
			k.Src = s.source(k.Dst)
		}
	}
	if k.TTL == 0 {
		k.TTL = 64
	}
	return k
}

// walk is one packet's way.
type walk struct {
	m     *Model
	v     Verdict
	reply bool
	hops  int
	// flooded: the frame is on its way to a MAC that nobody is known by.
	flooded bool
}

func (m *Model) walk() *walk {
	return &walk{m: m, v: Verdict{m: m, conn: &conn{map[string]seen{}, map[string]xlate{}}}}
}

func (w *walk) note(stage, object, text string) {
	w.v.Walk = append(w.v.Walk, Step{stage, object, text})
}

func (w *walk) drop(stage, object, format string, args ...any) {
	w.v.Drops = append(w.v.Drops, Drop{stage, object, fmt.Sprintf(format, args...)})
}

// machine is a port or station as a host on a network.
type machine struct {
	endpoint
	network string
	onLink  []netip.Prefix
	routes  []router.Route
	gateway []netip.Addr
	port    *overlay.Port
}

func (m *Model) sender(id string) (machine, bool) {
	if s := m.stations[id]; s != nil {
		x := machine{endpoint: endpoint{kind: "station", id: s.ID, mac: s.MAC, host: s.Host, ips: addrs(s.Addresses)}, network: s.NetworkID, gateway: s.Gateways, routes: s.Routes}
		for _, p := range s.Addresses {
			x.onLink = append(x.onLink, p.Masked())
		}
		return x, true
	}
	p := m.ports[id]
	if p == nil {
		return machine{}, false
	}
	x := machine{endpoint: endpoint{kind: "port", id: p.ID, mac: p.MAC, host: p.Host, ips: m.answers(p)}, network: p.NetworkID, port: p}
	for _, s := range m.nets[p.NetworkID].Subnets {
		if !slices.ContainsFunc(p.FixedIPs, s.CIDR.Contains) {
			continue
		}
		x.onLink = append(x.onLink, s.CIDR)
		switch {
		case s.CIDR.Addr().Is6() && m.advertised(p.NetworkID).IsValid():
			x.gateway = append(x.gateway, m.advertised(p.NetworkID))
		case s.Gateway.IsValid():
			x.gateway = append(x.gateway, s.Gateway)
		}
		for _, sc := range m.w.DHCP.Scopes {
			if sc.NetworkID == p.NetworkID && sc.Subnet == s.CIDR {
				for _, r := range sc.Routes {
					x.routes = append(x.routes, router.Route{Destination: r.Destination, NextHop: r.NextHop})
				}
			}
		}
	}
	return x, true
}

// advertised is the link-local address of a router that advertises itself on a network.
func (m *Model) advertised(network string) netip.Addr {
	for _, r := range m.w.Router.Routers {
		for _, i := range r.Interfaces {
			if i.NetworkID == network && i.RA != nil && !r.AdminDown {
				return i.MAC.LinkLocal()
			}
		}
	}
	return netip.Addr{}
}

// source is the address a machine sends from: its first of the destination's
// family, link-local to link-local ones (RFC 6724, rule 2).
func (x machine) source(dst netip.Addr) netip.Addr {
	if dst.Is6() && (dst.IsLinkLocalUnicast() || dst.IsLinkLocalMulticast()) {
		return x.mac.LinkLocal()
	}
	for _, a := range x.ips {
		if a.Is4() == dst.Is4() {
			return a
		}
	}
	if dst.Is6() {
		return x.mac.LinkLocal()
	}
	return netip.IPv4Unspecified()
}

// next is the neighbour a machine hands a packet to.
func (x machine) next(dst netip.Addr) (netip.Addr, bool) {
	if dst.IsLinkLocalUnicast() && dst.Is6() {
		return dst, true
	}
	best, hop, found := -1, netip.Addr{}, false
	for _, p := range x.onLink {
		if p.Contains(dst) && p.Bits() > best {
			best, hop, found = p.Bits(), dst, true
		}
	}
	for _, r := range x.routes {
		if r.Destination.Contains(dst) && r.Destination.Bits() > best {
			best, hop, found = r.Destination.Bits(), r.NextHop, true
			if !r.NextHop.IsValid() || r.NextHop.IsUnspecified() {
				hop = dst
			}
		}
	}
	if found {
		return hop, true
	}
	for _, g := range x.gateway {
		if g.Is4() == dst.Is4() {
			return g, true
		}
	}
	return netip.Addr{}, false
}

var broadcastMAC = vnet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// groupMAC is the MAC that broadcast and multicast addresses are sent to (RFC
// 1112, 6.4; RFC 2464, 7); zero for unicast ones.
func (x machine) groupMAC(dst netip.Addr) vnet.MAC {
	switch {
	case dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		slices.ContainsFunc(x.onLink, func(p netip.Prefix) bool { return isBroadcast(p, dst) }):
		return broadcastMAC
	case dst.IsMulticast() && dst.Is4():
		b := dst.As4()
		return vnet.MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	case dst.IsMulticast():
		b := dst.As16()
		return vnet.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
	}
	return vnet.MAC{}
}

// isBroadcast reports whether a is the broadcast address of an IPv4 subnet.
func isBroadcast(p netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || p.Bits() > 30 || !p.Contains(a) {
		return false
	}
	b := a.As4()
	for i := p.Bits(); i < 32; i++ {
		if b[i/8]&(0x80>>(i%8)) == 0 {
			return false
		}
	}
	return true
}

// leave takes a packet from a port or station onto its network.
func (w *walk) leave(k Packet) {
	x, ok := w.m.sender(k.From)
	if !ok {
		w.drop("sender", k.From, "there is no such port or station")
		return
	}
	k = w.m.filled(k)
	if k.SrcMAC.IsZero() {
		k.SrcMAC = x.mac
	}
	n := w.m.nets[x.network]
	var hop netip.Addr
	if k.EtherType != 0 && k.DstMAC.IsZero() {
		w.drop("sender", x.name(), "a frame that is not IP needs a destination MAC")
		return
	}
	if k.isIP() && k.DstMAC.IsZero() {
		k.DstMAC = x.groupMAC(k.Dst)
	}
	if k.isIP() && k.DstMAC.IsZero() {
		if w.m.service(n, k.Dst) { // the route to it by option 121, or the gateway's
			hop = k.Dst
		} else if hop, ok = x.next(k.Dst); !ok {
			w.drop("sender", x.name(), "it has no route to %s", k.Dst)
			return
		}
	}
	if p := x.port; p != nil && !w.fromPort(p, k) {
		return
	}
	w.onto(n, x.endpoint, k, hop)
}

// service reports whether a metadata endpoint of the network itself has an address.
func (m *Model) service(n *overlay.Network, a netip.Addr) bool {
	return slices.Contains(metadataAddrs, a) && slices.ContainsFunc(m.at[n.ID], func(e endpoint) bool { return e.kind == "metadata" })
}

// fromPort is what stands between a machine and its network.
func (w *walk) fromPort(p *overlay.Port, k Packet) bool {
	name := "port " + p.ID
	if !w.carries(p) {
		return false
	}
	s := w.m.secured[p.ID]
	switch {
	case s == nil && p.Filtered:
		w.drop("port security", name, "it wants filtering and has not been filled")
		return false
	case s == nil:
		w.note("egress rules", name, "it is not filtered")
		return true
	case s.DisablePortSecurity:
		w.note("port security", name, "disabled")
		return true
	}
	if why := spoofed(s, k); why != "" {
		w.drop("port security", name, "%s", why)
		return false
	}
	if k.ARP != nil {
		return true
	}
	return w.judge(s, secgroup.Egress, k, k.Dst)
}

func (w *walk) carries(p *overlay.Port) bool {
	if p.AdminDown {
		w.drop("network", "port "+p.ID, "it is down")
		return false
	}
	if w.m.nets[p.NetworkID].AdminDown {
		w.drop("network", "network "+p.NetworkID, "it is down")
		return false
	}
	return true
}

// judge applies the rules of a port with security, or its connections.
func (w *walk) judge(p *secgroup.Port, d secgroup.Direction, k Packet, remote netip.Addr) bool {
	stage, name := string(d)+" rules", "port "+p.ID
	if why, ok := always(k, d); ok {
		w.note(stage, name, why)
		return true
	}
	key := p.ID + " " + string(d)
	if w.reply {
		// A reply passes the way its connection's first packet passed the other way.
		opposite := p.ID + " " + string(secgroup.Ingress)
		if d == secgroup.Ingress {
			opposite = p.ID + " " + string(secgroup.Egress)
		}
		if s, ok := w.v.conn.ports[opposite]; ok && k.answers(s.t) && !s.stateless {
			w.note(stage, name, "a reply of a connection that was let through")
			return true
		}
	}
	rule, stateless, ok := w.m.allowed(p, d, k, remote)
	if !ok {
		w.drop(stage, name, "no rule allows it")
		return false
	}
	// A first packet that is none, and no connection: stateful ports drop it.
	if !stateless && !k.opens() {
		w.drop(stage, name, "it is of no connection")
		return false
	}
	w.note(stage, name, rule)
	if !w.reply {
		w.v.conn.ports[key] = seen{k.tuple(), stateless}
	}
	return true
}

// onto puts a packet on a network, towards the neighbour hop, or to its DstMAC.
func (w *walk) onto(n *overlay.Network, from endpoint, k Packet, hop netip.Addr) {
	if n.AdminDown {
		w.drop("network", "network "+n.ID, "it is down")
		return
	}
	if k.ARP != nil && k.DstMAC.IsZero() {
		k.DstMAC = broadcastMAC
	}
	if !k.DstMAC.IsZero() && k.DstMAC[0]&1 == 1 {
		w.flood(n, from, k)
		return
	}
	if !k.DstMAC.IsZero() {
		for _, e := range w.m.at[n.ID] {
			if e.mac == k.DstMAC && (e.kind != from.kind || e.id != from.id || e.side != from.side) && w.m.hears(n, from, e) {
				w.enter(n, e, k)
				return
			}
		}
		if k.DstMAC == from.mac {
			w.drop("network", "network "+n.ID, "%s is the sender's own MAC", k.DstMAC)
			return
		}
		w.note("network", "network "+n.ID, "nobody is known by "+k.DstMAC.String())
		w.flooded = true
		w.flood(n, from, k)
		if !w.v.OK() && len(w.v.Drops) == 0 {
			w.drop("network", "network "+n.ID, "nobody there has the MAC %s", k.DstMAC)
		}
		return
	}
	e, ok := w.m.whoHas(n.ID, from, hop)
	if !ok {
		w.drop("network", "network "+n.ID, "nobody answers for %s", hop)
		return
	}
	k.DstMAC = e.mac
	w.note("network", "network "+n.ID, fmt.Sprintf("%s is at %s", hop, e.name()))
	w.enter(n, e, k)
}

// flood gives a frame to everybody who hears it: across tunnels only what the
// network floods.
func (w *walk) flood(n *overlay.Network, from endpoint, k Packet) {
	floods := !n.Flooding.NoMulticast
	switch {
	case w.flooded:
		floods = n.Flooding.UnknownUnicast
	case k.DstMAC == broadcastMAC:
		floods = n.Flooding.Broadcast
	}
	for _, e := range w.m.at[n.ID] {
		if e.kind == from.kind && e.id == from.id && e.side == from.side || !w.m.hears(n, from, e) {
			continue
		}
		crosses := e.host != from.host && !e.everywhere && n.Segment.Type.Tunnel()
		if crosses && !floods || w.flooded && e.kind != "port" && e.kind != "station" {
			continue
		}
		w.enter(n, e, k)
	}
}

// enter delivers a frame to what has its destination.
func (w *walk) enter(n *overlay.Network, e endpoint, k Packet) {
	switch e.kind {
	case "station":
		s := w.m.stations[e.id]
		if s.Forwards && !w.flooded && k.isIP() && !k.Dst.IsMulticast() && k.DstMAC[0]&1 == 0 && !slices.Contains(e.ips, k.Dst) && k.Dst != e.mac.LinkLocal() {
			w.forward(n, e, k)
			return
		}
		w.arrive(e, k)
	case "metadata":
		if k.isIP() && slices.Contains(e.ips, k.Dst) {
			w.arrive(e, k)
		}
	case "port":
		p := w.m.ports[e.id]
		if !w.carries(p) {
			return
		}
		s := w.m.secured[p.ID]
		switch {
		case s == nil && p.Filtered:
			w.drop("port security", e.name(), "it wants filtering and has not been filled")
			return
		case s == nil, s.DisablePortSecurity, k.ARP != nil:
		case !k.isIP():
			w.drop("port security", e.name(), "a frame of type %#04x is neither ARP nor IP", k.EtherType)
			return
		case !w.judge(s, secgroup.Ingress, k, k.Src):
			return
		}
		w.arrive(e, k)
	case "router":
		// What is sent to a group is not forwarded.
		if k.isIP() && !k.Dst.IsMulticast() && k.DstMAC[0]&1 == 0 {
			w.route(w.m.routers[e.id], e.side, k)
		}
	}
}

// forward is what a station that routes does with what is not for itself.
func (w *walk) forward(n *overlay.Network, e endpoint, k Packet) {
	x, _ := w.m.sender(e.id)
	hop, ok := x.next(k.Dst)
	if w.hops++; w.hops > maxHops || k.TTL <= 1 {
		w.drop("sender", e.name(), "it goes round in circles")
		return
	}
	if !ok {
		w.drop("sender", e.name(), "it has no route to %s", k.Dst)
		return
	}
	k.TTL--
	k.SrcMAC, k.DstMAC = e.mac, vnet.MAC{}
	w.note("station", e.id, "sends it on to "+hop.String())
	w.onto(n, e, k, hop)
}

func (w *walk) arrive(e endpoint, k Packet) {
	foreign := w.flooded || k.isIP() && k.DstMAC[0]&1 == 0 && !k.Dst.IsMulticast() && !slices.Contains(e.ips, k.Dst) && k.Dst != e.mac.LinkLocal()
	w.v.Arrivals = append(w.v.Arrivals, Arrival{Kind: e.kind, ID: e.id, Packet: k, AnySrcPort: w.translated(), Foreign: foreign, Flooded: w.flooded})
}

func (w *walk) translated() bool {
	for _, x := range w.v.conn.routers {
		if x.in.src != x.out.src {
			return true
		}
	}
	return false
}
