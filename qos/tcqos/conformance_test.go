package tcqos_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/qostest"
	"github.com/vnet-go/vnet/qos/tcqos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

func TestConformance(t *testing.T) {
	qostest.Run(t, qostest.Harness{Make: func(t testing.TB) qostest.Site { return newSite(t, nil).harness() }})
}

// TestGuestPolicer: a Debian kernel has policers, which this machine's may lack.
func TestGuestPolicer(t *testing.T) {
	if lab.RanInGuest(t, "act_police") {
		return
	}
	qostest.RunTraffic(t, qostest.Harness{Rates: []uint32{1000, 10_000}, Make: func(t testing.TB) qostest.Site {
		return newSite(t, &tcqos.Options{Police: true}).harness()
	}, Only: func(name string) bool { return name == "accuracy" || name == "change" || name == "before plugging" }})
}

// site is two hosts with a VXLAN network over both.
type site struct {
	t     testing.TB
	l     *lab.Lab
	owner vnet.Owner
	ns    [2]*lab.Host
	h     [2]*linux.Host
	ov    [2]*linuxoverlay.Backend
	o     *tcqos.Options
	next  byte
}

const (
	net4, net6 = "10.0.0.0/24", "2001:db8:1::/64"
	ext4, ext6 = "203.0.113.0/24", "2001:db8:2::/64"
)

func newSite(t testing.TB, o *tcqos.Options) *site {
	l := lab.New(t)
	s := &site{t: t, l: l, o: o, owner: vnet.Owner(l.Owner("a")), next: 10}
	copy(s.ns[:], l.Underlay("h1", "h2"))
	for _, wire := range []string{"ext", "up1"} {
		l.Plug(l.Wire(wire), s.ns[0].NS, "phys-"+wire)
		s.ns[0].Up("phys-" + wire)
	}
	for i := range s.h {
		s.h[i] = s.open(i, s.owner)
		var err error
		s.ov[i], err = linuxoverlay.New(s.h[i], nil)
		require.NoError(t, err)
		s.network(i, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}, MTU: 1450, Subnets: []overlay.Subnet{
			{ID: "net4", CIDR: netip.MustParsePrefix(net4), Gateway: netip.MustParseAddr("10.0.0.1")}, {ID: "net6", CIDR: netip.MustParsePrefix(net6), Gateway: netip.MustParseAddr("2001:db8:1::1")}}})
	}
	return s
}

func (s *site) open(i int, owner vnet.Owner) *linux.Host {
	h, err := linux.Open(context.Background(), owner, &linux.Options{Name: s.ns[i].Short, Netns: s.ns[i].Path, NetnsDir: s.l.NetnsDir(), TunnelIP: s.ns[i].IP,
		PhysicalNetworks: map[string]string{"ext": "phys-ext", "physnet1": "phys-up1"}})
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			s.t.Error(err)
		}
		h.Close()
	})
	return h
}

func (s *site) network(i int, n overlay.Network) {
	require.NoError(s.t, s.ov[i].EnsureNetwork(s.t.Context(), n))
}

func (s *site) backend(t testing.TB) qos.Backend {
	b, err := tcqos.New(s.h[0], s.o)
	require.NoError(t, err)
	return b
}

func (s *site) harness() qostest.Site {
	return qostest.Site{Backend: s.backend(s.t), Host: "h1", Reopen: s.backend,
		Writes:  func() int { return int(s.h[0].NS().NFT().Writes() + s.h[0].NS().RTNL().Writes()) },
		Foreign: s.foreign,
		VM: func(t testing.TB, id string, remote bool) qostest.VM {
			host := 0
			if remote {
				host = 1
			}
			return s.vm(host, "net", id)()
		},
		Late:   func(t testing.TB, id string) func() qostest.VM { return s.vm(0, "net", id) },
		Routed: s.routed,
		Uplink: s.uplink,
	}
}

// vm makes a port on a host; the function returned plugs a machine in.
func (s *site) vm(host int, network, id string) func() qostest.VM {
	s.next++
	mac := vnet.MAC{2, 0x71, 0, 0, 0, s.next}
	v := qostest.VM{PortID: id, V4: fmt.Sprintf("10.0.0.%d", s.next), V6: fmt.Sprintf("2001:db8:1::%x", s.next)}
	prefixes := []string{v.V4 + "/24", v.V6 + "/64"}
	gateways := []string{"10.0.0.1", "2001:db8:1::1"}
	ips := []netip.Addr{netip.MustParseAddr(v.V4), netip.MustParseAddr(v.V6)}
	if network != "net" {
		v.V4, v.V6 = fmt.Sprintf("198.51.100.%d", s.next), ""
		prefixes, gateways, ips = []string{v.V4 + "/24"}, nil, []netip.Addr{netip.MustParseAddr(v.V4)}
	}
	ctx := s.t.Context()
	require.NoError(s.t, s.ov[host].EnsurePort(ctx, overlay.Port{ID: id, NetworkID: network, MAC: mac, FixedIPs: ips}))
	if network == "net" {
		require.NoError(s.t, s.ov[1-host].EnsureRemotePort(ctx, overlay.RemotePort{ID: id, NetworkID: network, MAC: mac, IPs: append(ips, mac.LinkLocal()), Endpoint: s.ns[host].IP}))
	}
	return func() qostest.VM {
		v.NS = s.l.NS(id)
		_, err := s.ov[host].Plug(ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: v.NS.Path})
		require.NoError(s.t, err)
		v.NS.Configure("eth0", prefixes, gateways...)
		return v
	}
}

// routed makes a router on h1, and a machine outside.
func (s *site) routed(t testing.TB) qostest.Routed {
	ctx := s.t.Context()
	s.network(0, overlay.Network{ID: "ext", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ext"}, MTU: 1500, Subnets: []overlay.Subnet{
		{ID: "ext4", CIDR: netip.MustParsePrefix(ext4)}, {ID: "ext6", CIDR: netip.MustParsePrefix(ext6)}}})
	out := s.l.NS("outside")
	s.l.Plug(s.l.Wire("ext"), out, "eth0")
	out.Configure("eth0", []string{"203.0.113.10/24", "2001:db8:2::10/64"})
	out.Route(net6, "2001:db8:2::5")
	r := qostest.Routed{Floating: s.vm(0, "net", "floating")(), Plain: s.vm(0, "net", "plain")(), Outside: qostest.VM{NS: out, V4: "203.0.113.10", V6: "2001:db8:2::10"},
		Gateway:    qos.Gateway{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", Host: "h1"},
		FloatingIP: qos.FloatingIP{ID: "f1", RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", FloatingIP: netip.MustParseAddr("203.0.113.9"), FixedPortID: "floating", Host: "h1"}}
	b, err := linuxrouter.New(s.h[0], nil)
	require.NoError(t, err)
	p := netip.MustParsePrefix
	require.NoError(t, b.EnsureRouter(ctx, router.Router{ID: "r1", Host: "h1",
		Interfaces: []router.Interface{{PortID: "r1-net", NetworkID: "net", MAC: vnet.MAC{2, 0x71, 1, 0, 0, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24"), p("2001:db8:1::1/64")}, MTU: 1450}},
		Gateway:    &router.Gateway{PortID: "r1-ext", NetworkID: "ext", MAC: vnet.MAC{2, 0x71, 1, 0, 0, 2}, Addresses: []netip.Prefix{p("203.0.113.5/24"), p("2001:db8:2::5/64")}, MTU: 1500}}))
	require.NoError(t, b.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: r.FloatingIP.FloatingIP, FixedIP: netip.MustParseAddr(r.Floating.V4), PortID: "floating"}))
	for _, dst := range []string{r.Outside.V4, r.Outside.V6} {
		require.NoError(t, r.Plain.NS.Ping(dst, 3), dst)
	}
	return r
}

// uplink makes two pairs of machines whose traffic leaves h1 by an uplink.
func (s *site) uplink(t testing.TB, name string) qostest.Uplinked {
	u := qostest.Uplinked{Name: name}
	for i := range u.From {
		from, to := fmt.Sprintf("from%d-%d", i, len(name)), fmt.Sprintf("to%d-%d", i, len(name))
		if name == qos.Tunnelled {
			u.From[i], u.To[i] = s.vm(0, "net", from)(), s.vm(1, "net", to)()
			continue
		}
		s.network(0, overlay.Network{ID: "flat", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: name}, MTU: 1500,
			Subnets: []overlay.Subnet{{ID: "flat4", CIDR: netip.MustParsePrefix("198.51.100.0/24")}}})
		u.From[i] = s.vm(0, "flat", from)()
		u.To[i] = qostest.VM{NS: s.l.NS(to), V4: fmt.Sprintf("198.51.100.%d", 200+i)}
		s.l.Plug(s.l.Wire("up1"), u.To[i].NS, "eth0")
		u.To[i].NS.Configure("eth0", []string{u.To[i].V4 + "/24"})
	}
	return u
}

// foreign makes limits of another owner on the same host, and qdiscs of nobody's.
func (s *site) foreign(t testing.TB) func(testing.TB) {
	lab.Need(t, "tc")
	ctx := context.Background()
	h := s.open(0, vnet.Owner(s.l.Owner("b")))
	ov, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	require.NoError(t, ov.EnsureNetwork(ctx, overlay.Network{ID: "other", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, ov.EnsurePort(ctx, overlay.Port{ID: "p1", NetworkID: "other", MAC: vnet.MAC{2, 9, 9, 9, 9, 9}}))
	dev, err := ov.Plug(ctx, overlay.Attachment{PortID: "p1", Kind: overlay.Tap})
	require.NoError(t, err)
	b, err := tcqos.New(h, nil)
	require.NoError(t, err)
	x := qos.Port{ID: "p1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000, PPS: 100}, Ingress: qos.Limits{Kbps: 2000}}}
	require.NoError(t, b.EnsurePort(ctx, x))
	s.ns[0].NS.IP("link", "add", "name", "somebody", "type", "veth", "peer", "name", "somebody2")
	_, err = s.ns[0].Exec(ctx, "tc", "qdisc", "add", "dev", "somebody", "root", "handle", "7e51:", "tbf", "rate", "1mbit", "burst", "10k", "limit", "10k")
	require.NoError(t, err)
	look := func(t testing.TB) (out string) {
		text, err := s.ns[0].Exec(ctx, "tc", "qdisc", "show")
		require.NoError(t, err)
		for line := range strings.Lines(text) {
			if strings.Contains(line, " "+dev.Name+" ") || strings.Contains(line, "somebody") || strings.Contains(line, h.LinkName("q", "p1")) {
				out += line
			}
		}
		return out
	}
	before := look(t)
	require.Contains(t, before, h.LinkName("q", "p1"))
	return func(t testing.TB) {
		require.Equal(t, before, look(t))
		p, err := b.Plan(ctx, qos.State{Ports: []qos.Port{x}})
		require.NoError(t, err)
		require.Empty(t, p.Changes, p.String())
	}
}
