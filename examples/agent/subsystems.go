package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// This file knows the contracts and no backend; the wire_*.go files choose those.

// subsystems are the five services of this host.
type subsystems struct {
	overlay  *overlay.Fabric
	secgroup *secgroup.Enforcer
	router   *router.Service
	dhcp     *dhcp.Service
	metadata *metadata.Service
	// watch yields what happens to the platform itself; nil: nothing does that
	// the overlay's events do not tell.
	watch func(ctx context.Context) iter.Seq[vnet.Event]
	// cleanup removes everything of this owner on this host.
	cleanup func(ctx context.Context) error
	close   func() error
}

// hostOptions is what a platform has to know of the host.
type hostOptions struct {
	owner            vnet.Owner
	host             string
	netns, netnsDir  string
	tunnelIP         netip.Addr
	physicalNetworks map[string]string // -> device or bridge
	instances        metadata.Instances
	tokens           metadata.Tokens
	leases           *leasestore.Store
	log              *slog.Logger
	metrics          prometheus.Registerer

	vswitch, rundir  string // of Open vSwitch
	bridge, datapath string
}

// platforms are the values of -backend.
var platforms = map[string]func(context.Context, hostOptions) (*subsystems, error){
	"linux": wireLinux,
}

// step is one subsystem's part in the order of making: what connects comes
// after what filters it, what serves comes last.
type step struct {
	name  string
	plan  func(context.Context, *subsystems, *topology.States) (vnet.Plan, error)
	sync  func(context.Context, *subsystems, *topology.States, vnet.SyncOptions) error
	count func(*topology.States) int // objects wanted
	diff  func(old, want *topology.States) []vnet.Change
}

var steps = []step{
	{"overlay",
		func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return s.overlay.Plan(ctx, w.Overlay)
		},
		func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return s.overlay.Sync(ctx, w.Overlay, o)
		},
		func(w *topology.States) int {
			return len(w.Overlay.Networks) + len(w.Overlay.Ports) + len(w.Overlay.RemotePorts)
		},
		func(old, want *topology.States) []vnet.Change { return overlay.Diff(old.Overlay, want.Overlay) }},
	{"secgroup",
		func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return s.secgroup.Plan(ctx, w.SecGroup)
		},
		func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return s.secgroup.Sync(ctx, w.SecGroup, o)
		},
		func(w *topology.States) int {
			return len(w.SecGroup.Groups) + len(w.SecGroup.AddressGroups) + len(w.SecGroup.Ports)
		},
		func(old, want *topology.States) []vnet.Change { return secgroup.Diff(old.SecGroup, want.SecGroup) }},
	{"router",
		func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return s.router.Plan(ctx, w.Router)
		},
		func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return s.router.Sync(ctx, w.Router, o)
		},
		func(w *topology.States) int {
			return len(w.Router.Routers) + len(w.Router.FloatingIPs) + len(w.Router.PortForwards)
		},
		func(old, want *topology.States) []vnet.Change { return router.Diff(old.Router, want.Router) }},
	{"dhcp",
		func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return s.dhcp.Plan(ctx, w.DHCP)
		},
		func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return s.dhcp.Sync(ctx, w.DHCP, o)
		},
		func(w *topology.States) int { return len(w.DHCP.Scopes) + len(w.DHCP.Reservations) },
		func(old, want *topology.States) []vnet.Change { return dhcp.Diff(old.DHCP, want.DHCP).Changes }},
	{"metadata",
		func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return s.metadata.Plan(ctx, w.Metadata)
		},
		func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return s.metadata.Sync(ctx, w.Metadata, o)
		},
		func(w *topology.States) int { return len(w.Metadata.Endpoints) },
		func(old, want *topology.States) []vnet.Change {
			return metadata.Diff(old.Metadata, want.Metadata).Changes
		}},
}

// servers are what needs this process while it works.
func (s *subsystems) servers() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"router": s.router.Serve, "dhcp": s.dhcp.Serve, "metadata": s.metadata.Serve}
}

// health is what the subsystems say of themselves.
func (s *subsystems) health(ctx context.Context) map[string]vnet.Health {
	return map[string]vnet.Health{"overlay": s.overlay.Health(ctx), "secgroup": s.secgroup.Health(ctx), "router": s.router.Health(ctx),
		"dhcp": s.dhcp.Health(ctx), "metadata": s.metadata.Health(ctx)}
}

// errKind: nothing is known of the kind of thing.
var errKind = errors.New("kinds are network, port, group, rule, addressgroup, router, floatingip, portforward, scope, reservation, endpoint")

// explain asks the subsystems that know things of that kind.
func (s *subsystems) explain(ctx context.Context, kind, id string) ([]vnet.Explanation, error) {
	type ask = func(context.Context, string, string) (vnet.Explanation, error)
	asks := map[string][]ask{
		"network": {s.overlay.Explain, s.dhcp.Explain}, "port": {s.overlay.Explain, s.secgroup.Explain},
		"group": {s.secgroup.Explain}, "rule": {s.secgroup.Explain}, "addressgroup": {s.secgroup.Explain},
		"router": {s.router.Explain}, "floatingip": {s.router.Explain}, "portforward": {s.router.Explain},
		"scope": {s.dhcp.Explain}, "reservation": {s.dhcp.Explain}, "endpoint": {s.metadata.Explain},
	}[kind]
	if asks == nil {
		return nil, fmt.Errorf("%q: %w", kind, errKind)
	}
	var out []vnet.Explanation
	var last error
	for _, f := range asks {
		e, err := f(ctx, kind, id)
		switch {
		case err == nil:
			out = append(out, e)
		case errors.Is(err, vnet.ErrNotFound), errors.Is(err, vnet.ErrUnsupported):
			last = err
		default:
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, last
	}
	return out, nil
}

// services are the concrete types over backends.
func services(ob overlay.Backend, sb secgroup.Backend, rb router.Backend, db dhcp.Backend, mb metadata.Backend) (*subsystems, error) {
	var s subsystems
	var errs [5]error
	s.overlay, errs[0] = overlay.New(ob, nil)
	s.secgroup, errs[1] = secgroup.New(sb, nil)
	s.router, errs[2] = router.New(rb, nil)
	s.dhcp, errs[3] = dhcp.New(db, nil)
	s.metadata, errs[4] = metadata.New(mb, nil)
	return &s, errors.Join(errs[:]...)
}
