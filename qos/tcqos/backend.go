package tcqos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/qos"
)

// Options of a [Backend]. The zero value and nil are the same.
type Options struct {
	// Police limits what ports send by a policer, which lets nothing wait, also
	// where the kernel has ifb devices. It needs the kernel modules cls_matchall
	// and act_police.
	Police bool
}

// Backend is a [qos.Backend] on one host.
type Backend struct {
	t linux.Target
	h *linux.Host

	police bool
	kernel kernel

	mu sync.Mutex // one change at a time
}

var (
	_ qos.Backend   = (*Backend)(nil)
	_ qos.Explainer = (*Backend)(nil)
	_ qos.Runner    = (*Backend)(nil)
)

// New returns a backend that writes through t. It is asked from then on for
// what is plugged and made by the host's handle.
func New(t linux.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, h: t.Host()}
	k, err := probe()
	if err != nil {
		return nil, fmt.Errorf("tcqos: trying what the kernel has: %w", err)
	}
	b.kernel = k
	b.police = o != nil && o.Police || !k.ifb
	if b.police && !k.police {
		if o != nil && o.Police {
			return nil, &vnet.UnsupportedError{Feature: "policing", Backend: "tcqos", Need: needPolice}
		}
		b.police = false
	}
	if _, batch := t.(*linux.Batch); !batch {
		b.h.Follow(linux.Follower{Part: vnet.PartQoS, Plugged: b.plugged, Unplugged: b.unplugged, Made: b.made})
	}
	return b, nil
}

const (
	needIfb    = "kernel modules ifb and act_mirred, or cls_matchall and act_police"
	needPolice = "kernel modules cls_matchall and act_police"
	needTBF    = "kernel module sch_tbf"
	needHTB    = "kernel module sch_htb"
)

// kernel is what the running kernel has, found by trying.
type kernel struct{ tbf, htb, ifb, police bool }

// probe tries in a namespace of its own, which is gone afterwards.
func probe() (k kernel, err error) {
	ns, err := netns.New()
	if err != nil {
		return k, err
	}
	defer ns.Close()
	l := rtnl.Open(ns)
	defer l.Close()
	if err := l.AddVeth("v0", "v1", nil, vnet.MAC{}, vnet.MAC{}, 0); err != nil {
		return k, err
	}
	try := rtnl.TBF{Rate: 1_000_000, Burst: 10_000, Queue: 10_000}
	k.tbf = l.SetTBF("v0", linux.LimitMajor, try) == nil
	k.htb = l.SetHTB("v1", minorDefault) == nil
	k.ifb = k.tbf && l.AddLink(&rtnl.Ifb{LinkAttrs: rtnl.LinkAttrs{Name: "q0"}}) == nil && l.SetIntake("v0", rtnl.Intake{Redirect: "q0"}) == nil
	k.police = l.SetIntake("v1", rtnl.Intake{Police: try}) == nil
	return k, nil
}

// records are all objects that stand.
func (b *Backend) records(ctx context.Context) (map[string]entry, error) {
	elems, err := b.h.NS().NFT().Elements(ctx, recordSet(b.h))
	if errors.Is(err, vnet.ErrNotFound) {
		return map[string]entry{}, nil
	}
	if err != nil {
		return nil, err
	}
	return read(elems)
}

// record is one object that stands.
func (b *Backend) record(ctx context.Context, key string) (entry, bool, error) {
	elems, err := b.h.NS().NFT().Elements(ctx, recordSet(b.h))
	if errors.Is(err, vnet.ErrNotFound) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, err
	}
	who := keyHash(key)
	all, err := read(slices.DeleteFunc(elems, func(e nft.Element) bool { return [8]byte(e.Key[0].(addr).AsSlice()[:8]) != who }))
	e, ok := all[key]
	return e, ok, err
}

// write declares an object's record in place of what it was.
func (b *Backend) write(tx *nft.Tx, key string, e *entry) error {
	base(b.h, tx)
	set, who := recordSet(b.h), keyHash(key)
	var want []nft.Element
	if e != nil {
		var err error
		if want, err = e.elements(); err != nil {
			return err
		}
	}
	for _, x := range tx.Elements(set) {
		if [8]byte(x.Key[0].(addr).AsSlice()[:8]) == who && !slices.ContainsFunc(want, func(w nft.Element) bool { return w.Key[0] == x.Key[0] }) {
			tx.Remove(set, x)
		}
	}
	tx.Add(set, want...)
	return nil
}

// do submits what f finds to do for one object.
func (b *Backend) do(ctx context.Context, f func() ([]linux.Step, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, err := f()
	if err != nil {
		return err
	}
	return b.t.Submit(ctx, steps...)
}

// EnsurePort implements [qos.Backend].
func (b *Backend) EnsurePort(ctx context.Context, p qos.Port) error {
	if p.Shape.Zero() || !b.h.Local(p.Host) {
		return b.DeletePort(ctx, p.ID)
	}
	return b.do(ctx, func() ([]linux.Step, error) {
		was, _, err := b.record(ctx, "port "+p.ID)
		if err == nil && p.Uplink != "" {
			var all map[string]entry
			if all, err = b.records(ctx); err == nil {
				all["port "+p.ID] = entry{Port: &p}
				err = qos.CheckGuarantees(state(all))
			}
		}
		if err != nil {
			return nil, err
		}
		return b.portSteps(ctx, was.Port, &p)
	})
}

// DeletePort implements [qos.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.do(ctx, func() ([]linux.Step, error) {
		e, ok, err := b.record(ctx, "port "+id)
		if err != nil || !ok {
			return nil, err
		}
		return b.portSteps(ctx, e.Port, nil)
	})
}

// portSteps take a port from was to p, either of which may be nil.
func (b *Backend) portSteps(ctx context.Context, was, p *qos.Port) ([]linux.Step, error) {
	c, differs := qos.DiffPort(was, p)
	if p == nil {
		return b.portGoes(ctx, c, *was)
	}
	if !differs {
		d, err := b.drift(ctx, *p)
		if err != nil || d == "" {
			return nil, err
		}
		c.Diff = append(c.Diff, d)
	}
	index, claim, err := b.h.Ports().Claim(ctx, vnet.PartQoS, p.ID)
	if err != nil {
		return nil, err
	}
	if p.Uplink != "" && index >= minorDefault {
		return nil, fmt.Errorf("port %s has index %d, and only those below %d can have a guarantee: %w", p.ID, index, minorDefault, vnet.ErrConflict)
	}
	steps := []linux.Step{{Change: c, Phase: linux.FilterAdd, NFT: func(tx *nft.Tx) error {
		declarePort(b.h, tx, *p, index)
		return b.write(tx, "port "+p.ID, &entry{Port: p})
	}}}
	steps = append(steps, claim...)
	if p.Egress.Kbps > 0 && !b.police {
		steps = append(steps, linux.Step{Phase: linux.LinkAdd, Do: func(context.Context) error { return b.ensureIfb(*p) }})
	}
	steps = append(steps, linux.Step{Phase: linux.Configure, Do: func(ctx context.Context) error {
		dev, _, err := b.h.PortDevice(ctx, p.ID)
		if errors.Is(err, vnet.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return b.shapeDevice(*p, dev)
	}})
	if p.Egress.Kbps == 0 && was != nil && was.Egress.Kbps > 0 {
		steps = append(steps, linux.Step{Phase: linux.LinkDel, Do: func(context.Context) error { return b.h.NS().RTNL().DelLink(b.ifb(p.ID)) }})
	}
	for _, u := range uplinksOf(was, p) {
		steps = append(steps, b.uplinkStep(u))
	}
	return steps, nil
}

func uplinksOf(was, p *qos.Port) (out []string) {
	for _, x := range []*qos.Port{was, p} {
		if x != nil && x.Uplink != "" && !slices.Contains(out, x.Uplink) {
			out = append(out, x.Uplink)
		}
	}
	return out
}

// portGoes takes all from a port.
func (b *Backend) portGoes(ctx context.Context, c vnet.Change, was qos.Port) ([]linux.Step, error) {
	e, err := b.h.Ports().Get(ctx, was.ID)
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return nil, err
	}
	release, err := b.h.Ports().Release(ctx, vnet.PartQoS, was.ID)
	if err != nil {
		return nil, err
	}
	steps := []linux.Step{
		{Change: c, Phase: linux.Disconnect, Do: func(ctx context.Context) error {
			dev, _, err := b.h.PortDevice(ctx, was.ID)
			if errors.Is(err, vnet.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return b.shapeDevice(qos.Port{ID: was.ID}, dev)
		}},
		{Phase: linux.LinkDel, Do: func(context.Context) error { return b.h.NS().RTNL().DelLink(b.ifb(was.ID)) }},
		{Phase: linux.FilterDel, NFT: func(tx *nft.Tx) error {
			if e.Index > 0 {
				declarePort(b.h, tx, qos.Port{ID: was.ID}, e.Index)
			}
			return b.write(tx, "port "+was.ID, nil)
		}},
	}
	if was.Uplink != "" {
		steps = append(steps, linux.Step{Phase: linux.LinkDel, Do: func(ctx context.Context) error { return b.reshape(ctx, was.Uplink, was.ID) }})
	}
	return append(steps, release...), nil
}

// uplinkStep makes an uplink's device what the records say.
func (b *Backend) uplinkStep(name string) linux.Step {
	return linux.Step{Phase: linux.Configure, Do: func(ctx context.Context) error { return b.reshape(ctx, name, "") }}
}

// reshape does it; a port that is going is left out.
func (b *Backend) reshape(ctx context.Context, name, without string) error {
	all, err := b.records(ctx)
	if err != nil {
		return err
	}
	delete(all, "port "+without)
	u := all["uplink "+name].Uplink
	if u == nil {
		return nil
	}
	index, err := b.indices(ctx, state(all), name)
	if err != nil {
		return err
	}
	return b.shapeUplink(*u, state(all), index)
}

// indices are those of the ports on an uplink.
func (b *Backend) indices(ctx context.Context, s qos.State, uplink string) (func(string) uint32, error) {
	m := map[string]uint32{}
	for _, p := range s.Ports {
		if p.Uplink != uplink {
			continue
		}
		e, err := b.h.Ports().Get(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		m[p.ID] = e.Index
	}
	return func(id string) uint32 { return m[id] }, nil
}

// EnsureUplink implements [qos.Backend].
func (b *Backend) EnsureUplink(ctx context.Context, u qos.Uplink) error {
	if !b.h.Local(u.Host) {
		return nil
	}
	return b.do(ctx, func() ([]linux.Step, error) {
		all, err := b.records(ctx)
		if err != nil {
			return nil, err
		}
		was := all["uplink "+u.Name].Uplink
		all["uplink "+u.Name] = entry{Uplink: &u}
		if err := qos.CheckGuarantees(state(all)); err != nil {
			return nil, err
		}
		return b.uplinkSteps(ctx, was, &u, state(all))
	})
}

// DeleteUplink implements [qos.Backend].
func (b *Backend) DeleteUplink(ctx context.Context, name string) error {
	return b.do(ctx, func() ([]linux.Step, error) {
		all, err := b.records(ctx)
		if err != nil {
			return nil, err
		}
		was := all["uplink "+name].Uplink
		if was == nil {
			return nil, nil
		}
		for _, p := range state(all).Ports {
			if p.Uplink == name {
				return nil, fmt.Errorf("port %s has a guarantee on uplink %s: %w", p.ID, name, vnet.ErrInUse)
			}
		}
		return b.uplinkSteps(ctx, was, nil, qos.State{})
	})
}

// uplinkSteps take an uplink from was to u; s is what stands.
func (b *Backend) uplinkSteps(ctx context.Context, was, u *qos.Uplink, s qos.State) ([]linux.Step, error) {
	c, differs := qos.DiffUplink(was, u)
	set := b.h.UplinksSet()
	if u == nil {
		dev, err := b.uplinkDevice(was.Name)
		if err != nil && !errors.Is(err, vnet.ErrNotFound) {
			return nil, err
		}
		steps := []linux.Step{{Change: c, Phase: linux.FilterDel, NFT: func(tx *nft.Tx) error {
			if dev != "" {
				tx.Remove(set, nft.Key(dev))
			}
			return b.write(tx, "uplink "+was.Name, nil)
		}}}
		if dev != "" {
			steps = append(steps, linux.Step{Phase: linux.Disconnect, Do: func(context.Context) error { return b.h.NS().RTNL().DelRoot(dev) }})
		}
		return steps, nil
	}
	dev, err := b.uplinkDevice(u.Name)
	if err != nil {
		return nil, err
	}
	if was == nil {
		q, err := b.h.NS().RTNL().Root(dev)
		if err != nil {
			return nil, err
		}
		_, ours, err := b.h.NS().NFT().Lookup(ctx, set, dev)
		if err != nil && !errors.Is(err, vnet.ErrNotFound) {
			return nil, err
		}
		if q.Major != 0 && !ours {
			return nil, fmt.Errorf("uplink %s: device %s has a root qdisc %s %x: of somebody else: %w", u.Name, dev, q.Kind, q.Major, vnet.ErrConflict)
		}
	}
	if !differs {
		index, err := b.indices(ctx, s, u.Name)
		if err != nil {
			return nil, err
		}
		d, err := b.uplinkDrift(*u, s, index)
		if err != nil || d == "" {
			return nil, err
		}
		c.Diff = append(c.Diff, d)
	}
	return []linux.Step{
		{Change: c, Phase: linux.FilterAdd, NFT: func(tx *nft.Tx) error {
			base(b.h, tx)
			tx.Add(set, nft.Key(dev))
			return b.write(tx, "uplink "+u.Name, &entry{Uplink: u})
		}},
		b.uplinkStep(u.Name),
	}, nil
}

// EnsureGateway implements [qos.Backend].
func (b *Backend) EnsureGateway(ctx context.Context, g qos.Gateway) error {
	if g.Shape.Zero() || !b.h.Local(g.Host) {
		return b.DeleteGateway(ctx, g.RouterID)
	}
	return b.bound(ctx, entry{Gateway: &g})
}

// DeleteGateway implements [qos.Backend].
func (b *Backend) DeleteGateway(ctx context.Context, routerID string) error {
	return b.unbound(ctx, "gateway "+routerID)
}

// EnsureFloatingIP implements [qos.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f qos.FloatingIP) error {
	if f.Shape.Zero() || !b.h.Local(f.Host) {
		return b.DeleteFloatingIP(ctx, f.ID)
	}
	return b.bound(ctx, entry{FloatingIP: &f})
}

// DeleteFloatingIP implements [qos.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.unbound(ctx, "floatingip "+id)
}

func (b *Backend) bound(ctx context.Context, e entry) error {
	return b.do(ctx, func() ([]linux.Step, error) {
		was, _, err := b.record(ctx, e.key())
		if err != nil {
			return nil, err
		}
		return b.boundSteps(was, e)
	})
}

func (b *Backend) unbound(ctx context.Context, key string) error {
	return b.do(ctx, func() ([]linux.Step, error) {
		was, ok, err := b.record(ctx, key)
		if err != nil || !ok {
			return nil, err
		}
		return b.boundSteps(was, entry{})
	})
}

// boundSteps take a gateway or floating IP from was to e, either of which may
// be empty.
func (b *Backend) boundSteps(was, e entry) ([]linux.Step, error) {
	var c vnet.Change
	var differs bool
	if was.Gateway != nil || e.Gateway != nil {
		c, differs = qos.DiffGateway(was.Gateway, e.Gateway)
	} else {
		c, differs = qos.DiffFloatingIP(was.FloatingIP, e.FloatingIP)
	}
	if !differs {
		return nil, nil
	}
	var steps []linux.Step
	if e == (entry{}) {
		steps = append(steps, linux.Step{Change: c, Phase: linux.FilterDel, NFT: func(tx *nft.Tx) error { return b.write(tx, was.key(), nil) }})
	} else {
		steps = append(steps, linux.Step{Change: c, Phase: linux.FilterAdd, NFT: func(tx *nft.Tx) error { return b.write(tx, e.key(), &e) }})
	}
	if w := was.router(); w != "" && w != e.router() {
		steps = append(steps, b.routerStep(w, was.empty()))
	}
	if e.router() != "" {
		steps = append(steps, b.routerStep(e.router(), e))
	}
	return steps, nil
}

func (e entry) router() string {
	switch {
	case e.Gateway != nil:
		return e.Gateway.RouterID
	case e.FloatingIP != nil:
		return e.FloatingIP.RouterID
	}
	return ""
}

// empty is the same object without limits.
func (e entry) empty() entry {
	if e.Gateway != nil {
		g := *e.Gateway
		g.Shape = qos.Shape{}
		return entry{Gateway: &g}
	}
	f := *e.FloatingIP
	f.Shape = qos.Shape{}
	return entry{FloatingIP: &f}
}

// routerStep makes the limits of one object stand in its router's namespace,
// if that is there.
func (b *Backend) routerStep(router string, e entry) linux.Step {
	return linux.Step{Phase: linux.Configure, Do: func(ctx context.Context) error {
		n, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, router))
		if errors.Is(err, vnet.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return n.NFT().Do(ctx, func(tx *nft.Tx) error { b.declare(tx, e); return nil })
	}}
}

func (b *Backend) declare(tx *nft.Tx, e entry) {
	if e.Gateway != nil {
		declareGateway(tx, b.h.LinkName("i", e.Gateway.PortID), e.Gateway.Shape)
	} else {
		declareFloating(tx, b.h.LinkName("i", e.FloatingIP.PortID), *e.FloatingIP)
	}
}

// routerLimits makes all limits of a router stand in its namespace.
func (b *Backend) routerLimits(ctx context.Context, n *linux.Namespace, router string) error {
	all, err := b.records(ctx)
	if err != nil {
		return err
	}
	var mine []entry
	for _, e := range all {
		if e.router() == router {
			mine = append(mine, e)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	return n.NFT().Do(ctx, func(tx *nft.Tx) error {
		for _, e := range mine {
			b.declare(tx, e)
		}
		return nil
	})
}

// made is told of namespaces.
func (b *Backend) made(ctx context.Context, n *linux.Namespace) error {
	all, err := b.records(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		if r := e.router(); r != "" && n.Name() == b.h.NetnsName(vnet.PartRouter, r) {
			return b.routerLimits(ctx, n, r)
		}
	}
	return nil
}

// plugged is asked about devices that are about to be plugged.
func (b *Backend) plugged(_ context.Context, portID, device string) ([]linux.Step, error) {
	// What is to hold is looked up when the device is there: it may be in the same batch.
	return []linux.Step{{Phase: linux.Connect, Do: func(ctx context.Context) error { return b.follow(ctx, portID, device) }}}, nil
}

// unplugged is asked about devices that leave a port.
func (b *Backend) unplugged(ctx context.Context, portID, device string) ([]linux.Step, error) {
	_, ok, err := b.record(ctx, "port "+portID)
	if err != nil || !ok || device == "" {
		return nil, err
	}
	return []linux.Step{{Phase: linux.Disconnect, Do: func(context.Context) error {
		err := b.shapeDevice(qos.Port{ID: portID}, device)
		if errors.Is(err, vnet.ErrNotFound) {
			return nil
		}
		return err
	}}}, nil
}

// follow makes the device at a port what the record says.
func (b *Backend) follow(ctx context.Context, portID, device string) error {
	e, ok, err := b.record(ctx, "port "+portID)
	if err != nil || !ok {
		return err
	}
	if err := b.ensureIfb(*e.Port); err != nil {
		return err
	}
	err = b.shapeDevice(*e.Port, device)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil // it has gone again
	}
	return err
}

// local leaves out what is of other hosts.
func (b *Backend) local(s qos.State) qos.State {
	s = s.Canonical()
	s.Ports = slices.DeleteFunc(s.Ports, func(x qos.Port) bool { return !b.h.Local(x.Host) })
	s.Gateways = slices.DeleteFunc(s.Gateways, func(x qos.Gateway) bool { return !b.h.Local(x.Host) })
	s.FloatingIPs = slices.DeleteFunc(s.FloatingIPs, func(x qos.FloatingIP) bool { return !b.h.Local(x.Host) })
	s.Uplinks = slices.DeleteFunc(s.Uplinks, func(x qos.Uplink) bool { return !b.h.Local(x.Host) })
	return s
}

// diff returns the steps from what stands to s, and how many objects stand.
func (b *Backend) diff(ctx context.Context, s qos.State) ([]linux.Step, int, error) {
	s = b.local(s)
	all, err := b.records(ctx)
	if err != nil {
		return nil, 0, err
	}
	keys, want := entries(s)
	var steps, gone []linux.Step
	for _, k := range keys {
		e, was := want[k], all[k]
		var st []linux.Step
		switch {
		case e.Uplink != nil:
			st, err = b.uplinkSteps(ctx, was.Uplink, e.Uplink, state(all))
		case e.Port != nil:
			st, err = b.portSteps(ctx, was.Port, e.Port)
		default:
			st, err = b.boundSteps(was, e)
		}
		if err != nil {
			return nil, 0, err
		}
		steps = append(steps, st...)
	}
	old, stood := entries(state(all))
	for _, k := range slices.Backward(old) {
		if _, ok := want[k]; ok {
			continue
		}
		var st []linux.Step
		switch e := stood[k]; {
		case e.Uplink != nil:
			st, err = b.uplinkSteps(ctx, e.Uplink, nil, s)
		case e.Port != nil:
			st, err = b.portSteps(ctx, e.Port, nil)
		default:
			st, err = b.boundSteps(e, entry{})
		}
		if err != nil {
			return nil, 0, err
		}
		gone = append(gone, st...)
	}
	return append(steps, gone...), len(all), nil
}

// Sync implements [qos.Backend].
func (b *Backend) Sync(ctx context.Context, s qos.State, o vnet.SyncOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, existing, err := b.diff(ctx, s)
	if err != nil {
		return err
	}
	if err := o.Check(linux.PlanOf(steps), existing); err != nil {
		return err
	}
	return b.t.Submit(ctx, steps...)
}

// Plan implements [qos.Backend].
func (b *Backend) Plan(ctx context.Context, s qos.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	steps, _, err := b.diff(ctx, s)
	return linux.PlanOf(steps), err
}

// Health implements [qos.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.h.Health(ctx) }

// Features implements [qos.Backend].
func (b *Backend) Features(context.Context) qos.Features {
	k := b.kernel
	all := qos.Abilities{EgressBandwidth: true, IngressBandwidth: true, EgressPacketRate: true, IngressPacketRate: true, DSCP: true}
	port := all
	port.IngressBandwidth = k.tbf
	port.EgressBandwidth = k.ifb || k.police
	f := qos.Features{Port: port, Gateway: all, FloatingIP: all, Guarantees: k.htb, TunnelGuarantees: k.htb, Missing: map[string]string{},
		Limits: []string{
			"Limits of gateways and floating IPs count IP packets, without the 14 bytes of an Ethernet header, and their burst is a second at the limit longer than asked for, as nftables has it.",
			"Guarantees on a physical network need a device, not a bridge, as the physical network.",
		}}
	f.Mechanism = "token buckets on devices, nftables for packet rates"
	if b.police {
		f.Mechanism = "token buckets towards ports, policers from them, nftables for packet rates"
	}
	if !port.IngressBandwidth {
		f.Missing["ingress bandwidth"] = needTBF
	}
	if !port.EgressBandwidth {
		f.Missing["egress bandwidth"] = needIfb
	}
	if !k.htb {
		f.Missing["guarantees"], f.Missing["tunnel guarantees"] = needHTB, needHTB
	}
	return f
}

// Serve implements [qos.Runner]: it looks to what other processes plug and
// make on this host.
func (b *Backend) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		known := map[string]bool{}
		for {
			ids, err := b.h.Namespaces(ctx, vnet.PartRouter)
			if err == nil {
				is := map[string]bool{}
				for _, id := range ids {
					if is[id] = true; !known[id] {
						if n, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, id)); err == nil {
							is[id] = b.routerLimits(ctx, n, id) == nil
						}
					}
				}
				known = is
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	for e := range b.h.WatchPorts(ctx) {
		if e.Lost || e.Gone {
			continue
		}
		b.mu.Lock()
		err := b.follow(ctx, e.PortID, e.Device)
		b.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			b.h.Logger().Warn("limits of a device", "port", e.PortID, "device", e.Device, "error", err)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("watching ports ended")
}
