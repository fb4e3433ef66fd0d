package router

import (
	"net/netip"
	"time"

	"github.com/vnet-go/vnet"
)

// Router joins networks at layer 3.
type Router struct {
	ID         string      `json:"id"`
	Interfaces []Interface `json:"interfaces,omitempty"`
	Gateway    *Gateway    `json:"gateway,omitempty"`
	Routes     []Route     `json:"routes,omitempty"` // extra routes; next hops on an attached network
	AdminDown  bool        `json:"admin_down,omitempty"`
	// Host is where a per-host platform runs the router; others ignore it
	// there. Empty: here. Central platforms schedule by themselves.
	Host string `json:"host,omitempty"`
}

// Interface is a router's port on an internal network.
type Interface struct {
	PortID    string         `json:"port_id"` // unique among all ports
	NetworkID string         `json:"network_id"`
	MAC       vnet.MAC       `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`     // the router's own address with the subnet's length, e.g. 10.0.0.1/24; v4 and v6, several of each
	MTU       int            `json:"mtu,omitempty"` // bytes; zero: the network device's
	RA        *RA            `json:"ra,omitempty"`  // nil: no router advertisements
}

// Gateway is a router's port on an external network.
type Gateway struct {
	PortID    string         `json:"port_id"`
	NetworkID string         `json:"network_id"`
	MAC       vnet.MAC       `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`
	NextHops  []netip.Addr   `json:"next_hops,omitempty"` // default routes, at most one per family; empty: only on-link
	// DisableSNAT leaves the source address of IPv4 packets leaving by the
	// gateway as it is. Otherwise it becomes the gateway's first IPv4 address.
	// IPv6 is never translated.
	DisableSNAT bool `json:"disable_snat,omitempty"`
	MTU         int  `json:"mtu,omitempty"`
	// Hosts are those that the gateway may run on, by name as in Port.Host, the
	// one to prefer first: the others stand by and take over in this order.
	// Empty: a central platform chooses, and keeps to its choice. Per-host
	// platforms run the gateway where the router is (Router.Host); of those,
	// Open vSwitch's takes several hosts in place of that one, and finds out on
	// each host which is there.
	Hosts []string `json:"hosts,omitempty"`
}

// RAMode is how hosts of a network get IPv6 addresses; the values are Neutron's ipv6_ra_mode.
type RAMode string

// The modes, and the M, O and A flags they set (RFC 4861, sections 4.2 and 4.6.2).
const (
	SLAAC           RAMode = "slaac"            // M=0 O=0 A=1
	DHCPv6Stateless RAMode = "dhcpv6-stateless" // M=0 O=1 A=1
	DHCPv6Stateful  RAMode = "dhcpv6-stateful"  // M=1 O=0 A=0
)

// RA configures the router advertisements on an interface (RFC 4861). The
// prefixes announced are those of the interface's IPv6 addresses.
type RA struct {
	Mode  RAMode       `json:"mode"`
	MTU   int          `json:"mtu,omitempty"`   // bytes; zero: not announced
	RDNSS []netip.Addr `json:"rdnss,omitempty"` // RFC 8106
	DNSSL []string     `json:"dnssl,omitempty"` // RFC 8106
	// Interval is the longest time between unsolicited advertisements, 4 s to
	// 1800 s; zero: 600 s. Router lifetime is three times that.
	Interval time.Duration `json:"interval,omitempty"`
}

// Route is a static route. Several with the same destination are one
// multipath route.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	NextHop     netip.Addr   `json:"nexthop"`
}

// FloatingIP maps an address of the router's external network one to one to
// a fixed IPv4 address behind the router, in both directions.
type FloatingIP struct {
	ID         string     `json:"id"`
	RouterID   string     `json:"router_id"`
	FloatingIP netip.Addr `json:"floating_ip"`
	FixedIP    netip.Addr `json:"fixed_ip"`
	// PortID and ExternalMAC are for platforms that translate on the host of
	// the port (OVN distributed NAT, OVS); others ignore them.
	PortID      string   `json:"port_id,omitempty"`
	ExternalMAC vnet.MAC `json:"external_mac"`
}

// PortForward maps a range of TCP or UDP ports of an external address to an
// internal one. Ranges are of equal size; the n-th external port goes to the
// n-th internal one.
type PortForward struct {
	ID           string     `json:"id"`
	RouterID     string     `json:"router_id"`
	Protocol     string     `json:"protocol"` // "tcp" or "udp"
	ExternalIP   netip.Addr `json:"external_ip"`
	ExternalPort PortRange  `json:"external_port"`
	InternalIP   netip.Addr `json:"internal_ip"`
	InternalPort PortRange  `json:"internal_port"`
}

// PortRange is first to last, both included; Last zero means First.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last,omitempty"`
}

// State is the whole desired state of routing as one backend sees it.
type State struct {
	Routers      []Router      `json:"routers"`
	FloatingIPs  []FloatingIP  `json:"floating_ips,omitempty"`
	PortForwards []PortForward `json:"port_forwards,omitempty"`
}
