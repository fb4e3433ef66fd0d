// Package ovsqos limits ports, gateways and floating IPs on Open vSwitch, on
// both datapaths, by OpenFlow meters.
//
// A limit is a meter: of kilobits, of packets, or both, one after the other. What
// is over is dropped; nothing waits, but for what ports are sent when
// [Options.Queues] says so. Where packets pass a limit:
//
//   - What a port sends, in table 1 (gate), by the port's number. So is the DSCP set.
//   - What a port is sent, in table 80 (deliver), by the number of the port.
//   - What passes a gateway, in table 1 too: routers hand what they send on to that
//     table, and what comes to them comes by it. A gateway's packets are told by
//     its MAC, a floating IP's by its address; the latter's own limits win.
//
// A packet of a port without limits costs no look-up more. Numbers of meters are
// computed from those of ports and routers, four each; see docs/pipeline.md. Meters
// are no part of OpenFlow's bundles: those of new limits are made before the flows
// that use them, and those that nothing uses any more go after.
//
// ARP and neighbour discovery are not limited. Answers to them are made by flows
// that set their fields, which datapaths hand to a slow path; that never ends in
// Open vSwitch 3.1 when a meter stands before a tunnel there.
//
// # Guarantees
//
// On the kernel's datapath, uplinks of [Options.Devices] are shared out by HTB. A
// port with a guarantee has a queue of its number, which its flow in table 1 sets
// (set_queue): the kernel's priority of the packet, which a tunnel's packet keeps.
// A device that is a port of a bridge gets rows QoS and Queue (linux-htb), as
// ovs-vswitchd removes queues that it does not know of; any other gets the same
// HTB by netlink. What is promised and not used is everybody's.
//
// # The userspace datapath has no queues
//
// It sends past the priority of packets, so guarantees are refused there, by name.
// Queues towards ports are refused too: all devices are sent to by one packet
// socket, whose memory a queue that is full uses up. Tried with Open vSwitch 3.1, a
// port held to 1 Mbit/s by a queue got 0.2, and one held to 10 by a meter got 7.8
// while the other waited.
package ovsqos
