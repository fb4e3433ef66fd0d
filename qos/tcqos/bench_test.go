package tcqos_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/qostest"
)

func BenchmarkCost(b *testing.B) {
	qostest.BenchmarkCost(b, qostest.Harness{Make: func(t testing.TB) qostest.Site { return newSite(t, nil).harness() }})
}

// BenchmarkPorts is what a change of one port costs among others with limits,
// and a Sync that finds nothing to do.
func BenchmarkPorts(b *testing.B) {
	for _, n := range []int{10, 500} {
		site := newSite(b, nil).harness()
		var s qos.State
		for i := range n {
			s.Ports = append(s.Ports, qos.Port{ID: fmt.Sprintf("p%04d", i), Host: "h1", Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000, PPS: 1000}, Ingress: qos.Limits{Kbps: 10_000}}})
		}
		require.NoError(b, site.Backend.Sync(b.Context(), s, vnet.SyncOptions{}))
		b.Run(fmt.Sprintf("change one of %d", n), func(b *testing.B) {
			p := s.Ports[0]
			for b.Loop() {
				p.Egress.Kbps++
				require.NoError(b, site.Backend.EnsurePort(b.Context(), p))
			}
			require.NoError(b, site.Backend.EnsurePort(b.Context(), s.Ports[0]))
		})
		b.Run(fmt.Sprintf("sync %d again", n), func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, site.Backend.Sync(b.Context(), s, vnet.SyncOptions{}))
			}
		})
	}
}
