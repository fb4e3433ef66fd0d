// Package vnet is virtual networking for Go programs: the network half of a
// cloud, as packages. An application that starts virtual machines or
// containers hands these packages the state it wants and gets networks,
// routers, addresses, metadata and filters on the platform it runs on.
//
// This package holds the words that all of them share: owners, parts, ids and
// MAC addresses; errors; plans and changes; events, health and explanations.
//
// # The map
//
// Subsystems, each a contract (plain structs and a small Backend interface),
// a concrete type that applications call, an in-memory backend, backends for
// platforms, and a conformance suite:
//
//   - [github.com/vnet-go/vnet/overlay]: networks and ports, who hears whose frames
//   - [github.com/vnet-go/vnet/router]: routers, source NAT, floating IPs, port forwarding, router advertisements
//   - [github.com/vnet-go/vnet/dhcp]: DHCPv4 and DHCPv6 whose leases the application owns
//   - [github.com/vnet-go/vnet/metadata]: what a machine is told about itself, as EC2 and OpenStack do
//   - [github.com/vnet-go/vnet/secgroup]: security groups and anti-spoofing
//   - [github.com/vnet-go/vnet/qos]: limits and guarantees of bandwidth and packet rate
//   - [github.com/vnet-go/vnet/sriov]: functions of network cards for machines
//   - [github.com/vnet-go/vnet/dpdk]: a switch whose packets are carried by DPDK
//
// Beside them [github.com/vnet-go/vnet/qos/placement], the ledger of what hosts
// have promised.
//
// Platform handles, opened once by the application and given to backends:
//
//   - [github.com/vnet-go/vnet/linux]: the kernel of one host, by netlink, nftables and packet sockets
//   - [github.com/vnet-go/vnet/ovs]: the Open vSwitch of one host, by OpenFlow and OVSDB
//   - [github.com/vnet-go/vnet/ovn]: an OVN installation, by its databases
//
// And [github.com/vnet-go/vnet/reach], the model that says what the desired
// state means for a packet.
//
// # The contract
//
// Ensure makes one object as described, Delete removes it, both as often as
// you like. Sync takes the whole desired state, removes what is ours and no
// longer wanted, and writes nothing when nothing differs; Plan says what Sync
// would do. Everything made outside the process carries an [Owner] and a
// [Part], and nothing else is touched. Bad input is a [*FieldError] before
// anything is written. What a platform cannot do is an [*UnsupportedError].
// All methods may be called from several goroutines; contexts end every wait.
// No process is started and no command line is run.
package vnet
