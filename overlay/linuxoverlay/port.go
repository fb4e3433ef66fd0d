package linuxoverlay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
)

// portSteps returns what has to be done for p to stand. nets are the networks
// of the state being made, nil when p is ensured by itself.
func (b *Backend) portSteps(ctx context.Context, p overlay.Port, nets map[string]*overlay.Network) ([]linux.Step, error) {
	if nets == nil {
		if err := b.networkStands(p.NetworkID); err != nil {
			return nil, err
		}
	}
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "port", ID: p.ID, Impact: vnet.ImpactNone, Where: b.h.Name()}
	w := &work{b: b, c: &c}
	entry, err := b.entry(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(entry.Holders, vnet.PartOverlay) {
		c.Verb = vnet.Create
		c.Diff = []string{"network: " + p.NetworkID}
		_, steps, err := b.h.Ports().Claim(ctx, vnet.PartOverlay, p.ID)
		if err != nil {
			return nil, err
		}
		w.steps = append(w.steps, steps...)
	}
	dev, err := b.link(b.h.PortAltName(p.ID))
	if err != nil {
		return nil, err
	}
	if dev != nil {
		if err := b.pluggedSteps(ctx, w, p, dev, entry, nets); err != nil {
			return nil, err
		}
	}
	return marked(c, w.steps), nil
}

// networkStands is [vnet.ErrNotFound] when a network neither stands nor is
// about to.
func (b *Backend) networkStands(id string) error {
	if v, pending := b.t.Pending(vnet.PartOverlay, "network", id); pending {
		if v == vnet.Delete {
			return fmt.Errorf("network %s: %w", id, vnet.ErrNotFound)
		}
		return nil
	}
	l, err := b.link(b.h.NetworkDevice(id))
	if err == nil && l == nil {
		err = fmt.Errorf("network %s: %w", id, vnet.ErrNotFound)
	}
	return err
}

// pluggedSteps brings the device at a port into line with the port.
func (b *Backend) pluggedSteps(ctx context.Context, w *work, p overlay.Port, dev *rtnl.Link, entry linux.PortEntry, nets map[string]*overlay.Network) error {
	rt := b.h.NS().RTNL()
	br := b.h.NetworkDevice(p.NetworkID)
	bridge, err := b.link(br)
	if err != nil {
		return err
	}
	if entry.Device != dev.Name || entry.Filtered != p.Filtered {
		if entry.Filtered != p.Filtered {
			w.differ("filtered", entry.Filtered, p.Filtered, vnet.ImpactSome)
		}
		steps, err := b.h.Ports().Bind(ctx, p.ID, dev.Name, p.Filtered)
		if err != nil {
			return err
		}
		w.steps = append(w.steps, steps...)
	}
	if bridge == nil || dev.Master != bridge.Index {
		w.differ("network", "another", p.NetworkID, vnet.ImpactObject)
		n, ok := nets[p.NetworkID]
		if !ok {
			known, yes := b.m.network(p.NetworkID)
			n, ok = &known, yes
		}
		mtu := dev.MTU
		if ok {
			if mtu, err = b.mtu(*n, false); err != nil {
				return err
			}
		} else if bridge != nil { // of a process before
			mtu = bridge.MTU
		}
		if mtu != dev.MTU {
			w.step(linux.Connect, func(context.Context) error { return rt.SetMTU(dev.Name, mtu) }, nil)
		}
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev.Name, br) }, nil)
		b.knowMAC(w, dev.Name, p.MAC, nil)
	} else if err := b.mendMAC(w, dev.Name, p.MAC); err != nil {
		return err
	}
	switch {
	case dev.Up && p.AdminDown:
		w.differ("admin", "up", "down", vnet.ImpactObject)
		w.step(linux.Disconnect, func(context.Context) error { return rt.SetDown(dev.Name) }, nil)
	case !dev.Up && !p.AdminDown:
		w.differ("admin", "down", "up", vnet.ImpactObject)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev.Name) }, nil)
	}
	return nil
}

// mendMAC sees to it that the bridge knows p.MAC, and no other MAC of ours, at
// the device, which is on it.
func (b *Backend) mendMAC(w *work, dev string, mac vnet.MAC) error {
	fdb, err := b.h.NS().RTNL().FDBs(dev)
	if err != nil {
		return err
	}
	var stale []vnet.MAC
	known := false
	for _, f := range fdb {
		switch {
		case !f.Master || f.State&rtnl.NoARP == 0:
		case f.MAC == mac:
			known = true
		default:
			stale = append(stale, f.MAC)
		}
	}
	if known && len(stale) == 0 {
		return nil
	}
	var was any = "unknown"
	if len(stale) > 0 {
		was = stale[0]
	}
	w.differ("mac", was, mac, vnet.ImpactObject)
	b.knowMAC(w, dev, mac, stale)
	return nil
}

// knowMAC tells the bridge where the port's MAC is. Without it the frames to a
// machine that has not yet spoken would be heard by its neighbours.
func (b *Backend) knowMAC(w *work, dev string, mac vnet.MAC, stale []vnet.MAC) {
	rt := b.h.NS().RTNL()
	w.step(linux.Configure, func(context.Context) error {
		for _, m := range stale {
			if err := rt.DelFDB(rtnl.FDB{Dev: dev, MAC: m, Master: true}); err != nil {
				return err
			}
		}
		return rt.SetFDB(rtnl.FDB{Dev: dev, MAC: mac, Master: true, State: rtnl.NoARP, Sticky: true})
	}, nil)
}

// device finds what is at a port: by its alternative name, or what a killed
// Plug has made or bound and not yet named.
func (b *Backend) device(portID string, e linux.PortEntry) (*rtnl.Link, error) {
	l, err := b.link(b.h.PortAltName(portID))
	if err != nil || l != nil {
		return l, err
	}
	if l, err = b.link(b.h.LinkName("p", portID)); err != nil || l != nil || e.Device == "" {
		return l, err
	}
	l, err = b.link(e.Device)
	if err != nil || l == nil || l.Alias != b.existingAlias(portID) {
		return nil, err
	}
	return l, nil
}

// existingAlias signs a device of the caller's at a port.
func (b *Backend) existingAlias(portID string) string {
	return b.h.Alias(vnet.PartOverlay, linux.AliasExisting, "port."+portID)
}

// portGone returns what unplugs and forgets a port.
func (b *Backend) portGone(ctx context.Context, id string) ([]linux.Step, error) {
	c := vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "port", ID: id, Impact: vnet.ImpactObject, Where: b.h.Name()}
	w := &work{b: b, c: &c}
	entry, err := b.entry(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := b.unplugSteps(ctx, w, id, entry); err != nil {
		return nil, err
	}
	if slices.Contains(entry.Holders, vnet.PartOverlay) {
		steps, err := b.h.Ports().Release(ctx, vnet.PartOverlay, id)
		if err != nil {
			return nil, err
		}
		w.steps = append(w.steps, steps...)
	}
	return marked(c, w.steps), nil
}

func (b *Backend) unplugSteps(ctx context.Context, w *work, id string, entry linux.PortEntry) error {
	rt := b.h.NS().RTNL()
	l, err := b.device(id, entry)
	if err != nil {
		return err
	}
	if l != nil {
		dev := l.Name
		_, kind, _, ok := b.h.ParseAlias(l.Alias)
		switch {
		case ok && kind == linux.AliasExisting:
			b.letGo(w, *l, linux.Disconnect)
			w.step(linux.Disconnect, func(context.Context) error { return rt.DelAltName(dev, b.h.PortAltName(id)) }, nil)
		case ok || l.Alias == "":
			w.step(linux.LinkDel, func(context.Context) error { return rt.DelLink(dev) }, nil)
		default:
			return fmt.Errorf("device %s is %q: %w", dev, l.Alias, vnet.ErrConflict)
		}
	}
	if entry.Device != "" {
		steps, err := b.h.Ports().Unbind(ctx, id)
		if err != nil {
			return err
		}
		w.steps = append(w.steps, steps...)
	}
	return nil
}

// Unplug implements [overlay.Plugger].
func (b *Backend) Unplug(ctx context.Context, portID string) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "port", ID: portID, Impact: vnet.ImpactObject, Where: b.h.Name(), Diff: []string{"device: unplugged"}}
	w := &work{b: b, c: &c}
	entry, err := b.entry(ctx, portID)
	if err != nil {
		return err
	}
	if err := b.unplugSteps(ctx, w, portID, entry); err != nil {
		return err
	}
	if len(w.steps) == 0 {
		return nil
	}
	if err := b.t.Submit(ctx, marked(c, w.steps)...); err != nil {
		return err
	}
	if !slices.Contains(entry.Holders, vnet.PartOverlay) {
		return nil
	}
	// Letting the device go has let the port go too, which is still there.
	_, steps, err := b.h.Ports().Claim(ctx, vnet.PartOverlay, portID)
	if err != nil {
		return err
	}
	return b.t.Submit(ctx, steps...)
}

// Plug implements [overlay.Plugger]. The far end of a veth pair that stands
// gets the port's MAC again, as after the port has changed.
func (b *Backend) Plug(ctx context.Context, a overlay.Attachment) (overlay.Device, error) {
	if a.Kind == overlay.VhostUserClient || a.Kind == overlay.VhostUserServer {
		return overlay.Device{}, &vnet.UnsupportedError{Feature: string(a.Kind) + " devices", Backend: "linuxoverlay", Need: "ovsoverlay over Open vSwitch with DPDK"}
	}
	b.m.op.Lock()
	defer b.m.op.Unlock()
	p, ok := b.m.port(a.PortID)
	if !ok {
		return overlay.Device{}, fmt.Errorf("port %s has not been ensured here: %w", a.PortID, vnet.ErrNotFound)
	}
	n, ok := b.m.network(p.NetworkID)
	if !ok {
		return overlay.Device{}, fmt.Errorf("network %s has not been ensured here: %w", p.NetworkID, vnet.ErrNotFound)
	}
	mtu, err := b.mtu(n, false)
	if err != nil {
		return overlay.Device{}, err
	}
	entry, err := b.entry(ctx, p.ID)
	if err != nil {
		return overlay.Device{}, err
	}
	dev, alias := b.h.LinkName("p", p.ID), b.h.Alias(vnet.PartOverlay, "port", p.ID)
	if a.Kind == overlay.Existing {
		dev, alias = a.Name, b.existingAlias(p.ID)
	}
	standing, err := b.device(p.ID, entry)
	if err != nil {
		return overlay.Device{}, err
	}
	if standing != nil && standing.Name != dev {
		return overlay.Device{}, fmt.Errorf("port %s has device %s: %w", p.ID, standing.Name, vnet.ErrConflict)
	}
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "port", ID: p.ID, Impact: vnet.ImpactNone, Where: b.h.Name(), Diff: []string{"device: " + dev}}
	w := &work{b: b, c: &c}
	pl := plug{attachment: a, port: p, dev: dev, alias: alias, mtu: mtu, link: standing, entry: entry}
	if err := b.plugSteps(ctx, w, pl); err != nil {
		return overlay.Device{}, err
	}
	if err := b.t.Submit(ctx, marked(c, w.steps)...); err != nil {
		return overlay.Device{}, err
	}
	return overlay.Device{Name: dev, MTU: mtu}, nil
}

// plug is one plugging: what is asked, and what stands.
type plug struct {
	attachment overlay.Attachment
	port       overlay.Port
	dev, alias string
	mtu        int
	link       *rtnl.Link // nil: not there
	entry      linux.PortEntry
}

func (b *Backend) plugSteps(ctx context.Context, w *work, a plug) error {
	rt := b.h.NS().RTNL()
	dev, mtu, p := a.dev, a.mtu, a.port
	br, alt := b.h.NetworkDevice(p.NetworkID), b.h.PortAltName(p.ID)
	l := a.link
	if l == nil {
		var err error
		if l, err = b.link(dev); err != nil {
			return err
		}
	}
	bridge, err := b.link(br)
	if err != nil {
		return err
	}
	if l != nil {
		if l.Alias != "" && l.Alias != a.alias {
			return fmt.Errorf("device %s is %q: %w", dev, l.Alias, vnet.ErrConflict)
		}
		if l.Master != 0 && l.Alias == "" && (bridge == nil || l.Master != bridge.Index) {
			return fmt.Errorf("device %s is a port of another bridge: %w", dev, vnet.ErrConflict)
		}
		if err := b.sameDevice(w, a, *l); err != nil {
			return err
		}
	}
	// Known to the filters before there is anything to filter.
	if a.entry.Device != dev || a.entry.Filtered != p.Filtered {
		steps, err := b.h.Ports().Bind(ctx, p.ID, dev, p.Filtered)
		if err != nil {
			return err
		}
		w.steps = append(w.steps, steps...)
	}
	if l == nil {
		if err := b.makeDevice(w, a); err != nil {
			return err
		}
	}
	if l == nil || l.Alias != a.alias {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, a.alias) }, nil)
		w.sysctl(linux.LinkAdd, portSysctls(dev, mtu))
	}
	if l == nil || !slices.Contains(l.AltNames, alt) {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.AddAltName(dev, alt) }, nil)
	}
	// A tap is made with the kernel's MTU.
	if l == nil && a.attachment.Kind == overlay.Tap || l != nil && l.MTU != mtu {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMTU(dev, mtu) }, nil)
	}
	if l == nil || bridge == nil || l.Master != bridge.Index {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
		b.knowMAC(w, dev, p.MAC, nil)
	} else if err := b.mendMAC(w, dev, p.MAC); err != nil {
		return err
	}
	switch up := l != nil && l.Up; {
	case up && p.AdminDown:
		w.step(linux.Connect, func(context.Context) error { return rt.SetDown(dev) }, nil)
	case !up && !p.AdminDown:
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
	}
	return nil
}

// sameDevice refuses a device of another kind than asked for, and brings the
// far end of a pair into line.
func (b *Backend) sameDevice(w *work, a plug, l rtnl.Link) error {
	kind := map[overlay.DeviceKind]string{overlay.Veth: "veth", overlay.Tap: "tun"}[a.attachment.Kind]
	if kind == "" {
		return nil // the caller's own
	}
	if l.Kind != kind {
		return fmt.Errorf("port %s has device %s, a %s: %w", a.port.ID, l.Name, l.Kind, vnet.ErrConflict)
	}
	if kind == "tun" {
		return nil
	}
	ns, err := netns.Open(a.attachment.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	there := rtnl.Open(ns)
	defer there.Close()
	far, err := there.LinkByIndex(l.Peer)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return err
	}
	if err != nil || far.Kind != "veth" || far.Peer != l.Index || far.Name != a.attachment.Name {
		return fmt.Errorf("the far end of device %s at port %s is not %s in %s: %w", l.Name, a.port.ID, a.attachment.Name, a.attachment.Netns, vnet.ErrConflict)
	}
	if far.MAC == a.port.MAC && far.MTU == a.mtu {
		return nil
	}
	w.step(linux.Connect, func(context.Context) error {
		return b.farEnd(a.attachment, func(c *rtnl.Conn) error {
			if err := c.SetMAC(a.attachment.Name, a.port.MAC); err != nil {
				return err
			}
			return c.SetMTU(a.attachment.Name, a.mtu)
		})
	}, nil)
	return nil
}

// farEnd runs f with a connection in the namespace of a pair's far end.
func (b *Backend) farEnd(a overlay.Attachment, f func(*rtnl.Conn) error) error {
	ns, err := netns.Open(a.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	c := rtnl.Open(ns)
	defer c.Close()
	return f(c)
}

// makeDevice makes what the attachment asks for.
func (b *Backend) makeDevice(w *work, a plug) error {
	rt := b.h.NS().RTNL()
	undo := func(context.Context) error { return rt.DelLink(a.dev) }
	switch a.attachment.Kind {
	case overlay.Existing:
		return fmt.Errorf("device %s on host %s: %w", a.dev, b.h.Name(), vnet.ErrNotFound)
	case overlay.Veth:
		ns, err := netns.Open(a.attachment.Netns) // refused before anything is written
		if err != nil {
			return err
		}
		ns.Close()
		w.step(linux.LinkAdd, func(context.Context) error {
			ns, err := netns.Open(a.attachment.Netns)
			if err != nil {
				return err
			}
			defer ns.Close()
			return rt.AddVeth(a.dev, a.attachment.Name, ns, vnet.MAC{}, a.port.MAC, a.mtu)
		}, undo)
	case overlay.Tap:
		w.step(linux.LinkAdd, func(context.Context) error {
			return rt.AddLink(&rtnl.Tuntap{LinkAttrs: rtnl.LinkAttrs{Name: a.dev, MTU: a.mtu}, Mode: rtnl.TapMode})
		}, undo)
	}
	return nil
}
