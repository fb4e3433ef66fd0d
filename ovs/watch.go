package ovs

import (
	"context"
	"iter"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// EventRestarted is the kind of the event that the switch has been restarted:
// its flows are gone, nothing passes, and the application should call Sync.
const EventRestarted = "switch-restarted"

// Watch yields events of the switch from this call on, until ctx ends:
// [EventRestarted], also when the bridge was removed, and "port-up" and
// "port-down" of plugged devices, with the part that plugged them. A reader that
// is slow hears of several restarts once, and of a port how it is at last. A
// restart before the call is told of while a part that had written to the switch
// has not synced since.
func (s *Switch) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	own := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[own] = struct{}{}
	if s.stale() {
		own <- struct{}{}
	}
	s.mu.Unlock()
	wake, stop := s.db.Watch("Interface")
	seen := map[string]watched{}
	s.look(seen)
	return func(yield func(vnet.Event) bool) {
		defer func() {
			stop()
			s.mu.Lock()
			delete(s.watchers, own)
			s.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.db.Stopped():
				return
			case <-own:
				if !yield(vnet.Event{Time: time.Now(), Part: vnet.PartHost, Kind: EventRestarted, ID: s.o.Bridge}) {
					return
				}
			case <-wake:
				for _, e := range s.look(seen) {
					if !yield(e) {
						return
					}
				}
			}
		}
	}
}

// watched is a plugged port as it was when last looked at.
type watched struct {
	row  *vswitchrow.Interface
	part vnet.Part
	id   string
	up   bool // frames can pass its device
}

// look says what became of plugged ports since seen, which it brings up to date.
func (s *Switch) look(seen map[string]watched) (es []vnet.Event) {
	tell := func(w watched) {
		e := vnet.Event{Time: time.Now(), Part: w.part, Kind: "port-down", ID: w.id}
		if w.up {
			e.Kind = "port-up"
		}
		es = append(es, e)
	}
	there := map[string]bool{}
	for u, r := range s.db.State().Group("Interface", "ours") {
		there[u] = true
		was, i := seen[u], r.(*vswitchrow.Interface)
		if was.row == i {
			continue
		}
		now := watched{row: i, up: was.up}
		if i.ExternalIDs[keyKind] == kindPort {
			p := asPlugged(i)
			now.part, now.id, now.up = p.Part, p.PortID, p.Up && p.Number != 0
			if now.up != was.up {
				tell(now)
			}
		}
		seen[u] = now
	}
	for u, w := range seen {
		if !there[u] {
			if delete(seen, u); w.up {
				w.up = false
				tell(w)
			}
		}
	}
	return es
}
