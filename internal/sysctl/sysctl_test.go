package sysctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/sysctl"
)

func TestTree(t *testing.T) {
	l := lab.New(t)
	a, b := sysctl.Tree{NS: l.NS("a")}, sysctl.Tree{NS: l.NS("b")}
	on := sysctl.KV{Key: "net/ipv4/ip_forward", Value: "1"}
	d, err := a.Differ(on)
	require.NoError(t, err)
	require.Equal(t, []sysctl.KV{on}, d)
	changed, err := a.Set(on)
	require.NoError(t, err)
	require.True(t, changed)
	changed, err = a.Set(on)
	require.NoError(t, err)
	require.False(t, changed, "the same again writes nothing")
	v, err := a.Get(on.Key)
	require.NoError(t, err)
	require.Equal(t, "1", v)
	v, err = b.Get(on.Key)
	require.NoError(t, err)
	require.Equal(t, "0", v, "another namespace has its own")
	_, err = a.Set(sysctl.KV{Key: "net/ipv4/conf/nosuch/forwarding", Value: "1"})
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, err = a.Get("kernel/hostname")
	require.Error(t, err)
	_, err = a.Get("net/../kernel/hostname")
	require.Error(t, err)
	d, err = a.Differ(on, sysctl.KV{Key: "net/ipv4/conf/nosuch/forwarding", Value: "1"})
	require.NoError(t, err)
	require.Len(t, d, 1)
}
