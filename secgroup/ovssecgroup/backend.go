package ovssecgroup

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// Options of [New]. The zero value and nil are the same.
type Options struct {
	// Metrics gets vnet_secgroup_connections_ended_total and
	// vnet_secgroup_connection_walks_total, each with the host as label. Nil: none.
	Metrics prometheus.Registerer
}

// Backend filters the ports of one host by flows. It keeps no state. Its
// methods may be called from several goroutines.
type Backend struct {
	t       ovs.Target
	sw      *ovs.Switch
	metrics *metrics
}

var (
	_ secgroup.Backend         = (*Backend)(nil)
	_ secgroup.Explainer       = (*Backend)(nil)
	_ secgroup.PacketExplainer = (*Backend)(nil)
)

// New returns a backend that writes through t. It writes nothing by itself.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	var r prometheus.Registerer
	if o != nil {
		r = o.Metrics
	}
	m, err := newMetrics(r, t.Switch().Name())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return &Backend{t: t, sw: t.Switch(), metrics: m}, nil
}

// standing is the store over a submission.
type standing struct {
	tx *ovs.Tx
	sw *ovs.Switch
}

func (s standing) get(kind, id string) ([]byte, bool) {
	o, ok := s.tx.Get(kind, id)
	return o.Record, ok
}

func (s standing) list(kind string, f func(id string, record []byte)) {
	for _, o := range s.tx.List(kind) {
		f(o.ID, o.Record)
	}
}

func (s standing) put(kind, id string, record []byte, flows []of.Flow) {
	s.tx.Keep(kind, id, record, flows...)
}

func (s standing) drop(kind, id string) { s.tx.Drop(kind, id) }

func (s standing) portNumber(id string) uint16 { return s.tx.PortNumber(id) }

func (s standing) freePortNumber(id string) { s.tx.Release("port", id) }

func (s standing) local(host string) bool { return host == "" || host == s.sw.Name() }

func (b *Backend) ledger(tx *ovs.Tx) *ledger { return &ledger{st: standing{tx, b.sw}} }

// change is a change of one object: what it was and is to be, the line of the
// plan (ok: it differs), and what makes it.
type change struct {
	book.Change
	line vnet.Change
	ok   bool
	make func()
}

// submit makes the one change that f returns, or none.
func (b *Backend) submit(ctx context.Context, f func(l *ledger) (*change, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartSecGroup, func(tx *ovs.Tx) error {
		l := b.ledger(tx)
		c, err := f(l)
		if err != nil || l.err != nil || c == nil {
			return cmp.Or(err, l.err)
		}
		var ends *book.Ends
		if l.mayEnd(c.Change, fresh(tx)) {
			ends = book.NewEnds(l.all(), []book.Change{c.Change}, local(l), fresh(tx))
		}
		l.base()
		c.make()
		if c.ok {
			b.tell(tx, c.line)
		}
		b.endAfter(tx, l, ends)
		return l.err
	})
}

func local(l *ledger) func(secgroup.Port) bool {
	return func(p secgroup.Port) bool { return l.st.local(p.Host) }
}

// fresh reports whether a port may have connections before this part hears of
// it: it has been in the overlay, without a wish to be filtered.
func fresh(tx *ovs.Tx) func(portID string) bool {
	return func(portID string) bool {
		record, ok := tx.Record(vnet.PartOverlay, "port", portID)
		var p struct {
			Filtered bool `json:"filtered"`
		}
		return ok && json.Unmarshal(record, &p) == nil && !p.Filtered
	}
}

func (b *Backend) tell(tx *ovs.Tx, c vnet.Change) {
	c.Where = b.sw.Name()
	tx.Change(c)
}

// EnsureGroup implements [secgroup.Backend].
func (b *Backend) EnsureGroup(ctx context.Context, g secgroup.Group) error {
	g = g.Canonical()
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.group(g.ID)
		c := &change{Change: book.Change{Old: book.Object{Group: old}, New: book.Object{Group: &g}}, make: func() { l.setGroup(g) }}
		c.line, c.ok = secgroup.DiffGroup(old, &g)
		return c, nil
	})
}

// DeleteGroup implements [secgroup.Backend].
func (b *Backend) DeleteGroup(ctx context.Context, id string) error {
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.group(id)
		if old == nil {
			return nil, nil
		}
		c := &change{Change: book.Change{Old: book.Object{Group: old}}, make: func() { l.dropGroup(id) }}
		c.line, c.ok = secgroup.DiffGroup(old, nil)
		return c, l.groupInUse(id)
	})
}

// EnsureAddressGroup implements [secgroup.Backend].
func (b *Backend) EnsureAddressGroup(ctx context.Context, a secgroup.AddressGroup) error {
	a = a.Canonical()
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.addressGroup(a.ID)
		c := &change{Change: book.Change{Old: book.Object{AddressGroup: old}, New: book.Object{AddressGroup: &a}}, make: func() { l.setAddressGroup(a) }}
		c.line, c.ok = secgroup.DiffAddressGroup(old, &a)
		return c, nil
	})
}

// DeleteAddressGroup implements [secgroup.Backend].
func (b *Backend) DeleteAddressGroup(ctx context.Context, id string) error {
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.addressGroup(id)
		if old == nil {
			return nil, nil
		}
		c := &change{Change: book.Change{Old: book.Object{AddressGroup: old}}, make: func() { l.dropAddressGroup(id) }}
		c.line, c.ok = secgroup.DiffAddressGroup(old, nil)
		return c, l.addressGroupInUse(id)
	})
}

// EnsurePort implements [secgroup.Backend]. A port of another host counts as
// a member of its groups.
func (b *Backend) EnsurePort(ctx context.Context, p secgroup.Port) error {
	p = p.Canonical()
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.port(p.ID)
		c := &change{Change: book.Change{Old: book.Object{Port: old}, New: book.Object{Port: &p}}, make: func() { l.setPort(p) }}
		c.line, c.ok = secgroup.DiffPort(old, &p)
		return c, nil
	})
}

// DeletePort implements [secgroup.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(l *ledger) (*change, error) {
		old := l.port(id)
		if old == nil {
			return nil, nil
		}
		c := &change{Change: book.Change{Old: book.Object{Port: old}}, make: func() { l.dropPort(id) }}
		c.line, c.ok = secgroup.DiffPort(old, nil)
		return c, nil
	})
}

// Sync implements [secgroup.Backend]. It also draws anew what does not stand
// as it should.
func (b *Backend) Sync(ctx context.Context, s secgroup.State, o vnet.SyncOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s = s.Canonical()
	return b.t.Submit(ctx, vnet.PartSecGroup, func(tx *ovs.Tx) error { return b.all(tx, s, &o) })
}

// Plan implements [secgroup.Backend].
func (b *Backend) Plan(ctx context.Context, s secgroup.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	s = s.Canonical()
	return b.t.Plan(ctx, vnet.PartSecGroup, func(tx *ovs.Tx) error { return b.all(tx, s, nil) })
}

// all makes the whole of s be what stands. o is nil when it is only asked for.
func (b *Backend) all(tx *ovs.Tx, s secgroup.State, o *vnet.SyncOptions) error {
	if o != nil {
		tx.All() // with flows, in one answer
	}
	l := b.ledger(tx)
	whole := l.all()
	if l.err != nil {
		return l.err
	}
	existing := whole.Len()
	old := whole.State()
	var plan vnet.Plan
	plan.Changes = secgroup.Diff(old, s)
	for _, c := range plan.Changes {
		b.tell(tx, c)
	}
	for _, g := range s.Groups { // what cannot be drawn is refused by Plan too
		if _, err := groupFlows(g, 1, func(string) uint32 { return 1 }); err != nil {
			return err
		}
	}
	if o == nil {
		return nil
	}
	if err := o.Check(plan, existing); err != nil {
		return err
	}
	var ends *book.Ends
	if changes := objects(plan.Changes, old, s); slices.ContainsFunc(changes, func(c book.Change) bool { return l.mayEnd(c, fresh(tx)) }) {
		ends = book.NewEnds(whole, changes, local(l), fresh(tx))
	}
	l.make(s, plan.Changes)
	l.repair()
	b.endAfter(tx, l, ends)
	return l.err
}

// objects are the changes with the objects that they are about.
func objects(changes []vnet.Change, old, s secgroup.State) []book.Change {
	was, is := map[string]book.Object{}, map[string]book.Object{}
	note := func(m map[string]book.Object, s secgroup.State) {
		for i := range s.Groups {
			m[kindGroup+" "+s.Groups[i].ID] = book.Object{Group: &s.Groups[i]}
		}
		for i := range s.AddressGroups {
			m[kindAddressGroup+" "+s.AddressGroups[i].ID] = book.Object{AddressGroup: &s.AddressGroups[i]}
		}
		for i := range s.Ports {
			m[kindPort+" "+s.Ports[i].ID] = book.Object{Port: &s.Ports[i]}
		}
	}
	note(was, old)
	note(is, s)
	var out []book.Change
	for _, c := range changes {
		out = append(out, book.Change{Old: was[c.Kind+" "+c.ID], New: is[c.Kind+" "+c.ID]})
	}
	return out
}

// Health implements [secgroup.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.sw.Health(ctx) }
