package ovs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

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
	kindPatch   = "patch" // an end in a physical network's bridge
)

var limits = map[string]uint16{kindPort: pipeline.Ports, kindNetwork: pipeline.Networks, kindRouter: pipeline.Routers, kindPatch: 1000}

type numbered struct{ kind, id string }

// claim is a number and the parts that use it.
type claim struct {
	n     uint16
	parts []vnet.Part
}

func (c claim) String() string {
	out := strconv.Itoa(int(c.n))
	for _, p := range c.parts {
		out += " " + string(p)
	}
	return out
}

func parseClaim(s string) (c claim, ok bool) {
	f := strings.Fields(s)
	if len(f) == 0 {
		return c, false
	}
	n, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil || n == 0 {
		return c, false
	}
	c.n = uint16(n)
	for _, p := range f[1:] {
		c.parts = append(c.parts, vnet.Part(p))
	}
	return c, true
}

// numbers are those of this owner as they will be, and which are taken by
// whomever: owners of one switch share the zones of conntrack.
type numbers struct {
	have, want map[numbered]claim
	taken      map[string]map[uint16]bool
	next       map[string]uint16
}

func numbersIn(ext map[string]string) map[numbered]claim {
	out := map[numbered]claim{}
	for k, v := range ext {
		rest, ok := strings.CutPrefix(k, keyNumber)
		if !ok {
			continue
		}
		kind, id, ok := strings.Cut(rest, ":")
		if c, good := parseClaim(v); ok && good {
			out[numbered{kind, id}] = c
		}
	}
	return out
}

func (s *Switch) numbersOf(st *ovsdb.State) *numbers {
	x := &numbers{have: map[numbered]claim{}, taken: map[string]map[uint16]bool{}, next: map[string]uint16{}}
	for _, r := range st.All("Bridge") {
		b := r.(*vswitchrow.Bridge)
		mine := b.UUID == s.bridgeMark().uuid("Bridge")
		for k, c := range numbersIn(b.ExternalIDs) {
			if x.taken[k.kind] == nil {
				x.taken[k.kind] = map[uint16]bool{}
			}
			x.taken[k.kind][c.n] = true
			if mine {
				x.have[k] = c
			}
		}
	}
	x.want = map[numbered]claim{}
	for k, c := range x.have {
		x.want[k] = c
	}
	return x
}

// number claims a number for a part.
func (x *numbers) number(part vnet.Part, k numbered) (uint16, error) {
	c, ok := x.want[k]
	if !ok {
		if old, had := x.have[k]; had { // given up in this very submission
			c = claim{n: old.n}
		} else {
			n, err := x.free(k.kind)
			if err != nil {
				return 0, err
			}
			c = claim{n: n}
		}
	}
	if !slices.Contains(c.parts, part) {
		c.parts = append(slices.Clone(c.parts), part)
		slices.Sort(c.parts)
	}
	x.want[k] = c
	return c.n, nil
}

// free finds a number. It goes round, so that one that was given back is not
// given again at once.
func (x *numbers) free(kind string) (uint16, error) {
	taken := x.taken[kind]
	if taken == nil {
		taken = map[uint16]bool{}
		x.taken[kind] = taken
	}
	if x.next[kind] == 0 {
		highest := uint16(0)
		for n := range taken {
			highest = max(highest, n)
		}
		x.next[kind] = highest + 1
	}
	for range limits[kind] {
		n := x.next[kind]
		if n == 0 || n > limits[kind] {
			n = 1
		}
		x.next[kind] = n + 1
		if !taken[n] {
			taken[n] = true
			return n, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers of a %s are taken on this switch: %w", limits[kind], kind, vnet.ErrConflict)
}

func (x *numbers) release(part vnet.Part, k numbered) {
	c, ok := x.want[k]
	if !ok {
		return
	}
	c.parts = slices.DeleteFunc(slices.Clone(c.parts), func(p vnet.Part) bool { return p == part })
	if len(c.parts) == 0 {
		delete(x.want, k)
	} else {
		x.want[k] = c
	}
}

// keepOnly releases all that a part has not asked for.
func (x *numbers) keepOnly(part vnet.Part, used map[numbered]bool) {
	for k, c := range x.want {
		if !used[k] && slices.Contains(c.parts, part) {
			x.release(part, k)
		}
	}
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
	c, ok := tx.v.numbers.want[numbered{kind, id}]
	return c.n, ok
}

// Users are the parts that use a number.
func (tx *Tx) Users(kind, id string) []vnet.Part {
	return slices.Clone(tx.v.numbers.want[numbered{kind, id}].parts)
}

// Release says that this part does not use a number any more.
func (tx *Tx) Release(kind, id string) {
	k := numbered{kind, id}
	delete(tx.used, k)
	tx.v.numbers.release(tx.part, k)
}

// Number is the number of a thing as it stands.
func (s *Switch) Number(kind, id string) (uint16, bool) {
	b, ok := s.db.State().Row("Bridge", s.bridgeMark().uuid("Bridge")).(*vswitchrow.Bridge)
	if !ok {
		return 0, false
	}
	c, ok := parseClaim(b.ExternalIDs[keyNumber+kind+":"+id])
	return c.n, ok
}

var errTaken = errors.New("another process was faster")

// claim writes the numbers that are new, and makes devices, before flows refer
// to them.
func (v *view) claim(ctx context.Context) error {
	err := v.external(ctx, func(k numbered) (string, bool) {
		c, ok := v.numbers.want[k]
		if !ok {
			c, ok = v.numbers.have[k], true // is freed later
		}
		return c.String(), ok
	})
	for _, f := range v.devices {
		if err == nil {
			err = f(ctx)
		}
	}
	return err
}

// free gives back the numbers that nobody uses, when the flows are gone.
func (v *view) free(ctx context.Context) error {
	gone := false
	for k, c := range v.numbers.have {
		if _, ok := v.numbers.want[k]; ok {
			continue
		}
		gone = true
		for _, z := range zones(k.kind, c.n) {
			if err := v.conn.FlushZone(ctx, z); err != nil {
				return err
			}
		}
	}
	if !gone {
		return nil
	}
	return v.external(ctx, func(k numbered) (string, bool) {
		c, ok := v.numbers.want[k]
		return c.String(), ok
	})
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

// external writes the numbers as want says.
func (v *view) external(ctx context.Context, want func(numbered) (string, bool)) error {
	s := v.s
	id := s.bridgeMark().uuid("Bridge")
	keys := map[numbered]bool{}
	for k := range v.numbers.have {
		keys[k] = true
	}
	for k := range v.numbers.want {
		keys[k] = true
	}
	_, err := s.db.Commit(ctx, func(x *ovsdb.Tx) error {
		b, ok := x.Row("Bridge", id).(*vswitchrow.Bridge)
		if !ok {
			return fmt.Errorf("bridge %s has gone: %w", s.o.Bridge, vnet.ErrNotFound)
		}
		// The numbers others have now.
		others := map[string]map[uint16]bool{}
		for _, r := range x.All("Bridge") {
			o := r.(*vswitchrow.Bridge)
			for k, c := range numbersIn(o.ExternalIDs) {
				if o.UUID == id && keys[k] {
					continue
				}
				if others[k.kind] == nil {
					others[k.kind] = map[uint16]bool{}
				}
				others[k.kind][c.n] = true
			}
		}
		now := *b
		now.ExternalIDs = withKeys(b.ExternalIDs, nil)
		added := false
		for k := range keys {
			key := keyNumber + k.kind + ":" + k.id
			val, ok := want(k)
			old, stood := b.ExternalIDs[key]
			switch {
			case !ok:
				delete(now.ExternalIDs, key)
				continue
			case stood && old == val:
				continue
			}
			if _, had := v.numbers.have[k]; stood != had {
				return errTaken // another process gave or took it meanwhile
			}
			if c, _ := parseClaim(val); !stood {
				added = true
				if others[k.kind][c.n] {
					return errTaken
				}
			}
			now.ExternalIDs[key] = val
		}
		if added { // nobody may take the same at the same time
			for u := range x.All("Bridge") {
				if err := x.Guard("Bridge", u, "external_ids"); err != nil {
					return err
				}
			}
		}
		return x.Put(&now)
	}, nil)
	return err
}
