package linuxdhcp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/engine"
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
	e     *netEngine
	s     *engine.Served
	hub   hub.Hub
	since time.Time
}

// New returns a backend that serves nothing yet. o may be nil. It starts no
// goroutine; Serve does.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	h := t.Host()
	b := &Backend{t: t, core: &core{since: time.Now()}}
	if o != nil {
		b.o = *o
	}
	if b.o.Logger == nil {
		b.o.Logger = h.Logger()
	}
	eo := &engine.Options{Store: b.o.Leases, Rate: b.o.ClientRate, Burst: b.o.ClientBurst, Hub: &b.hub, Log: b.o.Logger}
	if err := eo.Default(); err != nil {
		return nil, err
	}
	var err error
	if eo.Metrics, err = engine.NewMetrics(b.o.Metrics, string(h.Owner())); err != nil {
		return nil, fmt.Errorf("dhcp metrics: %w", err)
	}
	b.e = newEngine(h.NS(), eo)
	b.s = engine.NewServed(engine.ServedOptions{Owner: h.Owner(), Host: h.Name(), Store: b.o.Leases, Log: b.o.Logger,
		Begin: func(network string, wire *dhcpwire.Server) { b.e.add(network, h.NetworkDevice(network), wire) }, End: b.e.remove})
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
		return func(context.Context) error { f(); return nil }
	}
	return linux.Step{Change: c, Phase: phase, Do: wrap(do), Undo: wrap(undo)}
}

// steps turns changes into steps; want has what is to be created or changed.
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
			old, had := b.s.Scope(id)
			undo = func() { b.s.DropScope(id) }
			if had {
				undo = func() { b.s.PutScope(old) }
			}
			do = func() { b.s.DropScope(id) }
			if next, ok := scopes[id]; ok && c.Verb != vnet.Delete {
				do = func() { b.s.PutScope(next) }
			}
		} else {
			old, had := b.s.Reservation(id)
			undo = func() { b.s.DropReservation(id) }
			if had {
				undo = func() { b.s.PutReservation(old) }
			}
			do = func() { b.s.DropReservation(id) }
			if next, ok := res[id]; ok && c.Verb != vnet.Delete {
				do = func() { b.s.PutReservation(next) }
			}
		}
		out = append(out, b.step(c, do, undo))
	}
	return out
}

// EnsureScope implements [dhcp.Backend].
func (b *Backend) EnsureScope(ctx context.Context, s dhcp.Scope) error {
	if err := b.s.CheckPools("linuxdhcp", s); err != nil {
		return err
	}
	var have dhcp.State
	if old, ok := b.s.Scope(s.ID); ok && !b.pending("scope", s.ID) {
		have.Scopes = []dhcp.Scope{old}
	}
	if err := b.s.ScopeConflict(s, func(id string) bool { return !b.leaving("scope", id) }); err != nil {
		return err
	}
	want := dhcp.State{Scopes: []dhcp.Scope{s.Canonical()}}
	return b.t.Submit(ctx, b.steps(dhcp.Diff(have, want), want)...)
}

// DeleteScope implements [dhcp.Backend]. Pool leases of the scope are forgotten.
func (b *Backend) DeleteScope(ctx context.Context, id string) error {
	var have dhcp.State
	if old, ok := b.s.Scope(id); ok || b.pending("scope", id) {
		old.ID = id
		have.Scopes = []dhcp.Scope{old}
	}
	return b.t.Submit(ctx, b.steps(dhcp.Diff(have, dhcp.State{}), dhcp.State{})...)
}

// EnsureReservation implements [dhcp.Backend]. An address or a client that
// another reservation of the network has is [vnet.ErrConflict].
func (b *Backend) EnsureReservation(ctx context.Context, r dhcp.Reservation) error {
	var have dhcp.State
	if old, ok := b.s.Reservation(r.ID); ok && !b.pending("reservation", r.ID) {
		have.Reservations = []dhcp.Reservation{old}
	}
	if err := b.s.ReservationConflict(r, func(id string) bool { return !b.leaving("reservation", id) }); err != nil {
		return err
	}
	want := dhcp.State{Reservations: []dhcp.Reservation{r.Canonical()}}
	return b.t.Submit(ctx, b.steps(dhcp.Diff(have, want), want)...)
}

// DeleteReservation implements [dhcp.Backend].
func (b *Backend) DeleteReservation(ctx context.Context, id string) error {
	var have dhcp.State
	if old, ok := b.s.Reservation(id); ok || b.pending("reservation", id) {
		old.ID = id
		have.Reservations = []dhcp.Reservation{old}
	}
	return b.t.Submit(ctx, b.steps(dhcp.Diff(have, dhcp.State{}), dhcp.State{})...)
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

// Plan implements [dhcp.Backend]: the difference to what this process serves.
func (b *Backend) Plan(ctx context.Context, s dhcp.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	return linux.PlanOf(b.steps(dhcp.Diff(b.s.State(), s), s)), nil
}

// Sync implements [dhcp.Backend].
func (b *Backend) Sync(ctx context.Context, s dhcp.State, o vnet.SyncOptions) error {
	if err := b.s.CheckPools("linuxdhcp", s.Scopes...); err != nil {
		return err
	}
	s = s.Canonical()
	p := dhcp.Diff(b.s.State(), s)
	if err := o.Check(p, b.s.Len()); err != nil {
		return err
	}
	return b.t.Submit(ctx, b.steps(p, s)...)
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
func (b *Backend) Leases(ctx context.Context) iter.Seq2[dhcp.Lease, error] { return b.s.Leases(ctx) }

// Watch implements [dhcp.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.hub.Watch(ctx) }

// Explain implements [dhcp.Explainer].
func (b *Backend) Explain(_ context.Context, kind, id string) (vnet.Explanation, error) {
	return b.s.Explain(kind, id, b.e)
}
