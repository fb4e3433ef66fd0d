package secgroup

// ICMPv6 types that have a meaning of their own here (RFC 4861, RFC 2710, RFC 3810).
const (
	mldQuery     = 130
	mldReport    = 131
	mldDone      = 132
	routerSol    = 133
	routerAdv    = 134
	neighbourSol = 135
	neighbourAdv = 136
	mldReport2   = 143
)

// AlwaysICMPv6 returns the ICMPv6 types that pass whatever the rules: from
// the port (subject to port security) or to it.
func AlwaysICMPv6(d Direction) []uint8 {
	if d == Egress {
		return []uint8{mldReport, mldDone, routerSol, neighbourSol, neighbourAdv, mldReport2}
	}
	return []uint8{mldQuery, mldReport, mldDone, routerSol, routerAdv, neighbourSol, neighbourAdv, mldReport2}
}

// DHCPPorts returns the UDP source and destination port of the DHCP packets
// that pass whatever the rules in direction d: a client's from the port, a
// server's to it (RFC 2131, RFC 8415). The other way round they never pass.
func DHCPPorts(d Direction, e Ethertype) (src, dst uint16) {
	client, server := uint16(68), uint16(67)
	if e == IPv6 {
		client, server = 546, 547
	}
	if d == Egress {
		return client, server
	}
	return server, client
}

// Always reports whether an IP packet with this protocol, source port (0 when
// it has none) and [Selector] passes whatever the rules.
func Always(d Direction, e Ethertype, protocol uint8, srcPort, sel uint16) bool {
	switch {
	case protocol == protoUDP:
		src, dst := DHCPPorts(d, e)
		return srcPort == src && sel == dst
	case protocol == protoICMPv6 && e == IPv6:
		for _, t := range AlwaysICMPv6(d) {
			if uint8(sel>>8) == t {
				return true
			}
		}
	}
	return false
}

// Forged reports whether an IP packet from a port with port security is one
// that only servers and routers may send: it never passes.
func Forged(e Ethertype, protocol uint8, srcPort, sel uint16) bool {
	if protocol == protoUDP {
		src, dst := DHCPPorts(Ingress, e)
		return srcPort == src && sel == dst
	}
	return protocol == protoICMPv6 && e == IPv6 && sel>>8 == routerAdv
}
