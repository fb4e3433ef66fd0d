package topology

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
)

// split gives every host its share: its own objects, the networks it needs
// for them, and, of tunnelled networks, the ports that other hosts have.
func (b *builder) split() {
	c := b.c
	for i := range c.Hosts {
		h := &c.Hosts[i]
		s := &h.States
		needs := map[string]bool{}
		for _, p := range c.All.Overlay.Ports {
			if p.Host == h.Name && !b.ports[p.ID].direct() {
				s.Overlay.Ports = append(s.Overlay.Ports, p)
				needs[p.NetworkID] = true
			}
		}
		routers := map[string]bool{}
		for _, r := range c.All.Router.Routers {
			if r.Host != h.Name {
				continue
			}
			routers[r.ID] = true
			s.Router.Routers = append(s.Router.Routers, r)
			for _, in := range r.Interfaces {
				needs[in.NetworkID] = true
			}
			if r.Gateway != nil {
				needs[r.Gateway.NetworkID] = true
			}
		}
		serves := maps.Clone(needs) // the networks that machines here are on
		if c.Backend == OVS {
			b.route(h, needs, routers)
		}
		for _, n := range c.All.Overlay.Networks {
			if needs[n.ID] {
				s.Overlay.Networks = append(s.Overlay.Networks, n)
			}
		}
		for _, o := range c.remotePorts() {
			if o.host != h.Name && needs[o.port.NetworkID] {
				s.Overlay.RemotePorts = append(s.Overlay.RemotePorts, o.port)
			}
		}
		for _, f := range c.All.Router.FloatingIPs {
			if routers[f.RouterID] {
				s.Router.FloatingIPs = append(s.Router.FloatingIPs, f)
			}
		}
		shapes := c.All.QoS
		for _, p := range shapes.Ports {
			if p.Host == h.Name {
				s.QoS.Ports = append(s.QoS.Ports, p)
			}
		}
		for _, u := range shapes.Uplinks {
			if u.Host == h.Name {
				s.QoS.Uplinks = append(s.QoS.Uplinks, u)
			}
		}
		for _, g := range shapes.Gateways {
			if routers[g.RouterID] {
				s.QoS.Gateways = append(s.QoS.Gateways, g)
			}
		}
		for _, f := range shapes.FloatingIPs {
			if routers[f.RouterID] {
				s.QoS.FloatingIPs = append(s.QoS.FloatingIPs, f)
			}
		}
		for _, f := range c.All.Router.PortForwards {
			if routers[f.RouterID] {
				s.Router.PortForwards = append(s.Router.PortForwards, f)
			}
		}
		// Ports of all hosts are members of their groups.
		s.SecGroup = c.All.SecGroup
		for _, x := range c.All.DHCP.Scopes {
			if serves[x.NetworkID] {
				s.DHCP.Scopes = append(s.DHCP.Scopes, x)
			}
		}
		// Those of other hosts too: where broadcasts cross, a server has to know
		// whom not to answer.
		for _, r := range c.All.DHCP.Reservations {
			if serves[r.NetworkID] {
				s.DHCP.Reservations = append(s.DHCP.Reservations, r)
			}
		}
		for _, e := range c.All.Metadata.Endpoints {
			if routers[e.RouterID] || e.NetworkID != "" && serves[e.NetworkID] {
				s.Metadata.Endpoints = append(s.Metadata.Endpoints, e)
			}
		}
	}
}

// route adds the routers of other hosts that machines of this one are behind or
// that may come here, and the networks that these lead to: what it can, the host
// routes itself.
func (b *builder) route(h *CloudHost, needs, routers map[string]bool) {
	for again := true; again; {
		again = false
		for _, r := range b.c.All.Router.Routers {
			stands := r.Gateway != nil && slices.Contains(r.Gateway.Hosts, h.Name)
			if routers[r.ID] || !stands && !slices.ContainsFunc(r.Interfaces, func(in router.Interface) bool { return needs[in.NetworkID] }) {
				continue
			}
			again = true
			routers[r.ID] = true
			h.States.Router.Routers = append(h.States.Router.Routers, r)
			for _, in := range r.Interfaces {
				needs[in.NetworkID] = true
			}
			if g := r.Gateway; g != nil && slices.Contains(h.PhysicalNets, b.c.Network(g.NetworkID).Segment.PhysicalNetwork) {
				needs[g.NetworkID] = true
			}
		}
	}
}

type hostedPort struct {
	host string
	port overlay.RemotePort
}

// remotePorts lists all ports of tunnelled networks as other hosts see them.
func (c *Cloud) remotePorts() []hostedPort {
	var out []hostedPort
	add := func(host, network string, p overlay.RemotePort) {
		n := c.Network(network)
		if n == nil || n.Segment.Type != overlay.VXLAN && n.Segment.Type != overlay.Geneve {
			return
		}
		if slices.ContainsFunc(n.Subnets, func(s overlay.Subnet) bool { return s.CIDR.Addr().Is6() }) {
			p.IPs = append(slices.Clone(p.IPs), p.MAC.LinkLocal())
		}
		p.NetworkID, p.Endpoint = network, c.Host(host).LocalIP
		out = append(out, hostedPort{host, p})
	}
	addrs := func(ps []netip.Prefix) (out []netip.Addr) {
		for _, p := range ps {
			out = append(out, p.Addr())
		}
		return out
	}
	for i, p := range c.All.Overlay.Ports {
		r := overlay.RemotePort{ID: p.ID, MAC: p.MAC, IPs: slices.Clone(p.FixedIPs)}
		// An address pair of one port alone leads to that port. Where ports
		// share some, broadcasts cross and find the holder.
		for _, pair := range c.All.SecGroup.Ports[i].AllowedPairs {
			if pair.Prefix.IsSingleIP() && (pair.MAC.IsZero() || pair.MAC == p.MAC) && !c.Network(p.NetworkID).Flooding.Broadcast {
				r.IPs = append(r.IPs, pair.Prefix.Addr())
			}
		}
		add(p.Host, p.NetworkID, r)
	}
	for _, r := range c.All.Router.Routers {
		for _, in := range r.Interfaces {
			add(r.Host, in.NetworkID, overlay.RemotePort{ID: in.PortID, MAC: in.MAC, IPs: addrs(in.Addresses)})
		}
		if r.Gateway != nil {
			add(r.Host, r.Gateway.NetworkID, overlay.RemotePort{ID: r.Gateway.PortID, MAC: r.Gateway.MAC, IPs: addrs(r.Gateway.Addresses)})
		}
	}
	return out
}
