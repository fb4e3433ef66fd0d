package overlay

import (
	"fmt"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which nothing dangles: what is new or different first (networks,
// ports, remote ports), then what goes, in the opposite order.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	add := func(changes, g []vnet.Change) {
		out = append(out, changes...)
		gone = append(g, gone...)
	}
	add(vnet.Compare(old.Networks, want.Networks, func(n Network) string { return n.ID }, DiffNetwork))
	add(vnet.Compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, DiffPort))
	add(vnet.Compare(old.RemotePorts, want.RemotePorts, func(p RemotePort) string { return p.ID }, DiffRemotePort))
	return append(out, gone...)
}

// DiffNetwork returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none. Subnets are not the overlay's to
// carry, but a change of them is shown.
func DiffNetwork(a, b *Network) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartOverlay, "network", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartOverlay, "network", b.ID, false, true)
		c.Diff = []string{"segment: " + b.Segment.String()}
		return c, true
	}
	c = vnet.NewChange(vnet.PartOverlay, "network", b.ID, true, true)
	c.Differ("segment", a.Segment, b.Segment, vnet.ImpactObject)
	c.Differ("mtu", a.MTU, b.MTU, vnet.ImpactSome)
	c.Differ("flooding", a.Flooding, b.Flooding, vnet.ImpactSome)
	c.Differ("admin_down", a.AdminDown, b.AdminDown, vnet.ImpactObject)
	c.Differ("subnets", a.Subnets, b.Subnets, vnet.ImpactNone)
	return c, len(c.Diff) > 0
}

// DiffPort returns the change from a to b, either of which may be nil.
func DiffPort(a, b *Port) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartOverlay, "port", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartOverlay, "port", b.ID, false, true)
		c.Diff = []string{"network: " + b.NetworkID}
		return c, true
	}
	c = vnet.NewChange(vnet.PartOverlay, "port", b.ID, true, true)
	c.Differ("network", a.NetworkID, b.NetworkID, vnet.ImpactObject)
	c.Differ("mac", a.MAC, b.MAC, vnet.ImpactObject)
	c.Differ("fixed_ips", a.FixedIPs, b.FixedIPs, vnet.ImpactSome)
	c.Differ("admin_down", a.AdminDown, b.AdminDown, vnet.ImpactObject)
	c.Differ("filtered", a.Filtered, b.Filtered, vnet.ImpactSome)
	c.Differ("host", a.Host, b.Host, vnet.ImpactObject)
	return c, len(c.Diff) > 0
}

// DiffRemotePort returns the change from a to b, either of which may be nil.
func DiffRemotePort(a, b *RemotePort) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return vnet.NewChange(vnet.PartOverlay, "remote_port", a.ID, true, false), true
	case a == nil:
		c = vnet.NewChange(vnet.PartOverlay, "remote_port", b.ID, false, true)
		c.Diff = []string{fmt.Sprintf("network: %s, at %s", b.NetworkID, b.Endpoint)}
		return c, true
	}
	c = vnet.NewChange(vnet.PartOverlay, "remote_port", b.ID, true, true)
	c.Differ("network", a.NetworkID, b.NetworkID, vnet.ImpactObject)
	c.Differ("mac", a.MAC, b.MAC, vnet.ImpactObject)
	c.Differ("ips", a.IPs, b.IPs, vnet.ImpactSome)
	c.Differ("endpoint", a.Endpoint, b.Endpoint, vnet.ImpactObject)
	return c, len(c.Diff) > 0
}
