// Package linuxdhcp serves DHCP on Linux: one process answers for all
// networks of a host.
//
// # How
//
// A network is a bridge without addresses (linux.Host.NetworkDevice). For each
// network that has a scope there is one AF_PACKET socket on that bridge, with a
// filter that lets up ARP requests, neighbour solicitations and DHCP. Nothing
// else is made in the kernel: no namespace, no address, no process, no rule.
// Replies are frames written to the same socket, to the MAC that asked.
//
// The server answers ARP for Scope.ServerIP, unless it is the router's, and
// has the link-local address made of the bridge's MAC, for which it answers
// neighbour solicitations. A bridge that comes after its scope, or comes again,
// is served from the moment it is there.
//
// A batch of the same host may carry DHCP's changes together with those of
// other packages: [Backend.With] gives a backend that serves the same and
// writes through the batch.
//
// # One cannot starve the others
//
// Each network has its own kernel queue (bounded, drops counted) and its own
// goroutine. Each client, by network and MAC, has a token bucket
// (Options.ClientRate); clients behind a relay that a scope names each have
// their own. What is over is dropped before it is looked at.
//
// # State
//
// What is served is this process's own desired state: after a restart the
// application calls Sync again, and Plan compares with what this process
// serves. Leases of reservations need no store, for the application owns them:
// until their client renews, Leases does not list them after a restart. Leases
// of pools are in the [leasestore.Store] handed in; a client is told of its
// address when the record is on the disk, and all clients whose requests are
// waiting share one sync.
//
// # Metrics
//
// With Options.Metrics: vnet_dhcp_requests_total and vnet_dhcp_replies_total
// by family and type, vnet_dhcp_dropped_total by reason,
// vnet_dhcp_arp_replies_total, vnet_dhcp_neighbor_advertisements_total,
// vnet_dhcp_networks; all with the label owner.
package linuxdhcp
