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
// A [Plugger] is the host's half: it puts devices into the integration bridge
// of its own Open vSwitch and waits until ovn-controller has installed the port.
//
// # Limits
//
//   - There are no Local networks: a Logical_Switch spans all hosts.
//   - All tunnels are of the kind that the chassis are set to (ovn-encap-type):
//     Features has Geneve or, where all chassis have only that, VXLAN. Segment ids
//     hold networks apart here; what stands in a tunnel's header is OVN's own key.
//     Its Geneve header has an option of 8 bytes, so 1442 are left of 1500.
//   - Broadcasts and multicast go to every host with a port of the network,
//     whatever Flooding says; unknown unicast goes nowhere. Flooding.NoMulticast
//     and UnknownUnicast are refused.
//   - A network that is down has its ports disabled, not those of routers.
package ovnoverlay
