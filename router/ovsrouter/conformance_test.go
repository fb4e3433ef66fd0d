package ovsrouter_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
	"github.com/vnet-go/vnet/router/routertest"
)

var (
	worlds  = flag.Int("worlds", 20, "how many worlds the random ring makes")
	packets = flag.Int("packets", 0, "how many packets it sends in each at most; 0: 12")
)

// On one host, with networks of its own.
func TestConformance(t *testing.T) {
	s := newSite(t, 1, "netdev")
	routertest.Run(t, routertest.Harness{Worlds: *worlds, Packets: *packets, Make: func(t testing.TB) routertest.Host {
		return s.host(t, overlay.Local, overlay.Segment{})
	}})
}

// On two hosts: machines are plugged on one and the other, and routers are at
// home on the first; the second makes short cuts.
func TestConformanceTwoHosts(t *testing.T) {
	s := newSite(t, 2, "netdev")
	routertest.Run(t, routertest.Harness{Worlds: *worlds, Packets: *packets, Make: func(t testing.TB) routertest.Host {
		return s.host(t, overlay.VXLAN, overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"})
	}})
}

// site is hosts with Open vSwitch that all cases of a test use, each with an
// owner of its own.
type site struct {
	l        *lab.Lab
	sw       []*lab.Switch
	datapath string
	n        int
}

func newSite(t testing.TB, hosts int, datapath string) *site {
	s := &site{l: lab.New(t), datapath: datapath}
	var o []lab.SwitchOptions
	for i := range hosts {
		o = append(o, lab.SwitchOptions{Name: fmt.Sprintf("h%d", i+1), Physical: []string{"ex", "ex2"}, Datapath: datapath})
	}
	s.sw = s.l.Switches(o...)
	return s
}

// host is one hypervisor and the handles opened on it, one a process life.
type host struct {
	sw *lab.Switch
	o  ovs.Options

	mu   sync.Mutex
	open []*ovs.Switch
}

func (h *host) handle(t testing.TB, owner vnet.Owner) *ovs.Switch {
	t.Helper()
	s, err := ovs.Open(context.Background(), owner, &h.o)
	require.NoError(t, err)
	h.mu.Lock()
	h.open = append(h.open, s)
	h.mu.Unlock()
	return s
}

// purge empties the cache of the data path. A modified flow of Debian's
// ovs-vswitchd 3.1.0 (dpif-netdev.c, dpif_netdev_flow_put) may be another
// than the one that was meant, where flows of before and after a change
// overlap, and stays wrong for as long as it is used.
func (h *host) purge(t testing.TB) {
	_, err := h.sw.Vswitchd.Appctl("revalidator/purge")
	require.NoError(t, err)
}

// cloud is all hosts for one owner, as one to the suite. Ports go to one host
// and the next; routers are at home on the first.
type cloud struct {
	t     testing.TB
	owner vnet.Owner
	in    overlay.SegmentType
	hosts []*host
	nets  []*ovsoverlay.Backend

	mu      sync.Mutex
	at      map[string]int // the host of a port
	state   overlay.State
	routers map[string]router.Router
	home    int // the host they are at
}

func (s *site) host(t testing.TB, in overlay.SegmentType, out overlay.Segment) routertest.Host {
	s.n++
	c := &cloud{t: t, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n))), in: in, at: map[string]int{}, routers: map[string]router.Router{}}
	for _, sw := range s.sw {
		h := &host{sw: sw, o: ovs.Options{Name: sw.Short, Database: sw.Endpoint, RunDir: sw.Dir, Control: sw.Vswitchd.Ctl, Netns: sw.Path, TunnelIP: sw.EncapIP, PhysicalNetworks: sw.Mappings, DatapathType: s.datapath}}
		t.Cleanup(func() {
			if err := h.handle(t, c.owner).Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
			for _, x := range h.open {
				x.Close()
			}
		})
		b, err := ovsoverlay.New(h.handle(t, c.owner), nil)
		require.NoError(t, err)
		c.hosts, c.nets = append(c.hosts, h), append(c.nets, b)
	}
	x := routertest.Host{Overlay: c, Router: c.process(t, -1), In: in, Out: out, Serves: true, Told: len(s.sw) > 1,
		Reopen:  func(t testing.TB) router.Backend { return c.process(t, -1) },
		Dying:   func(t testing.TB, n int) router.Backend { return c.process(t, n) },
		Writes:  c.writes,
		Foreign: c.foreign,
		Beside: func(t testing.TB) routertest.Host {
			if out.Type == "" {
				return s.host(t, in, out)
			}
			return s.host(t, overlay.Local, overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex2"})
		}}
	if out.Type != "" {
		x.Station = func(t testing.TB, ns *lab.NS, p overlay.Port) { s.station(t, s.l.Wire(out.PhysicalNetwork), ns, p.MAC) }
	}
	return x
}

// station puts a machine on the wire of a physical network.
func (s *site) station(t testing.TB, wire, ns *lab.NS, mac vnet.MAC) {
	s.n++
	end := fmt.Sprint("st", s.n)
	s.l.Veth(wire, end, ns, "eth0")
	wire.IP("link", "set", "dev", end, "master", "br")
	t.Cleanup(func() { wire.IP("link", "del", "dev", end) })
	ns.NoOffload("eth0")
	ns.IP("link", "set", "dev", "eth0", "down") // its link-local address is of the MAC
	ns.SetMAC("eth0", mac)
}

func (c *cloud) writes() (n int) {
	for _, h := range c.hosts {
		h.mu.Lock()
		for _, s := range h.open {
			n += int(s.Writes())
		}
		h.mu.Unlock()
	}
	return n
}

// foreign makes the same of another owner, and flows of nobody's in our bridge.
func (c *cloud) foreign(t testing.TB) func(testing.TB) {
	h := c.hosts[0]
	s := h.handle(t, c.owner+"x")
	t.Cleanup(func() { require.NoError(t, s.Cleanup(context.Background())) })
	b, err := ovsrouter.New(s, nil)
	require.NoError(t, err)
	svc, err := router.New(b, nil)
	require.NoError(t, err)
	require.NoError(t, svc.EnsureRouter(t.Context(), router.Router{ID: "r1", Interfaces: []router.Interface{
		{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}}))
	ours := h.open[0].Bridge()
	h.sw.Ofctl("add-flow", ours, "table=50,priority=7,reg4=0x1ffe,actions=drop")
	look := func() (out string) {
		for _, br := range []string{s.Bridge(), "br-ex"} {
			for l := range strings.Lines(h.sw.Ofctl("dump-flows", br, "--no-stats")) {
				if strings.Contains(l, "actions=") {
					out += br + ": " + l
				}
			}
		}
		return out
	}
	was := look()
	return func(t testing.TB) {
		require.Equal(t, was, look())
		require.Contains(t, h.sw.Ofctl("dump-flows", ours), "reg4=0x1ffe")
	}
}

// The overlay of all hosts.

func (c *cloud) Features(ctx context.Context) overlay.Features { return c.nets[0].Features(ctx) }
func (c *cloud) Health(ctx context.Context) vnet.Health        { return c.nets[0].Health(ctx) }
func (c *cloud) Plan(context.Context, overlay.State) (vnet.Plan, error) {
	return vnet.Plan{}, errors.New("the suite does not ask")
}

// place gives a port a host that it keeps.
func (c *cloud) place(portID string) int {
	if _, ok := c.at[portID]; !ok {
		c.at[portID] = len(c.at) % len(c.hosts)
	}
	return c.at[portID]
}

func (c *cloud) change(ctx context.Context, f func(s *overlay.State)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
	return c.write(ctx)
}

// write tells each host what is on it, and what is on the others.
func (c *cloud) write(ctx context.Context) error {
	tunnelled := map[string]bool{}
	for _, n := range c.state.Networks {
		tunnelled[n.ID] = n.Segment.Type.Tunnel()
	}
	for i, b := range c.nets {
		s := overlay.State{Networks: c.state.Networks}
		for _, p := range c.state.Ports {
			at := c.place(p.ID)
			if at == i {
				s.Ports = append(s.Ports, p)
			} else if tunnelled[p.NetworkID] {
				s.RemotePorts = append(s.RemotePorts, overlay.RemotePort{ID: p.ID, NetworkID: p.NetworkID, MAC: p.MAC, IPs: p.FixedIPs, Endpoint: c.hosts[at].o.TunnelIP})
			}
		}
		for _, r := range c.routers {
			for _, x := range r.Interfaces {
				if i != c.home && tunnelled[x.NetworkID] {
					p := overlay.RemotePort{ID: x.PortID, NetworkID: x.NetworkID, MAC: x.MAC, Endpoint: c.hosts[c.home].o.TunnelIP}
					for _, a := range x.Addresses {
						p.IPs = append(p.IPs, a.Addr())
					}
					s.RemotePorts = append(s.RemotePorts, p)
				}
			}
		}
		if err := b.Sync(ctx, s, vnet.SyncOptions{Force: true}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cloud) EnsureNetwork(ctx context.Context, n overlay.Network) error {
	return c.change(ctx, func(s *overlay.State) {
		s.Networks = append(slices.DeleteFunc(slices.Clone(s.Networks), func(x overlay.Network) bool { return x.ID == n.ID }), n)
	})
}

func (c *cloud) EnsurePort(ctx context.Context, p overlay.Port) error {
	return c.change(ctx, func(s *overlay.State) {
		s.Ports = append(slices.DeleteFunc(slices.Clone(s.Ports), func(x overlay.Port) bool { return x.ID == p.ID }), p)
	})
}

func (c *cloud) DeleteNetwork(context.Context, string) error { return errors.New("the suite does not") }
func (c *cloud) DeletePort(context.Context, string) error    { return errors.New("the suite does not") }

func (c *cloud) Sync(ctx context.Context, s overlay.State, _ vnet.SyncOptions) error {
	return c.change(ctx, func(x *overlay.State) { *x = s })
}

func (c *cloud) Plug(ctx context.Context, a overlay.Attachment) (overlay.Device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nets[c.place(a.PortID)].Plug(ctx, a)
}

func (c *cloud) Unplug(ctx context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nets[c.place(id)].Unplug(ctx, id)
}

// process is the router backends of all hosts, in one process of each host.
type process struct {
	*ovsrouter.Backend // of the first host
	c                  *cloud
	others             []*ovsrouter.Backend
}

// process starts one. The first host's dies after n writes, if n is not negative.
func (c *cloud) process(t testing.TB, n int) router.Backend {
	p := &process{c: c}
	for i, h := range c.hosts {
		var target ovs.Target = h.handle(t, c.owner)
		if i == 0 && n >= 0 {
			target = &dying{target, n}
		}
		b, err := ovsrouter.New(target, nil)
		require.NoError(t, err)
		if i == 0 {
			p.Backend = b
		} else {
			p.others = append(p.others, b)
		}
	}
	return p
}

// dying is the target of a process that ends after some writes.
type dying struct {
	ovs.Target
	left int
}

func (d *dying) Submit(ctx context.Context, part vnet.Part, f func(tx *ovs.Tx) error) error {
	if d.left--; d.left < 0 {
		return errors.New("killed")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return d.Target.Submit(ctx, part, func(tx *ovs.Tx) error {
		tx.After(func(context.Context) error {
			if d.left == 0 { // nothing follows what stands
				cancel()
			}
			return nil
		})
		return f(tx)
	})
}

// all does the same on every host, the first one first.
func (p *process) all(first error, f func(b *ovsrouter.Backend) error) error {
	if first != nil {
		return first
	}
	for _, b := range p.others {
		if err := f(b); err != nil {
			return err
		}
	}
	for _, h := range p.c.hosts {
		h.purge(p.c.t)
	}
	return nil
}

// told makes the overlays know of routers.
func (p *process) told(ctx context.Context, f func(m map[string]router.Router)) error {
	c := p.c
	if len(c.hosts) == 1 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := maps.Clone(c.routers)
	f(c.routers)
	if maps.EqualFunc(was, c.routers, router.Router.Equal) {
		return nil
	}
	return c.write(ctx)
}

// there is a router as another host than its own is told of it.
func there(r router.Router) router.Router {
	r.Host = "h1"
	return r
}

func (p *process) EnsureRouter(ctx context.Context, r router.Router) error {
	return p.all(p.Backend.EnsureRouter(ctx, r), func(b *ovsrouter.Backend) error {
		return errors.Join(p.told(ctx, func(m map[string]router.Router) { m[r.ID] = r }), b.EnsureRouter(ctx, there(r)))
	})
}

func (p *process) DeleteRouter(ctx context.Context, id string) error {
	return p.all(p.Backend.DeleteRouter(ctx, id), func(b *ovsrouter.Backend) error {
		return errors.Join(p.told(ctx, func(m map[string]router.Router) { delete(m, id) }), b.DeleteRouter(ctx, id))
	})
}

func (p *process) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	return p.all(p.Backend.EnsureFloatingIP(ctx, f), func(b *ovsrouter.Backend) error { return b.EnsureFloatingIP(ctx, f) })
}

func (p *process) DeleteFloatingIP(ctx context.Context, id string) error {
	return p.all(p.Backend.DeleteFloatingIP(ctx, id), func(b *ovsrouter.Backend) error { return b.DeleteFloatingIP(ctx, id) })
}

func (p *process) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	return p.all(p.Backend.EnsurePortForward(ctx, f), func(b *ovsrouter.Backend) error { return b.EnsurePortForward(ctx, f) })
}

func (p *process) DeletePortForward(ctx context.Context, id string) error {
	return p.all(p.Backend.DeletePortForward(ctx, id), func(b *ovsrouter.Backend) error { return b.DeletePortForward(ctx, id) })
}

func elsewhere(s router.State) router.State {
	s = s.Clone()
	for i := range s.Routers {
		s.Routers[i] = there(s.Routers[i])
	}
	return s
}

func (p *process) Sync(ctx context.Context, s router.State, o vnet.SyncOptions) error {
	return p.all(p.Backend.Sync(ctx, s, o), func(b *ovsrouter.Backend) error {
		return errors.Join(p.told(ctx, func(m map[string]router.Router) {
			clear(m)
			for _, r := range s.Routers {
				m[r.ID] = r
			}
		}), b.Sync(ctx, elsewhere(s), vnet.SyncOptions{Force: true}))
	})
}

func (p *process) Plan(ctx context.Context, s router.State) (vnet.Plan, error) {
	plan, err := p.Backend.Plan(ctx, s)
	for _, b := range p.others {
		if err == nil && plan.Empty() {
			plan, err = b.Plan(ctx, elsewhere(s))
		}
	}
	return plan, err
}

func (p *process) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for _, b := range append(p.others, p.Backend) {
		go func() {
			err := b.Serve(ctx)
			cancel()
			ended <- err
		}()
	}
	var errs []error
	for range len(p.others) + 1 {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, netip.MustParsePrefix(x))
	}
	return out
}
