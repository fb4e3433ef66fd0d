package nftsecgroup

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// facts is what the ruleset is drawn from: what was asked for, and what the
// host gave the ports.
type facts struct {
	*book.Book
	local func(secgroup.Port) bool
	index map[string]uint32 // of the ports of this host

	profiles map[string]int // groups of secured ports of this host, joined by commas -> how many ports
	networks map[string]int // network -> secured ports of this host
}

func newFacts(s secgroup.State, local func(secgroup.Port) bool) *facts {
	f := &facts{Book: book.New(secgroup.State{}), local: local, index: map[string]uint32{}, profiles: map[string]int{}, networks: map[string]int{}}
	for _, a := range s.AddressGroups {
		f.put(object{addressGroup: &a})
	}
	for _, g := range s.Groups {
		f.put(object{group: &g})
	}
	for _, p := range s.Ports {
		f.put(object{port: &p})
	}
	return f
}

// enforced reports whether packets of the port are judged here.
func (f *facts) enforced(p *secgroup.Port) bool {
	return p != nil && !p.DisablePortSecurity && f.local(*p)
}

// object is one object of the contract; at most one field is set.
type object struct {
	group        *secgroup.Group
	addressGroup *secgroup.AddressGroup
	port         *secgroup.Port
}

func (f *facts) put(o object) {
	switch {
	case o.group != nil:
		f.PutGroup(*o.group)
	case o.addressGroup != nil:
		f.PutAddressGroup(*o.addressGroup)
	case o.port != nil:
		f.count(f.Port(o.port.ID), -1)
		f.PutPort(*o.port)
		f.count(o.port, 1)
	}
}

func (f *facts) drop(o object) {
	switch {
	case o.group != nil:
		f.DropGroup(o.group.ID)
	case o.addressGroup != nil:
		f.DropAddressGroup(o.addressGroup.ID)
	case o.port != nil:
		f.count(f.Port(o.port.ID), -1)
		f.DropPort(o.port.ID)
	}
}

func (f *facts) count(p *secgroup.Port, n int) {
	if f.enforced(p) {
		add(f.profiles, strings.Join(p.Groups, ","), n)
		add(f.networks, p.NetworkID, n)
	}
}

func add(m map[string]int, k string, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}

// change is one object as it was and as it is to be; either may be empty.
type change struct{ old, new object }

func (c change) ports() (old, now *secgroup.Port)   { return c.old.port, c.new.port }
func (c change) groups() (old, now *secgroup.Group) { return c.old.group, c.new.group }
func (c change) each(f func(object))                { f(c.old); f(c.new) }

// touched is what of the ruleset some changes may concern.
type touched struct {
	groups   map[string]bool                  // chains and sets of these
	ags      map[string]bool                  // sets of these address groups
	agsWhole map[string]bool                  // of these also the elements
	members  map[string]map[netip.Prefix]bool // of these groups these members
	stood    map[string]bool                  // groups whose member sets stood before
	agStood  map[string]bool
	profiles map[string]bool
	networks map[string]bool
	ports    map[string]bool
}

// everything is what a transaction that draws all anew touches.
func everything(f *facts) touched {
	var all []change
	s := f.State()
	for _, a := range s.AddressGroups {
		all = append(all, change{new: object{addressGroup: &a}})
	}
	for _, g := range s.Groups {
		all = append(all, change{new: object{group: &g}})
	}
	for _, p := range s.Ports {
		all = append(all, change{new: object{port: &p}})
	}
	t := touch(f, all)
	clear(t.stood)
	clear(t.agStood)
	return t
}

func touch(f *facts, changes []change) touched {
	t := touched{
		groups: map[string]bool{}, ags: map[string]bool{}, agsWhole: map[string]bool{}, members: map[string]map[netip.Prefix]bool{},
		stood: map[string]bool{}, agStood: map[string]bool{}, profiles: map[string]bool{}, networks: map[string]bool{}, ports: map[string]bool{},
	}
	member := func(g string) map[netip.Prefix]bool {
		if t.members[g] == nil {
			t.members[g] = map[netip.Prefix]bool{}
		}
		return t.members[g]
	}
	reshaped := map[string]bool{}
	for _, c := range changes {
		c.each(func(o object) {
			switch {
			case o.group != nil:
				t.groups[o.group.ID] = true
				for _, r := range o.group.Rules {
					if r.RemoteGroup != "" {
						member(r.RemoteGroup)
					}
					if r.RemoteAddressGroup != "" {
						t.ags[r.RemoteAddressGroup] = true
					}
				}
			case o.addressGroup != nil:
				t.ags[o.addressGroup.ID] = true
				t.agsWhole[o.addressGroup.ID] = true
			case o.port != nil:
				for _, g := range o.port.Groups {
					m := member(g)
					for _, a := range o.port.Addresses() {
						m[a] = true
					}
				}
				if f.local(*o.port) {
					t.ports[o.port.ID] = true
					t.profiles[strings.Join(o.port.Groups, ",")] = true
					t.networks[o.port.NetworkID] = true
				}
			}
		})
		if a, b := c.groups(); a != nil && b != nil && a.Stateless != b.Stateless {
			reshaped[a.ID] = true
		}
	}
	if len(reshaped) > 0 {
		for p := range f.profiles {
			if slices.ContainsFunc(strings.Split(p, ","), func(g string) bool { return reshaped[g] }) {
				t.profiles[p] = true
			}
		}
	}
	for g := range t.members {
		t.stood[g] = f.Referred(g)
	}
	for a := range t.ags {
		t.agStood[a] = f.AddressGroup(a) != nil || f.AddressGroupReferred(a)
	}
	return t
}

// draw draws what of the ruleset t names, as f has it now.
func draw(l layout, f *facts, t touched) *image {
	im := newImage()
	for g := range t.groups {
		if x := f.Group(g); x != nil {
			im.group(l, *x, f.Matches(g))
		}
	}
	for id := range t.ags {
		a := f.AddressGroup(id)
		if a == nil && !f.AddressGroupReferred(id) {
			continue
		}
		for _, v6 := range []bool{false, true} {
			im.set(l.prefixes(id, v6))
		}
		if a != nil && (t.agsWhole[id] || !t.agStood[id]) {
			im.addressGroup(l, *a)
		}
	}
	for g, some := range t.members {
		if !f.Referred(g) {
			continue
		}
		for _, v6 := range []bool{false, true} {
			im.set(l.members(g, v6, false))
			im.set(l.members(g, v6, true))
		}
		one := func(p netip.Prefix) {
			im.set(l.members(g, p.Addr().Is6(), false)).add(nft.Key(p.Addr()))
		}
		nets := !t.stood[g]
		if nets {
			for p := range f.Members(g) {
				if p.IsSingleIP() {
					one(p)
				}
			}
		} else {
			for p := range some {
				if !p.IsSingleIP() {
					nets = true
				} else if f.HasMember(g, p) {
					one(p)
				}
			}
		}
		if nets {
			for p := range f.Members(g) {
				if !p.IsSingleIP() {
					im.set(l.members(g, p.Addr().Is6(), true)).add(nft.Key(p))
				}
			}
			for _, v6 := range []bool{false, true} {
				im.set(l.members(g, v6, true)).widest()
			}
		}
	}
	for p := range t.profiles {
		if f.profiles[p] > 0 {
			var groups []string
			if p != "" {
				groups = strings.Split(p, ",")
			}
			for _, d := range []secgroup.Direction{secgroup.Egress, secgroup.Ingress} {
				im.chain(l.profile(d, groups, f.Book))
			}
		}
	}
	for id := range t.ports {
		if p := f.Port(id); f.enforced(p) {
			im.port(l, *p, f.index[id])
		}
	}
	return im
}

// write is what has to be written to come from one image to another.
type write struct {
	l         layout
	whole     bool // everything of ours is in it: what else is there is left over
	leftSets  []nft.Set
	chains    []nft.Chain
	sets      []nft.Set
	goneChain []nft.Chain
	goneSet   []nft.Set
	add, take []elements
}

type elements struct {
	set   nft.Set
	elems []nft.Element
}

func difference(l layout, before, after *image) write {
	w := write{l: l}
	for _, k := range slices.Sorted(maps.Keys(after.chains)) {
		if c := after.chains[k]; !reflect.DeepEqual(before.chains[k], c) {
			w.chains = append(w.chains, c)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before.chains)) {
		if _, stays := after.chains[k]; !stays {
			w.goneChain = append(w.goneChain, before.chains[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after.sets)) {
		x := after.sets[k]
		was := before.sets[k]
		if was == nil {
			was = &setImage{}
			w.sets = append(w.sets, x.set)
		}
		var more []nft.Element
		for _, e := range slices.Sorted(maps.Keys(x.elems)) {
			if o, had := was.elems[e]; !had || !reflect.DeepEqual(o.Data, x.elems[e].Data) {
				more = append(more, x.elems[e])
			}
		}
		if len(more) > 0 {
			w.add = append(w.add, elements{x.set, more})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before.sets)) {
		was := before.sets[k]
		x := after.sets[k]
		if x == nil {
			if !l.fixed(was.set) {
				w.goneSet = append(w.goneSet, was.set)
				continue
			}
			x = &setImage{}
		}
		var less []nft.Element
		for _, e := range slices.Sorted(maps.Keys(was.elems)) {
			if _, stays := x.elems[e]; !stays {
				less = append(less, was.elems[e])
			}
		}
		if len(less) > 0 {
			w.take = append(w.take, elements{was.set, less})
		}
	}
	return w
}

func (l layout) fixed(s nft.Set) bool {
	return slices.ContainsFunc(l.fixedSets(), func(f nft.Set) bool { return f.Table == s.Table && f.Name == s.Name })
}

// declare declares it in a transaction.
func (w write) declare(tx *nft.Tx) {
	if w.whole {
		w.sweep(tx)
	}
	for _, s := range w.l.fixedSets() {
		tx.Set(s)
	}
	for _, c := range w.l.fixedChains() {
		tx.Chain(c)
	}
	for _, s := range w.sets {
		tx.Set(s)
	}
	for _, e := range w.take {
		tx.Remove(e.set, e.elems...)
	}
	for _, e := range w.add {
		tx.Add(e.set, e.elems...)
	}
	for _, c := range w.chains {
		tx.Chain(c)
	}
	for _, c := range w.goneChain {
		tx.DeleteChain(c.Table, c.Name)
	}
	for _, s := range w.goneSet {
		tx.DeleteSet(s)
	}
}

// sweep takes away what is of ours and not in w: of another version, or left
// by a first transaction that did not end (big ones are loaded in parts, into
// sets that nothing uses yet).
func (w write) sweep(tx *nft.Tx) {
	add := map[string][]nft.Element{}
	for _, e := range w.add {
		add[e.set.Table.String()+" "+e.set.Name] = e.elems
	}
	for _, s := range slices.Concat(w.l.fixedSets(), w.sets) {
		tx.Set(s)
		tx.Fill(s, add[s.Table.String()+" "+s.Name]...)
	}
	for _, s := range w.leftSets {
		if !slices.ContainsFunc(slices.Concat(w.l.fixedSets(), w.sets), func(o nft.Set) bool { return o.Table == s.Table && o.Name == s.Name }) {
			tx.DeleteSet(s)
		}
	}
	for _, t := range []nft.Table{w.l.port, w.l.networks.Table} {
		for _, name := range tx.Chains(t) {
			same := func(c nft.Chain) bool { return c.Table == t && c.Name == name }
			if strings.HasPrefix(name, prefix) && !slices.ContainsFunc(w.l.fixedChains(), same) && !slices.ContainsFunc(w.chains, same) {
				tx.DeleteChain(t, name)
			}
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
