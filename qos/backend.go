package qos

import (
	"context"

	"github.com/vnet-go/vnet"
)

// Backend limits and guarantees on one platform. The rules are those of
// overlay.Backend. In addition:
//
//   - Ensure of what asks for nothing is the same as Delete.
//   - A port may be ensured before or after its device is plugged: the limits
//     hold from plugging on. So may a gateway and a floating IP before the router.
//     On a central platform the overlay's port, or the external network, must be
//     there or pending in the same batch ([vnet.ErrNotFound]).
//   - Changing a limit loses no packet that is within both, and ends nothing.
//   - Both limits of a direction hold: what is over one of them is dropped, or
//     waits and is dropped when more waits than the backend lets wait.
//   - The limits of a port and those of the floating IP or gateway that its
//     packets pass hold one after the other.
//   - Ensuring a port whose guarantee is more than its uplink has left, or whose
//     uplink is not there, is [vnet.ErrConflict]; so is an uplink made smaller than
//     what stands. Delete of an uplink with guarantees is [vnet.ErrInUse].
type Backend interface {
	EnsurePort(ctx context.Context, p Port) error
	DeletePort(ctx context.Context, id string) error
	EnsureGateway(ctx context.Context, g Gateway) error
	DeleteGateway(ctx context.Context, routerID string) error
	EnsureFloatingIP(ctx context.Context, f FloatingIP) error
	DeleteFloatingIP(ctx context.Context, id string) error
	EnsureUplink(ctx context.Context, u Uplink) error
	DeleteUplink(ctx context.Context, name string) error
	Sync(ctx context.Context, s State, o vnet.SyncOptions) error
	Plan(ctx context.Context, s State) (vnet.Plan, error)
	Health(ctx context.Context) vnet.Health
	// Features tells what this backend can do on this platform, found out by
	// looking. What it cannot do it refuses with [*vnet.UnsupportedError].
	Features(ctx context.Context) Features
	// Statistics returns what has passed and what was dropped by limits since
	// they were made, of all that are limited, sorted by kind, id and direction.
	Statistics(ctx context.Context) ([]Statistics, error)
}

// Abilities are which limits a backend holds for one kind of object.
type Abilities struct {
	EgressBandwidth, IngressBandwidth   bool
	EgressPacketRate, IngressPacketRate bool
	DSCP                                bool
}

// Features is what a backend can do.
type Features struct {
	Port, Gateway, FloatingIP Abilities
	// Guarantees: Egress.MinKbps is enforced on uplinks that are physical
	// networks; TunnelGuarantees: on the one that carries tunnels.
	Guarantees, TunnelGuarantees bool
	// Mechanism says by what means, for people, e.g. "HTB towards ports, police from them".
	Mechanism string
	// Missing says for what is refused, by the names "egress bandwidth", "ingress packet rate", "DSCP", "guarantees", "tunnel guarantees",
	// what would provide it, for people.
	Missing map[string]string
	// Limits are sentences, for people, that say where the platform does
	// otherwise than the contract.
	Limits []string
}

// Statistics is what one limited direction of an object has let pass and dropped.
type Statistics struct {
	Kind      string    `json:"kind"` // "port", "gateway" or "floatingip"
	ID        string    `json:"id"`
	Direction Direction `json:"direction"`
	Passed    Count     `json:"passed"`
	Dropped   Count     `json:"dropped"` // because of a limit
}

// NoStatistics is for backends: an entry, without counts, for each limited
// direction of s, sorted.
func NoStatistics(s State) []Statistics {
	out := []Statistics{}
	add := func(kind, id string, x Shape) {
		for _, d := range []Direction{Egress, Ingress} {
			if x.Way(d).Limited() {
				out = append(out, Statistics{Kind: kind, ID: id, Direction: d})
			}
		}
	}
	s = s.Canonical()
	for _, f := range s.FloatingIPs {
		add("floatingip", f.ID, f.Shape)
	}
	for _, g := range s.Gateways {
		add("gateway", g.RouterID, g.Shape)
	}
	for _, p := range s.Ports {
		add("port", p.ID, p.Shape)
	}
	return out
}

// Count is of packets and their bytes. Bytes are 0 where the platform counts
// packets only.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Explainer is implemented by backends that can say what carries an object.
type Explainer interface {
	// Explain takes "port", "gateway", "floatingip" or "uplink" and its id.
	Explain(ctx context.Context, kind, id string) (vnet.Explanation, error)
}

// Runner is implemented by backends that have something to do between calls,
// for instance for devices that other processes plug. Serve returns when ctx
// ends, or with an error.
type Runner interface {
	Serve(ctx context.Context) error
}
