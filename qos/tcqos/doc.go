// Package tcqos holds limits and guarantees on the Linux kernel.
//
//   - Bandwidth towards a port is a token bucket (tc-tbf(8)) on its device:
//     what is over waits, up to 100 ms, and is dropped then.
//   - Bandwidth from a port is the same on an ifb that all it sends is
//     redirected to; on a kernel without ifb, or when [Options.Police] says so,
//     a policer, which lets nothing wait.
//   - Packet rates, DSCP marks and priorities are nftables' in family bridge, by
//     the port's index, behind a verdict map: a port without any costs one look-up.
//   - Guarantees are classes of an HTB on the device of a physical network, or
//     on the one that has the tunnels' address. What a port sends has the class
//     as its priority, which it keeps under a VXLAN header and a VLAN tag.
//   - Limits of gateways and floating IPs are nftables' in the router's
//     namespace, behind maps by address. They drop what is over and count IP
//     packets: without the 14 bytes of an Ethernet header. To the burst nftables
//     adds what passes in one second at the limit.
//
// What was asked for stands beside the rules, in the comments of a set's
// elements; a new process reads it there. Limits that were asked for before a
// device is plugged, or a router made, take effect in the same commit if the
// backend is open on the host's handle; what another process plugs or makes is
// seen by [Backend.Serve].
package tcqos
