package overlay

import (
	"net/netip"
)

// SegmentType is how frames of a network travel between hosts.
type SegmentType string

// The segment types.
const (
	Local  SegmentType = "local"  // never leaves the host
	Flat   SegmentType = "flat"   // untagged on a physical network
	VLAN   SegmentType = "vlan"   // IEEE 802.1Q on a physical network
	VXLAN  SegmentType = "vxlan"  // RFC 7348, over the host's underlay address
	Geneve SegmentType = "geneve" // RFC 8926
)

// Segment is a network's place in the underlay.
type Segment struct {
	Type SegmentType `json:"type"`
	// PhysicalNetwork names, for Flat and VLAN, the physical network; each
	// host maps the name to a device or bridge of its own.
	PhysicalNetwork string `json:"physical_network,omitempty"`
	// ID is the VLAN id (1 to 4094) or VNI (1 to 16777215). Zero for Local and Flat.
	ID uint32 `json:"id,omitempty"`
}

// Subnet is a range of addresses used on a network. Overlay backends do not
// need it to carry frames; DHCP, routers and the model do.
type Subnet struct {
	ID      string       `json:"id"`
	CIDR    netip.Prefix `json:"cidr"`
	Gateway netip.Addr   `json:"gateway"` // zero: none
}

// Flooding says which frames without a known destination cross tunnels
// (VXLAN, Geneve). Known remote ports are reached by unicast and their ARP
// and ND are answered on the host, so neither broadcast nor unknown unicast
// needs to cross; multicast does by default (router advertisements, MLD).
// Frames that may cross go to every host that has a port of the network
// (head-end replication). Segments of other types flood as Ethernet does.
type Flooding struct {
	Broadcast      bool `json:"broadcast,omitempty"`       // ARP included: then unknown addresses can be found, and gratuitous ARP heard, across hosts
	UnknownUnicast bool `json:"unknown_unicast,omitempty"` // and learn where MACs are
	NoMulticast    bool `json:"no_multicast,omitempty"`
}

// Network is one broadcast domain.
type Network struct {
	ID      string  `json:"id"`
	Segment Segment `json:"segment"`
	// MTU is the largest IP packet in bytes, 1280 to 65535 when the network has
	// IPv6 subnets, 68 otherwise. Zero: computed by the backend from the
	// underlay and the encapsulation (see [Overhead]).
	MTU       int      `json:"mtu,omitempty"`
	Subnets   []Subnet `json:"subnets,omitempty"`
	Flooding  Flooding `json:"flooding"`
	AdminDown bool     `json:"admin_down,omitempty"` // no frame is carried
}

// Port is a place on a network where one device is plugged.
type Port struct {
	ID        string       `json:"id"`
	NetworkID string       `json:"network_id"`
	MAC       MAC          `json:"mac"`
	FixedIPs  []netip.Addr `json:"fixed_ips,omitempty"` // v4 and v6, each in a subnet of the network
	AdminDown bool         `json:"admin_down,omitempty"`
	// Filtered: the port is born closed. From plugging on nothing passes in
	// either direction until package secgroup has filled in what may pass.
	Filtered bool `json:"filtered,omitempty"`
	// Host is where the port's device is or will be, by the platform's name of
	// the host. A per-host backend ignores ports of other hosts. Empty: here.
	Host string `json:"host,omitempty"`
}

// RemotePort tells a per-host backend of a port that is plugged on another
// host, so that frames to it need no flooding. Central backends do not need it.
type RemotePort struct {
	ID        string       `json:"id"`
	NetworkID string       `json:"network_id"`
	MAC       MAC          `json:"mac"`
	IPs       []netip.Addr `json:"ips,omitempty"` // ARP and ND for these are answered here
	Endpoint  netip.Addr   `json:"endpoint"`      // underlay address of the other host's tunnel end
}

// State is the whole desired state of the overlay as one backend sees it.
type State struct {
	Networks    []Network    `json:"networks"`
	Ports       []Port       `json:"ports"`
	RemotePorts []RemotePort `json:"remote_ports,omitempty"`
}
