package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/sriov"
)

// This file knows the contracts and no backend: it is what stays the same
// whatever carries the cloud. The wire_*.go files choose what does.

// Subsystems are the six services of one site: of a host, where backends run
// on every host, or of the whole cloud, where one backend writes for all.
type Subsystems struct {
	Overlay  *overlay.Fabric
	SecGroup *secgroup.Enforcer
	QoS      *qos.Shaper
	Router   *router.Service
	DHCP     *dhcp.Service
	Metadata *metadata.Service
	DPDK     *dpdk.Setup // of a host whose switch has it; nil: none
	dpdk     dpdk.Config
	SRIOV    *sriov.Allocator // of a host that holds a share; nil: of none
	// Serve is what a host of a central platform does besides plugging.
	Serve func(context.Context) error
	Holds scope // whose desired state it is told
	Close func() error
	// trace is the switch's own account of a packet that a port sends, or that flow
	// says where from; nil: it gives none.
	trace func(ctx context.Context, portID, flow string) (string, error)
	peers func(map[string]netip.Addr) // tells a host of the others' tunnel ends; nil: nothing needs them
	// settled waits until gateways are where they stay; nil: they always are.
	settled func(context.Context) error
}

// meet tells a host which others there are.
func (s *Subsystems) meet(t *topology.Cloud) {
	if s.peers != nil {
		s.peers(t.TunnelEnds())
	}
}

// scope is how much of a cloud's desired state a site is told.
type scope int

const (
	share   scope = iota // the host's share
	all                  // all of it
	nothing              // none: the site plugs devices in and serves
)

// states is the desired state of a site; ok is false for one that holds none.
func (s *Subsystems) states(t *topology.Cloud, site string) (st topology.States, ok bool) {
	switch s.Holds {
	case all:
		return t.All, true
	case share:
		return t.Host(site).States, true
	}
	return st, false
}

// Platform is the choice of a backend.
type Platform struct {
	Host    func(ctx context.Context, o SiteOptions) (*Subsystems, error) // opens a host
	Central func(ctx context.Context, o SiteOptions) (*Subsystems, error) // opens what writes for all hosts; nil: nothing does
}

// central is the name of the site that is no host.
const central = "(cloud)"

// SiteOptions is what a backend has to know of a site.
type SiteOptions struct {
	Owner       vnet.Owner
	Name        string
	Instances   metadata.Instances
	UnderlayMTU int
	Log         *slog.Logger

	Netns            string                // a host's namespace
	PhysicalNetworks map[string]string     // a host's; -> device, or bridge of Open vSwitch
	TunnelIP         netip.Addr            // a host's
	Peers            map[string]netip.Addr // all hosts' tunnel ends

	OVN machine.OVNEndpoints
	OVS machine.OVSEndpoint // a host's
	// DPDK is what a host's switch is to be with it; nil: without.
	DPDK *dpdk.Config
	// Bridges are the management sockets of the integration bridges of all hosts,
	// which a central backend asks what limits have counted.
	Bridges []string
	Uplinks map[string]string // a host's uplinks (see qos.Uplink) -> device
}

// linkTime is how long a card may take to have its link.
const linkTime = 10 * time.Second

// step is one subsystem's part in the order of making: what connects comes
// after what filters it, what serves comes last.
type step struct {
	name string
	plan func(context.Context, *Subsystems, topology.States) (vnet.Plan, error)
	sync func(context.Context, *Subsystems, topology.States, vnet.SyncOptions) error
}

var steps = []step{
	{"DPDK",
		func(ctx context.Context, s *Subsystems, _ topology.States) (vnet.Plan, error) {
			if s.DPDK == nil {
				return vnet.Plan{}, nil
			}
			return s.DPDK.Plan(ctx, dpdk.State{Config: s.dpdk})
		},
		func(ctx context.Context, s *Subsystems, _ topology.States, _ vnet.SyncOptions) error {
			if s.DPDK == nil {
				return nil
			}
			if err := s.DPDK.EnsureConfig(ctx, s.dpdk); err != nil {
				return err
			}
			return s.DPDK.WaitReady(ctx)
		}},
	{"networks and ports",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.Overlay.Plan(ctx, w.Overlay)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.Overlay.Sync(ctx, w.Overlay, o)
		}},
	{"security groups",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.SecGroup.Plan(ctx, w.SecGroup)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.SecGroup.Sync(ctx, w.SecGroup, o)
		}},
	{"limits",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.QoS.Plan(ctx, enforceable(w.QoS, s.QoS.Features(ctx)))
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.QoS.Sync(ctx, enforceable(w.QoS, s.QoS.Features(ctx)), o)
		}},
	{"virtual functions",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			if s.SRIOV == nil {
				return sriov.Diff(sriov.State{}, w.SRIOV.Canonical()), nil
			}
			return s.SRIOV.Plan(ctx, w.SRIOV)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			if s.SRIOV == nil {
				return nil
			}
			// A card has no link for a moment after its functions were made, and takes no rates then.
			err := s.SRIOV.Sync(ctx, w.SRIOV, o)
			for end := time.Now().Add(linkTime); errors.Is(err, vnet.ErrNotReady) && time.Now().Before(end) && ctx.Err() == nil; {
				time.Sleep(linkTime / 50)
				err = s.SRIOV.Sync(ctx, w.SRIOV, o)
			}
			return err
		}},
	{"routers",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.Router.Plan(ctx, w.Router)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.Router.Sync(ctx, w.Router, o)
		}},
	{"DHCP",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.DHCP.Plan(ctx, w.DHCP)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.DHCP.Sync(ctx, w.DHCP, o)
		}},
	{"metadata",
		func(ctx context.Context, s *Subsystems, w topology.States) (vnet.Plan, error) {
			return s.Metadata.Plan(ctx, w.Metadata)
		},
		func(ctx context.Context, s *Subsystems, w topology.States, o vnet.SyncOptions) error {
			return s.Metadata.Sync(ctx, w.Metadata, o)
		}},
}

// planSite is what a Sync of all subsystems of one site would do. fresh has
// nothing on it: a step that builds on things of an earlier one which are not
// there yet (an up was killed between the two) has nothing either.
func planSite(ctx context.Context, s, fresh *Subsystems, site string, want topology.States) (vnet.Plan, error) {
	var sum vnet.Plan
	for _, st := range steps {
		p, err := st.plan(ctx, s, want)
		if errors.Is(err, vnet.ErrNotFound) {
			p, err = st.plan(ctx, fresh, want)
		}
		if err != nil {
			return sum, fmt.Errorf("%s: %s: %w", site, st.name, err)
		}
		for _, ch := range p.Changes {
			ch.Where = site
			sum.Changes = append(sum.Changes, ch)
		}
	}
	return sum, nil
}

// each runs f for all sites at once.
func each(sites map[string]*Subsystems, f func(name string, s *Subsystems) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for name, s := range sites {
		wg.Go(func() {
			if err := f(name, s); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// syncAll makes all sites as wanted and plugs the servers in; told hears of each step.
//
// A network can go only when the router's port on it is gone, which is a later
// step: what is still in use in the first round goes in the second. old is the
// topology before, nil when it is not known.
func syncAll(ctx context.Context, sites map[string]*Subsystems, t, old *topology.Cloud, m *machine.Machine, o vnet.SyncOptions, told func(string, time.Duration)) error {
	begin := time.Now()
	var known []router.State
	if old != nil {
		known = append(known, old.All.Router)
	}
	var moved atomic.Int32
	err := each(sites, func(name string, s *Subsystems) error {
		if s.Holds != share {
			return nil
		}
		n, err := leave(ctx, s, t.Host(name).States.Router, t.All.Router, known...)
		moved.Add(int32(n))
		return err
	})
	if err != nil {
		return err
	}
	if moved.Load() > 0 {
		told("what moves to another host has left", time.Since(begin))
	}
	var again []int
	var mu sync.Mutex
	for i, st := range steps {
		begin := time.Now()
		err := each(sites, func(name string, s *Subsystems) error {
			want, ok := s.states(t, name)
			if !ok {
				return nil
			}
			err := st.sync(ctx, s, want, o)
			if errors.Is(err, vnet.ErrInUse) {
				mu.Lock()
				again = append(again, i)
				mu.Unlock()
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", st.name, err)
		}
		told(st.name, time.Since(begin))
		if st.name == "virtual functions" { // filtered and limited before connected
			begin = time.Now()
			if err := plug(ctx, sites, t, m); err != nil {
				return err
			}
			told("servers plugged in", time.Since(begin))
		}
	}
	// What was in use goes now; and what traffic that moved meanwhile has
	// undone (a bridge forgets addresses with the port it heard them at) is done again.
	for i, st := range steps {
		begin := time.Now()
		var redone atomic.Int32
		err := each(sites, func(name string, s *Subsystems) error {
			want, ok := s.states(t, name)
			if !ok {
				return nil
			}
			if !slices.Contains(again, i) {
				p, err := st.plan(ctx, s, want)
				if err != nil || p.Empty() {
					return err
				}
			}
			redone.Add(1)
			return st.sync(ctx, s, want, o)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", st.name, err)
		}
		if redone.Load() > 0 {
			told(st.name+", again", time.Since(begin))
		}
	}
	return nil
}

// leave takes away the routers of this host that another one is to have: the
// same MACs and addresses must not answer in two places, not even for a
// moment. known are states that say what may be on them.
func leave(ctx context.Context, s *Subsystems, here, all router.State, known ...router.State) (int, error) {
	p, err := s.Router.Plan(ctx, here)
	if errors.Is(err, vnet.ErrNotFound) {
		return 0, nil // half made: nothing routes
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for _, c := range p.Changes {
		if c.Verb != vnet.Delete || c.Kind != "router" || !slices.ContainsFunc(all.Routers, func(r router.Router) bool { return r.ID == c.ID }) {
			continue
		}
		var errs []error
		for _, k := range append(known, all) {
			for _, f := range k.PortForwards {
				if f.RouterID == c.ID {
					errs = append(errs, s.Router.DeletePortForward(ctx, f.ID))
				}
			}
			for _, f := range k.FloatingIPs {
				if f.RouterID == c.ID {
					errs = append(errs, s.Router.DeleteFloatingIP(ctx, f.ID))
				}
			}
		}
		// One that still has what nobody knows of goes with the Sync.
		if err := s.Router.DeleteRouter(ctx, c.ID); !errors.Is(err, vnet.ErrInUse) {
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// plug connects the servers' interfaces to their ports.
func plug(ctx context.Context, sites map[string]*Subsystems, t *topology.Cloud, m *machine.Machine) error {
	return each(sites, func(name string, s *Subsystems) error {
		functions := map[string]sriov.Attachment{}
		if s.SRIOV != nil {
			all, err := s.SRIOV.Attachments(ctx)
			if err != nil {
				return err
			}
			for _, a := range all {
				functions[a.PortID] = a
			}
		}
		for _, v := range t.VMs {
			if v.Host != name {
				continue
			}
			for _, nic := range v.NICs {
				if nic.Direct {
					if err := m.GiveFunction(v.Name, functions[nic.PortID].Netdev, nic.Device); err != nil {
						return fmt.Errorf("virtual function of port %s: %w", nic.PortID, err)
					}
					continue
				}
				if nic.VhostUser {
					a := overlay.Attachment{PortID: nic.PortID, Kind: overlay.VhostUserClient, Socket: m.Socket(name, v.Name, nic.Device)}
					if _, err := s.Overlay.Plug(ctx, a); err != nil {
						return err
					}
					continue
				}
				a := overlay.Attachment{PortID: nic.PortID, Kind: overlay.Veth, Name: nic.Device, Netns: m.VMNS(v.Name)}
				if _, err := s.Overlay.Plug(ctx, a); err != nil {
					return err
				}
			}
			if len(v.NICs) > 0 && v.NICs[0].VhostUser {
				if err := m.Hypervise(ctx, name, v.Name, v.NICs); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// serve runs what needs this process while it works, until ctx ends. What
// ends before that is started again.
func (s *Subsystems) serve(ctx context.Context, log *slog.Logger) *sync.WaitGroup {
	var wg sync.WaitGroup
	servers := map[string]func(context.Context) error{}
	if s.Holds != nothing {
		servers = map[string]func(context.Context) error{"router": s.Router.Serve, "dhcp": s.DHCP.Serve, "metadata": s.Metadata.Serve}
	}
	if s.QoS != nil {
		if r, ok := s.QoS.Backend().(qos.Runner); ok {
			servers["limits"] = r.Serve
		}
	}
	if s.Serve != nil {
		servers["host"] = s.Serve
	}
	for name, f := range servers {
		wg.Go(func() {
			for {
				err := f(ctx)
				if ctx.Err() != nil {
					return
				}
				log.Error("server ended, starting it again", "server", name, "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		})
	}
	return &wg
}

// explain asks the subsystem that knows things of that kind.
func (s *Subsystems) explain(ctx context.Context, kind, id string) ([]vnet.Explanation, error) {
	ask := map[string][]func(context.Context, string, string) (vnet.Explanation, error){
		"network": {s.Overlay.Explain}, "port": {s.Overlay.Explain, s.SecGroup.Explain, s.limits},
		"group": {s.SecGroup.Explain}, "rule": {s.SecGroup.Explain}, "addressgroup": {s.SecGroup.Explain},
		"router": {s.Router.Explain, s.limits}, "floatingip": {s.Router.Explain, s.limits}, "portforward": {s.Router.Explain},
		"scope": {s.DHCP.Explain}, "reservation": {s.DHCP.Explain}, "endpoint": {s.Metadata.Explain},
	}[kind]
	if ask == nil {
		return nil, fmt.Errorf("nothing is known of the kind %q: %w", kind, errUsage)
	}
	var out []vnet.Explanation
	for _, f := range ask {
		e, err := f(ctx, kind, id)
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// limits says what limits a thing; a router is limited at its gateway.
func (s *Subsystems) limits(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	if kind == "router" {
		kind = "gateway"
	}
	return s.QoS.Explain(ctx, kind, id)
}

// enforceable leaves of guarantees what the platform can keep; the rest is
// promised only, by the ledger (cloud limits says so).
func enforceable(x qos.State, f qos.Features) qos.State {
	keeps := func(uplink string) bool {
		return uplink == qos.Tunnelled && f.TunnelGuarantees || uplink != qos.Tunnelled && f.Guarantees
	}
	x.Uplinks = slices.DeleteFunc(slices.Clone(x.Uplinks), func(u qos.Uplink) bool { return !keeps(u.Name) })
	x.Ports = slices.Clone(x.Ports)
	for i := range x.Ports {
		if !keeps(x.Ports[i].Uplink) {
			x.Ports[i].Uplink = ""
		}
	}
	return x
}

// health is what the subsystems of a site say of themselves.
func (s *Subsystems) health(ctx context.Context) map[string]vnet.Health {
	if s.Holds == nothing {
		return map[string]vnet.Health{"overlay": s.Overlay.Health(ctx)}
	}
	return map[string]vnet.Health{"overlay": s.Overlay.Health(ctx), "secgroup": s.SecGroup.Health(ctx), "qos": s.QoS.Health(ctx), "router": s.Router.Health(ctx),
		"dhcp": s.DHCP.Health(ctx), "metadata": s.Metadata.Health(ctx)}
}

// instances answers whose metadata is asked for, from the topology.
type instances struct {
	mu    sync.RWMutex
	byNet map[place]*metadata.Instance
}

// place is where a question comes from: the same address on two networks is two machines.
type place struct {
	network string
	router  string
	addr    netip.Addr
	mac     vnet.MAC
}

// set takes over a topology.
func (x *instances) set(t *topology.Cloud) {
	byNet := map[place]*metadata.Instance{}
	for i := range t.VMs {
		v := &t.VMs[i]
		for _, nic := range v.NICs {
			places := []place{{network: nic.NetworkID}}
			for _, r := range t.All.Router.Routers {
				if slices.ContainsFunc(r.Interfaces, func(in router.Interface) bool { return in.NetworkID == nic.NetworkID }) {
					places = append(places, place{router: r.ID})
				}
			}
			for _, p := range places {
				for _, a := range nic.IPs {
					p.addr, p.mac = a, vnet.MAC{}
					byNet[p] = &v.Instance
				}
				p.addr, p.mac = netip.Addr{}, nic.MAC
				byNet[p] = &v.Instance
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byNet = byNet
}

// Lookup implements [metadata.Instances].
func (x *instances) Lookup(_ context.Context, a metadata.Asker) (*metadata.Instance, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.byNet == nil {
		return nil, vnet.ErrNotReady
	}
	keys := []place{{network: a.NetworkID, addr: a.Addr}, {router: a.RouterID, addr: a.Addr}}
	if !a.MAC.IsZero() {
		keys = []place{{network: a.NetworkID, mac: a.MAC}, {router: a.RouterID, mac: a.MAC}}
	}
	for _, k := range keys {
		if k.network == "" && k.router == "" {
			continue
		}
		if in := x.byNet[k]; in != nil {
			return in, nil
		}
	}
	return nil, vnet.ErrNotFound
}
