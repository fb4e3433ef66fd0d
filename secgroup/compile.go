package secgroup

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Match is what some rules of a group allow, in the form that backends write:
// one direction, one IP version, one protocol, one range, one remote.
// See [Compile].
type Match struct {
	Direction Direction
	Ethertype Ethertype
	Protocol  int // IP protocol number; -1: any
	// Lo and Hi bound, inclusively, the [Selector] of the packet: its
	// destination port, or ICMP type and code. 0 and 65535 for protocols that
	// have neither, and for any.
	Lo, Hi uint16
	Remote Remote
}

// Remote is the other side of a match. The zero value is any address; at most
// one field is set.
type Remote struct {
	Prefix       netip.Prefix // masked
	Group        string
	AddressGroup string
}

// Packet is what rules see of a packet: the first one of a connection, or any
// one where rules are stateless.
type Packet struct {
	Direction Direction
	Remote    netip.Addr // the other side: source for ingress, destination for egress
	Protocol  uint8
	Selector  uint16 // see [Selector]
}

// Members answers whether an address belongs to a group or address group.
type Members interface {
	InGroup(id string, a netip.Addr) bool
	InAddressGroup(id string, a netip.Addr) bool
}

// Selector returns the 16 bits that ranges are about: the destination port
// when the protocol has ports, type<<8 | code for ICMP, else 0. header is the
// transport header; ok is false when it is too short to tell.
func Selector(protocol uint8, header []byte) (sel uint16, ok bool) {
	off := 0
	switch {
	case hasPorts(int(protocol)):
		off = 2
	case !isICMP(int(protocol)):
		return 0, true
	}
	if len(header) < off+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(header[off:]), true
}

// HasSelector reports whether packets of the protocol have a [Selector], and
// at which byte of the transport header it stands.
func HasSelector(protocol int) (offset int, ok bool) {
	switch {
	case hasPorts(protocol):
		return 2, true
	case isICMP(protocol):
		return 0, true
	}
	return 0, false
}

// Whole reports whether m bounds no port, type or code.
func (m Match) Whole() bool { return m.Lo == 0 && m.Hi == 0xffff }

// Matches reports whether m allows p.
func (m Match) Matches(p Packet, in Members) bool {
	if m.Direction != p.Direction || m.Ethertype == IPv4 != p.Remote.Is4() {
		return false
	}
	if m.Protocol >= 0 && (m.Protocol != int(p.Protocol) || p.Selector < m.Lo || p.Selector > m.Hi) {
		return false
	}
	switch {
	case m.Remote.Prefix.IsValid():
		return m.Remote.Prefix.Contains(p.Remote)
	case m.Remote.Group != "":
		return in.InGroup(m.Remote.Group, p.Remote)
	case m.Remote.AddressGroup != "":
		return in.InAddressGroup(m.Remote.AddressGroup, p.Remote)
	}
	return true
}

// Allowed reports whether one of matches allows p, and the first that does.
func Allowed(matches []Match, p Packet, in Members) (Match, bool) {
	for _, m := range matches {
		if m.Matches(p, in) {
			return m, true
		}
	}
	return Match{}, false
}

// String is m as a person reads it: "ingress IPv4 tcp 80-90 from 10.0.0.0/8".
func (m Match) String() string {
	var b strings.Builder
	b.WriteString(string(m.Direction) + " " + string(m.Ethertype))
	if m.Protocol >= 0 {
		b.WriteString(" " + canonicalProtocol(strconv.Itoa(m.Protocol), m.Ethertype))
		switch {
		case m.Whole():
		case isICMP(m.Protocol) && m.Lo&0xff == 0 && m.Hi&0xff == 0xff && m.Lo>>8 == m.Hi>>8:
			b.WriteString(" type " + strconv.Itoa(int(m.Lo>>8)))
		case isICMP(m.Protocol) && m.Lo == m.Hi:
			b.WriteString(" type " + strconv.Itoa(int(m.Lo>>8)) + " code " + strconv.Itoa(int(m.Lo&0xff)))
		case isICMP(m.Protocol):
			b.WriteString(" type/code " + selectorText(m.Lo) + " to " + selectorText(m.Hi))
		case m.Lo == m.Hi:
			b.WriteString(" " + strconv.Itoa(int(m.Lo)))
		default:
			b.WriteString(" " + strconv.Itoa(int(m.Lo)) + "-" + strconv.Itoa(int(m.Hi)))
		}
	}
	if s := m.Remote.String(); s != "any" {
		b.WriteString(map[Direction]string{Ingress: " from ", Egress: " to "}[m.Direction] + s)
	}
	return b.String()
}

func selectorText(s uint16) string {
	return strconv.Itoa(int(s>>8)) + "/" + strconv.Itoa(int(s&0xff))
}

// String is "any", the prefix, "group ID" or "address group ID".
func (r Remote) String() string {
	switch {
	case r.Prefix.IsValid():
		return r.Prefix.String()
	case r.Group != "":
		return "group " + r.Group
	case r.AddressGroup != "":
		return "address group " + r.AddressGroup
	}
	return "any"
}

// Match returns what one valid rule allows by itself.
func (r Rule) Match() Match {
	r = r.Canonical()
	n, _ := ProtocolNumber(r.Protocol, r.Ethertype)
	m := Match{
		Direction: r.Direction, Ethertype: r.Ethertype, Protocol: n, Hi: 0xffff,
		Remote: Remote{Prefix: r.RemotePrefix, Group: r.RemoteGroup, AddressGroup: r.RemoteAddressGroup},
	}
	switch lo, hi := r.PortMin, r.PortMax; {
	case isICMP(n):
		if lo != nil {
			m.Lo, m.Hi = *lo<<8, *lo<<8|0xff
			if hi != nil {
				m.Lo |= *hi
				m.Hi = m.Lo
			}
		}
	default:
		if lo != nil {
			m.Lo = *lo
		}
		if hi != nil {
			m.Hi = *hi
		}
	}
	return m
}

// Compile turns valid rules into matches that allow the same packets:
//
//   - Ranges of the same direction, version, protocol and remote that touch
//     or overlap are one; what another match covers whole is left out.
//   - Matches with prefixes are disjoint for each direction, version and
//     protocol number, as interval sets and conjunctive flows need them.
//   - The order is fixed, and widest first: any remote, prefixes, address
//     groups, groups; in each any protocol first, then by number, range.
//
// Equal sets of rules, in whatever order and however often each, compile to
// equal matches.
func Compile(rules []Rule) []Match {
	type key struct {
		d Direction
		e Ethertype
		p int
		r Remote
	}
	ranges := make(map[key][]span)
	for _, r := range rules {
		m := r.Match()
		k := key{m.Direction, m.Ethertype, m.Protocol, m.Remote}
		ranges[k] = append(ranges[k], span{int(m.Lo), int(m.Hi)})
	}
	for k, s := range ranges {
		ranges[k] = union(s)
	}
	// All keys whose remote holds k's, widest first, k itself not among them.
	wider := func(k key) []key {
		var out []key
		add := func(r Remote) {
			out = append(out, key{k.d, k.e, -1, r}, key{k.d, k.e, k.p, r})
		}
		add(Remote{})
		if q := k.r.Prefix; q.IsValid() {
			for bits := 1; bits <= q.Bits(); bits++ {
				up, _ := q.Addr().Prefix(bits)
				add(Remote{Prefix: up})
			}
		} else if k.r != (Remote{}) {
			add(k.r)
		}
		return slices.DeleteFunc(out, func(o key) bool { return o == k })
	}
	var out []Match
	for k, mine := range ranges {
		left := mine
		for _, w := range wider(k) {
			if theirs := ranges[w]; theirs != nil {
				if rest := subtract(left, theirs); k.r.Prefix.IsValid() || len(rest) == 0 {
					left = rest
				}
			}
		}
		for _, s := range left {
			out = append(out, Match{k.d, k.e, k.p, uint16(s.lo), uint16(s.hi), k.r})
		}
	}
	slices.SortFunc(out, compareMatch)
	return out
}

func compareMatch(a, b Match) int {
	kind := func(r Remote) int {
		switch {
		case r.Group != "":
			return 3
		case r.AddressGroup != "":
			return 2
		case r.Prefix.IsValid():
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.Direction, b.Direction),
		cmp.Compare(a.Ethertype, b.Ethertype),
		cmp.Compare(kind(a.Remote), kind(b.Remote)),
		cmp.Compare(a.Remote.Group, b.Remote.Group),
		cmp.Compare(a.Remote.AddressGroup, b.Remote.AddressGroup),
		cmp.Compare(a.Protocol, b.Protocol),
		comparePrefix(a.Remote.Prefix, b.Remote.Prefix),
		cmp.Compare(a.Lo, b.Lo),
	)
}

// span is an inclusive range.
type span struct{ lo, hi int }

// union sorts s and joins what overlaps or touches.
func union(s []span) []span {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && x.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, x.hi)
		} else {
			out = append(out, x)
		}
	}
	return out
}

// subtract returns a without b; both are unions.
func subtract(a, b []span) []span {
	var out []span
	for _, x := range a {
		for _, y := range b {
			if y.hi < x.lo {
				continue
			}
			if y.lo > x.hi {
				break
			}
			if y.lo > x.lo {
				out = append(out, span{x.lo, y.lo - 1})
			}
			x.lo = y.hi + 1
		}
		if x.lo <= x.hi {
			out = append(out, x)
		}
	}
	return out
}
