package ovsoverlay_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// BenchmarkRestart is what two machines lose among 2,000 ports when our
// process is followed by another, and how long it takes until they hear each
// other after ovs-vswitchd has been started anew and all is synced.
func BenchmarkRestart(b *testing.B) {
	h := only(b)
	sw, f := h.on(b)
	l := lab.New(b)
	state := estate(2000)
	require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
	var vms []*lab.NS
	for _, p := range state.Ports[:4] { // every other one is filtered, and closed
		vm := l.NS(p.ID)
		_, err := f.Plug(b.Context(), overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(b, err)
		vm.Up("eth0")
		vms = append(vms, vm)
	}
	from, to := state.Ports[1], state.Ports[3]
	heard := vms[3].Capture("eth0")
	n := uint16(1000)
	send := func() {
		n++
		vms[1].Inject("eth0", lab.Frame{SrcMAC: from.MAC, DstMAC: to.MAC, Src: from.FixedIPs[0], Dst: to.FixedIPs[0], Proto: lab.UDP, SrcPort: n, DstPort: 9}.Bytes())
	}
	match := func(f lab.Frame) bool { return f.Proto == lab.UDP && f.DstPort == 9 }
	flows := func() {
		lab.Eventually(b, time.Minute, "traffic", func() bool {
			send()
			_, ok := heard.Find(5*time.Millisecond, match)
			return ok
		})
		heard.Reset()
	}
	var lost, sent int
	var process, daemon time.Duration
	for b.Loop() {
		flows()
		time.Sleep(200 * time.Millisecond) // the last of them has come
		heard.Reset()
		stop, done := make(chan struct{}), make(chan int)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- i
					return
				case <-time.After(2 * time.Millisecond):
					send()
				}
			}
		}()
		start := time.Now()
		require.NoError(b, sw.Close())
		sw, f = h.on(b)
		require.NoError(b, f.Sync(b.Context(), state, vnet.SyncOptions{}))
		process += time.Since(start)
		close(stop)
		all := <-done
		sent += all
		lab.Eventually(b, 5*time.Second, "the last", func() bool { return len(heard.Frames()) >= all || time.Since(start) > process+2*time.Second })
		for _, f := range heard.Frames() {
			if match(f) {
				all--
			}
		}
		lost += all
		start = time.Now()
		h.sw.Vswitchd.Restart()
		lab.Eventually(b, time.Minute, "a sync", func() bool { return f.Sync(b.Context(), state, vnet.SyncOptions{}) == nil })
		heard.Reset()
		flows()
		daemon += time.Since(start)
	}
	b.ReportMetric(float64(lost), "lost-process")
	b.ReportMetric(float64(sent), "sent")
	b.ReportMetric(process.Seconds()/float64(b.N), "s-process")
	b.ReportMetric(daemon.Seconds()/float64(b.N), "s-vswitchd")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMemory is what 2,000 ports weigh: in our process, where nothing of
// them is kept but what the flow table and the database are read into, and in
// ovs-vswitchd.
func BenchmarkMemory(b *testing.B) {
	h := only(b)
	_, f := h.on(b)
	resident := func() (kb float64) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.sw.Vswitchd.Pid()))
		require.NoError(b, err)
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		_, err = fmt.Sscan(rest, &kb)
		require.NoError(b, err)
		return kb
	}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1024
	}
	const ports = 2000
	for b.Loop() {
		require.NoError(b, f.Sync(context.Background(), overlay.State{}, vnet.SyncOptions{Force: true}))
		theirs, ours := resident(), heap()
		require.NoError(b, f.Sync(context.Background(), estate(ports), vnet.SyncOptions{}))
		theirs, ours = resident()-theirs, heap()-ours
		b.ReportMetric(ours/ports, "KiB/port-ours")
		b.ReportMetric(theirs/ports, "KiB/port-vswitchd")
	}
	b.ReportMetric(0, "ns/op")
}
