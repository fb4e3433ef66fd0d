package nftsecgroup

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

// text prints chains and sets as a person reads them.
func text(chains []nft.Chain, sets []*setImage) string {
	var b strings.Builder
	for _, c := range chains {
		b.WriteString(chainText(c))
		if c.Base != nil {
			fmt.Fprintf(&b, " (%s %d)", c.Base.Hook, c.Base.Priority)
		}
		b.WriteString("\n")
		for _, r := range c.Rules {
			b.WriteString("    " + ruleText(r) + "\n")
		}
	}
	for _, s := range sets {
		b.WriteString(setText(s.set))
		if s.set.Interval {
			b.WriteString(" (interval)")
		}
		b.WriteString("\n")
		for _, k := range sortedKeys(s.elems) {
			b.WriteString("    " + elementText(s.elems[k]) + "\n")
		}
	}
	return b.String()
}

func port(n uint16) *uint16 { return &n }

// textState has one of each kind of rule.
func textState() secgroup.State {
	pfx := netip.MustParsePrefix
	in, out := secgroup.Ingress, secgroup.Egress
	return secgroup.State{
		Groups: []secgroup.Group{
			secgroup.DefaultGroup("default"),
			{ID: "web", Rules: []secgroup.Rule{
				{ID: "1", Direction: in, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(80)},
				{ID: "2", Direction: in, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(443), PortMax: port(443)},
				{ID: "3", Direction: in, Ethertype: secgroup.IPv6, Protocol: "tcp", PortMin: port(80), PortMax: port(90)},
				{ID: "4", Direction: in, Ethertype: secgroup.IPv4, Protocol: "icmp", PortMin: port(8)},
				{ID: "5", Direction: in, Ethertype: secgroup.IPv6, Protocol: "icmp", PortMin: port(1)},
				{ID: "6", Direction: in, Ethertype: secgroup.IPv6, Protocol: "icmp", PortMin: port(128), PortMax: port(0)},
				{ID: "7", Direction: in, Ethertype: secgroup.IPv4, Protocol: "gre"},
				{ID: "8", Direction: in, Ethertype: secgroup.IPv4, Protocol: "esp"},
				{ID: "9", Direction: in, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: port(53), PortMax: port(53), RemotePrefix: pfx("10.0.0.0/8")},
				{ID: "a", Direction: in, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: port(50), PortMax: port(60), RemotePrefix: pfx("10.1.0.0/16")},
				{ID: "b", Direction: in, Ethertype: secgroup.IPv4, Protocol: "icmp", PortMin: port(13), RemotePrefix: pfx("10.2.0.0/16")},
				{ID: "c", Direction: in, Ethertype: secgroup.IPv4, RemotePrefix: pfx("192.0.2.1/32")},
				{ID: "d", Direction: out, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(5432), PortMax: port(5432), RemoteGroup: "db"},
				{ID: "e", Direction: out, Ethertype: secgroup.IPv6, RemoteAddressGroup: "office"},
			}},
			{ID: "fast", Stateless: true, Rules: []secgroup.Rule{
				{ID: "1", Direction: in, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: port(53), PortMax: port(53)},
				{ID: "2", Direction: out, Ethertype: secgroup.IPv4, Protocol: "udp"},
			}},
			{ID: "db"},
		},
		AddressGroups: []secgroup.AddressGroup{{ID: "office", Prefixes: []netip.Prefix{pfx("198.51.100.0/24"), pfx("2001:db8::/32"), pfx("2001:db8:1::/48")}}},
		Ports: []secgroup.Port{
			{ID: "p1", NetworkID: "n", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}, Groups: []string{"default", "web"}},
			{ID: "p2", NetworkID: "n", MAC: vnet.MustParseMAC("02:00:00:00:00:02"), FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Groups: []string{"db", "default", "fast"},
				AllowedPairs: []secgroup.AddressPair{{Prefix: pfx("10.0.9.0/24")}, {MAC: vnet.MustParseMAC("02:00:00:00:00:99"), Prefix: pfx("10.0.0.99/32")}}},
			{ID: "p3", NetworkID: "n", MAC: vnet.MustParseMAC("02:00:00:00:00:03"), FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.3")}, Groups: []string{"db"}, Host: "far"},
		},
	}.Canonical()
}

// TestText compares the ruleset of a state with testdata; UPDATE=1 writes it anew.
func TestText(t *testing.T) {
	for name, l := range map[string]layout{
		"br_netfilter":     testLayout,
		"bridge_conntrack": newLayout(testDevices, testNetworks, true),
	} {
		t.Run(name, func(t *testing.T) {
			f := testFacts(secgroup.State{})
			var changes []change
			s := textState()
			for _, a := range s.AddressGroups {
				changes = append(changes, change{new: object{addressGroup: &a}})
			}
			for _, g := range s.Groups {
				changes = append(changes, change{new: object{group: &g}})
			}
			for _, p := range s.Ports {
				changes = append(changes, change{new: object{port: &p}})
			}
			tt := touch(f, changes)
			for _, c := range changes {
				f.put(c.new)
			}
			im := draw(l, f, tt)
			chains := l.fixedChains()
			for _, k := range sortedKeys(im.chains) {
				chains = append(chains, im.chains[k])
			}
			got := text(chains, sortedSets(im))
			file := "testdata/" + name + ".txt"
			if os.Getenv("UPDATE") != "" {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}
