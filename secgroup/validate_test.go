package secgroup_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

// fields lists "field: reason" of every FieldError in err.
func fields(err error) []string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		var f *vnet.FieldError
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
		} else if errors.As(err, &f) {
			out = append(out, f.Field)
		}
	}
	walk(err)
	return out
}

func TestValidateRule(t *testing.T) {
	ok := secgroup.Rule{ID: "r", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4}
	with := func(f func(*secgroup.Rule)) secgroup.Rule { r := ok; f(&r); return r }
	cases := []struct {
		name string
		rule secgroup.Rule
		want []string
	}{
		{"any", ok, nil},
		{"no id", with(func(r *secgroup.Rule) { r.ID = "" }), []string{"id"}},
		{"direction", with(func(r *secgroup.Rule) { r.Direction = "in" }), []string{"direction"}},
		{"ethertype", with(func(r *secgroup.Rule) { r.Ethertype = "ipv4" }), []string{"ethertype"}},
		{"unknown protocol", with(func(r *secgroup.Rule) { r.Protocol = "tpc" }), []string{"protocol"}},
		{"protocol number too large", with(func(r *secgroup.Rule) { r.Protocol = "256" }), []string{"protocol"}},
		{"protocol in capitals", with(func(r *secgroup.Rule) { r.Protocol = "TCP" }), nil},
		{"any by name", with(func(r *secgroup.Rule) { r.Protocol = "any" }), nil},
		{"protocol of IPv6", with(func(r *secgroup.Rule) { r.Protocol = "ipv6-icmp" }), []string{"protocol"}},
		{"6in4", with(func(r *secgroup.Rule) { r.Protocol = "ipv6-encap" }), nil},
		{"icmp in IPv6", with(func(r *secgroup.Rule) { r.Ethertype, r.Protocol, r.PortMin = secgroup.IPv6, "icmp", port(128) }), nil},
		{"ports the wrong way round", with(func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = "tcp", port(90), port(80) }), []string{"port_range_min"}},
		{"open ended", with(func(r *secgroup.Rule) { r.Protocol, r.PortMin = "tcp", port(1024) }), nil},
		{"ports of any", with(func(r *secgroup.Rule) { r.PortMin = port(80) }), []string{"port_range_min"}},
		{"ports of gre", with(func(r *secgroup.Rule) { r.Protocol, r.PortMax = "gre", port(80) }), []string{"port_range_max"}},
		{"icmp type too large", with(func(r *secgroup.Rule) { r.Protocol, r.PortMin = "icmp", port(256) }), []string{"port_range_min"}},
		{"icmp code too large", with(func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = "icmp", port(3), port(256) }), []string{"port_range_max"}},
		{"icmp code below type", with(func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = "icmp", port(8), port(0) }), nil},
		{"icmp code alone", with(func(r *secgroup.Rule) { r.Protocol, r.PortMax = "icmp", port(0) }), []string{"port_range_max"}},
		{"prefix of the other family", with(func(r *secgroup.Rule) { r.RemotePrefix = netip.MustParsePrefix("2001:db8::/32") }), []string{"remote_ip_prefix"}},
		{"prefix in disguise", with(func(r *secgroup.Rule) { r.RemotePrefix = netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 128) }), []string{"remote_ip_prefix", "remote_ip_prefix"}},
		{"two remotes", with(func(r *secgroup.Rule) {
			r.RemotePrefix, r.RemoteGroup = netip.MustParsePrefix("10.0.0.0/8"), "g"
		}), []string{"remote_group_id"}},
		{"several at once", secgroup.Rule{Protocol: "x"}, []string{"id", "direction", "ethertype", "protocol"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, fields(c.rule.Validate())) })
	}
}

func TestValidateState(t *testing.T) {
	mac := vnet.MustParseMAC("02:00:00:00:00:01")
	s := secgroup.State{
		Groups: []secgroup.Group{
			{ID: "a", Rules: []secgroup.Rule{
				{ID: "r", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, RemoteGroup: "gone"},
				{ID: "r", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, RemoteAddressGroup: "gone"},
			}},
			{ID: "a"},
		},
		AddressGroups: []secgroup.AddressGroup{{ID: "x", Prefixes: []netip.Prefix{{}}}},
		Ports: []secgroup.Port{
			{ID: "p", NetworkID: "n", MAC: mac, Groups: []string{"a", "missing", "a"}},
			{ID: "p", NetworkID: "", FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.1")}},
			{ID: "q", NetworkID: "n", MAC: mac, Groups: []string{"a"}, DisablePortSecurity: true, AllowedPairs: []secgroup.AddressPair{{Prefix: netip.MustParsePrefix("10.0.0.0/24")}}},
		},
	}
	require.ElementsMatch(t, []string{
		"groups[1].id", "groups[0].rules[1].id", "groups[0].rules[0].remote_group_id", "groups[0].rules[1].remote_address_group_id",
		"address_groups[0].addresses[0]",
		"ports[0].security_groups[2]", "ports[0].security_groups[1]",
		"ports[1].id", "ports[1].network_id", "ports[1].mac", "ports[1].fixed_ips[1]",
		"ports[2].security_groups", "ports[2].allowed_address_pairs",
	}, fields(s.Validate()))
	require.NoError(t, secgroup.State{}.Validate())
}

func TestEqualAndClone(t *testing.T) {
	a := secgroup.Group{ID: "g", Rules: []secgroup.Rule{
		{ID: "2", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "TCP", PortMin: port(1), PortMax: port(2), RemotePrefix: netip.MustParsePrefix("10.1.2.3/8")},
		{ID: "1", Direction: secgroup.Egress, Ethertype: secgroup.IPv6, Protocol: "58", RemotePrefix: netip.MustParsePrefix("::/0")},
	}}
	b := secgroup.Group{ID: "g", Rules: []secgroup.Rule{
		{ID: "1", Direction: secgroup.Egress, Ethertype: secgroup.IPv6, Protocol: "icmp"},
		{ID: "2", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "6", PortMin: port(1), PortMax: port(2), RemotePrefix: netip.MustParsePrefix("10.0.0.0/8")},
	}}
	require.True(t, a.Equal(b))
	c := a.Clone()
	*c.Rules[0].PortMin = 9
	require.EqualValues(t, 1, *a.Rules[0].PortMin)
	require.False(t, a.Equal(c))

	mac := vnet.MustParseMAC("02:00:00:00:00:01")
	p := secgroup.Port{ID: "p", NetworkID: "n", MAC: mac, Groups: []string{"b", "a"}, AllowedPairs: []secgroup.AddressPair{{Prefix: netip.MustParsePrefix("10.0.0.9/24")}}}
	q := secgroup.Port{ID: "p", NetworkID: "n", MAC: mac, Groups: []string{"a", "b"}, AllowedPairs: []secgroup.AddressPair{{MAC: mac, Prefix: netip.MustParsePrefix("10.0.0.0/24")}}}
	require.True(t, p.Equal(q))
	r := p.Clone()
	r.Groups[0] = "c"
	require.Equal(t, "b", p.Groups[0])
}

func TestOwnAddresses(t *testing.T) {
	p := secgroup.Port{
		MAC: vnet.MustParseMAC("02:00:00:00:00:01"), FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		AllowedPairs: []secgroup.AddressPair{{MAC: vnet.MustParseMAC("02:00:00:00:00:02"), Prefix: netip.MustParsePrefix("10.9.0.0/16")}},
	}
	var got []string
	for _, o := range p.Own() {
		got = append(got, o.Prefix.String()+" "+o.MAC.String())
	}
	require.Equal(t, []string{
		"10.0.0.1/32 02:00:00:00:00:01", "fe80::ff:fe00:1/128 02:00:00:00:00:01",
		"10.9.0.0/16 02:00:00:00:00:02", "fe80::ff:fe00:2/128 02:00:00:00:00:02",
	}, got)
	p.DisablePortSecurity = true
	require.Nil(t, p.Own())
}

func TestDiff(t *testing.T) {
	mac := vnet.MustParseMAC("02:00:00:00:00:01")
	old := secgroup.State{
		Groups: []secgroup.Group{secgroup.DefaultGroup("d"), {ID: "web", Rules: []secgroup.Rule{
			{ID: "r1", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(80)},
			{ID: "r2", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(443), PortMax: port(443)},
		}}},
		Ports: []secgroup.Port{{ID: "p", NetworkID: "n", MAC: mac, Groups: []string{"d", "web"}}, {ID: "q", NetworkID: "n", MAC: mac, Groups: []string{"d"}}},
	}
	want := old.Clone()
	want.Groups[1].Rules = []secgroup.Rule{
		{ID: "r2", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(8443), PortMax: port(8443)},
		{ID: "r3", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp"},
	}
	want.Ports = want.Ports[:1]
	want.Ports[0].FixedIPs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	want.Ports[0].Groups = []string{"web"}
	plan := vnet.Plan{Changes: secgroup.Diff(old, want)}
	require.Equal(t, `~ secgroup group web  (impact: some)
      rule r2: ingress IPv4 tcp 443 -> ingress IPv4 tcp 8443
      rule r3: new, ingress IPv4 icmp
      rule r1: gone, ingress IPv4 tcp 80
~ secgroup port p  (impact: some)
      fixed_ips: +10.0.0.1
      security_groups: -d
- secgroup port q  (impact: object)
0 to create, 2 to update, 1 to delete
`, plan.String())
	require.Empty(t, secgroup.Diff(want, want))
}
