package openflow

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tc := range []struct {
		name  string
		f     Flow
		field string
		part  string
	}{
		{"a port without a protocol", Flow{Match: IP4(TCPDst.Is(80))}, "tcp_dst", "needs IP with nw_proto=6"},
		{"a port of later fragments", Flow{Match: TCP4(TCPDst.Is(80), IPFrag.Is(FragAny|FragLater))}, "tcp_dst", "needs"},
		{"an address without a type", Flow{Match: Any(IPv4Src.Addr(addr("192.0.2.1")))}, "nw_src", "needs dl_type=0x0800"},
		{"IPv4 in IPv6", Flow{Match: IP6(IPv4Src.Addr(addr("192.0.2.1")))}, "nw_src", "needs dl_type=0x0800"},
		{"a target of an echo", Flow{Match: ICMP6(ICMPv6Type.Is(128), NDTarget.Addr(addr("2001:db8::1")))}, "nd_target", "needs ICMPv6 with icmpv6_type=135 or 136"},
		{"a link-layer source of an advertisement", Flow{Match: ICMP6(ICMPv6Type.Is(136), NDSLL.MAC([6]byte{2}))}, "nd_sll", "needs"},
		{"a priority without a tag", Flow{Match: Any(VLANPCP.Is(3))}, "dl_vlan_pcp", "needs VLANVID"},
		{"a value outside of its mask", Flow{Match: Any(Reg(1).Masked(3, 1))}, "reg1", "outside of the mask"},
		{"a value wider than its field", Flow{Match: TCP4(TCPDst.Is(0x10000))}, "tcp_dst", "outside of the mask"},
		{"a mask wider than its field", Flow{Match: Any(Reg(1).Masked(0, 1<<40))}, "reg1", "has 32 bits"},
		{"a mask where there is none", Flow{Match: Any(InPort.Masked(1, 1))}, "in_port", "takes no mask"},
		{"two values", Flow{Match: Any(Reg(1).Is(3), Reg(1).Is(4))}, "reg1", "0x3 and 0x4"},
		{"two values, of one and of a wider register", Flow{Match: Any(Reg(1).Is(3), XReg(0).Is(4))}, "reg1", "0x3 and 0x4"},
		{"TCI", Flow{Match: Any(VLANTCI.Is(0))}, "vlan_tci", "is for actions"},
		{"no field", Flow{Match: Any(Cond{})}, "field0", "is unknown"},
		{"an original address of nobody", Flow{Match: IP4(CtNwSrc.Addr(addr("192.0.2.1")))}, "ct_nw_src", "needs ct_state"},
		{"a state that cannot be set", Flow{Actions: []Action{Set(CtState.Is(1))}}, "ct_state", "cannot be set"},
		{"a part of what has no parts", Flow{Match: IP4(), Actions: []Action{Set(IPTTL.Masked(1, 1))}}, "nw_ttl", "in part"},
		{"an address of any packet", Flow{Actions: []Action{Set(IPv4Src.Addr(addr("192.0.2.1")))}}, "", "needs a match on dl_type=0x0800"},
		{"ct of any packet", Flow{Actions: []Action{CT{Zone: 1}}}, "", "ct(zone=1) needs a match on dl_type"},
		{"ct exec of a port", Flow{Match: IP4(), Actions: []Action{CT{Commit: true, Exec: []Action{Move{TCPDst.All(), CtMark.Range(0, 15)}}}}}, "", "needs"},
		{"exec without commit", Flow{Match: IP4(), Actions: []Action{CT{Exec: []Action{Set(CtMark.Is(1))}}}}, "", "exec without commit"},
		{"force without commit", Flow{Match: IP4(), Actions: []Action{CT{Force: true}}}, "", "force without commit"},
		{"nat without commit", Flow{Match: IP4(), Actions: []Action{CT{NAT: &NAT{Kind: NATSrc}}}}, "", "without commit"},
		{"nat ports alone", Flow{Match: IP4(), Actions: []Action{CT{Commit: true, NAT: &NAT{Kind: NATSrc, MinPort: 5}}}}, "", "without a first address"},
		{"nat backwards", Flow{Match: IP4(), Actions: []Action{CT{Commit: true, NAT: &NAT{Kind: NATSrc, Min: addr("192.0.2.2"), Max: addr("192.0.2.1")}}}}, "", "no range"},
		{"a zone of 8 bits", Flow{Match: IP4(), Actions: []Action{CT{ZoneFrom: Reg(1).Range(0, 7)}}}, "", "zone of 8 bits"},
		{"a conjunction of one", Flow{Actions: []Action{Conjunction{1, 1, 1}}}, "", "N is 2 to 64"},
		{"a conjunction and more", Flow{Actions: []Action{Conjunction{1, 1, 2}, Goto(3)}}, "", "only"},
		{"unequal halves", Flow{Actions: []Action{Move{Reg(0).All(), EthSrc.All()}}}, "", "32 bits are not 48"},
		{"past the end", Flow{Actions: []Action{Move{Reg(0).Range(20, 40), Reg(1).Range(20, 40)}}}, "", "has 32 bits"},
		{"no tag", Flow{Actions: []Action{PopVLAN{}}}, "", "needs a match on VLANVID"},
		{"an advertisement's option in a solicitation", Flow{Match: ICMP6(ICMPv6Type.Is(135)), Actions: []Action{Set(NDTLL.MAC([6]byte{2}))}}, "", "needs"},
		{"nil", Flow{Actions: []Action{nil}}, "", "nil action"},
		{"an instruction in a clone", Flow{Actions: []Action{Clone{[]Action{GotoTable{3}}}}}, "", "top of a flow"},
		{"a goto before the end", Flow{Actions: []Action{GotoTable{3}, Output{Port: 1}}}, "", "top of a flow"},
		{"too much", Flow{Actions: []Action{Note{make([]byte, 70_000)}}}, "", "64 KiB"},
		{"a port between", Flow{Actions: []Action{Resubmit{Port: 0x10000}}}, "", "above"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.f.Table = 9
			err := tc.f.Validate()
			var e *InvalidError
			require.ErrorAs(t, err, &e)
			if tc.field != "" {
				assert.Equal(t, tc.field, e.Field)
			}
			assert.Contains(t, e.Error(), tc.part)
			assert.Contains(t, e.Error(), "table=9")
		})
	}
	ok := Flow{Match: Any(InPort.Is(1)), Actions: []Action{PushVLAN{}, Set(VLAN(5)), PopVLAN{}, Set(EthDst.MAC([6]byte{2})), Goto(3)}}
	require.NoError(t, ok.Validate())
}

func TestKey(t *testing.T) {
	key := func(p uint16, conds ...Cond) FlowKey { f := Flow{Priority: p, Match: conds}; return f.Key() }
	a := key(1, Reg(1).Is(5), EthType.Is(EthIPv4))
	assert.Equal(t, a, key(1, EthType.Is(EthIPv4), Reg(1).Is(5)), "order")
	assert.Equal(t, a, key(1, EthType.Is(EthIPv4), Reg(1).Range(16, 31).Is(0), Reg(1).Range(0, 15).Is(5)), "parts")
	assert.Equal(t, a, key(1, EthType.Is(EthIPv4), Reg(1).Is(5), Reg(2).Masked(0, 0), IPv4Src.Prefix(netip.MustParsePrefix("0.0.0.0/0"))), "nothing")
	assert.NotEqual(t, a, key(2, Reg(1).Is(5), EthType.Is(EthIPv4)))
	assert.NotEqual(t, a, key(1, Reg(1).Is(4), EthType.Is(EthIPv4)))
	assert.Equal(t, key(0, XXReg(1).Wide(Value{5, 6}, Value{})), key(0, XReg(2).Is(5), Reg(6).Is(0), Reg(7).Is(6)))
}

func TestPortRange(t *testing.T) {
	for _, r := range [][2]uint16{{0, 65535}, {1, 65535}, {0, 0}, {65535, 65535}, {1000, 1999}, {80, 80}, {1, 2}, {32767, 32769}, {5, 4}} {
		masks := PortRange(r[0], r[1])
		assert.LessOrEqual(t, len(masks), 30)
		for p := 0; p <= 65535; p++ {
			n := 0
			for _, m := range masks {
				if uint16(p)&m.Mask == m.Value {
					n++
				}
			}
			want := 0
			if p >= int(r[0]) && p <= int(r[1]) {
				want = 1
			}
			if n != want {
				t.Fatalf("%v: port %d is in %d of %v", r, p, n, masks)
			}
		}
	}
	assert.Equal(t, []PortMask{{0, 0}}, PortRange(0, 65535))
	assert.Equal(t, "tcp,tp_dst=0x3e8/0xfff8", TCP4(PortRange(1000, 1007)[0].Of(TCPDst)).String())
}

func TestErrorNames(t *testing.T) {
	assert.Equal(t, "OFPBMC_BAD_PREREQ", (&Error{Type: 4, Code: 9}).Name())
	assert.Equal(t, "OFPTFFC_EPERM", (&Error{Type: 13, Code: 5}).Name())
	assert.Equal(t, "", (&Error{Type: 13, Code: 3}).Name())
	assert.Equal(t, "", (&Error{Type: 99, Code: 3}).Name())
	assert.Equal(t, "NXBAC_CT_DATAPATH_SUPPORT", (&Error{Type: 0xffff, Code: 42, Vendor: nicira}).Name())
	for _, e := range []*Error{{}, {Type: 99}, {Type: 0xffff}, {Type: 0xffff, Vendor: 7}, {Type: 0xffff, Vendor: nicira, Code: 999}} {
		assert.NotEmpty(t, e.Error())
	}
}
