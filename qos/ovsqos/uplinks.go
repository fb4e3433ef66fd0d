package ovsqos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
)

// keeps reports whether guarantees on an uplink can be kept.
func (b *Backend) keeps(uplink string) bool { return !b.s.Userspace() && b.devices[uplink] != "" }

// uplink is that of a record, or "".
func (r record) uplink() string {
	switch {
	case r.Uplink != nil:
		return r.Uplink.Name
	case r.Port != nil:
		return r.Port.Uplink
	}
	return ""
}

// state is what stands, or will, of ports and uplinks.
func (w *writer) state() (s qos.State) {
	for _, o := range w.tx.List(kindPort) {
		if r := decode(o.Record); r.Port != nil {
			s.Ports = append(s.Ports, *r.Port)
		}
	}
	for _, o := range w.tx.List(kindUplink) {
		if r := decode(o.Record); r.Uplink != nil {
			s.Uplinks = append(s.Uplinks, *r.Uplink)
		}
	}
	return s
}

// promised returns [vnet.ErrConflict] when with r there would be more promised
// than there is.
func (w *writer) promised(kind, id string, r record) error {
	s := w.state()
	if kind == kindPort {
		s.Ports = append(slices.DeleteFunc(s.Ports, func(p qos.Port) bool { return p.ID == id }), *r.Port)
	} else {
		s.Uplinks = append(slices.DeleteFunc(s.Uplinks, func(u qos.Uplink) bool { return u.Name == id }), *r.Uplink)
	}
	if kind == kindPort && r.Port.Uplink == "" {
		return nil
	}
	return qos.CheckGuarantees(s)
}

// leastShare is what is left to those whom nothing is promised, bit/s.
const leastShare = 8000

// share brings the queues of all uplinks to what is promised in s. A port's queue
// has the port's number: its packets carry it through tunnels as the kernel's
// priority, class 1:number+1.
func (b *Backend) share(ctx context.Context, s qos.State) error {
	if b.s.Userspace() {
		return nil
	}
	rate, promised := map[string]uint64{}, map[string]map[int]uint64{}
	for _, u := range s.Uplinks {
		rate[u.Name], promised[u.Name] = uint64(u.Kbps)*1000, map[int]uint64{}
	}
	var errs []error
	for _, p := range s.Ports {
		if promised[p.Uplink] == nil {
			continue
		}
		n, ok := b.s.Number("port", p.ID)
		if !ok || n+1 >= rtnl.ShareOthers {
			errs = append(errs, fmt.Errorf("port %s has no number that can be a queue's: %w", p.ID, vnet.ErrNotReady))
			continue
		}
		promised[p.Uplink][int(n)] = uint64(p.Egress.MinKbps) * 1000
	}
	for _, name := range slices.Sorted(maps.Keys(b.devices)) {
		if err := b.shareOut(ctx, name, b.devices[name], rate[name], promised[name]); err != nil {
			errs = append(errs, fmt.Errorf("uplink %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// shareOut shares out one device: none gets queues when queues is nil.
func (b *Backend) shareOut(ctx context.Context, name, dev string, rate uint64, queues map[int]uint64) error {
	port, err := b.s.HasPort(ctx, dev)
	if err != nil {
		return err
	}
	left := rate
	for _, n := range queues {
		left -= min(left, n)
	}
	left = max(left, rate/1000, leastShare)
	if port {
		var q *ovs.Queues
		if queues != nil {
			q = &ovs.Queues{Rate: rate, Queues: maps.Clone(queues)}
			q.Queues[0] = left
		}
		return b.s.SetQueues(ctx, vnet.PartQoS, name, dev, q)
	}
	rt := b.s.RTNL()
	if queues == nil {
		// One that was a port, and has rows of ours left.
		return errors.Join(b.s.SetQueues(ctx, vnet.PartQoS, name, dev, nil), rt.UnshareDevice(dev))
	}
	classes := map[uint16]rtnl.HTBClass{rtnl.ShareOthers: {Rate: left, Ceil: rate}}
	for n, r := range queues {
		classes[uint16(n)+1] = rtnl.HTBClass{Rate: r, Ceil: rate}
	}
	return rt.ShareDevice(dev, rate, classes)
}
