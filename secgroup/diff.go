package secgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which no reference dangles: what is new or different first
// (address groups, groups, ports), then what goes (ports, groups, address
// groups).
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	add := func(changes, g []vnet.Change) {
		out = append(out, changes...)
		gone = append(g, gone...)
	}
	add(vnet.Compare(old.AddressGroups, want.AddressGroups, func(a AddressGroup) string { return a.ID }, DiffAddressGroup))
	add(vnet.Compare(old.Groups, want.Groups, func(g Group) string { return g.ID }, DiffGroup))
	add(vnet.Compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, DiffPort))
	return append(out, gone...)
}

// DiffGroup returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none.
func DiffGroup(a, b *Group) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartSecGroup, "group", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartSecGroup, "group", b.ID, false, true)
		a = &Group{ID: b.ID}
	default:
		c = vnet.NewChange(vnet.PartSecGroup, "group", b.ID, true, true)
	}
	if a.Stateless != b.Stateless {
		c.Diff = append(c.Diff, fmt.Sprintf("stateless: %t -> %t", a.Stateless, b.Stateless))
		c.Impact = vnet.ImpactSome
	}
	was := make(map[string]Rule, len(a.Rules))
	for _, r := range a.Rules {
		was[r.ID] = r
	}
	for _, r := range b.Rules {
		o, had := was[r.ID]
		delete(was, r.ID)
		switch {
		case !had:
			c.Diff = append(c.Diff, fmt.Sprintf("rule %s: new, %s", r.ID, r.Match()))
		case !o.Equal(r):
			c.Diff = append(c.Diff, fmt.Sprintf("rule %s: %s -> %s", r.ID, o.Match(), r.Match()))
			c.Impact = vnet.ImpactSome
		}
	}
	for _, r := range a.Rules {
		if _, gone := was[r.ID]; gone {
			c.Diff = append(c.Diff, fmt.Sprintf("rule %s: gone, %s", r.ID, r.Match()))
			c.Impact = vnet.ImpactSome
		}
	}
	return c, c.Verb != vnet.Update || len(c.Diff) > 0
}

// DiffAddressGroup returns the change from a to b, either of which may be nil.
func DiffAddressGroup(a, b *AddressGroup) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartSecGroup, "addressgroup", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartSecGroup, "addressgroup", b.ID, false, true)
		a = &AddressGroup{}
	default:
		c = vnet.NewChange(vnet.PartSecGroup, "addressgroup", b.ID, true, true)
	}
	list(&c, "addresses", texts(a.Prefixes), texts(b.Prefixes))
	return c, c.Verb != vnet.Update || len(c.Diff) > 0
}

// DiffPort returns the change from a to b, either of which may be nil.
func DiffPort(a, b *Port) (vnet.Change, bool) {
	var c vnet.Change
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartSecGroup, "port", a.ID, true, false), true
	case a == nil:
		return vnet.NewChange(vnet.PartSecGroup, "port", b.ID, false, true), true
	}
	c = vnet.NewChange(vnet.PartSecGroup, "port", b.ID, true, true)
	one := func(field, x, y string) {
		if x != y {
			c.Diff = append(c.Diff, fmt.Sprintf("%s: %s -> %s", field, orNone(x), orNone(y)))
			c.Impact = vnet.ImpactSome
		}
	}
	one("network_id", a.NetworkID, b.NetworkID)
	one("mac", a.MAC.String(), b.MAC.String())
	one("host", a.Host, b.Host)
	one("port security", onOff(!a.DisablePortSecurity), onOff(!b.DisablePortSecurity))
	list(&c, "fixed_ips", texts(a.FixedIPs), texts(b.FixedIPs))
	list(&c, "allowed_address_pairs", pairs(a.AllowedPairs), pairs(b.AllowedPairs))
	list(&c, "security_groups", a.Groups, b.Groups)
	return c, len(c.Diff) > 0
}

// list adds a line for what comes and what goes of a list.
func list(c *vnet.Change, field string, a, b []string) {
	var words []string
	for _, s := range b {
		if !slices.Contains(a, s) {
			words = append(words, "+"+s)
		}
	}
	for _, s := range a {
		if !slices.Contains(b, s) {
			words = append(words, "-"+s)
			c.Impact = vnet.ImpactSome
		}
	}
	if len(words) > 0 {
		c.Diff = append(c.Diff, field+": "+strings.Join(words, " "))
	}
}

func texts[T fmt.Stringer](list []T) []string {
	var out []string
	for _, x := range list {
		out = append(out, x.String())
	}
	return out
}

func pairs(list []AddressPair) []string {
	var out []string
	for _, q := range list {
		out = append(out, q.Prefix.String()+" at "+q.MAC.String())
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
