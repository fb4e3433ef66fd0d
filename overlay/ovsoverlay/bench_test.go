package ovsoverlay_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// estate is n ports on networks of 50.
func estate(n int) (s overlay.State) {
	for i := range n {
		id := fmt.Sprint("n", i/50)
		if i%50 == 0 {
			s.Networks = append(s.Networks, wide(id, overlay.Segment{Type: overlay.VXLAN, ID: uint32(1000 + i)}))
		}
		p := nth(id, i)
		p.Filtered = i%2 == 0
		s.Ports = append(s.Ports, p)
	}
	return s
}

// BenchmarkPort is one port more when so many exist, beside one run of
// ovs-ofctl that adds the same flows.
func BenchmarkPort(b *testing.B) {
	for _, exist := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("exist=%d", exist), func(b *testing.B) {
			h := only(b)
			sw, f := h.on(b)
			state := estate(exist)
			require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{Force: true}))
			p := nth("n0", 20000)
			p.FixedIPs = []netip.Addr{netip.MustParseAddr("10.1.255.1"), netip.MustParseAddr("2001:db8:1::ffff")}

			// Its flows as text, for ovs-ofctl.
			dump := func() map[string]bool {
				out := map[string]bool{}
				for l := range strings.Lines(h.sw.Ofctl("dump-flows", sw.Bridge(), "--no-stats")) {
					if l = strings.TrimSpace(l); strings.Contains(l, "actions=") {
						out[l] = true
					}
				}
				return out
			}
			before := dump()
			require.NoError(b, f.EnsurePort(b.Context(), p))
			var flows []string
			for l := range dump() {
				if !before[l] {
					flows = append(flows, l)
				}
			}
			require.NoError(b, f.DeletePort(b.Context(), p.ID))
			file := filepath.Join(b.TempDir(), "flows")
			require.NoError(b, os.WriteFile(file, []byte(strings.Join(flows, "\n")+"\n"), 0o600))
			h.sw.Vsctl("add-br", "br-peer", "--", "set", "Bridge", "br-peer", "datapath_type=netdev", "fail_mode=secure")
			defer h.sw.Vsctl("del-br", "br-peer")

			var ours, theirs time.Duration
			wrote, n := uint64(0), 0
			for b.Loop() {
				for range 20 {
					w, start := sw.Writes(), time.Now()
					require.NoError(b, f.EnsurePort(b.Context(), p))
					ours += time.Since(start)
					wrote += sw.Writes() - w
					require.NoError(b, f.DeletePort(b.Context(), p.ID))
					start = time.Now()
					h.sw.Ofctl("add-flows", "br-peer", file)
					theirs += time.Since(start)
					h.sw.Ofctl("del-flows", "br-peer")
					n++
				}
			}
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-ovs-ofctl-add-flows")
			b.ReportMetric(ours.Seconds()*1000/float64(n), "ms/port")
			b.ReportMetric(theirs.Seconds()*1000/float64(n), "ms/port-ovs-ofctl")
			b.ReportMetric(float64(wrote)/float64(n), "writes/port")
			b.ReportMetric(float64(len(flows)), "flows")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkSyncUnchanged is Sync of 10,000 ports, none of which differs, after
// the one that made them.
func BenchmarkSyncUnchanged(b *testing.B) {
	h := only(b)
	sw, f := h.on(b)
	state := estate(10000)
	start := time.Now()
	require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	first := time.Since(start)
	wrote := sw.Writes()
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	}
	b.ReportMetric(first.Seconds(), "s-first")
	b.ReportMetric(float64(sw.Writes()-wrote), "writes")
}
