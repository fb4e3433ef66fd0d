package linuxsriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

// EnsurePort implements [sriov.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p sriov.Port) (a sriov.Attachment, err error) {
	err = b.with(ctx, func(h *host) error {
		a, err = b.give(ctx, h, p)
		return err
	})
	return a, err
}

// DeletePort implements [sriov.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.with(ctx, func(h *host) error { return b.release(h, id) })
}

// give makes a port's function as p says, and finds one if it has none.
func (b *Backend) give(ctx context.Context, h *host, p sriov.Port) (sriov.Attachment, error) {
	g := h.port(b.owner, p.ID)
	if g != nil {
		if t := h.device(b.owner, g.Device); t == nil || sriov.Moves(g.Port, p, t.Device) {
			// Whether there is another comes first: the port keeps what it has if not.
			if _, err := b.choose(h, p); err != nil {
				return sriov.Attachment{}, err
			}
			if err := b.release(h, p.ID); err != nil {
				return sriov.Attachment{}, err
			}
			g = nil
		}
	}
	fresh := g == nil
	if fresh {
		n, err := b.choose(h, p)
		if err != nil {
			return sriov.Attachment{}, err
		}
		if err := b.remember(&n); err != nil {
			return sriov.Attachment{}, err
		}
		h.functions = append(h.functions, n)
		g = &h.functions[len(h.functions)-1]
	}
	was := g.Port
	g.Port = p
	err := b.j.put(functionPrefix+g.PCI, g)
	if err == nil {
		err = b.program(g)
	}
	if err != nil {
		if fresh {
			return sriov.Attachment{}, errors.Join(err, b.release(h, p.ID))
		}
		g.Port = was
		return sriov.Attachment{}, errors.Join(err, b.j.put(functionPrefix+g.PCI, g))
	}
	return b.attachment(ctx, *g)
}

// choose finds a function for a port: of the device with the most that are free,
// the first.
func (b *Backend) choose(h *host, p sriov.Port) (given, error) {
	type offer struct {
		device taken
		free   []int // VFs
	}
	var offers []offer
	var why []string
	for _, t := range h.devices {
		if t.Owner != b.owner {
			continue
		}
		if err := sriov.Fits(p, t.Device); err != nil {
			why = append(why, fmt.Sprintf("%s: %v", t.Device.ID, err))
			continue
		}
		o := offer{device: t}
		if p.VNICType == sriov.DirectPhysical {
			if h.holder(t.PCI) == nil && b.numVFs(t.PCI) == 0 {
				o.free = []int{-1}
			}
		} else {
			for i := range b.numVFs(t.PCI) {
				a := b.vfAddress(t.PCI, i)
				if a != "" && h.holder(a) == nil && !slices.Contains(t.Device.Exclude, a) && !b.foreign(a) {
					o.free = append(o.free, i)
				}
			}
		}
		if len(o.free) == 0 {
			why = append(why, t.Device.ID+": none is free")
			continue
		}
		offers = append(offers, o)
	}
	if len(offers) == 0 {
		if len(why) == 0 {
			why = []string{"there is no device"}
		}
		return given{}, fmt.Errorf("no function for port %s (%s): %w", p.ID, strings.Join(why, "; "), vnet.ErrConflict)
	}
	best := slices.MinFunc(offers, func(x, y offer) int {
		return cmp.Or(cmp.Compare(len(y.free), len(x.free)), cmp.Compare(x.device.Device.ID, y.device.Device.ID))
	})
	g := given{Owner: b.owner, Port: p, Device: best.device.Device.ID, PF: best.device.PCI, VF: best.free[0], PCI: best.device.PCI}
	if g.VF >= 0 {
		g.PCI = b.vfAddress(g.PF, g.VF)
	}
	return g, nil
}

// foreign reports whether somebody without a record uses a VF: bound to vfio-pci,
// with its device up, or in another namespace.
func (b *Backend) foreign(pci string) bool {
	f, err := b.function(pci)
	switch {
	case err != nil:
		return true
	case f.Driver == "":
		return false
	case f.Driver == vfioPCI:
		return true
	case f.Netdev == "":
		return true
	}
	l, err := b.k.link(f.Netdev)
	return err != nil || l.Up
}

// remember notes what a function is before it is given.
func (b *Backend) remember(g *given) error {
	f, err := b.function(g.PCI)
	if err != nil {
		return err
	}
	g.Was.Driver = f.Driver
	if o, err := b.k.read(devices + g.PCI + "/driver_override"); err == nil && o != "(null)" {
		g.Was.Override = o
	}
	if g.VF < 0 {
		if f.Netdev != "" {
			l, err := b.k.link(f.Netdev)
			if err != nil {
				return err
			}
			g.Was.Up = l.Up
		}
		return nil
	}
	set, _, err := b.settings(b.netdev(g.PF))
	if err != nil {
		return err
	}
	s, ok := set[g.VF]
	if !ok {
		return fmt.Errorf("the driver of %s tells nothing of VF %d: %w", g.PF, g.VF, vnet.ErrNotReady)
	}
	g.Was.Settings = s
	return nil
}

// program makes a function as its record says. Settings that need the machine's
// driver to start anew are written while there is none.
func (b *Backend) program(g *given) error {
	p := g.Port
	if g.VF >= 0 && b.vfAddress(g.PF, g.VF) != g.PCI {
		return fmt.Errorf("VF %d of %s is not there: %w", g.VF, g.PF, vnet.ErrNotReady)
	}
	if p.Driver == sriov.VFIO {
		if err := b.alone(g.PCI); err != nil {
			return err
		}
	}
	rebind := b.driver(*g) != p.Driver
	if g.VF >= 0 && p.Driver == sriov.Kernel && !rebind {
		// A driver takes its MAC when it starts.
		set, _, err := b.settings(b.netdev(g.PF))
		if err != nil {
			return err
		}
		rebind = set[g.VF].MAC != p.MAC
	}
	if rebind {
		if err := b.k.delLink(b.tapName(p.ID)); err != nil {
			return err
		}
		if err := b.unbind(g.PCI); err != nil {
			return err
		}
	}
	if g.VF >= 0 {
		if err := b.set(*g, p.Settings()); err != nil {
			return err
		}
	}
	if !rebind {
		return nil
	}
	if p.Driver == sriov.VFIO {
		return b.bind(g.PCI, vfioPCI, vfioPCI)
	}
	own := anyDriver
	if g.Was.Driver != "" && g.Was.Driver != vfioPCI {
		own = g.Was.Driver
	}
	if err := b.bind(g.PCI, own, ""); err != nil {
		return err
	}
	if p.VNICType != sriov.MacVTap {
		return nil
	}
	dev := b.netdev(g.PCI)
	if dev == "" {
		return fmt.Errorf("VF %s has no device on the host: %w", g.PCI, vnet.ErrNotReady)
	}
	if err := b.k.setUp(dev, true); err != nil {
		return err
	}
	return b.k.addMacvtap(b.tapName(p.ID), dev, b.alias(p.ID), p.MAC)
}

// set writes the settings that differ from what stands.
func (b *Backend) set(g given, want sriov.Settings) error {
	pf := b.netdev(g.PF)
	if pf == "" {
		return fmt.Errorf("PF %s has no device on the host: %w", g.PF, vnet.ErrNotReady)
	}
	all, silent, err := b.settings(pf)
	if err != nil {
		return err
	}
	now, ok := all[g.VF]
	if !ok {
		return fmt.Errorf("the driver of %s tells nothing of VF %d: %w", g.PF, g.VF, vnet.ErrNotReady)
	}
	proto := uint16(unix.ETH_P_8021Q)
	if want.VLAN.Service || want.VLAN.ID == 0 && now.VLAN.Service {
		proto = unix.ETH_P_8021AD
	}
	states := map[sriov.LinkState]uint32{sriov.Auto: 0, sriov.Enable: 1, sriov.Disable: 2}
	u := silent[g.VF]
	for _, x := range []struct {
		field   string
		value   any
		differs bool
		write   func() error
	}{
		{"mac", want.MAC, now.MAC != want.MAC, func() error { return b.k.setMAC(pf, g.VF, want.MAC) }},
		{"vlan", want.VLAN, now.VLAN != want.VLAN, func() error {
			return b.k.setVLAN(pf, g.VF, want.VLAN.ID, want.VLAN.Priority, proto)
		}},
		// What a driver does not tell is written when it is asked for.
		{"port_security", want.SpoofCheck, now.SpoofCheck != want.SpoofCheck || u.spoof && want.SpoofCheck,
			func() error { return b.k.setSpoofCheck(pf, g.VF, want.SpoofCheck) }},
		{"trusted", want.Trusted, now.Trusted != want.Trusted || u.trust && want.Trusted,
			func() error { return b.k.setTrust(pf, g.VF, want.Trusted) }},
		{"link_state", want.LinkState, now.LinkState != want.LinkState, func() error { return b.k.setLinkState(pf, g.VF, states[want.LinkState]) }},
		{"rates", fmt.Sprintf("%d to %d Mbit/s", want.MinMbps, want.MaxMbps), now.MinMbps != want.MinMbps || now.MaxMbps != want.MaxMbps,
			func() error { return b.k.setRate(pf, g.VF, want.MinMbps, want.MaxMbps) }},
	} {
		if !x.differs {
			continue
		}
		if err := x.write(); err != nil {
			l, lerr := b.k.link(pf)
			return &sriov.SettingError{Device: g.Device, VF: g.VF, Field: x.field, Value: fmt.Sprint(x.value), Err: err,
				NotReady: lerr == nil && !l.Running && errors.Is(err, unix.EINVAL)}
		}
	}
	return nil
}

// release resets a port's function to what it was, and forgets it.
func (b *Backend) release(h *host, id string) error {
	g := h.port(b.owner, id)
	if g == nil {
		return nil
	}
	if err := b.reset(*g); err != nil {
		return fmt.Errorf("reset %s: %w", g.PCI, err)
	}
	if err := b.j.remove(functionPrefix + g.PCI); err != nil {
		return err
	}
	h.functions = slices.DeleteFunc(h.functions, func(x given) bool { return x.Owner == b.owner && x.Port.ID == id })
	return nil
}

func (b *Backend) reset(g given) error {
	if _, err := b.k.read(devices + g.PCI + "/vendor"); absent(err) || g.VF >= 0 && b.vfAddress(g.PF, g.VF) != g.PCI {
		return nil // gone, and with it all that was set
	} else if err != nil {
		return err
	}
	if err := b.k.delLink(b.tapName(g.Port.ID)); err != nil {
		return err
	}
	if err := b.unbind(g.PCI); err != nil {
		return err
	}
	if g.VF >= 0 && b.netdev(g.PF) != "" {
		was := g.Was.Settings
		mac := was.MAC
		was.MAC = vnet.MAC{} // a card keeps frames for a MAC in its table from the wire
		err := b.set(g, was)
		var s *sriov.SettingError
		if errors.As(err, &s) && s.Field == "mac" { // a driver that must have one
			was.MAC = mac
			err = b.set(g, was)
		}
		if err != nil {
			return err
		}
	}
	if err := b.bind(g.PCI, g.Was.Driver, g.Was.Override); err != nil {
		return err
	}
	if g.VF < 0 && g.Was.Up {
		if dev := b.netdev(g.PCI); dev != "" {
			return b.k.setUp(dev, true)
		}
	}
	return nil
}
