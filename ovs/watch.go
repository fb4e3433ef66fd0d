package ovs

import (
	"context"
	"iter"
	"time"

	"github.com/vnet-go/vnet"
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
	up := s.up()
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
				now := s.up()
				for k, v := range now {
					if up[k] != v && !yield(portEvent(k, v)) {
						return
					}
				}
				for k, v := range up {
					if _, there := now[k]; !there && v && !yield(portEvent(k, false)) {
						return
					}
				}
				up = now
			}
		}
	}
}

type pluggedPort struct {
	part vnet.Part
	id   string
}

func portEvent(k pluggedPort, up bool) vnet.Event {
	e := vnet.Event{Time: time.Now(), Part: k.part, Kind: "port-down", ID: k.id}
	if up {
		e.Kind = "port-up"
	}
	return e
}

// up says of each plugged port whether frames can pass its device.
func (s *Switch) up() map[pluggedPort]bool {
	out := map[pluggedPort]bool{}
	for _, p := range pluggedIn(s.db.State()) {
		out[pluggedPort{p.Part, p.PortID}] = p.Up && p.Number != 0
	}
	return out
}
