package linux_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sysctl"
	"github.com/vnet-go/vnet/linux"
)

// openHost opens a host in a namespace of the lab, and cleans it up at the end.
func openHost(t *testing.T, l *lab.Lab, ns *lab.NS, owner vnet.Owner) *linux.Host {
	t.Helper()
	h, err := linux.Open(t.Context(), owner, &linux.Options{Name: ns.Short, Netns: ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := h.Cleanup(context.Background()); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		h.Close()
	})
	return h
}

// plug makes a bridge of the network and a veth to the VM's namespace at it,
// as overlay does.
func plug(t *testing.T, h *linux.Host, network, port string, vm *lab.NS, filtered bool) {
	t.Helper()
	ctx, r := t.Context(), h.NS().RTNL()
	br := h.NetworkDevice(network)
	steps, err := h.Networks().Add(ctx, network)
	require.NoError(t, err)
	require.NoError(t, h.Submit(ctx, steps...))
	if _, err := r.Link(br); err != nil {
		require.NoError(t, r.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: br}}))
		require.NoError(t, r.SetAlias(br, h.Alias(vnet.PartOverlay, "network", network)))
		_, err = h.NS().Sysctl().Set(sysctl.KV{Key: "net/ipv6/conf/" + br + "/disable_ipv6", Value: "1"})
		require.NoError(t, err)
		require.NoError(t, r.SetUp(br))
	}
	dev := h.LinkName("p", port)
	steps, err = h.Ports().Bind(ctx, port, dev, filtered)
	require.NoError(t, err)
	require.NoError(t, h.Submit(ctx, steps...))
	steps, err = h.Ports().Bind(ctx, port, dev, filtered)
	require.NoError(t, err)
	require.Empty(t, steps, "twice is once")
	far, err := linux.Open(ctx, h.Owner(), &linux.Options{Name: "vm", Netns: vm.Path})
	require.NoError(t, err)
	defer far.Close()
	require.NoError(t, r.AddVeth(dev, "eth0", far.NS(), vnet.MAC{}, vnet.MAC{}, 1500))
	require.NoError(t, r.SetAlias(dev, h.Alias(vnet.PartOverlay, "port", port)))
	require.NoError(t, r.AddAltName(dev, h.PortAltName(port)))
	require.NoError(t, r.SetMaster(dev, br))
	require.NoError(t, r.SetUp(dev))
	vm.Up("eth0")
}

func fill(t *testing.T, h *linux.Host, port string) {
	t.Helper()
	_, steps, err := h.Ports().Claim(t.Context(), vnet.PartSecGroup, port)
	require.NoError(t, err)
	more, err := h.Ports().Fill(t.Context(), port)
	require.NoError(t, err)
	require.NoError(t, h.Submit(t.Context(), append(steps, more...)...))
}

func tagged(tag string) func(lab.Frame) bool {
	return func(f lab.Frame) bool { return strings.Contains(string(f.Payload), tag) }
}

func frame(src, dst *lab.NS, tag string) lab.Frame {
	return lab.Frame{SrcMAC: src.MAC("eth0"), DstMAC: dst.MAC("eth0"), Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: 17, SrcPort: 1000, DstPort: 2000, Payload: []byte(tag)}
}

func TestPortIsBornClosed(t *testing.T) {
	l := lab.New(t)
	host, a, b := l.NS("h"), l.NS("a"), l.NS("b")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	plug(t, h, "net", "pa", a, true)
	plug(t, h, "net", "pb", b, false)
	ca, cb := a.Capture("eth0"), b.Capture("eth0")
	send := func(tag string) {
		a.Inject("eth0", frame(a, b, tag+"ab").Bytes())
		b.Inject("eth0", frame(b, a, tag+"ba").Bytes())
		// From the host itself, as a DHCP server answers.
		f := frame(b, a, tag+"ha")
		f.SrcMAC = vnet.MustParseMAC("02:00:00:00:00:99")
		host.Inject(h.NetworkDevice("net"), f.Bytes())
	}
	send("closed-")
	cb.None(60*time.Millisecond, tagged("closed-ab"))
	ca.None(10*time.Millisecond, func(f lab.Frame) bool { return tagged("closed-")(f) })
	fill(t, h, "pa")
	send("open-")
	cb.Wait(2*time.Second, tagged("open-ab"))
	ca.Wait(2*time.Second, tagged("open-ba"))
	ca.Wait(2*time.Second, tagged("open-ha"))
	steps, err := h.Ports().Unfill(t.Context(), "pa")
	require.NoError(t, err)
	require.NoError(t, h.Submit(t.Context(), steps...))
	ca.Reset()
	cb.Reset()
	send("again-")
	cb.None(60*time.Millisecond, tagged("again-ab"))
	ca.None(10*time.Millisecond, func(f lab.Frame) bool { return tagged("again-")(f) })
}

func TestMarkIsInPortThenOutPort(t *testing.T) {
	l := lab.New(t)
	host, a, b := l.NS("h"), l.NS("a"), l.NS("b")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	plug(t, h, "net", "pa", a, false)
	plug(t, h, "net", "pb", b, false)
	ctx := t.Context()
	pa, err := h.Ports().Get(ctx, "pa")
	require.NoError(t, err)
	pb, err := h.Ports().Get(ctx, "pb")
	require.NoError(t, err)
	require.NotEqual(t, pa.Index, pb.Index)
	require.Equal(t, []vnet.Part{vnet.PartOverlay}, pa.Holders)
	// A part's chains in the shared table: let only what has the right marks pass.
	err = h.NS().NFT().Do(ctx, func(tx *nft.Tx) error {
		h.Base(tx)
		tx.Chain(nft.Chain{Table: h.BridgeTable(), Name: "t-in", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: -290}, Rules: []nft.Rule{
			{nft.UDPDPort.Eq(uint16(2000)), nft.Mark.Ne(pa.Index), nft.Drop()},
		}})
		tx.Chain(nft.Chain{Table: h.BridgeTable(), Name: "t-out", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Forward, Priority: -190}, Rules: []nft.Rule{
			{nft.UDPDPort.Eq(uint16(2000)), nft.Mark.Ne(pb.Index), nft.Drop()},
		}})
		return nil
	})
	require.NoError(t, err)
	ca, cb := a.Capture("eth0"), b.Capture("eth0")
	a.Inject("eth0", frame(a, b, "ab").Bytes())
	b.Inject("eth0", frame(b, a, "ba").Bytes())
	cb.Wait(2*time.Second, tagged("ab"))
	ca.None(60*time.Millisecond, tagged("ba"))
}

func TestGuestsDoNotReachTheHost(t *testing.T) {
	l := lab.New(t)
	host, a, b, out := l.NS("h"), l.NS("a"), l.NS("b"), l.NS("o")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	l.Veth(host, "up0", out, "eth0")
	host.Addr("up0", "192.0.2.1/24")
	out.Addr("eth0", "192.0.2.2/24")
	out.Route("10.0.0.0/24", "192.0.2.1")
	host.Sysctl("net/ipv4/ip_forward", "1")
	plug(t, h, "net", "pa", a, false)
	plug(t, h, "net", "pb", b, false)
	br := h.NetworkDevice("net")
	// An administrator's mistake: the bridge has an address and forwards.
	host.Addr(br, "10.0.0.254/24")
	a.Configure("eth0", []string{"10.0.0.1/24"}, "10.0.0.254")
	b.Configure("eth0", []string{"10.0.0.2/24"})
	require.NoError(t, a.Ping("10.0.0.2", 1))
	require.Error(t, a.Ping("10.0.0.254", 1), "the host's own address")
	require.Error(t, a.Ping("192.0.2.2", 1), "routed by the host")
	require.NoError(t, host.Ping("192.0.2.2", 1), "the host's own traffic")
	// Bridged packets go on when the inet family sees them.
	if h.Features().BrNetfilter {
		host.Sysctl("net/bridge/bridge-nf-call-iptables", "1")
		require.NoError(t, a.Ping("10.0.0.2", 1))
		require.Error(t, a.Ping("10.0.0.254", 1))
		zone, steps, err := h.Zones().Claim(t.Context(), "net")
		require.NoError(t, err)
		require.NoError(t, h.Submit(t.Context(), steps...))
		_, err = host.Exec(t.Context(), "nft", "table inet t { chain f { type filter hook forward priority 0; ct state new counter; }; }")
		require.NoError(t, err)
		require.NoError(t, a.Ping("10.0.0.2", 1))
		n := 0
		require.NoError(t, h.NS().RTNL().Flows(t.Context(), func(f rtnl.Flow) bool {
			if f.Zone == zone && f.Orig.Dst == netip.MustParseAddr("10.0.0.2") {
				n++
			}
			return true
		}))
		require.Equal(t, 1, n, "tracked in the network's zone")
		steps, err = h.Zones().Release(t.Context(), "net")
		require.NoError(t, err)
		require.NoError(t, h.Submit(t.Context(), steps...))
		require.NoError(t, h.NS().RTNL().Flows(t.Context(), func(f rtnl.Flow) bool {
			require.NotEqual(t, zone, f.Zone, "released zones are empty")
			return true
		}))
	}
}

func TestRegistriesSurviveAndAreFreed(t *testing.T) {
	l := lab.New(t)
	host := l.NS("h")
	owner := vnet.Owner(l.Owner("x"))
	h := openHost(t, l, host, owner)
	ctx := t.Context()
	i1, s1, err := h.Ports().Claim(ctx, vnet.PartSecGroup, "p1")
	require.NoError(t, err)
	i2, s2, err := h.Ports().Claim(ctx, vnet.PartSecGroup, "p2")
	require.NoError(t, err)
	again, s3, err := h.Ports().Claim(ctx, vnet.PartOverlay, "p1")
	require.NoError(t, err)
	require.Equal(t, i1, again)
	require.NotEqual(t, i1, i2)
	b := h.Batch()
	require.NoError(t, b.Submit(ctx, append(append(s1, s2...), s3...)...))
	require.NoError(t, b.Commit(ctx))
	z1, s, err := h.Zones().Claim(ctx, "n1")
	require.NoError(t, err)
	require.NoError(t, h.Submit(ctx, s...))

	h2, err := linux.Open(ctx, owner, &linux.Options{Name: "h", Netns: host.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	defer h2.Close()
	got, steps, err := h2.Ports().Claim(ctx, vnet.PartSecGroup, "p1")
	require.NoError(t, err)
	require.Equal(t, i1, got, "a restart finds the index again")
	require.Empty(t, steps)
	z, steps, err := h2.Zones().Claim(ctx, "n1")
	require.NoError(t, err)
	require.Equal(t, z1, z)
	require.Empty(t, steps)
	steps, err = h2.BaseSteps(ctx)
	require.NoError(t, err)
	require.Empty(t, steps)
	list, err := h2.Ports().List(ctx)
	require.NoError(t, err)
	require.Equal(t, []linux.PortEntry{
		{ID: "p1", Index: i1, Holders: []vnet.Part{vnet.PartOverlay, vnet.PartSecGroup}},
		{ID: "p2", Index: i2, Holders: []vnet.Part{vnet.PartSecGroup}}}, list)

	// Another owner on the same host gets other numbers.
	o := openHost(t, l, host, vnet.Owner(l.Owner("y")))
	j1, steps, err := o.Ports().Claim(ctx, vnet.PartSecGroup, "p1")
	require.NoError(t, err)
	require.NotContains(t, []uint32{i1, i2}, j1)
	require.NoError(t, o.Submit(ctx, steps...))
	y1, steps, err := o.Zones().Claim(ctx, "n1")
	require.NoError(t, err)
	require.NotEqual(t, z1, y1)
	require.NoError(t, o.Submit(ctx, steps...))

	for _, part := range []vnet.Part{vnet.PartOverlay, vnet.PartSecGroup} {
		_, err = h2.Ports().Get(ctx, "p1")
		require.NoError(t, err)
		steps, err = h2.Ports().Release(ctx, part, "p1")
		require.NoError(t, err)
		require.NoError(t, h2.Submit(ctx, steps...))
	}
	_, err = h2.Ports().Get(ctx, "p1")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	steps, err = h2.Ports().Release(ctx, vnet.PartOverlay, "p1")
	require.NoError(t, err)
	require.Empty(t, steps)
}

func TestCleanupTakesOnlyOurs(t *testing.T) {
	l := lab.New(t)
	host, vm, vm2 := l.NS("h"), l.NS("a"), l.NS("b")
	ctx := t.Context()
	x := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	y := openHost(t, l, host, vnet.Owner(l.Owner("y")))
	plug(t, x, "net", "pa", vm, true)
	plug(t, y, "net", "pa", vm2, true)
	for _, h := range []*linux.Host{x, y} {
		_, err := h.CreateNamespace(ctx, h.NetnsName(vnet.PartRouter, "r1"))
		require.NoError(t, err)
		_, steps, err := h.Zones().Claim(ctx, "net")
		require.NoError(t, err)
		require.NoError(t, h.Submit(ctx, steps...))
	}
	// Things of nobody's.
	host.IP("link", "add", "foreign0", "type", "bridge")
	host.IP("link", "add", "tap0", "type", "bridge")
	_, err := host.Exec(ctx, "nft", "add table inet vnet-foreign")
	require.NoError(t, err)
	_, err = host.Exec(ctx, "nft", "add table inet foreign")
	require.NoError(t, err)
	// A device of the caller's, plugged.
	r := x.NS().RTNL()
	require.NoError(t, r.SetAlias("tap0", x.Alias(vnet.PartOverlay, linux.AliasExisting, "pt")))
	require.NoError(t, r.AddAltName("tap0", x.PortAltName("pt")))
	// One made and not marked before a crash.
	steps, err := x.Networks().Add(ctx, "half")
	require.NoError(t, err)
	require.NoError(t, x.Submit(ctx, steps...))
	require.NoError(t, r.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: x.NetworkDevice("half")}}))

	ids, err := x.Namespaces(ctx, vnet.PartRouter)
	require.NoError(t, err)
	require.Equal(t, []string{"r1"}, ids)
	require.NoError(t, x.Cleanup(ctx))
	require.NoError(t, x.Cleanup(ctx), "twice is once")
	ids, err = x.Namespaces(ctx, vnet.PartRouter)
	require.NoError(t, err)
	require.Empty(t, ids)
	ids, err = y.Namespaces(ctx, vnet.PartRouter)
	require.NoError(t, err)
	require.Equal(t, []string{"r1"}, ids)

	links, err := r.Links()
	require.NoError(t, err)
	var names []string
	for _, k := range links {
		names = append(names, k.Name)
		_, _, _, ours := x.ParseAlias(k.Alias)
		require.False(t, ours, "%s is left", k.Name)
		require.Empty(t, k.AltNames[:0])
	}
	require.Contains(t, names, "foreign0")
	require.Contains(t, names, "tap0")
	require.Contains(t, names, y.NetworkDevice("net"))
	require.Contains(t, names, y.LinkName("p", "pa"))
	require.NotContains(t, names, x.NetworkDevice("net"))
	require.NotContains(t, names, x.NetworkDevice("half"))
	_, _, err = x.PortDevice(ctx, "pt")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, _, err = y.PortDevice(ctx, "pa")
	require.NoError(t, err)
	rules, err := host.Exec(ctx, "nft", "list tables")
	require.NoError(t, err)
	require.NotContains(t, rules, "vnet-"+string(x.Owner())+"\n")
	for _, keep := range []string{"table inet foreign\n", "table inet vnet-foreign\n", "table bridge vnet-" + string(y.Owner()), "table inet vnet-" + string(y.Owner())} {
		require.Contains(t, rules, keep)
	}
	d, err := y.BaseSteps(ctx)
	require.NoError(t, err)
	require.Empty(t, d, "the other owner's tables are untouched")
}

func TestForeignTableIsRefused(t *testing.T) {
	l := lab.New(t)
	host := l.NS("h")
	owner := vnet.Owner(l.Owner("x"))
	h, err := linux.Open(t.Context(), owner, &linux.Options{Name: "h", Netns: host.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	defer h.Close()
	_, err = host.Exec(t.Context(), "nft", "add table inet vnet-"+string(owner))
	require.NoError(t, err)
	steps, err := h.Networks().Add(t.Context(), "n")
	require.NoError(t, err)
	err = h.Submit(t.Context(), steps...)
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.ErrorIs(t, h.Cleanup(t.Context()), vnet.ErrConflict)
}

func TestNamespaces(t *testing.T) {
	l := lab.New(t)
	host := l.NS("h")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	ctx := t.Context()
	name := h.NetnsName(vnet.PartRouter, "r.1")
	ref := h.NamespaceRef(name)
	require.ErrorIs(t, ref.Do(func() error { return nil }), vnet.ErrNotFound)
	_, err := h.Namespace(ctx, name)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	ns, err := h.CreateNamespace(ctx, name)
	require.NoError(t, err)
	lo, err := ns.RTNL().Link("lo")
	require.NoError(t, err)
	require.True(t, lo.Up)
	same, err := h.CreateNamespace(ctx, name)
	require.NoError(t, err)
	require.Same(t, ns, same)
	require.NoError(t, h.NS().RTNL().AddVeth("v0", "eth0", ns, vnet.MAC{}, vnet.MAC{}, 0))
	// A process in it keeps the namespace alive; its devices go all the same.
	other := linux.Options{Name: "other", Netns: ns.Path()}
	holder, err := linux.Open(ctx, h.Owner(), &other)
	require.NoError(t, err)
	defer holder.Close()
	require.NoError(t, h.DeleteNamespace(ctx, name))
	require.NoError(t, h.DeleteNamespace(ctx, name))
	_, err = h.NS().RTNL().Link("v0")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	ns2, err := h.CreateNamespace(ctx, name)
	require.NoError(t, err)
	require.NotSame(t, ns, ns2)
	ids, err := h.Namespaces(ctx, vnet.PartRouter)
	require.NoError(t, err)
	require.Equal(t, []string{"r.1"}, ids)
}

func TestWatchPorts(t *testing.T) {
	l := lab.New(t)
	host, a := l.NS("h"), l.NS("a")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	plug(t, h, "net", "pa", a, false)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var seen []string
	wasUp := false
	for e := range h.WatchPorts(ctx) {
		s := e.PortID
		switch {
		case e.Gone:
			s += " gone"
		case e.Up:
			s += " up"
		default:
			s += " down"
		}
		if len(seen) == 0 || seen[len(seen)-1] != s {
			seen = append(seen, s)
		}
		switch {
		case s == "pa up" && !wasUp:
			wasUp = true
			a.IP("link", "set", "eth0", "down")
		case s == "pa down" && wasUp:
			require.NoError(t, h.NS().RTNL().DelLink(e.Device))
		}
		if e.Gone {
			break
		}
	}
	require.Contains(t, seen, "pa up")
	require.Contains(t, seen, "pa down")
	require.Equal(t, "pa gone", seen[len(seen)-1])
}

func TestBatchUndoesAndSays(t *testing.T) {
	l := lab.New(t)
	host := l.NS("h")
	h := openHost(t, l, host, vnet.Owner(l.Owner("x")))
	ctx := t.Context()
	r := h.NS().RTNL()
	boom := errors.New("boom")
	change := func(id string) vnet.Change {
		return vnet.Change{Verb: vnet.Create, Part: vnet.PartOverlay, Kind: "network", ID: id}
	}
	var order []string
	mk := func(name string, undo bool) linux.Step {
		s := linux.Step{Change: change(name), Phase: linux.LinkAdd, Do: func(context.Context) error {
			order = append(order, name)
			return r.AddLink(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: name}})
		}}
		if undo {
			s.Undo = func(context.Context) error { return r.DelLink(name) }
		}
		return s
	}
	b := h.Batch()
	require.NoError(t, b.Submit(ctx, linux.Step{Change: change("late"), Phase: linux.Configure, Do: func(context.Context) error { return boom }}))
	require.NoError(t, b.Submit(ctx, mk("br1", true), mk("br2", false), mk("br3", true)))
	verb, ok := b.Pending(vnet.PartOverlay, "network", "br2")
	require.True(t, ok)
	require.Equal(t, vnet.Create, verb)
	require.Len(t, b.Plan().Changes, 4)
	err := b.Commit(ctx)
	require.ErrorIs(t, err, boom)
	var pe *linux.PartialError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "late", pe.Failed.ID)
	require.Equal(t, linux.Configure, pe.Phase)
	require.Equal(t, []vnet.Change{change("br2")}, pe.Done)
	require.Equal(t, []vnet.Change{change("br1"), change("br3")}, pe.Undone)
	require.Equal(t, []string{"br1", "br2", "br3"}, order)
	_, err = r.Link("br1")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, err = r.Link("br2")
	require.NoError(t, err)
	require.True(t, b.Plan().Empty())

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, h.Submit(cancelled, mk("br9", true)), context.Canceled)
	_, err = r.Link("br9")
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

func TestMetrics(t *testing.T) {
	l := lab.New(t)
	ns := l.NS("h")
	r := prometheus.NewRegistry()
	o := &linux.Options{Name: "h1", Netns: ns.Path, NetnsDir: l.NetnsDir(), Metrics: r}
	h, err := linux.Open(t.Context(), "x", o)
	require.NoError(t, err)
	_, err = linux.Open(t.Context(), "x", o)
	require.Error(t, err, "the same twice in one registry")
	steps, err := h.Networks().Add(t.Context(), "n")
	require.NoError(t, err)
	require.NoError(t, h.Submit(t.Context(), steps...))
	require.NoError(t, h.Cleanup(t.Context()))
	all, err := r.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range all {
		got[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue()
	}
	require.Len(t, got, 5)
	require.Equal(t, 1.0, got["vnet_linux_commits_total"])
	require.Greater(t, got["vnet_linux_nft_messages_total"], 10.0)
	require.NoError(t, h.Close())
	all, err = r.Gather()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestUnderlayMTU(t *testing.T) {
	l := lab.New(t)
	hosts := l.Underlay("h1")
	hosts[0].NS.IP("link", "set", "under0", "mtu", "1450")
	h, err := linux.Open(t.Context(), "x", &linux.Options{Name: "h1", Netns: hosts[0].Path, NetnsDir: l.NetnsDir(), TunnelIP: hosts[0].IP})
	require.NoError(t, err)
	defer h.Close()
	mtu, err := h.UnderlayMTU(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1450, mtu)
	require.True(t, h.Health(t.Context()).Complete)
}
