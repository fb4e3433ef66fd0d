package secgroup

import (
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Direction of traffic as the port's owner sees it.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress" // to the port
	Egress  Direction = "egress"  // from the port
)

// Ethertype is the IP version a rule is about.
type Ethertype string

// The ethertypes.
const (
	IPv4 Ethertype = "IPv4"
	IPv6 Ethertype = "IPv6"
)

// Group is a set of rules that allow. What no rule of any of a port's groups
// allows is dropped; a port with port security and no groups is closed.
type Group struct {
	ID string `json:"id"`
	// Stateless groups allow packets, not connections: replies need rules of
	// their own. A port may have stateful and stateless groups; rules of the
	// stateless ones then match each packet by itself.
	Stateless bool   `json:"stateless,omitempty"`
	Rules     []Rule `json:"rules,omitempty"`
}

// Rule allows some traffic. At most one of RemotePrefix, RemoteGroup and
// RemoteAddressGroup is set; none means any address.
type Rule struct {
	ID        string    `json:"id"` // unique in the group
	Direction Direction `json:"direction"`
	Ethertype Ethertype `json:"ethertype"`
	// Protocol is empty (any), a name of Neutron's API (tcp, udp, icmp, icmpv6,
	// sctp, ...) or a number 0 to 255. "icmp" in an IPv6 rule means ICMPv6.
	Protocol string `json:"protocol,omitempty"`
	// PortMin and PortMax bound the destination port for tcp, udp, udplite,
	// sctp and dccp; both nil: any. For ICMP PortMin is the type and PortMax the code.
	PortMin            *uint16      `json:"port_range_min,omitempty"`
	PortMax            *uint16      `json:"port_range_max,omitempty"`
	RemotePrefix       netip.Prefix `json:"remote_ip_prefix"`
	RemoteGroup        string       `json:"remote_group_id,omitempty"` // addresses of the ports in that group
	RemoteAddressGroup string       `json:"remote_address_group_id,omitempty"`
}

// AddressGroup is a named list of prefixes.
type AddressGroup struct {
	ID       string         `json:"id"`
	Prefixes []netip.Prefix `json:"addresses"`
}

// Port is what secgroup has to know of a port.
type Port struct {
	ID        string       `json:"id"`
	NetworkID string       `json:"network_id"`
	MAC       vnet.MAC     `json:"mac"`
	FixedIPs  []netip.Addr `json:"fixed_ips,omitempty"`
	// AllowedPairs are further addresses the port may use as its own: a prefix
	// with a MAC, or with the port's MAC when that is zero. They are also
	// addresses of the port for RemoteGroup.
	AllowedPairs []AddressPair `json:"allowed_address_pairs,omitempty"`
	Groups       []string      `json:"security_groups,omitempty"`
	// DisablePortSecurity: anything passes, and Groups must be empty.
	DisablePortSecurity bool `json:"disable_port_security,omitempty"`
	// Host is where the port is. A per-host backend enforces only ports of its
	// own host; others count as members of their groups. Empty: here.
	Host string `json:"host,omitempty"`
}

// AddressPair is an address or prefix with a MAC.
type AddressPair struct {
	MAC    vnet.MAC     `json:"mac_address"`
	Prefix netip.Prefix `json:"ip_address"`
}

// State is the whole desired state of security groups as one backend sees it.
type State struct {
	Groups        []Group        `json:"groups"`
	AddressGroups []AddressGroup `json:"address_groups,omitempty"`
	Ports         []Port         `json:"ports"`
}
