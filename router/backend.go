package router

import (
	"context"
	"slices"

	"github.com/vnet-go/vnet"
)

// Backend makes routers on one platform. The rules are those of
// overlay.Backend. In addition:
//
//   - A floating IP or port forward that is moved, changed or deleted ends the
//     connections that used it, and no others. A router that has floating IPs
//     or forwards is deleted together with its connections; Delete of one
//     whose floating IPs stand is [vnet.ErrInUse], and so is an EnsureRouter
//     that would leave them without a gateway or without a way to the fixed
//     address.
//   - A floating IP or forward whose addresses, or ports, are another's is
//     [vnet.ErrConflict], and so is one that its router cannot carry
//     ([Router.CheckFloatingIP], [Router.CheckPortForward]).
//   - Addresses that appear or move are announced by gratuitous ARP and
//     unsolicited neighbour advertisements.
//   - EnsureFloatingIP and EnsurePortForward of a router that does not exist
//     or has no gateway are [vnet.ErrNotFound] and [vnet.ErrConflict]; those of
//     a router on another host (per-host platforms) do nothing.
type Backend interface {
	EnsureRouter(ctx context.Context, r Router) error
	DeleteRouter(ctx context.Context, id string) error
	EnsureFloatingIP(ctx context.Context, f FloatingIP) error
	DeleteFloatingIP(ctx context.Context, id string) error
	EnsurePortForward(ctx context.Context, f PortForward) error
	DeletePortForward(ctx context.Context, id string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
	Features(ctx context.Context) Features
}

// Features is what a backend can do.
type Features struct {
	RA           bool // router advertisements
	PortForward  bool
	IPv6         bool
	Distributed  bool // routes and translates on the host of the port
	ExtraRoutes  bool
	SharedGateIP bool // port forwards may use the router's own gateway address
	// Limits are where the platform does otherwise than this package says, and
	// cannot do better.
	Limits []Limit
}

// Has reports whether l is one of the limits.
func (f Features) Has(l Limit) bool { return slices.Contains(f.Limits, l) }

// Limit names something that a platform does otherwise than this package says.
// What it does instead is part of the name's meaning, and tested by package
// routertest.
type Limit string

// The limits.
const (
	// Connections from outside to a fixed address behind a router that hides
	// sources (no DisableSNAT) do not come about: answers leave with the
	// gateway's address.
	LimitRoutedIn Limit = "routed-in"
	// Who is called from inside by a port forward sees the caller's own
	// address; whoever calls itself so, the gateway's first IPv4 address. All
	// machines on the router's internal networks are forwarded, also those that
	// use another router, and these networks pass no answers that come another
	// way than the question. A floating IP of a machine that ports are forwarded
	// to is not reached by others behind the router on the ports they lead to.
	LimitForwardHairpin Limit = "forward-hairpin"
	// What goes to a floating IP from inside, and its answers, pass the router
	// twice: their TTL is lowered by two.
	LimitHairpinTTL Limit = "hairpin-ttl"
	// Connections of a floating IP that is moved go on, with whom they began.
	// Those of one that is deleted end.
	LimitMovedConnections Limit = "moved-connections"
	// Packets of connections that the router has not seen begin are translated
	// as if they began one.
	LimitPicksUp Limit = "picks-up"
	// A connection through a port forward that has packets on their way while
	// the forward is deleted, or within a second, may go on; an idle one ends.
	LimitBusyForwards Limit = "busy-forwards"
	// A router with a gateway is silent about ports of its own that nobody
	// serves: no reset, no ICMP. It does not answer ping at external addresses of
	// port forwards that are not its gateway's own.
	LimitSilentPorts Limit = "silent-ports"
	// IPv6 addresses that appear or move are not announced.
	LimitAnnounceIPv6 Limit = "announce-ipv6"
	// Router advertisements are sent whether Serve runs or not, give the router
	// a lifetime of 65535 s whatever the interval is, and just cease when there
	// are to be none.
	LimitAdvertisedLifetime Limit = "advertised-lifetime"
)

// Runner is implemented by backends whose routers need this process while
// they work (sending router advertisements, for one). Serve returns when ctx
// ends or the platform is lost; it serves routers ensured before and after.
type Runner interface {
	Serve(ctx context.Context) error
}

// Explainer is implemented by backends that can say what carries an object.
type Explainer interface {
	// Explain takes "router", "floatingip" or "portforward" and its id.
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}
