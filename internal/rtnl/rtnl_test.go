package rtnl_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/netns"
	"github.com/vnet-go/vnet/internal/rtnl"
)

func open(t *testing.T, l *lab.Lab, name string) (*rtnl.Conn, *netns.NS) {
	t.Helper()
	ns, err := netns.Open(l.NS(name).Path)
	require.NoError(t, err)
	c := rtnl.Open(ns)
	t.Cleanup(func() { c.Close(); ns.Close() })
	return c, ns
}

func attrs(name string) rtnl.LinkAttrs { return rtnl.LinkAttrs{Name: name} }

func TestLinks(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	d, dns := open(t, l, "b")

	_, err := c.Link("nosuch")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, err = c.Link("a-name-longer-than-a-device-may-have")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.NoError(t, c.DelLink("nosuch"))

	mac := vnet.MustParseMAC("02:00:00:00:00:01")
	require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "br", HardwareAddr: mac.HardwareAddr(), MTU: 1400}}))
	require.ErrorIs(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs("br")}), vnet.ErrConflict)
	require.NoError(t, c.AddVeth("v0", "eth0", dns, vnet.MAC{}, vnet.MustParseMAC("02:00:00:00:00:02"), 1400))
	require.NoError(t, c.AddLink(&rtnl.Tuntap{LinkAttrs: attrs("tap0"), Mode: 2}))

	br, err := c.Link("br")
	require.NoError(t, err)
	require.Equal(t, mac, br.MAC)
	require.Equal(t, 1400, br.MTU)
	require.Equal(t, "bridge", br.Kind)

	alt := "vnet:owner:port:1f0e0a3c-8f0e-4c2b-9f57-bc6f0f5b7a51"
	require.NoError(t, c.SetAlias("v0", "vnet:owner:overlay:port:x"))
	require.NoError(t, c.AddAltName("v0", alt))
	before := c.Writes()
	require.NoError(t, c.AddAltName("v0", alt))
	require.NoError(t, c.SetAlias("v0", "vnet:owner:overlay:port:x"))
	require.NoError(t, c.SetMTU("v0", 1400))
	require.Equal(t, before, c.Writes(), "the same again sends nothing")
	require.ErrorIs(t, c.AddAltName("tap0", alt), vnet.ErrConflict)

	v, err := c.Link(alt)
	require.NoError(t, err)
	require.Equal(t, "v0", v.Name)
	require.Equal(t, "vnet:owner:overlay:port:x", v.Alias)
	require.Equal(t, []string{alt}, v.AltNames)
	require.Equal(t, "veth", v.Kind)
	peer, err := d.Link("eth0")
	require.NoError(t, err)
	require.Equal(t, v.Peer, peer.Index)
	require.Equal(t, "02:00:00:00:00:02", peer.MAC.String())
	require.Equal(t, 1400, peer.MTU)

	require.NoError(t, c.SetMaster("v0", "br"))
	require.NoError(t, c.SetUp(alt))
	ports, err := c.Ports("br")
	require.NoError(t, err)
	require.Len(t, ports, 1)
	require.Equal(t, rtnl.DefaultPort(), *ports[0].Port)
	want := rtnl.Port{McastFlood: true, NeighSuppress: true, Hairpin: true, Isolated: true}
	require.NoError(t, c.SetPort("v0", want))
	before = c.Writes()
	require.NoError(t, c.SetPort("v0", want))
	require.Equal(t, before, c.Writes())
	v, err = c.Link("v0")
	require.NoError(t, err)
	require.Equal(t, want, *v.Port)
	require.True(t, v.Up)

	require.NoError(t, c.DelAltName("v0", alt))
	require.NoError(t, c.DelAltName("v0", alt))
	require.NoError(t, c.SetMaster("v0", ""))
	require.NoError(t, c.MoveTo("tap0", dns, "tap9"))
	_, err = d.Link("tap9")
	require.NoError(t, err)
	require.NoError(t, c.DelLink("v0"))
	_, err = d.Link("eth0")
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

func TestAddressesRoutesRules(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs("br")}))
	require.NoError(t, c.SetUp("br"))
	for _, p := range []string{"10.0.0.5/24", "2001:db8::5/64"} {
		p := netip.MustParsePrefix(p)
		require.NoError(t, c.AddAddr("br", rtnl.Addr{Prefix: p, NoDAD: true}))
		require.NoError(t, c.AddAddr("br", rtnl.Addr{Prefix: p, NoDAD: true}))
	}
	as, err := c.Addrs("br")
	require.NoError(t, err)
	var got []string
	for _, a := range as {
		got = append(got, a.Prefix.String())
	}
	require.Subset(t, got, []string{"10.0.0.5/24", "2001:db8::5/64"})

	def4 := rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Dev: "br"}
	def6 := rtnl.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8::1"), Dev: "br"}
	black := rtnl.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Type: rtnl.Blackhole, Table: 100}
	onlink := rtnl.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Dev: "br"}
	far := rtnl.Route{Dst: netip.MustParsePrefix("10.7.0.0/16"), Via: netip.MustParseAddr("192.0.2.1"), Dev: "br", OnLink: true}
	for _, r := range []rtnl.Route{def4, def6, black, onlink, far} {
		require.NoError(t, c.SetRoute(r), "%v", r)
		require.NoError(t, c.SetRoute(r), "%v", r)
	}
	rs, err := c.Routes(0)
	require.NoError(t, err)
	find := func(rs []rtnl.Route, dst string) rtnl.Route {
		for _, r := range rs {
			if r.Dst.String() == dst {
				return r
			}
		}
		t.Fatalf("no route %s in %v", dst, rs)
		return rtnl.Route{}
	}
	require.Equal(t, def4.Via, find(rs, "0.0.0.0/0").Via)
	require.Equal(t, rtnl.ProtoVnet, find(rs, "0.0.0.0/0").Protocol)
	require.Equal(t, def6.Via, find(rs, "::/0").Via)
	require.Equal(t, "br", find(rs, "10.8.0.0/16").Dev)
	require.True(t, find(rs, "10.7.0.0/16").OnLink)
	rs, err = c.Routes(100)
	require.NoError(t, err)
	require.Equal(t, rtnl.Blackhole, find(rs, "10.9.0.0/16").Type)
	to, err := c.RouteTo(netip.MustParseAddr("192.0.2.77"))
	require.NoError(t, err)
	require.Equal(t, def4.Via, to.Via)
	for _, r := range []rtnl.Route{def4, def6, black, onlink, far} {
		require.NoError(t, c.DelRoute(r))
		require.NoError(t, c.DelRoute(r))
	}
	_, err = c.RouteTo(netip.MustParseAddr("192.0.2.77"))
	require.ErrorIs(t, err, vnet.ErrNotFound)

	rule := rtnl.Rule{Family: 6, Priority: 1234, IIf: "br", Mark: 5, Table: 100}
	require.NoError(t, c.AddRule(rule))
	require.NoError(t, c.AddRule(rule))
	rules, err := c.Rules()
	require.NoError(t, err)
	n := 0
	for _, r := range rules {
		if r.Priority == 1234 && r.Family == 6 && r.IIf == "br" && r.Mark == 5 && r.Table == 100 {
			n++
		}
	}
	require.Equal(t, 1, n, "%v", rules)
	require.NoError(t, c.DelRule(rule))
	require.NoError(t, c.DelRule(rule))
	for _, p := range []string{"10.0.0.5/24", "2001:db8::5/64"} {
		require.NoError(t, c.DelAddr("br", netip.MustParsePrefix(p)))
		require.NoError(t, c.DelAddr("br", netip.MustParsePrefix(p)))
	}
}

func TestNeighboursAndForwarding(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs("br")}))
	vx := &rtnl.Vxlan{LinkAttrs: attrs("vx"), VxlanId: 42, SrcAddr: []byte{192, 0, 2, 1}, Port: 4789}
	require.NoError(t, c.AddLink(vx))
	require.NoError(t, c.SetMaster("vx", "br"))
	require.NoError(t, c.SetUp("br"))
	require.NoError(t, c.SetUp("vx"))
	link, err := c.Link("vx")
	require.NoError(t, err)
	require.Equal(t, rtnl.VXLAN{VNI: 42, Local: netip.MustParseAddr("192.0.2.1"), Port: 4789}, *link.VXLAN)

	mac := vnet.MustParseMAC("02:00:00:00:00:09")
	far, far2 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	bridge := rtnl.FDB{Dev: "vx", MAC: mac, Master: true}
	tunnel := rtnl.FDB{Dev: "vx", MAC: mac, Dst: far}
	head := rtnl.FDB{Dev: "vx", Dst: far}
	head2 := rtnl.FDB{Dev: "vx", Dst: far2}
	for range 2 {
		require.NoError(t, c.SetFDB(bridge))
		require.NoError(t, c.SetFDB(tunnel))
		require.NoError(t, c.AppendFDB(head))
		require.NoError(t, c.AppendFDB(head2))
	}
	count := func() (b, tn, hd int) {
		for _, dev := range []string{"vx", "br"} {
			list, err := c.FDBs(dev)
			require.NoError(t, err)
			b, tn, hd = 0, 0, 0
			for _, f := range list {
				switch {
				case f.Dev == "vx" && f.Master && f.MAC == mac:
					b++
					require.Equal(t, rtnl.NoARP, f.State)
				case f.Dev == "vx" && f.MAC == mac && f.Dst == far:
					tn++
				case f.Dev == "vx" && f.MAC.IsZero() && f.Dst.IsValid():
					hd++
				}
			}
		}
		return
	}
	b, tn, hd := count()
	require.Equal(t, []int{1, 1, 2}, []int{b, tn, hd})
	require.NoError(t, c.SetFDB(rtnl.FDB{Dev: "vx", MAC: mac, Dst: far2}), "moved")
	_, tn, _ = count()
	require.Equal(t, 0, tn)
	for range 2 {
		require.NoError(t, c.DelFDB(bridge))
		require.NoError(t, c.DelFDB(rtnl.FDB{Dev: "vx", MAC: mac, Dst: far2}))
		require.NoError(t, c.DelFDB(head))
	}
	b, tn, hd = count()
	require.Equal(t, []int{0, 0, 1}, []int{b, tn, hd})

	for _, ip := range []string{"10.0.0.9", "2001:db8::9"} {
		n := rtnl.Neigh{Dev: "br", IP: netip.MustParseAddr(ip), MAC: mac}
		require.NoError(t, c.SetNeigh(n))
		p := rtnl.Neigh{Dev: "br", IP: netip.MustParseAddr(ip), Proxy: true}
		require.NoError(t, c.SetNeigh(p))
	}
	ns, err := c.Neighs("br")
	require.NoError(t, err)
	n := 0
	for _, x := range ns {
		if x.MAC == mac && x.State == rtnl.Permanent {
			n++
		}
	}
	require.Equal(t, 2, n, "%v", ns)
	ps, err := c.ProxyNeighs("br")
	require.NoError(t, err)
	require.Len(t, ps, 2)
	for _, x := range append(ps, ns...) {
		if x.MAC == mac || x.Proxy {
			require.NoError(t, c.DelNeigh(x))
			require.NoError(t, c.DelNeigh(x))
		}
	}
	ps, err = c.ProxyNeighs("br")
	require.NoError(t, err)
	require.Empty(t, ps)
}

func TestFlows(t *testing.T) {
	lab.Need(t, "nft", "conntrack")
	l := lab.New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	a.Addr("eth0", "10.0.0.1/24")
	b.Addr("eth0", "10.0.0.2/24")
	a.Addr("eth0", "2001:db8::1/64")
	b.Addr("eth0", "2001:db8::2/64")
	_, err := a.Exec(t.Context(), "nft", "table inet x { chain o { type filter hook output priority -300; ct zone set 7; }; chain i { type filter hook prerouting priority -300; ct zone set 7; }; chain c { type filter hook output priority 0; ct state new counter; }; }")
	require.NoError(t, err)
	require.NoError(t, a.Ping("10.0.0.2", 1))
	require.NoError(t, a.Ping("2001:db8::2", 1))
	ns, err := netns.Open(a.Path)
	require.NoError(t, err)
	defer ns.Close()
	c := rtnl.Open(ns)
	defer c.Close()
	list := func() map[netip.Addr]rtnl.Flow {
		m := map[netip.Addr]rtnl.Flow{}
		require.NoError(t, c.Flows(t.Context(), func(f rtnl.Flow) bool { m[f.Orig.Dst] = f; return true }))
		return m
	}
	m := list()
	v4, v6 := m[netip.MustParseAddr("10.0.0.2")], m[netip.MustParseAddr("2001:db8::2")]
	require.EqualValues(t, 7, v4.Zone)
	require.EqualValues(t, 1, v4.Proto)
	require.EqualValues(t, 8<<8, v4.Orig.DstPort)
	require.EqualValues(t, 58, v6.Proto)
	require.Equal(t, netip.MustParseAddr("10.0.0.1"), v4.Reply.Dst)
	n, err := c.DeleteFlows(t.Context(), func(f rtnl.Flow) bool { return f.Zone == 7 && f.Orig.Dst == v4.Orig.Dst })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	m = list()
	require.NotContains(t, m, v4.Orig.Dst)
	require.Contains(t, m, v6.Orig.Dst)
}

func TestWatch(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	up, gone, lo := false, false, false
	done := make(chan error)
	go func() {
		done <- c.Watch(ctx, func(e rtnl.LinkEvent) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e.Link.Name == "lo":
				lo = true
			case e.Link.Name == "br0" && e.Gone:
				gone = true
			case e.Link.Name == "br0" && e.Link.Up:
				up = true
			}
		})
	}()
	is := func(b *bool) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return *b }
	}
	lab.Eventually(t, 5*time.Second, "first list", is(&lo))
	require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs("br0")}))
	require.NoError(t, c.SetUp("br0"))
	lab.Eventually(t, 5*time.Second, "up", is(&up))
	require.NoError(t, c.DelLink("br0"))
	lab.Eventually(t, 5*time.Second, "gone", is(&gone))
	cancel()
	require.NoError(t, <-done)
}

// TestWatchResyncs fills the socket's buffer while the reader is busy.
func TestWatchResyncs(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs("br0")}))
	require.NoError(t, c.SetUp("br0")) // the kernel tells of changes of what is up
	ctx, cancel := context.WithCancel(t.Context())
	started, goOn := make(chan struct{}), make(chan struct{})
	var once, resyncOnce sync.Once
	resynced, again := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		lost := false
		done <- c.Watch(ctx, func(e rtnl.LinkEvent) {
			if e.Resync {
				lost = true
				resyncOnce.Do(func() { close(resynced) })
			} else if lost && e.Link.Name == "br0" && e.Link.Alias == "last" {
				lost = false
				close(again)
			}
			once.Do(func() { close(started); <-goOn })
		})
	}()
	<-started
	for i := range 12_000 {
		require.NoError(t, c.SetAlias("br0", []string{"a", "b"}[i%2]))
	}
	require.NoError(t, c.SetAlias("br0", "last"))
	close(goOn)
	for what, ch := range map[string]chan struct{}{"resync": resynced, "devices again": again} {
		select {
		case <-ch:
		case <-time.After(20 * time.Second):
			t.Fatalf("no %s", what)
		}
	}
	cancel()
	require.NoError(t, <-done)
}

// TestListsWhileThingsChange reads whole lists that change meanwhile.
func TestListsWhileThingsChange(t *testing.T) {
	l := lab.New(t)
	c, ns := open(t, l, "a")
	for i := range 60 { // a dump of several messages
		require.NoError(t, c.AddLink(&rtnl.Bridge{LinkAttrs: attrs(fmt.Sprint("keep", i))}))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := rtnl.Open(ns)
			defer w.Close()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("come%d-%d", g, i%5)
				_ = w.AddLink(&rtnl.Bridge{LinkAttrs: attrs(name)})
				_ = w.DelLink(name)
			}
		}()
	}
	for range 100 {
		links, err := c.Links()
		require.NoError(t, err)
		kept := 0
		for _, x := range links {
			if strings.HasPrefix(x.Name, "keep") {
				kept++
			}
		}
		require.Equal(t, 60, kept)
	}
	close(stop)
	wg.Wait()
}

func TestClosed(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.Close())
	_, err := c.Links()
	require.Error(t, err)
	require.False(t, errors.Is(err, vnet.ErrNotFound))
}

// Close waits for what is under way; what comes after is refused.
func TestCloseWhileInUse(t *testing.T) {
	l := lab.New(t)
	ns, err := netns.Open(l.NS("a").Path)
	require.NoError(t, err)
	defer ns.Close()
	for range 20 {
		c := rtnl.Open(ns)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if _, err := c.Links(); err != nil {
						require.ErrorIs(t, err, os.ErrClosed)
						return
					}
				}
			})
		}
		time.Sleep(time.Millisecond)
		c.Close()
		wg.Wait()
	}
}

func TestSetFeature(t *testing.T) {
	l := lab.New(t)
	c, _ := open(t, l, "a")
	require.NoError(t, c.AddVeth("v0", "v1", nil, vnet.MAC{}, vnet.MAC{}, 0))
	require.NoError(t, c.SetFeature("v0", "tx-scatter-gather", false))
	require.NoError(t, c.SetFeature("v0", "tx-scatter-gather", true))
	require.ErrorIs(t, c.SetFeature("v0", "hw-tc-offload", true), unix.EOPNOTSUPP, "a veth has no hardware")
	require.Error(t, c.SetFeature("v0", "no-such-feature", true))
	require.ErrorIs(t, c.SetFeature("v9", "hw-tc-offload", true), vnet.ErrNotFound)
	vfs, err := c.VFs("v0")
	require.NoError(t, err)
	require.Empty(t, vfs)
	require.ErrorIs(t, c.SetVFTrust("v0", 0, true), unix.EOPNOTSUPP)
	_, err = c.Eswitch(t.Context(), "0000:99:00.0")
	require.Error(t, err)
}
