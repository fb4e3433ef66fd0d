package qostest

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
)

// bench is one site with a shaper over the backend.
type bench struct {
	t    testing.TB
	ctx  context.Context
	site Site
	s    *qos.Shaper
}

func newBench(t *testing.T, site Site) *bench {
	b := &bench{t: t, ctx: t.Context(), site: site}
	b.s = b.over(site.Backend)
	return b
}

func (b *bench) over(x qos.Backend) *qos.Shaper {
	b.t.Helper()
	s, err := qos.New(x, nil)
	require.NoError(b.t, err)
	return s
}

func mark(n uint8) *uint8 { return &n }

// sample is a state that has some of everything that the backend can do.
func (b *bench) sample() qos.State {
	f := b.s.Features(b.ctx)
	shape := func(a qos.Abilities, kbps uint32) (x qos.Shape) {
		if a.EgressBandwidth {
			x.Egress.Kbps = kbps
		}
		if a.IngressBandwidth {
			x.Ingress.Kbps, x.Ingress.BurstKbit = 2*kbps, kbps
		}
		if a.EgressPacketRate {
			x.Egress.PPS = 1000
		}
		if a.IngressPacketRate {
			x.Ingress.PPS, x.Ingress.BurstPackets = 2000, 100
		}
		if a.DSCP {
			x.DSCP = mark(26)
		}
		return x
	}
	host := b.site.Host
	s := qos.State{
		Ports: []qos.Port{
			{ID: "p1", Shape: shape(f.Port, 10_000), Host: host},
			{ID: "p2", Shape: shape(f.Port, 20_000), Host: host},
			{ID: "p3", Shape: qos.Shape{Egress: qos.Limits{Kbps: 5000}}, Host: host},
		},
	}
	if x := shape(f.Gateway, 30_000); !x.Zero() {
		s.Gateways = []qos.Gateway{{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", Shape: x, Host: host}}
	}
	if x := shape(f.FloatingIP, 15_000); !x.Zero() {
		s.FloatingIPs = []qos.FloatingIP{{ID: "f1", RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", FloatingIP: netip.MustParseAddr("203.0.113.9"), FixedPortID: "p1", Shape: x, Host: host}}
	}
	s = s.Canonical()
	if b.site.Prepare != nil {
		b.site.Prepare(b.t, s)
	}
	return s
}

func (b *bench) ensure(s qos.State) {
	b.t.Helper()
	for _, u := range s.Uplinks {
		require.NoError(b.t, b.s.EnsureUplink(b.ctx, u))
	}
	for _, p := range s.Ports {
		require.NoError(b.t, b.s.EnsurePort(b.ctx, p))
	}
	for _, g := range s.Gateways {
		require.NoError(b.t, b.s.EnsureGateway(b.ctx, g))
	}
	for _, f := range s.FloatingIPs {
		require.NoError(b.t, b.s.EnsureFloatingIP(b.ctx, f))
	}
}

func (b *bench) sync(s qos.State) {
	b.t.Helper()
	require.NoError(b.t, b.s.Sync(b.ctx, s, vnet.SyncOptions{}))
}

// planned checks that nothing is left to do.
func (b *bench) planned(s qos.State) {
	b.t.Helper()
	p, err := b.s.Plan(b.ctx, s)
	require.NoError(b.t, err)
	require.Empty(b.t, p.Changes, p.String())
}

// silent checks that f writes nothing.
func (b *bench) silent(what string, f func()) {
	b.t.Helper()
	if b.site.Writes == nil {
		f()
		return
	}
	before := b.site.Writes()
	f()
	require.Equal(b.t, before, b.site.Writes(), "%s writes something", what)
}

func brief(p vnet.Plan) []string {
	out := []string{}
	for _, c := range p.Changes {
		out = append(out, fmt.Sprintf("%s %s %s", c.Verb, c.Kind, c.ID))
	}
	return out
}

func briefs(s qos.State, verb vnet.Verb) []string {
	out := []string{}
	for _, c := range qos.Diff(qos.State{}, s) {
		out = append(out, fmt.Sprintf("%s %s %s", verb, c.Kind, c.ID))
	}
	return out
}

func contractCases() []Case {
	return []Case{
		{"twice is once", "Ensure makes one object as described; the same call again writes nothing.", func(b *bench) {
			s := b.sample()
			b.ensure(s)
			b.silent("ensuring everything again", func() { b.ensure(s) })
			b.planned(s)
		}},
		{"sync makes it so", "Sync makes the whole state so; a second one finds nothing to do.", func(b *bench) {
			s := b.sample()
			b.sync(s)
			b.planned(s)
			b.silent("syncing again", func() { b.sync(s) })
			b.silent("ensuring what Sync made", func() { b.ensure(s) })
		}},
		{"sync is the sum of ensures", "Ensure of every object and Sync of the whole make the same.", func(b *bench) {
			s := b.sample()
			b.ensure(s)
			b.silent("syncing what Ensure made", func() { b.sync(s) })
		}},
		{"restart adopts", "After a restart a new backend plans nothing, and a Sync writes nothing.", func(b *bench) {
			s := b.sample()
			b.sync(s)
			b.s = b.over(b.site.Reopen(b.t))
			b.planned(s)
			b.silent("syncing after a restart", func() { b.sync(s) })
			b.silent("ensuring after a restart", func() { b.ensure(s) })
		}},
		{"restart finds the difference", "After a restart Sync changes what differs, and only that.", func(b *bench) {
			s := b.sample()
			b.sync(s)
			b.s = b.over(b.site.Reopen(b.t))
			s.Ports[1].Egress.Kbps = 12_345
			s.Ports = s.Ports[:2]
			p, err := b.s.Plan(b.ctx, s)
			require.NoError(b.t, err)
			require.Equal(b.t, []string{"update port p2", "delete port p3"}, brief(p))
			require.Contains(b.t, p.String(), "egress max_kbps: 20000 -> 12345")
			b.sync(s)
			b.planned(s)
		}},
		{"plan writes nothing", "Plan says what Sync would do, and writes nothing.", func(b *bench) {
			s := b.sample()
			b.silent("planning", func() {
				p, err := b.s.Plan(b.ctx, s)
				require.NoError(b.t, err)
				require.Equal(b.t, briefs(s, vnet.Create), brief(p))
			})
		}},
		{"sync removes", "Sync removes what is not wanted.", func(b *bench) {
			b.sync(b.sample())
			b.sync(qos.State{})
			b.planned(qos.State{})
			x, err := b.s.Statistics(b.ctx)
			require.NoError(b.t, err)
			require.Empty(b.t, x)
		}},
		{"everything can go", "Delete removes, and of what is gone is no error.", func(b *bench) {
			s := b.sample()
			b.ensure(s)
			for range 2 {
				for _, f := range s.FloatingIPs {
					require.NoError(b.t, b.s.DeleteFloatingIP(b.ctx, f.ID))
				}
				for _, g := range s.Gateways {
					require.NoError(b.t, b.s.DeleteGateway(b.ctx, g.RouterID))
				}
				for _, p := range s.Ports {
					require.NoError(b.t, b.s.DeletePort(b.ctx, p.ID))
				}
				require.NoError(b.t, b.s.DeleteUplink(b.ctx, "none"))
			}
			b.planned(qos.State{})
		}},
		{"nothing is a delete", "Ensure of what asks for nothing is the same as Delete.", func(b *bench) {
			s := b.sample()
			b.ensure(s)
			require.NoError(b.t, b.s.EnsurePort(b.ctx, qos.Port{ID: "p1", Host: b.site.Host}))
			p, err := b.s.Plan(b.ctx, s)
			require.NoError(b.t, err)
			require.Equal(b.t, []string{"create port p1"}, brief(p))
		}},
		{"one object", "A change of one object leaves the others alone.", func(b *bench) {
			s := b.sample()
			b.sync(s)
			s.Ports[0].Ingress.Kbps = 7000
			s.Ports[0].Ingress.BurstKbit = 700
			if !b.s.Features(b.ctx).Port.IngressBandwidth {
				b.t.Fatal("no backend that limits nothing one way is known to this case")
			}
			require.NoError(b.t, b.s.EnsurePort(b.ctx, s.Ports[0]))
			b.planned(s)
		}},
		{"foreign", "What another owner has, or nobody, is not touched.", func(b *bench) {
			if b.site.Foreign == nil {
				return
			}
			s := b.sample()
			check := b.site.Foreign(b.t)
			b.sync(s)
			check(b.t)
			b.sync(qos.State{})
			check(b.t)
		}},
		{"budget", "A Sync that would delete too much writes nothing and says what it would delete.", func(b *bench) {
			var s qos.State
			for i := range 24 {
				s.Ports = append(s.Ports, qos.Port{ID: fmt.Sprintf("b%02d", i), Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000}}, Host: b.site.Host})
			}
			if b.site.Prepare != nil {
				b.site.Prepare(b.t, s)
			}
			b.sync(s)
			less := qos.State{Ports: s.Ports[:4]}
			b.silent("a refused Sync", func() {
				err := b.s.Sync(b.ctx, less, vnet.SyncOptions{})
				var e *vnet.BudgetError
				require.ErrorAs(b.t, err, &e)
				require.Equal(b.t, 20, e.Deletes)
			})
			b.planned(s)
			require.NoError(b.t, b.s.Sync(b.ctx, less, vnet.SyncOptions{Force: true}))
			b.planned(less)
		}},
		{"bad input", "Bad input is refused by the name of its field before anything is written.", func(b *bench) {
			b.silent("bad input", func() {
				var e *vnet.FieldError
				err := b.s.EnsurePort(b.ctx, qos.Port{ID: "p1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000, BurstKbit: 8}}})
				require.ErrorAs(b.t, err, &e)
				require.Equal(b.t, "shape.egress.max_burst_kbit", e.Field)
				err = b.s.Sync(b.ctx, qos.State{Ports: []qos.Port{{ID: "a"}, {ID: "a"}}}, vnet.SyncOptions{})
				require.ErrorAs(b.t, err, &e)
				require.Equal(b.t, "ports[1].id", e.Field)
			})
		}},
		{"refused by name", "What the backend cannot do it refuses by name.", func(b *bench) {
			f := b.s.Features(b.ctx)
			type wish struct {
				name string
				can  bool
				x    qos.Shape
			}
			wishes := func(a qos.Abilities) []wish {
				return []wish{
					{"egress bandwidth", a.EgressBandwidth, qos.Shape{Egress: qos.Limits{Kbps: 1000}}},
					{"ingress bandwidth", a.IngressBandwidth, qos.Shape{Ingress: qos.Limits{Kbps: 1000}}},
					{"egress packet rate", a.EgressPacketRate, qos.Shape{Egress: qos.Limits{PPS: 1000}}},
					{"ingress packet rate", a.IngressPacketRate, qos.Shape{Ingress: qos.Limits{PPS: 1000}}},
					{"DSCP", a.DSCP, qos.Shape{DSCP: mark(8)}},
				}
			}
			refused := func(name string, err error) {
				b.t.Helper()
				var e *vnet.UnsupportedError
				require.ErrorAs(b.t, err, &e, name)
				require.Contains(b.t, e.Feature, name)
				require.NotEmpty(b.t, e.Need, "why %s is refused", name)
			}
			b.silent("what is refused", func() {
				for _, w := range wishes(f.Port) {
					if !w.can {
						refused(w.name, b.s.EnsurePort(b.ctx, qos.Port{ID: "p", Shape: w.x}))
					}
				}
				for _, w := range wishes(f.Gateway) {
					if !w.can {
						refused(w.name, b.s.EnsureGateway(b.ctx, qos.Gateway{RouterID: "r", PortID: "p", NetworkID: "n", Shape: w.x}))
					}
				}
				for _, w := range wishes(f.FloatingIP) {
					if !w.can {
						refused(w.name, b.s.EnsureFloatingIP(b.ctx, qos.FloatingIP{ID: "f", RouterID: "r", PortID: "p", NetworkID: "n", FloatingIP: netip.MustParseAddr("203.0.113.1"), Shape: w.x}))
					}
				}
				if !f.Guarantees {
					refused("guarantees", b.s.EnsureUplink(b.ctx, qos.Uplink{Name: "physnet1", Kbps: 1000}))
				}
				if !f.TunnelGuarantees {
					refused("tunnel guarantees", b.s.EnsureUplink(b.ctx, qos.Uplink{Name: qos.Tunnelled, Kbps: 1000}))
				}
			})
		}},
		{"cancelled", "A context that has ended ends the call, and nothing is written.", func(b *bench) {
			s := b.sample()
			ctx, cancel := context.WithCancel(b.ctx)
			cancel()
			b.silent("a cancelled call", func() {
				require.ErrorIs(b.t, b.s.EnsurePort(ctx, s.Ports[0]), context.Canceled)
				require.ErrorIs(b.t, b.s.Sync(ctx, s, vnet.SyncOptions{}), context.Canceled)
			})
		}},
		{"statistics", "Statistics tell of all that is limited, sorted.", func(b *bench) {
			s := b.sample()
			b.sync(s)
			x, err := b.s.Statistics(b.ctx)
			require.NoError(b.t, err)
			for i := range x {
				x[i].Passed, x[i].Dropped = qos.Count{}, qos.Count{}
			}
			require.Equal(b.t, qos.NoStatistics(s), x)
		}},
		{"explain", "Explain goes from an object to what carries it.", func(b *bench) {
			if _, ok := b.site.Backend.(qos.Explainer); !ok {
				return
			}
			s := b.sample()
			b.sync(s)
			x, err := b.s.Explain(b.ctx, "port", "p1")
			require.NoError(b.t, err)
			require.NotEmpty(b.t, x.Of)
			_, err = b.s.Explain(b.ctx, "port", "none")
			require.ErrorIs(b.t, err, vnet.ErrNotFound)
		}},
		{"over-promised", "A guarantee that its uplink has not left is a conflict, and an uplink with guarantees is in use.", func(b *bench) {
			name := qos.Tunnelled
			if f := b.s.Features(b.ctx); !f.TunnelGuarantees {
				if name = "physnet1"; !f.Guarantees {
					return
				}
			}
			s := qos.State{Uplinks: []qos.Uplink{{Name: name, Kbps: 100_000, Host: b.site.Host}}, Ports: []qos.Port{
				{ID: "p1", Uplink: name, Shape: qos.Shape{Egress: qos.Limits{MinKbps: 60_000}}, Host: b.site.Host},
				{ID: "p2", Uplink: name, Shape: qos.Shape{Egress: qos.Limits{MinKbps: 40_000}}, Host: b.site.Host}}}
			if b.site.Prepare != nil {
				b.site.Prepare(b.t, s)
			}
			b.ensure(s)
			b.planned(s)
			b.silent("what cannot be promised", func() {
				more := s.Ports[1]
				more.Egress.MinKbps = 40_001
				require.ErrorIs(b.t, b.s.EnsurePort(b.ctx, more), vnet.ErrConflict)
				require.ErrorIs(b.t, b.s.EnsureUplink(b.ctx, qos.Uplink{Name: name, Kbps: 99_999, Host: b.site.Host}), vnet.ErrConflict)
				require.ErrorIs(b.t, b.s.DeleteUplink(b.ctx, name), vnet.ErrInUse)
			})
			b.s = b.over(b.site.Reopen(b.t))
			b.planned(s)
			require.NoError(b.t, b.s.DeletePort(b.ctx, "p1"))
			require.NoError(b.t, b.s.DeletePort(b.ctx, "p2"))
			require.NoError(b.t, b.s.DeleteUplink(b.ctx, name))
			b.planned(qos.State{})
		}},
	}
}
