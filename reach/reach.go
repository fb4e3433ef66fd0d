// Package reach is the judge, for applications: given the desired state and a
// packet, where does it arrive and with which addresses, or what drops it and
// by which rule? It is a model in plain Go, with no platform behind it: ask it
// before changing anything, show its answer to a user who asks why, or compare
// what is seen with it, as the conformance suites and examples/cloud do.
//
// What it assumes and how it reads the state is in [New]'s World and the
// contracts' comments: machines are hosts that use their subnets' gateways,
// routers translate as package linuxrouter says, security groups allow
// connections, and stateless ones packets.
package reach

import (
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/reach"
)

type (
	// World is a desired state of the whole cloud, and what is around it.
	World = reach.World
	// Station is a machine on a network that no backend manages.
	Station = reach.Station
	// Holder says which port answers for an address that several may use.
	Holder = reach.Holder
	// Packet is one packet from a port or station.
	Packet = reach.Packet
	// ARP is the sender of an ARP packet.
	ARP = reach.ARP
	// Verdict is what becomes of a packet.
	Verdict = reach.Verdict
	// Arrival is where a packet comes out and how it looks there.
	Arrival = reach.Arrival
	// Drop is what ended a packet.
	Drop = reach.Drop
	// Step is one station of a packet's way.
	Step = reach.Step
	// Probe is what Matrix sends.
	Probe = reach.Probe
	// Cell says whether one machine reaches an address of another.
	Cell = reach.Cell
)

// IP protocol numbers, for Packet.Proto.
const (
	ICMP   = reach.ICMP
	TCP    = reach.TCP
	UDP    = reach.UDP
	ICMPv6 = reach.ICMPv6
)

// Model answers questions about a World. It is immutable and may be used from
// several goroutines.
type Model struct{ m *reach.Model }

// New returns the model of w, or what is wrong with w as
// [*vnet.FieldError]s.
func New(w World) (*Model, error) {
	m, err := reach.New(w)
	if err != nil {
		return nil, err
	}
	return &Model{m}, nil
}

// Send says what becomes of the first packet of a connection.
func (m *Model) Send(k Packet) Verdict { return m.m.Send(k) }

// Connect says whether a connection comes about: the packet arrives, and its
// answer comes back from the address it was sent to.
func (m *Model) Connect(k Packet) (there, back Verdict, ok bool) { return m.m.Connect(k) }

// Matrix is the reach of every port and station to every address of every
// other, and to all floating IPs, for each of the probes.
func (m *Model) Matrix(probes ...Probe) []Cell { return m.m.Matrix(probes...) }

// Route is what a port's machine or a station does with a destination: the
// neighbour it hands packets to, which is dst itself when that is on-link, and
// the address it sends from. [vnet.ErrNotFound] is for an unknown sender.
func (m *Model) Route(from string, dst netip.Addr) (hop, source netip.Addr, err error) {
	return m.m.Route(from, dst)
}

// Explain is the packet's way, stage by stage, with the rules that decided.
func (m *Model) Explain(k Packet) vnet.Explanation { return m.m.Send(k).Explain() }
