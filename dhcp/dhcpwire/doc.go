// Package dhcpwire is a DHCP server without sockets: a request's bytes in, a
// reply's bytes out. Backends whose server is this process stand on it.
//
// A [Server] answers for one network. It is told scopes and reservations
// ([Server.PutScope], [Server.PutReservation]) and handles what came in
// ([Server.Handle4], [Server.Handle6]). The [Result] says what to send to
// whom, or why nothing is sent, and what happened. When Result.Durable is
// set, the lease store must be flushed before the reply leaves.
//
// DHCPv4 as in RFC 2131 and 2132, 3046 (relay information), 3396 (long
// options), 3397 (search), 3442 (routes), 3527 (link selection), 4039 (rapid
// commit), 4361 and 6842 (client identifier), 4578 (architecture), 4702
// (FQDN). DHCPv6 as in RFC 8415, with 3646 (DNS), 4704 (FQDN), 5908 (NTP),
// 5970 (boot), 6939 (link-layer address by the relay).
//
// Two rules differ on purpose from what servers of a shared wire do. Every
// reply's frame goes to the MAC that the request came from, also where the IP
// destination is the broadcast address (a client that asks for broadcast
// hears it, the neighbours do not). And a request must come from the MAC
// that it names, unless a relay named in [dhcp.Scope] carries it.
//
// All methods may be called from several goroutines. Nothing here waits.
package dhcpwire
