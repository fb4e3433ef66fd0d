package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nft"
)

func open(t *testing.T, ns *lab.NS) *nft.Conn {
	t.Helper()
	c := nft.Open(ns)
	t.Cleanup(func() { c.Close() })
	return c
}

func ruleset(t *testing.T, ns *lab.NS) string {
	t.Helper()
	out, err := ns.Exec(t.Context(), "nft", "-n", "-s", "list", "ruleset")
	require.NoError(t, err)
	return out
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	inet   = nft.Table{Family: nft.Inet, Name: "vnet-a"}
	bridge = nft.Table{Family: nft.Bridge, Name: "vnet-a"}
)

// every declares one of everything that rules can say.
func every(tx *nft.Tx) error {
	one := nft.Set{Table: inet, Name: "one4", Key: []nft.Type{nft.TypeIPv4}}
	ivl := nft.Set{Table: inet, Name: "ivl4", Key: []nft.Type{nft.TypeIPv4}, Interval: true}
	ivl6 := nft.Set{Table: inet, Name: "ivl6", Key: []nft.Type{nft.TypeIPv6}, Interval: true}
	ports := nft.Set{Table: inet, Name: "ports", Key: []nft.Type{nft.TypePort}, Interval: true}
	tuple := nft.Set{Table: inet, Name: "tuple", Key: []nft.Type{nft.TypeMark, nft.TypeIPv4, nft.TypeProto, nft.TypePort}, Interval: true}
	tuple6 := nft.Set{Table: inet, Name: "tuple6", Key: []nft.Type{nft.TypeMark, nft.TypeIPv6, nft.TypeProto, nft.TypePort}}
	dnat := nft.Set{Table: inet, Name: "dnat4", Key: []nft.Type{nft.TypeIPv4}, Data: []nft.Type{nft.TypeIPv4}}
	dnat6 := nft.Set{Table: inet, Name: "dnat6", Key: []nft.Type{nft.TypeIPv6}, Data: []nft.Type{nft.TypeIPv6}}
	pf := nft.Set{Table: inet, Name: "pf4", Key: []nft.Type{nft.TypeIPv4, nft.TypeProto, nft.TypePort}, Data: []nft.Type{nft.TypeIPv4, nft.TypePort}}
	pf6 := nft.Set{Table: inet, Name: "pf6", Key: []nft.Type{nft.TypeIPv6, nft.TypeProto, nft.TypePort}, Data: []nft.Type{nft.TypeIPv6, nft.TypePort}}
	zones := nft.Set{Table: inet, Name: "zones", Key: []nft.Type{nft.TypeIfName}, Data: []nft.Type{nft.TypeZone}}
	vm := nft.Set{Table: inet, Name: "vm", Key: []nft.Type{nft.TypeMark}, Data: []nft.Type{nft.TypeVerdict}}
	vmi := nft.Set{Table: inet, Name: "vmi", Key: []nft.Type{nft.TypeMark, nft.TypeIPv4}, Data: []nft.Type{nft.TypeVerdict}, Interval: true}

	tx.Add(one, nft.Key(addr("192.0.2.1")), nft.Key(addr("255.255.255.255")))
	tx.Add(ivl, nft.Key(prefix("10.0.0.0/8")), nft.Key(nft.Range{From: addr("192.0.2.5"), To: addr("192.0.2.9")}), nft.Key(prefix("255.255.255.0/24")))
	tx.Add(ivl6, nft.Key(prefix("2001:db8::/32")), nft.Key(prefix("ff00::/8")), nft.Key(addr("::1")))
	tx.Add(ports, nft.Key(uint16(22)), nft.Key(nft.Range{From: uint16(80), To: uint16(90)}), nft.Key(nft.Range{From: uint16(60000), To: uint16(65535)}))
	tx.Add(tuple, nft.Key(uint32(7), prefix("10.0.0.0/8"), nft.ProtoTCP, nft.Range{From: uint16(80), To: uint16(90)}),
		nft.Key(uint32(8), nft.Any{}, nft.Any{}, nft.Any{}),
		nft.Key(uint32(9), prefix("255.255.255.0/24"), nft.ProtoUDP, nft.Range{From: uint16(1), To: uint16(65535)}))
	tx.Add(tuple6, nft.Key(uint32(7), addr("2001:db8::1"), nft.ProtoTCP, uint16(80)))
	tx.Add(dnat, nft.Key(addr("203.0.113.5")).To(addr("10.0.0.5")))
	tx.Add(dnat6, nft.Key(addr("2001:db8:1::5")).To(addr("2001:db8:2::5")))
	tx.Add(pf, nft.Key(addr("203.0.113.6"), nft.ProtoTCP, uint16(80)).To(addr("10.0.0.6"), uint16(8080)))
	tx.Add(pf6, nft.Key(addr("2001:db8:1::6"), nft.ProtoTCP, uint16(80)).To(addr("2001:db8:2::6"), uint16(8080)))
	tx.Add(zones, nft.Element{Key: []any{"nabc"}, Data: []any{uint16(5)}, Comment: "network-1"})
	tx.Add(vm, nft.Key(uint32(7)).To(nft.Jump("c7")), nft.Key(uint32(8)).To(nft.Drop()))
	tx.Add(vmi, nft.Key(uint32(7), prefix("10.0.0.0/8")).To(nft.Goto("c7")))

	tx.Chain(nft.Chain{Table: inet, Name: "c7", Rules: []nft.Rule{{nft.Return()}}})
	tx.Chain(nft.Chain{Table: inet, Name: "raw", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: -300}, Rules: []nft.Rule{
		{nft.IIfName.Eq("nabc"), nft.SetCtZone(nft.IIfName.Map(zones))},
		{nft.SetCtZone(nft.Const(uint16(5)))},
		{nft.IIfName.Prefix("tap"), nft.Notrack()},
	}})
	tx.Chain(nft.Chain{Table: inet, Name: "pre", Base: &nft.Hook{Type: nft.NAT, Hook: nft.Prerouting, Priority: -100}, Rules: []nft.Rule{
		{nft.DNAT(nft.IPDst.Map(dnat))},
		{nft.DNAT(nft.IP6Dst.Map(dnat6))},
		{nft.DNAT(nft.Concat(nft.IPDst, nft.L4Proto, nft.DPort).Map(pf))},
		{nft.DNAT(nft.Concat(nft.IP6Dst, nft.L4Proto, nft.DPort).Map(pf6))},
		{nft.IIfName.Eq("eth0"), nft.TCPDPort.Eq(uint16(80)), nft.IPDst.Eq(addr("169.254.169.254")), nft.Counter(), nft.Redirect(9697)},
		{nft.DNAT(nft.Const(addr("10.0.0.1")))},
		{nft.L4Proto.Eq(nft.ProtoTCP), nft.DNAT(nft.Const(addr("2001:db8::1"), uint16(80)))},
	}})
	tx.Chain(nft.Chain{Table: inet, Name: "post", Base: &nft.Hook{Type: nft.NAT, Hook: nft.Postrouting, Priority: 100}, Rules: []nft.Rule{
		{nft.IPSrc.Eq(prefix("10.0.0.0/24")), nft.SNAT(nft.Const(addr("203.0.113.1")))},
		{nft.SNAT(nft.IPSrc.Map(dnat))},
		{nft.OIfName.Ne("eth0"), nft.SNATRandom(nft.Const(addr("203.0.113.1")))},
		{nft.OIfName.Eq("qg"), nft.Masquerade()},
	}})
	tx.Chain(nft.Chain{Table: inet, Name: "fwd", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Forward, Priority: 0, Drop: true}, Rules: []nft.Rule{
		{nft.CtState.Any(nft.StateEstablished | nft.StateRelated), nft.Accept()},
		{nft.CtState.Any(nft.StateInvalid), nft.Counter(), nft.Drop()},
		{nft.CtStatus.Any(nft.StatusDNAT), nft.SetCtMark(nft.Const(uint32(1))), nft.Accept()},
		{nft.CtMark.Eq(uint32(1)), nft.CtDirection.Eq(uint8(1)), nft.CtZone.Eq(uint16(5)), nft.Accept()},
		{nft.CtOrigIPDst.Eq(addr("203.0.113.5")), nft.Accept()},
		{nft.CtOrigIP6Dst.In(nft.Set{Table: inet, Name: "ivl6", Key: []nft.Type{nft.TypeIPv6}, Interval: true}), nft.Accept()},
		{nft.CtOrigDPort.Eq(uint16(80)), nft.Accept()},
		{nft.Mark.Any(0xff00), nft.Mark.None(1), nft.Accept()},
		{nft.Concat(nft.Mark, nft.IPSrc, nft.L4Proto, nft.DPort).In(tuple), nft.Accept()},
		{nft.Concat(nft.Mark, nft.IP6Src, nft.L4Proto, nft.DPort).In(tuple6), nft.Accept()},
		{nft.IPSrc.In(one), nft.IPDst.NotIn(ivl), nft.Comment("spoofed"), nft.Drop()},
		{nft.IP6Src.In(ivl6), nft.TCPDPort.In(ports), nft.Accept()},
		{nft.L4Proto.Eq(nft.ProtoUDP), nft.UDPDPort.Between(uint16(67), uint16(68)), nft.Accept()},
		{nft.UDPSPort.NotBetween(uint16(1), uint16(1023)), nft.Accept()},
		{nft.ICMPType.Eq(uint8(8)), nft.ICMPCode.Eq(uint8(0)), nft.LimitTo(10, 5), nft.Accept()},
		{nft.ICMP6Type.Between(uint8(133), uint8(137)), nft.LimitOver(100, 50), nft.Drop()},
		{nft.ICMP6Type.Eq(uint8(135)), nft.NDTarget.Eq(addr("2001:db8::1")), nft.IP6HopLimit.Eq(uint8(255)), nft.Accept()},
		{nft.PktType.Eq(nft.PktBroadcast), nft.Drop()},
		{nft.NFProto.Eq(nft.NFProtoIPv6), nft.IP6Dst.Eq(prefix("ff02::/16")), nft.Accept()},
		{nft.ClampMSS()},
		{nft.IPDst.Eq(prefix("0.0.0.0/0")), nft.IPTTL.Ne(uint8(1)), nft.Reject()},
		{nft.Mark.Vmap(vm)},
		{nft.Concat(nft.Mark, nft.IPDst).Vmap(vmi)},
		{nft.SetMark(nft.Const(uint32(0))), nft.Goto("c7")},
	}})

	bports := nft.Set{Table: bridge, Name: "ports", Key: []nft.Type{nft.TypeIfName}, Data: []nft.Type{nft.TypeMark}}
	src := nft.Set{Table: bridge, Name: "src", Key: []nft.Type{nft.TypeMark, nft.TypeMAC, nft.TypeIPv4}}
	arp := nft.Set{Table: bridge, Name: "arp", Key: []nft.Type{nft.TypeMark, nft.TypeMAC, nft.TypeIPv4}, Interval: true}
	macs := nft.Set{Table: bridge, Name: "macs", Key: []nft.Type{nft.TypeMAC}}
	nd := nft.Set{Table: bridge, Name: "nd", Key: []nft.Type{nft.TypeMark, nft.TypeIPv6}}
	m := vnet.MustParseMAC("02:00:00:00:00:01")
	tx.Add(bports, nft.Key("ptap").To(uint32(7)))
	tx.Add(src, nft.Key(uint32(7), m, addr("10.0.0.5")))
	tx.Add(arp, nft.Key(uint32(7), m, prefix("10.0.0.0/24")))
	tx.Add(macs, nft.Key(m), nft.Key(vnet.MustParseMAC("ff:ff:ff:ff:ff:ff")))
	tx.Add(nd, nft.Key(uint32(7), addr("fe80::1")))
	tx.Chain(nft.Chain{Table: bridge, Name: "pre", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: -300}, Rules: []nft.Rule{
		{nft.SetMark(nft.IIfName.Map(bports))},
		{nft.EtherSrc.NotIn(macs), nft.Drop()},
		{nft.EtherType.Eq(nft.EtherVLAN), nft.Drop()},
		{nft.Protocol.Eq(nft.EtherIPv4), nft.Concat(nft.Mark, nft.EtherSrc, nft.IPSrc).NotIn(src), nft.Drop()},
		{nft.ARPOp.Eq(uint16(1)), nft.Concat(nft.Mark, nft.ARPSrcMAC, nft.ARPSrcIP).In(arp), nft.ARPDstIP.Ne(addr("10.0.0.1")), nft.Accept()},
		{nft.EtherDst.Eq(m), nft.ARPDstMAC.Eq(m), nft.Accept()},
		{nft.ICMP6Type.Eq(uint8(136)), nft.Concat(nft.Mark, nft.NDTarget).NotIn(nd), nft.Drop()},
		{nft.UDPDPort.Eq(uint16(67)), nft.SetPktType(nft.PktHost)},
		{nft.SetIPDSCP(46), nft.SetPriority(1, 0x12)},
		{nft.SetIP6DSCP(46), nft.LimitBytesOver(125_000, 12_500), nft.Counter(), nft.Drop()},
		{nft.TCPSPort.Eq(uint16(1)), nft.TCPDPort.Ne(uint16(2)), nft.SPort.Eq(uint16(1)), nft.DPort.Eq(uint16(2)), nft.Continue()},
	}})
	return nil
}

func TestEveryStatement(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	require.NoError(t, c.Do(t.Context(), every))
	got := ruleset(t, ns)
	t.Log(got)
	w := c.Writes()
	require.NotZero(t, w)
	require.NoError(t, c.Do(t.Context(), every))
	require.Equal(t, w, c.Writes(), "the same again sends nothing")

	c2 := open(t, ns)
	d, err := c2.Check(t.Context(), every)
	require.NoError(t, err)
	require.Empty(t, d, "another process sees that all stands")
	require.NoError(t, c2.Do(t.Context(), every))
	require.Zero(t, c2.Writes())
}

// quiet are sets of 10,000 elements, and what refers to them.
func quiet(n int) (set nft.Set, elems []nft.Element, f func(*nft.Tx) error) {
	set = nft.Set{Table: inet, Name: "members", Key: []nft.Type{nft.TypeMark, nft.TypeIPv4}}
	for i := range n {
		elems = append(elems, nft.Key(uint32(1), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})))
	}
	return set, elems, func(tx *nft.Tx) error {
		tx.Fill(set, elems...)
		tx.Chain(nft.Chain{Table: inet, Name: "c", Rules: []nft.Rule{{nft.Concat(nft.Mark, nft.IPSrc).In(set), nft.Accept()}}})
		return nil
	}
}

func TestOneElementOfManyCostsOne(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	set, elems, f := quiet(10_000)
	require.NoError(t, c.Do(t.Context(), f))
	require.EqualValues(t, 10_000, c.Stats().Elements)
	require.Greater(t, c.Stats().Transactions, uint64(1), "loaded in bounded transactions")
	got, err := c.Elements(t.Context(), set)
	require.NoError(t, err)
	require.Len(t, got, 10_000)

	before := c.Stats()
	one := nft.Key(uint32(1), addr("10.9.9.9"))
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.Add(set, one); return nil }))
	after := c.Stats()
	require.EqualValues(t, 1, after.Elements-before.Elements)
	require.EqualValues(t, 1, after.Messages-before.Messages)
	require.EqualValues(t, 1, after.Transactions-before.Transactions)
	require.Equal(t, before.Reloads, after.Reloads, "nothing is read for it")

	// A new process reads, and writes nothing.
	c2 := open(t, ns)
	elems = append(elems, one)
	require.NoError(t, c2.Do(t.Context(), func(tx *nft.Tx) error { tx.Fill(set, elems...); return nil }))
	require.Zero(t, c2.Writes())
	require.NoError(t, c2.Do(t.Context(), func(tx *nft.Tx) error { tx.Fill(set, elems[5000:]...); return nil }))
	require.EqualValues(t, 5000, c2.Stats().Elements)
	out, err := ns.Exec(t.Context(), "nft", "list", "set", "inet", "vnet-a", "members")
	require.NoError(t, err)
	require.Equal(t, 5001, strings.Count(out, " . 10."))
}

func TestAtomicAndErrno(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	require.NoError(t, c.Do(t.Context(), every))
	before := ruleset(t, ns)
	err := c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.Add(nft.Set{Table: inet, Name: "one4", Key: []nft.Type{nft.TypeIPv4}}, nft.Key(addr("192.0.2.99")))
		tx.Chain(nft.Chain{Table: inet, Name: "bad", Rules: []nft.Rule{{nft.Jump("nosuch")}}})
		return nil
	})
	require.ErrorIs(t, err, unix.ENOENT)
	var ne *nft.Error
	require.ErrorAs(t, err, &ne)
	require.Equal(t, "chain inet vnet-a bad", ne.What)
	require.Equal(t, before, ruleset(t, ns), "nothing of it stands")
	// In use: the kernel's reason comes through.
	err = c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.DeleteSet(nft.Set{Table: inet, Name: "one4"})
		return nil
	})
	require.ErrorIs(t, err, unix.EBUSY)
	require.NoError(t, c.Do(t.Context(), every), "the connection goes on")
	require.Equal(t, before, ruleset(t, ns))

	// Bad declarations are refused before anything is sent.
	w := c.Writes()
	one := nft.Set{Table: inet, Name: "one4", Key: []nft.Type{nft.TypeIPv4}}
	for name, f := range map[string]func(tx *nft.Tx){
		"wrong type":        func(tx *nft.Tx) { tx.Add(one, nft.Key("x")) },
		"wrong family":      func(tx *nft.Tx) { tx.Add(one, nft.Key(addr("::1"))) },
		"range in exact":    func(tx *nft.Tx) { tx.Add(one, nft.Key(prefix("10.0.0.0/8"))) },
		"too few":           func(tx *nft.Tx) { tx.Add(one, nft.Element{}) },
		"data in a set":     func(tx *nft.Tx) { tx.Add(one, nft.Key(addr("192.0.2.1")).To(uint32(1))) },
		"name of device":    func(tx *nft.Tx) { tx.Chain(rule(nft.IIfName.Eq("longer-than-15-bytes"))) },
		"two protocols":     func(tx *nft.Tx) { tx.Chain(rule(nft.IPSrc.Eq(addr("10.0.0.1")), nft.IP6Dst.Eq(addr("::1")))) },
		"keys do not fit":   func(tx *nft.Tx) { tx.Chain(rule(nft.IP6Dst.In(one))) },
		"arp in inet":       func(tx *nft.Tx) { tx.Chain(rule(nft.ARPOp.Eq(uint16(1)))) },
		"vmap of a set":     func(tx *nft.Tx) { tx.Chain(rule(nft.IPSrc.Vmap(one))) },
		"jump to nowhere":   func(tx *nft.Tx) { tx.Chain(rule(nft.Verdict{Code: nft.CodeJump})) },
		"mark range":        func(tx *nft.Tx) { tx.Chain(rule(nft.Mark.Between(uint32(1), uint32(2)))) },
		"dnat to a port":    func(tx *nft.Tx) { tx.Chain(rule(nft.DNAT(nft.Const(uint16(1))))) },
		"fingerprints' map": func(tx *nft.Tx) { tx.Set(nft.Set{Table: inet, Name: "fp", Key: []nft.Type{nft.TypeMark}}) },
		"two definitions": func(tx *nft.Tx) {
			tx.Set(one)
			tx.Set(nft.Set{Table: inet, Name: "one4", Key: []nft.Type{nft.TypeMark}})
		},
		"six keys": func(tx *nft.Tx) {
			tx.Set(nft.Set{Table: inet, Name: "x", Key: []nft.Type{1, 2, 3, 4, 5, 6}})
		},
	} {
		err := c.Do(t.Context(), func(tx *nft.Tx) error { f(tx); return nil })
		require.Error(t, err, name)
		require.NotErrorIs(t, err, unix.EINVAL, name)
		t.Log(err)
	}
	require.Equal(t, w, c.Writes())
	boom := errors.New("boom")
	require.ErrorIs(t, c.Do(t.Context(), func(*nft.Tx) error { return boom }), boom)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Do(ctx, every), context.Canceled)
}

func rule(s ...nft.Stmt) nft.Chain {
	return nft.Chain{Table: inet, Name: "r", Rules: []nft.Rule{s}}
}

func TestWhatIsReadIsWhatWasWritten(t *testing.T) {
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	v4 := nft.Set{Table: inet, Name: "v4", Key: []nft.Type{nft.TypeIPv4}, Interval: true}
	v6 := nft.Set{Table: inet, Name: "v6", Key: []nft.Type{nft.TypeIPv6}, Data: []nft.Type{nft.TypeMark}, Interval: true}
	two := nft.Set{Table: inet, Name: "two", Key: []nft.Type{nft.TypeMark, nft.TypeIPv6, nft.TypePort}, Data: []nft.Type{nft.TypeVerdict}, Interval: true}
	exact := nft.Set{Table: inet, Name: "exact", Key: []nft.Type{nft.TypeIfName, nft.TypeMAC, nft.TypeZone}, Data: []nft.Type{nft.TypeMAC, nft.TypePort}}
	m := vnet.MustParseMAC("02:00:00:00:00:01")
	want := map[*nft.Set][]nft.Element{
		&v4: {nft.Key(prefix("0.0.0.0/8")), nft.Key(addr("10.0.0.1")), nft.Key(addr("10.0.0.2")),
			nft.Key(nft.Range{From: addr("10.0.0.3"), To: addr("10.0.0.9")}), nft.Key(prefix("255.255.255.0/24"))},
		&v6: {nft.Key(prefix("2001:db8::/32")).To(uint32(1)), nft.Key(prefix("2001:db9::/32")).To(uint32(2)), nft.Key(prefix("ff00::/8")).To(uint32(3))},
		&two: {nft.Key(uint32(1), prefix("::/0"), nft.Any{}).To(nft.Accept()),
			nft.Key(uint32(2), addr("ff02::1"), nft.Range{From: uint16(1), To: uint16(65535)}).To(nft.Jump("c"))},
		&exact: {nft.Element{Key: []any{"eth0", m, uint16(7)}, Data: []any{m, uint16(80)}, Comment: "hello"}},
	}
	fill := func(tx *nft.Tx) error {
		tx.Chain(nft.Chain{Table: inet, Name: "c"})
		for s, e := range want {
			tx.Fill(*s, e...)
		}
		return nil
	}
	require.NoError(t, c.Do(t.Context(), fill))
	for _, c := range []*nft.Conn{c, open(t, ns)} {
		for s, e := range want {
			got, err := c.Elements(t.Context(), *s)
			require.NoError(t, err)
			require.Equal(t, e, got, s.Name)
		}
		w := c.Writes()
		require.NoError(t, c.Do(t.Context(), fill))
		require.Equal(t, w, c.Writes())
	}
	// An element between its neighbours goes and comes.
	gone := nft.Key(addr("10.0.0.2"))
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.Remove(v4, gone); return nil }))
	got, err := open(t, ns).Elements(t.Context(), v4)
	require.NoError(t, err)
	require.Len(t, got, 4)
	require.NotContains(t, got, gone)
	// New data for a key that stands; a key declared and taken back.
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.Add(v6, nft.Key(prefix("ff00::/8")).To(uint32(9)))
		tx.Add(v4, gone)
		tx.Remove(v4, gone)
		data, ok := tx.Lookup(v6, prefix("ff00::/8"))
		require.True(t, ok)
		require.Equal(t, []any{uint32(9)}, data)
		return nil
	}))
	data, ok, err := open(t, ns).Lookup(t.Context(), v6, prefix("ff00::/8"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, []any{uint32(9)}, data)
	_, err = c.Elements(t.Context(), nft.Set{Table: inet, Name: "nosuch", Key: []nft.Type{nft.TypeMark}})
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

func TestChangesOfDefinition(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	do := func(key nft.Type, hook nft.HookPoint, val any) {
		t.Helper()
		s := nft.Set{Table: inet, Name: "s", Key: []nft.Type{key}}
		f := map[nft.Type]nft.Field{nft.TypeIPv4: nft.IPSrc, nft.TypePort: nft.DPort}[key]
		require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
			tx.Fill(s, nft.Key(val))
			tx.Chain(nft.Chain{Table: inet, Name: "c", Base: &nft.Hook{Type: nft.Filter, Hook: hook}, Rules: []nft.Rule{{f.In(s), nft.Drop()}}})
			return nil
		}))
	}
	do(nft.TypeIPv4, nft.Input, addr("192.0.2.1"))
	do(nft.TypePort, nft.Input, uint16(80))
	do(nft.TypePort, nft.Forward, uint16(80))
	out := ruleset(t, ns)
	require.Contains(t, out, "type inet_service")
	require.Contains(t, out, "hook forward")
	require.NotContains(t, out, "hook input")
	// Chains and what jumps to them go together, in whatever order they are declared.
	vm := nft.Set{Table: inet, Name: "vm", Key: []nft.Type{nft.TypeMark}, Data: []nft.Type{nft.TypeVerdict}}
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.Add(vm, nft.Key(uint32(1)).To(nft.Jump("sub")))
		tx.Chain(nft.Chain{Table: inet, Name: "sub", Rules: []nft.Rule{{nft.Drop()}}})
		tx.Chain(nft.Chain{Table: inet, Name: "c", Rules: []nft.Rule{{nft.Mark.Vmap(vm)}, {nft.Jump("sub")}}})
		return nil
	}))
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.DeleteChain(inet, "sub")
		tx.Remove(vm, nft.Key(uint32(1)))
		tx.Chain(nft.Chain{Table: inet, Name: "c", Rules: []nft.Rule{{nft.Mark.Vmap(vm)}}})
		return nil
	}))
	chains, err := c.Chains(t.Context(), inet)
	require.NoError(t, err)
	require.Equal(t, []string{"c"}, chains)
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.DeleteChain(inet, "c")
		tx.DeleteSet(vm)
		tx.DeleteSet(nft.Set{Table: inet, Name: "s"})
		tx.DeleteChain(inet, "never")
		tx.DeleteSet(nft.Set{Table: inet, Name: "never"})
		return nil
	}))
	sets, err := c.Sets(t.Context(), inet)
	require.NoError(t, err)
	require.Empty(t, sets)
	// A table made anew in one transaction.
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.DeleteTable(inet)
		tx.Chain(nft.Chain{Table: inet, Name: "new"})
		return nil
	}))
	chains, err = c.Chains(t.Context(), inet)
	require.NoError(t, err)
	require.Equal(t, []string{"new"}, chains)
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.DeleteTable(inet); return nil }))
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.DeleteTable(inet); return nil }))
	require.NotContains(t, ruleset(t, ns), "vnet-a")
}

func TestOthersWriteMeanwhile(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	c := open(t, ns)
	require.NoError(t, c.Do(t.Context(), every))
	want := ruleset(t, ns)
	// Somebody takes a part of ours away; the next transaction puts it back.
	_, err := ns.Exec(t.Context(), "nft", "delete element inet vnet-a one4 { 192.0.2.1 }")
	require.NoError(t, err)
	d, err := c.Check(t.Context(), every)
	require.NoError(t, err)
	require.Equal(t, []string{"set inet vnet-a one4: +1 -0"}, d)
	require.NoError(t, c.Do(t.Context(), every))
	_, err = ns.Exec(t.Context(), "nft", "flush ruleset")
	require.NoError(t, err)
	require.NoError(t, c.Do(t.Context(), every))
	require.Equal(t, want, ruleset(t, ns))
	// In the middle of a transaction, too.
	first := true
	set := nft.Set{Table: inet, Name: "one4", Key: []nft.Type{nft.TypeIPv4}}
	require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
		tx.Add(set, nft.Key(addr("192.0.2.50")))
		if first {
			first = false
			_, err := ns.Exec(t.Context(), "nft", "add element inet vnet-a one4 { 192.0.2.50 }")
			require.NoError(t, err)
		}
		return nil
	}))
	require.False(t, first)
}

func TestManyWriters(t *testing.T) {
	l := lab.New(t)
	ns := l.NS("a")
	set := nft.Set{Table: inet, Name: "s", Key: []nft.Type{nft.TypeMark}}
	other := nft.Table{Family: nft.Inet, Name: "vnet-b"}
	shared, foreign := open(t, ns), open(t, ns)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, s := shared, set
			if g == 3 { // another owner, another connection
				c, s = foreign, nft.Set{Table: other, Name: "s", Key: []nft.Type{nft.TypeMark}}
			}
			for i := range 25 {
				errs <- c.Do(t.Context(), func(tx *nft.Tx) error {
					tx.Add(s, nft.Key(uint32(g*100+i)))
					return nil
				})
			}
		}()
	}
	wg.Wait()
	for range 100 {
		require.NoError(t, <-errs)
	}
	got, err := shared.Elements(t.Context(), set)
	require.NoError(t, err)
	require.Len(t, got, 75)
}

func TestForeignTable(t *testing.T) {
	lab.Need(t, "nft")
	l := lab.New(t)
	ns := l.NS("a")
	_, err := ns.Exec(t.Context(), "nft", "table inet vnet-a { chain c { drop; }; }")
	require.NoError(t, err)
	before := ruleset(t, ns)
	c := open(t, ns)
	require.ErrorIs(t, c.Do(t.Context(), every), vnet.ErrConflict)
	require.ErrorIs(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.DeleteTable(inet); return nil }), vnet.ErrConflict)
	require.ErrorIs(t, c.Do(t.Context(), func(tx *nft.Tx) error { tx.DeleteChain(inet, "c"); return nil }), vnet.ErrConflict)
	require.Equal(t, before, ruleset(t, ns))
}

// TestPacketsMatch sends packets through what the text alone does not prove:
// byte orders in concatenated intervals, ranges that end with the last value.
func TestPacketsMatch(t *testing.T) {
	l := lab.New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	a.Addr("eth0", "10.0.0.1/24")
	b.Addr("eth0", "10.0.0.2/24")
	c := open(t, a)
	tuple := nft.Set{Table: inet, Name: "t", Key: []nft.Type{nft.TypeMark, nft.TypeIPv4, nft.TypeProto}, Interval: true}
	one := nft.Set{Table: inet, Name: "o", Key: []nft.Type{nft.TypeIPv4}, Interval: true}
	try := func(pass bool, mark uint32, what ...nft.Element) {
		t.Helper()
		require.NoError(t, c.Do(t.Context(), func(tx *nft.Tx) error {
			tx.Fill(tuple, what...)
			tx.Fill(one, nft.Key(nft.Range{From: addr("10.0.0.2"), To: addr("255.255.255.255")}))
			tx.Chain(nft.Chain{Table: inet, Name: "o", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Output}, Rules: []nft.Rule{
				{nft.SetMark(nft.Const(mark))},
				{nft.IPDst.In(one), nft.Concat(nft.Mark, nft.IPDst, nft.L4Proto).In(tuple), nft.Accept()},
				{nft.IPDst.Eq(prefix("10.0.0.0/24")), nft.Drop()},
			}})
			return nil
		}))
		require.Equal(t, pass, a.Ping("10.0.0.2", 1) == nil)
	}
	try(true, 0x01020304, nft.Key(uint32(0x01020304), prefix("10.0.0.0/8"), nft.Any{}))
	try(false, 0x04030201, nft.Key(uint32(0x01020304), prefix("10.0.0.0/8"), nft.Any{}))
	try(true, 7, nft.Key(nft.Any{}, nft.Range{From: addr("10.0.0.1"), To: addr("10.0.0.2")}, nft.ProtoICMP))
	try(false, 7, nft.Key(nft.Any{}, nft.Any{}, nft.ProtoTCP))
}

func TestDisjoint(t *testing.T) {
	p := func(s ...string) (out []netip.Prefix) {
		for _, x := range s {
			out = append(out, prefix(x))
		}
		return out
	}
	got := nft.Disjoint(p("10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "10.0.3.0/24", "255.255.255.255/32", "255.255.255.254/32"))
	require.Equal(t, "[{10.0.0.0 10.0.1.255} {10.0.3.0 10.0.3.255} {255.255.255.254 255.255.255.255}]", fmt.Sprint(got))
	require.Equal(t, "[{:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff}]", fmt.Sprint(nft.Disjoint(p("2001:db8::/32", "::/0"))))
	require.Empty(t, nft.Disjoint(nil))
}
