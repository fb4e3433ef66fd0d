// Package ovnrouter makes routers on OVN, for the whole of an installation,
// through [ovn.Target]: rows of the Northbound, in one transaction a call.
//
// # The model
//
// A router is a Logical_Router; each of its ports is a Logical_Router_Port and,
// on the network's Logical_Switch, a Logical_Switch_Port of type router. What
// is behind the gateway is routed on the host of the sender. The gateway is on
// one chassis at a time: its port has a Gateway_Chassis row for each host that
// may carry it, with priorities, and the first that is alive has it (the
// chassis watch each other by BFD through their tunnels).
//
//   - Hosts of a gateway are those of router.Gateway.Hosts, else
//     Options.GatewayHosts, else up to Options.MaxGatewayHosts chassis that have
//     the physical network of the gateway's network in their bridge mappings;
//     if some of them have enable-chassis-as-gw in ovn-cms-options, only those.
//     Each router has an order of its own, so that gateways are spread, and what
//     stands stays first: a host that comes is put last, and only one that has
//     left the Southbound is taken away.
//   - SNAT is a NAT row for each IPv4 prefix behind the router: the subnets of
//     its interfaces, and the destinations of extra routes that go by them.
//     With DisableSNAT the rows stay for what goes to the router's own floating
//     IPs (allowed_ext_ips, an Address_Set), so that hairpins work.
//   - A floating IP is a NAT row dnat_and_snat. With PortID and ExternalMAC it
//     is translated on the host of the port and passes no gateway, unless ports
//     are forwarded to the same fixed address: answers to both must come to
//     where both are translated, which is the gateway.
//   - A port forward is a Load_Balancer with a VIP for each port, on the router
//     and on the switches of its interfaces.
//   - Extra routes and default routes are Logical_Router_Static_Routes; several
//     of one destination share the traffic by a hash of the connection.
//   - MTU of an interface or gateway is gateway_mtu of its port: what is too
//     long to leave by it is answered by ICMP.
//   - Interfaces on a flat or VLAN network of a router with a gateway have
//     reside-on-redirect-chassis: the router's MAC is seen in one place only.
//   - External addresses are announced by ovn-controller (nat-addresses), by
//     gratuitous ARP, when they appear and when the gateway moves.
//   - Router advertisements are sent by ovn-controller: this process need not run.
//
// Routers forget the MACs of neighbours after Options.NeighborAge
// (mac_binding_age_threshold): OVN has no other way to learn of an address that
// has moved without announcing itself. A gratuitous ARP updates what is known.
//
// # Limits
//
// What OVN (23.03; references are to its source) does otherwise than package
// router says is in Features.Limits:
//
//   - [router.LimitRoutedIn]: northd.c build_lrouter_out_snat_flow translates
//     whatever leaves from inside, also what answers a connection that came in
//     untranslated.
//   - [router.LimitForwardHairpin]: on a router with a distributed gateway port
//     load balancers cannot force SNAT (lb_force_snat_ip is for gateway routers);
//     callers from inside are translated by the balancer on their own switch.
//   - [router.LimitHairpinTTL]: such packets are routed to the gateway, and again
//     from there (lr_out_egr_loop).
//   - [router.LimitMovedConnections]: nothing ends entries of conntrack when a
//     NAT row changes. Where this matters, restart what the address was taken
//     from, or flush conntrack on the chassis of the gateway and of the port.
//   - [router.LimitPicksUp]: the same table takes up connections in the middle;
//     that is also why they survive the failure of a gateway.
//   - [router.LimitBusyForwards]: ovn-controller flushes the connections of a
//     balancer (ct_flush) with its flows; a packet that comes before Open
//     vSwitch has revalidated its cache takes one up anew.
//   - [router.LimitSilentPorts]: northd.c builds resets and unreachables only for
//     routers without gateway.
//   - [router.LimitAnnounceIPv6]: pinctrl.c send_garp_rarp knows ARP only.
//   - [router.LimitAdvertisedLifetime]: lib/ovn-l7.h IPV6_ND_RA_LIFETIME.
//
// Refused by name: more than one resolver in router advertisements, and
// intervals of advertisements in parts of a second.
//
// Worth knowing, and OVN's way too:
//
//   - A chassis that hears no other by BFD takes itself for the one that is cut
//     off (ha-chassis.c): of two gateway hosts and no third chassis, the one
//     that is left does not take over.
//   - The host that a failed gateway was on must lose its physical network, or
//     its tables go on answering there.
//   - A distributed floating IP needs the physical network on the host of the
//     port, and answers only while its port is bound to one.
//   - A router on which ports are forwarded sends all IP of its networks
//     through conntrack.
package ovnrouter
