package ovsrouter_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

// many is a router with so many floating IPs.
func many(n int) router.State {
	s := router.State{Routers: []router.Router{{ID: "r1",
		Interfaces: []router.Interface{{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}}},
		Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24")},
			NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}}}}
	for i := range n {
		s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: fmt.Sprint("f", i), RouterID: "r1",
			FloatingIP: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), FixedIP: netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)})})
	}
	return s
}

// BenchmarkFloatingIP is adding one floating IP when so many exist, and what
// is written for it.
func BenchmarkFloatingIP(b *testing.B) {
	for _, exist := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("exist=%d", exist), func(b *testing.B) {
			ctx := context.Background()
			s := newSite(b, 1, "netdev")
			sw, err := ovs.Open(ctx, vnet.Owner(s.l.Owner("bench")), &ovs.Options{Name: "h1", Database: s.sw[0].Endpoint, Control: s.sw[0].Vswitchd.Ctl, Netns: s.sw[0].Path})
			require.NoError(b, err)
			defer sw.Close()
			defer sw.Cleanup(ctx)
			backend, err := ovsrouter.New(sw, nil)
			require.NoError(b, err)
			svc, err := router.New(backend, nil)
			require.NoError(b, err)
			begin := time.Now()
			require.NoError(b, svc.Sync(ctx, many(exist), vnet.SyncOptions{Force: true}))
			first := time.Since(begin)
			begin = time.Now()
			require.NoError(b, svc.Sync(ctx, many(exist), vnet.SyncOptions{Force: true}))
			again := time.Since(begin)
			wrote, spent, n := uint64(0), time.Duration(0), 0
			for b.Loop() {
				f := router.FloatingIP{ID: "more", RouterID: "r1", FloatingIP: netip.AddrFrom4([4]byte{198, 19, 0, 1}), FixedIP: netip.AddrFrom4([4]byte{10, 0, 100, 1})}
				before, begin := sw.Writes(), time.Now()
				require.NoError(b, svc.EnsureFloatingIP(ctx, f))
				spent += time.Since(begin)
				wrote += sw.Writes() - before
				n++
				b.StopTimer()
				require.NoError(b, svc.DeleteFloatingIP(ctx, "more"))
				b.StartTimer()
			}
			b.ReportMetric(float64(spent.Microseconds())/1000/float64(n), "ms/floatingip")
			b.ReportMetric(float64(wrote)/float64(n), "flowmods/floatingip")
			b.ReportMetric(first.Seconds(), "s/first-sync")
			b.ReportMetric(again.Seconds(), "s/sync-unchanged")
			b.ReportMetric(0, "ns/op")
		})
	}
}
