package secgroup

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vnet-go/vnet"
)

// Clone returns a deep copy of g.
func (g Group) Clone() Group {
	g.Rules = slices.Clone(g.Rules)
	for i, r := range g.Rules {
		g.Rules[i] = r.Clone()
	}
	return g
}

// Clone returns a deep copy of r.
func (r Rule) Clone() Rule {
	if r.PortMin != nil {
		r.PortMin = new(*r.PortMin)
	}
	if r.PortMax != nil {
		r.PortMax = new(*r.PortMax)
	}
	return r
}

// Clone returns a deep copy of a.
func (a AddressGroup) Clone() AddressGroup {
	a.Prefixes = slices.Clone(a.Prefixes)
	return a
}

// Clone returns a deep copy of p.
func (p Port) Clone() Port {
	p.FixedIPs = slices.Clone(p.FixedIPs)
	p.AllowedPairs = slices.Clone(p.AllowedPairs)
	p.Groups = slices.Clone(p.Groups)
	return p
}

// Clone returns a deep copy of s.
func (s State) Clone() State {
	var c State
	for _, g := range s.Groups {
		c.Groups = append(c.Groups, g.Clone())
	}
	for _, a := range s.AddressGroups {
		c.AddressGroups = append(c.AddressGroups, a.Clone())
	}
	for _, p := range s.Ports {
		c.Ports = append(c.Ports, p.Clone())
	}
	return c
}

// Canonical returns the one form of a valid g that all spellings of the same
// meaning have: rules sorted by id, protocols by their short name, prefixes
// masked, 0.0.0.0/0 and ::/0 left out.
func (g Group) Canonical() Group {
	g = g.Clone()
	for i, r := range g.Rules {
		g.Rules[i] = r.Canonical()
	}
	slices.SortFunc(g.Rules, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	if len(g.Rules) == 0 {
		g.Rules = nil
	}
	return g
}

// Canonical returns the one form of a valid r.
func (r Rule) Canonical() Rule {
	r = r.Clone()
	r.Protocol = canonicalProtocol(r.Protocol, r.Ethertype)
	if r.RemotePrefix.IsValid() {
		r.RemotePrefix = r.RemotePrefix.Masked()
		if r.RemotePrefix.Bits() == 0 {
			r.RemotePrefix = netip.Prefix{}
		}
	}
	return r
}

// Canonical returns the one form of a: prefixes masked, sorted, each once.
func (a AddressGroup) Canonical() AddressGroup {
	a = a.Clone()
	for i, p := range a.Prefixes {
		a.Prefixes[i] = p.Masked()
	}
	slices.SortFunc(a.Prefixes, comparePrefix)
	a.Prefixes = slices.Compact(a.Prefixes)
	if len(a.Prefixes) == 0 {
		a.Prefixes = nil
	}
	return a
}

// Canonical returns the one form of a valid p: addresses, pairs and groups
// sorted, each once; prefixes masked; the MAC filled in where a pair has none.
func (p Port) Canonical() Port {
	p = p.Clone()
	slices.SortFunc(p.FixedIPs, netip.Addr.Compare)
	for i := range p.AllowedPairs {
		q := &p.AllowedPairs[i]
		if q.MAC.IsZero() {
			q.MAC = p.MAC
		}
		q.Prefix = q.Prefix.Masked()
	}
	slices.SortFunc(p.AllowedPairs, func(a, b AddressPair) int {
		return cmp.Or(slices.Compare(a.MAC[:], b.MAC[:]), comparePrefix(a.Prefix, b.Prefix))
	})
	p.AllowedPairs = slices.Compact(p.AllowedPairs)
	slices.Sort(p.Groups)
	if len(p.FixedIPs) == 0 {
		p.FixedIPs = nil
	}
	if len(p.AllowedPairs) == 0 {
		p.AllowedPairs = nil
	}
	if len(p.Groups) == 0 {
		p.Groups = nil
	}
	return p
}

// Canonical returns s with every object in its one form, sorted by id.
func (s State) Canonical() State {
	var c State
	for _, g := range s.Groups {
		c.Groups = append(c.Groups, g.Canonical())
	}
	for _, a := range s.AddressGroups {
		c.AddressGroups = append(c.AddressGroups, a.Canonical())
	}
	for _, p := range s.Ports {
		c.Ports = append(c.Ports, p.Canonical())
	}
	slices.SortFunc(c.Groups, func(a, b Group) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.AddressGroups, func(a, b AddressGroup) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Ports, func(a, b Port) int { return cmp.Compare(a.ID, b.ID) })
	return c
}

// Equal reports whether g and h mean the same.
func (g Group) Equal(h Group) bool { return reflect.DeepEqual(g.Canonical(), h.Canonical()) }

// Equal reports whether r and q mean the same.
func (r Rule) Equal(q Rule) bool { return reflect.DeepEqual(r.Canonical(), q.Canonical()) }

// Equal reports whether a and b mean the same.
func (a AddressGroup) Equal(b AddressGroup) bool {
	return reflect.DeepEqual(a.Canonical(), b.Canonical())
}

// Equal reports whether p and q mean the same.
func (p Port) Equal(q Port) bool { return reflect.DeepEqual(p.Canonical(), q.Canonical()) }

// Equal reports whether s and t mean the same.
func (s State) Equal(t State) bool { return reflect.DeepEqual(s.Canonical(), t.Canonical()) }

// Addresses returns what p is called by as a member of a remote group: its
// fixed addresses, as prefixes of full length, and its allowed pairs;
// sorted, each once.
func (p Port) Addresses() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range p.FixedIPs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, q := range p.AllowedPairs {
		out = append(out, q.Prefix.Masked())
	}
	slices.SortFunc(out, comparePrefix)
	return slices.Compact(out)
}

// Own returns the pairs of MAC and prefix that port security lets p use as
// its own: fixed addresses, allowed pairs, and the link-local address of each
// of those MACs; sorted, each once. It is nil when port security is off.
func (p Port) Own() []AddressPair {
	if p.DisablePortSecurity {
		return nil
	}
	var out []AddressPair
	add := func(m vnet.MAC, q netip.Prefix) { out = append(out, AddressPair{MAC: m, Prefix: q.Masked()}) }
	for _, a := range p.FixedIPs {
		add(p.MAC, netip.PrefixFrom(a, a.BitLen()))
	}
	add(p.MAC, netip.PrefixFrom(p.MAC.LinkLocal(), 128))
	for _, q := range p.AllowedPairs {
		m := q.MAC
		if m.IsZero() {
			m = p.MAC
		}
		add(m, q.Prefix)
		add(m, netip.PrefixFrom(m.LinkLocal(), 128))
	}
	slices.SortFunc(out, func(a, b AddressPair) int {
		return cmp.Or(slices.Compare(a.MAC[:], b.MAC[:]), comparePrefix(a.Prefix, b.Prefix))
	})
	return slices.Compact(out)
}

// DefaultGroup returns the group that Neutron makes for every project:
// everything out, in from the group's own members, both IP versions.
func DefaultGroup(id string) Group {
	return Group{ID: id, Rules: []Rule{
		{ID: "egress-ipv4", Direction: Egress, Ethertype: IPv4},
		{ID: "egress-ipv6", Direction: Egress, Ethertype: IPv6},
		{ID: "ingress-ipv4", Direction: Ingress, Ethertype: IPv4, RemoteGroup: id},
		{ID: "ingress-ipv6", Direction: Ingress, Ethertype: IPv6, RemoteGroup: id},
	}}
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
