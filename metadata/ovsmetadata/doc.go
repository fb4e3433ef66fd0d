// Package ovsmetadata makes the endpoints of metadata on one Open vSwitch and
// answers at them, from this process. A machine's requests never leave its host.
//
// # How
//
// A host has one metadata device: a veth whose one end is in the switch and
// whose other end, meta0, is in a namespace of ours, OWNER.HOST.metadata.metadata.
// There are no namespaces, devices or addresses for networks, routers or
// endpoints.
//
// An endpoint is flows in the switch's metadata table (see package ovs). What a
// local port of its network sends to 169.254.169.254, fd00:ec2::254 or
// fe80::a9fe:a9fe, TCP port 80, gets a new destination and goes to the device:
//
//	198.18.0.0 + port number              was 169.254.169.254
//	fd00:a9fe:a9fe:1::NETWORK:PORT        was fd00:ec2::254
//	fd00:a9fe:a9fe:2::NETWORK:PORT        was fe80::a9fe:a9fe
//	TCP 0x4000 + network number           of an endpoint on a network
//	TCP 0x8000 + router number            of an endpoint in a router
//
// The source stays. So each port of the switch has a destination of its own, and
// connections of tenants with the same addresses are not alike; the listening
// socket says which endpoint was asked, and the source who asks, with nothing
// that a machine could say about itself. The namespace owns all these addresses
// by two routes of type local. The connection is tracked in the port's own zone,
// whose label has the MACs and the network; answers of connections that the
// machine began get their old source back and go to the machine's port, by its
// ingress rules. Nothing else gets in or out.
//
// ARP for the service's addresses, and for the endpoint's own, is answered by
// flows, and neighbour discovery by this process, from local ports only.
// Anything else that is sent to the service's addresses is dropped.
//
// # Endpoints in routers
//
// An endpoint in a router serves the networks that the router has interfaces on,
// as the router's record in the switch says, on every host, whatever
// Endpoint.Host says: with distributed routers there is no one host where the
// requests of its networks come by. Until the router is there it waits; Serve
// follows a router that changes. Where a network has both, its own endpoint
// answers.
//
// # Restarts
//
// Endpoints stand in the switch as records: Plan compares with them, and a new
// process answers at them when it serves. The device stands while there is an
// endpoint. When the switch itself restarts, its flows are gone until the
// application's next Sync.
//
// A machine whose own address is in 198.18.0.0/17 (RFC 2544) or in
// fd00:a9fe:a9fe::/48 cannot be answered. The service does not answer ping.
package ovsmetadata
