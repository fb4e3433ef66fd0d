package linuxmetadata

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
)

var (
	_ metadata.Backend   = (*Backend)(nil)
	_ metadata.Runner    = (*Backend)(nil)
	_ metadata.Watcher   = (*Backend)(nil)
	_ metadata.Explainer = (*Backend)(nil)
)

// Options of a [Backend]. The zero value makes endpoints but cannot serve.
type Options struct {
	// Instances says who asks; Serve needs it.
	Instances metadata.Instances
	// Server is about the answers, which this process gives, unless Nova is set:
	// then requests go there.
	Server metadata.ServerOptions
	Nova   *metadata.NovaOptions
	// Proxy bounds what instances may do. Its Observe is called beside the
	// backend's own.
	Proxy metadata.ProxyOptions
	// Metrics gets the backend's metrics; nil: none.
	Metrics prometheus.Registerer
	// Logger gets what a person may want to know later; nil: the host's.
	Logger *slog.Logger
}

// Backend is a [metadata.Backend] for one host. It is safe for use by several
// goroutines.
type Backend struct {
	t     linux.Target
	h     *linux.Host
	log   *slog.Logger
	a     *answer.Answerer
	since time.Time
	wake  chan struct{}

	mu sync.Mutex // held through every call that looks and writes

	emu       sync.Mutex // guards what follows
	endpoints map[string]metadata.Endpoint
	serving   map[string]*served
	running   bool
}

// New returns a backend that writes through t. o may be nil. It starts no
// goroutine; Serve does.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, h: t.Host(), since: time.Now(), wake: make(chan struct{}, 1),
		endpoints: map[string]metadata.Endpoint{}, serving: map[string]*served{}}
	var opt Options
	if o != nil {
		opt = *o
	}
	if b.log = opt.Logger; b.log == nil {
		b.log = b.h.Logger()
	}
	var err error
	b.a, err = answer.New(answer.Options{Instances: opt.Instances, Server: opt.Server, Nova: opt.Nova, Proxy: opt.Proxy,
		Metrics: opt.Metrics, Logger: b.log, Owner: string(b.h.Owner()), Host: b.h.Name(), Endpoint: b.endpointOf})
	return b, err
}

// endpointOf is the endpoint that somebody asks at.
func (b *Backend) endpointOf(a metadata.Asker) string {
	b.emu.Lock()
	defer b.emu.Unlock()
	for _, e := range b.endpoints {
		if e.RouterID != "" && e.RouterID == a.RouterID || e.NetworkID != "" && a.RouterID == "" && e.NetworkID == a.NetworkID {
			return e.ID
		}
	}
	return ""
}

// Watch implements [metadata.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.a.Watch(ctx) }

func (b *Backend) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *Backend) told(id string) (metadata.Endpoint, bool) {
	b.emu.Lock()
	defer b.emu.Unlock()
	e, ok := b.endpoints[id]
	return e, ok
}

func (b *Backend) remember(e metadata.Endpoint) {
	b.emu.Lock()
	b.endpoints[e.ID] = e
	b.emu.Unlock()
	b.poke()
}

func (b *Backend) forget(id string) {
	b.emu.Lock()
	delete(b.endpoints, id)
	b.emu.Unlock()
	b.poke()
}

// EnsureEndpoint implements [metadata.Backend]. A router or network that has
// another endpoint is [vnet.ErrConflict].
func (b *Backend) EnsureEndpoint(ctx context.Context, e metadata.Endpoint) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	stand, err := b.standing(ctx)
	if err != nil {
		return err
	}
	for _, o := range stand {
		if o.id != e.ID && (o.router != "" && o.router == e.RouterID || o.network != "" && o.network == e.NetworkID) {
			return fmt.Errorf("%w: endpoint %q is there", vnet.ErrConflict, o.id)
		}
	}
	if !b.h.Local(e.Host) {
		return b.delete(ctx, e.ID, stand)
	}
	steps, err := b.steps(ctx, e, stand)
	if err != nil {
		return err
	}
	return b.submit(ctx, steps, []metadata.Endpoint{e}, nil)
}

// DeleteEndpoint implements [metadata.Backend].
func (b *Backend) DeleteEndpoint(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	stand, err := b.standing(ctx)
	if err != nil {
		return err
	}
	return b.delete(ctx, id, stand)
}

func (b *Backend) delete(ctx context.Context, id string, stand []place) error {
	steps, err := b.goneSteps(ctx, id, stand, nil)
	if err != nil {
		return err
	}
	return b.submit(ctx, steps, nil, []string{id})
}

// submit carries out steps; what this process answers at follows when they
// are done, or at once when there are none.
func (b *Backend) submit(ctx context.Context, steps []linux.Step, ensured []metadata.Endpoint, gone []string) error {
	take := func() {
		for _, e := range ensured {
			b.remember(e)
		}
		for _, id := range gone {
			b.forget(id)
		}
	}
	if len(steps) == 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		take()
		return nil
	}
	steps = append(steps, linux.Step{Phase: linux.FilterDel, Do: func(context.Context) error { take(); return nil }})
	return b.t.Submit(ctx, steps...)
}

// Plan implements [metadata.Backend].
func (b *Backend) Plan(ctx context.Context, s metadata.State) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, _, _, err := b.diff(ctx, s)
	return linux.PlanOf(steps), err
}

// Sync implements [metadata.Backend].
func (b *Backend) Sync(ctx context.Context, s metadata.State, o vnet.SyncOptions) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, existing, gone, err := b.diff(ctx, s)
	if err != nil {
		return err
	}
	if err := o.Check(linux.PlanOf(steps), existing); err != nil {
		return err
	}
	var here []metadata.Endpoint
	for _, e := range s.Endpoints {
		if b.h.Local(e.Host) {
			here = append(here, e)
		}
	}
	return b.submit(ctx, steps, here, gone)
}

// diff returns the steps from what stands to s, how many endpoints there are,
// and which go.
func (b *Backend) diff(ctx context.Context, s metadata.State) (steps []linux.Step, existing int, gone []string, err error) {
	stand, err := b.standing(ctx)
	if err != nil {
		return nil, 0, nil, err
	}
	want, have := map[string]bool{}, map[string]bool{}
	keep := map[string]bool{}
	for _, p := range stand {
		have[p.id] = true
	}
	b.emu.Lock()
	for id := range b.endpoints {
		have[id] = true
	}
	b.emu.Unlock()
	for _, e := range s.Endpoints {
		if !b.h.Local(e.Host) {
			continue
		}
		want[e.ID] = true
		keep[e.RouterID] = true
		st, err := b.steps(ctx, e, stand)
		if err != nil {
			return nil, 0, nil, fmt.Errorf("endpoint %s: %w", e.ID, err)
		}
		steps = append(steps, st...)
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		if want[id] {
			continue
		}
		gone = append(gone, id)
		st, err := b.goneSteps(ctx, id, stand, keep)
		if err != nil {
			return nil, 0, nil, fmt.Errorf("endpoint %s: %w", id, err)
		}
		steps = append(steps, st...)
	}
	return steps, len(have), gone, nil
}

// Health implements [metadata.Backend]: complete while Serve answers at all
// endpoints whose router or network stands.
func (b *Backend) Health(ctx context.Context) vnet.Health {
	hl := b.h.Health(ctx)
	hl.Since = b.since
	if !hl.Complete {
		return hl
	}
	b.emu.Lock()
	defer b.emu.Unlock()
	if !b.running {
		hl.Complete, hl.Detail = false, "not serving: Serve is not running"
		return hl
	}
	n, errs := 0, []error(nil)
	for id, s := range b.serving {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", id, s.err))
		} else if s.up {
			n++
		}
	}
	if len(errs) > 0 {
		hl.Complete, hl.Detail = false, errors.Join(errs...).Error()
		return hl
	}
	hl.Detail = fmt.Sprintf("serving %d of %d endpoints", n, len(b.endpoints))
	if n < len(b.endpoints) {
		hl.Detail += "; the others wait for their router or network"
	}
	return hl
}
