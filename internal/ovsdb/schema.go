package ovsdb

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Spec says which part of a database a client is about.
type Spec struct {
	Model  model.ClientDBModel // generated
	Tables []string            // those that are read or written
	Asked  []string            // those that are only asked for now and then: Client.Select
	// Sentinel is a table that has a row in every database that is in use:
	// while it has none, the view is not complete.
	Sentinel string
	// Index names columns of strings by which rows are looked up, by table.
	Index map[string][]string
	// Group puts a row into a named group, for listing, by its external_ids;
	// "" for none.
	Group func(externalIDs map[string]string) string
	// Only bounds the columns that are read of a table; absent: all of the model.
	Only map[string][]string
}

// schema is a spec as far as one server knows it.
type schema struct {
	version string
	tables  map[string]*table
	types   map[reflect.Type]*table // of structs
}

// table is a row type and what the server has of it.
type table struct {
	name    string
	typ     reflect.Type
	here    bool // the server has it
	asked   bool // not kept here
	root    bool
	columns []*column
	by      map[string]*column
	uuid    int // field
	ext     int // field of external_ids, -1 without
	index   []*column
}

type kind uint8

const (
	scalar kind = iota
	optional
	set
	dict
)

// column is a field and what the server has of it.
type column struct {
	name      string
	field     int
	kind      kind
	here      bool // the server has it
	composite bool // the server's maximum is above 1: updates are differences
	uuid      bool // elements are UUIDs
	uuids     bool // values of a map are UUIDs; who refers so is not noted
	ref       string
	strong    bool // and refer to rows that live by it
}

// newSchema matches the spec with the schema that a server sent; nil for one
// that is not known yet.
func newSchema(sp *Spec, raw json.RawMessage) (s *schema, err error) {
	defer func() {
		if p := recover(); p != nil { // libovsdb's parser trusts the server
			err = fmt.Errorf("schema of the server makes no sense: %v", p)
		}
	}()
	var db ovsdb.DatabaseSchema
	if raw != nil {
		if err := json.Unmarshal(raw, &db); err != nil {
			return nil, fmt.Errorf("schema of the server: %w", err)
		}
		if db.Name != sp.Model.Name() {
			return nil, fmt.Errorf("schema of database %q instead of %q", db.Name, sp.Model.Name())
		}
	}
	s = &schema{version: db.Version, tables: map[string]*table{}, types: map[reflect.Type]*table{}}
	types := sp.Model.Types()
	for _, name := range slices.Concat(sp.Tables, sp.Asked) {
		pt := types[name]
		if pt == nil {
			return nil, fmt.Errorf("no row type for table %q", name)
		}
		t := &table{name: name, typ: pt.Elem(), by: map[string]*column{}, ext: -1, asked: slices.Contains(sp.Asked, name)}
		dbt := db.Table(name)
		if t.here = dbt != nil; t.here {
			if t.root, err = db.IsRoot(name); err != nil {
				return nil, err
			}
		}
		for i := range t.typ.NumField() {
			tag := t.typ.Field(i).Tag.Get("ovsdb")
			if tag == "_uuid" {
				t.uuid = i
				continue
			}
			if only, ok := sp.Only[name]; ok && !slices.Contains(only, tag) {
				continue
			}
			c := &column{name: tag, field: i}
			switch ft := t.typ.Field(i).Type; ft.Kind() {
			case reflect.Pointer:
				c.kind = optional
			case reflect.Slice:
				c.kind = set
			case reflect.Map:
				c.kind = dict
			default:
				c.kind = scalar
			}
			if t.here {
				if cs := dbt.Column(tag); cs != nil && fits(t.typ.Field(i).Type, cs) {
					c.here = true
					c.composite = cs.TypeObj.Max() != 1
					c.uuid = cs.TypeObj.Key.Type == ovsdb.TypeUUID
					c.uuids = cs.TypeObj.Value != nil && cs.TypeObj.Value.Type == ovsdb.TypeUUID
					if c.uuid {
						c.ref, _ = cs.TypeObj.Key.RefTable()
						rt, _ := cs.TypeObj.Key.RefType()
						c.strong = c.ref != "" && rt != ovsdb.Weak
					}
				}
			}
			if tag == "external_ids" {
				t.ext = i
			}
			t.columns = append(t.columns, c)
			t.by[tag] = c
		}
		for _, ic := range sp.Index[name] {
			c := t.by[ic]
			if c == nil {
				return nil, fmt.Errorf("no column %s.%s to look up by", name, ic)
			}
			t.index = append(t.index, c)
		}
		s.tables[name], s.types[t.typ] = t, t
	}
	return s, nil
}

// fits reports whether a column of the server can be a field's: a column that
// has got another type is as good as absent.
func fits(typ reflect.Type, cs *ovsdb.ColumnSchema) bool {
	if cs.TypeObj == nil || cs.TypeObj.Key == nil || (cs.TypeObj.Value != nil) != (typ.Kind() == reflect.Map) {
		return false
	}
	atom := func(t reflect.Type, b *ovsdb.BaseType) bool {
		switch b.Type {
		case ovsdb.TypeString, ovsdb.TypeUUID:
			return t.Kind() == reflect.String
		case ovsdb.TypeInteger:
			return t.Kind() == reflect.Int
		case ovsdb.TypeReal:
			return t.Kind() == reflect.Float64
		case ovsdb.TypeBoolean:
			return t.Kind() == reflect.Bool
		}
		return false
	}
	switch typ.Kind() {
	case reflect.Map:
		return atom(typ.Key(), cs.TypeObj.Key) && atom(typ.Elem(), cs.TypeObj.Value)
	case reflect.Pointer, reflect.Slice:
		return atom(typ.Elem(), cs.TypeObj.Key)
	}
	return atom(typ, cs.TypeObj.Key)
}

// same reports whether two servers offer the same columns.
func (s *schema) same(o *schema) bool {
	if len(s.tables) != len(o.tables) {
		return false
	}
	for n, t := range s.tables {
		u := o.tables[n]
		if u == nil || t.here != u.here || len(t.columns) != len(u.columns) {
			return false
		}
		for i, c := range t.columns {
			if *c != *u.columns[i] {
				return false
			}
		}
	}
	return true
}

// requests is the monitor request for all columns of both sides.
func (s *schema) requests() map[string]any {
	out := map[string]any{}
	for _, n := range slices.Sorted(maps.Keys(s.tables)) {
		t := s.tables[n]
		if !t.here || t.asked {
			continue
		}
		cols := []string{}
		for _, c := range t.columns {
			if c.here {
				cols = append(cols, c.name)
			}
		}
		out[n] = []any{map[string]any{"columns": cols}}
	}
	return out
}

// has reports whether the server has a table, or a column of it.
func (s *schema) has(tbl, col string) bool {
	t := s.tables[tbl]
	if t == nil || !t.here {
		return false
	}
	if col == "" {
		return true
	}
	c := t.by[col]
	return c != nil && c.here
}
