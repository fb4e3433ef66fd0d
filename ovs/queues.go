package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// Queues are how ovs-vswitchd shares out a device that is a port of one of its
// bridges, by HTB (ovs-vswitchd.conf.db(5), QoS of type linux-htb). What no flow
// has given a queue goes to queue 0.
type Queues struct {
	Rate   uint64         // of the device, bit/s
	Queues map[int]uint64 // queue -> what it is guaranteed, bit/s; it may borrow up to Rate
}

const (
	kindQueues = "queues"
	kindQueue  = "queue"
)

// HasPort reports whether a device is a port of a bridge of this switch.
func (s *Switch) HasPort(ctx context.Context, device string) (bool, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return false, err
	}
	return len(st.Lookup("Port", "name", device)) > 0, nil
}

// SetQueues shares out a device that is a port, for the object with that id; nil
// takes that away. The same again writes nothing. [vnet.ErrNotFound]: it is no
// port; [vnet.ErrConflict]: it has queues of somebody else's.
func (s *Switch) SetQueues(ctx context.Context, part vnet.Part, id, device string, q *Queues) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.db.Ready(ctx); err != nil {
		return err
	}
	m := mark{s.owner, part, kindQueues, id}
	before := s.db.Stats().Operations
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		of := func(n int) mark { return mark{s.owner, part, kindQueue, id + "/" + strconv.Itoa(n)} }
		want := map[int]string{} // queue -> row
		if q != nil {
			for n := range q.Queues {
				want[n] = of(n).uuid("Queue")
			}
		}
		var errs []error
		// The port first: what nothing refers to may go.
		port := false
		for _, r := range x.All("Port") {
			p := *r.(*vswitchrow.Port)
			ours := p.QOS != nil && *p.QOS == m.uuid("QoS")
			switch {
			case p.Name == device && q != nil:
				port = true
				if p.QOS != nil && !ours {
					return fmt.Errorf("port %s has QoS %s already: %w", device, *p.QOS, vnet.ErrConflict)
				}
				if u := m.uuid("QoS"); !ours {
					p.QOS = &u
					errs = append(errs, x.Put(&p))
				}
			case ours:
				p.QOS = nil
				errs = append(errs, x.Put(&p))
			}
		}
		if q != nil && !port {
			return fmt.Errorf("port %s of a bridge: %w", device, vnet.ErrNotFound)
		}
		if q != nil {
			for _, n := range slices.Sorted(maps.Keys(want)) {
				errs = append(errs, x.Put(&vswitchrow.Queue{UUID: want[n], ExternalIDs: of(n).into(nil),
					OtherConfig: map[string]string{"min-rate": fmt.Sprint(q.Queues[n]), "max-rate": fmt.Sprint(q.Rate)}}))
			}
			errs = append(errs, x.Put(&vswitchrow.QoS{UUID: m.uuid("QoS"), Type: "linux-htb", Queues: want, ExternalIDs: m.into(nil),
				OtherConfig: map[string]string{"max-rate": fmt.Sprint(q.Rate)}}, "queues"))
		} else if x.Row("QoS", m.uuid("QoS")) != nil {
			errs = append(errs, x.Delete("QoS", m.uuid("QoS")))
		}
		keep := slices.Collect(maps.Values(want))
		var drop []string
		for u, r := range x.Group("Queue", "ours") {
			if k := markOf(r.(*vswitchrow.Queue).ExternalIDs); k.part == part && k.kind == kindQueue && len(k.id) > len(id) && k.id[:len(id)+1] == id+"/" && !slices.Contains(keep, u) {
				drop = append(drop, u)
			}
		}
		for _, u := range drop {
			errs = append(errs, x.Delete("Queue", u))
		}
		return errors.Join(errs...)
	}, nil)
	s.writes.Add(s.db.Stats().Operations - before)
	return err
}

// QueuesOf returns the ids that a part has queues for, and the port.
func (s *Switch) QueuesOf(ctx context.Context, part vnet.Part) (map[string]string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	st, err := s.db.Ready(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	of := map[string]string{} // QoS row -> id
	for u, r := range st.Group("QoS", "ours") {
		if m := markOf(r.(*vswitchrow.QoS).ExternalIDs); m.part == part && m.kind == kindQueues {
			out[m.id], of[u] = "", m.id
		}
	}
	for _, r := range st.All("Port") {
		if p := r.(*vswitchrow.Port); p.QOS != nil && of[*p.QOS] != "" {
			out[of[*p.QOS]] = p.Name
		}
	}
	return out, nil
}
