package metadatatest

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

func onNetwork(id, network string, n byte) metadata.Endpoint {
	return metadata.Endpoint{ID: id, NetworkID: network, PortID: "port-" + id, MAC: vnet.MAC{2, 0xa9, 0xfe, 0, 0, n},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}
}

func inRouter(id, router string) metadata.Endpoint {
	return metadata.Endpoint{ID: id, RouterID: router}
}

// places makes what the endpoints of the cases are at, where the platform has such.
func (b *bench) places() {
	if b.h.Network == nil {
		return
	}
	b.h.Network(b, "net-1")
	b.h.Network(b, "net-2")
	if !b.s.Features(b.ctx).Router {
		return
	}
	b.h.Router(b, "router-1", Interface{"net-2", []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}})
}

func (b *bench) writes() int {
	if b.h.Writes == nil {
		return 0
	}
	return b.h.Writes()
}

func (b *bench) nothing(s *metadata.Service, st metadata.State) {
	b.Helper()
	p, err := s.Plan(b.ctx, st)
	require.NoError(b, err)
	require.Empty(b, p.Changes, p.String())
}

// both is an endpoint of each kind that the backend has.
func (b *bench) both() metadata.State {
	return metadata.State{Endpoints: []metadata.Endpoint{onNetwork("e1", "net-1", 1), b.second("e2")}}
}

// second is an endpoint at the second place.
func (b *bench) second(id string) metadata.Endpoint {
	if b.s.Features(b.ctx).Router {
		return inRouter(id, "router-1")
	}
	return onNetwork(id, "net-2", 2)
}

func contractCases() []Case {
	return []Case{
		{"twice is once", "Calling twice changes nothing the second time: no write.", func(b *bench) {
			b.places()
			for range 2 {
				for _, e := range b.both().Endpoints {
					require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
				}
			}
			before := b.writes()
			for _, e := range b.both().Endpoints {
				require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
			}
			require.NoError(b, b.s.Sync(b.ctx, b.both(), vnet.SyncOptions{}))
			require.Equal(b, before, b.writes())
			b.nothing(b.s, b.both())
		}},
		{"plan is what sync does", "Plan says what Sync would do, and does nothing.", func(b *bench) {
			b.places()
			before := b.writes()
			p, err := b.s.Plan(b.ctx, b.both())
			require.NoError(b, err)
			require.Equal(b, before, b.writes())
			require.Equal(b, 2, p.Count(vnet.Create), p.String())
			require.NoError(b, b.s.Sync(b.ctx, b.both(), vnet.SyncOptions{}))
			b.nothing(b.s, b.both())
			p, err = b.s.Plan(b.ctx, metadata.State{})
			require.NoError(b, err)
			require.Equal(b, 2, p.Count(vnet.Delete), p.String())
			require.NoError(b, b.s.Sync(b.ctx, metadata.State{}, vnet.SyncOptions{}))
			b.nothing(b.s, metadata.State{})
		}},
		{"gone is gone", "Delete of what is gone is no error.", func(b *bench) {
			b.places()
			require.NoError(b, b.s.DeleteEndpoint(b.ctx, "nobody"))
			for _, e := range b.both().Endpoints {
				require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
				require.NoError(b, b.s.DeleteEndpoint(b.ctx, e.ID))
				require.NoError(b, b.s.DeleteEndpoint(b.ctx, e.ID))
			}
			b.nothing(b.s, metadata.State{})
		}},
		{"update", "Ensure makes an object as described, whether it was absent, different or already so.", func(b *bench) {
			b.places()
			e := onNetwork("e1", "net-1", 1)
			require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
			e.MAC = vnet.MAC{2, 0xa9, 0xfe, 0, 0, 9}
			e.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.3/24"), netip.MustParsePrefix("2001:db8::3/64")}
			st := metadata.State{Endpoints: []metadata.Endpoint{e}}
			p, err := b.s.Plan(b.ctx, st)
			require.NoError(b, err)
			require.Equal(b, 1, p.Count(vnet.Update), p.String())
			require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
			b.nothing(b.s, st)
			e.NetworkID = "net-2"
			st.Endpoints[0] = e
			require.NoError(b, b.s.EnsureEndpoint(b.ctx, e))
			b.nothing(b.s, st)
			st.Endpoints[0] = b.second("e1")
			require.NoError(b, b.s.EnsureEndpoint(b.ctx, st.Endpoints[0]))
			b.nothing(b.s, st)
		}},
		{"one place, one endpoint", "Another object of ours that stands where this one would be is ErrConflict.", func(b *bench) {
			b.places()
			require.NoError(b, b.s.EnsureEndpoint(b.ctx, b.second("e1")))
			require.ErrorIs(b, b.s.EnsureEndpoint(b.ctx, b.second("e2")), vnet.ErrConflict)
			// A Sync may replace it.
			st := metadata.State{Endpoints: []metadata.Endpoint{b.second("e2")}}
			require.NoError(b, b.s.Sync(b.ctx, st, vnet.SyncOptions{}))
			b.nothing(b.s, st)
		}},
		{"bad input", "Bad input is refused before the first write, as a FieldError that names the field.", func(b *bench) {
			var field *vnet.FieldError
			e := onNetwork("e1", "net-1", 1)
			e.RouterID = "router-1"
			require.ErrorAs(b, b.s.EnsureEndpoint(b.ctx, e), &field)
			require.Equal(b, "network_id", field.Field)
			err := b.s.Sync(b.ctx, metadata.State{Endpoints: []metadata.Endpoint{inRouter("x", "r"), inRouter("x", "s")}}, vnet.SyncOptions{})
			require.ErrorAs(b, err, &field)
			require.Equal(b, "endpoints[1].id", field.Field)
			require.Zero(b, b.writes())
		}},
		{"budget", "A Sync that would remove more than a stated share stops with the list, unless told to go on.", func(b *bench) {
			var st metadata.State
			for i := range 30 {
				n := strconv.Itoa(i)
				if b.s.Features(b.ctx).Router {
					st.Endpoints = append(st.Endpoints, inRouter("e"+n, "router-1"+n))
					continue
				}
				b.h.Network(b, "net-1"+n)
				st.Endpoints = append(st.Endpoints, onNetwork("e"+n, "net-1"+n, byte(i)))
			}
			require.NoError(b, b.s.Sync(b.ctx, st, vnet.SyncOptions{}))
			var over *vnet.BudgetError
			require.ErrorAs(b, b.s.Sync(b.ctx, metadata.State{}, vnet.SyncOptions{}), &over)
			require.Equal(b, 30, over.Deletes)
			b.nothing(b.s, st)
			require.NoError(b, b.s.Sync(b.ctx, metadata.State{}, vnet.SyncOptions{Force: true}))
			b.nothing(b.s, metadata.State{})
		}},
		{"restart", "After a restart Sync writes nothing when nothing differs.", func(b *bench) {
			if b.k.Volatile {
				return
			}
			b.places()
			require.NoError(b, b.s.Sync(b.ctx, b.both(), vnet.SyncOptions{}))
			before := b.writes()
			again, err := metadata.New(b.h.Reopen(b), nil)
			require.NoError(b, err)
			b.nothing(again, b.both())
			require.NoError(b, again.Sync(b.ctx, b.both(), vnet.SyncOptions{}))
			require.Equal(b, before, b.writes())
			third, err := metadata.New(b.h.Reopen(b), nil)
			require.NoError(b, err)
			require.NoError(b, third.Sync(b.ctx, metadata.State{}, vnet.SyncOptions{}))
			fourth, err := metadata.New(b.h.Reopen(b), nil)
			require.NoError(b, err)
			b.nothing(fourth, metadata.State{})
		}},
		{"what it cannot do", "What a backend cannot do it refuses by name; where it writes for all hosts, networks come first.", func(b *bench) {
			b.places()
			feat := b.s.Features(b.ctx)
			check := func(is, why error) {
				if why != nil {
					require.ErrorIs(b, is, why)
				} else {
					require.NoError(b, is)
				}
			}
			var router, network error
			if !feat.Router {
				router = vnet.ErrUnsupported
			}
			if feat.Central {
				network = vnet.ErrNotFound
			}
			before := b.writes()
			check(b.s.EnsureEndpoint(b.ctx, inRouter("e1", "router-1")), router)
			check(b.s.EnsureEndpoint(b.ctx, onNetwork("e2", "net-9", 1)), network)
			check(b.s.Sync(b.ctx, metadata.State{Endpoints: []metadata.Endpoint{onNetwork("e1", "net-1", 1), inRouter("e2", "router-1")}}, vnet.SyncOptions{}), router)
			if router != nil && network != nil {
				require.Equal(b, before, b.writes())
			}
		}},
		{"context", "Context ends every wait.", func(b *bench) {
			ctx, cancel := context.WithCancel(b.ctx)
			cancel()
			require.ErrorIs(b, b.s.EnsureEndpoint(ctx, b.second("e1")), context.Canceled)
			require.ErrorIs(b, b.s.Sync(ctx, b.both(), vnet.SyncOptions{}), context.Canceled)
			ctx, cancel = context.WithTimeout(b.ctx, 50*time.Millisecond)
			defer cancel()
			require.NoError(b, b.s.Serve(ctx))
		}},
		{"explain", "Explain goes from an endpoint to what carries it.", func(b *bench) {
			b.places()
			_, err := b.s.Explain(b.ctx, "endpoint", "e1")
			if _, ok := b.h.Metadata.(metadata.Explainer); !ok {
				require.ErrorIs(b, err, vnet.ErrUnsupported)
				return
			}
			require.ErrorIs(b, err, vnet.ErrNotFound)
			require.NoError(b, b.s.Sync(b.ctx, b.both(), vnet.SyncOptions{}))
			for _, e := range b.both().Endpoints {
				x, err := b.s.Explain(b.ctx, "endpoint", e.ID)
				require.NoError(b, err)
				require.Contains(b, x.String(), e.RouterID+e.NetworkID)
			}
		}},
	}
}
