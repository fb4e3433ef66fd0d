package ovn

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
)

// Target is what backends write through: a [*Conn], which commits each
// submission as one transaction, or a [*Batch], which collects the submissions
// of several backends and commits them as one transaction.
type Target interface {
	Conn() *Conn
	// Submit carries out what f does to its transaction, or collects it. f
	// reads and writes through tx only, and does the same each time: it is
	// called again, with a newer view, when another writer was faster, and a
	// Batch calls it both when it is submitted and when it is committed late.
	// It must not block and not use the connection. An error of f, or one that
	// tx met with, ends the submission; nothing of it is written.
	Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error
	// Plan says what Submit would do, and writes nothing.
	Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error)
}

// errSouth ends a function that looks into a Southbound which is not known.
var errSouth = errors.New("the Southbound is not known")

var (
	_ Target = (*Conn)(nil)
	_ Target = (*Batch)(nil)
)

// Submit carries f out as one transaction and waits as the caller asked ([WithWait]).
func (c *Conn) Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error {
	return c.commit(ctx, func(ctx context.Context, x *ovsdb.Tx) error {
		_, err := c.run(ctx, x, part, f)
		return err
	})
}

// Plan says what Submit would do.
func (c *Conn) Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error) {
	nb, err := c.north()
	if err != nil {
		return vnet.Plan{}, err
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	s, err := nb.Ready(ctx)
	if err != nil {
		return vnet.Plan{}, err
	}
	return c.run(ctx, s.Begin(), part, f)
}

// run calls f over x and returns the changes it told of. On an error x is as
// it was. A function that looks into the Southbound waits until that is known.
func (c *Conn) run(ctx context.Context, x *ovsdb.Tx, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error) {
	for {
		tx := &Tx{v: View{c: c, nb: x}, x: x, part: part}
		if c.sb != nil && c.sb.Err() == nil {
			tx.v.sb = c.sb.State()
		}
		mark := x.Mark()
		err := f(tx)
		if tx.err != nil { // before what f made of it
			err = tx.err
		}
		if err == nil {
			return tx.plan, nil
		}
		x.Rollback(mark)
		if !errors.Is(err, errSouth) {
			return vnet.Plan{}, err
		}
		if _, err := c.sb.Ready(ctx); err != nil {
			return vnet.Plan{}, err
		}
	}
}

// commit makes a transaction by build, commits it and waits for it.
func (c *Conn) commit(ctx context.Context, build func(context.Context, *ovsdb.Tx) error) (err error) {
	nb, err := c.north()
	if err != nil {
		return err
	}
	defer func(since time.Time) { c.metrics.submission(since, err) }(time.Now())
	ctx, cancel := c.bound(ctx)
	defer cancel()
	wait := c.waitOf(ctx)
	var extra func() []ovsdb.Operation
	if wait != WaitNone {
		extra = c.number
	}
	results, err := nb.Commit(ctx, func(x *ovsdb.Tx) error { return build(ctx, x) }, extra)
	if err != nil || wait == WaitNone {
		return err
	}
	return c.await(ctx, wait, numberOf(results))
}

// Batch collects submissions. It may be used from several goroutines.
type Batch struct {
	c *Conn

	mu    sync.Mutex
	x     *ovsdb.Tx // nil while empty
	parts []submission
	plan  vnet.Plan
}

type submission struct {
	part vnet.Part
	f    func(*Tx) error
}

// Batch returns an empty batch.
func (c *Conn) Batch() *Batch { return &Batch{c: c} }

// Conn returns the connection.
func (b *Batch) Conn() *Conn { return b.c }

// Submit calls f over what the batch has so far, and collects it when there
// was no error.
func (b *Batch) Submit(ctx context.Context, part vnet.Part, f func(tx *Tx) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(ctx); err != nil {
		return err
	}
	ctx, cancel := b.c.bound(ctx)
	defer cancel()
	p, err := b.c.run(ctx, b.x, part, f)
	if err != nil {
		return err
	}
	b.parts = append(b.parts, submission{part, f})
	b.plan.Changes = append(b.plan.Changes, p.Changes...)
	return nil
}

// begin takes the view that the batch is over; b.mu is held.
func (b *Batch) begin(ctx context.Context) error {
	if b.x != nil {
		return ctx.Err()
	}
	nb, err := b.c.north()
	if err != nil {
		return err
	}
	ctx, cancel := b.c.bound(ctx)
	defer cancel()
	s, err := nb.Ready(ctx)
	if err != nil {
		return err
	}
	b.x = s.Begin()
	return nil
}

// Plan says what a further submission would do, over what the batch has.
func (b *Batch) Plan(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.begin(ctx); err != nil {
		return vnet.Plan{}, err
	}
	ctx, cancel := b.c.bound(ctx)
	defer cancel()
	mark := b.x.Mark()
	p, err := b.c.run(ctx, b.x, part, f)
	b.x.Rollback(mark)
	return p, err
}

// Changes are what has been collected, in the order of submission.
func (b *Batch) Changes() vnet.Plan {
	b.mu.Lock()
	defer b.mu.Unlock()
	return vnet.Plan{Changes: append([]vnet.Change(nil), b.plan.Changes...)}
}

// Commit carries out what was collected as one transaction, waits for it once,
// and empties the batch whatever comes of it. Either all of it is written or
// nothing.
func (b *Batch) Commit(ctx context.Context) error {
	b.mu.Lock()
	parts, x := b.parts, b.x
	b.parts, b.x, b.plan = nil, nil, vnet.Plan{}
	b.mu.Unlock()
	if len(parts) == 0 {
		return nil
	}
	return b.c.commit(ctx, func(ctx context.Context, fresh *ovsdb.Tx) error {
		if x != nil && fresh.Base() == x.Base() { // computed already
			fresh.Take(x)
			x = nil
			return nil
		}
		for _, p := range parts {
			if _, err := b.c.run(ctx, fresh, p.part, p.f); err != nil {
				return err
			}
		}
		return nil
	})
}

// Print returns the operations that Submit would send, one a line, as text for
// people and tests.
func (c *Conn) Print(ctx context.Context, part vnet.Part, f func(tx *Tx) error) (string, error) {
	nb, err := c.north()
	if err != nil {
		return "", err
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	s, err := nb.Ready(ctx)
	if err != nil {
		return "", err
	}
	x := s.Begin()
	if _, err := c.run(ctx, x, part, f); err != nil {
		return "", err
	}
	return ovsdb.Print(x.Ops()), x.Check()
}
