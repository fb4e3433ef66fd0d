package ovsoverlay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovs"
)

// name is how the backend calls itself in errors.
const name = "ovsoverlay"

// Kinds of objects. The last four are not the application's.
const (
	kindNetwork = "network"
	kindPort    = "port"
	kindRemote  = "remote-port"
	kindSegment = "segment" // -> the network on it
	kindSpread  = "spread"  // of a network
	kindChunk   = "chunk"   // of a network's ports here
	kindAddress = "address" // of a network, and who has it
)

// Options of a [Backend]; nil will do.
type Options struct {
	UnderlayMTU int // bytes, of what carries tunnels; default 1500
}

// Backend is an [overlay.Backend] for one host.
type Backend struct {
	t   ovs.Target
	s   *ovs.Switch
	mtu int
}

var (
	_ overlay.Backend       = (*Backend)(nil)
	_ overlay.RemoteBackend = (*Backend)(nil)
	_ overlay.Plugger       = (*Backend)(nil)
	_ overlay.Explainer     = (*Backend)(nil)
	_ overlay.Watcher       = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovs.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, s: t.Switch(), mtu: 1500}
	if o != nil {
		b.mtu = cmp.Or(o.UnderlayMTU, b.mtu)
	}
	if b.mtu < 576 || b.mtu > 65535 {
		return nil, &vnet.FieldError{Field: "underlay_mtu", Value: strconv.Itoa(b.mtu), Reason: "is not 576 to 65535"}
	}
	return b, nil
}

// Features implements [overlay.Backend].
func (b *Backend) Features(context.Context) overlay.Features {
	f := overlay.Features{
		Segments: map[overlay.SegmentType]bool{overlay.Local: true, overlay.Flat: true, overlay.VLAN: true, overlay.VXLAN: true, overlay.Geneve: true},
		Missing:  map[overlay.SegmentType]string{}, DropsUnknown: true, AsksHolder: !b.s.Userspace(),
		Flooding: overlay.Flooding{Broadcast: true, NoMulticast: true},
	}
	if !b.s.Options().TunnelIP.IsValid() {
		for _, t := range []overlay.SegmentType{overlay.VXLAN, overlay.Geneve} {
			f.Segments[t], f.Missing[t] = false, "a tunnel address (ovs.Options.TunnelIP)"
		}
	}
	return f
}

// Health implements [overlay.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.s.Health(ctx) }

// refuse names what cannot be done.
func (b *Backend) refuse(n overlay.Network) error {
	f := b.Features(context.Background())
	switch t := n.Segment.Type; {
	case !f.Segments[t]:
		return &vnet.UnsupportedError{Feature: string(t) + " segments", Backend: name, Need: f.Missing[t]}
	case n.Flooding.UnknownUnicast:
		return &vnet.UnsupportedError{Feature: "flooding of unknown unicast", Backend: name, Need: "nothing is learnt: all MACs are told"}
	case t.Physical() && !b.s.HasPhysical(n.Segment.PhysicalNetwork):
		return &vnet.FieldError{Field: "segment.physical_network", Value: n.Segment.PhysicalNetwork, Reason: "is not on host " + b.s.Name()}
	}
	_, err := b.mtuOf(n)
	return err
}

func (b *Backend) mtuOf(n overlay.Network) (int, error) {
	return n.EffectiveMTU(b.mtu, b.s.Options().TunnelIP)
}

func (b *Backend) local(host string) bool { return host == "" || host == b.s.Name() }

func encode(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return out
}

func decode[T any](o ovs.Object) (v T, err error) {
	if err = json.Unmarshal(o.Record, &v); err != nil {
		err = fmt.Errorf("record of %s %s: %w", o.Kind, o.ID, err)
	}
	return v, err
}

func find[T any](tx *ovs.Tx, kind, id string) (v T, ok bool, err error) {
	o, ok := tx.Get(kind, id)
	if ok {
		v, err = decode[T](o)
	}
	return v, ok, err
}

func (b *Backend) submit(ctx context.Context, f func(tx *ovs.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.t.Submit(ctx, vnet.PartOverlay, f)
}

// placed says where a network is in the pipeline.
func placed(tx *ovs.Tx, n overlay.Network) place {
	p := place{n: n, number: tx.NetworkNumber(n.ID), advertises: tx.Switch().Userspace()}
	switch t := n.Segment.Type; {
	case t == overlay.VXLAN:
		p.tunnel = tx.Tunnel(ovs.VXLAN)
	case t == overlay.Geneve:
		p.tunnel = tx.Tunnel(ovs.Geneve)
	case t.Physical():
		p.patch = tx.Patch(n.Segment.PhysicalNetwork)
	}
	return p
}

// network is a standing network and its place.
func network(tx *ovs.Tx, id string) (place, error) {
	n, ok, err := find[overlay.Network](tx, kindNetwork, id)
	if err != nil {
		return place{}, err
	}
	if !ok {
		return place{}, fmt.Errorf("network %s has not been ensured here: %w", id, vnet.ErrNotFound)
	}
	return placed(tx, n), tx.Err()
}

// EnsureNetwork implements [overlay.Backend].
func (b *Backend) EnsureNetwork(ctx context.Context, n overlay.Network) error {
	if err := b.refuse(n); err != nil {
		return err
	}
	return b.submit(ctx, func(tx *ovs.Tx) error {
		old, stood, err := find[overlay.Network](tx, kindNetwork, n.ID)
		if err != nil {
			return err
		}
		if n.Segment.Type != overlay.Local {
			if o, ok := tx.Get(kindSegment, n.Segment.String()); ok && string(o.Record) != n.ID {
				return fmt.Errorf("segment %s is that of network %s: %w", n.Segment, o.Record, vnet.ErrConflict)
			}
		}
		p := b.putNetwork(tx, n)
		if stood && old.Segment != n.Segment {
			tx.Drop(kindSegment, old.Segment.String())
			for _, o := range tx.List(kindRemote) {
				r, err := decode[overlay.RemotePort](o)
				if err != nil {
					return err
				}
				switch {
				case r.NetworkID != n.ID:
				case n.Segment.Type.Tunnel():
					putRemote(tx, p, r)
				default:
					remoteGone(tx, r)
					if err := moves(tx, kindRemote, r.ID, n.ID, r.IPs, p, nil, r.MAC); err != nil {
						return err
					}
				}
			}
		}
		s, _, err := find[spread](tx, kindSpread, n.ID)
		if err != nil {
			return err
		}
		if !n.Segment.Type.Tunnel() {
			s.Endpoints = nil
		}
		putSpread(tx, p, s)
		return nil
	})
}

// putNetwork writes a network without what is flooded.
func (b *Backend) putNetwork(tx *ovs.Tx, n overlay.Network) place {
	p := placed(tx, n)
	put(tx, kindNetwork, n.ID, n, overlay.DiffNetwork, networkFlows(p)...)
	if n.Segment.Type != overlay.Local {
		tx.Keep(kindSegment, n.Segment.String(), []byte(n.ID))
	}
	return p
}

// DeleteNetwork implements [overlay.Backend].
func (b *Backend) DeleteNetwork(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovs.Tx) error {
		for _, o := range tx.List(kindPort) {
			x, err := decode[overlay.Port](o)
			if err != nil {
				return err
			}
			if x.NetworkID == id {
				return fmt.Errorf("port %s is on it: %w", x.ID, vnet.ErrInUse)
			}
		}
		for _, o := range tx.List(kindRemote) {
			r, err := decode[overlay.RemotePort](o)
			if err != nil {
				return err
			}
			if r.NetworkID == id {
				if err := moves(tx, kindRemote, r.ID, id, r.IPs, place{n: overlay.Network{ID: id}}, nil, r.MAC); err != nil {
					return err
				}
				remoteGone(tx, r)
			}
		}
		return dropNetwork(tx, id)
	})
}

func dropNetwork(tx *ovs.Tx, id string) error {
	n, ok, err := find[overlay.Network](tx, kindNetwork, id)
	if !ok || err != nil {
		return err
	}
	for _, p := range tx.Users(kindNetwork, id) {
		if p == vnet.PartRouter || p == vnet.PartMetadata {
			return fmt.Errorf("a port of %s is on it: %w", p, vnet.ErrInUse)
		}
	}
	s, _, err := find[spread](tx, kindSpread, id)
	if err != nil {
		return err
	}
	for _, c := range s.Chunks {
		tx.Drop(kindChunk, chunkID(id, c))
	}
	tx.Drop(kindSpread, id)
	if o, ok := tx.Get(kindSegment, n.Segment.String()); ok && string(o.Record) == id {
		tx.Drop(kindSegment, n.Segment.String())
	}
	tx.Drop(kindNetwork, id)
	c, _ := overlay.DiffNetwork(&n, nil)
	tx.Change(c)
	return nil
}

// put writes an object of the application's, with what differs for the plan.
func put[T any](tx *ovs.Tx, kind, id string, now T, diff func(a, b *T) (vnet.Change, bool), flows ...flow) {
	old, stood, err := find[T](tx, kind, id)
	verb, what := tx.Keep(kind, id, encode(now), flows...)
	if verb == "" {
		return
	}
	var c vnet.Change
	ok := false
	if err == nil && stood {
		c, ok = diff(&old, &now)
	} else {
		c, ok = diff(nil, &now)
	}
	if !ok {
		c = vnet.Change{Verb: verb, Kind: kind, ID: id, Diff: what, Impact: vnet.ImpactNone}
	}
	tx.Change(c)
}

func chunkID(network string, chunk int) string { return network + "/" + strconv.Itoa(chunk) }

func putSpread(tx *ovs.Tx, p place, s spread) {
	tx.Keep(kindSpread, p.n.ID, encode(s), spreadFlows(p, s)...)
}

// joins puts a port into its network's flood, or takes it out.
func joins(tx *ovs.Tx, p place, number uint16, m *member) error {
	c := chunkOf(number)
	ms, _, err := find[[]member](tx, kindChunk, chunkID(p.n.ID, c))
	if err != nil {
		return err
	}
	ms = slices.DeleteFunc(ms, func(x member) bool { return x.Number == number })
	if m != nil {
		ms = append(ms, *m)
		slices.SortFunc(ms, func(a, b member) int { return cmp.Compare(a.Number, b.Number) })
	}
	s, _, err := find[spread](tx, kindSpread, p.n.ID)
	if err != nil {
		return err
	}
	has := slices.Contains(s.Chunks, c)
	if len(ms) == 0 {
		tx.Drop(kindChunk, chunkID(p.n.ID, c))
		s.Chunks = slices.DeleteFunc(s.Chunks, func(x int) bool { return x == c })
	} else {
		tx.Keep(kindChunk, chunkID(p.n.ID, c), encode(ms), chunkFlows(p, c, ms)...)
		if !has {
			s.Chunks = append(s.Chunks, c)
			slices.Sort(s.Chunks)
		}
	}
	if has != (len(ms) > 0) {
		putSpread(tx, p, s)
	}
	return nil
}

func addressID(network string, a netip.Addr) string { return network + "/" + a.String() }

// holds says whether a port (kind and id) has an address of a network.
func holds(tx *ovs.Tx, p place, a netip.Addr, kind, id string, m *vnet.MAC) error {
	hs, _, err := find[[]holder](tx, kindAddress, addressID(p.n.ID, a))
	if err != nil {
		return err
	}
	h := holder{ID: kind + "/" + id}
	i := slices.IndexFunc(hs, func(x holder) bool { return x.ID == h.ID })
	switch {
	case m == nil && i >= 0:
		hs = slices.Delete(hs, i, i+1)
	case m != nil && i >= 0:
		hs[i].MAC = *m
	case m != nil:
		h.MAC = *m
		hs = append(hs, h)
	}
	putAddress(tx, p, a, hs)
	return nil
}

func putAddress(tx *ovs.Tx, p place, a netip.Addr, hs []holder) {
	if len(hs) == 0 {
		tx.Drop(kindAddress, addressID(p.n.ID, a))
		return
	}
	tx.Keep(kindAddress, addressID(p.n.ID, a), encode(hs), answers(p, a, hs[len(hs)-1].MAC)...)
}

// moves takes the addresses was of a port on one network away, and gives it
// those of now on another, or the same one.
func moves(tx *ovs.Tx, kind, id, from string, was []netip.Addr, to place, now []netip.Addr, m vnet.MAC) error {
	for _, a := range was {
		if from == to.n.ID && slices.Contains(now, a) {
			continue
		}
		p, err := network(tx, from)
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err == nil {
			err = holds(tx, p, a, kind, id, nil)
		}
		if err != nil {
			return err
		}
	}
	for _, a := range now {
		if err := holds(tx, to, a, kind, id, &m); err != nil {
			return err
		}
	}
	return nil
}

func addressesOf(x overlay.Port) []netip.Addr {
	if x.AdminDown {
		return nil
	}
	return x.FixedIPs
}

// EnsurePort implements [overlay.Backend].
func (b *Backend) EnsurePort(ctx context.Context, x overlay.Port) error {
	return b.submit(ctx, func(tx *ovs.Tx) error {
		if !b.local(x.Host) {
			return b.dropPort(tx, x.ID) // it may have been here before
		}
		p, err := network(tx, x.NetworkID)
		if err != nil {
			return err
		}
		old, stood, err := find[overlay.Port](tx, kindPort, x.ID)
		if err != nil {
			return err
		}
		number := tx.PortNumber(x.ID)
		if stood && old.NetworkID != x.NetworkID {
			if was, err := network(tx, old.NetworkID); err == nil {
				if err := joins(tx, was, number, nil); err != nil {
					return err
				}
			}
		}
		put(tx, kindPort, x.ID, x, overlay.DiffPort, portFlows(p, x, number)...)
		if err := moves(tx, kindPort, x.ID, old.NetworkID, addressesOf(old), p, addressesOf(x), x.MAC); err != nil {
			return err
		}
		return joins(tx, p, number, memberOf(x, number))
	})
}

func memberOf(x overlay.Port, number uint16) *member {
	if x.AdminDown {
		return nil
	}
	return &member{number, x.Filtered}
}

// DeletePort implements [overlay.Backend].
func (b *Backend) DeletePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovs.Tx) error { return b.dropPort(tx, id) })
}

func (b *Backend) dropPort(tx *ovs.Tx, id string) error {
	old, ok, err := find[overlay.Port](tx, kindPort, id)
	if err != nil {
		return err
	}
	if ok {
		if p, err := network(tx, old.NetworkID); err == nil {
			if err := moves(tx, kindPort, id, old.NetworkID, addressesOf(old), p, nil, old.MAC); err != nil {
				return err
			}
			if err := joins(tx, p, tx.PortNumber(id), nil); err != nil {
				return err
			}
		}
		b.portGone(tx, old)
	}
	return nil
}

// portGone takes away a port that is flooded to no more, and its device.
func (b *Backend) portGone(tx *ovs.Tx, old overlay.Port) {
	tx.Drop(kindPort, old.ID)
	c, _ := overlay.DiffPort(&old, nil)
	tx.Change(c)
	tx.After(func(ctx context.Context) error { return b.s.Unplug(ctx, vnet.PartOverlay, old.ID) })
}

// EnsureRemotePort implements [overlay.RemoteBackend]. On networks without
// tunnels there is nothing to do.
func (b *Backend) EnsureRemotePort(ctx context.Context, r overlay.RemotePort) error {
	return b.submit(ctx, func(tx *ovs.Tx) error {
		p, err := network(tx, r.NetworkID)
		if err != nil {
			return err
		}
		if err := b.reachable(p.n, r); err != nil {
			return err
		}
		old, stood, err := find[overlay.RemotePort](tx, kindRemote, r.ID)
		if err != nil {
			return err
		}
		if stood && (old.NetworkID != r.NetworkID || old.Endpoint != r.Endpoint) {
			if err := counts(tx, old, -1); err != nil {
				return err
			}
		}
		if !p.n.Segment.Type.Tunnel() {
			if stood {
				remoteGone(tx, old)
				return moves(tx, kindRemote, r.ID, old.NetworkID, old.IPs, p, nil, r.MAC)
			}
			return nil
		}
		putRemote(tx, p, r)
		if err := moves(tx, kindRemote, r.ID, old.NetworkID, old.IPs, p, r.IPs, r.MAC); err != nil {
			return err
		}
		if !stood || old.NetworkID != r.NetworkID || old.Endpoint != r.Endpoint {
			return counts(tx, r, 1)
		}
		return nil
	})
}

func putRemote(tx *ovs.Tx, p place, r overlay.RemotePort) {
	put(tx, kindRemote, r.ID, r, overlay.DiffRemotePort, remoteFlows(p, r)...)
}

// reachable refuses an endpoint of another family than this host's.
func (b *Backend) reachable(n overlay.Network, r overlay.RemotePort) error {
	if ours := b.s.Options().TunnelIP; n.Segment.Type.Tunnel() && ours.Is4() != r.Endpoint.Is4() {
		return &vnet.FieldError{Field: "endpoint", Value: r.Endpoint.String(), Reason: "is of another family than this host's tunnel address " + ours.String()}
	}
	return nil
}

// counts keeps how many ports of a network another host has.
func counts(tx *ovs.Tx, r overlay.RemotePort, by int) error {
	p, err := network(tx, r.NetworkID)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil // gone with its floods
	}
	if err != nil {
		return err
	}
	s, _, err := find[spread](tx, kindSpread, r.NetworkID)
	if err != nil {
		return err
	}
	s.Endpoints = maps.Clone(s.Endpoints)
	if s.Endpoints == nil {
		s.Endpoints = map[netip.Addr]int{}
	}
	if s.Endpoints[r.Endpoint] += by; s.Endpoints[r.Endpoint] <= 0 {
		delete(s.Endpoints, r.Endpoint)
	}
	putSpread(tx, p, s)
	return nil
}

// DeleteRemotePort implements [overlay.RemoteBackend].
func (b *Backend) DeleteRemotePort(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovs.Tx) error {
		old, ok, err := find[overlay.RemotePort](tx, kindRemote, id)
		if !ok || err != nil {
			return err
		}
		if err := counts(tx, old, -1); err != nil {
			return err
		}
		if err := moves(tx, kindRemote, id, old.NetworkID, old.IPs, place{n: overlay.Network{ID: old.NetworkID}}, nil, old.MAC); err != nil {
			return err
		}
		remoteGone(tx, old)
		return nil
	})
}

func remoteGone(tx *ovs.Tx, old overlay.RemotePort) {
	tx.Drop(kindRemote, old.ID)
	c, _ := overlay.DiffRemotePort(&old, nil)
	tx.Change(c)
}

// Sync implements [overlay.Backend].
func (b *Backend) Sync(ctx context.Context, s overlay.State, o vnet.SyncOptions) error {
	f, err := b.sync(s, &o)
	if err != nil {
		return err
	}
	return b.submit(ctx, f)
}

// Plan implements [overlay.Backend].
func (b *Backend) Plan(ctx context.Context, s overlay.State) (vnet.Plan, error) {
	if err := ctx.Err(); err != nil {
		return vnet.Plan{}, err
	}
	f, err := b.sync(s, nil)
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartOverlay, f)
}

// sync makes the whole of s so, within the bounds of o if there are any.
func (b *Backend) sync(s overlay.State, o *vnet.SyncOptions) (func(tx *ovs.Tx) error, error) {
	segments := map[string]string{}
	for _, n := range s.Networks {
		err := b.refuse(n)
		if seg := n.Segment.String(); err == nil && n.Segment.Type != overlay.Local {
			if segments[seg] != "" {
				err = fmt.Errorf("segment %s is that of network %s: %w", n.Segment, segments[seg], vnet.ErrConflict)
			}
			segments[seg] = n.ID
		}
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", n.ID, err)
		}
	}
	return func(tx *ovs.Tx) error { return b.whole(tx, s, o) }, nil
}

func (b *Backend) whole(tx *ovs.Tx, s overlay.State, o *vnet.SyncOptions) error {
	there := map[string]map[string]ovs.Object{}
	for _, x := range tx.All() {
		if there[x.Kind] == nil {
			there[x.Kind] = map[string]ovs.Object{}
		}
		there[x.Kind][x.ID] = x
	}
	existing := len(there[kindNetwork]) + len(there[kindPort]) + len(there[kindRemote])
	wanted := func(kind, id string) { delete(there[kind], id) }
	places, spreads, chunks := map[string]place{}, map[string]*spread{}, map[string]map[int][]member{}
	type at struct {
		network string
		a       netip.Addr
	}
	have := map[at][]holder{}
	hold := func(network, kind, id string, as []netip.Addr, m vnet.MAC) {
		for _, a := range as {
			have[at{network, a}] = append(have[at{network, a}], holder{kind + "/" + id, m})
		}
	}
	for _, n := range s.Networks {
		places[n.ID] = b.putNetwork(tx, n)
		spreads[n.ID], chunks[n.ID] = &spread{}, map[int][]member{}
		wanted(kindNetwork, n.ID)
		wanted(kindSegment, n.Segment.String())
	}
	for _, x := range s.Ports {
		if !b.local(x.Host) {
			continue
		}
		p, ok := places[x.NetworkID]
		if !ok {
			return fmt.Errorf("port %s: network %s: %w", x.ID, x.NetworkID, vnet.ErrNotFound)
		}
		number := tx.PortNumber(x.ID)
		put(tx, kindPort, x.ID, x, overlay.DiffPort, portFlows(p, x, number)...)
		wanted(kindPort, x.ID)
		hold(x.NetworkID, kindPort, x.ID, addressesOf(x), x.MAC)
		if m := memberOf(x, number); m != nil {
			chunks[x.NetworkID][chunkOf(number)] = append(chunks[x.NetworkID][chunkOf(number)], *m)
		}
	}
	for _, r := range s.RemotePorts {
		p, ok := places[r.NetworkID]
		if !ok {
			return fmt.Errorf("remote port %s: network %s: %w", r.ID, r.NetworkID, vnet.ErrNotFound)
		}
		if !p.n.Segment.Type.Tunnel() {
			continue
		}
		if err := b.reachable(p.n, r); err != nil {
			return fmt.Errorf("remote port %s: %w", r.ID, err)
		}
		putRemote(tx, p, r)
		wanted(kindRemote, r.ID)
		hold(r.NetworkID, kindRemote, r.ID, r.IPs, r.MAC)
		sp := spreads[r.NetworkID]
		if sp.Endpoints == nil {
			sp.Endpoints = map[netip.Addr]int{}
		}
		sp.Endpoints[r.Endpoint]++
	}
	for id, p := range places {
		sp := spreads[id]
		for c, ms := range chunks[id] {
			slices.SortFunc(ms, func(a, b member) int { return cmp.Compare(a.Number, b.Number) })
			tx.Keep(kindChunk, chunkID(id, c), encode(ms), chunkFlows(p, c, ms)...)
			wanted(kindChunk, chunkID(id, c))
			sp.Chunks = append(sp.Chunks, c)
		}
		slices.Sort(sp.Chunks)
		putSpread(tx, p, *sp)
		wanted(kindSpread, id)
	}
	for k, hs := range have {
		id := addressID(k.network, k.a)
		if o, ok := there[kindAddress][id]; ok && len(hs) > 1 { // in the order in which they came
			was, err := decode[[]holder](o)
			if err != nil {
				return err
			}
			since := func(h holder) int {
				if i := slices.IndexFunc(was, func(x holder) bool { return x.ID == h.ID }); i >= 0 {
					return i
				}
				return len(was)
			}
			slices.SortStableFunc(hs, func(a, b holder) int { return cmp.Compare(since(a), since(b)) })
		}
		putAddress(tx, places[k.network], k.a, hs)
		wanted(kindAddress, id)
	}
	// What is not wanted, ports first.
	for _, id := range slices.Sorted(maps.Keys(there[kindPort])) {
		x, err := decode[overlay.Port](there[kindPort][id])
		if err != nil {
			return err
		}
		b.portGone(tx, x)
	}
	for _, id := range slices.Sorted(maps.Keys(there[kindRemote])) {
		r, err := decode[overlay.RemotePort](there[kindRemote][id])
		if err != nil {
			return err
		}
		remoteGone(tx, r)
	}
	for _, kind := range []string{kindAddress, kindChunk, kindSegment} {
		for id := range there[kind] {
			tx.Drop(kind, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(there[kindNetwork])) {
		if err := dropNetwork(tx, id); err != nil {
			return fmt.Errorf("network %s: %w", id, err)
		}
	}
	for id := range there[kindSpread] {
		tx.Drop(kindSpread, id)
	}
	tx.After(func(ctx context.Context) error { return b.prune(ctx, s) })
	if o == nil {
		return nil
	}
	return o.Check(tx.Changes(), existing)
}

// prune unplugs devices of ports that are not of this host, or not at all:
// their records may have gone with the flows of a switch that was restarted.
func (b *Backend) prune(ctx context.Context, s overlay.State) error {
	here := map[string]bool{}
	for _, x := range s.Ports {
		here[x.ID] = b.local(x.Host)
	}
	plugged, err := b.s.Plugged(ctx)
	for _, p := range plugged {
		if p.Part == vnet.PartOverlay && !here[p.PortID] {
			err = errors.Join(err, b.s.Unplug(ctx, vnet.PartOverlay, p.PortID))
		}
	}
	return err
}

// Plug implements [overlay.Plugger].
func (b *Backend) Plug(ctx context.Context, a overlay.Attachment) (overlay.Device, error) {
	var x overlay.Port
	mtu := 0
	_, err := b.s.Plan(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error { // to read
		var ok bool
		var err error
		if x, ok, err = find[overlay.Port](tx, kindPort, a.PortID); err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("port %s has not been ensured here: %w", a.PortID, vnet.ErrNotFound)
		}
		n, ok, err := find[overlay.Network](tx, kindNetwork, x.NetworkID)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("network %s: %w", x.NetworkID, vnet.ErrNotFound))
		}
		mtu, err = b.mtuOf(n)
		return err
	})
	if err != nil {
		return overlay.Device{}, err
	}
	p, err := b.s.Plug(ctx, ovs.Plug{Part: vnet.PartOverlay, PortID: a.PortID, Kind: string(a.Kind), Name: a.Name, Netns: a.Netns, Socket: a.Socket, MAC: x.MAC, MTU: mtu})
	return overlay.Device{Name: p.Device, MTU: mtu, Socket: p.Socket}, err
}

// Unplug implements [overlay.Plugger].
func (b *Backend) Unplug(ctx context.Context, portID string) error {
	return b.s.Unplug(ctx, vnet.PartOverlay, portID)
}

// Explain implements [overlay.Explainer]: from an object to its flows.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	var e vnet.Explanation
	_, err := b.s.Plan(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
		o, ok := tx.Get(kind, id)
		if !ok || kind != kindNetwork && kind != kindPort {
			return fmt.Errorf("%s %s on host %s: %w", kind, id, b.s.Name(), vnet.ErrNotFound)
		}
		e = vnet.Explanation{Text: fmt.Sprintf("%s %s: bridge %s, cookie %#x", kind, id, b.s.Bridge(), b.s.Cookie(vnet.PartOverlay, kind, id))}
		if n, ok := tx.Known(kind, id); ok {
			e.Add(fmt.Sprintf("number %d", n))
		}
		show := func(o ovs.Object) {
			for i := range o.Flows {
				e.Add(strings.TrimSpace(o.Flows[i].String()))
			}
		}
		show(o)
		if kind == kindNetwork {
			if o, ok := tx.Get(kindSpread, id); ok {
				show(o)
			}
		}
		return nil
	})
	if err != nil || kind != kindPort {
		return e, err
	}
	plugged, err := b.s.Plugged(ctx)
	for _, p := range plugged {
		if p.Part == vnet.PartOverlay && p.PortID == id {
			e.Add(fmt.Sprintf("device %s (%s), OpenFlow port %d, link up: %t", p.Device, p.Kind, p.Number, p.Up))
		}
	}
	return e, err
}

// Watch implements [overlay.Watcher]: "port-up" and "port-down", and
// [ovs.EventRestarted] when the application should call Sync.
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	all := b.s.Watch(ctx)
	return func(yield func(vnet.Event) bool) {
		for e := range all {
			if (e.Part == vnet.PartOverlay || e.Part == vnet.PartHost) && !yield(e) {
				return
			}
		}
	}
}
