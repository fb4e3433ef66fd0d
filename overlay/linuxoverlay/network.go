package linuxoverlay

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
)

// The devices of a network n: the bridge, and by segment type the vxlan
// device, the VLAN device, and the two ends of the pair to a physical bridge.
func (b *Backend) vxlanName(id string) string { return b.h.LinkName("x", id) }
func (b *Backend) vlanName(id string) string  { return b.h.LinkName("v", id) }
func (b *Backend) patchName(id string) string { return b.h.LinkName("f", id) } // ours
func (b *Backend) physName(id string) string  { return b.h.LinkName("g", id) } // on the physical bridge

// leastIPv6MTU is the MTU below which the kernel has no IPv6 on a device, nor
// settings of it (RFC 8200, section 5).
const leastIPv6MTU = 1280

// bridgeSysctls keep the host's own stack away from the network: no addresses
// and no forwarding. IPv6 stays on, without addresses, because the kernel
// refuses ND entries otherwise (ndisc_allow_add).
func bridgeSysctls(br string, mtu int) []sysctl.KV {
	kvs := []sysctl.KV{
		{Key: "net/ipv4/conf/" + br + "/forwarding", Value: "0"},
		{Key: "net/ipv4/conf/" + br + "/arp_ignore", Value: "8"},
	}
	if mtu < leastIPv6MTU {
		return kvs
	}
	return append(kvs,
		sysctl.KV{Key: "net/ipv6/conf/" + br + "/addr_gen_mode", Value: "1"},
		sysctl.KV{Key: "net/ipv6/conf/" + br + "/accept_ra", Value: "0"},
		sysctl.KV{Key: "net/ipv6/conf/" + br + "/forwarding", Value: "0"})
}

// portSysctls keep the host from speaking IPv6 through a bridge's port.
func portSysctls(dev string, mtu int) []sysctl.KV {
	if mtu < leastIPv6MTU {
		return nil
	}
	return []sysctl.KV{{Key: "net/ipv6/conf/" + dev + "/disable_ipv6", Value: "1"}}
}

// port flags of the tunnel device, from what the network wants flooded.
func tunnelPort(f overlay.Flooding) rtnl.Port {
	return rtnl.Port{
		Flood:      f.UnknownUnicast,
		BcastFlood: f.Broadcast,
		McastFlood: !f.NoMulticast,
		Learning:   f.UnknownUnicast || f.Broadcast,
		// The bridge answers ARP and ND, or neither. Where broadcasts cross machines
		// answer ARP themselves, but ND only where multicasts cross too.
		NeighSuppress: !f.Broadcast || f.NoMulticast,
	}
}

// mtu is the network's MTU on this host; anew says that the underlay is to be
// looked at again.
func (b *Backend) mtu(n overlay.Network, anew bool) (int, error) {
	under := 1500
	switch {
	case n.Segment.Type.Tunnel():
		dev, err := b.underlay(anew)
		if err != nil {
			return 0, err
		}
		under = dev.MTU
	case n.Segment.Type.Physical():
		dev, err := b.physical(n.Segment)
		if err != nil {
			return 0, err
		}
		under = dev.MTU
	case n.MTU != 0:
		under = n.MTU
	}
	return n.EffectiveMTU(under, b.h.Options().TunnelIP)
}

// physical returns the device or bridge of a physical network.
func (b *Backend) physical(s overlay.Segment) (*rtnl.Link, error) {
	dev, ok := b.h.Options().PhysicalNetworks[s.PhysicalNetwork]
	if !ok {
		return nil, &vnet.FieldError{Field: "segment.physical_network", Value: s.PhysicalNetwork, Reason: "is not mapped to a device on host " + b.h.Name()}
	}
	l, err := b.link(dev)
	if err == nil && l == nil {
		err = fmt.Errorf("device %s of physical network %s: %w", dev, s.PhysicalNetwork, vnet.ErrNotFound)
	}
	return l, err
}

// supported refuses what this kernel cannot do.
func (b *Backend) supported(ctx context.Context, t overlay.SegmentType) error {
	f := b.Features(ctx)
	if f.Segments[t] {
		return nil
	}
	return &vnet.UnsupportedError{Feature: strings.ToUpper(string(t)) + " segments", Backend: name, Need: f.Missing[t]}
}

// networkSteps returns what has to be done for n to stand as described.
func (b *Backend) networkSteps(ctx context.Context, n overlay.Network) ([]linux.Step, error) {
	if err := b.supported(ctx, n.Segment.Type); err != nil {
		return nil, err
	}
	mtu, err := b.mtu(n, true)
	if err != nil {
		return nil, err
	}
	br := b.h.NetworkDevice(n.ID)
	bridge, err := b.link(br)
	if err != nil {
		return nil, err
	}
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "network", ID: n.ID, Impact: vnet.ImpactNone, Where: b.h.Name()}
	w := &work{b: b, c: &c}
	known, err := b.h.Networks().Add(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	w.steps = append(w.steps, known...)
	rt := b.h.NS().RTNL()
	mac := bridgeMAC(n.ID)
	alias := b.h.Alias(vnet.PartOverlay, "network", n.ID)
	if bridge == nil {
		c.Verb = vnet.Create
		c.Diff = []string{"segment: " + n.Segment.String(), fmt.Sprintf("mtu: %d", mtu)}
		w.step(linux.LinkAdd, func(context.Context) error {
			// Without a querier snooping would keep router advertisements from
			// ports that have not asked for them.
			snooping := false
			return rt.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: br, HardwareAddr: mac.HardwareAddr(), MTU: mtu - 1}, MulticastSnooping: &snooping})
		}, func(context.Context) error { return rt.DelLink(br) })
		// Only a bridge whose MTU has been changed keeps it; others take the least
		// of their ports' (br_mtu_auto_adjust).
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetMTU(br, mtu) }, nil)
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(br, alias) }, nil)
		w.sysctl(linux.LinkAdd, bridgeSysctls(br, mtu))
	} else {
		if bridge.Kind != "bridge" {
			return nil, fmt.Errorf("device %s is a %s: %w", br, bridge.Kind, vnet.ErrConflict)
		}
		if bridge.Alias != alias {
			if bridge.Alias != "" {
				return nil, fmt.Errorf("device %s is %q: %w", br, bridge.Alias, vnet.ErrConflict)
			}
			w.differ("half made", "", "finished", vnet.ImpactNone) // we were killed between making and signing it
			w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(br, alias) }, nil)
		}
		if bridge.MAC != mac {
			w.differ("bridge mac", bridge.MAC, mac, vnet.ImpactSome)
			w.step(linux.LinkAdd, func(context.Context) error { return rt.SetMAC(br, mac) }, nil)
		}
		kvs, err := b.h.NS().Sysctl().Differ(bridgeSysctls(br, min(mtu, bridge.MTU))...)
		if err != nil {
			return nil, err
		}
		if len(kvs) > 0 {
			w.differ("host isolation", "open", "closed", vnet.ImpactNone)
			w.sysctl(linux.LinkAdd, kvs)
		}
	}
	if err := b.segmentSteps(w, n, bridge, mtu); err != nil {
		return nil, err
	}
	if bridge != nil && bridge.MTU != mtu {
		w.differ("mtu", bridge.MTU, mtu, vnet.ImpactSome)
		w.step(linux.Configure, func(context.Context) error { return rt.SetMTU(br, mtu) }, nil)
		if bridge.MTU < leastIPv6MTU && mtu >= leastIPv6MTU {
			// IPv6 has come to the bridge with the kernel's defaults.
			off := "net/ipv6/conf/" + br + "/disable_ipv6"
			w.sysctl(linux.Configure, []sysctl.KV{{Key: off, Value: "1"}})
			w.sysctl(linux.Configure, append(bridgeSysctls(br, mtu), sysctl.KV{Key: off, Value: "0"}))
		}
	}
	switch up := bridge != nil && bridge.Up; {
	case up && n.AdminDown:
		w.differ("admin", "up", "down", vnet.ImpactObject)
		w.step(linux.Connect, func(context.Context) error { return rt.SetDown(br) }, nil)
	case !up && !n.AdminDown:
		if bridge != nil {
			w.differ("admin", "down", "up", vnet.ImpactObject)
		}
		w.step(linux.Configure, func(context.Context) error { return rt.SetUp(br) }, nil)
	}
	return marked(c, w.steps), nil
}

// work collects the steps and differences of one object.
type work struct {
	b     *Backend
	c     *vnet.Change
	steps []linux.Step
}

func (w *work) step(p linux.Phase, do, undo func(context.Context) error) {
	w.steps = append(w.steps, linux.Step{Phase: p, Do: do, Undo: undo})
}

func (w *work) sysctl(p linux.Phase, kvs []sysctl.KV) {
	if len(kvs) == 0 {
		return
	}
	w.step(p, func(context.Context) error { _, err := w.b.h.NS().Sysctl().Set(kvs...); return err }, nil)
}

func (w *work) differ(what string, a, b any, impact vnet.Impact) {
	w.c.Diff = append(w.c.Diff, fmt.Sprintf("%s: %v -> %v", what, a, b))
	if w.c.Impact == vnet.ImpactNone || impact == vnet.ImpactObject {
		w.c.Impact = impact
	}
}

// segmentSteps brings the devices that lead off the host into line.
func (b *Backend) segmentSteps(w *work, n overlay.Network, bridge *rtnl.Link, mtu int) error {
	rt := b.h.NS().RTNL()
	uplink := "" // the device that is to be a port of the bridge
	switch n.Segment.Type {
	case overlay.VXLAN:
		uplink = b.vxlanName(n.ID)
		if err := b.vxlanSteps(w, n, bridge, mtu); err != nil {
			return err
		}
	case overlay.Flat, overlay.VLAN:
		phys, err := b.physical(n.Segment)
		if err != nil {
			return err
		}
		base := phys.Name
		if phys.Kind == "bridge" {
			base = b.patchName(n.ID)
			if err := b.patchSteps(w, n, phys, mtu); err != nil {
				return err
			}
		}
		uplink = base
		if n.Segment.Type == overlay.VLAN {
			uplink = b.vlanName(n.ID)
			if err := b.vlanSteps(w, n, base, mtu); err != nil {
				return err
			}
		} else if phys.Kind != "bridge" {
			if err := b.takeDevice(w, n.ID, phys, bridge); err != nil {
				return err
			}
		}
	}
	// What an earlier segment type left.
	for _, old := range []string{b.vxlanName(n.ID), b.vlanName(n.ID), b.patchName(n.ID)} {
		if old == uplink || old == b.patchName(n.ID) && n.Segment.Type.Physical() {
			continue
		}
		l, err := b.link(old)
		if err != nil {
			return err
		}
		if l != nil {
			w.differ("segment", l.Kind, n.Segment, vnet.ImpactObject)
			w.step(linux.LinkDel, func(context.Context) error { return rt.DelLink(old) }, nil)
			if l.VXLAN != nil {
				br := b.h.NetworkDevice(n.ID)
				w.step(linux.LinkDel, func(context.Context) error { return b.dropAnswers(br) }, nil)
			}
		}
	}
	if bridge == nil {
		return nil
	}
	ports, err := b.portsOf(bridge)
	if err != nil {
		return err
	}
	for _, l := range ports {
		part, kind, id, ok := b.h.ParseAlias(l.Alias)
		if !ok || part != vnet.PartOverlay {
			continue
		}
		dev := l.Name
		switch _, port := b.h.PortOf(l); {
		case port && l.MTU != mtu:
			w.differ("mtu of "+dev, l.MTU, mtu, vnet.ImpactSome)
			w.step(linux.Connect, func(context.Context) error { return rt.SetMTU(dev, mtu) }, nil)
		case kind == linux.AliasExisting && id == "network."+n.ID && dev != uplink: // left by this network
			w.differ("segment", "on "+dev, n.Segment, vnet.ImpactObject)
			b.letGo(w, l, linux.Disconnect)
		}
	}
	return nil
}

// letGo gives a device of the caller's back: off the bridge, unsigned, and with
// IPv6 as the host has it for new devices. Its MTU stays: nobody knows what it was.
func (b *Backend) letGo(w *work, l rtnl.Link, p linux.Phase) {
	rt := b.h.NS().RTNL()
	dev := l.Name
	w.step(p, func(context.Context) error { return rt.SetMaster(dev, "") }, nil)
	w.step(p, func(context.Context) error {
		sys := b.h.NS().Sysctl()
		off, err := sys.Get("net/ipv6/conf/default/disable_ipv6")
		if err == nil {
			_, err = sys.Set(sysctl.KV{Key: "net/ipv6/conf/" + dev + "/disable_ipv6", Value: off})
		}
		if errors.Is(err, vnet.ErrNotFound) { // no IPv6 on it
			return nil
		}
		return err
	}, nil)
	w.step(p, func(context.Context) error { return rt.SetAlias(dev, "") }, nil)
}

// vxlanSteps makes or mends the tunnel device.
func (b *Backend) vxlanSteps(w *work, n overlay.Network, bridge *rtnl.Link, mtu int) error {
	rt := b.h.NS().RTNL()
	br, dev := b.h.NetworkDevice(n.ID), b.vxlanName(n.ID)
	o := b.h.Options()
	learning := tunnelPort(n.Flooding).Learning
	l, err := b.link(dev)
	if err != nil {
		return err
	}
	if l != nil && (l.VXLAN == nil || l.VXLAN.VNI != n.Segment.ID || l.VXLAN.Local != o.TunnelIP || l.VXLAN.Port != o.TunnelPort || l.VXLAN.Learning != learning) {
		was := "another device"
		if l.VXLAN != nil {
			was = fmt.Sprintf("vni %d from %s:%d learning %t", l.VXLAN.VNI, l.VXLAN.Local, l.VXLAN.Port, l.VXLAN.Learning)
		}
		w.differ("tunnel", was, fmt.Sprintf("vni %d from %s:%d learning %t", n.Segment.ID, o.TunnelIP, o.TunnelPort, learning), vnet.ImpactObject)
		w.step(linux.FilterAdd, func(context.Context) error { return rt.DelLink(dev) }, nil) // before another takes its segment
		if b.snap != nil {
			b.snap.without(l, false) // and with it what it knows of remote ports
		}
		l = nil
	}
	alias := b.h.Alias(vnet.PartOverlay, "tunnel", n.ID)
	if l == nil {
		if bridge != nil && len(w.c.Diff) == 0 {
			w.differ("tunnel", "gone", n.Segment, vnet.ImpactObject)
		}
		w.step(linux.LinkAdd, func(context.Context) error {
			err := rt.AddLink(&rtnl.Vxlan{LinkAttrs: rtnl.LinkAttrs{Name: dev, MTU: mtu}, VxlanId: int(n.Segment.ID),
				SrcAddr: o.TunnelIP.AsSlice(), Port: int(o.TunnelPort), Learning: learning})
			if errors.Is(err, vnet.ErrConflict) {
				err = fmt.Errorf("VNI %d is in use on host %s: %w", n.Segment.ID, b.h.Name(), err)
			}
			return err
		}, func(context.Context) error { return rt.DelLink(dev) })
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, alias) }, nil)
		w.sysctl(linux.LinkAdd, portSysctls(dev, mtu))
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
		w.step(linux.Connect, func(context.Context) error { return rt.SetPort(dev, tunnelPort(n.Flooding)) }, nil)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
		return nil
	}
	if l.Alias == "" { // half made
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, alias) }, nil)
		w.sysctl(linux.LinkAdd, portSysctls(dev, mtu))
	}
	return b.uplinkSteps(w, l, bridge, br, mtu, tunnelPort(n.Flooding))
}

// uplinkSteps mends a device of ours that stands: MTU, bridge, flags, up.
func (b *Backend) uplinkSteps(w *work, l, bridge *rtnl.Link, br string, mtu int, want rtnl.Port) error {
	rt := b.h.NS().RTNL()
	dev := l.Name
	if l.MTU != mtu {
		w.differ("uplink mtu", l.MTU, mtu, vnet.ImpactSome)
		w.step(linux.Connect, func(context.Context) error { return rt.SetMTU(dev, mtu) }, nil)
	}
	joined := bridge != nil && l.Master == bridge.Index
	if !joined {
		w.differ("uplink", "off the bridge", "on it", vnet.ImpactObject)
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
	}
	if !joined || l.Port == nil || *l.Port != want {
		if joined {
			w.differ("flooding", fmt.Sprintf("%+v", deref(l.Port)), fmt.Sprintf("%+v", want), vnet.ImpactSome)
		}
		w.step(linux.Connect, func(context.Context) error { return rt.SetPort(dev, want) }, nil)
	}
	if !l.Up {
		w.differ("uplink", "down", "up", vnet.ImpactObject)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
	}
	return nil
}

func deref(p *rtnl.Port) rtnl.Port {
	if p == nil {
		return rtnl.Port{}
	}
	return *p
}

// patchSteps makes or mends the pair between the network and a physical bridge.
func (b *Backend) patchSteps(w *work, n overlay.Network, phys *rtnl.Link, mtu int) error {
	rt := b.h.NS().RTNL()
	id := n.ID
	ours, theirs, pb := b.patchName(id), b.physName(id), phys.Name
	l, err := b.link(ours)
	if err != nil {
		return err
	}
	if l == nil {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.AddVeth(ours, theirs, nil, vnet.MAC{}, vnet.MAC{}, mtu) },
			func(context.Context) error { return rt.DelLink(ours) })
		for _, dev := range []string{ours, theirs} {
			w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, b.h.Alias(vnet.PartOverlay, "patch", id)) }, nil)
			w.sysctl(linux.LinkAdd, portSysctls(dev, mtu))
		}
		// A bridge takes the least MTU of its ports; this one is not ours to lower.
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetMTU(theirs, phys.MTU) }, nil)
	}
	if l != nil && l.MTU != mtu {
		w.differ("patch mtu", l.MTU, mtu, vnet.ImpactSome)
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetMTU(ours, mtu) }, nil)
	}
	t, err := b.link(theirs)
	if err != nil {
		return err
	}
	if l == nil {
		// A bridge takes the least MTU of its ports: the physical one keeps its own.
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetMTU(theirs, phys.MTU) }, nil)
	}
	if t == nil || t.Master != phys.Index || !t.Up {
		if t != nil {
			w.differ("physical bridge", "off", "on "+pb, vnet.ImpactObject)
		}
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(theirs, pb) }, nil)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(theirs) }, nil)
	}
	br := b.h.NetworkDevice(id)
	if l == nil || !l.Up {
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(ours) }, nil)
	}
	if n.Segment.Type == overlay.VLAN { // the VLAN device over it is the bridge's port
		if l != nil && l.Master != 0 {
			w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(ours, "") }, nil)
		}
		return nil
	}
	bridge, err := b.link(br)
	if err != nil {
		return err
	}
	if l == nil || bridge == nil || l.Master != bridge.Index {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(ours, br) }, nil)
	}
	return nil
}

// vlanSteps makes or mends the VLAN device over base.
func (b *Backend) vlanSteps(w *work, n overlay.Network, base string, mtu int) error {
	rt := b.h.NS().RTNL()
	br, dev := b.h.NetworkDevice(n.ID), b.vlanName(n.ID)
	l, err := b.link(dev)
	if err != nil {
		return err
	}
	parent, err := b.link(base)
	if err != nil {
		return err
	}
	if l != nil && (l.VLAN != int(n.Segment.ID) || parent == nil || l.Peer != parent.Index) {
		w.differ("vlan", l.VLAN, n.Segment.ID, vnet.ImpactObject)
		w.step(linux.FilterAdd, func(context.Context) error { return rt.DelLink(dev) }, nil) // before another takes its segment
		l = nil
	}
	if l == nil {
		w.step(linux.LinkAdd, func(context.Context) error {
			p, err := rt.Link(base) // it may be of this same commit
			if err != nil {
				return err
			}
			return rt.AddLink(&rtnl.Vlan{LinkAttrs: rtnl.LinkAttrs{Name: dev, ParentIndex: p.Index, MTU: mtu}, VlanId: int(n.Segment.ID)})
		}, func(context.Context) error { return rt.DelLink(dev) })
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, b.h.Alias(vnet.PartOverlay, "vlan", n.ID)) }, nil)
		w.sysctl(linux.LinkAdd, portSysctls(dev, mtu))
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(base) }, nil)
		w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
		return nil
	}
	bridge, err := b.link(br)
	if err != nil {
		return err
	}
	return b.uplinkSteps(w, l, bridge, br, mtu, rtnl.DefaultPort())
}

// takeDevice puts a physical device of the caller's on the bridge.
func (b *Backend) takeDevice(w *work, id string, phys, bridge *rtnl.Link) error {
	rt := b.h.NS().RTNL()
	br, dev := b.h.NetworkDevice(id), phys.Name
	alias := b.h.Alias(vnet.PartOverlay, linux.AliasExisting, "network."+id)
	if bridge != nil && phys.Master == bridge.Index && phys.Alias == alias && phys.Up {
		return nil
	}
	if phys.Alias != "" && phys.Alias != alias {
		return fmt.Errorf("device %s is %q: %w", dev, phys.Alias, vnet.ErrConflict)
	}
	if phys.Master != 0 && (bridge == nil || phys.Master != bridge.Index) {
		return fmt.Errorf("device %s is a port of another bridge: %w", dev, vnet.ErrConflict)
	}
	addrs, err := rt.Addrs(dev)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("device %s has the address %s, which it would lose; map the physical network to a bridge that has both: %w", dev, a.Prefix, vnet.ErrConflict)
		}
	}
	if bridge != nil {
		w.differ("physical device", "off the bridge", "on it", vnet.ImpactObject)
	}
	w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(dev, alias) }, nil)
	w.sysctl(linux.LinkAdd, portSysctls(dev, phys.MTU))
	w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(dev, br) }, nil)
	w.step(linux.Connect, func(context.Context) error { return rt.SetUp(dev) }, nil)
	return nil
}

// networkGone returns what removes a network; leaves says of a port that it goes
// from there in the same commit. Nil: none does.
func (b *Backend) networkGone(ctx context.Context, id string, leaves func(port string) bool) ([]linux.Step, error) {
	rt := b.h.NS().RTNL()
	br := b.h.NetworkDevice(id)
	bridge, err := b.link(br)
	if err != nil {
		return nil, err
	}
	if bridge != nil && bridge.Alias != "" && bridge.Alias != b.h.Alias(vnet.PartOverlay, "network", id) {
		return nil, fmt.Errorf("device %s is %q: %w", br, bridge.Alias, vnet.ErrConflict)
	}
	c := vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "network", ID: id, Impact: vnet.ImpactObject, Where: b.h.Name()}
	w := &work{b: b, c: &c}
	if bridge != nil {
		ports, err := b.portsOf(bridge)
		if err != nil {
			return nil, err
		}
		for _, l := range ports {
			if port, ok := b.h.PortOf(l); ok {
				if v, _ := b.t.Pending(vnet.PartOverlay, "port", port); v != vnet.Delete && (leaves == nil || !leaves(port)) {
					return nil, fmt.Errorf("port %s is on it: %w", port, vnet.ErrInUse)
				}
				continue
			}
			part, kind, oid, ok := b.h.ParseAlias(l.Alias)
			switch {
			case ok && part == vnet.PartOverlay && kind == linux.AliasExisting:
				b.letGo(w, l, linux.Disconnect)
			case ok && part == vnet.PartOverlay:
			case ok:
				if v, _ := b.t.Pending(part, kind, oid); v != vnet.Delete {
					return nil, fmt.Errorf("%s %s %s is on it: %w", part, kind, oid, vnet.ErrInUse)
				}
			default:
				return nil, fmt.Errorf("device %s is on it, which is not ours: %w", l.Name, vnet.ErrInUse)
			}
		}
	}
	for _, dev := range []string{b.vxlanName(id), b.vlanName(id), b.patchName(id), br} {
		l := bridge
		if dev != br {
			if l, err = b.link(dev); err != nil {
				return nil, err
			}
		}
		if l != nil {
			w.step(linux.LinkDel, func(context.Context) error { return rt.DelLink(dev) }, nil)
		}
	}
	forget, err := b.h.Networks().Remove(ctx, id)
	if err != nil {
		return nil, err
	}
	w.steps = append(w.steps, forget...)
	return marked(c, w.steps), nil
}
