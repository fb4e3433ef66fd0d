package reach

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Probe is what a [Model.Matrix] sends.
type Probe struct {
	Proto uint8  // ICMP is an echo request of either IP version
	Port  uint16 // destination port of TCP and UDP
}

// Cell says whether one machine reaches an address of another.
type Cell struct {
	From, To string // ids: a port or station; of To also a floating IP
	Addr     netip.Addr
	Probe    Probe
	OK       bool   // an answer comes back, and it is To's
	Who      string // who answers, if anybody; not To where several have the address
	Why      string // the rule that let it in last, or what dropped it or its answer
}

// Matrix is the reach of every port and station to every address of every
// other, and to all floating IPs, their own too. Cells are in the order of
// senders, then of addresses, then of probes; addresses of an IP version that
// the sender has no address of are left out.
func (m *Model) Matrix(probes ...Probe) []Cell {
	type target struct {
		id   string
		addr netip.Addr
		port bool
	}
	var senders []string
	var targets []target
	for _, p := range m.w.Overlay.Ports {
		senders = append(senders, p.ID)
		for _, a := range m.answers(&p) {
			targets = append(targets, target{p.ID, a, true})
		}
	}
	for _, s := range m.w.Stations {
		senders = append(senders, s.ID)
		for _, a := range s.Addresses {
			targets = append(targets, target{s.ID, a.Addr(), true})
		}
	}
	for _, f := range m.w.Router.FloatingIPs {
		targets = append(targets, target{f.ID, f.FloatingIP, false})
	}
	var out []Cell
	for _, from := range senders {
		x, _ := m.sender(from)
		for _, to := range targets {
			if to.port && to.id == from || !x.hasFamily(to.addr) {
				continue
			}
			for _, p := range probes {
				out = append(out, m.cell(from, to.id, to.addr, to.port, p))
			}
		}
	}
	return out
}

func (m *Model) cell(from, to string, addr netip.Addr, named bool, p Probe) Cell {
	c := Cell{From: from, To: to, Addr: addr, Probe: p}
	k := Packet{From: from, Dst: addr, Proto: p.Proto}
	switch {
	case p.Proto != ICMP && p.Proto != ICMPv6:
		k.SrcPort, k.DstPort = 40000, p.Port
	case addr.Is6():
		k.Proto, k.ICMPType = ICMPv6, 128
	default:
		k.Proto, k.ICMPType = ICMP, 8
	}
	there, back, ok := m.Connect(k)
	c.Why = there.Why()
	switch {
	case ok:
		c.Who = there.Arrivals[0].ID
		c.OK = !named || c.Who == to
	case there.OK():
		c.Why = "no answer: " + back.Why()
	}
	return c
}

func (x machine) hasFamily(a netip.Addr) bool {
	for _, b := range x.ips {
		if b.Is4() == a.Is4() {
			return true
		}
	}
	return false
}

// Route is what a port's machine or a station does with a destination: the
// neighbour it hands packets to, which is dst itself when that is on-link, and
// the address it sends from. [vnet.ErrNotFound] is for an unknown sender; it is
// another error when there is no route.
func (m *Model) Route(from string, dst netip.Addr) (hop, source netip.Addr, err error) {
	x, ok := m.sender(from)
	if !ok {
		return hop, source, fmt.Errorf("port or station %q: %w", from, vnet.ErrNotFound)
	}
	if m.service(m.nets[x.network], dst) {
		return dst, x.source(dst), nil
	}
	if hop, ok = x.next(dst); !ok {
		return hop, source, errors.New(x.name() + " has no route to " + dst.String())
	}
	return hop, x.source(dst), nil
}
