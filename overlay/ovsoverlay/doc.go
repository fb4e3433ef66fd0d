// Package ovsoverlay makes networks and ports of one host on Open vSwitch,
// through [ovs.Target]: flows in tables 0, 1, 30, 32 and 59 to 63 of the host's
// one bridge.
//
// # The model
//
// A network is a number in a register, and in conntrack a zone; it has no
// device and no local VLAN. Flat and VLAN networks come and go by one patch
// port for each physical network, where flows push and pop the tag; VXLAN and
// Geneve by one tunnel port for each encapsulation, where flows say the
// network id and the other end.
//
//	 0 classify    from a port, a tunnel or the wire: whose frame is it?
//	 1 gate        networks that are down
//	30 responder   ARP and neighbour solicitations for known addresses
//	32 answer      second half of a neighbour advertisement
//	59 neighbours  for routers: the MAC of a known address
//	60 l2          to a port here, a port elsewhere, the wire, or to all
//	61 flood       to all ports here, by chunks of 64,
//	62             and off the host
//	63             a chunk
//
// Nothing is learnt: frames go to the ports that this host has and has been told
// of (overlay.RemotePort), and on physical networks else to the wire; to MACs
// that nobody has they go nowhere. What came by a tunnel or the wire goes to no
// tunnel and no wire.
//
// ARP and neighbour solicitations of this host's ports for known addresses are
// answered in place, with the MAC of who has the address; the kernel's datapath
// cannot make an advertisement of a solicitation (OVS_KEY_ATTR_ND_EXTENSIONS),
// which goes to the port in question alone there (Features.AsksHolder). A port that asks for
// an address of its own is not answered, nor is one that has no IPv6 address yet:
// duplicate address detection (RFC 5227, RFC 4862) finds other holders
// and not oneself. Of several ports that have one address the last that got it
// is answered for.
//
// Solicitations for link-local addresses are not answered but go, in one copy,
// to who has the address, for only it knows whether it is a router (RFC 4861,
// 7.2.5). With the kernel's datapath, which cannot make an advertisement of a
// solicitation, all go that way.
//
// What is sent to a group goes to every port of this host, each judged by
// itself (table 70), and off the host: to the wire, or a copy to each other
// host with ports of the network, as the network's Flooding says.
//
// # What a change costs
//
// Objects are kept apart so that one port is a few flows and records, whatever
// stands: its own flows, one object for each of its addresses, and the chunk of
// 64 ports that frames are flooded to. Records of all are on the switch (see
// package ovs): a new process knows what stands, and writes nothing when it is
// the same.
//
// # Worth knowing
//
//   - Flooding.UnknownUnicast is refused: there is nothing to learn from it.
//   - Tunnels of two owners on one switch need different UDP ports
//     (ovs.Options.VXLANPort, GenevePort).
//   - Frames for the next bridge only (01:80:c2:00:00:00 to 0f) go nowhere. On a
//     flat network tagged frames do not leave the host.
//   - A frame to all reaches some 2,000 ports of one network on one host, and
//     some 1,300 of those that security groups judge: Open vSwitch gives up a frame
//     that takes more than 4,096 steps. Off the host it goes to some 2,000 hosts
//     (1,300 by IPv6): then the list is longer than a message; one more is refused.
//   - A network's new MTU comes to a device when it is plugged again.
//   - When ovs-vswitchd has been restarted nothing passes until Sync has been
//     called; an event says so ([Backend.Watch]).
package ovsoverlay
