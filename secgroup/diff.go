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
	out = append(out, compare(old.AddressGroups, want.AddressGroups, func(a AddressGroup) string { return a.ID }, DiffAddressGroup, &gone)...)
	out = append(out, compare(old.Groups, want.Groups, func(g Group) string { return g.ID }, DiffGroup, &gone)...)
	out = append(out, compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, DiffPort, &gone)...)
	slices.Reverse(gone)
	return append(out, gone...)
}

func compare[T any](old, want []T, id func(T) string, diff func(a, b *T) (vnet.Change, bool), gone *[]vnet.Change) []vnet.Change {
	was := make(map[string]*T, len(old))
	for i := range old {
		was[id(old[i])] = &old[i]
	}
	var out []vnet.Change
	for i := range want {
		k := id(want[i])
		if c, ok := diff(was[k], &want[i]); ok {
			out = append(out, c)
		}
		delete(was, k)
	}
	for i := range old {
		if _, ok := was[id(old[i])]; ok {
			c, _ := diff(&old[i], nil)
			*gone = append(*gone, c)
		}
	}
	return out
}

func change(kind, id string, isNew, isGone bool) vnet.Change {
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartSecGroup, Kind: kind, ID: id, Impact: vnet.ImpactNone}
	switch {
	case isNew:
		c.Verb = vnet.Create
	case isGone:
		c.Verb, c.Impact = vnet.Delete, vnet.ImpactObject
	}
	return c
}

// DiffGroup returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none.
func DiffGroup(a, b *Group) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("group", a.ID, false, true), true
	case a == nil:
		c = change("group", b.ID, true, false)
		a = &Group{ID: b.ID}
	default:
		c = change("group", b.ID, false, false)
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
		return change("addressgroup", a.ID, false, true), true
	case a == nil:
		c = change("addressgroup", b.ID, true, false)
		a = &AddressGroup{}
	default:
		c = change("addressgroup", b.ID, false, false)
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
		return change("port", a.ID, false, true), true
	case a == nil:
		return change("port", b.ID, true, false), true
	}
	c = change("port", b.ID, false, false)
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
