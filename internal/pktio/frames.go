package pktio

import (
	"encoding/binary"
	"net/netip"

	"github.com/vnet-go/vnet"
)

// ARPMessage is an ARP packet for IPv4 over Ethernet (RFC 826).
type ARPMessage struct {
	Op                   uint16 // 1 request, 2 reply
	SenderMAC, TargetMAC vnet.MAC
	SenderIP, TargetIP   netip.Addr
}

func broadcast() vnet.MAC { return vnet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

func ethernet(dst, src vnet.MAC, typ uint16) []byte {
	b := make([]byte, 0, 90)
	b = append(append(b, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(b, typ)
}

// Frame is the message in a frame to dst.
func (m ARPMessage) Frame(dst vnet.MAC) []byte {
	b := ethernet(dst, m.SenderMAC, ARP)
	b = append(b, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, lengths of their addresses
	b = binary.BigEndian.AppendUint16(b, m.Op)
	b = append(b, m.SenderMAC[:]...)
	b = append(b, four(m.SenderIP)...)
	b = append(b, m.TargetMAC[:]...)
	return append(b, four(m.TargetIP)...)
}

func four(a netip.Addr) []byte {
	if !a.Is4() {
		return make([]byte, 4)
	}
	return a.AsSlice()
}

// ParseARP reads the ARP message of an untagged Ethernet frame.
func ParseARP(frame []byte) (ARPMessage, bool) {
	if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != ARP {
		return ARPMessage{}, false
	}
	b := frame[14:]
	if [6]byte(b[:6]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return ARPMessage{}, false
	}
	return ARPMessage{
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: vnet.MAC(b[8:14]), SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: vnet.MAC(b[18:24]), TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
	}, true
}

// GratuitousARP is the broadcast that tells everybody that ip is at mac (an
// ARP Announcement: RFC 5227, section 1.1).
func GratuitousARP(mac vnet.MAC, ip netip.Addr) []byte {
	return ARPMessage{Op: 1, SenderMAC: mac, SenderIP: ip, TargetIP: ip}.Frame(broadcast())
}

// ARPReply tells targetMAC, who asked as targetIP, that ip is at mac.
func ARPReply(mac vnet.MAC, ip netip.Addr, targetMAC vnet.MAC, targetIP netip.Addr) []byte {
	return ARPMessage{Op: 2, SenderMAC: mac, SenderIP: ip, TargetMAC: targetMAC, TargetIP: targetIP}.Frame(targetMAC)
}

// UnsolicitedNA is the neighbour advertisement to all nodes that tells that ip
// is at mac, with the override flag (RFC 4861, section 7.2.6). router sets the
// flag of a router. Its source is ip itself.
func UnsolicitedNA(mac vnet.MAC, ip netip.Addr, router bool) []byte {
	return advertisement(mac, ip, vnet.MAC{0x33, 0x33, 0, 0, 0, 1}, allNodes(), router, false)
}

// AnswerNS is the neighbour advertisement that answers the neighbour
// solicitation in a frame: its target is at mac (RFC 4861, section 7.2.4; to
// all nodes when who asks has no address yet). It reports whether the frame is
// a solicitation from the link, of a unicast address.
func AnswerNS(frame []byte, mac vnet.MAC, router bool) ([]byte, bool) {
	const eth, ip6 = 14, 40
	if len(frame) < eth+ip6+24 || binary.BigEndian.Uint16(frame[12:]) != IPv6 {
		return nil, false
	}
	h, p := frame[eth:], frame[eth+ip6:]
	if h[0]>>4 != 6 || h[6] != 58 || h[7] != 255 || p[0] != 135 || p[1] != 0 {
		return nil, false
	}
	src, target := netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(p[8:]))
	if target.IsMulticast() || target.IsUnspecified() || src.IsMulticast() {
		return nil, false
	}
	if src.IsUnspecified() {
		return advertisement(mac, target, vnet.MAC{0x33, 0x33, 0, 0, 0, 1}, allNodes(), router, false), true
	}
	return advertisement(mac, target, vnet.MAC(frame[6:12]), src, router, true), true
}

func allNodes() netip.Addr { return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1}) } // ff02::1

func advertisement(mac vnet.MAC, ip netip.Addr, to vnet.MAC, dst netip.Addr, router, solicited bool) []byte {
	flags := byte(0x20) // override
	if router {
		flags |= 0x80
	}
	if solicited {
		flags |= 0x40
	}
	p := []byte{136, 0, 0, 0, flags, 0, 0, 0} // type, code, checksum
	p = append(p, ip.AsSlice()...)
	p = append(p, 2, 1) // target link-layer address, 8 bytes
	p = append(p, mac[:]...)
	binary.BigEndian.PutUint16(p[2:], checksum(ip, dst, 58, p))

	b := ethernet(to, mac, IPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	b = append(b, 58, 255) // ICMPv6, the hop limit that ND wants
	b = append(b, ip.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, p...)
}

// checksum is that of a transport packet with the IPv6 pseudo-header (RFC
// 8200, section 8.1).
func checksum(src, dst netip.Addr, proto uint8, p []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	sum += uint32(len(p)) + uint32(proto)
	add(p)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Announce returns the frame that announces ip at mac, for its family.
func Announce(mac vnet.MAC, ip netip.Addr, router bool) []byte {
	if ip.Is4() {
		return GratuitousARP(mac, ip)
	}
	return UnsolicitedNA(mac, ip, router)
}
