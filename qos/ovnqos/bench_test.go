package ovnqos

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
)

// BenchmarkPorts is one limit of 10,000 ports changed, the same asked again, and
// a Sync of all that finds nothing to do.
func BenchmarkPorts(b *testing.B) {
	x := newInstallation(b)
	var s qos.State
	var ids []string
	for i := range 10_000 {
		ids = append(ids, fmt.Sprintf("p%05d", i))
		s.Ports = append(s.Ports, qos.Port{ID: ids[i], Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000}, Ingress: qos.Limits{Kbps: 10_000}}})
	}
	require.NoError(b, x.c.Submit(b.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error { network(tx, "N", ids...); return nil }))
	require.NoError(b, x.b.Sync(b.Context(), s, vnet.SyncOptions{}))
	b.Run("change one", func(b *testing.B) {
		p := s.Ports[5000]
		for b.Loop() {
			p.Egress.Kbps++
			require.NoError(b, x.b.EnsurePort(b.Context(), p))
		}
		require.NoError(b, x.b.EnsurePort(b.Context(), s.Ports[5000]))
	})
	b.Run("ensure again", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, x.b.EnsurePort(b.Context(), s.Ports[5000]))
		}
	})
	b.Run("sync again", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, x.b.Sync(b.Context(), s, vnet.SyncOptions{}))
		}
	})
}
