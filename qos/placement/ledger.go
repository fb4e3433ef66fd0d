package placement

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vnet-go/vnet"
)

// Options of a [Ledger]. The zero value and nil are the same.
type Options struct {
	// Policy is the order in which hosts are tried. Default [Spread].
	Policy Policy
	// Tries is how many candidates a claim tries before it gives up, while others
	// take what it found. Default 32.
	Tries int
}

// Ledger is what applications call: it validates, finds, writes down, and tries
// again when somebody else was faster. It keeps no state. Methods may be called
// from several goroutines.
type Ledger struct {
	s Store
	o Options
}

// New returns a Ledger over s.
func New(s Store, o *Options) (*Ledger, error) {
	if s == nil {
		return nil, &vnet.FieldError{Field: "store", Reason: "is nil"}
	}
	l := &Ledger{s: s}
	if o != nil {
		l.o = *o
	}
	switch l.o.Policy {
	case "":
		l.o.Policy = Spread
	case Spread, Pack:
	default:
		return nil, &vnet.FieldError{Field: "policy", Value: string(l.o.Policy), Reason: "is neither spread nor pack"}
	}
	if l.o.Tries <= 0 {
		l.o.Tries = 32
	}
	return l, nil
}

// Store returns what l stands on.
func (l *Ledger) Store() Store { return l.s }

// EnsureProviders makes providers as described, parents before children;
// generations are not looked at. Those that are so already are left alone.
// [vnet.ErrInUse] when more is promised than there would be, unless shrink.
func (l *Ledger) EnsureProviders(ctx context.Context, shrink bool, all ...Provider) error {
	for i, p := range all {
		if err := p.Validate(); err != nil {
			return vnet.In(fmt.Sprintf("providers[%d]", i), err)
		}
	}
	for _, p := range all {
		err := l.retry(ctx, func() error {
			old, err := l.s.Provider(ctx, p.ID)
			if err != nil && !errors.Is(err, vnet.ErrNotFound) {
				return err
			}
			want := p.canonical()
			if want.Generation = old.Generation; err == nil && want.same(old) {
				return nil
			}
			_, err = l.s.PutProvider(ctx, want, shrink)
			return err
		})
		if err != nil {
			return &vnet.OpError{Op: "ensure", Kind: "provider", ID: p.ID, Err: err}
		}
	}
	return nil
}

// DeleteProvider removes a provider that nobody was promised anything of and
// that has none below it ([vnet.ErrInUse]).
func (l *Ledger) DeleteProvider(ctx context.Context, id string) error {
	if err := l.s.DeleteProvider(ctx, id); err != nil {
		return &vnet.OpError{Op: "delete", Kind: "provider", ID: id, Err: err}
	}
	return nil
}

// Candidates returns how r could be met now, best first, at most limit.
func (l *Ledger) Candidates(ctx context.Context, r Request, limit int) ([]Candidate, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, &vnet.FieldError{Field: "limit", Value: fmt.Sprint(limit), Reason: "is not above 0"}
	}
	return l.s.Candidates(ctx, r, l.o.Policy, limit)
}

// Claim promises the consumer, which has nothing yet ([vnet.ErrConflict]), what
// it asks for, of the best host that has it, and says which providers give
// what. [vnet.ErrConflict] too when no host has it.
func (l *Ledger) Claim(ctx context.Context, consumer string, r Request) (Candidate, error) {
	c, err := l.claim(ctx, consumer, r, func(c Candidate) ([]Allocation, error) {
		a, err := l.s.Allocation(ctx, consumer)
		if err != nil {
			return nil, err
		}
		if len(a.Parts) > 0 {
			return nil, fmt.Errorf("it has something already: %w", vnet.ErrConflict)
		}
		a.Parts = c.Parts(r)
		return []Allocation{a}, nil
	})
	if err != nil {
		err = &vnet.OpError{Op: "claim", Kind: "consumer", ID: consumer, Err: err}
	}
	return c, err
}

// errNone: there is no candidate.
var errNone = errors.New("no host has it")

// claim tries candidates until one can be written.
func (l *Ledger) claim(ctx context.Context, consumer string, r Request, with func(Candidate) ([]Allocation, error)) (Candidate, error) {
	if err := vnet.CheckID("consumer", consumer); err != nil {
		return Candidate{}, err
	}
	if err := r.Validate(); err != nil {
		return Candidate{}, err
	}
	var last error
	for try := 0; try < l.o.Tries; {
		found, err := l.s.Candidates(ctx, r, l.o.Policy, min(8, l.o.Tries-try))
		if err != nil {
			return Candidate{}, err
		}
		if len(found) == 0 {
			return Candidate{}, errors.Join(fmt.Errorf("%w: %w", errNone, vnet.ErrConflict), last)
		}
		for _, c := range found {
			try++
			all, err := with(c)
			if err != nil {
				return Candidate{}, err
			}
			err = l.s.Allocate(ctx, all...)
			if err == nil {
				return c, nil
			}
			if !errors.Is(err, vnet.ErrConflict) && !errors.Is(err, vnet.ErrNotFound) {
				return Candidate{}, err
			}
			last = err
			if err := pause(ctx, try); err != nil {
				return Candidate{}, err
			}
		}
	}
	return Candidate{}, fmt.Errorf("others were faster %d times: %w", l.o.Tries, last)
}

// pause keeps those apart who want the same at the same time.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(time.Duration(rand.Int64N(int64(min(try, 8))*int64(time.Millisecond) + 1)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// retry does f again while somebody else was faster.
func (l *Ledger) retry(ctx context.Context, f func() error) error {
	var err error
	for try := 1; try <= l.o.Tries; try++ {
		if err = f(); !errors.Is(err, vnet.ErrConflict) || errors.Is(err, errNone) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
	return err
}

// Allocation returns what a consumer has been promised.
func (l *Ledger) Allocation(ctx context.Context, consumer string) (Allocation, error) {
	return l.s.Allocation(ctx, consumer)
}

// Release gives back all that a consumer has; of nothing it is no error.
func (l *Ledger) Release(ctx context.Context, consumer string) error {
	err := l.retry(ctx, func() error {
		a, err := l.s.Allocation(ctx, consumer)
		if err != nil || len(a.Parts) == 0 {
			return err
		}
		a.Parts = nil
		return l.s.Allocate(ctx, a)
	})
	if err != nil {
		return &vnet.OpError{Op: "release", Kind: "consumer", ID: consumer, Err: err}
	}
	return nil
}

// Resize gives a consumer r in place of what it has, on the host where it is:
// in one step, so that it never has less than the smaller of both.
// [vnet.ErrConflict] when the host has not so much left; then all is as before.
func (l *Ledger) Resize(ctx context.Context, consumer string, r Request) (Candidate, error) {
	c, err := l.resize(ctx, consumer, r)
	if err != nil {
		err = &vnet.OpError{Op: "resize", Kind: "consumer", ID: consumer, Err: err}
	}
	return c, err
}

func (l *Ledger) resize(ctx context.Context, consumer string, r Request) (c Candidate, err error) {
	if err := r.Validate(); err != nil {
		return c, err
	}
	err = l.retry(ctx, func() error {
		a, err := l.s.Allocation(ctx, consumer)
		if err != nil {
			return err
		}
		if len(a.Parts) == 0 {
			return fmt.Errorf("it has nothing: %w", vnet.ErrNotFound)
		}
		// The same providers give more or less: what they have left is not
		// enough to ask the store about, for it counts what the consumer has.
		found, err := l.within(ctx, a, r)
		if err != nil {
			return err
		}
		c = found
		a.Parts = c.Parts(r)
		return l.s.Allocate(ctx, a)
	})
	return c, err
}

// within finds how r is met on the host of an allocation if that is given back.
func (l *Ledger) within(ctx context.Context, a Allocation, r Request) (Candidate, error) {
	var any string
	for p := range a.Parts {
		any = p
	}
	host := any
	for {
		p, err := l.s.Provider(ctx, host)
		if err != nil {
			return Candidate{}, err
		}
		if p.Parent == "" {
			break
		}
		host = p.Parent
	}
	tree, err := l.s.Providers(ctx, host)
	if err != nil {
		return Candidate{}, err
	}
	// The host as it would be, in a store of its own.
	var m Memory
	for left := tree; len(left) > 0; {
		var wait []Provider
		for _, p := range left {
			if _, known := m.providers[p.Parent]; p.Parent != "" && !known {
				wait = append(wait, p)
				continue
			}
			p.Generation = 0
			if _, err := m.PutProvider(ctx, p, true); err != nil {
				return Candidate{}, err
			}
		}
		if len(wait) == len(left) {
			return Candidate{}, fmt.Errorf("the tree of host %s changes: %w", host, vnet.ErrConflict)
		}
		left = wait
	}
	for _, p := range tree {
		u, err := l.s.Usage(ctx, p.ID)
		if err != nil {
			return Candidate{}, err
		}
		for k, n := range a.Parts[p.ID] {
			u[k] -= n
		}
		m.providers[p.ID].used = u
		m.providers[p.ID].reslot()
	}
	r.Hosts = []string{host}
	found, err := m.Candidates(ctx, r, l.o.Policy, 1)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w: %w", errNone, vnet.ErrConflict)
	}
	if err != nil {
		return Candidate{}, fmt.Errorf("host %s: %w", host, err)
	}
	return found[0], nil
}

// Move promises the consumer r of another host (or of those that r names) and
// leaves what it had to the consumer called moving, in one step: both are held
// until one of them is given back. [Ledger.Release] of moving ends the move,
// [Ledger.Revert] takes it back.
func (l *Ledger) Move(ctx context.Context, consumer, moving string, r Request) (Candidate, error) {
	has, err := l.s.Allocation(ctx, consumer)
	if err == nil && len(has.Parts) == 0 {
		err = fmt.Errorf("it has nothing to leave: %w", vnet.ErrNotFound)
	}
	if err != nil {
		return Candidate{}, &vnet.OpError{Op: "move", Kind: "consumer", ID: consumer, Err: err}
	}
	c, err := l.claim(ctx, consumer, r, func(c Candidate) ([]Allocation, error) {
		a, err := l.s.Allocation(ctx, consumer)
		if err != nil {
			return nil, err
		}
		b, err := l.s.Allocation(ctx, moving)
		if err != nil {
			return nil, err
		}
		switch {
		case consumer == moving:
			return nil, &vnet.FieldError{Field: "moving", Value: moving, Reason: "is the consumer itself"}
		case len(a.Parts) == 0:
			return nil, fmt.Errorf("it has nothing to leave: %w", vnet.ErrNotFound)
		case len(b.Parts) > 0:
			return nil, fmt.Errorf("%s has something already: is a move under way? %w", moving, vnet.ErrInUse)
		}
		b.Parts = a.Parts
		a.Parts = c.Parts(r)
		return []Allocation{a, b}, nil
	})
	if err != nil {
		err = &vnet.OpError{Op: "move", Kind: "consumer", ID: consumer, Err: err}
	}
	return c, err
}

// Revert takes a move back: the consumer has again what it had.
func (l *Ledger) Revert(ctx context.Context, consumer, moving string) error {
	err := l.retry(ctx, func() error {
		a, err := l.s.Allocation(ctx, consumer)
		if err != nil {
			return err
		}
		b, err := l.s.Allocation(ctx, moving)
		if err != nil {
			return err
		}
		if len(b.Parts) == 0 {
			return fmt.Errorf("%s has nothing: %w", moving, vnet.ErrNotFound)
		}
		a.Parts, b.Parts = b.Parts, nil
		return l.s.Allocate(ctx, a, b)
	})
	if err != nil {
		return &vnet.OpError{Op: "revert", Kind: "consumer", ID: consumer, Err: err}
	}
	return nil
}
