package ovsqos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
)

// Options of a [Backend]. The zero value and nil are the same.
type Options struct {
	// Devices are what leaves this host, by the name of the uplink: a physical
	// network's, or [qos.Tunnelled]. Those that are ports of a bridge get queues
	// of Open vSwitch, others an HTB. Only the kernel's datapath can keep
	// guarantees; none: they are refused.
	Devices map[string]string
	// Queues has what ports are sent wait in a queue of their device (HTB), so that
	// TCP slows down before anything is dropped. [Backend.Serve] gives devices that
	// are plugged later their queue; until then, and for what comes faster than a
	// queue is emptied, a meter holds a quarter above the limit. On the kernel's
	// datapath only: see the package's documentation.
	Queues bool
}

// Backend is a [qos.Backend] on one switch. It keeps no state.
type Backend struct {
	t       ovs.Target
	s       *ovs.Switch
	devices map[string]string
	queues  bool
}

var (
	_ qos.Backend   = (*Backend)(nil)
	_ qos.Explainer = (*Backend)(nil)
	_ qos.Runner    = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, s: t.Switch()}
	if o != nil {
		seen := map[string]bool{}
		for name, dev := range o.Devices {
			if dev == "" || seen[dev] {
				return nil, &vnet.FieldError{Field: "devices[" + name + "]", Value: dev, Reason: "is empty or another uplink's"}
			}
			seen[dev] = true
		}
		b.devices, b.queues = maps.Clone(o.Devices), o.Queues
		if b.queues && b.s.Userspace() {
			return nil, &vnet.UnsupportedError{Feature: "queues towards ports", Backend: "ovsqos", Need: "the kernel's datapath: the userspace one sends by one socket, which a full queue blocks for all"}
		}
	}
	return b, nil
}

// The kinds of objects.
const (
	kindPort     = "port"
	kindGateway  = "gateway"
	kindFloating = "floatingip"
	kindUplink   = "uplink"
)

// record is what stands in the switch of an object; one of the first four is set.
type record struct {
	Uplink     *qos.Uplink     `json:"u,omitempty"`
	Port       *qos.Port       `json:"p,omitempty"`
	Gateway    *qos.Gateway    `json:"g,omitempty"`
	FloatingIP *qos.FloatingIP `json:"f,omitempty"`
	Slot       uint32          `json:"slot,omitempty"`   // of a floating IP's meters
	Queued     bool            `json:"queued,omitempty"` // what the port is sent waits in its device
}

func (r record) shape() qos.Shape {
	switch {
	case r.Port != nil:
		return r.Port.Shape
	case r.Gateway != nil:
		return r.Gateway.Shape
	case r.FloatingIP != nil:
		return r.FloatingIP.Shape
	}
	return qos.Shape{}
}

func encode(r record) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // plain structs
	}
	return b
}

// decode reads a record; one that cannot be read differs from all that is wanted.
func decode(b []byte) (r record) {
	if json.Unmarshal(b, &r) != nil {
		return record{}
	}
	return r
}

// local reports whether an object with this Host field is this host's.
func (b *Backend) local(host string) bool { return host == "" || host == b.s.Name() }

// here leaves out what is of other hosts.
func (b *Backend) here(s qos.State) qos.State {
	s = s.Canonical()
	s.Ports = slices.DeleteFunc(s.Ports, func(x qos.Port) bool { return !b.local(x.Host) })
	s.Gateways = slices.DeleteFunc(s.Gateways, func(x qos.Gateway) bool { return !b.local(x.Host) })
	s.FloatingIPs = slices.DeleteFunc(s.FloatingIPs, func(x qos.FloatingIP) bool { return !b.local(x.Host) })
	s.Uplinks = slices.DeleteFunc(s.Uplinks, func(x qos.Uplink) bool { return !b.local(x.Host) })
	return s
}

// refuse is the error about what this backend has not.
func refuse(name, what string) error {
	return &vnet.UnsupportedError{Feature: name + " of " + what, Backend: "ovsqos", Need: needQueues}
}

const needQueues = "the kernel's datapath, as queues have no effect on the userspace one's devices, and Options.Devices"

// EnsurePort implements [qos.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p qos.Port) error {
	if p.Shape.Zero() || !b.local(p.Host) {
		return b.DeletePort(ctx, p.ID)
	}
	if p.Uplink != "" && !b.keeps(p.Uplink) {
		return refuse("guarantees", "port "+p.ID)
	}
	return b.submit(ctx, func(w *writer) error {
		r := b.ofPort(p)
		if err := w.promised(kindPort, p.ID, r); err != nil {
			return err
		}
		return w.put(kindPort, p.ID, r)
	})
}

// ofPort is the record of a port.
func (b *Backend) ofPort(p qos.Port) record {
	return record{Port: &p, Queued: b.queues && p.Ingress.Kbps > 0}
}

// DeletePort implements [qos.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.remove(ctx, kindPort, id)
}

// EnsureGateway implements [qos.Backend].
func (b *Backend) EnsureGateway(ctx context.Context, g qos.Gateway) error {
	if g.Shape.Zero() || !b.local(g.Host) {
		return b.DeleteGateway(ctx, g.RouterID)
	}
	return b.submit(ctx, func(w *writer) error { return w.put(kindGateway, g.RouterID, record{Gateway: &g}) })
}

// DeleteGateway implements [qos.Backend].
func (b *Backend) DeleteGateway(ctx context.Context, routerID string) error {
	return b.remove(ctx, kindGateway, routerID)
}

// EnsureFloatingIP implements [qos.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f qos.FloatingIP) error {
	if f.Shape.Zero() || !b.local(f.Host) {
		return b.DeleteFloatingIP(ctx, f.ID)
	}
	return b.submit(ctx, func(w *writer) error { return w.put(kindFloating, f.ID, record{FloatingIP: &f}) })
}

// DeleteFloatingIP implements [qos.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.remove(ctx, kindFloating, id)
}

// EnsureUplink implements [qos.Backend].
func (b *Backend) EnsureUplink(ctx context.Context, u qos.Uplink) error {
	if !b.local(u.Host) {
		return ctx.Err()
	}
	if !b.keeps(u.Name) {
		return refuse("guarantees", "uplink "+u.Name)
	}
	return b.submit(ctx, func(w *writer) error {
		if err := w.promised(kindUplink, u.Name, record{Uplink: &u}); err != nil {
			return err
		}
		return w.put(kindUplink, u.Name, record{Uplink: &u})
	})
}

// DeleteUplink implements [qos.Backend].
func (b *Backend) DeleteUplink(ctx context.Context, name string) error {
	return b.submit(ctx, func(w *writer) error {
		for _, p := range w.state().Ports {
			if p.Uplink == name {
				return fmt.Errorf("port %s has a guarantee on uplink %s: %w", p.ID, name, vnet.ErrInUse)
			}
		}
		w.drop(kindUplink, name)
		return nil
	})
}

// submit carries f out, and afterwards removes the meters that it has left.
func (b *Backend) submit(ctx context.Context, f func(w *writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartQoS, func(tx *ovs.Tx) error {
		w := &writer{tx: tx, b: b}
		if err := f(w); err != nil {
			return err
		}
		w.finish()
		return nil
	})
}

func (b *Backend) remove(ctx context.Context, kind, id string) error {
	return b.submit(ctx, func(w *writer) error { w.drop(kind, id); return nil })
}

// writer writes through one transaction.
type writer struct {
	tx     *ovs.Tx
	b      *Backend
	shares bool                      // of uplinks may have changed
	have   map[uint32]of.MeterConfig // that stand; nil: not looked at
	unused []uint32
	queued bool // queues of ports may have changed
}

func (w *writer) finish() {
	if w.queued {
		w.tx.After(w.b.requeue)
	}
	if unused, s := w.unused, w.tx.Switch(); len(unused) > 0 {
		w.tx.After(func(ctx context.Context) error { return s.DeleteMeters(ctx, unused...) })
	}
	if w.shares {
		state := w.state()
		w.tx.After(func(ctx context.Context) error { return w.b.share(ctx, state) })
	}
}

// was is what stands of an object, or will.
func (w *writer) was(kind, id string) (record, bool) {
	o, ok := w.tx.Get(kind, id)
	if !ok {
		return record{}, false
	}
	return decode(o.Record), true
}

// base is the first of an object's four meters.
func (w *writer) base(r record) uint32 {
	switch {
	case r.Port != nil:
		return meterOfPort(w.tx.PortNumber(r.Port.ID))
	case r.Gateway != nil:
		return meterOfGateway(w.tx.RouterNumber(r.Gateway.RouterID))
	case r.FloatingIP != nil:
		return meterOfFloating(r.Slot)
	}
	return 0
}

// slot is the number of a floating IP's meters: what it has, or the first free.
func (w *writer) slot(id string) (uint32, error) {
	used := map[uint32]bool{}
	for _, o := range w.tx.List(kindFloating) {
		r := decode(o.Record)
		if o.ID == id && r.FloatingIP != nil {
			return r.Slot, nil
		}
		used[r.Slot] = true
	}
	for n := uint32(1); n < floatingMeters; n++ {
		if !used[n] {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%d floating IPs have limits, and there are no more meters: %w", len(used), vnet.ErrConflict)
}

// put makes an object stand with its flows and meters.
func (w *writer) put(kind, id string, r record) (err error) {
	old, had := w.was(kind, id)
	if r.FloatingIP != nil {
		if r.Slot, err = w.slot(id); err != nil {
			return err
		}
	}
	w.shares = w.shares || r.uplink() != "" || old.uplink() != ""
	w.queued = w.queued || r.Queued || old.Queued
	base := w.base(r)
	if w.tx.Err() != nil {
		return w.tx.Err()
	}
	meters := metersOf(r.metered(), base)
	verb, _ := w.tx.Keep(kind, id, encode(r), w.flows(r, base)...)
	for _, m := range meters {
		if stands, ok := w.have[m.ID]; verb != "" && w.have == nil || w.have != nil && (!ok || stands != m) {
			w.tx.Meter(m)
		}
	}
	if had {
		w.leave(metersOf(old.metered(), base), meters)
	}
	c, differs := diff(old, r)
	switch {
	case differs:
		w.tx.Change(c)
	case verb != "":
		c.Diff = []string{"its flows"}
		w.tx.Change(c)
	}
	return nil
}

// leave notes the meters that are not used any more.
func (w *writer) leave(old, now []of.MeterConfig) {
	for _, m := range old {
		if !slices.ContainsFunc(now, func(n of.MeterConfig) bool { return n.ID == m.ID }) {
			w.unused = append(w.unused, m.ID)
		}
	}
}

// drop removes an object with its flows and meters.
func (w *writer) drop(kind, id string) {
	r, ok := w.was(kind, id)
	if !ok {
		return
	}
	w.shares = w.shares || r.uplink() != ""
	w.queued = w.queued || r.Queued
	number := kind
	if kind == kindGateway {
		number = "router"
	}
	if n, known := w.tx.Known(number, id); known && kind != kindFloating {
		if kind == kindPort {
			w.leave(metersOf(r.shape(), meterOfPort(n)), nil)
		} else {
			w.leave(metersOf(r.shape(), meterOfGateway(n)), nil)
		}
	} else if kind == kindFloating {
		w.leave(metersOf(r.shape(), meterOfFloating(r.Slot)), nil)
	}
	w.tx.Drop(kind, id)
	if kind == kindGateway {
		w.tx.Release("router", id)
	}
	c, _ := diff(r, record{})
	if c.ID == "" { // a record that could not be read
		c = vnet.NewChange(vnet.PartQoS, kind, id, true, false)
	}
	w.tx.Change(c)
}

// diff is the change from a to b, either of which may be empty.
func diff(a, b record) (vnet.Change, bool) {
	switch {
	case a.Port != nil || b.Port != nil:
		return qos.DiffPort(a.Port, b.Port)
	case a.Gateway != nil || b.Gateway != nil:
		return qos.DiffGateway(a.Gateway, b.Gateway)
	case a.FloatingIP != nil || b.FloatingIP != nil:
		return qos.DiffFloatingIP(a.FloatingIP, b.FloatingIP)
	case a.Uplink != nil || b.Uplink != nil:
		return qos.DiffUplink(a.Uplink, b.Uplink)
	}
	return vnet.Change{}, false
}

// all makes the whole of s so.
func (w *writer) all(s qos.State) (existing int, err error) {
	stands := w.tx.All()
	want := map[string]bool{}
	put := func(kind, id string, r record) {
		want[kind+" "+id] = true
		if err == nil {
			err = w.put(kind, id, r)
		}
	}
	for _, u := range s.Uplinks {
		put(kindUplink, u.Name, record{Uplink: &u})
	}
	for _, p := range s.Ports {
		put(kindPort, p.ID, w.b.ofPort(p))
	}
	for _, g := range s.Gateways {
		put(kindGateway, g.RouterID, record{Gateway: &g})
	}
	for _, f := range s.FloatingIPs {
		put(kindFloating, f.ID, record{FloatingIP: &f})
	}
	for _, o := range slices.Backward(stands) {
		if !want[o.Kind+" "+o.ID] {
			w.drop(o.Kind, o.ID)
		}
	}
	return len(stands), err
}

func (b *Backend) supported(s qos.State) error {
	for _, p := range s.Ports {
		if p.Uplink != "" && !b.keeps(p.Uplink) {
			return refuse("guarantees", "port "+p.ID)
		}
	}
	for _, u := range s.Uplinks {
		if !b.keeps(u.Name) {
			return refuse("guarantees", "uplink "+u.Name)
		}
	}
	return qos.CheckGuarantees(s)
}

// Sync implements [qos.Backend].
func (b *Backend) Sync(ctx context.Context, s qos.State, o vnet.SyncOptions) error {
	s = b.here(s)
	if err := b.supported(s); err != nil {
		return err
	}
	have, err := b.meters(ctx)
	if err != nil {
		return err
	}
	return b.submit(ctx, func(w *writer) error {
		w.have, w.shares, w.queued = have, len(b.devices) > 0, b.queues // also what somebody else has taken away
		existing, err := w.all(s)
		if err != nil {
			return err
		}
		return o.Check(w.tx.Changes(), existing)
	})
}

// Plan implements [qos.Backend].
func (b *Backend) Plan(ctx context.Context, s qos.State) (vnet.Plan, error) {
	s = b.here(s)
	if err := errors.Join(ctx.Err(), b.supported(s)); err != nil {
		return vnet.Plan{}, err
	}
	have, err := b.meters(ctx)
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartQoS, func(tx *ovs.Tx) error {
		_, err := (&writer{tx: tx, b: b, have: have}).all(s)
		return err
	})
}

func (b *Backend) meters(ctx context.Context) (map[uint32]of.MeterConfig, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := b.s.Meters(ctx)
	if err != nil {
		return nil, err
	}
	out := map[uint32]of.MeterConfig{}
	for _, m := range list {
		out[m.ID] = m
	}
	return out, nil
}

// Health implements [qos.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.s.Health(ctx) }

// Features implements [qos.Backend].
func (b *Backend) Features(context.Context) qos.Features {
	all := qos.Abilities{EgressBandwidth: true, IngressBandwidth: true, EgressPacketRate: true, IngressPacketRate: true, DSCP: true}
	f := qos.Features{Port: all, Gateway: all, FloatingIP: all, Mechanism: "OpenFlow meters", Missing: map[string]string{},
		TunnelGuarantees: b.keeps(qos.Tunnelled)}
	for name := range b.devices {
		f.Guarantees = f.Guarantees || name != qos.Tunnelled && b.keeps(name)
	}
	if b.queues {
		f.Mechanism += ", HTB towards ports"
	}
	if f.Guarantees || f.TunnelGuarantees {
		f.Mechanism += ", HTB queues of uplinks"
	}
	if !f.Guarantees {
		f.Missing["guarantees"] = needQueues
	}
	if !f.TunnelGuarantees {
		f.Missing["tunnel guarantees"] = needQueues
	}
	f.Limits = []string{
		"ARP and neighbour discovery are not limited.",
		"A port of the external network on the gateway's own host that sends to the gateway is held to the gateway's limit, and not to its own.",
		"What is over a limit is dropped at once: TCP needs a burst, as the default is.",
	}
	return f
}
