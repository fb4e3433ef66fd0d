package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// order is the byte order of a type's value.
type order uint8

const (
	big  order = 2 // as nft's BYTEORDER_BIG_ENDIAN
	host order = 1
)

// typeInfo is what nft and the kernel know of a type.
type typeInfo struct {
	name   string
	kernel uint32 // nft's number (enum datatypes), for listing
	size   int    // bytes
	order  order
}

func (t Type) info() typeInfo {
	switch t {
	case TypeIfName:
		return typeInfo{"ifname", 41, 16, host}
	case TypeMark:
		return typeInfo{"mark", 19, 4, host}
	case TypeIPv4:
		return typeInfo{"ipv4_addr", 7, 4, big}
	case TypeIPv6:
		return typeInfo{"ipv6_addr", 8, 16, big}
	case TypeMAC:
		return typeInfo{"ether_addr", 9, 6, big}
	case TypePort:
		return typeInfo{"inet_service", 13, 2, big}
	case TypeProto:
		return typeInfo{"inet_proto", 12, 1, big}
	case TypeEtherType:
		return typeInfo{"ether_type", 10, 2, big}
	case TypeZone:
		return typeInfo{"integer", 4, 2, host}
	case TypeICMP:
		return typeInfo{"icmp_type", 14, 1, big}
	case TypeICMPCode:
		return typeInfo{"icmp_code", 32, 1, big}
	case TypeICMP6:
		return typeInfo{"icmpv6_type", 29, 1, big}
	case TypeICMP6Code:
		return typeInfo{"icmpv6_code", 33, 1, big}
	case TypeARPOp:
		return typeInfo{"arp_op", 11, 2, big}
	case TypePktType:
		return typeInfo{"pkt_type", 31, 1, big}
	case TypeVerdict:
		return typeInfo{"verdict", 0xffffff00, 16, host} // NFT_DATA_VERDICT
	}
	return typeInfo{name: fmt.Sprintf("type %d", uint8(t))}
}

func (t Type) String() string { return t.info().name }

// padded is the room a component takes in a register file or a key.
func padded(n int) int { return (n + 3) &^ 3 }

// keyLen is the size of components side by side. A lone one is not padded.
func keyLen(ts []Type) int {
	if len(ts) == 1 {
		return ts[0].info().size
	}
	n := 0
	for _, t := range ts {
		n += padded(t.info().size)
	}
	return n
}

// kernelType is nft's number for a concatenation: six bits a component.
func kernelType(ts []Type) uint32 {
	var n uint32
	for _, t := range ts {
		if t == TypeVerdict {
			return t.info().kernel
		}
		n = n<<6 | t.info().kernel
	}
	return n
}

// encode is the bytes of one value.
func (t Type) encode(v any) ([]byte, error) {
	bad := func() error { return fmt.Errorf("%T %v is no %s", v, v, t) }
	switch t {
	case TypeIfName:
		s, ok := v.(string)
		if !ok || s == "" || len(s) > 15 {
			return nil, bad()
		}
		b := make([]byte, 16)
		copy(b, s)
		return b, nil
	case TypeMark:
		if n, ok := v.(uint32); ok {
			return binary.NativeEndian.AppendUint32(nil, n), nil
		}
	case TypeZone:
		if n, ok := v.(uint16); ok {
			return binary.NativeEndian.AppendUint16(nil, n), nil
		}
	case TypeIPv4:
		if a, ok := v.(netip.Addr); ok && a.Is4() {
			return a.AsSlice(), nil
		}
	case TypeIPv6:
		if a, ok := v.(netip.Addr); ok && a.Is6() && a.Zone() == "" {
			return a.AsSlice(), nil
		}
	case TypeMAC:
		if m, ok := v.(vnet.MAC); ok {
			return m[:], nil
		}
	case TypePort, TypeEtherType, TypeARPOp:
		if n, ok := v.(uint16); ok {
			return binary.BigEndian.AppendUint16(nil, n), nil
		}
	case TypeProto, TypeICMP, TypeICMPCode, TypeICMP6, TypeICMP6Code, TypePktType:
		if n, ok := v.(uint8); ok {
			return []byte{n}, nil
		}
	}
	return nil, bad()
}

func (t Type) decode(b []byte) any {
	switch t {
	case TypeIfName:
		return strings.TrimRight(string(b), "\x00")
	case TypeMark:
		return binary.NativeEndian.Uint32(b)
	case TypeZone:
		return binary.NativeEndian.Uint16(b)
	case TypeIPv4, TypeIPv6:
		a, _ := netip.AddrFromSlice(b)
		return a
	case TypeMAC:
		return vnet.MAC(b)
	case TypePort, TypeEtherType, TypeARPOp:
		return binary.BigEndian.Uint16(b)
	}
	return b[0]
}

// bounds is the first and last value of a component.
func (t Type) bounds(v any) (from, to []byte, err error) {
	size := t.info().size
	switch x := v.(type) {
	case Any:
		return make([]byte, size), bytes.Repeat([]byte{0xff}, size), nil
	case netip.Prefix:
		if from, err = t.encode(x.Masked().Addr()); err != nil {
			return nil, nil, err
		}
		to = slices.Clone(from)
		for i := x.Bits(); i < size*8; i++ {
			to[i/8] |= 0x80 >> (i % 8)
		}
		return from, to, nil
	case Range:
		if from, err = t.encode(x.From); err == nil {
			to, err = t.encode(x.To)
		}
		if err == nil && t.info().order == host && !bytes.Equal(from, to) {
			err = fmt.Errorf("a range of %s is not possible: the kernel compares bytes", t)
		}
		if err == nil && bytes.Compare(from, to) > 0 {
			err = fmt.Errorf("range %v-%v is empty", x.From, x.To)
		}
		return from, to, err
	}
	from, err = t.encode(v)
	return from, from, err
}

// unbounds is the value that bounds made from and to of.
func (t Type) unbounds(from, to []byte) any {
	if bytes.Equal(from, to) {
		return t.decode(from)
	}
	if t == TypeIPv4 || t == TypeIPv6 {
		a := t.decode(from).(netip.Addr)
		for bits := range len(from) * 8 {
			p := netip.PrefixFrom(a, bits)
			if p.Masked() == p {
				if _, last, _ := t.bounds(p); bytes.Equal(last, to) {
					return p
				}
			}
		}
	} else if !slices.ContainsFunc(from, func(b byte) bool { return b != 0 }) && !slices.ContainsFunc(to, func(b byte) bool { return b != 0xff }) {
		return Any{}
	}
	return Range{t.decode(from), t.decode(to)}
}

// encodeKey is the first and last key of an element; the same for an exact set.
func (s Set) encodeKey(key []any) (from, to string, err error) {
	if len(key) != len(s.Key) {
		return "", "", fmt.Errorf("set %s: key %v has %d components, not %d", s.Name, key, len(key), len(s.Key))
	}
	var a, b []byte
	for i, t := range s.Key {
		lo, hi, err := t.bounds(key[i])
		if err != nil {
			return "", "", fmt.Errorf("set %s: key component %d: %w", s.Name, i+1, err)
		}
		if !s.Interval && !bytes.Equal(lo, hi) {
			return "", "", fmt.Errorf("set %s: key component %d: %v is a range, the set has no intervals", s.Name, i+1, key[i])
		}
		a, b = append(a, lo...), append(b, hi...)
		if len(s.Key) > 1 {
			pad := make([]byte, padded(len(lo))-len(lo))
			a, b = append(a, pad...), append(b, pad...)
		}
	}
	return string(a), string(b), nil
}

// encodeData is the bytes of an element's data: for a verdict the code and
// the chain.
func (s Set) encodeData(data []any) (string, error) {
	if len(data) != len(s.Data) {
		return "", fmt.Errorf("set %s: data %v has %d components, not %d", s.Name, data, len(data), len(s.Data))
	}
	var out []byte
	for i, t := range s.Data {
		if t == TypeVerdict {
			v, ok := data[i].(Verdict)
			if !ok {
				return "", fmt.Errorf("set %s: data %v is no Verdict", s.Name, data[i])
			}
			return string(binary.BigEndian.AppendUint32(nil, uint32(v.Code))) + v.Chain, nil
		}
		b, err := t.encode(data[i])
		if err != nil {
			return "", fmt.Errorf("set %s: data component %d: %w", s.Name, i+1, err)
		}
		out = append(out, b...)
		if len(s.Data) > 1 {
			out = append(out, make([]byte, padded(len(b))-len(b))...)
		}
	}
	return string(out), nil
}

func (s Set) decodeElement(from, to, data, comment string) Element {
	e := Element{Comment: comment}
	at := 0
	for _, t := range s.Key {
		n := t.info().size
		if s.Interval {
			e.Key = append(e.Key, t.unbounds([]byte(from[at:at+n]), []byte(to[at:at+n])))
		} else {
			e.Key = append(e.Key, t.decode([]byte(from[at:at+n])))
		}
		at += padded(n)
	}
	at = 0
	for _, t := range s.Data {
		if t == TypeVerdict {
			e.Data = append(e.Data, Verdict{Code: VerdictCode(binary.BigEndian.Uint32([]byte(data))), Chain: data[4:]})
			break
		}
		n := t.info().size
		e.Data = append(e.Data, t.decode([]byte(data[at:at+n])))
		at += padded(n)
	}
	return e
}

// validate says what is wrong with a set's definition.
func (s Set) validate() error {
	if s.Name == "" || len(s.Name) > 127 {
		return fmt.Errorf("set %q of table %s: bad name", s.Name, s.Table)
	}
	if s.Name == fpName {
		return fmt.Errorf("set %q of table %s: the name is taken by the fingerprints", s.Name, s.Table)
	}
	if len(s.Key) == 0 || len(s.Key) > 5 {
		return fmt.Errorf("set %s: %d key components; nft knows 1 to 5", s.Name, len(s.Key))
	}
	for _, t := range append(slices.Clone(s.Key), s.Data...) {
		if t.info().size == 0 {
			return fmt.Errorf("set %s: %s is not known", s.Name, t)
		}
	}
	if slices.Contains(s.Key, TypeVerdict) || slices.Contains(s.Data, TypeVerdict) && len(s.Data) > 1 {
		return fmt.Errorf("set %s: a verdict can only be the whole data", s.Name)
	}
	if n := keyLen(s.Key); n > 64 {
		return fmt.Errorf("set %s: key of %d bytes; the kernel takes 64", s.Name, n)
	}
	return nil
}

// after is the byte string that follows b in order; "" after the last.
func after(b string) string {
	x := []byte(b)
	for i := len(x) - 1; i >= 0; i-- {
		x[i]++
		if x[i] != 0 {
			return string(x)
		}
	}
	return ""
}

// before is the byte string that precedes b.
func before(b string) string {
	x := []byte(b)
	for i := len(x) - 1; i >= 0; i-- {
		x[i]--
		if x[i] != 0xff {
			break
		}
	}
	return string(x)
}

// Disjoint returns prefixes as ranges that neither overlap nor touch, sorted:
// what an interval set of one component wants. All must be of one family.
func Disjoint(prefixes []netip.Prefix) []Range {
	ps := slices.Clone(prefixes)
	for i := range ps {
		ps[i] = ps[i].Masked()
	}
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []Range
	for _, p := range ps {
		last := lastOf(p)
		if n := len(out); n > 0 {
			end := out[n-1].To.(netip.Addr)
			if next := end.Next(); !next.IsValid() || p.Addr().Compare(next) <= 0 {
				if last.Compare(end) > 0 {
					out[n-1].To = last
				}
				continue
			}
		}
		out = append(out, Range{p.Addr(), last})
	}
	return out
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
