package radv

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
)

func TestMessage(t *testing.T) {
	c := Config{MAC: vnet.MAC{2, 0, 0, 0, 0, 1}, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}, Other: true, Autonomous: true,
		MTU: 1400, RDNSS: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, DNSSL: []string{"example.org"}, Interval: 4 * time.Second}
	b, err := ndp.MarshalMessage(c.Message(c.Lifetime()))
	require.NoError(t, err)
	m, err := ndp.ParseMessage(b)
	require.NoError(t, err)
	ra := m.(*ndp.RouterAdvertisement)
	require.Equal(t, 12*time.Second, ra.RouterLifetime)
	require.True(t, ra.OtherConfiguration)
	require.False(t, ra.ManagedConfiguration)
	require.Len(t, ra.Options, 5)
	require.Equal(t, 30*time.Minute, Config{}.Lifetime())
	require.Zero(t, c.Message(0).RouterLifetime)
}

func TestSolicits(t *testing.T) {
	a := netip.MustParseAddr("fe80::1")
	require.True(t, Solicits(&ndp.RouterSolicitation{}, 255, a))
	require.False(t, Solicits(&ndp.RouterSolicitation{}, 64, a), "routed to here")
	require.False(t, Solicits(&ndp.RouterAdvertisement{}, 255, a))
	named := &ndp.RouterSolicitation{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source}}}
	require.True(t, Solicits(named, 255, a))
	require.False(t, Solicits(named, 255, netip.IPv6Unspecified()))
}

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type said struct {
			at   time.Duration
			to   netip.Addr
			life time.Duration
		}
		var mu sync.Mutex
		var heard []said
		now := func() []said {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(heard)
		}
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		solicited := make(chan netip.Addr, Pending)
		done := make(chan error, 1)
		go func() {
			done <- Config{Interval: 600 * time.Second}.Serve(ctx, slog.New(slog.DiscardHandler), solicited, nil, func() bool { return true }, func(m *ndp.RouterAdvertisement, to netip.Addr) error {
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, said{time.Since(begin), to, m.RouterLifetime})
				return nil
			})
		}()
		time.Sleep(time.Second)
		now()
		solicited <- netip.MustParseAddr("fe80::5")
		time.Sleep(time.Second)
		all := now()
		require.Len(t, all, 2)
		require.Equal(t, said{0, AllNodes(), 1800 * time.Second}, all[0])
		require.Equal(t, netip.MustParseAddr("fe80::5"), all[1].to)
		require.Less(t, all[1].at, 1500*time.Millisecond)
		time.Sleep(time.Minute)
		all = now()
		require.Equal(t, 16*time.Second, all[2].at)
		require.Equal(t, 32*time.Second, all[3].at)
		cancel()
		require.NoError(t, <-done)
		all = now()
		require.Zero(t, all[len(all)-1].life)
	})
}
