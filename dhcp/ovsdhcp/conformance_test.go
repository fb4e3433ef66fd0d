package ovsdhcp_test

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcptest"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/ovs"
)

func (p *place) backend(t testing.TB, sw *ovs.Switch, o *ovsdhcp.Options) *ovsdhcp.Backend {
	b, err := ovsdhcp.New(sw, o)
	require.NoError(t, err)
	return b
}

func TestConformance(t *testing.T) {
	s := newSite(t)
	dhcptest.Run(t, dhcptest.Harness{Make: func(t testing.TB) dhcptest.Host {
		p := s.place(t)
		path := filepath.Join(t.TempDir(), "leases")
		var store *leasestore.Store
		switches := []*ovs.Switch{p.sw}
		open := func(sw *ovs.Switch) dhcp.Backend {
			if store != nil {
				require.NoError(t, store.Close())
			}
			var err error
			store, err = leasestore.Open(path, nil)
			require.NoError(t, err)
			return p.backend(t, sw, &ovsdhcp.Options{Leases: store, Metrics: prometheus.NewRegistry()})
		}
		t.Cleanup(func() { store.Close() })
		return dhcptest.Host{
			Name: "h1", DHCP: open(p.sw),
			Reopen: func(t testing.TB) dhcp.Backend {
				sw := p.open(t, p.owner)
				switches = append(switches, sw)
				return open(sw)
			},
			Writes: func() (n int) {
				for _, sw := range switches {
					n += int(sw.Writes())
				}
				return n
			},
			Network: p.network, RemoveNetwork: p.removeNetwork,
			Plug: func(t testing.TB, network, netns, device string, mac vnet.MAC) {
				p.plug(t, network, netns, device, mac)
			},
		}
	}})
}
