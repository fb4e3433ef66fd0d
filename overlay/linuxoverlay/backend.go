// Package linuxoverlay makes networks and ports of one host on the Linux
// kernel, through [linux.Target].
//
// A network is a bridge without addresses, named by the handle
// (linux.Host.NetworkDevice). VXLAN adds a vxlan device as a port of the
// bridge; flat the physical network's device, or a veth pair to it when that
// is a bridge itself; VLAN a VLAN device over it. Remote ports are static
// forwarding entries of the vxlan device and the bridge, and permanent
// neighbours of the bridge, which answers ARP and ND from them. A port is a
// device on the bridge with an alternative name by which other subsystems
// find it.
//
// All facts are the kernel's. Only what it has no place for is kept in the
// process: which network an unplugged port is on, and the ids of remote ports.
// After a restart Sync (or Ensure) tells those again; it writes nothing when
// nothing differs.
package linuxoverlay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
)

// name is how the backend calls itself in errors.
const name = "linuxoverlay"

// Options of a [Backend]. There are none yet; nil will do.
type Options struct{}

// Backend is an [overlay.Backend] for one host.
type Backend struct {
	t linux.Target
	h *linux.Host

	mu       sync.Mutex // held through every call that writes
	networks map[string]overlay.Network
	ports    map[string]overlay.Port
	remotes  map[string]overlay.RemotePort
}

var (
	_ overlay.Backend       = (*Backend)(nil)
	_ overlay.RemoteBackend = (*Backend)(nil)
	_ overlay.Plugger       = (*Backend)(nil)
	_ overlay.Explainer     = (*Backend)(nil)
	_ overlay.Watcher       = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	return &Backend{t: t, h: t.Host(), networks: map[string]overlay.Network{}, ports: map[string]overlay.Port{}, remotes: map[string]overlay.RemotePort{}}, nil
}

// With returns a backend with the same knowledge that writes through t, a
// batch of the same host.
func (b *Backend) With(t linux.Target) (*Backend, error) {
	if t == nil || t.Host() != b.h {
		return nil, &vnet.FieldError{Field: "target", Reason: "is not of the same host"}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Backend{t: t, h: b.h, networks: b.networks, ports: b.ports, remotes: b.remotes}, nil
}

// Features implements [overlay.Backend].
func (b *Backend) Features(context.Context) overlay.Features {
	f := b.h.Features()
	out := overlay.Features{
		Segments: map[overlay.SegmentType]bool{overlay.Local: true, overlay.Flat: true, overlay.VLAN: f.VLAN, overlay.VXLAN: f.VXLAN},
		Missing:  map[overlay.SegmentType]string{overlay.Geneve: "the OVN or Open vSwitch backend"},
	}
	if !f.VLAN {
		out.Missing[overlay.VLAN] = f.Missing["VLAN"]
	}
	if !f.VXLAN {
		out.Missing[overlay.VXLAN] = f.Missing["VXLAN"]
	}
	if !b.h.Options().TunnelIP.IsValid() {
		out.Segments[overlay.VXLAN] = false
		out.Missing[overlay.VXLAN] = "a tunnel address (linux.Options.TunnelIP)"
	}
	return out
}

// Health implements [overlay.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.h.Health(ctx) }

// EnsureNetwork implements [overlay.Backend].
func (b *Backend) EnsureNetwork(ctx context.Context, n overlay.Network) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, err := b.networkSteps(ctx, n)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	b.networks[n.ID] = n
	// A tunnel device that was made anew has lost what was known of remote ports.
	return b.syncRemotes(ctx, n)
}

func (b *Backend) syncRemotes(ctx context.Context, n overlay.Network) error {
	if _, pending := b.t.Pending(vnet.PartOverlay, "network", n.ID); pending || n.Segment.Type != overlay.VXLAN {
		return nil
	}
	var remotes []overlay.RemotePort
	for _, r := range b.remotes {
		if r.NetworkID == n.ID {
			remotes = append(remotes, r)
		}
	}
	if len(remotes) == 0 {
		return nil
	}
	steps, err := b.remoteSteps(ctx, n, remotes, false)
	if err != nil {
		return err
	}
	return b.t.Submit(ctx, steps...)
}

// DeleteNetwork implements [overlay.Backend].
func (b *Backend) DeleteNetwork(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.ports {
		if p.NetworkID == id {
			return fmt.Errorf("port %s is on it: %w", p.ID, vnet.ErrInUse)
		}
	}
	steps, err := b.networkGone(ctx, id, nil)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	b.forgetNetwork(id)
	return nil
}

func (b *Backend) forgetNetwork(id string) {
	delete(b.networks, id)
	for k, r := range b.remotes {
		if r.NetworkID == id {
			delete(b.remotes, k)
		}
	}
}

// EnsurePort implements [overlay.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p overlay.Port) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.h.Local(p.Host) {
		return b.deletePort(ctx, p.ID) // it may have been here before
	}
	steps, err := b.portSteps(ctx, p, nil)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	b.ports[p.ID] = p
	return nil
}

// DeletePort implements [overlay.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deletePort(ctx, id)
}

func (b *Backend) deletePort(ctx context.Context, id string) error {
	steps, err := b.portGone(ctx, id)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	delete(b.ports, id)
	return nil
}

// Sync implements [overlay.Backend].
func (b *Backend) Sync(ctx context.Context, s overlay.State, o vnet.SyncOptions) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, existing, err := b.diff(ctx, s)
	if err != nil {
		return err
	}
	if err := o.Check(linux.PlanOf(steps), existing); err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	clear(b.networks)
	clear(b.ports)
	clear(b.remotes)
	for _, n := range s.Networks {
		b.networks[n.ID] = n
	}
	for _, p := range s.Ports {
		if b.h.Local(p.Host) {
			b.ports[p.ID] = p
		}
	}
	for _, r := range s.RemotePorts {
		b.remotes[r.ID] = r
	}
	return nil
}

// Plan implements [overlay.Backend].
func (b *Backend) Plan(ctx context.Context, s overlay.State) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, _, err := b.diff(ctx, s)
	return linux.PlanOf(steps), err
}

// diff returns the steps from what stands to s, and how many objects stand.
func (b *Backend) diff(ctx context.Context, s overlay.State) (steps []linux.Step, existing int, err error) {
	links, err := b.h.Links(ctx, vnet.PartOverlay)
	if err != nil {
		return nil, 0, err
	}
	entries, err := b.h.Ports().List(ctx)
	if err != nil {
		return nil, 0, err
	}
	want := map[string]bool{}
	nets := map[string]*overlay.Network{}
	for i := range s.Networks {
		n := &s.Networks[i]
		nets[n.ID] = n
		st, err := b.networkSteps(ctx, *n)
		if err != nil {
			return nil, 0, fmt.Errorf("network %s: %w", n.ID, err)
		}
		steps = append(steps, st...)
	}
	for _, p := range s.Ports {
		if !b.h.Local(p.Host) {
			continue
		}
		want[p.ID] = true
		st, err := b.portSteps(ctx, p, nets)
		if err != nil {
			return nil, 0, fmt.Errorf("port %s: %w", p.ID, err)
		}
		steps = append(steps, st...)
	}
	remotes := map[string][]overlay.RemotePort{}
	for _, r := range s.RemotePorts {
		remotes[r.NetworkID] = append(remotes[r.NetworkID], r)
	}
	for _, n := range s.Networks {
		if n.Segment.Type == overlay.VXLAN {
			st, err := b.remoteSteps(ctx, n, remotes[n.ID], true)
			if err != nil {
				return nil, 0, fmt.Errorf("remote ports of network %s: %w", n.ID, err)
			}
			steps = append(steps, st...)
		}
	}
	leaving := map[string]bool{} // devices that go with their port
	for _, e := range entries {
		if !slices.Contains(e.Holders, vnet.PartOverlay) {
			continue
		}
		existing++
		if want[e.ID] {
			continue
		}
		st, err := b.portGone(ctx, e.ID)
		if err != nil {
			return nil, 0, fmt.Errorf("port %s: %w", e.ID, err)
		}
		leaving[e.ID] = true
		steps = append(steps, st...)
	}
	for _, l := range links {
		if l.Kind != "network" {
			continue
		}
		existing++
		if nets[l.ID] == nil {
			st, err := b.networkGone(ctx, l.ID, leaving)
			if err != nil {
				return nil, 0, fmt.Errorf("network %s: %w", l.ID, err)
			}
			steps = append(steps, st...)
		}
	}
	return steps, existing, nil
}

// Watch implements [overlay.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	return func(yield func(vnet.Event) bool) {
		for e := range b.h.WatchPorts(ctx) {
			out := vnet.Event{Time: time.Now(), Part: vnet.PartOverlay, Kind: "port-down", ID: e.PortID, Detail: map[string]string{"device": e.Device}}
			switch {
			case e.Lost:
				out = vnet.Event{Time: out.Time, Part: out.Part, Kind: vnet.EventLost}
			case e.Up:
				out.Kind = "port-up"
			}
			if !yield(out) {
				return
			}
		}
	}
}

// bridgeMAC is the address of a network's bridge: the same on every host, so
// that a client that moves finds its DHCP server where it was.
func bridgeMAC(networkID string) vnet.MAC {
	sum := sha256.Sum256([]byte("vnet network " + networkID))
	m := vnet.MAC(sum[:6])
	m[0] = m[0]&^3 | 2 // local, unicast (IEEE 802, 8.4)
	return m
}

// link returns a device, or nil when there is none.
func (b *Backend) link(name string) (*rtnl.Link, error) {
	l, err := b.h.NS().RTNL().Link(name)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// marked puts the change on the first of steps; without steps there is none.
func marked(c vnet.Change, steps []linux.Step) []linux.Step {
	if len(steps) > 0 {
		steps[0].Change = c
	}
	return steps
}
