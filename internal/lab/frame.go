package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
)

// IP protocol numbers and Ethernet types that tests name.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132

	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd
	EtherVLAN = 0x8100
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Frame is an Ethernet frame in the fields tests care about. The IP version
// follows from Src.
type Frame struct {
	SrcMAC, DstMAC vnet.MAC
	VLAN           uint16 // 802.1Q id, 0 for none
	EtherType      uint16 // zero: from Src, or ARP
	Src, Dst       netip.Addr
	TTL            uint8 // zero: 64, and 255 for neighbour discovery
	Proto          uint8
	SrcPort        uint16
	DstPort        uint16
	Flags          uint8 // TCP
	Seq, Ack       uint32
	ICMPType       uint8
	ICMPCode       uint8
	ICMPID         uint16 // echo; MTU of a packet-too-big goes to ICMPSeq
	ICMPSeq        uint16
	Target         netip.Addr // of NS (135) and NA (136)
	LinkAddr       vnet.MAC   // source (NS) or target (NA) link-layer address option
	NAFlags        uint8      // 0x80 router, 0x40 solicited, 0x20 override
	ARP            *ARP
	Payload        []byte // of UDP, TCP, ICMP echo and errors, or of any other protocol

	Outgoing bool      // seen by CaptureBoth as sent
	When     time.Time // when it was seen
}

// ARP is the body of an ARP frame (RFC 826).
type ARP struct {
	Op       uint16 // 1 request, 2 reply
	SHA, THA vnet.MAC
	SPA, TPA netip.Addr
}

// BroadcastMAC is ff:ff:ff:ff:ff:ff.
var BroadcastMAC = vnet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ARPRequest asks who has target.
func ARPRequest(mac vnet.MAC, ip, target netip.Addr) Frame {
	return Frame{SrcMAC: mac, DstMAC: BroadcastMAC, ARP: &ARP{Op: 1, SHA: mac, SPA: ip, TPA: target}}
}

// NeighborSolicitation asks who has target (RFC 4861, 4.3).
func NeighborSolicitation(mac vnet.MAC, ip, target netip.Addr) Frame {
	t := target.As16()
	return Frame{SrcMAC: mac, DstMAC: vnet.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, Src: ip, Proto: ICMPv6, ICMPType: 135,
		Dst:    netip.AddrFrom16([16]byte{0xff, 2, 10: 0, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}),
		Target: target, LinkAddr: mac}
}

// Bytes encodes the frame with right lengths and checksums.
func (f Frame) Bytes() []byte {
	et := f.EtherType
	var body []byte
	switch {
	case f.ARP != nil:
		if et == 0 {
			et = EtherARP
		}
		body = f.ARP.bytes()
	case f.Src.Is4():
		if et == 0 {
			et = EtherIPv4
		}
		body = f.ipv4()
	case f.Src.Is6():
		if et == 0 {
			et = EtherIPv6
		}
		body = f.ipv6()
	default:
		body = f.Payload
	}
	b := append(append([]byte{}, f.DstMAC[:]...), f.SrcMAC[:]...)
	if f.VLAN != 0 {
		b = binary.BigEndian.AppendUint16(b, EtherVLAN)
		b = binary.BigEndian.AppendUint16(b, f.VLAN)
	}
	b = binary.BigEndian.AppendUint16(b, et)
	return append(b, body...)
}

// IPBytes encodes only the IP packet, e.g. as the payload of an ICMP error.
func (f Frame) IPBytes() []byte {
	if f.Src.Is4() {
		return f.ipv4()
	}
	return f.ipv6()
}

func (a *ARP) bytes() []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, a.Op)
	spa, tpa := a.SPA, a.TPA
	if !spa.IsValid() {
		spa = netip.IPv4Unspecified()
	}
	if !tpa.IsValid() {
		tpa = netip.IPv4Unspecified()
	}
	b = append(append(b, a.SHA[:]...), spa.AsSlice()...)
	return append(append(b, a.THA[:]...), tpa.AsSlice()...)
}

func (f Frame) ipv4() []byte {
	l4 := f.transport()
	ttl := f.TTL
	if ttl == 0 {
		ttl = 64
	}
	h := make([]byte, 20)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
	h[8], h[9] = ttl, f.Proto
	copy(h[12:], f.Src.AsSlice())
	copy(h[16:], f.Dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(0, h))
	return append(h, l4...)
}

func (f Frame) ipv6() []byte {
	l4 := f.transport()
	ttl := f.TTL
	if ttl == 0 {
		ttl = 64
		if f.Proto == ICMPv6 && f.ICMPType >= 133 && f.ICMPType <= 137 {
			ttl = 255
		}
	}
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
	h[6], h[7] = f.Proto, ttl
	copy(h[8:], f.Src.AsSlice())
	copy(h[24:], f.Dst.AsSlice())
	return append(h, l4...)
}

func (f Frame) transport() []byte {
	var b []byte
	at := -1 // where the checksum goes
	switch f.Proto {
	case UDP:
		b = make([]byte, 8)
		binary.BigEndian.PutUint16(b[0:], f.SrcPort)
		binary.BigEndian.PutUint16(b[2:], f.DstPort)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(f.Payload)))
		at = 6
	case TCP:
		b = make([]byte, 20)
		binary.BigEndian.PutUint16(b[0:], f.SrcPort)
		binary.BigEndian.PutUint16(b[2:], f.DstPort)
		binary.BigEndian.PutUint32(b[4:], f.Seq)
		binary.BigEndian.PutUint32(b[8:], f.Ack)
		b[12], b[13] = 5<<4, f.Flags
		binary.BigEndian.PutUint16(b[14:], 65535)
		at = 16
	case ICMP, ICMPv6:
		b = make([]byte, 8)
		b[0], b[1] = f.ICMPType, f.ICMPCode
		binary.BigEndian.PutUint16(b[4:], f.ICMPID)
		binary.BigEndian.PutUint16(b[6:], f.ICMPSeq)
		at = 2
		if f.Proto == ICMPv6 && (f.ICMPType == 135 || f.ICMPType == 136) {
			b[4], b[5], b[6], b[7] = f.NAFlags, 0, 0, 0
			if f.Target.IsValid() {
				t := f.Target.As16()
				b = append(b, t[:]...)
			}
			if !f.LinkAddr.IsZero() {
				kind := byte(1)
				if f.ICMPType == 136 {
					kind = 2
				}
				b = append(append(b, kind, 1), f.LinkAddr[:]...)
			}
		}
	}
	b = append(b, f.Payload...)
	if at >= 0 {
		var sum uint32
		if f.Src.Is6() || f.Proto != ICMP {
			sum = pseudo(f.Src, f.Dst, f.Proto, len(b))
		}
		c := checksum(sum, b)
		if c == 0 && f.Proto == UDP {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(b[at:], c)
	}
	return b
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint32 {
	var b []byte
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, 0, 0, 0, proto)
	return add(0, b)
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

func checksum(sum uint32, b []byte) uint16 {
	sum = add(sum, b)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

var errShort = errors.New("frame is cut short")

// ParseFrame decodes what [Frame.Bytes] encodes; unknown protocols leave the
// rest in Payload. IPv6 extension headers are not skipped.
func ParseFrame(b []byte) (Frame, error) {
	var f Frame
	if len(b) < 14 {
		return f, errShort
	}
	copy(f.DstMAC[:], b)
	copy(f.SrcMAC[:], b[6:])
	f.EtherType = binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	if f.EtherType == EtherVLAN && len(b) >= 4 {
		f.VLAN = binary.BigEndian.Uint16(b) & 0xfff
		f.EtherType = binary.BigEndian.Uint16(b[2:])
		b = b[4:]
	}
	switch f.EtherType {
	case EtherARP:
		if len(b) < 28 {
			return f, errShort
		}
		a := &ARP{Op: binary.BigEndian.Uint16(b[6:]), SPA: netip.AddrFrom4([4]byte(b[14:18])), TPA: netip.AddrFrom4([4]byte(b[24:28]))}
		copy(a.SHA[:], b[8:])
		copy(a.THA[:], b[18:])
		f.ARP = a
	case EtherIPv4:
		if len(b) < 20 {
			return f, errShort
		}
		hl, n := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) || n < hl { // offloads may give 0 or more than is here
			n = len(b)
		}
		if hl < 20 || hl > n {
			return f, errShort
		}
		f.Src, f.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		f.TTL, f.Proto = b[8], b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			f.Payload = append([]byte(nil), b[hl:n]...)
			return f, nil
		}
		f.parseTransport(b[hl:n])
	case EtherIPv6:
		if len(b) < 40 {
			return f, errShort
		}
		n := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if n > len(b) {
			n = len(b)
		}
		f.Src, f.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		f.TTL, f.Proto = b[7], b[6]
		f.parseTransport(b[40:n])
	default:
		f.Payload = append([]byte(nil), b...)
	}
	return f, nil
}

func (f *Frame) parseTransport(b []byte) {
	rest := b
	switch {
	case f.Proto == UDP && len(b) >= 8:
		f.SrcPort, f.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		rest = b[8:]
	case f.Proto == TCP && len(b) >= 20:
		f.SrcPort, f.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		f.Seq, f.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		f.Flags = b[13]
		rest = b[min(len(b), int(b[12]>>4)*4):]
	case (f.Proto == ICMP || f.Proto == ICMPv6) && len(b) >= 8:
		f.ICMPType, f.ICMPCode = b[0], b[1]
		f.ICMPID, f.ICMPSeq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		rest = b[8:]
		if f.Proto == ICMPv6 && (f.ICMPType == 135 || f.ICMPType == 136) && len(b) >= 24 {
			f.NAFlags, f.ICMPID, f.ICMPSeq = b[4], 0, 0
			f.Target = netip.AddrFrom16([16]byte(b[8:24]))
			rest = b[24:]
			if len(rest) >= 8 && (rest[0] == 1 || rest[0] == 2) && rest[1] == 1 {
				copy(f.LinkAddr[:], rest[2:8])
				rest = rest[8:]
			}
		}
	}
	f.Payload = append([]byte(nil), rest...)
}

// String is the frame in one line, for messages of failed tests.
func (f Frame) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v>%v", f.SrcMAC, f.DstMAC)
	if f.VLAN != 0 {
		fmt.Fprintf(&b, " vlan %d", f.VLAN)
	}
	switch {
	case f.ARP != nil:
		fmt.Fprintf(&b, " arp op %d %v %v -> %v %v", f.ARP.Op, f.ARP.SHA, f.ARP.SPA, f.ARP.THA, f.ARP.TPA)
	case f.Src.IsValid():
		fmt.Fprintf(&b, " %v>%v ttl %d", f.Src, f.Dst, f.TTL)
		switch f.Proto {
		case UDP:
			fmt.Fprintf(&b, " udp %d>%d", f.SrcPort, f.DstPort)
		case TCP:
			fmt.Fprintf(&b, " tcp %d>%d flags %#x", f.SrcPort, f.DstPort, f.Flags)
		case ICMP, ICMPv6:
			fmt.Fprintf(&b, " icmp %d/%d", f.ICMPType, f.ICMPCode)
			if f.Target.IsValid() {
				fmt.Fprintf(&b, " target %v", f.Target)
			}
		default:
			fmt.Fprintf(&b, " proto %d", f.Proto)
		}
	default:
		fmt.Fprintf(&b, " type %#04x", f.EtherType)
	}
	return b.String()
}
