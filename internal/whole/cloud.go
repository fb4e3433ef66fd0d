package whole

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// cloud is a site with a machine for every port and station that worlds have.
type cloud struct {
	Site
	t        testing.TB
	ctx      context.Context
	name     string
	fabrics  []*overlay.Fabric // of all hosts, for plugging
	writers  []writer
	machines map[string]*machine
	ear      *ear

	was reach.World // what stands
	m   *reach.Model
	tally
}

// writer is what writes a share of the state: a host's, or all of it.
type writer struct {
	host     Host
	overlay  *overlay.Fabric
	secgroup *secgroup.Enforcer
	router   *router.Service
}

// clouds are the sites of some owners, with nothing on them.
func clouds(t testing.TB, h Harness, owners int) (out []*cloud) {
	t.Helper()
	sites := h.Make(t, owners)
	l := lab.New(t)
	e := &ear{seen: map[uint32][]sighting{}}
	for i, s := range sites {
		c := &cloud{Site: s, t: t, ctx: context.WithoutCancel(t.Context()), name: fmt.Sprintf("cloud %d", i), machines: map[string]*machine{}, ear: e, tally: tally{left: map[string]int{}}}
		for j, x := range s.Hosts {
			f, err := overlay.New(x.Overlay, &overlay.Options{Plugger: x.Plugger})
			require.NoError(t, err)
			c.fabrics = append(c.fabrics, f)
			if s.Central && j > 0 {
				continue
			}
			w := writer{host: x, overlay: f}
			w.secgroup, err = secgroup.New(x.SecGroup, nil)
			require.NoError(t, err)
			w.router, err = router.New(x.Router, nil)
			require.NoError(t, err)
			c.writers = append(c.writers, w)
		}
		for _, id := range []string{"p0", "p1", "p2", "p3", "p4", "s0", "s1"} {
			m := &machine{NS: l.NS(fmt.Sprintf("%s%d", id, i)), id: id, name: fmt.Sprintf("%s of %s", id, c.name), ear: e}
			m.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
			m.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
			if m.station() {
				s.Station(t, m.NS)
			}
			c.machines[id] = m
			t.Cleanup(m.unplugged)
		}
		out = append(out, c)
	}
	return out
}

// want is what worlds are drawn here.
func (c *cloud) want() reachtest.Want {
	w := reachtest.Want{Hosts: len(c.Hosts), Routers: true, Groups: true, Shared: true}
	can := c.writers[0].overlay.Features(c.ctx).Segments
	for _, s := range []overlay.SegmentType{overlay.Local, overlay.VXLAN, overlay.Geneve} {
		if can[s] {
			w.Segments = append(w.Segments, s)
		}
	}
	return w
}

// fit gives everything in a world a MAC by where it is and which address it
// has. So what routers remember of their neighbours from another world is
// right, or of somebody who is not there.
func fit(w reach.World) reach.World {
	w.Overlay, w.Router, w.SecGroup, w.Stations = w.Overlay.Clone(), w.Router.Clone(), w.SecGroup.Clone(), slices.Clone(w.Stations)
	index := func(network string) byte { return network[len(network)-1] } // n0, n1, n2, ext
	for i := range w.Overlay.Ports {
		p := &w.Overlay.Ports[i]
		a := p.FixedIPs[0].As4()
		p.MAC = vnet.MAC{2, 0, 0, 1, index(p.NetworkID) ^ a[2]<<4, a[3]}
		for j := range w.SecGroup.Ports {
			if s := &w.SecGroup.Ports[j]; s.ID == p.ID {
				s.MAC = p.MAC
			}
		}
	}
	for i := range w.Stations {
		s := &w.Stations[i]
		s.MAC = vnet.MAC{2, 0, 0, 2, 0, s.ID[1]}
	}
	for i := range w.Router.Routers {
		r := &w.Router.Routers[i]
		for j := range r.Interfaces {
			x := &r.Interfaces[j]
			a := x.Addresses[0].Addr().As4()
			x.MAC = vnet.MAC{2, 0, 0, 3, r.ID[1], index(x.NetworkID) ^ a[2]<<4}
		}
		if r.Gateway != nil {
			r.Gateway.MAC = vnet.MAC{2, 0, 0, 3, r.ID[1], 0}
		}
	}
	return w
}

// share is what a writer is given of a state of the overlay.
func (c *cloud) share(x writer, w reach.World) overlay.State {
	s := overlay.State{Networks: w.Overlay.Networks}
	if c.Central {
		s.Ports = w.Overlay.Ports
		return s
	}
	remote := func(host, network string, p overlay.RemotePort) {
		if n := byID(w.Overlay.Networks, network, netID); host == x.host.Name || n == nil || !n.Segment.Type.Tunnel() {
			return
		}
		for _, h := range c.Hosts {
			if h.Name == host {
				p.NetworkID, p.Endpoint, p.IPs = network, h.Endpoint, append(p.IPs, p.MAC.LinkLocal())
				s.RemotePorts = append(s.RemotePorts, p)
			}
		}
	}
	for _, p := range w.Overlay.Ports {
		if p.Host == x.host.Name {
			s.Ports = append(s.Ports, p)
		}
		remote(p.Host, p.NetworkID, overlay.RemotePort{ID: p.ID, MAC: p.MAC, IPs: has(w, p)})
	}
	for _, r := range w.Router.Routers {
		for _, i := range r.Interfaces {
			if !r.AdminDown {
				remote(r.Host, i.NetworkID, overlay.RemotePort{ID: i.PortID, MAC: i.MAC, IPs: addresses(i.Addresses)})
			}
		}
	}
	return s
}

// has is what a port's machine answers for.
func has(w reach.World, p overlay.Port) []netip.Addr {
	out := slices.Clone(p.FixedIPs)
	for _, h := range w.Holders {
		if h.PortID == p.ID && h.NetworkID == p.NetworkID {
			out = append(out, h.IP)
		}
	}
	return out
}

func addresses(ps []netip.Prefix) (out []netip.Addr) {
	for _, p := range ps {
		out = append(out, p.Addr())
	}
	return out
}

func byID[T any](list []T, id string, of func(T) string) *T {
	for i := range list {
		if of(list[i]) == id {
			return &list[i]
		}
	}
	return nil
}

func netID(n overlay.Network) string   { return n.ID }
func portID(p overlay.Port) string     { return p.ID }
func routerID(r router.Router) string  { return r.ID }
func securedID(p secgroup.Port) string { return p.ID }
func stationID(s reach.Station) string { return s.ID }
func each[T any](list []T, f func(T) error) error {
	for _, x := range list {
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// become makes w what stands, in an order in which nothing is in two places at
// once: routers that move or go leave first, and networks go last, when
// nothing uses them any more.
func (c *cloud) become(w reach.World) error {
	m, err := reach.New(w)
	if err != nil {
		return fmt.Errorf("drew a bad world: %w", err)
	}
	force := vnet.SyncOptions{Force: true}
	stays := c.was.Router.Clone()
	stays.Routers = slices.DeleteFunc(stays.Routers, func(r router.Router) bool {
		x := byID(w.Router.Routers, r.ID, routerID)
		return x == nil || x.Host != r.Host
	})
	leaves := func(id string) bool { return byID(stays.Routers, id, routerID) == nil }
	stays.FloatingIPs = slices.DeleteFunc(stays.FloatingIPs, func(f router.FloatingIP) bool { return leaves(f.RouterID) })
	stays.PortForwards = slices.DeleteFunc(stays.PortForwards, func(f router.PortForward) bool { return leaves(f.RouterID) })
	if len(stays.Routers) < len(c.was.Router.Routers) {
		if err := each(c.writers, func(x writer) error { return x.router.Sync(c.ctx, stays, force) }); err != nil {
			return fmt.Errorf("routers that leave: %w", err)
		}
	}
	both := w
	both.Overlay.Networks = slices.Clone(w.Overlay.Networks)
	for _, n := range c.was.Overlay.Networks {
		if byID(w.Overlay.Networks, n.ID, netID) == nil {
			both.Overlay.Networks = append(both.Overlay.Networks, n)
		}
	}
	if err := each(c.writers, func(x writer) error { return x.overlay.Sync(c.ctx, c.share(x, both), force) }); err != nil {
		return err
	}
	if err := each(c.writers, func(x writer) error { return x.secgroup.Sync(c.ctx, w.SecGroup, force) }); err != nil {
		return err
	}
	if err := c.plug(w); err != nil {
		return err
	}
	if err := each(c.writers, func(x writer) error { return x.router.Sync(c.ctx, w.Router, force) }); err != nil {
		return err
	}
	if len(both.Overlay.Networks) > len(w.Overlay.Networks) {
		if err := each(c.writers, func(x writer) error { return x.overlay.Sync(c.ctx, c.share(x, w), force) }); err != nil {
			return fmt.Errorf("networks that go: %w", err)
		}
	}
	if c.Settle != nil {
		c.Settle(c.t)
	}
	c.was, c.m = w, m
	return c.stands()
}

// plug gives every port its machine.
func (c *cloud) plug(w reach.World) error {
	for _, h := range c.Hosts {
		if p, ok := h.Plugger.(overlay.Pruner); ok {
			if err := p.Prune(c.ctx, w.Overlay.Ports); err != nil {
				return err
			}
		}
	}
	for _, p := range w.Overlay.Ports {
		for i, h := range c.Hosts {
			if h.Name != p.Host {
				continue
			}
			if _, err := c.fabrics[i].Plug(c.ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: c.machines[p.ID].Path}); err != nil {
				return err
			}
		}
		c.machines[p.ID].become(p.MAC, has(w, p))
	}
	for _, s := range w.Stations {
		c.machines[s.ID].become(s.MAC, addresses(s.Addresses))
	}
	for id, m := range c.machines {
		if byID(w.Overlay.Ports, id, portID) == nil && byID(w.Stations, id, stationID) == nil {
			m.become(vnet.MAC{2, 0, 0, 9, id[0], id[1]}, nil)
		}
		if err := m.plugged(); err != nil {
			return err
		}
	}
	return nil
}

// stands is an error when something differs from what was made.
func (c *cloud) stands() error {
	return each(c.writers, func(x writer) error {
		var sum vnet.Plan
		for _, plan := range []func() (vnet.Plan, error){
			func() (vnet.Plan, error) { return x.overlay.Plan(c.ctx, c.share(x, c.was)) },
			func() (vnet.Plan, error) { return x.secgroup.Plan(c.ctx, c.was.SecGroup) },
			func() (vnet.Plan, error) { return x.router.Plan(c.ctx, c.was.Router) },
		} {
			p, err := plan()
			if err != nil {
				return err
			}
			sum.Changes = append(sum.Changes, p.Changes...)
		}
		if !sum.Empty() {
			return fmt.Errorf("after Sync, on %s: %s", x.host.Name, sum)
		}
		return nil
	})
}

// text has a line for each object of a world.
func text(w reach.World) string {
	var out strings.Builder
	line := func(kind string, x any) {
		b, err := json.Marshal(x)
		if err != nil {
			b = []byte(err.Error())
		}
		fmt.Fprintf(&out, "\n  %s %s", kind, b)
	}
	for _, x := range w.Overlay.Networks {
		line("network", x)
	}
	for _, x := range w.Overlay.Ports {
		line("port", x)
	}
	for _, x := range w.Stations {
		line("station", x)
	}
	for _, x := range w.Holders {
		line("holder", x)
	}
	for _, x := range w.Router.Routers {
		line("router", x)
	}
	for _, x := range w.Router.FloatingIPs {
		line("floating IP", x)
	}
	for _, x := range w.Router.PortForwards {
		line("port forward", x)
	}
	for _, x := range w.SecGroup.Groups {
		line("group", x)
	}
	for _, x := range w.SecGroup.AddressGroups {
		line("address group", x)
	}
	for _, x := range w.SecGroup.Ports {
		line("secured", x)
	}
	return out.String()
}
