package leasestore

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

// Options of a [Store]. The zero value is usable.
type Options struct {
	// OfferHold is how long an offered address waits for its request; zero: 30 s.
	OfferHold time.Duration
	// DeclineHold is how long an address rests that a client found in use; zero: 24 h.
	DeclineHold time.Duration
	// CompactSize is the file size in bytes below which the file is never
	// rewritten; zero: 4 MiB.
	CompactSize int64
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Client is who holds a lease: Key tells clients of a scope apart, the rest
// is for people and for [dhcp.Lease].
type Client struct {
	Key      string // client identifier, hardware address, or DUID and IAID
	MAC      vnet.MAC
	ID       []byte // option 61 or DUID
	IAID     uint32
	Hostname string
}

// Pool is what may be given in one scope.
type Pool struct {
	Scope  string
	Ranges []dhcp.AddrRange // sorted, disjoint
	// Taken reports addresses of the ranges that must not be given, such as
	// reserved ones; nil: none.
	Taken func(netip.Addr) bool
}

func (p Pool) contains(a netip.Addr) bool {
	for _, r := range p.Ranges {
		if !a.Less(r.First) && !r.Last.Less(a) {
			return p.Taken == nil || !p.Taken(a)
		}
	}
	return false
}

type state byte

const (
	offered  state = 'O'
	bound    state = 'B'
	released state = 'R'
	declined state = 'D'
)

type entry struct {
	scope   string
	ip      netip.Addr
	client  Client
	state   state
	expires int64 // unix seconds; math.MaxInt64: never
	heap    int   // index in the scope's heap
}

// live reports whether the entry keeps its address from others.
func (e *entry) live(now int64) bool { return e.expires > now }

type table struct {
	byIP     map[netip.Addr]*entry
	byClient map[string]*entry
	ends     ends         // all entries, soonest end first
	free     []netip.Addr // offered once, never bound
	cursor   netip.Addr   // never used from here on; invalid: begin
	done     bool         // the cursor has come to the end
}

type ends []*entry

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].expires < h[j].expires }
func (h ends) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].heap, h[j].heap = i, j }
func (h *ends) Push(x any)        { e := x.(*entry); e.heap = len(*h); *h = append(*h, e) }
func (h *ends) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

// Store gives and remembers leases. It is safe for use by several goroutines.
type Store struct {
	o    Options
	path string

	mu     sync.Mutex
	tables map[string]*table
	n      int // entries
	log    log
}

// Open reads the store at path, made when it is absent; its directory must
// exist. An empty path gives a store that is in memory only. o may be nil.
func Open(path string, o *Options) (*Store, error) {
	s := &Store{path: path, tables: map[string]*table{}}
	s.log.done = sync.NewCond(&s.mu)
	if o != nil {
		s.o = *o
	}
	if s.o.OfferHold == 0 {
		s.o.OfferHold = 30 * time.Second
	}
	if s.o.DeclineHold == 0 {
		s.o.DeclineHold = 24 * time.Hour
	}
	if s.o.CompactSize == 0 {
		s.o.CompactSize = 4 << 20
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if err := s.log.open(path, s.replay); err != nil {
		return nil, fmt.Errorf("lease store %s: %w", path, err)
	}
	return s, nil
}

// Close flushes and closes the store.
func (s *Store) Close() error {
	err := s.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.log.close(); err == nil {
		err = e
	}
	return err
}

// Recovered says how many bytes at the end of the file were cut when it was
// opened: what a crash left half written.
func (s *Store) Recovered() int64 { return s.log.cut }

func (s *Store) now() int64 { return s.o.Now().Unix() }

func (s *Store) table(scope string) *table {
	t := s.tables[scope]
	if t == nil {
		t = &table{byIP: map[netip.Addr]*entry{}, byClient: map[string]*entry{}}
		s.tables[scope] = t
	}
	return t
}

func (s *Store) put(t *table, e *entry) {
	t.byIP[e.ip] = e
	t.byClient[e.client.Key] = e
	heap.Push(&t.ends, e)
	s.n++
}

func (s *Store) drop(t *table, e *entry) {
	delete(t.byIP, e.ip)
	if t.byClient[e.client.Key] == e {
		delete(t.byClient, e.client.Key)
	}
	heap.Remove(&t.ends, e.heap)
	s.n--
}

func (t *table) end(e *entry, st state, at int64) {
	e.state, e.expires = st, at
	heap.Fix(&t.ends, e.heap)
}

// Find returns the address that the client holds or was offered, and whether
// it is bound; ok is false when there is none.
func (s *Store) Find(scope, key string) (ip netip.Addr, isBound, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[scope]
	if t == nil {
		return
	}
	e := t.byClient[key]
	if e == nil || !e.live(s.now()) || e.state == declined {
		return
	}
	return e.ip, e.state == bound, true
}

// Offer returns an address for the client and holds it for OfferHold. want,
// when valid, is what the client would like. ok is false when the pool is full.
func (s *Store) Offer(p Pool, c Client, want netip.Addr) (ip netip.Addr, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, now := s.table(p.Scope), s.now()
	s.forgetOffers(t, now)
	hold := now + int64(s.o.OfferHold/time.Second)
	if e := t.byClient[c.Key]; e != nil && e.state != declined {
		if p.contains(e.ip) {
			if e.state != bound || !e.live(now) {
				// A released or ended lease is still the client's first choice,
				// and is on the disk: what is held changes in memory only.
				e.client = c
				t.end(e, offered, hold)
			}
			return e.ip, true
		}
		s.drop(t, e)
	}
	ip, ok = s.choose(t, p, c.Key, want, now)
	if !ok {
		return netip.Addr{}, false
	}
	if e := t.byIP[ip]; e != nil {
		s.drop(t, e)
	}
	s.put(t, &entry{scope: p.Scope, ip: ip, client: c, state: offered, expires: hold})
	return ip, true
}

// forgetOffers drops offers that nobody came for, so that a client which
// asks under ever new names cannot fill the memory.
func (s *Store) forgetOffers(t *table, now int64) {
	for len(t.ends) > 0 && t.ends[0].state == offered && !t.ends[0].live(now) {
		e := t.ends[0]
		s.drop(t, e)
		t.free = append(t.free, e.ip)
	}
}

func (s *Store) choose(t *table, p Pool, key string, want netip.Addr, now int64) (netip.Addr, bool) {
	usable := func(a netip.Addr) bool {
		e := t.byIP[a]
		return (e == nil || !e.live(now)) && p.contains(a)
	}
	if want.IsValid() && usable(want) {
		return want, true
	}
	if len(p.Ranges) > 0 && p.Ranges[0].First.Is6() {
		// Scattered, as RFC 7824 advises: sequential addresses are found by scanning.
		for i := range 16 {
			if a, ok := probe(p.Ranges[0], key, i); ok && t.byIP[a] == nil && p.contains(a) {
				return a, true
			}
		}
	}
	for n := len(t.free); n > 0; n = len(t.free) {
		a := t.free[n-1]
		t.free = t.free[:n-1]
		if usable(a) {
			return a, true
		}
	}
	for !t.done {
		a := t.advance(p)
		if a.IsValid() && t.byIP[a] == nil && p.contains(a) {
			return a, true
		}
	}
	// All were used: the one whose lease ended longest ago.
	for len(t.ends) > 0 && !t.ends[0].live(now) {
		e := t.ends[0]
		if p.contains(e.ip) {
			return e.ip, true
		}
		s.drop(t, e) // the pool has changed since
	}
	return netip.Addr{}, false
}

// advance moves the cursor to the next address of the pool's ranges.
func (t *table) advance(p Pool) netip.Addr {
	next := netip.Addr{}
	if t.cursor.IsValid() {
		next = t.cursor.Next()
	}
	for _, r := range p.Ranges {
		switch {
		case !next.IsValid() && !t.cursor.IsValid(), next.IsValid() && next.Less(r.First):
			t.cursor = r.First
			return t.cursor
		case next.IsValid() && !r.Last.Less(next):
			t.cursor = next
			return t.cursor
		}
	}
	t.done = true
	return netip.Addr{}
}

// probe returns the i-th address that the key's hash chooses in r.
func probe(r dhcp.AddrRange, key string, i int) (netip.Addr, bool) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", i, key)
	first, last := r.First.As16(), r.Last.As16()
	lo, hi := be64(first[8:]), be64(last[8:])
	if be64(first[:8]) != be64(last[:8]) {
		hi = math.MaxUint64
	}
	off := h.Sum64()
	if span := hi - lo; span < math.MaxUint64 {
		off %= span + 1
	}
	v := lo + off
	for j := range 8 {
		first[15-j] = byte(v >> (8 * j))
	}
	return netip.AddrFrom16(first), true
}

func be64(b []byte) uint64 {
	var v uint64
	for _, x := range b[:8] {
		v = v<<8 | uint64(x)
	}
	return v
}

// Bind gives the client the address for lease (negative: for ever). It fails
// when the address is another's, is not of the pool, or rests. The client may
// be told after the next Flush.
func (s *Store) Bind(p Pool, c Client, ip netip.Addr, lease time.Duration) (expires time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, now := s.table(p.Scope), s.now()
	if !p.contains(ip) {
		return time.Time{}, false
	}
	e := t.byIP[ip]
	if e != nil && (e.client.Key != c.Key || e.state == declined) {
		if e.live(now) {
			return time.Time{}, false
		}
		s.drop(t, e)
		e = nil
	}
	if old := t.byClient[c.Key]; old != nil && old != e && old.state != declined {
		s.drop(t, old)
		if old.state == bound {
			s.log.append(record{op: released, scope: p.Scope, ip: old.ip, client: old.client, expires: now})
		}
		t.free = append(t.free, old.ip)
	}
	end := int64(math.MaxInt64)
	if lease >= 0 {
		end = now + int64(lease/time.Second)
		expires = time.Unix(end, 0)
	}
	if e == nil {
		e = &entry{scope: p.Scope, ip: ip, client: c, state: bound, expires: end}
		s.put(t, e)
	} else {
		e.client = c
		t.end(e, bound, end)
	}
	s.log.append(record{op: bound, scope: p.Scope, ip: ip, client: c, expires: end})
	return expires, true
}

// Release ends the client's lease of ip now; it reports whether there was one.
func (s *Store) Release(scope, key string, ip netip.Addr) bool {
	return s.finish(scope, key, ip, released, 0)
}

// Decline ends the client's lease of ip and lets the address rest; it
// reports whether there was one.
func (s *Store) Decline(scope, key string, ip netip.Addr) bool {
	return s.finish(scope, key, ip, declined, s.o.DeclineHold)
}

func (s *Store) finish(scope, key string, ip netip.Addr, st state, hold time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[scope]
	if t == nil {
		return false
	}
	e := t.byIP[ip]
	if e == nil || e.client.Key != key || e.state != bound && e.state != offered {
		return false
	}
	at := s.now() + int64(hold/time.Second)
	t.end(e, st, at)
	if st == declined {
		delete(t.byClient, key) // the client gets another one
	}
	s.log.append(record{op: st, scope: scope, ip: ip, client: e.client, expires: at})
	return true
}

// Forget drops all leases of scopes that keep does not want.
func (s *Store) Forget(keep func(scope string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for scope, t := range s.tables {
		if !keep(scope) {
			s.n -= len(t.byIP)
			delete(s.tables, scope)
			s.log.append(record{op: opForget, scope: scope})
		}
	}
}

// Leases returns the bound leases that have not ended.
func (s *Store) Leases() []dhcp.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var out []dhcp.Lease
	for scope, t := range s.tables {
		for _, e := range t.byIP {
			if e.state != bound || !e.live(now) {
				continue
			}
			l := dhcp.Lease{ScopeID: scope, MAC: e.client.MAC, ClientID: e.client.ID, IAID: e.client.IAID, IP: e.ip, Hostname: e.client.Hostname}
			if e.expires != math.MaxInt64 {
				l.Expires = time.Unix(e.expires, 0)
			}
			out = append(out, l)
		}
	}
	return out
}

// replay takes one record of the file.
func (s *Store) replay(r record) {
	if r.op == opForget {
		if t := s.tables[r.scope]; t != nil {
			s.n -= len(t.byIP)
			delete(s.tables, r.scope)
		}
		return
	}
	t := s.table(r.scope)
	if e := t.byIP[r.ip]; e != nil {
		s.drop(t, e)
	}
	if r.op == bound {
		if e := t.byClient[r.client.Key]; e != nil {
			s.drop(t, e)
		}
	}
	// A declined address has no client: the client may hold another, and a
	// rewritten file has records in any order.
	holder := t.byClient[r.client.Key]
	s.put(t, &entry{scope: r.scope, ip: r.ip, client: r.client, state: r.op, expires: r.expires})
	if r.op == declined {
		delete(t.byClient, r.client.Key)
		if holder != nil {
			t.byClient[r.client.Key] = holder
		}
	}
}

// Flush returns when all that was appended before the call is on the disk.
// After an error nothing appended may be told to a client; the next Flush
// tries again by writing the whole file anew.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.log
	want := l.appended
	for l.flushed < want {
		if l.busy {
			l.done.Wait()
			if l.flushed < want && l.err != nil {
				return l.err
			}
			continue
		}
		if l.file == nil {
			return os.ErrClosed
		}
		upto, buf := l.appended, l.buf
		l.busy, l.buf = true, nil
		rewrite := l.err != nil || l.size+int64(len(buf)) > max(s.o.CompactSize, 3*l.live)
		if rewrite {
			buf = s.snapshot()
		}
		s.mu.Unlock()
		var err error
		if rewrite {
			err = l.replace(s.path, buf)
		} else {
			err = l.write(buf)
		}
		s.mu.Lock()
		l.busy, l.err = false, err
		if err == nil {
			l.flushed = upto
		}
		l.done.Broadcast()
		if err != nil {
			return fmt.Errorf("lease store %s: %w", s.path, err)
		}
	}
	return nil
}

// snapshot encodes all entries that are on the disk.
func (s *Store) snapshot() []byte {
	buf := make([]byte, 0, 64*s.n+len(magic))
	buf = append(buf, magic...)
	for _, t := range s.tables {
		for _, e := range t.byIP {
			if e.state != offered {
				buf = record{op: e.state, scope: e.scope, ip: e.ip, client: e.client, expires: e.expires}.encode(buf)
			}
		}
	}
	return buf
}
