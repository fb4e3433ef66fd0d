package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
)

func bad(field string, value any, reason string) error {
	v := fmt.Sprint(value)
	if v == "invalid IP" || v == "invalid Prefix" || v == "0" {
		v = ""
	}
	return &vnet.FieldError{Field: field, Value: v, Reason: reason}
}

func checkMAC(m vnet.MAC) error {
	switch {
	case m.IsZero():
		return bad("mac", "", "is missing")
	case !m.IsUnicast():
		return bad("mac", m, "is a group address")
	}
	return nil
}

// checkAddrs looks at a router's own addresses, with their subnets' lengths.
func checkAddrs(field string, addrs []netip.Prefix) (errs []error) {
	for i, p := range addrs {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case !p.IsValid():
			errs = append(errs, bad(at, "", "is missing"))
		case p.Addr().Is4In6():
			errs = append(errs, bad(at, p, "is an IPv4-mapped IPv6 address"))
		case p.Addr().IsUnspecified() || p.Addr().IsMulticast():
			errs = append(errs, bad(at, p, "is not a unicast address"))
		case p.Addr().IsLinkLocalUnicast() && p.Addr().Is6():
			errs = append(errs, bad(at, p, "is link-local, which the router has by itself"))
		case p.Addr().Is4() && p.Bits() < 31 && p.Masked().Addr() == p.Addr():
			errs = append(errs, bad(at, p, "is the subnet and not an address in it"))
		case p.Addr().Is4() && p.Bits() < 31 && !p.Contains(p.Addr().Next()):
			errs = append(errs, bad(at, p, "is the broadcast address of its subnet"))
		case p.Addr().IsLoopback() || p.Bits() == 0:
			errs = append(errs, bad(at, p, "is not the address of a host on a network"))
		}
	}
	return errs
}

func checkMTU(mtu int, v6 bool) error {
	least := 68
	if v6 {
		least = 1280 // RFC 8200, section 5
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		return bad("mtu", mtu, fmt.Sprintf("is not %d to 65535", least))
	}
	return nil
}

func hasV6(ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// Validate returns what is wrong with i as [*vnet.FieldError]s, joined.
func (i Interface) Validate() error {
	errs := []error{vnet.CheckID("port_id", i.PortID), vnet.CheckID("network_id", i.NetworkID), checkMAC(i.MAC), checkMTU(i.MTU, hasV6(i.Addresses))}
	errs = append(errs, checkAddrs("addresses", i.Addresses)...)
	if len(i.Addresses) == 0 {
		errs = append(errs, bad("addresses", "", "is empty"))
	}
	if i.RA != nil {
		errs = append(errs, vnet.In("ra", i.RA.Validate()))
		if !hasV6(i.Addresses) {
			errs = append(errs, bad("ra", i.RA.Mode, "is given on an interface without IPv6 addresses"))
		}
		for j, p := range i.Addresses {
			if p.Addr().Is6() && p.Bits() != 64 && i.RA.Mode != DHCPv6Stateful {
				errs = append(errs, bad(fmt.Sprintf("addresses[%d]", j), p, "is not a /64, which autoconfiguration needs (RFC 4862, 5.5.3)"))
			}
		}
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with r as [*vnet.FieldError]s, joined.
func (r RA) Validate() error {
	var errs []error
	switch r.Mode {
	case SLAAC, DHCPv6Stateless, DHCPv6Stateful:
	case "":
		errs = append(errs, bad("mode", "", "is empty"))
	default:
		errs = append(errs, bad("mode", r.Mode, "is none of slaac, dhcpv6-stateless, dhcpv6-stateful"))
	}
	errs = append(errs, checkMTU(r.MTU, true))
	if r.Interval != 0 && (r.Interval < 4*time.Second || r.Interval > 1800*time.Second) {
		errs = append(errs, bad("interval", r.Interval, "is not 4s to 1800s (RFC 4861, 6.2.1)"))
	}
	for i, a := range r.RDNSS {
		if !a.Is6() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
			errs = append(errs, bad(fmt.Sprintf("rdnss[%d]", i), a, "is not an IPv6 unicast address"))
		}
	}
	for i, d := range r.DNSSL {
		if d == "" || len(d) > 253 || strings.ContainsAny(d, " \t\n") || slices.ContainsFunc(strings.Split(strings.TrimSuffix(d, "."), "."), func(l string) bool { return l == "" || len(l) > 63 }) {
			errs = append(errs, bad(fmt.Sprintf("dnssl[%d]", i), d, "is not a domain name"))
		}
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with g as [*vnet.FieldError]s, joined.
func (g Gateway) Validate() error {
	errs := []error{vnet.CheckID("port_id", g.PortID), vnet.CheckID("network_id", g.NetworkID), checkMAC(g.MAC), checkMTU(g.MTU, hasV6(g.Addresses))}
	errs = append(errs, checkAddrs("addresses", g.Addresses)...)
	if len(g.Addresses) == 0 {
		errs = append(errs, bad("addresses", "", "is empty"))
	}
	for i, a := range g.NextHops {
		at := fmt.Sprintf("next_hops[%d]", i)
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6():
			errs = append(errs, bad(at, a, "is not a unicast address"))
		case slices.ContainsFunc(g.NextHops[:i], func(o netip.Addr) bool { return o.Is4() == a.Is4() }):
			errs = append(errs, bad(at, a, "is the second of its family"))
		case !slices.ContainsFunc(g.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() }):
			errs = append(errs, bad(at, a, "is of a family that the gateway has no address of"))
		case slices.ContainsFunc(g.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }):
			errs = append(errs, bad(at, a, "is the gateway's own address"))
		}
	}
	for i, h := range g.Hosts {
		at := fmt.Sprintf("hosts[%d]", i)
		switch {
		case h == "":
			errs = append(errs, bad(at, "", "is empty"))
		case strings.ContainsFunc(h, func(c rune) bool { return c <= ' ' || c == ',' || c == 0x7f }):
			errs = append(errs, bad(at, h, "has characters that no host name has"))
		case slices.Contains(g.Hosts[:i], h):
			errs = append(errs, bad(at, h, "is there twice"))
		}
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with r as [*vnet.FieldError]s, joined.
func (r Router) Validate() error {
	errs := []error{vnet.CheckID("id", r.ID)}
	ports := map[string]bool{}
	var nets []netip.Prefix // attached so far
	attach := func(at string, addrs []netip.Prefix, own int) {
		for j, p := range addrs {
			if !p.IsValid() {
				continue
			}
			for k, o := range nets {
				// Two addresses of one interface may share a subnet.
				if k < own && o.Overlaps(p.Masked()) {
					errs = append(errs, bad(fmt.Sprintf("%s.addresses[%d]", at, j), p, "overlaps "+o.String()+", which is attached too"))
				}
			}
			nets = append(nets, p.Masked())
		}
	}
	for i, x := range r.Interfaces {
		at := fmt.Sprintf("interfaces[%d]", i)
		errs = append(errs, vnet.In(at, x.Validate()))
		if ports[x.PortID] {
			errs = append(errs, bad(at+".port_id", x.PortID, "is there twice"))
		}
		ports[x.PortID] = true
		attach(at, x.Addresses, len(nets))
	}
	if r.Gateway != nil {
		errs = append(errs, vnet.In("gateway", r.Gateway.Validate()))
		if ports[r.Gateway.PortID] {
			errs = append(errs, bad("gateway.port_id", r.Gateway.PortID, "is there twice"))
		}
		attach("gateway", r.Gateway.Addresses, len(nets))
	}
	for i, x := range r.Routes {
		at := fmt.Sprintf("routes[%d]", i)
		switch {
		case !x.Destination.IsValid():
			errs = append(errs, bad(at+".destination", "", "is missing"))
		case x.Destination.Masked() != x.Destination:
			errs = append(errs, bad(at+".destination", x.Destination, "has host bits; did you mean "+x.Destination.Masked().String()+"?"))
		case !x.NextHop.IsValid() || x.NextHop.Is4() != x.Destination.Addr().Is4():
			errs = append(errs, bad(at+".nexthop", x.NextHop, "is not an address of the destination's family"))
		case !slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(x.NextHop) }):
			errs = append(errs, bad(at+".nexthop", x.NextHop, "is on no attached network"))
		case x.Destination.Addr().IsMulticast() || x.Destination.Addr().IsLoopback():
			errs = append(errs, bad(at+".destination", x.Destination, "cannot be routed"))
		case x.NextHop.Is6() && x.NextHop.IsLinkLocalUnicast():
			errs = append(errs, bad(at+".nexthop", x.NextHop, "is link-local, which is on no network in particular"))
		case slices.ContainsFunc(r.addresses(), func(p netip.Prefix) bool { return p.Addr() == x.NextHop }):
			errs = append(errs, bad(at+".nexthop", x.NextHop, "is the router's own address"))
		case slices.Contains(nets, x.Destination):
			errs = append(errs, bad(at+".destination", x.Destination, "is an attached subnet"))
		case slices.Contains(r.Routes[:i], x):
			errs = append(errs, bad(at, x.Destination, "is there twice"))
		}
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with f as [*vnet.FieldError]s, joined.
func (f FloatingIP) Validate() error {
	errs := []error{vnet.CheckID("id", f.ID), vnet.CheckID("router_id", f.RouterID)}
	for _, x := range []struct {
		field string
		a     netip.Addr
	}{{"floating_ip", f.FloatingIP}, {"fixed_ip", f.FixedIP}} {
		if !x.a.Is4() || x.a.IsUnspecified() || x.a.IsMulticast() || x.a.IsLoopback() {
			errs = append(errs, bad(x.field, x.a, "is not an IPv4 unicast address"))
		}
	}
	if f.FloatingIP == f.FixedIP && f.FixedIP.IsValid() {
		errs = append(errs, bad("fixed_ip", f.FixedIP, "is the floating IP itself"))
	}
	if f.PortID != "" {
		errs = append(errs, vnet.CheckID("port_id", f.PortID))
	}
	if !f.ExternalMAC.IsZero() && !f.ExternalMAC.IsUnicast() {
		errs = append(errs, bad("external_mac", f.ExternalMAC, "is a group address"))
	}
	return errors.Join(errs...)
}

// Len is how many ports the range has.
func (r PortRange) Len() int {
	if r.Last == 0 {
		return 1
	}
	return int(r.Last) - int(r.First) + 1
}

// Overlaps reports whether f and o want a port of one address and protocol.
func (f PortForward) Overlaps(o PortForward) bool {
	f, o = f.Canonical(), o.Canonical()
	return f.ExternalIP == o.ExternalIP && f.Protocol == o.Protocol &&
		f.ExternalPort.First <= o.ExternalPort.Last && o.ExternalPort.First <= f.ExternalPort.Last
}

// MaxForwardedPorts is how many ports one port forward may have: each is an
// entry of its own on most platforms.
const MaxForwardedPorts = 4096

// Validate returns what is wrong with f as [*vnet.FieldError]s, joined.
func (f PortForward) Validate() error {
	errs := []error{vnet.CheckID("id", f.ID), vnet.CheckID("router_id", f.RouterID)}
	if f.Protocol != "tcp" && f.Protocol != "udp" {
		errs = append(errs, bad("protocol", f.Protocol, "is neither tcp nor udp"))
	}
	for _, x := range []struct {
		field string
		a     netip.Addr
	}{{"external_ip", f.ExternalIP}, {"internal_ip", f.InternalIP}} {
		if !x.a.Is4() || x.a.IsUnspecified() || x.a.IsMulticast() || x.a.IsLoopback() {
			errs = append(errs, bad(x.field, x.a, "is not an IPv4 unicast address"))
		}
	}
	if f.ExternalIP == f.InternalIP && f.InternalIP.IsValid() {
		errs = append(errs, bad("internal_ip", f.InternalIP, "is the external IP itself"))
	}
	ranges := true
	for _, x := range []struct {
		field string
		r     PortRange
	}{{"external_port", f.ExternalPort}, {"internal_port", f.InternalPort}} {
		if x.r.First == 0 {
			errs = append(errs, bad(x.field+".first", "", "is missing"))
			ranges = false
		} else if x.r.Last != 0 && x.r.Last < x.r.First {
			errs = append(errs, bad(x.field+".last", x.r.Last, fmt.Sprintf("is before first, %d", x.r.First)))
			ranges = false
		}
	}
	if ranges && f.ExternalPort.Len() != f.InternalPort.Len() {
		errs = append(errs, bad("internal_port", fmt.Sprintf("%d-%d", f.InternalPort.First, f.InternalPort.Last), fmt.Sprintf("has %d ports, and external_port %d", f.InternalPort.Len(), f.ExternalPort.Len())))
	} else if ranges && f.ExternalPort.Len() > MaxForwardedPorts {
		errs = append(errs, bad("external_port", fmt.Sprintf("%d-%d", f.ExternalPort.First, f.ExternalPort.Last), fmt.Sprintf("has more than %d ports", MaxForwardedPorts)))
	}
	return errors.Join(errs...)
}

// Validate returns all that is wrong with s: its objects, what is there
// twice, and references to what is not there.
func (s State) Validate() error {
	var errs []error
	routers := map[string]*Router{}
	ports := map[string]string{}
	type place struct {
		network string
		addr    netip.Addr
	}
	// Whose an address or a MAC on a network is, by router id.
	holder, macs := map[place]string{}, map[string]string{}
	for i := range s.Routers {
		r := &s.Routers[i]
		at := fmt.Sprintf("routers[%d]", i)
		errs = append(errs, vnet.In(at, r.Validate()))
		if routers[r.ID] != nil {
			errs = append(errs, bad(at+".id", r.ID, "is there twice"))
		}
		routers[r.ID] = r
		own := map[string]bool{} // Router.Validate has seen those
		for _, p := range r.ports() {
			if other, ok := ports[p]; ok && !own[p] {
				errs = append(errs, bad(at, p, "is a port of router "+other+" too"))
			}
			ports[p], own[p] = r.ID, true
		}
		hold := func(network string, mac vnet.MAC, addrs []netip.Prefix) {
			k := network + " " + mac.String()
			if other, ok := macs[k]; ok && !mac.IsZero() {
				errs = append(errs, bad(at, mac, "is that of a port of router "+other+" on network "+network+" too"))
			}
			macs[k] = r.ID
			for _, p := range addrs {
				here := place{network, p.Addr()}
				if other, ok := holder[here]; ok && other != r.ID {
					errs = append(errs, bad(at, p.Addr(), "is that of router "+other+" on network "+network+" too"))
				}
				holder[here] = r.ID
			}
		}
		for _, x := range r.Interfaces {
			hold(x.NetworkID, x.MAC, x.Addresses)
		}
		if g := r.Gateway; g != nil {
			hold(g.NetworkID, g.MAC, g.Addresses)
		}
	}
	gateway := func(at, id string) bool {
		switch r := routers[id]; {
		case r == nil:
			errs = append(errs, bad(at+".router_id", id, "is no router of the state"))
		case r.Gateway == nil:
			errs = append(errs, bad(at+".router_id", id, "has no gateway"))
		default:
			return true
		}
		return false
	}
	ids, ext, fixed := map[string]bool{}, map[place]string{}, map[string]string{}
	for i, f := range s.FloatingIPs {
		at := fmt.Sprintf("floating_ips[%d]", i)
		errs = append(errs, vnet.In(at, f.Validate()))
		if ids[f.ID] {
			errs = append(errs, bad(at+".id", f.ID, "is there twice"))
		}
		ids[f.ID] = true
		if !gateway(at, f.RouterID) {
			continue
		}
		r := routers[f.RouterID]
		errs = append(errs, vnet.In(at, r.CheckFloatingIP(f)))
		here := place{r.Gateway.NetworkID, f.FloatingIP}
		if other, ok := ext[here]; ok {
			errs = append(errs, bad(at+".floating_ip", f.FloatingIP, "is that of floating IP "+other))
		}
		ext[here] = f.ID
		if other, ok := holder[here]; ok && other != f.RouterID {
			errs = append(errs, bad(at+".floating_ip", f.FloatingIP, "is that of router "+other+" on network "+here.network))
		}
		k := f.RouterID + " " + f.FixedIP.String()
		if other, ok := fixed[k]; ok {
			errs = append(errs, bad(at+".fixed_ip", f.FixedIP, "has floating IP "+other+" already"))
		}
		fixed[k] = f.ID
	}
	clear(ids)
	type end struct {
		place
		proto string
		port  uint16
	}
	taken := map[end]string{}
	user := map[place]string{} // the router whose forwards use an address
	for i, f := range s.PortForwards {
		at := fmt.Sprintf("port_forwards[%d]", i)
		err := f.Validate()
		errs = append(errs, vnet.In(at, err))
		if ids[f.ID] {
			errs = append(errs, bad(at+".id", f.ID, "is there twice"))
		}
		ids[f.ID] = true
		if !gateway(at, f.RouterID) || err != nil {
			continue
		}
		r := routers[f.RouterID]
		errs = append(errs, vnet.In(at, r.CheckPortForward(f)))
		here := place{r.Gateway.NetworkID, f.ExternalIP}
		if other, ok := ext[here]; ok {
			errs = append(errs, bad(at+".external_ip", f.ExternalIP, "is floating IP "+other+", all of which goes to one address"))
			continue
		}
		other, ok := holder[here]
		if !ok {
			other, ok = user[here]
		}
		if ok && other != f.RouterID {
			errs = append(errs, bad(at+".external_ip", f.ExternalIP, "is that of router "+other+" on network "+here.network))
			continue
		}
		user[here] = f.RouterID
		for n := range f.ExternalPort.Len() {
			e := end{here, f.Protocol, f.ExternalPort.First + uint16(n)}
			if other, ok := taken[e]; ok {
				errs = append(errs, bad(at+".external_port", e.port, "is that of port forward "+other))
				break
			}
			taken[e] = f.ID
		}
	}
	return errors.Join(errs...)
}

// behind is an error when r cannot translate to a: its own, or in no subnet of
// an interface and no extra route.
func (r Router) behind(field string, a netip.Addr) error {
	if slices.ContainsFunc(r.addresses(), func(p netip.Prefix) bool { return p.Addr() == a }) {
		return bad(field, a, "is router "+r.ID+"'s own address")
	}
	for _, i := range r.Interfaces {
		if slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return nil
		}
	}
	if slices.ContainsFunc(r.Routes, func(x Route) bool { return x.Destination.Contains(a) }) {
		return nil
	}
	return bad(field, a, "is in no subnet and no route behind router "+r.ID)
}

// outside is an error when a is in a subnet of an interface of r.
func (r Router) outside(field string, a netip.Addr) error {
	for _, i := range r.Interfaces {
		for _, p := range i.Addresses {
			if p.Contains(a) {
				return bad(field, a, "is in "+p.Masked().String()+", which is behind router "+r.ID)
			}
		}
	}
	return nil
}

func (r Router) addresses() (out []netip.Prefix) {
	for _, i := range r.Interfaces {
		out = append(out, i.Addresses...)
	}
	if r.Gateway != nil {
		out = append(out, r.Gateway.Addresses...)
	}
	return out
}

// CheckFloatingIP is why r cannot carry f, nil when it can: for backends that
// are given one object at a time. Of what else is on r it knows nothing.
func (r Router) CheckFloatingIP(f FloatingIP) error {
	if r.Gateway == nil {
		return bad("router_id", f.RouterID, "has no gateway")
	}
	errs := []error{r.outside("floating_ip", f.FloatingIP), r.behind("fixed_ip", f.FixedIP)}
	if slices.ContainsFunc(r.Gateway.Addresses, func(p netip.Prefix) bool { return p.Addr() == f.FloatingIP }) {
		errs = append(errs, bad("floating_ip", f.FloatingIP, "is the gateway's own address"))
	}
	return errors.Join(errs...)
}

// CheckPortForward is [Router.CheckFloatingIP] for a forward, whose external
// address may be the gateway's own.
func (r Router) CheckPortForward(f PortForward) error {
	if r.Gateway == nil {
		return bad("router_id", f.RouterID, "has no gateway")
	}
	return errors.Join(r.outside("external_ip", f.ExternalIP), r.behind("internal_ip", f.InternalIP))
}

// ports are the ids of all ports of r.
func (r Router) ports() (out []string) {
	for _, i := range r.Interfaces {
		out = append(out, i.PortID)
	}
	if r.Gateway != nil {
		out = append(out, r.Gateway.PortID)
	}
	return out
}

// Clone returns a deep copy.
func (r Router) Clone() Router {
	r.Interfaces = slices.Clone(r.Interfaces)
	for i := range r.Interfaces {
		x := &r.Interfaces[i]
		x.Addresses = slices.Clone(x.Addresses)
		if x.RA != nil {
			ra := *x.RA
			ra.RDNSS, ra.DNSSL = slices.Clone(ra.RDNSS), slices.Clone(ra.DNSSL)
			x.RA = &ra
		}
	}
	if r.Gateway != nil {
		g := *r.Gateway
		g.Addresses, g.NextHops, g.Hosts = slices.Clone(g.Addresses), slices.Clone(g.NextHops), slices.Clone(g.Hosts)
		r.Gateway = &g
	}
	r.Routes = slices.Clone(r.Routes)
	return r
}

// Clone returns a deep copy.
func (s State) Clone() State {
	out := State{FloatingIPs: slices.Clone(s.FloatingIPs), PortForwards: slices.Clone(s.PortForwards)}
	for _, r := range s.Routers {
		out.Routers = append(out.Routers, r.Clone())
	}
	return out
}

// Canonical returns r in the form backends get: interfaces sorted by port id,
// routes by destination. Addresses keep their order: the first of a gateway is
// what SNAT uses.
func (r Router) Canonical() Router {
	r = r.Clone()
	slices.SortFunc(r.Interfaces, func(a, b Interface) int { return strings.Compare(a.PortID, b.PortID) })
	slices.SortFunc(r.Routes, func(a, b Route) int {
		if c := a.Destination.Compare(b.Destination); c != 0 {
			return c
		}
		return a.NextHop.Compare(b.NextHop)
	})
	return r
}

// Canonical returns f in the form backends get: ranges have both ends.
func (f PortForward) Canonical() PortForward {
	for _, r := range []*PortRange{&f.ExternalPort, &f.InternalPort} {
		if r.Last == 0 {
			r.Last = r.First
		}
	}
	return f
}

// Canonical returns s in the form backends get: every list sorted by id.
func (s State) Canonical() State {
	out := State{FloatingIPs: slices.Clone(s.FloatingIPs)}
	for _, r := range s.Routers {
		out.Routers = append(out.Routers, r.Canonical())
	}
	for _, f := range s.PortForwards {
		out.PortForwards = append(out.PortForwards, f.Canonical())
	}
	slices.SortFunc(out.Routers, func(a, b Router) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(out.FloatingIPs, func(a, b FloatingIP) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(out.PortForwards, func(a, b PortForward) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Equal reports whether r and o mean the same.
func (r Router) Equal(o Router) bool {
	_, differs := DiffRouter(&r, &o)
	return r.ID == o.ID && !differs
}

// Equal reports whether f and o mean the same.
func (f PortForward) Equal(o PortForward) bool { return f.Canonical() == o.Canonical() }
