package nft

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// Doer enters a network namespace.
type Doer interface{ Do(func() error) error }

// Conn is the one writer of nftables in a namespace. Its methods may be called
// from several goroutines; transactions run one after the other.
type Conn struct {
	ns Doer

	mu     sync.Mutex
	s      *socket
	closed bool
	stats  Stats

	// What stands, as of generation gen. Read as far as needed.
	valid  bool
	gen    uint32
	names  map[Table]bool        // all tables, anybody's
	tables map[Table]*tableState // those that were looked at

	// loading are the sets that the running Do made to load elements in
	// several transactions: nothing uses them yet.
	loading map[setRef]bool
}

type setRef struct {
	table Table
	name  string
}

// tableState is what stands in a table.
type tableState struct {
	ours   bool // it has fingerprints
	chains map[string]bool
	sets   map[string]*setState
	fp     map[fingerprint]fingerprint
}

// setState is what stands in a set: elements by their key's bytes, or nil
// when they have not been read.
type setState struct {
	interval bool
	concat   bool
	elems    map[elemKey]elemVal
}

// elemKey is the first and last key of an element, which are the same in an
// exact set.
type elemKey struct{ from, to string }

type elemVal struct{ data, comment string }

// Open returns a connection in the namespace that ns enters. Its socket is
// opened when first used.
func Open(ns Doer) *Conn { return &Conn{ns: ns} }

// Close closes the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.s != nil {
		c.s.close()
		c.s = nil
	}
	c.invalidate()
	return nil
}

// bulkElements is how many elements one transaction may add: a longer one
// would hold up the packets of the host, which wait for nothing else.
// Elements of sets that nothing uses yet are loaded beforehand in several.
const bulkElements = 8192

// Do runs one transaction: f declares what is to stand, the difference is sent
// as one atomic batch. Nothing is sent when there is no difference or f
// returns an error. f may be called again when somebody else wrote in between;
// it must do nothing but declare.
//
// Elements of sets that the transaction makes are loaded in batches before it
// when they are very many: no rule uses those sets yet, so nobody sees it.
func (c *Conn) Do(ctx context.Context, f func(tx *Tx) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loading = map[setRef]bool{}
	err := errAgain
	for try := 0; try < 50 && errors.Is(err, errAgain); try++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		var tx *Tx
		if tx, err = c.declare(f); err != nil {
			break
		}
		if early := tx.preload(); early != nil {
			for _, p := range early {
				if err = ctx.Err(); err == nil {
					err = c.send(c.load(p))
				}
				if err != nil {
					break
				}
			}
			if err == nil {
				tx, err = c.declare(f)
			}
		}
		if err == nil {
			err = c.send(tx)
		}
		if err != nil {
			c.invalidate()
		}
	}
	return err
}

// Check says what Do would change, in words ("chain inet vnet-a x", "set inet
// vnet-a y: +3 -1"), and sends nothing.
func (c *Conn) Check(ctx context.Context, f func(tx *Tx) error) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tx, err := c.declare(f)
	if err != nil {
		return nil, err
	}
	return tx.differences()
}

// View runs f on what stands, and sends nothing, whatever f declares: many
// look-ups of one moment.
func (c *Conn) View(ctx context.Context, f func(tx *Tx) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := c.declare(f)
	return err
}

// declare runs f on a transaction over a fresh view.
func (c *Conn) declare(f func(*Tx) error) (*Tx, error) {
	if err := c.refresh(); err != nil {
		return nil, err
	}
	tx := &Tx{c: c, tables: map[Table]*txTable{}}
	if err := f(tx); err != nil {
		return nil, err
	}
	tx.sealed = true
	return tx, tx.err
}

// send commits a transaction, and takes it over into the view.
func (c *Conn) send(tx *Tx) error {
	msgs, err := tx.encode()
	if err != nil || len(msgs) == 0 {
		return err
	}
	if err := c.s.commit(msgs, c.gen); err != nil {
		return err
	}
	c.stats.Transactions++
	c.stats.Messages += uint64(len(msgs))
	for _, m := range msgs {
		c.stats.Elements += uint64(m.elems)
	}
	c.gen++
	if c.gen == 0 { // the kernel leaves it out
		c.gen = 1
	}
	tx.apply()
	return nil
}

// refresh makes the view one of the present generation.
func (c *Conn) refresh() error {
	if c.closed {
		return errClosed
	}
	if c.s == nil {
		if err := c.ns.Do(func() (err error) {
			c.s, err = openSocket()
			return err
		}); err != nil {
			return err
		}
	}
	gen, err := c.s.generation()
	if err != nil {
		return err
	}
	if c.valid && gen == c.gen {
		return nil
	}
	c.invalidate()
	c.gen = gen
	c.names = map[Table]bool{}
	c.tables = map[Table]*tableState{}
	c.stats.Reloads++
	err = c.s.dump(message{typ: unix.NFT_MSG_GETTABLE, flags: unix.NLM_F_DUMP, family: Family(unix.AF_UNSPEC), what: "tables"}, unix.NFT_MSG_NEWTABLE,
		func(f Family, b []byte) {
			_ = attrs(b, func(typ uint16, v []byte) {
				if typ == unix.NFTA_TABLE_NAME {
					c.names[Table{f, cstr(v)}] = true
				}
			})
		})
	if err != nil {
		return err
	}
	c.valid = true
	return nil
}

func (c *Conn) invalidate() { c.valid, c.names, c.tables = false, nil, nil }

// table is what stands in t; nil when it does not stand.
func (c *Conn) table(t Table) (*tableState, error) {
	if st, ok := c.tables[t]; ok {
		return st, nil
	}
	if !c.names[t] {
		return nil, nil
	}
	st := &tableState{chains: map[string]bool{}, sets: map[string]*setState{}, fp: map[fingerprint]fingerprint{}}
	err := c.s.dump(message{typ: unix.NFT_MSG_GETCHAIN, flags: unix.NLM_F_DUMP, family: t.Family, what: "chains"}, unix.NFT_MSG_NEWCHAIN,
		func(_ Family, b []byte) {
			var table, name string
			_ = attrs(b, func(typ uint16, v []byte) {
				switch typ {
				case unix.NFTA_CHAIN_TABLE:
					table = cstr(v)
				case unix.NFTA_CHAIN_NAME:
					name = cstr(v)
				}
			})
			if table == t.Name {
				st.chains[name] = true
			}
		})
	if err != nil {
		return nil, err
	}
	var q nlmsg
	q.str(unix.NFTA_SET_TABLE, t.Name)
	err = c.s.dump(message{typ: unix.NFT_MSG_GETSET, flags: unix.NLM_F_DUMP, family: t.Family, body: q.b, what: "sets of table " + t.String()}, unix.NFT_MSG_NEWSET,
		func(_ Family, b []byte) {
			var table, name string
			var flags uint32
			_ = attrs(b, func(typ uint16, v []byte) {
				switch typ {
				case unix.NFTA_SET_TABLE:
					table = cstr(v)
				case unix.NFTA_SET_NAME:
					name = cstr(v)
				case unix.NFTA_SET_FLAGS:
					flags = be32(v)
				}
			})
			if table != t.Name {
				return
			}
			if name == fpName {
				st.ours = true
				return
			}
			st.sets[name] = &setState{interval: flags&unix.NFT_SET_INTERVAL != 0, concat: flags&setConcat != 0}
		})
	if err != nil {
		return nil, err
	}
	if st.ours {
		err = c.readElements(t, fpName, func(e rawElem) {
			if len(e.key) == 16 && len(e.data) == 16 {
				st.fp[fingerprint([]byte(e.key))] = fingerprint([]byte(e.data))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	c.tables[t] = st
	return st, nil
}

// rawElem is an element as the kernel lists it.
type rawElem struct {
	key, keyEnd   string
	data, comment string
	end           bool // end of an interval, exclusive
}

func (c *Conn) readElements(t Table, set string, f func(rawElem)) error {
	var q nlmsg
	q.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	q.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	return c.s.dump(message{typ: unix.NFT_MSG_GETSETELEM, flags: unix.NLM_F_DUMP, family: t.Family, body: q.b, what: "set " + t.String() + " " + set}, unix.NFT_MSG_NEWSETELEM,
		func(_ Family, b []byte) {
			_ = attrs(b, func(typ uint16, v []byte) {
				if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					return
				}
				_ = attrs(v, func(_ uint16, v []byte) { f(parseElem(v)) })
			})
		})
}

const elemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END

func parseElem(b []byte) rawElem {
	var e rawElem
	value := func(v []byte) (out string) {
		_ = attrs(v, func(typ uint16, v []byte) {
			switch typ {
			case unix.NFTA_DATA_VALUE:
				out = string(v)
			case unix.NFTA_DATA_VERDICT:
				var code, chain string
				_ = attrs(v, func(typ uint16, v []byte) {
					switch typ {
					case unix.NFTA_VERDICT_CODE:
						code = string(v)
					case unix.NFTA_VERDICT_CHAIN:
						chain = cstr(v)
					}
				})
				out = code + chain
			}
		})
		return out
	}
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = value(v)
		case elemKeyEnd:
			e.keyEnd = value(v)
		case unix.NFTA_SET_ELEM_DATA:
			e.data = value(v)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = be32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_USERDATA:
			if len(v) > 2 && v[0] == 0 && int(v[1]) <= len(v)-2 { // NFTNL_UDATA_SET_ELEM_COMMENT
				e.comment = cstr(v[2 : 2+v[1]])
			}
		}
	})
	return e
}

// elements is what stands in a set; nil when the set does not stand.
func (c *Conn) elements(t Table, name string) (map[elemKey]elemVal, error) {
	st, err := c.table(t)
	if err != nil || st == nil || st.sets[name] == nil {
		return nil, err
	}
	set := st.sets[name]
	if set.elems != nil {
		return set.elems, nil
	}
	m := map[elemKey]elemVal{}
	var raw []rawElem
	err = c.readElements(t, name, func(e rawElem) {
		switch {
		case set.interval && !set.concat:
			raw = append(raw, e)
		case e.keyEnd != "":
			m[elemKey{e.key, e.keyEnd}] = elemVal{e.data, e.comment}
		default:
			m[elemKey{e.key, e.key}] = elemVal{e.data, e.comment}
		}
	})
	if err != nil {
		return nil, err
	}
	// Intervals of one component come as beginnings and (exclusive) ends.
	sort.Slice(raw, func(i, j int) bool {
		if raw[i].key != raw[j].key {
			return raw[i].key < raw[j].key
		}
		return raw[i].end && !raw[j].end
	})
	for i, e := range raw {
		if e.end {
			continue
		}
		to := ""
		if i+1 < len(raw) {
			to = before(raw[i+1].key)
		} else {
			for range e.key {
				to += "\xff"
			}
		}
		m[elemKey{e.key, to}] = elemVal{e.data, e.comment}
	}
	set.elems = m
	return m, nil
}

// Elements returns what stands in a set, decoded; [vnet.ErrNotFound] when
// there is no such set. The order is that of the keys' bytes.
func (c *Conn) Elements(ctx context.Context, s Set) ([]Element, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	m, err := c.elements(s.Table, s.Name)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("set %s %s: %w", s.Table, s.Name, vnet.ErrNotFound)
	}
	return decodeAll(s, m), nil
}

func decodeAll(s Set, m map[elemKey]elemVal) []Element {
	keys := make([]elemKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].from < keys[j].from })
	out := make([]Element, 0, len(keys))
	for _, k := range keys {
		if len(k.from) != keyLen(s.Key) {
			continue // of another definition of the same name
		}
		out = append(out, s.decodeElement(k.from, k.to, m[k].data, m[k].comment))
	}
	return out
}

// Lookup returns the data of one key of an exact map, and whether the key is
// there; of a set only the latter. [vnet.ErrNotFound] when there is no such set.
func (c *Conn) Lookup(ctx context.Context, s Set, key ...any) ([]any, bool, error) {
	from, to, err := s.encodeKey(key)
	if err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if err := c.refresh(); err != nil {
		return nil, false, err
	}
	m, err := c.elements(s.Table, s.Name)
	if err != nil {
		return nil, false, err
	}
	if m == nil {
		return nil, false, fmt.Errorf("set %s %s: %w", s.Table, s.Name, vnet.ErrNotFound)
	}
	v, ok := m[elemKey{from, to}]
	if !ok {
		return nil, false, nil
	}
	return s.decodeElement(from, to, v.data, v.comment).Data, true, nil
}

// Tables returns the tables that stand in the namespace, anybody's.
func (c *Conn) Tables(ctx context.Context) ([]Table, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	var out []Table
	for t := range c.names {
		out = append(out, t)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Family < out[j].Family || out[i].Family == out[j].Family && out[i].Name < out[j].Name
	})
	return out, nil
}

// Chains returns the names of a table's chains, sorted; nil when there is no
// such table.
func (c *Conn) Chains(ctx context.Context, t Table) ([]string, error) {
	return c.namesOf(ctx, t, func(st *tableState) (out []string) {
		for n := range st.chains {
			out = append(out, n)
		}
		return out
	})
}

// Sets returns the names of a table's sets and maps (without fp), sorted.
func (c *Conn) Sets(ctx context.Context, t Table) ([]string, error) {
	return c.namesOf(ctx, t, func(st *tableState) (out []string) {
		for n := range st.sets {
			out = append(out, n)
		}
		return out
	})
}

func (c *Conn) namesOf(ctx context.Context, t Table, f func(*tableState) []string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	st, err := c.table(t)
	if err != nil || st == nil {
		return nil, err
	}
	out := f(st)
	sort.Strings(out)
	return out, nil
}

// Stats counts what a connection has sent since it was opened.
type Stats struct {
	Transactions uint64 // batches committed
	Messages     uint64 // messages in them, without begin and end
	Elements     uint64 // set elements in those messages, fingerprints left out
	Reloads      uint64 // times that what stands was read anew
}

// Stats returns the counts.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Writes is the number of messages sent: unchanged means nothing was written.
func (c *Conn) Writes() uint64 { return c.Stats().Messages }
