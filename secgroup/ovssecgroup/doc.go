// Package ovssecgroup enforces security groups on one host by OpenFlow flows
// of an Open vSwitch bridge and its connection tracking.
//
// # From a port
//
//	10  the source MAC is the port's; a neighbour advertisement is about an address of it
//	11  the source address (IP, ARP sender) goes with the MAC; nothing that only servers say
//	12  ARP, ND, MLD and DHCP requests go on to table 20; all else is tracked,
//	    ct(zone=network)
//	13  packets of a connection of the port go on; else the port's one flow asks
//	    its groups, one after the other (reg6), in
//	14  the rules, which note that they allow
//	16  what comes of it: no connection (a stateless rule), a new one (flag New),
//	    dropped
//
// To a port it is 70 to 74 in the same way. Table 15 commits a new connection: the
// last table here calls it for ports of this host, other parts call it before a
// packet leaves its network or the host. So what the receiver refuses leaves no
// entry. Connections have marks: 1 and 2 say that the opener's and the receiver's
// port let it pass by a stateless rule, and has no connection.
//
// # Rules and members
//
// A group's rules are written once, under the group's number, for all ports in
// it, however many and whatever other groups these are in; a port has one flow
// for each direction that lists its groups. A rule costs a flow for each mask
// that its range of ports needs.
//
// A rule about a remote group, or address group, is a conjunction (ovs-fields(7),
// "Conjunctive Match Fields") of the rule's match and of the remote's addresses.
// The id is the remote's number; the flow that is found by it matches the asking
// group too. So an address has one flow for each direction in which rules refer
// to its groups, and a port that joins a group of any size is one flow for each
// address, beside the records. Members of groups that no rule refers to have no
// flows. Flows of a conjunction may overlap, and conjunctions that overlap here
// say the same.
//
// # Objects
//
// Groups, address groups and ports are objects of package ovs, with what was
// asked for as record, and so are: "remote" (a group or address group that rules
// refer to, counted by direction and version), "address" (with how many ports of
// which remotes are called by it), "numbers" (those in use) and "base" (what all
// ports share). Numbers stay when a process ends and another begins. There is no
// state in the process. A call reads and writes what it is about; a change that
// may end connections, the first rule that refers to a group, and the deletion
// of a group read all records of this part.
//
// # Connections
//
// When something is removed or narrowed, the flows change first, then the data
// path is waited for, and then the connections of the networks concerned are
// looked at: those that nothing allows any more are forgotten, in both
// directions, and no others. New TCP connections begin with SYN, so what was
// forgotten is not taken up in its middle. The call returns after that; with a
// batch it is done after the commit.
//
// # Limits
//
//   - Ranges of ports exist for tcp, udp and sctp; for udplite and dccp, whose
//     headers OpenFlow does not know, they are refused.
//   - On the userspace data path, echo and timestamp requests with a code other
//     than 0 are invalid (extract_l4_icmp in lib/conntrack.c).
//   - On the userspace data path only the first fragment of a datagram has ports,
//     or an ICMP type, for rules to match: a datagram in fragments passes when its
//     connection stands, or a rule without ports allows it, and opens none by a
//     rule about ports (ovs-fields(7), "IPv4 and IPv6 Fields", nw_frag).
//   - Also there, connections of ICMPv6 that end are marked and time out later:
//     ovs-vswitchd 3.1.0 cannot forget them.
//   - A zone is a network's and does not tell ports of it apart: when a packet of a
//     port comes back to its network by way of routers, the straight answer to it is
//     let into the port on that host, although the port itself has not called there.
//   - What the data path has kept of earlier packets follows flows that are added
//     within milliseconds; see ovs.Switch.Settle.
package ovssecgroup
