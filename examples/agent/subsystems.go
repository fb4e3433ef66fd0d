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
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// This file knows the contracts and no backend; the wire_*.go files choose those.

// subsystems are the six services of this host.
type subsystems struct {
	overlay  *overlay.Fabric
	secgroup *secgroup.Enforcer
	qos      *qos.Shaper
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
	peers            map[string]netip.Addr // other hosts' ends of tunnels
	physicalNetworks map[string]string     // -> device or bridge
	instances        metadata.Instances
	tokens           metadata.Tokens
	leases           *leasestore.Store
	log              *slog.Logger
	metrics          prometheus.Registerer

	vswitch, rundir, control string // of Open vSwitch
	bridge, datapath         string
}

// platforms are the values of -backend.
var platforms = map[string]func(context.Context, hostOptions) (*subsystems, error){
	"linux": wireLinux,
	"ovs":   wireOVS,
}

// step is one subsystem's part in the order of making: what connects comes
// after what filters it, what serves comes last.
type step struct {
	name  string
	plan  func(context.Context, *subsystems, *topology.States) (vnet.Plan, error)
	sync  func(context.Context, *subsystems, *topology.States, vnet.SyncOptions) error
	count func(*topology.States) int // objects wanted
	diff  func(old, want *topology.States) []vnet.Change
	// add makes all that is wanted one by one and removes nothing; nil where one
	// object cannot be in the way of others.
	add func(context.Context, *subsystems, *topology.States) error
}

// service is what all six have, over the states of their own.
type service[S any] interface {
	Plan(context.Context, S) (vnet.Plan, error)
	Sync(context.Context, S, vnet.SyncOptions) error
}

// stepOf is the step of a service whose states are of type S.
func stepOf[S any](name string, the func(*subsystems) service[S], of func(*topology.States) S, count func(S) int, diff func(old, want S) []vnet.Change,
	add func(context.Context, *subsystems, S) error) step {
	st := step{
		name: name,
		plan: func(ctx context.Context, s *subsystems, w *topology.States) (vnet.Plan, error) {
			return the(s).Plan(ctx, of(w))
		},
		sync: func(ctx context.Context, s *subsystems, w *topology.States, o vnet.SyncOptions) error {
			return the(s).Sync(ctx, of(w), o)
		},
		count: func(w *topology.States) int { return count(of(w)) },
		diff:  func(old, want *topology.States) []vnet.Change { return diff(of(old), of(want)) },
	}
	if add != nil {
		st.add = func(ctx context.Context, s *subsystems, w *topology.States) error { return add(ctx, s, of(w)) }
	}
	return st
}

var steps = []step{
	stepOf("overlay", func(s *subsystems) service[overlay.State] { return s.overlay }, func(w *topology.States) overlay.State { return w.Overlay },
		func(w overlay.State) int { return len(w.Networks) + len(w.Ports) + len(w.RemotePorts) }, overlay.Diff,
		func(ctx context.Context, s *subsystems, w overlay.State) error {
			return errors.Join(each(ctx, w.Networks, s.overlay.EnsureNetwork), each(ctx, w.Ports, s.overlay.EnsurePort), each(ctx, w.RemotePorts, s.overlay.EnsureRemotePort))
		}),
	stepOf("secgroup", func(s *subsystems) service[secgroup.State] { return s.secgroup }, func(w *topology.States) secgroup.State { return w.SecGroup },
		func(w secgroup.State) int { return len(w.Groups) + len(w.AddressGroups) + len(w.Ports) }, secgroup.Diff,
		func(ctx context.Context, s *subsystems, w secgroup.State) error {
			return errors.Join(each(ctx, w.AddressGroups, s.secgroup.EnsureAddressGroup), each(ctx, w.Groups, s.secgroup.EnsureGroup), each(ctx, w.Ports, s.secgroup.EnsurePort))
		}),
	stepOf("qos", func(s *subsystems) service[qos.State] { return s.qos }, func(w *topology.States) qos.State { return w.QoS },
		func(w qos.State) int { return len(w.Ports) + len(w.Gateways) + len(w.FloatingIPs) + len(w.Uplinks) }, qos.Diff,
		func(ctx context.Context, s *subsystems, w qos.State) error {
			return errors.Join(each(ctx, w.Uplinks, s.qos.EnsureUplink), each(ctx, w.Ports, s.qos.EnsurePort), each(ctx, w.Gateways, s.qos.EnsureGateway), each(ctx, w.FloatingIPs, s.qos.EnsureFloatingIP))
		}),
	stepOf("router", func(s *subsystems) service[router.State] { return s.router }, func(w *topology.States) router.State { return w.Router },
		func(w router.State) int { return len(w.Routers) + len(w.FloatingIPs) + len(w.PortForwards) }, router.Diff,
		func(ctx context.Context, s *subsystems, w router.State) error {
			return errors.Join(each(ctx, w.Routers, s.router.EnsureRouter), each(ctx, w.FloatingIPs, s.router.EnsureFloatingIP), each(ctx, w.PortForwards, s.router.EnsurePortForward))
		}),
	stepOf("dhcp", func(s *subsystems) service[dhcp.State] { return s.dhcp }, func(w *topology.States) dhcp.State { return w.DHCP },
		func(w dhcp.State) int { return len(w.Scopes) + len(w.Reservations) },
		func(old, want dhcp.State) []vnet.Change { return dhcp.Diff(old, want).Changes }, nil),
	stepOf("metadata", func(s *subsystems) service[metadata.State] { return s.metadata }, func(w *topology.States) metadata.State { return w.Metadata },
		func(w metadata.State) int { return len(w.Endpoints) },
		func(old, want metadata.State) []vnet.Change { return metadata.Diff(old, want).Changes }, nil),
}

// each calls f for all of them, whatever it says of one.
func each[T any](ctx context.Context, all []T, f func(context.Context, T) error) error {
	var errs []error
	for _, x := range all {
		if err := f(ctx, x); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// servers are what needs this process while it works.
func (s *subsystems) servers() map[string]func(context.Context) error {
	all := map[string]func(context.Context) error{"router": s.router.Serve, "dhcp": s.dhcp.Serve, "metadata": s.metadata.Serve}
	if r, ok := s.qos.Backend().(qos.Runner); ok {
		all["qos"] = r.Serve
	}
	return all
}

// health is what the subsystems say of themselves.
func (s *subsystems) health(ctx context.Context) map[string]vnet.Health {
	return map[string]vnet.Health{"overlay": s.overlay.Health(ctx), "secgroup": s.secgroup.Health(ctx), "qos": s.qos.Health(ctx), "router": s.router.Health(ctx),
		"dhcp": s.dhcp.Health(ctx), "metadata": s.metadata.Health(ctx)}
}

// errKind: nothing is known of the kind of thing.
var errKind = errors.New("kinds are network, port, group, rule, addressgroup, router, floatingip, portforward, scope, reservation, endpoint, gateway, uplink")

// explain asks the subsystems that know things of that kind.
func (s *subsystems) explain(ctx context.Context, kind, id string) ([]vnet.Explanation, error) {
	type ask = func(context.Context, string, string) (vnet.Explanation, error)
	asks := map[string][]ask{
		"network": {s.overlay.Explain, s.dhcp.Explain}, "port": {s.overlay.Explain, s.secgroup.Explain, s.qos.Explain},
		"group": {s.secgroup.Explain}, "rule": {s.secgroup.Explain}, "addressgroup": {s.secgroup.Explain},
		"router": {s.router.Explain}, "floatingip": {s.router.Explain, s.qos.Explain}, "gateway": {s.qos.Explain}, "uplink": {s.qos.Explain}, "portforward": {s.router.Explain},
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
func services(ob overlay.Backend, sb secgroup.Backend, qb qos.Backend, rb router.Backend, db dhcp.Backend, mb metadata.Backend) (*subsystems, error) {
	var s subsystems
	var errs [6]error
	s.overlay, errs[0] = overlay.New(ob, nil)
	s.secgroup, errs[1] = secgroup.New(sb, nil)
	s.router, errs[2] = router.New(rb, nil)
	s.dhcp, errs[3] = dhcp.New(db, nil)
	s.metadata, errs[4] = metadata.New(mb, nil)
	s.qos, errs[5] = qos.New(qb, nil)
	return &s, errors.Join(errs[:]...)
}
