// Package ovsrouter makes routers on Open vSwitch, on every host that is told
// of them, through [ovs.Target]: flows in tables 31 and 40 to 58 of the host's
// one bridge. There is no namespace, no device and no IP stack.
//
// # The model
//
// A router is at home on one host: Router.Host, or wherever it is ensured if
// that is empty. There its gateway is, with translation, floating IPs, port
// forwards and all routes. Every other host that is told of the router makes a
// short cut: packets between its internal networks, of the host's own machines
// and to neighbours that package overlay knows the place of, are routed where
// they begin. All else goes, unchanged, through the tunnel to the router's MAC at
// home, for which the other hosts' overlay needs the router's ports as
// RemotePorts. Interfaces and gateways on physical networks (flat, VLAN) are
// served at home only: one MAC is seen in one place; and those on Local networks,
// of which each host has its own.
//
//	31 router-local      ARP and neighbour discovery for the router's addresses;
//	                     neighbours are learned from what they say
//	40 router-admission  packets to a MAC of the router
//	41 check             what is nothing to forward; is it for the router itself?
//	42 self              answers to echo requests; the rest is refused
//	43 advertise         second half of a neighbour advertisement
//	44 external          sent to an external address: undo source translation,
//	45 unsnat            is it an answer?
//	46 dnat              floating IPs and port forwards
//	47 ttl               the hop is counted
//	48 home              to the host of a router that may be on several
//	49 share             one of several ways to a destination
//	50 route             longest prefix first
//	51 stage             which translation it needs
//	52 undnat, 53 snat   is it an answer? of a connection?
//	54 routed-in         connections from outside that are not translated
//	55 neighbour         the MAC of the next hop: from overlay (59), or learned (57)
//	56 source            source translation
//	58 leave             out on the new network, from its gate (table 1) on
//
// Translation is OVS's connection tracking in two zones of each router, one for
// destinations and one for sources; a connection from inside to a floating
// IP (hairpin) is in both. Packets between internal networks and IPv6 are in none.
// How packets are translated is as in package linuxrouter.
//
// With [Options.DistributedFloatingIPs] a floating IP that has a PortID and an
// ExternalMAC, of a router whose gateway is on a physical network, is translated
// on the host of its port, where it has that MAC: its packets pass neither a
// tunnel nor the router's home. The router's home knows it, and that it is
// elsewhere. Between machines of different hosts such floating IPs are reached
// over the physical network, so two hops count.
//
// # Several gateway hosts
//
// A router whose Gateway.Hosts names several hosts is at home on the first of
// them that is there, whatever Router.Host says. Each host that is told of it
// finds out by itself: its ovs-vswitchd speaks BFD with those hosts, and those
// with all peers ([ovs.Options].Peers, [ovs.Tx.Probe]). A
// host is missed after three seconds, and then [Backend.Serve] writes the router's
// flows anew: the one that takes over announces the addresses, the others send
// there what is for the router's host, wherever package overlay thinks that its
// ports are. A host to prefer that is back has the router again after five seconds.
//
// So that they can take over, all hosts of the list must be told of the router,
// its floating IPs and port forwards, and of its networks' ports, and have the
// gateway's network. Hosts with machines behind the router must be told of it too:
// one that knows it by RemotePorts only does not follow. A host that is no peer is
// refused.
//
// Which host it is stands in the router's record: Plan and Sync go by that, and
// a process that starts changes nothing. Without Serve a router stays where it is.
// After a restart of ovs-vswitchd, which empties it, Serve has the others not count
// on a host until its routers stand again, and it waits until it is sure of its peers
// ([Backend.Settled]). Started anew while Serve does not run, a switch
// would be counted on, and forward nothing.
//
// A host that loses several peers at once, so that nobody is left, takes itself for
// cut off and lets the router go. Of two hosts that know nobody else, both have it
// while they cannot see each other. Which of two homes the outside believes is
// settled by an announcement when they can again. Where a host can reach one
// gateway host and not the other, though these see each other, what it sends to
// the stand-in is dropped.
//
// What is lost: translated connections, for connection tracking is the host's own.
// Between internal networks nothing is, as that is routed where it begins.
//
// # Its objects
//
// A floating IP is six flows and three records, whatever stands. The records
// are on the switch (see package ovs), so a new process knows what stands, and
// writes nothing when it is the same.
//
// # What needs this process
//
// [Backend.Serve] sends router advertisements (each host to its own machines),
// asks for neighbours that nobody has told of by ARP and neighbour discovery
// while packets to them wait, and says what routers say by ICMP: time exceeded,
// unreachable, too big; and resets for TCP ports of the router's own. On the
// kernel's datapath, which cannot make an advertisement of a solicitation, it also
// answers neighbour discovery for the router's addresses (ARP is answered by
// flows). While it does not run, routers forward to all neighbours that are known
// or have spoken in the last five minutes.
//
// # Connections
//
// What is moved or deleted ends its connections, and no others: they are found by
// their two tuples in the router's zones. Sync also ends what an earlier process
// left behind when it was killed.
//
// # Worth knowing
//
//   - A router moves to another host when both hosts are told so (Host). The
//     new one announces its addresses. Connections that were translated
//     end, for connection tracking is the host's own.
//   - A packet too long for the MTU of an interface or gateway is answered
//     by ICMP whether it may be fragmented or not; no switch cuts packets.
//   - A router that hides sources takes up no TCP connection in the middle.
//   - The userspace datapath looks a packet up seven times at most, once for each
//     use of connection tracking. Rules of both machines and one router that
//     translates take four, and the first packet of a hairpinned connection seven;
//     a packet that two such routers of one host translate
//     may be dropped, as may an answer that the second makes itself.
package ovsrouter
