// Package secgroup decides which packets a port may send and receive:
// security groups and anti-spoofing, with the meaning they have in Neutron.
//
// # Model
//
// A [Group] is a set of [Rule] values that allow; nothing forbids. A [Port]
// names its groups; what no rule of any of them allows is dropped, so a port
// without groups is closed. A rule is about one direction (as the port's
// owner sees it) and one IP version, and may name a protocol, destination
// ports or an ICMP type, and the addresses of the other side: a prefix, an
// [AddressGroup], or another group, which stands for the fixed addresses and
// allowed address pairs of all ports in it, on whatever host or network they
// are. [DefaultGroup] is the group that Neutron gives every project.
//
// # Connections
//
// The rules of stateful groups (the default) allow connections: packets of a
// connection that was allowed pass in both directions, as do ICMP errors
// related to it. Packets that fit no connection and can open none (a TCP
// segment from the middle of a stream, for one) are invalid and dropped. Each
// port judges for itself: between two filtered ports the sender's egress and
// the receiver's ingress must both allow the first packet.
//
// The rules of stateless groups allow packets. A packet that a stateless rule
// of the port allows passes by itself and opens no connection for that port,
// even when a stateful rule would allow it too; its replies need a rule.
//
// Connections of different networks never meet, also when the addresses are
// the same. When a rule, a group, a member or an address goes, connections
// that only it allowed end at once.
//
// # Port security
//
// Unless Port.DisablePortSecurity is set, a port is filtered as follows. Its
// own addresses are (MAC, FixedIPs), (MAC, its link-local address), and for
// each allowed pair (pair MAC or MAC, Prefix) and (pair MAC, its link-local
// address).
//
// From the port:
//
//   - The source MAC is one of its own.
//   - ARP is from an own MAC (in the frame and as sender hardware address) and
//     speaks for an address that goes with that MAC, or for 0.0.0.0 (RFC 5227 probes).
//   - IP is from an address that goes with the MAC. The unspecified address is
//     allowed for DHCP requests and, in IPv6, for ND and MLD (RFC 4861, RFC 3810).
//   - Neighbour advertisements (ICMPv6 136) are for a target that goes with the MAC.
//   - What servers say is dropped: UDP 67 to 68, UDP 547 to 546, router
//     advertisements (ICMPv6 134).
//   - Always passes what is left of: ARP, UDP 68 to 67, UDP 546 to 547,
//     ICMPv6 133, 135 and 136, and MLD reports (ICMPv6 131, 132, 143).
//   - Frames that are neither ARP nor IP are dropped, tagged ones included.
//   - All else is for the rules.
//
// To the port:
//
//   - Always passes: ARP, UDP 67 to 68, UDP 547 to 546, ICMPv6 133 to 136 and
//     MLD (ICMPv6 130, 131, 132, 143).
//   - Frames that are neither ARP nor IP are dropped.
//   - All else, also multicast and broadcast, is for the rules.
//
// # Use
//
// An application makes a backend of its platform, puts an [Enforcer] over it
// and describes what it wants: one object at a time by Ensure and Delete, or
// all of it by Sync, which is also what runs after a restart. Errors are the
// ones of package vnet: [vnet.FieldError] for bad input, [vnet.ErrInUse],
// [vnet.UnsupportedError], each in a [vnet.OpError]. All methods may be
// called from several goroutines.
package secgroup
