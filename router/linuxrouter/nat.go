package linuxrouter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/router"
)

// The table in each router's namespace, and its maps. The comment of an element
// is the id of the floating IP or port forward.
var (
	table    = nft.Table{Family: nft.Inet, Name: "vnet-router"}
	dnatMap  = nft.Set{Table: table, Name: "floating", Key: []nft.Type{nft.TypeIPv4}, Data: []nft.Type{nft.TypeIPv4}}
	snatMap  = nft.Set{Table: table, Name: "fixed", Key: []nft.Type{nft.TypeIPv4}, Data: []nft.Type{nft.TypeIPv4}}
	portsMap = nft.Set{Table: table, Name: "forwards", Key: []nft.Type{nft.TypeIPv4, nft.TypeProto, nft.TypePort}, Data: []nft.Type{nft.TypeIPv4, nft.TypePort}}
)

// declare writes the maps and chains of r. It is pure: what it declares depends
// on r and the gateway device's name only.
func declare(tx *nft.Tx, r router.Router, dev func(portID string) string) {
	tx.Set(dnatMap)
	tx.Set(snatMap)
	tx.Set(portsMap)
	for _, c := range chains(r, dev) {
		tx.Chain(c)
	}
}

func chains(r router.Router, dev func(portID string) string) []nft.Chain {
	linkLocal := netip.MustParsePrefix("169.254.0.0/16")
	pre := nft.Chain{Table: table, Name: "dnat", Base: &nft.Hook{Type: nft.NAT, Hook: nft.Prerouting, Priority: -100}, Rules: []nft.Rule{
		{nft.DNAT(nft.IPDst.Map(dnatMap))},
		{nft.DNAT(nft.Concat(nft.IPDst, nft.L4Proto, nft.DPort).Map(portsMap))},
	}}
	post := nft.Chain{Table: table, Name: "snat", Base: &nft.Hook{Type: nft.NAT, Hook: nft.Postrouting, Priority: 100}}
	fwd := nft.Chain{Table: table, Name: "forward", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Forward, Priority: 0}, Rules: []nft.Rule{
		{nft.IPDst.Eq(linkLocal), nft.Drop()},
		{nft.IPSrc.Eq(linkLocal), nft.Drop()},
	}}
	if g := r.Gateway; g != nil {
		gw, own := dev(g.PortID), firstIPv4(g)
		post.Rules = []nft.Rule{
			{nft.OIfName.Eq(gw), nft.IIfName.Ne(gw), nft.SNAT(nft.IPSrc.Map(snatMap))},
			{nft.CtStatus.Any(nft.StatusDNAT), nft.OIfName.Ne(gw), nft.IIfName.Ne(gw), nft.SNAT(nft.IPSrc.Map(snatMap))},
		}
		if own.IsValid() {
			post.Rules = append(post.Rules, nft.Rule{nft.CtStatus.Any(nft.StatusDNAT), nft.OIfName.Ne(gw), nft.IIfName.Ne(gw), nft.NFProto.Eq(nft.NFProtoIPv4), nft.SNAT(nft.Const(own))})
			if !g.DisableSNAT {
				post.Rules = append(post.Rules, nft.Rule{nft.OIfName.Eq(gw), nft.IIfName.Ne(gw), nft.NFProto.Eq(nft.NFProtoIPv4), nft.SNAT(nft.Const(own))})
				fwd.Rules = append(fwd.Rules, nft.Rule{nft.OIfName.Eq(gw), nft.IIfName.Ne(gw), nft.NFProto.Eq(nft.NFProtoIPv4), nft.CtState.Any(nft.StateInvalid), nft.Drop()})
			}
		}
	}
	return []nft.Chain{pre, post, fwd}
}

// chainSteps brings the chains into line.
func (b *Backend) chainSteps(ctx context.Context, w *work, ns *linux.Namespace, stands bool, r router.Router) error {
	f := func(tx *nft.Tx) error { declare(tx, r, b.inner); return nil }
	if stands {
		diffs, err := ns.NFT().Check(ctx, f)
		if err != nil || len(diffs) == 0 {
			return err
		}
		w.differ("translation", "of an earlier router", strings.Join(diffs, ", "), vnet.ImpactSome)
	}
	w.steps = append(w.steps, linux.Step{Phase: linux.LinkAdd, NS: ns, NFT: f})
	return nil
}

func protocol(name string) uint8 {
	if name == "udp" {
		return nft.ProtoUDP
	}
	return nft.ProtoTCP
}

func fipElements(f router.FloatingIP) (d, s nft.Element) {
	d, s = nft.Key(f.FloatingIP).To(f.FixedIP), nft.Key(f.FixedIP).To(f.FloatingIP)
	d.Comment, s.Comment = f.ID, f.ID
	return d, s
}

func forwardElements(f router.PortForward) (out []nft.Element) {
	for i := range f.ExternalPort.Len() {
		e := nft.Key(f.ExternalIP, protocol(f.Protocol), f.ExternalPort.First+uint16(i)).To(f.InternalIP, f.InternalPort.First+uint16(i))
		e.Comment = f.ID
		out = append(out, e)
	}
	return out
}

// standingNAT reads what a router translates, from its maps.
func (b *Backend) standingNAT(ctx context.Context, routerID string) (n nat, err error) {
	ns, stands, err := b.namespace(ctx, routerID)
	if err != nil || !stands {
		return n, err
	}
	elems, err := ns.NFT().Elements(ctx, dnatMap)
	if errors.Is(err, vnet.ErrNotFound) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	for _, e := range elems {
		n.fips = append(n.fips, router.FloatingIP{ID: e.Comment, RouterID: routerID, FloatingIP: e.Key[0].(netip.Addr), FixedIP: e.Data[0].(netip.Addr)})
	}
	elems, err = ns.NFT().Elements(ctx, portsMap)
	if err != nil {
		return n, err
	}
	byID := map[string]*router.PortForward{}
	for _, e := range elems {
		ext, in := e.Key[2].(uint16), e.Data[1].(uint16)
		f := byID[e.Comment]
		if f == nil {
			f = &router.PortForward{ID: e.Comment, RouterID: routerID, Protocol: "tcp", ExternalIP: e.Key[0].(netip.Addr), InternalIP: e.Data[0].(netip.Addr),
				ExternalPort: router.PortRange{First: ext, Last: ext}, InternalPort: router.PortRange{First: in, Last: in}}
			if e.Key[1].(uint8) == nft.ProtoUDP {
				f.Protocol = "udp"
			}
			byID[e.Comment] = f
		}
		f.ExternalPort.First, f.ExternalPort.Last = min(f.ExternalPort.First, ext), max(f.ExternalPort.Last, ext)
		f.InternalPort.First, f.InternalPort.Last = min(f.InternalPort.First, in), max(f.InternalPort.Last, in)
	}
	for _, f := range byID {
		n.forwards = append(n.forwards, *f)
	}
	slices.SortFunc(n.forwards, func(a, b router.PortForward) int { return strings.Compare(a.ID, b.ID) })
	return n, nil
}

// bare is what the kernel keeps of a floating IP.
func bare(f router.FloatingIP) router.FloatingIP {
	return router.FloatingIP{ID: f.ID, RouterID: f.RouterID, FloatingIP: f.FloatingIP, FixedIP: f.FixedIP}
}

// natSteps returns what takes the translations of r from was to want.
func (b *Backend) natSteps(ctx context.Context, r router.Router, was, want nat) (steps []linux.Step, err error) {
	oldFIP, oldPF := map[string]router.FloatingIP{}, map[string]router.PortForward{}
	for _, f := range was.fips {
		oldFIP[f.ID] = bare(f)
	}
	for _, f := range was.forwards {
		oldPF[f.ID] = f
	}
	var add []linux.Step
	for _, f := range want.fips {
		f = bare(f)
		old, had := oldFIP[f.ID]
		delete(oldFIP, f.ID)
		if had && old == f {
			continue
		}
		var o *router.FloatingIP
		if had {
			o = &old
		}
		c, _ := router.DiffFloatingIP(o, &f)
		add = append(add, b.fipSteps(r, c, o, &f, want)...)
	}
	for _, f := range want.forwards {
		old, had := oldPF[f.ID]
		delete(oldPF, f.ID)
		if had && old.Equal(f) {
			continue
		}
		var o *router.PortForward
		if had {
			o = &old
		}
		c, _ := router.DiffPortForward(o, &f)
		add = append(add, b.forwardSteps(r, c, o, &f, want)...)
	}
	for _, f := range was.forwards {
		if old, gone := oldPF[f.ID]; gone {
			c, _ := router.DiffPortForward(&old, nil)
			steps = append(steps, b.forwardSteps(r, c, &old, nil, want)...)
		}
	}
	for _, f := range was.fips {
		if old, gone := oldFIP[f.ID]; gone {
			c, _ := router.DiffFloatingIP(&old, nil)
			steps = append(steps, b.fipSteps(r, c, &old, nil, want)...)
		}
	}
	// Those that go are first in each phase: an address may move between two.
	return append(steps, add...), nil
}

// fipSteps takes a floating IP from old to now; either may be nil. want is all
// that is translated afterwards.
func (b *Backend) fipSteps(r router.Router, c vnet.Change, old, now *router.FloatingIP, want nat) []linux.Step {
	ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
	c.Where = b.h.Name()
	w := &work{c: c}
	w.steps = append(w.steps, linux.Step{Phase: linux.Configure, NS: ns, NFT: func(tx *nft.Tx) error {
		tx.Set(dnatMap)
		tx.Set(snatMap)
		if old != nil {
			d, s := fipElements(*old)
			// What another floating IP has got in this same change stays.
			if !slices.ContainsFunc(want.fips, func(f router.FloatingIP) bool { return f.FloatingIP == old.FloatingIP }) {
				tx.Remove(dnatMap, d)
			}
			if !slices.ContainsFunc(want.fips, func(f router.FloatingIP) bool { return f.FixedIP == old.FixedIP }) {
				tx.Remove(snatMap, s)
			}
		}
		if now != nil {
			d, s := fipElements(*now)
			tx.Add(dnatMap, d)
			tx.Add(snatMap, s)
		}
		return nil
	}})
	if now != nil {
		b.externalSteps(w, ns, r, now.FloatingIP)
	}
	if old != nil {
		b.leaveSteps(w, ns, r, old.FloatingIP, want)
		ext, fixed := old.FloatingIP, old.FixedIP
		b.endSteps(w, ns, func(f rtnl.Flow) bool {
			return f.Orig.Dst == ext && f.Reply.Src == fixed || f.Orig.Src == fixed && f.Reply.Dst == ext
		})
	}
	return w.done()
}

// externalSteps puts an external address on the gateway device and announces it.
func (b *Backend) externalSteps(w *work, ns *linux.Namespace, r router.Router, a netip.Addr) {
	g := r.Gateway
	if g == nil || slices.ContainsFunc(g.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return
	}
	dev, mac := b.inner(g.PortID), g.MAC
	// After the translation stands, or the router would answer for itself.
	w.step(linux.Disconnect, func(context.Context) error {
		if err := ns.RTNL().AddAddr(dev, rtnl.Addr{Prefix: netip.PrefixFrom(a, 32)}); err != nil {
			return err
		}
		b.announce(ns, dev, mac, []netip.Addr{a})
		return nil
	})
}

// leaveSteps takes an external address away unless something else uses it.
func (b *Backend) leaveSteps(w *work, ns *linux.Namespace, r router.Router, a netip.Addr, want nat) {
	if r.Gateway == nil || want.extra(nil)[a] || slices.ContainsFunc(r.Gateway.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return
	}
	dev := b.inner(r.Gateway.PortID)
	w.step(linux.Disconnect, func(context.Context) error { return ns.RTNL().DelAddr(dev, netip.PrefixFrom(a, 32)) })
}

// forwardSteps takes a port forward from old to now; either may be nil.
func (b *Backend) forwardSteps(r router.Router, c vnet.Change, old, now *router.PortForward, want nat) []linux.Step {
	ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
	c.Where = b.h.Name()
	w := &work{c: c}
	w.steps = append(w.steps, linux.Step{Phase: linux.Configure, NS: ns, NFT: func(tx *nft.Tx) error {
		tx.Set(portsMap)
		if old != nil {
			for _, e := range forwardElements(*old) {
				if !slices.ContainsFunc(want.forwards, func(f router.PortForward) bool {
					return f.ExternalIP == e.Key[0] && protocol(f.Protocol) == e.Key[1] && f.ExternalPort.First <= e.Key[2].(uint16) && e.Key[2].(uint16) <= f.ExternalPort.Last
				}) {
					tx.Remove(portsMap, e)
				}
			}
		}
		if now != nil {
			tx.Add(portsMap, forwardElements(*now)...)
		}
		return nil
	}})
	if now != nil {
		b.externalSteps(w, ns, r, now.ExternalIP)
	}
	if old != nil {
		b.leaveSteps(w, ns, r, old.ExternalIP, want)
		o := *old
		b.endSteps(w, ns, func(f rtnl.Flow) bool {
			return f.Proto == protocol(o.Protocol) && f.Orig.Dst == o.ExternalIP && f.Reply.Src == o.InternalIP &&
				f.Orig.DstPort >= o.ExternalPort.First && f.Orig.DstPort <= o.ExternalPort.Last
		})
	}
	return w.done()
}

// known returns the router that a floating IP or port forward is on. nil
// without an error: it is another host's.
func (b *Backend) known(id string) (*router.Router, error) {
	r, ok := b.routers[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("router %s has not been ensured: %w", id, vnet.ErrNotFound)
	case !b.h.Local(r.Host):
		return nil, nil
	case r.Gateway == nil:
		return nil, fmt.Errorf("router %s has no gateway: %w", id, vnet.ErrConflict)
	}
	return &r, nil
}

// clash is [vnet.ErrConflict] when what is translated already cannot stand
// beside f.
func clash(n nat, g *router.Gateway, f router.FloatingIP) error {
	for _, o := range n.fips {
		if o.ID == f.ID {
			continue
		}
		if o.FloatingIP == f.FloatingIP || o.FixedIP == f.FixedIP {
			return fmt.Errorf("floating IP %s is %s for %s: %w", o.ID, o.FloatingIP, o.FixedIP, vnet.ErrConflict)
		}
	}
	for _, o := range n.forwards {
		if o.ExternalIP == f.FloatingIP {
			return fmt.Errorf("port forward %s is on %s: %w", o.ID, o.ExternalIP, vnet.ErrConflict)
		}
	}
	for _, p := range g.Addresses {
		if p.Addr() == f.FloatingIP {
			return fmt.Errorf("%s is the gateway's own address: %w", p.Addr(), vnet.ErrConflict)
		}
	}
	return nil
}

// EnsureFloatingIP implements [router.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, err := b.known(f.RouterID)
	if err != nil {
		return err
	}
	if old, ok := b.fips[f.ID]; ok && old.RouterID != f.RouterID {
		if err := b.deleteFIP(ctx, f.ID); err != nil {
			return err
		}
	}
	if r != nil {
		n := b.natOf(r.ID)
		if err := clash(n, r.Gateway, f); err != nil {
			return err
		}
		old, err := b.standingFIP(ctx, f)
		if err != nil {
			return err
		}
		n.fips = append(slices.DeleteFunc(n.fips, func(o router.FloatingIP) bool { return o.ID == f.ID }), f)
		now := bare(f)
		if old == nil || *old != now {
			c, _ := router.DiffFloatingIP(old, &now)
			if err := b.t.Submit(ctx, b.fipSteps(*r, c, old, &now, n)...); err != nil {
				return err
			}
		}
	}
	b.fips[f.ID] = f
	return nil
}

// standingFIP is what stands under the id of f: what this process knows, or
// what is at its address.
func (b *Backend) standingFIP(ctx context.Context, f router.FloatingIP) (*router.FloatingIP, error) {
	ns, stands, err := b.namespace(ctx, f.RouterID)
	if err != nil {
		return nil, err
	}
	if !stands {
		return nil, fmt.Errorf("router %s: %w", f.RouterID, vnet.ErrNotFound)
	}
	at := f.FloatingIP
	if old, ok := b.fips[f.ID]; ok {
		at = old.FloatingIP
	}
	data, ok, err := ns.NFT().Lookup(ctx, dnatMap, at)
	if errors.Is(err, vnet.ErrNotFound) || err == nil && !ok {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &router.FloatingIP{ID: f.ID, RouterID: f.RouterID, FloatingIP: at, FixedIP: data[0].(netip.Addr)}, nil
}

// DeleteFloatingIP implements [router.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deleteFIP(ctx, id)
}

func (b *Backend) deleteFIP(ctx context.Context, id string) error {
	f, ok := b.fips[id]
	if !ok {
		return nil
	}
	if r, ok := b.routers[f.RouterID]; ok && b.h.Local(r.Host) {
		n := b.natOf(r.ID)
		n.fips = slices.DeleteFunc(n.fips, func(o router.FloatingIP) bool { return o.ID == id })
		old := bare(f)
		c, _ := router.DiffFloatingIP(&old, nil)
		if err := b.t.Submit(ctx, b.fipSteps(r, c, &old, nil, n)...); err != nil {
			return err
		}
	}
	delete(b.fips, id)
	return nil
}

// EnsurePortForward implements [router.Backend].
func (b *Backend) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, err := b.known(f.RouterID)
	if err != nil {
		return err
	}
	old, had := b.forwards[f.ID]
	if had && old.RouterID != f.RouterID {
		if err := b.deleteForward(ctx, f.ID); err != nil {
			return err
		}
		had = false
	}
	if r != nil && !(had && old.Equal(f)) {
		n := b.natOf(r.ID)
		n.forwards = append(slices.DeleteFunc(n.forwards, func(o router.PortForward) bool { return o.ID == f.ID }), f)
		s := router.State{Routers: []router.Router{*r}, FloatingIPs: n.fips, PortForwards: n.forwards}
		if err := s.Validate(); err != nil {
			return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
		}
		var o *router.PortForward
		if had {
			o = &old
		}
		c, _ := router.DiffPortForward(o, &f)
		if err := b.t.Submit(ctx, b.forwardSteps(*r, c, o, &f, n)...); err != nil {
			return err
		}
	}
	b.forwards[f.ID] = f
	return nil
}

// DeletePortForward implements [router.Backend].
func (b *Backend) DeletePortForward(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deleteForward(ctx, id)
}

func (b *Backend) deleteForward(ctx context.Context, id string) error {
	f, ok := b.forwards[id]
	if !ok {
		return nil
	}
	if r, ok := b.routers[f.RouterID]; ok && b.h.Local(r.Host) {
		n := b.natOf(r.ID)
		n.forwards = slices.DeleteFunc(n.forwards, func(o router.PortForward) bool { return o.ID == id })
		c, _ := router.DiffPortForward(&f, nil)
		if err := b.t.Submit(ctx, b.forwardSteps(r, c, &f, nil, n)...); err != nil {
			return err
		}
	}
	delete(b.forwards, id)
	return nil
}
