package ovnrouter_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/routertest"
)

const patience = 30 * time.Second

// town is router r1 between network "in" and the physical network, with its
// gateway on hv1 first, machine "a" on the last chassis, and "ext" outside.
type town struct {
	*site
	t      testing.TB
	h      routertest.Host
	svc    *router.Service
	fabric *overlay.Fabric
	m      *lab.Lab
	ext, a *lab.NS
	r      router.Router
}

func newTown(t testing.TB, s *site) *town {
	w := &town{site: s, t: t, h: s.host(t, "ex"), m: lab.New(t)}
	var err error
	w.svc, err = router.New(w.h.Router, nil)
	require.NoError(t, err)
	w.fabric, err = overlay.New(w.h.Overlay, nil)
	require.NoError(t, err)
	for _, n := range []overlay.Network{{ID: "in", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}}, {ID: "out", Segment: w.h.Out}} {
		require.NoError(t, w.fabric.EnsureNetwork(t.Context(), n))
	}
	w.h.Plugger.(*pluggers).pin = map[string]int{"a": len(s.hv) - 1}
	w.ext = w.m.NS("ext")
	w.h.Station(t, w.ext, overlay.Port{MAC: vnet.MAC{2, 0, 0, 0, 0, 0x15}})
	w.ext.Configure("eth0", []string{"203.0.113.1/24", "2001:db8:f::1/64"})
	w.ext.Route("2001:db8:1::/64", "2001:db8:f::2")
	w.a = w.vm("a", 0x11, "10.0.0.5/24", "2001:db8:1::5/64")
	w.r = router.Router{ID: "r1",
		Interfaces: []router.Interface{{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")}}},
		Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Hosts: []string{"hv1", "hv2"},
			Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24"), netip.MustParsePrefix("2001:db8:f::2/64")},
			NextHops:  []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:f::1")}}}
	require.NoError(t, w.svc.EnsureRouter(t.Context(), w.r))
	return w
}

func (w *town) vm(name string, n byte, addrs ...string) *lab.NS {
	ns := w.m.NS(name)
	require.NoError(w.t, w.fabric.EnsurePort(w.t.Context(), overlay.Port{ID: name, NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 0, n}}))
	_, err := w.h.Plugger.Plug(w.t.Context(), overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
	require.NoError(w.t, err)
	ns.Configure("eth0", addrs, "10.0.0.1", "2001:db8:1::1")
	return ns
}

func (w *town) floating(f router.FloatingIP) {
	w.t.Helper()
	f.ID, f.RouterID = "f1", "r1"
	f.FloatingIP, f.FixedIP = netip.MustParseAddr("203.0.113.50"), netip.MustParseAddr("10.0.0.5")
	require.NoError(w.t, w.svc.EnsureFloatingIP(w.t.Context(), f))
}

// active waits until the Southbound has the gateway on a chassis.
func (w *town) active(chassis string) {
	w.t.Helper()
	lab.Eventually(w.t, patience, "the gateway is on "+chassis, func() bool {
		x, err := w.svc.Explain(w.t.Context(), "router", "r1")
		require.NoError(w.t, err)
		return strings.Contains(x.String(), "cr-") && strings.Contains(x.String(), "on chassis "+chassis+" ")
	})
}

// echo answers lines on TCP port 7.
func echo(t testing.TB, ns *lab.NS) {
	var l net.Listener
	require.NoError(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", ":7")
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
}

// call is a connection over which something is said all the time.
type call struct {
	c    net.Conn
	gap  time.Duration // the longest wait for an answer
	said int
}

func dial(t testing.TB, from *lab.NS, to string) *call {
	var c net.Conn
	lab.Eventually(t, patience, "a connection to "+to, func() bool {
		return from.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", to, 5*time.Second)
			return err
		}) == nil
	})
	t.Cleanup(func() { c.Close() })
	return &call{c: c}
}

// talk says something and waits for the answer.
func (k *call) talk(t testing.TB) {
	t.Helper()
	start := time.Now()
	k.said++
	k.c.SetDeadline(start.Add(2 * patience))
	want := fmt.Sprint("line ", k.said)
	_, err := fmt.Fprintln(k.c, want)
	require.NoError(t, err)
	got, err := bufio.NewReaderSize(k.c, 16).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(got))
	k.gap = max(k.gap, time.Since(start))
}

func TestGatewayFailsOver(t *testing.T) {
	// The third is what tells hv2 that it is hv1 that is away: a chassis that
	// hears nobody takes itself for the one that is cut off.
	s := newSite(t, "hv3")
	w := newTown(t, s)
	w.floating(router.FloatingIP{})
	w.active("hv1")
	echo(t, w.a)
	echo(t, w.ext)
	calls := map[string]*call{
		"to the floating IP": dial(t, w.ext, "203.0.113.50:7"),
		"out":                dial(t, w.a, "203.0.113.1:7"),
		"out over IPv6":      dial(t, w.a, "[2001:db8:f::1]:7"),
		"from outside, IPv6": dial(t, w.ext, "[2001:db8:1::5]:7"),
	}
	all := func() {
		t.Helper()
		for _, k := range calls {
			k.talk(t)
		}
	}
	for range 5 {
		all()
	}
	t.Log("hv1 dies: its ovn-controller is killed, and it is off all networks")
	s.hv[0].OVNController.Kill()
	s.hv[0].CutOff()
	s.l.Wire("ex").IP("link", "set", "dev", "hv1", "nomaster")
	start := time.Now()
	all()
	t.Logf("all connections go on after %v", time.Since(start))
	w.active("hv2")
	for range 5 {
		all()
	}
	for what, k := range calls {
		t.Logf("%s: longest wait %v", what, k.gap)
	}
	lab.Eventually(t, patience, "a new connection", func() bool { return w.ext.Ping("203.0.113.50", 1) == nil && w.a.Ping("203.0.113.1", 1) == nil })
}

func TestGatewayGoesWhereItIsTold(t *testing.T) {
	s := newSite(t)
	w := newTown(t, s)
	w.active("hv1")
	echo(t, w.ext)
	k := dial(t, w.a, "203.0.113.1:7")
	k.talk(t)
	w.r.Gateway.Hosts = []string{"hv2", "hv1"}
	require.NoError(t, w.svc.EnsureRouter(t.Context(), w.r))
	w.active("hv2")
	k.talk(t)
	// Without word from above it stays where it is.
	w.r.Gateway.Hosts = nil
	st := router.State{Routers: []router.Router{w.r}}
	p, err := w.svc.Plan(t.Context(), st)
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())
	w.r.Gateway.Hosts = []string{"hv1"}
	require.NoError(t, w.svc.EnsureRouter(t.Context(), w.r))
	w.active("hv1")
	k.talk(t)
}

func TestDistributedFloatingIPPassesNoGateway(t *testing.T) {
	s := newSite(t)
	w := newTown(t, s)
	mac := vnet.MAC{2, 0, 0, 0, 5, 0x50}
	w.floating(router.FloatingIP{PortID: "a", ExternalMAC: mac})
	w.active("hv1")
	lab.Eventually(t, patience, "the floating IP answers", func() bool { return w.ext.Ping("203.0.113.50", 1) == nil && w.a.Ping("203.0.113.1", 1) == nil })

	// What is said in the clear is seen wherever it passes, in tunnels too.
	const marker = "a floating IP of its own"
	var u net.PacketConn
	require.NoError(t, w.a.Do(func() (err error) {
		u, err = net.ListenPacket("udp", ":7")
		return err
	}))
	defer u.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(buf[:n], from)
		}
	}()
	var c net.Conn
	require.NoError(t, w.ext.Do(func() (err error) {
		c, err = net.Dial("udp", "203.0.113.50:7")
		return err
	}))
	defer c.Close()
	marked := func(f lab.Frame) bool { return bytes.Contains(f.Bytes(), []byte(marker)) }
	talk := func() {
		t.Helper()
		lab.Eventually(t, patience, "an answer", func() bool {
			fmt.Fprint(c, marker)
			c.SetReadDeadline(time.Now().Add(time.Second))
			_, err := c.Read(make([]byte, 100))
			return err == nil
		})
	}
	gateway := []*lab.Capture{s.hv[0].CaptureBoth("tun0"), s.hv[0].CaptureBoth("ex")}
	here := s.hv[1].CaptureBoth("ex")
	talk()
	here.Wait(patience, func(f lab.Frame) bool {
		return marked(f) && f.SrcMAC == mac && f.Src == netip.MustParseAddr("203.0.113.50")
	})
	here.Wait(patience, func(f lab.Frame) bool {
		return marked(f) && f.DstMAC == mac && f.Dst == netip.MustParseAddr("203.0.113.50")
	})
	for _, g := range gateway {
		g.None(0, marked)
	}

	// It needs no gateway chassis at all.
	s.hv[0].CutTunnels()
	s.l.Wire("ex").IP("link", "set", "dev", "hv1", "nomaster")
	talk()
	s.l.Wire("ex").IP("link", "set", "dev", "hv1", "master", "br")
	s.hv[0].JoinTunnels()

	// A forward to the same address takes it to the gateway, whose answers
	// could not find back otherwise; and it goes back when that goes.
	f := router.PortForward{ID: "p1", RouterID: "r1", Protocol: "udp", ExternalIP: netip.MustParseAddr("203.0.113.2"), ExternalPort: router.PortRange{First: 77},
		InternalIP: netip.MustParseAddr("10.0.0.5"), InternalPort: router.PortRange{First: 7}}
	require.NoError(t, w.svc.EnsurePortForward(t.Context(), f))
	w.active("hv1")
	x, err := w.svc.Explain(t.Context(), "floatingip", "f1")
	require.NoError(t, err)
	require.Contains(t, x.String(), "translated where the gateway is")
	gateway[0].Reset()
	talk()
	gateway[0].Wait(patience, marked) // by the tunnel
	require.NoError(t, w.svc.DeletePortForward(t.Context(), "p1"))
	x, err = w.svc.Explain(t.Context(), "floatingip", "f1")
	require.NoError(t, err)
	require.Contains(t, x.String(), "on chassis hv2")
	st := router.State{Routers: []router.Router{w.r}, FloatingIPs: []router.FloatingIP{{ID: "f1", RouterID: "r1", PortID: "a", ExternalMAC: mac,
		FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}}}
	p, err := w.svc.Plan(t.Context(), st)
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())
}
