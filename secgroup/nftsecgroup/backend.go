package nftsecgroup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup"
)

// Options of a [Backend]. The zero value and nil are the same.
type Options struct {
	// Metrics gets vnet_secgroup_connections_ended_total,
	// vnet_secgroup_connection_walks_total and vnet_secgroup_objects{kind}, each
	// with the host as label. Nil: none.
	Metrics prometheus.Registerer
}

// Backend enforces security groups on one host. Its methods may be called
// from several goroutines.
type Backend struct {
	t     linux.Target
	h     *linux.Host
	since time.Time

	mu sync.Mutex
	l  layout
	// other is the layout of the other way to track connections, where the
	// kernel has both; what stands decides.
	other *layout
	facts *facts // nil: to be read from the kernel
	old   bool   // what stands is of another version
	// valid are the revisions of the kernel's record that facts are right for:
	// the one last written, and with a batch those before it.
	valid map[uint32]bool
	rev   uint32

	recorder recorder
	metrics  *metrics
}

var (
	_ secgroup.Backend         = (*Backend)(nil)
	_ secgroup.Explainer       = (*Backend)(nil)
	_ secgroup.PacketExplainer = (*Backend)(nil)
)

// New returns a backend that writes through t. It writes nothing by itself.
// [vnet.UnsupportedError] when the kernel can track bridged connections
// neither in family bridge nor through br_netfilter.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	h := t.Host()
	f := h.Features()
	bridge := f.BridgeConntrack && f.BridgeMeta
	if !bridge && !f.BrNetfilter {
		return nil, &vnet.UnsupportedError{Feature: "connection tracking of bridged packets", Backend: "nftsecgroup", Need: "kernel module nf_conntrack_bridge or br_netfilter"}
	}
	var r prometheus.Registerer
	if o != nil {
		r = o.Metrics
	}
	m, err := newMetrics(r, h.Name())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	b := &Backend{t: t, h: h, l: newLayout(h.DevicesSet(), h.NetworksSet(), bridge), since: time.Now(), metrics: m}
	if bridge && f.BrNetfilter {
		o := newLayout(h.DevicesSet(), h.NetworksSet(), false)
		b.other = &o
	}
	return b, nil
}

// Health implements [secgroup.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health {
	h := b.h.Health(ctx)
	if !h.Complete {
		return h
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return vnet.Health{Since: b.since, Detail: err.Error()}
	}
	h.Detail = b.tracking()
	return h
}

// Features implements [secgroup.Backend].
func (b *Backend) Features(context.Context) secgroup.Features {
	b.mu.Lock()
	defer b.mu.Unlock()
	return secgroup.Features{Stateless: true, Tracking: b.tracking()}
}

func (b *Backend) tracking() string {
	if b.l.bridge {
		return "bridge conntrack"
	}
	return "inet conntrack through br_netfilter"
}

// load makes b.facts what stands.
func (b *Backend) load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	conn := b.h.NS().NFT()
	rev, old, err := b.revision(ctx, b.l)
	if err != nil {
		return err
	}
	if b.facts != nil && b.valid[rev] {
		return nil
	}
	if rev == 0 && b.facts == nil && b.other != nil {
		// Ports are not to be without filters while one way takes over from the other.
		if rev, old, err = b.revision(ctx, *b.other); err != nil {
			return err
		}
		if rev != 0 {
			b.l, b.other = *b.other, nil
		}
	}
	var elems []nft.Element
	if rev != 0 {
		if elems, err = conn.Elements(ctx, b.l.record()); err != nil {
			return fmt.Errorf("read what stands: %w", err)
		}
	}
	s, err := readRecord(elems)
	if err != nil {
		return fmt.Errorf("read what stands: %w", err)
	}
	f := newFacts(s, func(p secgroup.Port) bool { return b.h.Local(p.Host) })
	for _, p := range s.Ports {
		if f.local(p) {
			// A port that we hold has its index; the steps are for one whose
			// entry is gone, and then the next change of the port writes it.
			index, _, err := b.h.Ports().Claim(ctx, vnet.PartSecGroup, p.ID)
			if err != nil {
				return fmt.Errorf("index of port %s: %w", p.ID, err)
			}
			f.index[p.ID] = index
		}
	}
	b.facts, b.rev, b.valid, b.old = f, rev, map[uint32]bool{rev: true}, old
	return nil
}

// revision is the number of the last transaction, 0 when nothing stands, and
// whether that was one of another version.
func (b *Backend) revision(ctx context.Context, l layout) (rev uint32, old bool, err error) {
	elems, err := b.h.NS().NFT().Elements(ctx, l.revision())
	if errors.Is(err, vnet.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read what stands: %w", err)
	}
	for _, e := range elems {
		v, ok1 := e.Key[0].(uint32)
		n, ok2 := e.Key[1].(uint32)
		if ok1 && ok2 {
			return n, v != version, nil
		}
	}
	return 0, false, nil
}

// do runs f on what stands; f returns the changes to make.
func (b *Backend) do(ctx context.Context, f func() ([]change, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	changes, err := f()
	if err != nil || len(changes) == 0 {
		return err
	}
	return b.apply(ctx, changes)
}

// EnsureGroup implements [secgroup.Backend].
func (b *Backend) EnsureGroup(ctx context.Context, g secgroup.Group) error {
	g = g.Canonical()
	return b.do(ctx, func() ([]change, error) {
		return different(change{object{group: b.facts.Group(g.ID)}, object{group: &g}}), nil
	})
}

// DeleteGroup implements [secgroup.Backend].
func (b *Backend) DeleteGroup(ctx context.Context, id string) error {
	return b.do(ctx, func() ([]change, error) {
		g := b.facts.Group(id)
		if g == nil {
			return nil, nil
		}
		return []change{{old: object{group: g}}}, b.facts.GroupInUse(id)
	})
}

// EnsureAddressGroup implements [secgroup.Backend].
func (b *Backend) EnsureAddressGroup(ctx context.Context, a secgroup.AddressGroup) error {
	a = a.Canonical()
	return b.do(ctx, func() ([]change, error) {
		return different(change{object{addressGroup: b.facts.AddressGroup(a.ID)}, object{addressGroup: &a}}), nil
	})
}

// DeleteAddressGroup implements [secgroup.Backend].
func (b *Backend) DeleteAddressGroup(ctx context.Context, id string) error {
	return b.do(ctx, func() ([]change, error) {
		a := b.facts.AddressGroup(id)
		if a == nil {
			return nil, nil
		}
		return []change{{old: object{addressGroup: a}}}, b.facts.AddressGroupInUse(id)
	})
}

// EnsurePort implements [secgroup.Backend]. A port of another host counts as
// a member of its groups.
func (b *Backend) EnsurePort(ctx context.Context, p secgroup.Port) error {
	p = p.Canonical()
	return b.do(ctx, func() ([]change, error) {
		if err := b.facts.CheckPort(p); err != nil {
			return nil, err
		}
		return different(change{object{port: b.facts.Port(p.ID)}, object{port: &p}}), nil
	})
}

// DeletePort implements [secgroup.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.do(ctx, func() ([]change, error) {
		p := b.facts.Port(id)
		if p == nil {
			return nil, nil
		}
		return []change{{old: object{port: p}}}, nil
	})
}

// Sync implements [secgroup.Backend].
func (b *Backend) Sync(ctx context.Context, s secgroup.State, o vnet.SyncOptions) error {
	s = s.Canonical()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	plan, changes := b.plan(s)
	if err := o.Check(plan, b.facts.Len()); err != nil {
		return err
	}
	if len(changes) > 0 || b.old {
		return b.apply(ctx, changes)
	}
	return b.repair(ctx)
}

// Plan implements [secgroup.Backend].
func (b *Backend) Plan(ctx context.Context, s secgroup.State) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return vnet.Plan{}, err
	}
	plan, _ := b.plan(s.Canonical())
	return plan, nil
}

// plan compares s with what stands.
func (b *Backend) plan(s secgroup.State) (vnet.Plan, []change) {
	groups, ags, ports := map[string]*secgroup.Group{}, map[string]*secgroup.AddressGroup{}, map[string]*secgroup.Port{}
	for i := range s.Groups {
		groups[s.Groups[i].ID] = &s.Groups[i]
	}
	for i := range s.AddressGroups {
		ags[s.AddressGroups[i].ID] = &s.AddressGroups[i]
	}
	for i := range s.Ports {
		ports[s.Ports[i].ID] = &s.Ports[i]
	}
	var plan vnet.Plan
	var out []change
	for _, c := range secgroup.Diff(b.facts.State(), s) {
		c.Where = b.h.Name()
		plan.Changes = append(plan.Changes, c)
		switch c.Kind {
		case "group":
			out = append(out, change{object{group: b.facts.Group(c.ID)}, object{group: groups[c.ID]}})
		case "addressgroup":
			out = append(out, change{object{addressGroup: b.facts.AddressGroup(c.ID)}, object{addressGroup: ags[c.ID]}})
		case "port":
			out = append(out, change{object{port: b.facts.Port(c.ID)}, object{port: ports[c.ID]}})
		}
	}
	return plan, out
}

// different returns c alone, or nothing when it changes nothing.
func different(c change) []change {
	if _, ok := c.describe(); !ok {
		return nil
	}
	return []change{c}
}

func (c change) describe() (vnet.Change, bool) {
	switch {
	case c.old.group != nil || c.new.group != nil:
		return secgroup.DiffGroup(c.old.group, c.new.group)
	case c.old.addressGroup != nil || c.new.addressGroup != nil:
		return secgroup.DiffAddressGroup(c.old.addressGroup, c.new.addressGroup)
	}
	return secgroup.DiffPort(c.old.port, c.new.port)
}

// apply makes the changes stand: one transaction for all of them. What is
// known is changed first; a failure makes it unknown.
func (b *Backend) apply(ctx context.Context, changes []change) error {
	steps, err := b.steps(ctx, changes)
	if err == nil {
		err = b.t.Submit(ctx, steps...)
	}
	if err != nil {
		b.facts = nil
		return err
	}
	if b.t == linux.Target(b.h) {
		b.valid = map[uint32]bool{}
	}
	b.valid[b.rev] = true
	b.metrics.count(b.facts)
	return nil
}

// steps changes b.facts and returns what carries it to the kernel.
func (b *Backend) steps(ctx context.Context, changes []change) ([]linux.Step, error) {
	f := b.facts
	// Deletions alone wait until the devices have left their bridges; then the
	// connections are looked at, in the phase after.
	phase := linux.LinkDel
	if slices.ContainsFunc(changes, func(c change) bool { return c.new != object{} }) || b.old {
		phase = linux.FilterAdd
	}
	ends := newEnds(f, changes, func(portID string) bool {
		p, err := b.h.Ports().Get(ctx, portID)
		return err == nil && p.Device != "" && !p.Filtered
	})
	zones, err := b.zones(ctx, ends.Networks)
	if err != nil {
		return nil, err
	}
	t := touch(f, changes)
	before := draw(b.l, f, t)
	var with, after []linux.Step // in the transaction, and after everything
	for _, c := range changes {
		w, a, err := b.register(ctx, c)
		if err != nil {
			return nil, err
		}
		with, after = append(with, w...), append(after, a...)
	}
	had := map[string]bool{}
	for n := range t.networks {
		had[n] = f.networks[n] > 0
	}
	for _, c := range changes {
		if c.new != (object{}) {
			f.put(c.new)
		} else {
			f.drop(c.old)
		}
	}
	for n := range t.networks {
		switch has := f.networks[n] > 0; {
		case has && !had[n]:
			_, s, err := b.h.Zones().Claim(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("conntrack zone of network %s: %w", n, err)
			}
			with = append(with, s...)
		case had[n] && !has:
			s, err := b.h.Zones().Release(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("conntrack zone of network %s: %w", n, err)
			}
			after = append(after, s...)
		}
	}
	w := difference(b.l, before, draw(b.l, f, t))
	if b.rev == 0 || b.old {
		if w, err = b.whole(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.note(&w, changes); err != nil {
		return nil, err
	}

	var steps []linux.Step
	for _, c := range changes {
		d, _ := c.describe()
		d.Where = b.h.Name()
		steps = append(steps, linux.Step{Change: d, Phase: phase})
	}
	steps = append(steps, linux.Step{Phase: phase, Do: b.settle})
	for _, s := range with {
		s.Phase = phase // one transaction: no moment in which one is without the other
		steps = append(steps, s)
	}
	steps = append(steps, linux.Step{Phase: phase, NFT: func(tx *nft.Tx) error {
		b.h.Base(tx)
		w.declare(tx)
		return nil
	}})
	if len(zones) > 0 {
		steps = append(steps, b.end(judge(ends, f, zones)))
	}
	return append(steps, after...), nil
}

// whole writes everything anew, of which what stands already is not sent.
func (b *Backend) whole(ctx context.Context) (write, error) {
	w := difference(b.l, newImage(), draw(b.l, b.facts, everything(b.facts)))
	w.whole = true
	for _, table := range []nft.Table{b.l.port, b.l.networks.Table} {
		names, err := b.h.NS().NFT().Sets(ctx, table)
		if err != nil {
			return w, fmt.Errorf("read what stands: %w", err)
		}
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				w.leftSets = append(w.leftSets, nft.Set{Table: table, Name: n})
			}
		}
	}
	return w, nil
}

// register returns the steps that tie a port of this host to its index and
// open it, or that close it, and those that let its index go.
func (b *Backend) register(ctx context.Context, c change) (with, after []linux.Step, err error) {
	old, now := c.ports()
	was, is := old != nil && b.facts.local(*old), now != nil && b.facts.local(*now)
	switch {
	case is:
		index, steps, err := b.h.Ports().Claim(ctx, vnet.PartSecGroup, now.ID)
		if err != nil {
			return nil, nil, err
		}
		fill, err := b.h.Ports().Fill(ctx, now.ID)
		if err != nil {
			return nil, nil, err
		}
		b.facts.index[now.ID] = index
		return append(steps, fill...), nil, nil
	case was:
		unfill, err := b.h.Ports().Unfill(ctx, old.ID)
		if err != nil {
			return nil, nil, err
		}
		release, err := b.h.Ports().Release(ctx, vnet.PartSecGroup, old.ID)
		return unfill, release, err
	}
	return nil, nil, nil
}

// note adds the record of the changes, and a new revision, to w.
func (b *Backend) note(w *write, changes []change) error {
	more, less := elements{set: b.l.record()}, elements{set: b.l.record()}
	if w.whole {
		changes = nil
		s := b.facts.State()
		for i := range s.Groups {
			changes = append(changes, change{new: object{group: &s.Groups[i]}})
		}
		for i := range s.AddressGroups {
			changes = append(changes, change{new: object{addressGroup: &s.AddressGroups[i]}})
		}
		for i := range s.Ports {
			changes = append(changes, change{new: object{port: &s.Ports[i]}})
		}
	}
	for _, c := range changes {
		for _, x := range []struct {
			o  object
			to *elements
		}{{c.old, &less}, {c.new, &more}} {
			if x.o == (object{}) {
				continue
			}
			p, err := b.recorder.pieces(entry{x.o.group, x.o.addressGroup, x.o.port})
			if err != nil {
				return err
			}
			x.to.elems = append(x.to.elems, p...)
		}
	}
	stays := map[string]bool{}
	for _, e := range more.elems {
		stays[elementKey(e)] = true
	}
	gone := less.elems[:0]
	for _, e := range less.elems {
		if !stays[elementKey(e)] {
			gone = append(gone, e)
		}
	}
	less.elems = gone
	next := rand.Uint32() | 1 // never 0, which means nothing stands
	if b.rev != 0 && !w.whole {
		w.take = append(w.take, elements{b.l.revision(), []nft.Element{nft.Key(version, b.rev)}})
	}
	w.add = append(w.add, more, elements{b.l.revision(), []nft.Element{nft.Key(version, next)}})
	w.take = append(w.take, less)
	b.rev, b.old = next, false
	return nil
}

// settings are the namespace's that filtering needs.
func (b *Backend) settings() []sysctl.KV {
	// A segment from the middle of a stream that is not tracked opens no connection.
	out := []sysctl.KV{{Key: "net/netfilter/nf_conntrack_tcp_loose", Value: "0"}}
	if !b.l.bridge {
		out = append(out, sysctl.KV{Key: "net/bridge/bridge-nf-call-iptables", Value: "1"}, sysctl.KV{Key: "net/bridge/bridge-nf-call-ip6tables", Value: "1"})
	}
	return out
}

func (b *Backend) settle(context.Context) error {
	_, err := b.h.NS().Sysctl().Set(b.settings()...)
	return err
}

// repair puts right what a Sync without differences can find wrong: settings
// and tables that somebody else changed.
func (b *Backend) repair(ctx context.Context) error {
	if len(b.facts.networks) == 0 {
		return nil
	}
	off, err := b.h.NS().Sysctl().Differ(b.settings()...)
	if err != nil || len(off) == 0 {
		return err
	}
	return b.t.Submit(ctx, linux.Step{Phase: linux.FilterAdd, Do: b.settle})
}
