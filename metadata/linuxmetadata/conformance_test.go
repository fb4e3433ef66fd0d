package linuxmetadata_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/linuxmetadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

func TestConformance(t *testing.T) {
	metadatatest.Run(t, metadatatest.Harness{Make: newHost})
}

func newHost(t testing.TB, s metadatatest.Setup) metadatatest.Host {
	ctx := context.Background()
	l := lab.New(t)
	ns := l.NS("host")
	var hosts []*linux.Host
	open := func(t testing.TB) *linux.Host {
		h, err := linux.Open(ctx, vnet.Owner(l.Owner("")), &linux.Options{Name: "h1", Netns: ns.Path, NetnsDir: l.NetnsDir()})
		require.NoError(t, err)
		hosts = append(hosts, h)
		return h
	}
	h := open(t)
	t.Cleanup(func() {
		if err := h.Cleanup(ctx); err != nil {
			t.Error(err)
		}
		for _, x := range hosts {
			x.Close()
		}
	})
	backend := func(t testing.TB, h *linux.Host) *linuxmetadata.Backend {
		b, err := linuxmetadata.New(h, &linuxmetadata.Options{Instances: s.Instances, Server: s.Server, Nova: s.Nova, Proxy: s.Proxy})
		require.NoError(t, err)
		return b
	}
	ob, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	fabric, err := overlay.New(ob, nil)
	require.NoError(t, err)
	rb, err := linuxrouter.New(h, nil)
	require.NoError(t, err)
	routers, err := router.New(rb, nil)
	require.NoError(t, err)
	n := byte(0)
	return metadatatest.Host{
		Metadata: backend(t, h),
		Reopen:   func(t testing.TB) metadata.Backend { return backend(t, open(t)) },
		Writes: func() int {
			w := 0
			for _, h := range hosts {
				w += int(h.NS().RTNL().Writes()) + int(h.NS().NFT().Writes())
				for _, part := range []vnet.Part{vnet.PartRouter, vnet.PartMetadata} {
					ids, err := h.Namespaces(ctx, part)
					require.NoError(t, err)
					for _, id := range ids {
						ns, err := h.Namespace(ctx, h.NetnsName(part, id))
						require.NoError(t, err)
						w += int(ns.RTNL().Writes()) + int(ns.NFT().Writes())
					}
				}
			}
			return w
		},
		Network: func(t testing.TB, id string) {
			require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: id, Segment: overlay.Segment{Type: overlay.Local}}))
		},
		Router: func(t testing.TB, id string, in ...metadatatest.Interface) {
			r := router.Router{ID: id}
			for _, i := range in {
				n++
				r.Interfaces = append(r.Interfaces, router.Interface{PortID: id + "-" + i.Network, NetworkID: i.Network, MAC: vnet.MAC{2, 0xee, 0, 0, 0, n}, Addresses: i.Addresses})
			}
			require.NoError(t, routers.EnsureRouter(ctx, r))
		},
		Plug: func(t testing.TB, network, netns, device string, mac vnet.MAC) {
			p := overlay.Port{ID: "vm-" + mac.String()[12:14] + mac.String()[15:], NetworkID: network, MAC: mac}
			require.NoError(t, fabric.EnsurePort(ctx, p))
			_, err := fabric.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: device, Netns: netns})
			require.NoError(t, err)
		},
	}
}
