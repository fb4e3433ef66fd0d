package dhcp

import (
	"context"
	"errors"
	"iter"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Service is what applications call: it validates, brings input into
// canonical form, wraps errors in [vnet.OpError], and hands the rest to its
// [Backend]. It keeps no state. Methods may be called from several goroutines.
type Service struct {
	b   Backend
	o   Options
	log *slog.Logger
}

// Options of a [Service]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// New returns a Service over b.
func New(b Backend, o *Options) (*Service, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	s := &Service{b: b, log: slog.New(slog.DiscardHandler)}
	if o != nil {
		s.o = *o
	}
	if x := s.o.Sync.DeleteShare; x < 0 || x > 1 {
		return nil, &vnet.FieldError{Field: "sync.delete_share", Reason: "is not between 0 and 1"}
	}
	if s.o.Logger != nil {
		s.log = s.o.Logger
	}
	return s, nil
}

// Backend returns what s stands on, for interfaces of the backend's own.
func (s *Service) Backend() Backend { return s.b }

func (s *Service) do(ctx context.Context, op, kind, id string, f func() error) error {
	err := ctx.Err()
	if err == nil {
		err = f()
	}
	if err == nil {
		s.log.Debug("dhcp: "+op, "kind", kind, "id", id)
		return nil
	}
	s.log.Warn("dhcp: "+op, "kind", kind, "id", id, "err", err)
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}

func (s *Service) remove(ctx context.Context, kind, id string, f func(context.Context, string) error) error {
	return s.do(ctx, "delete", kind, id, func() error {
		if err := vnet.CheckID("id", id); err != nil {
			return err
		}
		return f(ctx, id)
	})
}

// check refuses what is wrong, and by name what the backend cannot do.
func (s *Service) check(ctx context.Context, st State) error {
	if err := st.Validate(); err != nil {
		return err
	}
	feat := s.b.Features(ctx)
	var errs []error
	for _, sc := range st.Scopes {
		no := func(what, need string) {
			errs = append(errs, &vnet.OpError{Op: "ensure", Kind: "scope", ID: sc.ID, Err: lacks(what, need)})
		}
		if !sc.Is4() && !feat.V6 {
			no("DHCPv6", "")
		}
		if len(sc.Pool) > 0 && !feat.Pool {
			no("pool", "a lease store")
		}
		if len(sc.Relays) > 0 && !feat.Relay {
			no("relays", "")
		}
		if len(sc.Options) > 0 && !feat.Options {
			no("options by code", "")
		}
	}
	return errors.Join(errs...)
}

func lacks(what, need string) error {
	return &vnet.UnsupportedError{Feature: what, Backend: "the DHCP backend", Need: need}
}

// EnsureScope makes the scope as described.
func (s *Service) EnsureScope(ctx context.Context, sc Scope) error {
	return s.do(ctx, "ensure", "scope", sc.ID, func() error {
		if err := sc.Validate(); err != nil {
			return err
		}
		if err := s.check(ctx, State{Scopes: []Scope{sc}}); err != nil {
			return err
		}
		return s.b.EnsureScope(ctx, sc.Canonical())
	})
}

// DeleteScope removes the scope; one that does not exist is no error.
func (s *Service) DeleteScope(ctx context.Context, id string) error {
	return s.remove(ctx, "scope", id, s.b.DeleteScope)
}

// EnsureReservation makes the reservation as described.
func (s *Service) EnsureReservation(ctx context.Context, r Reservation) error {
	return s.do(ctx, "ensure", "reservation", r.ID, func() error {
		if err := r.Validate(); err != nil {
			return err
		}
		return s.b.EnsureReservation(ctx, r.Canonical())
	})
}

// DeleteReservation removes the reservation; one that does not exist is no error.
func (s *Service) DeleteReservation(ctx context.Context, id string) error {
	return s.remove(ctx, "reservation", id, s.b.DeleteReservation)
}

// Sync makes the whole of st so, within the bounds of o, or of Options.Sync
// when o is the zero value.
func (s *Service) Sync(ctx context.Context, st State, o vnet.SyncOptions) error {
	return s.do(ctx, "sync", "state", "", func() error {
		if err := s.check(ctx, st); err != nil {
			return err
		}
		if o == (vnet.SyncOptions{}) {
			o = s.o.Sync
		}
		return s.b.Sync(ctx, st.Canonical(), o)
	})
}

// Plan says what Sync would do, and does nothing.
func (s *Service) Plan(ctx context.Context, st State) (p vnet.Plan, err error) {
	err = s.do(ctx, "plan", "state", "", func() error {
		if err := s.check(ctx, st); err != nil {
			return err
		}
		p, err = s.b.Plan(ctx, st.Canonical())
		return err
	})
	return p, err
}

// Health says how far the backend's view can be trusted.
func (s *Service) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

// Features is what the backend can do.
func (s *Service) Features(ctx context.Context) Features { return s.b.Features(ctx) }

// Serve runs the backend's server until ctx ends, when it returns nil. Where
// the platform answers without this process it only waits for that.
func (s *Service) Serve(ctx context.Context) error {
	if r, ok := s.b.(Runner); ok {
		return s.do(ctx, "serve", "dhcp", "", func() error { return r.Serve(ctx) })
	}
	<-ctx.Done()
	return nil
}

// Leases yields what clients hold, in no particular order.
func (s *Service) Leases(ctx context.Context) iter.Seq2[Lease, error] {
	l, ok := s.b.(LeaseLister)
	if !ok {
		return func(yield func(Lease, error) bool) {
			yield(Lease{}, s.do(ctx, "list", "lease", "", func() error { return lacks("listing leases", "") }))
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
func (s *Service) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = s.do(ctx, "explain", kind, id, func() error {
		e, ok := s.b.(Explainer)
		if !ok {
			return lacks("Explain", "")
		}
		x, err = e.Explain(ctx, kind, id)
		return err
	})
	return x, err
}
