package ovs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
)

// Target is what backends write through: a [*Switch], which commits each
// submission, or a [*Batch], which collects the submissions of several
// backends and commits them as one bundle.
type Target interface {
	Switch() *Switch
	// Submit carries out what f does to its transaction, or collects it. f
	// reads and writes through tx only; it may be called more than once. An
	// error of f, or one that tx met with, ends the submission; nothing of it is
	// written.
	Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error
	// Plan says what Submit would do, and writes nothing.
	Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error)
}

var (
	_ Target = (*Switch)(nil)
	_ Target = (*Batch)(nil)
)

// Switch returns the handle itself.
func (s *Switch) Switch() *Switch { return s }

type submission struct {
	part vnet.Part
	f    func(*Tx) error
}

// run calls f over v and returns the changes it told of.
func (v *view) run(x submission) (vnet.Plan, error) {
	tx := &Tx{v: v, part: x.part, used: map[numbered]bool{}}
	err := x.f(tx)
	if tx.err != nil {
		err = tx.err
	}
	if err != nil {
		return vnet.Plan{}, err
	}
	if tx.all {
		v.whole[x.part] = true
		v.numbers.keepOnly(x.part, tx.used)
	}
	return tx.plan, nil
}

// Submit commits f.
func (s *Switch) Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error {
	return s.commit(ctx, []submission{{part, f}})
}

func (s *Switch) commit(ctx context.Context, xs []submission) (err error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	defer func(since time.Time) { s.metrics.submission(since, err) }(time.Now())
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		if _, err := s.db.Ready(ctx); err != nil {
			return err
		}
		if s.missing() { // somebody removed it, or the database is a new one
			if s.cleaned() {
				return fmt.Errorf("bridge %s was cleaned up: %w", s.o.Bridge, vnet.ErrNotFound)
			}
			if err := s.ensureBridge(ctx); err != nil {
				return err
			}
		}
		c, err := s.ready(ctx)
		if err != nil {
			return err
		}
		v := s.view(ctx, c)
		for _, x := range xs {
			if _, err := v.run(x); err != nil {
				return s.unknown(c, err)
			}
		}
		if len(v.whole) > 0 {
			if err := v.base(); err != nil {
				return s.unknown(c, err)
			}
		}
		if err := v.claim(ctx); errors.Is(err, errTaken) {
			if err := s.outdated(ctx, v.numbers.st); err != nil {
				return fmt.Errorf("numbers of bridge %s: others change them all the time: %w", s.o.Bridge, err)
			}
			continue
		} else if err != nil {
			return err
		}
		if err := v.bundle(ctx, v.named); err != nil {
			if c.Err() == nil && !v.begun { // refused: nothing refers to the new numbers
				got, _ := v.numbers.changed()
				err = errors.Join(err, v.giveBack(ctx, got))
			}
			return s.unknown(c, err)
		}
		for _, x := range xs {
			v.stands(x.part, v.whole[x.part])
		}
		if err := v.free(ctx); err != nil {
			if c.Err() != nil && !errors.Is(err, vnet.ErrNotReady) {
				err = fmt.Errorf("%w: %w", vnet.ErrNotReady, err)
			}
			return fmt.Errorf("what was asked for stands; numbers that are not used any more are not free: %w", err)
		}
		var errs []error
		for _, f := range v.after {
			if err := f(ctx); err != nil {
				errs = append(errs, fmt.Errorf("the flows stand: %w", err))
			}
		}
		return errors.Join(errs...)
	}
}

// unknown says of an error what is not known after it.
func (s *Switch) unknown(c *of.Conn, err error) error {
	if c.Err() != nil && !errors.Is(err, vnet.ErrNotReady) {
		return fmt.Errorf("bridge %s: %w: the connection was lost, and whether the change was made is not known: %w", s.o.Bridge, vnet.ErrNotReady, err)
	}
	return err
}

// named says whose flow was refused.
func (v *view) named(err error) error {
	var fe *of.FlowError
	if !errors.As(err, &fe) {
		return err
	}
	if e := v.objects[fe.Mod.Cookie]; e != nil {
		o := e.want
		if o == nil {
			o = e.stands
		}
		if o != nil {
			return fmt.Errorf("%s %s %s: the switch refuses a flow: %w", o.Part, o.Kind, o.ID, err)
		}
	}
	return err
}

// Plan says what Submit would do.
func (s *Switch) Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.db.Ready(ctx); err != nil {
		return vnet.Plan{}, err
	}
	c, err := s.ready(ctx)
	if err != nil {
		return vnet.Plan{}, err
	}
	return s.view(ctx, c).run(submission{part, f})
}

// Batch collects submissions. It may be used from several goroutines.
type Batch struct {
	s *Switch

	mu   sync.Mutex
	xs   []submission
	plan vnet.Plan
}

// Batch returns an empty batch.
func (s *Switch) Batch() *Batch { return &Batch{s: s} }

// Switch returns the handle.
func (b *Batch) Switch() *Switch { return b.s }

// over returns a view in which all is pending that the batch has.
func (b *Batch) over(ctx context.Context) (*view, error) {
	if _, err := b.s.db.Ready(ctx); err != nil {
		return nil, err
	}
	c, err := b.s.ready(ctx)
	if err != nil {
		return nil, err
	}
	v := b.s.view(ctx, c)
	for _, x := range b.xs {
		if _, err := v.run(x); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Submit calls f over what the batch has so far, and collects it when there
// was no error.
func (b *Batch) Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, cancel := b.s.bound(ctx)
	defer cancel()
	v, err := b.over(ctx)
	if err != nil {
		return err
	}
	p, err := v.run(submission{part, f})
	if err != nil {
		return err
	}
	b.xs = append(b.xs, submission{part, f})
	b.plan.Changes = append(b.plan.Changes, p.Changes...)
	return nil
}

// Plan says what Submit would do after what the batch has.
func (b *Batch) Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, cancel := b.s.bound(ctx)
	defer cancel()
	v, err := b.over(ctx)
	if err != nil {
		return vnet.Plan{}, err
	}
	return v.run(submission{part, f})
}

// Changes is what Commit will do, as it was when each was submitted.
func (b *Batch) Changes() vnet.Plan {
	b.mu.Lock()
	defer b.mu.Unlock()
	return vnet.Plan{Changes: append([]vnet.Change(nil), b.plan.Changes...)}
}

// Commit writes what was collected as one bundle. The batch is empty then,
// unless there was an error.
func (b *Batch) Commit(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.xs) == 0 {
		return ctx.Err()
	}
	if err := b.s.commit(ctx, b.xs); err != nil {
		return err
	}
	b.xs, b.plan = nil, vnet.Plan{}
	return nil
}
