package linux_test

import (
	"fmt"
	"testing"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
)

// BenchmarkPorts is what the registry costs a port: made, in one batch, and
// asked again when all stands.
func BenchmarkPorts(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := lab.New(b)
			ns := l.NS("h")
			h, err := linux.Open(b.Context(), vnet.Owner(l.Owner("x")), &linux.Options{Name: "h", Netns: ns.Path, NetnsDir: l.NetnsDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			all := func() (steps []linux.Step) {
				for i := range n {
					id := fmt.Sprintf("port-%d", i)
					for _, f := range []func() ([]linux.Step, error){
						func() ([]linux.Step, error) { return h.Ports().Bind(b.Context(), id, h.LinkName("p", id), true) },
						func() ([]linux.Step, error) {
							_, s, err := h.Ports().Claim(b.Context(), vnet.PartSecGroup, id)
							return s, err
						},
						func() ([]linux.Step, error) { return h.Ports().Fill(b.Context(), id) },
					} {
						s, err := f()
						if err != nil {
							b.Fatal(err)
						}
						steps = append(steps, s...)
					}
				}
				return steps
			}
			steps := all()
			b.ReportMetric(float64(len(steps)), "steps")
			if err := h.Submit(b.Context(), steps...); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for b.Loop() {
				if s := all(); len(s) != 0 {
					b.Fatalf("%d steps where all stands", len(s))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/port")
			if err := h.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
