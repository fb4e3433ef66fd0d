package linuxoverlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
)

// memory is what the kernel has no place for: which network an unplugged port
// is on, and the ids of remote ports. Backends that write through batches of a
// host share it.
type memory struct {
	op sync.Mutex // held through every call: one writer

	mu       sync.Mutex // of the maps; steps of a batch write them when it commits
	networks map[string]overlay.Network
	ports    map[string]overlay.Port
	remotes  map[string]overlay.RemotePort
	// found is what was there of a network's remote ports when this process
	// first asked: entries of a process before, whose ids are not known yet.
	found map[string]standing
	under int // index of the device that has the tunnel address; 0: not looked for
}

func newMemory() *memory {
	return &memory{networks: map[string]overlay.Network{}, ports: map[string]overlay.Port{}, remotes: map[string]overlay.RemotePort{}, found: map[string]standing{}}
}

func (m *memory) network(id string) (overlay.Network, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.networks[id]
	return n, ok
}

func (m *memory) port(id string) (overlay.Port, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.ports[id]
	return p, ok
}

func (m *memory) remote(id string) (overlay.RemotePort, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.remotes[id]
	return r, ok
}

// remotesOf returns the remote ports of a network, in no order.
func (m *memory) remotesOf(network string) (out []overlay.RemotePort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.remotes {
		if r.NetworkID == network {
			out = append(out, r)
		}
	}
	return out
}

func (m *memory) forgetNetwork(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.networks, id)
	delete(m.found, id)
	for k, r := range m.remotes {
		if r.NetworkID == id {
			delete(m.remotes, k)
		}
	}
}

// set puts what s says in place of what is known.
func (m *memory) set(s overlay.State, local func(host string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.networks)
	clear(m.ports)
	clear(m.remotes)
	clear(m.found)
	for _, n := range s.Networks {
		m.networks[n.ID] = n
	}
	for _, p := range s.Ports {
		if local(p.Host) {
			m.ports[p.ID] = p
		}
	}
	for _, r := range s.RemotePorts {
		m.remotes[r.ID] = r
	}
}

// snapshot is all devices and port entries read at once: what a whole state is
// compared with. Single objects are looked up by name, so that one costs the
// same whatever else there is.
type snapshot struct {
	byName  map[string]*rtnl.Link // also by alternative name
	byIndex map[int]*rtnl.Link
	ports   map[int][]rtnl.Link // by index of the bridge
	entries map[string]linux.PortEntry
	under   int // see Backend.underlay
}

// whole returns a backend that looks things up in one reading of everything.
func (b *Backend) whole(ctx context.Context) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := b.h.NS().RTNL().Links()
	if err != nil {
		return nil, err
	}
	entries, err := b.h.Ports().List(ctx)
	if err != nil {
		return nil, err
	}
	s := &snapshot{byName: map[string]*rtnl.Link{}, byIndex: map[int]*rtnl.Link{}, ports: map[int][]rtnl.Link{}, entries: map[string]linux.PortEntry{}}
	for i := range links {
		l := &links[i]
		s.byIndex[l.Index], s.byName[l.Name] = l, l
		for _, a := range l.AltNames {
			s.byName[a] = l
		}
		if l.Master != 0 {
			s.ports[l.Master] = append(s.ports[l.Master], *l)
		}
	}
	for _, e := range entries {
		s.entries[e.ID] = e
	}
	v := *b
	v.snap = s
	return &v, nil
}

// link returns a device by name or alternative name, or nil when there is none.
func (b *Backend) link(name string) (*rtnl.Link, error) {
	if b.snap != nil {
		return b.snap.byName[name], nil
	}
	l, err := b.h.NS().RTNL().Link(name)
	if errors.Is(err, vnet.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// portsOf returns the devices that are ports of a bridge.
func (b *Backend) portsOf(bridge *rtnl.Link) ([]rtnl.Link, error) {
	if b.snap != nil {
		return b.snap.ports[bridge.Index], nil
	}
	return b.h.NS().RTNL().Ports(bridge.Name)
}

// entry returns a port's entry in the handle's registry; the zero entry when
// there is none.
func (b *Backend) entry(ctx context.Context, id string) (linux.PortEntry, error) {
	if b.snap != nil {
		return b.snap.entries[id], nil
	}
	e, err := b.h.Ports().Get(ctx, id)
	if errors.Is(err, vnet.ErrNotFound) {
		return linux.PortEntry{}, nil
	}
	return e, err
}

// underlay returns the device that has the tunnel address. Looking for it is
// looking at the addresses of all devices, so it is done once for a network or
// a state; a port takes the device that was found last.
func (b *Backend) underlay(anew bool) (*rtnl.Link, error) {
	rt := b.h.NS().RTNL()
	b.m.mu.Lock()
	index := b.m.under
	b.m.mu.Unlock()
	if b.snap != nil && b.snap.under == 0 {
		anew = true
	}
	if index != 0 && (!anew || b.snap != nil && b.snap.under == index) {
		if l, err := rt.LinkByIndex(index); err == nil {
			return &l, nil
		}
	}
	ip := b.h.Options().TunnelIP
	addrs, err := rt.Addrs("")
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() != ip {
			continue
		}
		b.m.mu.Lock()
		b.m.under = a.Index
		b.m.mu.Unlock()
		if b.snap != nil {
			b.snap.under = a.Index
		}
		l, err := rt.LinkByIndex(a.Index)
		return &l, err
	}
	return nil, fmt.Errorf("no device of host %s has the tunnel address %s: %w", b.h.Name(), ip, vnet.ErrNotFound)
}

// without takes a device out of the snapshot, or only off its bridge and out of
// our hands.
func (s *snapshot) without(l *rtnl.Link, keep bool) {
	s.ports[l.Master] = slices.DeleteFunc(slices.Clone(s.ports[l.Master]), func(x rtnl.Link) bool { return x.Index == l.Index })
	if keep {
		l.Master, l.Alias, l.Port = 0, "", nil
		return
	}
	delete(s.byIndex, l.Index)
	delete(s.byName, l.Name)
}
