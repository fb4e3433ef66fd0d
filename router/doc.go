// Package router is the layer 3 of a virtual network: routers, source NAT,
// floating IPs, port forwarding and router advertisements.
//
// # The model
//
// A [Router] joins networks. Each [Interface] is a port of its own on an
// internal network with an address in every subnet the router serves there;
// the [Gateway] is its port on an external network. Packets between internal
// networks are routed and never translated. Routers know nothing of each
// other: two may have the same subnets behind them.
//
// IPv4 packets that leave by the gateway get the gateway's first IPv4 address
// as their source, unless [Gateway.DisableSNAT]. Connections that came in from
// outside keep their source address. IPv6 is routed, never translated.
//
// A [FloatingIP] is an address of the external network that stands for one
// fixed address behind the router, in both directions and whatever
// DisableSNAT says. A [PortForward] maps ports of an external address, which
// may be the gateway's own, to an internal one. Both work from inside too
// (hairpin): a machine behind the router that calls the floating IP of a
// neighbour, or its own, reaches it, and the callee sees the caller's floating
// IP, or the gateway's first IPv4 address when it has none, so that replies
// come back through the router.
//
// The router answers ping at its own addresses, and ARP and neighbour
// solicitations for the external addresses of floating IPs and forwards. It
// lowers TTL and hop limit by one and says so by ICMP when they end.
//
// Interfaces with [RA] send router advertisements (RFC 4861) and answer
// solicitations as long as the backend is served ([Runner]).
//
// # Use
//
// Applications call [Service], made by [New] over a [Backend]. It validates
// (field names and reasons), brings input into canonical form and wraps errors;
// it keeps no state. Backends stand in packages of their own, memrouter among
// them for tests without a platform; package routertest judges them.
package router
