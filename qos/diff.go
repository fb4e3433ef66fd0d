package qos

import (
	"strconv"

	"github.com/vnet-go/vnet"
)

// Diff returns what has to change to come from state old to state want:
// uplinks, ports, gateways and floating IPs that are new or different, then
// what goes, in the opposite order.
func Diff(old, want State) []vnet.Change {
	old, want = old.Canonical(), want.Canonical()
	var out, gone []vnet.Change
	add := func(changes, g []vnet.Change) {
		out = append(out, changes...)
		gone = append(g, gone...)
	}
	add(vnet.Compare(old.Uplinks, want.Uplinks, func(u Uplink) string { return u.Host + "/" + u.Name }, DiffUplink))
	add(vnet.Compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, DiffPort))
	add(vnet.Compare(old.Gateways, want.Gateways, func(g Gateway) string { return g.RouterID }, DiffGateway))
	add(vnet.Compare(old.FloatingIPs, want.FloatingIPs, func(f FloatingIP) string { return f.ID }, DiffFloatingIP))
	return append(out, gone...)
}

// DiffPort returns the change from a to b, either of which may be nil
// (absent); ok is false when there is none.
func DiffPort(a, b *Port) (vnet.Change, bool) {
	x, y := orZero(a), orZero(b)
	c := change("port", x.ID, y.ID, a != nil, b != nil)
	shapes(&c, x.Shape, y.Shape)
	c.Differ("uplink", orNone(x.Uplink), orNone(y.Uplink), vnet.ImpactNone)
	if a != nil {
		c.Differ("host", orNone(x.Host), orNone(y.Host), vnet.ImpactNone)
	}
	return done(c)
}

// DiffGateway is the same of gateways.
func DiffGateway(a, b *Gateway) (vnet.Change, bool) {
	x, y := orZero(a), orZero(b)
	c := change("gateway", x.RouterID, y.RouterID, a != nil, b != nil)
	shapes(&c, x.Shape, y.Shape)
	if a != nil {
		c.Differ("port_id", x.PortID, y.PortID, vnet.ImpactNone)
		c.Differ("network_id", x.NetworkID, y.NetworkID, vnet.ImpactNone)
		c.Differ("mac", x.MAC, y.MAC, vnet.ImpactNone)
		c.Differ("host", orNone(x.Host), orNone(y.Host), vnet.ImpactNone)
	}
	return done(c)
}

// DiffFloatingIP is the same of floating IPs.
func DiffFloatingIP(a, b *FloatingIP) (vnet.Change, bool) {
	x, y := orZero(a), orZero(b)
	c := change("floatingip", x.ID, y.ID, a != nil, b != nil)
	shapes(&c, x.Shape, y.Shape)
	if a != nil {
		c.Differ("floating_ip", x.FloatingIP, y.FloatingIP, vnet.ImpactNone)
		c.Differ("router_id", x.RouterID, y.RouterID, vnet.ImpactNone)
		c.Differ("port_id", x.PortID, y.PortID, vnet.ImpactNone)
		c.Differ("network_id", x.NetworkID, y.NetworkID, vnet.ImpactNone)
		c.Differ("fixed_port_id", orNone(x.FixedPortID), orNone(y.FixedPortID), vnet.ImpactNone)
		c.Differ("host", orNone(x.Host), orNone(y.Host), vnet.ImpactNone)
	}
	return done(c)
}

// DiffUplink is the same of uplinks.
func DiffUplink(a, b *Uplink) (vnet.Change, bool) {
	x, y := orZero(a), orZero(b)
	c := change("uplink", x.Name, y.Name, a != nil, b != nil)
	c.Differ("kbps", x.Kbps, y.Kbps, vnet.ImpactNone)
	return done(c)
}

func orZero[T any](p *T) (z T) {
	if p != nil {
		z = *p
	}
	return z
}

// change begins one. What goes stops no traffic, unlike elsewhere: it is no
// longer limited.
func change(kind, was, will string, had, has bool) vnet.Change {
	id := will
	if !has {
		id = was
	}
	c := vnet.NewChange(vnet.PartQoS, kind, id, had, has)
	c.Impact = vnet.ImpactNone
	return c
}

func done(c vnet.Change) (vnet.Change, bool) {
	if c.Verb == vnet.Delete {
		c.Diff = nil
	}
	return c, c.Verb != vnet.Update || len(c.Diff) > 0
}

func shapes(c *vnet.Change, a, b Shape) {
	for _, d := range []Direction{Egress, Ingress} {
		x, y := a.Way(d), b.Way(d)
		c.Differ(string(d)+" max_kbps", x.Kbps, y.Kbps, vnet.ImpactSome)
		c.Differ(string(d)+" burst_kbit", x.Burst(), y.Burst(), vnet.ImpactSome)
		c.Differ(string(d)+" max_pps", x.PPS, y.PPS, vnet.ImpactSome)
		c.Differ(string(d)+" burst_packets", x.PacketBurst(), y.PacketBurst(), vnet.ImpactSome)
		c.Differ(string(d)+" min_kbps", x.MinKbps, y.MinKbps, vnet.ImpactNone)
		c.Differ(string(d)+" min_pps", x.MinPPS, y.MinPPS, vnet.ImpactNone)
	}
	c.Differ("dscp_mark", dscp(a), dscp(b), vnet.ImpactNone)
}

func dscp(s Shape) string {
	if s.DSCP == nil {
		return "none"
	}
	return strconv.Itoa(int(*s.DSCP))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
