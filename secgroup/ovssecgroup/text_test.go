package ovssecgroup

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/secgroup"
)

var update = flag.Bool("update", false, "write testdata anew")

func flowText(f of.Flow) string { return f.String() }

// TestFlows compares what is written for some states with testdata.
func TestFlows(t *testing.T) {
	rule := func(id string, d secgroup.Direction, e secgroup.Ethertype, change func(*secgroup.Rule)) secgroup.Rule {
		r := secgroup.Rule{ID: id, Direction: d, Ethertype: e}
		if change != nil {
			change(&r)
		}
		return r
	}
	in, out := secgroup.Ingress, secgroup.Egress
	tcp := func(lo, hi uint16) func(*secgroup.Rule) {
		return func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = "tcp", &lo, &hi }
	}
	cases := map[string]func(l *ledger){
		"base": func(l *ledger) { l.base() },
		"port": func(l *ledger) {
			l.setGroup(secgroup.Group{ID: "one"})
			l.setGroup(secgroup.Group{ID: "two"})
			p := testPort(1, "", "one", "two")
			p.AllowedPairs = []secgroup.AddressPair{{Prefix: netip.MustParsePrefix("10.0.9.0/24")}, {MAC: [6]byte{2, 9}, Prefix: netip.MustParsePrefix("2001:db8:9::/48")}}
			l.setPort(p.Canonical())
			l.setPort(testPort(2, ""))
			l.setPort(secgroup.Port{ID: "open", NetworkID: "net", MAC: [6]byte{2, 3}, DisablePortSecurity: true})
		},
		"rules": func(l *ledger) {
			l.setGroup(secgroup.Group{ID: "g", Rules: []secgroup.Rule{
				rule("all", out, secgroup.IPv4, nil),
				rule("web", in, secgroup.IPv4, tcp(80, 90)),
				rule("echo", in, secgroup.IPv4, func(r *secgroup.Rule) { r.Protocol, r.PortMin, r.PortMax = "icmp", new(uint16(8)), new(uint16(0)) }),
				rule("near", in, secgroup.IPv6, func(r *secgroup.Rule) {
					r.Protocol, r.RemotePrefix = "udp", netip.MustParsePrefix("2001:db8::/64")
				}),
			}}.Canonical())
		},
		"remotes": func(l *ledger) {
			l.setAddressGroup(secgroup.AddressGroup{ID: "office", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("2001:db8:99::/48")}})
			l.setGroup(secgroup.DefaultGroup("default").Canonical())
			l.setGroup(secgroup.Group{ID: "db", Stateless: true, Rules: []secgroup.Rule{
				rule("a", in, secgroup.IPv4, func(r *secgroup.Rule) { tcp(5432, 5433)(r); r.RemoteGroup = "default" }),
				rule("b", in, secgroup.IPv4, func(r *secgroup.Rule) { tcp(5432, 5432)(r); r.RemoteAddressGroup = "office" }),
				rule("c", out, secgroup.IPv4, func(r *secgroup.Rule) { r.RemoteAddressGroup = "office" }),
			}}.Canonical())
			l.setPort(testPort(1, "far", "default"))
		},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.do(f)
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(s.text()), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, strings.Split(string(want), "\n"), strings.Split(s.text(), "\n"))
		})
	}
}
