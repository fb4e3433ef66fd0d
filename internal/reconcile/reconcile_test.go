package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/reconcile"
)

// parents and children: a child refers to a parent by its value.
type store struct{ parents, children map[string]string }

func diff(kind string) func(was, want *string) (vnet.Change, bool) {
	return func(was, want *string) (vnet.Change, bool) {
		switch c := (vnet.Change{Kind: kind}); {
		case was == nil:
			c.Verb, c.ID = vnet.Create, *want
			return c, true
		case want == nil:
			c.Verb, c.ID = vnet.Delete, *was
			return c, true
		case *was != *want:
			c.Verb, c.ID, c.Diff = vnet.Update, *want, []string{fmt.Sprintf("value: %s -> %s", *was, *want)}
			return c, true
		}
		return vnet.Change{}, false
	}
}

// set compares, with objects that write to the store and refuse to dangle.
func (s *store) set(want store) *reconcile.Set {
	write := func(m map[string]string, fits func() error) func(context.Context, vnet.Change, *string, *string) error {
		return func(_ context.Context, c vnet.Change, was, now *string) error {
			if was != nil {
				maps.DeleteFunc(m, func(k, v string) bool { return v == *was })
			}
			if now != nil {
				m[*now] = *now
			}
			return fits()
		}
	}
	fits := func() error {
		for _, c := range s.children {
			if _, ok := s.parents[c[:2]]; !ok {
				return errors.New(c + " dangles")
			}
		}
		return nil
	}
	var r reconcile.Set
	reconcile.Add(&r, reconcile.Kind[string, string]{Diff: diff("parent"), Do: write(s.parents, fits)}, maps.Clone(s.parents), want.parents)
	reconcile.Add(&r, reconcile.Kind[string, string]{Diff: diff("child"), Do: write(s.children, fits)}, maps.Clone(s.children), want.children)
	return &r
}

func draw(t *rapid.T, label string) store {
	s := store{map[string]string{}, map[string]string{}}
	for range rapid.IntRange(0, 4).Draw(t, label) {
		p := fmt.Sprintf("p%d", rapid.IntRange(0, 5).Draw(t, "parent"))
		s.parents[p] = p
		for range rapid.IntRange(0, 3).Draw(t, "children") {
			c := fmt.Sprintf("%s/c%d", p, rapid.IntRange(0, 5).Draw(t, "child"))
			s.children[c] = c
		}
	}
	return s
}

// What stands becomes what is wanted, nothing dangles on the way, and the
// second time there is nothing to do.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, want := draw(t, "was"), draw(t, "want")
		r := s.set(want)
		plan := r.Plan()
		firstDelete := slices.IndexFunc(plan.Changes, func(c vnet.Change) bool { return c.Verb == vnet.Delete })
		for i, c := range plan.Changes {
			if firstDelete >= 0 && i > firstDelete && c.Verb != vnet.Delete {
				t.Fatalf("deletes before all else is there:\n%s", plan)
			}
		}
		if err := r.Run(context.Background(), vnet.SyncOptions{Force: true}, true); err != nil {
			t.Fatalf("%v\n%s", err, plan)
		}
		if !maps.Equal(s.parents, want.parents) || !maps.Equal(s.children, want.children) {
			t.Fatalf("%v is not %v", s, want)
		}
		if again := s.set(want).Plan(); !again.Empty() {
			t.Fatalf("again:\n%s", again)
		}
	})
}

// A view that is not complete creates, and deletes nothing, forced or not.
func TestIncompleteViewDeletesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, want := draw(t, "was"), draw(t, "want")
		before := store{maps.Clone(s.parents), maps.Clone(s.children)}
		r := s.set(want)
		err := r.Run(context.Background(), vnet.SyncOptions{Force: true}, false)
		if deletes := r.Plan().Count(vnet.Delete); (deletes > 0) != errors.Is(err, vnet.ErrNotReady) {
			t.Fatalf("%d to delete: %v", deletes, err)
		} else if deletes > 0 && (!maps.Equal(s.parents, before.parents) || !maps.Equal(s.children, before.children)) {
			t.Fatal("something was written")
		}
	})
}

func TestBudget(t *testing.T) {
	s := store{map[string]string{}, map[string]string{}}
	for i := range 30 {
		p := fmt.Sprintf("p%d", i)
		s.parents[p] = p
	}
	r := s.set(store{})
	var over *vnet.BudgetError
	require.ErrorAs(t, r.Run(t.Context(), vnet.SyncOptions{}, true), &over)
	require.Equal(t, []int{30, 30, 15}, []int{over.Deletes, over.Existing, over.Allowed})
	require.Len(t, s.parents, 30)
	require.NoError(t, r.Run(t.Context(), vnet.SyncOptions{DeleteShare: 1}, true))
	require.Empty(t, s.parents)
}

// The first error ends it and names the object; so does the end of ctx.
func TestStops(t *testing.T) {
	broken := errors.New("broken")
	var done []string
	kind := reconcile.Kind[string, string]{Diff: diff("thing"), Do: func(_ context.Context, c vnet.Change, _, _ *string) error {
		if c.ID == "b" {
			return broken
		}
		done = append(done, c.ID)
		return nil
	}}
	var r reconcile.Set
	reconcile.Add(&r, kind, nil, map[string]string{"a": "a", "b": "b", "c": "c"})
	err := r.Run(t.Context(), vnet.SyncOptions{}, true)
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, `create thing "b": broken`)
	require.Equal(t, []string{"a"}, done)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.Run(ctx, vnet.SyncOptions{}, true), context.Canceled)
	require.Equal(t, []string{"a"}, done)
}
