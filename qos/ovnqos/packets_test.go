package ovnqos_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
)

const patience = 30 * time.Second

// TestPort: a limit each way between two hosts, and what it dropped.
func TestPort(t *testing.T) {
	x := newSite(t).tenant(t)
	x.network("in", overlay.Segment{Type: overlay.Geneve, ID: 1})
	a := x.vm(0, "in", "a", 1, "10.0.0.1/24")
	b := x.vm(1, "in", "b", 2, "10.0.0.2/24")
	lab.Eventually(t, patience, "they reach each other", func() bool { return a.Ping("10.0.0.2", 1) == nil })
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		shape, from, to, addr := kbps(5000, 0), a, b, "10.0.0.2"
		if d == qos.Ingress {
			shape, from, to, addr = kbps(0, 5000), b, a, "10.0.0.1"
		}
		require.NoError(t, x.qos.EnsurePort(t.Context(), qos.Port{ID: "a", Shape: shape}))
		f := start(t, from, to, addr, 10_000)
		_, _ = f.count(2 * time.Second) // the burst
		require.InEpsilon(t, 5000, f.kbps(2*time.Second), 0.1, d)
		sent := f.end()
		st, err := x.qos.Statistics(t.Context())
		require.NoError(t, err)
		require.Len(t, st, 1)
		require.Equal(t, []any{"port", "a", d}, []any{st[0].Kind, st[0].ID, st[0].Direction})
		require.InDelta(t, sent, st[0].Passed.Packets+st[0].Dropped.Packets, 5)
		require.InEpsilon(t, sent/3, st[0].Dropped.Packets, 0.3)
	}
}
