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
// A tunnelled network that floods broadcasts and no multicasts has ARP and ND
// of remote ports answered by the bridge, as one that floods neither has;
// gratuitous ARP does not cross there, other broadcasts do.
//
// All facts are the kernel's. Only what it has no place for is kept in the
// process: which network an unplugged port is on, and the ids of remote ports.
// After a restart Sync (or Ensure) tells those again; it writes nothing when
// nothing differs.
package linuxoverlay

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
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
	t    linux.Target
	h    *linux.Host
	m    *memory
	snap *snapshot // nil: devices are looked up one by one
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
	return &Backend{t: t, h: t.Host(), m: newMemory()}, nil
}

// With returns a backend with the same knowledge that writes through t, a
// batch of the same host.
func (b *Backend) With(t linux.Target) (*Backend, error) {
	if t == nil || t.Host() != b.h {
		return nil, &vnet.FieldError{Field: "target", Reason: "is not of the same host"}
	}
	return &Backend{t: t, h: b.h, m: b.m}, nil
}

// Features implements [overlay.Backend].
func (b *Backend) Features(context.Context) overlay.Features {
	f := b.h.Features()
	out := overlay.Features{
		Segments: map[overlay.SegmentType]bool{overlay.Local: true, overlay.Flat: true, overlay.VLAN: f.VLAN, overlay.VXLAN: f.VXLAN},
		Missing:  map[overlay.SegmentType]string{overlay.Geneve: "the OVN or Open vSwitch backend"},
		Flooding: overlay.Flooding{Broadcast: true, UnknownUnicast: true, NoMulticast: true},
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
	b.m.op.Lock()
	defer b.m.op.Unlock()
	if err := b.alone(n); err != nil {
		return err
	}
	steps, err := b.networkSteps(ctx, n)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	b.m.mu.Lock()
	b.m.networks[n.ID] = n
	delete(b.m.found, n.ID)
	b.m.mu.Unlock()
	if n.Segment.Type != overlay.VXLAN || len(steps) == 0 {
		return nil
	}
	// A tunnel device that was made anew has lost what was known of remote
	// ports, and another way of flooding changes their entries.
	if _, pending := b.t.Pending(vnet.PartOverlay, "network", n.ID); pending {
		return nil
	}
	more, err := b.remoteSteps(n, b.m.remotesOf(n.ID), false)
	if err != nil {
		return err
	}
	return b.t.Submit(ctx, more...)
}

// alone refuses a segment that another network is known to be on. After a
// restart the kernel refuses it instead.
func (b *Backend) alone(n overlay.Network) error {
	if n.Segment.Type == overlay.Local {
		return nil
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	for _, o := range b.m.networks {
		if o.ID != n.ID && o.Segment == n.Segment {
			return fmt.Errorf("segment %s is that of network %s: %w", n.Segment, o.ID, vnet.ErrConflict)
		}
	}
	return nil
}

// DeleteNetwork implements [overlay.Backend].
func (b *Backend) DeleteNetwork(ctx context.Context, id string) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
	b.m.mu.Lock()
	for _, p := range b.m.ports {
		if p.NetworkID == id {
			b.m.mu.Unlock()
			return fmt.Errorf("port %s is on it: %w", p.ID, vnet.ErrInUse)
		}
	}
	b.m.mu.Unlock()
	steps, err := b.networkGone(ctx, id, nil)
	if err != nil {
		return err
	}
	if err := b.t.Submit(ctx, steps...); err != nil {
		return err
	}
	b.m.forgetNetwork(id)
	return nil
}

// EnsurePort implements [overlay.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p overlay.Port) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
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
	b.m.mu.Lock()
	b.m.ports[p.ID] = p
	b.m.mu.Unlock()
	return nil
}

// DeletePort implements [overlay.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
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
	b.m.mu.Lock()
	delete(b.m.ports, id)
	b.m.mu.Unlock()
	return nil
}

// Sync implements [overlay.Backend].
func (b *Backend) Sync(ctx context.Context, s overlay.State, o vnet.SyncOptions) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
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
	b.m.set(s, b.h.Local)
	return nil
}

// Plan implements [overlay.Backend].
func (b *Backend) Plan(ctx context.Context, s overlay.State) (vnet.Plan, error) {
	b.m.op.Lock()
	defer b.m.op.Unlock()
	steps, _, err := b.diff(ctx, s)
	return linux.PlanOf(steps), err
}

// diff returns the steps from what stands to s, and how many objects stand.
func (b *Backend) diff(ctx context.Context, s overlay.State) (steps []linux.Step, existing int, err error) {
	b, err = b.whole(ctx)
	if err != nil {
		return nil, 0, err
	}
	nets := map[string]*overlay.Network{}
	for i := range s.Networks {
		nets[s.Networks[i].ID] = &s.Networks[i]
	}
	ports := map[string]string{} // those of this host, and their networks
	for _, p := range s.Ports {
		if b.h.Local(p.Host) {
			ports[p.ID] = p.NetworkID
		}
	}
	there := b.standingObjects()
	if steps, err = b.vacate(there, nets); err != nil {
		return nil, 0, err
	}
	for _, n := range s.Networks {
		st, err := b.networkSteps(ctx, n)
		if err != nil {
			return nil, 0, fmt.Errorf("network %s: %w", n.ID, err)
		}
		steps = append(steps, st...)
	}
	for _, p := range s.Ports {
		if _, ok := ports[p.ID]; !ok {
			continue
		}
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
			there, err := b.standing(n.ID)
			if err != nil {
				return nil, 0, fmt.Errorf("remote ports of network %s: %w", n.ID, err)
			}
			if br := b.snap.byName[b.h.NetworkDevice(n.ID)]; n.AdminDown && br != nil && br.Up {
				clear(there.neigh) // which a device that goes down loses
			}
			st, err := b.remoteStepsFrom(there, n, remotes[n.ID], true)
			if err != nil {
				return nil, 0, fmt.Errorf("remote ports of network %s: %w", n.ID, err)
			}
			steps = append(steps, st...)
			existing += len(there.tunnel)
		}
	}
	existing += len(there.ports) + len(there.networks)
	for _, id := range slices.Sorted(maps.Keys(there.ports)) {
		if _, ok := ports[id]; !ok {
			st, err := b.portGone(ctx, id)
			if err != nil {
				return nil, 0, fmt.Errorf("port %s: %w", id, err)
			}
			steps = append(steps, st...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(there.networks)) {
		if nets[id] == nil {
			st, err := b.networkGone(ctx, id, func(port string) bool { return ports[port] != id })
			if err != nil {
				return nil, 0, fmt.Errorf("network %s: %w", id, err)
			}
			steps = append(steps, st...)
		}
	}
	return steps, existing, nil
}

// objects is what stands, by the contract's ids.
type objects struct {
	networks map[string]bool // or something is left of it
	ports    map[string]bool
	uplinks  []uplink
}

// uplink is a device that leads a network off the host.
type uplink struct {
	network string
	link    *rtnl.Link
}

// standingObjects sorts what the snapshot has.
func (b *Backend) standingObjects() objects {
	o := objects{networks: map[string]bool{}, ports: map[string]bool{}}
	for id, e := range b.snap.entries {
		if slices.Contains(e.Holders, vnet.PartOverlay) {
			o.ports[id] = true
		}
	}
	for _, l := range b.snap.byIndex {
		part, kind, id, ok := b.h.ParseAlias(l.Alias)
		if !ok || part != vnet.PartOverlay {
			continue
		}
		if kind == linux.AliasExisting {
			if port, ok := strings.CutPrefix(id, "port."); ok {
				kind, id = "port", port
			} else if network, ok := strings.CutPrefix(id, "network."); ok {
				kind, id = "device", network
			}
		}
		switch kind {
		case "port":
			o.ports[id] = true
		case "network", "patch":
			o.networks[id] = true
		case "tunnel", "vlan", "device":
			o.networks[id] = true
			o.uplinks = append(o.uplinks, uplink{id, l})
		}
	}
	return o
}

// vacate returns the steps by which devices go whose segment another network
// of nets is to have: before that one is made, as no two can have it at once.
func (b *Backend) vacate(there objects, nets map[string]*overlay.Network) (steps []linux.Step, err error) {
	owner := map[overlay.Segment]string{}
	for _, n := range nets {
		owner[n.Segment] = n.ID
	}
	phys := map[int]string{}
	for name, dev := range b.h.Options().PhysicalNetworks {
		if l := b.snap.byName[dev]; l != nil {
			phys[l.Index] = name
		}
	}
	slices.SortFunc(there.uplinks, func(a, b uplink) int { return strings.Compare(a.network, b.network) })
	for _, u := range there.uplinks {
		var s overlay.Segment
		switch l := u.link; {
		case l.VXLAN != nil:
			s = overlay.Segment{Type: overlay.VXLAN, ID: l.VXLAN.VNI}
		case l.Kind == "vlan":
			s = overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: phys[l.Peer], ID: uint32(l.VLAN)}
		default:
			s = overlay.Segment{Type: overlay.Flat, PhysicalNetwork: phys[l.Index]}
		}
		if id, ok := owner[s]; !ok || id == u.network {
			continue
		}
		c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "network", ID: u.network, Impact: vnet.ImpactObject, Where: b.h.Name(),
			Diff: []string{"segment: " + s.String() + " -> given to network " + owner[s]}}
		w := &work{b: b, c: &c}
		dev := u.link.Name
		if s.Type == overlay.Flat {
			b.letGo(w, *u.link, linux.FilterAdd)
		} else {
			w.step(linux.FilterAdd, func(context.Context) error { return b.h.NS().RTNL().DelLink(dev) }, nil)
		}
		steps = append(steps, marked(c, w.steps)...)
		b.snap.without(u.link, s.Type == overlay.Flat)
	}
	return steps, nil
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

// marked puts the change on the first of steps; without steps there is none.
func marked(c vnet.Change, steps []linux.Step) []linux.Step {
	if len(steps) > 0 {
		steps[0].Change = c
	}
	return steps
}
