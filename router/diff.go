package router

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which nothing dangles: floating IPs and forwards that go or move
// make room first, then routers, then what refers to them, then routers that go.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	routers, noRouters := compare(old.Routers, want.Routers, func(r Router) string { return r.ID }, DiffRouter)
	fips, noFips := compare(old.FloatingIPs, want.FloatingIPs, func(f FloatingIP) string { return f.ID }, DiffFloatingIP)
	pfs, noPfs := compare(old.PortForwards, want.PortForwards, func(f PortForward) string { return f.ID }, DiffPortForward)
	return slices.Concat(noPfs, noFips, routers, fips, pfs, noRouters)
}

func compare[T any](old, want []T, id func(T) string, diff func(a, b *T) (vnet.Change, bool)) (made, gone []vnet.Change) {
	was := make(map[string]*T, len(old))
	for i := range old {
		was[id(old[i])] = &old[i]
	}
	for i := range want {
		k := id(want[i])
		if c, ok := diff(was[k], &want[i]); ok {
			made = append(made, c)
		}
		delete(was, k)
	}
	for i := range old {
		if _, ok := was[id(old[i])]; ok {
			c, _ := diff(&old[i], nil)
			gone = append(gone, c)
		}
	}
	return made, gone
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

// differ notes one difference and how far it is felt.
func differ(c *vnet.Change, name string, a, b any, impact vnet.Impact) {
	as, bs := text(a), text(b)
	if as == bs {
		return
	}
	c.Diff = append(c.Diff, fmt.Sprintf("%s: %s -> %s", name, as, bs))
	if c.Impact == vnet.ImpactNone || impact == vnet.ImpactObject {
		c.Impact = impact
	}
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
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
	was := map[string]Interface{}
	for _, i := range a.Interfaces {
		was[i.PortID] = i
	}
	for _, i := range b.Interfaces {
		o, ok := was[i.PortID]
		delete(was, i.PortID)
		f := "interface " + i.PortID
		if !ok {
			c.Diff = append(c.Diff, f+": new")
			continue
		}
		differ(&c, f+" network", o.NetworkID, i.NetworkID, vnet.ImpactSome)
		differ(&c, f+" mac", o.MAC, i.MAC, vnet.ImpactSome)
		differ(&c, f+" addresses", o.Addresses, i.Addresses, vnet.ImpactSome)
		differ(&c, f+" mtu", o.MTU, i.MTU, vnet.ImpactSome)
		differ(&c, f+" ra", o.RA, i.RA, vnet.ImpactNone)
	}
	for _, i := range a.Interfaces {
		if _, ok := was[i.PortID]; ok {
			differ(&c, "interface "+i.PortID, "there", "gone", vnet.ImpactSome)
		}
	}
	differ(&c, "gateway", a.Gateway, b.Gateway, vnet.ImpactSome)
	differ(&c, "routes", a.Routes, b.Routes, vnet.ImpactSome)
	differ(&c, "admin_down", a.AdminDown, b.AdminDown, vnet.ImpactObject)
	differ(&c, "host", a.Host, b.Host, vnet.ImpactObject)
	return c, len(c.Diff) > 0
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
		c.Diff = []string{fmt.Sprintf("%s -> %s at router %s", b.FloatingIP, b.FixedIP, b.RouterID)}
		return c, true
	}
	c = change("floatingip", b.ID, false, false)
	differ(&c, "router_id", a.RouterID, b.RouterID, vnet.ImpactObject)
	differ(&c, "floating_ip", a.FloatingIP.String(), b.FloatingIP.String(), vnet.ImpactObject)
	differ(&c, "fixed_ip", a.FixedIP.String(), b.FixedIP.String(), vnet.ImpactObject)
	differ(&c, "port_id", a.PortID, b.PortID, vnet.ImpactNone)
	differ(&c, "external_mac", a.ExternalMAC.String(), b.ExternalMAC.String(), vnet.ImpactNone)
	return c, len(c.Diff) > 0
}

// DiffPortForward returns the change from a to b, either of which may be nil.
func DiffPortForward(a, b *PortForward) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("portforward", a.ID, false, true), true
	case a == nil:
		c = change("portforward", b.ID, true, false)
		c.Diff = []string{b.text()}
		return c, true
	}
	c = change("portforward", b.ID, false, false)
	differ(&c, "router_id", a.RouterID, b.RouterID, vnet.ImpactObject)
	differ(&c, "mapping", a.text(), b.text(), vnet.ImpactObject)
	return c, len(c.Diff) > 0
}

func (f PortForward) text() string {
	return fmt.Sprintf("%s %s:%s -> %s:%s", f.Protocol, f.ExternalIP, f.ExternalPort, f.InternalIP, f.InternalPort)
}
