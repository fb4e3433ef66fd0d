package ovsrouter

import (
	"encoding/binary"
	"net/netip"

	of "github.com/vnet-go/vnet/internal/openflow"

	"github.com/vnet-go/vnet"
)

// The frames that a router says by itself. All are made here as bytes, and
// read from bytes; nothing here knows of switches.

var allNodes = netip.MustParseAddr("ff02::1")

func ethernet(dst, src vnet.MAC, typ uint16, room int) []byte {
	b := make([]byte, 0, 14+room)
	b = append(append(b, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(b, typ)
}

// groupMAC is where IPv6 multicast goes (RFC 2464, 7).
func groupMAC(a netip.Addr) vnet.MAC {
	b := a.As16()
	return vnet.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// who asks, as a broadcast, who has an address.
func who(mac vnet.MAC, own, target netip.Addr) []byte {
	if target.Is4() {
		b := ethernet(vnet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, of.EthARP, 28)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
		b = append(append(b, mac[:]...), own.AsSlice()...)
		return append(append(b, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
	}
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}) // RFC 4291, 2.7.1
	m := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:]...)
	return icmp6(mac, groupMAC(group), own, group, 255, append(append(m, 1, 1), mac[:]...))
}

// advertisement is a neighbour advertisement to one neighbour or, if it asked
// from the unspecified address, to all.
func advertisement(mac, to vnet.MAC, target, dst netip.Addr) []byte {
	flags := uint32(naRouter | naSolicited | naOverride)
	if dst.IsUnspecified() {
		to, dst, flags = groupMAC(allNodes), allNodes, naRouter|naOverride
	}
	m := binary.BigEndian.AppendUint32([]byte{136, 0, 0, 0}, flags)
	m = append(append(m, target.AsSlice()...), 2, 1)
	return icmp6(mac, to, target, dst, 255, append(m, mac[:]...))
}

// icmp6 is an ICMPv6 message, with its checksum, in a frame.
func icmp6(from, to vnet.MAC, src, dst netip.Addr, hops uint8, m []byte) []byte {
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], checksum(pseudo(src, dst, of.ProtoICMPv6, len(m)), m))
	return append(ip6(from, to, src, dst, of.ProtoICMPv6, hops, len(m)), m...)
}

func ip6(from, to vnet.MAC, src, dst netip.Addr, proto, hops uint8, n int) []byte {
	b := append(ethernet(to, from, of.EthIPv6, 40+n), 0x60, 0, 0, 0)
	b = append(binary.BigEndian.AppendUint16(b, uint16(n)), proto, hops)
	return append(append(b, src.AsSlice()...), dst.AsSlice()...)
}

func ip4(from, to vnet.MAC, src, dst netip.Addr, proto, ttl uint8, n int) []byte {
	b := append(ethernet(to, from, of.EthIPv4, 20+n), 0x45, 0xc0) // internetwork control (RFC 1812, 4.3.2.5)
	b = binary.BigEndian.AppendUint16(b, uint16(20+n))
	b = append(b, 0, 0, 0, 0, ttl, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[24:], checksum(0, b[14:34]))
	return b
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint32 {
	return sum(sum(uint32(proto)+uint32(n), src.AsSlice()), dst.AsSlice())
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func checksum(s uint32, b []byte) uint16 {
	s = sum(s, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// packet is an IP packet in a frame.
type packet struct {
	from, to vnet.MAC
	src, dst netip.Addr
	proto    uint8
	later    bool   // a fragment that is not the first
	hops     uint8  // TTL or hop limit
	ip       []byte // from the IP header on
	l4       []byte // what follows the headers
}

// parse reads a frame with an IP packet; extension headers of IPv6 are passed
// over (RFC 8200, 4).
func parse(b []byte) (p packet, ok bool) {
	if len(b) < 14 {
		return p, false
	}
	copy(p.to[:], b)
	copy(p.from[:], b[6:])
	typ := binary.BigEndian.Uint16(b[12:])
	p.ip = b[14:]
	switch {
	case typ == of.EthIPv4 && len(p.ip) >= 20:
		n, all := int(p.ip[0]&15)*4, int(binary.BigEndian.Uint16(p.ip[2:]))
		if n < 20 || all < n || all > len(p.ip) {
			return p, false
		}
		p.ip = p.ip[:all]
		p.src, p.dst = netip.AddrFrom4([4]byte(p.ip[12:16])), netip.AddrFrom4([4]byte(p.ip[16:20]))
		p.proto, p.hops, p.l4 = p.ip[9], p.ip[8], p.ip[n:]
		p.later = binary.BigEndian.Uint16(p.ip[6:])&0x1fff != 0
		return p, true
	case typ == of.EthIPv6 && len(p.ip) >= 40:
		all := 40 + int(binary.BigEndian.Uint16(p.ip[4:]))
		if all > len(p.ip) {
			return p, false
		}
		p.ip = p.ip[:all]
		p.src, p.dst = netip.AddrFrom16([16]byte(p.ip[8:24])), netip.AddrFrom16([16]byte(p.ip[24:40]))
		p.proto, p.hops, p.l4 = p.ip[6], p.ip[7], p.ip[40:]
		for {
			switch p.proto {
			case 0, 43, 60: // hop-by-hop, routing, destination options
			case 44: // fragment
				if len(p.l4) >= 8 && binary.BigEndian.Uint16(p.l4[2:])&^7 != 0 {
					p.later = true
				}
			default:
				return p, true
			}
			n := 8
			if len(p.l4) >= 2 && p.proto != 44 {
				n += 8 * int(p.l4[1])
			}
			if len(p.l4) < n {
				return p, false
			}
			p.proto, p.l4 = p.l4[0], p.l4[n:]
		}
	}
	return p, false
}

// complaint is a kind of ICMP error: type and code of both versions.
type complaint struct{ type4, code4, type6, code6 uint8 }

// The errors that routers send: RFC 792, RFC 1812 (5.2.7), RFC 4443.
var (
	ttlExceeded      = complaint{11, 0, 3, 0}
	noRoute          = complaint{3, 0, 1, 0}
	hostUnreachable  = complaint{3, 1, 1, 3}
	portUnreachable  = complaint{3, 3, 1, 4}
	protoUnreachable = complaint{3, 2, 4, 1}
	tooBig           = complaint{3, 4, 2, 0}
)

// answerable reports whether an error about p may be sent at all (RFC 1122,
// 3.2.2; RFC 4443, 2.4 e).
func (p packet) answerable() bool {
	if p.later || !p.src.IsValid() || p.src.IsUnspecified() || p.src.IsMulticast() || p.src.IsLoopback() || p.dst.IsMulticast() || p.to[0]&1 == 1 {
		return false
	}
	if len(p.l4) == 0 {
		return p.proto != of.ProtoICMP && p.proto != of.ProtoICMPv6
	}
	switch {
	case p.proto == of.ProtoICMP && p.src.Is4():
		switch p.l4[0] {
		case 0, 8, 13, 14, 15, 16, 17, 18:
		default:
			return false
		}
	case p.proto == of.ProtoICMPv6 && p.src.Is6():
		return p.l4[0] >= 128 && p.l4[0] != 137
	}
	return true
}

// complain is the error about p from own, to whom it came from.
func complain(p packet, own netip.Addr, c complaint, mtu int) []byte {
	if !p.answerable() || !own.IsValid() || own.Is4() != p.src.Is4() {
		return nil
	}
	if own.Is4() {
		quoted := p.ip[:min(len(p.ip), 548)] // 576 bytes in all (RFC 1812, 4.3.2.3)
		m := binary.BigEndian.AppendUint32([]byte{c.type4, c.code4, 0, 0}, uint32(mtu))
		m = append(m, quoted...)
		binary.BigEndian.PutUint16(m[2:], checksum(0, m))
		return append(ip4(p.to, p.from, own, p.src, of.ProtoICMP, 64, len(m)), m...)
	}
	quoted := p.ip[:min(len(p.ip), 1280-48)] // RFC 4443, 2.4 c
	m := binary.BigEndian.AppendUint32([]byte{c.type6, c.code6, 0, 0}, uint32(mtu))
	return icmp6(p.to, p.from, own, p.src, 64, append(m, quoted...))
}

// reset is the answer to a TCP segment that nobody takes (RFC 9293, 3.10.7.1).
func reset(p packet) []byte {
	if p.later || len(p.l4) < 20 || p.l4[13]&of.TCPRst != 0 {
		return nil
	}
	t := make([]byte, 20)
	copy(t, p.l4[2:4])
	copy(t[2:], p.l4[:2])
	t[12], t[13] = 5<<4, of.TCPRst
	if p.l4[13]&of.TCPAck != 0 {
		copy(t[4:8], p.l4[8:12])
	} else {
		n := uint32(max(0, len(p.l4)-int(p.l4[12]>>4)*4))
		n += uint32(p.l4[13]&of.TCPFin) + uint32(p.l4[13]&of.TCPSyn)>>1
		binary.BigEndian.PutUint32(t[8:], binary.BigEndian.Uint32(p.l4[4:])+n)
		t[13] |= of.TCPAck
	}
	binary.BigEndian.PutUint16(t[16:], checksum(pseudo(p.dst, p.src, of.ProtoTCP, len(t)), t))
	if p.src.Is4() {
		return append(ip4(p.to, p.from, p.dst, p.src, of.ProtoTCP, 64, len(t)), t...)
	}
	return append(ip6(p.to, p.from, p.dst, p.src, of.ProtoTCP, 64, len(t)), t...)
}

// untranslate gives an IPv4 packet the destination again that it came with.
func untranslate(p packet, dst netip.Addr, port uint16) packet {
	ip := append([]byte(nil), p.ip...)
	head := len(p.ip) - len(p.l4)
	l4 := ip[head:]
	binary.BigEndian.PutUint16(ip[10:], 0)
	was := p.dst
	copy(ip[16:20], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:head]))
	at := map[uint8]int{of.ProtoTCP: 16, of.ProtoUDP: 6}[p.proto]
	if at != 0 && !p.later && len(l4) >= at+2 {
		old := append(was.AsSlice(), l4[2:4]...)
		if port != 0 {
			binary.BigEndian.PutUint16(l4[2:], port)
		}
		now := append(dst.AsSlice(), l4[2:4]...)
		if c := binary.BigEndian.Uint16(l4[at:]); c != 0 || p.proto == of.ProtoTCP {
			s := uint32(^c)
			for i := 0; i < len(old); i += 2 { // RFC 1624, equation 3
				s += uint32(^binary.BigEndian.Uint16(old[i:])) + uint32(binary.BigEndian.Uint16(now[i:]))
			}
			for s > 0xffff {
				s = s>>16 + s&0xffff
			}
			binary.BigEndian.PutUint16(l4[at:], ^uint16(s))
		}
	}
	p.dst, p.ip, p.l4 = dst, ip, l4
	return p
}
