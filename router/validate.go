package router

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
)

// bad returns a FieldError; v is printed unless nil.
func bad(field string, v any, reason string, args ...any) error {
	e := &vnet.FieldError{Field: field, Reason: fmt.Sprintf(reason, args...)}
	if v != nil {
		e.Value = fmt.Sprint(v)
	}
	return e
}

// devices are all the ports of the router:
// the interfaces, then the gateway.
func (r Router) devices() []Interface {
	d := slices.Clone(r.Interfaces)
	if g := r.Gateway; g != nil {
		d = append(d, Interface{PortID: g.PortID, NetworkID: g.NetworkID, MAC: g.MAC, Addresses: g.Addresses, MTU: g.MTU})
	}
	return d
}

// field is the path of the i-th of devices.
func (r Router) field(i int) string {
	if i == len(r.Interfaces) {
		return "gateway"
	}
	return fmt.Sprintf("interfaces[%d]", i)
}

// Validate reports all that is wrong with r itself.
func (r Router) Validate() error {
	errs := []error{vnet.CheckID("id", r.ID)}
	type at struct {
		subnet netip.Prefix
		dev    int
	}
	var subnets []at
	ports := map[string]string{}
	own := map[netip.Addr]string{}
	for i, d := range r.devices() {
		f := r.field(i)
		errs = append(errs, vnet.In(f, d.validate()))
		if was, ok := ports[d.PortID]; ok && d.PortID != "" {
			errs = append(errs, bad(f+".port_id", d.PortID, "is also that of %s", was))
		}
		ports[d.PortID] = f
		for j, a := range d.Addresses {
			if !a.IsValid() {
				continue
			}
			name := fmt.Sprintf("%s.addresses[%d]", f, j)
			if was, ok := own[a.Addr()]; ok {
				errs = append(errs, bad(name, a, "is also %s", was))
				continue
			}
			own[a.Addr()] = name
			for _, o := range subnets {
				if o.subnet.Overlaps(a) && !(o.dev == i && o.subnet == a.Masked()) {
					errs = append(errs, bad(name, a, "overlaps subnet %s of %s", o.subnet, r.field(o.dev)))
					break
				}
			}
			subnets = append(subnets, at{a.Masked(), i})
		}
	}
	if r.Gateway != nil {
		errs = append(errs, vnet.In("gateway", r.Gateway.validateNextHops()))
	}
	seen := map[Route]bool{}
	for i, x := range r.Routes {
		f := fmt.Sprintf("routes[%d]", i)
		if err := x.validate(); err != nil {
			errs = append(errs, vnet.In(f, err))
			continue
		}
		x.Destination = x.Destination.Masked()
		if seen[x] {
			errs = append(errs, bad(f, x.Destination, "by %s is there twice", x.NextHop))
		}
		seen[x] = true
		if _, ok := r.deviceFor(x.NextHop); !ok {
			errs = append(errs, bad(f+".nexthop", x.NextHop, "is not on an attached network"))
		}
		if was, ok := own[x.NextHop]; ok {
			errs = append(errs, bad(f+".nexthop", x.NextHop, "is the router's own, %s", was))
		}
		for _, o := range subnets {
			if o.subnet == x.Destination {
				errs = append(errs, bad(f+".destination", x.Destination, "is the subnet of %s", r.field(o.dev)))
				break
			}
		}
		if g := r.Gateway; g != nil && x.Destination.Bits() == 0 && slices.ContainsFunc(g.NextHops, func(a netip.Addr) bool { return a.Is4() == x.NextHop.Is4() }) {
			errs = append(errs, bad(f+".destination", x.Destination, "is the default route that gateway.next_hops gives"))
		}
	}
	return errors.Join(errs...)
}

// deviceFor is the index in devices of the one whose subnets have a.
func (r Router) deviceFor(a netip.Addr) (int, bool) {
	for i, d := range r.devices() {
		for _, p := range d.Addresses {
			if p.Contains(a) {
				return i, true
			}
		}
	}
	return 0, false
}

// PortTo returns the port of the router whose subnets contain a, and whether
// there is one.
func (r Router) PortTo(a netip.Addr) (portID string, ok bool) {
	i, ok := r.deviceFor(a)
	if !ok {
		return "", false
	}
	return r.devices()[i].PortID, true
}

// FirstIPv4 is the gateway's first IPv4 address, that source NAT uses.
func (g *Gateway) FirstIPv4() (netip.Addr, bool) {
	if g != nil {
		for _, a := range g.Addresses {
			if a.Addr().Is4() {
				return a.Addr(), true
			}
		}
	}
	return netip.Addr{}, false
}

func (d Interface) validate() error {
	errs := []error{vnet.CheckID("port_id", d.PortID), vnet.CheckID("network_id", d.NetworkID)}
	if !d.MAC.IsUnicast() {
		errs = append(errs, bad("mac", d.MAC, "is not a unicast address"))
	}
	if len(d.Addresses) == 0 {
		errs = append(errs, bad("addresses", nil, "is empty"))
	}
	v6 := false
	for i, a := range d.Addresses {
		f := fmt.Sprintf("addresses[%d]", i)
		if err := checkAddress(f, a); err != nil {
			errs = append(errs, err)
			continue
		}
		v6 = v6 || a.Addr().Is6()
	}
	switch {
	case d.MTU == 0:
	case d.MTU < 68 || d.MTU > 65535:
		errs = append(errs, bad("mtu", d.MTU, "is not 68 to 65535"))
	case v6 && d.MTU < 1280:
		errs = append(errs, bad("mtu", d.MTU, "is less than the 1280 of IPv6 (RFC 8200)"))
	}
	if d.RA != nil {
		errs = append(errs, vnet.In("ra", d.RA.validate()))
		if !v6 {
			errs = append(errs, bad("ra", nil, "is asked for on an interface without an IPv6 address"))
		}
		for i, a := range d.Addresses {
			if d.RA.Mode != DHCPv6Stateful && a.IsValid() && a.Addr().Is6() && a.Bits() != 64 {
				errs = append(errs, bad(fmt.Sprintf("addresses[%d]", i), a, "is not a /64, which address autoconfiguration needs (ra.mode %q)", d.RA.Mode))
			}
		}
	}
	return errors.Join(errs...)
}

// checkAddress is for an own address with its subnet's length.
func checkAddress(f string, p netip.Prefix) error {
	a := p.Addr()
	if !p.IsValid() {
		return bad(f, nil, "is not an address with a prefix length")
	}
	if err := checkHost(f, a); err != nil {
		return err
	}
	if a.Is6() && a.IsLinkLocalUnicast() {
		return bad(f, p, "is link-local; the router makes its own of its MAC")
	}
	if p.Bits() == 0 {
		return bad(f, p, "has prefix length 0")
	}
	if a.Is4() && p.Bits() < 31 {
		if a == p.Masked().Addr() {
			return bad(f, p, "is the address of the subnet, not of a host in it")
		}
		if a == lastOf(p) {
			return bad(f, p, "is the broadcast address of its subnet")
		}
	}
	return nil
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// checkHost is for an address that one host can have.
func checkHost(f string, a netip.Addr) error {
	switch {
	case !a.IsValid():
		return bad(f, nil, "is missing")
	case a.Is4In6():
		return bad(f, a, "is an IPv4 address written as IPv6")
	case a.Zone() != "":
		return bad(f, a, "has a zone")
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return bad(f, a, "is not the address of a host")
	}
	return nil
}

func check4(f string, a netip.Addr) error {
	if err := checkHost(f, a); err != nil {
		return err
	}
	if !a.Is4() {
		return bad(f, a, "is not an IPv4 address; IPv6 is routed, not translated")
	}
	return nil
}

func (g *Gateway) validateNextHops() error {
	var errs []error
	var have [2]bool
	fam := func(a netip.Addr) int {
		if a.Is4() {
			return 0
		}
		return 1
	}
	for i, h := range g.NextHops {
		f := fmt.Sprintf("next_hops[%d]", i)
		if err := checkHost(f, h); err != nil {
			errs = append(errs, err)
			continue
		}
		if have[fam(h)] {
			errs = append(errs, bad(f, h, "is the second of its family"))
		}
		have[fam(h)] = true
		same := h.Is6() && h.IsLinkLocalUnicast()
		for _, a := range g.Addresses {
			same = same || a.Addr().Is4() == h.Is4()
			if a.Addr() == h {
				errs = append(errs, bad(f, h, "is the router's own"))
			}
		}
		if !same {
			errs = append(errs, bad(f, h, "is of a family of which the gateway has no address"))
		}
	}
	return errors.Join(errs...)
}

func (r *RA) validate() error {
	var errs []error
	switch r.Mode {
	case SLAAC, DHCPv6Stateless, DHCPv6Stateful:
	default:
		errs = append(errs, bad("mode", r.Mode, "is not %q, %q or %q", SLAAC, DHCPv6Stateless, DHCPv6Stateful))
	}
	if r.MTU != 0 && (r.MTU < 1280 || r.MTU > 65535) {
		errs = append(errs, bad("mtu", r.MTU, "is not 1280 to 65535"))
	}
	if len(r.RDNSS) > 16 {
		errs = append(errs, bad("rdnss", len(r.RDNSS), "servers are more than 16"))
	}
	for i, a := range r.RDNSS {
		f := fmt.Sprintf("rdnss[%d]", i)
		if err := checkHost(f, a); err != nil {
			errs = append(errs, err)
		} else if !a.Is6() {
			errs = append(errs, bad(f, a, "is not an IPv6 address (RFC 8106, section 5.1)"))
		}
	}
	size := 0
	for i, d := range r.DNSSL {
		size += len(d) + 2
		if err := checkDomain(fmt.Sprintf("dnssl[%d]", i), d); err != nil {
			errs = append(errs, err)
		}
	}
	if size > 512 {
		errs = append(errs, bad("dnssl", nil, "is longer than 512 bytes in all"))
	}
	if r.Interval != 0 && (r.Interval < 4*time.Second || r.Interval > 1800*time.Second) {
		errs = append(errs, bad("interval", r.Interval, "is not 4s to 1800s (RFC 4861, section 6.2.1)"))
	}
	return errors.Join(errs...)
}

func checkDomain(f, d string) error {
	s := strings.TrimSuffix(d, ".")
	if s == "" || len(s) > 253 {
		return bad(f, d, "is not a domain name")
	}
	for l := range strings.SplitSeq(s, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}) {
			return bad(f, d, "is not a domain name")
		}
	}
	return nil
}

func (x Route) validate() error {
	if !x.Destination.IsValid() {
		return bad("destination", nil, "is not a prefix")
	}
	if x.Destination.Addr().IsMulticast() || x.Destination.Addr().IsLoopback() || x.Destination.Addr().Is4In6() {
		return bad("destination", x.Destination, "cannot be routed")
	}
	if err := checkHost("nexthop", x.NextHop); err != nil {
		return err
	}
	if x.NextHop.Is4() != x.Destination.Addr().Is4() {
		return bad("nexthop", x.NextHop, "is not of the family of %s", x.Destination)
	}
	if x.NextHop.Is6() && x.NextHop.IsLinkLocalUnicast() {
		return bad("nexthop", x.NextHop, "is link-local, on no network in particular")
	}
	return nil
}

// Validate reports all that is wrong with f itself.
func (f FloatingIP) Validate() error {
	errs := []error{vnet.CheckID("id", f.ID), vnet.CheckID("router_id", f.RouterID), check4("floating_ip", f.FloatingIP), check4("fixed_ip", f.FixedIP)}
	if f.FloatingIP == f.FixedIP && f.FixedIP.IsValid() {
		errs = append(errs, bad("fixed_ip", f.FixedIP, "is the floating IP itself"))
	}
	if f.PortID != "" {
		errs = append(errs, vnet.CheckID("port_id", f.PortID))
	}
	if !f.ExternalMAC.IsZero() && !f.ExternalMAC.IsUnicast() {
		errs = append(errs, bad("external_mac", f.ExternalMAC, "is not a unicast address"))
	}
	return errors.Join(errs...)
}

// Size is how many ports a range has.
func (r PortRange) Size() int { return int(r.last()) - int(r.First) + 1 }

func (r PortRange) last() uint16 {
	if r.Last == 0 {
		return r.First
	}
	return r.Last
}

func (r PortRange) String() string {
	if r.last() == r.First {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r PortRange) validate(f string) error {
	if r.First == 0 {
		return bad(f+".first", nil, "is missing or 0")
	}
	if r.last() < r.First {
		return bad(f+".last", r.Last, "is less than first, %d", r.First)
	}
	return nil
}

// Validate reports all that is wrong with f itself.
func (f PortForward) Validate() error {
	errs := []error{vnet.CheckID("id", f.ID), vnet.CheckID("router_id", f.RouterID), check4("external_ip", f.ExternalIP), check4("internal_ip", f.InternalIP)}
	if f.Protocol != "tcp" && f.Protocol != "udp" {
		errs = append(errs, bad("protocol", f.Protocol, `is neither "tcp" nor "udp"`))
	}
	e, i := f.ExternalPort.validate("external_port"), f.InternalPort.validate("internal_port")
	errs = append(errs, e, i)
	if e == nil && i == nil && f.ExternalPort.Size() != f.InternalPort.Size() {
		errs = append(errs, bad("internal_port", f.InternalPort, "is not of the size of external_port, %s", f.ExternalPort))
	}
	if f.ExternalIP == f.InternalIP && f.ExternalIP.IsValid() {
		errs = append(errs, bad("internal_ip", f.InternalIP, "is the external IP itself"))
	}
	return errors.Join(errs...)
}

// behind reports why fixed cannot be translated to by r.
func (r Router) behind(field string, fixed netip.Addr) error {
	for _, d := range r.devices() {
		for _, a := range d.Addresses {
			if a.Addr() == fixed {
				return bad(field, fixed, "is router %s's own address", r.ID)
			}
		}
	}
	for _, i := range r.Interfaces {
		for _, a := range i.Addresses {
			if a.Contains(fixed) {
				return nil
			}
		}
	}
	for _, x := range r.Routes {
		if x.Destination.Contains(fixed) {
			return nil
		}
	}
	return bad(field, fixed, "is in no subnet or route behind router %s", r.ID)
}

func (r Router) outside(field string, ip netip.Addr) error {
	for _, i := range r.Interfaces {
		for _, a := range i.Addresses {
			if a.Contains(ip) {
				return bad(field, ip, "is in subnet %s behind router %s", a.Masked(), r.ID)
			}
		}
	}
	return nil
}

// CheckFloatingIP reports why r cannot carry f: it has no gateway with an IPv4
// address, the floating IP is its own or inside, the fixed IP is not behind
// it. For backends that Ensure one object at a time.
func (r Router) CheckFloatingIP(f FloatingIP) error {
	if _, ok := r.Gateway.FirstIPv4(); !ok {
		return bad("router_id", f.RouterID, "names a router without a gateway that has an IPv4 address")
	}
	errs := []error{r.outside("floating_ip", f.FloatingIP), r.behind("fixed_ip", f.FixedIP)}
	if slices.ContainsFunc(r.Gateway.Addresses, func(a netip.Prefix) bool { return a.Addr() == f.FloatingIP }) {
		errs = append(errs, bad("floating_ip", f.FloatingIP, "is router %s's own gateway address", r.ID))
	}
	return errors.Join(errs...)
}

// CheckPortForward is [Router.CheckFloatingIP] for a forward, whose external
// address may be the gateway's own.
func (r Router) CheckPortForward(f PortForward) error {
	if _, ok := r.Gateway.FirstIPv4(); !ok {
		return bad("router_id", f.RouterID, "names a router without a gateway that has an IPv4 address")
	}
	return errors.Join(r.outside("external_ip", f.ExternalIP), r.behind("internal_ip", f.InternalIP))
}

// Overlaps reports whether two forwards of one external network want the same
// external port.
func (f PortForward) Overlaps(g PortForward) bool {
	return f.ExternalIP == g.ExternalIP && f.Protocol == g.Protocol &&
		f.ExternalPort.First <= g.ExternalPort.last() && g.ExternalPort.First <= f.ExternalPort.last()
}

// Validate reports all that is wrong with the objects of s and between them.
func (s State) Validate() error {
	var errs []error
	routers := map[string]Router{}
	ports := map[string]string{}
	type netAddr struct {
		network string
		addr    netip.Addr
	}
	// Whose an address on a network is: of routers, floating IPs and forwards.
	holder := map[netAddr]string{}
	macs := map[string]string{}
	for i, r := range s.Routers {
		f := fmt.Sprintf("routers[%d]", i)
		errs = append(errs, vnet.In(f, r.Validate()))
		if _, ok := routers[r.ID]; ok {
			errs = append(errs, bad(f+".id", r.ID, "is there twice"))
			continue
		}
		routers[r.ID] = r
		for j, d := range r.devices() {
			if was, ok := ports[d.PortID]; ok && was != r.ID {
				errs = append(errs, bad(f+"."+r.field(j)+".port_id", d.PortID, "is also that of router %s", was))
			}
			ports[d.PortID] = r.ID
			key := d.NetworkID + " " + d.MAC.String()
			if was, ok := macs[key]; ok {
				errs = append(errs, bad(f+"."+r.field(j)+".mac", d.MAC, "is on network %s also that of port %s", d.NetworkID, was))
			}
			macs[key] = d.PortID
			for k, a := range d.Addresses {
				na := netAddr{d.NetworkID, a.Addr()}
				if was, ok := holder[na]; ok && was != r.ID {
					errs = append(errs, bad(fmt.Sprintf("%s.%s.addresses[%d]", f, r.field(j), k), a.Addr(), "is on network %s also that of router %s", d.NetworkID, was))
				}
				holder[na] = r.ID
			}
		}
	}
	type routerAddr struct {
		router string
		addr   netip.Addr
	}
	ids := map[string]bool{}
	fixed := map[routerAddr]string{}
	floating := map[netAddr]string{}
	for i, x := range s.FloatingIPs {
		f := fmt.Sprintf("floating_ips[%d]", i)
		if err := x.Validate(); err != nil {
			errs = append(errs, vnet.In(f, err))
			continue
		}
		if ids[x.ID] {
			errs = append(errs, bad(f+".id", x.ID, "is there twice"))
			continue
		}
		ids[x.ID] = true
		r, ok := routers[x.RouterID]
		if !ok {
			errs = append(errs, bad(f+".router_id", x.RouterID, "names no router"))
			continue
		}
		if err := r.CheckFloatingIP(x); err != nil {
			errs = append(errs, vnet.In(f, err))
			continue
		}
		ext := netAddr{r.Gateway.NetworkID, x.FloatingIP}
		if was, ok := floating[ext]; ok {
			errs = append(errs, bad(f+".floating_ip", x.FloatingIP, "is also that of floating IP %s", was))
		} else if was, ok := holder[ext]; ok {
			errs = append(errs, bad(f+".floating_ip", x.FloatingIP, "is on network %s that of router %s", ext.network, was))
		}
		floating[ext] = x.ID
		in := routerAddr{r.ID, x.FixedIP}
		if was, ok := fixed[in]; ok {
			errs = append(errs, bad(f+".fixed_ip", x.FixedIP, "has floating IP %s already", was))
		}
		fixed[in] = x.ID
	}
	clear(ids)
	type span struct {
		index int
		PortForward
	}
	spans := map[string][]span{}
	for i, x := range s.PortForwards {
		f := fmt.Sprintf("port_forwards[%d]", i)
		if err := x.Validate(); err != nil {
			errs = append(errs, vnet.In(f, err))
			continue
		}
		if ids[x.ID] {
			errs = append(errs, bad(f+".id", x.ID, "is there twice"))
			continue
		}
		ids[x.ID] = true
		r, ok := routers[x.RouterID]
		if !ok {
			errs = append(errs, bad(f+".router_id", x.RouterID, "names no router"))
			continue
		}
		if err := r.CheckPortForward(x); err != nil {
			errs = append(errs, vnet.In(f, err))
			continue
		}
		ext := netAddr{r.Gateway.NetworkID, x.ExternalIP}
		if was, ok := floating[ext]; ok {
			errs = append(errs, bad(f+".external_ip", x.ExternalIP, "is floating IP %s, which maps all of its ports: conflict", was))
			continue
		}
		if was, ok := holder[ext]; ok && was != r.ID {
			errs = append(errs, bad(f+".external_ip", x.ExternalIP, "is on network %s that of router %s", ext.network, was))
		}
		holder[ext] = r.ID
		key := ext.network + " " + x.ExternalIP.String() + " " + x.Protocol
		spans[key] = append(spans[key], span{i, x})
	}
	for _, list := range spans {
		slices.SortFunc(list, func(a, b span) int {
			return cmp.Or(cmp.Compare(a.ExternalPort.First, b.ExternalPort.First), cmp.Compare(a.index, b.index))
		})
		last := list[0]
		for _, x := range list[1:] {
			if x.ExternalPort.First <= last.ExternalPort.last() {
				errs = append(errs, bad(fmt.Sprintf("port_forwards[%d].external_port", x.index), x.ExternalPort, "of %s %s is also that of port forward %s", x.ExternalIP, x.Protocol, last.ID))
			}
			if x.ExternalPort.last() > last.ExternalPort.last() {
				last = x
			}
		}
	}
	return errors.Join(errs...)
}
