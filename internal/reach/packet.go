package reach

import (
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// IP protocol numbers that mean something here.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Packet is one packet from a port or station.
type Packet struct {
	From string // id of a port or station
	// SrcMAC zero: the sender's own. DstMAC zero: what the sender's routes and
	// neighbours say; else the frame goes there, whatever its addresses are.
	SrcMAC, DstMAC   vnet.MAC
	Src, Dst         netip.Addr // Src zero: the sender's first address of that family
	Proto            uint8
	SrcPort, DstPort uint16
	ICMPType         uint8
	ICMPCode         uint8
	TTL              uint8 // zero: 64
	// Middle: a TCP segment that is no SYN, as from the middle of a stream.
	Middle bool
	// About is, of an ICMP error, the packet that it is about.
	About *Packet
	// EtherType makes it a frame that is neither IP nor ARP, 0x8100 for one with
	// an 802.1Q tag; only the MACs count, and DstMAC is needed.
	EtherType uint16
	// ARP makes it an ARP packet; only the MACs and ARP count.
	ARP *ARP
	// Target of a neighbour solicitation or advertisement (ICMPv6 135, 136).
	Target netip.Addr
}

// isIP reports whether k has IP addresses that count.
func (k Packet) isIP() bool { return k.ARP == nil && k.EtherType == 0 }

// opens reports whether k can be the first packet of a connection: TCP opens
// by SYN (RFC 9293, 3.5), ICMP by queries (RFC 792, RFC 950; RFC 4443), the rest
// by any packet. What opens none and is of none is invalid.
func (k Packet) opens() bool {
	switch {
	case k.Proto == TCP:
		return !k.Middle
	case k.Proto == ICMP && k.Dst.Is4():
		return k.ICMPType == 8 || k.ICMPType == 13 || k.ICMPType == 15 || k.ICMPType == 17
	case k.Proto == ICMPv6 && k.Dst.Is6():
		return k.ICMPType == 128 || k.ICMPType == 139
	}
	return true
}

// ARP is the sender of an ARP packet.
type ARP struct {
	SenderMAC vnet.MAC
	SenderIP  netip.Addr
}

func (p Packet) String() string {
	if p.ARP != nil {
		return fmt.Sprintf("%s: arp from %s %s", p.From, p.ARP.SenderMAC, p.ARP.SenderIP)
	}
	if p.EtherType != 0 {
		return fmt.Sprintf("%s: ethertype %#04x to %s", p.From, p.EtherType, p.DstMAC)
	}
	s := fmt.Sprintf("%s: %s > %s", p.From, p.Src, p.Dst)
	switch p.Proto {
	case TCP:
		s += fmt.Sprintf(" tcp %d>%d", p.SrcPort, p.DstPort)
	case UDP:
		s += fmt.Sprintf(" udp %d>%d", p.SrcPort, p.DstPort)
	case ICMP, ICMPv6:
		s += fmt.Sprintf(" icmp %d/%d", p.ICMPType, p.ICMPCode)
	default:
		s += fmt.Sprintf(" proto %d", p.Proto)
	}
	if p.About != nil {
		s += fmt.Sprintf(" about %s > %s", p.About.Src, p.About.Dst)
	}
	if !p.DstMAC.IsZero() {
		s += " to " + p.DstMAC.String()
	}
	return s
}

// Arrival is where a packet comes out and how it looks there.
type Arrival struct {
	Kind   string // "port", "station", "router" (an address of its own), "metadata"
	ID     string
	Packet Packet // with the addresses, ports, MACs and TTL it arrives with
	// AnySrcPort: the source port was translated and may be another one.
	AnySrcPort bool
	// Foreign: the destination is no address of the machine that got it; there
	// will be no answer.
	Foreign bool
	// Flooded: nobody was known by the destination MAC, so everybody hears the
	// frame, as far as the network floods. It is Foreign to all of them.
	Flooded bool
}

// Drop is what ended a packet.
type Drop struct {
	Stage  string // "sender", "port security", "egress rules", "network", "router", "ingress rules"
	Object string // "port p1", "network n", "router r"
	Reason string
}

func (d Drop) String() string { return d.Stage + " of " + d.Object + ": " + d.Reason }

// Step is one station of a packet's way.
type Step struct {
	Stage, Object, Text string
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Arrivals []Arrival // none: dropped. Several: broadcast or multicast
	Drops    []Drop    // why it does not arrive (everywhere)
	Walk     []Step

	conn *conn
	m    *Model
}

// OK reports whether the packet arrives at all.
func (v Verdict) OK() bool { return len(v.Arrivals) > 0 }

// Why is the first reason for which it does not arrive, or the rule that let it
// in last.
func (v Verdict) Why() string {
	if !v.OK() && len(v.Drops) > 0 {
		return v.Drops[0].String()
	}
	for i := len(v.Walk) - 1; i >= 0; i-- {
		if v.Walk[i].Stage == "ingress rules" || v.Walk[i].Stage == "egress rules" {
			return v.Walk[i].Stage + " of " + v.Walk[i].Object + ": " + v.Walk[i].Text
		}
	}
	return "nothing filters it"
}

// Explain is the packet's way as a tree.
func (v Verdict) Explain() vnet.Explanation {
	x := vnet.Explanation{Text: "dropped"}
	if v.OK() {
		a := v.Arrivals[0]
		x.Text = fmt.Sprintf("arrives at %s %s as %s > %s", a.Kind, a.ID, a.Packet.Src, a.Packet.Dst)
	}
	for _, s := range v.Walk {
		x.Add(s.Stage + ", " + s.Object + ": " + s.Text)
	}
	for _, d := range v.Drops {
		x.Add("dropped by " + d.String())
	}
	return x
}

// tuple is what identifies a packet of a connection at one place.
type tuple struct {
	src, dst         netip.Addr
	proto            uint8
	srcPort, dstPort uint16
}

func (p Packet) tuple() tuple {
	t := tuple{p.Src, p.Dst, p.Proto, p.SrcPort, p.DstPort}
	if p.Proto == ICMP || p.Proto == ICMPv6 {
		t.srcPort, t.dstPort = 0, 0
	}
	return t
}

// answers reports whether k is a reply to a packet seen as t, or an ICMP error
// about it.
func (k Packet) answers(t tuple) bool {
	if k.About != nil {
		return k.About.tuple() == t
	}
	return k.tuple() == t.reversed()
}

func (t tuple) reversed() tuple { return tuple{t.dst, t.src, t.proto, t.dstPort, t.srcPort} }

// conn is what ports and routers remember of a connection.
type conn struct {
	ports   map[string]seen  // by port id and direction
	routers map[string]xlate // by router id
}

// seen is the first packet as it passed a port.
type seen struct {
	t         tuple
	stateless bool // let through by a stateless rule: no connection here
}

// xlate is a router's translation: the tuple as it came and as it went.
type xlate struct{ in, out tuple }
