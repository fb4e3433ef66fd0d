package ovs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/internal/vswitchrow"
)

// What has numbers.
const (
	kindPort    = "port"
	kindNetwork = "network"
	kindRouter  = "router"
	kindPatch   = "patch"  // an end in a physical network's bridge
	kindTunnel  = "tunnel" // always has the number it has
)

// limit is the highest number of a kind.
func limit(kind string) uint16 {
	switch kind {
	case kindPort:
		return pipeline.Ports
	case kindNetwork:
		return pipeline.Networks
	case kindRouter:
		return pipeline.Routers
	case kindPatch:
		return pipeline.Patches
	}
	return 0
}

type numbered struct{ kind, id string }

func (k numbered) key() string { return keyNumber + k.kind + ":" + k.id }

// claim is a number and the parts that use it.
type claim struct {
	n     uint16
	parts []vnet.Part // sorted
}

func (c claim) String() string {
	out := strconv.Itoa(int(c.n))
	for _, p := range c.parts {
		out += " " + string(p)
	}
	return out
}

func (c claim) with(ps ...vnet.Part) claim {
	c.parts = slices.Concat(c.parts, ps)
	slices.Sort(c.parts)
	c.parts = slices.Compact(c.parts)
	return c
}

func (c claim) without(ps ...vnet.Part) claim {
	c.parts = slices.DeleteFunc(slices.Clone(c.parts), func(p vnet.Part) bool { return slices.Contains(ps, p) })
	return c
}

func parseClaim(s string) (c claim, ok bool) {
	first, rest, _ := strings.Cut(s, " ")
	n, err := strconv.ParseUint(first, 10, 16)
	if err != nil || n == 0 {
		return c, false
	}
	c.n = uint16(n)
	for p := range strings.FieldsSeq(rest) {
		c.parts = append(c.parts, vnet.Part(p))
	}
	return c, true
}

// claims are those in a bridge's external_ids.
func claims(ext map[string]string, each func(numbered, claim)) {
	for k, v := range ext {
		if rest, ok := strings.CutPrefix(k, keyNumber); ok {
			kind, id, ok := strings.Cut(rest, ":")
			if c, good := parseClaim(v); ok && good {
				each(numbered{kind, id}, c)
			}
		}
	}
}

// set is a set of numbers.
type set []uint64

func (s set) has(n uint16) bool { return int(n>>6) < len(s) && s[n>>6]>>(n&63)&1 == 1 }

func (s set) highest() uint16 {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != 0 {
			return uint16(i<<6 + bits.Len64(s[i]) - 1)
		}
	}
	return 0
}

// put returns s with or without n.
func (s set) put(n uint16, in bool) set {
	out := make(set, max(len(s), int(n>>6)+1))
	copy(out, s)
	if in {
		out[n>>6] |= 1 << (n & 63)
	} else {
		out[n>>6] &^= 1 << (n & 63)
	}
	return out
}

// book remembers which numbers bridges have, so that a change costs what it
// changes, however many there are. It is never believed about a bridge whose
// numbers have another version.
type book struct {
	mu      sync.Mutex
	bridges map[string]page   // by UUID
	next    map[string]uint16 // by kind: where to look for a free one
}

// page is what a bridge has.
type page struct {
	version string
	taken   map[string]set // by kind; never changed
}

func (b *book) page(r *vswitchrow.Bridge) page {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, version := b.bridges[r.UUID], r.ExternalIDs[keyVersion]
	if p.version == version && version != "" {
		return p
	}
	p = page{version, map[string]set{}}
	claims(r.ExternalIDs, func(k numbered, c claim) {
		s := p.taken[k.kind]
		if s == nil {
			s = make(set, int(limit(k.kind)>>6)+1)
		}
		if c.n <= limit(k.kind) {
			s[c.n>>6] |= 1 << (c.n & 63)
		}
		p.taken[k.kind] = s
	})
	b.bridges[r.UUID] = p
	return p
}

// turn says what became of our own bridge's numbers by our own change.
func (b *book) turn(bridge, from, to string, now map[numbered]claim, next map[string]uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.bridges[bridge]
	if p.version != from {
		return
	}
	p = page{to, maps.Clone(p.taken)}
	for k, c := range now {
		if k.kind != kindTunnel {
			p.taken[k.kind] = p.taken[k.kind].put(c.n, len(c.parts) > 0)
		}
	}
	maps.Copy(b.next, next)
	b.bridges[bridge] = p
}

// numbers are those of this owner as they will be, over how they stand.
type numbers struct {
	s       *Switch
	st      *ovsdb.State
	ext     map[string]string  // of our bridge
	want    map[numbered]claim // what was asked about; given back: no parts
	version string
	taken   map[string][]set // by kind: by whomever, for owners of one switch share the zones of conntrack
	mine    map[string]set   // taken since
	next    map[string]uint16
}

func (s *Switch) numbersOf(st *ovsdb.State) *numbers {
	x := &numbers{s: s, st: st, want: map[numbered]claim{}, mine: map[string]set{}, next: map[string]uint16{}}
	if b, ok := st.Row("Bridge", s.bridgeMark().uuid("Bridge")).(*vswitchrow.Bridge); ok {
		x.ext, x.version = b.ExternalIDs, b.ExternalIDs[keyVersion]
	}
	return x
}

func (x *numbers) stood(k numbered) (claim, bool) { return parseClaim(x.ext[k.key()]) }

// get is the number of a thing as it will be.
func (x *numbers) get(k numbered) (claim, bool) {
	c, ok := x.want[k]
	if !ok {
		c, ok = x.stood(k)
	}
	return c, ok && len(c.parts) > 0
}

// number claims a number for a part.
func (x *numbers) number(part vnet.Part, k numbered) (uint16, error) {
	c, ok := x.want[k]
	if !ok {
		c, ok = x.stood(k)
	}
	if !ok {
		n, err := x.free(k)
		if err != nil {
			return 0, err
		}
		c.n = n
	}
	x.want[k] = c.with(part)
	return c.n, nil
}

// free finds a number. It goes round, so that one that was given back is not
// given again at once.
func (x *numbers) free(k numbered) (uint16, error) {
	if k.kind == kindTunnel {
		return tunnelNumber(TunnelKind(k.id)), nil
	}
	if x.taken == nil {
		x.taken = map[string][]set{}
		for _, r := range x.st.All("Bridge") {
			if b := r.(*vswitchrow.Bridge); b.ExternalIDs[keyOwner] != "" {
				for kind, s := range x.s.book.page(b).taken {
					x.taken[kind] = append(x.taken[kind], s)
				}
			}
		}
	}
	highest := limit(k.kind)
	if x.next[k.kind] == 0 {
		x.s.book.mu.Lock()
		next := x.s.book.next[k.kind]
		x.s.book.mu.Unlock()
		if next == 0 {
			for _, s := range x.taken[k.kind] {
				next = max(next, s.highest()+1)
			}
		}
		x.next[k.kind] = next
		x.mine[k.kind] = make(set, int(highest>>6)+1)
	}
	mine := x.mine[k.kind]
	for range highest {
		n := x.next[k.kind]
		if n == 0 || n > highest {
			n = 1
		}
		x.next[k.kind] = n + 1
		if !mine.has(n) && !slices.ContainsFunc(x.taken[k.kind], func(s set) bool { return s.has(n) }) {
			mine[n>>6] |= 1 << (n & 63)
			return n, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers of a %s are taken on this switch: %w", highest, k.kind, vnet.ErrConflict)
}

func (x *numbers) release(part vnet.Part, k numbered) {
	if c, ok := x.get(k); ok && slices.Contains(c.parts, part) {
		x.want[k] = c.without(part)
	}
}

// keepOnly releases all that a part has not asked for.
func (x *numbers) keepOnly(part vnet.Part, used map[numbered]bool) {
	claims(x.ext, func(k numbered, _ claim) {
		if !used[k] {
			x.release(part, k)
		}
	})
	for k := range x.want {
		if !used[k] {
			x.release(part, k)
		}
	}
}

// changed are the parts that got a number, and those that lost it.
func (x *numbers) changed() (got, lost map[numbered][]vnet.Part) {
	got, lost = map[numbered][]vnet.Part{}, map[numbered][]vnet.Part{}
	for k, c := range x.want {
		have, _ := x.stood(k)
		if more := c.without(have.parts...).parts; len(more) > 0 {
			got[k] = more
		}
		if gone := have.without(c.parts...).parts; len(gone) > 0 {
			lost[k] = gone
		}
	}
	return got, lost
}

func (tx *Tx) number(kind, id string) uint16 {
	k := numbered{kind, id}
	n, err := tx.v.numbers.number(tx.part, k)
	if err != nil {
		tx.fail(err)
		return 1
	}
	tx.used[k] = true
	return n
}

// PortNumber is the number of a port of this host: its OpenFlow port, and what
// registers 2 and 3 say. This part uses it from now on, until the part's own
// object of kind "port" and this id is deleted, or [Tx.Release].
func (tx *Tx) PortNumber(id string) uint16 { return tx.number(kindPort, id) }

// NetworkNumber is the number of a network: register 1, and its conntrack zone.
func (tx *Tx) NetworkNumber(id string) uint16 { return tx.number(kindNetwork, id) }

// RouterNumber is the number of a router: register 4.
func (tx *Tx) RouterNumber(id string) uint16 { return tx.number(kindRouter, id) }

// Known is the number of a thing ("port", "network", "router") that some part
// uses, without using it.
func (tx *Tx) Known(kind, id string) (uint16, bool) {
	c, ok := tx.v.numbers.get(numbered{kind, id})
	return c.n, ok
}

// Users are the parts that use a number.
func (tx *Tx) Users(kind, id string) []vnet.Part {
	c, _ := tx.v.numbers.get(numbered{kind, id})
	return slices.Clone(c.parts)
}

// Release says that this part does not use a number any more.
func (tx *Tx) Release(kind, id string) {
	k := numbered{kind, id}
	delete(tx.used, k)
	tx.v.numbers.release(tx.part, k)
}

// Number is the number of a thing as it stands.
func (s *Switch) Number(kind, id string) (uint16, bool) {
	c, ok := s.numbersOf(s.db.State()).stood(numbered{kind, id})
	return c.n, ok
}

var errTaken = errors.New("another process was faster")

// claim writes the numbers that are new, and makes devices, before flows refer
// to them.
func (v *view) claim(ctx context.Context) error {
	x := v.numbers
	got, _ := x.changed()
	if len(got) > 0 {
		now := map[numbered]claim{}
		for k, parts := range got {
			have, _ := x.stood(k)
			now[k] = claim{x.want[k].n, have.parts}.with(parts...)
		}
		if err := x.write(ctx, now, true); err != nil {
			return err
		}
	}
	for _, f := range v.devices {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// write makes claims be as given, unless the numbers are others than x has
// seen: then, or when it is not known whether it was done, it is errTaken. Those
// without parts go. Numbers that are new are guarded against all bridges.
func (x *numbers) write(ctx context.Context, now map[numbered]claim, fresh bool) error {
	s, id := x.s, x.s.bridgeMark().uuid("Bridge")
	ops := []ovsdb.Operation{ovsdb.HasPair("Bridge", id, "external_ids", keyVersion, x.version)}
	if fresh {
		for u, r := range x.st.All("Open_vSwitch") { // an owner may be new
			ops = append(ops, ovsdb.RefersTo("Open_vSwitch", u, "bridges", r.(*vswitchrow.OpenvSwitch).Bridges))
		}
		for u, r := range x.st.All("Bridge") {
			if v := r.(*vswitchrow.Bridge).ExternalIDs[keyVersion]; u != id && v != "" {
				ops = append(ops, ovsdb.HasPair("Bridge", u, "external_ids", keyVersion, v))
			}
		}
	}
	version := rand.Text()
	set, gone := map[string]string{keyVersion: version}, []string(nil)
	for k, c := range now {
		if len(c.parts) > 0 {
			set[k.key()] = c.String()
		} else {
			gone = append(gone, k.key())
		}
	}
	slices.Sort(gone)
	_, err := s.db.Transact(ctx, append(ops, ovsdb.SetPairs("Bridge", id, "external_ids", set, gone...)))
	var te *ovsdb.TransactError
	switch {
	case err == nil:
		s.writes.Add(uint64(len(now)))
		s.book.turn(id, x.version, version, now, x.next)
		return nil
	case ctx.Err() != nil:
	case errors.As(err, &te) && (te.Race() || te.Temporary()), ovsdb.Lost(err), errors.Is(err, vnet.ErrNotReady):
		return errTaken
	}
	return fmt.Errorf("numbers of bridge %s: %w", s.o.Bridge, err)
}

// outdated waits a moment for what made a write fail to be seen.
func (s *Switch) outdated(ctx context.Context, st *ovsdb.State) error {
	wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	s.db.Wait(wait, func(now *ovsdb.State) bool { return now.Version > st.Version })
	return ctx.Err()
}

// free gives back the numbers that nobody uses, when the flows are gone.
func (v *view) free(ctx context.Context) error {
	_, lost := v.numbers.changed()
	for k, parts := range lost {
		have, _ := v.numbers.stood(k)
		if len(have.without(parts...).parts) > 0 {
			continue
		}
		for _, z := range zones(k.kind, have.n) {
			if err := v.conn.FlushZone(ctx, z); err != nil {
				return err
			}
		}
	}
	if err := v.giveBack(ctx, lost); err != nil {
		return err
	}
	if len(v.whole) > 0 {
		return v.s.prune(ctx)
	}
	return nil
}

// giveBack takes parts off claims as they are now.
func (v *view) giveBack(ctx context.Context, lost map[numbered][]vnet.Part) error {
	for len(lost) > 0 {
		st, err := v.s.db.Ready(ctx)
		if err != nil {
			return err
		}
		x := v.s.numbersOf(st)
		now := map[numbered]claim{}
		for k, parts := range lost {
			c, ok := x.stood(k)
			if left := c.without(parts...); ok && c.n == v.numbers.want[k].n && len(left.parts) < len(c.parts) {
				now[k] = left
			}
		}
		if len(now) == 0 {
			return nil
		}
		if err := x.write(ctx, now, false); !errors.Is(err, errTaken) {
			return err
		}
		if err := v.s.outdated(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

func zones(kind string, n uint16) []uint16 {
	switch kind {
	case kindPort:
		return []uint16{pipeline.ZoneOfPort(n)}
	case kindNetwork:
		return []uint16{pipeline.ZoneOfNetwork(n)}
	case kindRouter:
		a, b := pipeline.ZonesOfRouter(n)
		return []uint16{a, b}
	}
	return nil
}
