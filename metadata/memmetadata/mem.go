package memmetadata

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

var (
	_ metadata.Backend   = (*Backend)(nil)
	_ metadata.Explainer = (*Backend)(nil)
)

// Backend remembers endpoints. It is safe for use by several goroutines.
type Backend struct {
	mu     sync.Mutex
	state  metadata.State
	writes int
}

// New returns a backend with no endpoints.
func New() *Backend { return &Backend{} }

// Writes is the number of endpoints made, changed or deleted so far.
func (b *Backend) Writes() int { b.mu.Lock(); defer b.mu.Unlock(); return b.writes }

// State returns what stands.
func (b *Backend) State() metadata.State { b.mu.Lock(); defer b.mu.Unlock(); return b.state.Clone() }

func (b *Backend) apply(ctx context.Context, change func(*metadata.State)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.state.Clone()
	change(&next)
	b.writes += len(metadata.Diff(b.state, next).Changes)
	b.state = next
	return nil
}

func without(es []metadata.Endpoint, id string) []metadata.Endpoint {
	return slices.DeleteFunc(es, func(x metadata.Endpoint) bool { return x.ID == id })
}

// EnsureEndpoint implements [metadata.Backend]. A place that has another
// endpoint already is [vnet.ErrConflict].
func (b *Backend) EnsureEndpoint(ctx context.Context, e metadata.Endpoint) error {
	b.mu.Lock()
	for _, x := range b.state.Endpoints {
		if x.ID != e.ID && x.RouterID == e.RouterID && x.NetworkID == e.NetworkID && x.Host == e.Host {
			b.mu.Unlock()
			return fmt.Errorf("%w: endpoint %q is there", vnet.ErrConflict, x.ID)
		}
	}
	b.mu.Unlock()
	return b.apply(ctx, func(s *metadata.State) { s.Endpoints = append(without(s.Endpoints, e.ID), e.Clone()) })
}

// DeleteEndpoint implements [metadata.Backend].
func (b *Backend) DeleteEndpoint(ctx context.Context, id string) error {
	return b.apply(ctx, func(s *metadata.State) { s.Endpoints = without(s.Endpoints, id) })
}

// Plan implements [metadata.Backend].
func (b *Backend) Plan(ctx context.Context, s metadata.State) (vnet.Plan, error) {
	return metadata.Diff(b.State(), s), ctx.Err()
}

// Sync implements [metadata.Backend].
func (b *Backend) Sync(ctx context.Context, s metadata.State, o vnet.SyncOptions) error {
	have := b.State()
	if err := o.Check(metadata.Diff(have, s), len(have.Endpoints)); err != nil {
		return err
	}
	return b.apply(ctx, func(st *metadata.State) { *st = s.Clone() })
}

// Health implements [metadata.Backend]: always complete.
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Detail: "in memory"}
}

// Explain implements [metadata.Explainer].
func (b *Backend) Explain(_ context.Context, kind, id string) (vnet.Explanation, error) {
	if kind != "endpoint" {
		return vnet.Explanation{}, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "endpoint"`}
	}
	for _, e := range b.State().Endpoints {
		if e.ID == id {
			where := "in router " + e.RouterID
			if e.NetworkID != "" {
				where = "on network " + e.NetworkID
			}
			return vnet.Explanation{Text: fmt.Sprintf("endpoint %s %s, in memory", id, where)}, nil
		}
	}
	return vnet.Explanation{}, vnet.ErrNotFound
}
