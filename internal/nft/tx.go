package nft

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// fpName is the map in each table of ours that says what stands in it.
const fpName = "fp"

const setConcat = 0x80 // NFT_SET_CONCAT

// fingerprint is a hash, of an object's name or of its content. In the map it
// is typed as an IPv6 address, the only type of nft's of this size.
type fingerprint [16]byte

func hash(kind string, parts ...[]byte) fingerprint {
	h := sha256.New()
	h.Write([]byte(kind))
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return fingerprint(h.Sum(nil)[:16])
}

func chainName(name string) fingerprint { return hash("chain", []byte(name)) }
func setName(name string) fingerprint   { return hash("set", []byte(name)) }

// definition is the fingerprint of what a set is, without its elements.
func (s Set) definition() fingerprint {
	return hash("set 1", fmt.Append(nil, s.Key, s.Data, s.Interval))
}

// Tx is a transaction being declared. Its methods keep the first error, which
// Do returns; most calls need no check.
type Tx struct {
	c      *Conn
	err    error
	tables map[Table]*txTable
	order  []*txTable
	once   map[any]bool
	sealed bool // nothing more is declared
}

// txTable is what was declared of a table.
type txTable struct {
	name   Table
	st     *tableState // nil: does not stand
	drop   bool        // what stands goes
	want   bool        // it is to stand
	chains map[string]*txChain
	sets   map[string]*txSet
}

// txChain is what a chain is to be.
type txChain struct {
	del   bool
	chain Chain
	rules []encodedRule
	fp    fingerprint
}

type encodedRule struct {
	exprs [][]byte
	note  string
	text  string
}

// txSet is what a set is to be.
type txSet struct {
	del   bool
	def   Set
	fp    fingerprint
	fresh bool // made anew: nothing of what stands counts
	fill  bool // what is not in elems goes
	elems map[elemKey]*elemVal
	diff  *elemDiff // once the transaction is sealed
}

// Fail makes the transaction fail with err, unless it has failed before.
func (tx *Tx) Fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// Once reports whether it is called for the first time with this key in this
// run of the transaction: what many steps declare need be declared once.
func (tx *Tx) Once(key any) bool {
	if tx.once[key] {
		return false
	}
	if tx.once == nil {
		tx.once = map[any]bool{}
	}
	tx.once[key] = true
	return true
}

func (tx *Tx) table(t Table) *txTable {
	x := tx.tables[t]
	if x == nil {
		x = &txTable{name: t, chains: map[string]*txChain{}, sets: map[string]*txSet{}}
		if tx.err == nil {
			var err error
			if x.st, err = tx.c.table(t); err != nil {
				tx.Fail(err)
			}
		}
		tx.tables[t] = x
		tx.order = append(tx.order, x)
	}
	return x
}

// stands is what stands and stays of a table.
func (x *txTable) stands() *tableState {
	if x.drop {
		return nil
	}
	return x.st
}

// Table makes a table stand. Sets and chains make theirs stand by themselves.
// A table of that name that has no fingerprints is not ours: [vnet.ErrConflict].
func (tx *Tx) Table(t Table) {
	x := tx.table(t)
	if st := x.stands(); st != nil && !st.ours {
		tx.Fail(fmt.Errorf("table %s is not ours: %w", t, vnet.ErrConflict))
	}
	if t.Name == "" || len(t.Name) > 127 {
		tx.Fail(fmt.Errorf("table name %q", t.Name))
	}
	x.want = true
}

// DeleteTable removes a table with all that is in it, if it stands.
func (tx *Tx) DeleteTable(t Table) {
	x := tx.table(t)
	if x.st != nil && !x.st.ours {
		tx.Fail(fmt.Errorf("table %s is not ours: %w", t, vnet.ErrConflict))
	}
	x.drop, x.want = true, false
	clear(x.chains)
	clear(x.sets)
}

// Set makes a set stand with this definition; its elements stay. With another
// definition of the same name it is made anew and empty, which the kernel
// refuses while chains that are not declared in this transaction use it.
func (tx *Tx) Set(s Set) { tx.set(s) }

func (tx *Tx) set(s Set) *txSet {
	if err := s.validate(); err != nil {
		tx.Fail(err)
	}
	tx.Table(s.Table)
	x := tx.tables[s.Table]
	fp := s.definition()
	if w := x.sets[s.Name]; w != nil && !w.del {
		if w.fp != fp {
			tx.Fail(fmt.Errorf("set %s %s is declared in two ways", s.Table, s.Name))
		}
		return w
	}
	w := &txSet{def: s, fp: fp, elems: map[elemKey]*elemVal{}}
	st := x.stands()
	w.fresh = st == nil || st.sets[s.Name] == nil || st.fp[setName(s.Name)] != fp || x.sets[s.Name] != nil
	x.sets[s.Name] = w
	return w
}

// DeleteSet removes a set, if it stands.
func (tx *Tx) DeleteSet(s Set) {
	x := tx.table(s.Table)
	x.sets[s.Name] = &txSet{del: true, def: s}
}

// standing is what stands in a set and counts.
func (tx *Tx) standing(w *txSet) map[elemKey]elemVal {
	if w.fresh || tx.err != nil {
		return nil
	}
	m, err := tx.c.elements(w.def.Table, w.def.Name)
	if err != nil {
		tx.Fail(err)
	}
	return m
}

// Add makes elements stand in a set, and the set. An element that stands with
// other data gets the new data.
func (tx *Tx) Add(s Set, e ...Element) {
	w := tx.set(s)
	for _, e := range e {
		from, to, err := s.encodeKey(e.Key)
		if err != nil {
			tx.Fail(err)
			return
		}
		data, err := s.encodeData(e.Data)
		if err != nil {
			tx.Fail(err)
			return
		}
		if len(e.Comment) > 127 {
			tx.Fail(fmt.Errorf("set %s: comment of %d bytes; 127 fit", s.Name, len(e.Comment)))
			return
		}
		w.elems[elemKey{from, to}] = &elemVal{data, e.Comment}
	}
}

// Remove takes elements out of a set by their keys; those that are not there
// are no error, nor is a set that does not stand.
func (tx *Tx) Remove(s Set, e ...Element) {
	if !tx.HasSet(s) {
		return
	}
	w := tx.set(s)
	for _, e := range e {
		from, to, err := s.encodeKey(e.Key)
		if err != nil {
			tx.Fail(err)
			return
		}
		w.elems[elemKey{from, to}] = nil
	}
}

// Fill makes the set stand with exactly these elements; only differences are sent.
func (tx *Tx) Fill(s Set, e ...Element) {
	w := tx.set(s)
	w.fill = true
	clear(w.elems)
	tx.Add(s, e...)
}

// Chain makes a chain stand with exactly these rules, and reports whether it
// differed. Chains it jumps to must stand or be declared; the sets it uses are
// declared by it.
func (tx *Tx) Chain(c Chain) bool {
	tx.Table(c.Table)
	x := tx.tables[c.Table]
	if c.Name == "" || len(c.Name) > 127 {
		tx.Fail(fmt.Errorf("chain name %q of table %s", c.Name, c.Table))
		return false
	}
	w := &txChain{chain: c}
	var parts [][]byte
	if c.Base != nil {
		parts = append(parts, fmt.Append(nil, *c.Base))
	} else {
		parts = append(parts, nil)
	}
	used := map[string]bool{}
	for _, r := range c.Rules {
		exprs, note, sets, err := r.encode(c.Table.Family)
		if err != nil {
			tx.Fail(fmt.Errorf("chain %s %s: %w", c.Table, c.Name, err))
			return false
		}
		for _, s := range sets {
			if s.Table != c.Table {
				tx.Fail(fmt.Errorf("chain %s %s: set %s is of table %s; a rule sees the sets of its table", c.Table, c.Name, s.Name, s.Table))
				return false
			}
			if !used[s.Name] {
				used[s.Name] = true
				// A set of another definition is another set: rules follow it.
				fp := tx.set(s).fp
				parts = append(parts, []byte(s.Name), fp[:])
			}
		}
		w.rules = append(w.rules, encodedRule{exprs, note, r.String()})
		parts = append(parts, []byte(note), slices.Concat(exprs...))
	}
	w.fp = hash("chain 1", parts...)
	x.chains[c.Name] = w
	return x.differs(w)
}

// differs reports whether a declared chain is not what stands.
func (x *txTable) differs(w *txChain) bool {
	st := x.stands()
	return st == nil || !st.chains[w.chain.Name] || st.fp[chainName(w.chain.Name)] != w.fp
}

// DeleteChain removes a chain with its rules, if it stands.
func (tx *Tx) DeleteChain(t Table, name string) {
	tx.table(t).chains[name] = &txChain{del: true, chain: Chain{Table: t, Name: name}}
}

// HasTable reports whether a table stands, with what was declared so far.
func (tx *Tx) HasTable(t Table) bool {
	x := tx.table(t)
	return x.want || x.stands() != nil
}

// HasChain reports whether a chain stands, with what was declared so far.
func (tx *Tx) HasChain(t Table, name string) bool {
	x := tx.table(t)
	if w := x.chains[name]; w != nil {
		return !w.del
	}
	st := x.stands()
	return st != nil && st.chains[name]
}

// HasSet reports whether a set stands, with what was declared so far.
func (tx *Tx) HasSet(s Set) bool {
	x := tx.table(s.Table)
	if w := x.sets[s.Name]; w != nil {
		return !w.del
	}
	st := x.stands()
	return st != nil && st.sets[s.Name] != nil
}

// Chains returns the names of a table's chains, with what was declared, sorted.
func (tx *Tx) Chains(t Table) []string {
	x := tx.table(t)
	var out []string
	for name, w := range x.chains {
		if !w.del {
			out = append(out, name)
		}
	}
	if st := x.stands(); st != nil {
		for name := range st.chains {
			if x.chains[name] == nil {
				out = append(out, name)
			}
		}
	}
	sort.Strings(out)
	return out
}

// Sets returns the names of a table's sets (without fp), with what was
// declared, sorted.
func (tx *Tx) Sets(t Table) []string {
	x := tx.table(t)
	var out []string
	for name, w := range x.sets {
		if !w.del {
			out = append(out, name)
		}
	}
	if st := x.stands(); st != nil {
		for name := range st.sets {
			if x.sets[name] == nil {
				out = append(out, name)
			}
		}
	}
	sort.Strings(out)
	return out
}

// Lookup returns the data of one key, with what was declared, and whether the
// key is there; of a set only the latter. A set that does not stand is empty.
func (tx *Tx) Lookup(s Set, key ...any) (data []any, ok bool) {
	from, to, err := s.encodeKey(key)
	if err != nil {
		tx.Fail(err)
	}
	if !tx.HasSet(s) || tx.err != nil {
		return nil, false
	}
	k := elemKey{from, to}
	w := tx.tables[s.Table].sets[s.Name]
	if w != nil {
		if v, declared := w.elems[k]; declared {
			if v == nil {
				return nil, false
			}
			return s.decodeElement(from, to, v.data, v.comment).Data, true
		}
		if w.fill || w.fresh {
			return nil, false
		}
	}
	m, err := tx.c.elements(s.Table, s.Name)
	if err != nil {
		tx.Fail(err)
		return nil, false
	}
	v, ok := m[k]
	if !ok {
		return nil, false
	}
	return s.decodeElement(from, to, v.data, v.comment).Data, true
}

// Elements returns what stands in a set, with what was declared, in the order
// of the keys' bytes. A set that does not stand is empty.
func (tx *Tx) Elements(s Set) []Element {
	if !tx.HasSet(s) || tx.err != nil {
		return nil
	}
	x := tx.tables[s.Table]
	w := x.sets[s.Name]
	if w == nil {
		m, err := tx.c.elements(s.Table, s.Name)
		if err != nil {
			tx.Fail(err)
		}
		return decodeAll(s, m)
	}
	m := map[elemKey]elemVal{}
	if !w.fill {
		maps.Copy(m, tx.standing(w))
	}
	for k, v := range w.elems {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = *v
		}
	}
	return decodeAll(s, m)
}

// Empty reports whether nothing would be sent.
func (tx *Tx) Empty() bool {
	d, err := tx.differences()
	return err == nil && len(d) == 0
}

// elemDiff is what changes in a set.
type elemDiff struct {
	add, del []elemKey // a changed element is in both
}

func (tx *Tx) diff(w *txSet) elemDiff {
	if w.diff != nil {
		return *w.diff
	}
	var d elemDiff
	if w.del {
		return d
	}
	now := tx.standing(w)
	for k, v := range w.elems {
		old, has := now[k]
		switch {
		case v == nil && has:
			d.del = append(d.del, k)
		case v != nil && has && old.data != v.data:
			d.del = append(d.del, k)
			d.add = append(d.add, k)
		case v != nil && !has:
			d.add = append(d.add, k)
		}
	}
	if w.fill {
		for k := range now {
			if _, keep := w.elems[k]; !keep {
				d.del = append(d.del, k)
			}
		}
	}
	byKey := func(a, b elemKey) int { return cmp.Compare(a.from, b.from) }
	slices.SortFunc(d.add, byKey)
	slices.SortFunc(d.del, byKey)
	if tx.sealed {
		w.diff = &d
	}
	return d
}

// differences says in words what would be sent.
func (tx *Tx) differences() ([]string, error) {
	msgs, err := tx.encode()
	if err != nil {
		return nil, err
	}
	var out []string
	seen := map[string]bool{}
	for _, m := range msgs {
		if m.what != "" && !seen[m.what] {
			seen[m.what] = true
			out = append(out, m.what)
		}
	}
	return out, nil
}

// part is some elements of a set.
type part struct {
	of   *txSet
	keys []elemKey
}

// preload returns, when the transaction adds too many elements for one, those
// of sets that nothing uses yet, in bounded portions; nil otherwise.
func (tx *Tx) preload() [][]part {
	n := 0
	var early []part
	for _, x := range tx.order {
		st := x.stands()
		for _, name := range slices.Sorted(maps.Keys(x.sets)) {
			w := x.sets[name]
			d := tx.diff(w)
			n += len(d.add)
			unused := !x.drop && (st == nil || st.sets[name] == nil || tx.c.loading[setRef{x.name, name}])
			// Elements of verdict maps name chains, which come with the transaction.
			if len(d.add) > 0 && len(d.del) == 0 && unused && !slices.Contains(w.def.Data, TypeVerdict) {
				early = append(early, part{w, d.add})
			}
		}
	}
	if n <= bulkElements || tx.err != nil {
		return nil
	}
	var out [][]part
	room := 0
	for _, p := range early {
		for len(p.keys) > 0 {
			if room == 0 {
				out, room = append(out, nil), bulkElements
			}
			k := min(room, len(p.keys))
			last := len(out) - 1
			out[last] = append(out[last], part{p.of, p.keys[:k]})
			p.keys, room = p.keys[k:], room-k
		}
	}
	return out
}

// load is a transaction of one portion.
func (c *Conn) load(parts []part) *Tx {
	tx := &Tx{c: c, tables: map[Table]*txTable{}}
	for _, p := range parts {
		w := tx.set(p.of.def)
		for _, k := range p.keys {
			w.elems[k] = p.of.elems[k]
		}
		c.loading[setRef{p.of.def.Table, p.of.def.Name}] = true
	}
	tx.sealed = true
	return tx
}

// encode is the batch: what differs, in an order that the kernel accepts.
func (tx *Tx) encode() ([]message, error) {
	if tx.err != nil {
		return nil, tx.err
	}
	var stages [11][]message
	put := func(stage int, m message) { stages[stage] = append(stages[stage], m) }
	for _, x := range tx.order {
		tx.encodeTable(x, put)
		if tx.err != nil {
			return nil, tx.err
		}
	}
	return slices.Concat(stages[:]...), nil
}

const (
	stDropTable = iota
	stNewTable
	stFlush
	stDelElem
	stDelChain
	stDelSet
	stNewSet
	stNewChain
	stNewElem
	stNewRule
	stFingerprint
)

func (tx *Tx) encodeTable(x *txTable, put func(int, message)) {
	t := x.name
	named := func(kind, name string) string { return kind + " " + t.String() + " " + name }
	msg := func(typ, flags uint16, what string, f func(*nlmsg)) message {
		var b nlmsg
		f(&b)
		return message{typ: typ, flags: flags, family: t.Family, body: b.b, what: what}
	}
	if x.st != nil && !x.st.ours && (x.drop || len(x.chains)+len(x.sets) > 0) {
		tx.Fail(fmt.Errorf("table %s is not ours: %w", t, vnet.ErrConflict))
		return
	}
	if x.drop && x.st != nil {
		put(stDropTable, msg(unix.NFT_MSG_DELTABLE, 0, "table "+t.String(), func(b *nlmsg) { b.str(unix.NFTA_TABLE_NAME, t.Name) }))
	}
	st := x.stands()
	if !x.want {
		if st == nil {
			return // nothing declared in it can be but removals
		}
	} else if st == nil {
		put(stNewTable, msg(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "table "+t.String(), func(b *nlmsg) {
			b.str(unix.NFTA_TABLE_NAME, t.Name)
			b.be32(unix.NFTA_TABLE_FLAGS, 0)
		}))
		put(stNewTable, newSet(fpSet(t), "table "+t.String()))
	}
	fp := map[fingerprint]*fingerprint{} // nil: gone

	for _, name := range slices.Sorted(maps.Keys(x.chains)) {
		w := x.chains[name]
		stands := st != nil && st.chains[name]
		what := named("chain", name)
		if w.del {
			if stands {
				put(stFlush, msg(unix.NFT_MSG_DELRULE, 0, what, func(b *nlmsg) {
					b.str(unix.NFTA_RULE_TABLE, t.Name)
					b.str(unix.NFTA_RULE_CHAIN, name)
				}))
				put(stDelChain, delChain(t, name, what))
				fp[chainName(name)], fp[hookName(name)] = nil, nil
			}
			continue
		}
		if !x.differs(w) {
			continue
		}
		hook := hookOf(w.chain)
		if stands {
			put(stFlush, msg(unix.NFT_MSG_DELRULE, 0, what, func(b *nlmsg) {
				b.str(unix.NFTA_RULE_TABLE, t.Name)
				b.str(unix.NFTA_RULE_CHAIN, name)
			}))
			// Where a chain hooks in cannot be changed: it is made anew.
			if st.fp[hookName(name)] != hook {
				put(stDelChain, delChain(t, name, what))
				stands = false
			}
		}
		if !stands {
			put(stNewChain, newChain(w.chain, what))
		}
		for _, r := range w.rules {
			put(stNewRule, msg(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, what, func(b *nlmsg) {
				b.str(unix.NFTA_RULE_TABLE, t.Name)
				b.str(unix.NFTA_RULE_CHAIN, name)
				b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
					for _, e := range r.exprs {
						b.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e)
					}
				})
				if r.note != "" {
					b.bytes(unix.NFTA_RULE_USERDATA, note(r.note))
				}
			}))
		}
		fp[chainName(name)] = &w.fp
		if st == nil || st.fp[hookName(name)] != hook {
			fp[hookName(name)] = &hook
		}
	}

	for _, name := range slices.Sorted(maps.Keys(x.sets)) {
		w := x.sets[name]
		what := named("set", name)
		stands := st != nil && st.sets[name] != nil
		if stands && (w.del || w.fresh) {
			put(stDelSet, msg(unix.NFT_MSG_DELSET, 0, what, func(b *nlmsg) {
				b.str(unix.NFTA_SET_TABLE, t.Name)
				b.str(unix.NFTA_SET_NAME, name)
			}))
			fp[setName(name)] = nil
		}
		if w.del {
			continue
		}
		if w.fresh {
			put(stNewSet, newSet(w.def, what))
			fp[setName(name)] = &w.fp
		}
		d := tx.diff(w)
		if len(d.add)+len(d.del) > 0 {
			what = fmt.Sprintf("%s: +%d -%d", what, len(d.add), len(d.del))
		}
		for _, m := range elemMessages(w.def, unix.NFT_MSG_DELSETELEM, 0, what, d.del, nil) {
			put(stDelElem, m)
		}
		for _, m := range elemMessages(w.def, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, what, d.add, w.elems) {
			put(stNewElem, m)
		}
	}
	tx.encodeFingerprints(x, st, fp, put)
}

func hookName(chain string) fingerprint { return hash("hook of", []byte(chain)) }

// hookOf is the fingerprint of where a chain hooks in.
func hookOf(c Chain) fingerprint {
	if c.Base == nil {
		return hash("no hook")
	}
	return hash("hook", fmt.Append(nil, *c.Base))
}

// encodeFingerprints brings the map fp up to date.
func (tx *Tx) encodeFingerprints(x *txTable, st *tableState, fp map[fingerprint]*fingerprint, put func(int, message)) {
	var del, add []elemKey
	data := map[elemKey]*elemVal{}
	for name, v := range fp {
		k := elemKey{string(name[:]), string(name[:])}
		var old fingerprint
		has := false
		if st != nil {
			old, has = st.fp[name]
		}
		if has && (v == nil || old != *v) {
			del = append(del, k)
		}
		if v != nil && (!has || old != *v) {
			add = append(add, k)
			data[k] = &elemVal{data: string(v[:])}
		}
	}
	byKey := func(a, b elemKey) int { return cmp.Compare(a.from, b.from) }
	slices.SortFunc(del, byKey)
	slices.SortFunc(add, byKey)
	s := fpSet(x.name)
	for _, m := range slices.Concat(elemMessages(s, unix.NFT_MSG_DELSETELEM, 0, "", del, nil),
		elemMessages(s, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "", add, data)) {
		m.elems = 0
		put(stFingerprint, m)
	}
}

func fpSet(t Table) Set {
	return Set{Table: t, Name: fpName, Key: []Type{TypeIPv6}, Data: []Type{TypeIPv6}}
}

// note is userdata with a comment (NFTNL_UDATA_RULE_COMMENT and
// NFTNL_UDATA_SET_ELEM_COMMENT are both 0): type, length, text.
func note(s string) []byte {
	return append(append([]byte{0, uint8(len(s) + 1)}, s...), 0)
}

func delChain(t Table, name, what string) message {
	var b nlmsg
	b.str(unix.NFTA_CHAIN_TABLE, t.Name)
	b.str(unix.NFTA_CHAIN_NAME, name)
	return message{typ: unix.NFT_MSG_DELCHAIN, family: t.Family, body: b.b, what: what}
}

func newChain(c Chain, what string) message {
	var b nlmsg
	b.str(unix.NFTA_CHAIN_TABLE, c.Table.Name)
	b.str(unix.NFTA_CHAIN_NAME, c.Name)
	if h := c.Base; h != nil {
		b.nest(unix.NFTA_CHAIN_HOOK, func() {
			b.be32(unix.NFTA_HOOK_HOOKNUM, uint32(h.Hook))
			b.be32(unix.NFTA_HOOK_PRIORITY, uint32(h.Priority))
		})
		policy := uint32(1) // NF_ACCEPT
		if h.Drop {
			policy = 0
		}
		b.be32(unix.NFTA_CHAIN_POLICY, policy)
		b.str(unix.NFTA_CHAIN_TYPE, string(h.Type))
	}
	return message{typ: unix.NFT_MSG_NEWCHAIN, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, family: c.Table.Family, body: b.b, what: what}
}

func newSet(s Set, what string) message {
	var b nlmsg
	b.str(unix.NFTA_SET_TABLE, s.Table.Name)
	b.str(unix.NFTA_SET_NAME, s.Name)
	var flags uint32
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.IsMap() {
		flags |= unix.NFT_SET_MAP
	}
	if len(s.Key) > 1 {
		flags |= setConcat
	}
	b.be32(unix.NFTA_SET_FLAGS, flags)
	b.be32(unix.NFTA_SET_KEY_TYPE, kernelType(s.Key))
	b.be32(unix.NFTA_SET_KEY_LEN, uint32(keyLen(s.Key)))
	if s.IsMap() {
		b.be32(unix.NFTA_SET_DATA_TYPE, kernelType(s.Data))
		if s.Data[0] != TypeVerdict {
			b.be32(unix.NFTA_SET_DATA_LEN, uint32(keyLen(s.Data)))
		}
	}
	if len(s.Key) > 1 {
		b.nest(unix.NFTA_SET_DESC, func() {
			b.nest(2, func() { // NFTA_SET_DESC_CONCAT
				for _, k := range s.Key {
					b.nest(unix.NFTA_LIST_ELEM, func() {
						b.be32(1, uint32(k.info().size)) // NFTA_SET_FIELD_LEN
					})
				}
			})
		})
	}
	// The id only matters to anonymous sets and to references within the
	// batch, which go by name.
	b.be32(unix.NFTA_SET_ID, 1)
	// How nft shows numbers: NFTNL_UDATA_SET_KEYBYTEORDER, _DATABYTEORDER.
	var u []byte
	if len(s.Key) == 1 {
		u = binary.NativeEndian.AppendUint32(append(u, 0, 4), uint32(s.Key[0].info().order))
	}
	if len(s.Data) == 1 && s.Data[0] != TypeVerdict {
		u = binary.NativeEndian.AppendUint32(append(u, 1, 4), uint32(s.Data[0].info().order))
	}
	if u != nil {
		b.bytes(unix.NFTA_SET_USERDATA, u)
	}
	return message{typ: unix.NFT_MSG_NEWSET, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, family: s.Table.Family, body: b.b, what: what}
}

// elemBytes is how much of elements one message takes: the attribute around
// them has a length of 16 bits.
const elemBytes = 60 << 10

// elemMessages are the messages that add (vals given) or remove elements.
func elemMessages(s Set, typ, flags uint16, what string, keys []elemKey, vals map[elemKey]*elemVal) []message {
	var out []message
	for len(keys) > 0 {
		var b nlmsg
		b.str(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
		b.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		n := 0
		b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for _, k := range keys {
				if len(b.b) > elemBytes {
					break
				}
				n++
				s.elem(&b, k, vals[k])
			}
		})
		out = append(out, message{typ: typ, flags: flags, family: s.Table.Family, body: b.b, what: what, elems: n})
		keys = keys[n:]
	}
	return out
}

// elem appends one element; intervals of one component are a beginning and,
// unless nothing follows the last key, an end after it.
func (s Set) elem(b *nlmsg, k elemKey, v *elemVal) {
	key := func(typ uint16, key string) {
		b.nest(typ, func() { b.bytes(unix.NFTA_DATA_VALUE, []byte(key)) })
	}
	b.nest(unix.NFTA_LIST_ELEM, func() {
		key(unix.NFTA_SET_ELEM_KEY, k.from)
		if s.Interval && len(s.Key) > 1 {
			key(elemKeyEnd, k.to)
		}
		if v == nil {
			return
		}
		if s.IsMap() {
			b.nest(unix.NFTA_SET_ELEM_DATA, func() {
				if s.Data[0] != TypeVerdict {
					b.bytes(unix.NFTA_DATA_VALUE, []byte(v.data))
					return
				}
				b.nest(unix.NFTA_DATA_VERDICT, func() {
					b.bytes(unix.NFTA_VERDICT_CODE, []byte(v.data[:4]))
					if len(v.data) > 4 {
						b.str(unix.NFTA_VERDICT_CHAIN, v.data[4:])
					}
				})
			})
		}
		if v.comment != "" {
			b.bytes(unix.NFTA_SET_ELEM_USERDATA, note(v.comment))
		}
	})
	if !s.Interval || len(s.Key) > 1 {
		return
	}
	if end := after(k.to); end != "" {
		b.nest(unix.NFTA_LIST_ELEM, func() {
			b.be32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
			key(unix.NFTA_SET_ELEM_KEY, end)
		})
	}
}

// apply takes a committed transaction over into the view.
func (tx *Tx) apply() {
	for _, x := range tx.order {
		st := x.stands()
		if !x.want && st == nil {
			delete(tx.c.names, x.name)
			delete(tx.c.tables, x.name)
			continue
		}
		diffs := map[string]elemDiff{} // before the view changes
		for name, w := range x.sets {
			diffs[name] = tx.diff(w)
		}
		if st == nil {
			st = &tableState{ours: true, chains: map[string]bool{}, sets: map[string]*setState{}, fp: map[fingerprint]fingerprint{}}
			tx.c.names[x.name] = true
		}
		tx.c.tables[x.name] = st
		for name, w := range x.chains {
			if w.del {
				delete(st.chains, name)
				delete(st.fp, chainName(name))
				delete(st.fp, hookName(name))
				continue
			}
			st.chains[name] = true
			st.fp[chainName(name)], st.fp[hookName(name)] = w.fp, hookOf(w.chain)
		}
		for name, w := range x.sets {
			if w.del {
				delete(st.sets, name)
				delete(st.fp, setName(name))
				continue
			}
			if w.fresh {
				st.sets[name] = &setState{interval: w.def.Interval, concat: len(w.def.Key) > 1, elems: map[elemKey]elemVal{}}
				st.fp[setName(name)] = w.fp
			}
			m := st.sets[name].elems
			if m == nil {
				continue // was not read, and nothing of it was declared
			}
			for _, k := range diffs[name].del {
				delete(m, k)
			}
			for _, k := range diffs[name].add {
				m[k] = *w.elems[k]
			}
		}
	}
}
