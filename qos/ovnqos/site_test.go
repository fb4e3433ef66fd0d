package ovnqos_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovnqos"
	"github.com/vnet-go/vnet/qos/qostest"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
)

const patience = 30 * time.Second

// physical is the physical network of all chassis, of the name that the suite
// has for an uplink.
const physical = "physnet1"

// site is one OVN installation with two chassis.
type site struct {
	l  *lab.Lab
	c  *lab.Central
	hv []*lab.Chassis
	n  atomic.Int32
}

func newSite(t testing.TB, datapath string) *site {
	l := lab.New(t)
	s := &site{l: l, c: l.OVNCentral(nil)}
	o := lab.ChassisOptions{Name: "hv1", Physical: []string{physical}, Datapath: datapath}
	p := o
	p.Name = "hv2"
	s.hv = l.Chassis(s.c, o, p)
	t.Cleanup(func() {
		for _, hv := range s.hv {
			log, err := os.ReadFile(hv.OVNController.Log)
			require.NoError(t, err)
			require.NotContains(t, string(log), "error parsing") // a match
		}
	})
	return s
}

// tenant is the installation as one owner has it.
type tenant struct {
	*site
	t       testing.TB
	owner   vnet.Owner
	c       *ovn.Conn
	overlay *ovnoverlay.Backend
	router  *ovnrouter.Backend
	qos     *ovnqos.Backend
	on      []*ovnoverlay.Plugger
	shares  []*ovnqos.Shares // none: no guarantees
	vms     byte
	nets    map[string]bool
}

func (s *site) dial(t testing.TB, owner vnet.Owner) *ovn.Conn {
	c, err := ovn.Dial(t.Context(), owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: lab.Patience(60 * time.Second)})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *site) tenant(t testing.TB) *tenant {
	x := &tenant{site: s, t: t, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1)))), nets: map[string]bool{}}
	x.c = s.dial(t, x.owner)
	var err error
	x.overlay, err = ovnoverlay.New(x.c, nil)
	require.NoError(t, err)
	x.router, err = ovnrouter.New(x.c, nil)
	require.NoError(t, err)
	for _, hv := range s.hv {
		ch, err := ovn.OpenChassis(t.Context(), x.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
		require.NoError(t, err)
		p, err := ovnoverlay.NewPlugger(x.c, ch)
		require.NoError(t, err)
		x.on = append(x.on, p)
		t.Cleanup(func() {
			if err := ch.Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
			ch.Close()
		})
	}
	t.Cleanup(func() {
		c, err := ovn.Dial(context.Background(), x.owner, strings.Split(s.c.NBEndpoints(), ","), nil)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Cleanup(context.Background()))
	})
	x.qos = x.backend(x.c)
	return x
}

func (x *tenant) backend(to ovn.Target) *ovnqos.Backend {
	b, err := ovnqos.New(to, &ovnqos.Options{Meters: x.meters, Shares: x.shares != nil})
	require.NoError(x.t, err)
	return b
}

// share has hosts share out their uplinks, each by a connection to the
// Southbound only.
func (x *tenant) share() {
	for _, hv := range x.hv {
		c, err := ovn.Dial(x.t.Context(), x.owner, nil, &ovn.Options{Southbound: strings.Split(x.site.c.SBEndpoints(), ",")})
		require.NoError(x.t, err)
		s, err := ovnqos.NewShares(c, hv.ChassisName, &ovnqos.SharesOptions{Netns: hv.Path, Every: time.Second,
			Devices: map[string]string{qos.Tunnelled: "br-phy", physical: physical}})
		require.NoError(x.t, err)
		x.shares = append(x.shares, s)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		x.t.Cleanup(func() {
			cancel()
			if err := errors.Join(<-done, s.Close(), c.Close()); err != nil {
				x.t.Error(err)
			}
		})
	}
	x.qos = x.backend(x.c)
}

// meters asks all hosts, as an application's agents do.
func (s *site) meters(ctx context.Context) (all []ovnqos.Meter, err error) {
	for _, hv := range s.hv {
		m, err := ovnqos.Meters(ctx, "unix:"+hv.Dir+"/br-int.mgmt")
		if err != nil {
			return nil, err
		}
		all = append(all, m...)
	}
	return all, nil
}

func (x *tenant) network(id string, s overlay.Segment) {
	x.t.Helper()
	if !x.nets[id] {
		x.nets[id] = true
		require.NoError(x.t, x.overlay.EnsureNetwork(x.t.Context(), overlay.Network{ID: id, Segment: s}))
	}
}

// port makes a port of a network; plug plugs a machine there, on one of the chassis.
func (x *tenant) port(network, id string, subnet4, subnet6 string) (plug func(hv int) qostest.VM) {
	x.t.Helper()
	x.vms++
	n := x.vms
	v := qostest.VM{PortID: id, V4: fmt.Sprintf("%s.%d", subnet4, 10+n)}
	addrs := []string{v.V4 + "/24"}
	ips := []netip.Addr{netip.MustParseAddr(v.V4)}
	if subnet6 != "" {
		v.V6 = fmt.Sprintf("%s::%x", subnet6, 16+int(n))
		addrs, ips = append(addrs, v.V6+"/64"), append(ips, netip.MustParseAddr(v.V6))
	}
	require.NoError(x.t, x.overlay.EnsurePort(x.t.Context(), overlay.Port{ID: id, NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}, FixedIPs: ips}))
	return func(hv int) qostest.VM {
		x.t.Helper()
		v.NS = x.l.NS(id)
		_, err := x.on[hv].Plug(x.t.Context(), overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: v.NS.Path})
		require.NoError(x.t, err)
		v.NS.NoOffload("eth0")
		v.NS.Configure("eth0", addrs)
		return v
	}
}

// reaches waits until packets pass.
func (x *tenant) reaches(from qostest.VM, to ...string) {
	x.t.Helper()
	for _, a := range to {
		lab.Eventually(x.t, patience, from.PortID+" reaches "+a, func() bool { return from.NS.Ping(a, 1) == nil })
	}
}

// settle empties the caches of the data paths, which follow the tables a moment
// later by themselves, and lets hosts share out.
func (x *tenant) settle() {
	for _, s := range x.shares {
		lab.Eventually(x.t, patience, "uplinks are shared out", func() bool { return s.Apply(x.t.Context()) == nil })
	}
	for _, hv := range x.hv {
		hv.Exec("ovs-appctl", "revalidator/purge")
	}
}

// routed is router r1 between network "inside" and the physical one: its
// gateway is on hv1, floating IP f1 is port fl's.
func (x *tenant) routed() (qostest.Routed, router.Router) {
	x.t.Helper()
	ctx := x.t.Context()
	x.network("inside", overlay.Segment{Type: overlay.Geneve, ID: 77})
	x.network("ext", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: physical})
	r := qostest.Routed{
		Gateway:    qos.Gateway{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext"},
		FloatingIP: qos.FloatingIP{ID: "f1", RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", FixedPortID: "fl", FloatingIP: netip.MustParseAddr("203.0.113.50")},
		Floating:   x.port("inside", "fl", "10.1.0", "2001:db8:1")(1),
		Plain:      x.port("inside", "pl", "10.1.0", "2001:db8:1")(0),
		Outside:    qostest.VM{NS: x.l.NS("out"), V4: "203.0.113.1", V6: "2001:db8:f::1"},
	}
	wire := x.l.Wire(physical)
	x.l.Plug(wire, r.Outside.NS, "eth0")
	r.Outside.NS.NoOffload("eth0")
	r.Outside.NS.Configure("eth0", []string{"203.0.113.1/24", "2001:db8:f::1/64"})
	for _, v := range []qostest.VM{r.Floating, r.Plain} {
		v.NS.Route("default", "10.1.0.1")
		v.NS.Route("default", "2001:db8:1::1")
	}
	r.Outside.NS.Route("10.1.0.0/24", "203.0.113.2")
	r.Outside.NS.Route("2001:db8:1::/64", "2001:db8:f::2")
	rt := router.Router{ID: "r1",
		Interfaces: []router.Interface{{PortID: "r1-in", NetworkID: "inside", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: prefixes("10.1.0.1/24", "2001:db8:1::1/64")}},
		Gateway: &router.Gateway{PortID: "r1-ext", NetworkID: "ext", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Hosts: []string{"hv1"},
			Addresses: prefixes("203.0.113.2/24", "2001:db8:f::2/64"), NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:f::1")}}}
	require.NoError(x.t, x.router.EnsureRouter(ctx, rt))
	require.NoError(x.t, x.router.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: r.FloatingIP.FloatingIP, FixedIP: netip.MustParseAddr(r.Floating.V4), PortID: "fl"}))
	x.reaches(r.Plain, r.Outside.V4, r.Outside.V6)
	x.reaches(r.Outside, "203.0.113.50")
	return r, rt
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// suite is what [qostest] wants of a tenant.
func (x *tenant) suite() qostest.Site {
	on := func(remote bool) int {
		if remote {
			return 1
		}
		return 0
	}
	var first *qostest.VM
	plug := func(make func(int) qostest.VM, remote bool) qostest.VM {
		v := make(on(remote))
		if first == nil {
			first = &v
		} else {
			x.reaches(v, first.V4, first.V6)
		}
		return v
	}
	return qostest.Site{Backend: x.qos, Host: "hv1", Settle: x.settle,
		Reopen: func(t testing.TB) qos.Backend { return x.backend(x.dial(t, x.owner)) },
		VM: func(t testing.TB, id string, remote bool) qostest.VM {
			x.network("net", overlay.Segment{Type: overlay.Geneve, ID: 1})
			return plug(x.port("net", id, "10.0.0", "2001:db8"), remote)
		},
		Late: func(t testing.TB, id string) func() qostest.VM {
			x.network("net", overlay.Segment{Type: overlay.Geneve, ID: 1})
			make := x.port("net", id, "10.0.0", "2001:db8")
			return func() qostest.VM { return plug(make, false) }
		},
		Routed: func(t testing.TB) qostest.Routed { r, _ := x.routed(); return r },
		Uplink: func(t testing.TB, name string) qostest.Uplinked {
			u := qostest.Uplinked{Name: name}
			net, segment, subnet := "tunnelled", overlay.Segment{Type: overlay.Geneve, ID: 2}, "10.2.0"
			if name != qos.Tunnelled {
				net, segment, subnet = "flat", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: name}, "10.3.0"
			}
			x.network(net, segment)
			for i := range 2 {
				u.From[i] = x.port(net, fmt.Sprint(net[:1], "from", i), subnet, "")(0)
				u.To[i] = x.port(net, fmt.Sprint(net[:1], "to", i), subnet, "")(1)
				x.reaches(u.From[i], u.To[i].V4)
			}
			return u
		},
	}
}
