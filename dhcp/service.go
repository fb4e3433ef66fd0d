package dhcp

import (
	"context"
	"errors"
	"iter"

	"github.com/vnet-go/vnet"
)

// Service is what applications hold: a [Backend] behind validation, canonical
// form and wrapped errors. It keeps no state.
type Service struct {
	b Backend
	o Options
}

// Options of a [Service]. The zero value is usable.
type Options struct {
	// Sync bounds what a Sync may delete when the call does not say.
	Sync vnet.SyncOptions
}

// New returns a Service over b. o may be nil.
func New(b Backend, o *Options) (*Service, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	s := &Service{b: b}
	if o != nil {
		s.o = *o
	}
	return s, nil
}

// Backend returns what the service stands on.
func (s *Service) Backend() Backend { return s.b }

// wrap adds what was being done, once; bad input passes as it is.
func wrap(op, kind, id string, err error) error {
	var field *vnet.FieldError
	var done *vnet.OpError
	if err == nil || errors.As(err, &field) || errors.As(err, &done) {
		return err
	}
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}

// check refuses what the backend cannot do, by name.
func (s *Service) check(ctx context.Context, scopes []Scope) error {
	var errs []error
	feat := s.b.Features(ctx)
	no := func(sc Scope, what, need string) {
		errs = append(errs, &vnet.OpError{Op: "ensure", Kind: "scope", ID: sc.ID, Err: &vnet.UnsupportedError{Feature: what, Backend: "the DHCP backend", Need: need}})
	}
	for _, sc := range scopes {
		if !sc.Is4() && !feat.V6 {
			no(sc, "DHCPv6", "")
		}
		if len(sc.Pool) > 0 && !feat.Pool {
			no(sc, "pool", "a lease store")
		}
		if len(sc.Relays) > 0 && !feat.Relay {
			no(sc, "relays", "")
		}
		if len(sc.Options) > 0 && !feat.Options {
			no(sc, "options by code", "")
		}
	}
	return errors.Join(errs...)
}

// EnsureScope makes the scope as described.
func (s *Service) EnsureScope(ctx context.Context, sc Scope) error {
	if err := sc.Validate(); err != nil {
		return err
	}
	if err := s.check(ctx, []Scope{sc}); err != nil {
		return err
	}
	return wrap("ensure", "scope", sc.ID, s.b.EnsureScope(ctx, sc.Canonical()))
}

// DeleteScope removes the scope; one that does not exist is no error.
func (s *Service) DeleteScope(ctx context.Context, id string) error {
	if err := vnet.CheckID("id", id); err != nil {
		return err
	}
	return wrap("delete", "scope", id, s.b.DeleteScope(ctx, id))
}

// EnsureReservation makes the reservation as described.
func (s *Service) EnsureReservation(ctx context.Context, r Reservation) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return wrap("ensure", "reservation", r.ID, s.b.EnsureReservation(ctx, r.Canonical()))
}

// DeleteReservation removes the reservation; one that does not exist is no error.
func (s *Service) DeleteReservation(ctx context.Context, id string) error {
	if err := vnet.CheckID("id", id); err != nil {
		return err
	}
	return wrap("delete", "reservation", id, s.b.DeleteReservation(ctx, id))
}

// Sync makes the whole state so. The zero o means [Options.Sync].
func (s *Service) Sync(ctx context.Context, st State, o vnet.SyncOptions) error {
	if o == (vnet.SyncOptions{}) {
		o = s.o.Sync
	}
	if err := st.Validate(); err != nil {
		return err
	}
	if err := s.check(ctx, st.Scopes); err != nil {
		return err
	}
	return wrap("sync", "state", "", s.b.Sync(ctx, st.Canonical(), o))
}

// Plan says what Sync would do.
func (s *Service) Plan(ctx context.Context, st State) (vnet.Plan, error) {
	if err := st.Validate(); err != nil {
		return vnet.Plan{}, err
	}
	if err := s.check(ctx, st.Scopes); err != nil {
		return vnet.Plan{}, err
	}
	p, err := s.b.Plan(ctx, st.Canonical())
	return p, wrap("plan", "state", "", err)
}

// Health is the backend's.
func (s *Service) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

// Features is the backend's.
func (s *Service) Features(ctx context.Context) Features { return s.b.Features(ctx) }

func lacks(what, need string) error {
	return &vnet.UnsupportedError{Feature: what, Backend: "the DHCP backend", Need: need}
}

// Serve runs the backend's server until ctx ends, when it returns nil. It
// returns at once, with a [*vnet.UnsupportedError], when the backend's server
// is not this process.
func (s *Service) Serve(ctx context.Context) error {
	r, ok := s.b.(Runner)
	if !ok {
		return wrap("serve", "dhcp", "", lacks("serving from this process", ""))
	}
	return wrap("serve", "dhcp", "", r.Serve(ctx))
}

// Leases yields what clients hold, in no particular order.
func (s *Service) Leases(ctx context.Context) iter.Seq2[Lease, error] {
	l, ok := s.b.(LeaseLister)
	if !ok {
		return func(yield func(Lease, error) bool) {
			yield(Lease{}, wrap("list", "lease", "", lacks("listing leases", "")))
		}
	}
	return l.Leases(ctx)
}

// Watch yields events until ctx ends; see [Watcher]. It yields none when the
// backend notices none.
func (s *Service) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	w, ok := s.b.(Watcher)
	if !ok {
		return func(func(vnet.Event) bool) {}
	}
	return w.Watch(ctx)
}

// Explain says what carries a scope, a reservation or a network; see [Explainer].
func (s *Service) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	e, ok := s.b.(Explainer)
	if !ok {
		return vnet.Explanation{}, wrap("explain", kind, id, lacks("explaining", ""))
	}
	x, err := e.Explain(ctx, kind, id)
	return x, wrap("explain", kind, id, err)
}
