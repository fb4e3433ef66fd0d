package ovnsecgroup

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
)

const backendName = "ovnsecgroup"

// Options of [New]. The zero value and nil are the same.
type Options struct {
	// Loose lets TCP connections that tracking does not know go on where a rule
	// allows their packets: those of a port that has moved to another chassis,
	// where its connections are not known. Otherwise a segment from the middle of
	// a stream is invalid, and a port that moves loses its TCP connections.
	Loose bool
	// Log lets ovn-controller log what the default drops catch, on the host
	// where it happens. Nil: nothing is logged.
	Log *Logging
}

// Logging says how drops are logged.
type Logging struct {
	// Severity is "alert", "warning", "notice", "info" (default) or "debug".
	Severity string
	// Rate and Burst bound the lines that each ACL logs, in packets per second
	// and packets. Defaults: 100 and 25.
	Rate, Burst int

	meter string // name of the Meter row
}

func (l *Logging) severity() string { return cmp.Or(l.Severity, "info") }

// Backend filters ports by rows of the Northbound database. It keeps no state.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
	o options
}

// options are what the rows depend on.
type options struct {
	loose bool
	log   *Logging
}

var (
	_ secgroup.Backend         = (*Backend)(nil)
	_ secgroup.Explainer       = (*Backend)(nil)
	_ secgroup.PacketExplainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, c: t.Conn()}
	if o == nil {
		return b, nil
	}
	b.o.loose = o.Loose
	if o.Log != nil {
		l := *o.Log
		switch l.severity() {
		case "alert", "warning", "notice", "info", "debug":
		default:
			return nil, &vnet.FieldError{Field: "log.severity", Value: l.Severity, Reason: "is none of alert, warning, notice, info, debug"}
		}
		if l.Rate < 0 || l.Burst < 0 {
			return nil, &vnet.FieldError{Field: "log.rate", Reason: "and burst must not be negative"}
		}
		l.Rate, l.Burst = cmp.Or(l.Rate, 100), cmp.Or(l.Burst, 25)
		l.meter = b.c.Name(kindMeter, "drops")
		b.o.log = &l
	}
	return b, nil
}

func (b *Backend) submit(ctx context.Context, f func(w *writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error { return f(&writer{tx: tx, o: b.o}) })
}

// EnsureGroup implements [secgroup.Backend].
func (b *Backend) EnsureGroup(ctx context.Context, g secgroup.Group) error {
	g = g.Canonical()
	return b.submit(ctx, func(w *writer) error {
		old := groupOf(w.group(g.ID))
		r, err := w.ensureGroup(g)
		if err != nil {
			return err
		}
		w.tell("group", g.ID, r, diffOf(secgroup.DiffGroup(old, &g)))
		return nil
	})
}

// DeleteGroup implements [secgroup.Backend].
func (b *Backend) DeleteGroup(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		old := groupOf(w.group(id))
		if old == nil {
			return nil
		}
		if err := w.groupInUse(id); err != nil {
			return err
		}
		w.tell("group", id, w.deleteGroup(id), diffOf(secgroup.DiffGroup(old, nil)))
		return nil
	})
}

// EnsureAddressGroup implements [secgroup.Backend].
func (b *Backend) EnsureAddressGroup(ctx context.Context, a secgroup.AddressGroup) error {
	a = a.Canonical()
	return b.submit(ctx, func(w *writer) error {
		old := addressGroupOf(w.tx, a.ID)
		w.tell("addressgroup", a.ID, w.ensureAddressGroup(a), diffOf(secgroup.DiffAddressGroup(old, &a)))
		return nil
	})
}

// DeleteAddressGroup implements [secgroup.Backend].
func (b *Backend) DeleteAddressGroup(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		old := addressGroupOf(w.tx, id)
		if old == nil {
			return nil
		}
		if err := w.addressGroupInUse(id); err != nil {
			return err
		}
		w.tell("addressgroup", id, w.deleteAddressGroup(id), diffOf(secgroup.DiffAddressGroup(old, nil)))
		return nil
	})
}

// EnsurePort implements [secgroup.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p secgroup.Port) error {
	p = p.Canonical()
	return b.submit(ctx, func(w *writer) error {
		for _, g := range p.Groups {
			if w.group(g) == nil {
				return fmt.Errorf("security group %q: %w", g, vnet.ErrNotFound)
			}
		}
		row := w.port(p.ID)
		if row == nil {
			return noPort(p.ID)
		}
		old, err := portOf(p.ID, row)
		if err != nil {
			return err
		}
		r := w.ensurePort(row, old, p)
		here := []string{row.UUID}
		if p.DisablePortSecurity {
			r = append(r, w.filtered(nil, here)...)
		} else {
			r = append(r, w.filtered(here, nil)...)
		}
		r = append(r, w.join(row.UUID, old, &p)...)
		w.tell("port", p.ID, r, diffOf(secgroup.DiffPort(old, &p)))
		return nil
	})
}

// DeletePort implements [secgroup.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		row := w.port(id)
		if row == nil {
			// Its row went first, and the port groups with it, but not what it
			// was called by.
			w.sweep()
			return nil
		}
		old, err := portOf(id, row)
		if err != nil || old == nil {
			return err
		}
		r := slices.Concat(w.clearPort(row, *old), w.filtered(nil, []string{row.UUID}), w.join(row.UUID, old, nil))
		w.tell("port", id, r, diffOf(secgroup.DiffPort(old, nil)))
		return nil
	})
}

// Sync implements [secgroup.Backend].
func (b *Backend) Sync(ctx context.Context, s secgroup.State, o vnet.SyncOptions) error {
	s = s.Canonical()
	return b.submit(ctx, func(w *writer) error {
		existing, err := w.all(s)
		if err != nil {
			return err
		}
		return o.Check(w.tx.Changes(), existing)
	})
}

// Plan implements [secgroup.Backend].
func (b *Backend) Plan(ctx context.Context, s secgroup.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	s = s.Canonical()
	return b.t.Plan(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error {
		_, err := (&writer{tx: tx, o: b.o}).all(s)
		return err
	})
}

// Health implements [secgroup.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

// Features implements [secgroup.Backend].
func (b *Backend) Features(context.Context) secgroup.Features {
	return secgroup.Features{
		Stateless: true, Tracking: "OVN connection tracking, a zone for each port",
		Limits: []string{
			"a connection that is allowed no more ends with the next packet of who opened it",
			"router advertisements and MLD queries of a port pass",
			"a filtered port receives only what is for its own addresses, multicast or broadcast",
			"invalid packets of ports without port security are dropped, where the network has a stateful rule",
			"ranges of ports are for tcp, udp and sctp",
			"on the userspace data path, rules about ports match no fragment but the first",
		},
	}
}

func noPort(id string) error {
	return fmt.Errorf("port %q in the overlay: %w", id, vnet.ErrNotFound)
}

// diffOf is the change, or nil when there is none.
func diffOf(c vnet.Change, differs bool) *vnet.Change {
	if !differs {
		return nil
	}
	return &c
}
