package ovnqos_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/qostest"
)

// BenchmarkLimit is what one TCP connection between two hosts carries, without
// limits, and with limits that it does not reach: their ratio.
func BenchmarkLimit(b *testing.B) {
	x := newSite(b, "netdev").tenant(b)
	x.network("net", overlay.Segment{Type: overlay.Geneve, ID: 1})
	from, to := x.port("net", "from", "10.0.0", "")(0), x.port("net", "to", "10.0.0", "")(1)
	x.reaches(from, to.V4)
	set := func(kbps uint32) {
		for _, id := range []string{"from", "to"} {
			l := qos.Limits{Kbps: kbps}
			require.NoError(b, x.qos.EnsurePort(b.Context(), qos.Port{ID: id, Shape: qos.Shape{Egress: l, Ingress: l}}))
		}
		x.settle()
	}
	stream(b, from, to, time.Second)
	var plain, limited float64
	for b.Loop() {
		for range 4 { // by turns, as the machine has other things to do
			set(0)
			plain += stream(b, from, to, time.Second)
			set(10_000_000)
			limited += stream(b, from, to, time.Second)
		}
	}
	b.ReportMetric(limited/plain, "limited/unlimited")
	b.ReportMetric(plain/4/float64(b.N), "Mbit/s")
}

// stream is what a TCP connection carries, in Mbit/s.
func stream(t testing.TB, from, to qostest.VM, d time.Duration) float64 {
	var l net.Listener
	require.NoError(t, to.NS.Do(func() (err error) { l, err = net.Listen("tcp4", ":0"); return err }))
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	var out net.Conn
	require.NoError(t, from.NS.Do(func() (err error) { out, err = net.Dial("tcp4", net.JoinHostPort(to.V4, port)); return err }))
	defer out.Close()
	go func() {
		for b := make([]byte, 1<<17); ; {
			if _, err := out.Write(b); err != nil {
				return
			}
		}
	}()
	in, err := l.Accept()
	require.NoError(t, err)
	defer in.Close()
	n, began := 0, time.Now()
	in.SetReadDeadline(began.Add(d))
	for b := make([]byte, 1<<17); ; {
		k, err := in.Read(b)
		n += k
		if err != nil {
			return float64(n) * 8 / 1e6 / time.Since(began).Seconds()
		}
	}
}
