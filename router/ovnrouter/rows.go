package ovnrouter

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/router"
)

// The kinds of rows (external_ids:vnet:kind); router, floatingip and
// portforward are those of the contract.
const (
	kindRouter   = "router"
	kindPort     = "port"            // Logical_Router_Port and Logical_Switch_Port, by port id
	kindChassis  = "gateway-chassis" // Gateway_Chassis, by port id and chassis
	kindRoute    = "route"           // Logical_Router_Static_Route, by router, destination and next hop
	kindSNAT     = "snat"            // NAT, by router and internal prefix
	kindHairpin  = "hairpin"         // Address_Set, by router
	kindFloating = "floatingip"      // NAT
	kindForward  = "portforward"     // Load_Balancer
)

// What the contract holds and no column does stands in external_ids.
const (
	keyGateway  = "vnet:gateway"      // of a Logical_Router_Port: the gateway's first IPv4 address, or "none"
	keyMAC      = "vnet:external-mac" // of a NAT: as asked for, also while it is translated centrally
	keyForward  = "vnet:forward"      // of a Load_Balancer: the port forward
	keyExternal = "vnet:external-ip"  // of a Load_Balancer
)

// namer makes names as ovn.Conn does.
type namer interface {
	Name(kind, id string) string
	PortName(portID string) string
	Symbol(kind, id string) string
}

// where is what rows need to know of the platform beside the router itself.
type where struct {
	names    namer
	age      time.Duration
	chassis  []string            // of the gateway, the one to prefer first
	physical func(string) string // the physical network of a network, or ""
}

// routerRows are the rows that make one router, without its floating IPs and
// port forwards.
type routerRows struct {
	router  *nbrow.LogicalRouter
	ports   []portRows
	routes  []row[nbrow.LogicalRouterStaticRoute]
	snats   []row[nbrow.NAT]
	hairpin string // id of the address set that limits SNAT to hairpins; "": none
}

type row[T any] struct {
	id  string
	row *T
}

type portRows struct {
	id, network string
	lrp         *nbrow.LogicalRouterPort
	lsp         *nbrow.LogicalSwitchPort
	chassis     []row[nbrow.GatewayChassis]
}

// rowsOf is the heart of the matter: a router as rows.
func rowsOf(r router.Router, w where) routerRows {
	up := !r.AdminDown
	out := routerRows{router: &nbrow.LogicalRouter{Name: w.names.Name(kindRouter, r.ID), Enabled: &up, Options: map[string]string{
		// Neighbours are learnt when they are asked for, not from whatever is
		// asked on the provider's network.
		"always_learn_from_arp_request": "false",
		"dynamic_neigh_routers":         "true",
	}}}
	if w.age > 0 {
		out.router.Options["mac_binding_age_threshold"] = strconv.Itoa(int(w.age.Seconds()))
	}
	for _, i := range r.Interfaces {
		p := w.port(i.PortID, i.NetworkID, i.MAC, i.Addresses, i.MTU)
		if r.Gateway != nil && w.physical(i.NetworkID) != "" {
			// The router's MAC is seen on the physical network at one place only.
			p.lrp.Options["reside-on-redirect-chassis"] = "true"
		}
		p.lrp.Ipv6RaConfigs = advertised(i.RA)
		out.ports = append(out.ports, p)
	}
	out.gateway(r, w)
	for _, x := range r.Routes {
		out.route(r.ID, x.Destination, x.NextHop, nil)
	}
	return out
}

func (w where) port(id, network string, mac vnet.MAC, addrs []netip.Prefix, mtu int) portRows {
	p := portRows{id: id, network: network,
		lrp: &nbrow.LogicalRouterPort{Name: w.names.Name("router-port", id), MAC: mac.String(), Options: map[string]string{}},
		lsp: &nbrow.LogicalSwitchPort{Name: w.names.PortName(id), Type: "router", Addresses: []string{"router"},
			Options: map[string]string{"router-port": w.names.Name("router-port", id)}}}
	for _, a := range addrs {
		p.lrp.Networks = append(p.lrp.Networks, a.String())
	}
	if mtu != 0 {
		p.lrp.Options["gateway_mtu"] = strconv.Itoa(mtu)
	}
	return p
}

// gateway adds the gateway's port, its default routes and SNAT.
func (o *routerRows) gateway(r router.Router, w where) {
	g := r.Gateway
	if g == nil {
		return
	}
	p := w.port(g.PortID, g.NetworkID, g.MAC, g.Addresses, g.MTU)
	p.lsp.Options["nat-addresses"] = "router" // announce what it answers for
	// ovn-controller announces an address by a port of a name once, and goes on
	// to with the MAC that it had then (send_garp_rarp_update in its pinctrl.c).
	p.lsp.Name = w.names.Name("gateway", g.PortID+"/"+g.MAC.String())
	own := firstIPv4(g.Addresses)
	p.lrp.ExternalIDs = map[string]string{keyGateway: "none"}
	if own.IsValid() {
		p.lrp.ExternalIDs[keyGateway] = own.String()
	}
	for i, c := range w.chassis {
		id := g.PortID + "/" + c
		name := w.names.Name(kindChassis, id)
		p.chassis = append(p.chassis, row[nbrow.GatewayChassis]{id, &nbrow.GatewayChassis{Name: name, ChassisName: c, Priority: len(w.chassis) - i}})
	}
	o.ports = append(o.ports, p)
	for _, hop := range g.NextHops {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if hop.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if slices.ContainsFunc(r.Routes, func(x router.Route) bool { return x.Destination == all }) {
			continue // an extra route goes before it, and would share with it
		}
		// By the port, as the next hop may be in no subnet of it.
		o.route(r.ID, all, hop, &p.lrp.Name)
	}
	if !own.IsValid() {
		return
	}
	var limit *string
	if g.DisableSNAT {
		o.hairpin = r.ID
		limit = new(string) // the set's UUID comes when there is one
	}
	for _, inside := range internal4(r) {
		o.snats = append(o.snats, row[nbrow.NAT]{r.ID + "/" + inside.String(), &nbrow.NAT{Type: nbrow.NATTypeSNAT,
			ExternalIP: own.String(), LogicalIP: inside.String(), AllowedExtIPs: limit}})
	}
}

func (o *routerRows) route(routerID string, to netip.Prefix, via netip.Addr, port *string) {
	o.routes = append(o.routes, row[nbrow.LogicalRouterStaticRoute]{fmt.Sprintf("%s/%s/%s", routerID, to, via),
		&nbrow.LogicalRouterStaticRoute{IPPrefix: to.String(), Nexthop: via.String(), OutputPort: port}})
}

// internal4 are the IPv4 prefixes behind a router: those of its interfaces, and
// what extra routes lead to by them.
func internal4(r router.Router) (out []netip.Prefix) {
	var inside []netip.Prefix
	for _, i := range r.Interfaces {
		inside = append(inside, i.Addresses...)
	}
	for _, p := range inside {
		if p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	for _, x := range r.Routes {
		if x.Destination.Addr().Is4() && x.Destination.Bits() > 0 && slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(x.NextHop) }) {
			out = append(out, x.Destination)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func firstIPv4(addrs []netip.Prefix) netip.Addr {
	for _, p := range addrs {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// raModes are ovn-nb(5)'s words for the modes.
var raModes = map[router.RAMode]string{router.SLAAC: "slaac", router.DHCPv6Stateless: "dhcpv6_stateless", router.DHCPv6Stateful: "dhcpv6_stateful"}

func advertised(ra *router.RA) map[string]string {
	if ra == nil {
		return nil
	}
	m := map[string]string{"address_mode": raModes[ra.Mode], "send_periodic": "true"}
	if ra.Interval != 0 {
		m["max_interval"] = strconv.Itoa(int(ra.Interval.Seconds()))
	}
	if ra.MTU != 0 {
		m["mtu"] = strconv.Itoa(ra.MTU)
	}
	if len(ra.RDNSS) > 0 {
		m["rdnss"] = ra.RDNSS[0].String()
	}
	if len(ra.DNSSL) > 0 {
		m["dnssl"] = strings.Join(ra.DNSSL, ", ")
	}
	return m
}

// refuse names what OVN cannot say of a router.
func refuse(r router.Router) error {
	no := func(feature string) error { return &vnet.UnsupportedError{Feature: feature, Backend: name} }
	for _, i := range r.Interfaces {
		switch ra := i.RA; {
		case ra == nil:
		case len(ra.RDNSS) > 1:
			return no("more than one resolver in router advertisements")
		case ra.Interval%time.Second != 0:
			return no("intervals of router advertisements in parts of a second")
		}
	}
	return nil
}

// natOf is a floating IP as a row: translated on the host of its port if that
// and a MAC are given, and nothing else on the router asks for the gateway.
func natOf(f router.FloatingIP, names namer, central bool) *nbrow.NAT {
	n := &nbrow.NAT{Type: nbrow.NATTypeDNATAndSNAT, ExternalIP: f.FloatingIP.String(), LogicalIP: f.FixedIP.String()}
	if f.PortID != "" {
		port := names.PortName(f.PortID)
		n.LogicalPort = &port
	}
	if !f.ExternalMAC.IsZero() {
		mac := f.ExternalMAC.String()
		n.ExternalIDs = map[string]string{keyMAC: mac}
		if f.PortID != "" && !central {
			n.ExternalMAC = &mac
		}
	}
	return n
}

// balancerOf is a port forward as a row: a virtual address per port. own is
// the gateway's first IPv4 address.
func balancerOf(f router.PortForward, names namer, own string) *nbrow.LoadBalancer {
	f = f.Canonical()
	spec, _ := json.Marshal(f) // of strings and numbers
	proto := f.Protocol
	b := &nbrow.LoadBalancer{Name: names.Name(kindForward, f.ID), Protocol: &proto, Vips: map[string]string{},
		ExternalIDs: map[string]string{keyForward: string(spec), keyExternal: f.ExternalIP.String()},
		Options: map[string]string{
			"ct_flush":           "true", // connections end with the forward
			"neighbor_responder": "all",  // also for addresses outside the gateway's subnets
		}}
	if own != "" && own != "none" {
		b.Options["hairpin_snat_ip"] = own
	}
	for n := range f.ExternalPort.Len() {
		b.Vips[netip.AddrPortFrom(f.ExternalIP, f.ExternalPort.First+uint16(n)).String()] =
			netip.AddrPortFrom(f.InternalIP, f.InternalPort.First+uint16(n)).String()
	}
	return b
}
