package linuxrouter_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/linuxrouter"
)

// fresh is the service of a new process.
func fresh(t testing.TB, h *linux.Host) *router.Service {
	rb, err := linuxrouter.New(h, nil)
	require.NoError(t, err)
	svc, err := router.New(rb, nil)
	require.NoError(t, err)
	return svc
}

var (
	f1 = router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}
	p1 = router.PortForward{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: netip.MustParseAddr("203.0.113.60"), ExternalPort: router.PortRange{First: 80, Last: 81},
		InternalIP: netip.MustParseAddr("10.0.0.6"), InternalPort: router.PortRange{First: 8080, Last: 8081}}
)

// A new process that has not been told of anything knows what stands.
func TestRestartWithoutSync(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	require.NoError(t, s.svc.EnsureRouter(ctx, r1))
	require.NoError(t, s.svc.EnsureFloatingIP(ctx, f1))
	require.NoError(t, s.svc.EnsurePortForward(ctx, p1))
	state := router.State{Routers: []router.Router{r1}, FloatingIPs: []router.FloatingIP{f1}, PortForwards: []router.PortForward{p1}}

	require.ErrorIs(t, fresh(t, s.h).DeleteRouter(ctx, "r1"), vnet.ErrInUse)
	g := f1
	g.ID = "g"
	require.ErrorIs(t, fresh(t, s.h).EnsureFloatingIP(ctx, g), vnet.ErrConflict)
	again := fresh(t, s.h)
	require.NoError(t, again.EnsureFloatingIP(ctx, f1))
	require.NoError(t, again.EnsurePortForward(ctx, p1))
	require.NoError(t, fresh(t, s.h).EnsureRouter(ctx, r1))
	plan, err := fresh(t, s.h).Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)

	// One that is new, with the router known from the kernel alone.
	f2 := router.FloatingIP{ID: "f2", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.51"), FixedIP: netip.MustParseAddr("10.0.0.7")}
	require.NoError(t, fresh(t, s.h).EnsureFloatingIP(ctx, f2))
	require.NoError(t, fresh(t, s.h).DeleteFloatingIP(ctx, "f2"))

	require.NoError(t, s.ext.Ping("203.0.113.50", 2))
	require.NoError(t, fresh(t, s.h).DeleteFloatingIP(ctx, "f1"))
	require.Error(t, s.ext.Ping("203.0.113.50", 1))
	require.ErrorIs(t, fresh(t, s.h).DeleteRouter(ctx, "r1"), vnet.ErrInUse)
	require.NoError(t, fresh(t, s.h).DeletePortForward(ctx, "p1"))
	plan, err = fresh(t, s.h).Plan(ctx, router.State{Routers: []router.Router{r1}})
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
	require.NoError(t, fresh(t, s.h).DeleteRouter(ctx, "r1"))
	_, err = os.Stat(s.l.NetnsDir() + "/" + s.h.NetnsName(vnet.PartRouter, "r1"))
	require.True(t, os.IsNotExist(err))
}

// A pair under a new id is that of the new id from then on, and connections do
// not notice.
func TestSamePairUnderAnotherID(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	state := router.State{Routers: []router.Router{r1}, FloatingIPs: []router.FloatingIP{f1}, PortForwards: []router.PortForward{p1}}
	require.NoError(t, s.svc.Sync(ctx, state, vnet.SyncOptions{}))
	state.FloatingIPs[0].ID = "g1"
	state.PortForwards[0].ID = "q1"
	state.PortForwards[0].ExternalPort.Last++
	state.PortForwards[0].InternalPort.Last++
	plan, err := s.svc.Plan(ctx, state)
	require.NoError(t, err)
	require.Len(t, plan.Changes, 4)
	require.NoError(t, s.svc.Sync(ctx, state, vnet.SyncOptions{}))
	plan, err = fresh(t, s.h).Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
	require.NoError(t, s.ext.Ping("203.0.113.50", 2))
}

// Many floating IPs need neither as many sockets nor as many looks at the
// connections, and when nothing differs nothing is written.
func TestThousandFloatingIPs(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	state := many(1000)
	require.NoError(t, s.svc.Sync(ctx, state, vnet.SyncOptions{}))
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	require.Less(t, len(fds), 60, "open files")
	require.Less(t, runtime.NumGoroutine(), 60)

	again := fresh(t, s.h)
	ns, err := s.h.Namespace(ctx, s.h.NetnsName(vnet.PartRouter, "r1"))
	require.NoError(t, err)
	writes := func() uint64 {
		return ns.NFT().Writes() + ns.RTNL().Writes() + s.h.NS().NFT().Writes() + s.h.NS().RTNL().Writes()
	}
	before := writes()
	require.NoError(t, again.Sync(ctx, state, vnet.SyncOptions{}))
	require.Equal(t, before, writes())
	state.FloatingIPs = state.FloatingIPs[:10]
	require.NoError(t, again.Sync(ctx, state, vnet.SyncOptions{DeleteShare: 1}))
	plan, err := fresh(t, s.h).Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
}

// many is a router with n floating IPs.
func many(n int) router.State {
	r := r1.Clone()
	r.Interfaces[0].Addresses, r.Interfaces[0].RA = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}, nil
	state := router.State{Routers: []router.Router{r}}
	for k := range n {
		state.FloatingIPs = append(state.FloatingIPs, router.FloatingIP{ID: fmt.Sprint("f", k), RouterID: "r1",
			FloatingIP: netip.AddrFrom4([4]byte{198, 18, byte(k >> 8), byte(k)}), FixedIP: netip.AddrFrom4([4]byte{10, 0, byte(1 + k>>8), byte(k)})})
	}
	return state
}
