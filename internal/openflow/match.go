package openflow

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Match is what a packet must be: all of the conditions. The order is of no
// account, and nil is every packet. IP4, TCP4, ARP and the like begin one.
type Match []Cond

// Any is the match of all packets that meet the conditions.
func Any(conds ...Cond) Match { return conds }

// Eth is packets of an Ethernet type that meet the conditions.
func Eth(ethType uint16, conds ...Cond) Match {
	return append(Match{EthType.Is(uint64(ethType))}, conds...)
}

// IP4 is IPv4 packets that meet the conditions.
func IP4(conds ...Cond) Match { return Eth(EthIPv4, conds...) }

// IP6 is IPv6 packets that meet the conditions.
func IP6(conds ...Cond) Match { return Eth(EthIPv6, conds...) }

// ARP is ARP packets that meet the conditions.
func ARP(conds ...Cond) Match { return Eth(EthARP, conds...) }

// IP is packets of one IP version and protocol that meet the conditions.
func IP(v6 bool, proto uint8, conds ...Cond) Match {
	t := uint64(EthIPv4)
	if v6 {
		t = EthIPv6
	}
	return append(Match{EthType.Is(t), IPProto.Is(uint64(proto))}, conds...)
}

// TCP4 is TCP over IPv4.
func TCP4(conds ...Cond) Match { return IP(false, ProtoTCP, conds...) }

// TCP6 is TCP over IPv6.
func TCP6(conds ...Cond) Match { return IP(true, ProtoTCP, conds...) }

// UDP4 is UDP over IPv4.
func UDP4(conds ...Cond) Match { return IP(false, ProtoUDP, conds...) }

// UDP6 is UDP over IPv6.
func UDP6(conds ...Cond) Match { return IP(true, ProtoUDP, conds...) }

// ICMP4 is ICMP.
func ICMP4(conds ...Cond) Match { return IP(false, ProtoICMP, conds...) }

// ICMP6 is ICMPv6; neighbour discovery is ICMP6(ICMPv6Type.Is(135), ...).
func ICMP6(conds ...Cond) Match { return IP(true, ProtoICMPv6, conds...) }

// With is m and further conditions, in a slice of its own.
func (m Match) With(conds ...Cond) Match {
	return append(slices.Clip(slices.Clone(m)), conds...)
}

// Get returns the condition on a field of the canonical form; registers are
// there as Reg0 to Reg15.
func (m Match) Get(f Field) (Cond, bool) {
	c, err := m.canonical()
	if err != nil {
		return Cond{}, false
	}
	i, ok := slices.BinarySearchFunc(c, f, func(c Cond, f Field) int { return cmp.Compare(c.Field, f) })
	if !ok {
		return Cond{}, false
	}
	return c[i], true
}

// Equal reports whether both are valid and match the same packets.
func (m Match) Equal(o Match) bool {
	a, err1 := m.canonical()
	b, err2 := o.canonical()
	return err1 == nil && err2 == nil && slices.Equal(a, b)
}

// conditionError is a bad condition of a match.
type conditionError struct {
	field  Field
	reason string
}

func (e *conditionError) Error() string { return e.field.String() + " " + e.reason }

func badField(f Field, format string, args ...any) error {
	return &conditionError{f, fmt.Sprintf(format, args...)}
}

// canonical is m sorted, each field once, without conditions that all packets
// meet, with registers 32 bits wide, as switches report them.
func (m Match) canonical() (Match, error) {
	out := make(Match, 0, len(m)+2)
	sorted := true
	for _, c := range m {
		if !c.Field.known() {
			return nil, badField(c.Field, "is unknown")
		}
		if !c.Value.andNot(c.Mask).isZero() {
			return nil, badField(c.Field, "has bits of the value %s outside of the mask %s", c.Value.text(), c.Mask.text())
		}
		if !c.Mask.andNot(c.Field.ones()).isZero() {
			return nil, badField(c.Field, "has %d bits, the mask is %s", c.Field.Width(), c.Mask.text())
		}
		if c.Mask.isZero() {
			continue
		}
		info := c.Field.info()
		if c.Mask != c.Field.ones() && info.access&canMask == 0 {
			return nil, badField(c.Field, "takes no mask")
		}
		switch {
		case c.Field >= XReg0 && c.Field <= XReg7:
			out, sorted = splitReg(out, c, Reg0+2*(c.Field-XReg0), 2), false
		case c.Field >= XXReg0 && c.Field <= XXReg3:
			out, sorted = splitReg(out, c, Reg0+4*(c.Field-XXReg0), 4), false
		case c.Field == VLANTCI || c.Field == InPort16:
			return nil, badField(c.Field, "is for actions; a match has %s", map[Field]string{VLANTCI: "VLANVID and VLANPCP", InPort16: "InPort"}[c.Field])
		case c.Field == packetType: // Ethernet, which is all that we speak of
			if !c.Value.isZero() {
				return nil, badField(c.Field, "is not Ethernet")
			}
		default:
			if len(out) > 0 && out[len(out)-1].Field >= c.Field {
				sorted = false
			}
			out = append(out, c)
		}
	}
	if sorted {
		return out, nil
	}
	slices.SortStableFunc(out, func(a, b Cond) int { return cmp.Compare(a.Field, b.Field) })
	n := 0
	for _, c := range out {
		if n == 0 || out[n-1].Field != c.Field {
			out[n] = c
			n++
			continue
		}
		p := &out[n-1]
		both := p.Mask.and(c.Mask)
		if p.Value.and(both) != c.Value.and(both) {
			return nil, badField(c.Field, "is asked to be %s and %s", p.Value.text(), c.Value.text())
		}
		p.Value, p.Mask = p.Value.or(c.Value), p.Mask.or(c.Mask)
	}
	return out[:n], nil
}

// splitReg appends a condition on n registers as one on each.
func splitReg(out Match, c Cond, first Field, n int) Match {
	for i := range n {
		shift := uint(32 * (n - 1 - i))
		r := Cond{first + Field(i), c.Value.shr(shift).and(lowOnes(32)), c.Mask.shr(shift).and(lowOnes(32))}
		if !r.Mask.isZero() {
			out = append(out, r)
		}
	}
	return out
}

// appendTLV appends an OXM (OpenFlow 1.5.1, section 7.2.3.2).
func (c Cond) appendTLV(b []byte) []byte {
	info := c.Field.info()
	n := c.Field.wireLen()
	masked := c.Mask != c.Field.ones()
	b = appendHeader(b, info.write, n, masked)
	b = c.Value.append(b, n)
	if masked {
		b = c.Mask.append(b, n)
	}
	return b
}

func appendHeader(b []byte, w wire, n int, masked bool) []byte {
	h := uint32(w.class)<<16 | uint32(w.num)<<9
	if masked {
		n *= 2
		h |= 1 << 8
	}
	return binary.BigEndian.AppendUint32(b, h|uint32(n))
}

// appendSlice appends the header of a field that is part of an action.
func (f Field) appendHeader(b []byte) []byte {
	return appendHeader(b, f.info().write, f.wireLen(), false)
}

var errShort = errors.New("ends too early")

// takeHeader reads a field's header, without mask, from the front of b.
func takeHeader(b []byte) (f Field, masked bool, n int, rest []byte, err error) {
	if len(b) < 4 {
		return 0, false, 0, nil, errShort
	}
	h := binary.BigEndian.Uint32(b)
	f, ok := fieldOf[wire{uint16(h >> 16), uint8(h>>9) & 0x7f}]
	if !ok {
		return 0, false, 0, nil, fmt.Errorf("field of class %#x number %d is unknown", h>>16, h>>9&0x7f)
	}
	return f, h&0x100 != 0, int(h & 0xff), b[4:], nil
}

// takeField is takeHeader of a field as part of an action.
func takeField(b []byte) (Field, []byte, error) {
	f, _, _, rest, err := takeHeader(b)
	return f, rest, err
}

// takeTLV reads an OXM or NXM from the front of b.
func takeTLV(b []byte) (Cond, []byte, error) {
	f, masked, n, b, err := takeHeader(b)
	if err != nil {
		return Cond{}, nil, err
	}
	if n > len(b) {
		return Cond{}, nil, errShort
	}
	body, rest := b[:n], b[n:]
	c := Cond{Field: f, Mask: f.ones()}
	if masked {
		n /= 2
		c.Mask = valueOf(body[n:]).and(f.ones())
	}
	if n != f.wireLen() || masked && 2*n != len(body) {
		return Cond{}, nil, fmt.Errorf("%s has %d bytes", f, len(body))
	}
	c.Value = valueOf(body[:n])
	if !masked && !c.Value.andNot(f.ones()).isZero() {
		return Cond{}, nil, fmt.Errorf("%s is %s, more than its %d bits", f, c.Value.text(), f.Width())
	}
	c.Value = c.Value.and(c.Mask)
	return c, rest, nil
}

// appendMatch appends an OpenFlow match with its padding. The match is
// canonical. Like ovs-ofctl's it says nothing of packet_type, with which an
// otherwise equal match would be another flow.
func appendMatch(b []byte, m Match) []byte {
	start := len(b)
	b = append(b, 0, 1, 0, 0)
	for _, c := range m {
		b = c.appendTLV(b)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return pad(b, start)
}

// pad appends zeros until b is a multiple of 8 bytes longer than start.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// takeMatch reads a match and its padding from the front of b.
func takeMatch(b []byte) (Match, []byte, error) {
	if len(b) < 4 {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	padded := (n + 7) / 8 * 8
	if binary.BigEndian.Uint16(b) != 1 || n < 4 || padded > len(b) {
		return nil, nil, fmt.Errorf("match of type %d and %d bytes in %d", binary.BigEndian.Uint16(b), n, len(b))
	}
	m, err := takeTLVs(b[4:n])
	if err != nil {
		return nil, nil, err
	}
	m, err = m.canonical()
	return m, b[padded:], err
}

func takeTLVs(b []byte) (m Match, err error) {
	for len(b) > 0 {
		var c Cond
		if c, b, err = takeTLV(b); err != nil {
			return nil, err
		}
		m = append(m, c)
	}
	return m, nil
}

// PortMask is a 16-bit value under a mask.
type PortMask struct{ Value, Mask uint16 }

// PortRange splits the ports from first to last, both included, into the
// fewest values under masks: 1000-1999 is 1000/0xfff8, 1008/0xfff0, ... A first
// above last is no port at all.
func PortRange(first, last uint16) []PortMask {
	var out []PortMask
	for lo, hi := uint32(first), uint32(last); lo <= hi; {
		size := uint32(1)
		for lo%(2*size) == 0 && lo+2*size-1 <= hi && size < 1<<16 {
			size *= 2
		}
		out = append(out, PortMask{uint16(lo), uint16(^(size - 1))})
		lo += size
	}
	return out
}

// Of is the condition that a port field is in the range.
func (p PortMask) Of(f Field) Cond { return f.Masked(uint64(p.Value), uint64(p.Mask)) }
