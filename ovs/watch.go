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
// [EventRestarted], and "port-up" and "port-down" of plugged devices, with the
// part that plugged them. A reader that is too slow gets one
// [vnet.EventLost].
func (s *Switch) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	own := make(chan vnet.Event, 16)
	s.mu.Lock()
	s.events[own] = struct{}{}
	s.mu.Unlock()
	wake, stop := s.db.Watch("Interface")
	up := s.up()
	return func(yield func(vnet.Event) bool) {
		defer func() {
			stop()
			s.mu.Lock()
			delete(s.events, own)
			s.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.db.Stopped():
				return
			case e := <-own:
				if !yield(e) {
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

func (s *Switch) tell(e vnet.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.events {
		select {
		case ch <- e:
		default: // make room, and say so
			<-ch
			select {
			case ch <- vnet.Event{Time: e.Time, Part: e.Part, Kind: vnet.EventLost}:
			default:
			}
		}
	}
}
