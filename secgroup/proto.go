package secgroup

import (
	"strconv"
	"strings"
)

// Protocol numbers that have a meaning of their own here
// (IANA, Assigned Internet Protocol Numbers).
const (
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoICMPv6  = 58
	protoSCTP    = 132
	protoUDPLite = 136
)

// protocolNames are the names of Neutron's security group API.
func protocolNames() map[string]int {
	return map[string]int{
		"ah": 51, "dccp": protoDCCP, "egp": 8, "esp": 50, "gre": 47, "icmp": protoICMP, "icmpv6": protoICMPv6,
		"igmp": 2, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": protoICMPv6,
		"ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46,
		"sctp": protoSCTP, "tcp": protoTCP, "udp": protoUDP, "udplite": protoUDPLite, "vrrp": 112,
	}
}

// ProtocolNumber returns the IP protocol number that a rule of this ethertype
// means by name: a name of Neutron's API in any case, or a decimal number.
// Empty and "any" are -1, any protocol. ICMP (also as 1) is ICMPv6 in an IPv6
// rule. ok is false for what is neither.
func ProtocolNumber(name string, e Ethertype) (n int, ok bool) {
	name = strings.ToLower(name)
	if name == "" || name == "any" {
		return -1, true
	}
	n, ok = protocolNames()[name]
	if !ok {
		u, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return 0, false
		}
		n = int(u)
	}
	if n == protoICMP && e == IPv6 {
		n = protoICMPv6
	}
	return n, true
}

// canonicalProtocol is the one spelling of a valid protocol: the shortest
// name, or the number of one that has none; empty for any.
func canonicalProtocol(name string, e Ethertype) string {
	n, ok := ProtocolNumber(name, e)
	switch {
	case !ok:
		return name
	case n < 0:
		return ""
	case n == protoICMPv6:
		return "icmpv6"
	}
	for s, m := range protocolNames() {
		if m == n {
			return s
		}
	}
	return strconv.Itoa(n)
}

// hasPorts reports whether protocol n has 16-bit destination ports two bytes
// into its header.
func hasPorts(n int) bool {
	return n == protoTCP || n == protoUDP || n == protoUDPLite || n == protoSCTP || n == protoDCCP
}

func isICMP(n int) bool { return n == protoICMP || n == protoICMPv6 }
