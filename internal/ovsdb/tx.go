package ovsdb

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/vnet-go/vnet"
)

// Tx is a state with changes over it. What is read from it is what will be
// when it is committed. It is for one goroutine.
type Tx struct {
	base    *State
	rows    map[string]map[string]*pending // by table and UUID
	order   []*pending
	names   map[nameKey][]string    // UUIDs that got this value in this transaction
	parents map[string]map[Ref]bool // references made in this transaction
	journal []undo
}

type nameKey struct{ table, column, value string }

// pending is a row as it was and as it will be; nil is absent.
type pending struct {
	t     *table
	uuid  string
	base  any
	now   any
	guard []string // columns that must be as they were
	whole []string // sets and maps that are written as a whole
}

type undo struct {
	p     *pending
	now   any
	guard []string
	whole []string
	fresh bool // p was made by this
}

// Begin starts a transaction over s.
func (s *State) Begin() *Tx {
	return &Tx{base: s, rows: map[string]map[string]*pending{}, names: map[nameKey][]string{}, parents: map[string]map[Ref]bool{}}
}

// Base is the state without the changes.
func (x *Tx) Base() *State { return x.base }

// Take makes x what other is, which is over the same state and not used any more.
func (x *Tx) Take(other *Tx) { *x = *other }

// Mark names the transaction as it is now, for [Tx.Rollback].
func (x *Tx) Mark() int { return len(x.journal) }

// Rollback takes back what was done since the mark.
func (x *Tx) Rollback(mark int) {
	for len(x.journal) > mark {
		u := x.journal[len(x.journal)-1]
		x.journal = x.journal[:len(x.journal)-1]
		u.p.now, u.p.guard, u.p.whole = u.now, u.guard, u.whole
		if u.fresh {
			delete(x.rows[u.p.t.name], u.p.uuid)
			x.order = slices.DeleteFunc(x.order, func(p *pending) bool { return p == u.p })
		}
	}
}

func (x *Tx) table(name string) (*table, error) {
	t := x.base.schema.tables[name]
	if t == nil {
		return nil, fmt.Errorf("table %s is not one of this handle's", name)
	}
	return t, nil
}

// TableOf is the table of a row type, which is a struct or a pointer to one.
func (s *State) TableOf(typ reflect.Type) (string, bool) {
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	t := s.schema.types[typ]
	if t == nil {
		return "", false
	}
	return t.name, true
}

// Row returns a row or nil.
func (x *Tx) Row(table, uuid string) any {
	if p := x.rows[table][uuid]; p != nil {
		return p.now
	}
	r, _ := x.base.row(table, uuid)
	return r
}

// Row returns a row or nil.
func (s *State) Row(table, uuid string) any {
	r, _ := s.row(table, uuid)
	return r
}

// All yields the rows of a table, in no order.
func (s *State) All(table string) iter.Seq2[string, any] {
	t := s.tables[table]
	if t == nil {
		return func(func(string, any) bool) {}
	}
	return t.rows.all()
}

// All yields the rows of a table, in no order.
func (x *Tx) All(table string) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		over := x.rows[table]
		for id, r := range x.base.All(table) {
			if _, is := over[id]; !is && !yield(id, r) {
				return
			}
		}
		for _, p := range x.order {
			if p.t.name == table && p.now != nil && !yield(p.uuid, p.now) {
				return
			}
		}
	}
}

// Group yields the rows of a table that Spec.Group puts into g, in no order.
func (s *State) Group(table, g string) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		t := s.tables[table]
		if t == nil {
			return
		}
		for id := range t.groups[g].all() {
			if r, ok := t.rows.get(s.seed, id); ok && !yield(id, r) {
				return
			}
		}
	}
}

// Group yields the rows of a table that Spec.Group puts into g, in no order.
func (x *Tx) Group(table, g string) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		over := x.rows[table]
		for id, r := range x.base.Group(table, g) {
			if _, is := over[id]; !is && !yield(id, r) {
				return
			}
		}
		for _, p := range x.order {
			if p.t.name != table || p.now == nil || p.t.ext < 0 {
				continue
			}
			m, _ := reflect.ValueOf(p.now).Elem().Field(p.t.ext).Interface().(map[string]string)
			if x.base.spec.Group != nil && x.base.spec.Group(m) == g && !yield(p.uuid, p.now) {
				return
			}
		}
	}
}

// Lookup returns the rows that have a value in an indexed column.
func (s *State) Lookup(table, column, value string) []any {
	t := s.tables[table]
	if t == nil {
		return nil
	}
	var out []any
	ids, _ := t.index[column].get(s.seed, value)
	for _, id := range ids {
		if r, ok := t.rows.get(s.seed, id); ok {
			out = append(out, r)
		}
	}
	return out
}

// Lookup returns the rows that have a value in an indexed column.
func (x *Tx) Lookup(table, column, value string) []any {
	t := x.base.schema.tables[table]
	if t == nil {
		return nil
	}
	over := x.rows[table]
	var out []any
	ids, _ := x.base.tables[table].index[column].get(x.base.seed, value)
	for _, id := range ids {
		if _, is := over[id]; !is {
			if r, ok := x.base.row(table, id); ok {
				out = append(out, r)
			}
		}
	}
	seen := map[string]bool{}
	for _, id := range slices.Concat(ids, x.names[nameKey{table, column, value}]) {
		p := over[id]
		if p != nil && p.now != nil && !seen[id] && fieldString(p.now, t.by[column]) == value {
			seen[id] = true
			out = append(out, p.now)
		}
	}
	return out
}

// Parents returns the places that hold a row by strong references.
func (s *State) Parents(table, uuid string) []Ref {
	t := s.tables[table]
	if t == nil {
		return nil
	}
	rs, _ := t.parents.get(s.seed, uuid)
	return rs
}

// Parents returns the places that hold a row by strong references.
func (x *Tx) Parents(table, uuid string) []Ref {
	var out []Ref
	holds := func(r Ref) {
		row := x.Row(r.Table, r.UUID)
		t := x.base.schema.tables[r.Table]
		if row == nil || slices.Contains(out, r) {
			return
		}
		if _, in := slices.BinarySearch(fieldRefs(row, t.by[r.Column]), uuid); in {
			out = append(out, r)
		}
	}
	for _, r := range x.base.Parents(table, uuid) {
		holds(r)
	}
	for r := range x.parents[uuid] {
		holds(r)
	}
	slices.SortFunc(out, func(a, b Ref) int {
		return slices.Compare([]string{a.Table, a.UUID, a.Column}, []string{b.Table, b.UUID, b.Column})
	})
	return out
}

func (x *Tx) pend(t *table, uuid string) (*pending, bool) {
	if p := x.rows[t.name][uuid]; p != nil {
		return p, false
	}
	base, _ := x.base.row(t.name, uuid)
	p := &pending{t: t, uuid: uuid, base: base, now: base}
	if x.rows[t.name] == nil {
		x.rows[t.name] = map[string]*pending{}
	}
	x.rows[t.name][uuid] = p
	x.order = append(x.order, p)
	return p, true
}

// Put makes a row be as given: a pointer to a generated struct with its UUID,
// which the transaction keeps; the caller must not change it any more. Columns
// that are sets and maps are changed by what differs, so that what others do
// to them at the same time stays; those named in whole become what they are
// here whatever others do.
func (x *Tx) Put(row any, whole ...string) error {
	name, ok := x.base.TableOf(reflect.TypeOf(row))
	if !ok {
		return fmt.Errorf("%T is no row of this handle", row)
	}
	t := x.base.schema.tables[name]
	if !t.here {
		return &vnet.UnsupportedError{Feature: "table " + name, Backend: "the server", Need: "a newer schema than " + x.base.schema.version}
	}
	v := reflect.ValueOf(row).Elem()
	uuid := v.Field(t.uuid).String()
	if uuid == "" {
		return fmt.Errorf("row of %s without a UUID", name)
	}
	for _, c := range t.columns {
		f := v.Field(c.field)
		if c.kind == set && f.Len() > 0 {
			f.Set(reflect.ValueOf(canonical(f.Interface())))
		}
		if !c.here { // never sent, so never read either
			f.SetZero()
		}
	}
	p, fresh := x.pend(t, uuid)
	x.journal = append(x.journal, undo{p, p.now, p.guard, p.whole, fresh})
	was := p.now
	p.now = row
	for _, c := range whole {
		if !slices.Contains(p.whole, c) {
			p.whole = append(slices.Clip(p.whole), c)
		}
	}
	for _, c := range t.index {
		if s := fieldString(row, c); s != fieldString(was, c) || was == nil {
			k := nameKey{name, c.name, s}
			x.names[k] = append(x.names[k], uuid)
		}
	}
	for _, c := range t.columns {
		if !c.strong || !c.here {
			continue
		}
		a, b := fieldRefs(was, c), fieldRefs(row, c)
		if slices.Equal(a, b) {
			continue
		}
		for _, id := range toggle(a, b) {
			if x.parents[id] == nil {
				x.parents[id] = map[Ref]bool{}
			}
			x.parents[id][Ref{name, uuid, c.name}] = true
		}
	}
	return nil
}

// canonical is a set sorted and without repetitions.
func canonical(v any) any {
	switch s := v.(type) {
	case []string:
		if !sorted(s) {
			s = slices.Clone(s)
			slices.Sort(s)
			s = slices.Compact(s)
		}
		return s
	case []int:
		s = slices.Clone(s)
		slices.Sort(s)
		return slices.Compact(s)
	}
	return v
}

// sorted reports whether s is strictly ascending.
func sorted(s []string) bool {
	for i := 1; i < len(s); i++ {
		if s[i-1] >= s[i] {
			return false
		}
	}
	return true
}

// Delete removes a row, and it from what holds it.
func (x *Tx) Delete(table, uuid string) error {
	t, err := x.table(table)
	if err != nil {
		return err
	}
	if x.Row(table, uuid) == nil {
		return nil
	}
	if !t.root {
		for _, r := range x.Parents(table, uuid) {
			if err := x.Member(r.Table, r.UUID, r.Column, nil, []string{uuid}); err != nil {
				return err
			}
		}
	}
	p, fresh := x.pend(t, uuid)
	x.journal = append(x.journal, undo{p, p.now, p.guard, p.whole, fresh})
	p.now = nil
	return nil
}

// Member adds to and removes from a column that is a set of strings.
func (x *Tx) Member(table, uuid, column string, add, remove []string) error {
	t, err := x.table(table)
	if err != nil {
		return err
	}
	row := x.Row(table, uuid)
	if row == nil {
		return fmt.Errorf("row %s of %s: %w", uuid, table, vnet.ErrNotFound)
	}
	c := t.by[column]
	if c == nil {
		return fmt.Errorf("no column %s.%s", table, column)
	}
	n := reflect.New(t.typ)
	n.Elem().Set(reflect.ValueOf(row).Elem())
	f := n.Elem().Field(c.field)
	switch v := f.Interface().(type) {
	case []string:
		add, remove = canonical(add).([]string), canonical(remove).([]string)
		out := make([]string, 0, len(v)+len(add))
		for _, s := range v {
			if _, gone := slices.BinarySearch(remove, s); !gone {
				out = append(out, s)
			}
		}
		for _, s := range add {
			if _, have := slices.BinarySearch(v, s); !have {
				out = append(out, s)
			}
		}
		slices.Sort(out)
		if slices.Equal(out, v) {
			return nil
		}
		f.Set(reflect.ValueOf(out))
	case *string:
		switch {
		case v != nil && slices.Contains(remove, *v):
			f.SetZero()
		case len(add) == 1 && (v == nil || *v != add[0]):
			s := add[0]
			f.Set(reflect.ValueOf(&s))
		default:
			return nil
		}
	default:
		return fmt.Errorf("column %s.%s is no set of strings", table, column)
	}
	return x.Put(n.Interface())
}

// Refers returns the table that a column refers to.
func (x *Tx) Refers(table, column string) (string, error) {
	t, err := x.table(table)
	if err != nil {
		return "", err
	}
	c := t.by[column]
	if c == nil || !c.strong {
		return "", fmt.Errorf("column %s.%s holds no rows", table, column)
	}
	return c.ref, nil
}

// Guard lets the commit fail, and be tried again, unless the columns of a row
// are on the server as they were in the state under the transaction.
func (x *Tx) Guard(table, uuid string, columns ...string) error {
	t, err := x.table(table)
	if err != nil {
		return err
	}
	p, fresh := x.pend(t, uuid)
	x.journal = append(x.journal, undo{p, p.now, p.guard, p.whole, fresh})
	for _, c := range columns {
		if !slices.Contains(p.guard, c) {
			p.guard = append(slices.Clone(p.guard), c)
		}
	}
	if p.guard == nil {
		p.guard = []string{}
	}
	return nil
}

// Check says which row would not outlive its creation: one that is not of a
// root table and that nothing refers to.
func (x *Tx) Check() error {
	for _, p := range x.order {
		if p.base == nil && p.now != nil && !p.t.root && len(x.Parents(p.t.name, p.uuid)) == 0 {
			return fmt.Errorf("new row %s of %s is held by no other row, so the server would remove it", p.uuid, p.t.name)
		}
	}
	return nil
}

// Ops are the operations that make the changes: waits, then the rest in the
// order in which rows were first touched. None when nothing differs.
func (x *Tx) Ops() []Operation {
	var waits, ops, last []Operation
	gone := x.gone()
	for _, p := range x.order {
		now := p.without(gone).ops()
		switch {
		case p.base == nil || (len(now) == 0 && p.guard == nil):
		case p.now == nil && !p.t.root: // goes when its parent, which is waited for, lets go
		default:
			waits = append(waits, p.wait())
		}
		if p.now == nil {
			last = append(last, now...)
		} else {
			ops = append(ops, now...)
		}
	}
	if len(ops)+len(last) == 0 {
		return nil
	}
	return slices.Concat(waits, ops, last)
}

// gone are the rows that the transaction deletes, by table.
func (x *Tx) gone() map[string][]string {
	out := map[string][]string{}
	for _, p := range x.order {
		if p.base != nil && p.now == nil {
			out[p.t.name] = append(out[p.t.name], p.uuid)
		}
	}
	return out
}

// without is p whose weak references to rows that are gone are taken out by
// name. ovsdb-server 3.1.0 leaves them where the row that has them is changed in
// the transaction that deletes what they refer to, and ends by a null pointer
// when that one has been inserted again, with the same UUID, and this one goes.
func (p *pending) without(gone map[string][]string) *pending {
	if len(gone) == 0 || p.base == nil || p.now == nil || p.base == p.now {
		return p
	}
	out := *p
	for _, c := range p.t.columns {
		if !c.here || c.ref == "" || c.strong || len(gone[c.ref]) == 0 {
			continue
		}
		keep := func(u string) bool { return !slices.Contains(gone[c.ref], u) }
		n := reflect.New(p.t.typ)
		n.Elem().Set(reflect.ValueOf(out.now).Elem())
		f := n.Elem().Field(c.field)
		switch v := f.Interface().(type) {
		case []string:
			left := slices.DeleteFunc(slices.Clone(v), func(u string) bool { return !keep(u) })
			if len(left) == len(v) {
				continue
			}
			f.Set(reflect.ValueOf(left))
		case *string:
			if v == nil || keep(*v) {
				continue
			}
			f.SetZero()
		default:
			continue
		}
		out.now = n.Interface()
	}
	return &out
}

// wait judges that the row is there, and its guarded columns as they were.
func (p *pending) wait() Operation {
	cols := []string{"_uuid"}
	row := ovsdb.Row{"_uuid": uuidValue(p.uuid)}
	for _, g := range p.guard {
		if c := p.t.by[g]; c != nil && c.here {
			cols = append(cols, g)
			row[g] = c.encode(reflect.ValueOf(p.base).Elem().Field(c.field))
		}
	}
	return Operation{Op: "wait", Table: p.t.name, Where: byUUID(p.uuid), Columns: cols, Until: "==", Rows: []ovsdb.Row{row}, Timeout: &noWait}
}

// ops takes the row from base to now.
func (p *pending) ops() []Operation {
	switch {
	case p.base == nil && p.now == nil:
		return nil
	case p.base == nil:
		row := ovsdb.Row{}
		v := reflect.ValueOf(p.now).Elem()
		for _, c := range p.t.columns {
			if f := v.Field(c.field); c.here && !empty(f) {
				row[c.name] = c.encode(f)
			}
		}
		return []Operation{{Op: "insert", Table: p.t.name, UUID: p.uuid, Row: row}}
	case p.now == nil:
		if !p.t.root && !p.refers() {
			return nil // it goes when nothing holds it
		}
		return []Operation{{Op: "delete", Table: p.t.name, Where: byUUID(p.uuid)}}
	}
	if p.base == p.now {
		return nil
	}
	a, b := reflect.ValueOf(p.base).Elem(), reflect.ValueOf(p.now).Elem()
	row := ovsdb.Row{}
	var ms []ovsdb.Mutation
	for _, c := range p.t.columns {
		if !c.here {
			continue
		}
		was, now := a.Field(c.field), b.Field(c.field)
		if equal(was, now) {
			continue
		}
		if !c.composite || slices.Contains(p.whole, c.name) {
			row[c.name] = c.encode(now)
			continue
		}
		gone, added := difference(was, now)
		if gone.Len() > 0 {
			ms = append(ms, *ovsdb.NewMutation(c.name, ovsdb.MutateOperationDelete, c.encode(gone)))
		}
		if added.Len() > 0 {
			ms = append(ms, *ovsdb.NewMutation(c.name, ovsdb.MutateOperationInsert, c.encode(added)))
		}
		// A set that must have a member has one after each mutation.
		if n := len(ms); was.Kind() == reflect.Slice && gone.Len() == was.Len() && gone.Len() > 0 && added.Len() > 0 {
			ms[n-2], ms[n-1] = ms[n-1], ms[n-2]
		}
	}
	var ops []Operation
	if len(row) > 0 {
		ops = append(ops, Operation{Op: "update", Table: p.t.name, Where: byUUID(p.uuid), Row: row})
	}
	if len(ms) > 0 {
		ops = append(ops, Operation{Op: "mutate", Table: p.t.name, Where: byUUID(p.uuid), Mutations: ms})
	}
	return ops
}

// refers reports whether the row on the server holds others. Those that are
// deleted in the same transaction are missed before garbage is collected
// (ovsdb's transaction.c), so such a row is deleted by name.
func (p *pending) refers() bool {
	v := reflect.ValueOf(p.base).Elem()
	return slices.ContainsFunc(p.t.columns, func(c *column) bool { return c.here && c.strong && !empty(v.Field(c.field)) })
}

// empty reports whether a field has the column's default, as far as any
// schema of OVN and Open vSwitch has one.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// equal compares two fields; an empty set is a nil one.
func equal(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Slice, reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		if a.Len() == 0 || a.Pointer() == b.Pointer() {
			return true
		}
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// difference says what a set or map loses and gets. What is lost of a map is a
// set of keys; keys that it gets are in both, because another may have set
// them, and inserting would not change them then.
func difference(a, b reflect.Value) (gone, added reflect.Value) {
	if a.Kind() == reflect.Map {
		gone = reflect.MakeSlice(reflect.SliceOf(a.Type().Key()), 0, 0)
		added = reflect.MakeMap(a.Type())
		for it := a.MapRange(); it.Next(); {
			if v := b.MapIndex(it.Key()); !v.IsValid() || v.Interface() != it.Value().Interface() {
				gone = reflect.Append(gone, it.Key())
			}
		}
		for it := b.MapRange(); it.Next(); {
			v := a.MapIndex(it.Key())
			if !v.IsValid() {
				gone = reflect.Append(gone, it.Key())
			}
			if !v.IsValid() || v.Interface() != it.Value().Interface() {
				added.SetMapIndex(it.Key(), it.Value())
			}
		}
		sortSlice(gone)
		return gone, added
	}
	switch x := a.Interface().(type) {
	case []string:
		g, d := split(x, b.Interface().([]string))
		return reflect.ValueOf(g), reflect.ValueOf(d)
	case []int:
		g, d := split(x, b.Interface().([]int))
		return reflect.ValueOf(g), reflect.ValueOf(d)
	}
	return a, b
}

// split returns what is only in a and what is only in b, both sorted.
func split[T int | string](a, b []T) (onlyA, onlyB []T) {
	for _, x := range toggle(a, b) {
		if _, in := slices.BinarySearch(a, x); in {
			onlyA = append(onlyA, x)
		} else {
			onlyB = append(onlyB, x)
		}
	}
	return onlyA, onlyB
}

// attempts is how often a transaction is computed anew because of other writers.
const attempts = 12

// Commit computes a transaction by build over the newest complete state, and
// commits it; when another writer was faster, or the connection was lost, it
// is computed anew. extra, if not nil, adds operations to one that is not
// empty. It returns the results of the extra operations; none when there was
// nothing to write.
func (c *Client) Commit(ctx context.Context, build func(*Tx) error, extra func() []Operation) ([]Result, error) {
	races := 0
	for {
		s, err := c.Ready(ctx)
		if err != nil {
			return nil, err
		}
		x := s.Begin()
		if err := build(x); err != nil {
			return nil, err
		}
		if err := x.Check(); err != nil {
			return nil, err
		}
		ops := x.Ops()
		if len(ops) == 0 {
			return nil, nil
		}
		own := len(ops)
		if extra != nil {
			ops = append(ops, extra()...)
		}
		res, err := c.Transact(ctx, ops)
		if err == nil {
			return res[own:], nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("transaction on %s: whether it was done is unknown: %w", c.Database(), ctx.Err())
		}
		var te *TransactError
		switch {
		case errors.As(err, &te) && te.Race():
			c.stats.races.Add(1)
			if races++; races >= attempts {
				return nil, c.refused(te, ops)
			}
			// The other's change is on its way here; or the refusal is no race.
			if err := c.newer(ctx, s.Version, time.Duration(races)*20*time.Millisecond); err != nil {
				return nil, err
			}
			if c.State().Version == s.Version && races >= 3 {
				return nil, c.refused(te, ops)
			}
		case errors.As(err, &te) && te.Temporary(), Lost(err), errors.Is(err, vnet.ErrNotReady):
			// Until the connection is there again, or a leader.
			if err := c.newer(ctx, s.Version, 100*time.Millisecond); err != nil {
				return nil, err
			}
		case errors.As(err, &te):
			return nil, c.refused(te, ops)
		default:
			return nil, err
		}
	}
}

// refused says what the server did not want.
func (c *Client) refused(e *TransactError, ops []Operation) error {
	err := fmt.Errorf("%s refuses", c.Database())
	if e.Index < len(ops) {
		err = fmt.Errorf("%s refuses %s of %s", c.Database(), ops[e.Index].Op, ops[e.Index].Table)
	}
	switch e.Code {
	case "syntax error":
		if strings.Contains(e.Details, "uuid") { // an unexpected member
			return fmt.Errorf("%w: %w: %w", err, e, &vnet.UnsupportedError{Feature: "making rows with UUIDs of the client's", Backend: "the server", Need: "Open vSwitch 2.13"})
		}
	case "constraint violation", "duplicate uuid", "timed out":
		return fmt.Errorf("%w: %w: %w", err, e, vnet.ErrConflict)
	case "referential integrity violation":
		return fmt.Errorf("%w: %w: %w", err, e, vnet.ErrInUse)
	}
	return fmt.Errorf("%w: %w", err, e)
}

// newer waits until the state is newer than version, at most for a time, and
// a little longer so that two writers do not keep in step.
func (c *Client) newer(ctx context.Context, version uint64, most time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, most)
	c.Wait(wait, func(s *State) bool { return s.Version > version })
	cancel()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return c.Err()
	case <-time.After(rand.N(most / 4)):
	}
	return nil
}
