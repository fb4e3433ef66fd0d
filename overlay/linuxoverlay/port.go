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
	entry, err := b.h.Ports().Get(ctx, p.ID)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
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
		if err := b.pluggedSteps(ctx, w, p, dev, entry); err != nil {
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
func (b *Backend) pluggedSteps(ctx context.Context, w *work, p overlay.Port, dev *rtnl.Link, entry linux.PortEntry) error {
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
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev.Name, br) }, nil)
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

// device finds what is at a port: by its alternative name, or what a killed
// Plug has made and not yet named.
func (b *Backend) device(portID string) (*rtnl.Link, error) {
	l, err := b.link(b.h.PortAltName(portID))
	if err != nil || l != nil {
		return l, err
	}
	return b.link(b.h.LinkName("p", portID))
}

// portGone returns what unplugs and forgets a port.
func (b *Backend) portGone(ctx context.Context, id string) ([]linux.Step, error) {
	c := vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "port", ID: id, Impact: vnet.ImpactObject, Where: b.h.Name()}
	w := &work{b: b, c: &c}
	if err := b.unplugSteps(ctx, w, id); err != nil {
		return nil, err
	}
	entry, err := b.h.Ports().Get(ctx, id)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
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

func (b *Backend) unplugSteps(ctx context.Context, w *work, id string) error {
	rt := b.h.NS().RTNL()
	l, err := b.device(id)
	if err != nil {
		return err
	}
	if l != nil {
		dev := l.Name
		_, kind, _, ok := b.h.ParseAlias(l.Alias)
		switch {
		case ok && kind == linux.AliasExisting:
			b.letGo(w, *l)
			w.step(linux.Disconnect, func(context.Context) error { return rt.DelAltName(dev, b.h.PortAltName(id)) }, nil)
		case ok || l.Alias == "":
			w.step(linux.LinkDel, func(context.Context) error { return rt.DelLink(dev) }, nil)
		default:
			return fmt.Errorf("device %s is %q: %w", dev, l.Alias, vnet.ErrConflict)
		}
	}
	entry, err := b.h.Ports().Get(ctx, id)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return err
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
	b.mu.Lock()
	defer b.mu.Unlock()
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "port", ID: portID, Impact: vnet.ImpactObject, Where: b.h.Name(), Diff: []string{"device: unplugged"}}
	w := &work{b: b, c: &c}
	if err := b.unplugSteps(ctx, w, portID); err != nil {
		return err
	}
	return b.t.Submit(ctx, marked(c, w.steps)...)
}

// Plug implements [overlay.Plugger].
func (b *Backend) Plug(ctx context.Context, a overlay.Attachment) (overlay.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.ports[a.PortID]
	if !ok {
		return overlay.Device{}, fmt.Errorf("port %s has not been ensured here: %w", a.PortID, vnet.ErrNotFound)
	}
	n, ok := b.networks[p.NetworkID]
	if !ok {
		return overlay.Device{}, fmt.Errorf("network %s has not been ensured here: %w", p.NetworkID, vnet.ErrNotFound)
	}
	mtu, err := b.mtu(ctx, n)
	if err != nil {
		return overlay.Device{}, err
	}
	dev := b.h.LinkName("p", p.ID)
	alias := b.h.Alias(vnet.PartOverlay, "port", p.ID)
	if a.Kind == overlay.Existing {
		dev, alias = a.Name, b.h.Alias(vnet.PartOverlay, linux.AliasExisting, "port."+p.ID)
	}
	standing, err := b.device(p.ID)
	if err != nil {
		return overlay.Device{}, err
	}
	if standing != nil && standing.Name != dev {
		return overlay.Device{}, fmt.Errorf("port %s has device %s: %w", p.ID, standing.Name, vnet.ErrConflict)
	}
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "port", ID: p.ID, Impact: vnet.ImpactNone, Where: b.h.Name(), Diff: []string{"device: " + dev}}
	w := &work{b: b, c: &c}
	if err := b.plugSteps(ctx, w, a, p, dev, alias, mtu); err != nil {
		return overlay.Device{}, err
	}
	if err := b.t.Submit(ctx, marked(c, w.steps)...); err != nil {
		return overlay.Device{}, err
	}
	return overlay.Device{Name: dev, MTU: mtu}, nil
}

func (b *Backend) plugSteps(ctx context.Context, w *work, a overlay.Attachment, p overlay.Port, dev, alias string, mtu int) error {
	rt := b.h.NS().RTNL()
	br, alt := b.h.NetworkDevice(p.NetworkID), b.h.PortAltName(p.ID)
	entry, err := b.h.Ports().Get(ctx, p.ID)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return err
	}
	if entry.Device != dev || entry.Filtered != p.Filtered {
		steps, err := b.h.Ports().Bind(ctx, p.ID, dev, p.Filtered)
		if err != nil {
			return err
		}
		w.steps = append(w.steps, steps...)
	}
	l, err := b.link(dev)
	if err != nil {
		return err
	}
	if l != nil && l.Alias != "" && l.Alias != alias {
		return fmt.Errorf("device %s is %q: %w", dev, l.Alias, vnet.ErrConflict)
	}
	if l == nil {
		if err := b.makeDevice(w, a, p, dev, mtu); err != nil {
			return err
		}
	}
	bridge, err := b.link(br)
	if err != nil {
		return err
	}
	if l != nil && l.Master != 0 && l.Alias == "" && (bridge == nil || l.Master != bridge.Index) {
		return fmt.Errorf("device %s is a port of another bridge: %w", dev, vnet.ErrConflict)
	}
	if l == nil || l.Alias != alias {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, alias) }, nil)
		w.sysctl(linux.LinkAdd, portSysctls(dev))
	}
	if l == nil || !slices.Contains(l.AltNames, alt) {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.AddAltName(dev, alt) }, nil)
	}
	if l == nil || l.MTU != mtu {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMTU(dev, mtu) }, nil)
	}
	if l == nil || bridge == nil || l.Master != bridge.Index {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
	}
	switch up := l != nil && l.Up; {
	case up && p.AdminDown:
		w.step(linux.Connect, func(context.Context) error { return rt.SetDown(dev) }, nil)
	case !up && !p.AdminDown:
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
	}
	return nil
}

// makeDevice makes what the attachment asks for.
func (b *Backend) makeDevice(w *work, a overlay.Attachment, p overlay.Port, dev string, mtu int) error {
	rt := b.h.NS().RTNL()
	undo := func(context.Context) error { return rt.DelLink(dev) }
	switch a.Kind {
	case overlay.Existing:
		return fmt.Errorf("device %s on host %s: %w", dev, b.h.Name(), vnet.ErrNotFound)
	case overlay.Veth:
		ns, err := netns.Open(a.Netns)
		if err != nil {
			return err
		}
		ns.Close()
		w.step(linux.LinkAdd, func(context.Context) error {
			ns, err := netns.Open(a.Netns)
			if err != nil {
				return err
			}
			defer ns.Close()
			return rt.AddVeth(dev, a.Name, ns, vnet.MAC{}, p.MAC, mtu)
		}, undo)
	case overlay.Tap:
		w.step(linux.LinkAdd, func(context.Context) error {
			return rt.AddLink(&rtnl.Tuntap{LinkAttrs: rtnl.LinkAttrs{Name: dev, MTU: mtu}, Mode: rtnl.TapMode})
		}, undo)
	}
	return nil
}
