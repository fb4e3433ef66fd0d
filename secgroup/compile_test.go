package secgroup_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/secgroup"
)

func port(n uint16) *uint16 { return &n }

func TestCompile(t *testing.T) {
	pfx := netip.MustParsePrefix
	cases := []struct {
		name  string
		rules []secgroup.Rule
		want  []string
	}{
		{"nothing", nil, nil},
		{"duplicates are one", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(80)},
			{ID: "b", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "6", PortMin: port(80), PortMax: port(80)},
		}, []string{"ingress IPv4 tcp 80"}},
		{"ranges that touch are one", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(89)},
			{ID: "b", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(90), PortMax: port(99)},
			{ID: "c", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(101), PortMax: port(101)},
		}, []string{"ingress IPv4 tcp 80-99", "ingress IPv4 tcp 101"}},
		{"any covers all", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Egress, Ethertype: secgroup.IPv6},
			{ID: "b", Direction: secgroup.Egress, Ethertype: secgroup.IPv6, Protocol: "udp", RemotePrefix: pfx("2001:db8::/32")},
			{ID: "c", Direction: secgroup.Egress, Ethertype: secgroup.IPv6, RemoteGroup: "g"},
			{ID: "d", Direction: secgroup.Egress, Ethertype: secgroup.IPv4, RemotePrefix: pfx("0.0.0.0/0")},
		}, []string{"egress IPv4", "egress IPv6"}},
		{"prefixes are disjoint", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(80), RemotePrefix: pfx("10.0.0.0/8")},
			{ID: "b", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(79), PortMax: port(81), RemotePrefix: pfx("10.1.2.3/16")},
		}, []string{"ingress IPv4 tcp 80 from 10.0.0.0/8", "ingress IPv4 tcp 79 from 10.1.0.0/16", "ingress IPv4 tcp 81 from 10.1.0.0/16"}},
		{"icmp", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp", PortMin: port(8)},
			{ID: "b", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "icmp", PortMin: port(1), PortMax: port(4)},
			{ID: "c", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp", PortMin: port(8), PortMax: port(0)},
		}, []string{"ingress IPv4 icmp type 8", "ingress IPv6 icmpv6 type 1 code 4"}},
		{"remotes in order", []secgroup.Rule{
			{ID: "a", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "sctp", RemoteGroup: "g"},
			{ID: "b", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "47", RemoteAddressGroup: "ag"},
			{ID: "c", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: port(1024), RemotePrefix: pfx("192.0.2.7/32")},
			{ID: "d", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMax: port(1023)},
		}, []string{"ingress IPv4 tcp 0-1023", "ingress IPv4 udp 1024-65535 from 192.0.2.7/32", "ingress IPv4 gre from address group ag", "ingress IPv4 sctp from group g"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range c.rules {
				require.NoError(t, r.Validate())
			}
			var got []string
			for _, m := range secgroup.Compile(c.rules) {
				got = append(got, m.String())
			}
			require.Equal(t, c.want, got)
		})
	}
}

// slow decides as the contract reads, rule by rule.
func slow(rules []secgroup.Rule, p secgroup.Packet, in secgroup.Members) bool {
	for _, r := range rules {
		if r.Direction != p.Direction {
			continue
		}
		if (r.Ethertype == secgroup.IPv4) != p.Remote.Is4() {
			continue
		}
		if r.Protocol != "" {
			n := map[string]uint8{"tcp": 6, "udp": 17, "icmpv6": 58, "icmp": 1, "gre": 47, "89": 89, "0": 0}[r.Protocol]
			if r.Protocol == "icmp" && r.Ethertype == secgroup.IPv6 {
				n = 58
			}
			if n != p.Protocol {
				continue
			}
			if n == 1 || n == 58 {
				if r.PortMin != nil && uint8(*r.PortMin) != uint8(p.Selector>>8) {
					continue
				}
				if r.PortMax != nil && uint8(*r.PortMax) != uint8(p.Selector) {
					continue
				}
			} else {
				if r.PortMin != nil && p.Selector < *r.PortMin {
					continue
				}
				if r.PortMax != nil && p.Selector > *r.PortMax {
					continue
				}
			}
		}
		if r.RemotePrefix.IsValid() && !r.RemotePrefix.Contains(p.Remote) {
			continue
		}
		if r.RemoteGroup != "" && !in.InGroup(r.RemoteGroup, p.Remote) {
			continue
		}
		if r.RemoteAddressGroup != "" && !in.InAddressGroup(r.RemoteAddressGroup, p.Remote) {
			continue
		}
		return true
	}
	return false
}

type fixedMembers struct{}

func (fixedMembers) InGroup(id string, a netip.Addr) bool {
	b := a.AsSlice()
	return id == "g1" && b[len(b)-1]%2 == 0 || id == "g2" && b[len(b)-1]%3 == 0
}

func (fixedMembers) InAddressGroup(_ string, a netip.Addr) bool {
	b := a.AsSlice()
	return b[len(b)-1] < 4
}

func addrGen(v4 bool) *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		hi, lo := byte(rapid.IntRange(0, 3).Draw(t, "hi")), byte(rapid.IntRange(0, 7).Draw(t, "lo"))
		if v4 {
			return netip.AddrFrom4([4]byte{10, hi, 0, lo})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, hi, 15: lo})
	})
}

func ruleGen() *rapid.Generator[secgroup.Rule] {
	return rapid.Custom(func(t *rapid.T) secgroup.Rule {
		r := secgroup.Rule{
			Direction: rapid.SampledFrom([]secgroup.Direction{secgroup.Ingress, secgroup.Egress}).Draw(t, "direction"),
			Ethertype: rapid.SampledFrom([]secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6}).Draw(t, "ethertype"),
		}
		v4 := r.Ethertype == secgroup.IPv4
		protos := []string{"", "tcp", "udp", "icmp", "gre", "89", "0"}
		if !v4 {
			protos = append(protos, "icmpv6")
		}
		r.Protocol = rapid.SampledFrom(protos).Draw(t, "protocol")
		small := rapid.Custom(func(t *rapid.T) *uint16 { return port(uint16(rapid.IntRange(0, 12).Draw(t, "n"))) })
		switch r.Protocol {
		case "tcp", "udp":
			if rapid.Bool().Draw(t, "min") {
				r.PortMin = small.Draw(t, "lo")
			}
			if rapid.Bool().Draw(t, "max") {
				r.PortMax = small.Draw(t, "hi")
			}
			if r.PortMin != nil && r.PortMax != nil && *r.PortMin > *r.PortMax {
				r.PortMin, r.PortMax = r.PortMax, r.PortMin
			}
		case "icmp", "icmpv6":
			if rapid.Bool().Draw(t, "type?") {
				r.PortMin = small.Draw(t, "type")
				if rapid.Bool().Draw(t, "code?") {
					r.PortMax = small.Draw(t, "code")
				}
			}
		}
		switch rapid.IntRange(0, 5).Draw(t, "remote") {
		case 0:
			r.RemoteGroup = rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "group")
		case 1:
			r.RemoteAddressGroup = "ag"
		case 2, 3, 4:
			a := addrGen(v4).Draw(t, "addr")
			bits := []int{0, 8, 15, 16, 29, 32}
			if !v4 {
				bits = []int{0, 32, 47, 48, 126, 128}
			}
			r.RemotePrefix = netip.PrefixFrom(a, rapid.SampledFrom(bits).Draw(t, "bits"))
		}
		return r
	})
}

func rulesGen() *rapid.Generator[[]secgroup.Rule] {
	return rapid.Custom(func(t *rapid.T) []secgroup.Rule {
		rules := rapid.SliceOfN(ruleGen(), 0, 12).Draw(t, "rules")
		for i := range rules {
			rules[i].ID = fmt.Sprintf("r%d", i)
		}
		return rules
	})
}

func TestCompileAgainstSlow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rulesGen().Draw(t, "rules")
		for _, r := range rules {
			if err := r.Validate(); err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
		}
		matches := secgroup.Compile(rules)
		for range 40 {
			p := secgroup.Packet{
				Direction: rapid.SampledFrom([]secgroup.Direction{secgroup.Ingress, secgroup.Egress}).Draw(t, "direction"),
				Remote:    addrGen(rapid.Bool().Draw(t, "v4")).Draw(t, "remote"),
				Protocol:  rapid.SampledFrom([]uint8{0, 1, 6, 17, 47, 58, 89, 200}).Draw(t, "protocol"),
			}
			if _, has := secgroup.HasSelector(int(p.Protocol)); has {
				p.Selector = uint16(rapid.IntRange(0, 14).Draw(t, "selector"))
				if p.Protocol == 1 || p.Protocol == 58 {
					p.Selector = p.Selector<<8 | uint16(rapid.IntRange(0, 14).Draw(t, "code"))
				}
			}
			_, got := secgroup.Allowed(matches, p, fixedMembers{})
			if want := slow(rules, p, fixedMembers{}); got != want {
				t.Fatalf("packet %+v: compiled says %t, the rules say %t; matches %v", p, got, want, matches)
			}
		}
		// Disjoint prefixes, and the same whatever the order and repetition.
		for i, a := range matches {
			for _, b := range matches[:i] {
				if a.Direction == b.Direction && a.Ethertype == b.Ethertype && a.Protocol == b.Protocol &&
					a.Remote.Prefix.IsValid() && b.Remote.Prefix.IsValid() &&
					a.Remote.Prefix.Overlaps(b.Remote.Prefix) && a.Lo <= b.Hi && b.Lo <= a.Hi {
					t.Fatalf("%v and %v overlap", a, b)
				}
			}
		}
		again := slices.Concat(rules, rules)
		slices.Reverse(again)
		if !slices.Equal(secgroup.Compile(again), matches) {
			t.Fatalf("order or repetition matters: %v", matches)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	var rules []secgroup.Rule
	for i := range 1000 {
		rules = append(rules, secgroup.Rule{
			ID: fmt.Sprint(i), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp",
			PortMin: port(uint16(i * 7)), PortMax: port(uint16(i * 7)),
			RemotePrefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 4), 0}), 24),
		})
	}
	for b.Loop() {
		if len(secgroup.Compile(rules)) != 1000 {
			b.Fatal("lost some")
		}
	}
}

func TestSelector(t *testing.T) {
	sel, ok := secgroup.Selector(6, []byte{0, 1, 0, 80})
	require.True(t, ok)
	require.EqualValues(t, 80, sel)
	sel, ok = secgroup.Selector(58, []byte{128, 0})
	require.True(t, ok)
	require.EqualValues(t, 128<<8, sel)
	_, ok = secgroup.Selector(17, []byte{0, 1})
	require.False(t, ok)
	_, ok = secgroup.Selector(47, nil)
	require.True(t, ok)
}

func TestMatchString(t *testing.T) {
	m := secgroup.Rule{Direction: secgroup.Egress, Ethertype: secgroup.IPv6, Protocol: "58", PortMin: port(128), RemoteGroup: "g"}.Match()
	require.Equal(t, "egress IPv6 icmpv6 type 128 to group g", m.String())
	require.False(t, strings.Contains(m.String(), "any"))
}
