package openflow

import (
	"context"
	"sync"
	"sync/atomic"
)

// feed is a channel of events with somebody at the other end, or not any more.
type feed[T any] struct {
	accept func(T) bool
	lost   *atomic.Uint64

	mu     sync.Mutex
	ch     chan T
	closed bool
	stop   func() bool // forgets the context that would close it
}

func newFeed[T any](buffer int, accept func(T) bool, lost *atomic.Uint64) *feed[T] {
	if buffer <= 0 {
		buffer = 256
	}
	return &feed[T]{accept: accept, lost: lost, ch: make(chan T, buffer)}
}

// offer hands over an event, and reports false if the channel was full. It
// never waits.
func (f *feed[T]) offer(v T) bool {
	if f.accept != nil && !f.accept(v) {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return true
	}
	select {
	case f.ch <- v:
		return true
	default:
		f.lost.Add(1)
		return false
	}
}

func (f *feed[T]) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.ch)
		if f.stop != nil {
			f.stop()
		}
	}
}

// until has end called when ctx ends before the feed does.
func (f *feed[T]) until(ctx context.Context, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.stop = context.AfterFunc(ctx, end)
	}
}

// follow registers a feed until ctx or the connection ends.
func follow[T any](ctx context.Context, c *Conn, f *feed[T], set map[*feed[T]]struct{}) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	set[f] = struct{}{}
	f.until(ctx, func() { unfollow(c, f, set) })
	return nil
}

func unfollow[T any](c *Conn, f *feed[T], set map[*feed[T]]struct{}) {
	c.mu.Lock()
	delete(set, f)
	c.mu.Unlock()
	f.close()
}

// publish offers an event to all.
func publish[T any](c *Conn, set map[*feed[T]]struct{}, v T) {
	c.mu.Lock()
	fs := make([]*feed[T], 0, len(set))
	for f := range set {
		fs = append(fs, f)
	}
	c.mu.Unlock()
	for _, f := range fs {
		f.offer(v)
	}
}
