package ovsqos_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovsqos"
	"github.com/vnet-go/vnet/qos/qostest"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

func TestConformance(t *testing.T) {
	s := newSite(t, "netdev")
	qostest.Run(t, qostest.Harness{Make: s.tenant})
}

// TestGuestKernelDatapath: meters of the kernel's datapath.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	s := newSite(t, "system")
	qostest.RunTraffic(t, qostest.Harness{Make: s.tenant, Rates: []uint32{1000, 10_000}, Only: func(name string) bool {
		return name == "accuracy" || name == "change" || name == "mark" || name == "gateway and floating IP"
	}})
}

// site is two hosts with Open vSwitch that all cases use, each with an owner of its own.
type site struct {
	l        *lab.Lab
	sw       []*lab.Switch
	datapath string
	n        int
}

func newSite(t testing.TB, datapath string) *site {
	s := &site{l: lab.New(t), datapath: datapath}
	s.sw = s.l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}, Datapath: datapath}, lab.SwitchOptions{Name: "h2", Physical: []string{"ex"}, Datapath: datapath})
	return s
}

// tenant is the site as one owner has it.
type tenant struct {
	*site
	t     testing.TB
	owner vnet.Owner
	h     [2]*ovs.Switch
	ov    [2]*ovsoverlay.Backend
	next  byte
}

func (s *site) tenant(t testing.TB) qostest.Site { return s.newTenant(t).harness() }

func (s *site) newTenant(t testing.TB) *tenant {
	s.n++
	x := &tenant{site: s, t: t, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n))), next: 10}
	for i := range x.h {
		x.h[i] = x.open(i)
		t.Cleanup(func() {
			if err := x.h[i].Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
		})
		var err error
		x.ov[i], err = ovsoverlay.New(x.h[i], nil)
		require.NoError(t, err)
		x.network(i, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}, MTU: 1450, Subnets: []overlay.Subnet{
			{ID: "net4", CIDR: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")},
			{ID: "net6", CIDR: netip.MustParsePrefix("2001:db8:1::/64"), Gateway: netip.MustParseAddr("2001:db8:1::1")}}})
	}
	return x
}

func (x *tenant) harness() qostest.Site {
	return qostest.Site{Backend: x.backend(x.h[0]), Host: "h1", Reopen: func(testing.TB) qos.Backend { return x.backend(x.open(0)) },
		Writes:  func() int { return int(x.h[0].Writes()) },
		Foreign: x.foreign,
		VM: func(t testing.TB, id string, remote bool) qostest.VM {
			if remote {
				return x.vm(1, id)()
			}
			return x.vm(0, id)()
		},
		Late:   func(t testing.TB, id string) func() qostest.VM { return x.vm(0, id) },
		Routed: x.routed,
	}
}

func (x *tenant) open(i int) *ovs.Switch {
	sw := x.sw[i]
	h, err := ovs.Open(context.Background(), x.owner, &ovs.Options{Name: sw.Short, Database: sw.Endpoint, RunDir: sw.Dir, Control: sw.Vswitchd.Ctl, Netns: sw.Path,
		TunnelIP: sw.EncapIP, PhysicalNetworks: sw.Mappings, DatapathType: x.datapath})
	require.NoError(x.t, err)
	x.t.Cleanup(func() { h.Close() })
	return h
}

func (x *tenant) backend(h *ovs.Switch) qos.Backend {
	b, err := ovsqos.New(h, nil)
	require.NoError(x.t, err)
	return b
}

func (x *tenant) network(i int, n overlay.Network) {
	require.NoError(x.t, x.ov[i].EnsureNetwork(x.t.Context(), n))
}

// vm makes a port on a host; the function returned plugs a machine in.
func (x *tenant) vm(host int, id string) func() qostest.VM {
	x.next++
	mac := vnet.MAC{2, 0x72, 0, 0, 0, x.next}
	v := qostest.VM{PortID: id, V4: fmt.Sprintf("10.0.0.%d", x.next), V6: fmt.Sprintf("2001:db8:1::%x", x.next)}
	ips := []netip.Addr{netip.MustParseAddr(v.V4), netip.MustParseAddr(v.V6)}
	ctx := x.t.Context()
	require.NoError(x.t, x.ov[host].EnsurePort(ctx, overlay.Port{ID: id, NetworkID: "net", MAC: mac, FixedIPs: ips}))
	require.NoError(x.t, x.ov[1-host].EnsureRemotePort(ctx, overlay.RemotePort{ID: id, NetworkID: "net", MAC: mac, IPs: append(ips, mac.LinkLocal()), Endpoint: x.sw[host].EncapIP}))
	return func() qostest.VM {
		v.NS = x.l.NS(id)
		_, err := x.ov[host].Plug(ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: v.NS.Path})
		require.NoError(x.t, err)
		v.NS.Configure("eth0", []string{v.V4 + "/24", v.V6 + "/64"}, "10.0.0.1", "2001:db8:1::1")
		return v
	}
}

// routed makes a router on h1, and a machine outside.
func (x *tenant) routed(t testing.TB) qostest.Routed {
	ctx, p := x.t.Context(), netip.MustParsePrefix
	x.network(0, overlay.Network{ID: "ext", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"}, MTU: 1500, Subnets: []overlay.Subnet{
		{ID: "ext4", CIDR: p("203.0.113.0/24")}, {ID: "ext6", CIDR: p("2001:db8:2::/64")}}})
	out := x.l.NS("outside")
	x.l.Plug(x.l.Wire("ex"), out, "eth0")
	out.NoOffload("eth0")
	out.Configure("eth0", []string{"203.0.113.10/24", "2001:db8:2::10/64"})
	out.Route("2001:db8:1::/64", "2001:db8:2::5")
	mac := vnet.MAC{2, 0x72, 1, 0, 0, 2}
	r := qostest.Routed{Floating: x.vm(0, "floating")(), Plain: x.vm(0, "plain")(), Outside: qostest.VM{NS: out, V4: "203.0.113.10", V6: "2001:db8:2::10"},
		Gateway:    qos.Gateway{RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", MAC: mac, Host: "h1"},
		FloatingIP: qos.FloatingIP{ID: "f1", RouterID: "r1", PortID: "r1-ext", NetworkID: "ext", FloatingIP: netip.MustParseAddr("203.0.113.9"), FixedPortID: "floating", Host: "h1"}}
	b, err := ovsrouter.New(x.h[0], nil)
	require.NoError(t, err)
	served, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(served) }()
	x.t.Cleanup(func() { stop(); <-done })
	require.NoError(t, b.EnsureRouter(ctx, router.Router{ID: "r1", Host: "h1",
		Interfaces: []router.Interface{{PortID: "r1-net", NetworkID: "net", MAC: vnet.MAC{2, 0x72, 1, 0, 0, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24"), p("2001:db8:1::1/64")}, MTU: 1450}},
		Gateway:    &router.Gateway{PortID: "r1-ext", NetworkID: "ext", MAC: mac, Addresses: []netip.Prefix{p("203.0.113.5/24"), p("2001:db8:2::5/64")}, MTU: 1500}}))
	require.NoError(t, b.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: r.FloatingIP.FloatingIP, FixedIP: netip.MustParseAddr(r.Floating.V4)}))
	for _, dst := range []string{r.Outside.V4, r.Outside.V6} {
		require.NoError(t, r.Plain.NS.Ping(dst, 3), dst)
	}
	return r
}

// foreign makes limits of another owner on the same switch.
func (x *tenant) foreign(t testing.TB) func(testing.TB) {
	other := &tenant{site: x.site, t: x.t, owner: vnet.Owner(x.l.Owner(fmt.Sprint("f", x.n)))}
	h := other.open(0)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ov, err := ovsoverlay.New(h, nil)
	require.NoError(t, err)
	require.NoError(t, ov.EnsureNetwork(t.Context(), overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, ov.EnsurePort(t.Context(), overlay.Port{ID: "p1", NetworkID: "net", MAC: vnet.MAC{2, 9, 9, 9, 9, 9}}))
	b := other.backend(h)
	p := qos.Port{ID: "p1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 1000, PPS: 100}, Ingress: qos.Limits{Kbps: 2000}}}
	require.NoError(t, b.EnsurePort(t.Context(), p))
	return func(t testing.TB) {
		plan, err := b.Plan(t.Context(), qos.State{Ports: []qos.Port{p}})
		require.NoError(t, err)
		require.Empty(t, plan.Changes, plan.String())
	}
}
