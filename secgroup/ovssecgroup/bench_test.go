package ovssecgroup_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
)

// BenchmarkJoin is a member joining a group of 10,000, that a group with ports
// here refers to.
func BenchmarkJoin(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1, "netdev")[0]
	sg := m.backend(b)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big")}, Ports: []secgroup.Port{testPort(0, "", "big")}}
	for i := range 10000 {
		s.Ports = append(s.Ports, testPort(i+1, "far", "big"))
	}
	require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{}))
	before := m.writes()
	n := 0
	for b.Loop() {
		n++
		if err := sg.EnsurePort(ctx, testPort(20000+n, "far", "big")); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.writes()-before)/float64(n), "flows/op")
}

// BenchmarkLeave is a member leaving it.
func BenchmarkLeave(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1, "netdev")[0]
	sg := m.backend(b)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big")}, Ports: []secgroup.Port{testPort(0, "", "big")}}
	for i := range 10000 {
		s.Ports = append(s.Ports, testPort(i+1, "far", "big"))
	}
	require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{}))
	n := 0
	for b.Loop() {
		n++
		if err := sg.DeletePort(ctx, testPort(n, "").ID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSyncUnchanged is a Sync of 2,000 ports where nothing differs.
func BenchmarkSyncUnchanged(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1, "netdev")[0]
	sg := m.backend(b)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	for i := range 2000 {
		s.Ports = append(s.Ports, testPort(i+1, "", "default"))
	}
	require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{}))
	before := m.writes()
	for b.Loop() {
		if err := sg.Sync(ctx, s, vnet.SyncOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.writes()-before), "writes")
}

// BenchmarkThroughput is an established TCP flow between two ports of a host,
// and how many connections a second can be opened, unfiltered, with one rule,
// and with 1,000, as ratios of one run.
func BenchmarkThroughput(b *testing.B) {
	s := newSite(b, nil, 2, false)
	to := sitePort(1).FixedIPs[0]
	var lst net.Listener
	require.NoError(b, s.vms[1].Do(func() (err error) { lst, err = net.Listen("tcp", "0.0.0.0:5001"); return err }))
	defer lst.Close()
	go func() {
		for {
			c, err := lst.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	dial := func() (c net.Conn) {
		require.NoError(b, s.vms[0].Do(func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, 5001).String(), 5*time.Second)
			return err
		}))
		return c
	}
	rates := func(st secgroup.State) (bytes, opened float64) {
		s.sync(b, st.Groups, st.Ports...)
		// First, because a connection that sends all it can crowds out others.
		n := 0
		start := time.Now()
		for ; time.Since(start) < time.Second; n++ {
			dial().Close()
		}
		opened = float64(n) / time.Since(start).Seconds()
		c := dial()
		defer c.Close()
		buf := make([]byte, 1<<16)
		sent := 0
		start = time.Now()
		for time.Since(start) < time.Second {
			n, err := c.Write(buf)
			require.NoError(b, err)
			sent += n
		}
		bytes = float64(sent) / time.Since(start).Seconds()
		b.Logf("%.0f MB/s, %.0f connections/s", bytes/1e6, opened)
		return bytes, opened
	}
	web := secgroup.Group{ID: "web", Rules: []secgroup.Rule{rule("web", "tcp", 5001)}}
	many := secgroup.Group{ID: "web", Rules: web.Rules}
	for i := range 999 {
		r := rule(fmt.Sprint("r", i), "tcp", uint16(10000+2*i))
		r.RemotePrefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 32)
		many.Rules = append(many.Rules, r)
	}
	secured := func(g secgroup.Group) secgroup.State {
		return secgroup.State{Groups: []secgroup.Group{out(), g}, Ports: []secgroup.Port{sitePort(0, "out"), sitePort(1, "web")}}
	}
	var sum [3][2]float64
	for b.Loop() {
		for i, st := range []secgroup.State{{}, secured(web), secured(many)} {
			x, y := rates(st)
			sum[i][0] += x
			sum[i][1] += y
		}
	}
	b.ReportMetric(sum[1][0]/sum[0][0], "filtered/unfiltered")
	b.ReportMetric(sum[2][0]/sum[1][0], "1000-rules/1-rule")
	b.ReportMetric(sum[1][1]/sum[0][1], "opened-filtered/unfiltered")
	b.ReportMetric(sum[2][1]/sum[1][1], "opened-1000-rules/1-rule")
}
