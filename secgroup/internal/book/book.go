// Package book is what a secgroup backend knows of the desired state: objects
// by id, who refers to whom, and which addresses a group stands for. It is
// pure and keeps its answers cheap as it grows: putting or dropping one
// object costs what the object weighs.
package book

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

// Book holds canonical objects. It is not safe for concurrent use.
type Book struct {
	groups  map[string]*group
	ags     map[string]*agroup
	ports   map[string]secgroup.Port
	ruleOf  map[string]map[string]bool // group referred to -> groups whose rules do
	ruleOfA map[string]map[string]bool // address group -> groups whose rules do
	in      map[string]*members        // group -> its members
}

type group struct {
	secgroup.Group
	matches []secgroup.Match
}

type agroup struct {
	secgroup.AddressGroup
	set prefixes
}

type members struct {
	ports map[string]bool
	set   prefixes
}

// New returns a book of s, which must be valid.
func New(s secgroup.State) *Book {
	b := &Book{
		groups: map[string]*group{}, ags: map[string]*agroup{}, ports: map[string]secgroup.Port{},
		ruleOf: map[string]map[string]bool{}, ruleOfA: map[string]map[string]bool{}, in: map[string]*members{},
	}
	for _, a := range s.AddressGroups {
		b.PutAddressGroup(a)
	}
	for _, g := range s.Groups {
		b.PutGroup(g)
	}
	for _, p := range s.Ports {
		b.PutPort(p)
	}
	return b
}

// State returns all that is in b, sorted by id.
func (b *Book) State() secgroup.State {
	var s secgroup.State
	for _, id := range slices.Sorted(maps.Keys(b.groups)) {
		s.Groups = append(s.Groups, b.groups[id].Group)
	}
	for _, id := range slices.Sorted(maps.Keys(b.ags)) {
		s.AddressGroups = append(s.AddressGroups, b.ags[id].AddressGroup)
	}
	for _, id := range slices.Sorted(maps.Keys(b.ports)) {
		s.Ports = append(s.Ports, b.ports[id])
	}
	return s.Clone()
}

// Len is the number of objects in b.
func (b *Book) Len() int { return len(b.groups) + len(b.ags) + len(b.ports) }

// Count is the number of groups, address groups and ports in b.
func (b *Book) Count() (groups, addressGroups, ports int) {
	return len(b.groups), len(b.ags), len(b.ports)
}

// Group returns the group, nil when there is none.
func (b *Book) Group(id string) *secgroup.Group {
	if g := b.groups[id]; g != nil {
		return &g.Group
	}
	return nil
}

// Matches returns what the group allows, compiled.
func (b *Book) Matches(id string) []secgroup.Match {
	if g := b.groups[id]; g != nil {
		return g.matches
	}
	return nil
}

// AddressGroup returns the address group, nil when there is none.
func (b *Book) AddressGroup(id string) *secgroup.AddressGroup {
	if a := b.ags[id]; a != nil {
		return &a.AddressGroup
	}
	return nil
}

// Port returns the port, nil when there is none.
func (b *Book) Port(id string) *secgroup.Port {
	if p, ok := b.ports[id]; ok {
		return &p
	}
	return nil
}

// Ports yields all ports, in no order.
func (b *Book) Ports(yield func(secgroup.Port) bool) {
	for _, p := range b.ports {
		if !yield(p) {
			return
		}
	}
}

// PutGroup adds or replaces a group.
func (b *Book) PutGroup(g secgroup.Group) {
	b.DropGroup(g.ID)
	b.groups[g.ID] = &group{Group: g, matches: secgroup.Compile(g.Rules)}
	for _, r := range g.Rules {
		note(b.ruleOf, r.RemoteGroup, g.ID)
		note(b.ruleOfA, r.RemoteAddressGroup, g.ID)
	}
}

// DropGroup removes a group; its members remain noted.
func (b *Book) DropGroup(id string) {
	g := b.groups[id]
	if g == nil {
		return
	}
	for _, r := range g.Rules {
		unnote(b.ruleOf, r.RemoteGroup, id)
		unnote(b.ruleOfA, r.RemoteAddressGroup, id)
	}
	delete(b.groups, id)
}

func note(m map[string]map[string]bool, to, from string) {
	if to == "" {
		return
	}
	if m[to] == nil {
		m[to] = map[string]bool{}
	}
	m[to][from] = true
}

func unnote(m map[string]map[string]bool, to, from string) {
	delete(m[to], from)
	if len(m[to]) == 0 {
		delete(m, to)
	}
}

// PutAddressGroup adds or replaces an address group.
func (b *Book) PutAddressGroup(a secgroup.AddressGroup) {
	x := &agroup{AddressGroup: a}
	for _, p := range a.Prefixes {
		x.set.add(p)
	}
	b.ags[a.ID] = x
}

// DropAddressGroup removes an address group.
func (b *Book) DropAddressGroup(id string) { delete(b.ags, id) }

// PutPort adds or replaces a port.
func (b *Book) PutPort(p secgroup.Port) {
	b.DropPort(p.ID)
	b.ports[p.ID] = p
	addrs := p.Addresses()
	for _, g := range p.Groups {
		m := b.in[g]
		if m == nil {
			m = &members{ports: map[string]bool{}}
			b.in[g] = m
		}
		m.ports[p.ID] = true
		for _, a := range addrs {
			m.set.add(a)
		}
	}
}

// DropPort removes a port.
func (b *Book) DropPort(id string) {
	p, ok := b.ports[id]
	if !ok {
		return
	}
	delete(b.ports, id)
	addrs := p.Addresses()
	for _, g := range p.Groups {
		m := b.in[g]
		delete(m.ports, id)
		for _, a := range addrs {
			m.set.remove(a)
		}
		if len(m.ports) == 0 {
			delete(b.in, g)
		}
	}
}

// PortsIn returns the ids of the ports in a group, sorted.
func (b *Book) PortsIn(group string) []string {
	if m := b.in[group]; m != nil {
		return slices.Sorted(maps.Keys(m.ports))
	}
	return nil
}

// HasMember reports whether some port of the group is called by exactly this
// prefix.
func (b *Book) HasMember(group string, p netip.Prefix) bool {
	m := b.in[group]
	return m != nil && m.set.n[p] > 0
}

// Members yields the prefixes that ports of the group are called by, each
// once, in no order.
func (b *Book) Members(group string) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		if m := b.in[group]; m != nil {
			for p := range m.set.n {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Referred reports whether a rule refers to the group.
func (b *Book) Referred(group string) bool { return len(b.ruleOf[group]) > 0 }

// AddressGroupReferred reports whether a rule refers to the address group.
func (b *Book) AddressGroupReferred(id string) bool { return len(b.ruleOfA[id]) > 0 }

// Referrers returns the groups whose rules refer to the group, sorted.
func (b *Book) Referrers(group string) []string { return slices.Sorted(maps.Keys(b.ruleOf[group])) }

// AddressGroupReferrers returns the groups whose rules refer to the address
// group, sorted.
func (b *Book) AddressGroupReferrers(id string) []string {
	return slices.Sorted(maps.Keys(b.ruleOfA[id]))
}

// GroupInUse returns [vnet.ErrInUse] naming who refers to the group.
func (b *Book) GroupInUse(id string) error {
	var who []string
	for _, p := range b.PortsIn(id) {
		who = append(who, "port "+p)
	}
	for _, g := range b.Referrers(id) {
		if g != id {
			who = append(who, "group "+g)
		}
	}
	return inUse(who)
}

// AddressGroupInUse returns [vnet.ErrInUse] naming who refers to it.
func (b *Book) AddressGroupInUse(id string) error {
	var who []string
	for _, g := range b.AddressGroupReferrers(id) {
		who = append(who, "group "+g)
	}
	return inUse(who)
}

func inUse(who []string) error {
	if len(who) == 0 {
		return nil
	}
	if len(who) > 8 {
		who = append(who[:8], "...")
	}
	return fmt.Errorf("%w by %s", vnet.ErrInUse, strings.Join(who, ", "))
}

// CheckPort returns [vnet.ErrNotFound] naming a group of p that is not there.
func (b *Book) CheckPort(p secgroup.Port) error {
	for _, g := range p.Groups {
		if b.groups[g] == nil {
			return fmt.Errorf("security group %q: %w", g, vnet.ErrNotFound)
		}
	}
	return nil
}

// InGroup reports whether a is an address of a member of the group.
func (b *Book) InGroup(id string, a netip.Addr) bool {
	m := b.in[id]
	return m != nil && m.set.contains(a)
}

// InAddressGroup reports whether a is in the address group.
func (b *Book) InAddressGroup(id string, a netip.Addr) bool {
	g := b.ags[id]
	return g != nil && g.set.contains(a)
}

// Verdict is what a port's rules say of a packet.
type Verdict struct {
	Group     string         // whose match allows it
	Match     secgroup.Match // the match
	Stateless bool           // allowed by itself, opens no connection
	Stateful  bool           // a stateful group allows it
}

// Allows says what the rules of p do with q, the first packet of a
// connection. Stateless groups are asked first; when one of them allows q,
// Stateful still tells whether a stateful one would.
func (b *Book) Allows(p secgroup.Port, q secgroup.Packet) (v Verdict, ok bool) {
	for _, stateless := range []bool{true, false} {
		for _, id := range p.Groups {
			g := b.groups[id]
			if g == nil || g.Stateless != stateless {
				continue
			}
			if m, hit := secgroup.Allowed(g.matches, q, b); hit {
				if !ok {
					v.Group, v.Match, v.Stateless, ok = id, m, stateless, true
				}
				v.Stateful = v.Stateful || !stateless
			}
		}
	}
	return v, ok
}

// prefixes is a multiset of prefixes that answers whether an address is in
// one, at the cost of one look-up for each length in use.
type prefixes struct {
	n    map[netip.Prefix]int
	bits [2][129]int // by family, how many prefixes have that length
}

func (s *prefixes) add(p netip.Prefix) {
	if s.n == nil {
		s.n = map[netip.Prefix]int{}
	}
	s.n[p]++
	s.bits[family(p.Addr())][p.Bits()]++
}

func (s *prefixes) remove(p netip.Prefix) {
	if s.n[p]--; s.n[p] == 0 {
		delete(s.n, p)
	}
	s.bits[family(p.Addr())][p.Bits()]--
}

func (s *prefixes) contains(a netip.Addr) bool {
	for bits, n := range s.bits[family(a)][:a.BitLen()+1] {
		if n == 0 {
			continue
		}
		if p, err := a.Prefix(bits); err == nil && s.n[p] > 0 {
			return true
		}
	}
	return false
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Explain says in words what the rules of p do with q.
func (b *Book) Explain(p secgroup.Port, q secgroup.Packet) vnet.Explanation {
	if p.DisablePortSecurity {
		return vnet.Explanation{Text: "passes: port security of port " + p.ID + " is off"}
	}
	v, ok := b.Allows(p, q)
	if !ok {
		x := vnet.Explanation{Text: "dropped: no rule of port " + p.ID + " allows it"}
		for _, g := range p.Groups {
			x.Add("not in group " + g)
		}
		if len(p.Groups) == 0 {
			x.Add("the port is in no group")
		}
		return x
	}
	x := vnet.Explanation{Text: "passes"}
	if v.Stateless {
		x.Text += " by itself, opening no connection"
	}
	by := x.Add(fmt.Sprintf("by group %s: %s", v.Group, v.Match))
	for _, r := range b.groups[v.Group].Rules {
		if r.Match().Matches(q, b) {
			by.Add("rule " + v.Group + "/" + r.ID + ": " + r.Match().String())
		}
	}
	return x
}

// MemberCounts yields the prefixes that ports of the group are called by,
// each with how many of them are, in no order.
func (b *Book) MemberCounts(group string) iter.Seq2[netip.Prefix, int] {
	return func(yield func(netip.Prefix, int) bool) {
		if m := b.in[group]; m != nil {
			for p, n := range m.set.n {
				if !yield(p, n) {
					return
				}
			}
		}
	}
}
