package linuxrouter_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/router"
)

// BenchmarkFloatingIP is adding one floating IP when so many exist, and what is
// written for it.
func BenchmarkFloatingIP(b *testing.B) {
	for _, exist := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("exist=%d", exist), func(b *testing.B) {
			ctx := context.Background()
			s := newSite(b)
			state := many(exist)
			require.NoError(b, s.svc.Sync(ctx, state, vnet.SyncOptions{Force: true}))
			ns, err := s.h.Namespace(ctx, s.h.NetnsName(vnet.PartRouter, "r1"))
			require.NoError(b, err)
			time.Sleep(6 * time.Second) // they are announced three times, which would be measured too
			var spent time.Duration
			var wrote nft.Stats
			rtnl := uint64(0)
			const several = 20 // added in a row, as one alone says little
			for b.Loop() {
				before, links, begin := ns.NFT().Stats(), ns.RTNL().Writes(), time.Now()
				for i := range byte(several) {
					f := router.FloatingIP{ID: fmt.Sprint("more", i), RouterID: "r1", FloatingIP: netip.AddrFrom4([4]byte{198, 19, 0, i}), FixedIP: netip.AddrFrom4([4]byte{10, 0, 100, i})}
					if err := s.svc.EnsureFloatingIP(ctx, f); err != nil {
						b.Fatal(err)
					}
				}
				spent += time.Since(begin)
				after := ns.NFT().Stats()
				wrote.Elements += after.Elements - before.Elements
				wrote.Messages += after.Messages - before.Messages
				rtnl += ns.RTNL().Writes() - links
				b.StopTimer()
				require.NoError(b, s.svc.Sync(ctx, state, vnet.SyncOptions{Force: true}))
				b.StartTimer()
			}
			n := float64(b.N * several)
			b.ReportMetric(float64(spent.Microseconds())/1000/n, "ms/floatingip")
			b.ReportMetric(float64(wrote.Elements)/n, "elements/floatingip")
			b.ReportMetric(float64(wrote.Messages)/n, "messages/floatingip")
			b.ReportMetric(float64(rtnl)/n, "rtnetlink-writes/floatingip")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkThroughput is an established TCP flow through a floating IP when 1
// and when 10,000 exist, as a ratio of the same run.
func BenchmarkThroughput(b *testing.B) {
	ctx := context.Background()
	s := newSite(b)
	own := router.FloatingIP{ID: "own", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"), FixedIP: netip.MustParseAddr("10.0.0.5")}
	var l net.Listener
	require.NoError(b, s.vm.Do(func() (err error) { l, err = net.Listen("tcp", "10.0.0.5:5001"); return err }))
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	rate := func(exist int) float64 {
		state := many(exist - 1)
		state.FloatingIPs = append(state.FloatingIPs, own)
		require.NoError(b, s.svc.Sync(ctx, state, vnet.SyncOptions{Force: true}))
		var c net.Conn
		require.NoError(b, s.ext.Do(func() (err error) { c, err = net.DialTimeout("tcp", "203.0.113.50:5001", 5*time.Second); return err }))
		defer c.Close()
		buf := make([]byte, 1<<16)
		sent := 0
		begin := time.Now()
		for time.Since(begin) < time.Second {
			n, err := c.Write(buf)
			require.NoError(b, err)
			sent += n
		}
		return float64(sent) / time.Since(begin).Seconds()
	}
	var one, all float64
	for b.Loop() {
		one += rate(1)
		all += rate(10000)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(one/float64(b.N)/1e9*8, "Gbit/s-with-1")
	b.ReportMetric(all/one, "10000/1")
}
