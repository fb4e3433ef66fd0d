package ovndhcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

const name = "ovndhcp"

// Options of a [Backend]. There are none so far; nil will do.
type Options struct{}

// Backend is a [dhcp.Backend] for a whole OVN installation. It keeps no state;
// methods may be called from several goroutines.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
}

var (
	_ dhcp.Backend   = (*Backend)(nil)
	_ dhcp.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, _ *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	return &Backend{t: t, c: t.Conn()}, nil
}

// Features implements [dhcp.Backend].
func (b *Backend) Features(context.Context) dhcp.Features {
	return dhcp.Features{V6: true, Options: true, Central: true, Limits: []dhcp.Limit{
		dhcp.LimitOptionCodes, dhcp.LimitClientID, dhcp.LimitBootFiles, dhcp.LimitRapidCommit, dhcp.LimitUnknown, dhcp.LimitMovedLease,
		dhcp.LimitAllOptions, dhcp.LimitLease6, dhcp.LimitNames, dhcp.LimitOneAddress, dhcp.LimitRefusals, dhcp.LimitSearch6, dhcp.LimitServerChoice,
	}}
}

// Health implements [dhcp.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

func (b *Backend) submit(ctx context.Context, f func(w *writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartDHCP, func(tx *ovn.Tx) error { return f(&writer{tx: tx}) })
}

// EnsureScope implements [dhcp.Backend].
func (b *Backend) EnsureScope(ctx context.Context, s dhcp.Scope) error {
	if _, err := scopeOptions(b.c.Owner(), s); err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		for _, o := range w.scopes("") {
			if o.ID != s.ID && o.NetworkID == s.NetworkID && o.Subnet.Overlaps(s.Subnet) {
				return fmt.Errorf("scope %s has %s of the network: %w", o.ID, o.Subnet, vnet.ErrConflict)
			}
		}
		old := w.scope(s.ID)
		r, err := w.putScope(s)
		if err != nil {
			return err
		}
		if changed(r) {
			more, err := w.follow(s.NetworkID)
			if err != nil {
				return err
			}
			r = append(r, more...)
			if old != nil && old.NetworkID != s.NetworkID {
				if more, err = w.follow(old.NetworkID); err != nil {
					return err
				}
				r = append(r, more...)
			}
		}
		w.tell("scope", s.ID, scopeState(old), dhcp.State{Scopes: []dhcp.Scope{s}}, r)
		return nil
	})
}

// DeleteScope implements [dhcp.Backend].
func (b *Backend) DeleteScope(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		old := w.scope(id)
		r := w.dropScope(id)
		if old != nil {
			more, err := w.follow(old.NetworkID)
			if err != nil {
				return err
			}
			r = append(r, more...)
		}
		w.tell("scope", id, scopeState(old), dhcp.State{}, r)
		return nil
	})
}

// EnsureReservation implements [dhcp.Backend]. [vnet.ErrNotFound]: its network
// has no port with its MAC.
func (b *Backend) EnsureReservation(ctx context.Context, r dhcp.Reservation) error {
	if err := refuse(r); err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		port, err := w.port(r)
		if err != nil {
			return err
		}
		here := reservationOf(port)
		if here != nil && here.ID != r.ID {
			return fmt.Errorf("port %s is that of reservation %s: %w", portID(port), here.ID, vnet.ErrConflict)
		}
		old := here
		var res []ovn.Result
		if old == nil {
			if at := w.standing(r.ID); at != nil {
				old = reservationOf(at)
				res = w.clear(at)
			}
		}
		scopes := w.scopes(r.NetworkID)
		more, err := w.putReservation(port, r, w.serve(scopes))
		if err != nil {
			return err
		}
		for _, s := range scopes { // the network may be younger than they
			w.putServer(s)
		}
		w.tell("reservation", r.ID, reservationState(old), dhcp.State{Reservations: []dhcp.Reservation{r}}, append(res, more...))
		return nil
	})
}

// DeleteReservation implements [dhcp.Backend].
func (b *Backend) DeleteReservation(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *writer) error {
		var old *dhcp.Reservation
		var r []ovn.Result
		if port := w.standing(id); port != nil {
			old = reservationOf(port)
			r = w.clear(port)
		}
		r = append(r, w.dropRows(id)...)
		w.tell("reservation", id, reservationState(old), dhcp.State{}, r)
		return nil
	})
}

// Sync implements [dhcp.Backend].
func (b *Backend) Sync(ctx context.Context, s dhcp.State, o vnet.SyncOptions) error {
	if err := b.check(s); err != nil {
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

// Plan implements [dhcp.Backend].
func (b *Backend) Plan(ctx context.Context, s dhcp.State) (vnet.Plan, error) {
	if err := b.check(s); err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartDHCP, func(tx *ovn.Tx) error {
		_, err := (&writer{tx: tx}).all(s)
		return err
	})
}

// check refuses by name what OVN cannot do, before anything is looked at.
func (b *Backend) check(s dhcp.State) error {
	var errs []error
	for _, sc := range s.Scopes {
		if _, err := scopeOptions(b.c.Owner(), sc); err != nil {
			errs = append(errs, fmt.Errorf("scope %s: %w", sc.ID, err))
		}
	}
	for _, r := range s.Reservations {
		if err := refuse(r); err != nil {
			errs = append(errs, fmt.Errorf("reservation %s: %w", r.ID, err))
		}
	}
	return errors.Join(errs...)
}

// all makes everything so, and says how many objects there were.
func (w *writer) all(s dhcp.State) (existing int, err error) {
	haveScopes, haveRes := map[string]dhcp.Scope{}, map[string]*dhcp.Reservation{}
	at := map[string][]*nbrow.LogicalSwitchPort{}
	for m, row := range ovn.Own[nbrow.DHCPOptions](w.tx, vnet.PartDHCP) {
		switch m.Kind {
		case kindScope:
			haveScopes[m.ID] = scopeOf(row)
		case kindOwn:
			haveRes[ownOf(m.ID)] = nil
		}
	}
	for row := range ovn.All[nbrow.LogicalSwitchPort](w.tx) {
		if m, ok := ovn.MarkOf(row.ExternalIDs); !ok || m.Owner != w.tx.Conn().Owner() {
			continue
		}
		if r := reservationOf(row); r != nil {
			haveRes[r.ID] = r
			at[r.ID] = append(at[r.ID], row)
		}
	}
	existing = len(haveScopes) + len(haveRes)

	byNet := map[string][]served{}
	moved := map[string]bool{} // networks whose scopes differ
	keepScopes, keepRes := map[string]bool{}, map[string]bool{}
	for _, sc := range s.Scopes {
		keepScopes[sc.ID] = true
		byNet[sc.NetworkID] = append(byNet[sc.NetworkID], w.serve([]dhcp.Scope{sc})...)
	}
	for _, r := range s.Reservations {
		keepRes[r.ID] = true
	}
	// What goes is taken away first, so that others can have its ports, but
	// told of last.
	var last []func()
	for _, id := range slices.Sorted(maps.Keys(haveRes)) {
		if keepRes[id] {
			continue
		}
		var r []ovn.Result
		for _, p := range at[id] {
			r = append(r, w.clear(p)...)
		}
		r = append(r, w.dropRows(id)...)
		last = append(last, func() { w.tell("reservation", id, reservationState(haveRes[id]), dhcp.State{}, r) })
	}
	for _, id := range slices.Sorted(maps.Keys(haveScopes)) {
		if keepScopes[id] {
			continue
		}
		old := haveScopes[id]
		moved[old.NetworkID] = true
		r := w.dropScope(id)
		last = append(last, func() { w.tell("scope", id, scopeState(&old), dhcp.State{}, r) })
	}
	for _, sc := range s.Scopes {
		r, err := w.putScope(sc)
		if err != nil {
			return 0, fmt.Errorf("scope %s: %w", sc.ID, err)
		}
		var was *dhcp.Scope
		if old, ok := haveScopes[sc.ID]; ok {
			was = &old
			if changed(r) {
				moved[old.NetworkID] = true
			}
		}
		if changed(r) {
			moved[sc.NetworkID] = true
		}
		w.tell("scope", sc.ID, scopeState(was), dhcp.State{Scopes: []dhcp.Scope{sc}}, r)
	}
	// Ports that reservations of the state leave are cleared before others take them.
	ports := make([]*nbrow.LogicalSwitchPort, len(s.Reservations))
	left := map[string][]ovn.Result{}
	for i, r := range s.Reservations {
		if ports[i], err = w.port(r); err != nil {
			return 0, fmt.Errorf("reservation %s: %w", r.ID, err)
		}
		for _, p := range at[r.ID] {
			if p.UUID != ports[i].UUID {
				left[r.ID] = append(left[r.ID], w.clear(p)...)
			}
		}
	}
	for i, r := range s.Reservations {
		res, err := w.putReservation(ports[i], r, byNet[r.NetworkID])
		if err != nil {
			return 0, fmt.Errorf("reservation %s: %w", r.ID, err)
		}
		old := haveRes[r.ID]
		if old != nil && moved[r.NetworkID] && old.Equal(r) {
			continue // told of with the scope
		}
		w.tell("reservation", r.ID, reservationState(old), dhcp.State{Reservations: []dhcp.Reservation{r}}, append(left[r.ID], res...))
	}
	for _, f := range last {
		f()
	}
	return existing, nil
}

func scopeState(s *dhcp.Scope) dhcp.State {
	if s == nil {
		return dhcp.State{}
	}
	return dhcp.State{Scopes: []dhcp.Scope{*s}}
}

func reservationState(r *dhcp.Reservation) dhcp.State {
	if r == nil {
		return dhcp.State{}
	}
	return dhcp.State{Reservations: []dhcp.Reservation{*r}}
}
