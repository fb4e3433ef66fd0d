package ovs_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/ovs"
)

// Peers watch each other without any process of ours, and beside the tunnels
// of everything else.
func TestPeers(t *testing.T) {
	l := lab.New(t)
	hosts := l.Switches(lab.SwitchOptions{Name: "h1"}, lab.SwitchOptions{Name: "h2"}, lab.SwitchOptions{Name: "h3"})
	owner, ctx := vnet.Owner(l.Owner("")), t.Context()
	peers := map[string]netip.Addr{}
	for _, sw := range hosts {
		peers[sw.Short] = sw.EncapIP
	}
	probe := func(hosts ...string) func(*ovs.Tx) error {
		return func(tx *ovs.Tx) error { tx.Tunnel(ovs.VXLAN); tx.Probe(hosts...); return nil }
	}
	watched := [][]string{{"h2", "h3"}, {"h1"}, {"h1"}}
	var all []*ovs.Switch
	for i, sw := range hosts {
		s := open(t, sw, owner, ovs.Options{Peers: peers})
		require.NoError(t, s.Submit(ctx, vnet.PartRouter, probe(watched[i]...)))
		n := s.Writes()
		require.NoError(t, s.Submit(ctx, vnet.PartRouter, probe(watched[i]...)))
		require.Equal(t, n, s.Writes(), "twice is once")
		all = append(all, s)
	}
	up := func(i int, want ...string) func() bool {
		return func() bool {
			have, _ := all[i].Probes()
			maps.DeleteFunc(have, func(_ string, p ovs.Probe) bool { return !p.Up })
			return slices.Equal(slices.Sorted(maps.Keys(have)), want)
		}
	}
	const patience = time.Minute
	lab.Eventually(t, patience, "all", func() bool { return up(0, "h2", "h3")() && up(1, "h1")() && up(2, "h1")() })
	hosts[1].CutTunnels()
	cut := time.Now()
	lab.Eventually(t, patience, "h2 is cut off", func() bool { return up(0, "h3")() && up(1)() })
	t.Logf("a peer is missed after %v", time.Since(cut).Round(100*time.Millisecond))
	hosts[1].JoinTunnels()
	lab.Eventually(t, patience, "h2 is back", func() bool { return up(0, "h2", "h3")() && up(1, "h1")() })
	hosts[0].Vswitchd.Kill()
	lab.Eventually(t, patience, "h1 is gone", func() bool {
		_, live := all[0].Probes()
		return !live && up(0)() && up(1)() && up(2)()
	})
	hosts[0].Vswitchd.Start()
	lab.Eventually(t, patience, "h1 is back", func() bool { return up(0, "h2", "h3")() && up(1, "h1")() && up(2, "h1")() })

	require.NoError(t, all[0].Submit(ctx, vnet.PartRouter, probe("h3")))
	lab.Eventually(t, patience, "h2 is watched no more", func() bool { have, _ := all[0].Probes(); return len(have) == 1 && up(0, "h3")() && up(1)() })
	require.ErrorIs(t, all[0].Submit(ctx, vnet.PartRouter, probe("h9")), vnet.ErrNotFound)
	require.ErrorIs(t, all[0].Submit(ctx, vnet.PartRouter, probe("h1")), vnet.ErrNotFound)
	for _, s := range all {
		require.NoError(t, s.Cleanup(context.Background()))
	}
}
