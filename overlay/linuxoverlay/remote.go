package linuxoverlay

import (
	"context"
	"fmt"
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
	b.mu.Lock()
	defer b.mu.Unlock()
	n, ok := b.networks[p.NetworkID]
	if !ok {
		return fmt.Errorf("network %s has not been ensured here: %w", p.NetworkID, vnet.ErrNotFound)
	}
	old, known := b.remotes[p.ID]
	if known && old.Equal(p) {
		return nil
	}
	if err := b.reachable(n, p); err != nil {
		return err
	}
	c, _ := overlay.DiffRemotePort(nil, &p)
	var steps []linux.Step
	if known {
		c, _ = overlay.DiffRemotePort(&old, &p)
		steps = append(steps, b.forgetSteps(old, &p)...)
	}
	c.Where = b.h.Name()
	if n.Segment.Type == overlay.VXLAN {
		w := &work{b: b, c: &c}
		b.tellSteps(w, n, p)
		steps = append(w.steps, steps...)
	}
	if err := b.t.Submit(ctx, marked(c, steps)...); err != nil {
		return err
	}
	b.remotes[p.ID] = p
	return nil
}

// reachable refuses an endpoint of another family than this host's.
func (b *Backend) reachable(n overlay.Network, p overlay.RemotePort) error {
	if ours := b.h.Options().TunnelIP; n.Segment.Type == overlay.VXLAN && ours.Is4() != p.Endpoint.Is4() {
		return &vnet.FieldError{Field: "endpoint", Value: p.Endpoint.String(), Reason: "is of another family than this host's tunnel address " + ours.String()}
	}
	return nil
}

// DeleteRemotePort implements [overlay.RemoteBackend]. Ids are known from
// Ensure and Sync of this process.
func (b *Backend) DeleteRemotePort(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.remotes[id]
	if !ok {
		return nil
	}
	c, _ := overlay.DiffRemotePort(&old, nil)
	c.Where = b.h.Name()
	if err := b.t.Submit(ctx, marked(c, b.forgetSteps(old, nil))...); err != nil {
		return err
	}
	delete(b.remotes, id)
	return nil
}

// tellSteps writes a remote port's entries.
func (b *Backend) tellSteps(w *work, n overlay.Network, p overlay.RemotePort) {
	rt := b.h.NS().RTNL()
	br, vx := b.h.NetworkDevice(n.ID), b.vxlanName(n.ID)
	w.step(linux.Configure, func(context.Context) error {
		if err := rt.SetFDB(rtnl.FDB{Dev: vx, MAC: p.MAC, Dst: p.Endpoint, State: rtnl.Permanent}); err != nil {
			return err
		}
		if err := rt.SetFDB(rtnl.FDB{Dev: vx, MAC: p.MAC, Master: true, State: rtnl.NoARP}); err != nil {
			return err
		}
		for _, ip := range p.IPs {
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

// forgetSteps removes the entries of old that now, which takes its place, has not.
func (b *Backend) forgetSteps(old overlay.RemotePort, now *overlay.RemotePort) []linux.Step {
	n, ok := b.networks[old.NetworkID]
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
	for _, r := range b.remotes {
		if r.ID == old.ID || r.NetworkID != old.NetworkID {
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
		if !endpoint {
			return rt.DelFDB(rtnl.FDB{Dev: vx, MAC: headEnd, Dst: old.Endpoint})
		}
		return nil
	}}}
}

// standing is what the kernel knows of the remote ports of a network.
type standing struct {
	tunnel map[vnet.MAC]netip.Addr // vxlan: where a MAC is
	bridge map[vnet.MAC]bool       // bridge: it is by the tunnel
	neigh  map[netip.Addr]vnet.MAC // what ARP and ND are answered with
	head   map[netip.Addr]bool     // where what is flooded goes
}

func (b *Backend) standing(id string) (standing, error) {
	s := standing{map[vnet.MAC]netip.Addr{}, map[vnet.MAC]bool{}, map[netip.Addr]vnet.MAC{}, map[netip.Addr]bool{}}
	rt := b.h.NS().RTNL()
	br, vx := b.h.NetworkDevice(id), b.vxlanName(id)
	l, err := b.link(vx)
	if err != nil || l == nil {
		return s, err
	}
	fdb, err := rt.FDBs(vx)
	if err != nil {
		return s, err
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
func (b *Backend) remoteSteps(ctx context.Context, n overlay.Network, want []overlay.RemotePort, whole bool) ([]linux.Step, error) {
	s, err := b.standing(n.ID)
	if err != nil {
		return nil, err
	}
	var steps []linux.Step
	macs, heads, ips := map[vnet.MAC]bool{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, p := range want {
		if err := b.reachable(n, p); err != nil {
			return nil, err
		}
		macs[p.MAC] = true
		heads[p.Endpoint] = heads[p.Endpoint] || flooded(n.Flooding)
		c, _ := overlay.DiffRemotePort(nil, &p)
		c.Where = b.h.Name()
		at, known := s.tunnel[p.MAC]
		right := known && at == p.Endpoint && s.bridge[p.MAC] && (!flooded(n.Flooding) || s.head[p.Endpoint])
		for _, ip := range p.IPs {
			mac, ok := s.neigh[ip]
			// A shared address is answered for the first port that has it.
			right = right && ok && (mac == p.MAC || ips[ip])
			ips[ip] = true
		}
		if right {
			continue
		}
		if known {
			c.Verb, c.Impact, c.Diff = vnet.Update, vnet.ImpactSome, []string{fmt.Sprintf("endpoint: %s -> %s", at, p.Endpoint)}
		}
		w := &work{b: b, c: &c}
		b.tellSteps(w, n, p)
		steps = append(steps, marked(c, w.steps)...)
	}
	if !whole {
		return steps, nil
	}
	return append(steps, b.surplusSteps(n, s, macs, heads, ips)...), nil
}

// surplusSteps removes what nothing wants any more; the kernel knows no ids,
// so the changes name MACs.
func (b *Backend) surplusSteps(n overlay.Network, s standing, macs map[vnet.MAC]bool, heads, ips map[netip.Addr]bool) []linux.Step {
	rt := b.h.NS().RTNL()
	br, vx := b.h.NetworkDevice(n.ID), b.vxlanName(n.ID)
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
	for _, m := range order {
		dst := s.tunnel[m]
		c := vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "remote_port", ID: m.String(), Impact: vnet.ImpactObject, Where: b.h.Name(), Diff: []string{"network: " + n.ID}}
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
		if !ips[ip] {
			stale = append(stale, ip)
		}
	}
	var ends []netip.Addr
	for ip := range s.head {
		if !heads[ip] {
			ends = append(ends, ip)
		}
	}
	if len(stale)+len(ends) == 0 {
		return steps
	}
	slices.SortFunc(stale, netip.Addr.Compare)
	slices.SortFunc(ends, netip.Addr.Compare)
	c := vnet.Change{Verb: vnet.Update, Part: vnet.PartOverlay, Kind: "network", ID: n.ID, Impact: vnet.ImpactSome, Where: b.h.Name()}
	for _, ip := range stale {
		c.Diff = append(c.Diff, "ARP and ND answer for "+ip.String()+": gone")
	}
	for _, ip := range ends {
		c.Diff = append(c.Diff, "flooding to "+ip.String()+": gone")
	}
	return append(steps, linux.Step{Change: c, Phase: linux.Disconnect, Do: func(context.Context) error {
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
	}})
}
