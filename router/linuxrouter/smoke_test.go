package linuxrouter_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

// site is one host with networks "in" (10.0.0.0/24, 2001:db8:1::/64) and "out"
// (203.0.113.0/24, 2001:db8:2::/64), a machine on each, and a router.
type site struct {
	l       *lab.Lab
	h       *linux.Host
	fabric  *overlay.Fabric
	svc     *router.Service
	vm, ext *lab.NS
}

// open returns the handle of a host for the owner of that suffix.
func open(t testing.TB, l *lab.Lab, ns *lab.NS, owner string) *linux.Host {
	h, err := linux.Open(context.Background(), vnet.Owner(l.Owner(owner)), &linux.Options{Name: "h1", Netns: ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return h
}

var r1 = router.Router{ID: "r1",
	Interfaces: []router.Interface{{PortID: "ri", NetworkID: "in", MAC: vnet.MustParseMAC("02:00:00:00:00:01"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")},
		RA:        &router.RA{Mode: router.SLAAC, MTU: 1400, RDNSS: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Interval: 4 * time.Second}}},
	Gateway: &router.Gateway{PortID: "rg", NetworkID: "out", MAC: vnet.MustParseMAC("02:00:00:00:00:02"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24"), netip.MustParsePrefix("2001:db8:2::2/64")},
		NextHops:  []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:2::1")}},
}

func (s *site) networks(t testing.TB, b overlay.Backend) {
	var err error
	s.fabric, err = overlay.New(b, nil)
	require.NoError(t, err)
	for _, id := range []string{"in", "out"} {
		require.NoError(t, s.fabric.EnsureNetwork(context.Background(), overlay.Network{ID: id, Segment: overlay.Segment{Type: overlay.Local}}))
	}
}

func newSite(t testing.TB) *site {
	l := lab.New(t)
	ctx := context.Background()
	hns := l.NS("h1")
	s := &site{l: l, h: open(t, l, hns, ""), vm: l.NS("vm"), ext: l.NS("ext")}
	ob, err := linuxoverlay.New(s.h, nil)
	require.NoError(t, err)
	s.networks(t, ob)
	rb, err := linuxrouter.New(s.h, nil)
	require.NoError(t, err)
	s.svc, err = router.New(rb, nil)
	require.NoError(t, err)
	for _, m := range []struct {
		ns  *lab.NS
		net string
		mac byte
	}{{s.vm, "in", 0x11}, {s.ext, "out", 0x12}} {
		p := overlay.Port{ID: m.ns.Short, NetworkID: m.net, MAC: vnet.MAC{2, 0, 0, 0, 0, m.mac}}
		require.NoError(t, s.fabric.EnsurePort(ctx, p))
		_, err := s.fabric.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Netns: m.ns.Path})
		require.NoError(t, err)
	}
	s.vm.Configure("eth0", []string{"10.0.0.5/24", "2001:db8:1::5/64"}, "10.0.0.1", "2001:db8:1::1")
	s.ext.Configure("eth0", []string{"203.0.113.1/24", "2001:db8:2::1/64"})
	s.ext.Route("2001:db8:1::/64", "2001:db8:2::2")
	return s
}

func TestRouterRoutesAndTranslates(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	require.NoError(t, s.svc.EnsureRouter(ctx, r1))
	require.NoError(t, s.vm.Ping("10.0.0.1", 2))
	cap := s.ext.Capture("eth0")
	require.NoError(t, s.vm.Ping("203.0.113.1", 2))
	cap.Wait(time.Second, func(f lab.Frame) bool {
		return f.Proto == lab.ICMP && f.Src == netip.MustParseAddr("203.0.113.2") && f.TTL == 63
	})
	require.NoError(t, s.vm.Ping("2001:db8:2::1", 2))

	// A floating IP, both ways and to itself.
	fip := router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}
	require.NoError(t, s.svc.EnsureFloatingIP(ctx, fip))
	require.NoError(t, s.ext.Ping("203.0.113.50", 2))
	require.NoError(t, s.vm.Ping("203.0.113.50", 2))
	cap.Reset()
	require.NoError(t, s.vm.Ping("203.0.113.1", 2))
	cap.Wait(time.Second, func(f lab.Frame) bool { return f.Proto == lab.ICMP && f.Src == fip.FloatingIP })

	state := router.State{Routers: []router.Router{r1}, FloatingIPs: []router.FloatingIP{fip}}
	plan, err := s.svc.Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)

	// A new process finds it all standing.
	rb, err := linuxrouter.New(s.h, nil)
	require.NoError(t, err)
	again, err := router.New(rb, nil)
	require.NoError(t, err)
	plan, err = again.Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes, plan)
	require.NoError(t, again.Sync(ctx, state, vnet.SyncOptions{}))

	x, err := again.Explain(ctx, "floatingip", "f1")
	require.NoError(t, err)
	require.Contains(t, x.String(), "203.0.113.50")

	// A port forward.
	pf := router.PortForward{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: netip.MustParseAddr("203.0.113.2"), ExternalPort: router.PortRange{First: 2222}, InternalIP: netip.MustParseAddr("10.0.0.5"), InternalPort: router.PortRange{First: 22}}
	require.NoError(t, again.EnsurePortForward(ctx, pf))
	vmcap := s.vm.Capture("eth0")
	s.ext.Inject("eth0", lab.Frame{SrcMAC: s.ext.MAC("eth0"), DstMAC: r1.Gateway.MAC, Src: netip.MustParseAddr("203.0.113.1"), Dst: pf.ExternalIP, Proto: lab.TCP, SrcPort: 999, DstPort: 2222, Flags: lab.SYN}.Bytes())
	vmcap.Wait(time.Second, func(f lab.Frame) bool {
		return f.DstPort == 22 && f.Dst == pf.InternalIP && f.Src == netip.MustParseAddr("203.0.113.1")
	})
	require.NoError(t, again.DeletePortForward(ctx, "p1"))

	require.ErrorIs(t, again.DeleteRouter(ctx, "r1"), vnet.ErrInUse)
	require.NoError(t, again.DeleteFloatingIP(ctx, "f1"))
	require.Error(t, s.ext.Ping("203.0.113.50", 1))
	require.NoError(t, again.DeleteRouter(ctx, "r1"))
	_, err = os.Stat(s.l.NetnsDir() + "/" + s.h.NetnsName(vnet.PartRouter, "r1"))
	require.True(t, os.IsNotExist(err))
}
