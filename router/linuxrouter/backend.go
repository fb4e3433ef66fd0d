// Package linuxrouter makes routers of one host on the Linux kernel, through
// [linux.Target].
//
// A router is a network namespace. Each of its ports is a veth pair from the
// namespace to the network's bridge in the host's namespace. Translation is in
// one nftables table in the namespace ("inet vnet-router") as maps: a floating
// IP is one element in each of two maps and an address of the gateway device,
// never a rule.
//
// How packets are translated, as Neutron's routers do:
//
//   - To a floating IP, from wherever: the destination becomes the fixed IP.
//   - To a forwarded port: the destination becomes the internal address and port.
//   - Leaving by the gateway: the source becomes the floating IP of the sender
//     if it has one, or else the gateway's first IPv4 address, unless SNAT is
//     disabled. IPv6 is left alone.
//   - From an internal network, translated as above and going to an internal
//     network (hairpin): the source becomes the sender's floating IP or the
//     gateway's first IPv4 address, so that the answer comes back this way;
//     also with SNAT disabled. What came in from outside keeps its source.
//   - Between internal networks nothing is translated.
//   - With SNAT on, a packet that belongs to no connection does not leave by the
//     gateway: it would show a tenant's address. Link-local IPv4 (metadata) is
//     never forwarded.
//
// The ids of floating IPs and port forwards are in the comments of their
// elements, so a new process knows them. Router advertisements are sent by
// [Backend.Serve] for the routers that this process has been told of.
package linuxrouter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/router"
)

// Options of a [Backend]. There are none yet; nil will do.
type Options struct{}

// Backend is a [router.Backend] for one host.
type Backend struct {
	t linux.Target
	h *linux.Host
	a *advertiser

	announcer *announcer

	mu      sync.Mutex // held through every call that writes
	routers map[string]router.Router
	nats    map[string]*nat // by router id
	// known are the routers that this process has made so, and whose nat is all
	// that stands: nothing about them has failed since.
	known map[string]bool
}

var (
	_ router.Backend   = (*Backend)(nil)
	_ router.Runner    = (*Backend)(nil)
	_ router.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	return &Backend{t: t, h: t.Host(), a: newAdvertiser(t.Host()), announcer: newAnnouncer(t.Host().Logger()),
		routers: map[string]router.Router{}, nats: map[string]*nat{}, known: map[string]bool{}}, nil
}

// Features implements [router.Backend].
func (b *Backend) Features(context.Context) router.Features {
	return router.Features{RA: true, PortForward: true, IPv6: true, ExtraRoutes: true, SharedGateIP: true}
}

// Health implements [router.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.h.Health(ctx) }

// EnsureRouter implements [router.Backend].
func (b *Backend) EnsureRouter(ctx context.Context, r router.Router) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.h.Local(r.Host) { // it may have been here before
		if err := b.gone(ctx, r.ID); err != nil {
			return err
		}
		b.routers[r.ID] = r
		return nil
	}
	was, err := b.standingNAT(ctx, r.ID)
	if err != nil {
		return err
	}
	n := b.natOf(r.ID).clone()
	for _, f := range was.fips { // what this process has not been told of stays
		if n.ext[f.FloatingIP] == "" && n.fixed[f.FixedIP] == "" && n.fips[f.ID].ID == "" {
			n.addFIP(f)
		}
	}
	for _, f := range was.forwards {
		if n.forwards[f.ID].ID == "" && n.clashForward(f) == nil {
			n.addForward(f)
		}
	}
	if user := n.user(); user != "" && r.Gateway == nil {
		return fmt.Errorf("gateway: %s is on it: %w", user, vnet.ErrInUse)
	}
	for _, f := range n.fips {
		if err := r.CheckFloatingIP(f); err != nil {
			return fmt.Errorf("floating IP %s: %w: %w", f.ID, vnet.ErrInUse, err)
		}
	}
	for _, f := range n.forwards {
		if err := r.CheckPortForward(f); err != nil {
			return fmt.Errorf("port forward %s: %w: %w", f.ID, vnet.ErrInUse, err)
		}
	}
	steps, err := b.routerSteps(ctx, r, was, n)
	if err != nil {
		return err
	}
	b.a.keep(r)
	if err := b.submit(ctx, r.ID, steps...); err != nil {
		if old, ok := b.routers[r.ID]; ok {
			b.a.set(old)
		}
		return err
	}
	b.routers[r.ID], b.nats[r.ID] = r, n
	b.know(r.ID)
	b.a.set(r)
	return nil
}

// submit submits steps of one router.
func (b *Backend) submit(ctx context.Context, routerID string, steps ...linux.Step) error {
	err := b.t.Submit(ctx, steps...)
	if err != nil {
		delete(b.known, routerID)
	}
	return err
}

// know notes that a router's nat is what stands. What is in a batch may never
// come to stand.
func (b *Backend) know(routerID string) {
	if _, batch := b.t.(*linux.Batch); !batch {
		b.known[routerID] = true
	}
}

// DeleteRouter implements [router.Backend].
func (b *Backend) DeleteRouter(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, stands, err := b.namespace(ctx, id)
	if err != nil {
		return err
	}
	n := b.nats[id]
	if stands { // the kernel knows better
		if n, err = b.standingNAT(ctx, id); err != nil {
			return err
		}
	}
	if user := n.user(); user != "" {
		return fmt.Errorf("%s is on it: %w", user, vnet.ErrInUse)
	}
	if err := b.gone(ctx, id); err != nil {
		return err
	}
	delete(b.routers, id)
	delete(b.nats, id)
	return nil
}

func (b *Backend) gone(ctx context.Context, id string) error {
	b.a.drop(id)
	steps, err := b.goneSteps(ctx, id)
	if err != nil {
		return err
	}
	delete(b.known, id)
	return b.t.Submit(ctx, steps...)
}

// Sync implements [router.Backend].
func (b *Backend) Sync(ctx context.Context, s router.State, o vnet.SyncOptions) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, existing, err := b.diff(ctx, s)
	if err != nil {
		return err
	}
	if err := o.Check(linux.PlanOf(steps), existing); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range s.Routers {
		keep[r.ID] = b.h.Local(r.Host)
	}
	for id := range b.routers {
		if !keep[id] {
			b.a.drop(id)
		}
	}
	for _, r := range s.Routers {
		if keep[r.ID] {
			b.a.keep(r)
		}
	}
	clear(b.known)
	if err := b.t.Submit(ctx, steps...); err != nil {
		for _, r := range b.routers {
			if b.h.Local(r.Host) {
				b.a.set(r)
			}
		}
		return err
	}
	clear(b.routers)
	for _, r := range s.Routers {
		b.routers[r.ID] = r
		if keep[r.ID] {
			b.know(r.ID)
			b.a.set(r)
		}
	}
	b.nats = wantedNATs(s)
	return nil
}

// wantedNATs are the translations of s by router.
func wantedNATs(s router.State) map[string]*nat {
	out := map[string]*nat{}
	for _, r := range s.Routers {
		out[r.ID] = newNAT()
	}
	for _, f := range s.FloatingIPs {
		if n := out[f.RouterID]; n != nil {
			n.addFIP(f)
		}
	}
	for _, f := range s.PortForwards {
		if n := out[f.RouterID]; n != nil {
			n.addForward(f.Canonical())
		}
	}
	return out
}

// Plan implements [router.Backend].
func (b *Backend) Plan(ctx context.Context, s router.State) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, _, err := b.diff(ctx, s)
	return linux.PlanOf(steps), err
}

// diff returns the steps from what stands to s, and how many objects stand.
func (b *Backend) diff(ctx context.Context, s router.State) (steps []linux.Step, existing int, err error) {
	have, err := b.h.Namespaces(ctx, vnet.PartRouter)
	if err != nil {
		return nil, 0, err
	}
	want, nats := map[string]bool{}, wantedNATs(s)
	for _, r := range s.Routers {
		if !b.h.Local(r.Host) {
			continue
		}
		want[r.ID] = true
		was, err := b.standingNAT(ctx, r.ID)
		if err != nil {
			return nil, 0, fmt.Errorf("router %s: %w", r.ID, err)
		}
		existing += len(was.fips) + len(was.forwards)
		st, err := b.routerSteps(ctx, r, was, nats[r.ID])
		if err != nil {
			return nil, 0, fmt.Errorf("router %s: %w", r.ID, err)
		}
		steps = append(steps, st...)
	}
	for _, id := range have {
		existing++
		if want[id] {
			continue
		}
		was, err := b.standingNAT(ctx, id)
		if err != nil {
			return nil, 0, fmt.Errorf("router %s: %w", id, err)
		}
		existing += len(was.fips) + len(was.forwards)
		st, err := b.goneSteps(ctx, id)
		if err != nil {
			return nil, 0, fmt.Errorf("router %s: %w", id, err)
		}
		steps = append(steps, st...)
	}
	return steps, existing, nil
}

// link returns a device, or nil when there is none.
func link(rt *rtnl.Conn, name string) (*rtnl.Link, error) {
	l, err := rt.Link(name)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// work collects the steps and differences of one object.
type work struct {
	c      vnet.Change
	steps  []linux.Step
	remade bool // a device that stands is made again
}

func (b *Backend) work(verb vnet.Verb, kind, id string, diff ...string) *work {
	impact := vnet.ImpactNone
	if verb == vnet.Delete {
		impact = vnet.ImpactObject
	}
	return &work{c: vnet.Change{Verb: verb, Part: vnet.PartRouter, Kind: kind, ID: id, Impact: impact, Where: b.h.Name(), Diff: diff}}
}

func (w *work) step(p linux.Phase, do func(context.Context) error) {
	w.steps = append(w.steps, linux.Step{Phase: p, Do: do})
}

func (w *work) differ(what string, a, b any, impact vnet.Impact) {
	w.c.Diff = append(w.c.Diff, fmt.Sprintf("%s: %v -> %v", what, a, b))
	if w.c.Impact == vnet.ImpactNone || impact == vnet.ImpactObject {
		w.c.Impact = impact
	}
}

// done returns the steps with the change on the first; none is no change.
func (w *work) done() []linux.Step {
	if len(w.steps) > 0 {
		w.steps[0].Change = w.c
	}
	return w.steps
}

// firstIPv4 is the address that SNAT uses; invalid when there is none.
func firstIPv4(g *router.Gateway) netip.Addr {
	if g != nil {
		if i := slices.IndexFunc(g.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }); i >= 0 {
			return g.Addresses[i].Addr()
		}
	}
	return netip.Addr{}
}
