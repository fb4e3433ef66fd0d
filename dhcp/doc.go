// Package dhcp gives virtual machines their addresses: DHCPv4 (RFC 2131) and
// DHCPv6 (RFC 8415) whose leases the application owns.
//
// # Model
//
// A [Scope] is DHCP for one subnet of a network: what the server tells every
// client there. A [Reservation] binds one client, by MAC and where given by
// client identifier or DUID, to its addresses, at most one in each scope.
// Reservations are the normal case: the application's control plane decided
// the address before the machine booted, and the server only tells it. A
// client that nobody reserved anything for is not answered, unless the scope
// has a [Scope.Pool]: then the backend's own durable lease store gives it an
// address.
//
// Several networks may use the same addresses: a request is judged by the
// network it came in on, never by its addresses alone.
//
// # Who says no
//
// A known client that asks for an address that is not its own is refused
// (DHCPNAK, NotOnLink), so that a machine moved to another network starts
// anew at once. An unknown client is refused only where [Scope.NAKUnknown]
// says that nobody else serves the subnet; otherwise it hears nothing, as
// RFC 2131, section 4.3.2, asks. A client whose reservation names another
// host hears nothing here: its own host answers.
//
// A request that did not come through a relay must be sent from the MAC it
// names (chaddr): a machine cannot ask, release or decline for its neighbour.
//
// # Use
//
// Applications hold a [Service] over a [Backend] and call Ensure, Delete and
// Sync as in package overlay. A backend whose server is this process
// ([Runner]) serves while [Service.Serve] runs.
//
// # Concurrency and errors
//
// A [Service] is safe for use by several goroutines and keeps no state. Bad
// input is a [*vnet.FieldError] (several are joined); everything else a
// [*vnet.OpError].
package dhcp
