package ovnsecgroup

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

// plain names rows by their ids.
type plain struct{}

func (plain) Symbol(kind, id string) string {
	return map[string]string{kindGroup: "pg_", kindMembers: "m_", kindAddresses: "ag_", kindFilter: "f_"}[kind] + id
}

func num(n uint16) *uint16 { return &n }

func TestMatchText(t *testing.T) {
	rule := func(d secgroup.Direction, e secgroup.Ethertype, f func(*secgroup.Rule)) secgroup.Rule {
		r := secgroup.Rule{ID: "r", Direction: d, Ethertype: e}
		if f != nil {
			f(&r)
		}
		return r
	}
	ports := func(proto string, lo, hi *uint16) func(*secgroup.Rule) {
		return func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = proto, lo, hi }
	}
	const in, out, v4, v6 = secgroup.Ingress, secgroup.Egress, secgroup.IPv4, secgroup.IPv6
	for _, c := range []struct {
		rule secgroup.Rule
		want string
	}{
		{rule(in, v4, nil), "outport == @pg_x && ip4"},
		{rule(out, v6, nil), "inport == @pg_x && ip6"},
		{rule(in, v4, ports("tcp", num(22), num(22))), "outport == @pg_x && ip4 && tcp && tcp.dst == 22"},
		{rule(in, v4, ports("tcp", nil, nil)), "outport == @pg_x && ip4 && tcp"},
		{rule(in, v4, ports("udp", num(1000), num(2000))), "outport == @pg_x && ip4 && udp && udp.dst >= 1000 && udp.dst <= 2000"},
		{rule(in, v4, ports("tcp", num(1024), nil)), "outport == @pg_x && ip4 && tcp && tcp.dst >= 1024"},
		{rule(in, v4, ports("tcp", nil, num(1023))), "outport == @pg_x && ip4 && tcp && tcp.dst <= 1023"},
		{rule(in, v4, ports("sctp", num(9), num(9))), "outport == @pg_x && ip4 && sctp && sctp.dst == 9"},
		{rule(in, v4, ports("icmp", nil, nil)), "outport == @pg_x && ip4 && icmp4"},
		{rule(in, v4, ports("icmp", num(8), nil)), "outport == @pg_x && ip4 && icmp4 && icmp4.type == 8"},
		{rule(in, v4, ports("icmp", num(8), num(0))), "outport == @pg_x && ip4 && icmp4 && icmp4.type == 8 && icmp4.code == 0"},
		{rule(in, v6, ports("58", num(128), nil)), "outport == @pg_x && ip6 && icmp6 && icmp6.type == 128"},
		{rule(in, v6, ports("icmp", num(128), nil)), "outport == @pg_x && ip6 && icmp6 && icmp6.type == 128"},
		{rule(in, v4, ports("gre", nil, nil)), "outport == @pg_x && ip4 && ip.proto == 47"},
		{rule(in, v4, func(r *secgroup.Rule) { r.Protocol, r.RemotePrefix = "tcp", netip.MustParsePrefix("10.1.2.3/8") }), "outport == @pg_x && ip4 && ip4.src == 10.0.0.0/8 && tcp"},
		{rule(out, v4, func(r *secgroup.Rule) { r.RemotePrefix = netip.MustParsePrefix("10.0.0.0/8") }), "inport == @pg_x && ip4 && ip4.dst == 10.0.0.0/8"},
		{rule(in, v4, func(r *secgroup.Rule) { r.RemoteGroup = "y" }), "outport == @pg_x && ip4 && ip4.src == $m_y_ip4"},
		{rule(out, v6, func(r *secgroup.Rule) { r.RemoteGroup = "y" }), "inport == @pg_x && ip6 && ip6.dst == $m_y_ip6"},
		{rule(in, v4, func(r *secgroup.Rule) { r.RemoteAddressGroup = "z" }), "outport == @pg_x && ip4 && ip4.src == $ag_z_ip4"},
	} {
		got, err := matchText(plain{}, "pg_x", c.rule.Match())
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}

func TestRefusedByName(t *testing.T) {
	for _, proto := range []string{"udplite", "dccp"} {
		_, err := groupACLs(plain{}, secgroup.Group{ID: "g", Rules: []secgroup.Rule{{ID: "r", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: proto, PortMin: num(1), PortMax: num(2)}}})
		require.ErrorIs(t, err, vnet.ErrUnsupported)
		require.ErrorContains(t, err, proto)
	}
	_, err := groupACLs(plain{}, secgroup.Group{ID: "g", Rules: []secgroup.Rule{{ID: "r", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udplite"}}})
	require.NoError(t, err, "whole protocols are numbers")
}

// TestICMP: matches of ICMP are all, of one type, or of one type and code, and
// allow what the compiled rules allow.
func TestICMP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := secgroup.Group{ID: "g"}
		for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
			r := secgroup.Rule{ID: fmt.Sprint("r", i), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: rapid.SampledFrom([]string{"", "icmp", "icmp", "icmp"}).Draw(t, "protocol")}
			if r.Protocol != "" && rapid.Bool().Draw(t, "type") {
				r.PortMin = num(uint16(rapid.IntRange(7, 10).Draw(t, "type")))
				if rapid.Bool().Draw(t, "code") {
					r.PortMax = num(uint16(rapid.SampledFrom([]int{0, 1, 2, 255}).Draw(t, "code")))
				}
			}
			if bits := rapid.SampledFrom([]int{-1, 8, 24, 32}).Draw(t, "bits"); bits >= 0 {
				r.RemotePrefix = netip.PrefixFrom(netip.MustParseAddr("10.1.2.3"), bits)
			}
			g.Rules = append(g.Rules, r)
		}
		matches := matchesOf(g)
		texts := map[string]bool{}
		for _, m := range matches {
			s, err := matchText(plain{}, "pg_x", m)
			require.NoError(t, err)
			require.False(t, texts[s], "%s twice", s)
			require.NotContains(t, s, ">")
			texts[s] = true
		}
		for _, from := range []string{"10.1.2.3", "10.1.2.9", "10.9.9.9", "192.0.2.1"} {
			for typ := uint16(6); typ < 12; typ++ {
				for _, code := range []uint16{0, 1, 2, 3, 254, 255} {
					p := secgroup.Packet{Direction: secgroup.Ingress, Remote: netip.MustParseAddr(from), Protocol: 1, Selector: typ<<8 | code}
					_, want := secgroup.Allowed(secgroup.Compile(g.Rules), p, nil)
					if _, got := secgroup.Allowed(matches, p, nil); got != want {
						t.Fatalf("%v: allowed %t, want %t", p, got, want)
					}
				}
			}
		}
	})
}

func TestEveryRuleHasACLs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := secgroup.Group{ID: "g"}
		for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
			r := secgroup.Rule{ID: fmt.Sprint("r", i), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: rapid.SampledFrom([]string{"", "tcp", "udp"}).Draw(t, "protocol")}
			if r.Protocol != "" && rapid.Bool().Draw(t, "ports") {
				lo := uint16(rapid.IntRange(1, 6).Draw(t, "lo"))
				r.PortMin, r.PortMax = num(lo), num(lo+uint16(rapid.IntRange(0, 3).Draw(t, "more")))
			}
			if bits := rapid.IntRange(-1, 32).Draw(t, "bits"); bits >= 0 {
				r.RemotePrefix = netip.PrefixFrom(netip.MustParseAddr("10.1.2.3"), bits)
			}
			g.Rules = append(g.Rules, r)
		}
		list, err := groupACLs(plain{}, g)
		require.NoError(t, err)
		carried := map[string]bool{}
		for _, a := range list {
			ids := strings.Fields(a.row.ExternalIDs[keyRules])
			require.NotEmpty(t, ids, a.id)
			for _, id := range ids {
				carried[id] = true
			}
		}
		for _, r := range g.Rules {
			require.True(t, carried[r.ID], "rule %s: %s", r.ID, r.Match())
		}
	})
}

func TestPortSecurity(t *testing.T) {
	m, other := vnet.MustParseMAC("fa:16:3e:aa:00:07"), vnet.MustParseMAC("00:00:5e:00:01:01")
	p := secgroup.Port{ID: "P", MAC: m, FixedIPs: []netip.Addr{netip.MustParseAddr("10.1.0.7")}}
	require.Equal(t, []string{"fa:16:3e:aa:00:07 0.0.0.0 10.1.0.7 fe80::f816:3eff:feaa:7"}, portSecurity(p))
	require.False(t, unknown(p))
	p.AllowedPairs = []secgroup.AddressPair{{Prefix: netip.MustParsePrefix("10.9.0.0/24")}}
	require.False(t, unknown(p))
	p.AllowedPairs = append(p.AllowedPairs, secgroup.AddressPair{MAC: other, Prefix: netip.MustParsePrefix("10.1.0.99/32")})
	require.True(t, unknown(p))
	require.Equal(t, []string{
		"00:00:5e:00:01:01 0.0.0.0 10.1.0.99 fe80::200:5eff:fe00:101",
		"fa:16:3e:aa:00:07 0.0.0.0 10.1.0.7 10.9.0.0/24 fe80::f816:3eff:feaa:7",
	}, portSecurity(p))
	p.DisablePortSecurity = true
	require.Empty(t, portSecurity(p))
	require.True(t, unknown(p))
}
