package ovsdb

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
)

// State is a database at one moment. It never changes; its rows (pointers to
// the generated structs) must not be changed either.
type State struct {
	spec   *Spec
	schema *schema
	seed   maphash.Seed
	tables map[string]*tableState
	// Version counts the changes since the client was made.
	Version uint64
	// TxnID is the server's name of this state; "" when it has none.
	TxnID string
}

// tableState is a table at one moment.
type tableState struct {
	rows    *pmap[any]
	index   map[string]*pmap[[]string] // by column and value: UUIDs
	parents *pmap[[]Ref]               // who holds a row by a strong reference
	groups  map[string]*pmap[struct{}] // by Spec.Group
}

// Ref is a place that refers to a row.
type Ref struct{ Table, UUID, Column string }

func emptyState(sp *Spec, sc *schema, seed maphash.Seed) *State {
	s := &State{spec: sp, schema: sc, seed: seed, tables: map[string]*tableState{}}
	for n := range sc.tables {
		s.tables[n] = &tableState{index: map[string]*pmap[[]string]{}, groups: map[string]*pmap[struct{}]{}}
	}
	return s
}

// Has reports whether the server has a column, or with an empty one a table.
func (s *State) Has(table, column string) bool { return s.schema.has(table, column) }

// SchemaVersion is the server's.
func (s *State) SchemaVersion() string { return s.schema.version }

// Len is how many rows a table has.
func (s *State) Len(table string) int {
	t := s.tables[table]
	if t == nil {
		return 0
	}
	return t.rows.len()
}

func (s *State) row(table, uuid string) (any, bool) {
	t := s.tables[table]
	if t == nil {
		return nil, false
	}
	return t.rows.get(s.seed, uuid)
}

// editor makes the next state.
type editor struct {
	s       *State
	sc      *schema
	rows    map[string]*pedit[any]
	index   map[string]map[string]*pedit[[]string]
	parents map[string]*pedit[[]Ref]
	groups  map[string]map[string]*pedit[struct{}]
	changed map[string]bool
}

func (s *State) edit() *editor {
	return &editor{s: s, sc: s.schema, rows: map[string]*pedit[any]{}, index: map[string]map[string]*pedit[[]string]{},
		parents: map[string]*pedit[[]Ref]{}, groups: map[string]map[string]*pedit[struct{}]{}, changed: map[string]bool{}}
}

func (e *editor) table(name string) *pedit[any] {
	r := e.rows[name]
	if r == nil {
		r = edit(e.s.seed, e.s.tables[name].rows)
		e.rows[name] = r
	}
	return r
}

// put replaces a row; nil removes it.
func (e *editor) put(t *table, uuid string, now any) {
	rows := e.table(t.name)
	was, _ := rows.get(uuid)
	if was == nil && now == nil {
		return
	}
	e.changed[t.name] = true
	if now == nil {
		rows.del(uuid)
	} else {
		rows.set(uuid, now)
	}
	for _, c := range t.index {
		a, b := fieldString(was, c), fieldString(now, c)
		if a == b && (was == nil) == (now == nil) {
			continue
		}
		if was != nil {
			e.reindex(t.name, c.name, a, uuid, false)
		}
		if now != nil {
			e.reindex(t.name, c.name, b, uuid, true)
		}
	}
	for _, c := range t.columns {
		if !c.strong || !c.here {
			continue
		}
		if e.s.tables[c.ref] == nil {
			continue
		}
		a, b := fieldRefs(was, c), fieldRefs(now, c)
		if slices.Equal(a, b) {
			continue
		}
		for _, x := range toggle(a, b) { // in one of both
			_, in := slices.BinarySearch(b, x)
			e.reparent(c.ref, x, Ref{t.name, uuid, c.name}, in)
		}
	}
	if e.s.spec.Group != nil && t.ext >= 0 {
		a, b := e.group(was, t), e.group(now, t)
		if a != b {
			if a != "" {
				e.regroup(t.name, a).del(uuid)
			}
			if b != "" {
				e.regroup(t.name, b).set(uuid, struct{}{})
			}
		}
	}
}

func (e *editor) group(row any, t *table) string {
	if row == nil {
		return ""
	}
	m, _ := reflect.ValueOf(row).Elem().Field(t.ext).Interface().(map[string]string)
	return e.s.spec.Group(m)
}

func (e *editor) regroup(table, g string) *pedit[struct{}] {
	gs := e.groups[table]
	if gs == nil {
		gs = map[string]*pedit[struct{}]{}
		e.groups[table] = gs
	}
	p := gs[g]
	if p == nil {
		p = edit(e.s.seed, e.s.tables[table].groups[g])
		gs[g] = p
	}
	return p
}

func (e *editor) reindex(table, col, value, uuid string, add bool) {
	is := e.index[table]
	if is == nil {
		is = map[string]*pedit[[]string]{}
		e.index[table] = is
	}
	p := is[col]
	if p == nil {
		p = edit(e.s.seed, e.s.tables[table].index[col])
		is[col] = p
	}
	have, _ := p.get(value)
	have = slices.DeleteFunc(slices.Clone(have), func(s string) bool { return s == uuid })
	if add {
		have = append(have, uuid)
		slices.Sort(have)
	}
	if len(have) == 0 {
		p.del(value)
	} else {
		p.set(value, have)
	}
}

func (e *editor) reparent(table, uuid string, r Ref, add bool) {
	p := e.parents[table]
	if p == nil {
		p = edit(e.s.seed, e.s.tables[table].parents)
		e.parents[table] = p
	}
	have, _ := p.get(uuid)
	have = slices.DeleteFunc(slices.Clone(have), func(x Ref) bool { return x == r })
	if add {
		have = append(have, r)
	}
	if len(have) == 0 {
		p.del(uuid)
	} else {
		p.set(uuid, have)
	}
}

// done returns the new state and the tables that changed.
func (e *editor) done(txnID string) (*State, map[string]bool) {
	n := *e.s
	n.tables = make(map[string]*tableState, len(e.s.tables))
	n.Version++
	if txnID != "" {
		n.TxnID = txnID
	}
	for name, t := range e.s.tables {
		if !e.changed[name] && e.parents[name] == nil {
			n.tables[name] = t
			continue
		}
		u := &tableState{rows: t.rows, index: t.index, parents: t.parents, groups: t.groups}
		if r := e.rows[name]; r != nil {
			u.rows = r.m
		}
		if p := e.parents[name]; p != nil {
			u.parents = p.m
		}
		if is := e.index[name]; is != nil {
			u.index = cloneMap(t.index)
			for c, p := range is {
				u.index[c] = p.m
			}
		}
		if gs := e.groups[name]; gs != nil {
			u.groups = cloneMap(t.groups)
			for g, p := range gs {
				u.groups[g] = p.m
			}
		}
		n.tables[name] = u
	}
	return &n, e.changed
}

func cloneMap[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// fieldString is the value of a string column, also of an optional one.
func fieldString(row any, c *column) string {
	if row == nil {
		return ""
	}
	v := reflect.ValueOf(row).Elem().Field(c.field)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.String {
		return ""
	}
	return v.String()
}

// fieldRefs are the UUIDs in a column, sorted.
func fieldRefs(row any, c *column) []string {
	if row == nil {
		return nil
	}
	v := reflect.ValueOf(row).Elem().Field(c.field)
	if s, ok := v.Interface().([]string); ok {
		return s
	}
	if s := fieldString(row, c); s != "" {
		return []string{s}
	}
	return nil
}

// rowUpdate is one row of update2 and update3.
type rowUpdate struct {
	Initial map[string]json.RawMessage `json:"initial"`
	Insert  map[string]json.RawMessage `json:"insert"`
	Modify  map[string]json.RawMessage `json:"modify"`
	Delete  json.RawMessage            `json:"delete"`
}

type tableUpdates map[string]map[string]*rowUpdate

// apply makes the state after updates. A delete or change of a row that is
// not there means that the copy is not the server's: an error.
func (s *State) apply(us tableUpdates, txnID string) (*State, map[string]bool, error) {
	e := s.edit()
	for name, rows := range us {
		t := s.schema.tables[name]
		if t == nil {
			continue // asked for nothing of it
		}
		for uuid, u := range rows {
			if u == nil {
				e.put(t, uuid, nil)
				continue
			}
			was, _ := e.table(name).get(uuid)
			full := u.Initial
			if full == nil {
				full = u.Insert
			}
			switch {
			case full != nil:
				row, err := t.row(uuid, nil, full, false)
				if err != nil {
					return nil, nil, err
				}
				e.put(t, uuid, row)
			case u.Modify != nil:
				if was == nil {
					return nil, nil, fmt.Errorf("change of row %s of %s, which is not here", uuid, name)
				}
				row, err := t.row(uuid, was, u.Modify, true)
				if err != nil {
					return nil, nil, err
				}
				e.put(t, uuid, row)
			default: // "delete": null
				if was == nil {
					return nil, nil, fmt.Errorf("removal of row %s of %s, which is not here", uuid, name)
				}
				e.put(t, uuid, nil)
			}
		}
	}
	n, changed := e.done(txnID)
	return n, changed, nil
}

// row makes a row from the wire, over an old one when there is one.
func (t *table) row(uuid string, old any, cols map[string]json.RawMessage, diff bool) (any, error) {
	p := reflect.New(t.typ)
	if old != nil {
		p.Elem().Set(reflect.ValueOf(old).Elem())
	}
	p.Elem().Field(t.uuid).SetString(uuid)
	for name, raw := range cols {
		c := t.by[name]
		if c == nil || !c.here {
			continue
		}
		f := p.Elem().Field(c.field)
		v, err := decode(f.Type(), raw)
		if err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", name, t.name, err)
		}
		if diff && c.composite {
			v = merge(f, v)
		}
		f.Set(v)
	}
	return p.Interface(), nil
}
