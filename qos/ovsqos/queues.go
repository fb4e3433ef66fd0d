package ovsqos

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
)

// metered is the shape that meters hold: a queued port's is a quarter above what
// its queue lets through.
func (r record) metered() qos.Shape {
	s := r.shape()
	if r.Queued {
		s.Ingress.BurstKbit = s.Ingress.Burst()
		s.Ingress.Kbps += s.Ingress.Kbps / 4
	}
	return s
}

const frame = 1500 // bytes

// queueID names a port's queue among those of uplinks.
func queueID(port string) string { return "port:" + port }

// pluggedAt are the devices at ports, by port.
func (b *Backend) pluggedAt(ctx context.Context) (map[string]ovs.Plugged, error) {
	list, err := b.s.Plugged(ctx)
	out := map[string]ovs.Plugged{}
	for _, p := range list {
		if p.Number != 0 {
			out[p.PortID] = p
		}
	}
	return out, err
}

// requeue gives the devices of queued ports their queues, and takes them from
// others.
func (b *Backend) requeue(ctx context.Context) error {
	all, _, err := b.objects(ctx)
	if err != nil {
		return err
	}
	at, err := b.pluggedAt(ctx)
	if err != nil {
		return err
	}
	have, err := b.s.QueuesOf(ctx, vnet.PartQoS)
	if err != nil {
		return err
	}
	var errs []error
	for key, r := range all {
		if !r.Queued {
			continue
		}
		id := strings.TrimPrefix(key, kindPort+" ")
		p, plugged := at[id]
		if !plugged {
			continue
		}
		on, stands := have[queueID(id)]
		delete(have, queueID(id))
		rate := uint64(r.Port.Ingress.Kbps) * 1000
		if !stands || on != p.Device {
			// A tenth of a second waits; the kernel's 1000 packets would be 12 s at 1 Mbit/s.
			if err := b.s.RTNL().SetTxQLen(p.Device, int(min(max(rate/10/8/frame, 10), 10_000))); err != nil {
				errs = append(errs, fmt.Errorf("port %s: %w", id, err))
				continue
			}
		}
		if err := b.s.SetQueues(ctx, vnet.PartQoS, queueID(id), p.Device, &ovs.Queues{Rate: rate, Queues: map[int]uint64{0: rate}}); err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", id, err))
		}
	}
	for id := range have {
		if strings.HasPrefix(id, queueID("")) {
			errs = append(errs, b.s.SetQueues(ctx, vnet.PartQoS, id, "", nil))
		}
	}
	return errors.Join(errs...)
}

// Serve implements [qos.Runner]: it gives devices that are plugged later their
// queues. Without [Options.Queues] it has nothing to do.
func (b *Backend) Serve(ctx context.Context) error {
	if !b.queues {
		<-ctx.Done()
		return nil
	}
	if err := b.requeue(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	for e := range b.s.Watch(ctx) {
		if e.Part == vnet.PartHost {
			continue // nothing passes until Sync has been called
		}
		if err := b.requeue(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, vnet.ErrNotReady) && !errors.Is(err, vnet.ErrNotFound) {
			return err
		}
	}
	return nil
}

// counts are those of queued ports, by port.
func (b *Backend) counts(ctx context.Context, all map[string]record) (map[string]rtnl.Count, error) {
	out := map[string]rtnl.Count{}
	if !b.queues {
		return out, nil
	}
	at, err := b.pluggedAt(ctx)
	if err != nil {
		return nil, err
	}
	for key, r := range all {
		if !r.Queued {
			continue
		}
		id := strings.TrimPrefix(key, kindPort+" ")
		if p, ok := at[id]; ok {
			n, err := b.s.RTNL().HTBCounts(p.Device)
			if err != nil && !errors.Is(err, vnet.ErrNotFound) {
				return nil, err
			}
			if k, ok := n[1]; ok { // queue 0
				out[id] = k
			}
		}
	}
	return out, nil
}
