package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
)

// Cached is a [Source] that remembers in a file what of another one was applied
// last. A host that starts while the other does not know what is wanted (a store
// that is away, a file with a mistake) goes on as before, and serves.
type Cached struct {
	Source
	Path string
	// Grace is how long the other one has to yield something. Zero: 3 s.
	Grace  time.Duration
	Logger *slog.Logger // gets what cannot be read or written; nil: none

	mu   sync.Mutex
	last *Desired // yielded, and not yet in the file
}

// Report implements [Source].
func (c *Cached) Report(ctx context.Context, s Status) {
	c.mu.Lock()
	if c.last != nil && c.last.Revision == s.Applied {
		b, err := json.Marshal(c.last)
		if err == nil {
			err = replace(c.Path, b)
		}
		if err != nil {
			c.warn("the state cannot be kept", err)
		}
		c.last = nil
	}
	c.mu.Unlock()
	c.Source.Report(ctx, s)
}

// Last is the state in the file; ok is false when there is none.
func (c *Cached) Last() (d Desired, ok bool) {
	b, err := os.ReadFile(c.Path)
	if err == nil {
		err = decode(b, &d)
	}
	if err == nil {
		err = d.State.Validate()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.warn("the state of before cannot be used", err)
	}
	return d, err == nil
}

func (c *Cached) warn(text string, err error) {
	if c.Logger != nil {
		c.Logger.Warn(text, "file", c.Path, "err", err)
	}
}

// Watch implements [Source].
func (c *Cached) Watch(ctx context.Context) iter.Seq2[Desired, error] {
	type item struct {
		d   Desired
		err error
	}
	return func(yield func(Desired, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		items := make(chan item)
		go func() {
			defer close(items)
			for d, err := range c.Source.Watch(ctx) {
				select {
				case items <- item{d, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		grace := c.Grace
		if grace == 0 {
			grace = 3 * time.Second
		}
		late := time.NewTimer(grace)
		defer late.Stop()
		known := false // a state has been yielded
		old := func() bool {
			d, ok := c.Last()
			if known || !ok {
				return true
			}
			known = true
			return yield(d, nil)
		}
		for {
			select {
			case x, ok := <-items:
				switch {
				case !ok:
					return
				case x.err != nil && !known && !old():
					return
				case x.err == nil:
					known = true
					c.mu.Lock()
					c.last = &x.d
					c.mu.Unlock()
				}
				if !yield(x.d, x.err) {
					return
				}
			case <-late.C:
				if known {
					break
				}
				if !old() || !yield(Desired{}, fmt.Errorf("the source has said nothing for %v: %w", grace, vnet.ErrNotReady)) {
					return
				}
			}
		}
	}
}

var _ Source = (*Cached)(nil)
