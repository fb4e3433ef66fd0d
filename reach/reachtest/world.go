package reachtest

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// Want bounds what worlds are drawn. The zero value is one host with local
// networks and ports that are not filtered.
type Want struct {
	Hosts    int                   // h1, h2, ...; zero: 1
	Segments []overlay.SegmentType // of tenant networks, Local and VXLAN; none: both with several hosts, Local with one
	Routers  bool                  // with a provider network, stations on it, floating IPs and port forwards
	Groups   bool                  // security groups and port security
	// Shared: with Groups, machines use addresses of their allowed pairs
	// (World.Holders), so they have to answer for them.
	Shared bool
	// Transit: with Routers, stations pass on what is not for themselves.
	Transit bool
	// Metadata: endpoints, in routers and on networks.
	Metadata bool
}

// External is the id of the provider network, and Physical its physical network.
const (
	External = "ext"
	Physical = "physnet"
)

type drawing struct {
	*rapid.T
	want Want
	w    reach.World
	macs byte
}

// World draws a world. Tenant networks are n0, n1, ..., ports p0, p1, ...,
// routers r0, r1, stations s0, s1, groups g0, g1, ...
func World(t *rapid.T, want Want) reach.World {
	if want.Hosts == 0 {
		want.Hosts = 1
	}
	if len(want.Segments) == 0 {
		want.Segments = []overlay.SegmentType{overlay.Local}
		if want.Hosts > 1 {
			want.Segments = append(want.Segments, overlay.VXLAN)
		}
	}
	d := &drawing{T: t, want: want}
	d.networks()
	d.ports()
	if want.Routers {
		d.stations()
		d.routers()
		d.translations()
	}
	if want.Groups {
		d.groups()
		d.secured()
	}
	if want.Metadata {
		d.endpoints()
	}
	return d.w
}

// one is true once in n draws; it shrinks to false.
func (d *drawing) one(n int, label string) bool {
	return rapid.IntRange(0, n-1).Draw(d.T, label) == n-1
}

func (d *drawing) upTo(n int, label string) int { return rapid.IntRange(0, n).Draw(d.T, label) }

func pick[T any](d *drawing, from []T, label string) T {
	return rapid.SampledFrom(from).Draw(d.T, label)
}

func (d *drawing) mac() vnet.MAC {
	d.macs++
	return vnet.MAC{2, 0, 0, 0, 0, d.macs}
}

func (d *drawing) host() string { return fmt.Sprintf("h%d", 1+d.upTo(d.want.Hosts-1, "host")) }

func v4(net, n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(net), byte(n)}) }

func v6(net, n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 5: byte(net + 1), 15: byte(n)})
}

func ext4(n int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}) }

func ext6(n int) netip.Addr { return v6(0xfe, n) }

func (d *drawing) networks() {
	if d.want.Routers {
		d.w.Overlay.Networks = append(d.w.Overlay.Networks, overlay.Network{ID: External, Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: Physical},
			Subnets: []overlay.Subnet{{ID: "ext4", CIDR: netip.PrefixFrom(ext4(0), 24), Gateway: ext4(1)}, {ID: "ext6", CIDR: netip.PrefixFrom(ext6(0), 64), Gateway: ext6(1)}}})
	}
	for i := range 1 + d.upTo(2, "networks") {
		space := d.upTo(1, "address space") // often that of another network
		n := overlay.Network{ID: fmt.Sprintf("n%d", i), Segment: overlay.Segment{Type: pick(d, d.want.Segments, "segment")}, AdminDown: d.one(12, "network down"),
			Subnets: []overlay.Subnet{
				{ID: fmt.Sprintf("n%d-4", i), CIDR: netip.PrefixFrom(v4(space, 0), 24), Gateway: v4(space, 1)},
				{ID: fmt.Sprintf("n%d-6", i), CIDR: netip.PrefixFrom(v6(space, 0), 64), Gateway: v6(space, 1)}}}
		if n.Segment.Type.Tunnel() {
			n.Segment.ID = uint32(100 + i)
			n.Flooding = overlay.Flooding{Broadcast: d.one(4, "broadcast"), NoMulticast: d.one(4, "no multicast")}
		}
		d.w.Overlay.Networks = append(d.w.Overlay.Networks, n)
	}
}

// space is the address space of a tenant network.
func space(n overlay.Network) int { return int(n.Subnets[0].CIDR.Addr().As4()[2]) }

func (d *drawing) tenants() []overlay.Network {
	return slices.DeleteFunc(slices.Clone(d.w.Overlay.Networks), func(n overlay.Network) bool { return n.ID == External })
}

func (d *drawing) ports() {
	last := map[string]int{}
	for i := range 2 + d.upTo(3, "ports") {
		n := pick(d, d.tenants(), "network")
		last[n.ID]++
		k := 4 + last[n.ID] // the same numbers in every network
		d.w.Overlay.Ports = append(d.w.Overlay.Ports, overlay.Port{ID: fmt.Sprintf("p%d", i), NetworkID: n.ID, MAC: d.mac(), Host: d.host(),
			FixedIPs: []netip.Addr{v4(space(n), k), v6(space(n), k)}, AdminDown: d.one(12, "port down"), Filtered: d.want.Groups && !d.one(8, "unfiltered")})
	}
}

func (d *drawing) stations() {
	for i := range 1 + d.upTo(1, "stations") {
		d.w.Stations = append(d.w.Stations, reach.Station{ID: fmt.Sprintf("s%d", i), NetworkID: External, MAC: d.mac(),
			Addresses: []netip.Prefix{netip.PrefixFrom(ext4(1+i), 24), netip.PrefixFrom(ext6(1+i), 64)}, Forwards: d.want.Transit && d.one(2, "forwards")})
	}
}

func (d *drawing) routers() {
	served := map[string]bool{}
	for i := range 1 + d.upTo(1, "routers") {
		r := router.Router{ID: fmt.Sprintf("r%d", i), Host: d.host(), AdminDown: d.one(12, "router down")}
		spaces := map[int]bool{}
		for j, n := range d.tenants() {
			if spaces[space(n)] || d.one(4, "left out") {
				continue
			}
			spaces[space(n)] = true
			k := 1
			if served[n.ID] {
				k = 200 + i // a second router is not the subnet's gateway
			}
			served[n.ID] = true
			r.Interfaces = append(r.Interfaces, router.Interface{PortID: fmt.Sprintf("ri%d-%d", i, j), NetworkID: n.ID, MAC: d.mac(),
				Addresses: []netip.Prefix{netip.PrefixFrom(v4(space(n), k), 24), netip.PrefixFrom(v6(space(n), k), 64)}})
		}
		if !d.one(4, "no gateway") {
			r.Gateway = &router.Gateway{PortID: fmt.Sprintf("rg%d", i), NetworkID: External, MAC: d.mac(), DisableSNAT: d.one(4, "no snat"),
				Addresses: []netip.Prefix{netip.PrefixFrom(ext4(10+i), 24), netip.PrefixFrom(ext6(10+i), 64)}}
			if !d.one(3, "no next hop") {
				r.Gateway.NextHops = []netip.Addr{ext4(1), ext6(1)}
			}
			for s := range d.w.Stations {
				for x := range spaces {
					if d.one(2, "known outside") && i == 0 {
						d.w.Stations[s].Routes = append(d.w.Stations[s].Routes, router.Route{Destination: netip.PrefixFrom(v6(x, 0), 64), NextHop: ext6(10 + i)})
					}
				}
			}
		}
		if len(r.Interfaces) > 0 && d.one(3, "extra route") {
			n := r.Interfaces[0].Addresses[0].Masked()
			b := n.Addr().As4()
			b[3] = byte(5 + d.upTo(1, "next hop"))
			r.Routes = []router.Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), NextHop: netip.AddrFrom4(b)}}
		}
		d.w.Router.Routers = append(d.w.Router.Routers, r)
	}
}

// translations gives floating IPs and port forwards to routers with a gateway.
func (d *drawing) translations() {
	for i, r := range d.w.Router.Routers {
		if r.Gateway == nil || len(r.Interfaces) == 0 {
			continue
		}
		used := map[netip.Addr]bool{}
		inside := func() netip.Addr {
			a := pick(d, r.Interfaces, "behind").Addresses[0].Masked().Addr().As4()
			a[3] = byte(5 + d.upTo(2, "fixed"))
			return netip.AddrFrom4(a)
		}
		for j := range d.upTo(2, "floating IPs") {
			if fixed := inside(); !used[fixed] {
				used[fixed] = true
				d.w.Router.FloatingIPs = append(d.w.Router.FloatingIPs, router.FloatingIP{ID: fmt.Sprintf("f%d-%d", i, j), RouterID: r.ID, FloatingIP: ext4(50 + 10*i + j), FixedIP: fixed})
			}
		}
		for j := range d.upTo(1, "forwards") {
			ip := ext4(90 + i)
			if d.one(2, "own address") {
				ip = r.Gateway.Addresses[0].Addr()
			}
			d.w.Router.PortForwards = append(d.w.Router.PortForwards, router.PortForward{ID: fmt.Sprintf("pf%d-%d", i, j), RouterID: r.ID, Protocol: pick(d, []string{"tcp", "udp"}, "protocol"),
				ExternalIP: ip, ExternalPort: router.PortRange{First: 8080, Last: 8081}, InternalIP: inside(), InternalPort: router.PortRange{First: 80, Last: 81}})
		}
	}
}

func (d *drawing) groups() {
	d.w.SecGroup.AddressGroups = []secgroup.AddressGroup{{ID: "a0", Prefixes: []netip.Prefix{netip.PrefixFrom(v4(0, 5), 32), netip.PrefixFrom(v6(0, 0), 64), netip.PrefixFrom(ext4(0), 24)}}}
	n := 1 + d.upTo(2, "groups")
	for i := range n {
		g := secgroup.Group{ID: fmt.Sprintf("g%d", i), Stateless: d.one(4, "stateless")}
		for j := range d.upTo(4, "rules") {
			g.Rules = append(g.Rules, d.rule(j, n))
		}
		if d.one(2, "all out") { // or hardly anything would get as far as the other end
			g.Rules = append(g.Rules, secgroup.Rule{ID: "out4", Direction: secgroup.Egress, Ethertype: secgroup.IPv4}, secgroup.Rule{ID: "out6", Direction: secgroup.Egress, Ethertype: secgroup.IPv6})
		}
		d.w.SecGroup.Groups = append(d.w.SecGroup.Groups, g)
	}
}

func (d *drawing) rule(j, groups int) secgroup.Rule {
	r := secgroup.Rule{ID: fmt.Sprintf("r%d", j), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4}
	if d.one(2, "egress") {
		r.Direction = secgroup.Egress
	}
	if d.one(3, "IPv6") {
		r.Ethertype = secgroup.IPv6
	}
	num := func(n int) *uint16 { u := uint16(n); return &u }
	switch d.upTo(4, "protocol") {
	case 0:
	case 1, 2:
		r.Protocol = pick(d, []string{"tcp", "udp", "6"}, "name")
		if d.one(2, "ports") {
			lo := pick(d, Ports, "from")
			r.PortMin, r.PortMax = num(int(lo)), num(int(lo)+d.upTo(1, "more"))
		}
	case 3:
		r.Protocol = "icmp"
		if d.one(3, "type") {
			r.PortMin = num(map[secgroup.Ethertype]int{secgroup.IPv4: 8, secgroup.IPv6: 128}[r.Ethertype])
			if d.one(3, "code") {
				r.PortMax = num(d.upTo(1, "code"))
			}
		}
	case 4:
		r.Protocol = pick(d, []string{"47", "sctp"}, "other")
	}
	switch d.upTo(4, "remote") {
	case 0, 1:
	case 2:
		all := []netip.Prefix{netip.PrefixFrom(v4(0, 0), 24), netip.PrefixFrom(v4(0, 4), 31), netip.PrefixFrom(v4(1, 5), 32), netip.PrefixFrom(ext4(0), 24)}
		if r.Ethertype == secgroup.IPv6 {
			all = []netip.Prefix{netip.PrefixFrom(v6(0, 0), 64), netip.PrefixFrom(v6(1, 5), 128), netip.PrefixFrom(ext6(0), 64)}
		}
		r.RemotePrefix = pick(d, all, "prefix")
	case 3:
		r.RemoteGroup = fmt.Sprintf("g%d", d.upTo(groups-1, "remote group"))
	case 4:
		r.RemoteAddressGroup = "a0"
	}
	return r
}

func (d *drawing) secured() {
	var ids []string
	for _, g := range d.w.SecGroup.Groups {
		ids = append(ids, g.ID)
	}
	for i, p := range d.w.Overlay.Ports {
		if p.Filtered && d.one(12, "not filled") || !p.Filtered {
			continue
		}
		s := secgroup.Port{ID: p.ID, NetworkID: p.NetworkID, MAC: p.MAC, FixedIPs: p.FixedIPs, Host: p.Host}
		if d.one(8, "no port security") {
			s.DisablePortSecurity = true
		} else {
			for _, id := range ids {
				if !d.one(3, "not in group") {
					s.Groups = append(s.Groups, id)
				}
			}
			if d.one(3, "pair") {
				holds := d.want.Shared && d.one(2, "holds") && !d.held(p.NetworkID, v4(0, 100))
				if holds {
					d.w.Holders = append(d.w.Holders, reach.Holder{NetworkID: p.NetworkID, IP: v4(0, 100), PortID: p.ID})
				}
				q := secgroup.AddressPair{Prefix: netip.PrefixFrom(v4(0, 100), 31)}
				if !holds && d.one(2, "pair MAC") { // who holds answers with its own
					q.MAC = vnet.MAC{2, 0, 0, 0, 1, byte(i)}
				}
				s.AllowedPairs = append(s.AllowedPairs, q)
			}
		}
		d.w.SecGroup.Ports = append(d.w.SecGroup.Ports, s)
	}
}

func (d *drawing) held(network string, a netip.Addr) bool {
	return slices.ContainsFunc(d.w.Holders, func(h reach.Holder) bool { return h.NetworkID == network && h.IP == a })
}

// endpoints puts metadata where it can be: in routers, and on networks that
// have none.
func (d *drawing) endpoints() {
	routed := map[string]bool{}
	for _, r := range d.w.Router.Routers {
		for _, i := range r.Interfaces {
			routed[i.NetworkID] = true
		}
		if len(r.Interfaces) > 0 && !d.one(3, "no metadata") {
			d.w.Metadata.Endpoints = append(d.w.Metadata.Endpoints, metadata.Endpoint{ID: "m-" + r.ID, RouterID: r.ID, Host: r.Host})
		}
	}
	for _, n := range d.tenants() {
		if !routed[n.ID] && !d.one(3, "no metadata") {
			d.w.Metadata.Endpoints = append(d.w.Metadata.Endpoints, metadata.Endpoint{ID: "m-" + n.ID, NetworkID: n.ID, PortID: "pm-" + n.ID, MAC: d.mac(),
				Addresses: []netip.Prefix{netip.PrefixFrom(v4(space(n), 2), 24)}})
		}
	}
}
