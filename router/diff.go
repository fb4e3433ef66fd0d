package router

import (
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which nothing dangles: what is new or different first (routers,
// floating IPs, port forwards), then what goes, in the opposite order.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	out = append(out, compare(old.Routers, want.Routers, func(r Router) string { return r.ID }, DiffRouter, &gone)...)
	out = append(out, compare(old.FloatingIPs, want.FloatingIPs, func(f FloatingIP) string { return f.ID }, DiffFloatingIP, &gone)...)
	out = append(out, compare(old.PortForwards, want.PortForwards, func(f PortForward) string { return f.ID }, DiffPortForward, &gone)...)
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
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartRouter, Kind: kind, ID: id, Impact: vnet.ImpactNone}
	switch {
	case isNew:
		c.Verb = vnet.Create
	case isGone:
		c.Verb, c.Impact = vnet.Delete, vnet.ImpactObject
	}
	return c
}

func differ(c *vnet.Change, name string, a, b any, impact vnet.Impact) {
	if as, bs := fmt.Sprint(a), fmt.Sprint(b); as != bs {
		c.Diff = append(c.Diff, fmt.Sprintf("%s: %s -> %s", name, as, bs))
		if c.Impact == vnet.ImpactNone || impact == vnet.ImpactObject {
			c.Impact = impact
		}
	}
}

// DiffRouter returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none.
func DiffRouter(a, b *Router) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("router", a.ID, false, true), true
	case a == nil:
		return change("router", b.ID, true, false), true
	}
	c = change("router", b.ID, false, false)
	x, y := a.Canonical(), b.Canonical()
	was := map[string]Interface{}
	for _, i := range x.Interfaces {
		was[i.PortID] = i
	}
	for _, i := range y.Interfaces {
		o, had := was[i.PortID]
		delete(was, i.PortID)
		if !had {
			c.Diff = append(c.Diff, fmt.Sprintf("interface %s: new, %v on network %s", i.PortID, i.Addresses, i.NetworkID))
			continue
		}
		at := "interface " + i.PortID + " "
		differ(&c, at+"network", o.NetworkID, i.NetworkID, vnet.ImpactObject)
		differ(&c, at+"mac", o.MAC, i.MAC, vnet.ImpactSome)
		differ(&c, at+"addresses", o.Addresses, i.Addresses, vnet.ImpactSome)
		differ(&c, at+"mtu", o.MTU, i.MTU, vnet.ImpactSome)
		differ(&c, at+"ra", ra(o.RA), ra(i.RA), vnet.ImpactSome)
	}
	for _, i := range x.Interfaces {
		if _, gone := was[i.PortID]; gone {
			c.Diff = append(c.Diff, "interface "+i.PortID+": gone")
			c.Impact = vnet.ImpactSome
		}
	}
	g, h := x.Gateway, y.Gateway
	switch {
	case g == nil && h != nil:
		c.Diff = append(c.Diff, fmt.Sprintf("gateway: new, %v on network %s", h.Addresses, h.NetworkID))
	case g != nil && h == nil:
		c.Diff = append(c.Diff, "gateway: gone")
		c.Impact = vnet.ImpactSome
	case g != nil:
		differ(&c, "gateway", *g, *h, vnet.ImpactSome)
	}
	differ(&c, "routes", x.Routes, y.Routes, vnet.ImpactSome)
	differ(&c, "admin_down", x.AdminDown, y.AdminDown, vnet.ImpactObject)
	differ(&c, "host", x.Host, y.Host, vnet.ImpactObject)
	return c, len(c.Diff) > 0
}

func ra(r *RA) any {
	if r == nil {
		return "none"
	}
	return *r
}

// DiffFloatingIP returns the change from a to b, either of which may be nil.
func DiffFloatingIP(a, b *FloatingIP) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("floatingip", a.ID, false, true), true
	case a == nil:
		c = change("floatingip", b.ID, true, false)
		c.Diff = []string{fmt.Sprintf("%s -> %s", b.FloatingIP, b.FixedIP)}
		return c, true
	}
	c = change("floatingip", b.ID, false, false)
	differ(&c, "router", a.RouterID, b.RouterID, vnet.ImpactObject)
	differ(&c, "floating_ip", a.FloatingIP, b.FloatingIP, vnet.ImpactObject)
	differ(&c, "fixed_ip", a.FixedIP, b.FixedIP, vnet.ImpactObject)
	differ(&c, "port", a.PortID, b.PortID, vnet.ImpactNone)
	differ(&c, "external_mac", a.ExternalMAC, b.ExternalMAC, vnet.ImpactNone)
	return c, len(c.Diff) > 0
}

// DiffPortForward returns the change from a to b, either of which may be nil.
func DiffPortForward(a, b *PortForward) (c vnet.Change, ok bool) {
	show := func(f *PortForward) string {
		g := f.Canonical()
		return fmt.Sprintf("%s %s:%d-%d -> %s:%d-%d", g.Protocol, g.ExternalIP, g.ExternalPort.First, g.ExternalPort.Last, g.InternalIP, g.InternalPort.First, g.InternalPort.Last)
	}
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("portforward", a.ID, false, true), true
	case a == nil:
		c = change("portforward", b.ID, true, false)
		c.Diff = []string{show(b)}
		return c, true
	}
	c = change("portforward", b.ID, false, false)
	differ(&c, "router", a.RouterID, b.RouterID, vnet.ImpactObject)
	differ(&c, "forward", show(a), show(b), vnet.ImpactObject)
	return c, len(c.Diff) > 0
}
