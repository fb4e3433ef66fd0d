package topology

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// Parse reads a topology file for a backend; name is what its mistakes are
// reported under. The error is [Problems], sorted by line, when anything at
// all is wrong.
func Parse(name string, text []byte, backend string) (*Cloud, error) {
	b := newBuilder(name)
	b.c.Backend = backend
	b.document(text, &b.f)
	c := b.build()
	if len(b.problems) > 0 {
		slices.SortStableFunc(b.problems, func(x, y Problem) int {
			return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Field, y.Field))
		})
		return nil, b.problems
	}
	return c, nil
}

var (
	label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)
	meta4 = netip.MustParsePrefix("169.254.169.254/32")
)

// builder checks a File and fills in a Cloud. It goes on after a mistake, to
// find the next one; what it cannot use it leaves out.
type builder struct {
	decoder
	f     File
	c     *Cloud
	names map[string]map[string]string // kind -> name -> path of the object

	subnets  map[string]*subnet
	networks map[string]*network
	groups   map[string]bool
	addrGrps map[string]bool
	keys     map[string]Keypair
	ports    map[string]*port
	portList []*port // in the order of the file
	macs     map[vnet.MAC]string
	vmPorts  map[string]string // server -> its first port
}

type network struct {
	Network
	path     string
	subnets  []*subnet
	mtu      int
	routers  []string
	metadata *metadata.Endpoint // when its own, not its router's
}

type subnet struct {
	Subnet
	path     string
	net      *network
	gateway  netip.Addr // zero: none
	dhcpIP   netip.Addr
	used     map[netip.Addr]string // address -> path of who has it
	routerIf netip.Addr            // router's address here
	router   string
}

func (s *subnet) v4() bool   { return s.CIDR.Addr().Is4() }
func (s *subnet) dhcp() bool { return s.EnableDHCP == nil || *s.EnableDHCP }

type port struct {
	Port
	path   string
	ips    []netip.Addr
	ipNets []*subnet
	server *Server
	host   string
}

func newBuilder(file string) *builder {
	return &builder{
		decoder: decoder{file: file, pos: map[string]int{}}, c: &Cloud{Projects: map[string]string{}},
		names: map[string]map[string]string{}, subnets: map[string]*subnet{}, networks: map[string]*network{},
		groups: map[string]bool{}, addrGrps: map[string]bool{}, keys: map[string]Keypair{}, ports: map[string]*port{},
		macs: map[vnet.MAC]string{}, vmPorts: map[string]string{},
	}
}

// claim registers a name of a kind; false when it cannot be used.
func (b *builder) claim(kind, name, path string) bool {
	if name == "" {
		return false // missing: said already
	}
	if err := vnet.CheckID("name", name); err != nil {
		b.bad(path+".name", "%s", strings.TrimPrefix(err.Error(), "name "))
		return false
	}
	if b.names[kind] == nil {
		b.names[kind] = map[string]string{}
	}
	if other, twice := b.names[kind][name]; twice {
		b.bad(path+".name", "%q is the name of another %s, on line %d", name, kind, b.line(other))
		return false
	}
	b.names[kind][name] = path
	return true
}

// known reports whether a reference leads somewhere, and what it could have been if not.
func (b *builder) known(kind, name, path string) bool {
	if name == "" {
		return false
	}
	if _, ok := b.names[kind][name]; ok {
		return true
	}
	reason := fmt.Sprintf("there is no %s %q", kind, name)
	var all []string
	for n := range b.names[kind] {
		all = append(all, n)
	}
	slices.Sort(all)
	if len(all) > 0 && len(all) <= 12 {
		reason += "; there is " + strings.Join(all, ", ")
	}
	b.bad(path, "%s", reason)
	return false
}

// number derives a number from names, the same in every run.
func number(words ...string) uint64 {
	h := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return binary.BigEndian.Uint64(h[:])
}

func (b *builder) build() *Cloud {
	f, c := &b.f, b.c
	c.Name = f.Name
	if f.Name != "" {
		if err := vnet.Owner(f.Name).Validate(); err != nil {
			b.bad("name", "%s", strings.TrimPrefix(err.Error(), "owner "))
		}
	}
	b.hosts()
	b.makeNetworks()
	b.makeGroups()
	for i, k := range f.Keypairs {
		p := fmt.Sprintf("keypairs[%d]", i)
		if b.claim("keypair", k.Name, p) {
			b.keys[k.Name] = k
		}
		if k.PublicKey != "" && len(strings.Fields(k.PublicKey)) < 2 {
			b.bad(p+".public_key", "is not in the form of authorized_keys: type, key, comment")
		}
	}
	b.claimPorts()
	b.claimRouters()
	b.reserve()
	b.makeRouters()
	b.makePorts()
	b.makeServers()
	b.makeFloatingIPs()
	b.makeQoS()
	b.makeOutside()
	b.makeDHCP()
	b.makeProbe()
	if len(b.problems) == 0 {
		b.accept()
	}
	if len(b.problems) == 0 {
		b.split()
	}
	return c
}

// accept asks the contracts themselves, whose rules are more than are checked
// here. Routers stand in their state as they stand in the file; of the other
// states only the field is known, not the line.
func (b *builder) accept() {
	s := &b.c.All
	b.contract("", s.Router.Validate())
	for part, v := range map[string]interface{ Validate() error }{"overlay": s.Overlay, "secgroup": s.SecGroup, "dhcp": s.DHCP, "metadata": s.Metadata, "qos": s.QoS} {
		b.contract(part, v.Validate())
	}
}

func (b *builder) hosts() {
	f, c := &b.f, b.c
	c.Underlay, c.UnderlayMTU = f.Underlay.CIDR, f.Underlay.MTU
	if !c.Underlay.IsValid() {
		c.Underlay = netip.MustParsePrefix("192.0.2.0/24")
	} else if c.Underlay != c.Underlay.Masked() {
		b.bad("underlay.cidr", "has bits beyond its length, did you mean %s?", c.Underlay.Masked())
	}
	if c.UnderlayMTU == 0 {
		c.UnderlayMTU = 1500
	} else if c.UnderlayMTU < 1350 || c.UnderlayMTU > 65000 {
		b.bad("underlay.mtu", "%d is not from 1350 to 65000", c.UnderlayMTU)
	}
	for i, p := range f.PhysicalNets {
		path := fmt.Sprintf("physical_networks[%d]", i)
		if b.claim("physical network", p.Name, path) {
			c.PhysicalNets = append(c.PhysicalNets, p.Name)
			if p.Device != "" {
				if c.Devices == nil {
					c.Devices = map[string]string{}
				}
				c.Devices[p.Name] = p.Device
			}
			if !label.MatchString(p.Name) {
				b.bad(path+".name", "%q must be lower-case letters, digits and hyphens", p.Name)
			}
		}
	}
	if len(f.Hosts) == 0 && b.pos["hosts"] > 0 {
		b.bad("hosts", "at least one host is needed")
	}
	used := map[netip.Addr]string{}
	for i, h := range f.Hosts {
		if h.LocalIP.IsValid() {
			p := fmt.Sprintf("hosts[%d].local_ip", i)
			if !c.Underlay.Contains(h.LocalIP) {
				b.bad(p, "%s is not in the underlay %s", h.LocalIP, c.Underlay)
			}
			if other, twice := used[h.LocalIP]; twice {
				b.bad(p, "%s is taken by %s", h.LocalIP, other)
			}
			used[h.LocalIP] = h.Name
		}
	}
	next := c.Underlay.Addr().Next()
	for i, h := range f.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		if !b.claim("host", h.Name, path) {
			continue
		}
		if !label.MatchString(h.Name) {
			b.bad(path+".name", "%q must be lower-case letters, digits and hyphens", h.Name)
		}
		ch := CloudHost{Name: h.Name, LocalIP: h.LocalIP, PhysicalNets: c.PhysicalNets, Bandwidths: h.Bandwidths}
		if !ch.LocalIP.IsValid() {
			for used[next] != "" {
				next = next.Next()
			}
			ch.LocalIP, used[next] = next, h.Name
		}
		if h.PhysicalNets != nil {
			ch.PhysicalNets = h.PhysicalNets
			for j, p := range h.PhysicalNets {
				b.known("physical network", p, fmt.Sprintf("%s.physical_networks[%d]", path, j))
			}
		}
		ways := map[string]bool{}
		for j, w := range h.Bandwidths {
			wp := fmt.Sprintf("%s.bandwidths[%d]", path, j)
			switch {
			case ways[w.PhysicalNW]:
				b.bad(wp, "there is another of the same")
			case w.PhysicalNW != "" && b.known("physical network", w.PhysicalNW, wp+".physical_network") && !slices.Contains(ch.PhysicalNets, w.PhysicalNW):
				b.bad(wp+".physical_network", "the host is not cabled to %q", w.PhysicalNW)
			}
			ways[w.PhysicalNW] = true
		}
		b.cards(&ch, h, path)
		if h.DPDK != nil {
			b.dpdk(&ch, h, path+".dpdk")
		}
		c.Hosts = append(c.Hosts, ch)
	}
}

// firstHost is where things without a host go.
func (b *builder) hostOr(name, path string) string {
	if name != "" {
		b.known("host", name, path)
		return name
	}
	if len(b.c.Hosts) > 0 {
		return b.c.Hosts[0].Name
	}
	return ""
}

// tunnel is how a network without a type crosses the underlay.
func (b *builder) tunnel() overlay.SegmentType {
	if b.c.Backend == Linux {
		return overlay.VXLAN
	}
	return overlay.Geneve
}

// overhead is what a tunnel takes of the underlay's MTU; OVN puts 8 bytes of
// options into its Geneve header.
func (b *builder) overhead(t overlay.SegmentType) int {
	n := overlay.Overhead(t, b.c.Underlay.Addr())
	if b.c.Backend == OVN && t == overlay.Geneve {
		n += 8
	}
	return n
}

func (b *builder) makeNetworks() {
	vnis := map[uint32]string{}
	for i, n := range b.f.Networks {
		if n.Type == "vxlan" || n.Type == "geneve" || n.Type == "" {
			if n.SegmentID != 0 {
				p := fmt.Sprintf("networks[%d].provider:segmentation_id", i)
				if n.SegmentID < 1 || n.SegmentID > 1<<24-1 {
					b.bad(p, "%d is not a VNI, 1 to 16777215", n.SegmentID)
				} else if other := vnis[uint32(n.SegmentID)]; other != "" {
					b.bad(p, "%d is the VNI of network %q", n.SegmentID, other)
				}
				vnis[uint32(n.SegmentID)] = n.Name
			}
		}
	}
	places := map[string]string{}
	for i, n := range b.f.Networks {
		path := fmt.Sprintf("networks[%d]", i)
		ok := b.claim("network", n.Name, path)
		nw := &network{Network: n, path: path}
		on := overlay.Network{ID: n.Name, MTU: n.MTU, AdminDown: n.AdminUp != nil && !*n.AdminUp,
			Flooding: overlay.Flooding(n.Flooding)}
		physical := false
		switch n.Type {
		case "", "vxlan", "geneve":
			on.Segment.Type = overlay.SegmentType(cmp.Or(n.Type, string(b.tunnel())))
			id := uint32(n.SegmentID)
			for k := uint64(0); id == 0; k++ {
				// Below 4096 is left to those who choose VNIs by hand.
				id = uint32(4096 + (number("vni", n.Name)+k)%(1<<24-4096))
				if vnis[id] != "" {
					id = 0
				}
			}
			vnis[id] = n.Name
			on.Segment.ID = id
		case "local":
			on.Segment.Type = overlay.Local
		case "vlan":
			physical = true
			on.Segment.Type, on.Segment.ID = overlay.VLAN, uint32(n.SegmentID)
			if n.SegmentID < 1 || n.SegmentID > 4094 {
				b.bad(path+".provider:segmentation_id", "a vlan network needs a VLAN id, 1 to 4094")
			}
		case "flat":
			physical = true
			on.Segment.Type = overlay.Flat
		}
		if (n.Type == "local" || n.Type == "flat") && n.SegmentID != 0 {
			b.bad(path+".provider:segmentation_id", "a %s network has none", n.Type)
		}
		if physical {
			on.Segment.PhysicalNetwork = n.PhysicalNW
			if n.PhysicalNW == "" {
				b.bad(path+".provider:physical_network", "a %s network needs one", n.Type)
			} else if b.known("physical network", n.PhysicalNW, path+".provider:physical_network") {
				place := fmt.Sprintf("%s of physical network %s", n.Type, n.PhysicalNW)
				if n.Type == "vlan" {
					place = fmt.Sprintf("VLAN %d of physical network %s", n.SegmentID, n.PhysicalNW)
				}
				if other := places[place]; other != "" {
					b.bad(path+".provider:physical_network", "network %q is already %s", other, place)
				}
				places[place] = n.Name
			}
		} else if n.PhysicalNW != "" {
			b.bad(path+".provider:physical_network", "only flat and vlan networks are on one")
		}
		room := b.c.UnderlayMTU - b.overhead(on.Segment.Type)
		switch {
		case n.MTU == 0:
			on.MTU = room
		case n.MTU < 1280 || n.MTU > room:
			b.bad(path+".mtu", "%d is not from 1280 to %d, what the underlay leaves", n.MTU, room)
		}
		nw.mtu = on.MTU
		for j, s := range n.Subnets {
			if sn := b.makeSubnet(nw, s, fmt.Sprintf("%s.subnets[%d]", path, j)); sn != nil {
				nw.subnets = append(nw.subnets, sn)
				on.Subnets = append(on.Subnets, overlay.Subnet{ID: s.Name, CIDR: s.CIDR.Masked(), Gateway: sn.gateway})
			}
		}
		if ok {
			b.networks[n.Name] = nw
			b.c.Projects["network/"+n.Name] = n.Project
			b.c.All.Overlay.Networks = append(b.c.All.Overlay.Networks, on)
		}
	}
}

func (b *builder) makeSubnet(n *network, s Subnet, path string) *subnet {
	ok := b.claim("subnet", s.Name, path)
	if !s.CIDR.IsValid() {
		return nil
	}
	p := path + ".cidr"
	if s.CIDR != s.CIDR.Masked() {
		b.bad(p, "%s has bits beyond its length, did you mean %s?", s.CIDR, s.CIDR.Masked())
		return nil
	}
	for _, o := range n.subnets {
		if o.CIDR.Overlaps(s.CIDR) {
			b.bad(p, "%s overlaps subnet %q of the same network", s.CIDR, o.Name)
		}
	}
	v4 := s.CIDR.Addr().Is4()
	if s.IPVersion != 0 && s.IPVersion != 4 && s.IPVersion != 6 || s.IPVersion == 4 && !v4 || s.IPVersion == 6 && v4 {
		b.bad(path+".ip_version", "%d is not the version of %s", s.IPVersion, s.CIDR)
	}
	if v4 && s.CIDR.Bits() > 30 || !v4 && s.CIDR.Bits() > 126 {
		b.bad(p, "%s has no room for servers", s.CIDR)
		return nil
	}
	if v4 && s.RAMode != "" {
		b.bad(path+".ipv6_ra_mode", "is for IPv6 subnets")
	}
	if v4 && s.AddressMode != "" {
		b.bad(path+".ipv6_address_mode", "is for IPv6 subnets")
	}
	if s.RAMode != "" && s.AddressMode != "" && s.RAMode != s.AddressMode {
		b.bad(path+".ipv6_address_mode", "when both are set it must equal ipv6_ra_mode, %s", s.RAMode)
	}
	if s.AddressMode == "" {
		s.AddressMode = s.RAMode
	}
	if (s.AddressMode == "slaac" || s.AddressMode == "dhcpv6-stateless") && s.CIDR.Bits() != 64 {
		b.bad(p, "%s addresses need a /64", s.AddressMode)
		return nil
	}
	sn := &subnet{Subnet: s, path: path, net: n, used: map[netip.Addr]string{}}
	switch {
	case !s.GatewayIP.Set:
		sn.gateway = s.CIDR.Addr().Next()
	case s.GatewayIP.Addr.IsValid():
		sn.gateway = s.GatewayIP.Addr
		if !s.CIDR.Contains(sn.gateway) {
			b.bad(path+".gateway_ip", "%s is not in %s", sn.gateway, s.CIDR)
		}
	}
	if sn.gateway.IsValid() {
		sn.used[sn.gateway] = path + ".gateway_ip"
	}
	sn.used[s.CIDR.Addr()] = "the network address"
	if v4 {
		sn.used[last(s.CIDR)] = "the broadcast address"
	}
	for i, a := range s.DNS {
		if a.Is4() != v4 {
			b.bad(fmt.Sprintf("%s.dns_nameservers[%d]", path, i), "%s is not of the subnet's IP version", a)
		}
	}
	for i, r := range s.HostRoutes {
		b.checkRoute(r, fmt.Sprintf("%s.host_routes[%d]", path, i), []netip.Prefix{s.CIDR})
	}
	for i, r := range s.Pools {
		pp := fmt.Sprintf("%s.allocation_pools[%d]", path, i)
		if r.Start.IsValid() && r.End.IsValid() && (!s.CIDR.Contains(r.Start) || !s.CIDR.Contains(r.End) || r.End.Less(r.Start)) {
			b.bad(pp, "%s to %s is not a range in %s", r.Start, r.End, s.CIDR)
		}
	}
	if ok {
		b.subnets[s.Name] = sn
	}
	return sn
}

// checkRoute reports a route that cannot work: versions that differ, or a
// next hop that none of the subnets holds.
func (b *builder) checkRoute(r Route, path string, on []netip.Prefix) bool {
	if !r.Destination.IsValid() || !r.NextHop.IsValid() {
		return false
	}
	switch {
	case r.Destination != r.Destination.Masked():
		b.bad(path+".destination", "%s has bits beyond its length, did you mean %s?", r.Destination, r.Destination.Masked())
	case r.Destination.Addr().Is4() != r.NextHop.Is4():
		b.bad(path+".nexthop", "%s is not of the IP version of %s", r.NextHop, r.Destination)
	case !slices.ContainsFunc(on, func(p netip.Prefix) bool { return p.Contains(r.NextHop) }):
		b.bad(path+".nexthop", "%s is on no subnet that is attached", r.NextHop)
	default:
		return true
	}
	return false
}

func last(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}

func (b *builder) makeGroups() {
	for i, g := range b.f.AddressGroups {
		path := fmt.Sprintf("address_groups[%d]", i)
		if !b.claim("address group", g.Name, path) {
			continue
		}
		ag := secgroup.AddressGroup{ID: g.Name}
		for j, a := range g.Addresses {
			if a.IsValid() && a.Prefix != a.Masked() {
				b.bad(fmt.Sprintf("%s.addresses[%d]", path, j), "%s has bits beyond its length, did you mean %s?", a.Prefix, a.Masked())
			}
			ag.Prefixes = append(ag.Prefixes, a.Prefix)
		}
		b.c.All.SecGroup.AddressGroups = append(b.c.All.SecGroup.AddressGroups, ag)
	}
	for i, g := range b.f.SecurityGroups {
		if b.claim("security group", g.Name, fmt.Sprintf("security_groups[%d]", i)) {
			b.groups[g.Name] = true
		}
	}
	for i, g := range b.f.SecurityGroups {
		sg := secgroup.Group{ID: g.Name, Stateless: g.Stateful != nil && !*g.Stateful}
		for j, r := range g.Rules {
			path := fmt.Sprintf("security_groups[%d].security_group_rules[%d]", i, j)
			if rule, ok := b.rule(r, path); ok {
				rule.ID = strconv.Itoa(j + 1)
				if err := rule.Validate(); err != nil {
					b.contract(path, err)
				}
				sg.Rules = append(sg.Rules, rule)
			}
		}
		if g.Name != "" {
			b.c.All.SecGroup.Groups = append(b.c.All.SecGroup.Groups, sg)
		}
	}
}

func (b *builder) rule(r Rule, path string) (secgroup.Rule, bool) {
	rule := secgroup.Rule{Direction: secgroup.Direction(r.Direction), Ethertype: secgroup.Ethertype(cmp.Or(r.Ethertype, "IPv4")),
		Protocol: strings.ToLower(r.Protocol), PortMin: r.PortMin, PortMax: r.PortMax, RemotePrefix: r.RemotePrefix.Prefix,
		RemoteGroup: r.RemoteGroup, RemoteAddressGroup: r.RemoteAddrGrp}
	before := len(b.problems)
	v4 := rule.Ethertype == secgroup.IPv4
	if r.RemotePrefix.IsValid() {
		if r.RemotePrefix.Addr().Is4() != v4 {
			b.bad(path+".remote_ip_prefix", "%s is not %s", r.RemotePrefix, rule.Ethertype)
		} else if r.RemotePrefix.Prefix != r.RemotePrefix.Masked() {
			b.bad(path+".remote_ip_prefix", "%s has bits beyond its length, did you mean %s?", r.RemotePrefix, r.RemotePrefix.Masked())
		}
	}
	remotes := 0
	for _, set := range []bool{r.RemotePrefix.IsValid(), r.RemoteGroup != "", r.RemoteAddrGrp != ""} {
		if set {
			remotes++
		}
	}
	if remotes > 1 {
		b.bad(path, "at most one of remote_ip_prefix, remote_group_id and remote_address_group_id")
	}
	if r.RemoteGroup != "" && !strings.HasPrefix(r.RemoteGroup, "default-") {
		b.known("security group", r.RemoteGroup, path+".remote_group_id")
	}
	if r.RemoteAddrGrp != "" {
		b.known("address group", r.RemoteAddrGrp, path+".remote_address_group_id")
	}
	return rule, len(b.problems) == before && r.Direction != ""
}

// contract reports what the subsystems' own validation found, at the line of path.
func (b *builder) contract(path string, err error) {
	switch e := err.(type) {
	case nil:
	case interface{ Unwrap() []error }:
		for _, x := range e.Unwrap() {
			b.contract(path, x)
		}
	case *vnet.FieldError:
		reason := e.Reason
		if e.Value != "" {
			reason = fmt.Sprintf("%q %s", e.Value, e.Reason)
		}
		b.bad(join(path, e.Field), "%s", reason)
	case *vnet.OpError:
		b.contract(path, e.Err)
	default:
		b.bad(path, "%v", err)
	}
}

// claimPorts collects the ports of the file and those that servers' networks imply.
func (b *builder) claimPorts() {
	add := func(p Port, path string) *port {
		if !b.claim("port", p.Name, path) {
			return nil
		}
		pt := &port{Port: p, path: path}
		b.ports[p.Name] = pt
		b.portList = append(b.portList, pt)
		return pt
	}
	for i, p := range b.f.Ports {
		add(p, fmt.Sprintf("ports[%d]", i))
	}
	for i := range b.f.Servers {
		s := &b.f.Servers[i]
		path := fmt.Sprintf("servers[%d]", i)
		if !b.claim("server", s.Name, path) {
			continue
		}
		if !label.MatchString(s.Name) {
			b.bad(path+".name", "%q must be a host name: lower-case letters, digits and hyphens", s.Name)
		}
		host := b.hostOr(s.Host, path+".host")
		if len(s.Networks) == 0 && b.pos[path+".networks"] > 0 {
			b.bad(path+".networks", "at least one is needed")
		}
		for j, n := range s.Networks {
			np := fmt.Sprintf("%s.networks[%d]", path, j)
			var pt *port
			switch {
			case (n.Network == "") == (n.Port == ""):
				b.bad(np, "exactly one of network and port is needed")
			case n.Network != "":
				if !b.known("network", n.Network, np+".network") {
					continue
				}
				p := Port{Name: s.Name + "-" + n.Network, Network: n.Network, Groups: s.Groups}
				if _, twice := b.ports[p.Name]; twice {
					p.Name += "-" + strconv.Itoa(j)
				}
				if n.FixedIP.IsValid() {
					p.FixedIPs = []FixedIP{{IP: n.FixedIP}}
				}
				if pt = add(p, np); pt != nil && n.FixedIP.IsValid() {
					b.pos[np+".fixed_ips"] = b.line(np + ".fixed_ip")
				}
				if s.Groups != nil {
					for k := range *s.Groups {
						b.pos[fmt.Sprintf("%s.security_groups[%d]", np, k)] = b.line(fmt.Sprintf("%s.security_groups[%d]", path, k))
					}
				}
			default:
				if n.FixedIP.IsValid() {
					b.bad(np+".fixed_ip", "belongs to the port, in its fixed_ips")
				}
				if !b.known("port", n.Port, np+".port") {
					continue
				}
				pt = b.ports[n.Port]
				if pt.server != nil {
					b.bad(np+".port", "port %q is plugged into server %q", n.Port, pt.server.Name)
					continue
				}
			}
			if pt != nil {
				pt.server, pt.host = s, host
				if b.vmPorts[s.Name] == "" {
					b.vmPorts[s.Name] = pt.Name
				}
			}
		}
	}
}

func (b *builder) claimRouters() {
	for i, r := range b.f.Routers {
		path := fmt.Sprintf("routers[%d]", i)
		if !b.claim("router", r.Name, path) {
			continue
		}
		for j, in := range r.Interfaces {
			ip := fmt.Sprintf("%s.interfaces[%d]", path, j)
			if !b.known("subnet", in.Subnet, ip+".subnet_id") {
				continue
			}
			s := b.subnets[in.Subnet]
			if s == nil {
				continue
			}
			if s.router != "" {
				b.bad(ip+".subnet_id", "subnet %q is already on router %q", in.Subnet, s.router)
				continue
			}
			a, field := in.IP, ".ip_address"
			if !a.IsValid() {
				a, field = s.gateway, ".subnet_id"
			}
			switch {
			case !a.IsValid():
				b.bad(ip+".subnet_id", "subnet %q has no gateway_ip, so the interface needs an ip_address", in.Subnet)
				continue
			case !s.CIDR.Contains(a):
				b.bad(ip+field, "%s is not in %s", a, s.CIDR)
				continue
			case a != s.gateway && s.used[a] != "":
				b.bad(ip+field, "%s is taken: line %d", a, b.line(s.used[a]))
			}
			s.used[a] = ip
			s.router, s.routerIf = r.Name, a
			if !slices.Contains(s.net.routers, r.Name) {
				s.net.routers = append(s.net.routers, r.Name)
			}
		}
	}
}

// reserve takes the addresses that the file names, then those of DHCP and
// metadata, so that what is chosen later never takes them.
func (b *builder) reserve() {
	for _, p := range b.portList {
		n := b.networks[p.Network]
		if n == nil {
			b.known("network", p.Network, p.path+".network_id")
			continue
		}
		for i := range p.FixedIPs {
			f := &p.FixedIPs[i]
			if f.IP.IsValid() {
				f.IP = f.IP.Unmap()
				b.take(n, f, fmt.Sprintf("%s.fixed_ips[%d]", p.path, i))
			}
		}
	}
	for i, r := range b.f.Routers {
		if r.Gateway == nil {
			continue
		}
		path := fmt.Sprintf("routers[%d].external_gateway_info", i)
		if n := b.networks[r.Gateway.Network]; n != nil {
			for j := range r.Gateway.FixedIPs {
				if f := &r.Gateway.FixedIPs[j]; f.IP.IsValid() {
					b.take(n, f, fmt.Sprintf("%s.external_fixed_ips[%d]", path, j))
				}
			}
		}
	}
	for i, f := range b.f.FloatingIPs {
		if n := b.networks[f.Network]; n != nil && f.Address.IsValid() {
			b.take(n, &FixedIP{IP: f.Address}, fmt.Sprintf("floatingips[%d].floating_ip_address", i))
		}
	}
	for i, o := range b.f.OutsideServers {
		for j, a := range o.Addresses {
			for _, n := range b.networks {
				if n.PhysicalNW != o.PhysicalN || o.PhysicalN == "" {
					continue
				}
				for _, s := range n.subnets {
					if s.CIDR.Contains(a.Addr()) && a.Addr() != s.gateway {
						b.take(n, &FixedIP{IP: a.Addr()}, fmt.Sprintf("outside_servers[%d].addresses[%d]", i, j))
					}
				}
			}
		}
	}
	for _, n := range sorted(b.networks) {
		own := false // it answers for metadata itself
		for _, s := range n.subnets {
			if s.dhcp() && s.v4() {
				s.dhcpIP = b.first(s, s.path)
			}
			if s.dhcp() && (!s.gateway.IsValid() || s.routerIf != s.gateway || b.c.Backend != Linux) {
				own = true
			}
		}
		if len(n.routers) > 0 && b.c.Backend == Linux || !own || n.External {
			continue
		}
		e := &metadata.Endpoint{ID: "metadata-" + n.Name, NetworkID: n.Name, PortID: "metadata-" + n.Name, MAC: b.mac("metadata-" + n.Name)}
		for _, s := range n.subnets {
			if s.dhcp() {
				e.Addresses = append(e.Addresses, netip.PrefixFrom(b.first(s, s.path), s.CIDR.Bits()))
			}
		}
		n.metadata = e
		b.c.All.Metadata.Endpoints = append(b.c.All.Metadata.Endpoints, *e)
	}
}

func sorted(m map[string]*network) []*network {
	var out []*network
	for _, n := range m {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *network) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// take books an address that the file names, and fills in its subnet.
func (b *builder) take(n *network, f *FixedIP, path string) {
	for _, s := range n.subnets {
		if !s.CIDR.Contains(f.IP) {
			continue
		}
		if f.Subnet != "" && f.Subnet != s.Name {
			break
		}
		if s.AddressMode == "slaac" || s.AddressMode == "dhcpv6-stateless" {
			if strings.Contains(path, "fixed_ips") && !strings.Contains(path, "external") {
				b.bad(path, "addresses of subnet %q are made of the MAC", s.Name)
			}
			f.Subnet = s.Name
			return
		}
		if other := s.used[f.IP]; other != "" {
			if line := b.line(other); strings.HasPrefix(other, "the ") {
				b.bad(path, "%s is %s of subnet %q", f.IP, other, s.Name)
			} else {
				b.bad(path, "%s is taken: line %d", f.IP, line)
			}
		}
		s.used[f.IP], f.Subnet = path, s.Name
		return
	}
	if f.Subnet != "" {
		b.bad(path, "%s is not in subnet %q", f.IP, f.Subnet)
	} else {
		b.bad(path, "%s is in no subnet of network %q", f.IP, n.Name)
	}
	f.IP = netip.Addr{}
}

func (s *subnet) pools() []AddressRange {
	if len(s.Pools) > 0 {
		return s.Pools
	}
	return []AddressRange{{s.CIDR.Addr().Next(), last(s.CIDR)}}
}

// first takes the lowest free address of a subnet's pools.
func (b *builder) first(s *subnet, path string) netip.Addr {
	for _, r := range s.pools() {
		for a := r.Start; a.IsValid() && !r.End.Less(a); a = a.Next() {
			if s.used[a] == "" {
				s.used[a] = path
				return a
			}
		}
	}
	b.bad(path, "no free address in subnet %q", s.Name)
	return netip.Addr{}
}

// pick takes a free address that follows from name alone, unless it collides.
func (b *builder) pick(s *subnet, name, path string) netip.Addr {
	var size uint64
	pools := s.pools()
	sizes := make([]uint64, len(pools))
	for i, r := range pools {
		sizes[i] = min(span(r), 1<<16) // enough to choose from
		size += sizes[i]
	}
	start := number("address", s.Name, name)
	for k := range min(size, 1<<16) {
		n := (start%size + k) % size
		for i, r := range pools {
			if n >= sizes[i] {
				n -= sizes[i]
				continue
			}
			if a := plus(r.Start, n); s.used[a] == "" {
				s.used[a] = path
				return a
			}
			break
		}
	}
	b.bad(path, "no free address in subnet %q", s.Name)
	return netip.Addr{}
}

func span(r AddressRange) uint64 {
	a, z := r.Start.As16(), r.End.As16()
	if !bytes.Equal(a[:8], z[:8]) {
		return 1 << 16
	}
	n := binary.BigEndian.Uint64(z[8:]) - binary.BigEndian.Uint64(a[8:])
	return n + 1
}

func plus(a netip.Addr, n uint64) netip.Addr {
	raw := a.As16()
	low := binary.BigEndian.Uint64(raw[8:]) + n
	binary.BigEndian.PutUint64(raw[8:], low)
	out := netip.AddrFrom16(raw)
	if a.Is4() {
		out = out.Unmap()
	}
	return out
}

// mac makes a MAC of a port's name, under the prefix OpenStack uses.
func (b *builder) mac(name string) vnet.MAC {
	for k := uint64(0); ; k++ {
		n := number("mac", b.f.Name, name) + k
		m := vnet.MAC{0xfa, 0x16, 0x3e, byte(n >> 16), byte(n >> 8), byte(n)}
		if b.macs[m] == "" {
			b.macs[m] = name
			return m
		}
	}
}

func (b *builder) makeRouters() {
	for i, r := range b.f.Routers {
		path := fmt.Sprintf("routers[%d]", i)
		if r.Name == "" || b.names["router"][r.Name] != path {
			continue
		}
		rt := router.Router{ID: r.Name, AdminDown: r.AdminUp != nil && !*r.AdminUp, Host: b.hostOr(r.Host, path+".host")}
		b.c.Projects["router/"+r.Name] = r.Project
		var attached []netip.Prefix
		cabled := func(n *network) {
			if h := b.c.Host(rt.Host); h != nil && n.PhysicalNW != "" && !slices.Contains(h.PhysicalNets, n.PhysicalNW) {
				b.bad(path+".host", "host %q is not cabled to physical network %q of network %q", rt.Host, n.PhysicalNW, n.Name)
			}
		}
		for _, in := range r.Interfaces {
			s := b.subnets[in.Subnet]
			if s == nil || s.router != r.Name {
				continue
			}
			cabled(s.net)
			attached = append(attached, s.CIDR)
			k := slices.IndexFunc(rt.Interfaces, func(x router.Interface) bool { return x.NetworkID == s.net.Name })
			if k < 0 {
				id := r.Name + "-" + s.net.Name
				rt.Interfaces = append(rt.Interfaces, router.Interface{PortID: id, NetworkID: s.net.Name, MAC: b.mac(id), MTU: s.net.mtu})
				k = len(rt.Interfaces) - 1
			}
			ri := &rt.Interfaces[k]
			ri.Addresses = append(ri.Addresses, netip.PrefixFrom(s.routerIf, s.CIDR.Bits()))
			if s.RAMode != "" {
				ra := &router.RA{Mode: router.RAMode(s.RAMode), MTU: s.net.mtu, Interval: 30 * time.Second}
				if s.net.DNSDomain != "" {
					ra.DNSSL = []string{s.net.DNSDomain}
				}
				if ri.RA != nil && ri.RA.Mode != ra.Mode {
					b.bad(s.path+".ipv6_ra_mode", "another subnet of network %q on router %q says %s", s.net.Name, r.Name, ri.RA.Mode)
				} else if ri.RA == nil {
					ri.RA = ra
				}
				ri.RA.RDNSS = append(ri.RA.RDNSS, s.DNS...)
			}
		}
		if g := r.Gateway; g != nil && b.known("network", g.Network, path+".external_gateway_info.network_id") {
			n := b.networks[g.Network]
			if n == nil {
				continue
			}
			if !n.External {
				b.bad(path+".external_gateway_info.network_id", "network %q is not router:external", g.Network)
			}
			cabled(n)
			id := r.Name + "-" + g.Network
			gw := &router.Gateway{PortID: id, NetworkID: g.Network, MAC: b.mac(id), DisableSNAT: g.EnableSNAT != nil && !*g.EnableSNAT, MTU: n.mtu}
			if b.c.Backend != Linux {
				gw.Hosts = b.gatewayHosts(rt.Host, n)
			}
			have := map[string]bool{}
			add := func(s *subnet, a netip.Addr) {
				have[s.Name] = true
				if !a.IsValid() {
					return
				}
				attached = append(attached, s.CIDR)
				gw.Addresses = append(gw.Addresses, netip.PrefixFrom(a, s.CIDR.Bits()))
				if s.gateway.IsValid() && !slices.ContainsFunc(gw.NextHops, func(h netip.Addr) bool { return h.Is4() == s.gateway.Is4() }) {
					gw.NextHops = append(gw.NextHops, s.gateway)
				}
			}
			for j, f := range g.FixedIPs {
				fp := fmt.Sprintf("%s.external_gateway_info.external_fixed_ips[%d]", path, j)
				if f.Subnet == "" && !f.IP.IsValid() {
					b.bad(fp, "needs a subnet_id or an ip_address")
					continue
				}
				s := b.subnets[f.Subnet]
				if s == nil || s.net != n {
					if f.Subnet != "" && b.known("subnet", f.Subnet, fp+".subnet_id") {
						b.bad(fp+".subnet_id", "subnet %q is not on network %q", f.Subnet, n.Name)
					}
					continue
				}
				if !f.IP.IsValid() {
					f.IP = b.pick(s, id, fp)
				}
				add(s, f.IP)
			}
			for _, s := range n.subnets {
				if len(g.FixedIPs) == 0 && !have[s.Name] {
					add(s, b.pick(s, id, path+".external_gateway_info"))
				}
			}
			rt.Gateway = gw
		}
		for j, x := range r.Routes {
			if b.checkRoute(x, fmt.Sprintf("%s.routes[%d]", path, j), attached) {
				rt.Routes = append(rt.Routes, router.Route(x))
			}
		}
		b.c.All.Router.Routers = append(b.c.All.Router.Routers, rt)
		if b.c.Backend != Linux {
			continue
		}
		b.c.All.Metadata.Endpoints = append(b.c.All.Metadata.Endpoints, metadata.Endpoint{ID: "metadata-" + r.Name, RouterID: r.Name, Host: rt.Host})
	}
}

// gatewayHosts are those with a way to an external network, the router's own first.
func (b *builder) gatewayHosts(own string, n *network) []string {
	out := []string{own}
	for _, h := range b.c.Hosts {
		if h.Name != own && slices.Contains(h.PhysicalNets, n.PhysicalNW) {
			out = append(out, h.Name)
		}
	}
	return out
}

// project of a port: its server's, or else its network's.
func (b *builder) project(p *port) string {
	if p.server != nil && p.server.Project != "" {
		return p.server.Project
	}
	if n := b.networks[p.Network]; n != nil && n.Project != "" {
		return n.Project
	}
	return "admin"
}

func (b *builder) makePorts() {
	defaults := map[string]bool{}
	for _, g := range b.c.All.SecGroup.Groups {
		for _, r := range g.Rules {
			if !b.groups[r.RemoteGroup] && strings.HasPrefix(r.RemoteGroup, "default-") {
				defaults[r.RemoteGroup] = true
			}
		}
	}
	for _, p := range b.portList {
		if !p.MAC.IsZero() {
			if !p.MAC.IsUnicast() {
				b.bad(p.path+".mac_address", "%s is not a unicast address", p.MAC)
			} else if other := b.macs[p.MAC]; other != "" {
				b.bad(p.path+".mac_address", "%s is the MAC of port %q", p.MAC, other)
			}
			b.macs[p.MAC] = p.Name
		}
	}
	holders := map[string]map[netip.Prefix]int{} // network -> pair -> ports that have it
	for _, p := range b.portList {
		n := b.networks[p.Network]
		if n == nil {
			continue
		}
		if p.MAC.IsZero() {
			p.MAC = b.mac(p.Name)
		}
		b.fixedIPs(n, p)
		secured := p.PortSecurity == nil || *p.PortSecurity
		if p.direct() && secured && (p.Groups == nil || len(*p.Groups) > 0) {
			b.bad(p.path+".security_groups", "security groups cannot hold on a virtual function: set security_groups to [], or port_security_enabled to false")
		}
		secured = secured && !p.direct() // the card checks its MAC, and that is all
		sp := secgroup.Port{ID: p.Name, NetworkID: n.Name, MAC: p.MAC, FixedIPs: p.ips, DisablePortSecurity: !secured, Host: p.host}
		switch {
		case p.direct() && len(p.Pairs) > 0:
			b.bad(p.path+".allowed_address_pairs", "the card of a direct port knows of one MAC")
		case p.direct():
		case !secured && p.Groups != nil && len(*p.Groups) > 0:
			b.bad(p.path+".security_groups", "a port without port security has none")
		case !secured && len(p.Pairs) > 0:
			b.bad(p.path+".allowed_address_pairs", "a port without port security needs none")
		case !secured:
		case p.Groups == nil:
			g := "default-" + b.project(p)
			defaults[g] = true
			sp.Groups = []string{g}
		default:
			for i, g := range *p.Groups {
				gp := fmt.Sprintf("%s.security_groups[%d]", p.path, i)
				switch {
				case slices.Contains(sp.Groups, g):
					b.bad(gp, "%q is there twice", g)
				case strings.HasPrefix(g, "default-") && !b.groups[g]:
					defaults[g] = true
					sp.Groups = append(sp.Groups, g)
				case b.known("security group", g, gp):
					sp.Groups = append(sp.Groups, g)
				}
			}
		}
		for i, pair := range p.Pairs {
			if !pair.IP.IsValid() {
				continue
			}
			if pair.IP.Prefix != pair.IP.Masked() {
				b.bad(fmt.Sprintf("%s.allowed_address_pairs[%d].ip_address", p.path, i), "%s has bits beyond its length, did you mean %s?", pair.IP.Prefix, pair.IP.Masked())
			}
			sp.AllowedPairs = append(sp.AllowedPairs, secgroup.AddressPair{MAC: pair.MAC, Prefix: pair.IP.Prefix})
			if holders[n.Name] == nil {
				holders[n.Name] = map[netip.Prefix]int{}
			}
			if holders[n.Name][pair.IP.Prefix]++; holders[n.Name][pair.IP.Prefix] > 1 || !pair.IP.IsSingleIP() {
				// Who holds the address now, or which of them, is known to
				// nobody but the holders, so ARP for it has to cross.
				for k := range b.c.All.Overlay.Networks {
					if o := &b.c.All.Overlay.Networks[k]; o.ID == n.Name {
						o.Flooding.Broadcast = true
					}
				}
			}
			for _, s := range n.subnets {
				if pair.IP.IsSingleIP() && s.used[pair.IP.Addr()] == "" {
					s.used[pair.IP.Addr()] = p.path
				}
			}
		}
		if p.server == nil {
			continue // a port that nothing is plugged into
		}
		b.c.All.SecGroup.Ports = append(b.c.All.SecGroup.Ports, sp)
		b.c.All.Overlay.Ports = append(b.c.All.Overlay.Ports, overlay.Port{ID: p.Name, NetworkID: n.Name, MAC: p.MAC, FixedIPs: p.ips,
			AdminDown: p.AdminUp != nil && !*p.AdminUp, Filtered: secured, Host: p.host})
	}
	var ids []string
	for g := range defaults {
		ids = append(ids, g)
	}
	slices.Sort(ids)
	for _, g := range ids {
		b.c.All.SecGroup.Groups = append(b.c.All.SecGroup.Groups, secgroup.Group{ID: g, Rules: []secgroup.Rule{
			{ID: "egress4", Direction: secgroup.Egress, Ethertype: secgroup.IPv4},
			{ID: "egress6", Direction: secgroup.Egress, Ethertype: secgroup.IPv6},
			{ID: "ingress4", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, RemoteGroup: g},
			{ID: "ingress6", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, RemoteGroup: g},
		}})
	}
}

// fixedIPs gives a port its addresses: those named, one of each subnet when
// none is, and always those that autoconfiguration makes.
func (b *builder) fixedIPs(n *network, p *port) {
	add := func(s *subnet, a netip.Addr) {
		if a.IsValid() {
			p.ips, p.ipNets = append(p.ips, a), append(p.ipNets, s)
		}
	}
	want := p.FixedIPs
	if len(want) == 0 || len(want) == 1 && want[0].Subnet == "" && !want[0].IP.IsValid() {
		want = nil
		for _, s := range n.subnets {
			want = append(want, FixedIP{Subnet: s.Name})
		}
	} else if strings.HasPrefix(p.path, "servers[") {
		// fixed_ip of a server's network names one address; the other subnets give theirs.
		for _, s := range n.subnets {
			if s.Name != want[0].Subnet && (!want[0].IP.IsValid() || s.v4() != want[0].IP.Is4()) {
				want = append(want, FixedIP{Subnet: s.Name})
			}
		}
	}
	done := map[string]bool{}
	for i, f := range want {
		path := fmt.Sprintf("%s.fixed_ips[%d]", p.path, i)
		s := b.subnets[f.Subnet]
		if s == nil || s.net != n {
			if f.Subnet != "" && b.known("subnet", f.Subnet, path+".subnet_id") {
				b.bad(path+".subnet_id", "subnet %q is not on network %q", f.Subnet, n.Name)
			} else if f.Subnet == "" && p.FixedIPs != nil && i < len(p.FixedIPs) && b.pos[path+".ip_address"] == 0 && b.pos[path] > 0 {
				b.bad(path, "needs a subnet_id or an ip_address")
			}
			continue
		}
		switch {
		case s.AddressMode == "slaac" || s.AddressMode == "dhcpv6-stateless":
			done[s.Name] = true
			add(s, p.MAC.EUI64(s.CIDR))
		case f.IP.IsValid():
			add(s, f.IP)
		default:
			add(s, b.pick(s, p.Name, path))
		}
	}
	for _, s := range n.subnets {
		if (s.AddressMode == "slaac" || s.AddressMode == "dhcpv6-stateless") && !done[s.Name] {
			add(s, p.MAC.EUI64(s.CIDR))
		}
	}
}

func (b *builder) makeServers() {
	for i := range b.f.Servers {
		s := &b.f.Servers[i]
		path := fmt.Sprintf("servers[%d]", i)
		if s.Name == "" || b.names["server"][s.Name] != path {
			continue
		}
		vm := VM{Name: s.Name, Host: b.hostOr(s.Host, path+".host"), Project: s.Project}
		id := number("server", b.f.Name, s.Name)
		id2 := number("server2", b.f.Name, s.Name)
		in := metadata.Instance{
			UUID: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(id>>32), uint16(id>>16), id&0xfff, id2>>52, id2&0xffffffffffff),
			Name: s.Name, AvailabilityZone: cmp.Or(s.AZ, "nova"), InstanceType: s.Flavor, ImageID: s.ImageName, Meta: s.Metadata,
		}
		if s.UserData != "" {
			in.UserData = []byte(s.UserData)
		}
		if s.KeyName != "" && b.known("keypair", s.KeyName, path+".key_name") {
			in.Keys = []metadata.Key{{Name: s.KeyName, Type: "ssh", Data: b.keys[s.KeyName].PublicKey}}
		}
		for _, p := range b.portList {
			if p.server != s {
				continue
			}
			n := b.networks[p.Network]
			if n == nil {
				continue
			}
			if vm.Project == "" {
				vm.Project = b.project(p)
			}
			if in.Hostname == "" {
				in.Hostname = s.Name + "." + cmp.Or(n.DNSDomain, "example.org")
			}
			if h := b.c.Host(vm.Host); h != nil && n.PhysicalNW != "" && !slices.Contains(h.PhysicalNets, n.PhysicalNW) {
				b.bad(path+".host", "host %q is not cabled to physical network %q of network %q", vm.Host, n.PhysicalNW, n.Name)
			}
			nic := NIC{Device: fmt.Sprintf("eth%d", len(vm.NICs)), PortID: p.Name, NetworkID: n.Name, Direct: p.direct(), MAC: p.MAC, IPs: p.ips}
			if p.direct() {
				b.function(p, n, vm.Host)
			} else if h := b.c.Host(vm.Host); h != nil && h.DPDK != nil {
				nic.VhostUser = true
			}
			for _, pair := range p.Pairs {
				if pair.IP.IsValid() && pair.IP.IsSingleIP() {
					nic.Pairs = append(nic.Pairs, pair.IP.Addr())
				}
			}
			mnic := metadata.NIC{PortID: p.Name, NetworkID: n.Name, MAC: p.MAC, MTU: n.mtu}
			for k, a := range p.ips {
				sn := p.ipNets[k]
				ma := metadata.NICAddress{Address: netip.PrefixFrom(a, sn.CIDR.Bits()), Gateway: sn.gateway, DNS: sn.DNS, Type: "ipv4"}
				for _, r := range sn.HostRoutes {
					ma.Routes = append(ma.Routes, metadata.NICHostRoute(r))
				}
				dynamic := sn.RAMode != "" && sn.router != "" && !p.direct()
				switch {
				case p.direct(): // its addresses are on its config drive
					ma.Type = map[bool]string{true: "ipv4", false: "ipv6"}[sn.v4()]
				case sn.v4() && sn.dhcp():
					nic.DHCP4, ma.Type = true, "ipv4_dhcp"
					dynamic = true
				case sn.v4():
				case sn.AddressMode == "slaac", sn.AddressMode == "dhcpv6-stateless" && dynamic:
					ma.Type = "ipv6_" + sn.AddressMode
					nic.RA = nic.RA || dynamic
				case sn.AddressMode == "dhcpv6-stateful" && sn.dhcp():
					ma.Type = "ipv6_dhcpv6-stateful"
					nic.RA, nic.DHCP6 = nic.RA || dynamic, nic.DHCP6 || !dynamic
					dynamic = true
				default:
					ma.Type = "ipv6"
				}
				if !dynamic {
					st := Static{Address: ma.Address, Gateway: sn.gateway}
					if sn.router == "" && !sn.net.External {
						st.Gateway = netip.Addr{} // nobody is there
					}
					nic.Static = append(nic.Static, st)
				}
				mnic.Addresses = append(mnic.Addresses, ma)
				for _, d := range sn.DNS {
					if !slices.Contains(in.DNS, d) {
						in.DNS = append(in.DNS, d)
					}
				}
			}
			if p.Groups != nil {
				for _, g := range *p.Groups {
					if !slices.Contains(in.SecurityGroups, g) {
						in.SecurityGroups = append(in.SecurityGroups, g)
					}
				}
			}
			in.Interfaces = append(in.Interfaces, mnic)
			vm.NICs = append(vm.NICs, nic)
		}
		in.ProjectID = vm.Project
		vm.Instance = in
		b.c.Projects["server/"+s.Name] = vm.Project
		b.c.VMs = append(b.c.VMs, vm)
	}
}

// target finds the port that a floating IP leads to: the port's own name or a server's.
func (b *builder) target(ref, path string) *port {
	if p := b.ports[ref]; p != nil {
		if p.server == nil {
			b.bad(path, "port %q is plugged into no server", ref)
			return nil
		}
		return p
	}
	if p := b.ports[b.vmPorts[ref]]; p != nil {
		return p
	}
	b.bad(path, "there is no port or server %q", ref)
	return nil
}

// behind finds the address and the router by which an external network leads to a port.
func (b *builder) behind(p *port, ip netip.Addr, external, path, ipField string) (netip.Addr, string) {
	for i, a := range p.ips {
		if !a.Is4() || ip.IsValid() && a != ip {
			continue
		}
		if r := p.ipNets[i].router; r != "" {
			for _, x := range b.c.All.Router.Routers {
				if x.ID == r && x.Gateway != nil && x.Gateway.NetworkID == external {
					return a, r
				}
			}
		}
	}
	if ip.IsValid() && !slices.Contains(p.ips, ip) {
		b.bad(ipField, "%s is not an address of port %q", ip, p.Name)
	} else {
		b.bad(path, "no router with a gateway on %q is before an IPv4 address of port %q", external, p.Name)
	}
	return netip.Addr{}, ""
}

func (b *builder) makeFloatingIPs() {
	for i, f := range b.f.FloatingIPs {
		path := fmt.Sprintf("floatingips[%d]", i)
		if !b.claim("floating IP", f.Name, path) || !b.known("network", f.Network, path+".floating_network_id") {
			continue
		}
		n := b.networks[f.Network]
		if n == nil {
			continue
		}
		if !n.External {
			b.bad(path+".floating_network_id", "network %q is not router:external", f.Network)
			continue
		}
		if !f.Address.IsValid() {
			for _, s := range n.subnets {
				if s.v4() {
					f.Address = b.pick(s, f.Name, path)
					break
				}
			}
		}
		if !f.Address.Is4() {
			b.bad(path+".floating_ip_address", "a floating IP is an IPv4 address")
			continue
		}
		if f.Port != "" && len(f.Forwards) > 0 {
			b.bad(path+".port_id", "a floating IP has a port or port forwardings, not both")
			continue
		}
		if f.Port != "" {
			if p := b.target(f.Port, path+".port_id"); p != nil {
				if a, r := b.behind(p, f.FixedIP, f.Network, path+".port_id", path+".fixed_ip_address"); r != "" {
					fip := router.FloatingIP{ID: f.Name, RouterID: r, FloatingIP: f.Address, FixedIP: a, PortID: p.Name}
					if b.c.Backend != Linux { // translated on the port's host, as this MAC
						fip.ExternalMAC = b.mac(f.Name)
					}
					b.c.All.Router.FloatingIPs = append(b.c.All.Router.FloatingIPs, fip)
					if p.server != nil {
						if vm := b.c.VM(p.server.Name); vm != nil && !vm.Instance.PublicIPv4.IsValid() {
							vm.Instance.PublicIPv4 = f.Address
						}
					}
				}
			}
		}
		home := ""
		for j, w := range f.Forwards {
			wp := fmt.Sprintf("%s.port_forwardings[%d]", path, j)
			ext, ok1 := b.portRange(w.ExternalPort, w.ExternalRange, wp, "external_port")
			in, ok2 := b.portRange(w.InternalPort, w.InternalRange, wp, "internal_port")
			if w.Port == "" || w.Protocol == "" {
				continue
			}
			p := b.target(w.Port, wp+".internal_port_id")
			if p == nil || !ok1 || !ok2 {
				continue
			}
			if width(ext) != width(in) {
				b.bad(wp+".internal_port_range", "the ranges differ in size")
				continue
			}
			a, r := b.behind(p, w.IP, f.Network, wp+".internal_port_id", wp+".internal_ip_address")
			if r == "" {
				continue
			}
			if home != "" && r != home {
				b.bad(wp+".internal_port_id", "port %q is behind router %q, the forwardings before it are on %q", p.Name, r, home)
				continue
			}
			home = r
			for _, o := range b.c.All.Router.PortForwards {
				if o.ExternalIP == f.Address && o.Protocol == w.Protocol && o.ExternalPort.First <= end(ext) && ext.First <= end(o.ExternalPort) {
					b.bad(wp+".external_port", "overlaps forwarding %q", o.ID)
				}
			}
			b.c.All.Router.PortForwards = append(b.c.All.Router.PortForwards, router.PortForward{ID: fmt.Sprintf("%s-%s-%d", f.Name, w.Protocol, ext.First),
				RouterID: r, Protocol: w.Protocol, ExternalIP: f.Address, ExternalPort: ext, InternalIP: a, InternalPort: in})
		}
	}
}

func end(r router.PortRange) uint16   { return max(r.First, r.Last) }
func width(r router.PortRange) uint16 { return end(r) - r.First }

func (b *builder) portRange(one uint16, many, path, field string) (router.PortRange, bool) {
	if (one == 0) == (many == "") {
		b.bad(path+"."+field, "exactly one of %s and %s_range is needed", field, field)
		return router.PortRange{}, false
	}
	if one != 0 {
		return router.PortRange{First: one}, true
	}
	lo, hi, ok := strings.Cut(many, ":")
	x, err1 := strconv.ParseUint(lo, 10, 16)
	y, err2 := strconv.ParseUint(hi, 10, 16)
	if !ok || err1 != nil || err2 != nil || x == 0 || y < x {
		b.bad(path+"."+field+"_range", "%q is not a range of ports as 8000:8009", many)
		return router.PortRange{}, false
	}
	return router.PortRange{First: uint16(x), Last: uint16(y)}, true
}

func (b *builder) makeOutside() {
	for i, o := range b.f.OutsideServers {
		path := fmt.Sprintf("outside_servers[%d]", i)
		if !b.claim("server", o.Name, path) || !b.known("physical network", o.PhysicalN, path+".physical_network") {
			continue
		}
		if !label.MatchString(o.Name) {
			b.bad(path+".name", "%q must be a host name: lower-case letters, digits and hyphens", o.Name)
		}
		out := Outside{Name: o.Name, PhysicalNW: o.PhysicalN, MAC: b.mac(o.Name), Addresses: o.Addresses}
		var on []netip.Prefix
		for _, a := range o.Addresses {
			on = append(on, a.Masked())
		}
		for j, r := range o.Routes {
			if b.checkRoute(r, fmt.Sprintf("%s.routes[%d]", path, j), on) {
				out.Routes = append(out.Routes, router.Route(r))
			}
		}
		b.c.Outside = append(b.c.Outside, out)
	}
}

func (b *builder) makeDHCP() {
	served := map[*subnet]bool{}
	informed := map[string]bool{} // networks of which OVN is to know who may ask, though it gives no address
	for _, on := range b.c.All.Overlay.Networks {
		n := b.networks[on.ID]
		for _, s := range n.subnets {
			mode := dhcp.Stateful
			switch {
			case !s.dhcp() || n.External && len(b.serverPorts(n)) == 0:
				continue
			case s.v4():
			case s.AddressMode == "dhcpv6-stateful":
				served[s] = true
			case s.AddressMode == "dhcpv6-stateless":
				mode = dhcp.Stateless
				informed[n.Name] = b.c.Backend == OVN
			default:
				continue
			}
			sc := dhcp.Scope{ID: s.Name, NetworkID: n.Name, Subnet: s.CIDR, Mode: mode, DNS: s.DNS,
				Domain: cmp.Or(n.DNSDomain, "example.org"), SearchDomain: []string{cmp.Or(n.DNSDomain, "example.org")}, Lease: time.Hour}
			if s.v4() {
				served[s] = true
				sc.ServerIP, sc.MTU, sc.NAKUnknown = s.dhcpIP, n.mtu, true
				routed := s.router != "" || n.External
				if routed {
					sc.Router = s.gateway
				}
				for _, r := range s.HostRoutes {
					sc.Routes = append(sc.Routes, dhcp.Route(r))
				}
				switch {
				case n.metadata != nil:
					for _, a := range n.metadata.Addresses {
						if s.CIDR.Contains(a.Addr()) {
							sc.Routes = append(sc.Routes, dhcp.Route{Destination: meta4, NextHop: a.Addr()})
						}
					}
				case s.router != "":
					sc.Routes = append(sc.Routes, dhcp.Route{Destination: meta4, NextHop: s.routerIf})
				}
			}
			b.c.All.DHCP.Scopes = append(b.c.All.DHCP.Scopes, sc)
		}
	}
	for _, p := range b.portList {
		if p.server == nil || p.direct() {
			continue
		}
		r := dhcp.Reservation{ID: p.Name, NetworkID: p.Network, MAC: p.MAC, Hostname: p.server.Name, Host: p.host}
		for i, a := range p.ips {
			if served[p.ipNets[i]] {
				r.IPs = append(r.IPs, a)
			}
		}
		if len(r.IPs) > 0 || informed[p.Network] {
			b.c.All.DHCP.Reservations = append(b.c.All.DHCP.Reservations, r)
		}
	}
}

func (b *builder) serverPorts(n *network) []*port {
	var out []*port
	for _, p := range b.portList {
		if p.Network == n.Name && p.server != nil {
			out = append(out, p)
		}
	}
	return out
}

func (b *builder) makeProbe() {
	tcp, udp := map[uint16]bool{}, map[uint16]bool{}
	for _, g := range b.c.All.SecGroup.Groups {
		for _, r := range g.Rules {
			if r.PortMin == nil || *r.PortMin == 0 {
				continue
			}
			switch r.Protocol {
			case "tcp", "6":
				tcp[*r.PortMin] = true
			case "udp", "17":
				udp[*r.PortMin] = true
			}
		}
	}
	for _, f := range b.c.All.Router.PortForwards {
		m := map[string]map[uint16]bool{"tcp": tcp, "udp": udp}[f.Protocol]
		m[f.InternalPort.First] = true
	}
	delete(udp, 67) // DHCP and DHCPv6 have rules of their own
	delete(udp, 547)
	b.c.TCP, b.c.UDP = keys(tcp), keys(udp)
	if b.f.Probe.TCP != nil {
		b.c.TCP = b.f.Probe.TCP
	}
	if b.f.Probe.UDP != nil {
		b.c.UDP = b.f.Probe.UDP
	}
}

func keys(m map[uint16]bool) []uint16 {
	var out []uint16
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
