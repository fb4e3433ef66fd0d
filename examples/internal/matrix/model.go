package matrix

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// Model says what the desired state means for a packet. It is read off the
// contracts, and knows no backend: it walks a packet from place to place as
// the documentation of overlay, router and secgroup has it.
type Model struct {
	t     *topology.Cloud
	ports map[string]*secgroup.Port // by id
	group map[string]*secgroup.Group
}

// NewModel returns the model of a cloud.
func NewModel(t *topology.Cloud) (*Model, error) {
	m := &Model{t: t, ports: map[string]*secgroup.Port{}, group: map[string]*secgroup.Group{}}
	s := &t.All.SecGroup
	for i := range s.Ports {
		m.ports[s.Ports[i].ID] = &s.Ports[i]
	}
	for i := range s.Groups {
		m.group[s.Groups[i].ID] = &s.Groups[i]
	}
	return m, nil
}

// InGroup implements [secgroup.Members].
func (m *Model) InGroup(id string, a netip.Addr) bool {
	for _, p := range m.ports {
		if slices.Contains(p.Groups, id) && slices.ContainsFunc(p.Addresses(), func(x netip.Prefix) bool { return x.Contains(a) }) {
			return true
		}
	}
	return false
}

// InAddressGroup implements [secgroup.Members].
func (m *Model) InAddressGroup(id string, a netip.Addr) bool {
	for _, g := range m.t.All.SecGroup.AddressGroups {
		if g.ID == id {
			return slices.ContainsFunc(g.Prefixes, func(x netip.Prefix) bool { return x.Contains(a) })
		}
	}
	return false
}

// packet is a packet on its way. Replies are walked too, where no connection
// remembers them.
type packet struct {
	src, dst netip.Addr
	proto    string
	port     uint16 // destination
	reply    bool
}

func (p packet) String() string {
	if p.proto == "icmp" {
		return fmt.Sprintf("icmp echo %s to %s", p.src, p.dst)
	}
	return fmt.Sprintf("%s %s to %s", p.proto, p.src, netip.AddrPortFrom(p.dst, p.port))
}

func (p packet) number() uint8 {
	switch {
	case p.proto == "tcp":
		return 6
	case p.proto == "udp":
		return 17
	case p.dst.Is6():
		return 58
	}
	return 1
}

// selector is what rules compare: the destination port, or ICMP type and code.
func (p packet) selector() uint16 {
	switch {
	case p.proto != "icmp":
		return p.port
	case p.dst.Is6() && p.reply:
		return 129 << 8
	case p.dst.Is6():
		return 128 << 8
	case p.reply:
		return 0
	}
	return 8 << 8
}

// walk is the way of one packet and what was said of it.
type walk struct {
	m    *Model
	e    *vnet.Explanation
	hops int
	why  string // the last rule that let it through, or why it was dropped
	who  string // the machine where it arrived
	nic  *topology.NIC
	last packet // as it arrived
	// Stateless rules let it out or in: then its reply needs rules too.
	stateless bool
}

func (w *walk) say(format string, args ...any) {
	if w.e != nil {
		w.e.Add(fmt.Sprintf(format, args...))
	}
}

func (w *walk) drop(format string, args ...any) bool {
	w.why = fmt.Sprintf(format, args...)
	w.say("dropped: %s", w.why)
	return false
}

// Expect says whether an answer to the probe comes back, and whose.
func (m *Model) Expect(from string, p vm.Probe) Expectation {
	w, ok := m.send(from, p, nil)
	return Expectation{OK: ok, Who: map[bool]string{true: w.who}[ok], Why: w.why}
}

// Explain goes the way of a packet. to is an address or the name of a machine.
func (m *Model) Explain(from, to string, p vm.Probe) (vnet.Explanation, error) {
	a, err := netip.ParseAddr(to)
	if err != nil {
		if a, err = m.address(from, to); err != nil {
			return vnet.Explanation{}, err
		}
	}
	if m.t.VM(from) == nil && m.outside(from) == nil {
		return vnet.Explanation{}, fmt.Errorf("there is no machine %q", from)
	}
	p.Dst = a
	e := vnet.Explanation{Text: fmt.Sprintf("%s from %s", p, from)}
	w, ok := m.send(from, p, &e)
	if ok {
		e.Add(fmt.Sprintf("the answer of %s comes back", w.who))
	}
	return e, nil
}

// address of a machine, on a network both are on if there is one.
func (m *Model) address(from, to string) (netip.Addr, error) {
	v := m.t.VM(to)
	if v == nil {
		if o := m.outside(to); o != nil {
			return o.Addresses[0].Addr(), nil
		}
		return netip.Addr{}, fmt.Errorf("%q is neither an address nor a machine", to)
	}
	f := m.t.VM(from)
	for _, n := range v.NICs {
		if f != nil && slices.ContainsFunc(f.NICs, func(x topology.NIC) bool { return x.NetworkID == n.NetworkID }) && len(n.IPs) > 0 {
			return n.IPs[0], nil
		}
	}
	for _, n := range v.NICs {
		if len(n.IPs) > 0 {
			return n.IPs[0], nil
		}
	}
	return netip.Addr{}, fmt.Errorf("server %q has no address", to)
}

func (m *Model) outside(name string) *topology.Outside {
	for i := range m.t.Outside {
		if m.t.Outside[i].Name == name {
			return &m.t.Outside[i]
		}
	}
	return nil
}

// send walks the probe to its end, and the answer back as far as it is not
// remembered by a connection.
func (m *Model) send(from string, p vm.Probe, e *vnet.Explanation) (*walk, bool) {
	w := &walk{m: m, e: e}
	pk := packet{dst: p.Dst, proto: p.Proto, port: p.Port}
	if !w.originate(from, pk) {
		return w, false
	}
	// The answer: its way has to exist at the machine that answers ...
	if !w.canAnswer() {
		return w, false
	}
	// ... and where rules are about packets, they are asked again.
	if w.stateless && !w.reply(from) {
		return w, false
	}
	return w, true
}

// originate has a machine send a packet: it chooses the interface, its own
// address, and the next hop.
func (w *walk) originate(from string, p packet) bool {
	m := w.m
	if o := m.outside(from); o != nil {
		via, src := m.outsideRoute(o, p.dst)
		if !via.IsValid() {
			return w.drop("%s has no route to %s", from, p.dst)
		}
		p.src = src
		return w.physical(o.PhysicalNW, via, p, "")
	}
	v := m.t.VM(from)
	nic, via := m.vmRoute(v, p.dst)
	if nic == nil {
		return w.drop("%s has no route to %s", from, p.dst)
	}
	for _, a := range nic.IPs {
		if a.Is4() == p.dst.Is4() {
			p.src = a
			break
		}
	}
	if !p.src.IsValid() {
		return w.drop("%s has no address of that IP version", from)
	}
	w.say("%s sends it by %s, next hop %s", from, nic.PortID, via)
	if !w.filter(nic.PortID, secgroup.Egress, p) {
		return false
	}
	return w.deliver(nic.NetworkID, via, p, nic.PortID)
}

// vmRoute is the interface and next hop a server uses for an address.
func (m *Model) vmRoute(v *topology.VM, dst netip.Addr) (*topology.NIC, netip.Addr) {
	for i := range v.NICs {
		n := &v.NICs[i]
		for _, s := range m.t.Network(n.NetworkID).Subnets {
			if s.CIDR.Contains(dst) && m.hasAddressIn(n, s) {
				return n, dst
			}
		}
	}
	for i := range v.NICs {
		n := &v.NICs[i]
		for _, s := range m.t.Network(n.NetworkID).Subnets {
			if s.CIDR.Addr().Is4() == dst.Is4() && s.Gateway.IsValid() && m.hasAddressIn(n, s) && m.gatewayServed(n.NetworkID, s) {
				return n, s.Gateway
			}
		}
	}
	return nil, netip.Addr{}
}

func (m *Model) hasAddressIn(n *topology.NIC, s overlay.Subnet) bool {
	return slices.ContainsFunc(n.IPs, s.CIDR.Contains)
}

// gatewayServed reports whether servers of the subnet are told its gateway:
// somebody has to be there.
func (m *Model) gatewayServed(network string, s overlay.Subnet) bool {
	if m.t.Network(network).Segment.Type.Physical() {
		return true
	}
	for _, r := range m.t.All.Router.Routers {
		for _, in := range r.Interfaces {
			if in.NetworkID == network && slices.ContainsFunc(in.Addresses, func(p netip.Prefix) bool { return p.Addr() == s.Gateway }) {
				return true
			}
		}
	}
	return false
}

// outsideRoute is the next hop of an outside machine and the address it sends from.
func (m *Model) outsideRoute(o *topology.Outside, dst netip.Addr) (via, src netip.Addr) {
	own := func(hop netip.Addr) netip.Addr {
		for _, a := range o.Addresses {
			if a.Contains(hop) {
				return a.Addr()
			}
		}
		return netip.Addr{}
	}
	if src := own(dst); src.IsValid() {
		return dst, src
	}
	best := -1
	for _, r := range o.Routes {
		if r.Destination.Contains(dst) && r.Destination.Bits() > best {
			best, via = r.Destination.Bits(), r.NextHop
		}
	}
	if !via.IsValid() {
		return via, src
	}
	return via, own(via)
}

// physical hands a packet to whoever has the address hop on a physical network.
func (w *walk) physical(physnet string, hop netip.Addr, p packet, fromPort string) bool {
	for _, n := range w.m.t.All.Overlay.Networks {
		if n.Segment.PhysicalNetwork == physnet && n.Segment.Type == overlay.Flat {
			return w.deliver(n.ID, hop, p, fromPort)
		}
	}
	// No network of the cloud is on that wire.
	return w.outsideDeliver(physnet, hop, p)
}

// deliver hands a packet to whoever has the address hop on a network.
func (w *walk) deliver(network string, hop netip.Addr, p packet, fromPort string) bool {
	m := w.m
	if w.hops++; w.hops > 16 {
		return w.drop("it goes in circles")
	}
	n := m.t.Network(network)
	if n.AdminDown {
		return w.drop("network %s is down", network)
	}
	host := m.hostOf(fromPort)
	for i := range m.t.VMs {
		v := &m.t.VMs[i]
		for k := range v.NICs {
			nic := &v.NICs[k]
			if nic.NetworkID != network || !slices.Contains(nic.IPs, hop) && !(slices.Contains(nic.Pairs, hop) && Holder(m.t, network, hop) == v.Name) {
				continue
			}
			if n.Segment.Type == overlay.Local && host != "" && v.Host != host {
				continue
			}
			w.say("network %s carries it to %s", network, nic.PortID)
			if !w.filter(nic.PortID, secgroup.Ingress, p) {
				return false
			}
			if p.dst != hop {
				return w.drop("server %s does not forward", v.Name)
			}
			w.who, w.nic, w.last = v.Name, nic, p
			return true
		}
	}
	for i := range m.t.All.Router.Routers {
		r := &m.t.All.Router.Routers[i]
		for _, in := range r.Interfaces {
			if in.NetworkID == network && slices.ContainsFunc(in.Addresses, func(x netip.Prefix) bool { return x.Addr() == hop }) {
				return w.route(r, network, p)
			}
		}
		if r.Gateway != nil && r.Gateway.NetworkID == network && m.external(r, hop) {
			return w.route(r, network, p)
		}
	}
	if n.Segment.PhysicalNetwork != "" {
		return w.outsideDeliver(n.Segment.PhysicalNetwork, hop, p)
	}
	return w.drop("nobody on network %s has %s", network, hop)
}

func (m *Model) hostOf(port string) string {
	if p := m.ports[port]; p != nil {
		return p.Host
	}
	return ""
}

func (w *walk) outsideDeliver(physnet string, hop netip.Addr, p packet) bool {
	for i := range w.m.t.Outside {
		o := &w.m.t.Outside[i]
		if o.PhysicalNW != physnet || !slices.ContainsFunc(o.Addresses, func(x netip.Prefix) bool { return x.Addr() == hop }) {
			continue
		}
		if slices.ContainsFunc(o.Addresses, func(x netip.Prefix) bool { return x.Addr() == p.dst }) {
			w.say("physical network %s carries it to %s", physnet, o.Name)
			w.who, w.nic, w.last = o.Name, nil, p
			return true
		}
		via, _ := w.m.outsideRoute(o, p.dst)
		if !via.IsValid() {
			return w.drop("%s, outside, has no route to %s", o.Name, p.dst)
		}
		w.say("%s, outside, sends it on to %s", o.Name, via)
		if w.hops++; w.hops > 16 {
			return w.drop("it goes in circles")
		}
		return w.physical(physnet, via, p, "")
	}
	return w.drop("nobody on physical network %s has %s", physnet, hop)
}

// external reports whether a router answers for an address on its external network.
func (m *Model) external(r *router.Router, a netip.Addr) bool {
	if slices.ContainsFunc(r.Gateway.Addresses, func(x netip.Prefix) bool { return x.Addr() == a }) {
		return true
	}
	for _, f := range m.t.All.Router.FloatingIPs {
		if f.RouterID == r.ID && f.FloatingIP == a {
			return true
		}
	}
	for _, f := range m.t.All.Router.PortForwards {
		if f.RouterID == r.ID && f.ExternalIP == a {
			return true
		}
	}
	return false
}

// route takes a packet through a router: destination, way, source.
func (w *walk) route(r *router.Router, in string, p packet) bool {
	m := w.m
	if r.AdminDown {
		return w.drop("router %s is down", r.ID)
	}
	translated := false
	for _, f := range m.t.All.Router.FloatingIPs {
		if f.RouterID == r.ID && f.FloatingIP == p.dst {
			w.say("router %s: floating IP %s leads to %s", r.ID, f.ID, f.FixedIP)
			p.dst, translated = f.FixedIP, true
			break
		}
	}
	for _, f := range m.t.All.Router.PortForwards {
		last := max(f.ExternalPort.First, f.ExternalPort.Last)
		if !translated && f.RouterID == r.ID && f.ExternalIP == p.dst && f.Protocol == p.proto && p.port >= f.ExternalPort.First && p.port <= last {
			to := f.InternalPort.First + p.port - f.ExternalPort.First
			w.say("router %s: port forward %s leads to %s", r.ID, f.ID, netip.AddrPortFrom(f.InternalIP, to))
			p.dst, p.port, translated = f.InternalIP, to, true
			break
		}
	}
	if !translated && m.own(r, p.dst) {
		if p.proto != "icmp" {
			return w.drop("router %s has nothing on %s", r.ID, netip.AddrPortFrom(p.dst, p.port))
		}
		w.say("router %s itself answers", r.ID)
		w.who, w.nic, w.last = r.ID, nil, p
		return true
	}
	out, via := m.routerRoute(r, p.dst)
	if out == "" {
		return w.drop("router %s has no route to %s", r.ID, p.dst)
	}
	byGateway := r.Gateway != nil && out == r.Gateway.NetworkID
	fromGateway := r.Gateway != nil && in == r.Gateway.NetworkID
	// Source translation: out of the gateway, and back inside through an
	// external address (hairpin), so that the answer comes by here.
	if r.Gateway != nil && p.src.Is4() && !fromGateway && (byGateway || translated) {
		src := p.src
		for _, f := range m.t.All.Router.FloatingIPs {
			if f.RouterID == r.ID && f.FixedIP == p.src {
				src = f.FloatingIP
			}
		}
		if src == p.src && !r.Gateway.DisableSNAT {
			for _, a := range r.Gateway.Addresses {
				if a.Addr().Is4() {
					src = a.Addr()
					break
				}
			}
		}
		if src != p.src {
			w.say("router %s: its source becomes %s", r.ID, src)
			p.src = src
		}
	}
	w.say("router %s sends it to network %s, next hop %s", r.ID, out, via)
	return w.deliver(out, via, p, "")
}

// own reports whether an address is the router's: of an interface, its
// gateway, or one it forwards ports of.
func (m *Model) own(r *router.Router, a netip.Addr) bool {
	for _, in := range r.Interfaces {
		if slices.ContainsFunc(in.Addresses, func(x netip.Prefix) bool { return x.Addr() == a }) {
			return true
		}
	}
	return r.Gateway != nil && m.external(r, a)
}

// routerRoute is the network and next hop a router uses for an address.
func (m *Model) routerRoute(r *router.Router, dst netip.Addr) (network string, via netip.Addr) {
	connected := func(a netip.Addr) string {
		best, network := -1, ""
		for _, in := range r.Interfaces {
			for _, p := range in.Addresses {
				if p.Contains(a) && p.Bits() > best {
					best, network = p.Bits(), in.NetworkID
				}
			}
		}
		if r.Gateway != nil {
			for _, p := range r.Gateway.Addresses {
				if p.Contains(a) && p.Bits() > best {
					best, network = p.Bits(), r.Gateway.NetworkID
				}
			}
		}
		return network
	}
	if n := connected(dst); n != "" {
		return n, dst
	}
	best := -1
	for _, x := range r.Routes {
		if x.Destination.Contains(dst) && x.Destination.Bits() > best {
			best, via = x.Destination.Bits(), x.NextHop
		}
	}
	if !via.IsValid() && r.Gateway != nil {
		for _, h := range r.Gateway.NextHops {
			if h.Is4() == dst.Is4() {
				via = h
			}
		}
	}
	if !via.IsValid() {
		return "", via
	}
	return connected(via), via
}

// filter asks the rules of a port.
func (w *walk) filter(port string, d secgroup.Direction, p packet) bool {
	m := w.m
	sp := m.ports[port]
	if sp == nil || sp.DisablePortSecurity {
		w.why = "port " + port + " has no port security"
		w.say("%s", w.why)
		return true
	}
	remote := p.src
	if d == secgroup.Egress {
		remote = p.dst
	}
	rp := secgroup.Packet{Direction: d, Remote: remote, Protocol: p.number(), Selector: p.selector()}
	verdict := ""
	for _, id := range sp.Groups {
		g := m.group[id]
		if g == nil || p.reply && !g.Stateless {
			continue // connections of stateful groups are opened by first packets only
		}
		for _, r := range g.Rules {
			if !r.Match().Matches(rp, m) {
				continue
			}
			// What a stateless rule allows passes by itself, whatever else allows it.
			if verdict == "" || g.Stateless {
				verdict = fmt.Sprintf("rule %s/%s (%s) of port %s", id, r.ID, r.Match(), port)
			}
			if g.Stateless {
				w.stateless = true
			}
			break
		}
	}
	if verdict == "" {
		return w.drop("no %s rule of port %s allows %s", d, port, p)
	}
	w.why = verdict
	w.say("%s allows it", verdict)
	return true
}

// canAnswer reports whether the machine where the packet arrived has a way
// for the answer. Where it was routed or translated the answer goes back the
// way it came; the only question is whether the machine sends it that way.
func (w *walk) canAnswer() bool {
	if w.nic == nil {
		if o := w.m.outside(w.who); o != nil {
			if via, _ := w.m.outsideRoute(o, w.last.src); !via.IsValid() {
				return w.drop("%s has no route back to %s", w.who, w.last.src)
			}
		}
		return true
	}
	if nic, _ := w.m.vmRoute(w.m.t.VM(w.who), w.last.src); nic == nil {
		return w.drop("%s has no route back to %s", w.who, w.last.src)
	}
	return true
}

// reply asks the rules for the answer as a packet of its own, at both ends.
// 32768 stands for the port the question came from, which is any above it.
func (w *walk) reply(from string) bool {
	answer := packet{src: w.last.dst, dst: w.last.src, proto: w.last.proto, port: 32768, reply: true}
	passes := func(port string, d secgroup.Direction) bool {
		sp := w.m.ports[port]
		if sp == nil || sp.DisablePortSecurity || !slices.ContainsFunc(sp.Groups, func(g string) bool { return w.m.group[g] != nil && w.m.group[g].Stateless }) {
			return true
		}
		return w.filter(port, d, answer)
	}
	if w.nic != nil && !passes(w.nic.PortID, secgroup.Egress) {
		return false
	}
	if v := w.m.t.VM(from); v != nil {
		for _, n := range v.NICs {
			if slices.Contains(n.IPs, answer.dst) && !passes(n.PortID, secgroup.Ingress) {
				return false
			}
		}
	}
	return true
}
