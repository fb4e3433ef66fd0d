package reachtest

import (
	"net/netip"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/reach"
)

// Ports are the destination ports that rules and packets are about.
var Ports = []uint16{22, 80, 81, 8080, 8081}

// Senders are the ids of all ports and stations of w.
func Senders(w reach.World) (out []string) {
	for _, p := range w.Overlay.Ports {
		out = append(out, p.ID)
	}
	for _, s := range w.Stations {
		out = append(out, s.ID)
	}
	return out
}

// Addresses are all that somebody in w has, and some that nobody has.
func Addresses(w reach.World) (out []netip.Addr) {
	seen := map[netip.Addr]bool{}
	add := func(as ...netip.Addr) {
		for _, a := range as {
			if !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	for _, p := range w.Overlay.Ports {
		add(p.FixedIPs...)
	}
	for _, s := range w.Stations {
		for _, a := range s.Addresses {
			add(a.Addr())
		}
	}
	for _, f := range w.Router.FloatingIPs {
		add(f.FloatingIP)
	}
	for _, f := range w.Router.PortForwards {
		add(f.ExternalIP)
	}
	for _, h := range w.Holders {
		add(h.IP)
	}
	if len(w.Metadata.Endpoints) > 0 {
		add(netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254"))
	}
	for _, r := range w.Router.Routers {
		for _, i := range r.Interfaces {
			add(i.Addresses[0].Addr(), i.Addresses[1].Addr())
		}
		if r.Gateway != nil {
			add(r.Gateway.Addresses[0].Addr(), r.Gateway.Addresses[1].Addr())
		}
	}
	add(v4(0, 77), ext4(77), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.9"))
	return out
}

// Packet draws the first packet of a connection of a world of [World]: from
// any sender to any address, at times from an address or MAC that is not the
// sender's, or with hardly a hop left.
func Packet(t *rapid.T, w reach.World) reach.Packet {
	d := &drawing{T: t}
	k := reach.Packet{From: pick(d, Senders(w), "from"), Dst: pick(d, Addresses(w), "to")}
	if near := neighbours(w, k.From); len(near) > 0 && d.one(2, "near") {
		k.Dst = pick(d, near, "neighbour")
	}
	switch d.upTo(6, "what") {
	case 0, 1:
		k.Proto, k.ICMPType = reach.ICMP, 8
		if k.Dst.Is6() {
			k.Proto, k.ICMPType = reach.ICMPv6, 128
		}
	case 2, 3:
		k.Proto, k.SrcPort, k.DstPort = reach.TCP, 40000, pick(d, Ports, "port")
	case 4, 5:
		k.Proto, k.SrcPort, k.DstPort = reach.UDP, 40000, pick(d, Ports, "port")
	case 6:
		k.Proto = 47
	}
	switch d.upTo(15, "twist") {
	case 13:
		k.TTL = uint8(1 + d.upTo(1, "TTL"))
	case 14:
		if a := pick(d, Addresses(w), "source"); a.Is4() == k.Dst.Is4() {
			k.Src = a
		}
	case 15:
		k.SrcMAC = vnet.MAC{2, 0, 0, 0, 1, byte(d.upTo(3, "source MAC"))}
	}
	return k
}

// neighbours are the addresses of other ports on the sender's network.
func neighbours(w reach.World, from string) (out []netip.Addr) {
	for _, p := range w.Overlay.Ports {
		for _, o := range w.Overlay.Ports {
			if p.ID == from && o.ID != from && o.NetworkID == p.NetworkID {
				out = append(out, o.FixedIPs...)
			}
		}
	}
	return out
}
