package overlay

import (
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want, in an
// order in which nothing dangles: what is new or different first (networks,
// ports, remote ports), then what goes, in the opposite order.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	out = append(out, compare(old.Networks, want.Networks, func(n Network) string { return n.ID }, DiffNetwork, &gone)...)
	out = append(out, compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, DiffPort, &gone)...)
	out = append(out, compare(old.RemotePorts, want.RemotePorts, func(p RemotePort) string { return p.ID }, DiffRemotePort, &gone)...)
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
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: kind, ID: id, Impact: vnet.ImpactNone}
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
	if as, bs := fmt.Sprint(a), fmt.Sprint(b); as != bs {
		c.Diff = append(c.Diff, fmt.Sprintf("%s: %s -> %s", name, as, bs))
		if c.Impact == vnet.ImpactNone || impact == vnet.ImpactObject {
			c.Impact = impact
		}
	}
}

// DiffNetwork returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none. Subnets are not the overlay's to
// carry, but a change of them is shown.
func DiffNetwork(a, b *Network) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("network", a.ID, false, true), true
	case a == nil:
		c = change("network", b.ID, true, false)
		c.Diff = []string{"segment: " + b.Segment.String()}
		return c, true
	}
	c = change("network", b.ID, false, false)
	differ(&c, "segment", a.Segment, b.Segment, vnet.ImpactObject)
	differ(&c, "mtu", a.MTU, b.MTU, vnet.ImpactSome)
	differ(&c, "flooding", a.Flooding, b.Flooding, vnet.ImpactSome)
	differ(&c, "admin_down", a.AdminDown, b.AdminDown, vnet.ImpactObject)
	differ(&c, "subnets", a.Subnets, b.Subnets, vnet.ImpactNone)
	return c, len(c.Diff) > 0
}

// DiffPort returns the change from a to b, either of which may be nil.
func DiffPort(a, b *Port) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("port", a.ID, false, true), true
	case a == nil:
		c = change("port", b.ID, true, false)
		c.Diff = []string{"network: " + b.NetworkID}
		return c, true
	}
	c = change("port", b.ID, false, false)
	differ(&c, "network", a.NetworkID, b.NetworkID, vnet.ImpactObject)
	differ(&c, "mac", a.MAC, b.MAC, vnet.ImpactObject)
	differ(&c, "fixed_ips", a.FixedIPs, b.FixedIPs, vnet.ImpactSome)
	differ(&c, "admin_down", a.AdminDown, b.AdminDown, vnet.ImpactObject)
	differ(&c, "filtered", a.Filtered, b.Filtered, vnet.ImpactSome)
	differ(&c, "host", a.Host, b.Host, vnet.ImpactObject)
	return c, len(c.Diff) > 0
}

// DiffRemotePort returns the change from a to b, either of which may be nil.
func DiffRemotePort(a, b *RemotePort) (c vnet.Change, ok bool) {
	switch {
	case a == nil && b == nil:
		return c, false
	case b == nil:
		return change("remote_port", a.ID, false, true), true
	case a == nil:
		c = change("remote_port", b.ID, true, false)
		c.Diff = []string{fmt.Sprintf("network: %s, at %s", b.NetworkID, b.Endpoint)}
		return c, true
	}
	c = change("remote_port", b.ID, false, false)
	differ(&c, "network", a.NetworkID, b.NetworkID, vnet.ImpactObject)
	differ(&c, "mac", a.MAC, b.MAC, vnet.ImpactObject)
	differ(&c, "ips", a.IPs, b.IPs, vnet.ImpactSome)
	differ(&c, "endpoint", a.Endpoint, b.Endpoint, vnet.ImpactObject)
	return c, len(c.Diff) > 0
}
