package secgrouptest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

func num(n uint16) *uint16 { return &n }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func mac(n int) vnet.MAC { return vnet.MAC{0x02, 0x5e, 0, 0, byte(n >> 8), byte(n)} }

// sample is a state that has some of everything.
func sample() secgroup.State {
	return secgroup.State{
		Groups: []secgroup.Group{
			secgroup.DefaultGroup("default"),
			{ID: "web", Rules: []secgroup.Rule{
				{ID: "http", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: num(80), PortMax: num(90)},
				{ID: "http6", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "tcp", PortMin: num(80), PortMax: num(80)},
				{ID: "ping", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp", PortMin: num(8)},
				{ID: "near", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: num(53), PortMax: num(53), RemotePrefix: prefix("10.0.0.0/24")},
				{ID: "gre", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "gre", RemoteAddressGroup: "office"},
			}},
			{ID: "db", Rules: []secgroup.Rule{
				{ID: "from-web", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: num(5432), PortMax: num(5432), RemoteGroup: "web"},
				{ID: "from-web6", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "tcp", PortMin: num(5432), PortMax: num(5432), RemoteGroup: "web"},
			}},
		},
		AddressGroups: []secgroup.AddressGroup{{ID: "office", Prefixes: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:99::/48")}}},
		Ports: []secgroup.Port{
			{ID: "p1", NetworkID: "net", MAC: mac(1), FixedIPs: []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")}, Groups: []string{"default", "web"}},
			{ID: "p2", NetworkID: "net", MAC: mac(2), FixedIPs: []netip.Addr{addr("10.0.0.2")}, Groups: []string{"db", "default"},
				AllowedPairs: []secgroup.AddressPair{{Prefix: prefix("10.0.9.0/24")}, {MAC: mac(99), Prefix: prefix("10.0.0.99/32")}}},
			{ID: "p3", NetworkID: "net", MAC: mac(3), FixedIPs: []netip.Addr{addr("10.0.0.3")}, DisablePortSecurity: true},
			{ID: "far", NetworkID: "net", MAC: mac(4), FixedIPs: []netip.Addr{addr("10.0.0.4")}, Groups: []string{"web"}, Host: "elsewhere"},
		},
	}
}

func contractCases() []Case {
	return []Case{
		{"twice is once", "Ensure makes one object as described; the same call again writes nothing.", func(b *bench) {
			s := sample()
			b.ensure(s)
			b.silent("ensuring everything again", func() { b.ensure(s) })
			b.planned(s)
		}},
		{"sync makes it so", "Sync makes the whole state so; a second one finds nothing to do.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.planned(s)
			b.silent("syncing again", func() { require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{})) })
			b.silent("ensuring what Sync made", func() { b.ensure(s) })
		}},
		{"sync is the sum of ensures", "Ensure of every object and Sync of the whole make the same.", func(b *bench) {
			s := sample()
			b.ensure(s)
			b.silent("syncing what Ensure made", func() { require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{})) })
		}},
		{"restart adopts", "After a restart a new backend plans nothing, and a Sync writes nothing.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.e = b.over(b.h.Reopen(b.t))
			b.planned(s)
			b.silent("syncing after a restart", func() { require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{})) })
			b.silent("ensuring after a restart", func() { b.ensure(s) })
		}},
		{"restart finds the difference", "After a restart Sync changes what differs, and only that.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.e = b.over(b.h.Reopen(b.t))
			s.Groups[1].Rules = s.Groups[1].Rules[1:]
			s.Ports = s.Ports[:3]
			plan, err := b.e.Plan(b.ctx, s)
			require.NoError(b.t, err)
			require.Equal(b.t, []string{"update group web", "delete port far"}, brief(plan))
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.planned(s)
		}},
		{"ensure after restart", "After a restart Ensure changes one object, and leaves the others as they are.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.e = b.over(b.h.Reopen(b.t))
			s.Ports[1].FixedIPs = []netip.Addr{addr("10.0.0.22")}
			s.Ports[1].Groups = []string{"db"}
			require.NoError(b.t, b.e.EnsurePort(b.ctx, s.Ports[1]))
			s.Groups[0].Rules = s.Groups[0].Rules[:2]
			require.NoError(b.t, b.e.EnsureGroup(b.ctx, s.Groups[0]))
			b.planned(s)
			b.silent("syncing after it", func() { require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{})) })
		}},
		{"plan writes nothing", "Plan says what Sync would do, and writes nothing.", func(b *bench) {
			s := sample()
			var plan vnet.Plan
			b.silent("planning", func() {
				var err error
				plan, err = b.e.Plan(b.ctx, s)
				require.NoError(b.t, err)
			})
			require.Equal(b.t, []string{
				"create addressgroup office", "create group db", "create group default", "create group web",
				"create port far", "create port p1", "create port p2", "create port p3",
			}, brief(plan))
		}},
		{"plan reads well", "Plan names rules and fields that differ.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			s.Groups[1].Rules[0].PortMax = num(80)
			s.Groups[1].Rules = s.Groups[1].Rules[:4]
			s.Ports[0].Groups = []string{"default"}
			plan, err := b.e.Plan(b.ctx, s)
			require.NoError(b.t, err)
			text := plan.String()
			for _, want := range []string{
				"~ secgroup group web", "rule http: ingress IPv4 tcp 80-90 -> ingress IPv4 tcp 80", "rule gre: gone",
				"~ secgroup port p1", "security_groups: -web", "0 to create, 2 to update, 0 to delete",
			} {
				require.Contains(b.t, text, want)
			}
		}},
		{"delete of what is gone", "Delete of what does not exist is no error.", func(b *bench) {
			for range 2 {
				require.NoError(b.t, b.e.DeletePort(b.ctx, "none"))
				require.NoError(b.t, b.e.DeleteGroup(b.ctx, "none"))
				require.NoError(b.t, b.e.DeleteAddressGroup(b.ctx, "none"))
			}
		}},
		{"everything can go", "Delete removes; what referred to it must have gone before.", func(b *bench) {
			b.ensure(sample())
			for _, p := range sample().Ports {
				require.NoError(b.t, b.e.DeletePort(b.ctx, p.ID))
			}
			for _, g := range []string{"db", "web", "default"} {
				require.NoError(b.t, b.e.DeleteGroup(b.ctx, g))
			}
			require.NoError(b.t, b.e.DeleteAddressGroup(b.ctx, "office"))
			b.planned(secgroup.State{})
		}},
		{"in use", "A group may be deleted only when no port and no rule of another group refers to it, an address group when no rule does.", func(b *bench) {
			b.ensure(sample())
			inUse := func(err error, by ...string) {
				b.t.Helper()
				require.ErrorIs(b.t, err, vnet.ErrInUse)
				for _, s := range by {
					require.Contains(b.t, err.Error(), s)
				}
			}
			inUse(b.e.DeleteGroup(b.ctx, "web"), "port p1", "port far", "group db")
			inUse(b.e.DeleteGroup(b.ctx, "default"), "port p1", "port p2")
			inUse(b.e.DeleteAddressGroup(b.ctx, "office"), "group web")
			b.planned(sample())
		}},
		{"a port's groups must exist", "EnsurePort with a group that does not exist is ErrNotFound.", func(b *bench) {
			p := sample().Ports[0]
			err := b.e.EnsurePort(b.ctx, p)
			require.ErrorIs(b.t, err, vnet.ErrNotFound)
			require.Contains(b.t, err.Error(), `"default"`)
			b.planned(secgroup.State{})
		}},
		{"a port must be there", "On a central platform EnsurePort of a port that the overlay has not is ErrNotFound, and so is a Sync with one.", func(b *bench) {
			if !b.central {
				return
			}
			s := sample()
			s.Ports = append(s.Ports, secgroup.Port{ID: "nowhere", NetworkID: "net", MAC: mac(50)})
			err := b.e.EnsurePort(b.ctx, s.Ports[4])
			require.ErrorIs(b.t, err, vnet.ErrNotFound)
			require.Contains(b.t, err.Error(), "nowhere")
			b.silent("a Sync with a port that is not there", func() {
				err := b.e.Sync(b.ctx, s, vnet.SyncOptions{})
				require.ErrorIs(b.t, err, vnet.ErrNotFound)
				require.Contains(b.t, err.Error(), "nowhere")
			})
			b.planned(secgroup.State{})
		}},
		{"a port of the overlay goes first", "On a central platform the record of a port goes with it; DeletePort and Sync clear what is left of it.", func(b *bench) {
			if !b.central {
				return
			}
			s := sample()
			b.ensure(s)
			require.NoError(b.t, b.h.Overlay.DeletePort(b.ctx, "p1"))
			require.NoError(b.t, b.e.DeletePort(b.ctx, "p1"))
			s.Ports = s.Ports[1:]
			b.planned(s)
			b.silent("a Sync after it", func() { require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{})) })
			require.NoError(b.t, b.h.Overlay.DeletePort(b.ctx, "p2"))
			s.Ports = s.Ports[1:]
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			b.planned(s)
		}},
		{"references may come later", "A rule may refer to a group or address group that does not exist yet.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.EnsureGroup(b.ctx, s.Groups[2]))
			require.NoError(b.t, b.e.EnsureGroup(b.ctx, s.Groups[1]))
			b.ensure(s)
			b.planned(s)
		}},
		{"bad input", "Bad input is refused with the field's name before the first write.", func(b *bench) {
			b.silent("bad input", func() {
				var f *vnet.FieldError
				require.ErrorAs(b.t, b.e.EnsureGroup(b.ctx, secgroup.Group{ID: "g", Rules: []secgroup.Rule{{ID: "r", Direction: secgroup.Egress, Ethertype: secgroup.IPv4, Protocol: "tpc"}}}), &f)
				require.Equal(b.t, "rules[0].protocol", f.Field)
				require.ErrorAs(b.t, b.e.EnsurePort(b.ctx, secgroup.Port{ID: "p", NetworkID: "n"}), &f)
				require.Equal(b.t, "mac", f.Field)
				s := sample()
				s.Ports[0].Groups = []string{"nobody"}
				require.ErrorAs(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}), &f)
				require.Equal(b.t, "ports[0].security_groups[0]", f.Field)
				require.ErrorAs(b.t, b.e.DeleteGroup(b.ctx, ".."), &f)
			})
		}},
		{"delete budget", "A Sync that would delete more than its budget stops with the list, having written nothing.", func(b *bench) {
			s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
			for i := range 30 {
				s.Ports = append(s.Ports, secgroup.Port{ID: fmt.Sprintf("p%02d", i), NetworkID: "net", MAC: mac(i), Groups: []string{"default"}})
			}
			require.NoError(b.t, b.e.Sync(b.ctx, s, vnet.SyncOptions{}))
			less := s
			less.Ports = s.Ports[:5]
			b.silent("a Sync over budget", func() {
				err := b.e.Sync(b.ctx, less, vnet.SyncOptions{})
				var over *vnet.BudgetError
				require.ErrorAs(b.t, err, &over)
				require.Equal(b.t, 25, over.Deletes)
				require.Equal(b.t, 31, over.Existing)
			})
			b.planned(s)
			require.NoError(b.t, b.e.Sync(b.ctx, less, vnet.SyncOptions{Force: true}))
			b.planned(less)
		}},
		{"cancel ends", "A context that has ended ends the call; nothing is written.", func(b *bench) {
			ctx, cancel := context.WithCancel(b.ctx)
			cancel()
			b.silent("calls with an ended context", func() {
				require.ErrorIs(b.t, b.e.Sync(ctx, sample(), vnet.SyncOptions{}), context.Canceled)
				require.ErrorIs(b.t, b.e.EnsureGroup(ctx, sample().Groups[0]), context.Canceled)
				require.ErrorIs(b.t, b.h.SecGroup.EnsureGroup(ctx, sample().Groups[0]), context.Canceled)
				require.ErrorIs(b.t, b.h.SecGroup.Sync(ctx, sample(), vnet.SyncOptions{}), context.Canceled)
			})
		}},
		{"foreign things stand", "Nothing that carries another owner, or none, is ever touched.", func(b *bench) {
			if b.h.Foreign == nil {
				return
			}
			check := b.h.Foreign(b.t)
			b.ensure(sample())
			require.NoError(b.t, b.e.Sync(b.ctx, secgroup.State{}, vnet.SyncOptions{Force: true}))
			check(b.t)
			b.planned(secgroup.State{})
		}},
		{"health", "A backend says how far its view can be trusted.", func(b *bench) {
			h := b.e.Health(b.ctx)
			require.True(b.t, h.Complete, h.Detail)
			require.NotEmpty(b.t, b.e.Features(b.ctx).Tracking)
		}},
		{"stateless or refused", "What a backend cannot do it refuses by name.", func(b *bench) {
			g := secgroup.DefaultGroup("s")
			g.Stateless = true
			err := b.e.EnsureGroup(b.ctx, g)
			if b.e.Features(b.ctx).Stateless {
				require.NoError(b.t, err)
				b.planned(secgroup.State{Groups: []secgroup.Group{g}})
				return
			}
			require.ErrorIs(b.t, err, vnet.ErrUnsupported)
			require.Contains(b.t, err.Error(), "s")
		}},
		{"explains", "Explain goes from a port, group, rule or address group to what carries it.", func(b *bench) {
			if _, ok := b.h.SecGroup.(secgroup.Explainer); !ok {
				_, err := b.e.Explain(b.ctx, "port", "p1")
				require.ErrorIs(b.t, err, vnet.ErrUnsupported)
				return
			}
			b.ensure(sample())
			for _, x := range [][2]string{{"port", "p1"}, {"port", "p3"}, {"port", "far"}, {"group", "web"}, {"rule", "web/http"}, {"rule", "db/from-web"}, {"addressgroup", "office"}} {
				e, err := b.e.Explain(b.ctx, x[0], x[1])
				require.NoError(b.t, err, x)
				require.Contains(b.t, e.Text, x[1])
				require.NotEmpty(b.t, e.Of, x)
			}
			for _, x := range [][2]string{{"port", "p9"}, {"group", "none"}, {"rule", "web/none"}, {"rule", "none/http"}, {"addressgroup", "none"}} {
				_, err := b.e.Explain(b.ctx, x[0], x[1])
				require.ErrorIs(b.t, err, vnet.ErrNotFound, x)
			}
			_, err := b.e.Explain(b.ctx, "network", "x")
			var f *vnet.FieldError
			require.ErrorAs(b.t, err, &f)
		}},
		{"explains packets", "ExplainPacket says whether a packet passes and by which rule.", func(b *bench) {
			if _, ok := b.h.SecGroup.(secgroup.PacketExplainer); !ok {
				return
			}
			b.ensure(sample())
			says := func(port string, p secgroup.Packet, want ...string) {
				b.t.Helper()
				x, err := b.e.ExplainPacket(b.ctx, port, p)
				require.NoError(b.t, err)
				for _, w := range want {
					require.Contains(b.t, x.String(), w)
				}
			}
			says("p1", secgroup.Packet{Direction: secgroup.Ingress, Remote: addr("203.0.113.1"), Protocol: 6, Selector: 85}, "passes", "web/http")
			says("p1", secgroup.Packet{Direction: secgroup.Ingress, Remote: addr("203.0.113.1"), Protocol: 6, Selector: 91}, "dropped")
			says("p2", secgroup.Packet{Direction: secgroup.Ingress, Remote: addr("10.0.0.4"), Protocol: 6, Selector: 5432}, "passes", "db/from-web")
			says("p2", secgroup.Packet{Direction: secgroup.Ingress, Remote: addr("10.0.0.5"), Protocol: 6, Selector: 5432}, "dropped")
			says("p3", secgroup.Packet{Direction: secgroup.Ingress, Remote: addr("10.0.0.5"), Protocol: 6, Selector: 1}, "passes", "port security")
			_, err := b.e.ExplainPacket(b.ctx, "none", secgroup.Packet{Remote: addr("10.0.0.5")})
			require.ErrorIs(b.t, err, vnet.ErrNotFound)
		}},
		{"many at once", "All methods may be called from several goroutines.", func(b *bench) {
			s := sample()
			require.NoError(b.t, b.e.EnsureGroup(b.ctx, s.Groups[0]))
			errs := make(chan error)
			for i := range 8 {
				go func() {
					errs <- b.e.EnsurePort(b.ctx, secgroup.Port{ID: fmt.Sprintf("c%d", i), NetworkID: "net", MAC: mac(100 + i), FixedIPs: []netip.Addr{addr(fmt.Sprintf("10.0.1.%d", i+1))}, Groups: []string{"default"}})
				}()
			}
			for range 8 {
				require.NoError(b.t, <-errs)
			}
			plan, err := b.e.Plan(b.ctx, secgroup.State{Groups: s.Groups[:1]})
			require.NoError(b.t, err)
			require.Equal(b.t, 8, plan.Count(vnet.Delete))
		}},
	}
}

// ensure makes every object of s, one call each.
func (b *bench) ensure(s secgroup.State) {
	b.t.Helper()
	for _, a := range s.AddressGroups {
		require.NoError(b.t, b.e.EnsureAddressGroup(b.ctx, a))
	}
	for _, g := range s.Groups {
		require.NoError(b.t, b.e.EnsureGroup(b.ctx, g))
	}
	for _, p := range s.Ports {
		require.NoError(b.t, b.e.EnsurePort(b.ctx, p))
	}
}

// planned checks that s is what stands.
func (b *bench) planned(s secgroup.State) {
	b.t.Helper()
	plan, err := b.e.Plan(b.ctx, s)
	require.NoError(b.t, err)
	require.True(b.t, plan.Empty(), plan.String())
}

// silent checks that f writes nothing to the platform.
func (b *bench) silent(what string, f func()) {
	b.t.Helper()
	if b.h.Writes == nil {
		f()
		return
	}
	before := b.h.Writes()
	f()
	require.Equal(b.t, before, b.h.Writes(), "%s wrote to the platform", what)
}

func brief(p vnet.Plan) []string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, strings.Join([]string{string(c.Verb), c.Kind, c.ID}, " "))
	}
	return out
}
