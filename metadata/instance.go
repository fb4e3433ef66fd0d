package metadata

import (
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Instance is what one virtual machine is told about itself. The field
// names in JSON are Nova's where Nova has them.
type Instance struct {
	UUID             string            `json:"uuid"`
	Name             string            `json:"name"`
	Hostname         string            `json:"hostname"` // with domain; empty: Name
	ProjectID        string            `json:"project_id,omitempty"`
	AvailabilityZone string            `json:"availability_zone,omitempty"`
	InstanceType     string            `json:"instance_type,omitempty"`
	ImageID          string            `json:"image_id,omitempty"`
	LaunchIndex      int               `json:"launch_index,omitempty"`
	Meta             map[string]string `json:"meta,omitempty"`
	Keys             []Key             `json:"keys,omitempty"`
	UserData         []byte            `json:"user_data,omitempty"`
	VendorData       []byte            `json:"vendor_data,omitempty"`  // a JSON document
	VendorData2      []byte            `json:"vendor_data2,omitempty"` // a JSON document
	SecurityGroups   []string          `json:"security_groups,omitempty"`
	PublicIPv4       netip.Addr        `json:"public_ipv4"`
	Files            []File            `json:"files,omitempty"`
	Interfaces       []NIC             `json:"interfaces,omitempty"` // network_data.json
	DNS              []netip.Addr      `json:"dns,omitempty"`
	// Tokens says whether this instance must, may or cannot use IMDSv2 tokens;
	// empty: as the server says.
	Tokens Tokens `json:"tokens,omitempty"`
}

// Tokens is how a server treats IMDSv2 session tokens.
type Tokens string

// The ways. With TokensRequired what has no valid token is refused with 401,
// in both trees: a token that can be gone around protects nothing.
const (
	TokensOptional Tokens = "optional" // given to who asks; a request without one is served, one with a bad one is refused
	TokensRequired Tokens = "required"
	TokensOff      Tokens = "off" // 404, as Nova answers: clients fall back to IMDSv1
)

// Key is an SSH public key.
type Key struct {
	Name string `json:"name"`
	Type string `json:"type"` // "ssh"
	Data string `json:"data"`
}

// File is injected by cloud-init at Path.
type File struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
}

// NIC is one network interface of an instance. Tell only of interfaces that
// are plugged: cloud-init gives up on a MAC it does not find.
type NIC struct {
	PortID    string       `json:"port_id"`
	NetworkID string       `json:"network_id"`
	MAC       vnet.MAC     `json:"mac"`
	MTU       int          `json:"mtu,omitempty"`  // bytes; zero: not told
	Type      string       `json:"type,omitempty"` // of the link in network_data.json; empty: "bridge"
	Addresses []NICAddress `json:"addresses,omitempty"`
}

// NICAddress is one address of a NIC.
type NICAddress struct {
	Type    string         `json:"type"` // network_data's: "ipv4", "ipv4_dhcp", "ipv6", "ipv6_slaac", "ipv6_dhcpv6-stateful", "ipv6_dhcpv6-stateless"
	Address netip.Prefix   `json:"address"`
	Gateway netip.Addr     `json:"gateway"`
	DNS     []netip.Addr   `json:"dns,omitempty"`
	Routes  []NICHostRoute `json:"routes,omitempty"`
}

// NICHostRoute is a route of an instance.
type NICHostRoute struct {
	Destination netip.Prefix `json:"destination"`
	NextHop     netip.Addr   `json:"nexthop"`
}
