package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

// protocols are the names that Neutron's API knows (IANA protocol numbers).
var protocols = map[string]uint8{
	"ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "icmp": 1, "icmpv6": 58, "igmp": 2, "ipip": 4, "ipv6-encap": 41,
	"ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113,
	"rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}

// allowed looks for a rule of the port's groups that allows the packet. Rules
// of stateless groups come first, as the package comment says.
func (m *Model) allowed(p *secgroup.Port, d secgroup.Direction, k Packet, remote netip.Addr) (rule string, stateless, ok bool) {
	for _, wantStateless := range []bool{true, false} {
		for _, id := range p.Groups {
			g := m.groups[id]
			if g == nil || g.Stateless != wantStateless {
				continue
			}
			for _, r := range g.Rules {
				if m.matches(r, d, k, remote) {
					return "group " + id + " rule " + r.ID, g.Stateless, true
				}
			}
		}
	}
	return "", false, false
}

func (m *Model) matches(r secgroup.Rule, d secgroup.Direction, k Packet, remote netip.Addr) bool {
	if r.Direction != d || (r.Ethertype == secgroup.IPv4) != k.Dst.Is4() {
		return false
	}
	if r.Protocol != "" && !strings.EqualFold(r.Protocol, "any") {
		num, known := protocols[strings.ToLower(r.Protocol)]
		if !known {
			n, err := strconv.ParseUint(r.Protocol, 10, 8)
			if err != nil {
				return false
			}
			num = uint8(n)
		}
		// "icmp" in an IPv6 rule means ICMPv6.
		if num == ICMP && r.Ethertype == secgroup.IPv6 {
			num = ICMPv6
		}
		if num != k.Proto {
			return false
		}
		switch num {
		case ICMP, ICMPv6:
			if r.PortMin != nil && *r.PortMin != uint16(k.ICMPType) || r.PortMax != nil && *r.PortMax != uint16(k.ICMPCode) {
				return false
			}
		default:
			if r.PortMin != nil && k.DstPort < *r.PortMin || r.PortMax != nil && k.DstPort > *r.PortMax {
				return false
			}
		}
	}
	switch {
	case r.RemotePrefix.IsValid():
		return r.RemotePrefix.Contains(remote)
	case r.RemoteGroup != "":
		for i := range m.w.SecGroup.Ports {
			p := &m.w.SecGroup.Ports[i]
			if slices.Contains(p.Groups, r.RemoteGroup) && has(p, remote) {
				return true
			}
		}
		return false
	case r.RemoteAddressGroup != "":
		l := m.lists[r.RemoteAddressGroup]
		return l != nil && slices.ContainsFunc(l.Prefixes, func(q netip.Prefix) bool { return q.Contains(remote) })
	}
	return true
}

// has reports whether an address counts as the port's for remote groups.
func has(p *secgroup.Port, a netip.Addr) bool {
	return slices.Contains(p.FixedIPs, a) || slices.ContainsFunc(p.AllowedPairs, func(q secgroup.AddressPair) bool { return q.Prefix.Contains(a) })
}

// mayUse reports whether a port may send from an address with a MAC.
func mayUse(p *secgroup.Port, mac vnet.MAC, a netip.Addr) bool {
	if mac == p.MAC && (slices.Contains(p.FixedIPs, a) || a == p.MAC.LinkLocal()) {
		return true
	}
	for _, q := range p.AllowedPairs {
		qm := q.MAC
		if qm.IsZero() {
			qm = p.MAC
		}
		if qm == mac && (q.Prefix.Contains(a) || a == qm.LinkLocal()) {
			return true
		}
	}
	return false
}

func usesMAC(p *secgroup.Port, mac vnet.MAC) bool {
	return mac == p.MAC || slices.ContainsFunc(p.AllowedPairs, func(q secgroup.AddressPair) bool { return q.MAC == mac })
}

// always says, for packets that pass whatever the rules are, which they are.
func always(k Packet, d secgroup.Direction) (string, bool) {
	v6 := k.Dst.Is6()
	switch {
	case d == secgroup.Egress && k.Proto == UDP && !v6 && k.SrcPort == 68 && k.DstPort == 67,
		d == secgroup.Egress && k.Proto == UDP && v6 && k.SrcPort == 546 && k.DstPort == 547:
		return "DHCP requests always pass", true
	case d == secgroup.Ingress && k.Proto == UDP && !v6 && k.SrcPort == 67 && k.DstPort == 68,
		d == secgroup.Ingress && k.Proto == UDP && v6 && k.SrcPort == 547 && k.DstPort == 546:
		return "DHCP answers always pass", true
	case k.Proto == ICMPv6 && v6 && (k.ICMPType == 133 || k.ICMPType == 135 || k.ICMPType == 136):
		return "neighbour discovery always passes", true
	case k.Proto == ICMPv6 && v6 && d == secgroup.Ingress && k.ICMPType == 134:
		return "router advertisements always pass", true
	case k.Proto == ICMPv6 && v6 && (k.ICMPType == 131 || k.ICMPType == 132 || k.ICMPType == 143),
		k.Proto == ICMPv6 && v6 && d == secgroup.Ingress && k.ICMPType == 130:
		return "multicast listener discovery always passes", true
	}
	return "", false
}

// spoofed says what port security has against a packet; "" is nothing.
func spoofed(p *secgroup.Port, k Packet) string {
	if !usesMAC(p, k.SrcMAC) {
		return fmt.Sprintf("source MAC %s is not the port's", k.SrcMAC)
	}
	if k.ARP != nil {
		switch {
		case !usesMAC(p, k.ARP.SenderMAC):
			return fmt.Sprintf("ARP sender %s is not the port's", k.ARP.SenderMAC)
		case k.ARP.SenderIP.IsUnspecified(): // a probe (RFC 5227)
			return ""
		case !mayUse(p, k.ARP.SenderMAC, k.ARP.SenderIP):
			return fmt.Sprintf("ARP sender %s is not the port's", k.ARP.SenderIP)
		}
		return ""
	}
	if !k.isIP() {
		return fmt.Sprintf("a frame of type %#04x is neither ARP nor IP", k.EtherType)
	}
	v6 := k.Dst.Is6()
	switch {
	case k.Proto == UDP && (!v6 && k.SrcPort == 67 && k.DstPort == 68 || v6 && k.SrcPort == 547 && k.DstPort == 546):
		return "a machine is no DHCP server"
	case v6 && k.Proto == ICMPv6 && k.ICMPType == 134:
		return "a machine sends no router advertisements"
	case !v6 && k.Src.IsUnspecified() && k.Proto == UDP && k.SrcPort == 68 && k.DstPort == 67:
		return ""
	case v6 && k.Src.IsUnspecified() && k.Proto == ICMPv6 && slices.Contains([]uint8{131, 132, 133, 135, 143}, k.ICMPType):
		// Duplicate address detection, first solicitations and reports (RFC 4862, 5.4.2; RFC 3590).
	case !mayUse(p, k.SrcMAC, k.Src):
		return fmt.Sprintf("source address %s is not the port's", k.Src)
	}
	if v6 && k.Proto == ICMPv6 && k.ICMPType == 136 && !mayUse(p, k.SrcMAC, k.Target) {
		return fmt.Sprintf("advertised address %s is not the port's", k.Target)
	}
	return ""
}
