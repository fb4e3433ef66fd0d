package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// layer is what must be true of a packet for a field to be in it.
type layer uint8

const (
	anyPacket layer = iota
	ipv4Packet
	ipv6Packet
	arpPacket
)

// source is where a field's value is loaded from.
type source uint8

const (
	fromMeta source = iota
	fromCt
	fromLink      // link layer header
	fromNetwork   // network header
	fromTransport // transport header
)

// fieldInfo says how a field is loaded.
type fieldInfo struct {
	name  string // as nft writes it
	typ   Type
	src   source
	key   uint32 // meta or ct key
	off   uint32 // payload offset
	layer layer
	proto uint8 // transport protocol it needs; 0: none
	orig  bool  // ct key that wants a direction
}

// Keys of nf_tables' ct expression that carry an address of one family
// (linux/netfilter/nf_tables.h).
const (
	ctSrcIP  = 19
	ctDstIP  = 20
	ctSrcIP6 = 21
	ctDstIP6 = 22
)

func (f Field) info() fieldInfo {
	switch f {
	case IIfName:
		return fieldInfo{name: "iifname", typ: TypeIfName, key: unix.NFT_META_IIFNAME}
	case OIfName:
		return fieldInfo{name: "oifname", typ: TypeIfName, key: unix.NFT_META_OIFNAME}
	case IBrName:
		return fieldInfo{name: "meta ibrname", typ: TypeIfName, key: unix.NFT_META_BRI_IIFNAME}
	case OBrName:
		return fieldInfo{name: "meta obrname", typ: TypeIfName, key: unix.NFT_META_BRI_OIFNAME}
	case Mark:
		return fieldInfo{name: "meta mark", typ: TypeMark, key: unix.NFT_META_MARK}
	case L4Proto:
		return fieldInfo{name: "meta l4proto", typ: TypeProto, key: unix.NFT_META_L4PROTO}
	case NFProto:
		return fieldInfo{name: "meta nfproto", typ: TypeProto, key: unix.NFT_META_NFPROTO}
	case Protocol:
		return fieldInfo{name: "meta protocol", typ: TypeEtherType, key: unix.NFT_META_PROTOCOL}
	case PktType:
		return fieldInfo{name: "meta pkttype", typ: TypePktType, key: unix.NFT_META_PKTTYPE}
	case EtherDst:
		return fieldInfo{name: "ether daddr", typ: TypeMAC, src: fromLink, off: 0}
	case EtherSrc:
		return fieldInfo{name: "ether saddr", typ: TypeMAC, src: fromLink, off: 6}
	case EtherType:
		return fieldInfo{name: "ether type", typ: TypeEtherType, src: fromLink, off: 12}
	case ARPOp:
		return fieldInfo{name: "arp operation", typ: TypeARPOp, src: fromNetwork, off: 6, layer: arpPacket}
	case ARPSrcMAC:
		return fieldInfo{name: "arp saddr ether", typ: TypeMAC, src: fromNetwork, off: 8, layer: arpPacket}
	case ARPSrcIP:
		return fieldInfo{name: "arp saddr ip", typ: TypeIPv4, src: fromNetwork, off: 14, layer: arpPacket}
	case ARPDstMAC:
		return fieldInfo{name: "arp daddr ether", typ: TypeMAC, src: fromNetwork, off: 18, layer: arpPacket}
	case ARPDstIP:
		return fieldInfo{name: "arp daddr ip", typ: TypeIPv4, src: fromNetwork, off: 24, layer: arpPacket}
	case IPSrc:
		return fieldInfo{name: "ip saddr", typ: TypeIPv4, src: fromNetwork, off: 12, layer: ipv4Packet}
	case IPDst:
		return fieldInfo{name: "ip daddr", typ: TypeIPv4, src: fromNetwork, off: 16, layer: ipv4Packet}
	case IPTTL:
		return fieldInfo{name: "ip ttl", typ: TypeProto, src: fromNetwork, off: 8, layer: ipv4Packet}
	case IP6Src:
		return fieldInfo{name: "ip6 saddr", typ: TypeIPv6, src: fromNetwork, off: 8, layer: ipv6Packet}
	case IP6Dst:
		return fieldInfo{name: "ip6 daddr", typ: TypeIPv6, src: fromNetwork, off: 24, layer: ipv6Packet}
	case IP6HopLimit:
		return fieldInfo{name: "ip6 hoplimit", typ: TypeProto, src: fromNetwork, off: 7, layer: ipv6Packet}
	case NDTarget:
		return fieldInfo{name: "icmpv6 taddr", typ: TypeIPv6, src: fromTransport, off: 8, layer: ipv6Packet, proto: ProtoICMPv6}
	case ICMPType:
		return fieldInfo{name: "icmp type", typ: TypeICMP, src: fromTransport, off: 0, layer: ipv4Packet, proto: ProtoICMP}
	case ICMPCode:
		return fieldInfo{name: "icmp code", typ: TypeICMPCode, src: fromTransport, off: 1, layer: ipv4Packet, proto: ProtoICMP}
	case ICMP6Type:
		return fieldInfo{name: "icmpv6 type", typ: TypeICMP6, src: fromTransport, off: 0, layer: ipv6Packet, proto: ProtoICMPv6}
	case ICMP6Code:
		return fieldInfo{name: "icmpv6 code", typ: TypeICMP6Code, src: fromTransport, off: 1, layer: ipv6Packet, proto: ProtoICMPv6}
	case SPort:
		return fieldInfo{name: "th sport", typ: TypePort, src: fromTransport, off: 0}
	case DPort:
		return fieldInfo{name: "th dport", typ: TypePort, src: fromTransport, off: 2}
	case TCPSPort:
		return fieldInfo{name: "tcp sport", typ: TypePort, src: fromTransport, off: 0, proto: ProtoTCP}
	case TCPDPort:
		return fieldInfo{name: "tcp dport", typ: TypePort, src: fromTransport, off: 2, proto: ProtoTCP}
	case UDPSPort:
		return fieldInfo{name: "udp sport", typ: TypePort, src: fromTransport, off: 0, proto: ProtoUDP}
	case UDPDPort:
		return fieldInfo{name: "udp dport", typ: TypePort, src: fromTransport, off: 2, proto: ProtoUDP}
	case CtState:
		return fieldInfo{name: "ct state", typ: TypeMark, src: fromCt, key: unix.NFT_CT_STATE}
	case CtStatus:
		return fieldInfo{name: "ct status", typ: TypeMark, src: fromCt, key: unix.NFT_CT_STATUS}
	case CtMark:
		return fieldInfo{name: "ct mark", typ: TypeMark, src: fromCt, key: unix.NFT_CT_MARK}
	case CtZone:
		return fieldInfo{name: "ct zone", typ: TypeZone, src: fromCt, key: unix.NFT_CT_ZONE}
	case CtDirection:
		return fieldInfo{name: "ct direction", typ: TypeProto, src: fromCt, key: unix.NFT_CT_DIRECTION}
	case CtOrigIPSrc:
		return fieldInfo{name: "ct original ip saddr", typ: TypeIPv4, src: fromCt, key: ctSrcIP, orig: true, layer: ipv4Packet}
	case CtOrigIPDst:
		return fieldInfo{name: "ct original ip daddr", typ: TypeIPv4, src: fromCt, key: ctDstIP, orig: true, layer: ipv4Packet}
	case CtOrigIP6Src:
		return fieldInfo{name: "ct original ip6 saddr", typ: TypeIPv6, src: fromCt, key: ctSrcIP6, orig: true, layer: ipv6Packet}
	case CtOrigIP6Dst:
		return fieldInfo{name: "ct original ip6 daddr", typ: TypeIPv6, src: fromCt, key: ctDstIP6, orig: true, layer: ipv6Packet}
	case CtOrigSPort:
		return fieldInfo{name: "ct original proto-src", typ: TypePort, src: fromCt, key: unix.NFT_CT_PROTO_SRC, orig: true}
	case CtOrigDPort:
		return fieldInfo{name: "ct original proto-dst", typ: TypePort, src: fromCt, key: unix.NFT_CT_PROTO_DST, orig: true}
	}
	return fieldInfo{name: fmt.Sprintf("field %d", uint8(f))}
}

// Type is the type of the field's value.
func (f Field) Type() Type { return f.info().typ }

func (f Field) String() string { return f.info().name }

// emitter turns statements into the kernel's expressions.
type emitter struct {
	family Family
	exprs  [][]byte
	layer  layer // known of the packet so far
	proto  uint8
	sets   []Set // looked up
	note   string
}

func (e *emitter) add(x expr.Any) error {
	b, err := expr.Marshal(byte(e.family), x)
	if err != nil {
		return err
	}
	e.exprs = append(e.exprs, b)
	return nil
}

// reg is the i-th 32-bit register.
func reg(i int) uint32 { return unix.NFT_REG32_00 + uint32(i) }

// need puts in the tests that a field depends on.
func (e *emitter) need(l layer, proto uint8) error {
	if l != anyPacket && l != e.layer {
		if e.layer != anyPacket {
			return errors.New("a rule cannot match two network protocols")
		}
		if err := e.needLayer(l); err != nil {
			return err
		}
		e.layer = l
	}
	if proto != 0 && proto != e.proto {
		if e.proto != 0 {
			return errors.New("a rule cannot match two transport protocols")
		}
		if err := e.compareMeta(unix.NFT_META_L4PROTO, []byte{proto}); err != nil {
			return err
		}
		e.proto = proto
	}
	return nil
}

func (e *emitter) needLayer(l layer) error {
	ether := map[layer]uint16{ipv4Packet: EtherIPv4, ipv6Packet: EtherIPv6, arpPacket: EtherARP}[l]
	nfproto := map[layer]uint8{ipv4Packet: NFProtoIPv4, ipv6Packet: NFProtoIPv6}[l]
	switch {
	case e.family == Bridge:
		return e.compareMeta(unix.NFT_META_PROTOCOL, binary.BigEndian.AppendUint16(nil, ether))
	case e.family == Inet && l != arpPacket:
		return e.compareMeta(unix.NFT_META_NFPROTO, []byte{nfproto})
	case e.family == IP && l == ipv4Packet, e.family == IP6 && l == ipv6Packet, e.family == ARP && l == arpPacket:
		return nil
	}
	return fmt.Errorf("family %s does not carry what is matched", e.family)
}

func (e *emitter) compareMeta(key uint32, data []byte) error {
	if err := e.add(&expr.Meta{Key: expr.MetaKey(key), Register: reg(0)}); err != nil {
		return err
	}
	return e.add(&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: data})
}

// load puts a field's value into the register.
func (e *emitter) load(f Field, r uint32) error {
	i := f.info()
	if i.typ == 0 {
		return fmt.Errorf("%s is not known", i.name)
	}
	if err := e.need(i.layer, i.proto); err != nil {
		return fmt.Errorf("%s: %w", i.name, err)
	}
	size := uint32(i.typ.info().size)
	switch i.src {
	case fromMeta:
		return e.add(&expr.Meta{Key: expr.MetaKey(i.key), Register: r})
	case fromCt:
		if !i.orig {
			return e.add(&expr.Ct{Key: expr.CtKey(i.key), Register: r})
		}
		// The library gives a direction only to older keys.
		x := nlmsg{}
		x.str(unix.NFTA_EXPR_NAME, "ct")
		x.nest(unix.NFTA_EXPR_DATA, func() {
			x.be32(unix.NFTA_CT_KEY, i.key)
			x.be32(unix.NFTA_CT_DREG, r)
			x.bytes(unix.NFTA_CT_DIRECTION, []byte{0})
		})
		e.exprs = append(e.exprs, x.b)
		return nil
	}
	base := map[source]expr.PayloadBase{fromLink: expr.PayloadBaseLLHeader, fromNetwork: expr.PayloadBaseNetworkHeader,
		fromTransport: expr.PayloadBaseTransportHeader}[i.src]
	if i.src == fromLink && e.family != Bridge {
		return fmt.Errorf("%s: only family bridge is sure to have the Ethernet header", i.name)
	}
	return e.add(&expr.Payload{DestRegister: r, Base: base, Offset: i.off, Len: size})
}

// loadKeys loads fields side by side, tests first, as registers are shared.
func (e *emitter) loadKeys(k Keys) error {
	for _, f := range k {
		i := f.info()
		if err := e.need(i.layer, i.proto); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	at := 0
	for _, f := range k {
		if err := e.load(f, reg(at)); err != nil {
			return err
		}
		at += padded(f.Type().info().size) / 4
	}
	return nil
}

func (k Keys) check(s Set) error {
	var ts []Type
	for _, f := range k {
		ts = append(ts, f.Type())
	}
	if !slices.Equal(ts, s.Key) {
		return fmt.Errorf("set %s: key is %v, fields %s are %v", s.Name, s.Key, k, ts)
	}
	return nil
}

func (k Keys) String() string {
	var names []string
	for _, f := range k {
		names = append(names, f.info().name)
	}
	return strings.Join(names, " . ")
}

type lookup struct {
	keys         Keys
	set          Set
	invert, vmap bool
}

func (l lookup) String() string {
	switch {
	case l.vmap:
		return l.keys.String() + " vmap @" + l.set.Name
	case l.invert:
		return l.keys.String() + " != @" + l.set.Name
	}
	return l.keys.String() + " @" + l.set.Name
}

func (l lookup) emit(e *emitter) error {
	if err := l.keys.check(l.set); err != nil {
		return err
	}
	if verdicts := slices.Equal(l.set.Data, []Type{TypeVerdict}); l.vmap != verdicts || !l.vmap && l.set.IsMap() {
		return fmt.Errorf("set %s: looked up as something it is not", l.set.Name)
	}
	if err := e.loadKeys(l.keys); err != nil {
		return err
	}
	e.sets = append(e.sets, l.set)
	// Register 0 is the verdict.
	return e.add(&expr.Lookup{SourceRegister: reg(0), SetName: l.set.Name, Invert: l.invert, IsDestRegSet: l.vmap})
}

type namePrefix string

type compare struct {
	field Field
	v     any
	ne    bool
}

func (c compare) String() string {
	op := " "
	if c.ne {
		op = " != "
	}
	return c.field.info().name + op + show(c.field.Type(), c.v)
}

// show prints a value as nft does, as far as a person needs it.
func show(t Type, v any) string {
	switch x := v.(type) {
	case Range:
		return show(t, x.From) + "-" + show(t, x.To)
	case string:
		return fmt.Sprintf("%q", x)
	case namePrefix:
		return fmt.Sprintf("%q", string(x)+"*")
	case Any:
		return "*"
	case uint32:
		return fmt.Sprintf("0x%08x", x)
	case uint16:
		if t == TypeEtherType {
			return fmt.Sprintf("0x%04x", x)
		}
	}
	return fmt.Sprint(v)
}

func (c compare) emit(e *emitter) error {
	i := c.field.info()
	t := i.typ
	op := expr.CmpOpEq
	if c.ne {
		op = expr.CmpOpNeq
	}
	fail := func(err error) error { return fmt.Errorf("%s: %w", i.name, err) }
	if x, ok := c.v.(netip.Prefix); ok && x.Bits() == x.Addr().BitLen() {
		c.v = x.Addr()
	}
	switch x := c.v.(type) {
	case namePrefix:
		if t != TypeIfName || len(x) == 0 || len(x) > 15 {
			return fail(fmt.Errorf("%q is no beginning of a device name", string(x)))
		}
		if err := e.load(c.field, reg(0)); err != nil {
			return err
		}
		return e.add(&expr.Cmp{Op: op, Register: reg(0), Data: []byte(x)})
	case Range:
		from, to, err := t.bounds(x)
		if err != nil {
			return fail(err)
		}
		if err := e.load(c.field, reg(0)); err != nil {
			return err
		}
		return e.add(&expr.Range{Op: op, Register: reg(0), FromData: from, ToData: to})
	case netip.Prefix:
		from, _, err := t.bounds(x)
		if err != nil {
			return fail(err)
		}
		if x.Bits() == 0 {
			if c.ne {
				return fail(errors.New("no packet has an address outside of all"))
			}
			return e.need(i.layer, i.proto)
		}
		mask := make([]byte, len(from))
		for b := range x.Bits() {
			mask[b/8] |= 0x80 >> (b % 8)
		}
		if err := e.load(c.field, reg(0)); err != nil {
			return err
		}
		if err := e.add(&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: uint32(len(from)), Mask: mask, Xor: make([]byte, len(from))}); err != nil {
			return err
		}
		return e.add(&expr.Cmp{Op: op, Register: reg(0), Data: from})
	}
	data, err := t.encode(c.v)
	if err != nil {
		return fail(err)
	}
	// What is matched here need not be tested again for a later field.
	if !c.ne {
		switch c.field {
		case L4Proto:
			if e.proto == data[0] {
				return nil
			}
			defer func() { e.proto = data[0] }()
		case Protocol, NFProto:
			l := layerOf(c.field, c.v)
			if l != anyPacket && e.layer == l {
				return nil
			}
			if c.field == NFProto || e.family == Bridge {
				defer func() { e.layer = l }()
			}
		}
	}
	if err := e.load(c.field, reg(0)); err != nil {
		return err
	}
	return e.add(&expr.Cmp{Op: op, Register: reg(0), Data: data})
}

func layerOf(f Field, v any) layer {
	switch {
	case f == NFProto && v == any(NFProtoIPv4), f == Protocol && v == any(EtherIPv4):
		return ipv4Packet
	case f == NFProto && v == any(NFProtoIPv6), f == Protocol && v == any(EtherIPv6):
		return ipv6Packet
	case f == Protocol && v == any(EtherARP):
		return arpPacket
	}
	return anyPacket
}

type bitTest struct {
	field Field
	bits  uint32
	none  bool
}

func (b bitTest) String() string {
	var names []string
	rest := b.bits
	if b.field == CtState {
		for _, n := range []struct {
			bit  uint32
			name string
		}{{StateInvalid, "invalid"}, {StateEstablished, "established"}, {StateRelated, "related"}, {StateNew, "new"}, {StateUntracked, "untracked"}} {
			if rest&n.bit != 0 {
				names = append(names, n.name)
				rest &^= n.bit
			}
		}
	}
	if rest != 0 {
		names = append(names, fmt.Sprintf("0x%x", rest))
	}
	op := " "
	if b.none {
		op = " ! "
	}
	return b.field.info().name + op + strings.Join(names, ",")
}

func (b bitTest) emit(e *emitter) error {
	if b.field.Type() != TypeMark {
		return fmt.Errorf("%s has no bits", b.field)
	}
	if err := e.load(b.field, reg(0)); err != nil {
		return err
	}
	if err := e.add(&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4,
		Mask: binary.NativeEndian.AppendUint32(nil, b.bits), Xor: make([]byte, 4)}); err != nil {
		return err
	}
	op := expr.CmpOpNeq
	if b.none {
		op = expr.CmpOpEq
	}
	return e.add(&expr.Cmp{Op: op, Register: reg(0), Data: make([]byte, 4)})
}

// String is the value as nft writes it.
func (v Value) String() string {
	switch {
	case v.set != nil:
		return v.keys.String() + " map @" + v.set.Name
	case v.field != 0:
		return v.field.info().name
	}
	var s []string
	for _, x := range v.vals {
		s = append(s, show(0, x))
	}
	return strings.Join(s, " . ")
}

// into puts the value into registers from the first on; want is the types of
// its components, and what came is returned.
func (v Value) into(e *emitter, want func([]Type) bool, types []Type) error {
	switch {
	case v.set != nil:
		if err := v.keys.check(*v.set); err != nil {
			return err
		}
		if !want(v.set.Data) {
			return fmt.Errorf("map %s: data %v do not fit", v.set.Name, v.set.Data)
		}
		if err := e.loadKeys(v.keys); err != nil {
			return err
		}
		e.sets = append(e.sets, *v.set)
		return e.add(&expr.Lookup{SourceRegister: reg(0), DestRegister: reg(0), IsDestRegSet: true, SetName: v.set.Name})
	case v.field != 0:
		if !want([]Type{v.field.Type()}) {
			return fmt.Errorf("%s does not fit", v.field)
		}
		return e.load(v.field, reg(0))
	}
	if len(types) != len(v.vals) {
		return fmt.Errorf("%v does not fit", v.vals)
	}
	at := 0
	for i, t := range types {
		b, err := t.encode(v.vals[i])
		if err != nil {
			return err
		}
		if err := e.add(&expr.Immediate{Register: reg(at), Data: b}); err != nil {
			return err
		}
		at += padded(len(b)) / 4
	}
	return nil
}

type store struct {
	field Field
	v     Value
}

func (s store) String() string { return s.field.info().name + " set " + s.v.String() }

func (s store) emit(e *emitter) error {
	i := s.field.info()
	one := []Type{i.typ}
	if err := s.v.into(e, func(ts []Type) bool { return slices.Equal(ts, one) }, one); err != nil {
		return fmt.Errorf("set %s: %w", i.name, err)
	}
	if i.src == fromCt {
		return e.add(&expr.Ct{Key: expr.CtKey(i.key), Register: reg(0), SourceRegister: true})
	}
	return e.add(&expr.Meta{Key: expr.MetaKey(i.key), Register: reg(0), SourceRegister: true})
}

type nat struct {
	dst, random bool
	v           Value
}

func (n nat) String() string {
	s := "snat"
	if n.dst {
		s = "dnat"
	}
	ts := n.types()
	if len(ts) > 0 && ts[0] == TypeIPv6 {
		s += " ip6"
	} else {
		s += " ip"
	}
	s += " to "
	if n.v.set == nil && len(n.v.vals) == 2 {
		s += fmt.Sprintf("%v:%v", n.v.vals[0], n.v.vals[1])
	} else {
		s += n.v.String()
	}
	if n.random {
		s += " fully-random"
	}
	return s
}

func (n nat) types() []Type {
	if n.v.set != nil {
		return n.v.set.Data
	}
	if n.v.field != 0 {
		return []Type{n.v.field.Type()}
	}
	var ts []Type
	for i, x := range n.v.vals {
		switch x := x.(type) {
		case netip.Addr:
			t := TypeIPv4
			if x.Is6() {
				t = TypeIPv6
			}
			ts = append(ts, t)
		case uint16:
			if i > 0 {
				ts = append(ts, TypePort)
			}
		}
	}
	return ts
}

func (n nat) emit(e *emitter) error {
	ts := n.types()
	ok := func(ts []Type) bool {
		return len(ts) > 0 && (ts[0] == TypeIPv4 || ts[0] == TypeIPv6) && (len(ts) == 1 || len(ts) == 2 && ts[1] == TypePort)
	}
	if !ok(ts) {
		return fmt.Errorf("%s: wants an address, or an address and a port", n)
	}
	if err := n.v.into(e, ok, ts); err != nil {
		return err
	}
	x := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg(0), FullyRandom: n.random}
	if n.dst {
		x.Type = expr.NATTypeDestNAT
	}
	at := 1
	if ts[0] == TypeIPv6 {
		x.Family, at = unix.NFPROTO_IPV6, 4
	}
	if len(ts) == 2 {
		x.RegProtoMin = reg(at)
	}
	return e.add(x)
}

type masquerade struct{}

func (masquerade) String() string        { return "masquerade" }
func (masquerade) emit(e *emitter) error { return e.add(&expr.Masq{}) }

type redirect struct{ port uint16 }

func (r redirect) String() string { return fmt.Sprintf("redirect to :%d", r.port) }

func (r redirect) emit(e *emitter) error {
	if err := e.add(&expr.Immediate{Register: reg(0), Data: binary.BigEndian.AppendUint16(nil, r.port)}); err != nil {
		return err
	}
	return e.add(&expr.Redir{RegisterProtoMin: reg(0)})
}

type notrack struct{}

func (notrack) String() string        { return "notrack" }
func (notrack) emit(e *emitter) error { return e.add(&expr.Notrack{}) }

type counter struct{}

func (counter) String() string        { return "counter" }
func (counter) emit(e *emitter) error { return e.add(&expr.Counter{}) }

type comment string

func (c comment) String() string { return fmt.Sprintf("comment %q", string(c)) }

func (c comment) emit(e *emitter) error {
	if len(c) > 127 {
		return fmt.Errorf("comment of %d bytes; 127 fit", len(c))
	}
	e.note = string(c)
	return nil
}

type limit struct {
	rate  uint64
	burst uint32
	over  bool
}

func (l limit) String() string {
	over := ""
	if l.over {
		over = "over "
	}
	return fmt.Sprintf("limit rate %s%d/second burst %d packets", over, l.rate, l.burst)
}

func (l limit) emit(e *emitter) error {
	return e.add(&expr.Limit{Type: expr.LimitTypePkts, Rate: l.rate, Unit: expr.LimitTimeSecond, Burst: l.burst, Over: l.over})
}

type clampMSS struct{}

func (clampMSS) String() string { return "tcp flags syn tcp option maxseg size set rt mtu" }

func (clampMSS) emit(e *emitter) error {
	if err := e.need(anyPacket, ProtoTCP); err != nil {
		return err
	}
	for _, x := range []expr.Any{
		&expr.Payload{DestRegister: reg(0), Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 1, Mask: []byte{2}, Xor: []byte{0}}, // SYN
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: []byte{0}},
		&expr.Rt{Key: expr.RtTCPMSS, Register: reg(0)},
		&expr.Byteorder{SourceRegister: reg(0), DestRegister: reg(0), Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: reg(0), Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}, // option 2: MSS
	} {
		if err := e.add(x); err != nil {
			return err
		}
	}
	return nil
}

type reject struct{}

func (reject) String() string { return "reject" }

func (reject) emit(e *emitter) error {
	switch e.family {
	case Inet:
		return e.add(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	case IP:
		return e.add(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3})
	case IP6:
		return e.add(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 4})
	}
	return fmt.Errorf("reject is not possible in family %s", e.family)
}

func (v Verdict) String() string {
	switch v.Code {
	case CodeDrop:
		return "drop"
	case CodeAccept:
		return "accept"
	case CodeContinue:
		return "continue"
	case CodeReturn:
		return "return"
	case CodeJump:
		return "jump " + v.Chain
	case CodeGoto:
		return "goto " + v.Chain
	}
	return fmt.Sprintf("verdict %d", v.Code)
}

func (v Verdict) emit(e *emitter) error {
	if (v.Code == CodeJump || v.Code == CodeGoto) != (v.Chain != "") {
		return fmt.Errorf("%s: jump and goto have a chain, others not", v)
	}
	return e.add(&expr.Verdict{Kind: expr.VerdictKind(v.Code), Chain: v.Chain})
}

// String is the rule as nft writes it, without counts.
func (r Rule) String() string {
	var s []string
	for _, x := range r {
		s = append(s, x.String())
	}
	return strings.Join(s, " ")
}

// encode is the rule as the kernel takes it: expressions, and what nft shows
// as its comment.
func (r Rule) encode(f Family) (exprs [][]byte, note string, sets []Set, err error) {
	e := &emitter{family: f}
	for _, s := range r {
		if s == nil {
			return nil, "", nil, fmt.Errorf("rule %q has a nil statement", r)
		}
		if err := s.emit(e); err != nil {
			return nil, "", nil, fmt.Errorf("rule %q: %w", r, err)
		}
	}
	return e.exprs, e.note, e.sets, nil
}
