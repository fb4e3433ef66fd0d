// Package placementtest is the conformance suite of [placement.Store]: cases of
// the contract, many claims at the same time, and random operations beside a
// naive model.
package placementtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos/placement"
)

const (
	egress  = placement.EgressKbps
	ingress = placement.IngressKbps
	rate    = placement.PacketRate
)

// Harness is what a store brings to be tested.
type Harness struct {
	// Make returns an empty store, gone when t ends.
	Make func(t testing.TB) placement.Store
	// Reopen returns the same store as after a restart of its process; nil: it
	// does not outlive that.
	Reopen func(t testing.TB, s placement.Store) placement.Store
	// Draws is how many random sequences are tried. Default 60.
	Draws int
	// Workers is how many claim at the same time, 25 times each. Default 16.
	Workers int
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"providers", providers}, {"all or nothing", together}, {"generations", generations}, {"candidates", candidates},
		{"same subtree", sameSubtree}, {"units", units}, {"shrink", shrink}, {"resize", resize}, {"move", move},
		{"at the same time", concurrent}, {"random", random}, {"restart", restart},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, h) })
	}
}

// host makes a tree: a host, an agent with a packet rate, two devices.
func host(t testing.TB, l *placement.Ledger, name string, kbps int64) {
	t.Helper()
	p := func(id, parent string, traits []string, inv map[placement.Class]placement.Inventory) placement.Provider {
		return placement.Provider{ID: id, Name: "name of " + id, Parent: parent, Traits: traits, Inventories: inv}
	}
	bw := map[placement.Class]placement.Inventory{egress: {Total: kbps}, ingress: {Total: kbps}}
	require.NoError(t, l.EnsureProviders(context.Background(), false,
		p(name, "", nil, nil),
		p(name+"-agent", name, []string{"CUSTOM_VNIC_TYPE_NORMAL"}, map[placement.Class]placement.Inventory{rate: {Total: 100}}),
		p(name+"-eth1", name+"-agent", []string{"CUSTOM_PHYSNET_A", "CUSTOM_VNIC_TYPE_NORMAL"}, bw),
		p(name+"-eth2", name+"-agent", []string{"CUSTOM_PHYSNET_B", "CUSTOM_VNIC_TYPE_NORMAL"}, bw)))
}

func ledger(t testing.TB, s placement.Store, p placement.Policy) *placement.Ledger {
	t.Helper()
	l, err := placement.New(s, &placement.Options{Policy: p, Tries: 400})
	require.NoError(t, err)
	return l
}

// want asks for so much of a device on physical network A.
func want(kbps int64) placement.Request {
	return placement.Request{Groups: []placement.Group{{ID: "bw", Resources: placement.Resources{egress: kbps}, Required: []string{"CUSTOM_PHYSNET_A"}}}}
}

func used(t testing.TB, s placement.Store, id string) placement.Resources {
	t.Helper()
	u, err := s.Usage(context.Background(), id)
	require.NoError(t, err)
	return u
}

func providers(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	before, err := s.Provider(ctx, "h1-eth1")
	require.NoError(t, err)
	host(t, l, "h1", 1000)
	after, err := s.Provider(ctx, "h1-eth1")
	require.NoError(t, err)
	require.Equal(t, before, after, "the same again changes nothing")
	tree, err := s.Providers(ctx, "h1")
	require.NoError(t, err)
	require.Len(t, tree, 4)
	_, err = s.Provider(ctx, "none")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.NoError(t, l.DeleteProvider(ctx, "none"))
	require.ErrorIs(t, l.DeleteProvider(ctx, "h1-agent"), vnet.ErrInUse)
	require.ErrorIs(t, l.EnsureProviders(ctx, false, placement.Provider{ID: "x", Name: "x", Parent: "none"}), vnet.ErrNotFound)
	var e *vnet.FieldError
	require.ErrorAs(t, l.EnsureProviders(ctx, false, placement.Provider{ID: "x", Name: "x", Inventories: map[placement.Class]placement.Inventory{egress: {Total: 5, Reserved: 6}}}), &e)
	require.Equal(t, "providers[0].inventories[NET_BW_EGR_KILOBIT_PER_SEC].reserved", e.Field)
	_, err = l.Claim(ctx, "c1", want(10))
	require.NoError(t, err)
	require.ErrorIs(t, l.DeleteProvider(ctx, "h1-eth1"), vnet.ErrInUse)
	require.NoError(t, l.Release(ctx, "c1"))
	require.NoError(t, l.Release(ctx, "c1"))
	for _, id := range []string{"h1-eth1", "h1-eth2", "h1-agent", "h1"} {
		require.NoError(t, l.DeleteProvider(ctx, id))
	}
	all, err := s.Providers(ctx, "")
	require.NoError(t, err)
	require.Empty(t, all)
}

func together(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	err := s.Allocate(ctx, placement.Allocation{Consumer: "c1", Parts: map[string]placement.Resources{"h1-eth1": {egress: 500}, "h1-eth2": {egress: 1001}}})
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.Empty(t, used(t, s, "h1-eth1"))
	err = s.Allocate(ctx, placement.Allocation{Consumer: "c1", Parts: map[string]placement.Resources{"h1-eth1": {egress: 500}}},
		placement.Allocation{Consumer: "c2", Parts: map[string]placement.Resources{"h1-eth1": {egress: 501}}})
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.Empty(t, used(t, s, "h1-eth1"))
	require.ErrorIs(t, s.Allocate(ctx, placement.Allocation{Consumer: "c1", Parts: map[string]placement.Resources{"none": {egress: 1}}}), vnet.ErrNotFound)
	a, err := s.Allocation(ctx, "c1")
	require.NoError(t, err)
	require.Empty(t, a.Parts)
	_, err = l.Claim(ctx, "c1", want(600))
	require.NoError(t, err)
	_, err = l.Claim(ctx, "c2", want(600))
	require.ErrorIs(t, err, vnet.ErrConflict)
	_, err = l.Claim(ctx, "c1", want(1))
	require.ErrorIs(t, err, vnet.ErrConflict, "it has something already")
	require.Equal(t, placement.Resources{egress: 600}, used(t, s, "h1-eth1"))
}

func generations(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	parts := map[string]placement.Resources{"h1-eth1": {egress: 100}}
	require.NoError(t, s.Allocate(ctx, placement.Allocation{Consumer: "c1", Parts: parts}))
	require.ErrorIs(t, s.Allocate(ctx, placement.Allocation{Consumer: "c1", Parts: parts}), vnet.ErrConflict, "it is not new")
	a, err := s.Allocation(ctx, "c1")
	require.NoError(t, err)
	require.Equal(t, parts, a.Parts)
	a.Parts = map[string]placement.Resources{"h1-eth1": {egress: 200}}
	require.NoError(t, s.Allocate(ctx, a))
	require.ErrorIs(t, s.Allocate(ctx, a), vnet.ErrConflict, "it has changed since")
	p, err := s.Provider(ctx, "h1-eth2")
	require.NoError(t, err)
	stale := p.Clone()
	p.Inventories[egress] = placement.Inventory{Total: 2000}
	_, err = s.PutProvider(ctx, p, false)
	require.NoError(t, err)
	_, err = s.PutProvider(ctx, stale, false)
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.Equal(t, placement.Resources{egress: 200}, used(t, s, "h1-eth1"))
}

func candidates(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	spread, pack := ledger(t, s, placement.Spread), ledger(t, s, placement.Pack)
	for _, n := range []string{"h1", "h2", "h3"} {
		host(t, spread, n, 1000)
	}
	one, two := want(500), want(200)
	one.Hosts, two.Hosts = []string{"h1"}, []string{"h2"}
	_, err := spread.Claim(ctx, "c1", one)
	require.NoError(t, err)
	_, err = spread.Claim(ctx, "c2", two)
	require.NoError(t, err)
	order := func(l *placement.Ledger, r placement.Request) (out []string) {
		all, err := l.Candidates(ctx, r, 10)
		require.NoError(t, err)
		for _, c := range all {
			out = append(out, c.Host)
		}
		return out
	}
	require.Equal(t, []string{"h3", "h2", "h1"}, order(spread, want(100)))
	require.Equal(t, []string{"h1", "h2", "h3"}, order(pack, want(100)))
	require.Equal(t, []string{"h3", "h2"}, order(spread, want(600)))
	require.Empty(t, order(spread, want(1001)))
	r := want(100)
	r.Hosts = []string{"h1", "h2"}
	require.Equal(t, []string{"h2", "h1"}, order(spread, r))
	all, err := spread.Candidates(ctx, want(100), 1)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, map[string]string{"bw": "h3-eth1"}, all[0].Providers)
	require.InDelta(t, 0.1, all[0].Load, 1e-9)
	none := want(100)
	none.Groups[0].Required = append(none.Groups[0].Required, "CUSTOM_PHYSNET_B")
	require.Empty(t, order(spread, none))
	other := want(100)
	other.Groups[0].Required, other.Groups[0].Forbidden = nil, []string{"CUSTOM_PHYSNET_A"}
	all, err = spread.Candidates(ctx, other, 1)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"bw": "h1-eth2"}, all[0].Providers)
	// Two groups of one device count together.
	both := want(300)
	both.Groups = append(both.Groups, placement.Group{ID: "more", Resources: placement.Resources{egress: 300}, Required: []string{"CUSTOM_PHYSNET_A"}})
	require.Equal(t, []string{"h3", "h2"}, order(spread, both))
	var e *vnet.FieldError
	_, err = spread.Candidates(ctx, placement.Request{}, 1)
	require.ErrorAs(t, err, &e)
	require.Equal(t, "groups", e.Field)
}

func sameSubtree(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	// A second agent of the host, whose packet rate is not that of eth1's switch.
	require.NoError(t, l.EnsureProviders(ctx, false, placement.Provider{ID: "h1-other", Name: "other", Parent: "h1", Traits: []string{"CUSTOM_VNIC_TYPE_NORMAL"},
		Inventories: map[placement.Class]placement.Inventory{rate: {Total: 1000}}}))
	r := want(100)
	r.Groups = append(r.Groups, placement.Group{ID: "pps", Resources: placement.Resources{rate: 50}})
	free, err := l.Candidates(ctx, r, 10)
	require.NoError(t, err)
	require.Len(t, free, 2)
	r.SameSubtree = [][]string{{"bw", "pps"}}
	tied, err := l.Candidates(ctx, r, 10)
	require.NoError(t, err)
	require.Len(t, tied, 1)
	require.Equal(t, map[string]string{"bw": "h1-eth1", "pps": "h1-agent"}, tied[0].Providers)
	r.Groups[1].Resources[rate] = 101
	_, err = l.Claim(ctx, "c1", r)
	require.ErrorIs(t, err, vnet.ErrConflict)
}

func units(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	require.NoError(t, l.EnsureProviders(ctx, false, placement.Provider{ID: "h1", Name: "h1", Traits: []string{"CUSTOM_PHYSNET_A"},
		Inventories: map[placement.Class]placement.Inventory{egress: {Total: 1000, Reserved: 200, Ratio: 1.5, MinUnit: 100, MaxUnit: 500, StepSize: 50}}}))
	for _, c := range []struct {
		n  int64
		ok bool
	}{{50, false}, {125, false}, {550, false}, {500, true}, {500, true}, {250, false}, {200, true}} {
		_, err := l.Claim(ctx, fmt.Sprintf("c%d", rand.Uint64()), want(c.n))
		if c.ok {
			require.NoError(t, err, "%d", c.n)
		} else {
			require.ErrorIs(t, err, vnet.ErrConflict, "%d", c.n)
		}
	}
	require.Equal(t, placement.Resources{egress: 1200}, used(t, s, "h1"))
}

func shrink(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	_, err := l.Claim(ctx, "c1", want(700))
	require.NoError(t, err)
	p, err := s.Provider(ctx, "h1-eth1")
	require.NoError(t, err)
	p.Inventories[egress] = placement.Inventory{Total: 500}
	require.ErrorIs(t, l.EnsureProviders(ctx, false, p), vnet.ErrInUse)
	require.NoError(t, l.EnsureProviders(ctx, true, p))
	require.Equal(t, placement.Resources{egress: 700}, used(t, s, "h1-eth1"))
	_, err = l.Claim(ctx, "c2", want(1))
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.NoError(t, l.Release(ctx, "c1"))
	_, err = l.Claim(ctx, "c2", want(500))
	require.NoError(t, err)
}

func resize(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	host(t, l, "h2", 5000)
	r := want(600)
	r.Hosts = []string{"h1"}
	_, err := l.Claim(ctx, "c1", r)
	require.NoError(t, err)
	c, err := l.Resize(ctx, "c1", want(900))
	require.NoError(t, err, "what it has counts for it")
	require.Equal(t, "h1", c.Host)
	require.Equal(t, placement.Resources{egress: 900}, used(t, s, "h1-eth1"))
	_, err = l.Resize(ctx, "c1", want(1001))
	require.ErrorIs(t, err, vnet.ErrConflict, "another host would be a move")
	require.Equal(t, placement.Resources{egress: 900}, used(t, s, "h1-eth1"))
	_, err = l.Resize(ctx, "c1", want(100))
	require.NoError(t, err)
	require.Equal(t, placement.Resources{egress: 100}, used(t, s, "h1-eth1"))
	_, err = l.Resize(ctx, "none", want(100))
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

func move(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	host(t, l, "h2", 1000)
	r := want(600)
	r.Hosts = []string{"h1"}
	_, err := l.Claim(ctx, "c1", r)
	require.NoError(t, err)
	r.Hosts = []string{"h2"}
	for range 2 {
		_, err = l.Move(ctx, "c1", "c1-moving", r)
		require.NoError(t, err)
		require.Equal(t, placement.Resources{egress: 600}, used(t, s, "h1-eth1"), "both are held")
		require.Equal(t, placement.Resources{egress: 600}, used(t, s, "h2-eth1"))
		_, err = l.Move(ctx, "c1", "c1-moving", r)
		require.Error(t, err, "a move is under way")
		require.NoError(t, l.Revert(ctx, "c1", "c1-moving"))
		require.Equal(t, placement.Resources{egress: 600}, used(t, s, "h1-eth1"))
		require.Empty(t, used(t, s, "h2-eth1"))
	}
	_, err = l.Move(ctx, "c1", "c1-moving", r)
	require.NoError(t, err)
	require.NoError(t, l.Release(ctx, "c1-moving"))
	require.Empty(t, used(t, s, "h1-eth1"))
	require.Equal(t, placement.Resources{egress: 600}, used(t, s, "h2-eth1"))
	_, err = l.Move(ctx, "none", "c9", r)
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

// concurrent: many who claim, resize, move and release at the same time are
// never promised more than there is.
func concurrent(t *testing.T, h Harness) {
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Pack) // all want the same
	names := []string{"h1", "h2", "h3"}
	for _, n := range names {
		host(t, l, n, 1000)
	}
	stop := make(chan struct{})
	var watch, work sync.WaitGroup
	watch.Go(func() {
		for {
			for _, n := range names {
				u, err := s.Usage(ctx, n+"-eth1")
				if err != nil || u[egress] > 1000 {
					t.Errorf("%s: %v %v", n, u, err)
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	workers := h.Workers
	if workers == 0 {
		workers = 16
	}
	for w := range workers {
		work.Go(func() {
			id := fmt.Sprintf("w%d", w)
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 25 {
				if _, err := l.Claim(ctx, id, want(50+rnd.Int64N(400))); err != nil {
					if !errors.Is(err, vnet.ErrConflict) {
						t.Error(err)
					}
					continue
				}
				if _, err := l.Resize(ctx, id, want(50+rnd.Int64N(400))); err != nil && !errors.Is(err, vnet.ErrConflict) {
					t.Error(err)
				}
				if _, err := l.Move(ctx, id, id+"-m", want(50+rnd.Int64N(400))); err == nil {
					if rnd.IntN(2) == 0 {
						err = l.Revert(ctx, id, id+"-m")
					} else {
						err = l.Release(ctx, id+"-m")
					}
					if err != nil {
						t.Error(err)
					}
				} else if !errors.Is(err, vnet.ErrConflict) {
					t.Error(err)
				}
				if err := l.Release(ctx, id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	close(stop)
	watch.Wait()
	for _, n := range names {
		require.Empty(t, used(t, s, n+"-eth1"), n)
	}
}

// model is a store without any thought: lists.
type model struct {
	cap  map[string]int64 // device -> capacity
	have map[string]map[string]int64
}

func (m *model) used(dev string) (n int64) {
	for _, parts := range m.have {
		n += parts[dev]
	}
	return n
}

// random compares sequences of operations with the model.
func random(t *testing.T, h Harness) {
	draws := h.Draws
	if draws == 0 {
		draws = 60
	}
	names := []string{"h1", "h2"}
	for i := range draws {
		s := h.Make(t)
		l := ledger(t, s, placement.Spread)
		m := &model{cap: map[string]int64{}, have: map[string]map[string]int64{}}
		for _, n := range names {
			host(t, l, n, 100)
			m.cap[n+"-eth1"], m.cap[n+"-eth2"] = 100, 100
		}
		devices := slices.Sorted(maps.Keys(m.cap))
		rnd := rand.New(rand.NewPCG(uint64(i), 7))
		ctx := t.Context()
		for step := range 60 {
			c := fmt.Sprintf("c%d", rnd.IntN(6))
			parts := map[string]placement.Resources{}
			want := map[string]int64{}
			fits := true
			for range 1 + rnd.IntN(2) {
				d, n := devices[rnd.IntN(len(devices))], 1+rnd.Int64N(60)
				parts[d], want[d] = placement.Resources{egress: n}, n
			}
			if rnd.IntN(4) == 0 {
				parts, want = nil, nil
			}
			for d, n := range want {
				if had := m.have[c][d]; n > had && m.used(d)-had+n > m.cap[d] {
					fits = false
				}
			}
			a, err := s.Allocation(ctx, c)
			require.NoError(t, err)
			a.Parts = parts
			stale := rnd.IntN(8) == 0
			if stale {
				a.Generation += 1 + uint64(rnd.IntN(3))
			}
			err = s.Allocate(ctx, a)
			switch {
			case stale || !fits:
				require.ErrorIs(t, err, vnet.ErrConflict, "sequence %d, step %d: %v", i, step, parts)
			default:
				require.NoError(t, err, "sequence %d, step %d: %v", i, step, parts)
				m.have[c] = want
			}
			for _, d := range devices {
				require.Equal(t, m.used(d), used(t, s, d)[egress], "sequence %d, step %d: %s", i, step, d)
			}
			if h.Reopen != nil && rnd.IntN(20) == 0 {
				s = h.Reopen(t, s)
			}
		}
	}
	// And whether what is asked for is found exactly when it is there.
	rapid.Check(t, func(r *rapid.T) {
		var s placement.Memory
		l := ledger(t, &s, placement.Spread)
		host(t, l, "h1", 100)
		host(t, l, "h2", 100)
		left := map[string]int64{"h1": 100, "h2": 100}
		for i := range rapid.IntRange(1, 12).Draw(r, "claims") {
			n := rapid.Int64Range(1, 120).Draw(r, "kbps")
			c, err := l.Claim(context.Background(), fmt.Sprintf("c%d", i), want(n))
			if best := max(left["h1"], left["h2"]); n > best {
				require.ErrorIs(r, err, vnet.ErrConflict)
			} else {
				require.NoError(r, err)
				require.Equal(r, best, left[c.Host], "spread takes the emptiest")
				left[c.Host] -= n
			}
		}
	})
}

func restart(t *testing.T, h Harness) {
	if h.Reopen == nil {
		return
	}
	ctx := t.Context()
	s := h.Make(t)
	l := ledger(t, s, placement.Spread)
	host(t, l, "h1", 1000)
	for i := range 5 {
		_, err := l.Claim(ctx, fmt.Sprintf("c%d", i), want(100))
		require.NoError(t, err)
	}
	require.NoError(t, l.Release(ctx, "c2"))
	look := func(s placement.Store) (out []any) {
		all, err := s.Providers(ctx, "")
		require.NoError(t, err)
		for _, p := range all {
			out = append(out, p, used(t, s, p.ID))
		}
		for i := range 5 {
			a, err := s.Allocation(ctx, fmt.Sprintf("c%d", i))
			require.NoError(t, err)
			out = append(out, a)
		}
		return out
	}
	before := look(s)
	require.Equal(t, before, look(h.Reopen(t, s)))
}
