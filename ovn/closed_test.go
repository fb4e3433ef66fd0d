package ovn_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

// filteredPort makes port p as part overlay does.
func filteredPort(filtered, enabled bool) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", "n", &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", "n")})
		p := ovn.Ensure(tx, "port", "p", &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName("p"), Enabled: &enabled,
			ExternalIDs: map[string]string{ovn.KeyFiltered: fmt.Sprint(filtered)}})
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", p.UUID)
		tx.Record("port", "p", vnet.ImpactNone, p)
		return nil
	}
}

// fill fills port p, or empties it, as part secgroup does.
func fill(filled bool) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		want := &nbrow.LogicalSwitchPort{}
		if filled {
			want.PortSecurity, want.ExternalIDs = []string{"02:00:00:00:00:01"}, map[string]string{ovn.KeyFilled: "{}"}
		}
		tx.Record("port", "p", vnet.ImpactNone, ovn.Update(tx, ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "p"), want))
		return nil
	}
}

// TestClosed: a filtered port is disabled until it is filled, and enabled as
// part overlay wants it, in whatever order the parts write.
func TestClosed(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	enabled := func() bool {
		p := ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p")
		return p.Enabled == nil || *p.Enabled
	}
	do := func(part vnet.Part, f func(*ovn.Tx) error, want bool) {
		t.Helper()
		require.NoError(t, c.Submit(t.Context(), part, f))
		require.Equal(t, want, enabled())
		p, err := c.Plan(t.Context(), part, f)
		require.NoError(t, err)
		require.True(t, p.Empty(), p.String())
	}
	o, sg := vnet.PartOverlay, vnet.PartSecGroup
	do(o, filteredPort(true, true), false)
	do(sg, fill(true), true)
	do(o, filteredPort(true, true), true)
	do(sg, fill(false), false)
	do(o, filteredPort(true, false), false) // down while closed
	do(sg, fill(true), false)               // filled while down
	do(o, filteredPort(true, true), true)
	do(o, filteredPort(true, false), false)
	do(sg, fill(false), false)
	do(o, filteredPort(true, true), false) // up while closed
	do(o, filteredPort(false, true), true) // not filtered any more
	do(o, filteredPort(true, true), false)
	do(sg, fill(true), true)

	// Filled in the transaction that makes it, it is never closed.
	require.NoError(t, c.Cleanup(t.Context()))
	b := c.Batch()
	require.NoError(t, b.Submit(t.Context(), o, filteredPort(true, true)))
	require.NoError(t, b.Submit(t.Context(), sg, fill(true)))
	require.NoError(t, b.Commit(t.Context()))
	require.True(t, enabled())
}

// TestClosedRace: parts of two processes change one port at the same time, and
// what comes of it is what both want in the end.
func TestClosedRace(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	a, b := dial(t, "red", nil, s.Endpoint()), dial(t, "red", nil, s.Endpoint())
	require.NoError(t, a.Submit(t.Context(), vnet.PartOverlay, filteredPort(true, true)))
	_, err := b.View(t.Context())
	require.NoError(t, err)
	for i := range 60 {
		up, filled := i&1 != 0, i&2 != 0
		done := make(chan error, 2)
		go func() { done <- a.Submit(context.Background(), vnet.PartOverlay, filteredPort(true, up)) }()
		go func() {
			// b may not have seen the port yet
			for {
				err := b.Submit(context.Background(), vnet.PartSecGroup, fill(filled))
				if err == nil || i > 0 {
					done <- err
					return
				}
			}
		}()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		// A transaction after both sees both.
		require.NoError(t, a.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
			ovn.Ensure(tx, "network", fmt.Sprint("round", i), &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", fmt.Sprint("round", i))})
			return nil
		}))
		p := ovn.Find[nbrow.LogicalSwitchPort](view(t, a), vnet.PartOverlay, "port", "p")
		require.Equal(t, up && filled, p.Enabled == nil || *p.Enabled, "round %d: up %t, filled %t: %v", i, up, filled, p.ExternalIDs)
	}
}
