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

var _ = errors.Is
var _ = fmt.Sprint
var _ = strings.Contains
var _ sync.Mutex
var _ context.Context
var _ unix.Errno
