package ovn_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

func dial(t *testing.T, owner vnet.Owner, o *ovn.Options, endpoints ...string) *ovn.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := ovn.Dial(ctx, owner, endpoints, o)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// ensureNetwork is the smallest backend there is.
func ensureNetwork(id string, ports ...string) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{
			Name: tx.Conn().Name("network", id), OtherConfig: map[string]string{"mcast_snoop": "false"}})
		tx.Record("network", id, vnet.ImpactNone, sw)
		row := ovn.At[nbrow.LogicalSwitch](tx, sw.UUID)
		for _, p := range ports {
			r := ovn.Ensure(tx, "port", p, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(p), Addresses: []string{"unknown"}})
			h := tx.Hold(row, "ports", r.UUID)
			tx.Record("port", p, vnet.ImpactNone, r, h)
		}
		return nil
	}
}

func TestWriteAndReadBack(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	p, err := c.Plan(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1", "p2"))
	require.NoError(t, err)
	require.Equal(t, 3, p.Count(vnet.Create), p.String())
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1", "p2")))
	v, err := c.View(ctx)
	require.NoError(t, err)
	sw := ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", "n1")
	require.NotNil(t, sw)
	require.Equal(t, "red/network/n1", sw.Name)
	require.Len(t, sw.Ports, 2)
	require.Equal(t, sw, ovn.Holder[nbrow.LogicalSwitch](v, ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", "p1")))
	p, err = c.Plan(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1", "p2"))
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())
	require.Contains(t, s.Run("ovn-nbctl", "--db="+s.Endpoint(), "show"), "red/p1")
}

var update = flag.Bool("update", false, "write golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	p := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(p, []byte(got), 0o644))
	}
	want, err := os.ReadFile(p)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
