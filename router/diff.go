package router

import (
	"fmt"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which nothing dangles: what is new or different first (routers,
// floating IPs, port forwards), then what goes, in the opposite order.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	add := func(changes, g []vnet.Change) {
		out = append(out, changes...)
		gone = append(g, gone...)
	}
	add(vnet.Compare(old.Routers, want.Routers, func(r Router) string { return r.ID }, DiffRouter))
	add(vnet.Compare(old.FloatingIPs, want.FloatingIPs, func(f FloatingIP) string { return f.ID }, DiffFloatingIP))
	add(vnet.Compare(old.PortForwards, want.PortForwards, func(f PortForward) string { return f.ID }, DiffPortForward))
	return append(out, gone...)
}

// DiffRouter returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none.
func DiffRouter(a, b *Router) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartRouter, "router", a.ID, true, false), true
	case a == nil:
		return vnet.NewChange(vnet.PartRouter, "router", b.ID, false, true), true
	}
	c = vnet.NewChange(vnet.PartRouter, "router", b.ID, true, true)
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
		c.Differ(at+"network", o.NetworkID, i.NetworkID, vnet.ImpactObject)
		c.Differ(at+"mac", o.MAC, i.MAC, vnet.ImpactSome)
		c.Differ(at+"addresses", o.Addresses, i.Addresses, vnet.ImpactSome)
		c.Differ(at+"mtu", o.MTU, i.MTU, vnet.ImpactSome)
		c.Differ(at+"ra", ra(o.RA), ra(i.RA), vnet.ImpactSome)
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
		c.Differ("gateway", *g, *h, vnet.ImpactSome)
	}
	c.Differ("routes", x.Routes, y.Routes, vnet.ImpactSome)
	c.Differ("admin_down", x.AdminDown, y.AdminDown, vnet.ImpactObject)
	c.Differ("host", x.Host, y.Host, vnet.ImpactObject)
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
		return vnet.NewChange(vnet.PartRouter, "floatingip", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartRouter, "floatingip", b.ID, false, true)
		c.Diff = []string{fmt.Sprintf("%s -> %s", b.FloatingIP, b.FixedIP)}
		return c, true
	}
	c = vnet.NewChange(vnet.PartRouter, "floatingip", b.ID, true, true)
	c.Differ("router", a.RouterID, b.RouterID, vnet.ImpactObject)
	c.Differ("floating_ip", a.FloatingIP, b.FloatingIP, vnet.ImpactObject)
	c.Differ("fixed_ip", a.FixedIP, b.FixedIP, vnet.ImpactObject)
	c.Differ("port", a.PortID, b.PortID, vnet.ImpactNone)
	c.Differ("external_mac", a.ExternalMAC, b.ExternalMAC, vnet.ImpactNone)
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
		return vnet.NewChange(vnet.PartRouter, "portforward", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartRouter, "portforward", b.ID, false, true)
		c.Diff = []string{show(b)}
		return c, true
	}
	c = vnet.NewChange(vnet.PartRouter, "portforward", b.ID, true, true)
	c.Differ("router", a.RouterID, b.RouterID, vnet.ImpactObject)
	c.Differ("forward", show(a), show(b), vnet.ImpactObject)
	return c, len(c.Diff) > 0
}
