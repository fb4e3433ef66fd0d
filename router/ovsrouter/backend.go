package ovsrouter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
)

// Options of a [Backend]; nil will do.
type Options struct {
	// DistributedFloatingIPs has floating IPs that have a PortID and an
	// ExternalMAC, of routers whose gateway is on a physical network, translated on
	// the host of the port, where they have that MAC. It must be the same on all
	// hosts, and each that has such ports on the physical network. A port must be
	// known to package overlay when its floating IP is ensured; Sync
	// makes good what was too early.
	DistributedFloatingIPs bool
}

// Backend is a [router.Backend] for one host. What it knows is on the switch.
type Backend struct {
	t   ovs.Target
	sw  *ovs.Switch
	log *slog.Logger
	o   Options

	adverts  *advertiser
	announce *announcer

	book  book
	judge judge

	mu      sync.Mutex // held through every call that writes
	serving sync.Mutex // held by Serve
}

var (
	_ router.Backend   = (*Backend)(nil)
	_ router.Runner    = (*Backend)(nil)
	_ router.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	sw := t.Switch()
	b := &Backend{t: t, sw: sw, log: sw.Logger()}
	if o != nil {
		b.o = *o
	}
	b.adverts = newAdvertiser(b.log, b.send)
	b.announce = newAnnouncer(b.log, b.send)
	b.judge.self = sw.Name()
	return b, nil
}

// Features implements [router.Backend].
func (b *Backend) Features(context.Context) router.Features {
	return router.Features{RA: true, PortForward: true, IPv6: true, Distributed: true, ExtraRoutes: true, SharedGateIP: true}
}

// Health implements [router.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.sw.Health(ctx) }

// home reports whether a router is at home here, if at says where that is.
func (b *Backend) home(r router.Router, at *string) bool {
	if at != nil {
		return *at == b.sw.Name()
	}
	return r.Host == "" || r.Host == b.sw.Name()
}

// work is one submission in the making.
type work struct {
	b       *Backend
	tx      *ovs.Tx
	differs []vnet.Change // objects that are not as they should
	// before is where floating IPs were, by id, as [work.standing] saw it.
	before map[string]string
	homes  map[string]bool   // routers that were at home here, as well
	moved  map[string]string // routers that are to be at home elsewhere than they are
}

func (b *Backend) submit(ctx context.Context, f func(w *work) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.t.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error { return f(&work{b: b, tx: tx}) })
}

// networkRecord is what of package overlay's record of a network matters here.
type networkRecord struct {
	Segment struct {
		Type            string `json:"type"`
		PhysicalNetwork string `json:"physical_network"`
		ID              uint32 `json:"id"`
	} `json:"segment"`
}

const typeLocal = "local" // of a segment

// site is a router with its numbers.
func (w *work) site(r router.Router) (site, error) {
	physical := ""
	at, err := w.at(r)
	if err != nil {
		return site{}, err
	}
	s := site{at: at, end: w.b.endOf(at), standby: slices.Contains(candidates(r), w.b.sw.Name()), tunnels: map[string]tunnel{}, kernel: !w.b.sw.Userspace(), spread: w.b.o.DistributedFloatingIPs, has: w.has, r: r, number: w.tx.RouterNumber(r.ID), nets: map[string]uint16{}, wire: map[string]bool{}, apart: map[string]bool{}, home: w.b.home(r, at), cookie: w.b.sw.LearnCookie(vnet.PartRouter, kindRouter, r.ID)}
	for _, x := range sides(r) {
		s.nets[x.network] = w.tx.NetworkNumber(x.network)
		if b, ok := w.tx.Record(vnet.PartOverlay, "network", x.network); ok {
			n, err := read[networkRecord](b)
			if err != nil {
				return s, fmt.Errorf("network %s: its record: %w", x.network, err)
			}
			s.wire[x.network] = n.Segment.PhysicalNetwork != ""
			s.apart[x.network] = s.wire[x.network] || n.Segment.Type == typeLocal
			if s.end.IsValid() {
				if t, ok := w.tunnel(n); ok {
					s.tunnels[x.network] = t
				}
			}
			if x.gateway {
				physical = n.Segment.PhysicalNetwork
			}
		}
	}
	s.edge = s.spread && !s.home && physical != "" && firstIPv4(r.Gateway).IsValid() && w.b.sw.HasPhysical(physical)
	return s, w.tx.Err()
}

// has reports whether a port is on this host.
func (w *work) has(portID string) bool {
	_, ok := w.tx.Record(vnet.PartOverlay, "port", portID)
	return ok
}

// one reads an object's record.
func one[T any](w *work, kind, id string) (*T, error) {
	o, ok := w.tx.Get(kind, id)
	if !ok {
		return nil, nil
	}
	v, err := read[T](o.Record)
	if err != nil {
		return nil, fmt.Errorf("%s %s: its record: %w", kind, id, err)
	}
	return &v, nil
}

// every reads the records of a kind.
func every[T any](w *work, kind string) (out []T, err error) {
	for _, o := range w.tx.List(kind) {
		v, err := read[T](o.Record)
		if err != nil {
			return nil, fmt.Errorf("%s %s: its record: %w", kind, o.ID, err)
		}
		out = append(out, v)
	}
	return out, w.tx.Err()
}

// standing is the state that stands here.
func (w *work) standing() (st router.State, err error) {
	seats, err := every[seat](w, kindRouter)
	if err != nil {
		return st, err
	}
	w.homes = map[string]bool{}
	for _, s := range seats {
		st.Routers = append(st.Routers, s.Router)
		w.homes[s.ID] = w.b.home(s.Router, s.At)
	}
	fips, err := every[fip](w, kindFIP)
	if err != nil {
		return st, err
	}
	w.before = map[string]string{}
	for _, f := range fips {
		w.before[f.ID] = f.Here
		st.FloatingIPs = append(st.FloatingIPs, f.FloatingIP)
	}
	st.PortForwards, err = every[router.PortForward](w, kindForward)
	return st.Canonical(), err
}

// others are the routers of a state but one.
func others(st router.State, id string) []router.Router {
	return slices.DeleteFunc(slices.Clone(st.Routers), func(r router.Router) bool { return r.ID == id })
}

// partOf is the part of a state that is about one router.
func partOf(st router.State, id string) (out router.State) {
	for _, r := range st.Routers {
		if r.ID == id {
			out.Routers = append(out.Routers, r)
		}
	}
	for _, f := range st.FloatingIPs {
		if f.RouterID == id {
			out.FloatingIPs = append(out.FloatingIPs, f)
		}
	}
	for _, f := range st.PortForwards {
		if f.RouterID == id {
			out.PortForwards = append(out.PortForwards, f)
		}
	}
	return out
}

func (w *work) sites(st router.State) (map[string]site, error) {
	out := map[string]site{}
	for _, r := range st.Routers {
		s, err := w.site(r)
		if err != nil {
			return nil, fmt.Errorf("router %s: %w", r.ID, err)
		}
		out[r.ID] = s
	}
	return out, nil
}

// put keeps an object; what it tells of is the caller's kind of thing, or why
// another differs.
func (w *work) put(o object) {
	if verb, diff := w.tx.Keep(o.kind, o.id, o.record, o.flows...); verb != "" {
		w.differs = append(w.differs, vnet.Change{Verb: verb, Kind: o.kind, ID: o.id, Diff: diff})
	}
}

// tell adds the changes from was to want to the plan, and what differs besides
// though it should not: flows that somebody has changed.
func (w *work) tell(was, want router.State) {
	said := map[[2]string]bool{}
	changes := router.Diff(was, want)
	for _, c := range changes {
		c.Where = w.b.sw.Name()
		said[[2]string{c.Kind, c.ID}] = true
		w.tx.Change(c)
	}
	for _, c := range w.differs {
		switch {
		case said[[2]string{c.Kind, c.ID}]:
		case c.Kind == kindRouter, c.Kind == kindFIP, c.Kind == kindForward, len(changes) == 0:
			c.Where = w.b.sw.Name()
			w.tx.Change(c)
		}
	}
	w.differs = nil
}

// bring makes want of was, whose objects are stand. others are routers that
// stay as they are.
func (w *work) bring(was, want router.State, stand [][2]string, others []router.Router) error {
	sites, err := w.sites(want)
	if err != nil {
		return err
	}
	stays := map[[2]string]bool{}
	for _, o := range objects(want, sites) {
		stays[[2]string{o.kind, o.id}] = true
		w.put(o)
	}
	for _, k := range stand {
		if !stays[k] {
			w.tx.Drop(k[0], k[1])
		}
	}
	if len(want.Routers)+len(others) == 0 {
		w.tx.Drop(kindBase, kindBase)
	}
	w.tx.Probe(w.b.peers(append(slices.Clone(others), want.Routers...))...)
	used := map[string]bool{}
	for _, r := range append(slices.Clone(others), want.Routers...) {
		for _, x := range sides(r) {
			used[x.network] = true
		}
	}
	for _, r := range was.Routers {
		for _, x := range sides(r) {
			if !used[x.network] {
				w.tx.Release("network", x.network)
			}
		}
	}
	w.tell(was, want)
	w.after(was, want, sites)
	return w.tx.Err()
}

// names are the kinds and ids of the objects of a state.
func names(st router.State) (out [][2]string) {
	sites := map[string]site{}
	for _, r := range st.Routers {
		out = append(out, [2]string{kindRouter, r.ID})
		sites[r.ID] = site{r: r}
	}
	ext := map[string]bool{}
	for _, f := range st.FloatingIPs {
		out = append(out, [2]string{kindFIP, f.ID}, [2]string{kindFixed, fixedID(f.RouterID, f.FixedIP)})
		if s, ok := sites[f.RouterID]; ok && s.r.Gateway != nil {
			ext[externalID(s.r, f.FloatingIP)] = true
		}
	}
	for _, f := range st.PortForwards {
		out = append(out, [2]string{kindForward, f.ID})
		if s, ok := sites[f.RouterID]; ok && s.r.Gateway != nil {
			ext[externalID(s.r, f.ExternalIP)] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(ext)) {
		out = append(out, [2]string{kindExternal, id})
	}
	return out
}

// after is what follows once the flows stand: connections of what is no more
// end, what has come is announced, advertisements go on or cease.
func (w *work) after(was, want router.State, sites map[string]site) {
	b := w.b
	old := index(was.Routers, routerID)
	fresh := map[uint16]bool{} // numbers whose zones are emptied
	for id, s := range sites {
		if was := old[id]; was == nil || s.home != w.homes[id] || was.Gateway != nil && s.r.Gateway == nil {
			fresh[s.number] = true
		}
	}
	wanted := announcements(want, func(id string) bool { return sites[id].home }, func(f router.FloatingIP) string { return sites[f.RouterID].place(f) })
	olds := announcements(was, func(id string) bool { return w.homes[id] }, func(f router.FloatingIP) string { return w.before[f.ID] })
	news := maps.Clone(wanted)
	for k := range olds {
		delete(news, k)
	}
	quiet := map[said]bool{} // what is announced no more
	for k := range olds {
		if n, ok := w.tx.Known("network", k.network); ok && !wanted[k] {
			quiet[said{n, k.mac, k.addr}] = true
		}
	}
	tell := map[place][]netip.Addr{}
	for k := range news {
		tell[place{k.network, k.mac}] = append(tell[place{k.network, k.mac}], k.addr)
	}
	changed := len(router.Diff(was, want)) > 0
	w.tx.After(func(ctx context.Context) error {
		b.book.forget()
		var errs []error
		if changed && len(old) > 0 {
			errs = append(errs, b.sw.Settle(ctx)) // or connections that end might begin anew
		}
		for n := range fresh {
			d, s := pipeline.ZonesOfRouter(n)
			errs = append(errs, b.sw.FlushZone(ctx, d), b.sw.FlushZone(ctx, s))
		}
		for id, t := range translations(want) {
			if s := sites[id]; (s.home || s.edge) && !fresh[s.number] {
				errs = append(errs, b.forget(ctx, s.number, func(c conn, dnat bool) bool { return !t.carries(c, dnat) }))
			}
		}
		for id := range old {
			if _, stays := sites[id]; !stays {
				b.adverts.set(id, nil)
			}
		}
		for id, s := range sites {
			b.adverts.set(id, s.adverts())
		}
		b.announce.forget(quiet)
		for k, addrs := range tell {
			for _, s := range sites {
				if n, ok := s.nets[k.network]; ok {
					b.announce.announce(n, k.mac, addrs...)
					break
				}
			}
		}
		return errors.Join(errs...)
	})
}

// place is where an address is said to be.
type place struct {
	network string
	mac     vnet.MAC
}

type announced struct {
	network string
	mac     vnet.MAC
	addr    netip.Addr
}

// announcements are all that the routers of a state are known by from here.
func announcements(st router.State, home func(routerID string) bool, place func(router.FloatingIP) string) map[announced]bool {
	out := map[announced]bool{}
	gateways := map[string]*router.Gateway{}
	for _, r := range st.Routers {
		if r.AdminDown {
			continue
		}
		gateways[r.ID] = r.Gateway
		if !home(r.ID) {
			continue
		}
		for _, x := range sides(r) {
			for _, p := range x.addrs {
				out[announced{x.network, x.mac, p.Addr()}] = true
			}
		}
	}
	for _, f := range st.FloatingIPs {
		if g := gateways[f.RouterID]; g != nil {
			switch place(f) {
			case atHome:
				out[announced{g.NetworkID, g.MAC, f.FloatingIP}] = true
			case atEdge:
				out[announced{g.NetworkID, f.ExternalMAC, f.FloatingIP}] = true
			}
		}
	}
	for _, f := range st.PortForwards {
		if g := gateways[f.RouterID]; g != nil && home(f.RouterID) {
			out[announced{g.NetworkID, g.MAC, f.ExternalIP}] = true
		}
	}
	return out
}

// EnsureRouter implements [router.Backend].
func (b *Backend) EnsureRouter(ctx context.Context, r router.Router) error {
	if err := b.checkHosts(r); err != nil {
		return err
	}
	return b.submit(ctx, func(w *work) error {
		all, err := w.standing()
		if err != nil {
			return err
		}
		was := partOf(all, r.ID)
		want := router.State{Routers: []router.Router{r}}
		s, err := w.site(r)
		if err != nil {
			return err
		}
		if s.home || s.standby || s.edge {
			want = local(router.State{Routers: []router.Router{r}, FloatingIPs: was.FloatingIPs, PortForwards: was.PortForwards}, map[string]site{r.ID: s})
			for _, f := range was.FloatingIPs {
				if r.Gateway == nil {
					return fmt.Errorf("gateway: floating IP %s is on it: %w", f.ID, vnet.ErrInUse)
				}
				if err := r.CheckFloatingIP(f); err != nil {
					return fmt.Errorf("floating IP %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
			for _, f := range was.PortForwards {
				if r.Gateway == nil {
					return fmt.Errorf("gateway: port forward %s is on it: %w", f.ID, vnet.ErrInUse)
				}
				if err := r.CheckPortForward(f); err != nil {
					return fmt.Errorf("port forward %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
		}
		return w.bring(was, want, names(was), others(all, r.ID))
	})
}

// DeleteRouter implements [router.Backend].
func (b *Backend) DeleteRouter(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *work) error {
		all, err := w.standing()
		if err != nil {
			return err
		}
		was := partOf(all, id)
		switch {
		case len(was.FloatingIPs) > 0:
			return fmt.Errorf("floating IP %s is on it: %w", was.FloatingIPs[0].ID, vnet.ErrInUse)
		case len(was.PortForwards) > 0:
			return fmt.Errorf("port forward %s is on it: %w", was.PortForwards[0].ID, vnet.ErrInUse)
		case len(was.Routers) == 0:
			return nil
		}
		return w.bring(was, router.State{}, names(was), others(all, id))
	})
}

// holder is the router that a floating IP or port forward is to be on. Not ok
// without an error: it is another host's.
func (w *work) holder(id string) (s site, ok bool, err error) {
	r, err := one[router.Router](w, kindRouter, id)
	switch {
	case err != nil:
		return s, false, err
	case r == nil:
		return s, false, fmt.Errorf("router %s: %w", id, vnet.ErrNotFound)
	case r.Gateway == nil && w.b.home(*r, nil):
		return s, false, fmt.Errorf("router %s has no gateway: %w", id, vnet.ErrConflict)
	}
	s, err = w.site(*r)
	return s, err == nil && (s.home || s.standby), err
}

// EnsureFloatingIP implements [router.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	if !b.o.DistributedFloatingIPs {
		f = bare(f)
	}
	return b.submit(ctx, func(w *work) error {
		s, _, err := w.holder(f.RouterID)
		if err != nil {
			return err
		}
		old, err := one[fip](w, kindFIP, f.ID)
		if err != nil {
			return err
		}
		at := s.place(f)
		if at == nowhere {
			if err := w.refused(s, f); err != nil {
				return err
			}
			return w.dropFIP(old, nil)
		}
		if err := s.r.CheckFloatingIP(f); err != nil {
			return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
		}
		ext, err := one[external](w, kindExternal, externalID(s.r, f.FloatingIP))
		if err != nil {
			return err
		}
		fixed, err := one[string](w, kindFixed, fixedID(f.RouterID, f.FixedIP))
		if err != nil {
			return err
		}
		if fixed == nil {
			fixed = new(string)
		}
		if err := clashFIP(f, ext, *fixed); err != nil {
			return err
		}
		if at == elsewhere {
			all, err := every[router.PortForward](w, kindForward)
			if err != nil {
				return err
			}
			for _, p := range all {
				if err := apart(f, p); err != nil {
					return err
				}
			}
		}
		objs := s.floating(f)
		for _, o := range objs {
			w.put(o)
		}
		want := router.State{FloatingIPs: []router.FloatingIP{f}}
		if old != nil && bare(old.FloatingIP) == bare(f) && old.Here == at && (at != atEdge || old.ExternalMAC == f.ExternalMAC) {
			w.tell(router.State{FloatingIPs: []router.FloatingIP{old.FloatingIP}}, want)
			return nil
		}
		if err := w.dropFIP(old, objs); err != nil {
			return err
		}
		w.tell(state(old, nil), want)
		mac := s.r.Gateway.MAC
		if at == atEdge {
			mac = f.ExternalMAC
		}
		w.touched(s, f.FloatingIP, touches(f.FloatingIP, 0, 0, 0), at != elsewhere && at != standby && (ext == nil || old == nil || old.Here != at || old.ExternalMAC != f.ExternalMAC), mac)
		return nil
	})
}

// refused is why a floating IP cannot be on this host, that of its port; nil
// where it is not meant to be.
func (w *work) refused(s site, f router.FloatingIP) error {
	if s.spread && !s.home && !s.edge && s.r.Gateway != nil && s.wire[s.r.Gateway.NetworkID] && f.PortID != "" && !f.ExternalMAC.IsZero() && w.has(f.PortID) {
		return &vnet.UnsupportedError{Feature: fmt.Sprintf("floating IP %s on host %s, that of port %s", f.ID, w.b.sw.Name(), f.PortID), Backend: "ovsrouter",
			Need: "the physical network of " + s.r.Gateway.NetworkID + " on this host"}
	}
	return nil
}

// touched ends connections, and announces an address, when all stands.
func (w *work) touched(s site, a netip.Addr, match func(c conn, dnat bool) bool, fresh bool, mac vnet.MAC) {
	b := w.b
	w.tx.After(func(ctx context.Context) error {
		if fresh && !s.r.AdminDown {
			b.announce.announce(s.nets[s.r.Gateway.NetworkID], mac, a)
		}
		if err := b.sw.Settle(ctx); err != nil { // or connections that end might begin anew
			return err
		}
		return b.forget(ctx, s.number, match)
	})
}

// dropFIP removes what a floating IP was, but for what it is now.
func (w *work) dropFIP(old *fip, now []object) error {
	if old == nil {
		return nil
	}
	r, err := one[router.Router](w, kindRouter, old.RouterID)
	if err != nil {
		return err
	}
	was := router.State{FloatingIPs: []router.FloatingIP{old.FloatingIP}}
	if r != nil {
		was.Routers = []router.Router{*r}
	}
	for _, k := range names(was) {
		if k[0] != kindRouter && !slices.ContainsFunc(now, func(o object) bool { return o.kind == k[0] && o.id == k[1] }) {
			w.tx.Drop(k[0], k[1])
		}
	}
	if now == nil {
		w.tell(state(old, nil), router.State{})
	}
	if r == nil || r.Gateway == nil {
		return nil
	}
	s, err := w.site(*r)
	if err != nil {
		return err
	}
	w.touched(s, old.FloatingIP.FloatingIP, touches(old.FloatingIP.FloatingIP, 0, 0, 0), false, vnet.MAC{})
	return nil
}

// state is one of a floating IP or a port forward alone, if there is one.
func state(f *fip, p *router.PortForward) (st router.State) {
	if f != nil {
		st.FloatingIPs = append(st.FloatingIPs, f.FloatingIP)
	}
	if p != nil {
		st.PortForwards = append(st.PortForwards, *p)
	}
	return st
}

// DeleteFloatingIP implements [router.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *work) error {
		old, err := one[fip](w, kindFIP, id)
		if err != nil {
			return err
		}
		return w.dropFIP(old, nil)
	})
}

// EnsurePortForward implements [router.Backend].
func (b *Backend) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	f = f.Canonical()
	return b.submit(ctx, func(w *work) error {
		s, here, err := w.holder(f.RouterID)
		if err != nil {
			return err
		}
		old, err := one[router.PortForward](w, kindForward, f.ID)
		if err != nil {
			return err
		}
		if !here {
			w.tell(state(nil, old), router.State{})
			return w.dropForward(old)
		}
		if err := s.r.CheckPortForward(f); err != nil {
			return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
		}
		all, err := every[router.PortForward](w, kindForward)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.ID != f.ID && o.RouterID == f.RouterID && o.Overlaps(f) {
				return fmt.Errorf("port forward %s is on %s ports %d-%d of %s: %w", o.ID, o.Protocol, o.ExternalPort.First, o.ExternalPort.Last, o.ExternalIP, vnet.ErrConflict)
			}
		}
		ext, err := one[external](w, kindExternal, externalID(s.r, f.ExternalIP))
		if err != nil {
			return err
		}
		if id, err := one[string](w, kindFixed, fixedID(f.RouterID, f.InternalIP)); err != nil {
			return err
		} else if id != nil {
			if x, err := one[fip](w, kindFIP, *id); err != nil {
				return err
			} else if x != nil && x.Here == elsewhere {
				return apart(x.FloatingIP, f)
			}
		}
		if ext != nil && ext.FIP != "" {
			return fmt.Errorf("%s is floating IP %s: %w", f.ExternalIP, ext.FIP, vnet.ErrConflict)
		}
		w.tell(state(nil, old), state(nil, &f))
		if old != nil && old.Equal(f) {
			w.put(s.forward(f))
			err := w.share(s, f.ExternalIP, 0)
			w.tell(state(nil, old), state(nil, old))
			return err
		}
		if err := w.dropForward(old); err != nil {
			return err
		}
		w.put(s.forward(f))
		if err := w.share(s, f.ExternalIP, 1); err != nil {
			return err
		}
		w.touched(s, f.ExternalIP, touches(f.ExternalIP, protocol(f.Protocol), f.ExternalPort.First, f.ExternalPort.Last), s.home && ext == nil && !ownGateway(s.r, f.ExternalIP), s.r.Gateway.MAC)
		return nil
	})
}

// share counts the forwards on an external address that is not the gateway's own.
func (w *work) share(s site, a netip.Addr, more int) error {
	if ownGateway(s.r, a) {
		return nil
	}
	x, err := one[external](w, kindExternal, externalID(s.r, a))
	if err != nil {
		return err
	}
	if x == nil {
		x = &external{Router: s.r.ID}
	}
	x.Forwards += more
	if x.Forwards <= 0 {
		w.tx.Drop(kindExternal, externalID(s.r, a))
		return nil
	}
	w.put(s.externalObject(a, *x))
	return nil
}

func (w *work) dropForward(old *router.PortForward) error {
	if old == nil {
		return nil
	}
	w.tx.Drop(kindForward, old.ID)
	r, err := one[router.Router](w, kindRouter, old.RouterID)
	if err != nil || r == nil || r.Gateway == nil {
		return err
	}
	s, err := w.site(*r)
	if err != nil {
		return err
	}
	w.touched(s, old.ExternalIP, touches(old.ExternalIP, protocol(old.Protocol), old.ExternalPort.First, old.ExternalPort.Last), false, vnet.MAC{})
	return w.share(s, old.ExternalIP, -1)
}

// DeletePortForward implements [router.Backend].
func (b *Backend) DeletePortForward(ctx context.Context, id string) error {
	return b.submit(ctx, func(w *work) error {
		old, err := one[router.PortForward](w, kindForward, id)
		if err != nil {
			return err
		}
		w.tell(state(nil, old), router.State{})
		return w.dropForward(old)
	})
}

// Sync implements [router.Backend].
func (b *Backend) Sync(ctx context.Context, s router.State, o vnet.SyncOptions) error {
	return b.submit(ctx, func(w *work) error { return w.sync(s, &o) })
}

// Plan implements [router.Backend].
func (b *Backend) Plan(ctx context.Context, s router.State) (vnet.Plan, error) {
	return b.t.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error { return (&work{b: b, tx: tx}).sync(s, nil) })
}

func (w *work) sync(s router.State, o *vnet.SyncOptions) error {
	for i, r := range s.Routers {
		if err := w.b.checkHosts(r); err != nil {
			return vnet.In(fmt.Sprintf("routers[%d]", i), err)
		}
	}
	w.tx.All() // with flows, as they are compared
	was, err := w.standing()
	if err != nil {
		return err
	}
	sites, err := w.sites(s)
	if err != nil {
		return err
	}
	want := local(s, sites)
	for _, f := range s.FloatingIPs {
		if err := w.refused(sites[f.RouterID], f); err != nil {
			return err
		}
		if sites[f.RouterID].place(f) == elsewhere {
			for _, p := range s.PortForwards {
				if err := apart(f, p); err != nil {
					return err
				}
			}
		}
	}
	if o != nil {
		if err := o.Check(vnet.Plan{Changes: router.Diff(was, want)}, len(was.Routers)+len(was.FloatingIPs)+len(was.PortForwards)); err != nil {
			return err
		}
	}
	var stand [][2]string
	for _, o := range w.tx.All() {
		stand = append(stand, [2]string{o.Kind, o.ID})
	}
	return w.bring(was, want, stand, nil)
}

// send says a frame.
func (b *Backend) send(ctx context.Context, o *out) error {
	return b.sw.Inject(ctx, o.regs, o.frame, of.Goto(o.table))
}

// forget ends the connections of a router that match.
func (b *Backend) forget(ctx context.Context, number uint16, match func(c conn, dnat bool) bool) error {
	dnat, snat := pipeline.ZonesOfRouter(number)
	var gone []ovs.Connection
	for _, zone := range []uint16{dnat, snat} {
		all, err := b.sw.Connections(ctx, zone)
		if err != nil {
			return fmt.Errorf("connections of zone %d: %w", zone, err)
		}
		for _, c := range all {
			if match(connOf(c), zone == dnat) {
				gone = append(gone, c)
			}
		}
	}
	return b.sw.Forget(ctx, gone...)
}

func connOf(c ovs.Connection) conn {
	ap := netip.AddrPortFrom
	return conn{c.Proto, ap(c.Orig.Src, c.Orig.SrcPort), ap(c.Orig.Dst, c.Orig.DstPort), ap(c.Reply.Src, c.Reply.SrcPort), ap(c.Reply.Dst, c.Reply.DstPort)}
}
