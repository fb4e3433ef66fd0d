// Package linuxmetadata makes the endpoints of metadata on one Linux host and
// answers at them, from this process.
//
// An endpoint in a router lives in the router's network namespace, as a table
// of its own, inet vnet-metadata, that redirects what comes in from the
// router's internal devices for 169.254.169.254, fd00:ec2::254 and
// fe80::a9fe:a9fe, TCP port 80, to port 9697, drops what comes to 9697 in any
// other way, and never lets the addresses be forwarded. Each internal device
// has fe80::a9fe:a9fe, so that neighbour discovery finds it. The two others
// are reached by the default route, or by what DHCP option 121 says.
//
// An endpoint on a network without a router has a namespace with a veth on
// the network's bridge, the three addresses and the endpoint's own. It stands
// on every host, with the same MAC and addresses, and answers that host's own
// machines: in the bridge table what has the endpoint's MAC for a source and
// comes from anywhere but the endpoint's own device is dropped, before the
// bridge learns from it, and what the endpoint sends goes to ports of this
// host only. So two hosts do not collide, and no duplicate address detection
// is done.
//
// Who asks is known by the namespace a connection came in by and its source
// address; a link-local one by the device too.
//
// Endpoints whose router or network does not stand yet are remembered, and
// made by Serve when it does. What stands in the kernel outlives the process;
// a new one adopts it when it is told of the endpoint again.
package linuxmetadata
