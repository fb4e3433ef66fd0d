package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/vnet-go/vnet"
)

// Kind is how objects of one kind are compared and made.
type Kind[K cmp.Ordered, T any] struct {
	// Diff says what has to change to come from was to want, and false when
	// nothing has to. One of them may be nil: nothing stands, or nothing is
	// wanted; then it says true. The contracts' DiffNetwork, DiffPort, ... are
	// such functions.
	Diff func(was, want *T) (vnet.Change, bool)
	// Do makes the change. It may be nil in a Set that is only planned.
	Do func(ctx context.Context, c vnet.Change, was, want *T) error
}

// Set collects differences. The zero value is empty and ready. It is for one
// goroutine.
type Set struct {
	come     []op
	gone     []op // in the order their kinds were added
	existing int
}

type op struct {
	change vnet.Change
	do     func(ctx context.Context) error
}

// Add compares the objects of one kind by key. Objects of kinds added later may
// refer to them.
func Add[K cmp.Ordered, T any](s *Set, k Kind[K, T], was, want map[K]T) {
	add := func(to *[]op, old, now *T) {
		c, differs := k.Diff(old, now)
		if !differs {
			return
		}
		*to = append(*to, op{c, func(ctx context.Context) error {
			if k.Do == nil {
				return nil
			}
			return k.Do(ctx, c, old, now)
		}})
	}
	s.existing += len(was)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		now := want[key]
		if old, stands := was[key]; stands {
			add(&s.come, &old, &now)
		} else {
			add(&s.come, nil, &now)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if _, wanted := want[key]; !wanted {
			old := was[key]
			add(&s.gone, &old, nil)
		}
	}
}

// ops are all differences in order.
func (s *Set) ops() []op {
	out := slices.Clone(s.come)
	for _, o := range slices.Backward(s.gone) {
		out = append(out, o)
	}
	return out
}

// Plan is what Run would do, in its order.
func (s *Set) Plan() vnet.Plan {
	var p vnet.Plan
	for _, o := range s.ops() {
		p.Changes = append(p.Changes, o.change)
	}
	return p
}

// Check returns why Run would not begin: [vnet.ErrNotReady] when it would
// delete and what stands is not known completely, whatever o says, because
// what was not seen may be why something looks unwanted; a [*vnet.BudgetError]
// when it would delete more than o allows.
func (s *Set) Check(o vnet.SyncOptions, complete bool) error {
	if n := len(s.gone); n > 0 && !complete {
		return fmt.Errorf("%d objects look unwanted, but the view of what stands is not complete: %w", n, vnet.ErrNotReady)
	}
	return o.Check(s.Plan(), s.existing)
}

// Run makes all changes in order, unless Check refuses. It ends at the first
// error, which says at which object, and when ctx ends; what was done before
// stands, and a Set made anew goes on from there.
func (s *Set) Run(ctx context.Context, o vnet.SyncOptions, complete bool) error {
	if err := s.Check(o, complete); err != nil {
		return err
	}
	for _, x := range s.ops() {
		err := ctx.Err()
		if err == nil {
			err = x.do(ctx)
		}
		if err != nil {
			return &vnet.OpError{Op: string(x.change.Verb), Kind: x.change.Kind, ID: x.change.ID, Err: err}
		}
	}
	return nil
}
