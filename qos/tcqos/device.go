package tcqos

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/qos"
)

const (
	uplinkMajor  = 1      // of the HTB of an uplink
	minorAll     = 0xfffe // the class that all others borrow from
	minorDefault = 0xf001 // what nobody was promised
)

// ethernet is what a frame has beside the packet: header, and a VLAN tag.
const ethernet = 14 + 4

// burstBytes is a limit's burst, and at least a packet of the device.
func burstBytes(l qos.Limits, mtu int) uint32 {
	return uint32(min(max(uint64(l.Burst())*1000/8, uint64(mtu+ethernet)), 1<<31))
}

// bucket is the token bucket of a limit on a device.
func bucket(l qos.Limits, mtu int) rtnl.TBF {
	rate := uint64(l.Kbps) * 1000
	// 100 ms may wait, and at least one packet as large as hardware would cut up.
	return rtnl.TBF{Rate: rate, Burst: burstBytes(l, mtu), Queue: uint32(min(max(rate/8/10, 1<<16+1<<11), 1<<31))}
}

func (b *Backend) ifb(portID string) string { return b.h.LinkName("q", portID) }

// intake is how what a port sends is limited; zero when it is not.
func (b *Backend) intake(p qos.Port, mtu int) rtnl.Intake {
	switch {
	case p.Egress.Kbps == 0:
		return rtnl.Intake{}
	case b.police:
		t := bucket(p.Egress, mtu)
		t.Queue = 0
		return rtnl.Intake{Police: t}
	}
	return rtnl.Intake{Redirect: b.ifb(p.ID)}
}

// ensureIfb makes the device that what a port sends waits on.
func (b *Backend) ensureIfb(p qos.Port) error {
	if b.police || p.Egress.Kbps == 0 {
		return nil
	}
	l, name := b.h.NS().RTNL(), b.ifb(p.ID)
	x, err := l.Link(name)
	if errors.Is(err, vnet.ErrNotFound) {
		err = l.AddLink(&rtnl.Ifb{LinkAttrs: rtnl.LinkAttrs{Name: name, TxQLen: 1000}})
	}
	if err != nil {
		return err
	}
	if alias := b.h.Alias(vnet.PartQoS, "ifb", p.ID); x.Alias != alias {
		if err := l.SetAlias(name, alias); err != nil {
			return err
		}
	}
	if err := l.SetUp(name); err != nil {
		return err
	}
	return l.SetTBF(name, linux.LimitMajor, bucket(p.Egress, 9000))
}

// shapeDevice makes the device at a port what p says.
func (b *Backend) shapeDevice(p qos.Port, dev string) error {
	l := b.h.NS().RTNL()
	x, err := l.Link(dev)
	if err != nil {
		return err
	}
	if p.Ingress.Kbps > 0 {
		err = l.SetTBF(dev, linux.LimitMajor, bucket(p.Ingress, x.MTU))
	} else {
		err = l.DelTBF(dev, linux.LimitMajor)
	}
	if err != nil {
		return err
	}
	in := b.intake(p, x.MTU)
	switch ok, err := b.taken(dev, in); {
	case err != nil || ok:
		return err
	case in == rtnl.Intake{}:
		return l.DelIntake(dev)
	}
	return l.SetIntake(dev, in)
}

// taken reports whether what comes by a device is treated so.
func (b *Backend) taken(dev string, in rtnl.Intake) (bool, error) {
	l := b.h.NS().RTNL()
	switch {
	case in.Redirect != "":
		return l.Redirected(dev, in.Redirect)
	case in.Police.Rate > 0:
		t, _, err := l.Policed(dev)
		if errors.Is(err, vnet.ErrNotFound) {
			return false, nil
		}
		return t.Rate == in.Police.Rate && near(t.Burst, in.Police.Burst), err
	}
	return false, nil
}

func near(a, b uint32) bool { return max(a, b)-min(a, b) <= max(a, b)/50 }

// drift says how the devices of a port differ from what stands in the record;
// empty: they do not.
func (b *Backend) drift(ctx context.Context, p qos.Port) (string, error) {
	l := b.h.NS().RTNL()
	bucketOf := func(dev string, want qos.Limits, mtu int) (string, error) {
		if want.Kbps == 0 {
			return "", nil
		}
		t, _, err := l.TBF(dev, linux.LimitMajor)
		if errors.Is(err, vnet.ErrNotFound) {
			return "no token bucket on " + dev, nil
		}
		w := bucket(want, mtu)
		if err == nil && (t.Rate != w.Rate || t.Queue != w.Queue || !near(t.Burst, w.Burst)) {
			return "another token bucket on " + dev, nil
		}
		return "", err
	}
	if !b.police {
		if d, err := bucketOf(b.ifb(p.ID), p.Egress, 9000); d != "" || err != nil {
			return d, err
		}
	}
	dev, _, err := b.h.PortDevice(ctx, p.ID)
	if errors.Is(err, vnet.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	x, err := l.Link(dev)
	if err != nil {
		return "", err
	}
	if d, err := bucketOf(dev, p.Ingress, x.MTU); d != "" || err != nil {
		return d, err
	}
	if in := b.intake(p, x.MTU); in != (rtnl.Intake{}) {
		ok, err := b.taken(dev, in)
		if err != nil || ok {
			return "", err
		}
		return "what comes by " + dev + " is not limited", nil
	}
	return "", nil
}

// uplinkDevice is the device that an uplink is.
func (b *Backend) uplinkDevice(name string) (string, error) {
	l := b.h.NS().RTNL()
	if name != qos.Tunnelled {
		dev := b.h.Options().PhysicalNetworks[name]
		if dev == "" {
			return "", fmt.Errorf("physical network %s: %w", name, vnet.ErrNotFound)
		}
		x, err := l.Link(dev)
		if err != nil {
			return "", err
		}
		if x.Kind == "bridge" {
			return "", &vnet.UnsupportedError{Feature: "guarantees on physical network " + name, Backend: "tcqos", Need: "a device as the physical network: " + dev + " is a bridge"}
		}
		return dev, nil
	}
	ip := b.h.Options().TunnelIP
	if !ip.IsValid() {
		return "", fmt.Errorf("the host has no tunnels: %w", vnet.ErrNotFound)
	}
	addrs, err := l.Addrs("")
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() == ip {
			x, err := l.LinkByIndex(a.Index)
			return x.Name, err
		}
	}
	return "", fmt.Errorf("no device has %s: %w", ip, vnet.ErrNotFound)
}

// classes are those that an uplink should have. index is that of a port.
func classes(u qos.Uplink, s qos.State, index func(portID string) uint32) []rtnl.HTBClass {
	all := uint64(u.Kbps) * 1000
	out := []rtnl.HTBClass{{Minor: minorAll, Rate: all, Ceil: all}}
	rest := all
	for _, p := range s.Ports {
		if p.Uplink != u.Name || p.Egress.MinKbps == 0 {
			continue
		}
		c := rtnl.HTBClass{Minor: uint16(index(p.ID)), Parent: minorAll, Rate: uint64(p.Egress.MinKbps) * 1000, Ceil: all}
		rest -= min(rest, c.Rate)
		out = append(out, c)
	}
	// HTB knows no class without a rate.
	out = append(out, rtnl.HTBClass{Minor: minorDefault, Parent: minorAll, Rate: max(rest, all/100, 8000), Ceil: all})
	slices.SortFunc(out, func(a, b rtnl.HTBClass) int { return int(a.Minor) - int(b.Minor) })
	return out
}

// shapeUplink makes the classes of an uplink's device so.
func (b *Backend) shapeUplink(u qos.Uplink, s qos.State, index func(string) uint32) error {
	l := b.h.NS().RTNL()
	dev, err := b.uplinkDevice(u.Name)
	if err != nil {
		return err
	}
	q, err := l.Root(dev)
	if err != nil {
		return err
	}
	if q.Kind != "htb" || q.Major != uplinkMajor || q.Default != minorDefault {
		if err := l.SetHTB(dev, minorDefault); err != nil {
			return err
		}
	}
	have, err := l.HTBClasses(dev)
	if err != nil {
		return err
	}
	want := classes(u, s, index)
	for _, c := range slices.Backward(want) { // the one that others borrow from is the last
		if !slices.Contains(have, c) {
			if err := l.SetHTBClass(dev, c); err != nil {
				return err
			}
		}
	}
	for _, c := range have {
		if !slices.ContainsFunc(want, func(w rtnl.HTBClass) bool { return w.Minor == c.Minor }) {
			if err := l.DelHTBClass(dev, c.Minor); err != nil {
				return err
			}
		}
	}
	return nil
}

// uplinkDrift says how an uplink's device differs from what it should be.
func (b *Backend) uplinkDrift(u qos.Uplink, s qos.State, index func(string) uint32) (string, error) {
	dev, err := b.uplinkDevice(u.Name)
	if err != nil {
		return "", err
	}
	q, err := b.h.NS().RTNL().Root(dev)
	if err != nil {
		return "", err
	}
	if q.Kind != "htb" || q.Major != uplinkMajor {
		return "no HTB on " + dev, nil
	}
	have, err := b.h.NS().RTNL().HTBClasses(dev)
	if err != nil || slices.Equal(have, classes(u, s, index)) {
		return "", err
	}
	return "other classes on " + dev, nil
}
