// Package memoverlay is the overlay in memory: what applications test against,
// without root. It keeps the desired state and refuses what every backend
// refuses; it carries no frames.
package memoverlay

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// Kernel is where a [Backend] keeps what it was told: the stand-in for a
// platform. Several backends over one Kernel see the same, as after a restart.
// The zero value is empty and ready.
type Kernel struct {
	// Host is the host's name as in Port.Host: ports of other hosts are left
	// out. Empty: every port is this host's.
	Host string

	mu       sync.Mutex
	networks map[string]overlay.Network
	ports    map[string]overlay.Port
	remotes  map[string]overlay.RemotePort
	plugged  map[string]overlay.Attachment
	writes   int
	watchers map[chan vnet.Event]bool
}

// Writes is how many objects have been created, changed or deleted so far.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// State is what stands.
func (k *Kernel) State() overlay.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state()
}

func (k *Kernel) state() overlay.State {
	return overlay.State{Networks: values(k.networks), Ports: values(k.ports), RemotePorts: values(k.remotes)}.Canonical()
}

func values[T any](m map[string]T) (out []T) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// Plugged returns the device that is plugged at a port.
func (k *Kernel) Plugged(portID string) (overlay.Attachment, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.plugged[portID]
	return a, ok
}

// Backend is an in-memory [overlay.Backend].
type Backend struct {
	k     *Kernel
	since time.Time
}

var (
	_ overlay.Backend       = (*Backend)(nil)
	_ overlay.RemoteBackend = (*Backend)(nil)
	_ overlay.Plugger       = (*Backend)(nil)
	_ overlay.Explainer     = (*Backend)(nil)
	_ overlay.Watcher       = (*Backend)(nil)
)

// New returns a backend over k; nil is a new Kernel of its own.
func New(k *Kernel) *Backend {
	if k == nil {
		k = new(Kernel)
	}
	return &Backend{k: k, since: time.Now()}
}

// Kernel returns what the backend keeps its state in.
func (b *Backend) Kernel() *Kernel { return b.k }

// State is what stands.
func (b *Backend) State() overlay.State { return b.k.State() }

func (b *Backend) do(ctx context.Context, f func(k *Kernel) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.k.mu.Lock()
	defer b.k.mu.Unlock()
	if b.k.networks == nil {
		b.k.networks, b.k.ports, b.k.remotes = map[string]overlay.Network{}, map[string]overlay.Port{}, map[string]overlay.RemotePort{}
		b.k.plugged, b.k.watchers = map[string]overlay.Attachment{}, map[chan vnet.Event]bool{}
	}
	return f(b.k)
}

// EnsureNetwork implements [overlay.Backend].
func (b *Backend) EnsureNetwork(ctx context.Context, n overlay.Network) error {
	return b.do(ctx, func(k *Kernel) error {
		for _, o := range k.networks {
			if o.ID != n.ID && o.Segment == n.Segment && n.Segment.Type != overlay.Local {
				return fmt.Errorf("segment %s is that of network %s: %w", n.Segment, o.ID, vnet.ErrConflict)
			}
		}
		put(k, k.networks, n.ID, n, overlay.Network.Equal)
		return nil
	})
}

func put[T any](k *Kernel, m map[string]T, id string, v T, equal func(a, b T) bool) bool {
	if old, ok := m[id]; ok && equal(old, v) {
		return false
	}
	m[id] = v
	k.writes++
	return true
}

func drop[T any](k *Kernel, m map[string]T, id string) {
	if _, ok := m[id]; ok {
		delete(m, id)
		k.writes++
	}
}

// DeleteNetwork implements [overlay.Backend].
func (b *Backend) DeleteNetwork(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error {
		for _, p := range k.state().Ports {
			if p.NetworkID == id {
				return fmt.Errorf("network %s: port %s is on it: %w", id, p.ID, vnet.ErrInUse)
			}
		}
		for _, p := range k.state().RemotePorts {
			if p.NetworkID == id {
				delete(k.remotes, p.ID)
			}
		}
		drop(k, k.networks, id)
		return nil
	})
}

// EnsurePort implements [overlay.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p overlay.Port) error {
	return b.do(ctx, func(k *Kernel) error {
		if !k.local(p) {
			k.unplug(p.ID) // it may have been here before
			drop(k, k.ports, p.ID)
			return nil
		}
		if _, ok := k.networks[p.NetworkID]; !ok {
			return fmt.Errorf("network %s: %w", p.NetworkID, vnet.ErrNotFound)
		}
		put(k, k.ports, p.ID, p, overlay.Port.Equal)
		return nil
	})
}

func (k *Kernel) local(p overlay.Port) bool {
	return p.Host == "" || k.Host == "" || p.Host == k.Host
}

// here returns s without the ports of other hosts.
func (k *Kernel) here(s overlay.State) overlay.State {
	s.Ports = slices.DeleteFunc(slices.Clone(s.Ports), func(p overlay.Port) bool { return !k.local(p) })
	return s
}

// DeletePort implements [overlay.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error {
		k.unplug(id)
		drop(k, k.ports, id)
		return nil
	})
}

// EnsureRemotePort implements [overlay.RemoteBackend].
func (b *Backend) EnsureRemotePort(ctx context.Context, p overlay.RemotePort) error {
	return b.do(ctx, func(k *Kernel) error {
		if _, ok := k.networks[p.NetworkID]; !ok {
			return fmt.Errorf("network %s: %w", p.NetworkID, vnet.ErrNotFound)
		}
		put(k, k.remotes, p.ID, p, overlay.RemotePort.Equal)
		return nil
	})
}

// DeleteRemotePort implements [overlay.RemoteBackend].
func (b *Backend) DeleteRemotePort(ctx context.Context, id string) error {
	return b.do(ctx, func(k *Kernel) error { drop(k, k.remotes, id); return nil })
}

// Sync implements [overlay.Backend].
func (b *Backend) Sync(ctx context.Context, s overlay.State, o vnet.SyncOptions) error {
	return b.do(ctx, func(k *Kernel) error {
		s := k.here(s)
		old := k.state()
		p := vnet.Plan{Changes: overlay.Diff(old, s)}
		if err := o.Check(p, len(old.Networks)+len(old.Ports)+len(old.RemotePorts)); err != nil {
			return err
		}
		k.networks, k.ports, k.remotes = map[string]overlay.Network{}, map[string]overlay.Port{}, map[string]overlay.RemotePort{}
		for _, n := range s.Networks {
			k.networks[n.ID] = n
		}
		for _, x := range s.Ports {
			k.ports[x.ID] = x
		}
		for _, x := range s.RemotePorts {
			k.remotes[x.ID] = x
		}
		for id := range k.plugged {
			if _, ok := k.ports[id]; !ok {
				k.unplug(id)
			}
		}
		k.writes += len(p.Changes)
		return nil
	})
}

// Plan implements [overlay.Backend].
func (b *Backend) Plan(ctx context.Context, s overlay.State) (p vnet.Plan, err error) {
	err = b.do(ctx, func(k *Kernel) error { p.Changes = overlay.Diff(k.state(), k.here(s)); return nil })
	return p, err
}

// Health implements [overlay.Backend].
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Since: b.since}
}

// Features implements [overlay.Backend]: every segment type.
func (b *Backend) Features(context.Context) overlay.Features {
	return overlay.Features{Segments: map[overlay.SegmentType]bool{
		overlay.Local: true, overlay.Flat: true, overlay.VLAN: true, overlay.VXLAN: true, overlay.Geneve: true},
		Flooding: overlay.Flooding{Broadcast: true, UnknownUnicast: true, NoMulticast: true}}
}

// Plug implements [overlay.Plugger].
func (b *Backend) Plug(ctx context.Context, a overlay.Attachment) (d overlay.Device, err error) {
	err = b.do(ctx, func(k *Kernel) error {
		p, ok := k.ports[a.PortID]
		if !ok {
			return fmt.Errorf("port %s: %w", a.PortID, vnet.ErrNotFound)
		}
		mtu, err := k.networks[p.NetworkID].EffectiveMTU(1500, p.MAC.LinkLocal())
		if err != nil {
			return err
		}
		if old, ok := k.plugged[a.PortID]; ok && old != a {
			return fmt.Errorf("port %s has another device: %w", a.PortID, vnet.ErrConflict)
		} else if !ok {
			k.plugged[a.PortID] = a
			k.writes++
			k.event("port-up", a.PortID)
		}
		d = overlay.Device{Name: "mem-" + a.PortID, MTU: mtu}
		if a.Kind == overlay.Existing {
			d.Name = a.Name
		}
		return nil
	})
	return d, err
}

// Unplug implements [overlay.Plugger].
func (b *Backend) Unplug(ctx context.Context, portID string) error {
	return b.do(ctx, func(k *Kernel) error { k.unplug(portID); return nil })
}

func (k *Kernel) unplug(portID string) {
	if _, ok := k.plugged[portID]; ok {
		delete(k.plugged, portID)
		k.writes++
		k.event("port-down", portID)
	}
}

func (k *Kernel) event(kind, id string) {
	e := vnet.Event{Time: time.Now(), Part: vnet.PartOverlay, Kind: kind, ID: id}
	for w := range k.watchers {
		select {
		case w <- e:
		default: // a full queue ends in one "lost"
			select {
			case <-w:
			default:
			}
			w <- vnet.Event{Time: e.Time, Part: e.Part, Kind: vnet.EventLost}
		}
	}
}

// Watch implements [overlay.Watcher]. Events from the call on are seen.
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	w := make(chan vnet.Event, 64)
	_ = b.do(ctx, func(k *Kernel) error { k.watchers[w] = true; return nil })
	return func(yield func(vnet.Event) bool) {
		defer func() {
			b.k.mu.Lock()
			defer b.k.mu.Unlock()
			delete(b.k.watchers, w)
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-w:
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Explain implements [overlay.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = b.do(ctx, func(k *Kernel) error {
		switch kind {
		case "network":
			n, ok := k.networks[id]
			if !ok {
				return fmt.Errorf("network %s: %w", id, vnet.ErrNotFound)
			}
			x.Text = fmt.Sprintf("network %s: %s, in memory", id, n.Segment)
			var ports []string
			for _, p := range k.state().Ports {
				if p.NetworkID == id {
					ports = append(ports, p.ID)
				}
			}
			slices.Sort(ports)
			x.Add(fmt.Sprintf("%d ports", len(ports)))
			for _, p := range ports {
				x.Add("port " + p)
			}
		case "port":
			p, ok := k.ports[id]
			if !ok {
				return fmt.Errorf("port %s: %w", id, vnet.ErrNotFound)
			}
			x.Text = fmt.Sprintf("port %s: %s on network %s, in memory", id, p.MAC, p.NetworkID)
			if a, ok := k.plugged[id]; ok {
				x.Add("plugged: " + string(a.Kind))
			} else {
				x.Add("no device is plugged")
			}
		}
		return nil
	})
	return x, err
}
