package linuxrouter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/router"
)

// routerSysctls make a namespace a router. Those of "default" are for the
// devices to come: addresses are given by us and not made or learned.
var routerSysctls = []sysctl.KV{
	{Key: "net/ipv4/ip_forward", Value: "1"},
	{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
	{Key: "net/ipv6/conf/default/forwarding", Value: "1"},
	{Key: "net/ipv6/conf/default/accept_ra", Value: "0"},
	{Key: "net/ipv6/conf/default/addr_gen_mode", Value: "1"},
	{Key: "net/ipv4/conf/all/arp_ignore", Value: "1"},
	{Key: "net/ipv4/conf/all/arp_announce", Value: "2"},
	{Key: "net/ipv4/conf/all/send_redirects", Value: "0"},
	{Key: "net/ipv4/conf/default/send_redirects", Value: "0"},
	// An address goes alone, and not with others of its subnet that came later.
	{Key: "net/ipv4/conf/all/promote_secondaries", Value: "1"},
	{Key: "net/ipv4/conf/all/rp_filter", Value: "0"},
	{Key: "net/ipv4/conf/default/rp_filter", Value: "0"},
	// The middle of a connection that is not tracked cannot be translated.
	{Key: "net/netfilter/nf_conntrack_tcp_loose", Value: "0"},
}

// port is a router's port of either kind.
type port struct {
	kind    string // "interface" or "gateway"
	id      string
	network string
	mac     vnet.MAC
	addrs   []netip.Prefix
	mtu     int
	extra   map[netip.Addr]bool // external addresses of the nat that must be there already
}

func ports(r router.Router, extra map[netip.Addr]bool) (out []port) {
	for _, i := range r.Interfaces {
		out = append(out, port{"interface", i.PortID, i.NetworkID, i.MAC, i.Addresses, i.MTU, nil})
	}
	if g := r.Gateway; g != nil {
		out = append(out, port{"gateway", g.PortID, g.NetworkID, g.MAC, g.Addresses, g.MTU, extra})
	}
	return out
}

func (b *Backend) outer(portID string) string { return b.h.LinkName("r", portID) } // on the bridge
func (b *Backend) inner(portID string) string { return b.h.LinkName("i", portID) } // in the namespace

// namespace returns a router's namespace, and whether it stands.
func (b *Backend) namespace(ctx context.Context, id string) (*linux.Namespace, bool, error) {
	name := b.h.NetnsName(vnet.PartRouter, id)
	ns, err := b.h.Namespace(ctx, name)
	if errors.Is(err, vnet.ErrNotFound) {
		return b.h.NamespaceRef(name), false, nil
	}
	return ns, err == nil, err
}

// routerSteps returns what has to be done for r to stand and to translate what
// want says; was is what is translated now.
func (b *Backend) routerSteps(ctx context.Context, r router.Router, was, want *nat) ([]linux.Step, error) {
	ns, stands, err := b.namespace(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	w := b.work(vnet.Update, "router", r.ID)
	name := b.h.NetnsName(vnet.PartRouter, r.ID)
	if !stands {
		w.c.Verb = vnet.Create
		w.steps = append(w.steps, linux.Step{Phase: linux.LinkAdd,
			Do:   func(ctx context.Context) error { _, err := b.h.CreateNamespace(ctx, name); return err },
			Undo: func(ctx context.Context) error { return b.h.DeleteNamespace(ctx, name) }})
	}
	kvs := routerSysctls
	if stands {
		if kvs, err = ns.Sysctl().Differ(routerSysctls...); err != nil {
			return nil, err
		}
		if len(kvs) > 0 {
			w.differ("settings", "missing", len(kvs), vnet.ImpactSome)
		}
	}
	if len(kvs) > 0 {
		w.step(linux.LinkAdd, func(context.Context) error { _, err := ns.Sysctl().Set(kvs...); return err })
	}
	end := newEndings()
	extra := map[netip.Addr]bool{} // those that come or go are the nat's to see to
	for a := range want.addresses() {
		if was.external(a) && !slices.ContainsFunc(gatewayAddrs(r), func(p netip.Prefix) bool { return p.Addr() == a }) {
			extra[a] = true
		}
	}
	for _, p := range ports(r, extra) {
		if err := b.portSteps(w, ns, stands, r, p, was, want, end); err != nil {
			return nil, fmt.Errorf("%s %s: %w", p.kind, p.id, err)
		}
	}
	fewer := false
	if stands {
		if fewer, err = b.oldPorts(w, ns, r, end); err != nil {
			return nil, err
		}
		if !b.known[r.ID] {
			if err := b.leftSteps(ctx, w, ns, r, was, want); err != nil {
				return nil, err
			}
		}
	}
	if err := b.routeSteps(w, ns, stands, fewer || w.remade, r); err != nil {
		return nil, err
	}
	if err := b.chainSteps(ctx, w, ns, stands, r); err != nil {
		return nil, err
	}
	steps := append(w.done(), b.natSteps(r, was, want, end)...)
	return append(steps, end.steps(ns)...), nil
}

func gatewayAddrs(r router.Router) []netip.Prefix {
	if r.Gateway == nil {
		return nil
	}
	return r.Gateway.Addresses
}

// notOurs reports whether a is an address of the metadata proxy, which another
// part puts on our devices.
func notOurs(a netip.Addr) bool {
	switch a.String() {
	case "169.254.169.254", "fe80::a9fe:a9fe", "fd00:ec2::254":
		return true
	}
	return false
}

// portSteps makes or mends one port.
func (b *Backend) portSteps(w *work, ns *linux.Namespace, stands bool, r router.Router, p port, was, want *nat, end *endings) error {
	rt, in := b.h.NS().RTNL(), ns.RTNL()
	outer, inner, br := b.outer(p.id), b.inner(p.id), b.h.NetworkDevice(p.network)
	bridge, err := link(rt, br)
	if err != nil {
		return err
	}
	verb, pending := b.t.Pending(vnet.PartOverlay, "network", p.network)
	if bridge == nil && !pending || verb == vnet.Delete {
		return fmt.Errorf("network %s: %w", p.network, vnet.ErrNotFound)
	}
	o, err := link(rt, outer)
	if err != nil {
		return err
	}
	alias := b.h.Alias(vnet.PartRouter, "port", p.id)
	if o != nil && o.Alias != "" && o.Alias != alias {
		return fmt.Errorf("device %s is %q: %w", outer, o.Alias, vnet.ErrConflict)
	}
	var l *rtnl.Link
	if stands {
		if l, err = link(in, inner); err != nil {
			return err
		}
	}
	if l != nil && o == nil { // half of a pair cannot be; somebody moved the other away
		return fmt.Errorf("device %s: %w", outer, vnet.ErrNotFound)
	}
	if o != nil && l == nil { // a pair to a namespace that went, or of another router
		w.step(linux.LinkAdd, func(context.Context) error { return rt.DelLink(outer) })
		o, w.remade = nil, true
	}
	mtu := func() (int, error) {
		if p.mtu != 0 {
			return p.mtu, nil
		}
		l, err := rt.Link(br) // of this same commit, perhaps
		return l.MTU, err
	}
	if l == nil {
		w.c.Diff = append(w.c.Diff, fmt.Sprintf("%s %s: new, %v on network %s", p.kind, p.id, p.addrs, p.network))
		w.steps = append(w.steps, linux.Step{Phase: linux.LinkAdd, Do: func(context.Context) error {
			m, err := mtu()
			if err != nil {
				return err
			}
			return rt.AddVeth(outer, inner, ns, vnet.MAC{}, p.mac, m)
		}, Undo: func(context.Context) error { return rt.DelLink(outer) }})
	} else if l.MAC != p.mac {
		w.differ(p.kind+" "+p.id+" mac", l.MAC, p.mac, vnet.ImpactSome)
		w.step(linux.Configure, func(context.Context) error { return in.SetMAC(inner, p.mac) })
	}
	if o == nil || o.Alias != alias {
		w.step(linux.LinkAdd, func(context.Context) error { return rt.SetAlias(outer, alias) })
		w.step(linux.LinkAdd, func(context.Context) error {
			_, err := b.h.NS().Sysctl().Set(sysctl.KV{Key: "net/ipv6/conf/" + outer + "/disable_ipv6", Value: "1"})
			return err
		})
		w.step(linux.LinkAdd, func(context.Context) error { return in.SetAlias(inner, b.h.Alias(vnet.PartRouter, p.kind, p.id)) })
	}
	if o != nil && (bridge == nil || o.Master != bridge.Index) {
		w.differ(p.kind+" "+p.id+" network", "another", p.network, vnet.ImpactSome)
	}
	if o == nil || bridge == nil || o.Master != bridge.Index {
		w.step(linux.Connect, func(context.Context) error { return rt.SetMaster(outer, br) })
	}
	switch {
	case l != nil && bridge == nil: // a pending network has its MTU later
		w.step(linux.Connect, func(context.Context) error {
			m, err := mtu()
			if err != nil {
				return err
			}
			return errors.Join(rt.SetMTU(outer, m), in.SetMTU(inner, m))
		})
	case l != nil:
		m, err := mtu()
		if err != nil {
			return err
		}
		if l.MTU != m || o != nil && o.MTU != m {
			w.differ(p.kind+" "+p.id+" mtu", l.MTU, m, vnet.ImpactSome)
			w.step(linux.Connect, func(context.Context) error { return errors.Join(rt.SetMTU(outer, m), in.SetMTU(inner, m)) })
		}
	}
	switch up := l != nil && o != nil && l.Up && o.Up; {
	case r.AdminDown && o != nil && o.Up:
		w.differ("admin", "up", "down", vnet.ImpactObject)
		w.step(linux.Disconnect, func(context.Context) error { return rt.SetDown(outer) })
	case !r.AdminDown && !up:
		if o != nil {
			w.differ(p.kind+" "+p.id, "down", "up", vnet.ImpactObject)
		}
		w.step(linux.Connect, func(context.Context) error { return errors.Join(in.SetUp(inner), rt.SetUp(outer)) })
	}
	if r.AdminDown && (l == nil || !l.Up) { // routes need the inner end up
		if l != nil {
			w.differ(p.kind+" "+p.id, "down", "up inside", vnet.ImpactNone)
		}
		w.step(linux.Connect, func(context.Context) error { return in.SetUp(inner) })
	}
	// Addresses that are elsewhere now are announced like new ones.
	moved := l != nil && (l.MAC != p.mac || bridge == nil || o.Master != bridge.Index || !r.AdminDown && !o.Up)
	return b.addrSteps(w, ns, l != nil, moved, p, was, want, end)
}

// addrSteps gives a port its addresses, announces new ones, or all when the port
// has moved, and ends the connections that were translated to one that goes.
func (b *Backend) addrSteps(w *work, ns *linux.Namespace, stands, moved bool, p port, wasNAT, wantNAT *nat, end *endings) error {
	in, inner := ns.RTNL(), b.inner(p.id)
	want := map[netip.Prefix]bool{netip.PrefixFrom(p.mac.LinkLocal(), 64): true}
	for _, a := range p.addrs {
		want[a] = true
	}
	for a := range p.extra {
		want[netip.PrefixFrom(a, 32)] = true
	}
	have := map[netip.Prefix]bool{}
	if stands {
		list, err := in.Addrs(inner)
		if err != nil {
			return err
		}
		for _, a := range list {
			have[a.Prefix] = true
		}
	}
	var add, del []netip.Prefix
	for a := range want {
		if !have[a] {
			add = append(add, a)
		}
	}
	for a := range have {
		nats := p.kind == "gateway" && a.IsSingleIP() && (wasNAT.external(a.Addr()) || wantNAT.external(a.Addr()))
		if !want[a] && !notOurs(a.Addr()) && !nats {
			del = append(del, a)
		}
	}
	slices.SortFunc(add, netip.Prefix.Compare)
	slices.SortFunc(del, netip.Prefix.Compare)
	for _, a := range add {
		if stands {
			w.differ(p.kind+" "+p.id, "without", a, vnet.ImpactNone)
		}
		w.step(linux.Configure, func(context.Context) error {
			return in.AddAddr(inner, rtnl.Addr{Prefix: a, NoDAD: a.Addr().Is6()})
		})
	}
	for _, a := range del {
		w.differ(p.kind+" "+p.id, a, "gone", vnet.ImpactSome)
		w.step(linux.Disconnect, func(context.Context) error { return in.DelAddr(inner, a) })
		if p.kind == "gateway" && a.Addr().Is4() {
			end.addrs[a.Addr()] = true
		}
	}
	announce := map[netip.Addr]bool{}
	for _, a := range add {
		announce[a.Addr()] = true
	}
	if moved {
		for a := range want {
			announce[a.Addr()] = true
		}
		if p.kind == "gateway" {
			maps.Copy(announce, wantNAT.addresses())
		}
	}
	if len(announce) > 0 {
		w.step(linux.Disconnect, func(context.Context) error {
			b.announcer.announce(ns, inner, p.mac, slices.Collect(maps.Keys(announce))...)
			return nil
		})
	}
	return nil
}

// oldPorts removes the ports that r has no more, and halves of pairs that an
// earlier process had no time to name: the namespace is ours alone.
func (b *Backend) oldPorts(w *work, ns *linux.Namespace, r router.Router, end *endings) (some bool, err error) {
	in := ns.RTNL()
	links, err := in.Links()
	if err != nil {
		return false, err
	}
	wanted := ports(r, nil)
	for _, l := range links {
		part, kind, id, ok := b.h.ParseAlias(l.Alias)
		if !ok && (l.Alias != "" || l.Kind != "veth" || slices.ContainsFunc(wanted, func(p port) bool { return b.inner(p.id) == l.Name })) {
			continue
		}
		if ok && (part != vnet.PartRouter || slices.ContainsFunc(wanted, func(p port) bool { return p.id == id && p.kind == kind })) {
			continue
		}
		if !ok {
			kind, id = "device", l.Name
		}
		w.differ(kind+" "+id, "there", "gone", vnet.ImpactSome)
		if kind == "gateway" {
			addrs, err := in.Addrs(l.Name)
			if err != nil {
				return false, err
			}
			for _, a := range addrs {
				if a.Prefix.Addr().Is4() {
					end.addrs[a.Prefix.Addr()] = true
				}
			}
		}
		phase := linux.Connect // before addresses and routes, which may be those of the new one
		if slices.ContainsFunc(wanted, func(p port) bool { return p.id == id }) {
			phase = linux.FilterAdd // it becomes the other kind: the new one has the same name
		}
		w.step(phase, func(context.Context) error { return in.DelLink(l.Name) })
		some = true
	}
	return some, nil
}

// routeSteps brings the default and extra routes into line. Routes go with their
// devices: when some of those go, what stands now need not stand then.
func (b *Backend) routeSteps(w *work, ns *linux.Namespace, stands, fewer bool, r router.Router) error {
	in := ns.RTNL()
	want := wantedRoutes(r, b.inner)
	var have []rtnl.Route
	if stands {
		all, err := in.Routes(0)
		if err != nil {
			return err
		}
		for _, x := range all {
			if x.Protocol == rtnl.ProtoVnet {
				have = append(have, x)
			}
		}
	}
	for _, x := range want {
		same := slices.ContainsFunc(have, func(h rtnl.Route) bool { return sameRoute(x, h) })
		if same && !fewer {
			continue
		}
		if stands && !same {
			w.differ("route "+x.Dst.String(), "not by", x.Via, vnet.ImpactSome)
		}
		w.step(linux.Configure, func(context.Context) error { return in.SetRoute(x) })
	}
	for _, h := range have {
		if slices.ContainsFunc(want, func(x rtnl.Route) bool { return x.Dst == h.Dst }) {
			continue
		}
		w.differ("route "+h.Dst.String(), h.Via, "gone", vnet.ImpactSome)
		w.step(linux.Disconnect, func(context.Context) error { return in.DelRoute(h) })
	}
	return nil
}

// sameRoute compares devices too: a route keeps to its device when the subnet
// of its next hop moves to another.
func sameRoute(want, have rtnl.Route) bool {
	hops := func(r rtnl.Route) []rtnl.Hop {
		out := append([]rtnl.Hop{{Via: r.Via, Dev: r.Dev}}, r.More...)
		slices.SortFunc(out, func(a, b rtnl.Hop) int { return a.Via.Compare(b.Via) })
		return out
	}
	return want.Dst == have.Dst && slices.Equal(hops(want), hops(have))
}

// wantedRoutes are the default routes and the extra routes of r, those with one
// destination as one. dev names a port's device.
func wantedRoutes(r router.Router, dev func(portID string) string) (out []rtnl.Route) {
	if g := r.Gateway; g != nil {
		for _, hop := range g.NextHops {
			dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if hop.Is6() {
				dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			// A next hop outside the subnets is on the link all the same.
			onLink := !slices.ContainsFunc(g.Addresses, func(p netip.Prefix) bool { return p.Contains(hop) })
			out = append(out, rtnl.Route{Dst: dst, Via: hop, Dev: dev(g.PortID), OnLink: onLink || hop.IsLinkLocalUnicast()})
		}
	}
	for _, x := range r.Routes {
		hop := rtnl.Hop{Via: x.NextHop, Dev: deviceTo(r, x.NextHop, dev)}
		route := rtnl.Route{Dst: x.Destination, Via: hop.Via, Dev: hop.Dev}
		if i := slices.IndexFunc(out, func(o rtnl.Route) bool { return o.Dst == x.Destination }); i >= 0 {
			if x.Destination.Bits() == 0 && r.Gateway != nil && slices.Contains(r.Gateway.NextHops, out[i].Via) {
				out[i] = route // an extra default route wins over the gateway's
				continue
			}
			out[i].More = append(out[i].More, hop)
			continue
		}
		out = append(out, route)
	}
	return out
}

// deviceTo is the device whose subnet a next hop is in.
func deviceTo(r router.Router, hop netip.Addr, dev func(portID string) string) (name string) {
	best := -1
	for _, p := range ports(r, nil) {
		for _, a := range p.addrs {
			if a.Contains(hop) && a.Bits() > best {
				best, name = a.Bits(), dev(p.id)
			}
		}
	}
	return name
}

// goneSteps returns what removes a router with its ports.
func (b *Backend) goneSteps(ctx context.Context, id string) ([]linux.Step, error) {
	ns, stands, err := b.namespace(ctx, id)
	if err != nil || !stands {
		return nil, err
	}
	links, err := ns.RTNL().Links()
	if err != nil {
		return nil, err
	}
	w := b.work(vnet.Delete, "router", id)
	for _, l := range links { // else the kernel takes the pairs away some time later
		if l.Kind == "veth" {
			w.step(linux.LinkDel, func(context.Context) error { return ns.RTNL().DelLink(l.Name) })
		}
	}
	name := b.h.NetnsName(vnet.PartRouter, id)
	w.step(linux.LinkDel, func(ctx context.Context) error { return b.h.DeleteNamespace(ctx, name) })
	// What it translates goes with it, and is said all the same.
	was, err := b.standingNAT(ctx, id)
	if err != nil {
		return nil, err
	}
	var steps []linux.Step
	say := func(c vnet.Change, _ bool) {
		c.Where = b.h.Name()
		steps = append(steps, linux.Step{Phase: linux.LinkDel, Change: c})
	}
	for _, f := range values(was.forwards) {
		say(router.DiffPortForward(&f, nil))
	}
	for _, f := range values(was.fips) {
		say(router.DiffFloatingIP(&f, nil))
	}
	return append(steps, w.done()...), nil
}
