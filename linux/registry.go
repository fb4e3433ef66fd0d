package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// holders are the parts that may hold a port.
func holders() []vnet.Part {
	return []vnet.Part{vnet.PartHost, vnet.PartOverlay, vnet.PartRouter, vnet.PartDHCP, vnet.PartMetadata, vnet.PartSecGroup, vnet.PartQoS}
}

// allocator finds numbers that are free in the kernel and not promised by
// this process.
type allocator struct {
	mu       sync.Mutex
	promised map[string]uint32 // by id, until it stands
	taken    map[uint32]string // the same, by number
	next     uint32
}

// give returns the number promised to id, or promises the next free one. A
// number that was in use a moment ago is not given again soon.
func (a *allocator) give(id string, last uint32, first func() (uint32, error), used func(uint32) (bool, error)) (uint32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.promised[id]; ok {
		return n, nil
	}
	if a.promised == nil {
		n, err := first()
		if err != nil {
			return 0, err
		}
		a.promised, a.taken, a.next = map[string]uint32{}, map[uint32]string{}, n
	}
	for range last {
		n := a.next
		if n < 1 || n > last {
			n = 1
		}
		a.next = n + 1
		if _, ok := a.taken[n]; ok {
			continue
		}
		if u, err := used(n); err != nil {
			return 0, err
		} else if !u {
			a.promised[id], a.taken[n] = n, id
			return n, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers are in use", last)
}

// done takes a promise back, when it stands or is not wanted any more.
func (a *allocator) done(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n, ok := a.promised[id]; ok {
		delete(a.promised, id)
		delete(a.taken, n)
	}
}

// Ports hands out a small number for each port id, stable as long as a part
// holds it, kept in the kernel: no two ports of a host have the same, whoever
// owns them. Packet marks carry it.
type Ports struct {
	h *Host
	a allocator
}

// Ports returns the registry of port indices.
func (h *Host) Ports() *Ports { return &h.ports }

// PortEntry is a port as the registry knows it.
type PortEntry struct {
	ID       string
	Index    uint32
	Device   string      // "" while nothing is bound
	Filtered bool        // wants filtering: closed unless Filled
	Filled   bool        // may pass
	Holders  []vnet.Part // sorted
}

// maxIndex bounds port indices: 20 bits leave room for others in a mark.
const maxIndex = 1<<20 - 1

func (p *Ports) canonical(portID string) string { return p.h.LinkName("p", portID) }

// lookup is Lookup in a set that may not stand.
func (h *Host) lookup(ctx context.Context, s nft.Set, key ...any) ([]any, bool, error) {
	data, ok, err := h.ns.nft.Lookup(ctx, s, key...)
	if errors.Is(err, vnet.ErrNotFound) {
		err = nil
	}
	return data, ok, err
}

func (h *Host) elements(ctx context.Context, s nft.Set) ([]nft.Element, error) {
	e, err := h.ns.nft.Elements(ctx, s)
	if errors.Is(err, vnet.ErrNotFound) {
		err = nil
	}
	return e, err
}

// List returns all entries, sorted by id.
func (p *Ports) List(ctx context.Context) ([]PortEntry, error) {
	by := map[uint32]*PortEntry{}
	indices, err := p.h.elements(ctx, p.h.setOf(mapIndices))
	if err != nil {
		return nil, err
	}
	for _, e := range indices {
		i := e.Key[0].(uint32)
		by[i] = &PortEntry{ID: e.Comment, Index: i}
	}
	for _, s := range []string{mapBound, setFiltered, setFilled, setHeld} {
		list, err := p.h.elements(ctx, p.h.setOf(s))
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			x := by[e.Key[0].(uint32)]
			if x == nil {
				continue
			}
			switch s {
			case mapBound:
				x.Device = e.Data[0].(string)
			case setFiltered:
				x.Filtered = true
			case setFilled:
				x.Filled = true
			case setHeld:
				x.Holders = append(x.Holders, vnet.Part(e.Key[1].(string)))
			}
		}
	}
	out := make([]PortEntry, 0, len(by))
	for _, x := range by {
		slices.Sort(x.Holders)
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b PortEntry) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Get returns one entry, or [vnet.ErrNotFound].
func (p *Ports) Get(ctx context.Context, portID string) (PortEntry, error) {
	e := PortEntry{ID: portID}
	err := p.h.ns.nft.View(ctx, func(tx *nft.Tx) error {
		data, ok := tx.Lookup(p.h.setOf(mapPorts), p.canonical(portID))
		if !ok {
			return fmt.Errorf("port %s has no index: %w", portID, vnet.ErrNotFound)
		}
		e.Index = data[0].(uint32)
		if data, ok := tx.Lookup(p.h.setOf(mapBound), e.Index); ok {
			e.Device = data[0].(string)
		}
		_, e.Filtered = tx.Lookup(p.h.setOf(setFiltered), e.Index)
		_, e.Filled = tx.Lookup(p.h.setOf(setFilled), e.Index)
		for _, part := range holders() {
			if _, ok := tx.Lookup(p.h.setOf(setHeld), e.Index, string(part)); ok {
				e.Holders = append(e.Holders, part)
			}
		}
		return nil
	})
	slices.Sort(e.Holders)
	return e, err
}

// index is the port's index, promised if it has none.
func (p *Ports) index(ctx context.Context, portID string) (uint32, error) {
	data, ok, err := p.h.lookup(ctx, p.h.setOf(mapPorts), p.canonical(portID))
	if err != nil {
		return 0, err
	}
	if ok {
		p.a.done(portID)
		return data[0].(uint32), nil
	}
	others, err := p.h.foreign(ctx, nft.Bridge)
	if err != nil {
		return 0, err
	}
	maps := []nft.Set{p.h.setOf(mapIndices)}
	for _, t := range others {
		maps = append(maps, tableSet(t, nft.Table{}, mapIndices))
	}
	return p.a.give(portID, maxIndex, func() (uint32, error) {
		var top uint32
		for _, m := range maps {
			list, err := p.h.elements(ctx, m)
			if err != nil {
				return 0, err
			}
			for _, e := range list {
				top = max(top, e.Key[0].(uint32))
			}
		}
		return top + 1, nil
	}, func(n uint32) (bool, error) {
		for _, m := range maps {
			if _, ok, err := p.h.lookup(ctx, m, n); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	})
}

// hold declares that a part holds a port.
func (p *Ports) hold(tx *nft.Tx, part vnet.Part, portID string, index uint32) {
	h := p.h
	h.Base(tx)
	name := p.canonical(portID)
	if data, ok := tx.Lookup(h.setOf(mapIndices), index); ok && data[0] != any(name) {
		p.a.done(portID)
		tx.Fail(fmt.Errorf("index %d of port %s was taken meanwhile: %w", index, portID, vnet.ErrConflict))
	}
	if data, ok := tx.Lookup(h.setOf(mapPorts), name); ok && data[0] != any(index) {
		p.a.done(portID)
		tx.Fail(fmt.Errorf("port %s was given another index meanwhile: %w", portID, vnet.ErrConflict))
	}
	tx.Add(h.setOf(mapPorts), nft.Element{Key: []any{name}, Data: []any{index}, Comment: portID})
	tx.Add(h.setOf(mapIndices), nft.Element{Key: []any{index}, Data: []any{name}, Comment: portID})
	tx.Add(h.setOf(setHeld), nft.Key(index, string(part)))
}

// Claim returns the index of a port, giving it one if it has none, and the
// step (phase FilterAdd) that makes part hold it; none when it does. The index
// is promised to this port in this process at once, so several claims may be
// collected before they are committed.
func (p *Ports) Claim(ctx context.Context, part vnet.Part, portID string) (index uint32, steps []Step, err error) {
	if !slices.Contains(holders(), part) {
		return 0, nil, fmt.Errorf("part %q cannot hold a port", part)
	}
	if index, err = p.index(ctx, portID); err != nil {
		return 0, nil, fmt.Errorf("index of port %s: %w", portID, err)
	}
	if _, ok, err := p.h.lookup(ctx, p.h.setOf(setHeld), index, string(part)); err != nil {
		return 0, nil, err
	} else if ok {
		return index, nil, nil
	}
	return index, []Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		p.hold(tx, part, portID, index)
		return nil
	}}}, nil
}

// letGo declares that a part does not hold a port; the last one frees it.
func (p *Ports) letGo(tx *nft.Tx, part vnet.Part, portID string, index uint32) {
	h := p.h
	tx.Remove(h.setOf(setHeld), nft.Key(index, string(part)))
	for _, other := range holders() {
		if _, held := tx.Lookup(h.setOf(setHeld), index, string(other)); held {
			return
		}
	}
	tx.Remove(h.setOf(mapPorts), nft.Key(p.canonical(portID)))
	tx.Remove(h.setOf(mapIndices), nft.Key(index))
	tx.Remove(h.setOf(setFilled), nft.Key(index))
}

// Release returns the step (phase FilterDel) after which part does not hold
// the port, none when it does not; the index is free when nobody does.
// secgroup's also takes back Fill.
func (p *Ports) Release(ctx context.Context, part vnet.Part, portID string) ([]Step, error) {
	e, err := p.Get(ctx, portID)
	p.a.done(portID)
	if errors.Is(err, vnet.ErrNotFound) || err == nil && !slices.Contains(e.Holders, part) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []Step{{Phase: FilterDel, NFT: func(tx *nft.Tx) error {
		if part == vnet.PartSecGroup {
			tx.Remove(p.h.setOf(setFilled), nft.Key(e.Index))
		}
		p.letGo(tx, part, portID, e.Index)
		return nil
	}}}, nil
}

// Bind returns the steps (phase FilterAdd) that tie a device to a port, and
// say whether it wants filtering; none when it is so. They hold the port for
// overlay. overlay submits them before it connects the device, so that a
// filtered port is closed from its first frame.
func (p *Ports) Bind(ctx context.Context, portID, device string, filtered bool) ([]Step, error) {
	index, err := p.index(ctx, portID)
	if err != nil {
		return nil, fmt.Errorf("index of port %s: %w", portID, err)
	}
	e, err := p.Get(ctx, portID)
	if err == nil && e.Device == device && e.Filtered == filtered && slices.Contains(e.Holders, vnet.PartOverlay) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, vnet.ErrNotFound) {
		return nil, err
	}
	more, err := p.h.ask(ctx, true, portID, device)
	if err != nil {
		return nil, err
	}
	return append([]Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		h := p.h
		p.hold(tx, vnet.PartOverlay, portID, index)
		p.unbind(tx, portID, index, device)
		if data, ok := tx.Lookup(h.setOf(mapPorts), device); ok && data[0] != any(index) {
			tx.Fail(fmt.Errorf("device %s is at another port: %w", device, vnet.ErrConflict))
		}
		tx.Add(h.setOf(mapPorts), nft.Element{Key: []any{device}, Data: []any{index}, Comment: portID})
		tx.Add(h.setOf(mapBound), nft.Key(index).To(device))
		tx.Add(h.setOf(setDevices), nft.Key(device))
		if filtered {
			tx.Add(h.setOf(setFiltered), nft.Key(index))
		} else {
			tx.Remove(h.setOf(setFiltered), nft.Key(index))
		}
		return nil
	}}}, more...), nil
}

// unbind declares that no device but keep is at the port.
func (p *Ports) unbind(tx *nft.Tx, portID string, index uint32, keep string) {
	h := p.h
	data, ok := tx.Lookup(h.setOf(mapBound), index)
	if !ok || data[0] == any(keep) {
		return
	}
	device := data[0].(string)
	tx.Remove(h.setOf(mapBound), nft.Key(index))
	tx.Remove(h.setOf(setDevices), nft.Key(device))
	if device != p.canonical(portID) {
		tx.Remove(h.setOf(mapPorts), nft.Key(device))
	}
}

// Unbind returns the steps (phase FilterDel) that take a Bind back; none when
// there is nothing to take back.
func (p *Ports) Unbind(ctx context.Context, portID string) ([]Step, error) {
	e, err := p.Get(ctx, portID)
	p.a.done(portID)
	if errors.Is(err, vnet.ErrNotFound) || err == nil && e.Device == "" && !e.Filtered && !slices.Contains(e.Holders, vnet.PartOverlay) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	more, err := p.h.ask(ctx, false, portID, e.Device)
	if err != nil {
		return nil, err
	}
	return append(more, Step{Phase: FilterDel, NFT: func(tx *nft.Tx) error {
		p.unbind(tx, portID, e.Index, "")
		tx.Remove(p.h.setOf(setFiltered), nft.Key(e.Index))
		p.letGo(tx, vnet.PartOverlay, portID, e.Index)
		return nil
	}}), nil
}

// Fill returns the step (phase FilterAdd) that opens a filtered port to what
// its filters let pass; none when it is open. It must be in the transaction
// with those filters or after it: submitted together with steps of phase
// FilterAdd that write them, it is. The port must be claimed for secgroup, in
// the same batch at the latest.
func (p *Ports) Fill(ctx context.Context, portID string) ([]Step, error) {
	index, err := p.index(ctx, portID)
	if err != nil {
		return nil, err
	}
	if _, ok, err := p.h.lookup(ctx, p.h.setOf(setFilled), index); err != nil || ok {
		return nil, err
	}
	return []Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		p.h.Base(tx)
		tx.Add(p.h.setOf(setFilled), nft.Key(index))
		return nil
	}}}, nil
}

// Unfill returns the step (phase FilterAdd: closing comes first) that closes a
// filtered port; none when it is closed.
func (p *Ports) Unfill(ctx context.Context, portID string) ([]Step, error) {
	data, ok, err := p.h.lookup(ctx, p.h.setOf(mapPorts), p.canonical(portID))
	if err != nil || !ok {
		return nil, err
	}
	index := data[0].(uint32)
	if _, ok, err := p.h.lookup(ctx, p.h.setOf(setFilled), index); err != nil || !ok {
		return nil, err
	}
	return []Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		tx.Remove(p.h.setOf(setFilled), nft.Key(index))
		return nil
	}}}, nil
}

// Networks knows which bridges are networks of ours.
type Networks struct{ h *Host }

// Networks returns the registry of network bridges.
func (h *Host) Networks() *Networks { return &h.nets }

// List returns the ids of the networks known, sorted.
func (n *Networks) List(ctx context.Context) ([]string, error) {
	list, err := n.h.elements(ctx, n.h.setOf(setNetworks))
	var ids []string
	for _, e := range list {
		ids = append(ids, e.Comment)
	}
	slices.Sort(ids)
	return ids, err
}

// Add returns the steps (phase FilterAdd) that make the network's bridge known
// in the base tables, none when it is: from then on what comes from it never
// reaches this host's own IP stack. overlay submits them before it makes the
// bridge.
func (n *Networks) Add(ctx context.Context, networkID string) ([]Step, error) {
	br := n.h.NetworkDevice(networkID)
	if _, ok, err := n.h.lookup(ctx, n.h.setOf(setNetworks), br); err != nil {
		return nil, err
	} else if ok {
		return nil, nil
	}
	return []Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		n.h.Base(tx)
		tx.Add(n.h.setOf(setNetworks), nft.Element{Key: []any{br}, Comment: networkID})
		tx.Add(n.h.setOf(setBridged), nft.Key(br, br))
		return nil
	}}}, nil
}

// Remove returns the steps (phase FilterDel) that take it back; none when it
// is not known.
func (n *Networks) Remove(ctx context.Context, networkID string) ([]Step, error) {
	br := n.h.NetworkDevice(networkID)
	if _, ok, err := n.h.lookup(ctx, n.h.setOf(setNetworks), br); err != nil || !ok {
		return nil, err
	}
	return []Step{{Phase: FilterDel, NFT: func(tx *nft.Tx) error {
		tx.Remove(n.h.setOf(setNetworks), nft.Key(br))
		tx.Remove(n.h.setOf(setBridged), nft.Key(br, br))
		return nil
	}}}, nil
}

// Zones hands out a conntrack zone for each network id, kept in the kernel; no
// two networks of a host have the same, whoever owns them. From the claim on,
// what crosses the network's bridge is tracked in its zone.
type Zones struct {
	h *Host
	a allocator
}

// Zones returns the registry of conntrack zones.
func (h *Host) Zones() *Zones { return &h.zones }

// Get returns a network's zone, or [vnet.ErrNotFound].
func (z *Zones) Get(ctx context.Context, networkID string) (uint16, error) {
	data, ok, err := z.h.lookup(ctx, z.h.setOf(mapZones), z.h.NetworkDevice(networkID))
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("network %s has no conntrack zone: %w", networkID, vnet.ErrNotFound)
	}
	return data[0].(uint16), nil
}

// List returns the zones by network id.
func (z *Zones) List(ctx context.Context) (map[string]uint16, error) {
	list, err := z.h.elements(ctx, z.h.setOf(mapZones))
	m := make(map[string]uint16, len(list))
	for _, e := range list {
		m[e.Comment] = e.Data[0].(uint16)
	}
	return m, err
}

// Claim returns the zone of a network, giving it one if it has none, and the
// steps (phase FilterAdd) that keep it; none when it stands.
func (z *Zones) Claim(ctx context.Context, networkID string) (zone uint16, steps []Step, err error) {
	zone, err = z.Get(ctx, networkID)
	if err == nil {
		z.a.done(networkID)
		return zone, nil, nil
	}
	if !errors.Is(err, vnet.ErrNotFound) {
		return 0, nil, err
	}
	others, err := z.h.foreign(ctx, nft.Inet)
	if err != nil {
		return 0, nil, err
	}
	maps := []nft.Set{z.h.setOf(mapZoneIDs)}
	for _, t := range others {
		maps = append(maps, tableSet(nft.Table{}, t, mapZoneIDs))
	}
	n, err := z.a.give(networkID, 1<<16-1, func() (uint32, error) { return 1, nil }, func(n uint32) (bool, error) {
		for _, m := range maps {
			if _, ok, err := z.h.lookup(ctx, m, uint16(n)); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("zone of network %s: %w", networkID, err)
	}
	zone = uint16(n)
	return zone, []Step{{Phase: FilterAdd, NFT: func(tx *nft.Tx) error {
		h := z.h
		h.Base(tx)
		br := h.NetworkDevice(networkID)
		if data, ok := tx.Lookup(h.setOf(mapZoneIDs), zone); ok && data[0] != any(br) {
			z.a.done(networkID)
			tx.Fail(fmt.Errorf("zone %d of network %s was taken meanwhile: %w", zone, networkID, vnet.ErrConflict))
		}
		e := nft.Element{Key: []any{br}, Data: []any{zone}, Comment: networkID}
		tx.Add(h.setOf(mapZones), e)
		tx.Add(h.setOf(mapZoneIDs), nft.Element{Key: []any{zone}, Data: []any{br}, Comment: networkID})
		if h.zonesInBridge() {
			tx.Add(h.bridgeZones(), e)
		}
		return nil
	}}}, nil
}

// Release returns the steps (phase FilterDel) that free the zone, and end what
// is tracked in it; none when the network has none.
func (z *Zones) Release(ctx context.Context, networkID string) ([]Step, error) {
	zone, err := z.Get(ctx, networkID)
	z.a.done(networkID)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h := z.h
	return []Step{
		{Phase: FilterDel, Do: func(ctx context.Context) error {
			_, err := h.ns.DeleteConntrack(ctx, func(f rtnl.Flow) bool { return f.Zone == zone })
			return err
		}},
		{Phase: FilterDel, NFT: func(tx *nft.Tx) error {
			br := h.NetworkDevice(networkID)
			tx.Remove(h.setOf(mapZones), nft.Key(br))
			tx.Remove(h.setOf(mapZoneIDs), nft.Key(zone))
			if h.zonesInBridge() {
				tx.Remove(h.bridgeZones(), nft.Key(br))
			}
			return nil
		}},
	}, nil
}
