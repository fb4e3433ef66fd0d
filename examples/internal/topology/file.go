package topology

import (
	"net/netip"

	"github.com/vnet-go/vnet"
)

// File is a topology file as written. References between objects are names.
// Tags carry what the JSON Schema says; the schema is made from these types.
type File struct {
	Name           string            `yaml:"name,required" doc:"Name of the cloud, at most 16 lower-case letters, digits and hyphens. Everything made on the machine carries it."`
	Underlay       Underlay          `yaml:"underlay" doc:"The network between the hosts."`
	Hosts          []Host            `yaml:"hosts,required" doc:"Hypervisors: network namespaces joined by the underlay."`
	PhysicalNets   []PhysicalNetwork `yaml:"physical_networks" doc:"Layer 2 networks outside the cloud that hosts are cabled to."`
	Networks       []Network         `yaml:"networks,required" doc:"Networks with their subnets."`
	Routers        []Router          `yaml:"routers" doc:"Routers."`
	AddressGroups  []AddressGroup    `yaml:"address_groups" doc:"Named lists of prefixes for rules."`
	SecurityGroups []SecurityGroup   `yaml:"security_groups" doc:"Security groups. Each project also has one named default-PROJECT: all egress, ingress from its members."`
	Keypairs       []Keypair         `yaml:"keypairs" doc:"SSH public keys by name."`
	Ports          []Port            `yaml:"ports" doc:"Ports that need more than a server's network entry says."`
	Servers        []Server          `yaml:"servers" doc:"Virtual machines: network namespaces that boot as machines do."`
	QoSPolicies    []QoSPolicy       `yaml:"qos_policies" doc:"What ports, gateways and floating IPs may send and be sent, and what they are promised."`
	FloatingIPs    []FloatingIP      `yaml:"floatingips" doc:"Floating IPs, with the port forwardings of those that have some."`
	OutsideServers []OutsideServer   `yaml:"outside_servers" doc:"Machines outside the cloud, on a provider network."`
	Probe          Probe             `yaml:"probe" doc:"What the matrix of reachability probes beside ICMP echo."`
}

// Underlay is the network between the hosts.
type Underlay struct {
	CIDR netip.Prefix `yaml:"cidr" doc:"Addresses of the hosts' tunnel ends. Default 192.0.2.0/24."`
	MTU  int          `yaml:"mtu" doc:"Bytes of IP packet the underlay carries. Default 1500, which leaves 1450 to VXLAN networks."`
}

// Host is a hypervisor.
type Host struct {
	Name         string        `yaml:"name,required" doc:"Name of the host."`
	LocalIP      netip.Addr    `yaml:"local_ip" doc:"Its tunnel end in the underlay. Default: by its place in the list."`
	PhysicalNets []string      `yaml:"physical_networks" doc:"Physical networks it is cabled to. Default: all."`
	Bandwidths   []Bandwidth   `yaml:"bandwidths" doc:"What its ways out carry. Minimum bandwidths are promised of these, and of nothing else."`
	DPDK         *DPDK         `yaml:"dpdk" doc:"Its switch has DPDK, and its machines are attached by vhost-user. On Open vSwitch only."`
	SRIOVDevices []SRIOVDevice `yaml:"sriov_devices" doc:"Network cards of this machine whose virtual functions go to ports with binding:vnic_type direct."`
}

// DPDK is what a host's switch gets to be one with DPDK (dpdk.Config).
type DPDK struct {
	Hugepages    int   `yaml:"hugepages" json:"hugepages" doc:"Huge pages of 2 MiB that the host is to have, for its switch and its machines. Default 256 and 128 for each machine."`
	SocketMemory int   `yaml:"socket_memory" json:"socket_memory" doc:"MB of them that the switch takes. Default 256."`
	PMDCores     []int `yaml:"pmd_cores" json:"pmd_cores" doc:"Processors whose threads carry packets, and do nothing else. Default: the last one."`
}

// SRIOVDevice is a card with SR-IOV (sriov.Device).
type SRIOVDevice struct {
	Name        string   `yaml:"name,required" doc:"Its device on this machine, as ens1f0, or its PCI address."`
	PhysicalNW  string   `yaml:"physical_network,required" doc:"Physical network it is cabled to."`
	VFs         int      `yaml:"vfs,required" doc:"How many virtual functions it has."`
	Exclude     []string `yaml:"exclude" doc:"PCI addresses of virtual functions that no port gets."`
	EgressKbps  uint32   `yaml:"egress_kbps" doc:"kbit/s that may be promised out of it. Unset: nothing is."`
	IngressKbps uint32   `yaml:"ingress_kbps" doc:"kbit/s that may be promised into it. Unset: nothing is."`
}

// Bandwidth is what one way out of a host carries.
type Bandwidth struct {
	PhysicalNW  string `yaml:"physical_network" doc:"Physical network. Unset: the way of the tunnels."`
	EgressKbps  uint32 `yaml:"egress_kbps" doc:"kbit/s out of the host. Unset: nothing is promised that way."`
	IngressKbps uint32 `yaml:"ingress_kbps" doc:"kbit/s into the host. Unset: nothing is promised that way."`
}

// PhysicalNetwork is a layer 2 network outside the cloud.
type PhysicalNetwork struct {
	Name   string `yaml:"name,required" doc:"Name, as provider:physical_network says it."`
	Device string `yaml:"device" doc:"A network card of this machine by which it goes out of it. Default: it stays inside."`
}

// Network is a Neutron network.
type Network struct {
	Name       string   `yaml:"name,required" doc:"Name of the network."`
	Project    string   `yaml:"project_id" doc:"Whose it is."`
	AdminUp    *bool    `yaml:"admin_state_up" doc:"false: carries no frame. Default true."`
	External   bool     `yaml:"router:external" doc:"Routers may have their gateway here, and floating IPs come from here."`
	Type       string   `yaml:"provider:network_type" enum:"local,flat,vlan,vxlan,geneve" doc:"How frames travel between hosts. Default vxlan."`
	PhysicalNW string   `yaml:"provider:physical_network" doc:"Physical network of a flat or vlan network."`
	SegmentID  int      `yaml:"provider:segmentation_id" doc:"VLAN id or VNI. Default for vxlan: from the network's name."`
	MTU        int      `yaml:"mtu" doc:"Bytes. Default: what the underlay leaves."`
	DNSDomain  string   `yaml:"dns_domain" doc:"Domain of the servers' names."`
	QoSPolicy  string   `yaml:"qos_policy_id" doc:"Policy of its ports, gateways and floating IPs that have none of their own."`
	Flooding   Flooding `yaml:"flooding" doc:"Which frames without a known destination cross tunnels. Default: multicast; broadcast too where ports share an allowed address pair, or have a prefix of them."`
	Subnets    []Subnet `yaml:"subnets,required" doc:"Ranges of addresses."`
}

// Flooding is overlay.Flooding.
type Flooding struct {
	Broadcast      bool `yaml:"broadcast" doc:"Broadcast frames cross, ARP included."`
	UnknownUnicast bool `yaml:"unknown_unicast" doc:"Frames to unknown MACs cross."`
	NoMulticast    bool `yaml:"no_multicast" doc:"Multicast does not cross."`
}

// Subnet is a Neutron subnet.
type Subnet struct {
	Name        string         `yaml:"name,required" doc:"Name of the subnet."`
	IPVersion   int            `yaml:"ip_version" doc:"4 or 6; checked against cidr."`
	CIDR        netip.Prefix   `yaml:"cidr,required" doc:"The range."`
	GatewayIP   OptionalAddr   `yaml:"gateway_ip" doc:"Default gateway; null: none. Default: the first address."`
	EnableDHCP  *bool          `yaml:"enable_dhcp" doc:"Default true."`
	DNS         []netip.Addr   `yaml:"dns_nameservers" doc:"Told to servers."`
	HostRoutes  []Route        `yaml:"host_routes" doc:"Told to servers by DHCP option 121."`
	Pools       []AddressRange `yaml:"allocation_pools" doc:"Where addresses are taken from. Default: the whole range."`
	RAMode      string         `yaml:"ipv6_ra_mode" enum:"slaac,dhcpv6-stateless,dhcpv6-stateful" doc:"What the router advertises. Unset: nothing."`
	AddressMode string         `yaml:"ipv6_address_mode" enum:"slaac,dhcpv6-stateless,dhcpv6-stateful" doc:"How servers get addresses. Default: as ipv6_ra_mode."`
}

// AddressRange is an allocation pool.
type AddressRange struct {
	Start netip.Addr `yaml:"start,required" doc:"First address."`
	End   netip.Addr `yaml:"end,required" doc:"Last address."`
}

// Route is a static route.
type Route struct {
	Destination netip.Prefix `yaml:"destination,required" doc:"Prefix."`
	NextHop     netip.Addr   `yaml:"nexthop,required" doc:"Address of the next hop."`
}

// Router is a Neutron router with its interfaces.
type Router struct {
	Name       string            `yaml:"name,required" doc:"Name of the router."`
	Project    string            `yaml:"project_id" doc:"Whose it is."`
	AdminUp    *bool             `yaml:"admin_state_up" doc:"Default true."`
	Gateway    *GatewayInfo      `yaml:"external_gateway_info" doc:"Its way out."`
	Interfaces []RouterInterface `yaml:"interfaces" doc:"Subnets it joins."`
	Routes     []Route           `yaml:"routes" doc:"Extra routes."`
	Host       string            `yaml:"host" doc:"Where it runs on a per-host backend. Default: the first host."`
}

// GatewayInfo is external_gateway_info.
type GatewayInfo struct {
	Network    string    `yaml:"network_id,required" doc:"External network."`
	EnableSNAT *bool     `yaml:"enable_snat" doc:"Default true."`
	FixedIPs   []FixedIP `yaml:"external_fixed_ips" doc:"Its addresses there. Default: one of each subnet."`
	QoSPolicy  string    `yaml:"qos_policy_id" doc:"Policy of what passes there. Default: the external network's."`
}

// FixedIP is an address of a port.
type FixedIP struct {
	Subnet string     `yaml:"subnet_id" doc:"Subnet. Default: the one the address is in."`
	IP     netip.Addr `yaml:"ip_address" doc:"Address. Default: one from the pool."`
}

// RouterInterface attaches a subnet to a router.
type RouterInterface struct {
	Subnet string     `yaml:"subnet_id,required" doc:"Subnet."`
	IP     netip.Addr `yaml:"ip_address" doc:"The router's address there. Default: the subnet's gateway_ip."`
}

// AddressGroup is a Neutron address group.
type AddressGroup struct {
	Name      string         `yaml:"name,required" doc:"Name of the address group."`
	Project   string         `yaml:"project_id" doc:"Whose it is."`
	Addresses []AddrOrPrefix `yaml:"addresses,required" doc:"Addresses and prefixes."`
}

// SecurityGroup is a Neutron security group.
type SecurityGroup struct {
	Name        string `yaml:"name,required" doc:"Name of the group."`
	Project     string `yaml:"project_id" doc:"Whose it is."`
	Description string `yaml:"description" doc:"For people."`
	Stateful    *bool  `yaml:"stateful" doc:"false: rules allow packets, not connections. Default true."`
	Rules       []Rule `yaml:"security_group_rules" doc:"All rules; none is implied."`
}

// Rule is a Neutron security group rule.
type Rule struct {
	Description   string       `yaml:"description" doc:"For people."`
	Direction     string       `yaml:"direction,required" enum:"ingress,egress" doc:"As the server sees it."`
	Ethertype     string       `yaml:"ethertype" enum:"IPv4,IPv6" doc:"Default IPv4."`
	Protocol      string       `yaml:"protocol" doc:"Name or number. Default: any."`
	PortMin       *uint16      `yaml:"port_range_min" doc:"First port, or ICMP type."`
	PortMax       *uint16      `yaml:"port_range_max" doc:"Last port, or ICMP code."`
	RemotePrefix  AddrOrPrefix `yaml:"remote_ip_prefix" doc:"The other end's addresses."`
	RemoteGroup   string       `yaml:"remote_group_id" doc:"The other end is in this group."`
	RemoteAddrGrp string       `yaml:"remote_address_group_id" doc:"The other end is in this address group."`
}

// Keypair is a Nova keypair.
type Keypair struct {
	Name      string `yaml:"name,required" doc:"Name of the key."`
	PublicKey string `yaml:"public_key,required" doc:"In the form of authorized_keys."`
}

// Port is a Neutron port.
type Port struct {
	Name         string        `yaml:"name,required" doc:"Name of the port."`
	Network      string        `yaml:"network_id,required" doc:"Its network."`
	MAC          vnet.MAC      `yaml:"mac_address" doc:"Default: from its name."`
	FixedIPs     []FixedIP     `yaml:"fixed_ips" doc:"Default: one of each subnet."`
	AdminUp      *bool         `yaml:"admin_state_up" doc:"Default true."`
	Groups       *[]string     `yaml:"security_groups" doc:"Default: the project's default group; [] is none, which is closed."`
	Pairs        []AddressPair `yaml:"allowed_address_pairs" doc:"Further addresses it may use as its own."`
	PortSecurity *bool         `yaml:"port_security_enabled" doc:"false: nothing is filtered. Default true."`
	QoSPolicy    string        `yaml:"qos_policy_id" doc:"Default: its network's."`
	VNICType     string        `yaml:"binding:vnic_type" enum:"normal,direct" doc:"direct: a virtual function of a card, which no security group can hold on: it needs security_groups [] or no port security. Default normal."`
	Profile      Profile       `yaml:"binding:profile" doc:"What else is said of a direct port."`
}

// Profile is what of binding:profile means something here.
type Profile struct {
	Trusted bool `yaml:"trusted" doc:"The server may change its MAC and be promiscuous."`
}

// direct reports whether a port is to have a virtual function.
func (p Port) direct() bool { return p.VNICType == "direct" }

// AddressPair is an allowed address pair.
type AddressPair struct {
	IP  AddrOrPrefix `yaml:"ip_address,required" doc:"Address or prefix."`
	MAC vnet.MAC     `yaml:"mac_address" doc:"Default: the port's."`
}

// Server is a Nova server.
type Server struct {
	Name      string            `yaml:"name,required" doc:"Name of the server, and its hostname."`
	Project   string            `yaml:"project_id" doc:"Whose it is. Default: its first network's."`
	Host      string            `yaml:"host" doc:"Where it runs. Default: the first host."`
	Networks  []ServerNetwork   `yaml:"networks,required" doc:"Its interfaces, in order."`
	Groups    *[]string         `yaml:"security_groups" doc:"Groups of the ports made for it. Default: the project's default group."`
	KeyName   string            `yaml:"key_name" doc:"Key it gets through metadata."`
	UserData  string            `yaml:"user_data" doc:"Given as it stands (not in base64)."`
	Metadata  map[string]string `yaml:"metadata" doc:"Keys and values told to the server. The key address_pair makes it take that address, as the holder of a shared one."`
	AZ        string            `yaml:"availability_zone" doc:"Told to the server. Default nova."`
	Flavor    string            `yaml:"flavor" doc:"Told to the server."`
	ImageName string            `yaml:"image" doc:"Told to the server."`
}

// ServerNetwork is one interface of a server.
type ServerNetwork struct {
	Network string     `yaml:"network" doc:"A port is made on this network."`
	Port    string     `yaml:"port" doc:"Or: this port is used."`
	FixedIP netip.Addr `yaml:"fixed_ip" doc:"Address of the port made."`
}

// FloatingIP is a Neutron floating IP.
type FloatingIP struct {
	Name      string           `yaml:"name,required" doc:"Name to call it by."`
	Network   string           `yaml:"floating_network_id,required" doc:"External network."`
	Address   netip.Addr       `yaml:"floating_ip_address" doc:"Default: one from the pool."`
	Port      string           `yaml:"port_id" doc:"Port it leads to; a server's name stands for its first port."`
	FixedIP   netip.Addr       `yaml:"fixed_ip_address" doc:"Which IPv4 address of the port. Default: the first."`
	QoSPolicy string           `yaml:"qos_policy_id" doc:"Default: the external network's. Not together with port_forwardings."`
	Forwards  []PortForwarding `yaml:"port_forwardings" doc:"Instead of port_id: single ports lead to servers."`
}

// PortForwarding is a Neutron port forwarding.
type PortForwarding struct {
	Protocol      string     `yaml:"protocol,required" enum:"tcp,udp" doc:"Protocol."`
	ExternalPort  uint16     `yaml:"external_port" doc:"Port of the floating IP."`
	ExternalRange string     `yaml:"external_port_range" doc:"Or a range, as 8000:8009."`
	InternalPort  uint16     `yaml:"internal_port" doc:"Port of the server."`
	InternalRange string     `yaml:"internal_port_range" doc:"Or a range of the same size."`
	Port          string     `yaml:"internal_port_id,required" doc:"Port it leads to; a server's name stands for its first port."`
	IP            netip.Addr `yaml:"internal_ip_address" doc:"Which IPv4 address of the port. Default: the first."`
}

// QoSPolicy is a Neutron QoS policy.
type QoSPolicy struct {
	Name    string    `yaml:"name,required" doc:"Name of the policy."`
	Project string    `yaml:"project_id" doc:"Whose it is."`
	Rules   []QoSRule `yaml:"rules,required" doc:"At most one of each type and direction."`
}

// QoSRule is one rule of a policy.
type QoSRule struct {
	Type         string  `yaml:"type,required" enum:"bandwidth_limit,packet_rate_limit,dscp_marking,minimum_bandwidth,minimum_packet_rate" doc:"What it limits, marks or promises."`
	Direction    string  `yaml:"direction" enum:"ingress,egress,any" doc:"As the server sees it; any only of minimum_packet_rate. Default egress."`
	MaxKbps      uint32  `yaml:"max_kbps" doc:"bandwidth_limit: kbit/s."`
	MaxBurstKbit uint32  `yaml:"max_burst_kbps" doc:"bandwidth_limit: kbit, in spite of its name. Default: 80 % of a second at the limit."`
	MaxKpps      float64 `yaml:"max_kpps" doc:"packet_rate_limit: thousands of packets a second."`
	MaxBurstKpps float64 `yaml:"max_burst_kpps" doc:"packet_rate_limit: thousands of packets at once. Default: 80 % of a second at the limit."`
	DSCPMark     *uint8  `yaml:"dscp_mark" doc:"dscp_marking: what goes into the IP header."`
	MinKbps      uint32  `yaml:"min_kbps" doc:"minimum_bandwidth: kbit/s."`
	MinKpps      float64 `yaml:"min_kpps" doc:"minimum_packet_rate: thousands of packets a second."`
}

// OutsideServer is a machine outside the cloud.
type OutsideServer struct {
	Name      string         `yaml:"name,required" doc:"Name of the machine."`
	PhysicalN string         `yaml:"physical_network,required" doc:"Physical network it is on."`
	Addresses []netip.Prefix `yaml:"addresses,required" doc:"Its addresses with the length of their subnet. Addresses that are a subnet's gateway_ip make it the way to the world."`
	Routes    []Route        `yaml:"routes" doc:"Its routes."`
}

// Probe lists what the matrix probes.
type Probe struct {
	TCP []uint16 `yaml:"tcp" doc:"TCP ports. Default: those that rules and forwardings name."`
	UDP []uint16 `yaml:"udp" doc:"UDP ports. Default: those that rules and forwardings name."`
}
