package ovnrouter

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
)

// standing is a router as its rows have it.
type standing struct {
	row *nbrow.LogicalRouter
	// r is as far as floating IPs and forwards need it: ports with their
	// networks and addresses, and routes.
	r   router.Router
	own string // the gateway's first IPv4 address; "" or "none"
}

func standingRouter(v ovn.Reader, id string) (standing, bool) {
	row := ovn.Find[nbrow.LogicalRouter](v, vnet.PartRouter, kindRouter, id)
	if row == nil {
		return standing{}, false
	}
	s := standing{row: row, r: router.Router{ID: id}}
	for _, uuid := range row.Ports {
		id, ok := own[nbrow.LogicalRouterPort](v, uuid, kindPort)
		if !ok {
			continue
		}
		p := ovn.At[nbrow.LogicalRouterPort](v, uuid)
		addrs := prefixes(p.Networks)
		net := networkOf(v, id)
		if ip, is := p.ExternalIDs[keyGateway]; is {
			s.own = ip
			s.r.Gateway = &router.Gateway{PortID: id, NetworkID: net, Addresses: addrs}
		} else {
			s.r.Interfaces = append(s.r.Interfaces, router.Interface{PortID: id, NetworkID: net, Addresses: addrs})
		}
	}
	for _, uuid := range row.StaticRoutes {
		if _, ok := own[nbrow.LogicalRouterStaticRoute](v, uuid, kindRoute); !ok {
			continue
		}
		x := ovn.At[nbrow.LogicalRouterStaticRoute](v, uuid)
		to, err := netip.ParsePrefix(x.IPPrefix)
		via, err2 := netip.ParseAddr(x.Nexthop)
		if err == nil && err2 == nil && x.OutputPort == nil {
			s.r.Routes = append(s.r.Routes, router.Route{Destination: to, NextHop: via})
		}
	}
	return s, true
}

func prefixes(texts []string) (out []netip.Prefix) {
	for _, t := range texts {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// own returns the id of a row of ours of a kind.
func own[T any](v ovn.Reader, uuid, kind string) (id string, ok bool) {
	row := ovn.At[T](v, uuid)
	if row == nil {
		return "", false
	}
	m, ok := ovn.MarkOf(ids(row))
	if !ok || m.Kind != kind || ovn.Find[T](v, vnet.PartRouter, kind, m.ID) != row {
		return "", false
	}
	return m.ID, true
}

func ids(row any) map[string]string {
	switch r := row.(type) {
	case *nbrow.LogicalRouter:
		return r.ExternalIDs
	case *nbrow.LogicalRouterPort:
		return r.ExternalIDs
	case *nbrow.LogicalRouterStaticRoute:
		return r.ExternalIDs
	case *nbrow.NAT:
		return r.ExternalIDs
	case *nbrow.LoadBalancer:
		return r.ExternalIDs
	case *nbrow.GatewayChassis:
		return r.ExternalIDs
	}
	return nil
}

// networkOf is the network that a router's port is on.
func networkOf(v ovn.Reader, portID string) string {
	lsp := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartRouter, kindPort, portID)
	if lsp == nil {
		return ""
	}
	sw := ovn.Holder[nbrow.LogicalSwitch](v, lsp)
	if sw == nil {
		return ""
	}
	m, _ := ovn.MarkOf(sw.ExternalIDs)
	return m.ID
}

func (s standing) fips(v ovn.Reader) (out []router.FloatingIP) {
	for _, uuid := range s.row.Nat {
		if id, ok := own[nbrow.NAT](v, uuid, kindFloating); ok {
			out = append(out, floatingOf(v, s.r.ID, id))
		}
	}
	return out
}

// floatingOf reads a floating IP from its row.
func floatingOf(v ovn.Reader, routerID, id string) router.FloatingIP {
	n := ovn.Find[nbrow.NAT](v, vnet.PartRouter, kindFloating, id)
	f := router.FloatingIP{ID: id, RouterID: routerID}
	f.FloatingIP, _ = netip.ParseAddr(n.ExternalIP)
	f.FixedIP, _ = netip.ParseAddr(n.LogicalIP)
	if n.LogicalPort != nil {
		m, _ := ovn.MarkOf(n.ExternalIDs)
		f.PortID, _ = ovn.ParsePortName(m.Owner, *n.LogicalPort)
	}
	f.ExternalMAC, _ = vnet.ParseMAC(n.ExternalIDs[keyMAC])
	return f
}

func (s standing) forwards(v ovn.Reader) (out []router.PortForward) {
	for _, uuid := range s.row.LoadBalancer {
		if _, ok := own[nbrow.LoadBalancer](v, uuid, kindForward); ok {
			if f, ok := forwardOf(ovn.At[nbrow.LoadBalancer](v, uuid)); ok {
				out = append(out, f)
			}
		}
	}
	return out
}

func forwardOf(b *nbrow.LoadBalancer) (f router.PortForward, ok bool) {
	return f, b != nil && json.Unmarshal([]byte(b.ExternalIDs[keyForward]), &f) == nil
}

// user is a floating IP or forward on the router, or "".
func (s standing) user(v ovn.Reader) string {
	for _, uuid := range s.row.Nat {
		if id, ok := own[nbrow.NAT](v, uuid, kindFloating); ok {
			return "floating IP " + id
		}
	}
	for _, uuid := range s.row.LoadBalancer {
		if id, ok := own[nbrow.LoadBalancer](v, uuid, kindForward); ok {
			return "port forward " + id
		}
	}
	return ""
}

// networks are those of the router's interfaces.
func (s standing) networks() (out []string) {
	for _, i := range s.r.Interfaces {
		if i.NetworkID != "" && !slices.Contains(out, i.NetworkID) {
			out = append(out, i.NetworkID)
		}
	}
	return out
}

func bad(field string, value any, reason string) error {
	return &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason}
}

// clashFloating is whose the addresses of f are already.
func clashFloating(tx *ovn.Tx, s standing, f router.FloatingIP) error {
	ext := s.r.Gateway.NetworkID
	for _, n := range ovn.By[nbrow.NAT](tx, "external_ip", f.FloatingIP.String()) {
		id, ok := own[nbrow.NAT](tx, n.UUID, kindFloating)
		if ok && id != f.ID && externalOf(tx, ovn.Holder[nbrow.LogicalRouter](tx, n)) == ext {
			return bad("floating_ip", f.FloatingIP, "is that of floating IP "+id)
		}
	}
	for _, n := range ovn.By[nbrow.NAT](tx, "logical_ip", f.FixedIP.String()) {
		id, ok := own[nbrow.NAT](tx, n.UUID, kindFloating)
		if lr := ovn.Holder[nbrow.LogicalRouter](tx, n); ok && id != f.ID && lr != nil && lr.UUID == s.row.UUID {
			return bad("fixed_ip", f.FixedIP, "has floating IP "+id+" already")
		}
	}
	for _, o := range forwardsAt(tx, ext, f.FloatingIP) {
		return bad("floating_ip", f.FloatingIP, "is an external address of port forward "+o.ID)
	}
	return clashGateway(tx, s, "floating_ip", f.FloatingIP)
}

// clashForward is whose the ports of f are already.
func clashForward(tx *ovn.Tx, s standing, f router.PortForward) error {
	ext := s.r.Gateway.NetworkID
	for _, n := range ovn.By[nbrow.NAT](tx, "external_ip", f.ExternalIP.String()) {
		id, ok := own[nbrow.NAT](tx, n.UUID, kindFloating)
		if ok && externalOf(tx, ovn.Holder[nbrow.LogicalRouter](tx, n)) == ext {
			return bad("external_ip", f.ExternalIP, "is floating IP "+id+", all of which goes to one address")
		}
	}
	for _, o := range forwardsAt(tx, ext, f.ExternalIP) {
		switch {
		case o.ID == f.ID:
		case o.RouterID != f.RouterID:
			return bad("external_ip", f.ExternalIP, "is that of router "+o.RouterID+" on network "+ext)
		case o.Overlaps(f):
			return bad("external_port", f.ExternalPort.First, "is that of port forward "+o.ID)
		}
	}
	return clashGateway(tx, s, "external_ip", f.ExternalIP)
}

// clashGateway is another router's gateway on the same network that has an address.
func clashGateway(tx *ovn.Tx, s standing, field string, a netip.Addr) error {
	sw := switchOf(tx, s.r.Gateway.NetworkID)
	if sw == nil {
		return nil
	}
	for _, uuid := range sw.Ports {
		lsp := ovn.At[nbrow.LogicalSwitchPort](tx, uuid)
		if lsp == nil || lsp.Type != "router" {
			continue
		}
		m, _ := ovn.MarkOf(lsp.ExternalIDs)
		lrp := ovn.Find[nbrow.LogicalRouterPort](tx, vnet.PartRouter, kindPort, m.ID)
		if lrp == nil || slices.Contains(s.row.Ports, lrp.UUID) {
			continue
		}
		if slices.ContainsFunc(prefixes(lrp.Networks), func(p netip.Prefix) bool { return p.Addr() == a }) {
			return bad(field, a, "is that of router port "+m.ID+" on network "+s.r.Gateway.NetworkID)
		}
	}
	return nil
}

// forwardsAt are the port forwards with an external address on a network.
func forwardsAt(tx *ovn.Tx, network string, a netip.Addr) (out []router.PortForward) {
	for b := range ovn.All[nbrow.LoadBalancer](tx) {
		if b.ExternalIDs[keyExternal] != a.String() {
			continue
		}
		if _, ok := own[nbrow.LoadBalancer](tx, b.UUID, kindForward); !ok {
			continue
		}
		f, ok := forwardOf(b)
		if ok && externalOf(tx, ovn.Find[nbrow.LogicalRouter](tx, vnet.PartRouter, kindRouter, f.RouterID)) == network {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b router.PortForward) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// externalOf is the network that a router's gateway is on.
func externalOf(v ovn.Reader, lr *nbrow.LogicalRouter) string {
	if lr == nil {
		return ""
	}
	for _, uuid := range lr.Ports {
		if id, ok := own[nbrow.LogicalRouterPort](v, uuid, kindPort); ok {
			if _, is := ovn.At[nbrow.LogicalRouterPort](v, uuid).ExternalIDs[keyGateway]; is {
				return networkOf(v, id)
			}
		}
	}
	return ""
}

// switchOf is the switch of a network, or nil.
func switchOf(v ovn.Reader, network string) *nbrow.LogicalSwitch {
	return ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", network)
}

// physicalOf is the physical network that a network is on, or "".
func physicalOf(v ovn.Reader, network string) string {
	sw := switchOf(v, network)
	if sw == nil {
		return ""
	}
	// Part overlay names the row for the network, and for the VLAN if there is one.
	segment := sw.ExternalIDs["vnet:segment"]
	for _, id := range []string{network, network + "/" + segment[strings.LastIndexByte(segment, ' ')+1:]} {
		if p := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "localnet", id); p != nil {
			return p.Options["network_name"]
		}
	}
	return ""
}
