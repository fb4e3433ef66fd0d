package ovnsecgroup

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
)

// benched is an installation of many ports, what it has been told, and how many
// operations and transactions have been sent.
func benched(b *testing.B, s secgroup.State, more ...secgroup.Port) (*Backend, func(name string) float64) {
	srv := ovsdbtest.New(b, ovsdbtest.NB)
	reg := prometheus.NewRegistry()
	c, err := ovn.Dial(b.Context(), "o", []string{srv.Endpoint()}, &ovn.Options{Metrics: reg})
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	overlay(b, c, append(s.Ports[:len(s.Ports):len(s.Ports)], more...)...)
	sg, err := New(c, nil)
	require.NoError(b, err)
	require.NoError(b, sg.Sync(b.Context(), s, vnet.SyncOptions{}))
	return sg, func(name string) float64 {
		all, err := reg.Gather()
		require.NoError(b, err)
		n := 0.0
		for _, f := range all {
			if f.GetName() == "vnet_ovn_"+name+"_total" {
				for _, m := range f.GetMetric() {
					n += m.GetCounter().GetValue()
				}
			}
		}
		return n
	}
}

// BenchmarkJoin is a member joining a group of 10,000 that refers to itself,
// and leaving it. The operations are the port's own row, a mutation of two port
// groups and two address sets, and a wait for each of them.
func BenchmarkJoin(b *testing.B) {
	p := member(10000)
	sg, sent := benched(b, crowd(10000), p)
	measure := func(name string, before, what func() error) {
		b.Run(name, func(b *testing.B) {
			ops, txs, n := 0.0, 0.0, 0.0
			for b.Loop() {
				b.StopTimer()
				require.NoError(b, before())
				o, t := sent("operations"), sent("transactions")
				b.StartTimer()
				if err := what(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				ops, txs, n = ops+sent("operations")-o, txs+sent("transactions")-t, n+1
				b.StartTimer()
			}
			b.ReportMetric(ops/n, "operations/op")
			b.ReportMetric(txs/n, "transactions/op")
		})
	}
	join := func() error { return sg.EnsurePort(b.Context(), p) }
	leave := func() error { return sg.DeletePort(b.Context(), p.ID) }
	measure("join", leave, join)
	measure("leave", join, leave)
}

// BenchmarkSyncUnchanged is a Sync where nothing differs.
func BenchmarkSyncUnchanged(b *testing.B) {
	for _, ports := range []int{2000, 10000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			s := crowd(ports)
			sg, sent := benched(b, s)
			before, n := sent("operations"), 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				if err := sg.Sync(b.Context(), s, vnet.SyncOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((sent("operations")-before)/float64(n), "writes/op")
		})
	}
}
