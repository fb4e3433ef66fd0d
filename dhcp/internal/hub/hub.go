// Package hub hands events to any number of watchers, none of which can hold
// up the one who tells them.
package hub

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnet-go/vnet"
)

// buffered is how many events wait for a slow watcher before it loses some.
const buffered = 1024

// Hub is a set of watchers. The zero value has none.
type Hub struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	n        atomic.Int32
}

type watcher struct {
	ch   chan vnet.Event
	lost bool // guarded by Hub.mu
}

// Any reports whether somebody watches.
func (h *Hub) Any() bool { return h.n.Load() > 0 }

// Tell gives e to all watchers. It never waits.
func (h *Hub) Tell(e vnet.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if w.lost {
			select {
			case w.ch <- vnet.Event{Time: time.Now(), Part: e.Part, Kind: vnet.EventLost}:
				w.lost = false
			default:
				continue
			}
		}
		select {
		case w.ch <- e:
		default:
			w.lost = true
		}
	}
}

// Watch yields the events from this call on, until ctx ends.
func (h *Hub) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	w := &watcher{ch: make(chan vnet.Event, buffered)}
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[*watcher]struct{}{}
	}
	h.watchers[w] = struct{}{}
	h.n.Add(1)
	h.mu.Unlock()
	var once sync.Once
	leave := func() {
		once.Do(func() {
			h.mu.Lock()
			delete(h.watchers, w)
			h.n.Add(-1)
			h.mu.Unlock()
		})
	}
	context.AfterFunc(ctx, leave)
	return func(yield func(vnet.Event) bool) {
		defer leave()
		for {
			select {
			case e := <-w.ch:
				if !yield(e) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
