// Package ovnsecgroup enforces security groups by rows of OVN's Northbound
// database: written once, carried out by ovn-controller on every host.
//
// # Rows
//
//	Port_Group   "group" G        the ports of group G, and its ACLs
//	ACL          "acl" G/MATCH    one for each compiled match: priority 1002,
//	                              allow-related or, of a stateless group, allow-stateless
//	Address_Set  "members" G/4, G/6        what the ports of G are called by
//	Address_Set  "addressgroup" A/4, A/6   the prefixes of address group A
//	Port_Group   "filter" all     all ports with port security; its ACLs:
//	                              1000  drop what is no IP
//	                              1001  drop what nothing allows
//	                              1003  drop what comes from 0.0.0.0
//	                              1004  ARP, ND and the client's half of DHCP pass, untracked
//	                              1005  drop what only servers and routers say,
//	                                    and TCP from the middle of a stream
//
// and in the overlay's Logical_Switch_Port:
//
//	port_security      what the port may send from, a string for each MAC
//	addresses          "unknown", when port security is off or a pair has a MAC of its own
//	external_ids       vnet:secgroup:port, what was asked for
//
// Names of rows are those of [ovn.Conn.Symbol]. A group's rules stand in
// external_ids of its Port_Group, and the ids of the rules that an ACL carries
// in those of the ACL. northd derives address sets of port groups by itself, but
// without allowed pairs, which are addresses of members too: hence our own.
//
// A port that joins a group is one more member of the group, of "filter", and
// of an address set for each IP version: no ACL changes, whatever the size. One
// call is one transaction; a port and its filters may be one, by [ovn.Batch].
// There is no state in the process.
//
// # Ports
//
// A port must be in the overlay, or pending in the same batch, before it is
// filled, or EnsurePort and Sync are [vnet.ErrNotFound]. A filtered port that is
// not filled is disabled by the handle ([ovn.Closed]). What was asked of a port
// goes when the overlay deletes it; the addresses that it leaves in its groups
// go with the next DeletePort of it, or Sync.
//
// Several ports may have the same address in their pairs, with their own MACs
// or one in common: OVN knows no owner of such an address, so ARP and ND for it
// reach the machines, and frames follow whoever answers. Frames to a MAC of a
// pair reach all ports that may use it. This needs no virtual ports. An address
// that is a fixed address of a port in the overlay is that port's, and OVN
// answers for it itself.
//
// # Limits
//
// What OVN (23.03) does otherwise than the contract says; secgrouptest checks
// that it is so, see its Limits.
//
//   - A connection whose rule, group, member or address goes is judged anew with
//     the next packet of who opened it, and ends there; what the other side
//     sends until then passes, because replies pass before any ACL is asked
//     (ovn-northd(8), "to-lport ACLs", priority 65532). TCP ends with the next
//     acknowledgement. A packet that a stateless rule allows is not tracked and
//     ends nothing. If the rule comes back while both ends still try, the
//     connection goes on.
//   - Router advertisements and MLD queries of a port pass: neighbour discovery
//     and MLD are let through at priority 65532 too, ACLs go up to 33767.
//   - A port with port security also receives only what is for its own
//     addresses, multicast or broadcast (ovn-nb(5), port_security).
//   - All IP of a network with a stateful rule is tracked, also that of ports
//     without port security, and what tracking calls invalid is dropped there
//     too, unless NB_Global options:use_ct_inv_match is false.
//   - Tracking stays on the chassis that a port leaves: its TCP connections end
//     when it moves, unless Options.Loose.
//   - Multicast and broadcast are judged packet by packet and open no connection.
//   - Ranges of ports exist for tcp, udp and sctp; for udplite and dccp they are
//     refused.
//   - On the userspace data path of Open vSwitch only the first fragment of a
//     datagram has ports for rules to match, and ICMP echo with a code is invalid.
//   - Calls that wait for hypervisors return when flows are installed; what
//     ovs-vswitchd has cached for packets that flow follows within half a second.
package ovnsecgroup
