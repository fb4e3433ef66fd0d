// Package ovsqos limits ports, gateways and floating IPs on Open vSwitch, on
// both datapaths, by OpenFlow meters.
//
// A limit is a meter: of kilobits, of packets, or both, one after the other. What
// is over is dropped; nothing waits. Where packets pass a limit:
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
// Not there: guarantees, and shaping by queues. On the userspace datapath
// set_queue has no effect on devices, and on the kernel's the device that carries
// tunnels is no port of the bridge.
package ovsqos
