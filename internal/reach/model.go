package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// World is a desired state, of the whole cloud, and what is around it.
type World struct {
	Overlay  overlay.State
	Router   router.State
	SecGroup secgroup.State
	DHCP     dhcp.State     // host routes of machines
	Metadata metadata.State // where 169.254.169.254 is answered
	// Stations are machines that are not ports: servers on a provider network.
	Stations []Station
	// Holders say who answers for addresses that several ports may use.
	Holders []Holder
}

// Station is a machine on a network that no backend manages.
type Station struct {
	ID        string
	NetworkID string
	Host      string // matters on Local networks only
	MAC       vnet.MAC
	Addresses []netip.Prefix // with the length of what is on-link
	Gateways  []netip.Addr   // at most one per family
	Routes    []router.Route
	// Forwards: it routes what is not for itself, as a provider's router does.
	Forwards bool
}

// Holder says that a port answers for an address of its allowed pairs.
type Holder struct {
	NetworkID string
	IP        netip.Addr
	PortID    string
}

// Model answers questions about a World.
type Model struct {
	w        World
	nets     map[string]*overlay.Network
	ports    map[string]*overlay.Port
	secured  map[string]*secgroup.Port
	groups   map[string]*secgroup.Group
	lists    map[string]*secgroup.AddressGroup
	routers  map[string]*router.Router
	stations map[string]*Station
	at       map[string][]endpoint // by network
}

// New returns the model of w, or what is wrong with it.
func New(w World) (*Model, error) {
	for _, err := range []error{vnet.In("overlay", w.Overlay.Validate()), vnet.In("router", w.Router.Validate()), vnet.In("secgroup", w.SecGroup.Validate())} {
		if err != nil {
			return nil, err
		}
	}
	m := &Model{w: w, nets: map[string]*overlay.Network{}, ports: map[string]*overlay.Port{}, secured: map[string]*secgroup.Port{},
		groups: map[string]*secgroup.Group{}, lists: map[string]*secgroup.AddressGroup{}, routers: map[string]*router.Router{},
		stations: map[string]*Station{}, at: map[string][]endpoint{}}
	for i := range w.Overlay.Networks {
		m.nets[w.Overlay.Networks[i].ID] = &w.Overlay.Networks[i]
	}
	for i := range w.SecGroup.Ports {
		m.secured[w.SecGroup.Ports[i].ID] = &w.SecGroup.Ports[i]
	}
	for i := range w.SecGroup.Groups {
		m.groups[w.SecGroup.Groups[i].ID] = &w.SecGroup.Groups[i]
	}
	for i := range w.SecGroup.AddressGroups {
		m.lists[w.SecGroup.AddressGroups[i].ID] = &w.SecGroup.AddressGroups[i]
	}
	for i := range w.Overlay.Ports {
		p := &w.Overlay.Ports[i]
		m.ports[p.ID] = p
		m.at[p.NetworkID] = append(m.at[p.NetworkID], endpoint{kind: "port", id: p.ID, mac: p.MAC, host: p.Host, ips: m.answers(p)})
	}
	for i := range w.Stations {
		s := &w.Stations[i]
		if m.nets[s.NetworkID] == nil {
			return nil, &vnet.FieldError{Field: fmt.Sprintf("stations[%d].network_id", i), Value: s.NetworkID, Reason: "is no network of the world"}
		}
		m.stations[s.ID] = s
		var ips []netip.Addr
		for _, a := range s.Addresses {
			ips = append(ips, a.Addr())
		}
		m.at[s.NetworkID] = append(m.at[s.NetworkID], endpoint{kind: "station", id: s.ID, mac: s.MAC, host: s.Host, ips: ips})
	}
	for i := range w.Router.Routers {
		r := &w.Router.Routers[i]
		m.routers[r.ID] = r
		if r.AdminDown {
			continue
		}
		for _, x := range r.Interfaces {
			m.at[x.NetworkID] = append(m.at[x.NetworkID], endpoint{kind: "router", id: r.ID, side: x.PortID, mac: x.MAC, host: r.Host, ips: addrs(x.Addresses)})
		}
		if g := r.Gateway; g != nil {
			ips := addrs(g.Addresses)
			for _, f := range w.Router.FloatingIPs {
				if f.RouterID == r.ID {
					ips = append(ips, f.FloatingIP)
				}
			}
			for _, f := range w.Router.PortForwards {
				if f.RouterID == r.ID && !slices.Contains(ips, f.ExternalIP) {
					ips = append(ips, f.ExternalIP)
				}
			}
			m.at[g.NetworkID] = append(m.at[g.NetworkID], endpoint{kind: "router", id: r.ID, side: g.PortID, mac: g.MAC, host: r.Host, ips: ips})
		}
	}
	for _, e := range w.Metadata.Endpoints {
		if e.NetworkID != "" {
			m.at[e.NetworkID] = append(m.at[e.NetworkID], endpoint{kind: "metadata", id: e.ID, mac: e.MAC, everywhere: true,
				ips: append(addrs(e.Addresses), metadataAddrs...)})
		}
	}
	return m, nil
}

// The addresses of the metadata service: Neutron's, and AWS's for IPv6.
var metadataAddrs = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fe80::a9fe:a9fe"), netip.MustParseAddr("fd00:ec2::254")}

func addrs(ps []netip.Prefix) (out []netip.Addr) {
	for _, p := range ps {
		out = append(out, p.Addr())
	}
	return out
}

// answers are the addresses that a port's machine answers ARP and ND for.
func (m *Model) answers(p *overlay.Port) []netip.Addr {
	out := slices.Clone(p.FixedIPs)
	for _, h := range m.w.Holders {
		if h.PortID == p.ID && h.NetworkID == p.NetworkID {
			out = append(out, h.IP)
		}
	}
	return out
}

// endpoint is something on a network that has a MAC.
type endpoint struct {
	kind       string // "port", "station", "router", "metadata"
	id         string
	side       string // of a router: which of its ports
	mac        vnet.MAC
	host       string
	everywhere bool // on every host
	ips        []netip.Addr
}

func (e endpoint) name() string {
	if e.side != "" {
		return e.kind + " " + e.id + " (" + e.side + ")"
	}
	return e.kind + " " + e.id
}

// hears reports whether frames of one reach the other on their network.
func (m *Model) hears(n *overlay.Network, a, b endpoint) bool {
	if n.AdminDown {
		return false
	}
	if n.Segment.Type != overlay.Local || a.everywhere || b.everywhere {
		return true
	}
	return a.host == b.host
}

// whoHas is who answers ARP or ND for an address on a network, as from sees it.
func (m *Model) whoHas(network string, from endpoint, ip netip.Addr) (endpoint, bool) {
	n := m.nets[network]
	for _, e := range m.at[network] {
		if e.id == from.id && e.kind == from.kind && e.side == from.side {
			continue
		}
		if m.hears(n, from, e) && (slices.Contains(e.ips, ip) || ip == e.mac.LinkLocal()) {
			return e, true
		}
	}
	return endpoint{}, false
}
