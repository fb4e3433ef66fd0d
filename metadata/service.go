package metadata

import (
	"context"
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
		s.log.Debug("metadata: "+op, "kind", kind, "id", id)
		return nil
	}
	s.log.Warn("metadata: "+op, "kind", kind, "id", id, "err", err)
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

// EnsureEndpoint makes the endpoint as described. The router or network it is
// at need not stand yet, but for Features.Central.
func (s *Service) EnsureEndpoint(ctx context.Context, e Endpoint) error {
	return s.do(ctx, "ensure", "endpoint", e.ID, func() error {
		if err := e.Validate(); err != nil {
			return err
		}
		return s.b.EnsureEndpoint(ctx, e.Canonical())
	})
}

// DeleteEndpoint removes the endpoint; one that does not exist is no error.
func (s *Service) DeleteEndpoint(ctx context.Context, id string) error {
	return s.remove(ctx, "endpoint", id, s.b.DeleteEndpoint)
}

// Sync makes the whole of st so, within the bounds of o, or of Options.Sync
// when o is the zero value.
func (s *Service) Sync(ctx context.Context, st State, o vnet.SyncOptions) error {
	return s.do(ctx, "sync", "state", "", func() error {
		if err := st.Validate(); err != nil {
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
		if err := st.Validate(); err != nil {
			return err
		}
		p, err = s.b.Plan(ctx, st.Canonical())
		return err
	})
	return p, err
}

// Health says how far the backend's view can be trusted.
func (s *Service) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

// Features is what the backend can do. What it cannot it refuses by name.
func (s *Service) Features(ctx context.Context) Features {
	if l, ok := s.b.(Limited); ok {
		return l.Features(ctx)
	}
	return Features{Router: true}
}

// Serve runs the backend's proxies until ctx ends, when it returns nil. Where
// they are not this process it only waits for that.
func (s *Service) Serve(ctx context.Context) error {
	if r, ok := s.b.(Runner); ok {
		return s.do(ctx, "serve", "metadata", "", func() error { return r.Serve(ctx) })
	}
	<-ctx.Done()
	return nil
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

// Explain says what carries an endpoint; see [Explainer].
func (s *Service) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = s.do(ctx, "explain", kind, id, func() error {
		e, ok := s.b.(Explainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "Explain", Backend: "this metadata backend"}
		}
		x, err = e.Explain(ctx, kind, id)
		return err
	})
	return x, err
}
