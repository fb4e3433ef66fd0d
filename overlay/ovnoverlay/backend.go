package ovnoverlay

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovn"
)

const name = "ovnoverlay"

// patience is how long Features waits for a Southbound that is away: the
// Northbound can be written without.
const patience = 100 * time.Millisecond

// Options of a [Backend]. Zero values are the defaults; nil will do.
type Options struct {
	// UnderlayMTU is the MTU in bytes of the network that carries the tunnels,
	// and of physical networks. Default 1500.
	UnderlayMTU int
	// Underlay is an address of the chassis' tunnel ends; only its family
	// counts. The zero value is IPv4.
	Underlay netip.Addr
}

// Backend is an [overlay.Backend] for a whole OVN installation. It keeps no
// state; methods may be called from several goroutines.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
	o Options
}

var (
	_ overlay.Backend   = (*Backend)(nil)
	_ overlay.Explainer = (*Backend)(nil)
	_ overlay.Watcher   = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, c: t.Conn()}
	if o != nil {
		b.o = *o
	}
	if b.o.UnderlayMTU == 0 {
		b.o.UnderlayMTU = 1500
	}
	if b.o.UnderlayMTU < 576 || b.o.UnderlayMTU > 65535 {
		return nil, &vnet.FieldError{Field: "underlay_mtu", Value: fmt.Sprint(b.o.UnderlayMTU), Reason: "is not 576 to 65535"}
	}
	return b, nil
}

// Features implements [overlay.Backend]. Which tunnels there are is for the
// chassis to say: all of them must have an encapsulation of the type.
func (b *Backend) Features(ctx context.Context) overlay.Features {
	f := overlay.Features{Central: true, DropsUnknown: true, Flooding: overlay.Flooding{Broadcast: true}, Floods: overlay.Flooding{Broadcast: true},
		Segments: map[overlay.SegmentType]bool{overlay.Flat: true, overlay.VLAN: true, overlay.Geneve: true},
		Missing: map[overlay.SegmentType]string{
			overlay.Local: "networks of OVN span all hosts",
			overlay.VXLAN: "chassis with ovn-encap-type vxlan: OVN carries all networks alike",
		}}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	v, err := b.c.View(ctx)
	if err != nil {
		return f
	}
	chassis, types := map[string]bool{}, map[string]map[string]bool{}
	for c := range ovn.All[sbrow.Chassis](v) {
		chassis[c.Name] = true
	}
	for e := range ovn.All[sbrow.Encap](v) {
		if types[e.Type] == nil {
			types[e.Type] = map[string]bool{}
		}
		types[e.Type][e.ChassisName] = true
	}
	if n := len(chassis); n > 0 && len(types["geneve"]) < n && len(types["vxlan"]) == n {
		f.Segments[overlay.Geneve], f.Segments[overlay.VXLAN] = false, true
		delete(f.Missing, overlay.VXLAN)
		f.Missing[overlay.Geneve] = "chassis with ovn-encap-type geneve: these have vxlan"
	}
	return f
}

// Health implements [overlay.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

func (b *Backend) submit(ctx context.Context, f func(tx *ovn.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err // also when there is nothing to do
	}
	return b.t.Submit(ctx, vnet.PartOverlay, f)
}

// refuse names what OVN cannot do.
func (b *Backend) refuse(f overlay.Features, n overlay.Network) error {
	t := n.Segment.Type
	switch {
	case !f.Segments[t]:
		return &vnet.UnsupportedError{Feature: string(t) + " segments", Backend: name, Need: f.Missing[t]}
	case n.Flooding.UnknownUnicast:
		return &vnet.UnsupportedError{Feature: "flooding of unknown unicast", Backend: name, Need: "OVN knows where every MAC is"}
	case n.Flooding.NoMulticast:
		return &vnet.UnsupportedError{Feature: "no_multicast", Backend: name, Need: "OVN sends multicast to every host with a port of the network"}
	}
	return nil
}

// mtu is what frames of n may have.
func (b *Backend) mtu(n overlay.Network) (int, error) {
	room := b.o.UnderlayMTU
	if n.Segment.Type == overlay.Geneve {
		room -= 8 // OVN's option, beside what overlay.Overhead counts
	}
	return n.EffectiveMTU(room, b.o.Underlay)
}

// EnsureNetwork implements [overlay.Backend].
func (b *Backend) EnsureNetwork(ctx context.Context, n overlay.Network) error {
	if err := b.refuse(b.Features(ctx), n); err != nil {
		return err
	}
	mtu, err := b.mtu(n)
	if err != nil {
		return err
	}
	return b.submit(ctx, func(tx *ovn.Tx) error {
		segment := n.Segment.String()
		if old := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, kindNetwork, n.ID); old == nil || old.ExternalIDs[keySegment] != segment {
			for sw := range ovn.All[nbrow.LogicalSwitch](tx) {
				m, ok := ovn.MarkOf(sw.ExternalIDs)
				if ok && m.Owner == b.c.Owner() && m.Part == vnet.PartOverlay && m.ID != n.ID && sw.ExternalIDs[keySegment] == segment {
					return fmt.Errorf("%s is network %s: %w", segment, m.ID, vnet.ErrConflict)
				}
			}
		}
		putNetwork(tx, n, mtu)
		return nil
	})
}

// DeleteNetwork implements [overlay.Backend].
func (b *Backend) DeleteNetwork(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error { return dropNetwork(tx, id) })
}

// EnsurePort implements [overlay.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p overlay.Port) error {
	return b.submit(ctx, func(tx *ovn.Tx) error { return putPort(tx, p) })
}

// DeletePort implements [overlay.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error { dropPort(tx, id); return nil })
}

// Sync implements [overlay.Backend].
func (b *Backend) Sync(ctx context.Context, s overlay.State, o vnet.SyncOptions) error {
	f, err := b.sync(ctx, s, &o)
	if err != nil {
		return err
	}
	return b.submit(ctx, f)
}

// Plan implements [overlay.Backend].
func (b *Backend) Plan(ctx context.Context, s overlay.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	f, err := b.sync(ctx, s, nil)
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartOverlay, f)
}

// sync makes the whole of s so, within the bounds of o if there are any.
func (b *Backend) sync(ctx context.Context, s overlay.State, o *vnet.SyncOptions) (func(tx *ovn.Tx) error, error) {
	mtus := make([]int, len(s.Networks))
	segments := map[string]string{}
	features := b.Features(ctx)
	for i, n := range s.Networks {
		err := b.refuse(features, n)
		if err == nil {
			mtus[i], err = b.mtu(n)
		}
		if err == nil && segments[n.Segment.String()] != "" {
			err = fmt.Errorf("%s is network %s too: %w", n.Segment, segments[n.Segment.String()], vnet.ErrConflict)
		}
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", n.ID, err)
		}
		segments[n.Segment.String()] = n.ID
	}
	return func(tx *ovn.Tx) error {
		existing := 0
		networks, ports := map[string]bool{}, map[string]bool{}
		for i, n := range s.Networks {
			networks[n.ID] = true
			putNetwork(tx, n, mtus[i])
		}
		for _, p := range s.Ports {
			ports[p.ID] = true
			if err := putPort(tx, p); err != nil {
				return fmt.Errorf("port %s: %w", p.ID, err)
			}
		}
		var goneNetworks, gonePorts []string
		for m := range ovn.Own[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay) {
			if m.Kind != kindPort {
				continue
			}
			existing++
			if !ports[m.ID] {
				gonePorts = append(gonePorts, m.ID)
			}
		}
		for m := range ovn.Own[nbrow.LogicalSwitch](tx, vnet.PartOverlay) {
			existing++
			if !networks[m.ID] {
				goneNetworks = append(goneNetworks, m.ID)
			}
		}
		for _, id := range gonePorts {
			dropPort(tx, id)
		}
		for _, id := range goneNetworks {
			if err := dropNetwork(tx, id); err != nil {
				return fmt.Errorf("network %s: %w", id, err)
			}
		}
		if o == nil {
			return nil
		}
		return o.Check(tx.Changes(), existing)
	}, nil
}

// Watch implements [overlay.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.c.WatchPorts(ctx) }
