package ovnqos

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

const backendName = "ovnqos"

// Options of [New]. The zero value and nil are the same.
type Options struct {
	// Meters collects what the limits of all chassis have seen: the results of
	// [Meters] on every host, one after the other, however the application gets
	// them here. Nil: [Backend.Statistics] is refused.
	Meters func(ctx context.Context) ([]Meter, error)
}

// Backend limits traffic by rows of the Northbound database. It keeps no state.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
	o Options
}

var (
	_ qos.Backend   = (*Backend)(nil)
	_ qos.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, c: t.Conn()}
	if o != nil {
		b.o = *o
	}
	return b, nil
}

func (b *Backend) submit(ctx context.Context, f func(w *writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartQoS, func(tx *ovn.Tx) error { return f(&writer{tx: tx}) })
}

// EnsurePort implements [qos.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p qos.Port) error {
	if err := able(p.Shape, "port "+p.ID); err != nil {
		return err
	}
	if err := guaranteed(p); err != nil {
		return err
	}
	p = enforcedPort(p)
	if p.Shape.Zero() {
		return b.DeletePort(ctx, p.ID)
	}
	return b.submit(ctx, func(w *writer) error {
		old := portOf(w.port(p.ID))
		r, err := w.ensurePort(p)
		if err != nil {
			return err
		}
		w.tell("port", p.ID, r, diffOf(qos.DiffPort(old, &p)))
		return nil
	})
}

// DeletePort implements [qos.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		old := portOf(w.port(id))
		w.tell("port", id, w.deletePort(id), diffOf(qos.DiffPort(old, nil)))
		return nil
	})
}

// EnsureGateway implements [qos.Backend].
func (b *Backend) EnsureGateway(ctx context.Context, g qos.Gateway) error {
	if err := able(g.Shape, "gateway of router "+g.RouterID); err != nil {
		return err
	}
	g.Shape = enforced(g.Shape)
	if g.Shape.Zero() {
		return b.DeleteGateway(ctx, g.RouterID)
	}
	return b.submit(ctx, func(w *writer) error {
		old := asked[qos.Gateway](w.tx, kindGateway, g.RouterID)
		r, err := w.ensureGateway(g)
		if err != nil {
			return err
		}
		w.tell("gateway", g.RouterID, r, diffOf(qos.DiffGateway(old, &g)))
		return nil
	})
}

// DeleteGateway implements [qos.Backend].
func (b *Backend) DeleteGateway(ctx context.Context, routerID string) error {
	return b.submit(ctx, func(w *writer) error {
		old := asked[qos.Gateway](w.tx, kindGateway, routerID)
		w.tell("gateway", routerID, w.deleteRows(kindGateway, routerID), diffOf(qos.DiffGateway(old, nil)))
		return nil
	})
}

// EnsureFloatingIP implements [qos.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f qos.FloatingIP) error {
	if err := able(f.Shape, "floating IP "+f.ID); err != nil {
		return err
	}
	f.FloatingIP, f.Shape = f.FloatingIP.Unmap(), enforced(f.Shape)
	if f.Shape.Zero() {
		return b.DeleteFloatingIP(ctx, f.ID)
	}
	return b.submit(ctx, func(w *writer) error {
		old := asked[qos.FloatingIP](w.tx, kindFloating, f.ID)
		r, err := w.ensureFloatingIP(f)
		if err != nil {
			return err
		}
		w.tell("floatingip", f.ID, r, diffOf(qos.DiffFloatingIP(old, &f)))
		return nil
	})
}

// DeleteFloatingIP implements [qos.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		old := asked[qos.FloatingIP](w.tx, kindFloating, id)
		w.tell("floatingip", id, w.deleteRows(kindFloating, id), diffOf(qos.DiffFloatingIP(old, nil)))
		return nil
	})
}

// EnsureUplink implements [qos.Backend]: it is refused.
func (b *Backend) EnsureUplink(_ context.Context, u qos.Uplink) error { return refuseUplink(u) }

// DeleteUplink implements [qos.Backend]: there is none.
func (b *Backend) DeleteUplink(ctx context.Context, _ string) error { return ctx.Err() }

// Sync implements [qos.Backend].
func (b *Backend) Sync(ctx context.Context, s qos.State, o vnet.SyncOptions) error {
	s, err := wanted(s)
	if err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		existing, err := w.all(s)
		if err != nil {
			return err
		}
		return o.Check(w.tx.Changes(), existing)
	})
}

// Plan implements [qos.Backend].
func (b *Backend) Plan(ctx context.Context, s qos.State) (vnet.Plan, error) {
	s, err := wanted(s)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartQoS, func(tx *ovn.Tx) error {
		_, err := (&writer{tx: tx}).all(s)
		return err
	})
}

// Health implements [qos.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

// What is refused, by the names of [qos.Features.Missing], and why.
func missing() map[string]string {
	const packets = "an OVN whose QoS rows count packets: their bandwidth is in kbit/s (ovn-nb(5)), and its meters of packets are for logs and for what goes to ovn-controller"
	const share = "an OVN that shares an uplink out: the queues that 23.03 makes of qos_min_rate lie below no limit of the uplink, and what is not queued goes first"
	return map[string]string{"egress packet rate": packets, "ingress packet rate": packets, "guarantees": share, "tunnel guarantees": share}
}

// Features implements [qos.Backend].
func (b *Backend) Features(context.Context) qos.Features {
	a := qos.Abilities{EgressBandwidth: true, IngressBandwidth: true, DSCP: true}
	return qos.Features{
		Port: a, Gateway: a, FloatingIP: a,
		Mechanism: "QoS rows, which ovn-controller turns into meters of Open vSwitch: what is over a limit is dropped",
		Missing:   missing(),
		Limits: []string{
			"a limit that changes begins with a full burst, and its statistics begin anew",
			"the limit of a gateway is for what passes by the gateway's host: not for floating IPs that are translated on the host of their port",
			"the DSCP mark of a gateway is also for floating IPs that have limits, but no mark, of their own",
			"on the kernel's data path a segment that a machine leaves to be cut (TSO) is one packet of up to 512 kbit: a burst below that lets none pass",
		},
	}
}

func refuse(name, of string) error {
	return &vnet.UnsupportedError{Feature: name + " of " + of, Backend: backendName, Need: missing()[name]}
}

// able refuses what no row can say.
func able(s qos.Shape, of string) error {
	switch {
	case s.Egress.PPS > 0:
		return refuse("egress packet rate", of)
	case s.Ingress.PPS > 0:
		return refuse("ingress packet rate", of)
	}
	return nil
}

func refuseUplink(u qos.Uplink) error {
	if u.Name == qos.Tunnelled {
		return refuse("tunnel guarantees", "uplink "+u.Name)
	}
	return refuse("guarantees", "uplink "+u.Name)
}

func guaranteed(p qos.Port) error {
	if p.Uplink == "" || p.Egress.MinKbps == 0 {
		return nil
	}
	return refuseUplink(qos.Uplink{Name: p.Uplink})
}

// enforced leaves of a shape what is not only promised.
func enforced(s qos.Shape) qos.Shape {
	s = s.Clone()
	for _, l := range []*qos.Limits{&s.Egress, &s.Ingress} {
		l.MinKbps, l.MinPPS = 0, 0
	}
	return s
}

func enforcedPort(p qos.Port) qos.Port {
	p.Shape, p.Uplink = enforced(p.Shape), ""
	return p
}

// wanted is what s asks of this backend, or why it cannot be had.
func wanted(s qos.State) (qos.State, error) {
	s = s.Canonical()
	for _, u := range s.Uplinks {
		return s, refuseUplink(u)
	}
	for i, p := range s.Ports {
		if err := able(p.Shape, "port "+p.ID); err != nil {
			return s, err
		}
		if err := guaranteed(p); err != nil {
			return s, err
		}
		s.Ports[i] = enforcedPort(p)
	}
	for i, g := range s.Gateways {
		if err := able(g.Shape, "gateway of router "+g.RouterID); err != nil {
			return s, err
		}
		s.Gateways[i].Shape = enforced(g.Shape)
	}
	for i, f := range s.FloatingIPs {
		if err := able(f.Shape, "floating IP "+f.ID); err != nil {
			return s, err
		}
		s.FloatingIPs[i].Shape = enforced(f.Shape)
	}
	return s.Canonical(), nil // without what was only promised
}

func noPort(id string) error {
	return fmt.Errorf("port %q in the overlay: %w", id, vnet.ErrNotFound)
}

func noNetwork(id string) error {
	return fmt.Errorf("network %q in the overlay: %w", id, vnet.ErrNotFound)
}

// diffOf is the change, or nil when there is none.
func diffOf(c vnet.Change, differs bool) *vnet.Change {
	if !differs {
		return nil
	}
	return &c
}
