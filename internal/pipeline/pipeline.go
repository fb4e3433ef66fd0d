// Package pipeline names the OpenFlow tables, registers, flags and conntrack
// zones of a bridge that package ovs drives: who fills which table, and what
// the parts tell each other in registers. It is a page, and no code.
package pipeline

import (
	"fmt"
	"math/bits"

	"github.com/vnet-go/vnet"
)

// The tables. What fills one sends packets on to the next by itself; a stage
// that nobody fills passes.
const (
	Classify        = 0
	Gate            = 1
	PortSecurity    = 10 // to 16: secgroup, from a port
	Commit          = 15 // subroutine
	DHCP            = 20
	Metadata        = 21 // to 24
	MetadataAnswers = 22
	Responder       = 30
	RouterLocal     = 31
	Answer          = 32 // the second half of an answer to a solicitation
	RouterAdmission = 40 // to 58: router
	Neighbours      = 59 // subroutine
	L2              = 60
	Flood           = 61 // to 63
	ToPort          = 70 // to 74: secgroup, to a port
	Deliver         = 80
	Registry        = 253 // the last that flows may be in
)

// Flags in register 0.
const (
	Filtered    = 1 << 0 // the port it came from wants filtering
	FromTunnel  = 1 << 1
	FromWire    = 1 << 2 // of a physical network
	Routed      = 1 << 3
	OutFiltered = 1 << 4 // the port it goes to wants filtering
	New         = 1 << 5 // a connection that was let through and is not committed
	Resolved    = 1 << 6 // Neighbours has set the destination's MAC
	Hop4        = 1 << 7 // the next hop is an IPv4 address, in register 8
)

// Registers.
const (
	RegFlags   = 0 // bits 8-15 are secgroup's while it is at work, 16-31 router's
	RegNetwork = 1 // number of the network, which is its conntrack zone
	RegIn      = 2 // number of the port it came from; 0: none of this host
	RegOut     = 3 // number of the port it goes to
	RegRouter  = 4
	RegHop     = 8 // and 9 to 11 for IPv6 (xxreg2)
)

// How many there can be of what has numbers, from 1 on.
const (
	Ports    = 0x7fff
	Networks = 0x3fff
	Routers  = 0x1fff
	Patches  = 1000
)

// OpenFlow ports that are not machines'.
const (
	VXLANPort  = 40000
	GenevePort = 40001
	PatchPort  = 41000 // and on, one for each physical network
	ProbePort  = 45000 // and on, one for each host that is watched
)

// Meters, four each: egress by kbit/s and by packets, ingress by both.
const (
	MeterOfPort     = 0                               // and four times the number of the port
	MeterOfGateway  = MeterOfPort + 4*(Ports+1)       // and four times the number of the router
	MeterOfFloating = MeterOfGateway + 4*(Routers+1)  // and four times a number of the floating IP
	FloatingMeters  = (200_000 - MeterOfFloating) / 4 // the kernel's datapath has 200,000 meters at most
)

// Zones of conntrack. 0 is the host's own.
func ZoneOfNetwork(n uint16) uint16 { return n }

// ZonesOfRouter are the one that translates destinations, and that which translates sources.
func ZonesOfRouter(n uint16) (dnat, snat uint16) { return 0x4000 + 2*n, 0x4000 + 2*n + 1 }

// ZoneOfPort is for what is between a port and this host's servers.
func ZoneOfPort(n uint16) uint16 { return 0x8000 + n }

// Table is a line of the page.
type Table struct {
	First, Last uint8
	Name        string
	Part        vnet.Part
	Does        string
	Base        string // what becomes of a packet that no flow of the part is about
}

// Tables returns the page.
func Tables() []Table {
	return []Table{
		{0, 0, "classify", vnet.PartOverlay, "port, tunnel or wire to network (reg1), port (reg2), flags", "dropped"},
		{1, 1, "gate", vnet.PartOverlay, "networks that are down; qos: limits of what ports send, of gateways and floating IPs", "to 10"},
		{10, 14, "egress", vnet.PartSecGroup, "port security, rules of what a port sends", "dropped if the port wants filtering, else to 20"},
		{15, 15, "commit", vnet.PartSecGroup, "subroutine: whoever takes a packet out of its network lets the connection be remembered", "returns"},
		{16, 16, "egress", vnet.PartSecGroup, "as 10 to 14", "dropped"},
		{20, 20, "dhcp", vnet.PartDHCP, "DHCP of this host's ports to the server", "to 21"},
		{21, 21, "metadata", vnet.PartMetadata, "requests for metadata to this host's proxy", "to 30"},
		{22, 24, "metadata-answers", vnet.PartMetadata, "the proxy's answers", "dropped"},
		{30, 30, "responder", vnet.PartOverlay, "ARP and ND for known addresses", "to 31"},
		{31, 31, "router-local", vnet.PartRouter, "ARP and ND for routers' addresses", "to 40"},
		{32, 32, "answer", vnet.PartOverlay, "an advertisement made of a solicitation", "dropped"},
		{40, 40, "router-admission", vnet.PartRouter, "frames to routers' MACs", "to 60"},
		{41, 58, "router", vnet.PartRouter, "routes and translates", "dropped"},
		{59, 59, "neighbours", vnet.PartOverlay, "subroutine: MAC of a known next hop", "returns"},
		{60, 60, "l2", vnet.PartOverlay, "to a port, a tunnel, the wire, or flooding", "dropped"},
		{61, 63, "flood", vnet.PartOverlay, "to all of a network", "dropped"},
		{70, 70, "ingress", vnet.PartSecGroup, "what is sent to a port", "dropped if the port wants filtering, else to 80"},
		{71, 74, "ingress", vnet.PartSecGroup, "rules of what a port is sent", "dropped"},
		{80, 80, "deliver", vnet.PartOverlay, "out of the port in reg3; qos: limits of what ports are sent", "delivered"},
		{253, 253, "registry", vnet.PartHost, "never reached: what stands, in notes", "dropped"},
	}
}

// Line is a line of the page about something that has a name here.
type Line struct {
	Name string // the constant's or function's; "" where a part has it to itself
	At   string
	Does string
}

// Registers returns the page's lines about registers and connections.
func Registers() []Line {
	return []Line{
		{"RegFlags", "reg0", "flags: bits 0-7 as below, 8-15 secgroup's while it is at work, 16-31 router's"},
		{"RegNetwork", "reg1", "number of the network"},
		{"RegIn", "reg2", "number of the port of this host that it came from; 0: of none"},
		{"RegOut", "reg3", "number of the port that it goes to"},
		{"RegRouter", "reg4", "number of the router"},
		{"", "reg5-reg7", "secgroup's: the group whose rules are looked at (reg6), conjunctions"},
		{"RegHop", "reg8", "address of the next hop: IPv4 here, IPv6 in reg8-reg11 (xxreg2)"},
		{"", "reg11-reg15", "router's while it is at work"},
		{"", "ct_mark", "of a connection in a network's zone: secgroup's"},
		{"", "ct_label", "of a connection in a port's zone: metadata's"},
	}
}

// Flags returns the page's lines about register 0.
func Flags() []Line {
	bit := func(f uint) string { return fmt.Sprintf("bit %d", bits.TrailingZeros(f)) }
	return []Line{
		{"Filtered", bit(Filtered), "the port it came from wants filtering"},
		{"FromTunnel", bit(FromTunnel), "it came by a tunnel"},
		{"FromWire", bit(FromWire), "it came from a physical network"},
		{"Routed", bit(Routed), "a router of this host has sent it on"},
		{"OutFiltered", bit(OutFiltered), "the port it goes to wants filtering"},
		{"New", bit(New), "a connection that was let through and is not committed"},
		{"Resolved", bit(Resolved), "table Neighbours has set the destination's MAC"},
		{"Hop4", bit(Hop4), "the next hop is an IPv4 address"},
	}
}

// Numbers returns the page's lines about numbers, OpenFlow ports and conntrack zones.
func Numbers() []Line {
	span := func(a, b int) string { return fmt.Sprintf("%d-%d", a, b) }
	first, _ := ZonesOfRouter(1)
	_, last := ZonesOfRouter(Routers)
	return []Line{
		{"Ports", span(1, Ports), "numbers of ports of this host: register 2 and 3, and the OpenFlow port"},
		{"Networks", span(1, Networks), "numbers of networks: register 1"},
		{"Routers", span(1, Routers), "numbers of routers: register 4"},
		{"Patches", span(1, Patches), "numbers of physical networks"},
		{"VXLANPort", fmt.Sprint(VXLANPort), "OpenFlow port of all VXLAN tunnels"},
		{"GenevePort", fmt.Sprint(GenevePort), "OpenFlow port of all Geneve tunnels"},
		{"PatchPort", span(PatchPort+1, PatchPort+Patches), "OpenFlow ports of patches to physical networks"},
		{"ProbePort", fmt.Sprintf("%d and on", ProbePort), "OpenFlow ports by which hosts are watched; they carry nothing"},
		{"MeterOfPort", span(MeterOfPort+4, MeterOfGateway-1), "meters of ports, four each: what they send by kbit/s and packets, what they are sent"},
		{"MeterOfGateway", span(MeterOfGateway+4, MeterOfFloating-1), "meters of routers' gateways, four each"},
		{"MeterOfFloating", span(MeterOfFloating, 200_000-1), "meters of floating IPs, four each"},
		{"FloatingMeters", fmt.Sprint(FloatingMeters), "how many floating IPs of an owner can have limits"},
		{"ZoneOfNetwork", span(int(ZoneOfNetwork(1)), int(ZoneOfNetwork(Networks))), "zones of networks: filters"},
		{"ZonesOfRouter", span(int(first), int(last)), "zones of routers, two each: destinations, and sources, translated"},
		{"ZoneOfPort", span(int(ZoneOfPort(1)), int(ZoneOfPort(Ports))), "zones of ports: what is between them and this host's servers"},
	}
}

// MayFill reports whether a part may have flows in a table. What takes packets
// in may classify them, and qos meters where all come by.
func MayFill(part vnet.Part, table uint8) bool {
	return part == vnet.PartHost || table == Classify && part == vnet.PartMetadata ||
		(table == Gate || table == Deliver) && part == vnet.PartQoS || part != "" && part == filler(table)
}

// filler is the part of the page's line with a table; "" where there is none.
func filler(table uint8) vnet.Part {
	switch {
	case table == Classify, table == Gate, table == Responder, table == Answer, table >= Neighbours && table <= 63, table == Deliver:
		return vnet.PartOverlay
	case table >= PortSecurity && table <= 16, table >= ToPort && table <= 74:
		return vnet.PartSecGroup
	case table == DHCP:
		return vnet.PartDHCP
	case table >= Metadata && table <= 24:
		return vnet.PartMetadata
	case table == RouterLocal, table >= RouterAdmission && table < Neighbours:
		return vnet.PartRouter
	case table == Registry:
		return vnet.PartHost
	}
	return ""
}
