package rtnl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/rtnl"
)

func TestHTB(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddVeth("v0", "v1", nil, vnet.MAC{}, vnet.MAC{}, 0))
	require.NoError(t, c.SetUp("v0"))
	_, err := c.Root("none")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	q, err := c.Root("v0")
	require.NoError(t, err)
	require.Zero(t, q.Major, "%+v", q)

	require.NoError(t, c.SetHTB("v0", 0xf001))
	q, err = c.Root("v0")
	require.NoError(t, err)
	require.Equal(t, rtnl.Qdisc{Kind: "htb", Major: 1, Default: 0xf001}, q)
	want := []rtnl.HTBClass{
		{Minor: 3, Parent: 0xfffe, Rate: 7_000_000, Ceil: 10_000_000},
		{Minor: 0xf001, Parent: 0xfffe, Rate: 3_000_000, Ceil: 10_000_000},
		{Minor: 0xfffe, Rate: 10_000_000, Ceil: 10_000_000},
	}
	for _, i := range []int{2, 0, 1} {
		require.NoError(t, c.SetHTBClass("v0", want[i]))
	}
	got, err := c.HTBClasses("v0")
	require.NoError(t, err)
	require.Equal(t, want, got)

	want[0].Rate = 30_000_000_000
	want[0].Ceil = 34_000_000_000
	require.NoError(t, c.SetHTBClass("v0", want[0]))
	got, err = c.HTBClasses("v0")
	require.NoError(t, err)
	require.Equal(t, want, got)

	require.NoError(t, c.DelHTBClass("v0", 3))
	require.NoError(t, c.DelHTBClass("v0", 3))
	got, err = c.HTBClasses("v0")
	require.NoError(t, err)
	require.Equal(t, want[1:], got)
	require.NoError(t, c.DelRoot("v0"))
	require.NoError(t, c.DelRoot("v0"))
	require.NoError(t, c.DelRoot("none"))
	got, err = c.HTBClasses("v0")
	require.NoError(t, err)
	require.Empty(t, got)
}
