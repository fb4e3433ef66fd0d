// Package ovnoverlay carries overlay's networks and ports on OVN, as rows of
// the Northbound database, written once for all hosts.
//
// # Rows
//
// A network is a Logical_Switch, and one on a physical network has a
// Logical_Switch_Port of type localnet beside, with the VLAN id in tag_request;
// each chassis maps the physical network's name to a bridge
// (ovn-bridge-mappings). A port is a Logical_Switch_Port. Its name is what
// interfaces carry as iface-id ([ovn.PortName]), its member of addresses is
// "MAC IP IP", and Port.Host is options:requested-chassis. ARP and ND for all
// ports are answered on the host that asks.
//
// A Filtered port is disabled until package ovnsecgroup fills it ([ovn.Closed]).
//
// What OVN has no column for (the segment, the MTU, subnets, what is down) is in
// external_ids, so that a new process knows all that was asked for and finds
// nothing to do.
//
// # Hosts
//
// A [Plugger] is the host's half: it puts devices into the integration bridge
// of its own Open vSwitch and waits until ovn-controller has installed the port.
// The agent of a host needs no more than the Southbound for it, and runs
// [Plugger.Serve], which takes away what is left of ports that were deleted
// centrally. Where one process has both halves, overlay.Options.Plugger does.
//
// # Limits
//
//   - There are no Local networks: a Logical_Switch spans all hosts.
//   - All tunnels are of the kind that the chassis are set to (ovn-encap-type):
//     Features has Geneve or, where all chassis have only that, VXLAN. Segment ids
//     hold networks apart here; what stands in a tunnel's header is OVN's own key.
//     Its Geneve header has an option of 8 bytes, so 1442 are left of 1500. With
//     VXLAN an installation has at most 4,096 networks and routers, and 2,048 ports
//     on each (ovn-architecture(7), "Tunnel Encapsulations").
//   - Broadcasts and multicast go to every host with a port of the network,
//     whatever Flooding says; unknown unicast goes nowhere. Flooding.NoMulticast
//     and UnknownUnicast are refused.
//   - Until ovs-vswitchd has made the patch port of a provider network, a moment
//     after the first port of it is plugged on a host, frames from there go by
//     tunnels; broadcasts are then heard twice.
//   - A network that is down has its ports disabled, and an ACL drops what
//     routers on it send each other; no ACL stops neighbour discovery between these.
package ovnoverlay
