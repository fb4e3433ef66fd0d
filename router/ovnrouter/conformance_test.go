package ovnrouter_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
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
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
	"github.com/vnet-go/vnet/router/routertest"
)

var (
	// None unless asked for: many in a row end Debian's ovs-vswitchd 3.1.0 with
	// an assertion of its user space conntrack (lib/conntrack.c:1063, in
	// conn_update_state), which the lab needs as it has no kernel module.
	worlds  = flag.Int("worlds", 0, "how many random worlds")
	packets = flag.Int("packets", 8, "how many packets in each at most")
)

// site is one OVN installation with two chassis on physical network "ex",
// shared by the cases of a test.
type site struct {
	l  *lab.Lab
	c  *lab.Central
	hv []*lab.Chassis
	n  atomic.Int32
}

// newSite starts two chassis, and more of which these names are.
func newSite(t testing.TB, more ...string) *site {
	l := lab.New(t)
	s := &site{l: l, c: l.OVNCentral(nil)}
	var hv []lab.ChassisOptions
	for _, name := range append([]string{"hv1", "hv2"}, more...) {
		hv = append(hv, lab.ChassisOptions{Name: name, Physical: []string{"ex", "ex2"}})
	}
	s.hv = l.Chassis(s.c, hv...)
	return s
}

func (s *site) dial(t testing.TB, owner vnet.Owner) *ovn.Conn {
	c, err := ovn.Dial(t.Context(), owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: 60 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// host is the installation for an owner of its own, whose outside is a physical network.
func (s *site) host(t testing.TB, physical string) routertest.Host {
	owner := vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1))))
	c := s.dial(t, owner)
	p := &pluggers{t: t, s: s, owner: owner, c: c}
	ob, err := ovnoverlay.New(c, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, x := range p.on {
			if err := x.ch.Cleanup(ctx); err != nil {
				t.Error(err)
			}
			x.ch.Close()
		}
		c, err := ovn.Dial(ctx, owner, strings.Split(s.c.NBEndpoints(), ","), nil) // not all chassis may live
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Cleanup(ctx))
	})
	reopen := func(t testing.TB) router.Backend {
		b, err := ovnrouter.New(s.dial(t, owner), nil)
		require.NoError(t, err)
		return b
	}
	b, err := ovnrouter.New(c, nil)
	require.NoError(t, err)
	return routertest.Host{Overlay: ob, Plugger: p, In: overlay.Geneve, Router: b, Reopen: reopen,
		Writes:  func() int { return s.writes() },
		Out:     overlay.Segment{Type: overlay.Flat, PhysicalNetwork: physical},
		Station: func(t testing.TB, ns *lab.NS, p overlay.Port) { s.station(t, s.l.Wire(physical), ns, p.MAC) },
		Beside:  func(t testing.TB) routertest.Host { return s.host(t, "ex2") },
		Foreign: s.foreign,
		Lags:    true} // cached flows of the data path live until they are looked at again
}

// foreign makes a router of nobody and one of another owner, with the names,
// ids and addresses of ours.
func (s *site) foreign(t testing.TB) func(testing.TB) {
	for _, owner := range []string{"", "another"} {
		id := func(kind, id string) string {
			if owner == "" {
				return "external_ids:note=mine"
			}
			return fmt.Sprintf("external_ids={\"vnet:owner\"=%s,\"vnet:part\"=router,\"vnet:kind\"=%s,\"vnet:id\"=%s}", owner, kind, id)
		}
		n := "foreign" + owner
		s.c.NBCtl("--id=@n", "create", "NAT", "type=dnat_and_snat", "external_ip=203.0.113.50", "logical_ip=10.0.0.5", id("floatingip", "f1"),
			"--", "--id=@p", "create", "Logical_Router_Port", "name="+n+"-p", `mac="02:00:00:00:01:01"`, "networks=10.0.0.1/24", id("port", "r1-in"),
			"--", "--id=@l", "create", "Load_Balancer", "name="+n, `vips={"203.0.113.2:2200"="10.0.0.6:22"}`, id("portforward", "p1"),
			"--", "create", "Logical_Router", "name="+n, "nat=@n", "ports=@p", "load_balancer=@l", id("router", "r1"))
		s.c.NBCtl("create", "Address_Set", "name="+n, "addresses=203.0.113.50", id("hairpin", "r1"))
		t.Cleanup(func() {
			s.c.NBCtl("lr-del", n, "--", "lb-del", n, "--", "destroy", "Address_Set", n)
		})
	}
	look := func() string {
		out := ""
		for _, n := range []string{"foreign", "foreignanother"} {
			out += s.c.NBCtl("list", "Logical_Router", n) + s.c.NBCtl("list", "Logical_Router_Port", n+"-p") + s.c.NBCtl("lr-nat-list", n) + s.c.NBCtl("list", "Load_Balancer", n) + s.c.NBCtl("list", "Address_Set", n)
		}
		return out
	}
	was := look()
	return func(t testing.TB) { require.Equal(t, was, look()) }
}

// writes is the number that the Northbound gave to the last transaction.
func (s *site) writes() int {
	var n int
	fmt.Sscan(s.c.NBCtl("--bare", "--columns=nb_cfg", "list", "NB_Global"), &n)
	return n
}

// station puts a machine on the wire of a physical network.
func (s *site) station(t testing.TB, wire, ns *lab.NS, mac vnet.MAC) {
	end := fmt.Sprint("st", s.n.Add(1))
	s.l.Veth(wire, end, ns, "eth0")
	wire.IP("link", "set", "dev", end, "master", "br")
	// A namespace that goes lets its devices answer for a while.
	t.Cleanup(func() { wire.IP("link", "del", "dev", end) })
	ns.NoOffload("eth0")
	ns.IP("link", "set", "dev", "eth0", "down") // its link-local address is of the MAC
	ns.SetMAC("eth0", mac)
}

// pluggers plugs one machine here and the next there.
type pluggers struct {
	t     testing.TB
	s     *site
	owner vnet.Owner
	c     *ovn.Conn
	on    []*plugger
	n     int
	pin   map[string]int // the chassis of a port; else one after the other
}

type plugger struct {
	*ovnoverlay.Plugger
	ch      *ovn.Chassis
	plugged []string
}

func (p *pluggers) Plug(ctx context.Context, a overlay.Attachment) (overlay.Device, error) {
	if p.on == nil {
		for _, hv := range p.s.hv {
			ch, err := ovn.OpenChassis(ctx, p.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
			require.NoError(p.t, err)
			one, err := ovnoverlay.NewPlugger(p.c, ch)
			require.NoError(p.t, err)
			p.on = append(p.on, &plugger{Plugger: one, ch: ch})
		}
	}
	x := p.on[p.n%len(p.on)]
	if i, ok := p.pin[a.PortID]; ok {
		x = p.on[i]
	}
	for _, o := range p.on {
		if slices.Contains(o.plugged, a.PortID) {
			x = o
		}
	}
	if !slices.Contains(x.plugged, a.PortID) {
		x.plugged = append(x.plugged, a.PortID)
		p.n++
	}
	return x.Plug(ctx, a)
}

func (p *pluggers) Unplug(ctx context.Context, portID string) error { return nil }

func TestConformance(t *testing.T) {
	s := newSite(t)
	routertest.Run(t, routertest.Harness{Worlds: *worlds, Packets: *packets,
		Only: func(ring, name string) bool { return ring != "random" || *worlds > 0 },
		Make: func(t testing.TB) routertest.Host { return s.host(t, "ex") }})
}
