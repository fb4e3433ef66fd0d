// Package whole is the second ring of the conformance tests: whole clouds. It
// draws worlds at random (networks, ports, routers, floating IPs, security
// groups on two hosts), makes them by Sync of overlay, secgroup and router,
// one after the other on the same hosts, and compares what becomes of packets
// with package reach, the judge:
//
//   - worlds: a packet from everybody to every address, and more at random,
//     arrives where, and only where, the judge says, with the addresses,
//     ports, MACs and TTL that it says; and so do the answers, and ICMP errors
//     about it. What stood before, on this host or the other, changes nothing.
//   - streams: while Sync makes another world and this one again, what is
//     forbidden at every moment never arrives, and what is allowed at every
//     moment loses nothing.
//   - same: worlds by number, the same on every platform, each made from the one
//     before, for as long as packets are asked for ([Same]).
//   - owners: two clouds with the same ids and addresses are on the same hosts;
//     what happens to one, and its end, is nothing to the other.
//
// Each subsystem's own suite (overlaytest, secgrouptest, routertest) comes
// before: what fails here and not there is about how they meet.
//
// A platform brings a [Harness]. Machines are namespaces with one device and
// no stack of their own: they answer ARP and neighbour solicitations, and all
// else that they send is made here, frame by frame. rapid shrinks what fails to
// a small world, which is printed with the packet and the judge's reasons.
//
// What the platform does otherwise than a contract says is in [Limits] and in the
// Features of its backends, and not looked at; how many packets were left out
// for which limit is said at the end. On OVN only same runs. Left to the subsystems' suites are metadata, frames that are not
// IP, fragments, and worlds that are changed object by object or by a process
// that is killed.
package whole
