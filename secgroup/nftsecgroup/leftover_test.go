package nftsecgroup

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup"
)

// TestLeftovers begins where a process was killed in its first transaction,
// of which parts were loaded.
func TestLeftovers(t *testing.T) {
	ctx := context.Background()
	l := lab.New(t)
	ns := l.NS("h")
	h, err := linux.Open(ctx, vnet.Owner(l.Owner("s")), &linux.Options{Name: "h", Netns: ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	defer h.Close()
	b, err := New(h, nil)
	require.NoError(t, err)
	old := textState()
	list, err := new(recorder).pieces(entry{Port: &old.Ports[0]})
	require.NoError(t, err)
	orphan := b.l.members("nobody", false, false)
	require.NoError(t, h.NS().NFT().Do(ctx, func(tx *nft.Tx) error {
		tx.Set(b.l.record())
		tx.Add(b.l.record(), list[0])
		tx.Set(b.l.secured())
		tx.Add(b.l.secured(), nft.Key(uint32(77)))
		tx.Set(orphan)
		return nil
	}))
	want := secgroup.State{Groups: old.Groups[:1]}
	require.NoError(t, b.Sync(ctx, want, vnet.SyncOptions{}))
	again, err := New(h, nil)
	require.NoError(t, err)
	plan, err := again.Plan(ctx, want)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
	elems, err := h.NS().NFT().Elements(ctx, b.l.secured())
	require.NoError(t, err)
	require.Empty(t, elems)
	_, err = h.NS().NFT().Elements(ctx, orphan)
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

// TestOtherVersion finds what another version of this package has written.
func TestOtherVersion(t *testing.T) {
	ctx := context.Background()
	l := lab.New(t)
	ns := l.NS("h")
	h, err := linux.Open(ctx, vnet.Owner(l.Owner("s")), &linux.Options{Name: "h", Netns: ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	defer h.Close()
	b, err := New(h, nil)
	require.NoError(t, err)
	s := textState()
	require.NoError(t, b.Sync(ctx, s, vnet.SyncOptions{}))
	drop := nft.Chain{Table: b.l.group, Name: groupChain(secgroup.Ingress, "web"), Rules: []nft.Rule{{nft.Drop()}}}
	zombie := nft.Chain{Table: b.l.group, Name: prefix + "zombie", Rules: []nft.Rule{{nft.Drop()}}}
	require.NoError(t, h.NS().NFT().Do(ctx, func(tx *nft.Tx) error {
		tx.Chain(drop)
		tx.Chain(zombie)
		tx.Fill(b.l.revision(), nft.Key(version+1, uint32(5)))
		return nil
	}))
	again, err := New(h, nil)
	require.NoError(t, err)
	plan, err := again.Plan(ctx, s)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
	require.NoError(t, again.Sync(ctx, s, vnet.SyncOptions{}))
	chains, err := h.NS().NFT().Chains(ctx, b.l.group)
	require.NoError(t, err)
	require.NotContains(t, chains, zombie.Name)
	require.Contains(t, chains, drop.Name)
	left, err := h.NS().NFT().Check(ctx, func(tx *nft.Tx) error { tx.Chain(drop); return nil })
	require.NoError(t, err)
	require.NotEmpty(t, left, "the chain was not drawn anew")
	before := h.NS().NFT().Writes()
	require.NoError(t, again.Sync(ctx, s, vnet.SyncOptions{}))
	require.Equal(t, before, h.NS().NFT().Writes())
}
