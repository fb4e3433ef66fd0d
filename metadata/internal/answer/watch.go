package answer

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
)

// hub hands events to any number of watchers, none of which holds it up.
type hub struct {
	mu sync.Mutex
	m  map[*watcher]struct{}
}

type watcher struct {
	ch   chan vnet.Event
	lost bool // guarded by hub.mu
}

func (h *hub) tell(kind, id string, detail map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.m) == 0 {
		return
	}
	e := vnet.Event{Time: time.Now(), Part: vnet.PartMetadata, Kind: kind, ID: id, Detail: detail}
	for w := range h.m {
		if w.lost {
			select {
			case w.ch <- vnet.Event{Time: e.Time, Part: e.Part, Kind: vnet.EventLost}:
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

// Watch is that of metadata.Watcher.
func (a *Answerer) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	h, w := &a.hub, &watcher{ch: make(chan vnet.Event, 1024)}
	h.mu.Lock()
	if h.m == nil {
		h.m = map[*watcher]struct{}{}
	}
	h.m[w] = struct{}{}
	h.mu.Unlock()
	leave := func() {
		h.mu.Lock()
		delete(h.m, w)
		h.mu.Unlock()
	}
	stop := context.AfterFunc(ctx, leave)
	return func(yield func(vnet.Event) bool) {
		defer stop()
		defer leave()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-w.ch:
				if !yield(e) {
					return
				}
			}
		}
	}
}
