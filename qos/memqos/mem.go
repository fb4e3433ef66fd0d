package memqos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
)

// Kernel is where a [Backend] keeps what it was told: the stand-in for a
// platform. Several backends over one Kernel see the same, as after a restart.
// The zero value is empty and ready.
type Kernel struct {
	mu     sync.Mutex
	state  qos.State
	writes int
}

// Writes is how many objects have been created, changed or deleted so far.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// State is what stands.
func (k *Kernel) State() qos.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.Canonical()
}

// Backend is an in-memory [qos.Backend].
type Backend struct {
	k     *Kernel
	since time.Time
}

var (
	_ qos.Backend   = (*Backend)(nil)
	_ qos.Explainer = (*Backend)(nil)
)

// New returns a backend over k; nil is a new Kernel of its own.
func New(k *Kernel) *Backend {
	if k == nil {
		k = new(Kernel)
	}
	return &Backend{k: k, since: time.Now()}
}

// Kernel returns what the backend keeps its state in.
func (b *Backend) Kernel() *Kernel { return b.k }

// change makes of what stands what f returns, if that is a state.
func (b *Backend) change(ctx context.Context, f func(qos.State) (qos.State, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.k.mu.Lock()
	defer b.k.mu.Unlock()
	want, err := f(b.k.state.Canonical())
	if err != nil {
		return err
	}
	b.k.writes += len(qos.Diff(b.k.state, want))
	b.k.state = want.Canonical()
	return nil
}

// put returns list with x in place of what same finds, or at the end.
func put[T any](list []T, x T, same func(T) bool) []T {
	if i := slices.IndexFunc(list, same); i >= 0 {
		list[i] = x
		return list
	}
	return append(list, x)
}

// EnsurePort implements [qos.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p qos.Port) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.Ports = put(s.Ports, p.Clone(), func(x qos.Port) bool { return x.ID == p.ID })
		return s, qos.CheckGuarantees(s)
	})
}

// DeletePort implements [qos.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.Ports = slices.DeleteFunc(s.Ports, func(x qos.Port) bool { return x.ID == id })
		return s, nil
	})
}

// EnsureGateway implements [qos.Backend].
func (b *Backend) EnsureGateway(ctx context.Context, g qos.Gateway) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.Gateways = put(s.Gateways, g.Clone(), func(x qos.Gateway) bool { return x.RouterID == g.RouterID })
		return s, nil
	})
}

// DeleteGateway implements [qos.Backend].
func (b *Backend) DeleteGateway(ctx context.Context, routerID string) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.Gateways = slices.DeleteFunc(s.Gateways, func(x qos.Gateway) bool { return x.RouterID == routerID })
		return s, nil
	})
}

// EnsureFloatingIP implements [qos.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f qos.FloatingIP) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.FloatingIPs = put(s.FloatingIPs, f.Clone(), func(x qos.FloatingIP) bool { return x.ID == f.ID })
		return s, nil
	})
}

// DeleteFloatingIP implements [qos.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.FloatingIPs = slices.DeleteFunc(s.FloatingIPs, func(x qos.FloatingIP) bool { return x.ID == id })
		return s, nil
	})
}

// EnsureUplink implements [qos.Backend].
func (b *Backend) EnsureUplink(ctx context.Context, u qos.Uplink) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		s.Uplinks = put(s.Uplinks, u, func(x qos.Uplink) bool { return x.Name == u.Name && x.Host == u.Host })
		return s, qos.CheckGuarantees(s)
	})
}

// DeleteUplink implements [qos.Backend].
func (b *Backend) DeleteUplink(ctx context.Context, name string) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		for _, p := range s.Ports {
			if p.Uplink == name {
				return s, fmt.Errorf("port %s has a guarantee on uplink %s: %w", p.ID, name, vnet.ErrInUse)
			}
		}
		s.Uplinks = slices.DeleteFunc(s.Uplinks, func(x qos.Uplink) bool { return x.Name == name })
		return s, nil
	})
}

// Sync implements [qos.Backend].
func (b *Backend) Sync(ctx context.Context, want qos.State, o vnet.SyncOptions) error {
	return b.change(ctx, func(s qos.State) (qos.State, error) {
		existing := len(s.Ports) + len(s.Gateways) + len(s.FloatingIPs) + len(s.Uplinks)
		return want, o.Check(vnet.Plan{Changes: qos.Diff(s, want)}, existing)
	})
}

// Plan implements [qos.Backend].
func (b *Backend) Plan(ctx context.Context, want qos.State) (p vnet.Plan, err error) {
	err = b.change(ctx, func(s qos.State) (qos.State, error) {
		p.Changes = qos.Diff(s, want)
		return s, nil
	})
	return p, err
}

// Health implements [qos.Backend]: memory is always complete.
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Since: b.since, Detail: "in memory"}
}

// Features implements [qos.Backend].
func (b *Backend) Features(context.Context) qos.Features {
	all := qos.Abilities{EgressBandwidth: true, IngressBandwidth: true, EgressPacketRate: true, IngressPacketRate: true, DSCP: true}
	return qos.Features{Port: all, Gateway: all, FloatingIP: all, Guarantees: true, TunnelGuarantees: true, Mechanism: "none: memory carries no packets"}
}

// Statistics implements [qos.Backend]: memory carries no packets.
func (b *Backend) Statistics(ctx context.Context) ([]qos.Statistics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return qos.NoStatistics(b.k.State()), nil
}

// Explain implements [qos.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	if err := ctx.Err(); err != nil {
		return x, err
	}
	for _, c := range qos.Diff(qos.State{}, b.k.State()) {
		if c.Kind == kind && c.ID == id {
			for _, d := range c.Diff {
				x.Add(d)
			}
			return x, nil
		}
	}
	return x, fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound)
}
