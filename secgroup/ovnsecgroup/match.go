package ovnsecgroup

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/secgroup"
)

// IP protocol numbers that OVN has fields for.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// names is what rows are called in matches; *ovn.Conn is one.
type names interface {
	Symbol(kind, id string) string
}

// family is "4" or "6", the end of the names and ids of address sets.
func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

func groupName(n names, id string) string { return n.Symbol(kindGroup, id) }

// setName is the name of an address set: of a group's members or of an address
// group.
func setName(n names, kind, id, fam string) string { return n.Symbol(kind, id) + "_ip" + fam }

// matchText writes m, of the group whose Port_Group is pg, in OVN's expression
// language (ovn-sb(5), Logical_Flow.match): direction, version, the other side,
// protocol and range, in this order. It refuses what OVN has no field for.
func matchText(n names, pg string, m secgroup.Match) (string, error) {
	var terms []string
	add := func(format string, args ...any) { terms = append(terms, fmt.Sprintf(format, args...)) }
	side := "src"
	if m.Direction == secgroup.Ingress {
		add("outport == @%s", pg)
	} else {
		add("inport == @%s", pg)
		side = "dst"
	}
	ip, fam := "ip4", "4"
	if m.Ethertype == secgroup.IPv6 {
		ip, fam = "ip6", "6"
	}
	add("%s", ip)
	switch r := m.Remote; {
	case r.Prefix.IsValid():
		add("%s.%s == %s", ip, side, r.Prefix)
	case r.Group != "":
		add("%s.%s == $%s", ip, side, setName(n, kindMembers, r.Group, fam))
	case r.AddressGroup != "":
		add("%s.%s == $%s", ip, side, setName(n, kindAddresses, r.AddressGroup, fam))
	}
	ranged := func(field string) {
		switch {
		case m.Lo == m.Hi:
			add("%s == %d", field, m.Lo)
		default:
			if m.Lo > 0 {
				add("%s >= %d", field, m.Lo)
			}
			if m.Hi < 0xffff {
				add("%s <= %d", field, m.Hi)
			}
		}
	}
	typed := func(icmp string) {
		if !m.Whole() {
			add("%s.type == %d", icmp, m.Lo>>8)
		}
		if m.Lo == m.Hi {
			add("%s.code == %d", icmp, m.Lo&0xff)
		}
	}
	switch {
	case m.Protocol < 0:
	case m.Protocol == protoTCP:
		add("tcp")
		ranged("tcp.dst")
	case m.Protocol == protoUDP:
		add("udp")
		ranged("udp.dst")
	case m.Protocol == protoSCTP:
		add("sctp")
		ranged("sctp.dst")
	case m.Protocol == protoICMP && m.Ethertype == secgroup.IPv4:
		add("icmp4")
		typed("icmp4")
	case m.Protocol == protoICMPv6 && m.Ethertype == secgroup.IPv6:
		add("icmp6")
		typed("icmp6")
	default:
		if !m.Whole() {
			return "", &vnet.UnsupportedError{Feature: fmt.Sprintf("a range in %q", m), Backend: backendName}
		}
		add("ip.proto == %d", m.Protocol)
	}
	return strings.Join(terms, " && "), nil
}

// matchesOf is what the rules of a group allow, compiled, but for ICMP: types
// and codes are nominal fields, for which OVN has no ranges. Where compiling
// has joined or cut some, the rules' own matches stand instead; what they allow
// beyond the compiled ones, wider ones allow too.
func matchesOf(g secgroup.Group) []secgroup.Match {
	var out []secgroup.Match
	for _, m := range secgroup.Compile(g.Rules) {
		if !isICMP(m.Protocol) || nominal(m) {
			if !slices.Contains(out, m) {
				out = append(out, m)
			}
			continue
		}
		for _, r := range g.Rules {
			own := r.Match()
			same := own
			same.Lo, same.Hi = m.Lo, m.Hi
			if same == m && !slices.Contains(out, own) {
				out = append(out, own)
			}
		}
	}
	return out
}

func isICMP(proto int) bool { return proto == protoICMP || proto == protoICMPv6 }

// nominal reports whether a range of ICMP is all, one type, or one type and code.
func nominal(m secgroup.Match) bool {
	return m.Whole() || m.Lo == m.Hi || m.Lo&0xff == 0 && m.Hi == m.Lo|0xff
}

// The priorities of our ACLs; northd adds 1000. Rules and drops have those that
// ML2/OVN has.
const (
	priorityLast   = 1000 // what is no IP
	priorityDrop   = 1001 // what nothing allows
	priorityRule   = 1002 // what rules allow
	priorityNobody = 1003 // from the unspecified address
	priorityAlways = 1004 // what passes whatever the rules
	priorityNever  = 1005 // what never passes
)

// acl is one ACL of a port group, by the id of its mark.
type acl struct {
	id  string
	row nbrow.ACL
}

// groupACLs are the ACLs of a group, one for each match. Their ids are
// GROUP/MATCH, so that a match keeps its row whatever becomes of the others.
func groupACLs(n names, g secgroup.Group) ([]acl, error) {
	var out []acl
	pg := groupName(n, g.ID)
	for _, m := range matchesOf(g) {
		text, err := matchText(n, pg, m)
		if err != nil {
			return nil, err
		}
		row := nbrow.ACL{Priority: priorityRule, Direction: direction(m.Direction), Action: "allow-related", Match: text,
			ExternalIDs: map[string]string{keyRules: strings.Join(rulesOf(g, m), " ")}}
		if g.Stateless {
			row.Action = "allow-stateless"
		}
		out = append(out, acl{aclID(g.ID, m), row})
	}
	return out, nil
}

func aclID(group string, m secgroup.Match) string { return group + "/" + m.String() }

func direction(d secgroup.Direction) string {
	if d == secgroup.Ingress {
		return "to-lport"
	}
	return "from-lport"
}

// rulesOf are the rules of g that m, one of its compiled matches, carries,
// whole or in part.
func rulesOf(g secgroup.Group, m secgroup.Match) []string {
	var out []string
	for _, r := range g.Rules {
		if carries(m, r.Match()) {
			out = append(out, r.ID)
		}
	}
	return out
}

func carries(m, r secgroup.Match) bool {
	if m.Direction != r.Direction || m.Ethertype != r.Ethertype || m.Protocol >= 0 && m.Protocol != r.Protocol {
		return false
	}
	if m.Protocol >= 0 && (r.Lo > m.Hi || r.Hi < m.Lo) {
		return false
	}
	if m.Remote == (secgroup.Remote{}) || m.Remote == r.Remote {
		return true
	}
	a, b := m.Remote.Prefix, r.Remote.Prefix
	return a.IsValid() && b.IsValid() && a.Bits() <= b.Bits() && a.Contains(b.Addr())
}

// filterACLs are the ACLs of the group of all ports with port security: the
// default drops, what always passes and what never does.
func filterACLs(pg string, o options) []acl {
	in, out := "inport == @"+pg, "outport == @"+pg
	var list []acl
	add := func(id, dir string, priority int, action, match string) {
		row := nbrow.ACL{Priority: priority, Direction: dir, Action: action, Match: match}
		if action == "drop" && o.log != nil {
			row.Log, row.Severity, row.Name = true, new(o.log.severity()), new("drop/"+id)
			row.Meter = new(o.log.meter)
		}
		list = append(list, acl{kindFilter + "/" + id, row})
	}
	types := func(d secgroup.Direction) string {
		var s []string
		for _, t := range secgroup.AlwaysICMPv6(d) {
			s = append(s, strconv.Itoa(int(t)))
		}
		return strings.Join(s, ", ")
	}
	dhcp := func(d secgroup.Direction, e secgroup.Ethertype) string {
		src, dst := secgroup.DHCPPorts(d, e)
		return fmt.Sprintf("udp && udp.src == %d && udp.dst == %d", src, dst)
	}
	const from, to = "from-lport", "to-lport"
	add("out", from, priorityDrop, "drop", in+" && ip")
	add("in", to, priorityDrop, "drop", out+" && ip")
	add("out-any", from, priorityLast, "drop", in)
	add("in-any", to, priorityLast, "drop", out)
	add("out-arp", from, priorityAlways, "allow-stateless", in+" && arp")
	add("in-arp", to, priorityAlways, "allow-stateless", out+" && arp")
	add("out-dhcp", from, priorityAlways, "allow-stateless", in+" && ip4 && "+dhcp(secgroup.Egress, secgroup.IPv4))
	add("in-dhcp", to, priorityAlways, "allow-stateless", out+" && ip4 && "+dhcp(secgroup.Ingress, secgroup.IPv4))
	add("out-dhcpv6", from, priorityAlways, "allow-stateless", in+" && ip6 && "+dhcp(secgroup.Egress, secgroup.IPv6))
	add("in-dhcpv6", to, priorityAlways, "allow-stateless", out+" && ip6 && "+dhcp(secgroup.Ingress, secgroup.IPv6))
	add("out-nd", from, priorityAlways, "allow-stateless", in+" && ip6 && icmp6 && icmp6.type == {"+types(secgroup.Egress)+"}")
	add("in-nd", to, priorityAlways, "allow-stateless", out+" && ip6 && icmp6 && icmp6.type == {"+types(secgroup.Ingress)+"}")
	// What servers say: taken past tracking, where replies would pass before any
	// ACL is asked, and then dropped.
	for _, e := range []secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6} {
		id, ip := "out-dhcp-server", "ip4"
		if e == secgroup.IPv6 {
			id, ip = "out-dhcpv6-server", "ip6"
		}
		match := in + " && " + ip + " && " + dhcp(secgroup.Ingress, e)
		add(id+"-untracked", from, priorityAlways, "allow-stateless", match)
		add(id, from, priorityNever, "drop", match)
	}
	add("out-ra", from, priorityNever, "drop", in+" && ip6 && icmp6 && icmp6.type == 134")
	// Port security lets the unspecified address speak, for DHCP and for probes.
	add("out-unspecified", from, priorityNobody, "drop", in+" && ip4.src == 0.0.0.0")
	if o.loose {
		return list
	}
	// Open vSwitch's tracking takes a segment from the middle of a stream for a
	// new connection.
	add("out-mid-stream", from, priorityNever, "drop", in+" && ip && tcp && ct.new && !tcp.flags[1]")
	add("in-mid-stream", to, priorityNever, "drop", out+" && ip && tcp && ct.new && !tcp.flags[1]")
	return list
}

// portSecurity writes what p may send from: for each MAC one string, which
// always has addresses of both versions, or OVN would forbid the other version
// whole (ovn-nb(5), Logical_Switch_Port.port_security). 0.0.0.0 is for ARP
// probes; an ACL keeps it from all else but DHCP.
func portSecurity(p secgroup.Port) []string {
	var out []string
	var cur string
	var mac vnet.MAC
	flush := func() {
		if cur != "" {
			out = append(out, cur)
		}
	}
	for _, o := range p.Own() { // sorted by MAC
		if o.MAC != mac || cur == "" {
			flush()
			mac, cur = o.MAC, o.MAC.String()+" 0.0.0.0"
		}
		cur += " " + addressText(o.Prefix)
	}
	flush()
	slices.Sort(out)
	return out
}

// addressText is a prefix as OVN's address sets have it: without length when
// it is one address.
func addressText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// parseAddress is the inverse of addressText.
func parseAddress(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

// unknown reports whether frames to MACs that no port of the switch is known
// for have to reach p: it sends from any, or from further ones. Those of pairs
// are not written as addresses of their own, because several ports may have
// the same, and the one that speaks now is the one to reach.
func unknown(p secgroup.Port) bool {
	return p.DisablePortSecurity || slices.ContainsFunc(p.AllowedPairs, func(q secgroup.AddressPair) bool { return !q.MAC.IsZero() && q.MAC != p.MAC })
}

// addressesBy splits the addresses of a port by family, in the form of
// address sets.
func addressesBy(p secgroup.Port) map[string][]string {
	out := map[string][]string{}
	for _, a := range p.Addresses() {
		f := family(a.Addr())
		out[f] = append(out[f], addressText(a))
	}
	return out
}
