package rtnl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/rtnl"
)

func TestTokenBucket(t *testing.T) {
	lab.Need(t, "tc")
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddVeth("v0", "v1", nil, vnet.MAC{}, vnet.MAC{}, 0))
	require.NoError(t, c.AddLink(&rtnl.Ifb{LinkAttrs: attrs("q0")}))
	for _, d := range []string{"v0", "v1", "q0"} {
		require.NoError(t, c.SetUp(d))
	}
	_, _, err := c.TBF("v0", 0x7e51)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.NoError(t, c.DelTBF("v0", 0x7e51))
	want := rtnl.TBF{Rate: 10_000_000, Burst: 1_000_000, Queue: 125_000}
	for _, rate := range []uint64{10_000_000, 64_000, 40_000_000_000, 1_000_000} {
		want.Rate, want.Burst = rate, uint32(max(rate/80, 2000))
		require.NoError(t, c.SetTBF("v0", 0x7e51, want))
		w := c.Writes()
		require.NoError(t, c.SetTBF("v0", 0x7e51, want))
		require.Equal(t, w, c.Writes(), "the same again sends nothing")
		got, _, err := c.TBF("v0", 0x7e51)
		require.NoError(t, err)
		require.InEpsilon(t, want.Burst, got.Burst, 0.02)
		got.Burst = want.Burst
		require.Equal(t, want, got)
	}
	_, _, err = c.TBF("v0", 0x7e52)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.ErrorIs(t, c.SetTBF("v0", 0x7e52, want), vnet.ErrConflict)
	require.NoError(t, c.DelTBF("v0", 0x7e52))
	require.NoError(t, c.DelTBF("v0", 0x7e51))
	require.NoError(t, c.DelTBF("v0", 0x7e51))
	require.NoError(t, c.DelTBF("none", 0x7e51))

	is, err := c.Redirected("v0", "q0")
	require.NoError(t, err)
	require.False(t, is)
	require.NoError(t, c.DelIntake("v0"))
	for range 2 {
		require.NoError(t, c.SetIntake("v0", rtnl.Intake{Redirect: "q0"}))
		is, err = c.Redirected("v0", "q0")
		require.NoError(t, err)
		require.True(t, is)
	}
	require.NoError(t, c.DelIntake("v0"))
	is, err = c.Redirected("v0", "q0")
	require.NoError(t, err)
	require.False(t, is)
	require.NoError(t, c.DelIntake("none"))
}
