package openflow

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
)

// Field is a header or metadata field of ovs-fields(7). It makes conditions of
// a [Match] and of [SetField] ([Field.Is], [Field.Masked], [Field.Addr], ...)
// and parts of itself for [Move], [CT] and others ([Field.All], [Field.Range]).
type Field uint8

// The fields, in the order in which ovs-ofctl prints them.
const (
	_ Field = iota
	PktMark
	RecircID
	DPHash
	ConjID
	ActsetOutput
	CtState // CtTrk and the other Ct... bits, see [CtBits]
	CtZone
	CtMark
	CtLabel // 128 bits
	CtNwSrc
	CtIPv6Src
	CtNwDst
	CtIPv6Dst
	CtNwProto
	CtTpSrc
	CtTpDst
	packetType
	EthType
	Reg0
	Reg1
	Reg2
	Reg3
	Reg4
	Reg5
	Reg6
	Reg7
	Reg8
	Reg9
	Reg10
	Reg11
	Reg12
	Reg13
	Reg14
	Reg15
	XReg0 // 64 bits: Reg0 (high) and Reg1
	XReg1
	XReg2
	XReg3
	XReg4
	XReg5
	XReg6
	XReg7
	XXReg0 // 128 bits: Reg0 (highest) to Reg3
	XXReg1
	XXReg2
	XXReg3
	TunID
	TunSrc
	TunDst
	TunIPv6Src
	TunIPv6Dst
	TunGBPID
	TunGBPFlags
	TunFlags
	Metadata
	InPort   // 32 bits, see [Port]
	InPort16 // 16 bits, for Slices of Move and Learn; a Match has InPort
	VLANVID  // 13 bits: VLANPresent and the id; 0 is an untagged frame
	VLANPCP
	VLANTCI // for Slices only; a Match has VLANVID and VLANPCP
	EthSrc
	EthDst
	IPv6Src
	IPv6Dst
	IPv6Label
	ARPSPA
	ARPTPA
	IPv4Src
	IPv4Dst
	ARPOp
	IPProto
	ARPSHA
	ARPTHA
	IPDSCP // 6 bits
	IPECN
	IPTTL
	MPLSLabel
	MPLSTC
	MPLSTTL
	MPLSBOS
	IPFrag // FragAny, FragLater
	ICMPType
	ICMPCode
	ICMPv6Type
	ICMPv6Code
	NDTarget
	NDSLL
	NDTLL
	NDReserved
	NDOptionsType
	TCPSrc
	TCPDst
	UDPSrc
	UDPDst
	SCTPSrc
	SCTPDst
	TCPFlags // TCPFin, ...
	fieldEnd
)

// Reg is register n, 0 to 15.
func Reg(n int) Field { return nth(Reg0, n, 16) }

// XReg is the 64-bit register n, 0 to 7: Reg(2n) and Reg(2n+1).
func XReg(n int) Field { return nth(XReg0, n, 8) }

// XXReg is the 128-bit register n, 0 to 3: Reg(4n) to Reg(4n+3).
func XXReg(n int) Field { return nth(XXReg0, n, 4) }

func nth(first Field, n, end int) Field {
	if n < 0 || n >= end {
		panic(fmt.Sprintf("openflow: register %d of %d", n, end))
	}
	return first + Field(n)
}

// VLANPresent is the bit of VLANVID that says that there is a tag.
const VLANPresent = 0x1000

// Bits of CtState (ovs-fields(7), ct_state).
const (
	CtNew  = 1 << 0
	CtEst  = 1 << 1
	CtRel  = 1 << 2
	CtRpl  = 1 << 3
	CtInv  = 1 << 4
	CtTrk  = 1 << 5
	CtSNAT = 1 << 6
	CtDNAT = 1 << 7
)

// Bits of IPFrag: every fragment has FragAny, all but the first FragLater.
const (
	FragAny   = 1
	FragLater = 2
)

// Bits of TCPFlags.
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
	TCPNs
)

// Ethernet types and IP protocols that have shorthands in ovs-ofctl.
const (
	EthIPv4 = 0x0800
	EthARP  = 0x0806
	EthRARP = 0x8035
	EthIPv6 = 0x86dd
	EthVLAN = 0x8100
	EthMPLS = 0x8847

	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// Value is up to 128 bits, right-aligned.
type Value struct{ Hi, Lo uint64 }

// U64 is a Value of up to 64 bits.
func U64(v uint64) Value { return Value{Lo: v} }

func (v Value) and(o Value) Value    { return Value{v.Hi & o.Hi, v.Lo & o.Lo} }
func (v Value) or(o Value) Value     { return Value{v.Hi | o.Hi, v.Lo | o.Lo} }
func (v Value) andNot(o Value) Value { return Value{v.Hi &^ o.Hi, v.Lo &^ o.Lo} }
func (v Value) isZero() bool         { return v == Value{} }

func (v Value) shl(n uint) Value {
	if n >= 64 {
		return Value{v.Lo << (n - 64), 0}
	}
	return Value{v.Hi<<n | v.Lo>>(64-n), v.Lo << n}
}

func (v Value) shr(n uint) Value {
	if n >= 64 {
		return Value{0, v.Hi >> (n - 64)}
	}
	return Value{v.Hi >> n, v.Lo>>n | v.Hi<<(64-n)}
}

func (v Value) ones() int { return bits.OnesCount64(v.Hi) + bits.OnesCount64(v.Lo) }

// text is v as ovs prints integers with "%#x": 0 without a prefix.
func (v Value) text() string {
	switch {
	case v.Hi != 0:
		return fmt.Sprintf("0x%x%016x", v.Hi, v.Lo)
	case v.Lo != 0:
		return "0x" + strconv.FormatUint(v.Lo, 16)
	}
	return "0"
}

// lowOnes is n one-bits, right-aligned.
func lowOnes(n int) Value {
	switch {
	case n >= 128:
		return Value{^uint64(0), ^uint64(0)}
	case n >= 64:
		return Value{1<<(n-64) - 1, ^uint64(0)}
	}
	return Value{0, 1<<n - 1}
}

func (v Value) bytes(n int) []byte {
	b := make([]byte, 0, 16)
	return v.append(b, n)
}

func (v Value) append(b []byte, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		if i >= 8 {
			b = append(b, byte(v.Hi>>(8*(i-8))))
		} else {
			b = append(b, byte(v.Lo>>(8*i)))
		}
	}
	return b
}

func valueOf(b []byte) (v Value) {
	for _, c := range b {
		v = v.shl(8)
		v.Lo |= uint64(c)
	}
	return v
}

func addrValue(a netip.Addr) Value {
	a = a.Unmap()
	return valueOf(a.AsSlice())
}

// Cond is a field with a value under a mask: what a packet must have in a
// [Match], or gets by [SetField]. A bit of the value outside of the mask is an
// error.
type Cond struct {
	Field       Field
	Value, Mask Value
}

// Is is the condition that the field is exactly v.
func (f Field) Is(v uint64) Cond { return Cond{f, U64(v), f.ones()} }

// Masked is the condition that the bits of mask are those of v.
func (f Field) Masked(v, mask uint64) Cond { return Cond{f, U64(v), U64(mask)} }

// Wide is [Field.Masked] for fields of more than 64 bits. A zero mask stands
// for all bits.
func (f Field) Wide(v, mask Value) Cond {
	if mask.isZero() {
		mask = f.ones()
	}
	return Cond{f, v, mask}
}

// MAC is the condition that the field, 48 bits wide, is that address.
func (f Field) MAC(m [6]byte) Cond { return Cond{f, valueOf(m[:]), f.ones()} }

// MACMasked is [Field.MAC] under a mask.
func (f Field) MACMasked(m, mask [6]byte) Cond { return Cond{f, valueOf(m[:]), valueOf(mask[:])} }

// Addr is the condition that the field is that address. IPv4-mapped IPv6
// addresses count as IPv4. A 128-bit register takes either, an IPv4 address in
// its lowest 32 bits.
func (f Field) Addr(a netip.Addr) Cond { return Cond{f, addrValue(a), f.ones()} }

// Prefix is the condition that the field is in that prefix, whose host bits
// are left out. A prefix of zero bits makes a condition that everything meets,
// which [Match] forgets.
func (f Field) Prefix(p netip.Prefix) Cond {
	p = p.Masked()
	w := p.Addr().BitLen()
	return Cond{f, addrValue(p.Addr()), lowOnes(w).andNot(lowOnes(w - p.Bits()))}
}

// Exact reports whether the mask covers the field.
func (c Cond) Exact() bool { return c.Mask == c.Field.ones() }

// CtBits is the condition that the bits of set are set and the bits of clear
// are not: CtBits(CtTrk|CtNew, CtInv) is ct_state=+new-inv+trk.
func CtBits(set, clear uint64) Cond { return CtState.Masked(set, set|clear) }

// VLAN is the condition that the frame has a tag with that id, or, with [SetField],
// sets the id of the tag.
func VLAN(id uint16) Cond { return VLANVID.Is(VLANPresent | uint64(id)) }

// Untagged is the condition that there is no VLAN tag.
func Untagged() Cond { return VLANVID.Is(0) }

// Tagged is the condition that there is a VLAN tag.
func Tagged() Cond { return VLANVID.Masked(VLANPresent, VLANPresent) }

// Slice is a range of bits of a field, ovs-ofctl's FIELD[OFS..OFS+BITS-1].
type Slice struct {
	Field Field
	Ofs   uint16 // from the least significant bit
	Bits  uint16
}

// All is the whole field.
func (f Field) All() Slice { return Slice{f, 0, uint16(f.Width())} }

// Range is the bits from lo to hi, both included.
func (f Field) Range(lo, hi uint16) Slice { return Slice{f, lo, hi - lo + 1} }

// Bit is one bit.
func (f Field) Bit(n uint16) Slice { return Slice{f, n, 1} }

// Is is the condition that the bits are v, for a [Match] or a [SetField].
func (s Slice) Is(v uint64) Cond { return s.wide(U64(v)) }

func (s Slice) wide(v Value) Cond {
	return Cond{s.Field, v.shl(uint(s.Ofs)), lowOnes(int(s.Bits)).shl(uint(s.Ofs))}
}

// String is as in ovs-ofctl: NXM_NX_REG0[0..15].
func (s Slice) String() string {
	name := s.Field.info().nxm
	switch {
	case s.Ofs == 0 && int(s.Bits) == s.Field.Width():
		return name + "[]"
	case s.Bits == 1:
		return fmt.Sprintf("%s[%d]", name, s.Ofs)
	}
	return fmt.Sprintf("%s[%d..%d]", name, s.Ofs, s.Ofs+s.Bits-1)
}

func (s Slice) check() error {
	if !s.Field.known() {
		return fmt.Errorf("field %d is unknown", s.Field)
	}
	if s.Bits == 0 || int(s.Ofs)+int(s.Bits) > s.Field.Width() {
		return fmt.Errorf("%s has %d bits, not %d from bit %d", s.Field, s.Field.Width(), s.Bits, s.Ofs)
	}
	return nil
}

// Width is the number of bits of the field.
func (f Field) Width() int { return int(f.info().bits) }

// String is the name that ovs-ofctl uses ("nw_src").
func (f Field) String() string {
	if !f.known() {
		return "field" + strconv.Itoa(int(f))
	}
	return f.info().name
}

func (f Field) known() bool { return f > 0 && f < fieldEnd }

func (f Field) info() *fieldInfo {
	if !f.known() {
		return &fieldTable[0]
	}
	return &fieldTable[f]
}

func (f Field) ones() Value { return lowOnes(f.Width()) }

// wireLen is the number of bytes of the field in a TLV.
func (f Field) wireLen() int {
	if f.Width() == 20 { // labels
		return 4
	}
	return (f.Width() + 7) / 8
}

// long is the name that ovs-ofctl uses in actions ("ip_src").
func (f Field) long() string {
	switch f {
	case EthSrc:
		return "eth_src"
	case EthDst:
		return "eth_dst"
	case EthType:
		return "eth_type"
	case VLANPCP:
		return "vlan_pcp"
	case IPv4Src:
		return "ip_src"
	case IPv4Dst:
		return "ip_dst"
	case IPFrag:
		return "ip_frag"
	}
	return f.String()
}
