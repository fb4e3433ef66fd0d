package qostest

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/qos"
)

// BenchmarkCost reports what a limit costs that is never met: the throughput of
// one TCP connection from a machine whose port is limited to more than there is,
// as a share of that without a limit, in the same run.
func BenchmarkCost(b *testing.B, h Harness) {
	site := h.Make(b)
	s, err := qos.New(site.Backend, nil)
	require.NoError(b, err)
	from, to := site.VM(b, "from", false), site.VM(b, "to", true)
	w := &world{bench: &bench{t: b, ctx: b.Context(), site: site, s: s}}
	most := uint32(math.MaxUint32)
	var with, without float64
	for b.Loop() {
		for range 2 {
			require.NoError(b, s.DeletePort(b.Context(), from.PortID))
			w.settle()
			without += w.stream(from, to, time.Second)
			require.NoError(b, s.EnsurePort(b.Context(), qos.Port{ID: from.PortID, Shape: qos.Shape{Egress: qos.Limits{Kbps: most}, Ingress: qos.Limits{Kbps: most}}, Host: site.Host}))
			w.settle()
			with += w.stream(from, to, time.Second)
		}
	}
	b.ReportMetric(with/without, "limited/unlimited")
	b.ReportMetric(without/float64(2*b.N), "kbit/s")
}
