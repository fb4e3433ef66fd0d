// Package dhcptest is the conformance suite of DHCP backends: [Run] drives any
// backend, ours or a stranger's, through the contract of package dhcp.
//
// Ring 1 are the promises of [dhcp.Backend]. Ring 2 are packets: the suite's
// own client, which reads and writes the wire byte by byte and shares no code
// with a server, talks to the backend over real devices. Ring 3 are strangers:
// udhcpc, dhclient and dhcpcd boot in namespaces, and what they configured is
// what the state says.
package dhcptest
