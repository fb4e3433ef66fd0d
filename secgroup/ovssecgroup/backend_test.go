package ovssecgroup_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

func rule(id string, proto string, port uint16) secgroup.Rule {
	return secgroup.Rule{ID: id, Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: proto, PortMin: &port, PortMax: &port}
}

// TestMany counts what changes write where 10,000 members and 2,000 ports of
// this host stand.
func TestMany(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1, "netdev")[0]
	b := m.backend(t)
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	for i := range 10000 {
		host := "far"
		if i%5 == 0 {
			host = ""
		}
		s.Ports = append(s.Ports, testPort(i+1, host, "default"))
	}
	since := time.Now()
	took := func(what string) {
		t.Logf("%s: %v", what, time.Since(since).Round(time.Millisecond))
		since = time.Now()
	}
	require.NoError(t, b.Sync(ctx, s, vnet.SyncOptions{}))
	took("first Sync")
	writes := func(what string, f func() error) int {
		t.Helper()
		before := m.writes()
		since = time.Now()
		require.NoError(t, f())
		took(what)
		return m.writes() - before
	}
	require.Zero(t, writes("Sync of what stands", func() error { return b.Sync(ctx, s, vnet.SyncOptions{}) }))
	b = m.backend(t)
	require.Zero(t, writes("Sync after a restart", func() error { return b.Sync(ctx, s, vnet.SyncOptions{}) }))
	require.Zero(t, writes("Ensure of what stands", func() error { return b.EnsurePort(ctx, s.Ports[0]) }))
	// Its record, and for each version of IP the address' flow and record.
	require.Equal(t, 1+2*2, writes("a member joins", func() error { return b.EnsurePort(ctx, testPort(20001, "far", "default")) }))
	// And the switch is told to forget what it may have learnt for the three objects.
	require.Equal(t, 1+2*2+3, writes("and leaves", func() error { return b.DeletePort(ctx, testPort(20001, "").ID) }))
	g := secgroup.DefaultGroup("default")
	g.Rules = append(g.Rules, rule("ssh", "tcp", 22))
	require.Equal(t, 2, writes("a rule more", func() error { return b.EnsureGroup(ctx, g) }))
	require.Equal(t, 2, writes("and less", func() error { return b.EnsureGroup(ctx, s.Groups[0]) }))
}

// site is one host with machines vm0, vm1, ... on network "net", 10.0.0.1 and
// 2001:db8::1 and on.
type site struct {
	m   *machine
	sw  *ovs.Switch
	sg  *ovssecgroup.Backend
	ov  *ovsoverlay.Backend
	vms []*lab.NS
}

func sitePort(i int, groups ...string) secgroup.Port { return testPort(i+1, "", groups...) }

func newSite(t testing.TB, o *ovssecgroup.Options, n int, filtered bool) *site {
	t.Helper()
	ctx := context.Background()
	s := &site{m: machines(t, 1, "netdev")[0]}
	s.sw = s.m.open(t)
	var err error
	s.sg, err = ovssecgroup.New(s.sw, o)
	require.NoError(t, err)
	s.ov, err = ovsoverlay.New(s.sw, nil)
	require.NoError(t, err)
	l := lab.New(t)
	require.NoError(t, s.ov.EnsureNetwork(ctx, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}, MTU: 1500}))
	for i := range n {
		p := sitePort(i)
		require.NoError(t, s.ov.EnsurePort(ctx, overlay.Port{ID: p.ID, NetworkID: "net", MAC: p.MAC, FixedIPs: p.FixedIPs, Filtered: filtered}))
		vm := l.NS(fmt.Sprintf("vm%d", i))
		_, err := s.ov.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		vm.Up("eth0")
		vm.Addr("eth0", p.FixedIPs[0].String()+"/8")
		vm.Addr("eth0", p.FixedIPs[1].String()+"/64")
		vm.NoOffload("eth0")
		s.vms = append(s.vms, vm)
	}
	return s
}

func (s *site) sync(t testing.TB, groups []secgroup.Group, ports ...secgroup.Port) {
	t.Helper()
	require.NoError(t, s.sg.Sync(context.Background(), secgroup.State{Groups: groups, Ports: ports}, vnet.SyncOptions{Force: true}))
	require.NoError(t, s.sw.Settle(context.Background()))
}

// echo answers UDP at a port of a machine.
func (s *site) echo(t testing.TB, vm int, port uint16) {
	t.Helper()
	var u net.PacketConn
	require.NoError(t, s.vms[vm].Do(func() (err error) {
		u, err = net.ListenPacket("udp", netip.AddrPortFrom(netip.IPv6Unspecified(), port).String())
		return err
	}))
	t.Cleanup(func() { u.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
}

// long is how long to wait for what must come.
const long = 20 * time.Second

// ask sends a datagram of a size from a new socket and reports whether it came back.
func (s *site) ask(t testing.TB, vm int, to netip.Addr, port uint16, size int, within time.Duration) bool {
	t.Helper()
	var c net.Conn
	require.NoError(t, s.vms[vm].Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(to, port).String())
		return err
	}))
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(within)))
	_, err := c.Write(make([]byte, size))
	require.NoError(t, err)
	n, err := c.Read(make([]byte, 1<<16))
	return err == nil && n == size
}

// TestFragments: a datagram of several fragments passes in a connection that
// stands, and by a rule without ports; as the limits say, it opens none by a
// rule about ports on the userspace data path.
func TestFragments(t *testing.T) {
	s := newSite(t, nil, 2, true)
	s.echo(t, 1, 53)
	s.sync(t, []secgroup.Group{out(), {ID: "dns", Rules: []secgroup.Rule{rule("dns", "udp", 53)}}}, sitePort(0, "out"), sitePort(1, "dns"))
	to := sitePort(1).FixedIPs[0]
	var c net.Conn
	require.NoError(t, s.vms[0].Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(to, 53).String())
		return err
	}))
	defer c.Close()
	for _, size := range []int{100, 4000} {
		require.NoError(t, c.SetDeadline(time.Now().Add(long)))
		_, err := c.Write(make([]byte, size))
		require.NoError(t, err)
		n, err := c.Read(make([]byte, 1<<16))
		require.NoError(t, err)
		require.Equal(t, size, n)
	}
	require.False(t, s.ask(t, 0, to, 53, 4000, 300*time.Millisecond), "the limit")
	udp := secgroup.Rule{ID: "udp", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udp"}
	s.sync(t, []secgroup.Group{out(), {ID: "dns", Rules: []secgroup.Rule{udp}}}, sitePort(0, "out"), sitePort(1, "dns"))
	require.True(t, s.ask(t, 0, to, 53, 4000, long), "a rule without ports")
}

func out() secgroup.Group {
	return secgroup.Group{ID: "out", Rules: []secgroup.Rule{
		{ID: "out4", Direction: secgroup.Egress, Ethertype: secgroup.IPv4}, {ID: "out6", Direction: secgroup.Egress, Ethertype: secgroup.IPv6}}}
}

// TestICMPv6Ends: connections of ICMPv6 are ended by a mark on the userspace
// data path, and a rule that comes back allows them anew.
func TestICMPv6Ends(t *testing.T) {
	r := prometheus.NewRegistry()
	s := newSite(t, &ovssecgroup.Options{Metrics: r}, 2, true)
	ping := secgroup.Group{ID: "ping", Rules: []secgroup.Rule{{ID: "ping", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "icmpv6"}}}
	all := []secgroup.Group{out(), ping}
	s.sync(t, all, sitePort(0, "out"), sitePort(1, "ping"))
	a, b := sitePort(0), sitePort(1)
	cap0, cap1 := s.vms[0].Capture("eth0"), s.vms[1].Capture("eth0")
	seq := uint16(0)
	send := func(from *lab.NS, p, q secgroup.Port, typ uint8, cap *lab.Capture, within time.Duration) bool {
		seq++
		f := lab.Frame{SrcMAC: p.MAC, DstMAC: q.MAC, Src: p.FixedIPs[1], Dst: q.FixedIPs[1], Proto: lab.ICMPv6, ICMPType: typ, ICMPID: 7777, ICMPSeq: seq, TTL: 64}
		from.Inject("eth0", f.Bytes())
		_, ok := cap.Find(within, func(g lab.Frame) bool { return g.ICMPID == 7777 && g.ICMPSeq == seq && g.ICMPType == typ })
		return ok
	}
	require.True(t, send(s.vms[0], a, b, 128, cap1, long))
	require.True(t, send(s.vms[1], b, a, 129, cap0, long))
	require.NoError(t, s.sg.EnsureGroup(context.Background(), secgroup.Group{ID: "ping"}))
	require.False(t, send(s.vms[1], b, a, 129, cap0, time.Second/2), "an answer afterwards")
	require.False(t, send(s.vms[0], a, b, 128, cap1, time.Second/2), "a request afterwards")
	require.NoError(t, s.sg.EnsureGroup(context.Background(), ping))
	require.NoError(t, s.sw.Settle(context.Background()))
	require.True(t, send(s.vms[0], a, b, 128, cap1, long), "a request when the rule has come back")
	require.True(t, send(s.vms[1], b, a, 129, cap0, long), "and its answer")
	require.EqualValues(t, 1, counted(t, r, "vnet_secgroup_connection_walks_total"))
	require.GreaterOrEqual(t, counted(t, r, "vnet_secgroup_connections_ended_total"), 1.0)
}

func counted(t testing.TB, r *prometheus.Registry, name string) float64 {
	all, err := r.Gather()
	require.NoError(t, err)
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestNoWindow changes groups, members and ports all the time while datagrams
// that the rules allow all the time open connections: each must be answered.
func TestNoWindow(t *testing.T) {
	ctx := context.Background()
	s := newSite(t, nil, 2, true)
	s.echo(t, 1, 53)
	dns := rule("dns", "udp", 53)
	dns.RemoteGroup = "out"
	g := secgroup.Group{ID: "dns", Rules: []secgroup.Rule{dns}}
	s.sync(t, []secgroup.Group{out(), g, {ID: "more"}}, sitePort(0, "out"), sitePort(1, "dns"))
	done := make(chan error)
	stop := make(chan struct{})
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			more := g
			more.Rules = append([]secgroup.Rule{rule("web", "tcp", uint16(1+i))}, g.Rules...)
			err = s.sg.EnsureGroup(ctx, more)
			for _, f := range []func() error{
				func() error { return s.sg.EnsurePort(ctx, testPort(100+i, "far", "out", "dns")) },
				func() error { return s.sg.EnsurePort(ctx, sitePort(1, "dns", "more")) },
				func() error { return s.sg.EnsureGroup(ctx, g) },
				func() error { return s.sg.EnsurePort(ctx, sitePort(1, "dns")) },
				func() error { return s.sg.DeletePort(ctx, testPort(100+i, "").ID) },
				func() error {
					return s.sg.Sync(ctx, secgroup.State{Groups: []secgroup.Group{out(), g, {ID: "more"}}, Ports: []secgroup.Port{sitePort(0, "out"), sitePort(1, "dns")}}, vnet.SyncOptions{})
				},
			} {
				if err == nil {
					err = f()
				}
			}
		}
		done <- err
	}()
	to := sitePort(1).FixedIPs[0]
	n := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); n++ {
		require.True(t, s.ask(t, 0, to, 53, 100, long), "datagram %d", n)
	}
	close(stop)
	require.NoError(t, <-done)
	t.Logf("%d datagrams", n)
}

// TestRestartOfTheSwitch: flows and records are gone together, nothing
// passes, and a Sync brings all back.
func TestRestartOfTheSwitch(t *testing.T) {
	s := newSite(t, nil, 2, true)
	ctx := context.Background()
	s.echo(t, 1, 53)
	groups := []secgroup.Group{out(), {ID: "dns", Rules: []secgroup.Rule{rule("dns", "udp", 53)}}}
	s.sync(t, groups, sitePort(0, "out"), sitePort(1, "dns"))
	to := sitePort(1).FixedIPs[0]
	require.True(t, s.ask(t, 0, to, 53, 100, long))
	s.m.Vswitchd.Restart()
	require.False(t, s.ask(t, 0, to, 53, 100, 200*time.Millisecond))
	state := secgroup.State{Groups: groups, Ports: []secgroup.Port{sitePort(0, "out"), sitePort(1, "dns")}}
	var plan vnet.Plan
	lab.Eventually(t, long, "the switch is back", func() bool {
		var err error
		plan, err = s.sg.Plan(ctx, state)
		return err == nil && len(plan.Changes) > 0
	})
	require.Len(t, plan.Changes, 4, plan.String())
	require.NoError(t, s.sg.Sync(ctx, state, vnet.SyncOptions{}))
	var ports []overlay.Port
	for i := range 2 {
		p := sitePort(i)
		ports = append(ports, overlay.Port{ID: p.ID, NetworkID: "net", MAC: p.MAC, FixedIPs: p.FixedIPs, Filtered: true})
	}
	require.NoError(t, s.ov.Sync(ctx, overlay.State{Networks: []overlay.Network{{ID: "net", Segment: overlay.Segment{Type: overlay.Local}, MTU: 1500}}, Ports: ports}, vnet.SyncOptions{}))
	require.NoError(t, s.sw.Settle(ctx))
	require.True(t, s.ask(t, 0, to, 53, 100, long))
}

// TestBatch collects what several calls ask for, of two parts, and commits it
// as one; connections are judged by what stands then.
func TestBatch(t *testing.T) {
	ctx := context.Background()
	s := newSite(t, nil, 2, true)
	s.echo(t, 1, 53)
	dns := secgroup.Group{ID: "dns", Rules: []secgroup.Rule{rule("dns", "udp", 53)}}
	s.sync(t, []secgroup.Group{out(), dns}, sitePort(0, "out"), sitePort(1, "dns"))
	var c net.Conn
	require.NoError(t, s.vms[0].Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(sitePort(1).FixedIPs[0], 53).String())
		return err
	}))
	defer c.Close()
	talk := func(within time.Duration) error {
		require.NoError(t, c.SetDeadline(time.Now().Add(within)))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 10))
		return err
	}
	require.NoError(t, talk(long))

	batch := s.sw.Batch()
	b, err := ovssecgroup.New(batch, nil)
	require.NoError(t, err)
	before := s.m.writes()
	require.NoError(t, b.EnsureGroup(ctx, secgroup.Group{ID: "dns"}))
	require.NoError(t, b.EnsureGroup(ctx, secgroup.Group{ID: "dns2", Rules: dns.Rules}))
	require.NoError(t, b.EnsurePort(ctx, sitePort(1, "dns", "dns2")))
	require.NoError(t, b.EnsurePort(ctx, testPort(77, "far", "dns2")))
	require.NoError(t, b.EnsurePort(ctx, testPort(77, "far", "dns2")), "what the batch holds already")
	require.Equal(t, before, s.m.writes())
	require.Len(t, batch.Changes().Changes, 4)
	require.Contains(t, batch.Changes().String(), "+ secgroup port port-000077 on h1")
	require.NoError(t, batch.Commit(ctx))
	require.NoError(t, talk(long), "another group allows it")

	require.NoError(t, b.EnsureGroup(ctx, secgroup.Group{ID: "dns2"}))
	require.NoError(t, batch.Commit(ctx))
	require.Error(t, talk(200*time.Millisecond), "nothing allows it")
	want := secgroup.State{Groups: []secgroup.Group{out(), {ID: "dns"}, {ID: "dns2"}}, Ports: []secgroup.Port{sitePort(0, "out"), sitePort(1, "dns", "dns2"), testPort(77, "far", "dns2")}}
	plan, err := s.m.backend(t).Plan(ctx, want)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
}

// TestSeveralBackends share a host: each sees what the others wrote.
func TestSeveralBackends(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1, "netdev")[0]
	sw := m.open(t)
	one, err := ovssecgroup.New(sw, nil)
	require.NoError(t, err)
	other := m.backend(t) // another process
	require.NoError(t, one.Sync(ctx, small(), vnet.SyncOptions{}))
	require.NoError(t, other.EnsurePort(ctx, testPort(3, "", "default")))
	require.NoError(t, one.EnsurePort(ctx, testPort(4, "", "default")))
	for _, b := range []*ovssecgroup.Backend{one, other} {
		plan, err := b.Plan(ctx, small())
		require.NoError(t, err)
		require.Equal(t, 2, plan.Count(vnet.Delete), plan.String())
	}
}

// TestRepair: Sync puts right what somebody has taken away or changed.
func TestRepair(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1, "netdev")[0]
	b := m.backend(t)
	require.NoError(t, b.Sync(ctx, small(), vnet.SyncOptions{}))
	br := m.handles[0].Bridge()
	flows := func() string { return m.Ofctl("dump-flows", br, "--no-stats", "--sort") }
	before := flows()
	m.Ofctl("del-flows", br, "table=73")
	m.Ofctl("del-flows", br, "table=16")
	m.Ofctl("mod-flows", br, "table=10,reg2=1,actions=drop")
	require.NotEqual(t, before, flows())
	require.NoError(t, b.Sync(ctx, small(), vnet.SyncOptions{}))
	require.Equal(t, before, flows())
}

// TestExplain goes down to flows.
func TestExplain(t *testing.T) {
	ctx := context.Background()
	b := machines(t, 1, "netdev")[0].backend(t)
	s := small()
	ssh := rule("ssh", "tcp", 22)
	ssh.RemoteGroup = "default"
	s.Groups = append(s.Groups, secgroup.Group{ID: "web", Rules: []secgroup.Rule{rule("http", "tcp", 80), ssh}})
	s.Ports[0].Groups = []string{"default", "web"}
	require.NoError(t, b.Sync(ctx, s, vnet.SyncOptions{}))
	says := func(kind, id string, want ...string) {
		t.Helper()
		x, err := b.Explain(ctx, kind, id)
		require.NoError(t, err)
		for _, w := range want {
			require.Contains(t, x.String(), w)
		}
	}
	says("rule", "web/http", "tcp,reg6=0x3", "tp_dst=80")
	says("rule", "web/ssh", "tp_dst=22", "conjunction(2,2/2)", "group default, conjunction 2: 4 addresses", "nw_src=10.0.0.2 actions=conjunction(2,1/2)")
	says("port", "port-000001", "number 1", "dl_src=02:5e:01:00:00:01", "group web, number 3", "reg2=0x1")
	says("port", "port-000002", "is on host far", "conjunction(2,1/2)")
	says("group", "default", "rules of groups default, web refer to it", "2 member ports")
	x, err := b.ExplainPacket(ctx, "port-000001", secgroup.Packet{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("10.0.0.2"), Protocol: 6, Selector: 22})
	require.NoError(t, err)
	require.Contains(t, x.String(), "default/ingress-ipv4")
	require.Contains(t, x.String(), "conjunction(2,2/2)")
}

// TestUnsupported: what OpenFlow has no field for is refused by name.
func TestUnsupported(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1, "netdev")[0]
	b := m.backend(t)
	before := m.writes()
	g := secgroup.Group{ID: "lite", Rules: []secgroup.Rule{rule("r", "udplite", 5)}}
	for _, err := range []error{
		b.EnsureGroup(ctx, g),
		b.Sync(ctx, secgroup.State{Groups: []secgroup.Group{g}}, vnet.SyncOptions{}),
		func() error { _, err := b.Plan(ctx, secgroup.State{Groups: []secgroup.Group{g}}); return err }(),
	} {
		require.ErrorIs(t, err, vnet.ErrUnsupported)
		require.ErrorContains(t, err, "udplite 5")
	}
	require.Equal(t, before, m.writes())
}
