package engine

import (
	"encoding/binary"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
)

const (
	ethLen  = 14
	ip4Len  = 20
	ip6Len  = 40
	udpLen  = 8
	typeIP4 = 0x0800
	typeARP = 0x0806
	typeIP6 = 0x86dd

	protoUDP    = 17
	protoICMPv6 = 58
	ndSolicit   = 135
	ndAdvert    = 136
)

type kind int

const (
	other kind = iota
	arpRequest
	solicitation
	dhcp4
	dhcp6
)

// frame is what of a received frame is looked at.
type frame struct {
	kind   kind
	packet dhcpwire.Packet // of DHCP; MAC of all
	sender netip.Addr      // ARP, ND: who asks
	target netip.Addr      // ARP, ND: for what
}

// parse reads a frame that the filter let pass. Checksums are not looked at:
// on virtual links they are often not filled in yet, and nothing damages
// frames there; on real links the device has checked them.
func parse(b []byte) (f frame) {
	if len(b) < ethLen {
		return
	}
	f.packet.MAC = vnet.MAC(b[6:12])
	p := b[ethLen:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case typeARP:
		// RFC 826: Ethernet, IPv4, request; the sender is who sent the frame.
		if len(p) < 28 || binary.BigEndian.Uint64(p) != 0x0001_0800_06_04_0001 || vnet.MAC(p[8:14]) != f.packet.MAC {
			return
		}
		f.kind, f.sender, f.target = arpRequest, netip.AddrFrom4([4]byte(p[14:])), netip.AddrFrom4([4]byte(p[24:]))
	case typeIP4:
		if len(p) < ip4Len || p[0]>>4 != 4 || p[9] != protoUDP {
			return
		}
		hl, total := int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
		if hl < ip4Len || total < hl || total > len(p) {
			return
		}
		if f.udp(p[hl:total], netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))) {
			f.kind = dhcp4
		}
	case typeIP6:
		if len(p) < ip6Len || p[0]>>4 != 6 {
			return
		}
		total := ip6Len + int(binary.BigEndian.Uint16(p[4:]))
		if total > len(p) {
			return
		}
		src, dst := netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
		body := p[ip6Len:total]
		switch p[6] {
		case protoUDP:
			if f.udp(body, src, dst) {
				f.kind = dhcp6
			}
		case protoICMPv6:
			// RFC 4861, 7.1.1: hop limit 255 shows that it comes from the link.
			if len(body) >= 24 && body[0] == ndSolicit && body[1] == 0 && p[7] == 255 {
				f.kind, f.sender, f.target = solicitation, src, netip.AddrFrom16([16]byte(body[8:]))
			}
		}
	}
	return
}

func (f *frame) udp(b []byte, src, dst netip.Addr) bool {
	if len(b) < udpLen {
		return false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < udpLen || n > len(b) {
		return false
	}
	f.packet.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	f.packet.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	f.packet.Payload = b[udpLen:n]
	return true
}

// giaddr returns the relay address of a DHCPv4 message, and its client.
func giaddr(b []byte) (netip.Addr, vnet.MAC) {
	if len(b) < 34 {
		return netip.Addr{}, vnet.MAC{}
	}
	return netip.AddrFrom4([4]byte(b[24:28])), vnet.MAC(b[28:34])
}

func ethernet(b []byte, dst, src vnet.MAC, typ uint16) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return binary.BigEndian.AppendUint16(b, typ)
}

// datagram appends a whole frame with the reply to b.
func datagram(b []byte, from vnet.MAC, r dhcpwire.Result) []byte {
	n := udpLen + len(r.Payload)
	src, dst := r.Src.Addr(), r.Dst.Addr()
	var sum uint32
	if src.Is4() {
		b = ethernet(b, r.MAC, from, typeIP4)
		at := len(b)
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ip4Len+n))
		b = append(b, 0, 0, 0x40, 0, 64, protoUDP, 0, 0) // do not fragment
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[at+10:], checksum(0, b[at:at+ip4Len]))
		sum = add(uint32(protoUDP)+uint32(n), b[at+12:at+ip4Len])
	} else {
		b = ethernet(b, r.MAC, from, typeIP6)
		at := len(b)
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
		b = append(b, protoUDP, 64)
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		sum = add(uint32(protoUDP)+uint32(n), b[at+8:at+ip6Len])
	}
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, r.Src.Port())
	b = binary.BigEndian.AppendUint16(b, r.Dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, 0, 0)
	b = append(b, r.Payload...)
	c := checksum(sum, b[at:])
	if c == 0 {
		c = 0xffff // RFC 768: zero means none
	}
	binary.BigEndian.PutUint16(b[at+6:], c)
	return b
}

// arpReply appends the answer to f: that f's target is at mac.
func arpReply(b []byte, mac vnet.MAC, f frame) []byte {
	b = ethernet(b, f.packet.MAC, mac, typeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 2)
	b = append(b, mac[:]...)
	b = append(b, f.target.AsSlice()...)
	b = append(b, f.packet.MAC[:]...)
	return append(b, f.sender.AsSlice()...)
}

// advertisement appends the neighbour advertisement that answers f (RFC 4861,
// 7.2.4): to all nodes when the asker has no address yet.
func advertisement(b []byte, mac vnet.MAC, f frame) []byte {
	dst, flags := f.sender, byte(0x60) // solicited, override
	to := f.packet.MAC
	if dst.IsUnspecified() {
		dst, flags, to = netip.IPv6LinkLocalAllNodes(), 0x20, vnet.MAC{0x33, 0x33, 0, 0, 0, 1}
	}
	b = ethernet(b, to, mac, typeIP6)
	at := len(b)
	b = append(b, 0x60, 0, 0, 0, 0, 32, protoICMPv6, 255)
	b = append(b, f.target.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	sum := add(protoICMPv6+32, b[at+8:at+ip6Len])
	at = len(b)
	b = append(b, ndAdvert, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, f.target.AsSlice()...)
	b = append(b, 2, 1) // target link-layer address
	b = append(b, mac[:]...)
	binary.BigEndian.PutUint16(b[at+2:], checksum(sum, b[at:]))
	return b
}

func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// checksum is the Internet checksum (RFC 1071) of b, going on from sum.
func checksum(sum uint32, b []byte) uint16 {
	sum = add(sum, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
