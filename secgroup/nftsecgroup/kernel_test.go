package nftsecgroup

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

// TestKernelTakesIt writes the ruleset of a state with everything in it, step
// by step and back, and asks nft to read it.
func TestKernelTakesIt(t *testing.T) {
	l := lab.New(t)
	lab.Need(t, "nft")
	ns := l.NS("h")
	conn := nft.Open(ns)
	defer conn.Close()
	ctx := context.Background()
	f := testFacts(secgroup.State{})
	do := func(c change) {
		t.Helper()
		tt := touch(f, []change{c})
		before := draw(testLayout, f, tt)
		if c.new != (object{}) {
			f.put(c.new)
		} else {
			f.drop(c.old)
		}
		w := difference(testLayout, before, draw(testLayout, f, tt))
		declare := func(tx *nft.Tx) error {
			tx.Set(testDevices)
			tx.Set(testNetworks)
			w.declare(tx)
			return nil
		}
		d, _ := c.describe()
		require.NoError(t, conn.Do(ctx, declare), d.String())
		left, err := conn.Check(ctx, declare)
		require.NoError(t, err)
		require.Empty(t, left, d.String())
	}
	s := textState()
	for _, a := range s.AddressGroups {
		do(change{new: object{addressGroup: &a}})
	}
	for _, g := range s.Groups {
		do(change{new: object{group: &g}})
	}
	for _, p := range s.Ports {
		do(change{new: object{port: &p}})
	}
	out, err := ns.Exec(ctx, "nft", "list", "ruleset")
	require.NoError(t, err)
	t.Log(out)
	for _, want := range []string{"chain sg-in/web", "@sg-in4/6/web accept", "set sg-group4/default", "10.0.0.99", "goto sg-from/"} {
		require.Contains(t, out, want)
	}
	for _, p := range s.Ports {
		do(change{old: object{port: &p}})
	}
	for _, g := range s.Groups {
		do(change{old: object{group: &g}})
	}
	for _, a := range s.AddressGroups {
		do(change{old: object{addressGroup: &a}})
	}
	out, err = ns.Exec(ctx, "nft", "list", "ruleset")
	require.NoError(t, err)
	require.NotContains(t, out, "/web")
	require.NotContains(t, out, "10.0.0.99")
}
