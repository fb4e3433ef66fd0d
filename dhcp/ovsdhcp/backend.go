package ovsdhcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/internal/engine"
	"github.com/vnet-go/vnet/dhcp/internal/hub"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
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
	// burst of ClientBurst. Zero: 20 and 60. A port may send ten times that for
	// all its clients together, unless a relay is behind it.
	ClientRate  float64
	ClientBurst int
	// Metrics gets the backend's metrics; nil: none.
	Metrics prometheus.Registerer
	// Logger gets what a person may want to know later; nil: the switch's.
	Logger *slog.Logger
}

// Backend serves DHCP to the ports of one switch. It is safe for use by
// several goroutines.
type Backend struct {
	t ovs.Target
	*core
}

// core is what backends of one switch share that write through different targets.
type core struct {
	o     Options
	sw    *ovs.Switch
	e     *packets
	s     *engine.Served
	hub   hub.Hub
	since time.Time

	mu     sync.Mutex // held while reading what stands
	loaded bool
}

// New returns a backend that writes through t. o may be nil. What stands in
// the switch is served too, from the first call on. It starts no goroutine;
// Serve does.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	sw := t.Switch()
	b := &Backend{t: t, core: &core{sw: sw, since: time.Now()}}
	if o != nil {
		b.o = *o
	}
	if b.o.Logger == nil {
		b.o.Logger = sw.Logger()
	}
	eo := &engine.Options{Store: b.o.Leases, Rate: b.o.ClientRate, Burst: b.o.ClientBurst, Hub: &b.hub, Log: b.o.Logger}
	if err := eo.Default(); err != nil {
		return nil, err
	}
	var err error
	if eo.Metrics, err = engine.NewMetrics(b.o.Metrics, string(sw.Owner())); err != nil {
		return nil, fmt.Errorf("dhcp metrics: %w", err)
	}
	b.e = newPackets(sw, eo)
	b.e.deaf = b.deaf
	b.s = engine.NewServed(engine.ServedOptions{Owner: sw.Owner(), Host: sw.Name(), Store: b.o.Leases, Log: b.o.Logger, Begin: b.e.begin, End: b.e.end})
	return b, nil
}

// With returns a backend that serves the same and writes through t, a batch
// of the same switch: so one port can be part of one commit with what other
// packages write.
func (b *Backend) With(t ovs.Target) (*Backend, error) {
	if t == nil || t.Switch() != b.sw {
		return nil, &vnet.FieldError{Field: "target", Reason: "is not of the same switch"}
	}
	return &Backend{t: t, core: b.core}, nil
}

// The kinds of objects.
const (
	kindScope       = "scope"
	kindReservation = "reservation"
)

// scopeRecord is what stands in the switch of a scope.
type scopeRecord struct {
	Scope   dhcp.Scope `json:"scope"`
	Network uint16     `json:"network"` // its number
	Slot    uint16     `json:"slot,omitempty"`
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return b
}

// decode reads a record; one that cannot be read, of another version perhaps,
// is the zero value, and differs from all that is wanted.
func decode[T any](b []byte) (v T) {
	if json.Unmarshal(b, &v) != nil {
		var zero T
		return zero
	}
	return v
}

// load serves what stands in the switch, once.
func (b *Backend) load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loaded {
		return nil
	}
	var scopes, reservations []ovs.Object
	_, err := b.sw.Plan(ctx, vnet.PartDHCP, func(tx *ovs.Tx) error {
		scopes, reservations = tx.List(kindScope), tx.List(kindReservation)
		return nil
	})
	if err != nil {
		return err
	}
	for _, o := range scopes {
		r := decode[scopeRecord](o.Record)
		if err := r.Scope.Validate(); err != nil || r.Scope.ID != o.ID || b.s.CheckPools("ovsdhcp", r.Scope) != nil {
			b.o.Logger.Warn("dhcp: a scope that stands cannot be served until it is told again", "scope", o.ID, "error", err)
			continue
		}
		b.e.hold(r.Scope.NetworkID, o.ID, r.Slot)
		b.e.number(r.Scope.NetworkID, r.Network)
		b.s.PutScope(r.Scope)
	}
	for _, o := range reservations {
		r := decode[dhcp.Reservation](o.Record)
		if err := r.Validate(); err != nil || r.ID != o.ID {
			b.o.Logger.Warn("dhcp: a reservation that stands cannot be served until it is told again", "reservation", o.ID, "error", err)
			continue
		}
		b.s.PutReservation(r)
	}
	b.loaded = true
	return nil
}

// do submits f, when what stands is known.
func (b *Backend) do(ctx context.Context, f func(tx *ovs.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.load(ctx); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartDHCP, f)
}

// stands tells whether objects that are served will be there when tx is done.
func stands(tx *ovs.Tx, kind string) func(id string) bool {
	return func(id string) bool { _, ok := tx.Get(kind, id); return ok }
}

// EnsureScope implements [dhcp.Backend].
func (b *Backend) EnsureScope(ctx context.Context, s dhcp.Scope) error {
	if err := b.s.CheckPools("ovsdhcp", s); err != nil {
		return err
	}
	return b.do(ctx, func(tx *ovs.Tx) error {
		if err := b.s.ScopeConflict(s, stands(tx, kindScope)); err != nil {
			return err
		}
		return b.putScope(tx, s)
	})
}

// DeleteScope implements [dhcp.Backend]. Pool leases of the scope are forgotten.
func (b *Backend) DeleteScope(ctx context.Context, id string) error {
	return b.do(ctx, func(tx *ovs.Tx) error { b.drop(tx, kindScope, id); return nil })
}

// EnsureReservation implements [dhcp.Backend]. An address or a client that
// another reservation of the network has is [vnet.ErrConflict].
func (b *Backend) EnsureReservation(ctx context.Context, r dhcp.Reservation) error {
	return b.do(ctx, func(tx *ovs.Tx) error {
		if err := b.s.ReservationConflict(r, stands(tx, kindReservation)); err != nil {
			return err
		}
		b.putReservation(tx, r)
		return nil
	})
}

// DeleteReservation implements [dhcp.Backend].
func (b *Backend) DeleteReservation(ctx context.Context, id string) error {
	return b.do(ctx, func(tx *ovs.Tx) error { b.drop(tx, kindReservation, id); return nil })
}

// Plan implements [dhcp.Backend].
func (b *Backend) Plan(ctx context.Context, s dhcp.State) (vnet.Plan, error) {
	if err := b.load(ctx); err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartDHCP, b.sync(s, nil))
}

// Sync implements [dhcp.Backend].
func (b *Backend) Sync(ctx context.Context, s dhcp.State, o vnet.SyncOptions) error {
	if err := b.s.CheckPools("ovsdhcp", s.Scopes...); err != nil {
		return err
	}
	return b.do(ctx, b.sync(s, &o))
}

// sync makes the whole of s so; o bounds it, where it is not only planned.
func (b *Backend) sync(s dhcp.State, o *vnet.SyncOptions) func(tx *ovs.Tx) error {
	s = s.Canonical()
	return func(tx *ovs.Tx) error {
		var have dhcp.State
		existing := 0
		for _, x := range tx.All() {
			switch x.Kind {
			case kindScope:
				sc := decode[scopeRecord](x.Record).Scope
				sc.ID = x.ID
				have.Scopes = append(have.Scopes, sc)
				existing++
			case kindReservation:
				r := decode[dhcp.Reservation](x.Record)
				r.ID = x.ID
				have.Reservations = append(have.Reservations, r)
				existing++
			}
		}
		if err := tx.Err(); err != nil {
			return err
		}
		if o != nil {
			if err := o.Check(dhcp.Diff(have, s), existing); err != nil {
				return err
			}
		}
		keep := map[[2]string]bool{}
		for _, x := range s.Scopes {
			if err := b.putScope(tx, x); err != nil {
				return err
			}
			keep[[2]string{kindScope, x.ID}] = true
		}
		for _, x := range s.Reservations {
			b.putReservation(tx, x)
			keep[[2]string{kindReservation, x.ID}] = true
		}
		for _, x := range have.Reservations {
			if !keep[[2]string{kindReservation, x.ID}] {
				b.drop(tx, kindReservation, x.ID)
			}
		}
		for _, x := range have.Scopes {
			if !keep[[2]string{kindScope, x.ID}] {
				b.drop(tx, kindScope, x.ID)
			}
		}
		return nil
	}
}

// change tells the plan of what Keep did, with what differs for a person.
func change(tx *ovs.Tx, verb vnet.Verb, kind, id string, diff []string, p vnet.Plan) {
	if verb == "" {
		return
	}
	if verb == vnet.Update && len(p.Changes) == 1 && len(p.Changes[0].Diff) > 0 {
		diff = p.Changes[0].Diff
	}
	tx.Change(vnet.Change{Verb: verb, Kind: kind, ID: id, Diff: diff, Impact: vnet.ImpactNone, Where: tx.Switch().Name()})
}

func (b *Backend) putScope(tx *ovs.Tx, s dhcp.Scope) error {
	s = s.Canonical()
	old, stood := tx.Get(kindScope, s.ID)
	was := decode[scopeRecord](old.Record).Scope
	if stood && was.NetworkID != s.NetworkID {
		b.leave(tx, was)
	}
	net := tx.NetworkNumber(s.NetworkID)
	slot, err := b.e.slot(s.NetworkID, s.ID)
	if err != nil {
		return err
	}
	verb, diff := tx.Keep(kindScope, s.ID, encode(scopeRecord{s, net, slot}), scopeFlows(b.sw.Owner(), s, net, slot, action())...)
	change(tx, verb, kindScope, s.ID, diff, dhcp.Diff(dhcp.State{Scopes: []dhcp.Scope{was}}, dhcp.State{Scopes: []dhcp.Scope{s}}))
	tx.After(func(context.Context) error {
		b.e.number(s.NetworkID, net)
		if old, ok := b.s.Scope(s.ID); !ok || !old.Equal(s) {
			b.s.PutScope(s)
		}
		return nil
	})
	return nil
}

// leave gives up a scope's slot, and the number of its network when this was
// the last scope there.
func (b *Backend) leave(tx *ovs.Tx, s dhcp.Scope) {
	tx.After(func(context.Context) error { b.e.free(s.NetworkID, s.ID); return nil })
	for _, other := range b.e.scopes(s.NetworkID) {
		if other == s.ID {
			continue
		}
		if x, ok := tx.Get(kindScope, other); ok && decode[scopeRecord](x.Record).Scope.NetworkID == s.NetworkID {
			return
		}
	}
	tx.Release("network", s.NetworkID)
}

func (b *Backend) putReservation(tx *ovs.Tx, r dhcp.Reservation) {
	r = r.Canonical()
	old, _ := tx.Get(kindReservation, r.ID)
	was := decode[dhcp.Reservation](old.Record)
	verb, diff := tx.Keep(kindReservation, r.ID, encode(r))
	change(tx, verb, kindReservation, r.ID, diff, dhcp.Diff(dhcp.State{Reservations: []dhcp.Reservation{was}}, dhcp.State{Reservations: []dhcp.Reservation{r}}))
	tx.After(func(context.Context) error {
		if old, ok := b.s.Reservation(r.ID); !ok || !old.Equal(r) {
			b.s.PutReservation(r)
		}
		return nil
	})
}

func (b *Backend) drop(tx *ovs.Tx, kind, id string) {
	old, stood := tx.Get(kind, id)
	if stood && kind == kindScope {
		b.leave(tx, decode[scopeRecord](old.Record).Scope)
	}
	if tx.Drop(kind, id) {
		tx.Change(vnet.Change{Verb: vnet.Delete, Kind: kind, ID: id, Impact: vnet.ImpactSome, Where: tx.Switch().Name()})
	}
	tx.After(func(context.Context) error {
		if kind == kindReservation {
			b.s.DropReservation(id)
		} else {
			b.s.DropScope(id)
		}
		return nil
	})
}

// deaf are flows that keep what a port sends to the servers of its network
// from this process.
func (b *Backend) deaf(network string, number, port uint16) []openflow.Flow {
	var out []openflow.Flow
	for _, s := range b.s.State().Scopes {
		if s.NetworkID != network {
			continue
		}
		slot, err := b.e.slot(network, s.ID)
		if err != nil {
			continue
		}
		for _, f := range scopeFlows(b.sw.Owner(), s, number, slot) {
			f.Priority += priorityCut - priorityScope
			f.HardTimeout = uint16(cutFor / time.Second)
			f.Match = f.Match.With(openflow.Reg(pipeline.RegIn).Is(uint64(port)))
			out = append(out, f)
		}
	}
	return out
}

// Serve answers clients until ctx ends, when it returns nil. While the switch
// is away it waits; what stands again is served. One Serve runs at a time;
// another is [vnet.ErrConflict].
func (b *Backend) Serve(ctx context.Context) error {
	if err := b.e.start(); err != nil {
		return err
	}
	defer b.e.stop()
	err := b.load(ctx)
	for errors.Is(err, vnet.ErrNotReady) && ctx.Err() == nil {
		err = b.load(ctx)
	}
	if err == nil {
		b.e.run(ctx)
		err = errors.New("dhcp: the handle of the switch has been closed")
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Health implements [dhcp.Backend]: complete while the switch is and Serve runs.
func (b *Backend) Health(ctx context.Context) vnet.Health {
	h := b.sw.Health(ctx)
	h.Since = b.since
	switch n := b.e.serving(); {
	case !h.Complete:
	case n < 0:
		h.Complete, h.Detail = false, "not serving: Serve is not running"
	default:
		h.Detail = fmt.Sprintf("serving %d networks", n)
	}
	return h
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
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	if err := b.load(ctx); err != nil {
		return vnet.Explanation{}, err
	}
	return b.s.Explain(kind, id, &carrier{ctx, b})
}

// carrier says what carries scopes in the switch.
type carrier struct {
	ctx context.Context
	b   *Backend
}

// ExplainNetwork implements [engine.Carrier].
func (c *carrier) ExplainNetwork(x *vnet.Explanation, network string) {
	x.Add(c.b.e.explain(network))
}

// ExplainScope implements [engine.Carrier].
func (c *carrier) ExplainScope(x *vnet.Explanation, s dhcp.Scope) {
	var flows []openflow.Flow
	_, err := c.b.sw.Plan(c.ctx, vnet.PartDHCP, func(tx *ovs.Tx) error {
		o, _ := tx.Get(kindScope, s.ID)
		flows = o.Flows
		return nil
	})
	if err != nil {
		x.Add("the switch cannot be read: " + err.Error())
		return
	}
	y := x.Add(fmt.Sprintf("%d flows", len(flows)))
	for _, f := range flows {
		y.Add(f.String())
	}
}
