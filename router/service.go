package router

import (
	"context"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Options of a [Service]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// Service is what applications call: it validates, brings input into
// canonical form, wraps errors in [vnet.OpError], and hands the rest to its
// [Backend]. It keeps no state. Methods may be called from several goroutines.
type Service struct {
	b   Backend
	o   Options
	log *slog.Logger
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
		s.log.Debug("router: "+op, "kind", kind, "id", id)
		return nil
	}
	s.log.Warn("router: "+op, "kind", kind, "id", id, "err", err)
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

// EnsureRouter makes the router as described.
func (s *Service) EnsureRouter(ctx context.Context, r Router) error {
	return s.do(ctx, "ensure", "router", r.ID, func() error {
		if err := r.Validate(); err != nil {
			return err
		}
		if err := s.supports(ctx, r); err != nil {
			return err
		}
		return s.b.EnsureRouter(ctx, r.Canonical())
	})
}

// supports refuses by name what the backend says it cannot do.
func (s *Service) supports(ctx context.Context, r Router) error {
	f := s.b.Features(ctx)
	refuse := func(what string) error { return &vnet.UnsupportedError{Feature: what, Backend: "this router backend"} }
	for _, i := range r.Interfaces {
		if i.RA != nil && !f.RA {
			return refuse("router advertisements")
		}
		if hasV6(i.Addresses) && !f.IPv6 {
			return refuse("IPv6")
		}
	}
	if r.Gateway != nil && hasV6(r.Gateway.Addresses) && !f.IPv6 {
		return refuse("IPv6")
	}
	if len(r.Routes) > 0 && !f.ExtraRoutes {
		return refuse("extra routes")
	}
	return nil
}

// DeleteRouter removes the router; [vnet.ErrInUse] while floating IPs or port
// forwards are on it.
func (s *Service) DeleteRouter(ctx context.Context, id string) error {
	return s.remove(ctx, "router", id, s.b.DeleteRouter)
}

// EnsureFloatingIP makes the floating IP as described. Its router must have
// been ensured ([vnet.ErrNotFound]) and have a gateway ([vnet.ErrConflict]).
func (s *Service) EnsureFloatingIP(ctx context.Context, f FloatingIP) error {
	return s.do(ctx, "ensure", "floatingip", f.ID, func() error {
		if err := f.Validate(); err != nil {
			return err
		}
		return s.b.EnsureFloatingIP(ctx, f)
	})
}

// DeleteFloatingIP removes the floating IP and ends its connections.
func (s *Service) DeleteFloatingIP(ctx context.Context, id string) error {
	return s.remove(ctx, "floatingip", id, s.b.DeleteFloatingIP)
}

// EnsurePortForward makes the port forward as described.
func (s *Service) EnsurePortForward(ctx context.Context, f PortForward) error {
	return s.do(ctx, "ensure", "portforward", f.ID, func() error {
		if err := f.Validate(); err != nil {
			return err
		}
		if !s.b.Features(ctx).PortForward {
			return &vnet.UnsupportedError{Feature: "port forwards", Backend: "this router backend"}
		}
		return s.b.EnsurePortForward(ctx, f.Canonical())
	})
}

// DeletePortForward removes the port forward and ends its connections.
func (s *Service) DeletePortForward(ctx context.Context, id string) error {
	return s.remove(ctx, "portforward", id, s.b.DeletePortForward)
}

func (s *Service) check(ctx context.Context, st State) error {
	if err := st.Validate(); err != nil {
		return err
	}
	for _, r := range st.Routers {
		if err := s.supports(ctx, r); err != nil {
			return err
		}
	}
	if len(st.PortForwards) > 0 && !s.b.Features(ctx).PortForward {
		return &vnet.UnsupportedError{Feature: "port forwards", Backend: "this router backend"}
	}
	return nil
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

// Serve does what routers need this process for, until ctx ends, when it
// returns nil. Where they need nothing it only waits for that.
func (s *Service) Serve(ctx context.Context) error {
	if r, ok := s.b.(Runner); ok {
		return s.do(ctx, "serve", "router", "", func() error { return r.Serve(ctx) })
	}
	<-ctx.Done()
	return nil
}

// Explain goes from a "router", "floatingip" or "portforward" to what carries it.
func (s *Service) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = s.do(ctx, "explain", kind, id, func() error {
		b, ok := s.b.(Explainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "Explain", Backend: "this router backend"}
		}
		if kind != "router" && kind != "floatingip" && kind != "portforward" {
			return &vnet.FieldError{Field: "kind", Value: kind, Reason: `is none of "router", "floatingip", "portforward"`}
		}
		x, err = b.Explain(ctx, kind, id)
		return err
	})
	return x, err
}
