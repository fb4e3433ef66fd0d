package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
)

// State is all that is wanted of a host.
type State struct {
	Devices []Device `json:"devices"`
	Ports   []Port   `json:"ports"`
}

// Validate reports bad input as [*vnet.FieldError], joined: of each object, and
// of all together.
func (s State) Validate() error {
	var errs []error
	devices, pfs, ports := map[string]Device{}, map[string]bool{}, map[string]bool{}
	for i, d := range s.Devices {
		in := fmt.Sprintf("devices[%d]", i)
		errs = append(errs, vnet.In(in, d.Validate()))
		if _, twice := devices[d.ID]; twice {
			errs = append(errs, &vnet.FieldError{Field: in + ".id", Value: d.ID, Reason: "is there twice"})
		}
		if pfs[d.PF] {
			errs = append(errs, &vnet.FieldError{Field: in + ".pf", Value: d.PF, Reason: "is there twice"})
		}
		devices[d.ID], pfs[d.PF] = d, true
	}
	for i, p := range s.Ports {
		in := fmt.Sprintf("ports[%d]", i)
		errs = append(errs, vnet.In(in, p.Validate()))
		if ports[p.ID] {
			errs = append(errs, &vnet.FieldError{Field: in + ".id", Value: p.ID, Reason: "is there twice"})
		}
		ports[p.ID] = true
		if p.Device != "" {
			if d, ok := devices[p.Device]; !ok {
				errs = append(errs, &vnet.FieldError{Field: in + ".device", Value: p.Device, Reason: "is no device"})
			} else if err := Fits(p, d); err != nil {
				errs = append(errs, vnet.In(in, err))
			}
			continue
		}
		if !slices.ContainsFunc(s.Devices, func(d Device) bool { return Fits(p, d) == nil }) {
			errs = append(errs, &vnet.FieldError{Field: in + ".physical_network", Value: p.PhysicalNetwork, Reason: "has no device that could give this port a function"})
		}
	}
	return errors.Join(errs...)
}

// Fits says why a device can never give the port a function, as a
// [*vnet.FieldError], or returns nil.
func Fits(p Port, d Device) error {
	switch d = d.Canonical(); {
	case p.Device != "" && p.Device != d.ID:
		return &vnet.FieldError{Field: "device", Value: d.ID, Reason: "is not the one that is asked for"}
	case p.PhysicalNetwork != d.PhysicalNetwork:
		return &vnet.FieldError{Field: "physical_network", Value: p.PhysicalNetwork, Reason: "is not that of device " + d.ID}
	case p.VNICType == DirectPhysical && d.VFs > 0:
		return &vnet.FieldError{Field: "vnic_type", Value: string(p.VNICType), Reason: "asks for a PF, and device " + d.ID + " is cut into VFs"}
	case p.VNICType != DirectPhysical && d.VFs == 0:
		return &vnet.FieldError{Field: "vnic_type", Value: string(p.VNICType), Reason: "asks for a VF, and device " + d.ID + " has none"}
	case p.Offload && d.Mode != Switchdev:
		return &vnet.FieldError{Field: "offload", Value: "true", Reason: "needs switchdev mode, which device " + d.ID + " is not in"}
	case !p.Offload && p.VNICType != DirectPhysical && d.Mode == Switchdev:
		return &vnet.FieldError{Field: "offload", Value: "false", Reason: "device " + d.ID + " is in switchdev mode"}
	}
	return nil
}

// Canonical returns s with its defaults in words, sorted by id.
func (s State) Canonical() State {
	out := State{Devices: make([]Device, len(s.Devices)), Ports: make([]Port, len(s.Ports))}
	for i, d := range s.Devices {
		out.Devices[i] = d.Canonical()
	}
	for i, p := range s.Ports {
		out.Ports[i] = p.Canonical()
	}
	slices.SortFunc(out.Devices, func(a, b Device) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Ports, func(a, b Port) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Diff is for backends: it says what takes old to want, both canonical. Ports
// go first, then devices; then devices come, then ports.
func Diff(old, want State) vnet.Plan {
	devices, goneDevices := vnet.Compare(old.Devices, want.Devices, func(d Device) string { return d.ID }, diffDevice)
	ports, gonePorts := vnet.Compare(old.Ports, want.Ports, func(p Port) string { return p.ID }, diffPort)
	return vnet.Plan{Changes: slices.Concat(gonePorts, goneDevices, devices, ports)}
}

func diffDevice(a, b *Device) (vnet.Change, bool) {
	id, x, y := "", Device{}, Device{}
	if a != nil {
		id, x = a.ID, *a
	}
	if b != nil {
		id, y = b.ID, *b
	}
	c := vnet.NewChange(vnet.PartSRIOV, "device", id, a != nil, b != nil)
	if a != nil && b != nil {
		c.Differ("pf", x.PF, y.PF, vnet.ImpactObject)
		c.Differ("physical_network", x.PhysicalNetwork, y.PhysicalNetwork, vnet.ImpactNone)
		c.Differ("vfs", x.VFs, y.VFs, vnet.ImpactObject)
		c.Differ("mode", x.Mode, y.Mode, vnet.ImpactObject)
		c.Differ("exclude", x.Exclude, y.Exclude, vnet.ImpactNone)
		return c, len(c.Diff) > 0
	}
	return c, true
}

func diffPort(a, b *Port) (vnet.Change, bool) {
	id, x, y := "", Port{}, Port{}
	if a != nil {
		id, x = a.ID, *a
	}
	if b != nil {
		id, y = b.ID, *b
	}
	c := vnet.NewChange(vnet.PartSRIOV, "port", id, a != nil, b != nil)
	if a == nil || b == nil {
		return c, true
	}
	c.Differ("vnic_type", x.VNICType, y.VNICType, vnet.ImpactObject)
	c.Differ("physical_network", x.PhysicalNetwork, y.PhysicalNetwork, vnet.ImpactObject)
	if y.Device != "" {
		c.Differ("device", x.Device, y.Device, vnet.ImpactObject)
	}
	c.Differ("offload", x.Offload, y.Offload, vnet.ImpactObject)
	c.Differ("driver", x.Driver, y.Driver, vnet.ImpactObject)
	if p, q := x.Settings(), y.Settings(); p != q {
		c.Differ("mac", p.MAC, q.MAC, vnet.ImpactObject)
		c.Differ("vlan", p.VLAN, q.VLAN, vnet.ImpactObject)
		c.Differ("spoof_check", p.SpoofCheck, q.SpoofCheck, vnet.ImpactSome)
		c.Differ("trusted", p.Trusted, q.Trusted, vnet.ImpactSome)
		c.Differ("link_state", p.LinkState, q.LinkState, vnet.ImpactObject)
		c.Differ("min_mbps", p.MinMbps, q.MinMbps, vnet.ImpactNone)
		c.Differ("max_mbps", p.MaxMbps, q.MaxMbps, vnet.ImpactNone)
	}
	return c, len(c.Diff) > 0
}

// Moves reports whether a port that has a function of device d, as was asked by
// old, has to give it back to get what p asks for.
func Moves(old, p Port, d Device) bool {
	return old.VNICType != p.VNICType || Fits(p, d) != nil
}
