// Package nftsecgroup enforces security groups on the ports of one host with
// nftables: anti-spoofing in family bridge, connections in family bridge too
// where the kernel tracks them there, else in family inet through
// br_netfilter. Features tells which way was found.
//
// # What stands in the kernel
//
// Everything is in the owner's tables of the host's namespace, beside the
// handle's; names begin with "sg-".
//
// Family bridge, what a port may claim to be:
//
//	chain sg-from      prerouting -250: ports with security -> chain sg-secure
//	chain sg-to        forward -150: nothing but IP and ARP to those ports
//	set   sg-secured   indices of ports with security
//	set   sg-mac       index . source MAC
//	set   sg-own4      index . MAC . address   (also ARP senders)
//	set   sg-own4n     the same for prefixes of allowed pairs
//	set   sg-own6      index . MAC . address   (also ND targets)
//	set   sg-own6n
//
// Family inet (or bridge), what the rules allow:
//
//	chain sg-egress    prerouting -150: established, then map sg-profiles-from
//	chain sg-ingress   forward -150: established, then map sg-profiles-to
//	map   sg-profiles-from, sg-profiles-to   index -> goto profile
//	chain sg-from/H, sg-to/H   a profile: one set of groups, shared by all ports
//	                   that have the same; jumps to the groups' chains
//	chain sg-out/G, sg-in/G    the rules of group G
//	set   sg-in4/KIND/G        what many rules of one kind allow together
//	set   sg-group4/G, sg-group4n/G   addresses and prefixes of the members of G
//	set   sg-addresses4/A      prefixes of address group A
//	set   sg-record            what was asked for, for the next process
//	set   sg-revision          a number for each transaction
//
// The index of a port is the packet mark: of the sender's in prerouting, of
// the receiver's in forward (package linux sets it). Member sets stand while
// some rule refers to their group; a port that joins adds an element to each
// of its groups' sets, and no rule.
//
// # Connections
//
// A network is a conntrack zone, so equal addresses of two networks do not
// meet. Bit 1 of the connection's mark says that its opener's port let it out
// by a stateless rule, bit 2 that its receiver's port let it in so: for that
// port no connection is open, and replies need a rule. With both bits clear
// an established connection passes at the first rule of the base chain.
//
// What a zone does not tell is which port a packet came from: when a packet of
// a port's address comes back to its network by way of routers, or was sent in
// its name by a port without security, the straight answer to it is let into
// the port on that host, although the port itself has not called.
//
// When something is removed or narrowed, the connections of the networks
// concerned are read once after the transaction, and those are deleted whose
// first packet the rules that stand now would not allow. The sysctl
// nf_conntrack_tcp_loose is 0 in the namespace, so that the next segment of a
// deleted connection is invalid rather than a new beginning.
//
// # Processes
//
// The record is read when a backend is first used and whenever another
// process or backend has written since (the revision tells), so a restart
// writes nothing and several backends may share a host. One over a
// [linux.Batch] lives as long as the batch.
package nftsecgroup
