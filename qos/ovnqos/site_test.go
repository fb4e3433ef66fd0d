package ovnqos_test

import (
	"context"
	"fmt"
	"net/netip"
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
	"github.com/vnet-go/vnet/router/ovnrouter"
)

// site is one OVN installation with two chassis on physical network "ex",
// shared by the cases of a test.
type site struct {
	l  *lab.Lab
	c  *lab.Central
	hv []*lab.Chassis
	n  atomic.Int32
}

func newSite(t testing.TB) *site {
	l := lab.New(t)
	s := &site{l: l, c: l.OVNCentral(nil)}
	s.hv = l.Chassis(s.c, lab.ChassisOptions{Name: "hv1", Physical: []string{"ex"}}, lab.ChassisOptions{Name: "hv2", Physical: []string{"ex"}})
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
}

func (s *site) dial(t testing.TB, owner vnet.Owner) *ovn.Conn {
	c, err := ovn.Dial(t.Context(), owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: 60 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *site) tenant(t testing.TB) *tenant {
	x := &tenant{site: s, t: t, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1))))}
	x.c = s.dial(t, x.owner)
	var err error
	x.overlay, err = ovnoverlay.New(x.c, nil)
	require.NoError(t, err)
	x.router, err = ovnrouter.New(x.c, nil)
	require.NoError(t, err)
	x.qos = x.backend(x.c)
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
	return x
}

func (x *tenant) backend(to ovn.Target) *ovnqos.Backend {
	b, err := ovnqos.New(to, &ovnqos.Options{Meters: x.meters})
	require.NoError(x.t, err)
	return b
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
	require.NoError(x.t, x.overlay.EnsureNetwork(x.t.Context(), overlay.Network{ID: id, Segment: s}))
}

// vm plugs a machine on a host.
func (x *tenant) vm(hv int, network, id string, n byte, prefixes ...string) *lab.NS {
	x.t.Helper()
	ns := x.l.NS(id)
	var ips []netip.Addr
	for _, p := range prefixes {
		ips = append(ips, netip.MustParsePrefix(p).Addr())
	}
	require.NoError(x.t, x.overlay.EnsurePort(x.t.Context(), overlay.Port{ID: id, NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n}, FixedIPs: ips}))
	_, err := x.on[hv].Plug(x.t.Context(), overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: ns.Path})
	require.NoError(x.t, err)
	ns.Configure("eth0", prefixes)
	return ns
}

func kbps(egress, ingress uint32) qos.Shape {
	return qos.Shape{Egress: qos.Limits{Kbps: egress}, Ingress: qos.Limits{Kbps: ingress}}
}
