package linuxsriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/sriov"
)

// Options of a [Backend]. The zero value and nil are the same.
type Options struct {
	// Dir is the folder of the records, the same for all processes and owners of
	// the machine; on a tmpfs. "": /run/vnet-sriov.
	Dir string
	// Sysfs is where sysfs is mounted. "": /sys.
	Sysfs string
}

// Backend gives the functions of one host's cards.
type Backend struct {
	owner   vnet.Owner
	tapName func(portID string) string
	alias   func(portID string) string
	k       kernel
	j       journal
}

var _ sriov.Backend = (*Backend)(nil)

// New returns the backend for the cards of h's namespace. It takes a host, not a
// batch: which function a port gets is decided at once.
func New(h *linux.Host, o *Options) (*Backend, error) {
	if h == nil {
		return nil, &vnet.FieldError{Field: "host", Reason: "is nil"}
	}
	x := Options{}
	if o != nil {
		x = *o
	}
	x.Dir, x.Sysfs = cmp.Or(x.Dir, "/run/vnet-sriov"), cmp.Or(x.Sysfs, "/sys")
	return &Backend{
		owner:   h.Owner(),
		tapName: func(id string) string { return h.LinkName("t", id) },
		alias:   func(id string) string { return h.Alias(vnet.PartSRIOV, "macvtap", id) },
		k:       live{x.Sysfs, h.NS().RTNL()},
		j:       journal{x.Dir},
	}, nil
}

// with reads the records under the lock and calls f.
func (b *Backend) with(ctx context.Context, f func(*host) error) error {
	unlock, err := b.j.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h := &host{}
	if h.devices, h.functions, err = b.j.load(); err != nil {
		return err
	}
	return f(h)
}

// Discover implements [sriov.Backend].
func (b *Backend) Discover(ctx context.Context) (out []sriov.PF, err error) {
	out = []sriov.PF{}
	err = b.with(ctx, func(h *host) error {
		all, err := b.k.list("bus/pci/devices")
		if err != nil {
			return err
		}
		slices.Sort(all)
		for _, pci := range all {
			class, _ := b.k.read(devices + pci + "/class")
			// 0x02: network controllers.
			if !strings.HasPrefix(class, "0x02") || b.number(devices+pci+"/sriov_totalvfs", 0) == 0 {
				continue
			}
			p, err := b.pf(ctx, pci)
			if err != nil {
				return err
			}
			var exclude []string
			for _, t := range h.devices {
				if t.PCI == pci && t.Owner == b.owner {
					p.Device, p.PhysicalNetwork, exclude = t.Device.ID, t.Device.PhysicalNetwork, t.Device.Exclude
				}
			}
			if g := h.holder(pci); g != nil {
				p.Port, p.Owner = g.Port.ID, g.Owner
			}
			for i := range p.VFs {
				v := &p.VFs[i]
				v.Excluded = slices.Contains(exclude, v.PCI)
				if g := h.holder(v.PCI); g != nil {
					v.Port, v.Owner = g.Port.ID, g.Owner
				}
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// resolve returns the PCI address of a PF that is named by its device or address.
func (b *Backend) resolve(h *host, d sriov.Device) (string, error) {
	if sriov.IsPCI(d.PF) {
		return d.PF, nil
	}
	pci, err := b.k.target("class/net/" + d.PF + "/device")
	if err == nil && sriov.IsPCI(pci) {
		return pci, nil
	}
	if t := h.device(b.owner, d.ID); t != nil && t.Device.PF == d.PF {
		return t.PCI, nil // has lost its name to a machine
	}
	if err == nil || absent(err) {
		err = &vnet.FieldError{Field: "pf", Value: d.PF, Reason: "is no PCI device of this host"}
	}
	return "", err
}

// observe says what stands, in the words of what is wanted: PFs by address,
// settings as the driver tells them.
func (b *Backend) observe(ctx context.Context, h *host) (sriov.State, error) {
	var s sriov.State
	tables := map[string]func() (map[int]sriov.Settings, map[int]unknown, error){}
	for _, t := range h.devices {
		if t.Owner != b.owner {
			continue
		}
		d := t.Device
		d.PF, d.VFs = t.PCI, b.numVFs(t.PCI)
		if d.VFs > 0 {
			m, err := b.mode(ctx, t.PCI)
			if err != nil {
				return s, err
			}
			d.Mode = m
		}
		s.Devices = append(s.Devices, d)
	}
	for _, g := range h.functions {
		if g.Owner != b.owner {
			continue
		}
		p := g.Port
		p.Device = g.Device
		if now := b.driver(g); now != p.Driver {
			p.Driver = now
			s.Ports = append(s.Ports, p)
			continue
		}
		if g.VF >= 0 {
			read := tables[g.PF]
			if read == nil {
				set, silent, err := b.settings(b.netdev(g.PF))
				read = func() (map[int]sriov.Settings, map[int]unknown, error) { return set, silent, err }
				tables[g.PF] = read
			}
			set, silent, err := read()
			if err != nil {
				return s, err
			}
			if x, ok := set[g.VF]; ok {
				p = as(p, x, silent[g.VF])
			}
		}
		s.Ports = append(s.Ports, p)
	}
	return s.Canonical(), nil
}

// as returns p with the settings that stand.
func as(p sriov.Port, x sriov.Settings, u unknown) sriov.Port {
	p.MAC, p.VLAN, p.LinkState = x.MAC, x.VLAN, x.LinkState
	if !u.trust {
		p.Trusted = x.Trusted
	}
	if !u.spoof && !p.Offload {
		p.PortSecurity = x.SpoofCheck
	}
	// Both are the same to the card when they are the same in Mbit/s.
	if sriov.Mbps(p.MinKbps) != x.MinMbps {
		p.MinKbps = x.MinMbps * 1000
	}
	if sriov.Mbps(p.MaxKbps) != x.MaxMbps {
		p.MaxKbps = x.MaxMbps * 1000
	}
	return p
}

// driver is what a port's function is bound to, in the contract's words, or
// others that say what is wrong.
func (b *Backend) driver(g given) sriov.Driver {
	if g.VF >= 0 && b.vfAddress(g.PF, g.VF) != g.PCI {
		return "none: the VF is gone"
	}
	now, err := b.k.target(devices + g.PCI + "/driver")
	switch {
	case err != nil || now == "":
		return "none"
	case now == vfioPCI:
		return sriov.VFIO
	}
	if g.Port.VNICType == sriov.MacVTap && g.Port.Driver == sriov.Kernel {
		if _, err := b.k.link(b.tapName(g.Port.ID)); err != nil {
			return "kernel: the macvtap is gone"
		}
	}
	return sriov.Kernel
}

// Plan implements [sriov.Backend].
func (b *Backend) Plan(ctx context.Context, s sriov.State) (p vnet.Plan, err error) {
	err = b.with(ctx, func(h *host) error {
		p, _, _, err = b.plan(ctx, h, s)
		return err
	})
	return p, err
}

// plan returns what takes what stands to s, and s with PFs by address.
func (b *Backend) plan(ctx context.Context, h *host, s sriov.State) (p vnet.Plan, old, want sriov.State, err error) {
	if old, err = b.observe(ctx, h); err != nil {
		return p, old, want, err
	}
	want = s.Canonical()
	for i, d := range want.Devices {
		if want.Devices[i].PF, err = b.resolve(h, d); err != nil {
			return p, old, want, vnet.In("devices["+d.ID+"]", err)
		}
		if err = b.checkDevice(h, d, want.Devices[i].PF); err != nil {
			return p, old, want, vnet.In("devices["+d.ID+"]", err)
		}
	}
	return sriov.Diff(old, want), old, want, nil
}

// Sync implements [sriov.Backend].
func (b *Backend) Sync(ctx context.Context, s sriov.State, o vnet.SyncOptions) error {
	return b.with(ctx, func(h *host) error {
		p, old, want, err := b.plan(ctx, h, s)
		if err != nil {
			return err
		}
		if err := o.Check(p, len(old.Devices)+len(old.Ports)); err != nil {
			return err
		}
		var errs []error
		for _, c := range p.Changes {
			if err := ctx.Err(); err != nil {
				return errors.Join(append(errs, err)...)
			}
			op := "ensure"
			switch {
			case c.Verb == vnet.Delete && c.Kind == "port":
				op, err = "delete", b.release(h, c.ID)
			case c.Verb == vnet.Delete:
				op, err = "delete", b.giveUp(ctx, h, c.ID)
			case c.Kind == "device":
				i := slices.IndexFunc(want.Devices, func(d sriov.Device) bool { return d.ID == c.ID })
				err = b.take(ctx, h, s.Devices[slices.IndexFunc(s.Devices, func(d sriov.Device) bool { return d.ID == c.ID })].Canonical(), want.Devices[i].PF)
			default:
				i := slices.IndexFunc(want.Ports, func(p sriov.Port) bool { return p.ID == c.ID })
				_, err = b.give(ctx, h, want.Ports[i])
			}
			if err != nil {
				// The others shall not wait for one.
				errs = append(errs, &vnet.OpError{Op: op, Kind: c.Kind, ID: c.ID, Err: err})
			}
		}
		return errors.Join(errs...)
	})
}

// EnsureDevice implements [sriov.Backend].
func (b *Backend) EnsureDevice(ctx context.Context, d sriov.Device) error {
	return b.with(ctx, func(h *host) error {
		pci, err := b.resolve(h, d)
		if err == nil {
			err = b.checkDevice(h, d, pci)
		}
		if err == nil {
			err = b.take(ctx, h, d, pci)
		}
		return err
	})
}

// checkDevice refuses what can never be, and what is another's.
func (b *Backend) checkDevice(h *host, d sriov.Device, pci string) error {
	if _, err := b.k.read(devices + pci + "/vendor"); absent(err) {
		return &vnet.FieldError{Field: "pf", Value: d.PF, Reason: "is not in this host"}
	} else if err != nil {
		return err
	}
	for _, t := range h.devices {
		if t.PCI == pci && (t.Owner != b.owner || t.Device.ID != d.ID) {
			return fmt.Errorf("PF %s is device %s of owner %s: %w", pci, t.Device.ID, t.Owner, vnet.ErrConflict)
		}
		if t.Owner == b.owner && t.Device.ID == d.ID && t.PCI != pci {
			return &vnet.FieldError{Field: "pf", Value: d.PF, Reason: "is another than device " + d.ID + " is; delete that first"}
		}
	}
	most := b.number(devices+pci+"/sriov_totalvfs", 0)
	if d.VFs > most {
		return &vnet.FieldError{Field: "vfs", Value: fmt.Sprint(d.VFs), Reason: fmt.Sprintf("is more than the %d that %s can have", most, d.PF)}
	}
	return nil
}

// users are those who have a function of a PF, by name: ports, and whoever else.
func (b *Backend) users(h *host, pci string) (out []string) {
	for _, g := range h.functions {
		if g.PF == pci && (g.VF < 0 || b.vfAddress(pci, g.VF) == g.PCI) {
			out = append(out, fmt.Sprintf("port %s of owner %s", g.Port.ID, g.Owner))
		}
	}
	for i := range b.numVFs(pci) {
		a := b.vfAddress(pci, i)
		if a == "" || h.holder(a) != nil {
			continue
		}
		f, err := b.function(a)
		switch {
		case err != nil || f.Driver == "":
		case f.Driver == vfioPCI:
			out = append(out, "somebody who bound VF "+a+" to "+vfioPCI)
		case f.Netdev == "":
			out = append(out, "a namespace that has the device of VF "+a)
		default:
			if l, err := b.k.link(f.Netdev); err == nil && l.Up {
				out = append(out, "the host, where "+f.Netdev+" of VF "+a+" is up")
			}
		}
	}
	slices.Sort(out)
	return out
}

// take makes a PF the device d.
func (b *Backend) take(ctx context.Context, h *host, d sriov.Device, pci string) error {
	p, err := b.pf(ctx, pci)
	if err != nil {
		return err
	}
	t := h.device(b.owner, d.ID)
	fresh := t == nil
	if fresh {
		n := taken{Owner: b.owner, Device: d, PCI: pci}
		n.Was.VFs, n.Was.Mode, n.Was.Up = len(p.VFs), p.Mode, p.Up
		h.devices = append(h.devices, n)
		t = &h.devices[len(h.devices)-1]
	}
	for _, g := range h.functions {
		if g.PF == pci && slices.Contains(d.Exclude, g.PCI) {
			return fmt.Errorf("VF %s is to be excluded, but port %s of owner %s has it: %w", g.PCI, g.Port.ID, g.Owner, vnet.ErrInUse)
		}
	}
	was := t.Device
	t.Device = d
	if err := b.j.put(devicePrefix+pci, t); err != nil {
		return err
	}
	if err := b.shape(ctx, h, p, d.VFs, d.Mode); err != nil {
		if fresh {
			return errors.Join(err, b.giveUp(ctx, h, d.ID))
		}
		t.Device = was // what is recorded decides what ports may get
		return errors.Join(err, b.j.put(devicePrefix+pci, t))
	}
	if d.VFs == 0 || p.Netdev == "" {
		return nil
	}
	// VFs have no link while the PF is down.
	return b.k.setUp(b.netdev(pci), true)
}

// shape gives a PF its VFs, in a mode.
func (b *Backend) shape(ctx context.Context, h *host, p sriov.PF, vfs int, mode sriov.Mode) error {
	if len(p.VFs) == vfs && (vfs == 0 || p.Mode == mode) {
		return nil
	}
	if who := b.users(h, p.PCI); len(who) > 0 {
		return fmt.Errorf("VFs of %s are had by %s: %w", p.PCI, strings.Join(who, ", "), vnet.ErrInUse)
	}
	dir := devices + p.PCI
	if len(p.VFs) > 0 { // the kernel goes from one number to another only by none
		if err := b.k.write(dir+"/sriov_numvfs", "0"); err != nil {
			return fmt.Errorf("remove VFs of %s: %w", p.PCI, err)
		}
	}
	if p.Mode != mode && mode == sriov.Legacy {
		if err := b.k.setEswitch(ctx, p.PCI, string(mode)); err != nil {
			return err
		}
	}
	if vfs == 0 {
		return nil
	}
	toSwitchdev := p.Mode != mode && mode == sriov.Switchdev
	if toSwitchdev {
		// Drivers refuse the mode while VFs are bound.
		if err := b.k.write(dir+"/sriov_drivers_autoprobe", "0"); err != nil {
			return err
		}
	}
	err := b.k.write(dir+"/sriov_numvfs", fmt.Sprint(vfs))
	if err != nil {
		err = fmt.Errorf("make %d VFs of %s: %w", vfs, p.PCI, err)
	}
	if toSwitchdev {
		if err == nil {
			if err = b.k.setEswitch(ctx, p.PCI, string(mode)); unsupported(err) {
				err = &vnet.UnsupportedError{Feature: "switchdev mode of " + p.PCI, Backend: "linuxsriov", Need: "a card and driver with it (" + err.Error() + ")"}
			}
			if err != nil {
				err = errors.Join(err, b.k.write(dir+"/sriov_numvfs", "0"))
			}
		}
		err = errors.Join(err, b.k.write(dir+"/sriov_drivers_autoprobe", "1"))
		if err == nil {
			err = b.k.setFeature(b.netdev(p.PCI), "hw-tc-offload", true)
		}
	}
	return err
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
}

// DeleteDevice implements [sriov.Backend].
func (b *Backend) DeleteDevice(ctx context.Context, id string) error {
	return b.with(ctx, func(h *host) error { return b.giveUp(ctx, h, id) })
}

// giveUp makes a PF what it was.
func (b *Backend) giveUp(ctx context.Context, h *host, id string) error {
	t := h.device(b.owner, id)
	if t == nil {
		return nil
	}
	var ports []string
	for _, g := range h.functions {
		if g.PF == t.PCI {
			ports = append(ports, g.Port.ID)
		}
	}
	if len(ports) > 0 {
		return fmt.Errorf("device %s: ports %s have functions of it: %w", id, strings.Join(ports, ", "), vnet.ErrInUse)
	}
	p, err := b.pf(ctx, t.PCI)
	switch {
	case errors.Is(err, vnet.ErrNotFound): // the card is gone
	case err != nil:
		return err
	default:
		if err := b.shape(ctx, h, p, t.Was.VFs, t.Was.Mode); err != nil {
			return err
		}
		if dev := b.netdev(t.PCI); dev != "" && p.Up && !t.Was.Up {
			if err := b.k.setUp(dev, false); err != nil {
				return err
			}
		}
	}
	if err := b.j.remove(devicePrefix + t.PCI); err != nil {
		return err
	}
	h.devices = slices.DeleteFunc(h.devices, func(x taken) bool { return x.Owner == b.owner && x.Device.ID == id })
	return nil
}

// Attachments implements [sriov.Backend].
func (b *Backend) Attachments(ctx context.Context) (out []sriov.Attachment, err error) {
	out = []sriov.Attachment{}
	err = b.with(ctx, func(h *host) error {
		for _, g := range h.functions {
			if g.Owner != b.owner {
				continue
			}
			a, err := b.attachment(ctx, g)
			if err != nil {
				return fmt.Errorf("port %s: %w", g.Port.ID, err)
			}
			out = append(out, a)
		}
		return nil
	})
	slices.SortFunc(out, func(x, y sriov.Attachment) int { return cmp.Compare(x.PortID, y.PortID) })
	return out, err
}

func (b *Backend) attachment(ctx context.Context, g given) (sriov.Attachment, error) {
	f, err := b.function(g.PCI)
	if err != nil {
		return sriov.Attachment{}, err
	}
	a := sriov.Attachment{PortID: g.Port.ID, VNICType: g.Port.VNICType, Device: g.Device, PF: g.PF, VF: g.VF, Function: f, MAC: g.Port.MAC, VLAN: g.Port.VLAN}
	if f.Driver == vfioPCI && f.IOMMUGroup >= 0 {
		a.VFIO = vfioPath(f.IOMMUGroup)
	}
	if a.VNICType == sriov.MacVTap {
		l, err := b.k.link(b.tapName(a.PortID))
		if err != nil {
			return a, err
		}
		a.Netdev, a.Tap = l.Name, fmt.Sprintf("/dev/tap%d", l.Index)
	}
	if g.Port.Offload {
		a.Representor = b.representors(g.PF, b.netdev(g.PF))[g.VF]
		if a.Representor == "" {
			return a, fmt.Errorf("representor of VF %d of %s: %w", g.VF, g.PF, vnet.ErrNotReady)
		}
	}
	return a, ctx.Err()
}

// Health implements [sriov.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health {
	err := b.with(ctx, func(*host) error {
		_, err := b.k.list("bus/pci/devices")
		return err
	})
	if err != nil {
		return vnet.Health{Since: time.Now(), Detail: err.Error()}
	}
	return vnet.Health{Complete: true, Since: time.Now()}
}
