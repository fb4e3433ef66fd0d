package ovn

import (
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/sbrow"
)

// reading is a state of a database, or one with changes over it.
type reading interface {
	Row(table, uuid string) any
	All(table string) iter.Seq2[string, any]
	Group(table, g string) iter.Seq2[string, any]
	Lookup(table, column, value string) []any
	Parents(table, uuid string) []ovsdb.Ref
}

// View is the databases at one moment; it never changes. Rows read from it are
// shared and must not be changed.
type View struct {
	c  *Conn
	nb reading      // nil without Northbound
	sb *ovsdb.State // nil without Southbound
}

// Reader is a [*View] or a [*Tx].
type Reader interface{ view() *View }

func (v *View) view() *View { return v }

// source finds the table of a row type and the database that has it.
func source[T any](r Reader) (reading, string) {
	v := r.view()
	typ := reflect.TypeFor[T]()
	if v.c.nb != nil && v.nb != nil {
		if name, ok := v.c.nb.State().TableOf(typ); ok {
			return v.nb, name
		}
	}
	if v.sb != nil {
		if name, ok := v.sb.TableOf(typ); ok {
			return v.sb, name
		}
	}
	if tx, is := r.(*Tx); is {
		switch {
		case typ.PkgPath() != southRows:
			tx.Fail(fmt.Errorf("no table of this handle has rows of type %s", typ))
		case v.c.sb == nil:
			tx.Fail(&vnet.UnsupportedError{Feature: "looking into the Southbound", Backend: "this connection", Need: "Options.Southbound"})
		default:
			tx.Fail(errSouth)
		}
	}
	return nil, ""
}

// southRows is the package of rows of the Southbound.
var southRows = reflect.TypeFor[sbrow.Chassis]().PkgPath()

// Find returns the row of a part for an object, or nil. T is a row type of
// internal/nbrow.
func Find[T any](r Reader, part vnet.Part, kind, id string) *T {
	row := At[T](r, UUID[T](r, part, kind, id))
	if row == nil || !r.view().c.ours(row, part) {
		return nil
	}
	return row
}

// UUID is the UUID that the row of a part for an object has, or would have. It
// is computed, and the same in every process.
func UUID[T any](r Reader, part vnet.Part, kind, id string) string {
	_, table := source[T](r)
	return Mark{r.view().c.owner, part, kind, id}.uuid(table)
}

// At returns the row with a UUID, whoever made it, or nil.
func At[T any](r Reader, uuid string) *T {
	src, table := source[T](r)
	if src == nil {
		return nil
	}
	row, _ := src.Row(table, uuid).(*T)
	return row
}

// By returns the rows, whoever made them, with a value in a column that is
// indexed: name, and in the Southbound also logical_port, chassis, datapath,
// hostname and chassis_name.
func By[T any](r Reader, column, value string) []*T {
	src, table := source[T](r)
	if src == nil {
		return nil
	}
	var out []*T
	for _, row := range src.Lookup(table, column, value) {
		out = append(out, row.(*T))
	}
	return out
}

// All yields all rows of a table, whoever made them, in no order.
func All[T any](r Reader) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		src, table := source[T](r)
		if src == nil {
			return
		}
		for _, row := range src.All(table) {
			if !yield(row.(*T)) {
				return
			}
		}
	}
}

// Own yields the rows of a table that a part of this owner has made, ordered
// by kind and id. Compare them with what is wanted by UUID.
func Own[T any](r Reader, part vnet.Part) iter.Seq2[Mark, *T] {
	return func(yield func(Mark, *T) bool) {
		src, table := source[T](r)
		if src == nil {
			return
		}
		type entry struct {
			m   Mark
			row *T
		}
		var all []entry
		for _, row := range src.Group(table, string(part)) {
			m, _ := MarkOf(externalIDs(row))
			all = append(all, entry{m, row.(*T)})
		}
		slices.SortFunc(all, func(a, b entry) int {
			if c := strings.Compare(a.m.Kind, b.m.Kind); c != 0 {
				return c
			}
			return strings.Compare(a.m.ID, b.m.ID)
		})
		for _, e := range all {
			if !yield(e.m, e.row) {
				return
			}
		}
	}
}

// Holder returns the row of type P that holds row by a strong reference (the
// Logical_Switch of a port, say), or nil.
func Holder[P any](r Reader, row any) *P {
	v := r.view()
	src, table := source[P](r)
	name, ok := v.c.table(row)
	if src == nil || !ok || absent(row) {
		return nil
	}
	for _, ref := range src.Parents(name, uuidOf(row)) {
		if ref.Table == table {
			p, _ := src.Row(table, ref.UUID).(*P)
			return p
		}
	}
	return nil
}

// absent reports whether a row is nil, of whatever type.
func absent(row any) bool {
	v := reflect.ValueOf(row)
	return row == nil || v.Kind() == reflect.Pointer && v.IsNil()
}

// tableOf is the table of a row that is to be written to. A nil one, which was
// looked for in vain, ends the transaction.
func (tx *Tx) tableOf(row any) (string, bool) {
	table, ok := tx.v.c.table(row)
	switch {
	case !ok:
		tx.Fail(fmt.Errorf("%T is no row", row))
	case absent(row):
		tx.Fail(fmt.Errorf("row of %s: %w", table, vnet.ErrNotFound))
		return "", false
	}
	return table, ok
}

func (c *Conn) table(row any) (string, bool) {
	if row == nil {
		return "", false
	}
	if c.nb != nil {
		if n, ok := c.nb.State().TableOf(reflect.TypeOf(row)); ok {
			return n, true
		}
	}
	if c.sb != nil {
		return c.sb.State().TableOf(reflect.TypeOf(row))
	}
	return "", false
}

// ours reports whether a row was made by a part of this owner; "": by any part.
func (c *Conn) ours(row any, part vnet.Part) bool {
	m, ok := MarkOf(externalIDs(row))
	return ok && m.Owner == c.owner && (part == "" || m.Part == part)
}

func field(row any, column string) (reflect.Value, bool) {
	v := reflect.ValueOf(row).Elem()
	t := v.Type()
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("ovsdb") == column {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func uuidOf(row any) string {
	f, _ := field(row, "_uuid")
	return f.String()
}

func externalIDs(row any) map[string]string {
	f, ok := field(row, "external_ids")
	if !ok {
		return nil
	}
	m, _ := f.Interface().(map[string]string)
	return m
}

// Tx is a transaction in the making, by one part. It is a [Reader]: what is
// read is what will be, also what other parts have put into the same batch. It
// remembers the first error it meets with, and does nothing after; Submit
// returns it. It is for one goroutine, and only within the function that got it.
type Tx struct {
	v    View
	x    *ovsdb.Tx
	part vnet.Part
	plan vnet.Plan
	err  error
	// rules that have been looked up, by table and whose row
	rules map[[2]string]*access
}

func (tx *Tx) view() *View { return &tx.v }

// Part is the part that writes.
func (tx *Tx) Part() vnet.Part { return tx.part }

// Conn is the connection, for names.
func (tx *Tx) Conn() *Conn { return tx.v.c }

// Fail ends the transaction with an error, if it has not ended by one.
func (tx *Tx) Fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// Err is the error that ended the transaction.
func (tx *Tx) Err() error { return tx.err }

// Change adds to what [Target.Plan] and [Batch.Changes] tell.
func (tx *Tx) Change(c vnet.Change) { tx.plan.Changes = append(tx.plan.Changes, c) }

// Changes are those that this submission has told of, for the delete budget:
// a Sync ends with "return o.Check(tx.Changes(), existing)".
func (tx *Tx) Changes() vnet.Plan { return tx.plan }

// Result says what a write does to a row. The zero Verb is nothing.
type Result struct {
	UUID string
	Verb vnet.Verb
	Diff []string // "COLUMN: OLD -> NEW", "COLUMN:KEY: OLD -> NEW", "COLUMN: +MEMBER", "COLUMN: -MEMBER"
}

// Record adds one change of an object that results carry: none when they do
// nothing, else with the verb of the first (an update when only others differ)
// and the differences of all rows that stay. It reports whether there was one.
func (tx *Tx) Record(kind, id string, impact vnet.Impact, results ...Result) bool {
	c := vnet.Change{Part: tx.part, Kind: kind, ID: id, Impact: impact}
	for i, r := range results {
		if r.Verb == "" {
			continue
		}
		if i == 0 {
			c.Verb = r.Verb
		} else if c.Verb == "" {
			c.Verb = vnet.Update
		}
		if r.Verb == vnet.Update {
			c.Diff = append(c.Diff, r.Diff...)
		}
	}
	if c.Verb == "" {
		return false
	}
	if c.Verb != vnet.Update {
		c.Diff = nil
	}
	tx.Change(c)
	return true
}

// Ensure makes the row of this part for an object be as want says, in the
// columns that the part has ([Columns]); what others have in it stays. A row
// that is new gets the mark, and all that want says; it must also be held by
// another row ([Tx.Hold]) unless its table is a root table. With columns given
// ("name", "options:mtu") only these are looked at, in a row that is there.
// A set that the part has as a whole is sent as a whole when it differs: of big
// ones change members ([Tx.Members]) and leave the column out.
// Columns that the server has not are left out: ask [Conn.Need] first where
// that matters. want is not kept.
func Ensure[T any](tx *Tx, kind, id string, want *T, columns ...string) Result {
	if tx.err != nil {
		return Result{}
	}
	_, table := source[T](tx)
	m := Mark{tx.v.c.owner, tx.part, kind, id}
	uuid := m.uuid(table)
	cur := At[T](tx, uuid)
	if cur != nil {
		if got, _ := MarkOf(externalIDs(cur)); got != m {
			tx.Fail(fmt.Errorf("row %s of %s, which would be ours, is marked as %+v: %w", uuid, table, got, vnet.ErrConflict))
			return Result{UUID: uuid}
		}
		return update(tx, table, cur, want, columns)
	}
	rule := tx.ruleOf(table, tx.part)
	if err := rule.check(want, tx.part, true); err != nil {
		tx.Fail(fmt.Errorf("%s %s: %w", kind, id, err))
		return Result{UUID: uuid}
	}
	n := clone(want)
	f, _ := field(n, "_uuid")
	f.SetString(uuid)
	e, ok := field(n, "external_ids")
	if !ok {
		tx.Fail(fmt.Errorf("table %s has no external_ids to mark rows in: %w", table, vnet.ErrUnsupported))
		return Result{}
	}
	e.Set(reflect.ValueOf(m.into(externalIDs(want))))
	tx.close(nil, n, true, nil, nil)
	if err := tx.x.Put(n); err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	tx.rematch(nil, n)
	return Result{UUID: uuid, Verb: vnet.Create}
}

// clone copies a row with its sets and maps: those of the caller may change.
func clone[T any](row *T) *T {
	n := new(T)
	*n = *row
	v := reflect.ValueOf(n).Elem()
	for i := range v.NumField() {
		switch m := v.Field(i).Interface().(type) {
		case map[string]string:
			v.Field(i).Set(reflect.ValueOf(maps.Clone(m)))
		case []string:
			v.Field(i).Set(reflect.ValueOf(slices.Clone(m)))
		}
	}
	return n
}

// Update makes a row that another part of this owner has made be as want says,
// in the columns that this part has in such rows ([Columns]); with columns
// given only in these. A row that is nil or gone ends the transaction with
// [vnet.ErrNotFound], also in Members, Hold and Guard.
func Update[T any](tx *Tx, row, want *T, columns ...string) Result {
	if tx.err != nil {
		return Result{}
	}
	table, ok := tx.tableOf(row)
	if !ok {
		return Result{}
	}
	cur := At[T](tx, uuidOf(row))
	if cur == nil {
		tx.Fail(fmt.Errorf("row %s of %s: %w", uuidOf(row), table, vnet.ErrNotFound))
		return Result{}
	}
	return update(tx, table, cur, want, columns)
}

func update[T any](tx *Tx, table string, cur, want *T, columns []string) Result {
	uuid := uuidOf(cur)
	rule, err := tx.rule(table, cur)
	if err == nil {
		err = rule.check(want, tx.part, false)
	}
	if err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	n := new(T)
	*n = *cur
	diff, whole, err := rule.merge(n, want, columns, tx.part, func(col string) bool { return tx.x.Base().Has(table, col) })
	if err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	asked := tx.part == vnet.PartOverlay && (len(columns) == 0 || slices.Contains(columns, "enabled"))
	diff, whole = tx.close(cur, n, asked, diff, whole)
	if len(diff) == 0 {
		return Result{UUID: uuid}
	}
	if err := tx.x.Put(n, whole...); err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	tx.rematch(cur, n)
	return Result{UUID: uuid, Verb: vnet.Update, Diff: diff}
}

// rule is what this part may write in a row that is there.
func (tx *Tx) rule(table string, row any) (*access, error) {
	m, ok := MarkOf(externalIDs(row))
	if !ok || m.Owner != tx.v.c.owner {
		return nil, fmt.Errorf("row %s of %s is not ours: %w", uuidOf(row), table, vnet.ErrConflict)
	}
	return tx.ruleOf(table, m.Part), nil
}

func (tx *Tx) ruleOf(table string, of vnet.Part) *access {
	k := [2]string{table, string(of)}
	a := tx.rules[k]
	if a == nil {
		a = ruleOf(tx.part, table, of)
		if tx.rules == nil {
			tx.rules = map[[2]string]*access{}
		}
		tx.rules[k] = a
	}
	return a
}

// Members adds members to a column that is a set, and removes others. The part
// must have the column, or its members ([Columns]).
func (tx *Tx) Members(row any, column string, add, remove []string) Result {
	if tx.err != nil {
		return Result{}
	}
	table, ok := tx.tableOf(row)
	if !ok {
		return Result{}
	}
	uuid := uuidOf(row)
	cur := tx.x.Row(table, uuid)
	if cur == nil {
		tx.Fail(fmt.Errorf("row %s of %s: %w", uuid, table, vnet.ErrNotFound))
		return Result{}
	}
	rule, err := tx.rule(table, cur)
	if err == nil && !rule.members(column) {
		err = rule.refuse(column)
	}
	if err == nil {
		err = tx.x.Member(table, uuid, column, add, remove)
	}
	if err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	now := tx.x.Row(table, uuid)
	if now == cur {
		return Result{UUID: uuid}
	}
	a, _ := field(cur, column)
	b, _ := field(now, column)
	if was, is := a.Interface().([]string); is { // not all of a big set is looked at
		r := Result{UUID: uuid, Verb: vnet.Update}
		for i, list := range [][]string{add, remove} {
			for _, m := range list {
				_, had := slices.BinarySearch(was, m)
				_, has := slices.BinarySearch(b.Interface().([]string), m)
				switch {
				case i == 0 && !had && has:
					r.Diff = append(r.Diff, column+": +"+m)
				case i == 1 && had && !has:
					r.Diff = append(r.Diff, column+": -"+m)
				}
			}
		}
		return r
	}
	return Result{UUID: uuid, Verb: vnet.Update, Diff: memberDiff(column, a, b)}
}

// Hold makes child, a UUID, a member of the column of holder that refers to it
// strongly, and of that column of no other row: a port of a switch, a rule of
// a group. holder may be of another part.
func (tx *Tx) Hold(holder any, column, child string) Result {
	if tx.err != nil {
		return Result{}
	}
	r := tx.Members(holder, column, []string{child}, nil)
	table, ok := tx.tableOf(holder)
	if !ok || tx.err != nil {
		return r
	}
	ref, err := tx.x.Refers(table, column)
	if err != nil {
		tx.Fail(err)
		return r
	}
	for _, p := range tx.x.Parents(ref, child) {
		if p.UUID == uuidOf(holder) || p.Table != table || p.Column != column {
			continue
		}
		tx.Members(tx.x.Row(p.Table, p.UUID), column, nil, []string{child})
	}
	return r
}

// Delete removes a row that this part has made, and it from what holds it. A
// row that is nil or gone is no error.
func (tx *Tx) Delete(row any) Result {
	if tx.err != nil || absent(row) {
		return Result{}
	}
	table, ok := tx.tableOf(row)
	if !ok {
		return Result{}
	}
	uuid := uuidOf(row)
	cur := tx.x.Row(table, uuid)
	if cur == nil {
		return Result{UUID: uuid}
	}
	if !tx.v.c.ours(cur, tx.part) {
		tx.Fail(fmt.Errorf("row %s of %s is not of part %s of owner %s: %w", uuid, table, tx.part, tx.v.c.owner, vnet.ErrConflict))
		return Result{UUID: uuid}
	}
	if err := tx.x.Delete(table, uuid); err != nil {
		tx.Fail(err)
		return Result{UUID: uuid}
	}
	tx.unlimit(cur)
	return Result{UUID: uuid, Verb: vnet.Delete}
}

// Guard lets the commit fail, and be computed anew, if a row, or one of these
// columns of it, is no longer on the server as this transaction's view has it:
// for decisions that rest on what is not written. Rows that are written are
// guarded so that they exist.
func (tx *Tx) Guard(row any, columns ...string) {
	if tx.err != nil {
		return
	}
	table, ok := tx.tableOf(row)
	if !ok {
		return
	}
	if err := tx.x.Guard(table, uuidOf(row), columns...); err != nil {
		tx.Fail(err)
	}
}

// memberDiff says what a set has got and lost.
func memberDiff(column string, a, b reflect.Value) []string {
	list := func(v reflect.Value) []string {
		switch s := v.Interface().(type) {
		case []string:
			return s
		case *string:
			if s != nil {
				return []string{*s}
			}
		}
		return nil
	}
	var out []string
	was, now := list(a), list(b) // sorted
	for _, s := range now {
		if _, in := slices.BinarySearch(was, s); !in {
			out = append(out, column+": +"+s)
		}
	}
	for _, s := range was {
		if _, in := slices.BinarySearch(now, s); !in {
			out = append(out, column+": -"+s)
		}
	}
	return out
}
