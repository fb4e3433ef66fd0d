package openflow

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func genAddr(t *rapid.T, v6 bool) netip.Addr {
	n := 4
	if v6 {
		n = 16
	}
	a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address"))
	if a.IsUnspecified() || a.Is4In6() {
		return genAddr(t, v6)
	}
	return a
}

func genPrefix(t *rapid.T, v6 bool) netip.Prefix {
	a := genAddr(t, v6)
	return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
}

// genCond makes a condition of any width, with a mask if the field takes one.
func genCond(t *rapid.T, f Field) Cond {
	mask := f.ones()
	if f.info().access&canMask != 0 && rapid.Bool().Draw(t, "masked") {
		mask = Value{rapid.Uint64().Draw(t, "mask"), rapid.Uint64().Draw(t, "mask")}.and(f.ones())
	}
	v := Value{rapid.Uint64().Draw(t, "value"), rapid.Uint64().Draw(t, "value")}.and(mask)
	return Cond{f, v, mask}
}

// genMatch makes a match that a switch takes.
func genMatch(t *rapid.T) Match {
	var m Match
	some := func(fs ...Field) {
		for _, f := range fs {
			if rapid.IntRange(0, 5).Draw(t, f.String()) == 0 {
				m = append(m, genCond(t, f))
			}
		}
	}
	some(Reg0, Reg5, Reg15, XReg1, XXReg2, TunID, TunSrc, TunDst, Metadata, PktMark, CtMark, CtLabel, CtZone, EthSrc, EthDst)
	if rapid.Bool().Draw(t, "in_port") {
		m = append(m, InPort.Is(uint64(rapid.IntRange(1, 0xfeff).Draw(t, "port"))))
	}
	if rapid.IntRange(0, 3).Draw(t, "ct") == 0 {
		m = append(m, CtBits(CtTrk|CtNew, CtInv|CtRel))
	}
	switch rapid.IntRange(0, 4).Draw(t, "vlan") {
	case 0:
		m = append(m, VLAN(rapid.Uint16Range(0, 4095).Draw(t, "id")), VLANPCP.Is(rapid.Uint64Range(0, 7).Draw(t, "pcp")))
	case 1:
		m = append(m, Untagged())
	case 2:
		m = append(m, Tagged())
	}
	v6 := rapid.Bool().Draw(t, "v6")
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return m
	case 1:
		m = append(m, EthType.Is(EthARP))
		some(ARPSPA, ARPTPA, ARPSHA, ARPTHA)
		return append(m, ARPOp.Is(uint64(rapid.IntRange(1, 2).Draw(t, "op"))))
	case 2:
		m = append(m, IP(v6, ProtoTCP)...)
		some(TCPSrc, TCPDst, TCPFlags)
	case 3:
		m = append(m, IP(v6, ProtoUDP)...)
		some(UDPSrc, UDPDst)
	case 4:
		m = append(m, IP(v6, ProtoSCTP)...)
		some(SCTPSrc, SCTPDst)
	case 5:
		if v6 {
			m = append(m, ICMP6(ICMPv6Type.Is(135))...)
			some(NDTarget, NDSLL)
		} else {
			m = append(m, ICMP4()...)
			some(ICMPType, ICMPCode)
		}
	case 6:
		m = append(m, IP(v6, rapid.Uint8Range(60, 130).Draw(t, "proto"))...)
		some(IPTTL, IPECN, IPDSCP)
		m = append(m, []Cond{IPFrag.Is(0), IPFrag.Is(FragAny), IPFrag.Is(FragAny | FragLater), IPFrag.Masked(FragAny, FragAny)}[rapid.IntRange(0, 3).Draw(t, "frag")])
	}
	if v6 {
		some(IPv6Label)
		return append(m, IPv6Src.Prefix(genPrefix(t, true)), IPv6Dst.Prefix(genPrefix(t, true)))
	}
	return append(m, IPv4Src.Prefix(genPrefix(t, false)), IPv4Dst.Prefix(genPrefix(t, false)))
}

func genSlice(t *rapid.T, f Field, bits int) Slice {
	return f.Range(0, uint16(bits-1)).move(rapid.IntRange(0, f.Width()-bits).Draw(t, "ofs"))
}

func (s Slice) move(n int) Slice { s.Ofs += uint16(n); return s }

// genActions makes actions that a switch takes with that match.
func genActions(t *rapid.T, m Match) []Action {
	c, err := m.canonical()
	if err != nil {
		t.Fatal(err)
	}
	k := kindOf(c)
	settable := []Field{Reg0, Reg9, XReg2, XXReg3, TunID, TunDst, Metadata, PktMark, EthSrc, EthDst}
	for _, f := range []Field{IPv4Src, IPv4Dst, IPv6Src, IPv6Dst, IPTTL, IPDSCP, TCPSrc, TCPDst, UDPSrc, UDPDst, ARPSPA, ARPSHA} {
		if k.has(f.info().need) {
			settable = append(settable, f)
		}
	}
	ip := k.has(needIP)
	var out []Action
	for range rapid.IntRange(0, 6).Draw(t, "actions") {
		n := rapid.IntRange(0, 18).Draw(t, "action")
		if n >= 16 && !ip {
			n -= 16
		}
		switch n {
		case 0:
			out = append(out, Output{Port: Port(rapid.IntRange(1, 0xfeff).Draw(t, "port"))})
		case 1:
			out = append(out, Output{Port: rapid.SampledFrom([]Port{PortInPort, PortAll, PortNormal, PortLocal, PortController}).Draw(t, "port")})
		case 2, 3:
			for {
				c := genCond(t, rapid.SampledFrom(settable).Draw(t, "field"))
				if !c.Mask.isZero() {
					out = append(out, Set(c))
					break
				}
			}
		case 4:
			bits := rapid.IntRange(1, 32).Draw(t, "bits")
			out = append(out, Move{genSlice(t, Reg1, bits), genSlice(t, EthDst, bits)})
		case 5:
			out = append(out, Resubmit{Table: rapid.Byte().Draw(t, "table")})
		case 6:
			out = append(out, Resubmit{Port: Port(rapid.IntRange(1, 0xfeff).Draw(t, "port")), Table: rapid.Byte().Draw(t, "table")})
		case 7:
			out = append(out, Controller{ID: rapid.Uint16().Draw(t, "id"), UserData: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "userdata"), Pause: rapid.Bool().Draw(t, "pause")})
		case 8:
			out = append(out, Note{rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "note")})
		case 9:
			out = append(out, OutputReg{Src: genSlice(t, Reg3, 16)})
		case 10:
			s := genSlice(t, Reg6, rapid.IntRange(1, 32).Draw(t, "bits"))
			out = append(out, Push{s}, Pop{s})
		case 11:
			out = append(out, Clone{[]Action{Output{Port: 1}, Set(Reg(2).Is(5))}})
		case 12:
			out = append(out, CheckPktLarger{rapid.Uint16Range(1, 9000).Draw(t, "length"), genSlice(t, Reg7, 1)})
		case 13:
			out = append(out, Enqueue(Port(rapid.IntRange(1, 100).Draw(t, "port")), rapid.Uint32().Draw(t, "queue"))...)
		case 14:
			out = append(out, CTClear{})
		case 15:
			out = append(out, Learn{Table: rapid.ByteRange(0, 100).Draw(t, "table"), Priority: rapid.Uint16().Draw(t, "priority"), Cookie: rapid.Uint64().Draw(t, "cookie"), IdleTimeout: rapid.Uint16().Draw(t, "idle"),
				Specs: []LearnSpec{LearnMatch(EthDst.All(), EthSrc.All()), LearnMatchValue(Reg(1).Range(0, 15), uint64(rapid.Uint16().Draw(t, "v"))), LearnLoad(Reg(2).All(), Reg(3).All()), LearnLoadValue(Reg(4).Range(3, 10), uint64(rapid.Byte().Draw(t, "v"))), LearnOutput(Reg(5).All())}})
		case 16:
			out = append(out, DecTTL{})
		default:
			out = append(out, genCT(t, k.ethType == EthIPv6))
		}
	}
	return out
}

func genCT(t *rapid.T, v6 bool) CT {
	a := CT{Commit: rapid.Bool().Draw(t, "commit"), Zone: rapid.Uint16().Draw(t, "zone"), Table: rapid.ByteRange(0, 200).Draw(t, "table"), Recirc: rapid.Bool().Draw(t, "recirc")}
	if rapid.Bool().Draw(t, "zone from") {
		a.Zone, a.ZoneFrom = 0, genSlice(t, Reg4, 16)
	}
	if !a.Commit {
		if rapid.Bool().Draw(t, "restore") {
			a.NAT = &NAT{}
		}
		return a
	}
	a.Force = rapid.Bool().Draw(t, "force")
	if rapid.Bool().Draw(t, "exec") {
		for _, f := range []Field{CtMark, CtLabel} {
			if c := genCond(t, f); !c.Mask.isZero() {
				a.Exec = append(a.Exec, Set(c))
			}
		}
		a.Exec = append(a.Exec, Move{Reg(1).All(), CtLabel.Range(32, 63)})
	}
	if rapid.Bool().Draw(t, "nat") {
		n := &NAT{Kind: rapid.SampledFrom([]NATKind{NATSrc, NATDst}).Draw(t, "kind")}
		if rapid.Bool().Draw(t, "address") {
			n.Min, n.Max = genAddr(t, v6), genAddr(t, v6)
			if n.Max.Less(n.Min) {
				n.Min, n.Max = n.Max, n.Min
			}
			n.Random = rapid.Bool().Draw(t, "random")
			if rapid.Bool().Draw(t, "ports") {
				n.MinPort = rapid.Uint16Range(1, 60000).Draw(t, "port")
				n.MaxPort = n.MinPort + rapid.Uint16Range(0, 5000).Draw(t, "ports")
			}
		}
		a.NAT = n
	}
	return a
}

func genFlow(t *rapid.T) Flow {
	f := Flow{Table: rapid.ByteRange(0, 253).Draw(t, "table"), Priority: rapid.Uint16().Draw(t, "priority"), Cookie: rapid.Uint64().Draw(t, "cookie"),
		Flags: rapid.SampledFrom([]FlowFlags{0, SendFlowRemoved, NoPacketCounts | NoByteCounts}).Draw(t, "flags"), Match: genMatch(t)}
	f.Actions = genActions(t, f.Match)
	return f
}

// What is encoded is decoded, and means the same.
func TestRandomRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mod := Add(genFlow(t))
		b, err := mod.appendMessage(nil, 1)
		require.NoError(t, err)
		back, err := decodeFlowMod(b)
		require.NoError(t, err)
		require.True(t, back.Equal(&mod.Flow), "%s\n%s", mod.Flow.String(), back.Flow.String())
		require.Equal(t, mod.Key(), back.Key())
		require.Equal(t, mod.String(), back.String())
		again, err := back.appendMessage(nil, 1)
		require.NoError(t, err)
		require.Equal(t, b, again)
	})
}

// Random flows stand in a switch as they were sent, and read as ovs-ofctl reads
// them.
func TestRandomFlowsThroughOpenVSwitch(t *testing.T) {
	s := newSwitch(t)
	c := s.dial()
	flows := rapid.Custom(genFlow)
	for seed := range 4 {
		require.NoError(t, c.Bundle(t.Context(), []FlowMod{DeleteAll(AllTables, 0, 0, nil)}))
		want := map[FlowKey]Flow{}
		for i := range 250 {
			f := flows.Example(seed*1000 + i)
			want[f.Key()] = f
		}
		var mods []FlowMod
		for _, f := range want {
			mods = append(mods, Add(f))
		}
		require.NoError(t, c.Bundle(t.Context(), mods))
		got, err := c.Flows(t.Context(), FlowFilter{Table: AllTables})
		require.NoError(t, err)
		require.Len(t, got, len(want))
		var texts []string
		for i := range got {
			w := want[got[i].Key()]
			assert.True(t, got[i].Equal(&w), "sent %s\nhave %s", w.String(), got[i].Flow.String())
			texts = append(texts, w.String())
		}
		dump := s.dump()
		slices.Sort(texts)
		slices.Sort(dump)
		require.Equal(t, dump, texts)
	}
}
