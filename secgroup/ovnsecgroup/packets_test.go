package ovnsecgroup_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

// machine is a port with a virtual machine at it.
type machine struct {
	*lab.NS
	p secgroup.Port
}

// cluster is one network with machines on two chassis:
//
//	hv1:  v1  c       hv2:  v2  s
//
// all filtered, and all in group "all", which lets everything pass.
func cluster(t *testing.T, s *site, change func(name string, p *secgroup.Port)) (map[string]*machine, *secgroup.Enforcer, []secgrouptest.Host, *install) {
	ctx := t.Context()
	i := s.install(t)
	hosts := i.hosts(t, 2)
	require.NoError(t, hosts[0].Overlay.EnsureNetwork(ctx, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}, MTU: 1400}))
	all := secgroup.Group{ID: "all"}
	for _, d := range []secgroup.Direction{secgroup.Ingress, secgroup.Egress} {
		all.Rules = append(all.Rules, secgroup.Rule{ID: string(d) + "4", Direction: d, Ethertype: secgroup.IPv4}, secgroup.Rule{ID: string(d) + "6", Direction: d, Ethertype: secgroup.IPv6})
	}
	e, err := secgroup.New(hosts[0].SecGroup, nil)
	require.NoError(t, err)
	require.NoError(t, e.EnsureGroup(ctx, all))
	vms := map[string]*machine{}
	for n, name := range []string{"v1", "v2", "c", "s"} {
		m := mac(n + 1)
		m[0] = 2
		v4, v6 := netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)}), netip.MustParseAddr("2001:db8::"+string(rune('1'+n)))
		vm := &machine{NS: s.l.NS(strings.ToLower(t.Name()[4:7]) + name), p: secgroup.Port{ID: name, NetworkID: "net", MAC: m, FixedIPs: []netip.Addr{v4, v6}, Groups: []string{"all"}}}
		if change != nil {
			change(name, &vm.p)
		}
		require.NoError(t, hosts[0].Overlay.EnsurePort(ctx, overlay.Port{ID: name, NetworkID: "net", MAC: m, FixedIPs: vm.p.FixedIPs, Filtered: true}))
		require.NoError(t, e.EnsurePort(ctx, vm.p))
		_, err := hosts[n%2].Overlay.Plug(ctx, overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		vm.Up("eth0")
		vm.Addr("eth0", v4.String()+"/24")
		vm.Addr("eth0", v6.String()+"/64")
		vms[name] = vm
	}
	s.settle()
	return vms, e, hosts, i
}

// TestAnnounced: an address in the pairs of two ports, with their own MACs
// or a common one, is reached at whoever announces it: on the same network, and
// through a router.
func TestAnnounced(t *testing.T) {
	s := newSite(t)
	vip, vip6 := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("2001:db8::100")
	common := vnet.MustParseMAC("00:00:5e:00:01:05")
	vms, _, _, i := cluster(t, s, func(name string, p *secgroup.Port) {
		if name == "v1" || name == "v2" {
			p.AllowedPairs = []secgroup.AddressPair{
				{Prefix: netip.PrefixFrom(vip, 32)}, {Prefix: netip.PrefixFrom(vip6, 128)},
				{MAC: common, Prefix: netip.MustParsePrefix("10.0.0.101/32")},
			}
		}
	})
	// A router by strangers' hands, and a machine behind it.
	sw := i.c.Name("network", "net")
	s.c.NBCtl("lr-add", "r", "--", "lrp-add", "r", "r1", "02:00:00:00:01:01", "10.0.0.254/24", "2001:db8::fe/64", "--", "lrp-add", "r", "r2", "02:00:00:00:01:02", "10.7.0.254/24", "2001:db8:7::fe/64",
		"--", "lsp-add", sw, "sr1", "--", "lsp-set-type", "sr1", "router", "--", "lsp-set-addresses", "sr1", "router", "--", "lsp-set-options", "sr1", "router-port=r1",
		"--", "ls-add", "far", "--", "lsp-add", "far", "sr2", "--", "lsp-set-type", "sr2", "router", "--", "lsp-set-addresses", "sr2", "router", "--", "lsp-set-options", "sr2", "router-port=r2",
		"--", "lsp-add", "far", "f1", "--", "lsp-set-addresses", "f1", "02:00:00:00:02:01 10.7.0.1 2001:db8:7::1")
	t.Cleanup(func() { s.c.NBCtl("lr-del", "r", "--", "ls-del", "far", "--", "lsp-del", "sr1") })
	far := s.hv[1].VM("f1", "02:00:00:00:02:01", "10.7.0.1/24", "2001:db8:7::1/64")
	far.Route("default", "10.7.0.254")
	far.Route("default", "2001:db8:7::fe")
	for _, n := range []string{"v1", "v2"} {
		vms[n].Route("10.7.0.0/24", "10.0.0.254")
		vms[n].Route("2001:db8:7::/64", "2001:db8::fe")
	}
	reached := func(from *lab.NS, who string) {
		t.Helper()
		for _, a := range []netip.Addr{vip, vip6} {
			require.Eventually(t, func() bool { return from.Ping(a.String(), 1) == nil }, 20*time.Second, 20*time.Millisecond, "%s at %s", a, who)
		}
	}
	for _, who := range []string{"v1", "v2", "v1"} {
		v := vms[who]
		v.IP("addr", "add", vip.String()+"/24", "dev", "eth0")
		v.IP("addr", "add", vip6.String()+"/64", "dev", "eth0", "nodad")
		v.Inject("eth0", lab.Frame{SrcMAC: v.p.MAC, DstMAC: lab.BroadcastMAC, ARP: &lab.ARP{Op: 1, SHA: v.p.MAC, SPA: vip, TPA: vip}}.Bytes())
		v.Inject("eth0", lab.Frame{SrcMAC: v.p.MAC, DstMAC: vnet.MAC{0x33, 0x33, 0, 0, 0, 1}, Proto: lab.ICMPv6, ICMPType: 136, NAFlags: 0x20, TTL: 255, Src: vip6, Dst: netip.MustParseAddr("ff02::1"), Target: vip6, LinkAddr: v.p.MAC}.Bytes())
		for _, from := range []*lab.NS{vms["c"].NS, vms["s"].NS, far} {
			reached(from, who)
		}
		v.IP("addr", "del", vip.String()+"/24", "dev", "eth0")
		v.IP("addr", "del", vip6.String()+"/64", "dev", "eth0")
	}
	// Frames to the common MAC reach both, which of them listens is theirs.
	c := vms["c"]
	for _, who := range []string{"v1", "v2"} {
		v := vms[who]
		cap := v.Capture("eth0")
		heard := c.Capture("eth0")
		v.Inject("eth0", lab.Frame{SrcMAC: common, DstMAC: lab.BroadcastMAC, ARP: &lab.ARP{Op: 1, SHA: common, SPA: netip.MustParseAddr("10.0.0.101"), TPA: netip.MustParseAddr("10.0.0.101")}}.Bytes())
		_, ok := heard.Find(5*time.Second, func(f lab.Frame) bool { return f.ARP != nil && f.ARP.SHA == common })
		require.True(t, ok, "the announcement of %s", who)
		f := lab.Frame{SrcMAC: c.p.MAC, DstMAC: common, Src: c.p.FixedIPs[0], Dst: netip.MustParseAddr("10.0.0.101"), Proto: lab.UDP, SrcPort: 1, DstPort: 2, TTL: 64, Payload: []byte("to whoever has it")}
		c.Inject("eth0", f.Bytes())
		_, ok = cap.Find(5*time.Second, func(f lab.Frame) bool { return f.DstMAC == common && f.Proto == lab.UDP })
		require.True(t, ok, "%s is not reached at the common MAC", who)
	}
}

// push sends without end to whoever connects.
func (m *machine) push(t *testing.T, port uint16) {
	var l net.Listener
	require.NoError(t, m.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port).String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for buf := make([]byte, 1000); ; time.Sleep(2 * time.Millisecond) {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// TestStreams: TCP connections that only the other side sends on end when
// what allowed them goes, at either end, and others flow on.
func TestStreams(t *testing.T) {
	s := newSite(t)
	vms, e, _, _ := cluster(t, s, nil)
	rule := func(id string, d secgroup.Direction, v secgroup.Ethertype, port uint16) secgroup.Rule {
		return secgroup.Rule{ID: id, Direction: d, Ethertype: v, Protocol: "tcp", PortMin: &port, PortMax: &port}
	}
	web, web6 := rule("web", secgroup.Ingress, secgroup.IPv4, 80), rule("web6", secgroup.Ingress, secgroup.IPv6, 80)
	ssh, ssh6 := rule("ssh", secgroup.Ingress, secgroup.IPv4, 22), rule("ssh6", secgroup.Ingress, secgroup.IPv6, 22)
	out, out6 := rule("out", secgroup.Egress, secgroup.IPv4, 8080), rule("out6", secgroup.Egress, secgroup.IPv6, 8080)
	keep, keep6 := rule("keep", secgroup.Egress, secgroup.IPv4, 22), rule("keep6", secgroup.Egress, secgroup.IPv6, 22)
	to80, to806 := rule("to80", secgroup.Egress, secgroup.IPv4, 80), rule("to806", secgroup.Egress, secgroup.IPv6, 80)
	http, http6 := rule("http", secgroup.Ingress, secgroup.IPv4, 8080), rule("http6", secgroup.Ingress, secgroup.IPv6, 8080)
	ensure := func(g secgroup.Group, members ...string) {
		t.Helper()
		require.NoError(t, e.EnsureGroup(t.Context(), g))
		for _, m := range members {
			p := vms[m].p
			p.Groups = []string{g.ID}
			require.NoError(t, e.EnsurePort(t.Context(), p))
		}
	}
	ensure(secgroup.Group{ID: "server", Rules: []secgroup.Rule{web, web6, ssh, ssh6, http, http6}}, "s", "v1")
	ensure(secgroup.Group{ID: "client", Rules: []secgroup.Rule{to80, to806, keep, keep6, out, out6}}, "c")
	s.settle()
	type stream struct {
		name string
		port uint16
		c    net.Conn
	}
	var streams []stream
	for _, server := range []string{"s", "v1"} { // on the other host and on this one
		for _, port := range []uint16{80, 22, 8080} {
			vms[server].push(t, port)
			for _, to := range vms[server].p.FixedIPs {
				x := stream{name: netip.AddrPortFrom(to, port).String(), port: port}
				require.NoError(t, vms["c"].Do(func() (err error) { x.c, err = net.DialTimeout("tcp", x.name, 5*time.Second); return err }), x.name)
				t.Cleanup(func() { x.c.Close() })
				streams = append(streams, x)
			}
		}
	}
	// flows reports whether x goes on: what has come already is read in large
	// pieces, what comes now as it is sent.
	flows := func(x stream) bool {
		buf := make([]byte, 1<<16)
		for fresh := 0; fresh < 20; {
			_ = x.c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
			n, err := x.c.Read(buf)
			if err != nil {
				return false
			}
			if n < 5000 {
				fresh++
			}
		}
		return true
	}
	check := func(gone ...uint16) {
		t.Helper()
		s.settle()
		for _, x := range streams {
			require.Equal(t, !slices.Contains(gone, x.port), flows(x), "%s without %v", x.name, gone)
		}
	}
	check()
	ensure(secgroup.Group{ID: "server", Rules: []secgroup.Rule{ssh, ssh6, http, http6}})
	check(80)
	ensure(secgroup.Group{ID: "client", Rules: []secgroup.Rule{keep, keep6}})
	check(80, 8080)
}

// TestInvalidAtOpenPorts: a documented limit. What tracking calls invalid does
// not pass between ports without port security either, once the network has a
// stateful rule.
func TestInvalidAtOpenPorts(t *testing.T) {
	s := newSite(t)
	vms, e, _, _ := cluster(t, s, func(name string, p *secgroup.Port) {
		p.DisablePortSecurity, p.Groups = true, nil
	})
	from, to := vms["c"], vms["s"]
	cap := to.Capture("eth0")
	answer := func(port uint16) lab.Frame {
		return lab.Frame{SrcMAC: from.p.MAC, DstMAC: to.p.MAC, Src: from.p.FixedIPs[0], Dst: to.p.FixedIPs[0], Proto: lab.TCP, SrcPort: 80, DstPort: port, Flags: lab.SYN | lab.ACK, Seq: 1, Ack: 1, TTL: 64}
	}
	arrives := func(port uint16) bool {
		from.Inject("eth0", answer(port).Bytes())
		sentinel := lab.Frame{SrcMAC: from.p.MAC, DstMAC: to.p.MAC, Src: from.p.FixedIPs[0], Dst: to.p.FixedIPs[0], Proto: lab.UDP, SrcPort: port, DstPort: port, TTL: 64}
		from.Inject("eth0", sentinel.Bytes())
		_, ok := cap.Find(5*time.Second, func(f lab.Frame) bool { return f.Proto == lab.UDP && f.DstPort == port })
		require.True(t, ok)
		_, ok = cap.Find(0, func(f lab.Frame) bool { return f.Proto == lab.TCP && f.DstPort == port })
		return ok
	}
	require.True(t, arrives(1001), "nothing is tracked")
	p := vms["v1"].p
	p.DisablePortSecurity, p.Groups = false, []string{"all"}
	require.NoError(t, e.EnsurePort(t.Context(), p))
	s.settle()
	require.False(t, arrives(1002), "tracked, and no answer to anything")
}

// TestLogged: what is dropped is in the log of ovn-controller where it happened.
func TestLogged(t *testing.T) {
	s := newSite(t)
	vms, _, _, i := cluster(t, s, nil)
	b, err := ovnsecgroup.New(i.c, &ovnsecgroup.Options{Log: &ovnsecgroup.Logging{Severity: "notice"}})
	require.NoError(t, err)
	for _, vm := range vms {
		if vm.p.ID == "s" {
			vm.p.Groups = nil
		}
		require.NoError(t, b.EnsurePort(t.Context(), vm.p))
	}
	s.settle()
	_ = vms["c"].Ping(vms["s"].p.FixedIPs[0].String(), 1)
	require.Eventually(t, func() bool {
		log, err := os.ReadFile(s.hv[1].OVNController.Log)
		require.NoError(t, err)
		for _, l := range strings.Split(string(log), "\n") {
			if strings.Contains(l, "acl_log") && strings.Contains(l, `name="drop/in"`) && strings.Contains(l, "severity=notice") && strings.Contains(l, "10.0.0.3") {
				return true
			}
		}
		return false
	}, 20*time.Second, 50*time.Millisecond)
}

// TestTwoOwners: the same ids twice on one installation, and neither sees the other.
func TestTwoOwners(t *testing.T) {
	s := newSite(t)
	mine, e, _, _ := cluster(t, s, nil)
	other := s.install(t)
	hosts := other.hosts(t, 1)
	ctx := t.Context()
	require.NoError(t, hosts[0].Overlay.EnsureNetwork(ctx, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}, MTU: 1400}))
	theirs, err := secgroup.New(hosts[0].SecGroup, nil)
	require.NoError(t, err)
	require.NoError(t, theirs.EnsureGroup(ctx, secgroup.Group{ID: "all"}))
	var st secgroup.State
	for _, name := range []string{"v1", "c"} {
		p := mine[name].p
		require.NoError(t, hosts[0].Overlay.EnsurePort(ctx, overlay.Port{ID: name, NetworkID: "net", MAC: p.MAC, FixedIPs: p.FixedIPs, Filtered: true}))
		require.NoError(t, theirs.EnsurePort(ctx, p))
		st.Ports = append(st.Ports, p)
	}
	st.Groups = []secgroup.Group{{ID: "all"}}
	plan, err := theirs.Plan(ctx, st)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
	reached := func() {
		t.Helper()
		require.Eventually(t, func() bool { return mine["c"].Ping(mine["s"].p.FixedIPs[0].String(), 1) == nil }, 10*time.Second, 20*time.Millisecond)
	}
	reached()
	before := other.operations()
	require.NoError(t, theirs.Sync(ctx, secgroup.State{}, vnet.SyncOptions{Force: true}))
	require.Greater(t, other.operations(), before)
	s.settle()
	reached()
	x, err := e.Explain(ctx, "port", "s")
	require.NoError(t, err)
	require.Contains(t, x.String(), "on chassis "+s.hv[1].ChassisName)
}
