// Package reach is the judge: a model of what the desired state means. Given
// networks, ports, routers, floating IPs, security groups and a packet, it says
// where the packet arrives and with which addresses, or what drops it and by
// which rule; and the same for the replies of a connection that was let
// through.
//
// It is written from the contracts of overlay, router, secgroup, dhcp and
// metadata, and from the RFCs they name; it shares no code with any backend,
// nor with secgroup's compiler, and reads rules one by one. Backends are
// compared with it, so it takes no short cuts.
//
// # What it assumes
//
//   - Machines do what hosts do (RFC 1122, 3.3.1): on-link destinations of
//     their subnets directly, the rest by host routes (DHCP option 121) and the
//     subnet's gateway, in IPv6 a router that advertises. They answer ARP and ND
//     for their fixed IPs; who answers for a shared address is told by
//     [World.Holders].
//   - Per-host backends have been told of the ports on other hosts.
//   - Address resolution by the router and by machines passes: ARP and ND are
//     always possible.
//   - Every packet is whole; fragments and options are out of scope.
//   - A frame to a MAC that nobody is known by, as one of an allowed pair that
//     nobody uses, is flooded.
//   - Of several extra routes to one destination the first is taken.
//
// # What routers do
//
// As package linuxrouter says, after Neutron's: a destination that is a
// floating IP or forwarded port is translated wherever it comes from; leaving by
// the gateway the source becomes the sender's floating IP or, unless SNAT is
// disabled, the gateway's first IPv4 address; what was translated and goes from
// one internal network to one is given such a source too (hairpin). IPv6 is
// never translated. An IPv4 packet from an address that the router itself has is
// spoofed, and dropped. What opens no connection and is of none is not translated,
// and does not leave by a gateway with SNAT.
//
// # Connections
//
// A stateful port lets replies of a connection pass that its rules let begin. A
// port whose stateless group allowed the first packet has no connection: there
// replies need a rule. Stateless groups are looked at before stateful ones.
//
// A [Model] is immutable and may be used from several goroutines.
package reach
