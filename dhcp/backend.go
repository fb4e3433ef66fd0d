package dhcp

import (
	"context"
	"iter"
	"slices"

	"github.com/vnet-go/vnet"
)

// Backend serves DHCP on one platform. The rules are those of overlay.Backend.
// Delete of a scope whose addresses reservations hold is allowed: they are
// no longer served.
type Backend interface {
	EnsureScope(ctx context.Context, s Scope) error
	DeleteScope(ctx context.Context, id string) error
	EnsureReservation(ctx context.Context, r Reservation) error
	DeleteReservation(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
	Features(ctx context.Context) Features
}

// Features is what a backend can do.
type Features struct {
	Pool    bool // pool allocator with a durable store
	Relay   bool // requests through relays (giaddr)
	V6      bool
	Leases  bool // knows who holds what (LeaseLister)
	Options bool // options by code
	// Central: it serves on all hosts, and does not look at Reservation.Host.
	// A reservation is for a port that the overlay has on the network, by its
	// MAC, and its addresses are fixed IPs of it: one whose port is neither
	// there nor in the same batch is [vnet.ErrNotFound], one with other
	// addresses a [*vnet.FieldError]. It goes with its port.
	Central bool
	// Limits are where the platform does otherwise than this package says, and
	// cannot do better.
	Limits []Limit
}

// Has reports whether l is one of the limits.
func (f Features) Has(l Limit) bool { return slices.Contains(f.Limits, l) }

// Limit names something that a platform does otherwise than this package says.
// What it does instead is part of the name's meaning, and tested by package
// dhcptest.
type Limit string

// The limits.
const (
	// Options by code that the platform has no word for are refused.
	LimitOptionCodes Limit = "option-codes"
	// Reservation.ClientID and DUID are refused, and a DHCPv4 client identifier
	// is not sent back (RFC 6842).
	LimitClientID Limit = "client-id"
	// Boot files of client architectures are refused, but for [BootDefault] and
	// [BootIPXE] beside it. They are sent as option 67 only, and iPXE clients are
	// told no address of the next server.
	LimitBootFiles Limit = "boot-files"
	// Scope.RapidCommit is refused.
	LimitRapidCommit Limit = "rapid-commit"
	// Clients that nobody reserved for hear nothing, whatever Scope.NAKUnknown
	// says, and in stateless scopes too. Whom a stateless scope serves has a port
	// with an address of its subnet.
	LimitUnknown Limit = "unknown-clients"
	// A client whose address has changed while it held a lease is not refused
	// before it boots or the lease ends.
	LimitMovedLease Limit = "moved-lease"
	// Everything that the scope says is sent, asked for or not.
	LimitAllOptions Limit = "all-options"
	// DHCPv6 gives addresses for ever, whatever Scope.Lease says; Renew, Rebind
	// and Release are not answered, and Confirm, Decline, and Solicit where there
	// are no addresses, are answered without a status.
	LimitLease6 Limit = "lease6"
	// DHCPv6 tells no search domains.
	LimitSearch6 Limit = "search6"
	// Clients are told no domain-qualified name of theirs (options 81, v6 39).
	LimitNames Limit = "names"
	// DHCPv4 refusals are shorter than the 300 bytes of BOOTP (RFC 1542, 2.1), and
	// sent to the client's own address.
	LimitRefusals Limit = "refusals"
	// A request for a client's own address is granted also when it names
	// another server.
	LimitServerChoice Limit = "server-choice"
	// Several addresses of one client by DHCPv6 are refused.
	LimitOneAddress Limit = "one-address"
)

// Runner is implemented by backends whose server is this process. Serve
// returns when ctx ends; it serves what was ensured before and after.
type Runner interface {
	Serve(ctx context.Context) error
}

// LeaseLister is implemented by backends that know what clients hold.
type LeaseLister interface {
	Leases(ctx context.Context) iter.Seq2[Lease, error]
}

// Watcher is implemented by backends that notice leases.
type Watcher interface {
	// Watch yields events until ctx ends: "lease" for every lease given or
	// renewed, "release", "decline" and "nak". ID is the reservation's, or the
	// scope's for a pool address; Detail has "scope", "network", "mac", "ip",
	// and for leases "expires" (RFC 3339, absent when infinite), "hostname"
	// (what the client calls itself) and "state" ("new" or "renewed").
	// A slow reader gets one [vnet.EventLost] in place of what was dropped.
	Watch(ctx context.Context) iter.Seq[vnet.Event]
}

// Explainer is implemented by backends that can say what carries an object.
type Explainer interface {
	// Explain takes "scope", "reservation" or "network" and its id.
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}
