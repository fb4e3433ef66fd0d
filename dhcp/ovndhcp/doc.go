// Package ovndhcp makes DHCPv4 and DHCPv6 on OVN, through [ovn.Target]:
// ovn-controller answers on the host where a machine is, from rows of the
// Northbound. There is no server process and no lease: a machine is given the
// addresses that its port has.
//
// # Rows
//
// A scope is a DHCP_Options row, with what OVN calls the options in it, and
// the scope itself as JSON in external_ids, so that Plan compares what was
// asked for. A DHCPv4 scope whose server address is not its router's also has
// a Logical_Switch_Port of type localport on the network, which makes OVN
// answer ARP for the server, so that clients can renew by unicast. The server's
// MAC is derived from owner and network and never changes; DHCPv6 has it for a
// DUID.
//
// A reservation is a key in external_ids of the port that has its MAC, and the
// references dhcpv4_options and dhcpv6_options of that port, to the rows of the
// scopes that its addresses are in. When it has a host name or options, the
// port refers to rows of its own, made of the scope's options with these over
// them; they follow when the scope changes. All of it is one transaction.
// The port may be in the same batch, before the reservation.
//
// When a port is deleted its reservation goes with it; a row of its own may stay
// until DeleteReservation or the next Sync.
//
// # Limits
//
// What OVN 23.03 cannot express is refused as [vnet.UnsupportedError]: pools,
// relays, matching by client identifier or DUID, rapid commit, boot files by
// architecture, NTP servers and TFTP by DHCPv6, options by code that it has no
// key for (lib/ovn-l7.h of OVN has the list), several addresses of one client by
// DHCPv6. Leases and events are not known: nothing is told of a renewal, release
// or decline.
//
// Otherwise it does as package dhcp says, but for these, which it names in
// [dhcp.Features] and package dhcptest tests: clients that nobody reserved for
// hear nothing, also where the scope would have them refused; all options are
// sent whether asked for or not; a client whose address has changed hears a
// refusal only when it boots or its lease has ended, because OVN hears requests
// from the new address and 0.0.0.0 only; refusals are sent to the client's
// address and are shorter than BOOTP's 300 bytes; the server that a client chose
// is not looked at; client identifiers are not sent back; DHCPv6 addresses are
// for ever, Renew, Rebind and Release unanswered, Confirm without a status; no
// DHCPv6 search domains, which OVN writes as one label with dots in it; no
// domain-qualified names.
//
// OVN takes requests after the port's own security and ACLs: what filters the
// port must let DHCP out.
package ovndhcp
