package metadata

import (
	"context"
	"iter"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Endpoint is one place where instances reach the metadata service: in a
// router, or on a network that has none.
type Endpoint struct {
	ID string `json:"id"`
	// Exactly one of RouterID and NetworkID. With RouterID requests of all
	// networks attached to the router are taken from it; with NetworkID the
	// endpoint is a port of the network.
	RouterID  string `json:"router_id,omitempty"`
	NetworkID string `json:"network_id,omitempty"`
	// For NetworkID: the endpoint's own port, whose first IPv4 address the
	// DHCP option 121 route to 169.254.169.254 points at.
	PortID    string         `json:"port_id,omitempty"`
	MAC       vnet.MAC       `json:"mac"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Host      string         `json:"host,omitempty"` // of the router; a NetworkID endpoint is on every host
}

// State is the whole desired state of metadata as one backend sees it.
type State struct {
	Endpoints []Endpoint `json:"endpoints"`
}

// Asker is who asks, as found out from where the request came in and not
// from anything the request says.
type Asker struct {
	RouterID  string     // or
	NetworkID string     // the network the request came from, when known
	Addr      netip.Addr // source address, unmapped, without zone
	MAC       vnet.MAC   // of a link-local IPv6 source made by EUI-64; zero otherwise
}

// Instances is what the application implements: who is behind an address,
// and what it is to be told.
type Instances interface {
	// Lookup returns the instance that asks. [vnet.ErrNotFound] becomes 404;
	// [vnet.ErrNotReady] and any other error 503, because clients give up for
	// good on 404. The same address in two networks is two instances.
	Lookup(ctx context.Context, a Asker) (*Instance, error)
}

// Backend makes endpoints on one platform. The rules are those of
// overlay.Backend.
type Backend interface {
	EnsureEndpoint(ctx context.Context, e Endpoint) error
	DeleteEndpoint(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
}

// Features is what a backend can do.
type Features struct {
	Router bool // endpoints in routers; all backends can do those on networks
	// Central: it writes for all hosts. Endpoints are on networks that stand or
	// are in the same batch, else [vnet.ErrNotFound], and an agent on every host
	// answers there.
	Central bool
}

// Limited is implemented by backends that cannot do everything that
// [Features] names.
type Limited interface {
	Features(ctx context.Context) Features
}

// Runner is implemented by backends whose proxy is this process. Serve
// returns when ctx ends; it serves what was ensured before and after.
type Runner interface {
	Serve(ctx context.Context) error
}

// Watcher is implemented by backends that tell of requests: kinds "refused",
// "limited" and "failed", the id is the endpoint's.
type Watcher interface {
	// Watch yields the events from this call on, until ctx ends. A watcher that
	// is too slow loses some and gets one of kind [vnet.EventLost].
	Watch(ctx context.Context) iter.Seq[vnet.Event]
}

// Explainer is implemented by backends that can say what carries an endpoint.
type Explainer interface {
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}
