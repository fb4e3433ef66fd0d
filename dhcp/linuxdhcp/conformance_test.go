package linuxdhcp_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcptest"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/dhcp/linuxdhcp"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
)

// place is a host in a namespace, with bridges made by hand as overlay makes them.
type place struct {
	l    *lab.Lab
	ns   *lab.NS
	host *linux.Host
	n    atomic.Uint32
}

func newPlace(t testing.TB) *place {
	l := lab.New(t)
	p := &place{l: l, ns: l.NS("h1")}
	var err error
	p.host, err = linux.Open(t.Context(), vnet.Owner(l.Owner("d")), &linux.Options{Name: "h1", Netns: p.ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() { p.host.Close() })
	return p
}

func (p *place) backend(t testing.TB, o *linuxdhcp.Options) *linuxdhcp.Backend {
	b, err := linuxdhcp.New(p.host, o)
	require.NoError(t, err)
	return b
}

func (p *place) network(t testing.TB, id string) {
	dev := p.host.NetworkDevice(id)
	n := p.n.Add(1)
	p.ns.IP("link", "add", "name", dev, "address", fmt.Sprintf("02:b1:00:00:%02x:%02x", n>>8, n&0xff), "type", "bridge", "mcast_snooping", "0")
	p.ns.Sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	p.ns.Up(dev)
}

func (p *place) plug(t testing.TB, network, netns, device string, mac vnet.MAC) {
	end := fmt.Sprint("v", p.n.Add(1))
	p.ns.IP("link", "add", "name", end, "type", "veth", "peer", "name", device, "address", mac.String(), "netns", filepath.Base(netns))
	p.ns.IP("link", "set", "dev", end, "master", p.host.NetworkDevice(network), "up")
}

func TestConformance(t *testing.T) {
	dhcptest.Run(t, dhcptest.Harness{Volatile: true, Make: func(t testing.TB) dhcptest.Host {
		p := newPlace(t)
		path := filepath.Join(t.TempDir(), "leases")
		var store *leasestore.Store
		open := func() dhcp.Backend {
			if store != nil {
				require.NoError(t, store.Close())
			}
			var err error
			store, err = leasestore.Open(path, nil)
			require.NoError(t, err)
			return p.backend(t, &linuxdhcp.Options{Leases: store, Metrics: prometheus.NewRegistry()})
		}
		t.Cleanup(func() { store.Close() })
		return dhcptest.Host{
			Name: "h1", DHCP: open(), Reopen: func(testing.TB) dhcp.Backend { return open() },
			Network:       p.network,
			RemoveNetwork: func(t testing.TB, id string) { p.ns.IP("link", "del", "dev", p.host.NetworkDevice(id)) },
			Plug:          p.plug,
		}
	}})
}

func TestOneServe(t *testing.T) {
	p := newPlace(t)
	b := p.backend(t, nil)
	require.False(t, b.Health(t.Context()).Complete)
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- b.Serve(ctx) }()
	require.Eventually(t, func() bool { return b.Health(ctx).Complete }, 3*time.Second, 10*time.Millisecond)
	require.ErrorIs(t, b.Serve(ctx), vnet.ErrConflict)
}
