package rtnl

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/vnet-go/vnet"
)

// What links are made of: the library's types, for [Conn.AddLink].
type (
	Spec      = netlink.Link
	LinkAttrs = netlink.LinkAttrs
	Bridge    = netlink.Bridge
	Veth      = netlink.Veth
	Vxlan     = netlink.Vxlan
	Vlan      = netlink.Vlan
	Tuntap    = netlink.Tuntap
	Dummy     = netlink.Dummy
)

// Link is a device as it stands.
type Link struct {
	Index    int
	Name     string
	AltNames []string
	Alias    string
	Kind     string // "bridge", "veth", "vxlan", "vlan", "tun", ...; "" for hardware and loopback
	MAC      vnet.MAC
	MTU      int
	Master   int  // index of the bridge it is a port of; 0: none
	Peer     int  // veth: index of the other end; vlan: of the parent; 0: none
	PeerNS   int  // namespace id of Peer; -1: this namespace
	Up       bool // set up by the administrator
	Running  bool // and carries
	Port     *Port
	VXLAN    *VXLAN
	VLAN     int // VLAN id of a vlan device
	Promisc  bool
	TxQueues int
}

// Port is what a bridge does with one of its ports. In [Conn.SetPort] every
// field is written that differs from what stands.
type Port struct {
	Flood         bool // unknown unicast is sent out here
	BcastFlood    bool
	McastFlood    bool
	Learning      bool
	NeighSuppress bool // ARP and ND that the bridge can answer are not sent out here
	Isolated      bool
	Hairpin       bool
}

// DefaultPort is what a bridge gives a new port.
func DefaultPort() Port { return Port{Flood: true, BcastFlood: true, McastFlood: true, Learning: true} }

// VXLAN is what a vxlan device is made of.
type VXLAN struct {
	VNI      uint32
	Local    netip.Addr
	Port     uint16 // UDP destination
	Learning bool
	External bool
}

// Addr is an address of a device.
type Addr struct {
	Prefix   netip.Prefix // address with its length
	NoDAD    bool         // IPv6: no duplicate address detection
	NoPrefix bool         // no route for the prefix
	Peer     netip.Prefix // point to point; zero: none
	Scope    Scope
	Index    int // of the device, as read
}

// Scope is the scope of an address or route (RT_SCOPE_*).
type Scope uint8

// The scopes.
const (
	ScopeGlobal Scope = 0
	ScopeLink   Scope = 253
	ScopeHost   Scope = 254
)

// RouteType is what a route does.
type RouteType uint8

// The route types (RTN_*). The zero value is unicast.
const (
	Unicast     RouteType = 1
	Local       RouteType = 2
	Blackhole   RouteType = 6
	Unreachable RouteType = 7
	Prohibit    RouteType = 8
)

// Protocol values below 5 belong to the kernel and administrators; routes made
// by this module carry ProtoVnet, so they can be told from others.
const (
	ProtoKernel uint8 = 2
	ProtoBoot   uint8 = 3
	ProtoStatic uint8 = 4
	ProtoRA     uint8 = 9
	ProtoVnet   uint8 = 77
)

// Route is a route.
type Route struct {
	Dst      netip.Prefix // 0.0.0.0/0 or ::/0 for the default
	Via      netip.Addr   // zero: on link
	Dev      string       // device name; empty for blackhole and the like, or when Via decides
	Src      netip.Addr   // preferred source; zero: none
	Table    int          // zero: main (254)
	Metric   int
	Type     RouteType // zero: unicast
	Protocol uint8     // zero: ProtoVnet when adding
	Scope    Scope
	OnLink   bool // Via is taken to be on Dev without a route to it
	// More are the further next hops of a multipath route, all with the same
	// weight; Via and Dev are the first.
	More []Hop
}

// Hop is a next hop, by a device; empty: the routes to Via decide.
type Hop struct {
	Via netip.Addr
	Dev string
}

// Rule is a policy routing rule.
type Rule struct {
	Family   int // 4 or 6
	Priority int
	IIf, OIf string
	Src, Dst netip.Prefix // zero: any
	Mark     uint32
	Mask     uint32
	Table    int
	Protocol uint8
}

// Neigh is an entry of the ARP or ND table.
type Neigh struct {
	Dev   string
	IP    netip.Addr
	MAC   vnet.MAC // zero for a proxy entry
	State NeighState
	Proxy bool
}

// NeighState is a neighbour's state (NUD_*).
type NeighState uint16

// The states.
const (
	Reachable NeighState = 0x02
	Stale     NeighState = 0x04
	NoARP     NeighState = 0x40
	Permanent NeighState = 0x80
)

// FDB is a forwarding entry: of a bridge's port (Master), or of a vxlan device
// itself (Dst set).
type FDB struct {
	Dev    string
	MAC    vnet.MAC
	Dst    netip.Addr // vxlan: where frames to MAC go
	Master bool       // in the bridge's table, for port Dev
	State  NeighState
	// Sticky, of a Master entry that is not Permanent: hearing the MAC on another
	// port does not move it.
	Sticky bool
	// As read: the device's index, and whether a control plane said so.
	Index      int
	ExtLearned bool
}

// LinkEvent is a change of a device.
type LinkEvent struct {
	Link Link
	Gone bool
	// Resync: events were lost; look at all links again. Link is empty.
	Resync bool
}

// Flow is one connection as the kernel tracks it.
type Flow struct {
	Zone    uint16
	Proto   uint8
	Orig    Tuple
	Reply   Tuple
	Mark    uint32
	Status  uint32 // IPS_* bits
	Timeout uint32 // seconds

	family uint8
	orig   []byte // CTA_TUPLE_ORIG as read
	id     []byte
}

// Tuple is one direction of a flow. For ICMP SrcPort is the id and DstPort is
// type<<8 | code.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}
