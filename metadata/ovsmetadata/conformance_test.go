package ovsmetadata_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

// host opens the host of the switch.
func (p *place) host(t testing.TB) *linux.Host {
	h, err := linux.Open(context.Background(), p.owner, &linux.Options{Name: "h1", Netns: p.hv.Path, NetnsDir: p.l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return h
}

func options(s metadatatest.Setup) *ovsmetadata.Options {
	return &ovsmetadata.Options{Instances: s.Instances, Server: s.Server, Nova: s.Nova, Proxy: s.Proxy}
}

func TestConformance(t *testing.T) {
	s := newSite(t)
	metadatatest.Run(t, metadatatest.Harness{Make: func(t testing.TB, setup metadatatest.Setup) metadatatest.Host {
		p := s.place(t)
		h := p.host(t)
		switches := []*ovs.Switch{p.sw}
		backend := func(sw *ovs.Switch) metadata.Backend {
			b, err := ovsmetadata.New(sw, h, options(setup))
			require.NoError(t, err)
			return b
		}
		rb, err := ovsrouter.New(p.sw, nil)
		require.NoError(t, err)
		routers, err := router.New(rb, nil)
		require.NoError(t, err)
		n := byte(0)
		return metadatatest.Host{
			Metadata: backend(p.sw),
			Reopen: func(t testing.TB) metadata.Backend {
				sw := p.open(t, p.owner)
				switches = append(switches, sw)
				return backend(sw)
			},
			Writes: func() (n int) {
				for _, sw := range switches {
					n += int(sw.Writes())
				}
				return n
			},
			Network: p.network,
			Router: func(t testing.TB, id string, in ...metadatatest.Interface) {
				r := router.Router{ID: id}
				for _, i := range in {
					n++
					r.Interfaces = append(r.Interfaces, router.Interface{PortID: id + "-" + i.Network, NetworkID: i.Network, MAC: vnet.MAC{2, 0xee, 0, 0, 0, n}, Addresses: i.Addresses})
				}
				require.NoError(t, routers.EnsureRouter(context.Background(), r))
			},
			Plug: func(t testing.TB, network, netns, device string, mac vnet.MAC) {
				p.plug(t, network, netns, device, mac)
			},
		}
	}})
}
