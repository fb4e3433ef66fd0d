package ovs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
)

// Object is what stands of one object in the switch.
type Object struct {
	Part     vnet.Part
	Kind, ID string
	Record   []byte
	Flows    []of.Flow // without the one that is the record; nil where only records were asked for
}

// view is the switch as it will be when what is pending in it is committed.
type view struct {
	s    *Switch
	ctx  context.Context
	conn *of.Conn

	objects map[uint64]*entry // by cookie
	listed  map[vnet.Part]bool
	loaded  map[vnet.Part]bool // with flows
	whole   map[vnet.Part]bool // parts that said all they want
	numbers *numbers
	devices []func(context.Context) error // made before the flows
	after   []func(context.Context) error
	meters  []of.MeterConfig // made before the flows
	begun   bool             // a bundle was carried out
}

// entry is an object that has been looked at.
type entry struct {
	stands, want *Object // nil: it does not
	full         bool    // stands has its flows
	changed      bool    // want is not what stands
}

func (s *Switch) view(ctx context.Context, c *of.Conn) *view {
	v := &view{s: s, ctx: ctx, conn: c, objects: map[uint64]*entry{}, listed: map[vnet.Part]bool{}, loaded: map[vnet.Part]bool{}, whole: map[vnet.Part]bool{}}
	v.numbers = s.numbersOf(s.db.State())
	return v
}

// Tx is what a submission reads and writes through. It is for one goroutine,
// while the function it was given to runs. An error that it meets ends the
// submission, whatever the function returns.
type Tx struct {
	v    *view
	part vnet.Part
	plan vnet.Plan
	err  error
	all  bool
	used map[numbered]bool
}

// Switch is the handle.
func (tx *Tx) Switch() *Switch { return tx.v.s }

// Err is the first error that the transaction met.
func (tx *Tx) Err() error { return tx.err }

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// encodeRecord is the flow that tells of an object.
func (o *Object) record(cookie uint64) (of.Flow, error) {
	var b []byte
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.Record)))
	b = append(b, o.Kind...)
	b = append(b, 0)
	b = append(b, o.ID...)
	b = append(b, 0)
	b = append(b, o.Record...)
	if len(b) > 60_000 { // a message has at most 64 KiB
		return of.Flow{}, fmt.Errorf("the record of %s %s has %d bytes, 60000 are possible", o.Kind, o.ID, len(b))
	}
	return of.Flow{Table: pipeline.Registry, Cookie: cookie, Match: of.Match{of.Metadata.Is(cookie)}, Actions: []of.Action{of.Note{Data: b}}}, nil
}

func decodeRecord(f *of.Flow) (kind, id string, record []byte, ok bool) {
	if len(f.Actions) != 1 {
		return
	}
	n, is := f.Actions[0].(of.Note)
	if !is || len(n.Data) < 6 {
		return
	}
	size := int(binary.BigEndian.Uint32(n.Data))
	k, rest, ok1 := bytes.Cut(n.Data[4:], []byte{0})
	i, rest, ok2 := bytes.Cut(rest, []byte{0})
	if !ok1 || !ok2 || size > len(rest) {
		return
	}
	return string(k), string(i), rest[:size], true
}

// take sorts flows into objects.
func (v *view) take(flows []of.FlowStats, full bool) {
	seen := map[uint64]*Object{}
	part := func(c uint64) vnet.Part {
		for p, n := range partNumbers {
			if c&cookiePart == n<<44 {
				return p
			}
		}
		return ""
	}
	for i := range flows {
		f := &flows[i].Flow
		if f.Cookie&cookieLearned != 0 {
			continue
		}
		o := seen[f.Cookie]
		if o == nil {
			o = &Object{Part: part(f.Cookie)}
			seen[f.Cookie] = o
		}
		if f.Table != pipeline.Registry {
			o.Flows = append(o.Flows, *f)
			continue
		}
		if kind, id, record, ok := decodeRecord(f); ok {
			o.Kind, o.ID, o.Record = kind, id, record
		}
	}
	for c, o := range seen {
		e := v.objects[c]
		switch {
		case e == nil:
			v.objects[c] = &entry{stands: o, want: o, full: full}
		case full && !e.full:
			if !e.changed {
				e.want = o
			}
			e.stands, e.full = o, true
		}
	}
}

// load looks at one object, with its flows.
func (tx *Tx) load(part vnet.Part, kind, id string) *entry {
	c := tx.v.s.Cookie(part, kind, id)
	e := tx.v.objects[c]
	if e != nil && e.full || tx.v.loaded[part] {
		if e == nil {
			e = &entry{full: true}
			tx.v.objects[c] = e
		}
		return e
	}
	flows, err := tx.v.conn.Flows(tx.v.ctx, of.FlowFilter{Table: of.AllTables, Cookie: c, CookieMask: ^uint64(0)})
	if err != nil {
		tx.fail(err)
		return &entry{full: true}
	}
	tx.v.take(flows, true)
	if e = tx.v.objects[c]; e == nil {
		e = &entry{}
		tx.v.objects[c] = e
	}
	e.full = true
	return e
}

// Get returns an object of this part as it will be.
func (tx *Tx) Get(kind, id string) (Object, bool) { return tx.get(tx.part, kind, id) }

func (tx *Tx) get(part vnet.Part, kind, id string) (Object, bool) {
	e := tx.load(part, kind, id)
	if e.want == nil || e.want.Kind == "" {
		return Object{}, false
	}
	return *e.want, true
}

// Record returns the record of another part's object.
func (tx *Tx) Record(part vnet.Part, kind, id string) ([]byte, bool) {
	o, ok := tx.get(part, kind, id)
	return o.Record, ok
}

// List returns the objects of a kind of this part, by id, without their flows
// as a rule. It reads every record of the part, once a submission.
func (tx *Tx) List(kind string) []Object { return tx.ListOf(tx.part, kind) }

// ListOf is List for any part's objects.
func (tx *Tx) ListOf(part vnet.Part, kind string) []Object {
	if !tx.v.listed[part] && !tx.v.loaded[part] {
		flows, err := tx.v.conn.Flows(tx.v.ctx, of.FlowFilter{Table: pipeline.Registry, Cookie: tx.v.s.partCookie(part), CookieMask: cookieOwner | cookiePart})
		if err != nil {
			tx.fail(err)
			return nil
		}
		tx.v.take(flows, false)
		tx.v.listed[part] = true
	}
	return tx.known(part, kind)
}

func (tx *Tx) known(part vnet.Part, kind string) []Object {
	var out []Object
	for _, e := range tx.v.objects {
		if o := e.want; o != nil && o.Part == part && o.Kind != "" && (kind == "" || o.Kind == kind) {
			out = append(out, *o)
		}
	}
	slices.SortFunc(out, func(a, b Object) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// All returns all objects of this part with their flows, by kind and id: what
// Sync compares with. A function that calls it is taken to ask for all numbers
// that the part goes on using; the rest are free then.
func (tx *Tx) All() []Object {
	tx.all = true
	if !tx.v.loaded[tx.part] {
		flows, err := tx.v.conn.Flows(tx.v.ctx, of.FlowFilter{Table: of.AllTables, Cookie: tx.v.s.partCookie(tx.part), CookieMask: cookieOwner | cookiePart})
		if err != nil {
			tx.fail(err)
			return nil
		}
		tx.v.take(flows, true)
		tx.v.loaded[tx.part] = true
		for c, e := range tx.v.objects { // flows whose record is gone
			if o := e.want; o != nil && o.Part == tx.part && o.Kind == "" {
				e.want, e.changed = nil, true
				tx.v.objects[c] = e
			}
		}
	}
	return tx.known(tx.part, "")
}

// Put makes an object be as given: its record, and its flows, which get its
// cookie. What stands already is not written again. A difference is a Change
// of the plan.
func (tx *Tx) Put(kind, id string, record []byte, flows ...of.Flow) {
	if verb, diff := tx.Keep(kind, id, record, flows...); verb != "" {
		tx.Change(vnet.Change{Verb: verb, Kind: kind, ID: id, Diff: diff, Impact: vnet.ImpactNone})
	}
}

// Keep is Put for what the application does not know of, or where the caller
// says itself what changes: nothing is added to the plan. It returns what it
// does; "" when nothing differs.
func (tx *Tx) Keep(kind, id string, record []byte, flows ...of.Flow) (vnet.Verb, []string) {
	cookie := tx.v.s.Cookie(tx.part, kind, id)
	o := &Object{Part: tx.part, Kind: kind, ID: id, Record: record, Flows: slices.Clone(flows)}
	for i := range o.Flows {
		f := &o.Flows[i]
		f.Cookie = cookie
		if !pipeline.MayFill(tx.part, f.Table) {
			tx.fail(fmt.Errorf("%s %s %s: table %d is not of this part: %s", tx.part, kind, id, f.Table, f))
		}
		if err := f.Validate(); err != nil {
			tx.fail(fmt.Errorf("%s %s %s: %w", tx.part, kind, id, err))
		}
	}
	if tx.err != nil {
		return "", nil
	}
	e := tx.load(tx.part, kind, id)
	if tx.err != nil {
		return "", nil
	}
	verb := vnet.Update
	if e.want == nil || e.want.Kind == "" {
		verb = vnet.Create
	}
	if verb == vnet.Update && bytes.Equal(e.want.Record, record) {
		if add, del := differ(e.want.Flows, o.Flows); len(add)+len(del) == 0 {
			return "", nil
		}
	}
	var diff []string
	if verb == vnet.Update {
		add, del := differ(e.want.Flows, o.Flows)
		diff = []string{fmt.Sprintf("flows: %d new or different, %d gone", len(add), len(del))}
	}
	e.want, e.changed = o, true
	return verb, diff
}

// Delete removes an object, and the flows learnt for it. One that does not
// stand is no change.
func (tx *Tx) Delete(kind, id string) {
	if tx.Drop(kind, id) {
		tx.Change(vnet.Change{Verb: vnet.Delete, Kind: kind, ID: id, Impact: vnet.ImpactObject})
	}
}

// Drop is Delete without a Change; it reports whether the object stood.
func (tx *Tx) Drop(kind, id string) bool {
	e := tx.load(tx.part, kind, id)
	stood := e.want != nil
	if stood {
		e.want, e.changed = nil, true
	}
	switch kind {
	case kindPort, kindNetwork, kindRouter:
		tx.Release(kind, id)
	}
	return stood
}

// Change adds a line to the plan. Its Part is filled in.
func (tx *Tx) Change(c vnet.Change) {
	c.Part = tx.part
	tx.plan.Changes = append(tx.plan.Changes, c)
}

// Changes are those told of so far.
func (tx *Tx) Changes() vnet.Plan { return tx.plan }

// After has f called once what is submitted stands, and never by Plan. Its
// error is the submission's, which says that the rest stands.
func (tx *Tx) After(f func(ctx context.Context) error) { tx.v.after = append(tx.v.after, f) }

// differ says what has to be added and deleted to come from have to want.
func differ(have, want []of.Flow) (add, del []of.Flow) {
	stands := make(map[of.FlowKey]*of.Flow, len(have))
	for i := range have {
		stands[have[i].Key()] = &have[i]
	}
	for i := range want {
		k := want[i].Key()
		if h := stands[k]; h == nil || !h.Equal(&want[i]) {
			add = append(add, want[i])
		}
		delete(stands, k)
	}
	for _, h := range stands {
		del = append(del, *h)
	}
	return add, del
}

// mods are the changes of all objects: what is added before what goes.
func (v *view) mods() ([]of.FlowMod, error) {
	var add, del []of.FlowMod
	cookies := slices.Sorted(maps.Keys(v.objects))
	for _, c := range cookies {
		e := v.objects[c]
		if !e.changed {
			continue
		}
		var have, want []of.Flow
		for _, x := range []struct {
			o  *Object
			to *[]of.Flow
		}{{e.stands, &have}, {e.want, &want}} {
			if x.o == nil {
				continue
			}
			*x.to = slices.Clone(x.o.Flows)
			if x.o.Kind != "" {
				r, err := x.o.record(c)
				if err != nil {
					return nil, err
				}
				*x.to = append(*x.to, r)
			}
		}
		a, d := differ(have, want)
		for _, f := range a {
			add = append(add, of.Add(f))
		}
		for _, f := range d {
			del = append(del, of.Delete(f, ^uint64(0)))
		}
		if e.want == nil && e.stands != nil {
			del = append(del, of.DeleteAll(of.AllTables, c|cookieLearned, ^uint64(0), nil))
		}
	}
	return append(add, del...), nil
}

// maxBundle bounds one bundle, which the switch holds whole and is deaf while
// it carries it out.
const maxBundle = 25_000

// bundle writes what differs.
func (v *view) bundle(ctx context.Context, wrap func(error) error) error {
	mods, err := v.mods()
	for _, m := range v.meters { // they are no part of a bundle, and flows refer to them
		if err == nil {
			err = v.meter(ctx, m)
		}
	}
	for err == nil && len(mods) > 0 {
		n := min(len(mods), maxBundle)
		if err = v.conn.Bundle(ctx, mods[:n]); err == nil {
			v.begun = true
			v.s.writes.Add(uint64(n))
			v.s.metrics.flows.Add(float64(n))
		}
		mods = mods[n:]
	}
	if err != nil && wrap != nil {
		err = wrap(err)
	}
	if err != nil && v.begun {
		err = fmt.Errorf("a part of the change stands, which was larger than one bundle of %d flows; Sync makes it whole: %w", maxBundle, err)
	}
	return err
}

// Meter makes a meter stand, or changes it, before the flows that use it. Meters
// are no part of the bundle: of a submission that fails some may stand, which
// nothing uses then.
func (tx *Tx) Meter(m of.MeterConfig) { tx.v.meters = append(tx.v.meters, m) }

func (v *view) meter(ctx context.Context, m of.MeterConfig) error {
	v.s.writes.Add(1)
	err := v.conn.ModifyMeter(ctx, m)
	var e *of.Error
	if errors.As(err, &e) && e.Name() == of.ErrNameUnknownMeter {
		err = v.conn.AddMeter(ctx, m)
	}
	return err
}

// Meters returns the meters of the bridge.
func (s *Switch) Meters(ctx context.Context) ([]of.MeterConfig, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	return c.Meters(ctx)
}

// MeterStats returns what the meters of the bridge have seen.
func (s *Switch) MeterStats(ctx context.Context) ([]of.MeterStats, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	return c.MeterStats(ctx)
}

// DeleteMeters removes meters that no flow uses any more; of those that are gone
// it is no error.
func (s *Switch) DeleteMeters(ctx context.Context, ids ...uint32) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	for _, id := range ids {
		if err == nil {
			s.writes.Add(1)
			err = c.DeleteMeter(ctx, id)
		}
	}
	return err
}
