package linuxoverlay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
)

// headEnd is the MAC whose destinations get what is flooded (RFC 7348, 4.2;
// the kernel's name for it is the all-zeros address).
var headEnd vnet.MAC

func flooded(f overlay.Flooding) bool { return f.Broadcast || f.UnknownUnicast || !f.NoMulticast }

// EnsureRemotePort implements [overlay.RemoteBackend]. On networks without
// tunnels there is nothing to do.
func (b *Backend) EnsureRemotePort(ctx context.Context, p overlay.RemotePort) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
	n, ok := b.m.network(p.NetworkID)
	if !ok {
		return fmt.Errorf("network %s has not been ensured here: %w", p.NetworkID, vnet.ErrNotFound)
	}
	old, known := b.m.remote(p.ID)
	if known && old.Equal(p) {
		return nil
	}
	if err := b.reachable(n, p); err != nil {
		return err
	}
	remember := func() {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		b.m.remotes[p.ID] = p
	}
	var steps []linux.Step
	c, _ := overlay.DiffRemotePort(nil, &p)
	if known {
		c, _ = overlay.DiffRemotePort(&old, &p)
	}
	c.Where = b.h.Name()
	if n.Segment.Type == overlay.VXLAN {
		stands := false
		if !known { // by this process; it may be from one before
			var err error
			if stands, err = b.found(n, p); err != nil {
				return err
			}
		}
		if !stands {
			w := &work{b: b, c: &c}
			b.tellSteps(w, n, p)
			steps = w.steps
		}
	}
	if known {
		steps = append(steps, b.forgetSteps(old, &p)...)
	}
	if len(steps) == 0 {
		remember()
		return nil
	}
	// In a batch it is known only once it is done.
	steps = append(steps, linux.Step{Phase: linux.Disconnect, Do: func(context.Context) error { remember(); return nil }})
	return b.t.Submit(ctx, marked(c, steps)...)
}

// found reports whether the entries of p stand from a process before.
func (b *Backend) found(n overlay.Network, p overlay.RemotePort) (bool, error) {
	b.m.mu.Lock()
	s, ok := b.m.found[n.ID]
	b.m.mu.Unlock()
	if !ok {
		var err error
		if s, err = b.standing(n.ID); err != nil {
			return false, err
		}
		b.m.mu.Lock()
		b.m.found[n.ID] = s
		b.m.mu.Unlock()
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	right := s.has(p, n.Flooding, nil)
	s.drop(p) // from now on it is what this process makes of it
	return right, nil
}

// reachable refuses an endpoint of another family than this host's.
func (b *Backend) reachable(n overlay.Network, p overlay.RemotePort) error {
	if ours := b.h.Options().TunnelIP; n.Segment.Type == overlay.VXLAN && ours.Is4() != p.Endpoint.Is4() {
		return &vnet.FieldError{Field: "endpoint", Value: p.Endpoint.String(), Reason: "is of another family than this host's tunnel address " + ours.String()}
	}
	return nil
}

// DeleteRemotePort implements [overlay.RemoteBackend]. Ids are known from
// Ensure and Sync of this process: after a restart one of those comes first.
func (b *Backend) DeleteRemotePort(ctx context.Context, id string) error {
	b.m.op.Lock()
	defer b.m.op.Unlock()
	old, ok := b.m.remote(id)
	if !ok {
		return nil
	}
	c, _ := overlay.DiffRemotePort(&old, nil)
	c.Where = b.h.Name()
	forget := func() {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		delete(b.m.remotes, id)
	}
	steps := b.forgetSteps(old, nil)
	if len(steps) == 0 {
		forget()
		return nil
	}
	steps = append(steps, linux.Step{Phase: linux.Disconnect, Do: func(context.Context) error { forget(); return nil }})
	return b.t.Submit(ctx, marked(c, steps)...)
}

// tellSteps writes a remote port's entries.
func (b *Backend) tellSteps(w *work, n overlay.Network, p overlay.RemotePort) {
	rt := b.h.NS().RTNL()
	br, vx, answered := b.h.NetworkDevice(n.ID), b.vxlanName(n.ID), b.answered(n, p)
	w.step(linux.Configure, func(context.Context) error {
		if err := rt.SetFDB(rtnl.FDB{Dev: vx, MAC: p.MAC, Dst: p.Endpoint, State: rtnl.Permanent}); err != nil {
			return err
		}
		// Sticky: a machine here that sends from its MAC does not take it over.
		if err := rt.SetFDB(rtnl.FDB{Dev: vx, MAC: p.MAC, Master: true, State: rtnl.NoARP, Sticky: true}); err != nil {
			return err
		}
		for _, ip := range answered {
			if err := rt.SetNeigh(rtnl.Neigh{Dev: br, IP: ip, MAC: p.MAC, State: rtnl.Permanent}); err != nil {
				return err
			}
		}
		if flooded(n.Flooding) {
			return rt.AppendFDB(rtnl.FDB{Dev: vx, MAC: headEnd, Dst: p.Endpoint, State: rtnl.Permanent})
		}
		return nil
	}, nil)
}

// answered are the addresses of p that the bridge answers for: all, but IPv6 on
// a bridge that has none (see leastIPv6MTU).
func (b *Backend) answered(n overlay.Network, p overlay.RemotePort) []netip.Addr {
	if mtu, err := b.mtu(n, false); err != nil || mtu >= leastIPv6MTU {
		return p.IPs
	}
	return slices.DeleteFunc(slices.Clone(p.IPs), netip.Addr.Is6)
}

// forgetSteps removes the entries of old that now, which takes its place, has not.
func (b *Backend) forgetSteps(old overlay.RemotePort, now *overlay.RemotePort) []linux.Step {
	n, ok := b.m.network(old.NetworkID)
	if !ok || n.Segment.Type != overlay.VXLAN {
		return nil
	}
	same := now != nil && now.NetworkID == old.NetworkID
	kept := map[netip.Addr]bool{} // addresses that it, or another port, still has
	if same {
		for _, ip := range now.IPs {
			kept[ip] = true
		}
	}
	endpoint := same && now.Endpoint == old.Endpoint
	var heirs []rtnl.Neigh
	br, vx := b.h.NetworkDevice(old.NetworkID), b.vxlanName(old.NetworkID)
	for _, r := range b.m.remotesOf(old.NetworkID) {
		if r.ID == old.ID {
			continue
		}
		endpoint = endpoint || r.Endpoint == old.Endpoint
		for _, ip := range r.IPs {
			if slices.Contains(old.IPs, ip) && !kept[ip] {
				kept[ip] = true
				heirs = append(heirs, rtnl.Neigh{Dev: br, IP: ip, MAC: r.MAC, State: rtnl.Permanent})
			}
		}
	}
	rt := b.h.NS().RTNL()
	return []linux.Step{{Phase: linux.Disconnect, Do: func(context.Context) error {
		for _, ip := range old.IPs {
			if !kept[ip] {
				if err := rt.DelNeigh(rtnl.Neigh{Dev: br, IP: ip}); err != nil {
					return err
				}
			}
		}
		for _, h := range heirs { // a shared address goes to who else has it
			if err := rt.SetNeigh(h); err != nil {
				return err
			}
		}
		if !same || now.MAC != old.MAC {
			if err := rt.DelFDB(rtnl.FDB{Dev: vx, MAC: old.MAC, Dst: old.Endpoint}); err != nil {
				return err
			}
			if err := rt.DelFDB(rtnl.FDB{Dev: vx, MAC: old.MAC, Master: true}); err != nil {
				return err
			}
		}
		if endpoint {
			return nil
		}
		// It may still be that of ports that this process has not been told of.
		fdb, err := rt.FDBs(vx)
		if errors.Is(err, vnet.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range fdb {
			if f.Dst == old.Endpoint && f.MAC != headEnd && f.State&rtnl.Permanent != 0 {
				return nil
			}
		}
		return rt.DelFDB(rtnl.FDB{Dev: vx, MAC: headEnd, Dst: old.Endpoint})
	}}}
}

// standing is what the kernel knows of the remote ports of a network.
type standing struct {
	tunnel map[vnet.MAC]netip.Addr // vxlan: where a MAC is
	bridge map[vnet.MAC]bool       // bridge: it is by the tunnel
	neigh  map[netip.Addr]vnet.MAC // what ARP and ND are answered with
	head   map[netip.Addr]bool     // where what is flooded goes
	mtu    int                     // of the bridge
}

// dropAnswers removes the answers for remote ports from a bridge that has no
// tunnel any more.
func (b *Backend) dropAnswers(br string) error {
	rt := b.h.NS().RTNL()
	neighs, err := rt.Neighs(br)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil
	}
	for _, n := range neighs {
		if err == nil && n.State&rtnl.Permanent != 0 && !n.IP.IsMulticast() {
			err = rt.DelNeigh(n)
		}
	}
	return err
}

// has reports whether all entries of p are there. An address that several
// ports share may be answered for any of its owners.
func (s standing) has(p overlay.RemotePort, f overlay.Flooding, owners map[netip.Addr][]vnet.MAC) bool {
	if s.tunnel[p.MAC] != p.Endpoint || !s.bridge[p.MAC] || flooded(f) && !s.head[p.Endpoint] {
		return false
	}
	for _, ip := range p.IPs {
		if mac, ok := s.neigh[ip]; !ok && !s.noIPv6(ip) || ok && mac != p.MAC && !slices.Contains(owners[ip], mac) {
			return false
		}
	}
	return true
}

func (s standing) noIPv6(ip netip.Addr) bool { return ip.Is6() && s.mtu < leastIPv6MTU }

// drop forgets what is p's alone.
func (s standing) drop(p overlay.RemotePort) {
	delete(s.tunnel, p.MAC)
	delete(s.bridge, p.MAC)
	for _, ip := range p.IPs {
		delete(s.neigh, ip)
	}
}

func (b *Backend) standing(id string) (standing, error) {
	s := standing{map[vnet.MAC]netip.Addr{}, map[vnet.MAC]bool{}, map[netip.Addr]vnet.MAC{}, map[netip.Addr]bool{}, leastIPv6MTU}
	rt := b.h.NS().RTNL()
	br, vx := b.h.NetworkDevice(id), b.vxlanName(id)
	l, err := b.link(vx)
	if err != nil {
		return s, err
	}
	var fdb []rtnl.FDB
	if l != nil {
		if fdb, err = rt.FDBs(vx); err != nil {
			return s, err
		}
	}
	for _, f := range fdb {
		static := f.State&(rtnl.Permanent|rtnl.NoARP) != 0
		switch {
		case f.Dst.IsValid() && f.MAC == headEnd:
			s.head[f.Dst] = true
		case f.Dst.IsValid() && static:
			s.tunnel[f.MAC] = f.Dst
		case f.Master && static && f.MAC != l.MAC: // its own address is there too
			s.bridge[f.MAC] = true
		}
	}
	bl, err := b.link(br)
	if err != nil || bl == nil {
		return s, err
	}
	s.mtu = bl.MTU
	neighs, err := rt.Neighs(br)
	if err != nil {
		return s, err
	}
	for _, n := range neighs {
		if n.State&rtnl.Permanent != 0 && !n.IP.IsMulticast() {
			s.neigh[n.IP] = n.MAC
		}
	}
	return s, nil
}

// remoteSteps returns what makes the kernel know the remote ports of n; whole
// says that want is all of them, and what else it knows goes.
func (b *Backend) remoteSteps(n overlay.Network, want []overlay.RemotePort, whole bool) ([]linux.Step, error) {
	s, err := b.standing(n.ID)
	if err != nil {
		return nil, err
	}
	return b.remoteStepsFrom(s, n, want, whole)
}

func (b *Backend) remoteStepsFrom(s standing, n overlay.Network, want []overlay.RemotePort, whole bool) ([]linux.Step, error) {
	var steps []linux.Step
	if mtu, err := b.mtu(n, false); err == nil {
		s.mtu = mtu // that it is to have
	}
	macs, heads, owners := map[vnet.MAC]bool{}, map[netip.Addr]bool{}, map[netip.Addr][]vnet.MAC{}
	for _, p := range want {
		for _, ip := range p.IPs {
			owners[ip] = append(owners[ip], p.MAC)
		}
	}
	for _, p := range want {
		if err := b.reachable(n, p); err != nil {
			return nil, err
		}
		macs[p.MAC] = true
		heads[p.Endpoint] = flooded(n.Flooding)
		if s.has(p, n.Flooding, owners) {
			continue
		}
		c, _ := overlay.DiffRemotePort(nil, &p)
		c.Where = b.h.Name()
		if at, known := s.tunnel[p.MAC]; known {
			c.Verb, c.Impact, c.Diff = vnet.Update, vnet.ImpactSome, []string{"entries: mended"}
			if at != p.Endpoint {
				c.Diff = []string{fmt.Sprintf("endpoint: %s -> %s", at, p.Endpoint)}
			}
		}
		w := &work{b: b, c: &c}
		b.tellSteps(w, n, p)
		steps = append(steps, marked(c, w.steps)...)
	}
	if whole {
		return append(steps, b.surplusSteps(n, s, macs, heads, owners)...), nil
	}
	if !flooded(n.Flooding) { // any more
		return append(steps, b.staleSteps(n, nil, slices.Collect(maps.Keys(s.head)))...), nil
	}
	return steps, nil
}

// surplusSteps removes what nothing wants any more; the kernel knows no ids, so
// after a restart the changes name MACs.
func (b *Backend) surplusSteps(n overlay.Network, s standing, macs map[vnet.MAC]bool, heads map[netip.Addr]bool, owners map[netip.Addr][]vnet.MAC) []linux.Step {
	rt := b.h.NS().RTNL()
	vx := b.vxlanName(n.ID)
	gone := map[vnet.MAC]bool{}
	for m := range s.tunnel {
		gone[m] = gone[m] || !macs[m]
	}
	for m := range s.bridge {
		gone[m] = gone[m] || !macs[m]
	}
	var steps []linux.Step
	var order []vnet.MAC
	for m, is := range gone {
		if is {
			order = append(order, m)
		}
	}
	slices.SortFunc(order, func(a, b vnet.MAC) int { return slices.Compare(a[:], b[:]) })
	ids := map[vnet.MAC]string{}
	for _, r := range b.m.remotesOf(n.ID) {
		ids[r.MAC] = r.ID
	}
	for _, m := range order {
		dst := s.tunnel[m]
		id := ids[m]
		if id == "" {
			id = m.String()
		}
		c := vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "remote_port", ID: id, Impact: vnet.ImpactObject, Where: b.h.Name(), Diff: []string{"network: " + n.ID}}
		steps = append(steps, marked(c, []linux.Step{{Phase: linux.Disconnect, Do: func(context.Context) error {
			if dst.IsValid() {
				if err := rt.DelFDB(rtnl.FDB{Dev: vx, MAC: m, Dst: dst}); err != nil {
					return err
				}
			}
			return rt.DelFDB(rtnl.FDB{Dev: vx, MAC: m, Master: true})
		}}})...)
	}
	var stale []netip.Addr
	for ip := range s.neigh {
		if owners[ip] == nil {
			stale = append(stale, ip)
		}
	}
	var ends []netip.Addr
	for ip := range s.head {
		if !heads[ip] {
			ends = append(ends, ip)
		}
	}
	return append(steps, b.staleSteps(n, stale, ends)...)
}

// staleSteps removes answers and destinations that no remote port of n has.
func (b *Backend) staleSteps(n overlay.Network, stale, ends []netip.Addr) []linux.Step {
	if len(stale)+len(ends) == 0 {
		return nil
	}
	rt := b.h.NS().RTNL()
	br, vx := b.h.NetworkDevice(n.ID), b.vxlanName(n.ID)
	slices.SortFunc(stale, netip.Addr.Compare)
	slices.SortFunc(ends, netip.Addr.Compare)
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "network", ID: n.ID, Impact: vnet.ImpactSome, Where: b.h.Name()}
	for _, ip := range stale {
		c.Diff = append(c.Diff, "ARP and ND answer for "+ip.String()+": gone")
	}
	for _, ip := range ends {
		c.Diff = append(c.Diff, "flooding to "+ip.String()+": gone")
	}
	return []linux.Step{{Change: c, Phase: linux.Disconnect, Do: func(context.Context) error {
		for _, ip := range stale {
			if err := rt.DelNeigh(rtnl.Neigh{Dev: br, IP: ip}); err != nil {
				return err
			}
		}
		for _, ip := range ends {
			if err := rt.DelFDB(rtnl.FDB{Dev: vx, MAC: headEnd, Dst: ip}); err != nil {
				return err
			}
		}
		return nil
	}}}
}
