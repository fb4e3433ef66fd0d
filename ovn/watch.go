package ovn

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/sbrow"
)

// Changes yields at once, and then whenever one of the tables (of either
// database; none: any) has changed, or a connection has come or gone, until ctx
// ends. Changes that come while the reader is busy are one.
func (c *Conn) Changes(ctx context.Context, tables ...string) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		var wakes [2]<-chan struct{}
		var stopped [2]<-chan struct{}
		for i, k := range []*ovsdb.Client{c.nb, c.sb} {
			if k == nil {
				continue
			}
			var stop func()
			wakes[i], stop = k.Watch(tables...)
			stopped[i] = k.Stopped()
			defer stop()
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-stopped[0]:
				return
			case <-stopped[1]:
				return
			case <-wakes[0]:
			case <-wakes[1]:
			}
			if ctx.Err() != nil || !yield(struct{}{}) {
				return
			}
		}
	}
}

// port is how a port was last seen.
type port struct {
	up      bool
	chassis string
}

// WatchPorts yields "port-up" and "port-down" of the ports of part overlay of
// this owner, from this call on until ctx ends: from the Southbound, with the
// chassis in Detail, or without one from Logical_Switch_Port.up. First come
// the ports that are up. While a database is away nothing is yielded; when it
// comes back, what has changed is. A port that went down and up again while
// the reader was busy, or in one change, is not seen to have moved; one that
// moved to another chassis is yielded down and up. What a reader is too slow
// for is not queued but seen later as it is then, so nothing piles up.
func (c *Conn) WatchPorts(ctx context.Context) iter.Seq[vnet.Event] {
	return func(yield func(vnet.Event) bool) {
		known := map[string]port{}
		for range c.Changes(ctx, "Port_Binding", "Logical_Switch_Port", "Chassis") {
			now, ok := c.portsNow()
			if !ok {
				continue
			}
			var down, up []vnet.Event
			event := func(kind, id, chassis string) vnet.Event {
				e := vnet.Event{Time: time.Now(), Part: vnet.PartOverlay, Kind: kind, ID: id}
				if chassis != "" {
					e.Detail = map[string]string{"chassis": chassis}
				}
				return e
			}
			for id, was := range known {
				if is := now[id]; was.up && (!is.up || is.chassis != was.chassis) {
					down = append(down, event("port-down", id, was.chassis))
				}
			}
			for id, is := range now {
				if was := known[id]; is.up && (!was.up || is.chassis != was.chassis) {
					up = append(up, event("port-up", id, is.chassis))
				}
			}
			known = now
			byID := func(a, b vnet.Event) int { return strings.Compare(a.ID, b.ID) }
			slices.SortFunc(down, byID)
			slices.SortFunc(up, byID)
			for _, e := range append(down, up...) {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// portsNow are our ports as the databases have them; ok is false while they
// are not known.
func (c *Conn) portsNow() (map[string]port, bool) {
	out := map[string]port{}
	if c.sb != nil {
		if c.sb.Err() != nil {
			return nil, false
		}
		s := c.sb.State()
		for _, r := range s.All("Port_Binding") {
			b := r.(*sbrow.PortBinding)
			m, ok := MarkOf(b.ExternalIDs) // copied by northd
			if !ok || m.Owner != c.owner || m.Part != vnet.PartOverlay || m.Kind != "port" {
				continue
			}
			p := port{up: b.Up != nil && *b.Up && b.Chassis != nil}
			if p.up {
				if ch, ok := s.Row("Chassis", *b.Chassis).(*sbrow.Chassis); ok {
					p.chassis = ch.Name
				}
			}
			out[m.ID] = p
		}
		return out, true
	}
	if c.nb.Err() != nil {
		return nil, false
	}
	for _, r := range c.nb.State().Group("Logical_Switch_Port", string(vnet.PartOverlay)) {
		l := r.(*nbrow.LogicalSwitchPort)
		if m, _ := MarkOf(l.ExternalIDs); m.Kind == "port" {
			out[m.ID] = port{up: l.Up != nil && *l.Up}
		}
	}
	return out, true
}
