package ovsmetadata

import (
	"context"
	"encoding/json"
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
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
	"github.com/vnet-go/vnet/ovs"
)

var (
	_ metadata.Backend   = (*Backend)(nil)
	_ metadata.Limited   = (*Backend)(nil)
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
	// Logger gets what a person may want to know later; nil: the switch's.
	Logger *slog.Logger
}

// Backend is a [metadata.Backend] for the ports of one switch. It is safe for
// use by several goroutines.
type Backend struct {
	t ovs.Target
	*core
}

// core is what backends of one switch share that write through different targets.
type core struct {
	sw    *ovs.Switch
	h     *linux.Host
	log   *slog.Logger
	a     *answer.Answerer
	since time.Time
	wake  chan struct{}

	lmu    sync.Mutex // held while reading what stands
	loaded bool

	mu        sync.Mutex // guards what follows
	endpoints map[string]record
	serving   map[string]*served
	running   bool
	err       error // why the device is not there
}

// New returns a backend that writes through t; h is the host of the switch and
// has the namespace of its metadata device. o may be nil. It starts no
// goroutine; Serve does.
func New(t ovs.Target, h *linux.Host, o *Options) (*Backend, error) {
	switch {
	case t == nil:
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	case h == nil:
		return nil, &vnet.FieldError{Field: "host", Reason: "is nil"}
	case t.Switch().Owner() != h.Owner():
		return nil, &vnet.FieldError{Field: "host", Value: string(h.Owner()), Reason: fmt.Sprintf("is the owner of the host, %s of the switch", t.Switch().Owner())}
	}
	var opt Options
	if o != nil {
		opt = *o
	}
	b := &Backend{t: t, core: &core{sw: t.Switch(), h: h, log: opt.Logger, since: time.Now(), wake: make(chan struct{}, 1),
		endpoints: map[string]record{}, serving: map[string]*served{}}}
	if b.log == nil {
		b.log = b.sw.Logger()
	}
	var err error
	b.a, err = answer.New(answer.Options{Instances: opt.Instances, Server: opt.Server, Nova: opt.Nova, Proxy: opt.Proxy,
		Metrics: opt.Metrics, Logger: b.log, Owner: string(h.Owner()), Host: h.Name(), Endpoint: b.endpointOf})
	return b, err
}

// With returns a backend that answers the same and writes through t, a batch
// of the same switch.
func (b *Backend) With(t ovs.Target) (*Backend, error) {
	if t == nil || t.Switch() != b.sw {
		return nil, &vnet.FieldError{Field: "target", Reason: "is not of the same switch"}
	}
	return &Backend{t: t, core: b.core}, nil
}

// endpointOf is the endpoint that somebody asks at.
func (b *core) endpointOf(a metadata.Asker) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, r := range b.endpoints {
		if e := r.Endpoint; e.RouterID != "" && e.RouterID == a.RouterID || e.NetworkID != "" && a.RouterID == "" && e.NetworkID == a.NetworkID {
			return id
		}
	}
	return ""
}

// Watch implements [metadata.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.a.Watch(ctx) }

// Features implements [metadata.Limited].
func (b *Backend) Features(context.Context) metadata.Features { return metadata.Features{Router: true} }

func (b *core) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// The kinds of objects. Those of networks and routers say who uses them.
const (
	kindEndpoint = "endpoint"
	kindNetwork  = "network"
	kindRouter   = "router"
)

// record is what stands in the switch of an endpoint.
type record struct {
	Endpoint metadata.Endpoint `json:"endpoint"`
	// TCP is the port in our namespace; Networks are those served, by number.
	TCP      uint16            `json:"tcp"`
	Networks map[uint16]string `json:"networks,omitempty"`
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return b
}

// decode reads a record; one that cannot be read is the zero value.
func decode(b []byte) (r record) {
	if json.Unmarshal(b, &r) != nil {
		return record{}
	}
	return r
}

// load learns what stands in the switch, once.
func (b *core) load(ctx context.Context) error {
	b.lmu.Lock()
	defer b.lmu.Unlock()
	if b.loaded {
		return nil
	}
	var all []ovs.Object
	_, err := b.sw.Plan(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error { all = tx.List(kindEndpoint); return nil })
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range all {
		r := decode(o.Record)
		if err := r.Endpoint.Validate(); err != nil || r.Endpoint.ID != o.ID {
			b.log.Warn("metadata: an endpoint that stands cannot be read", "endpoint", o.ID, "error", err)
			continue
		}
		b.endpoints[o.ID] = r
	}
	b.loaded = true
	return nil
}

func (b *Backend) do(ctx context.Context, f func(tx *ovs.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.load(ctx); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartMetadata, f)
}

// EnsureEndpoint implements [metadata.Backend]. A router or network that has
// another endpoint is [vnet.ErrConflict]. One in a router answers the ports of
// this host whatever host the router is on.
func (b *Backend) EnsureEndpoint(ctx context.Context, e metadata.Endpoint) error {
	return b.do(ctx, func(tx *ovs.Tx) error {
		other := usersOf(tx, kindNetwork, e.NetworkID).Own
		if e.RouterID != "" {
			other = usersOf(tx, kindRouter, e.RouterID).Own
		}
		if other != "" && other != e.ID {
			return fmt.Errorf("%w: endpoint %q is there", vnet.ErrConflict, other)
		}
		return b.put(tx, e)
	})
}

// DeleteEndpoint implements [metadata.Backend].
func (b *Backend) DeleteEndpoint(ctx context.Context, id string) error {
	return b.do(ctx, func(tx *ovs.Tx) error { b.drop(tx, id); return nil })
}

// Plan implements [metadata.Backend].
func (b *Backend) Plan(ctx context.Context, s metadata.State) (vnet.Plan, error) {
	if err := b.load(ctx); err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartMetadata, b.sync(s, nil))
}

// Sync implements [metadata.Backend].
func (b *Backend) Sync(ctx context.Context, s metadata.State, o vnet.SyncOptions) error {
	return b.do(ctx, b.sync(s, &o))
}

func (b *Backend) sync(s metadata.State, o *vnet.SyncOptions) func(tx *ovs.Tx) error {
	want := map[string]bool{}
	for _, e := range s.Endpoints {
		want[e.ID] = true
	}
	return func(tx *ovs.Tx) error {
		var have []ovs.Object
		var was metadata.State
		for _, o := range tx.All() {
			if o.Kind == kindEndpoint {
				have = append(have, o)
				e := decode(o.Record).Endpoint
				e.ID = o.ID
				was.Endpoints = append(was.Endpoints, e)
			}
		}
		if _, ok := tx.Known("port", deviceID); ok {
			tx.PortNumber(deviceID) // Serve's, and still in use
		}
		if err := tx.Err(); err != nil {
			return err
		}
		if o != nil {
			if err := o.Check(metadata.Diff(was, s), len(have)); err != nil {
				return err
			}
		}
		// What goes makes room for what comes.
		for _, x := range have {
			if !want[x.ID] {
				b.drop(tx, x.ID)
			}
		}
		for _, e := range s.Endpoints {
			if err := b.put(tx, e); err != nil {
				return fmt.Errorf("endpoint %s: %w", e.ID, err)
			}
		}
		return nil
	}
}

// put makes an endpoint be so, as far as its router is known.
func (b *Backend) put(tx *ovs.Tx, e metadata.Endpoint) error {
	old, _ := tx.Get(kindEndpoint, e.ID)
	was := decode(old.Record)
	r := record{Endpoint: e, Networks: map[uint16]string{}}
	var places []place
	if e.NetworkID != "" {
		n := tx.NetworkNumber(e.NetworkID)
		p := onNetwork(e, n)
		r.TCP, r.Networks[n] = p.tcp, e.NetworkID
		places = append(places, p)
	} else {
		router := tx.RouterNumber(e.RouterID)
		r.TCP = routerPorts | router
		networks, err := attached(tx, e.RouterID)
		if err != nil {
			return err
		}
		for _, id := range networks {
			r.Networks[tx.NetworkNumber(id)] = id
		}
		for _, n := range slices.Sorted(maps.Keys(r.Networks)) {
			places = append(places, inRouter(b.sw.Owner(), e, router, n))
		}
	}
	var flows []openflow.Flow
	for _, p := range places {
		flows = append(flows, p.flows()...)
	}
	if verb, diff := tx.Keep(kindEndpoint, e.ID, encode(r), flows...); verb != "" {
		c := vnet.Change{Verb: verb, Kind: kindEndpoint, ID: e.ID, Diff: diff, Impact: vnet.ImpactNone, Where: b.sw.Name()}
		if verb == vnet.Update {
			c.Impact = vnet.ImpactSome
			if p := metadata.Diff(metadata.State{Endpoints: []metadata.Endpoint{was.Endpoint}}, metadata.State{Endpoints: []metadata.Endpoint{e}}); len(p.Changes) == 1 {
				c.Diff = p.Changes[0].Diff
			}
		}
		tx.Change(c)
	}
	uses(tx, e.ID, was, r)
	tx.After(func(context.Context) error {
		b.mu.Lock()
		b.endpoints[e.ID] = r
		b.mu.Unlock()
		b.poke()
		return nil
	})
	return nil
}

// users of a network or router are objects too, which the application does not
// know of: as long as there is one its number is in use.
type users struct {
	Own    string   `json:"own,omitempty"`    // the endpoint at the network or router itself
	Within []string `json:"within,omitempty"` // those in routers on the network, sorted
}

func usersOf(tx *ovs.Tx, kind, id string) (u users) {
	if o, ok := tx.Get(kind, id); ok && json.Unmarshal(o.Record, &u) != nil {
		return users{}
	}
	return u
}

func (u users) keep(tx *ovs.Tx, kind, id string) {
	if u.Own == "" && len(u.Within) == 0 {
		tx.Drop(kind, id)
		return
	}
	tx.Keep(kind, id, encode(u))
}

// uses writes that an endpoint uses what it has now, and not what it had.
func uses(tx *ovs.Tx, id string, was, now record) {
	if r := was.Endpoint.RouterID; r != "" && r != now.Endpoint.RouterID {
		if u := usersOf(tx, kindRouter, r); u.Own == id {
			users{}.keep(tx, kindRouter, r)
		}
	}
	if r := now.Endpoint.RouterID; r != "" {
		users{Own: id}.keep(tx, kindRouter, r)
	}
	for n, name := range was.Networks {
		if now.Networks[n] == name && was.Endpoint.NetworkID == now.Endpoint.NetworkID {
			continue
		}
		u := usersOf(tx, kindNetwork, name)
		if u.Own == id {
			u.Own = ""
		}
		u.Within = slices.DeleteFunc(u.Within, func(x string) bool { return x == id })
		u.keep(tx, kindNetwork, name)
	}
	for _, name := range now.Networks {
		u := usersOf(tx, kindNetwork, name)
		if now.Endpoint.NetworkID != "" {
			u.Own = id
		} else if i, ok := slices.BinarySearch(u.Within, id); !ok {
			u.Within = slices.Insert(u.Within, i, id)
		}
		u.keep(tx, kindNetwork, name)
	}
}

func (b *Backend) drop(tx *ovs.Tx, id string) {
	if old, ok := tx.Get(kindEndpoint, id); ok {
		uses(tx, id, decode(old.Record), record{})
	}
	if tx.Drop(kindEndpoint, id) {
		tx.Change(vnet.Change{Verb: vnet.Delete, Kind: kindEndpoint, ID: id, Impact: vnet.ImpactObject, Where: b.sw.Name()})
	}
	tx.After(func(context.Context) error {
		b.mu.Lock()
		delete(b.endpoints, id)
		b.mu.Unlock()
		b.poke()
		return nil
	})
}

// attached are the networks that a router has an interface on, as the router's
// record says; none while there is no router.
func attached(tx *ovs.Tx, router string) ([]string, error) {
	rec, ok := tx.Record(vnet.PartRouter, kindRouter, router)
	if !ok {
		return nil, tx.Err()
	}
	var r struct {
		Interfaces []struct {
			NetworkID string `json:"network_id"`
		} `json:"interfaces"`
	}
	if err := json.Unmarshal(rec, &r); err != nil {
		return nil, fmt.Errorf("record of router %s: %w", router, err)
	}
	var out []string
	for _, i := range r.Interfaces {
		if !slices.Contains(out, i.NetworkID) {
			out = append(out, i.NetworkID)
		}
	}
	return out, nil
}

// Health implements [metadata.Backend]: complete while Serve answers at all
// endpoints.
func (b *Backend) Health(ctx context.Context) vnet.Health {
	for _, h := range []vnet.Health{b.sw.Health(ctx), b.h.Health(ctx)} {
		if !h.Complete {
			return h
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := vnet.Health{Complete: true, Since: b.since}
	errs, n, waiting := []error{b.err}, 0, 0
	for id, r := range b.endpoints {
		s := b.serving[id]
		switch {
		case s != nil && s.err != nil:
			errs = append(errs, fmt.Errorf("endpoint %s: %w", id, s.err))
		case s != nil && s.up:
			n++
		}
		if len(r.Networks) == 0 {
			waiting++
		}
	}
	switch err := errors.Join(errs...); {
	case !b.running:
		h.Complete, h.Detail = false, "not serving: Serve is not running"
	case err != nil:
		h.Complete, h.Detail = false, err.Error()
	default:
		h.Detail = fmt.Sprintf("answering at %d of %d endpoints", n, len(b.endpoints))
		if waiting > 0 {
			h.Detail += fmt.Sprintf("; %d wait for their router", waiting)
		}
	}
	return h
}

// Explain implements [metadata.Explainer], of kind "endpoint".
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	if kind != kindEndpoint {
		return x, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "endpoint"`}
	}
	var o, dev ovs.Object
	var ok, has bool
	_, err = b.sw.Plan(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error {
		o, ok = tx.Get(kindEndpoint, id)
		dev, has = tx.Get(kindDevice, deviceID)
		return nil
	})
	if err != nil {
		return x, err
	}
	if !ok {
		return x, fmt.Errorf("endpoint %s: %w", id, vnet.ErrNotFound)
	}
	r := decode(o.Record)
	where := "network " + r.Endpoint.NetworkID
	if r.Endpoint.RouterID != "" {
		where = "router " + r.Endpoint.RouterID
	}
	x.Text = fmt.Sprintf("endpoint %s on %s, TCP port %d in namespace %s", id, where, r.TCP, b.netns())
	for _, n := range slices.Sorted(maps.Keys(r.Networks)) {
		x.Add(fmt.Sprintf("requests of network %s (number %d)", r.Networks[n], n))
	}
	if len(r.Networks) == 0 {
		x.Add("waits for its router")
	}
	y := x.Add(fmt.Sprintf("%d flows", len(o.Flows)))
	for _, f := range o.Flows {
		y.Add(f.String())
	}
	if has {
		y := x.Add(fmt.Sprintf("the host's metadata device: %d flows", len(dev.Flows)))
		for _, f := range dev.Flows {
			y.Add(f.String())
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch s := b.serving[id]; {
	case b.err != nil:
		x.Add("the metadata device is not there: " + b.err.Error())
	case s == nil:
		x.Add("this process does not answer at it")
	case s.err != nil:
		x.Add("this process cannot answer at it: " + s.err.Error())
	case s.up:
		x.Add("this process answers at it")
	}
	return x, nil
}
