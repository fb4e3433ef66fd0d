// Package qos limits and guarantees the traffic of ports, of routers'
// gateways and of floating IPs.
//
// # The model
//
// A [Policy] says how much may pass each way, how much is promised, and how
// packets are marked. Directions are the instance's, as Neutron's are: egress
// is what a port sends (or what leaves a cloud by a gateway or from a floating
// IP), ingress is what it is sent. [Assignments] says whose policy is which: a
// port has its own, or else its network's; a floating IP and a gateway have
// their own, or else the external network's. Policies are never merged.
//
// Backends are not told of policies: [Assignments.State] resolves them once,
// and every backend gets what each port, gateway and floating IP may do, as a
// [State]. An application that changes a policy calls Sync with the new State,
// or ensures the ports concerned, in one batch where the platform has them.
//
// # What a number means
//
// Bandwidth is in kbit/s, of 1000 bit, and counts Ethernet frames without
// preamble and checksum. A burst is a size in kbit: how much may pass at once
// after a silence. Zero means 80 % of what passes in one second at the limit,
// which leaves TCP its throughput (see [Limits.Burst]). Packet rate is in
// packets a second, whatever their size.
//
// What is over a limit is dropped, or waits and is dropped when too much
// waits, as the backend says. Changing a limit interrupts nothing.
//
// # Guarantees
//
// A minimum is first of all a promise, which package qos/placement keeps: a
// ledger that never promises more of a device than it has. Where the platform
// can, it is also enforced: a [Port] that says by which [Uplink] it leaves its
// host gets at least its minimum there, whatever the others send. What is not
// promised to anybody, or not used, is everybody's.
package qos
