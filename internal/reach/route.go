package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// side is one of a router's ports.
type side struct {
	id, network string
	mac         vnet.MAC
	addrs       []netip.Prefix
	gateway     bool
}

func sides(r *router.Router) (out []side) {
	for _, i := range r.Interfaces {
		out = append(out, side{i.PortID, i.NetworkID, i.MAC, i.Addresses, false})
	}
	if g := r.Gateway; g != nil {
		out = append(out, side{g.PortID, g.NetworkID, g.MAC, g.Addresses, true})
	}
	return out
}

func firstIPv4(r *router.Router) (netip.Addr, bool) {
	if r.Gateway != nil {
		for _, p := range r.Gateway.Addresses {
			if p.Addr().Is4() {
				return p.Addr(), true
			}
		}
	}
	return netip.Addr{}, false
}

var linkLocal4 = netip.MustParsePrefix("169.254.0.0/16")

// route takes a packet through a router that it has come to by the port in.
func (w *walk) route(r *router.Router, in string, k Packet) {
	name := "router " + r.ID
	if w.hops++; w.hops > maxHops {
		w.drop("router", name, "it goes round in circles")
		return
	}
	// RFC 1812, 5.3.7, and RFC 919.
	if k.Src.IsUnspecified() || k.Src.IsMulticast() || k.Src.IsLoopback() || k.Dst.IsLoopback() || k.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		w.drop("router", name, "%s to %s is nothing to forward", k.Src, k.Dst)
		return
	}
	var from side
	all := sides(r)
	if k.Src.Is4() && w.external(r, all, k.Src) {
		w.drop("router", name, "%s is its own address and cannot come from elsewhere", k.Src)
		return
	}
	for _, s := range all {
		if s.id == in {
			from = s
		}
	}
	// A reply is translated back, as what it answers was translated.
	back, isBack := w.v.conn.routers[r.ID]
	isBack = isBack && w.reply && k.answers(back.out)
	came := k.tuple()
	dnat := ""
	switch {
	case isBack && k.About != nil:
		if back.in.src != back.out.src {
			k.Dst = back.in.src
		}
	case isBack:
		t := back.in.reversed()
		k.Dst, k.DstPort = t.dst, t.dstPort
	case k.opens():
		if dnat = w.destination(r, &k); dnat != "" {
			w.note("router", name, dnat)
		}
	}
	if w.metadataOf(r, from, k) {
		w.v.Arrivals = append(w.v.Arrivals, Arrival{Kind: "metadata", ID: r.ID, Packet: k})
		return
	}
	if w.own(r, all, k.Dst) {
		w.self(r, name, k)
		return
	}
	if k.Dst.IsLinkLocalUnicast() || k.Src.IsLinkLocalUnicast() || linkLocal4.Contains(k.Dst) || linkLocal4.Contains(k.Src) {
		w.drop("router", name, "link-local addresses are not forwarded")
		return
	}
	if k.TTL <= 1 {
		w.drop("router", name, "its TTL is spent")
		return
	}
	k.TTL--
	to, hop, ok := lookup(r, all, k.Dst)
	if !ok {
		w.drop("router", name, "it has no route to %s", k.Dst)
		return
	}
	switch {
	case isBack && k.About != nil:
		if back.in.dst != back.out.dst {
			k.Src = back.in.dst
		}
		about := *k.About
		about.Src, about.SrcPort, about.Dst, about.DstPort = back.in.src, back.in.srcPort, back.in.dst, back.in.dstPort
		k.About = &about
	case isBack:
		t := back.in.reversed()
		k.Src, k.SrcPort = t.src, t.srcPort
	case !k.opens():
		// Nothing is translated that opens no connection, and what would leave
		// untranslated where sources are hidden does not leave.
		if k.Src.Is4() && to.gateway && !from.gateway && !r.Gateway.DisableSNAT {
			w.drop("router", name, "it is of no connection")
			return
		}
	default:
		if snat := w.source(r, from, to, dnat != "", &k); snat != "" {
			w.note("router", name, snat)
		}
		if !w.reply {
			w.v.conn.routers[r.ID] = xlate{came, k.tuple()}
		}
	}
	if isBroadcast4(to.addrs, hop) {
		w.drop("router", name, "it forwards no broadcasts (RFC 2644)")
		return
	}
	w.note("router", name, fmt.Sprintf("by %s to %s", to.id, hop))
	k.SrcMAC, k.DstMAC = to.mac, vnet.MAC{}
	self := endpoint{kind: "router", id: r.ID, side: to.id, mac: to.mac, host: r.Host}
	w.onto(w.m.nets[to.network], self, k, hop)
}

func isBroadcast4(addrs []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return isBroadcast(p, a) })
}

// destination translates to a floating IP's fixed IP or a forwarded port.
func (w *walk) destination(r *router.Router, k *Packet) string {
	for _, f := range w.m.w.Router.FloatingIPs {
		if f.RouterID == r.ID && f.FloatingIP == k.Dst {
			k.Dst = f.FixedIP
			return fmt.Sprintf("floating IP %s: to %s", f.ID, f.FixedIP)
		}
	}
	for _, f := range w.m.w.Router.PortForwards {
		last := max(f.ExternalPort.First, f.ExternalPort.Last)
		proto := uint8(TCP)
		if f.Protocol == "udp" {
			proto = UDP
		}
		if f.RouterID == r.ID && f.ExternalIP == k.Dst && proto == k.Proto && f.ExternalPort.First <= k.DstPort && k.DstPort <= last {
			k.Dst, k.DstPort = f.InternalIP, f.InternalPort.First+k.DstPort-f.ExternalPort.First
			return fmt.Sprintf("port forward %s: to %s port %d", f.ID, k.Dst, k.DstPort)
		}
	}
	return ""
}

// source translates the source of what leaves.
func (w *walk) source(r *router.Router, from, to side, dnat bool, k *Packet) string {
	if !k.Src.Is4() || r.Gateway == nil || from.gateway {
		return ""
	}
	if !to.gateway && !dnat {
		return "" // between internal networks
	}
	for _, f := range w.m.w.Router.FloatingIPs {
		if f.RouterID == r.ID && f.FixedIP == k.Src {
			k.Src = f.FloatingIP
			return fmt.Sprintf("from floating IP %s, %s", f.ID, f.FloatingIP)
		}
	}
	own, ok := firstIPv4(r)
	if !ok || to.gateway && r.Gateway.DisableSNAT {
		return ""
	}
	k.Src = own
	return "source NAT to " + own.String()
}

// lookup is the router's way to dst: connected, extra routes, default.
func lookup(r *router.Router, all []side, dst netip.Addr) (to side, hop netip.Addr, ok bool) {
	best := -1
	for _, s := range all {
		for _, p := range s.addrs {
			if p.Masked().Contains(dst) && p.Bits() > best {
				best, to, hop, ok = p.Bits(), s, dst, true
			}
		}
	}
	by := func(dest netip.Prefix, via netip.Addr) {
		if !dest.Contains(dst) || dest.Bits() <= best {
			return
		}
		for _, s := range all {
			for _, p := range s.addrs {
				if p.Masked().Contains(via) {
					best, to, hop, ok = dest.Bits(), s, via, true
					return
				}
			}
		}
		// A next hop outside the subnets is on the gateway's link.
		if n := len(all); r.Gateway != nil && slices.Contains(r.Gateway.NextHops, via) {
			best, to, hop, ok = dest.Bits(), all[n-1], via, true
		}
	}
	for _, x := range r.Routes {
		by(x.Destination, x.NextHop)
	}
	if r.Gateway != nil {
		for _, via := range r.Gateway.NextHops {
			dest := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if via.Is6() {
				dest = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			by(dest, via)
		}
	}
	return to, hop, ok
}

// own reports whether an address is the router's itself; external addresses
// of port forwards are, for what is not forwarded.
func (w *walk) own(r *router.Router, all []side, a netip.Addr) bool {
	for _, s := range all {
		if a == s.mac.LinkLocal() || slices.ContainsFunc(s.addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return true
		}
	}
	return slices.ContainsFunc(w.m.w.Router.PortForwards, func(f router.PortForward) bool { return f.RouterID == r.ID && f.ExternalIP == a })
}

// external reports whether an IPv4 address is one that the router answers for:
// [walk.own] or a floating IP.
func (w *walk) external(r *router.Router, all []side, a netip.Addr) bool {
	return w.own(r, all, a) || slices.ContainsFunc(w.m.w.Router.FloatingIPs, func(f router.FloatingIP) bool { return f.RouterID == r.ID && f.FloatingIP == a })
}

// self is what a router does with what is for itself: it answers echo
// requests, and has no other service.
func (w *walk) self(r *router.Router, name string, k Packet) {
	if k.Proto == ICMP && k.ICMPType == 8 || k.Proto == ICMPv6 && k.ICMPType == 128 {
		w.v.Arrivals = append(w.v.Arrivals, Arrival{Kind: "router", ID: r.ID, Packet: k})
		return
	}
	w.drop("router", name, "%s is its own address, and it has no such service", k.Dst)
}

// metadataOf reports whether the router takes a request for the metadata
// service: from internal networks, to TCP port 80.
func (w *walk) metadataOf(r *router.Router, from side, k Packet) bool {
	if from.gateway || k.Proto != TCP || k.DstPort != 80 || !slices.Contains(metadataAddrs, k.Dst) {
		return false
	}
	for _, e := range w.m.w.Metadata.Endpoints {
		if e.RouterID == r.ID {
			return true
		}
	}
	return false
}

// leaveService sends the answer of a router or metadata service, which is on
// the networks it was asked from.
func (w *walk) leaveService(a Arrival, k Packet) {
	if r := w.m.routers[a.ID]; r != nil {
		all := sides(r)
		to, hop, ok := lookup(r, all, k.Dst)
		if k.Dst.IsLinkLocalUnicast() || k.Src.IsLinkLocalUnicast() && k.Dst.Is6() && !ok {
			for _, s := range all {
				if e, found := w.m.whoHas(s.network, endpoint{kind: "router", id: r.ID, side: s.id, mac: s.mac, host: r.Host}, k.Dst); found && e.mac == a.Packet.SrcMAC {
					to, hop, ok = s, k.Dst, true
				}
			}
		}
		if !ok {
			w.drop("router", "router "+r.ID, "it has no route to %s", k.Dst)
			return
		}
		k.TTL, k.SrcMAC = 64, to.mac
		if x, found := w.v.conn.routers[r.ID]; found && x.out.reversed() == k.tuple() {
			t := x.in.reversed()
			k.Src, k.SrcPort, k.Dst, k.DstPort = t.src, t.srcPort, t.dst, t.dstPort
		}
		w.onto(w.m.nets[to.network], endpoint{kind: "router", id: r.ID, side: to.id, mac: to.mac, host: r.Host}, k, hop)
		return
	}
	for id, list := range w.m.at {
		for _, e := range list {
			if e.kind == "metadata" && e.id == a.ID {
				k.TTL, k.SrcMAC = 64, e.mac
				w.onto(w.m.nets[id], e, k, k.Dst)
				return
			}
		}
	}
}
