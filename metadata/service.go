package metadata

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

// EnsureEndpoint makes the endpoint as described. The router or network it is
// at need not stand yet.
func (s *Service) EnsureEndpoint(ctx context.Context, e Endpoint) error {
	if err := e.Validate(); err != nil {
		return err
	}
	return wrap("ensure", "endpoint", e.ID, s.b.EnsureEndpoint(ctx, e.Canonical()))
}

// DeleteEndpoint removes the endpoint; one that does not exist is no error.
func (s *Service) DeleteEndpoint(ctx context.Context, id string) error {
	if err := vnet.CheckID("id", id); err != nil {
		return err
	}
	return wrap("delete", "endpoint", id, s.b.DeleteEndpoint(ctx, id))
}

// Sync makes the whole state so. The zero o means [Options.Sync].
func (s *Service) Sync(ctx context.Context, st State, o vnet.SyncOptions) error {
	if o == (vnet.SyncOptions{}) {
		o = s.o.Sync
	}
	if err := st.Validate(); err != nil {
		return err
	}
	return wrap("sync", "state", "", s.b.Sync(ctx, st.Canonical(), o))
}

// Plan says what Sync would do.
func (s *Service) Plan(ctx context.Context, st State) (vnet.Plan, error) {
	if err := st.Validate(); err != nil {
		return vnet.Plan{}, err
	}
	p, err := s.b.Plan(ctx, st.Canonical())
	return p, wrap("plan", "state", "", err)
}

// Health is the backend's.
func (s *Service) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

func lacks(what string) error {
	return &vnet.UnsupportedError{Feature: what, Backend: "the metadata backend"}
}

// Serve runs the backend's proxies until ctx ends, when it returns nil. It
// returns at once, with a [*vnet.UnsupportedError], when the backend's proxies
// are not this process.
func (s *Service) Serve(ctx context.Context) error {
	r, ok := s.b.(Runner)
	if !ok {
		return wrap("serve", "metadata", "", lacks("serving from this process"))
	}
	return wrap("serve", "metadata", "", r.Serve(ctx))
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
func (s *Service) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	e, ok := s.b.(Explainer)
	if !ok {
		return vnet.Explanation{}, wrap("explain", kind, id, lacks("explaining"))
	}
	x, err := e.Explain(ctx, kind, id)
	return x, wrap("explain", kind, id, err)
}
