// Package ovsdhcp serves DHCP to the ports of one Open vSwitch, from this
// process: no namespace, no device, no process more.
//
// # How
//
// Each scope is a few flows in the switch's DHCP table (see package ovs): what
// local ports of the network send to all DHCP servers or to this one, and what
// they ask for its address (ARP for Scope.ServerIP, neighbour discovery for its
// link-local address), is handed to this process with the port it came from.
// The answer is a packet-out to that very port. A machine's request never leaves
// its host, and nobody hears another's. Where a network has a scope of that IP
// version no other server on it is asked; where it has none, DHCP is left alone.
//
// What comes through tunnels or from a wire is not looked at, but for requests
// from a wire by relays that the scope names; those are answered into the
// network.
//
// A network's server has one MAC on all hosts, made from owner and network id,
// so a machine that moves finds its server again. When Scope.ServerIP is the
// router's address the router answers ARP for it, and requests to it are taken
// all the same: renewals by unicast work.
//
// # What stands, and restarts
//
// Scopes and reservations stand in the switch as records. A new process serves
// what stands from the start, and Plan compares with that. Leases of
// reservations need no store, for the application owns them: until their client
// renews, Leases does not list them after a restart. Leases of pools are in the
// [leasestore.Store] handed in; a client is told of its address when the record
// is on the disk.
//
// When the switch itself restarts all flows and records are gone; package ovs
// tells of it, and the application's next Sync brings them back. Who asked
// meanwhile asks again.
//
// A batch of the same switch may carry DHCP's changes together with those of
// other packages: [Backend.With].
//
// # One cannot starve the others
//
// Each network has a queue (bounded, drops counted) and a goroutine of its own.
// Each client, by network and MAC, has a token bucket (Options.ClientRate), and
// each port one of ten times that. A port that goes over is cut off from DHCP in
// the switch for a second, so its flood does not even come here. Ports of
// networks whose scopes name relays are not cut off: a relay has many clients.
//
// # Metrics
//
// Those of package linuxdhcp, by the same names.
package ovsdhcp
