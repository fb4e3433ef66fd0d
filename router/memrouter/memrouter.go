// Package memrouter is routers in memory: what applications test against,
// without root. It keeps the desired state and refuses what every backend
// refuses; it routes no packets.
package memrouter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// Kernel is where a [Backend] keeps what it was told: the stand-in for a
// platform. Several backends over one Kernel see the same, as after a restart.
// The zero value is empty and ready.
type Kernel struct {
	mu       sync.Mutex
	routers  map[string]router.Router
	fips     map[string]router.FloatingIP
	forwards map[string]router.PortForward
	writes   int
}

// Writes is how many objects have been created, changed or deleted so far.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// State is what stands.
func (k *Kernel) State() router.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state()
}

func (k *Kernel) state() router.State {
	return router.State{Routers: values(k.routers), FloatingIPs: values(k.fips), PortForwards: values(k.forwards)}.Canonical()
}

func values[T any](m map[string]T) (out []T) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// Backend is an in-memory [router.Backend].
type Backend struct {
	k     *Kernel
	since time.Time
}

var (
	_ router.Backend   = (*Backend)(nil)
	_ router.Explainer = (*Backend)(nil)
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

func (b *Backend) do(ctx context.Context, f func(k *Kernel) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.k.mu.Lock()
	defer b.k.mu.Unlock()
	if b.k.routers == nil {
		b.k.routers, b.k.fips, b.k.forwards = map[string]router.Router{}, map[string]router.FloatingIP{}, map[string]router.PortForward{}
	}
	return f(b.k)
}

func put[T any](k *Kernel, m map[string]T, id string, v T, equal func(a, b T) bool) {
	if old, ok := m[id]; ok && equal(old, v) {
		return
	}
	m[id] = v
	k.writes++
}

func drop[T any](k *Kernel, m map[string]T, id string) {
	if _, ok := m[id]; ok {
		delete(m, id)
		k.writes++
	}
}

// EnsureRouter implements [router.Backend].
func (b *Backend) EnsureRouter(ctx context.Context, r router.Router) error {
	return b.do(ctx, func(k *Kernel) error {
		if r.Gateway == nil {
			if err := k.inUse(r.ID); err != nil {
				return fmt.Errorf("gateway: %w", err)
			}
		}
		// What is on it must have room on the new one too.
		for _, f := range k.fips {
			if f.RouterID == r.ID {
				if err := r.CheckFloatingIP(f); err != nil {
					return fmt.Errorf("floating IP %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
		}
		for _, f := range k.forwards {
			if f.RouterID == r.ID {
				if err := r.CheckPortForward(f); err != nil {
					return fmt.Errorf("port forward %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
		}
		put(k, k.routers, r.ID, r, router.Router.Equal)
		return nil
	})
}

func (k *Kernel) inUse(id string) error {
	s := k.state()
	for _, f := range s.FloatingIPs {
		if f.RouterID == id {
			return fmt.Errorf("floating IP %s is on it: %w", f.ID, vnet.ErrInUse)
		}
	}
	for _, f := range s.PortForwards {
		if f.RouterID == id {
			return fmt.Errorf("port forward %s is on it: %w", f.ID, vnet.ErrInUse)
		}
	}
	return nil
}

// DeleteRouter implements [router.Backend].
func (b *Backend) DeleteRouter(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error {
		if err := k.inUse(id); err != nil {
			return err
		}
		drop(k, k.routers, id)
		return nil
	})
}

// with checks that the state would be a good one with one more object.
func (k *Kernel) with(routerID string, change func(s *router.State)) error {
	r, ok := k.routers[routerID]
	if !ok {
		return fmt.Errorf("router %s: %w", routerID, vnet.ErrNotFound)
	}
	if r.Gateway == nil {
		return fmt.Errorf("router %s has no gateway: %w", routerID, vnet.ErrConflict)
	}
	s := k.state()
	change(&s)
	if err := s.Validate(); err != nil {
		return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
	}
	return nil
}

// EnsureFloatingIP implements [router.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	return b.do(ctx, func(k *Kernel) error {
		err := k.with(f.RouterID, func(s *router.State) { s.FloatingIPs = append(others(s.FloatingIPs, f.ID, fipID), f) })
		if err == nil {
			put(k, k.fips, f.ID, f, func(a, b router.FloatingIP) bool { return a == b })
		}
		return err
	})
}

func fipID(f router.FloatingIP) string      { return f.ID }
func forwardID(f router.PortForward) string { return f.ID }

func others[T any](in []T, id string, of func(T) string) (out []T) {
	for _, x := range in {
		if of(x) != id {
			out = append(out, x)
		}
	}
	return out
}

// DeleteFloatingIP implements [router.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error { drop(k, k.fips, id); return nil })
}

// EnsurePortForward implements [router.Backend].
func (b *Backend) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	return b.do(ctx, func(k *Kernel) error {
		err := k.with(f.RouterID, func(s *router.State) { s.PortForwards = append(others(s.PortForwards, f.ID, forwardID), f) })
		if err == nil {
			put(k, k.forwards, f.ID, f, router.PortForward.Equal)
		}
		return err
	})
}

// DeletePortForward implements [router.Backend].
func (b *Backend) DeletePortForward(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error { drop(k, k.forwards, id); return nil })
}

// Sync implements [router.Backend].
func (b *Backend) Sync(ctx context.Context, s router.State, o vnet.SyncOptions) error {
	return b.do(ctx, func(k *Kernel) error {
		old := k.state()
		p := vnet.Plan{Changes: router.Diff(old, s)}
		if err := o.Check(p, len(old.Routers)+len(old.FloatingIPs)+len(old.PortForwards)); err != nil {
			return err
		}
		clear(k.routers)
		clear(k.fips)
		clear(k.forwards)
		for _, r := range s.Routers {
			k.routers[r.ID] = r
		}
		for _, f := range s.FloatingIPs {
			k.fips[f.ID] = f
		}
		for _, f := range s.PortForwards {
			k.forwards[f.ID] = f
		}
		k.writes += len(p.Changes)
		return nil
	})
}

// Plan implements [router.Backend].
func (b *Backend) Plan(ctx context.Context, s router.State) (p vnet.Plan, err error) {
	err = b.do(ctx, func(k *Kernel) error { p.Changes = router.Diff(k.state(), s); return nil })
	return p, err
}

// Health implements [router.Backend].
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Since: b.since}
}

// Features implements [router.Backend]: everything but distribution.
func (b *Backend) Features(context.Context) router.Features {
	return router.Features{RA: true, PortForward: true, IPv6: true, ExtraRoutes: true, SharedGateIP: true}
}

// Explain implements [router.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = b.do(ctx, func(k *Kernel) error {
		missing := fmt.Errorf("%s %s: %w", kind, id, vnet.ErrNotFound)
		switch kind {
		case "router":
			r, ok := k.routers[id]
			if !ok {
				return missing
			}
			x.Text = "router " + id + ", in memory"
			for _, i := range r.Interfaces {
				x.Add(fmt.Sprintf("interface %s on network %s: %v", i.PortID, i.NetworkID, i.Addresses))
			}
			if g := r.Gateway; g != nil {
				x.Add(fmt.Sprintf("gateway %s on network %s: %v", g.PortID, g.NetworkID, g.Addresses))
			}
		case "floatingip":
			f, ok := k.fips[id]
			if !ok {
				return missing
			}
			x.Text = fmt.Sprintf("floating IP %s on router %s, in memory: %s <-> %s", id, f.RouterID, f.FloatingIP, f.FixedIP)
		case "portforward":
			f, ok := k.forwards[id]
			if !ok {
				return missing
			}
			x.Text = fmt.Sprintf("port forward %s on router %s, in memory: %s %s -> %s", id, f.RouterID, f.Protocol, f.ExternalIP, f.InternalIP)
		}
		return nil
	})
	return x, err
}
