// Package memsriov is a host's cards in memory: for tests of applications, and for
// simulations of hosts that have no such cards.
package memsriov

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

// Backend is a host whose cards do all that the contract knows.
type Backend struct {
	mu     sync.Mutex
	cards  []sriov.PF
	state  sriov.State
	given  map[string]sriov.Attachment // by port
	writes int
}

var _ sriov.Backend = (*Backend)(nil)

// New returns a host with cards. Of each its PCI address, Netdev, TotalVFs and
// IOMMUGroup count; VFs are made when a device wants them.
func New(cards ...sriov.PF) *Backend {
	b := &Backend{given: map[string]sriov.Attachment{}}
	for _, c := range cards {
		c.Mode, c.VFs = cmp.Or(c.Mode, sriov.Legacy), []sriov.VF{}
		b.cards = append(b.cards, c)
	}
	slices.SortFunc(b.cards, func(x, y sriov.PF) int { return cmp.Compare(x.PCI, y.PCI) })
	return b
}

// Writes is how often something has been changed.
func (b *Backend) Writes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writes
}

func (b *Backend) card(d sriov.Device) *sriov.PF {
	i := slices.IndexFunc(b.cards, func(c sriov.PF) bool { return c.PCI == d.PF || c.Netdev == d.PF })
	if i < 0 {
		return nil
	}
	return &b.cards[i]
}

func (b *Backend) device(id string) *sriov.Device {
	i := slices.IndexFunc(b.state.Devices, func(d sriov.Device) bool { return d.ID == id })
	if i < 0 {
		return nil
	}
	return &b.state.Devices[i]
}

func (b *Backend) port(id string) *sriov.Port {
	i := slices.IndexFunc(b.state.Ports, func(p sriov.Port) bool { return p.ID == id })
	if i < 0 {
		return nil
	}
	return &b.state.Ports[i]
}

// Discover implements [sriov.Backend].
func (b *Backend) Discover(ctx context.Context) ([]sriov.PF, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.cards)
	for i := range out {
		out[i].VFs = slices.Clone(out[i].VFs)
	}
	return out, ctx.Err()
}

// EnsureDevice implements [sriov.Backend].
func (b *Backend) EnsureDevice(ctx context.Context, d sriov.Device) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.check(d); err != nil {
		return err
	}
	return b.ensureDevice(d)
}

func (b *Backend) check(d sriov.Device) error {
	c := b.card(d)
	if c == nil {
		return &vnet.FieldError{Field: "pf", Value: d.PF, Reason: "is not in this host"}
	}
	if d.VFs > c.TotalVFs {
		return &vnet.FieldError{Field: "vfs", Value: fmt.Sprint(d.VFs), Reason: fmt.Sprintf("is more than the %d that %s can have", c.TotalVFs, d.PF)}
	}
	if c.Device != "" && c.Device != d.ID {
		return fmt.Errorf("PF %s is device %s: %w", d.PF, c.Device, vnet.ErrConflict)
	}
	if old := b.device(d.ID); old != nil && b.card(*old) != c {
		return &vnet.FieldError{Field: "pf", Value: d.PF, Reason: "is another than device " + d.ID + " is; delete that first"}
	}
	return nil
}

func (b *Backend) ensureDevice(d sriov.Device) error {
	c := b.card(d)
	if old := b.device(d.ID); old != nil && sriov.Diff(sriov.State{Devices: []sriov.Device{*old}}, sriov.State{Devices: []sriov.Device{d}}).Empty() {
		return nil
	}
	var who []string
	for _, a := range b.given {
		if a.PF == c.PCI && (slices.Contains(d.Exclude, a.PCI) || d.VFs != len(c.VFs) || d.VFs > 0 && d.Mode != c.Mode) {
			who = append(who, a.PortID)
		}
	}
	if len(who) > 0 {
		slices.Sort(who)
		return fmt.Errorf("functions of %s are had by ports %s: %w", d.PF, strings.Join(who, ", "), vnet.ErrInUse)
	}
	b.writes++
	b.shape(c, d)
	if old := b.device(d.ID); old != nil {
		*old = d
	} else {
		b.state.Devices = append(b.state.Devices, d)
	}
	return nil
}

// shape gives a card its VFs.
func (b *Backend) shape(c *sriov.PF, d sriov.Device) {
	c.Device, c.PhysicalNetwork = d.ID, d.PhysicalNetwork
	if len(c.VFs) != d.VFs || c.Mode != d.Mode {
		c.Mode, c.VFs = d.Mode, make([]sriov.VF, d.VFs)
		for i := range c.VFs {
			f := sriov.Function{PCI: fmt.Sprintf("%s%02x.%d", c.PCI[:len(c.PCI)-4], 16+i/8, i%8), Vendor: c.Vendor, Product: c.Product,
				Driver: "memvf", NUMANode: c.NUMANode, IOMMUGroup: c.IOMMUGroup + 1 + i, Netdev: fmt.Sprintf("%sv%d", c.Netdev, i)}
			c.VFs[i] = sriov.VF{Function: f, Index: i, Settings: sriov.Settings{SpoofCheck: true, LinkState: sriov.Auto}}
			if d.Mode == sriov.Switchdev {
				c.VFs[i].Representor = fmt.Sprintf("%s_%d", c.Netdev, i)
			}
		}
	}
	for i := range c.VFs {
		c.VFs[i].Excluded = slices.Contains(d.Exclude, c.VFs[i].PCI)
	}
	c.Up = c.Up || d.VFs > 0
}

// DeleteDevice implements [sriov.Backend].
func (b *Backend) DeleteDevice(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.device(id)
	if d == nil {
		return nil
	}
	c := b.card(*d)
	for _, a := range b.given {
		if a.PF == c.PCI {
			return fmt.Errorf("device %s: port %s has a function of it: %w", id, a.PortID, vnet.ErrInUse)
		}
	}
	b.writes++
	c.Device, c.PhysicalNetwork, c.VFs, c.Mode = "", "", []sriov.VF{}, sriov.Legacy
	b.state.Devices = slices.DeleteFunc(b.state.Devices, func(d sriov.Device) bool { return d.ID == id })
	return nil
}

// EnsurePort implements [sriov.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p sriov.Port) (sriov.Attachment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return sriov.Attachment{}, err
	}
	return b.ensurePort(p)
}

func (b *Backend) ensurePort(p sriov.Port) (sriov.Attachment, error) {
	a, has := b.given[p.ID]
	old := b.port(p.ID)
	if has && sriov.Diff(sriov.State{Ports: []sriov.Port{*old}}, sriov.State{Ports: []sriov.Port{p}}).Empty() {
		return a, nil
	}
	if !has || sriov.Moves(*old, p, *b.device(a.Device)) {
		n, err := b.choose(p)
		if err != nil {
			return n, err
		}
		b.release(p.ID)
		a = n
	}
	b.writes++
	c := b.card(*b.device(a.Device))
	a.VNICType, a.MAC, a.VLAN, a.VFIO, a.Tap = p.VNICType, p.MAC, p.VLAN, "", ""
	if p.Driver == sriov.VFIO {
		a.Driver, a.Netdev, a.VFIO = string(sriov.VFIO), "", fmt.Sprintf("/dev/vfio/%d", a.IOMMUGroup)
	}
	if a.VF >= 0 {
		v := &c.VFs[a.VF]
		v.Settings, v.Port, v.Driver = p.Settings(), p.ID, a.Driver
		if p.Driver == sriov.Kernel {
			v.Driver = "memvf"
		}
		a.Driver = v.Driver
		if p.VNICType == sriov.MacVTap {
			a.Netdev, a.Tap = "tap-"+p.ID, fmt.Sprintf("/dev/tap%d", a.IOMMUGroup)
		}
	} else {
		c.Port = p.ID
	}
	p.Device = a.Device
	b.given[p.ID] = a
	if old := b.port(p.ID); old != nil {
		*old = p
	} else {
		b.state.Ports = append(b.state.Ports, p)
	}
	return a, nil
}

func (b *Backend) choose(p sriov.Port) (sriov.Attachment, error) {
	var best sriov.Attachment
	most := 0
	for _, d := range b.state.Canonical().Devices {
		if sriov.Fits(p, d) != nil {
			continue
		}
		c := b.card(d)
		a := sriov.Attachment{PortID: p.ID, Device: d.ID, PF: c.PCI, VF: -1, Function: c.Function}
		free := 0
		if p.VNICType == sriov.DirectPhysical {
			if c.Port == "" {
				free = 1
			}
		} else {
			for _, v := range slices.Backward(c.VFs) {
				if v.Port == "" && !v.Excluded {
					free++
					a.VF, a.Function, a.Representor = v.Index, v.Function, v.Representor
				}
			}
		}
		if free > most {
			best, most = a, free
		}
	}
	if most == 0 {
		return best, fmt.Errorf("no function for port %s: %w", p.ID, vnet.ErrConflict)
	}
	return best, nil
}

// DeletePort implements [sriov.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(id)
	return ctx.Err()
}

func (b *Backend) release(id string) {
	a, ok := b.given[id]
	if !ok {
		return
	}
	b.writes++
	c := b.card(*b.device(a.Device))
	if a.VF < 0 {
		c.Port = ""
	} else {
		v := &c.VFs[a.VF]
		v.Port, v.Driver, v.Settings = "", "memvf", sriov.Settings{SpoofCheck: true, LinkState: sriov.Auto}
	}
	delete(b.given, id)
	b.state.Ports = slices.DeleteFunc(b.state.Ports, func(p sriov.Port) bool { return p.ID == id })
}

// Attachments implements [sriov.Backend].
func (b *Backend) Attachments(ctx context.Context) ([]sriov.Attachment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []sriov.Attachment{}
	for _, a := range b.given {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y sriov.Attachment) int { return cmp.Compare(x.PortID, y.PortID) })
	return out, ctx.Err()
}

// Plan implements [sriov.Backend].
func (b *Backend) Plan(ctx context.Context, s sriov.State) (vnet.Plan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.plan(s)
}

func (b *Backend) plan(s sriov.State) (vnet.Plan, error) {
	for _, d := range s.Devices {
		if err := b.check(d); err != nil {
			return vnet.Plan{}, vnet.In("devices["+d.ID+"]", err)
		}
	}
	return sriov.Diff(b.state.Canonical(), s.Canonical()), nil
}

// Sync implements [sriov.Backend].
func (b *Backend) Sync(ctx context.Context, s sriov.State, o vnet.SyncOptions) error {
	b.mu.Lock()
	p, err := b.plan(s)
	if err == nil {
		err = o.Check(p, len(b.state.Devices)+len(b.state.Ports))
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	for _, c := range p.Changes {
		switch {
		case c.Verb == vnet.Delete && c.Kind == "port":
			err = b.DeletePort(ctx, c.ID)
		case c.Verb == vnet.Delete:
			err = b.DeleteDevice(ctx, c.ID)
		case c.Kind == "device":
			err = b.EnsureDevice(ctx, s.Devices[slices.IndexFunc(s.Devices, func(d sriov.Device) bool { return d.ID == c.ID })])
		default:
			_, err = b.EnsurePort(ctx, s.Ports[slices.IndexFunc(s.Ports, func(p sriov.Port) bool { return p.ID == c.ID })])
		}
		if err != nil {
			return &vnet.OpError{Op: "sync", Kind: c.Kind, ID: c.ID, Err: err}
		}
	}
	return nil
}

// Health implements [sriov.Backend].
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Since: time.Now()}
}
