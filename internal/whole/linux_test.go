package whole_test

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/whole"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router/linuxrouter"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

var (
	seed    = flag.Int("seed", 0, "of the first world that is the same on all platforms")
	worlds  = flag.Int("worlds", 0, "how many worlds are made at least")
	packets = flag.Int("packets", 0, "how many packets are compared at least, in worlds that are the same on all platforms")
)

func TestLinux(t *testing.T) {
	whole.Run(t, whole.Harness{Seed: *seed, Worlds: *worlds, Packets: *packets, Make: func(t testing.TB, owners int) []whole.Site {
		l := lab.New(t)
		hosts := l.Underlay("h1", "h2")
		var out []whole.Site
		for i := range owners {
			wire := l.Wire(fmt.Sprintf("phys%d", i))
			s := whole.Site{Limits: whole.Limits{Shortcuts: true}, Station: func(_ testing.TB, ns *lab.NS) { l.Plug(wire, ns, "eth0") }}
			for _, ns := range hosts {
				dev := fmt.Sprintf("phys%d", i)
				l.Plug(wire, ns.NS, dev)
				s.Hosts = append(s.Hosts, host(t, vnet.Owner(l.Owner(fmt.Sprint(i))), ns, &linux.Options{Name: ns.Short, Netns: ns.Path, NetnsDir: l.NetnsDir(),
					TunnelIP: ns.IP, TunnelPort: uint16(4789 + i), PhysicalNetworks: map[string]string{reachtest.Physical: dev}}))
			}
			out = append(out, s)
		}
		return out
	}})
}

func host(t testing.TB, owner vnet.Owner, ns *lab.Host, o *linux.Options) whole.Host {
	h, err := linux.Open(context.Background(), owner, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
		h.Close()
	})
	ov, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	sg, err := nftsecgroup.New(h, nil)
	require.NoError(t, err)
	ro, err := linuxrouter.New(h, nil)
	require.NoError(t, err)
	return whole.Host{Name: o.Name, Endpoint: ns.IP, Overlay: ov, SecGroup: sg, Router: ro}
}
