package ovsdpdk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/dpdk/ovsdpdk"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovs"
)

// The switch makes the sockets, and machines connect to them.
func TestVhostUserServer(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	require.NoError(t, s.setup.EnsureConfig(ctx, s.config))
	require.NoError(t, s.setup.WaitReady(ctx))
	s.machines(t)
	var sockets []string
	for i := range s.m {
		a := overlay.Attachment{PortID: port(i).ID, Kind: overlay.VhostUserServer}
		d, err := s.fabric.Plug(ctx, a)
		require.NoError(t, err)
		writes := s.sw.Writes()
		again, err := s.fabric.Plug(ctx, a)
		require.NoError(t, err)
		require.Equal(t, d, again)
		require.Equal(t, writes, s.sw.Writes())
		sockets = append(sockets, d.Socket)
	}
	_, err := s.fabric.Plug(ctx, overlay.Attachment{PortID: "p1", Kind: overlay.VhostUserClient, Socket: s.socket(0)})
	require.ErrorIs(t, err, vnet.ErrConflict)
	stop := s.d.Guests(s.vms, false, 1, [2]string{sockets[0], "g1"}, [2]string{sockets[1], "g2"})
	s.judge(t)
	stop()

	// A second owner may not configure this switch; nor may what is an operator's be changed.
	o := s.sw.Options()
	o.Bridge = ""
	other, err := ovs.Open(ctx, vnet.Owner(s.l.Owner("e")), &o)
	require.NoError(t, err)
	defer other.Close()
	b, err := ovsdpdk.New(other, nil)
	require.NoError(t, err)
	theirs, err := dpdk.New(b)
	require.NoError(t, err)
	require.ErrorIs(t, theirs.EnsureConfig(ctx, s.config), vnet.ErrConflict)
	require.NoError(t, theirs.DeleteConfig(ctx), "there is none of theirs")
	require.NoError(t, other.Cleanup(ctx))
	st, err := s.setup.Status(ctx)
	require.NoError(t, err)
	require.True(t, st.Initialized)
	s.host.Vsctl("set", "Open_vSwitch", ".", "other_config:vhost-iommu-support=false")
	c := s.config
	c.VhostIOMMU = true
	require.ErrorIs(t, s.setup.EnsureConfig(ctx, c), vnet.ErrConflict)
}
