package secgrouptest

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// arrives says, rule by rule and as the contract reads, whether the first
// packet of a connection gets from one port to another of its network. It
// shares no code with the backends.
func arrives(s secgroup.State, from, to string, f lab.Frame) bool {
	return leaves(s, findPort(s, from), f) && enters(s, findPort(s, to), f)
}

func findPort(s secgroup.State, id string) secgroup.Port {
	for _, p := range s.Ports {
		if p.ID == id {
			return p
		}
	}
	panic("no port " + id)
}

func leaves(s secgroup.State, p secgroup.Port, f lab.Frame) bool {
	if p.DisablePortSecurity {
		return true
	}
	own := slices.Contains(p.FixedIPs, f.Src) && f.SrcMAC == p.MAC || f.Src == p.MAC.LinkLocal() && f.SrcMAC == p.MAC
	for _, q := range p.AllowedPairs {
		m := q.MAC
		if m.IsZero() {
			m = p.MAC
		}
		own = own || f.SrcMAC == m && (q.Prefix.Contains(f.Src) || f.Src == m.LinkLocal())
	}
	return own && someRule(s, p, secgroup.Egress, f, f.Dst)
}

func enters(s secgroup.State, p secgroup.Port, f lab.Frame) bool {
	return p.DisablePortSecurity || someRule(s, p, secgroup.Ingress, f, f.Src)
}

func someRule(s secgroup.State, p secgroup.Port, d secgroup.Direction, f lab.Frame, remote netip.Addr) bool {
	for _, g := range s.Groups {
		if !slices.Contains(p.Groups, g.ID) {
			continue
		}
		for _, r := range g.Rules {
			if r.Direction == d && (r.Ethertype == secgroup.IPv4) == remote.Is4() && isProtocol(r, f) && isRemote(s, r, remote) {
				return true
			}
		}
	}
	return false
}

func isProtocol(r secgroup.Rule, f lab.Frame) bool {
	switch name := strings.ToLower(r.Protocol); {
	case name == "":
		return true
	case name == "tcp" || name == "udp":
		if (name == "tcp") != (f.Proto == lab.TCP) || f.Proto != lab.TCP && f.Proto != lab.UDP {
			return false
		}
		return (r.PortMin == nil || f.DstPort >= *r.PortMin) && (r.PortMax == nil || f.DstPort <= *r.PortMax)
	case name == "icmp" || name == "icmpv6":
		want := uint8(lab.ICMP)
		if r.Ethertype == secgroup.IPv6 {
			want = lab.ICMPv6
		}
		return f.Proto == want && (r.PortMin == nil || uint16(f.ICMPType) == *r.PortMin) && (r.PortMax == nil || uint16(f.ICMPCode) == *r.PortMax)
	default:
		n, err := strconv.Atoi(name)
		return err == nil && n == int(f.Proto)
	}
}

func isRemote(s secgroup.State, r secgroup.Rule, a netip.Addr) bool {
	switch {
	case r.RemotePrefix.IsValid():
		return r.RemotePrefix.Contains(a)
	case r.RemoteAddressGroup != "":
		for _, g := range s.AddressGroups {
			for _, q := range g.Prefixes {
				if g.ID == r.RemoteAddressGroup && q.Contains(a) {
					return true
				}
			}
		}
		return false
	case r.RemoteGroup != "":
		for _, p := range s.Ports {
			if !slices.Contains(p.Groups, r.RemoteGroup) {
				continue
			}
			if slices.Contains(p.FixedIPs, a) || slices.ContainsFunc(p.AllowedPairs, func(q secgroup.AddressPair) bool { return q.Prefix.Contains(a) }) {
				return true
			}
		}
		return false
	}
	return true
}
