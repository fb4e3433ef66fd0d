package topology

import (
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/sriov"
)

// What carries a cloud. The same file means the same on each; what differs is
// in what the backends are told: how networks are tunnelled, and by which way
// servers reach their metadata.
const (
	Linux = "linux" // backends on every host; VXLAN, metadata through routers
	OVN   = "ovn"   // one backend for all hosts; Geneve, metadata on every network
	OVS   = "ovs"   // backends on every host; Geneve, metadata on every network
)

// Backends are the values of Cloud.Backend.
var Backends = []string{Linux, OVN, OVS}

// Cloud is a topology file with everything filled in: what is to be made on
// the machine, and the desired states that the subsystems get. It marshals to
// JSON and back without loss.
type Cloud struct {
	Name         string            `json:"name"`
	Backend      string            `json:"backend"`
	Underlay     netip.Prefix      `json:"underlay"`
	UnderlayMTU  int               `json:"underlay_mtu"` // bytes
	PhysicalNets []string          `json:"physical_networks"`
	Devices      map[string]string `json:"devices,omitempty"` // physical network -> card of this machine
	Hosts        []CloudHost       `json:"hosts"`
	All          States            `json:"all"` // of the whole cloud: what a central backend and the model get
	VMs          []VM              `json:"vms"`
	Outside      []Outside         `json:"outside"`
	Limits       []router.Limit    `json:"limits,omitempty"` // what the platform's routers do otherwise
	Projects     map[string]string `json:"projects"`         // "network/red" -> project, for networks, routers and servers
	TCP          []uint16          `json:"tcp"`              // ports the matrix probes
	UDP          []uint16          `json:"udp"`
}

// States are the desired states of all subsystems.
type States struct {
	Overlay  overlay.State  `json:"overlay"`
	SecGroup secgroup.State `json:"secgroup"`
	Router   router.State   `json:"router"`
	DHCP     dhcp.State     `json:"dhcp"`
	Metadata metadata.State `json:"metadata"`
	QoS      qos.State      `json:"qos"`
	SRIOV    sriov.State    `json:"sriov,omitzero"` // of a host
}

// CloudHost is one hypervisor and what its backends are told.
type CloudHost struct {
	Name         string      `json:"name"`
	LocalIP      netip.Addr  `json:"local_ip"`
	PhysicalNets []string    `json:"physical_networks"`
	Bandwidths   []Bandwidth `json:"bandwidths,omitempty"`
	DPDK         *DPDK       `json:"dpdk,omitempty"`
	States       States      `json:"states"`
}

// VM is one server.
type VM struct {
	Name     string            `json:"name"`
	Project  string            `json:"project"`
	Host     string            `json:"host"`
	NICs     []NIC             `json:"nics"`
	Instance metadata.Instance `json:"instance"` // what its metadata says
}

// NIC is one interface of a server.
type NIC struct {
	Device    string       `json:"device"` // eth0, eth1, ...
	PortID    string       `json:"port_id"`
	NetworkID string       `json:"network_id"`
	Direct    bool         `json:"direct,omitempty"`     // a virtual function of a card
	VhostUser bool         `json:"vhost_user,omitempty"` // by a socket of the switch's host
	MAC       vnet.MAC     `json:"mac"`
	IPs       []netip.Addr `json:"ips"`   // its fixed IPs, by whatever way it gets them
	Pairs     []netip.Addr `json:"pairs"` // single addresses among its allowed address pairs
	DHCP4     bool         `json:"dhcp4"` // its image is set up to ask by DHCPv4
	RA        bool         `json:"ra"`    // and to heed router advertisements
	DHCP6     bool         `json:"dhcp6"` // no router advertises, but DHCPv6 is served
	Static    []Static     `json:"static,omitempty"`
}

// Static is an address of a subnet without DHCP, told to the server on a
// config drive, as it were.
type Static struct {
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway"`
}

// Outside is a machine outside the cloud.
type Outside struct {
	Name       string         `json:"name"`
	PhysicalNW string         `json:"physical_network"`
	MAC        vnet.MAC       `json:"mac"`
	Addresses  []netip.Prefix `json:"addresses"`
	Routes     []router.Route `json:"routes,omitempty"`
}

// Host returns the host of that name, or nil.
func (c *Cloud) Host(name string) *CloudHost {
	for i := range c.Hosts {
		if c.Hosts[i].Name == name {
			return &c.Hosts[i]
		}
	}
	return nil
}

// TunnelEnds are the hosts' ends of tunnels, by name.
func (c *Cloud) TunnelEnds() map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, h := range c.Hosts {
		out[h.Name] = h.LocalIP
	}
	return out
}

// VM returns the server of that name, or nil.
func (c *Cloud) VM(name string) *VM {
	for i := range c.VMs {
		if c.VMs[i].Name == name {
			return &c.VMs[i]
		}
	}
	return nil
}

// Network returns the network of that id, or nil.
func (c *Cloud) Network(id string) *overlay.Network {
	for i := range c.All.Overlay.Networks {
		if c.All.Overlay.Networks[i].ID == id {
			return &c.All.Overlay.Networks[i]
		}
	}
	return nil
}
