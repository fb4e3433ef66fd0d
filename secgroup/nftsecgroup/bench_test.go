package nftsecgroup_test

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
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

func port(n uint16) *uint16 { return &n }

func benchMAC(n int) vnet.MAC { return vnet.MAC{2, 0x5e, 1, byte(n >> 16), byte(n >> 8), byte(n)} }

func benchPort(n int, host string, groups ...string) secgroup.Port {
	return secgroup.Port{ID: fmt.Sprintf("port-%06d", n), NetworkID: "net", MAC: benchMAC(n), Host: host, Groups: groups,
		FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n+1))}}
}

// BenchmarkJoin is a member joining a group of 10,000, that a group with ports
// here refers to.
func BenchmarkJoin(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1)[0]
	h := m.open(b)
	sg, err := nftsecgroup.New(h, nil)
	require.NoError(b, err)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big")}, Ports: []secgroup.Port{benchPort(0, "", "big")}}
	for i := range 10000 {
		s.Ports = append(s.Ports, benchPort(i+1, "far", "big"))
	}
	require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{}))
	before := h.NS().NFT().Stats()
	n := 0
	for b.Loop() {
		n++
		if err := sg.EnsurePort(ctx, benchPort(20000+n, "far", "big")); err != nil {
			b.Fatal(err)
		}
	}
	after := h.NS().NFT().Stats()
	b.ReportMetric(float64(after.Messages-before.Messages)/float64(n), "messages/op")
	b.ReportMetric(float64(after.Elements-before.Elements)/float64(n), "elements/op")
	b.ReportMetric(float64(after.Transactions-before.Transactions)/float64(n), "transactions/op")
}

// BenchmarkSyncUnchanged is a Sync of 2,000 ports where nothing differs.
func BenchmarkSyncUnchanged(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1)[0]
	sg := m.backend(b)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	for i := range 2000 {
		s.Ports = append(s.Ports, benchPort(i, "", "default"))
	}
	require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{}))
	before := m.writes()
	n := 0
	for b.Loop() {
		n++
		if err := sg.Sync(ctx, s, vnet.SyncOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.writes()-before)/float64(n), "writes/op")
}

// BenchmarkRestart is the first Sync of a new process over 2,000 ports.
func BenchmarkRestart(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1)[0]
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	for i := range 2000 {
		s.Ports = append(s.Ports, benchPort(i, "", "default"))
	}
	require.NoError(b, m.backend(b).Sync(ctx, s, vnet.SyncOptions{}))
	before := m.writes()
	for b.Loop() {
		if err := m.backend(b).Sync(ctx, s, vnet.SyncOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.writes()-before), "writes")
}

// BenchmarkThroughput is an established TCP flow between two ports of a host,
// unfiltered, with one rule, and with 1,000, as ratios of one run.
func BenchmarkThroughput(b *testing.B) {
	ctx := context.Background()
	m := machines(b, 1)[0]
	h := m.open(b)
	ov, err := linuxoverlay.New(h, nil)
	require.NoError(b, err)
	sg, err := nftsecgroup.New(h, nil)
	require.NoError(b, err)
	l := lab.New(b)
	net1 := overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}, MTU: 1500}
	require.NoError(b, ov.EnsureNetwork(ctx, net1))
	var vms []*lab.NS
	var ports []secgroup.Port
	for i := range 2 {
		p := benchPort(i+1, m.o.Name)
		ports = append(ports, p)
		require.NoError(b, ov.EnsurePort(ctx, overlay.Port{ID: p.ID, NetworkID: "net", MAC: p.MAC, FixedIPs: p.FixedIPs, Host: m.o.Name}))
		vm := l.NS(fmt.Sprintf("vm%d", i))
		_, err := ov.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(b, err)
		vm.Up("eth0")
		vm.Addr("eth0", p.FixedIPs[0].String()+"/8")
		vms = append(vms, vm)
	}
	var lst net.Listener
	require.NoError(b, vms[1].Do(func() (err error) { lst, err = net.Listen("tcp", "0.0.0.0:5001"); return err }))
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
	rate := func(s secgroup.State) float64 {
		require.NoError(b, sg.Sync(ctx, s, vnet.SyncOptions{Force: true}))
		var c net.Conn
		require.NoError(b, vms[0].Do(func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(ports[1].FixedIPs[0], 5001).String(), 5*time.Second)
			return err
		}))
		defer c.Close()
		buf := make([]byte, 1<<16)
		sent := 0
		start := time.Now()
		for time.Since(start) < time.Second {
			n, err := c.Write(buf)
			require.NoError(b, err)
			sent += n
		}
		return float64(sent) / time.Since(start).Seconds()
	}
	state := func(groups []secgroup.Group, ids ...string) secgroup.State {
		s := secgroup.State{Groups: groups}
		for _, p := range ports {
			p.Groups, p.DisablePortSecurity = ids, len(ids) == 0
			s.Ports = append(s.Ports, p)
		}
		return s
	}
	any := func(id string) secgroup.Group {
		return secgroup.Group{ID: id, Rules: []secgroup.Rule{{ID: "i", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4}, {ID: "e", Direction: secgroup.Egress, Ethertype: secgroup.IPv4}}}
	}
	many := secgroup.Group{ID: "many", Rules: any("x").Rules[1:]}
	for i := range uint16(999) {
		many.Rules = append(many.Rules, secgroup.Rule{ID: fmt.Sprintf("r%d", i), Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(4000 + 7*i), PortMax: port(4001 + 7*i),
			RemotePrefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i % 8), 0, 0}), 16)})
	}
	many.Rules = append(many.Rules, secgroup.Rule{ID: "used", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(5001), PortMax: port(5001)})
	var none, one, thousand float64
	for b.Loop() {
		none += rate(state(nil))
		one += rate(state([]secgroup.Group{any("any")}, "any"))
		thousand += rate(state([]secgroup.Group{many}, "many"))
	}
	b.ReportMetric(none/float64(b.N)/1e9*8, "Gbit/s-unfiltered")
	b.ReportMetric(one/none, "1-rule/unfiltered")
	b.ReportMetric(thousand/none, "1000-rules/unfiltered")
	b.ReportMetric(thousand/one, "1000-rules/1-rule")
}
