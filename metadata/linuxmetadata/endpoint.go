package linuxmetadata

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
)

const (
	proxyPort = 9697 // in routers, as Neutron's
	httpPort  = answer.Port
)

// table is this package's in a router's namespace and in its own ones.
func table() nft.Table { return answer.Table() }

// internalSet has a router's internal devices; idSet one element, whose
// comment is the endpoint's id, so that a new process knows it.
func internalSet() nft.Set {
	return nft.Set{Table: table(), Name: "internal", Key: []nft.Type{nft.TypeIfName}}
}

func idSet() nft.Set {
	return nft.Set{Table: table(), Name: "endpoint", Key: []nft.Type{nft.TypeMark}}
}

func idElement(id string) nft.Element {
	return nft.Element{Key: []any{crc32.ChecksumIEEE([]byte(id))}, Comment: id}
}

// In the host's bridge table: the MACs of endpoints on networks, and their
// devices.
func (b *Backend) macs() nft.Set {
	return nft.Set{Table: b.h.BridgeTable(), Name: "metadata-macs", Key: []nft.Type{nft.TypeMAC}}
}

func (b *Backend) devices() nft.Set {
	return nft.Set{Table: b.h.BridgeTable(), Name: "metadata-devices", Key: []nft.Type{nft.TypeIfName}}
}

func base(typ nft.ChainType, hook nft.HookPoint, prio int32) *nft.Hook {
	return &nft.Hook{Type: typ, Hook: hook, Priority: prio}
}

// routerTable declares the table of an endpoint in a router.
func routerTable(id string, devices []string) func(*nft.Tx) error {
	return func(tx *nft.Tx) error {
		t := table()
		var elems []nft.Element
		for _, d := range devices {
			elems = append(elems, nft.Key(d))
		}
		tx.Fill(internalSet(), elems...)
		tx.Fill(idSet(), idElement(id))
		inside := nft.IIfName.In(internalSet())
		tx.Chain(nft.Chain{Table: t, Name: "redirect", Base: base(nft.NAT, nft.Prerouting, -110), Rules: []nft.Rule{
			{inside, nft.IPDst.Eq(metadata.IPv4()), nft.TCPDPort.Eq(uint16(httpPort)), nft.Redirect(proxyPort)},
			{inside, nft.IP6Dst.Eq(metadata.IPv6()), nft.TCPDPort.Eq(uint16(httpPort)), nft.Redirect(proxyPort)},
			{inside, nft.IP6Dst.Eq(metadata.IPv6LinkLocal()), nft.TCPDPort.Eq(uint16(httpPort)), nft.Redirect(proxyPort)},
		}})
		tx.Chain(nft.Chain{Table: t, Name: "input", Base: base(nft.Filter, nft.Input, 0), Rules: []nft.Rule{
			{nft.TCPDPort.Eq(uint16(proxyPort)), inside, nft.CtStatus.Any(nft.StatusDNAT), nft.Accept()},
			{nft.TCPDPort.Eq(uint16(proxyPort)), nft.Counter(), nft.Drop()},
		}})
		tx.Chain(nft.Chain{Table: t, Name: "forward", Base: base(nft.Filter, nft.Forward, 0), Rules: []nft.Rule{
			{nft.IPDst.Eq(metadata.IPv4()), nft.Drop()},
			{nft.IP6Dst.Eq(metadata.IPv6()), nft.Drop()},
		}})
		return nil
	}
}

// guard declares the chains that keep an endpoint on a network to its host.
func (b *Backend) guard(tx *nft.Tx) {
	b.h.Base(tx)
	t := b.h.BridgeTable()
	tx.Set(b.macs())
	tx.Set(b.devices())
	tx.Chain(nft.Chain{Table: t, Name: "metadata-in", Base: base(nft.Filter, nft.Prerouting, linux.PriorityClassify+5), Rules: []nft.Rule{
		{nft.EtherSrc.In(b.macs()), nft.IIfName.NotIn(b.devices()), nft.Counter(), nft.Drop()},
	}})
	tx.Chain(nft.Chain{Table: t, Name: "metadata-out", Base: base(nft.Filter, nft.Forward, linux.PriorityForward+5), Rules: []nft.Rule{
		{nft.IIfName.In(b.devices()), nft.OIfName.NotIn(b.h.DevicesSet()), nft.Drop()},
	}})
}

func (b *Backend) guardAdd(mac vnet.MAC, dev string) func(*nft.Tx) error {
	return func(tx *nft.Tx) error {
		b.guard(tx)
		tx.Add(b.macs(), nft.Key(mac))
		tx.Add(b.devices(), nft.Key(dev))
		return nil
	}
}

// place is where an endpoint stands in the kernel.
type place struct{ id, router, network string }

func (b *Backend) outer(e string) string { return b.h.LinkName("m", e) } // on the bridge; by endpoint
func (b *Backend) inner(e string) string { return b.h.LinkName("e", e) } // in the namespace

// standing finds the endpoints in the kernel: namespaces of ours, and tables
// in the routers of this owner.
func (b *Backend) standing(ctx context.Context) ([]place, error) {
	var out []place
	ids, err := b.h.Namespaces(ctx, vnet.PartMetadata)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		p := place{id: id}
		if ns, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartMetadata, id)); err == nil {
			if l, err := ns.RTNL().Link(b.inner(id)); err == nil {
				_, _, p.network, _ = b.h.ParseAlias(l.Alias)
			}
		}
		out = append(out, p)
	}
	routers, err := b.h.Namespaces(ctx, vnet.PartRouter)
	if err != nil {
		return nil, err
	}
	for _, r := range routers {
		ns, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, r))
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		elems, err := ns.NFT().Elements(ctx, idSet())
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range elems {
			out = append(out, place{id: e.Comment, router: r})
		}
	}
	return out, nil
}

// work collects the steps and differences of one endpoint.
type work struct {
	c     vnet.Change
	steps []linux.Step
}

func (b *Backend) work(verb vnet.Verb, id string) *work {
	w := &work{c: vnet.Change{Verb: verb, Part: vnet.PartMetadata, Kind: "endpoint", ID: id, Impact: vnet.ImpactNone, Where: b.h.Name()}}
	switch verb {
	case vnet.Update:
		w.c.Impact = vnet.ImpactSome
	case vnet.Delete:
		w.c.Impact = vnet.ImpactObject
	}
	return w
}

func (w *work) do(p linux.Phase, do func(context.Context) error) {
	w.steps = append(w.steps, linux.Step{Phase: p, Do: do})
}

func (w *work) nft(p linux.Phase, ns *linux.Namespace, f func(*nft.Tx) error) {
	w.steps = append(w.steps, linux.Step{Phase: p, NS: ns, NFT: f})
}

func (w *work) differ(format string, args ...any) {
	w.c.Diff = append(w.c.Diff, fmt.Sprintf(format, args...))
}

func (w *work) done() []linux.Step {
	if len(w.steps) > 0 {
		w.steps[0].Change = w.c
	}
	return w.steps
}

// steps returns what has to be done for e to stand.
func (b *Backend) steps(ctx context.Context, e metadata.Endpoint, stand []place) ([]linux.Step, error) {
	w := b.work(vnet.Create, e.ID)
	for _, p := range stand {
		if p.id != e.ID {
			continue
		}
		w = b.work(vnet.Update, e.ID)
		if p.router != "" && p.router != e.RouterID {
			w.differ("router_id: %s -> %s", p.router, e.RouterID)
			if err := b.leaveRouter(ctx, w, p.router); err != nil {
				return nil, err
			}
		}
		if p.router == "" && e.NetworkID == "" {
			w.differ("network_id: %s -> ", p.network)
			b.leaveNetwork(ctx, w, e.ID)
		}
	}
	old, told := b.told(e.ID)
	wait := func(what, id string) []linux.Step {
		if !told || !old.Equal(e) {
			if told {
				w.c.Verb = vnet.Update
			}
			w.differ("waits for %s %s", what, id)
			w.do(linux.Configure, func(context.Context) error { return nil })
		}
		return w.done()
	}
	if e.RouterID != "" {
		ns, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, e.RouterID))
		if errors.Is(err, vnet.ErrNotFound) {
			return wait("router", e.RouterID), nil
		}
		if err != nil {
			return nil, err
		}
		err = b.routerSteps(ctx, w, ns, e)
		return w.done(), err
	}
	br, err := b.h.NS().RTNL().Link(b.h.NetworkDevice(e.NetworkID))
	if errors.Is(err, vnet.ErrNotFound) {
		return wait("network", e.NetworkID), nil
	}
	if err != nil {
		return nil, err
	}
	err = b.networkSteps(ctx, w, br, e)
	return w.done(), err
}

// internal returns a router's internal devices.
func (b *Backend) internal(ns *linux.Namespace) (names []string, ports map[int]string, err error) {
	links, err := ns.RTNL().Links()
	if err != nil {
		return nil, nil, err
	}
	ports = map[int]string{}
	for _, l := range links {
		if part, kind, id, ok := b.h.ParseAlias(l.Alias); ok && part == vnet.PartRouter && kind == "interface" {
			names = append(names, l.Name)
			ports[l.Index] = id
		}
	}
	slices.Sort(names)
	return names, ports, nil
}

func linkLocal() netip.Prefix { return netip.PrefixFrom(metadata.IPv6LinkLocal(), 128) }

func (b *Backend) routerSteps(ctx context.Context, w *work, ns *linux.Namespace, e metadata.Endpoint) error {
	devices, _, err := b.internal(ns)
	if err != nil {
		return err
	}
	for _, dev := range devices {
		addrs, err := ns.RTNL().Addrs(dev)
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix.Addr() == metadata.IPv6LinkLocal() }) {
			w.differ("address %s: new on %s", metadata.IPv6LinkLocal(), dev)
			w.do(linux.Configure, func(context.Context) error {
				return ns.RTNL().AddAddr(dev, rtnl.Addr{Prefix: linkLocal(), NoDAD: true})
			})
		}
	}
	declare := routerTable(e.ID, devices)
	diff, err := ns.NFT().Check(ctx, declare)
	if err != nil {
		return err
	}
	if len(diff) > 0 {
		w.c.Diff = append(w.c.Diff, diff...)
		w.nft(linux.Configure, ns, declare)
	}
	return nil
}

func (b *Backend) networkSteps(ctx context.Context, w *work, br rtnl.Link, e metadata.Endpoint) error {
	name := b.h.NetnsName(vnet.PartMetadata, e.ID)
	host, outer, inner := b.h.NS().RTNL(), b.outer(e.ID), b.inner(e.ID)
	ns, err := b.h.Namespace(ctx, name)
	stands := err == nil
	if errors.Is(err, vnet.ErrNotFound) {
		ns = b.h.NamespaceRef(name)
		w.steps = append(w.steps, linux.Step{Phase: linux.LinkAdd,
			Do:   func(ctx context.Context) error { _, err := b.h.CreateNamespace(ctx, name); return err },
			Undo: func(ctx context.Context) error { return b.h.DeleteNamespace(ctx, name) }})
		w.differ("new on network %s, %v", e.NetworkID, e.Addresses)
	} else if err != nil {
		return err
	}
	in := ns.RTNL()
	kvs := answer.Settings()
	if stands {
		if kvs, err = ns.Sysctl().Differ(answer.Settings()...); err != nil {
			return err
		}
	}
	if len(kvs) > 0 {
		w.do(linux.LinkAdd, func(context.Context) error { _, err := ns.Sysctl().Set(kvs...); return err })
	}
	o, err := link(host, outer)
	if err != nil {
		return err
	}
	alias := b.h.Alias(vnet.PartMetadata, "port", e.ID)
	if o != nil && o.Alias != "" && o.Alias != alias {
		return fmt.Errorf("device %s is %q: %w", outer, o.Alias, vnet.ErrConflict)
	}
	var l *rtnl.Link
	if stands {
		if l, err = link(in, inner); err != nil {
			return err
		}
	}
	if o != nil && l == nil {
		w.do(linux.LinkAdd, func(context.Context) error { return host.DelLink(outer) })
		o = nil
	}
	if l == nil {
		w.steps = append(w.steps, linux.Step{Phase: linux.LinkAdd,
			Do:   func(context.Context) error { return host.AddVeth(outer, inner, ns, vnet.MAC{}, e.MAC, br.MTU) },
			Undo: func(context.Context) error { return host.DelLink(outer) }})
	} else if l.MAC != e.MAC {
		w.differ("mac: %s -> %s", l.MAC, e.MAC)
		old := l.MAC
		w.do(linux.Configure, func(context.Context) error { return in.SetMAC(inner, e.MAC) })
		w.nft(linux.Configure, nil, func(tx *nft.Tx) error { b.guard(tx); tx.Remove(b.macs(), nft.Key(old)); return nil })
	}
	if o == nil || o.Alias != alias {
		w.do(linux.LinkAdd, func(context.Context) error { return host.SetAlias(outer, alias) })
		w.do(linux.LinkAdd, func(context.Context) error {
			_, err := b.h.NS().Sysctl().Set(sysctl.KV{Key: "net/ipv6/conf/" + outer + "/disable_ipv6", Value: "1"})
			return err
		})
	}
	if innerAlias := b.h.Alias(vnet.PartMetadata, "endpoint", e.NetworkID); l == nil || l.Alias != innerAlias {
		w.do(linux.LinkAdd, func(context.Context) error { return in.SetAlias(inner, innerAlias) })
	}
	if o == nil || o.Master != br.Index {
		if o != nil {
			w.differ("network: another -> %s", e.NetworkID)
		}
		w.do(linux.Connect, func(context.Context) error { return host.SetMaster(outer, br.Name) })
	}
	if l != nil && (l.MTU != br.MTU || o != nil && o.MTU != br.MTU) {
		w.differ("mtu: %d -> %d", l.MTU, br.MTU)
		w.do(linux.Connect, func(context.Context) error {
			return errors.Join(host.SetMTU(outer, br.MTU), in.SetMTU(inner, br.MTU))
		})
	}
	if l == nil || o == nil || !l.Up || !o.Up {
		w.do(linux.Connect, func(context.Context) error { return errors.Join(in.SetUp(inner), host.SetUp(outer)) })
	}
	if err := b.addresses(w, in, inner, l != nil, e); err != nil {
		return err
	}
	if err := b.replies(w, in, inner, l != nil); err != nil {
		return err
	}
	guard := b.guardAdd(e.MAC, outer)
	if diff, err := b.h.NS().NFT().Check(ctx, guard); err != nil {
		return err
	} else if len(diff) > 0 {
		w.nft(linux.FilterAdd, nil, guard)
	}
	if stands {
		diff, err := ns.NFT().Check(ctx, answer.Rules)
		if err != nil {
			return err
		}
		if len(diff) == 0 {
			return nil
		}
	}
	w.nft(linux.LinkAdd, ns, answer.Rules)
	return nil
}

func link(rt *rtnl.Conn, name string) (*rtnl.Link, error) {
	l, err := rt.Link(name)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// addresses of the device in an endpoint's namespace: the three of the
// service, a link-local one to speak from, and its own.
func (b *Backend) addresses(w *work, in *rtnl.Conn, dev string, stands bool, e metadata.Endpoint) error {
	want := answer.Addresses(e)
	have := map[netip.Prefix]bool{}
	if stands {
		addrs, err := in.Addrs(dev)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			have[a.Prefix] = true
		}
	}
	for _, p := range want {
		if !have[p] {
			if stands {
				w.differ("address %s: new", p)
			}
			w.do(linux.Configure, func(context.Context) error { return in.AddAddr(dev, rtnl.Addr{Prefix: p, NoDAD: true}) })
		}
		delete(have, p)
	}
	for p := range have {
		w.differ("address %s: gone", p)
		w.do(linux.Disconnect, func(context.Context) error { return in.DelAddr(dev, p) })
	}
	return nil
}

// replies go straight to the machine on the network, whatever subnet it is in.
func (b *Backend) replies(w *work, in *rtnl.Conn, dev string, stands bool) error {
	var have []rtnl.Route
	if stands {
		var err error
		if have, err = in.Routes(0); err != nil {
			return err
		}
	}
	for _, r := range answer.Routes(dev) {
		if slices.ContainsFunc(have, func(h rtnl.Route) bool { return h.Dst == r.Dst && h.Dev == dev && !h.Via.IsValid() }) {
			continue
		}
		if stands {
			w.differ("route %s: new", r.Dst)
		}
		w.do(linux.Configure, func(context.Context) error { return in.SetRoute(r) })
	}
	return nil
}

// goneSteps takes an endpoint away. Routers in keep get another endpoint in
// the same go, whose table takes the place of this one's.
func (b *Backend) goneSteps(ctx context.Context, id string, stand []place, keep map[string]bool) ([]linux.Step, error) {
	w := b.work(vnet.Delete, id)
	for _, p := range stand {
		switch {
		case p.id != id:
		case p.router == "":
			b.leaveNetwork(ctx, w, id)
		case keep[p.router]:
			w.do(linux.FilterDel, func(context.Context) error { return nil })
		default:
			if err := b.leaveRouter(ctx, w, p.router); err != nil {
				return nil, err
			}
		}
	}
	if _, told := b.told(id); told && len(w.steps) == 0 { // it was waited for
		w.do(linux.FilterDel, func(context.Context) error { return nil })
	}
	return w.done(), nil
}

func (b *Backend) leaveRouter(ctx context.Context, w *work, router string) error {
	ns, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, router))
	if errors.Is(err, vnet.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := ns.RTNL().Addrs("")
	if err != nil {
		return err
	}
	links, err := ns.RTNL().Links()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() != metadata.IPv6LinkLocal() {
			continue
		}
		for _, l := range links {
			if l.Index == a.Index {
				w.do(linux.Disconnect, func(context.Context) error { return ns.RTNL().DelAddr(l.Name, a.Prefix) })
			}
		}
	}
	w.nft(linux.FilterDel, ns, func(tx *nft.Tx) error { tx.DeleteTable(table()); return nil })
	return nil
}

func (b *Backend) leaveNetwork(ctx context.Context, w *work, id string) {
	outer, inner, name := b.outer(id), b.inner(id), b.h.NetnsName(vnet.PartMetadata, id)
	var mac vnet.MAC
	if ns, err := b.h.Namespace(ctx, name); err == nil {
		if l, err := ns.RTNL().Link(inner); err == nil {
			mac = l.MAC
		}
	}
	w.do(linux.LinkDel, func(context.Context) error { return b.h.NS().RTNL().DelLink(outer) })
	w.do(linux.LinkDel, func(ctx context.Context) error { return b.h.DeleteNamespace(ctx, name) })
	w.nft(linux.FilterDel, nil, func(tx *nft.Tx) error {
		b.guard(tx)
		if !mac.IsZero() {
			tx.Remove(b.macs(), nft.Key(mac))
		}
		tx.Remove(b.devices(), nft.Key(outer))
		return nil
	})
}

// Explain implements [metadata.Explainer], of kind "endpoint".
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	if kind != "endpoint" {
		return x, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "endpoint"`}
	}
	b.mu.Lock()
	stand, err := b.standing(ctx)
	b.mu.Unlock()
	if err != nil {
		return x, err
	}
	x.Text = fmt.Sprintf("endpoint %s on host %s", id, b.h.Name())
	for _, p := range stand {
		if p.id != id {
			continue
		}
		part, port, where, n := vnet.PartMetadata, httpPort, "network "+p.network, id
		if p.router != "" {
			part, port, where, n = vnet.PartRouter, proxyPort, "router "+p.router, p.router
		}
		ns, err := b.h.Namespace(ctx, b.h.NetnsName(part, n))
		if err != nil {
			return x, err
		}
		y := x.Add(fmt.Sprintf("at %s: namespace %s, TCP port %d", where, ns.Name(), port))
		if p.router != "" {
			devices, _, err := b.internal(ns)
			if err != nil {
				return x, err
			}
			y.Add(fmt.Sprintf("table %s: %s, %s and %s port %d from %s are redirected to port %d", table(), metadata.IPv4(), metadata.IPv6(), metadata.IPv6LinkLocal(), httpPort, strings.Join(devices, ", "), proxyPort))
		} else if l, err := ns.RTNL().Link(b.inner(id)); err == nil {
			d := y.Add(fmt.Sprintf("device %s, mac %s, mtu %d; %s on bridge %s", l.Name, l.MAC, l.MTU, b.outer(id), b.h.NetworkDevice(p.network)))
			addrs, err := ns.RTNL().Addrs(l.Name)
			if err != nil {
				return x, err
			}
			for _, a := range addrs {
				d.Add("address " + a.Prefix.String())
			}
		}
	}
	e, told := b.told(id)
	switch {
	case !told && len(x.Of) == 0:
		return vnet.Explanation{}, fmt.Errorf("endpoint %s: %w", id, vnet.ErrNotFound)
	case len(x.Of) == 0:
		x.Add(fmt.Sprintf("waits for router or network %s%s", e.RouterID, e.NetworkID))
	}
	b.emu.Lock()
	defer b.emu.Unlock()
	switch s := b.serving[id]; {
	case s == nil:
		x.Add("this process does not answer at it")
	case s.err != nil:
		x.Add("this process cannot answer at it: " + s.err.Error())
	case s.up:
		x.Add("this process answers at it")
	}
	return x, nil
}
