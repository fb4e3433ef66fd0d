package ovnoverlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// crowd is ports on networks of 50, with an address of each family. Names
// begin with prefix.
func crowd(prefix string, n int) (s overlay.State) {
	for i := range n {
		network := fmt.Sprint(prefix, "n", i/50)
		if i%50 == 0 {
			s.Networks = append(s.Networks, overlay.Network{ID: network, Segment: overlay.Segment{Type: overlay.Geneve, ID: uint32(1000 + i)}, Subnets: []overlay.Subnet{
				{ID: network + "-4", CIDR: netip.MustParsePrefix("10.0.0.0/24")}, {ID: network + "-6", CIDR: netip.MustParsePrefix("2001:db8::/64")}}})
		}
		s.Ports = append(s.Ports, overlay.Port{ID: fmt.Sprint(prefix, "p", i), NetworkID: network, MAC: vnet.MAC{2, 8, 0, byte(i >> 16), byte(i >> 8), byte(i)},
			FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i%50)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 1+i%50))}, Filtered: i%2 == 0})
	}
	return s
}

// operations reads how many a connection has sent.
func operations(t testing.TB, reg *prometheus.Registry) (n float64) {
	all, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range all {
		if f.GetName() == "vnet_ovn_operations_total" {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// BenchmarkThousandPorts is 1,000 ports in one batch, so in one transaction,
// and so many by calls of ovn-nbctl one after the other. Both only write.
func BenchmarkThousandPorts(b *testing.B) {
	const n, calls = 1000, 200
	l := lab.New(b)
	central := l.OVNCentral(nil)
	c, err := ovn.Dial(b.Context(), "bench", []string{central.NB[0].Unix}, nil)
	require.NoError(b, err)
	defer c.Close()
	var ours, theirs time.Duration
	round := 0
	for b.Loop() {
		round++
		s := crowd(fmt.Sprint("r", round), n)
		start := time.Now()
		batch := c.Batch()
		back, err := ovnoverlay.New(batch, nil)
		require.NoError(b, err)
		f, err := overlay.New(back, nil)
		require.NoError(b, err)
		for _, x := range s.Networks {
			x.Segment.ID += uint32(round) * 10000
			require.NoError(b, f.EnsureNetwork(b.Context(), x))
		}
		for _, p := range s.Ports {
			require.NoError(b, f.EnsurePort(b.Context(), p))
		}
		require.NoError(b, batch.Commit(b.Context()))
		ours += time.Since(start)

		sw := fmt.Sprint("peer", round)
		central.NBCtl("ls-add", sw)
		start = time.Now()
		for i, p := range s.Ports[:calls] {
			name := fmt.Sprint("peer", round, "-", i)
			central.NBCtl("lsp-add", sw, name, "--", "lsp-set-addresses", name, fmt.Sprintf("%s 10.1.%d.%d 2001:db8::%x", p.MAC, i>>8, i&255, i+1),
				"--", "lsp-set-enabled", name, "enabled")
		}
		theirs += time.Since(start) * n / calls
	}
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-ovn-nbctl-loop")
	b.ReportMetric(n*float64(b.N)/ours.Seconds(), "ports/s")
	b.ReportMetric(n*float64(b.N)/theirs.Seconds(), "ports/s-ovn-nbctl")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPortUntilDone is one port made until every chassis says that it has
// it, and one by "ovn-nbctl --wait=hv".
func BenchmarkPortUntilDone(b *testing.B) {
	s := newSite(b, 2)
	c := s.dial(b, s.owner(), ovn.WaitHypervisors)
	back, err := ovnoverlay.New(c, nil)
	require.NoError(b, err)
	f, err := overlay.New(back, nil)
	require.NoError(b, err)
	state := crowd("", 20)
	require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	s.c.NBCtl("--wait=hv", "ls-add", "peer")
	var ours, theirs time.Duration
	const each = 30
	round := 0
	for b.Loop() {
		for range each {
			round++
			p := state.Ports[0]
			p.ID, p.MAC, p.FixedIPs = fmt.Sprint("one", round), vnet.MAC{2, 7, 0, 0, byte(round >> 8), byte(round)}, nil
			start := time.Now()
			require.NoError(b, f.EnsurePort(b.Context(), p))
			ours += time.Since(start)
			name := fmt.Sprint("peer", round)
			start = time.Now()
			s.c.NBCtl("--wait=hv", "lsp-add", "peer", name, "--", "lsp-set-addresses", name, p.MAC.String())
			theirs += time.Since(start)
		}
	}
	n := float64(b.N * each)
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-ovn-nbctl-wait-hv")
	b.ReportMetric(ours.Seconds()*1000/n, "ms/port")
	b.ReportMetric(theirs.Seconds()*1000/n, "ms/port-ovn-nbctl")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSyncUnchanged is a Sync of 10,000 ports, none of which differs.
func BenchmarkSyncUnchanged(b *testing.B) {
	s := ovsdbtest.New(b, ovsdbtest.NB)
	reg := prometheus.NewRegistry()
	c, err := ovn.Dial(context.Background(), "bench", []string{s.Endpoint()}, &ovn.Options{Metrics: reg})
	require.NoError(b, err)
	defer c.Close()
	back, err := ovnoverlay.New(c, nil)
	require.NoError(b, err)
	f, err := overlay.New(back, nil)
	require.NoError(b, err)
	state := crowd("", 10000)
	require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	wrote := operations(b, reg)
	v, err := c.View(b.Context())
	require.NoError(b, err)
	ports := 0
	for range ovn.Own[nbrow.LogicalSwitchPort](v, vnet.PartOverlay) {
		ports++
	}
	require.Equal(b, 10000, ports)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(operations(b, reg)-wrote, "writes")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/1e6, "MB/op")
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc)/1e6, "MB-held")
}
