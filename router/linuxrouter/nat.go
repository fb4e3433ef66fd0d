package linuxrouter

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// There is no chain at the output hook: a router opens no connections of its
// own, and what answers inside its namespace (the metadata proxy) is reached by
// its own addresses, so nothing that it originates goes to a floating IP.

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

// nat is what is translated at one router besides SNAT, indexed so that one
// change costs the same whatever stands.
type nat struct {
	fips     map[string]router.FloatingIP  // by id; only what the kernel keeps of them
	forwards map[string]router.PortForward // by id
	ext      map[netip.Addr]string         // floating IP -> id
	fixed    map[netip.Addr]string         // fixed IP -> id
	shared   map[netip.Addr]int            // external address -> forwards on it
}

func newNAT() *nat {
	return &nat{map[string]router.FloatingIP{}, map[string]router.PortForward{}, map[netip.Addr]string{}, map[netip.Addr]string{}, map[netip.Addr]int{}}
}

func (n *nat) clone() *nat {
	return &nat{maps.Clone(n.fips), maps.Clone(n.forwards), maps.Clone(n.ext), maps.Clone(n.fixed), maps.Clone(n.shared)}
}

// bare is what the kernel keeps of a floating IP.
func bare(f router.FloatingIP) router.FloatingIP {
	return router.FloatingIP{ID: f.ID, RouterID: f.RouterID, FloatingIP: f.FloatingIP, FixedIP: f.FixedIP}
}

func (n *nat) addFIP(f router.FloatingIP) {
	n.dropFIP(f.ID)
	n.fips[f.ID], n.ext[f.FloatingIP], n.fixed[f.FixedIP] = bare(f), f.ID, f.ID
}

func (n *nat) dropFIP(id string) {
	f, ok := n.fips[id]
	if !ok {
		return
	}
	delete(n.fips, id)
	if n.ext[f.FloatingIP] == id {
		delete(n.ext, f.FloatingIP)
	}
	if n.fixed[f.FixedIP] == id {
		delete(n.fixed, f.FixedIP)
	}
}

func (n *nat) addForward(f router.PortForward) {
	n.dropForward(f.ID)
	n.forwards[f.ID] = f
	n.shared[f.ExternalIP]++
}

func (n *nat) dropForward(id string) {
	f, ok := n.forwards[id]
	if !ok {
		return
	}
	delete(n.forwards, id)
	if n.shared[f.ExternalIP]--; n.shared[f.ExternalIP] == 0 {
		delete(n.shared, f.ExternalIP)
	}
}

// external reports whether a is an external address of n.
func (n *nat) external(a netip.Addr) bool { return n.ext[a] != "" || n.shared[a] > 0 }

// addresses are all external addresses of n.
func (n *nat) addresses() map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(n.ext)+len(n.shared))
	for a := range n.ext {
		out[a] = true
	}
	for a := range n.shared {
		out[a] = true
	}
	return out
}

// user names a floating IP or port forward, "" when there is none.
func (n *nat) user() string {
	if n == nil {
		return ""
	}
	if len(n.fips) > 0 {
		return "floating IP " + slices.Min(slices.Collect(maps.Keys(n.fips)))
	}
	if len(n.forwards) > 0 {
		return "port forward " + slices.Min(slices.Collect(maps.Keys(n.forwards)))
	}
	return ""
}

// target is where n forwards an external port to: the forward's id too.
func (n *nat) target(ext netip.Addr, proto uint8, port uint16) (in netip.AddrPort, id string) {
	if n.shared[ext] == 0 {
		return in, ""
	}
	for _, f := range n.forwards {
		if f.ExternalIP == ext && protocol(f.Protocol) == proto && f.ExternalPort.First <= port && port <= f.ExternalPort.Last {
			return netip.AddrPortFrom(f.InternalIP, f.InternalPort.First+port-f.ExternalPort.First), f.ID
		}
	}
	return in, ""
}

// values returns what m holds, in the order of the keys.
func values[T any](m map[string]T) (out []T) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// standingNAT reads what a router translates, from its maps. A router that does
// not stand translates nothing.
func (b *Backend) standingNAT(ctx context.Context, routerID string) (*nat, error) {
	n := newNAT()
	ns, stands, err := b.namespace(ctx, routerID)
	if err != nil || !stands {
		return n, err
	}
	elems, err := ns.NFT().Elements(ctx, dnatMap)
	if errors.Is(err, vnet.ErrNotFound) {
		return n, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range elems {
		n.addFIP(router.FloatingIP{ID: e.Comment, RouterID: routerID, FloatingIP: e.Key[0].(netip.Addr), FixedIP: e.Data[0].(netip.Addr)})
	}
	elems, err = ns.NFT().Elements(ctx, portsMap)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return nil, err
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
		n.addForward(*f)
	}
	return n, nil
}

// endings collects the connections of one router that a commit ends: one look
// at the connection table does for all of them.
type endings struct {
	pairs map[[2]netip.Addr]bool // of floating and fixed IP
	addrs map[netip.Addr]bool    // addresses that sources were translated to
	ports map[portEnd]bool
	// fresh are addresses that get a meaning: who called them before, when they
	// were nobody's, would go on untranslated, and the router answer for itself.
	fresh map[netip.Addr]bool
}

type portEnd struct {
	ext, in netip.Addr
	proto   uint8
	port    uint16 // external
}

func newEndings() *endings {
	return &endings{map[[2]netip.Addr]bool{}, map[netip.Addr]bool{}, map[portEnd]bool{}, map[netip.Addr]bool{}}
}

// begin ends what was asked of fresh addresses, once: after the translations
// stand, and before the first of the addresses does.
func (e *endings) begin(ctx context.Context, ns *linux.Namespace) error {
	if len(e.fresh) == 0 {
		return nil
	}
	_, err := ns.DeleteConntrack(ctx, func(f rtnl.Flow) bool { return f.Orig.Dst == f.Reply.Src && e.fresh[f.Orig.Dst] })
	if err == nil {
		e.fresh = nil
	}
	return err
}

func (e *endings) match(f rtnl.Flow) bool {
	return e.pairs[[2]netip.Addr{f.Orig.Dst, f.Reply.Src}] || e.pairs[[2]netip.Addr{f.Reply.Dst, f.Orig.Src}] ||
		e.addrs[f.Reply.Dst] || e.addrs[f.Orig.Dst] || e.ports[portEnd{f.Orig.Dst, f.Reply.Src, f.Proto, f.Orig.DstPort}]
}

// steps ends them, after everything else; they belong to the change before.
func (e *endings) steps(ns *linux.Namespace) []linux.Step {
	if len(e.pairs)+len(e.addrs)+len(e.ports) == 0 {
		return nil
	}
	return []linux.Step{{Phase: linux.FilterDel, Do: func(ctx context.Context) error { _, err := ns.DeleteConntrack(ctx, e.match); return err }}}
}

// carries reports whether a connection is translated as n says, and as SNAT to
// own does. What the metadata proxy redirects is its own affair.
func (n *nat) carries(f rtnl.Flow, own netip.Addr) bool {
	if to := f.Orig.Dst; to != f.Reply.Src && !notOurs(to) && n.fips[n.ext[to]].FixedIP != f.Reply.Src {
		if in, _ := n.target(to, f.Proto, f.Orig.DstPort); in.Addr() != f.Reply.Src {
			return false
		}
	}
	from := f.Reply.Dst
	return from == f.Orig.Src || from == own || n.fips[n.ext[from]].FixedIP == f.Orig.Src
}

// leftSteps ends the connections that are translated as neither was nor want
// says: those that an earlier process was killed, or failed, before it ended.
func (b *Backend) leftSteps(ctx context.Context, w *work, ns *linux.Namespace, r router.Router, was, want *nat) error {
	own := firstIPv4(r.Gateway)
	left := func(f rtnl.Flow) bool { return !was.carries(f, own) && !want.carries(f, own) }
	n := 0
	err := ns.RTNL().Flows(ctx, func(f rtnl.Flow) bool {
		if left(f) {
			n++
		}
		return true
	})
	if err == nil && n > 0 {
		w.differ("connections of an earlier translation", n, "ended", vnet.ImpactSome)
		w.step(linux.FilterDel, func(ctx context.Context) error { _, err := ns.DeleteConntrack(ctx, left); return err })
	}
	return err
}

// natSteps returns what takes the translations of r from was to want.
func (b *Backend) natSteps(r router.Router, was, want *nat, end *endings) (steps []linux.Step) {
	for _, f := range values(was.forwards) {
		if _, stays := want.forwards[f.ID]; !stays {
			steps = append(steps, b.forwardSteps(r, &f, nil, want, end)...)
		}
	}
	for _, f := range values(was.fips) {
		if _, stays := want.fips[f.ID]; !stays {
			steps = append(steps, b.fipSteps(r, &f, nil, want, end)...)
		}
	}
	// Those that go are first in each phase: an address may move between two.
	for _, f := range values(want.fips) {
		old, had := was.fips[f.ID]
		switch {
		case !had:
			steps = append(steps, b.fipSteps(r, nil, &f, want, end)...)
		case old != f:
			steps = append(steps, b.fipSteps(r, &old, &f, want, end)...)
		}
	}
	for _, f := range values(want.forwards) {
		old, had := was.forwards[f.ID]
		switch {
		case !had:
			steps = append(steps, b.forwardSteps(r, nil, &f, want, end)...)
		case !old.Equal(f):
			steps = append(steps, b.forwardSteps(r, &old, &f, want, end)...)
		}
	}
	return steps
}

// fipSteps takes a floating IP from old to now; either may be nil. want is all
// that is translated afterwards.
func (b *Backend) fipSteps(r router.Router, old, now *router.FloatingIP, want *nat, end *endings) []linux.Step {
	ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
	c, _ := router.DiffFloatingIP(old, now)
	c.Where = b.h.Name()
	w := &work{c: c}
	renamed := false
	if old != nil {
		if heir := want.fips[want.ext[old.FloatingIP]]; heir.FixedIP == old.FixedIP && heir.ID != "" && heir.ID != old.ID {
			// The pair stays under another id. An element with another comment is
			// the same to the kernel, so it goes before the new one comes, in a
			// transaction of its own; connections do not notice.
			renamed = true
			w.c.Impact = vnet.ImpactNone
			w.steps = append(w.steps, linux.Step{Phase: linux.Connect, NS: ns, NFT: func(tx *nft.Tx) error {
				d, s := fipElements(*old)
				tx.Remove(dnatMap, d)
				tx.Remove(snatMap, s)
				return nil
			}})
			if now == nil {
				return w.done()
			}
		}
	}
	var remove, add []func(tx *nft.Tx)
	if old != nil {
		d, s := fipElements(*old)
		// What another floating IP has got in this same change stays.
		if want.ext[old.FloatingIP] == "" {
			remove = append(remove, func(tx *nft.Tx) { tx.Remove(dnatMap, d) })
		}
		if want.fixed[old.FixedIP] == "" {
			remove = append(remove, func(tx *nft.Tx) { tx.Remove(snatMap, s) })
		}
	}
	if now != nil {
		d, s := fipElements(*now)
		add = append(add, func(tx *nft.Tx) { tx.Add(dnatMap, d); tx.Add(snatMap, s) })
	}
	w.steps = append(w.steps, linux.Step{Phase: linux.Configure, NS: ns, NFT: func(tx *nft.Tx) error {
		for _, f := range append(remove, add...) {
			f(tx)
		}
		return nil
	}})
	if now != nil {
		b.externalSteps(w, ns, r, now.FloatingIP, end)
	}
	if old != nil && !renamed {
		b.leaveSteps(w, ns, r, old.FloatingIP, want)
		end.pairs[[2]netip.Addr{old.FloatingIP, old.FixedIP}] = true
	}
	return w.done()
}

// externalSteps puts an external address on the gateway device and announces it.
func (b *Backend) externalSteps(w *work, ns *linux.Namespace, r router.Router, a netip.Addr, end *endings) {
	g := r.Gateway
	if g == nil || slices.ContainsFunc(g.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return
	}
	dev, mac := b.inner(g.PortID), g.MAC
	// After the translation stands, or the router would answer for itself.
	end.fresh[a] = true
	w.step(linux.Disconnect, func(ctx context.Context) error {
		if err := end.begin(ctx, ns); err != nil {
			return err
		}
		if err := ns.RTNL().AddAddr(dev, rtnl.Addr{Prefix: netip.PrefixFrom(a, 32)}); err != nil {
			return err
		}
		b.announcer.announce(ns, dev, mac, a)
		return nil
	})
}

// leaveSteps takes an external address away unless something else uses it.
func (b *Backend) leaveSteps(w *work, ns *linux.Namespace, r router.Router, a netip.Addr, want *nat) {
	if r.Gateway == nil || want.external(a) || slices.ContainsFunc(r.Gateway.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return
	}
	dev := b.inner(r.Gateway.PortID)
	// Before the translation goes, or the router would answer for itself.
	w.step(linux.Connect, func(context.Context) error { return ns.RTNL().DelAddr(dev, netip.PrefixFrom(a, 32)) })
}

// forwardSteps takes a port forward from old to now; either may be nil.
func (b *Backend) forwardSteps(r router.Router, old, now *router.PortForward, want *nat, end *endings) []linux.Step {
	ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
	c, _ := router.DiffPortForward(old, now)
	c.Where = b.h.Name()
	w := &work{c: c}
	var renamed, remove []nft.Element
	if old != nil {
		for _, e := range forwardElements(*old) {
			ext, proto, port := e.Key[0].(netip.Addr), e.Key[1].(uint8), e.Key[2].(uint16)
			in, id := want.target(ext, proto, port)
			same := in == netip.AddrPortFrom(e.Data[0].(netip.Addr), e.Data[1].(uint16))
			switch {
			case id == "":
				remove = append(remove, e)
			case same && id != old.ID:
				renamed = append(renamed, e)
			}
			if !same {
				end.ports[portEnd{ext, old.InternalIP, proto, port}] = true
			}
		}
	}
	if len(renamed) > 0 { // see fipSteps
		w.steps = append(w.steps, linux.Step{Phase: linux.Connect, NS: ns, NFT: func(tx *nft.Tx) error { tx.Remove(portsMap, renamed...); return nil }})
	}
	w.steps = append(w.steps, linux.Step{Phase: linux.Configure, NS: ns, NFT: func(tx *nft.Tx) error {
		tx.Set(portsMap)
		tx.Remove(portsMap, remove...)
		if now != nil {
			tx.Add(portsMap, forwardElements(*now)...)
		}
		return nil
	}})
	if now != nil {
		for _, e := range forwardElements(*now) {
			ext := e.Key[0].(netip.Addr)
			end.ports[portEnd{ext, ext, e.Key[1].(uint8), e.Key[2].(uint16)}] = true // as with fresh addresses
		}
		b.externalSteps(w, ns, r, now.ExternalIP, end)
	}
	if old != nil {
		b.leaveSteps(w, ns, r, old.ExternalIP, want)
	}
	return w.done()
}

// holder returns the router that a floating IP or port forward is on, and what
// it translates. A nil router without an error is another host's.
func (b *Backend) holder(ctx context.Context, id string) (*router.Router, *nat, error) {
	if err := b.learn(ctx, id); err != nil {
		return nil, nil, err
	}
	r, ok := b.routers[id]
	switch {
	case !ok:
		return nil, nil, fmt.Errorf("router %s: %w", id, vnet.ErrNotFound)
	case !b.h.Local(r.Host):
		return nil, b.natOf(id), nil
	case r.Gateway == nil:
		return nil, nil, fmt.Errorf("router %s has no gateway: %w", id, vnet.ErrConflict)
	}
	if _, stands, err := b.namespace(ctx, id); err != nil {
		return nil, nil, err
	} else if _, pending := b.t.Pending(vnet.PartRouter, "router", id); !stands && !pending {
		return nil, nil, fmt.Errorf("router %s: %w", id, vnet.ErrNotFound)
	}
	return &r, b.natOf(id), nil
}

// learn reads a router from the kernel that this process has not been told of:
// its ports, addresses, routes and what it translates. Advertisements and
// networks cannot be read.
func (b *Backend) learn(ctx context.Context, id string) error {
	if _, ok := b.routers[id]; ok {
		return nil
	}
	ns, stands, err := b.namespace(ctx, id)
	if err != nil || !stands {
		return err
	}
	n, err := b.standingNAT(ctx, id)
	if err != nil {
		return err
	}
	links, err := ns.RTNL().Links()
	if err != nil {
		return err
	}
	r := router.Router{ID: id}
	for _, l := range links {
		part, kind, pid, ok := b.h.ParseAlias(l.Alias)
		if !ok || part != vnet.PartRouter {
			continue
		}
		list, err := ns.RTNL().Addrs(l.Name)
		if err != nil {
			return err
		}
		var addrs []netip.Prefix
		for _, a := range list {
			if p := a.Prefix; !notOurs(p.Addr()) && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) && !(p.IsSingleIP() && n.external(p.Addr())) {
				addrs = append(addrs, p)
			}
		}
		if kind == "gateway" {
			r.Gateway = &router.Gateway{PortID: pid, MAC: l.MAC, Addresses: addrs, MTU: l.MTU}
		} else {
			r.Interfaces = append(r.Interfaces, router.Interface{PortID: pid, MAC: l.MAC, Addresses: addrs, MTU: l.MTU})
		}
	}
	routes, err := ns.RTNL().Routes(0)
	if err != nil {
		return err
	}
	for _, x := range routes {
		if x.Protocol == rtnl.ProtoVnet && x.Dst.Bits() > 0 {
			for _, hop := range append([]rtnl.Hop{{Via: x.Via}}, x.More...) {
				r.Routes = append(r.Routes, router.Route{Destination: x.Dst, NextHop: hop.Via})
			}
		}
	}
	b.routers[id], b.nats[id] = r, n
	return nil
}

// find returns the router of which found is true, "" when there is none: first
// of what this process knows, then of what stands.
func (b *Backend) find(ctx context.Context, found func(*nat) bool) (routerID string, err error) {
	for id, n := range b.nats {
		if found(n) {
			return id, nil
		}
	}
	ids, err := b.h.Namespaces(ctx, vnet.PartRouter)
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		if b.known[id] {
			continue
		}
		n, err := b.standingNAT(ctx, id)
		if err != nil {
			return "", err
		}
		if found(n) {
			if err := b.learn(ctx, id); err != nil {
				return "", err
			}
			b.nats[id] = n
			return id, nil
		}
	}
	return "", nil
}

func (b *Backend) natOf(routerID string) *nat {
	n := b.nats[routerID]
	if n == nil {
		n = newNAT()
		b.nats[routerID] = n
	}
	return n
}

// clash is [vnet.ErrConflict] when f cannot stand beside what is translated.
func (n *nat) clash(f router.FloatingIP) error {
	for _, id := range []string{n.ext[f.FloatingIP], n.fixed[f.FixedIP]} {
		if o := n.fips[id]; id != "" && id != f.ID {
			return fmt.Errorf("floating IP %s is %s for %s: %w", o.ID, o.FloatingIP, o.FixedIP, vnet.ErrConflict)
		}
	}
	if n.shared[f.FloatingIP] > 0 {
		return fmt.Errorf("%s has port forwards: %w", f.FloatingIP, vnet.ErrConflict)
	}
	return nil
}

// clashForward is [nat.clash] for a port forward.
func (n *nat) clashForward(f router.PortForward) error {
	if id := n.ext[f.ExternalIP]; id != "" {
		return fmt.Errorf("%s is floating IP %s: %w", f.ExternalIP, id, vnet.ErrConflict)
	}
	for _, o := range n.forwards {
		if o.ID != f.ID && o.Overlaps(f) {
			return fmt.Errorf("port forward %s is on %s ports %d-%d of %s: %w", o.ID, o.Protocol, o.ExternalPort.First, o.ExternalPort.Last, o.ExternalIP, vnet.ErrConflict)
		}
	}
	return nil
}

// EnsureFloatingIP implements [router.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, n, err := b.holder(ctx, f.RouterID)
	if err != nil {
		return err
	}
	if r != nil {
		if err := r.CheckFloatingIP(f); err != nil {
			return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
		}
		if err := n.clash(f); err != nil {
			return err
		}
	}
	if at, err := b.find(ctx, func(n *nat) bool { return n.fips[f.ID].ID != "" }); err != nil {
		return err
	} else if at != "" && at != f.RouterID {
		if err := b.deleteFIP(ctx, at, f.ID); err != nil {
			return err
		}
	}
	f = bare(f)
	if r != nil {
		old, had := n.fips[f.ID]
		n.addFIP(f)
		end := newEndings()
		var steps []linux.Step
		switch {
		case !had:
			steps = b.fipSteps(*r, nil, &f, n, end)
		case old != f:
			steps = b.fipSteps(*r, &old, &f, n, end)
		default:
			whole, err := b.stands(ctx, *r, f.FloatingIP, func(tx *nft.Tx) error {
				d, s := fipElements(f)
				tx.Add(dnatMap, d)
				tx.Add(snatMap, s)
				return nil
			})
			if err != nil || whole {
				return err
			}
			steps = b.fipSteps(*r, nil, &f, n, end)
		}
		ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
		if err := b.submit(ctx, r.ID, append(steps, end.steps(ns)...)...); err != nil {
			n.dropFIP(f.ID)
			if had {
				n.addFIP(old)
			}
			return err
		}
	}
	n.addFIP(f)
	return nil
}

// stands reports whether elements and an external address are in place: what
// this process knows may have been taken away.
func (b *Backend) stands(ctx context.Context, r router.Router, a netip.Addr, elements func(tx *nft.Tx) error) (bool, error) {
	ns, there, err := b.namespace(ctx, r.ID)
	if err != nil || !there {
		return !there, err // then it is pending
	}
	diffs, err := ns.NFT().Check(ctx, elements)
	if err != nil || len(diffs) > 0 {
		return false, err
	}
	addrs, err := ns.RTNL().Addrs(b.inner(r.Gateway.PortID))
	return slices.ContainsFunc(addrs, func(x rtnl.Addr) bool { return x.Prefix.Addr() == a }), err
}

// DeleteFloatingIP implements [router.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, err := b.find(ctx, func(n *nat) bool { return n.fips[id].ID != "" })
	if err != nil || at == "" {
		return err
	}
	return b.deleteFIP(ctx, at, id)
}

func (b *Backend) deleteFIP(ctx context.Context, routerID, id string) error {
	n := b.natOf(routerID)
	old := n.fips[id]
	n.dropFIP(id)
	err := b.submitGone(ctx, routerID, func(r router.Router, end *endings) []linux.Step { return b.fipSteps(r, &old, nil, n, end) })
	if err != nil {
		n.addFIP(old)
	}
	return err
}

// submitGone submits steps for a router that stands here, if it does.
func (b *Backend) submitGone(ctx context.Context, routerID string, steps func(r router.Router, end *endings) []linux.Step) error {
	r, ok := b.routers[routerID]
	if !ok || !b.h.Local(r.Host) {
		return nil
	}
	ns, stands, err := b.namespace(ctx, routerID)
	if err != nil {
		return err
	}
	if _, pending := b.t.Pending(vnet.PartRouter, "router", routerID); !stands && !pending {
		return nil
	}
	end := newEndings()
	st := steps(r, end)
	return b.submit(ctx, routerID, append(st, end.steps(ns)...)...)
}

// EnsurePortForward implements [router.Backend].
func (b *Backend) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f = f.Canonical()
	r, n, err := b.holder(ctx, f.RouterID)
	if err != nil {
		return err
	}
	if r != nil {
		if err := r.CheckPortForward(f); err != nil {
			return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
		}
		if err := n.clashForward(f); err != nil {
			return err
		}
	}
	if at, err := b.find(ctx, func(n *nat) bool { return n.forwards[f.ID].ID != "" }); err != nil {
		return err
	} else if at != "" && at != f.RouterID {
		if err := b.deleteForward(ctx, at, f.ID); err != nil {
			return err
		}
	}
	if r != nil {
		old, had := n.forwards[f.ID]
		n.addForward(f)
		end := newEndings()
		var steps []linux.Step
		switch {
		case !had:
			steps = b.forwardSteps(*r, nil, &f, n, end)
		case old != f:
			steps = b.forwardSteps(*r, &old, &f, n, end)
		default:
			whole, err := b.stands(ctx, *r, f.ExternalIP, func(tx *nft.Tx) error { tx.Add(portsMap, forwardElements(f)...); return nil })
			if err != nil || whole {
				return err
			}
			steps = b.forwardSteps(*r, nil, &f, n, end)
		}
		ns := b.h.NamespaceRef(b.h.NetnsName(vnet.PartRouter, r.ID))
		if err := b.submit(ctx, r.ID, append(steps, end.steps(ns)...)...); err != nil {
			n.dropForward(f.ID)
			if had {
				n.addForward(old)
			}
			return err
		}
	}
	n.addForward(f)
	return nil
}

// DeletePortForward implements [router.Backend].
func (b *Backend) DeletePortForward(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, err := b.find(ctx, func(n *nat) bool { return n.forwards[id].ID != "" })
	if err != nil || at == "" {
		return err
	}
	return b.deleteForward(ctx, at, id)
}

func (b *Backend) deleteForward(ctx context.Context, routerID, id string) error {
	n := b.natOf(routerID)
	old := n.forwards[id]
	n.dropForward(id)
	err := b.submitGone(ctx, routerID, func(r router.Router, end *endings) []linux.Step { return b.forwardSteps(r, &old, nil, n, end) })
	if err != nil {
		n.addForward(old)
	}
	return err
}
