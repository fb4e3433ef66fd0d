package matrix

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// Model says what the desired state of a cloud means for its machines: package
// reach, asked in their names.
type Model struct {
	t *topology.Cloud
	m *reach.Model
}

// NewModel returns the model of a cloud.
func NewModel(t *topology.Cloud) (*Model, error) {
	w := reach.World{Overlay: t.All.Overlay.Clone(), Router: t.All.Router, SecGroup: t.All.SecGroup, DHCP: t.All.DHCP, Metadata: t.All.Metadata}
	wires := map[string]string{} // physical network -> the network that is untagged on it
	for _, n := range w.Overlay.Networks {
		if n.Segment.Type == overlay.Flat {
			wires[n.Segment.PhysicalNetwork] = n.ID
		}
	}
	for _, o := range t.Outside {
		if wires[o.PhysicalNW] == "" { // no network of the cloud is on that wire
			n := overlay.Network{ID: "wire-" + o.PhysicalNW, Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: o.PhysicalNW}}
			w.Overlay.Networks = append(w.Overlay.Networks, n)
			wires[o.PhysicalNW] = n.ID
		}
		w.Stations = append(w.Stations, reach.Station{ID: o.Name, NetworkID: wires[o.PhysicalNW], MAC: o.MAC, Addresses: o.Addresses, Routes: o.Routes, Forwards: true})
	}
	for _, v := range t.VMs {
		for _, n := range v.NICs {
			for _, a := range n.Pairs {
				if Holder(t, n.NetworkID, a) == v.Name {
					w.Holders = append(w.Holders, reach.Holder{NetworkID: n.NetworkID, IP: a, PortID: n.PortID})
				}
			}
		}
	}
	m, err := reach.New(w)
	if err != nil {
		return nil, err
	}
	return &Model{t: t, m: m}, nil
}

// Expect says whether an answer to the probe comes back, and whose.
func (m *Model) Expect(from string, p vm.Probe) Expectation {
	k, err := m.packet(from, p)
	if err != nil {
		return Expectation{Why: err.Error()}
	}
	there, back, ok := m.m.Connect(k)
	switch {
	case ok && m.limit(from, p, there.Arrivals[0]) != "":
		return Expectation{Why: "a limit of the platform: " + string(m.limit(from, p, there.Arrivals[0]))}
	case ok:
		return Expectation{OK: true, Who: m.machine(there.Arrivals[0].ID), Why: there.Why()}
	case there.OK():
		return Expectation{Why: "no answer: " + back.Why()}
	}
	return Expectation{Why: there.Why()}
}

// limit is the limit of the platform's routers by which an answer that the
// model says stays out; empty: none.
func (m *Model) limit(from string, p vm.Probe, a reach.Arrival) router.Limit {
	has := func(l router.Limit) bool { return slices.Contains(m.t.Limits, l) }
	if a.Kind == "router" && !m.gateway(p.Dst) && has(router.LimitSilentPorts) {
		return router.LimitSilentPorts
	}
	floating := slices.ContainsFunc(m.t.All.Router.FloatingIPs, func(f router.FloatingIP) bool { return f.FloatingIP == p.Dst })
	if floating && m.outside(from) == nil && m.machine(a.ID) != from && has(router.LimitForwardHairpin) {
		for _, f := range m.t.All.Router.PortForwards {
			first, last := f.InternalPort.First, max(f.InternalPort.First, f.InternalPort.Last)
			if f.Protocol == p.Proto && f.InternalIP == a.Packet.Dst && first <= a.Packet.DstPort && a.Packet.DstPort <= last && m.behind(from, f.RouterID) {
				return router.LimitForwardHairpin
			}
		}
	}
	return ""
}

// behind reports whether a machine is on an internal network of a router.
func (m *Model) behind(name, id string) bool {
	v := m.t.VM(name)
	return v != nil && slices.ContainsFunc(m.t.All.Router.Routers, func(r router.Router) bool {
		return r.ID == id && slices.ContainsFunc(r.Interfaces, func(i router.Interface) bool {
			return slices.ContainsFunc(v.NICs, func(n topology.NIC) bool { return n.NetworkID == i.NetworkID })
		})
	})
}

// gateway reports whether an address is a router's own.
func (m *Model) gateway(a netip.Addr) bool {
	return slices.ContainsFunc(m.t.All.Router.Routers, func(r router.Router) bool {
		in := func(p netip.Prefix) bool { return p.Addr() == a }
		return r.Gateway != nil && slices.ContainsFunc(r.Gateway.Addresses, in) ||
			slices.ContainsFunc(r.Interfaces, func(i router.Interface) bool { return slices.ContainsFunc(i.Addresses, in) })
	})
}

// machine is the name of the machine that has a port; of a station or router
// its own.
func (m *Model) machine(id string) string {
	for _, v := range m.t.VMs {
		for _, n := range v.NICs {
			if n.PortID == id {
				return v.Name
			}
		}
	}
	return id
}

// packet is a probe as the machine sends it.
func (m *Model) packet(from string, p vm.Probe) (reach.Packet, error) {
	k := reach.Packet{From: from, Dst: p.Dst, SrcPort: 40000, DstPort: p.Port}
	switch {
	case p.Proto == "tcp":
		k.Proto = reach.TCP
	case p.Proto == "udp":
		k.Proto = reach.UDP
	case p.Dst.Is6():
		k.Proto, k.ICMPType, k.SrcPort = reach.ICMPv6, 128, 0
	default:
		k.Proto, k.ICMPType, k.SrcPort = reach.ICMP, 8, 0
	}
	v := m.t.VM(from)
	if v == nil {
		if m.outside(from) == nil {
			return k, fmt.Errorf("there is no machine %q", from)
		}
		return k, nil
	}
	n := m.nic(v, p.Dst)
	if n == nil {
		return k, fmt.Errorf("%s has no route to %s", from, p.Dst)
	}
	k.From = n.PortID
	return k, nil
}

// nic is the interface a server uses for an address: one on its subnet, else
// the first with a gateway.
func (m *Model) nic(v *topology.VM, dst netip.Addr) *topology.NIC {
	for _, onLink := range []bool{true, false} {
		for i := range v.NICs {
			n := &v.NICs[i]
			for _, s := range m.t.Network(n.NetworkID).Subnets {
				has := slices.ContainsFunc(n.IPs, s.CIDR.Contains)
				if onLink && has && s.CIDR.Contains(dst) || !onLink && has && s.CIDR.Addr().Is4() == dst.Is4() && s.Gateway.IsValid() && m.served(n.NetworkID, s) {
					return n
				}
			}
		}
	}
	return nil
}

// served reports whether servers of the subnet are told its gateway: somebody
// has to be there.
func (m *Model) served(network string, s overlay.Subnet) bool {
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

// Explain goes the way of a packet and of its answer. to is an address or the
// name of a machine.
func (m *Model) Explain(from, to string, p vm.Probe) (vnet.Explanation, error) {
	if !p.Dst.IsValid() {
		a, err := m.Address(from, to)
		if err != nil {
			return vnet.Explanation{}, err
		}
		p.Dst = a
	}
	e := vnet.Explanation{Text: fmt.Sprintf("%s from %s", p, from)}
	k, err := m.packet(from, p)
	if err != nil {
		if m.t.VM(from) == nil {
			return e, err
		}
		e.Add("dropped: " + err.Error())
		return e, nil
	}
	there, back, ok := m.m.Connect(k)
	e.Of = append(e.Of, there.Explain())
	if there.OK() {
		x := back.Explain()
		x.Text = "the answer " + x.Text
		if ok {
			x.Text = "the answer of " + m.machine(there.Arrivals[0].ID) + " comes back"
		}
		e.Of = append(e.Of, x)
	}
	return e, nil
}

// Address reads an address, or finds that of a machine: on a network both
// are on if there is one.
func (m *Model) Address(from, to string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(to); err == nil {
		return a.Unmap(), nil
	}
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

// Judge is a port whose rules decide over a packet, and the packet as they see it.
type Judge struct {
	PortID string
	Host   string
	Packet secgroup.Packet
}

// Judges are the ports whose rules decide over a probe, as far as it comes:
// what a backend can be asked about, beside the model.
func (m *Model) Judges(from string, p vm.Probe) []Judge {
	k, err := m.packet(from, p)
	if err != nil {
		return nil
	}
	there := m.m.Send(k)
	var out []Judge
	add := func(port string, d secgroup.Direction, remote netip.Addr, dstPort uint16) {
		sel := dstPort
		if p.Proto == "icmp" {
			sel = uint16(k.ICMPType) << 8
		}
		for _, x := range m.t.All.Overlay.Ports {
			if x.ID == port && x.Filtered {
				out = append(out, Judge{port, x.Host, secgroup.Packet{Direction: d, Remote: remote, Protocol: k.Proto, Selector: sel}})
			}
		}
	}
	add(k.From, secgroup.Egress, p.Dst, p.Port)
	routed := slices.ContainsFunc(there.Walk, func(s reach.Step) bool { return s.Stage == "router" })
	for _, a := range there.Arrivals {
		if a.Kind == "port" {
			add(a.ID, secgroup.Ingress, a.Packet.Src, a.Packet.DstPort)
		}
	}
	for _, d := range there.Drops {
		// Behind a router its source may be another, which a dropped packet does not tell.
		if port, ok := strings.CutPrefix(d.Object, "port "); ok && d.Stage == "ingress rules" && !routed {
			for _, v := range m.t.VMs {
				for _, n := range v.NICs {
					for _, a := range n.IPs {
						if n.PortID == k.From && a.Is4() == p.Dst.Is4() {
							add(port, secgroup.Ingress, a, p.Port)
							return out
						}
					}
				}
			}
		}
	}
	return out
}
