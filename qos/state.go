package qos

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Tunnelled names the [Uplink] that carries a host's tunnels. No physical
// network has this name.
const Tunnelled = "*tunnelled"

// Port is what a port of the overlay may do.
type Port struct {
	ID    string `json:"id"` // of the overlay's port
	Shape `json:"shape"`
	// Uplink is the physical network by which the port leaves its host, or
	// [Tunnelled], when Egress.MinKbps is to be enforced there: the uplink must be
	// in the State. Empty: the minimum is a promise only.
	Uplink string `json:"uplink,omitempty"`
	// Host as in overlay's Port: a per-host backend leaves out other hosts' ports.
	Host string `json:"host,omitempty"`
}

// Gateway is what may pass by a router's gateway, both families. Floating IPs
// that have limits of their own are not counted.
type Gateway struct {
	RouterID string `json:"router_id"`
	PortID   string `json:"port_id"` // the gateway's port, as in router's Gateway
	// NetworkID is the external network.
	NetworkID string `json:"network_id"`
	// MAC is the gateway port's, by which Open vSwitch's backend tells its packets;
	// others ignore it.
	MAC   vnet.MAC `json:"mac,omitzero"`
	Shape `json:"shape"`
	Host  string `json:"host,omitempty"` // as in router's Router
}

// FloatingIP is what may pass from and to a floating IP.
type FloatingIP struct {
	ID         string     `json:"id"`
	RouterID   string     `json:"router_id"`
	PortID     string     `json:"port_id"`    // of the router's gateway
	NetworkID  string     `json:"network_id"` // the external network
	FloatingIP netip.Addr `json:"floating_ip"`
	// FixedPortID is the port that has the fixed address, for platforms that
	// translate on its host; may be empty.
	FixedPortID string `json:"fixed_port_id,omitempty"`
	Shape       `json:"shape"`
	Host        string `json:"host,omitempty"` // as in router's Router
}

// Uplink is a way out of a host that guarantees share.
type Uplink struct {
	// Name is a physical network's, or [Tunnelled].
	Name string `json:"name"`
	// Kbps is what the device carries, in kbit/s. The guarantees of the ports
	// that leave by it are together at most that; everything that leaves by it
	// is held to that.
	Kbps uint32 `json:"kbps"`
	Host string `json:"host,omitempty"` // as in Port
}

// State is the whole desired state as one backend sees it. Ports that ask for
// nothing may be in it or not.
type State struct {
	Ports       []Port       `json:"ports,omitempty"`
	Gateways    []Gateway    `json:"gateways,omitempty"`
	FloatingIPs []FloatingIP `json:"floating_ips,omitempty"`
	Uplinks     []Uplink     `json:"uplinks,omitempty"`
}

// Equal reports whether both are the same.
func (p Port) Equal(o Port) bool {
	return p.ID == o.ID && p.Uplink == o.Uplink && p.Host == o.Host && p.Shape.Equal(o.Shape)
}

// Equal reports whether both are the same.
func (g Gateway) Equal(o Gateway) bool {
	if !g.Shape.Equal(o.Shape) {
		return false
	}
	g.Shape, o.Shape = Shape{}, Shape{}
	return g == o
}

// Equal reports whether both are the same.
func (f FloatingIP) Equal(o FloatingIP) bool {
	if !f.Shape.Equal(o.Shape) {
		return false
	}
	f.Shape, o.Shape = Shape{}, Shape{}
	return f == o
}

// Clone returns a copy that shares nothing.
func (p Port) Clone() Port { p.Shape = p.Shape.Clone(); return p }

// Clone returns a copy that shares nothing.
func (g Gateway) Clone() Gateway { g.Shape = g.Shape.Clone(); return g }

// Clone returns a copy that shares nothing.
func (f FloatingIP) Clone() FloatingIP { f.Shape = f.Shape.Clone(); return f }

// Canonical returns a copy sorted by id, without what asks for nothing.
func (s State) Canonical() State {
	var c State
	for _, p := range s.Ports {
		if !p.Shape.Zero() {
			c.Ports = append(c.Ports, p.Clone())
		}
	}
	for _, g := range s.Gateways {
		if !g.Shape.Zero() {
			c.Gateways = append(c.Gateways, g.Clone())
		}
	}
	for _, f := range s.FloatingIPs {
		if !f.Shape.Zero() {
			f.FloatingIP = f.FloatingIP.Unmap()
			c.FloatingIPs = append(c.FloatingIPs, f.Clone())
		}
	}
	c.Uplinks = slices.Clone(s.Uplinks)
	slices.SortFunc(c.Ports, func(a, b Port) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Gateways, func(a, b Gateway) int { return strings.Compare(a.RouterID, b.RouterID) })
	slices.SortFunc(c.FloatingIPs, func(a, b FloatingIP) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Uplinks, func(a, b Uplink) int { return strings.Compare(a.Host+"/"+a.Name, b.Host+"/"+b.Name) })
	return c
}

// Validate reports, as [*vnet.FieldError], what is wrong with p.
func (p Port) Validate() error {
	var e fields
	e.add("", vnet.CheckID("id", p.ID))
	e.add("shape", p.Shape.Validate())
	e.uplink(p.Uplink, true)
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with g.
func (g Gateway) Validate() error {
	var e fields
	e.add("", vnet.CheckID("router_id", g.RouterID))
	e.add("", vnet.CheckID("port_id", g.PortID))
	e.add("", vnet.CheckID("network_id", g.NetworkID))
	e.add("shape", g.Shape.Validate())
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with f.
func (f FloatingIP) Validate() error {
	var e fields
	e.add("", vnet.CheckID("id", f.ID))
	e.add("", vnet.CheckID("router_id", f.RouterID))
	e.add("", vnet.CheckID("port_id", f.PortID))
	e.add("", vnet.CheckID("network_id", f.NetworkID))
	if f.FixedPortID != "" {
		e.add("", vnet.CheckID("fixed_port_id", f.FixedPortID))
	}
	a := f.FloatingIP.Unmap()
	e.is(!a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback(), "floating_ip", f.FloatingIP, "is no IPv4 address of a host")
	e.add("shape", f.Shape.Validate())
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with u.
func (u Uplink) Validate() error {
	var e fields
	e.uplink(u.Name, false)
	e.is(u.Kbps == 0, "kbps", u.Kbps, "is not above 0")
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with s: objects by
// themselves, ids that are there twice, ports that leave by an uplink that is
// not there, and guarantees that are more than an uplink has.
func (s State) Validate() error {
	var e fields
	left := map[uplinkKey]int64{}
	for i, u := range s.Uplinks {
		e.add(at("uplinks", i), u.Validate())
		k := uplinkKey{u.Host, u.Name}
		_, twice := left[k]
		e.is(twice, at("uplinks", i)+".name", u.Name, "is there twice")
		left[k] = int64(u.Kbps)
	}
	seen := map[string]bool{}
	for i, p := range s.Ports {
		e.add(at("ports", i), p.Validate())
		e.is(seen[p.ID], at("ports", i)+".id", p.ID, "is there twice")
		seen[p.ID] = true
		if reason := p.promise(left); reason != "" {
			e.is(true, at("ports", i)+".uplink", p.Uplink, reason)
		}
	}
	seen = map[string]bool{}
	for i, g := range s.Gateways {
		e.add(at("gateways", i), g.Validate())
		e.is(seen[g.RouterID], at("gateways", i)+".router_id", g.RouterID, "is there twice")
		seen[g.RouterID] = true
	}
	seen = map[string]bool{}
	for i, f := range s.FloatingIPs {
		e.add(at("floating_ips", i), f.Validate())
		e.is(seen[f.ID], at("floating_ips", i)+".id", f.ID, "is there twice")
		seen[f.ID] = true
	}
	return e.err()
}

type uplinkKey struct{ host, name string }

// promise takes p's guarantee from what is left of its uplink, and says why
// that cannot be.
func (p Port) promise(left map[uplinkKey]int64) string {
	if p.Uplink == "" {
		return ""
	}
	k := uplinkKey{p.Host, p.Uplink}
	had, ok := left[k]
	if !ok {
		return "is none of the uplinks of its host"
	}
	left[k] -= int64(p.Egress.MinKbps)
	if left[k] < 0 {
		return fmt.Sprintf("has %d kbit/s left, and %d are to be promised", max(had, 0), p.Egress.MinKbps)
	}
	return ""
}

// CheckGuarantees is for backends: it returns [vnet.ErrConflict] when ports of
// what would stand have more promised than their uplinks carry, or are on
// uplinks that are not there.
func CheckGuarantees(s State) error {
	left := map[uplinkKey]int64{}
	for _, u := range s.Uplinks {
		left[uplinkKey{u.Host, u.Name}] = int64(u.Kbps)
	}
	for _, p := range s.Ports {
		if reason := p.promise(left); reason != "" {
			return fmt.Errorf("port %s: uplink %s %s: %w", p.ID, p.Uplink, reason, vnet.ErrConflict)
		}
	}
	return nil
}
