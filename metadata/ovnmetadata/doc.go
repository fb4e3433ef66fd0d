// Package ovnmetadata makes metadata endpoints on OVN and answers at them, on
// every hypervisor for the machines that are there.
//
// # The central half
//
// [Backend] writes an endpoint as a Logical_Switch_Port of type localport on its
// network: OVN has such a port on every chassis, and its packets leave none. The
// port's addresses are the endpoint's own and the three of the service, so OVN
// itself answers ARP and neighbour discovery for them. The endpoint stands in
// external_ids as JSON; ovn-northd copies that into the Southbound, and Plan
// compares with it.
//
// Endpoints are on networks that stand, or are made in the same batch. One in a
// router is refused, as Features says: its requests would be routed by whichever
// chassis has the gateway. Give each network its endpoint instead, and let DHCP
// say the way there (option 121: 169.254.169.254/32 by the endpoint's IPv4
// address). fe80::a9fe:a9fe is found on the link; fd00:ec2::254 needs a route to
// the link.
//
// # The half on each host
//
// An [Agent] runs on every hypervisor. It only reads the Southbound: Port_Binding
// rows say which networks have machines on its chassis, and which endpoints
// those networks have. For each it makes a network namespace called
// OWNER.HOST.metadata.ENDPOINT with a device meta0, plugged into the integration
// bridge as the localport, and answers there; when the last machine leaves the
// host, or the endpoint or network goes, it takes them away. Who asks is known
// by the namespace a connection came in by, and its source address, so networks
// may use the same addresses.
//
// What it made outlives the process; the next one takes it over, puts right
// what was changed, and takes away what nobody wants. While the Southbound is
// away or not known whole nothing is taken away or made: it goes on as it knows,
// and [Agent.Health] says so. [Agent.Cleanup] takes everything away.
//
// examples/metadata-agent is a daemon around it.
package ovnmetadata
