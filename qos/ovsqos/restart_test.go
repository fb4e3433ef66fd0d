package ovsqos_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/qos"
)

// TestSwitchRestarts: with ovs-vswitchd all meters and flows are gone; a Sync
// makes them again, and only what is missing.
func TestSwitchRestarts(t *testing.T) {
	lab.Need(t, "ovs-ofctl")
	s := newSite(t, "netdev")
	x := s.newTenant(t)
	b, ctx := x.backend(x.h[0]), t.Context()
	meters := func() string {
		out, err := s.sw[0].NS.Exec(ctx, "ovs-ofctl", "-O", "OpenFlow15", "dump-meters", "unix:"+s.sw[0].Dir+"/"+x.h[0].Bridge()+".mgmt")
		require.NoError(t, err)
		all := strings.Split(strings.Join(strings.Fields(out), " "), " meter=") // in any order
		slices.Sort(all)
		return strings.Join(all, " meter=")
	}
	state := qos.State{Ports: []qos.Port{{ID: "a", Host: "h1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 2000, BurstKbit: 200, PPS: 10_000}, Ingress: qos.Limits{Kbps: 3000}}}}}
	require.NoError(t, b.Sync(ctx, state, vnet.SyncOptions{}))
	before := meters()
	require.Equal(t, 3, strings.Count(before, "meter="), before)
	// What somebody deletes by hand is made again too, with the flows that went with it.
	require.NoError(t, x.h[0].DeleteMeters(ctx, 4))
	require.NoError(t, b.Sync(ctx, state, vnet.SyncOptions{}))
	require.Equal(t, before, meters())

	s.sw[0].Vswitchd.Kill()
	s.sw[0].Vswitchd.Start()
	lab.Eventually(t, 60*time.Second, "a Plan that makes the limits again", func() bool {
		p, err := b.Plan(ctx, state)
		return err == nil && len(p.Changes) == 1
	})
	require.NoError(t, b.Sync(ctx, state, vnet.SyncOptions{}))
	require.Equal(t, before, meters())
	p, err := b.Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, p.Changes, p.String())
	require.NoError(t, b.DeletePort(ctx, "a"))
	require.NotContains(t, meters(), "meter=", "meters that nothing uses go")
}
