package linuxdhcp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/hub"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
)

var (
	_ dhcp.Backend     = (*Backend)(nil)
	_ dhcp.Runner      = (*Backend)(nil)
	_ dhcp.LeaseLister = (*Backend)(nil)
	_ dhcp.Watcher     = (*Backend)(nil)
	_ dhcp.Explainer   = (*Backend)(nil)
)

// Options of a [Backend]. The zero value is usable.
type Options struct {
	// Leases keeps what pools give; nil: scopes with a pool are refused. The
	// caller opens it before and closes it after the backend.
	Leases *leasestore.Store
	// ClientRate is how many messages a second one client may send, after a
	// burst of ClientBurst. Zero: 20 and 60.
	ClientRate  float64
	ClientBurst int
	// Metrics gets the backend's metrics; nil: none.
	Metrics prometheus.Registerer
	// Logger gets what a person may want to know later; nil: the host's.
	Logger *slog.Logger
}

// Backend serves DHCP on the networks of one host. It is safe for use by
// several goroutines.
type Backend struct {
	t linux.Target
	*core
}

// core is what backends of one host share that write through different targets.
type core struct {
	o     Options
	e     *engine
	hub   hub.Hub
	since time.Time

	mu           sync.Mutex
	scopes       map[string]dhcp.Scope
	reservations map[string]dhcp.Reservation
	holders      map[holder]string // reservation of an address or a client
	nets         map[string]*netState
}

// holder is what no two reservations may both have.
type holder struct {
	network string
	ip      netip.Addr
	mac     vnet.MAC
	id      string // client identifier and DUID
}

type netState struct {
	wire    *dhcpwire.Server
	scopes  int
	objects int
}

// New returns a backend that serves nothing yet. o may be nil. It starts no
// goroutine; Serve does.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	h := t.Host()
	b := &Backend{t: t, core: &core{
		since: time.Now(), scopes: map[string]dhcp.Scope{}, reservations: map[string]dhcp.Reservation{},
		holders: map[holder]string{}, nets: map[string]*netState{},
	}}
	if o != nil {
		b.o = *o
	}
	if b.o.ClientRate == 0 {
		b.o.ClientRate = 20
	}
	if b.o.ClientBurst == 0 {
		b.o.ClientBurst = 60
	}
	if b.o.ClientRate < 0 || b.o.ClientBurst < 0 {
		return nil, &vnet.FieldError{Field: "client_rate", Reason: "is negative"}
	}
	if b.o.Logger == nil {
		b.o.Logger = h.Logger()
	}
	m, err := newMetrics(b.o.Metrics, string(h.Owner()))
	if err != nil {
		return nil, fmt.Errorf("dhcp metrics: %w", err)
	}
	b.e = newEngine(h.NS(), b.o, m, &b.hub)
	return b, nil
}

// With returns a backend that serves the same and writes through t, a batch
// of the same host: so one port can be part of one commit with what other
// packages write.
func (b *Backend) With(t linux.Target) (*Backend, error) {
	if t == nil || t.Host() != b.t.Host() {
		return nil, &vnet.FieldError{Field: "target", Reason: "is not of the same host"}
	}
	return &Backend{t: t, core: b.core}, nil
}

// step makes a step of one change of the served state. Nothing in it can
// fail, but it is a step all the same: a batch orders and plans it with the rest.
func (b *Backend) step(c vnet.Change, do, undo func()) linux.Step {
	c.Where = b.t.Host().Name()
	phase := linux.Configure
	if c.Verb == vnet.Delete {
		phase = linux.Disconnect
	}
	wrap := func(f func()) func(context.Context) error {
		return func(context.Context) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			f()
			return nil
		}
	}
	return linux.Step{Change: c, Phase: phase, Do: wrap(do), Undo: wrap(undo)}
}

// steps turns changes into steps; want has what is to be created or changed.
// It is called with mu held.
func (b *Backend) steps(p vnet.Plan, want dhcp.State) []linux.Step {
	scopes := make(map[string]dhcp.Scope, len(want.Scopes))
	for _, s := range want.Scopes {
		scopes[s.ID] = s
	}
	res := make(map[string]dhcp.Reservation, len(want.Reservations))
	for _, r := range want.Reservations {
		res[r.ID] = r
	}
	var out []linux.Step
	for _, c := range p.Changes {
		id := c.ID
		var do, undo func()
		if c.Kind == "scope" {
			old, had := b.scopes[id]
			undo = func() { b.dropScope(id) }
			if had {
				undo = func() { b.putScope(old) }
			}
			do = func() { b.dropScope(id) }
			if next, ok := scopes[id]; ok && c.Verb != vnet.Delete {
				do = func() { b.putScope(next) }
			}
		} else {
			old, had := b.reservations[id]
			undo = func() { b.dropReservation(id) }
			if had {
				undo = func() { b.putReservation(old) }
			}
			do = func() { b.dropReservation(id) }
			if next, ok := res[id]; ok && c.Verb != vnet.Delete {
				do = func() { b.putReservation(next) }
			}
		}
		out = append(out, b.step(c, do, undo))
	}
	return out
}

// EnsureScope implements [dhcp.Backend].
func (b *Backend) EnsureScope(ctx context.Context, s dhcp.Scope) error {
	if len(s.Pool) > 0 && b.o.Leases == nil {
		return &vnet.UnsupportedError{Feature: "pool", Backend: "linuxdhcp", Need: "Options.Leases"}
	}
	b.mu.Lock()
	var have dhcp.State
	if old, ok := b.scopes[s.ID]; ok && !b.pending("scope", s.ID) {
		have.Scopes = []dhcp.Scope{old}
	}
	for _, x := range b.scopes {
		if x.ID != s.ID && x.NetworkID == s.NetworkID && x.Subnet.Overlaps(s.Subnet) && !b.leaving("scope", x.ID) {
			b.mu.Unlock()
			return fmt.Errorf("%w: %s overlaps %s of scope %q", vnet.ErrConflict, s.Subnet, x.Subnet, x.ID)
		}
	}
	want := dhcp.State{Scopes: []dhcp.Scope{s.Canonical()}}
	steps := b.steps(dhcp.Diff(have, want), want)
	b.mu.Unlock()
	return b.t.Submit(ctx, steps...)
}

// DeleteScope implements [dhcp.Backend]. Pool leases of the scope are forgotten.
func (b *Backend) DeleteScope(ctx context.Context, id string) error {
	b.mu.Lock()
	var have dhcp.State
	if old, ok := b.scopes[id]; ok || b.pending("scope", id) {
		old.ID = id
		have.Scopes = []dhcp.Scope{old}
	}
	steps := b.steps(dhcp.Diff(have, dhcp.State{}), dhcp.State{})
	b.mu.Unlock()
	return b.t.Submit(ctx, steps...)
}

// EnsureReservation implements [dhcp.Backend]. An address or a client that
// another reservation of the network has is [vnet.ErrConflict].
func (b *Backend) EnsureReservation(ctx context.Context, r dhcp.Reservation) error {
	b.mu.Lock()
	var have dhcp.State
	if old, ok := b.reservations[r.ID]; ok && !b.pending("reservation", r.ID) {
		have.Reservations = []dhcp.Reservation{old}
	}
	for _, k := range holds(r) {
		if other, ok := b.holders[k]; ok && other != r.ID && !b.leaving("reservation", other) {
			b.mu.Unlock()
			what := k.mac.String()
			if k.ip.IsValid() {
				what = k.ip.String()
			}
			return fmt.Errorf("%w: %s is reservation %q's", vnet.ErrConflict, what, other)
		}
	}
	want := dhcp.State{Reservations: []dhcp.Reservation{r.Canonical()}}
	steps := b.steps(dhcp.Diff(have, want), want)
	b.mu.Unlock()
	return b.t.Submit(ctx, steps...)
}

// DeleteReservation implements [dhcp.Backend].
func (b *Backend) DeleteReservation(ctx context.Context, id string) error {
	b.mu.Lock()
	var have dhcp.State
	if old, ok := b.reservations[id]; ok || b.pending("reservation", id) {
		old.ID = id
		have.Reservations = []dhcp.Reservation{old}
	}
	steps := b.steps(dhcp.Diff(have, dhcp.State{}), dhcp.State{})
	b.mu.Unlock()
	return b.t.Submit(ctx, steps...)
}

func (b *Backend) pending(kind, id string) bool {
	_, ok := b.t.Pending(vnet.PartDHCP, kind, id)
	return ok
}

// leaving reports whether a batch will have deleted the object.
func (b *Backend) leaving(kind, id string) bool {
	v, ok := b.t.Pending(vnet.PartDHCP, kind, id)
	return ok && v == vnet.Delete
}

// state is called with mu held.
func (b *Backend) state() dhcp.State {
	return dhcp.State{Scopes: slices.Collect(maps.Values(b.scopes)), Reservations: slices.Collect(maps.Values(b.reservations))}
}

// Plan implements [dhcp.Backend]: the difference to what this process serves.
func (b *Backend) Plan(ctx context.Context, s dhcp.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return linux.PlanOf(b.steps(dhcp.Diff(b.state(), s), s)), nil
}

// Sync implements [dhcp.Backend].
func (b *Backend) Sync(ctx context.Context, s dhcp.State, o vnet.SyncOptions) error {
	for _, sc := range s.Scopes {
		if len(sc.Pool) > 0 && b.o.Leases == nil {
			return &vnet.UnsupportedError{Feature: "pool", Backend: "linuxdhcp", Need: "Options.Leases"}
		}
	}
	b.mu.Lock()
	s = s.Canonical()
	p := dhcp.Diff(b.state(), s)
	err := o.Check(p, len(b.scopes)+len(b.reservations))
	steps := b.steps(p, s)
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return b.t.Submit(ctx, steps...)
}

// The rest of the state's changes are called with mu held.

func (b *Backend) net(id string) *netState {
	n := b.nets[id]
	if n == nil {
		h := b.t.Host()
		n = &netState{wire: dhcpwire.New(id, &dhcpwire.Options{Host: h.Name(), DUID: dhcpwire.DUID(string(h.Owner()) + "/" + id), Store: b.o.Leases})}
		b.nets[id] = n
	}
	return n
}

func (b *Backend) putScope(s dhcp.Scope) {
	if old, ok := b.scopes[s.ID]; ok && old.NetworkID != s.NetworkID {
		b.dropScope(s.ID)
	}
	n := b.net(s.NetworkID)
	n.wire.PutScope(s)
	if _, ok := b.scopes[s.ID]; !ok {
		n.objects++
		if n.scopes++; n.scopes == 1 {
			b.e.add(s.NetworkID, b.t.Host().NetworkDevice(s.NetworkID), n.wire)
		}
	}
	b.scopes[s.ID] = s
}

func (b *Backend) dropScope(id string) {
	s, ok := b.scopes[id]
	if !ok {
		return
	}
	delete(b.scopes, id)
	n := b.nets[s.NetworkID]
	n.wire.DropScope(id)
	if n.scopes--; n.scopes == 0 {
		b.e.remove(s.NetworkID)
	}
	b.forget(s.NetworkID, n)
	if b.o.Leases != nil && len(s.Pool) > 0 {
		b.o.Leases.Forget(func(scope string) bool { return scope != id })
		if err := b.o.Leases.Flush(); err != nil {
			b.o.Logger.Error("dhcp: leases cannot be kept", "scope", id, "error", err)
		}
	}
}

func (b *Backend) forget(id string, n *netState) {
	if n.objects--; n.objects == 0 {
		delete(b.nets, id)
	}
}

func holds(r dhcp.Reservation) []holder {
	out := []holder{{network: r.NetworkID, mac: r.MAC, id: string(r.ClientID) + "\x00" + string(r.DUID)}}
	for _, ip := range r.IPs {
		out = append(out, holder{network: r.NetworkID, ip: ip})
	}
	return out
}

func (b *Backend) putReservation(r dhcp.Reservation) {
	old, had := b.reservations[r.ID]
	if had {
		b.unhold(old)
		if old.NetworkID != r.NetworkID {
			b.dropReservation(r.ID)
			had = false
		}
	}
	n := b.net(r.NetworkID)
	n.wire.PutReservation(r)
	if !had {
		n.objects++
	}
	for _, k := range holds(r) {
		b.holders[k] = r.ID
	}
	b.reservations[r.ID] = r
}

func (b *Backend) unhold(r dhcp.Reservation) {
	for _, k := range holds(r) {
		if b.holders[k] == r.ID {
			delete(b.holders, k)
		}
	}
}

func (b *Backend) dropReservation(id string) {
	r, ok := b.reservations[id]
	if !ok {
		return
	}
	b.unhold(r)
	delete(b.reservations, id)
	n := b.nets[r.NetworkID]
	n.wire.DropReservation(id)
	b.forget(r.NetworkID, n)
}

// Serve answers clients until ctx ends, when it returns nil. One Serve runs
// at a time; another is [vnet.ErrConflict].
func (b *Backend) Serve(ctx context.Context) error {
	if err := b.e.start(); err != nil {
		return err
	}
	defer b.e.stop()
	ticks, cancel := context.WithCancel(ctx)
	defer cancel()
	go b.e.tick(ticks)
	// Bridges come and go; the first round tells all that stand.
	err := b.t.Host().NS().RTNL().Watch(ctx, func(ev rtnl.LinkEvent) {
		if ev.Resync {
			b.e.recheck()
			return
		}
		b.e.device(ev.Link.Name, ev.Link.Index, ev.Link.MAC, ev.Gone)
	})
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("watching devices ended")
	}
	return fmt.Errorf("dhcp: %w", err)
}

// Health implements [dhcp.Backend]: complete while serving all networks whose
// bridge is there.
func (b *Backend) Health(ctx context.Context) vnet.Health {
	hl := b.t.Host().Health(ctx)
	hl.Since = b.since
	known, attached, errs := b.e.status()
	switch {
	case !hl.Complete:
	case !b.e.running():
		hl.Complete, hl.Detail = false, "not serving: Serve is not running"
	case len(errs) > 0:
		hl.Complete, hl.Detail = false, errors.Join(errs...).Error()
	default:
		hl.Detail = fmt.Sprintf("serving %d of %d networks", attached, known)
		if attached < known {
			hl.Detail += "; the others have no device yet"
		}
	}
	return hl
}

// Features implements [dhcp.Backend].
func (b *Backend) Features(context.Context) dhcp.Features {
	return dhcp.Features{Pool: b.o.Leases != nil, Relay: true, V6: true, Leases: true, Options: true}
}

// Leases implements [dhcp.LeaseLister].
func (b *Backend) Leases(ctx context.Context) iter.Seq2[dhcp.Lease, error] {
	b.mu.Lock()
	var out []dhcp.Lease
	for _, n := range b.nets {
		out = append(out, n.wire.Leases()...)
	}
	b.mu.Unlock()
	if b.o.Leases != nil {
		out = append(out, b.o.Leases.Leases()...)
	}
	return func(yield func(dhcp.Lease, error) bool) {
		for _, l := range out {
			if err := ctx.Err(); err != nil {
				yield(dhcp.Lease{}, err)
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Watch implements [dhcp.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.hub.Watch(ctx) }

// Explain implements [dhcp.Explainer].
func (b *Backend) Explain(_ context.Context, kind, id string) (vnet.Explanation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch kind {
	case "scope":
		s, ok := b.scopes[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		return b.explainScope(s), nil
	case "reservation":
		r, ok := b.reservations[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		return b.nets[r.NetworkID].wire.Explain(id), nil
	case "network":
		n, ok := b.nets[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		x := vnet.Explanation{Text: fmt.Sprintf("network %s: %d scopes, %d reservations", id, n.scopes, n.objects-n.scopes)}
		x.Add(b.e.explain(id))
		for _, k := range slices.Sorted(maps.Keys(b.scopes)) {
			if s := b.scopes[k]; s.NetworkID == id {
				x.Of = append(x.Of, b.explainScope(s))
			}
		}
		return x, nil
	}
	return vnet.Explanation{}, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "scope", "reservation" or "network"`}
}

func (b *Backend) explainScope(s dhcp.Scope) vnet.Explanation {
	x := vnet.Explanation{Text: fmt.Sprintf("scope %s: %s %s on network %s", s.ID, s.Mode, s.Subnet, s.NetworkID)}
	x.Add(b.e.explain(s.NetworkID))
	switch {
	case !s.Is4():
	case s.ServerIP == s.Router:
		x.Add(fmt.Sprintf("server identifier %s is the router's, which answers ARP for it", s.ServerIP))
	default:
		x.Add(fmt.Sprintf("ARP for %s is answered with the device's MAC", s.ServerIP))
	}
	n := 0
	for _, r := range b.reservations {
		if r.NetworkID == s.NetworkID && slices.ContainsFunc(r.IPs, s.Contains) {
			n++
		}
	}
	x.Add(fmt.Sprintf("%d reservations", n))
	if len(s.Pool) > 0 {
		held := 0
		for _, l := range b.o.Leases.Leases() {
			if l.ScopeID == s.ID {
				held++
			}
		}
		x.Add(fmt.Sprintf("%d pool addresses given", held))
	}
	return x
}
