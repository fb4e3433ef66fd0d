package linuxrouter_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

// In one batch networks come, with routers and floating IPs on them; and a
// network that goes is not there any more.
func TestBatch(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	parts := func() (*linux.Batch, overlay.Backend, *router.Service) {
		b := s.h.Batch()
		ob, err := linuxoverlay.New(b, nil)
		require.NoError(t, err)
		rb, err := linuxrouter.New(b, nil)
		require.NoError(t, err)
		svc, err := router.New(rb, nil)
		require.NoError(t, err)
		return b, ob, svc
	}
	network := func(id string, mtu int) overlay.Network {
		return overlay.Network{ID: id, Segment: overlay.Segment{Type: overlay.Local}, MTU: mtu}
	}
	r := r1.Clone()
	r.Interfaces[0].NetworkID = "new"
	b, ob, svc := parts()
	state := router.State{Routers: []router.Router{r}, FloatingIPs: []router.FloatingIP{f1}}
	_, err := svc.Plan(ctx, state)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.NoError(t, ob.EnsureNetwork(ctx, network("new", 1400)))
	plan, err := svc.Plan(ctx, state)
	require.NoError(t, err)
	require.Len(t, plan.Changes, 2, plan)
	require.NoError(t, svc.EnsureRouter(ctx, r))
	require.NoError(t, svc.EnsureFloatingIP(ctx, f1))
	require.NoError(t, b.Commit(ctx))
	plan, err = fresh(t, s.h).Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes, plan)

	// An interface that stands moves to a network that comes.
	b, ob, svc = parts()
	require.NoError(t, ob.EnsureNetwork(ctx, network("newer", 1300)))
	r.Interfaces[0].NetworkID = "newer"
	require.NoError(t, svc.Sync(ctx, state, vnet.SyncOptions{}))
	require.NoError(t, b.Commit(ctx))
	plan, err = fresh(t, s.h).Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes, plan)

	_, ob, svc = parts()
	require.NoError(t, ob.DeleteNetwork(ctx, "new"))
	r.Interfaces[0].NetworkID = "new"
	require.ErrorIs(t, svc.EnsureRouter(ctx, r), vnet.ErrNotFound)
}
