package linux_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// TestGuestBridgeTracksInZones runs where family bridge tracks connections:
// the base tables stand there too, and a bridge's connections are in its zone.
func TestGuestBridgeTracksInZones(t *testing.T) {
	if lab.RanInGuest(t, "nf_conntrack_bridge") {
		return
	}
	l := lab.New(t)
	host, a, b := l.NS("h"), l.NS("a"), l.NS("b")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	f := h.Features()
	require.True(t, f.BridgeConntrack, "%v", f)
	require.True(t, f.BridgeMeta, "%v", f)
	require.True(t, f.VXLAN, "%v", f)
	plug(t, h, "net", "pa", a, false)
	plug(t, h, "net", "pb", b, false)
	a.Configure("eth0", []string{"10.0.0.1/24"})
	b.Configure("eth0", []string{"10.0.0.2/24"})
	ctx := t.Context()
	zone, steps, err := h.Zones().Claim(ctx, "net")
	require.NoError(t, err)
	require.NoError(t, h.Submit(ctx, steps...))
	require.NoError(t, h.NS().NFT().Do(ctx, func(tx *nft.Tx) error {
		h.Base(tx)
		tx.Chain(nft.Chain{Table: h.BridgeTable(), Name: "t-fwd", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Forward}, Rules: []nft.Rule{
			{nft.CtState.Any(nft.StateInvalid), nft.Drop()},
		}})
		return nil
	}))
	require.NoError(t, a.Ping("10.0.0.2", 1))
	n := 0
	require.NoError(t, h.NS().RTNL().Flows(ctx, func(f rtnl.Flow) bool {
		if f.Zone == zone && f.Orig.Dst == netip.MustParseAddr("10.0.0.2") {
			n++
		}
		return true
	}))
	require.Equal(t, 1, n)
}

// TestFeaturesSayWhatIsMissing holds on every kernel.
func TestFeaturesSayWhatIsMissing(t *testing.T) {
	l := lab.New(t)
	h := openHost(t, l, l.NS("h"), vnet.Owner(l.Owner("x")))
	f := h.Features()
	for name, has := range map[string]bool{"VLAN": f.VLAN, "VXLAN": f.VXLAN, "BridgeConntrack": f.BridgeConntrack, "BrNetfilter": f.BrNetfilter, "BridgeMeta": f.BridgeMeta} {
		require.Equal(t, !has, f.Missing[name] != "", name)
	}
	if !f.VLAN {
		err := h.Unsupported("linuxoverlay", "VLAN segments", "VLAN")
		require.ErrorIs(t, err, vnet.ErrUnsupported)
		require.Equal(t, "VLAN segments not supported by linuxoverlay (needs kernel module 8021q)", err.Error())
	}
}
