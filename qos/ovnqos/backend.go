package ovnqos

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/sbrow"
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
	// Shares says that every host with an uplink runs a [Shares]. Without,
	// guarantees are refused: OVN (23.03) by itself keeps none.
	Shares bool
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
	return b.t.Submit(ctx, vnet.PartQoS, func(tx *ovn.Tx) error { return (&writer{tx: tx}).do(f) })
}

// EnsurePort implements [qos.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p qos.Port) error {
	if err := able(p.Shape, "port "+p.ID); err != nil {
		return err
	}
	p = enforcedPort(p)
	if p.Shape.Zero() {
		return b.DeletePort(ctx, p.ID)
	}
	if err := b.guarantees(ctx, qos.State{Ports: []qos.Port{p}}); err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		old := portOf(w.port(p.ID))
		r, err := w.ensurePort(p)
		if err == nil {
			err = w.promised(old, &p)
		}
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
		return w.promised(old, nil)
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

// EnsureUplink implements [qos.Backend].
func (b *Backend) EnsureUplink(ctx context.Context, u qos.Uplink) error {
	if err := b.guarantees(ctx, qos.State{Uplinks: []qos.Uplink{u}}); err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		s := stateOf(w.tx)
		old := uplinkOf(w.meter(u))
		s.Uplinks = slices.DeleteFunc(s.Uplinks, func(x qos.Uplink) bool { return x.Host == u.Host && x.Name == u.Name })
		s.Uplinks = append(s.Uplinks, u)
		if err := qos.CheckGuarantees(s); err != nil {
			return err
		}
		w.tell("uplink", u.Name, w.ensureUplink(u, s.Ports), diffOf(qos.DiffUplink(old, &u)))
		return nil
	})
}

// DeleteUplink implements [qos.Backend]: of all hosts.
func (b *Backend) DeleteUplink(ctx context.Context, name string) error {
	return b.submit(ctx, func(w *writer) error {
		s := stateOf(w.tx)
		for _, p := range s.Ports {
			if p.Uplink == name {
				return fmt.Errorf("uplink %s: port %s has a guarantee there: %w", name, p.ID, vnet.ErrInUse)
			}
		}
		for _, u := range s.Uplinks {
			if u.Name == name {
				row := w.meter(u)
				w.tx.Guard(row, "external_ids") // that nothing is promised there
				w.tell("uplink", name, []ovn.Result{w.tx.Delete(row)}, diffOf(qos.DiffUplink(&u, nil)))
			}
		}
		return nil
	})
}

// Sync implements [qos.Backend].
func (b *Backend) Sync(ctx context.Context, s qos.State, o vnet.SyncOptions) error {
	s, err := b.wanted(ctx, s)
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
	s, err := b.wanted(ctx, s)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartQoS, func(tx *ovn.Tx) error {
		return (&writer{tx: tx}).do(func(w *writer) error { _, err := w.all(s); return err })
	})
}

// Health implements [qos.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

// Why packet rates are refused.
const needPackets = "an OVN whose QoS rows count packets: their bandwidth is in kbit/s (ovn-nb(5)), and its meters of packets are for logs and for what goes to ovn-controller"

// Features implements [qos.Backend].
func (b *Backend) Features(ctx context.Context) qos.Features {
	a := qos.Abilities{EgressBandwidth: true, IngressBandwidth: true, DSCP: true}
	f := qos.Features{
		Port: a, Gateway: a, FloatingIP: a,
		Mechanism: "QoS rows, which ovn-controller turns into meters of Open vSwitch: what is over a limit is dropped",
		Missing:   map[string]string{"egress packet rate": needPackets, "ingress packet rate": needPackets},
		Limits: []string{
			"ARP is not counted and not limited",
			"a limit that changes begins with a full burst, and its statistics begin anew",
			"the limit of a gateway is for what passes by the gateway's host: not for floating IPs that are translated on the host of their port",
			"the DSCP mark of a gateway is also for floating IPs that have limits, but no mark, of their own",
		},
	}
	if why := b.unshared(ctx); why != "" {
		f.Missing["guarantees"], f.Missing["tunnel guarantees"] = why, why
	} else {
		f.Guarantees, f.TunnelGuarantees = true, true
		f.Mechanism += "; HTB shares uplinks out"
	}
	return f
}

// unshared says why no uplink can be shared out, or nothing.
func (b *Backend) unshared(ctx context.Context) string {
	const kernel = "a chassis on the kernel's data path: that of user space sends past the queues of devices"
	if !b.o.Shares {
		return "Options.Shares, and a Shares on every host: OVN 23.03 puts the queues of qos_min_rate below no limit of the uplink, and what has none goes first"
	}
	if !b.c.Has("Chassis", "") {
		return "a handle with a Southbound: Options.Southbound of ovn"
	}
	v, err := b.c.View(ctx)
	if err != nil {
		return err.Error()
	}
	for c := range ovn.All[sbrow.Chassis](v) {
		if c.OtherConfig["datapath-type"] != "netdev" {
			return ""
		}
	}
	return kernel
}

func refuse(name, of, need string) error {
	return &vnet.UnsupportedError{Feature: name + " of " + of, Backend: backendName, Need: need}
}

// able refuses what no row can say.
func able(s qos.Shape, of string) error {
	switch {
	case s.Egress.PPS > 0:
		return refuse("egress packet rate", of, needPackets)
	case s.Ingress.PPS > 0:
		return refuse("ingress packet rate", of, needPackets)
	}
	return nil
}

// guarantees refuses what is asked of uplinks, if they cannot be shared out.
func (b *Backend) guarantees(ctx context.Context, s qos.State) error {
	names := []string{}
	for _, u := range s.Uplinks {
		names = append(names, u.Name)
	}
	for _, p := range s.Ports {
		if p.Uplink != "" {
			names = append(names, p.Uplink)
		}
	}
	if len(names) == 0 {
		return nil
	}
	why := b.unshared(ctx)
	if why == "" {
		return nil
	}
	what := "guarantees"
	if names[0] == qos.Tunnelled {
		what = "tunnel guarantees"
	}
	return refuse(what, "uplink "+names[0], why)
}

// enforced leaves of a shape what is not only promised.
func enforced(s qos.Shape) qos.Shape {
	s = s.Clone()
	s.Egress.MinKbps, s.Egress.MinPPS, s.Ingress.MinKbps, s.Ingress.MinPPS = 0, 0, 0, 0
	return s
}

func enforcedPort(p qos.Port) qos.Port {
	least := p.Egress.MinKbps
	p.Shape = enforced(p.Shape)
	if p.Uplink != "" {
		p.Egress.MinKbps = least
	}
	if least == 0 {
		p.Uplink = ""
	}
	return p
}

// wanted is what s asks of this backend, or why it cannot be had.
func (b *Backend) wanted(ctx context.Context, s qos.State) (qos.State, error) {
	s = s.Canonical()
	for i, p := range s.Ports {
		if err := able(p.Shape, "port "+p.ID); err != nil {
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
	if err := b.guarantees(ctx, s); err != nil {
		return s, err
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
