package dhcptest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
)

// What follows writes and reads DHCP byte by byte from the RFCs, apart from
// any codec that a server may use.

// Message types of RFC 2132, 9.6.
const (
	discover = 1
	offer    = 2
	request  = 3
	decline  = 4
	ack      = 5
	nak      = 6
	release  = 7
	inform   = 8
)

type opt4 struct {
	code byte
	data []byte
}

// message4 is a DHCPv4 message.
type message4 struct {
	op, htype, hlen, hops          byte
	xid                            uint32
	flags                          uint16
	ciaddr, yiaddr, siaddr, giaddr netip.Addr
	chaddr                         vnet.MAC
	file                           string
	typ                            byte
	opts                           []opt4 // in their order, without type
}

func (m message4) bytes() []byte {
	b := make([]byte, 236)
	b[0], b[1], b[2], b[3] = m.op, 1, 6, m.hops
	binary.BigEndian.PutUint32(b[4:], m.xid)
	binary.BigEndian.PutUint16(b[10:], m.flags)
	for i, a := range []netip.Addr{m.ciaddr, m.yiaddr, m.siaddr, m.giaddr} {
		if a.IsValid() {
			copy(b[12+4*i:], a.AsSlice())
		}
	}
	copy(b[28:], m.chaddr[:])
	b = append(b, 99, 130, 83, 99, 53, 1, m.typ)
	for _, o := range m.opts {
		b = append(b, o.code, byte(len(o.data)))
		b = append(b, o.data...)
	}
	b = append(b, 255)
	for len(b) < 300 {
		b = append(b, 0)
	}
	return b
}

func parse4(b []byte) (m message4, err error) {
	if len(b) < 240 {
		return m, fmt.Errorf("message of %d bytes", len(b))
	}
	if string(b[236:240]) != "\x63\x82\x53\x63" {
		return m, fmt.Errorf("cookie is %x", b[236:240])
	}
	m.op, m.htype, m.hlen, m.hops = b[0], b[1], b[2], b[3]
	m.xid, m.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint16(b[10:])
	for i, a := range []*netip.Addr{&m.ciaddr, &m.yiaddr, &m.siaddr, &m.giaddr} {
		*a = netip.AddrFrom4([4]byte(b[12+4*i:]))
	}
	m.chaddr = vnet.MAC(b[28:34])
	m.file = string(b[108:236][:slices.Index(append(slices.Clone(b[108:236]), 0), 0)])
	for b = b[240:]; ; {
		if len(b) == 0 {
			return m, fmt.Errorf("no end option")
		}
		if b[0] == 255 {
			break
		}
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return m, fmt.Errorf("option %d is cut", b[0])
		}
		o := opt4{b[0], b[2 : 2+int(b[1])]}
		if o.code == 53 {
			m.typ = o.data[0]
		} else {
			m.opts = append(m.opts, o)
		}
		b = b[2+int(b[1]):]
	}
	for _, x := range b[1:] {
		if x != 0 {
			return m, fmt.Errorf("padding after the end option is not zero")
		}
	}
	return m, nil
}

func (m message4) opt(code byte) []byte {
	var out []byte
	for _, o := range m.opts {
		if o.code == code {
			out = append(append([]byte{}, out...), o.data...)
		}
	}
	return out
}

func (m message4) codes() []byte {
	set := map[byte]bool{}
	for _, o := range m.opts {
		set[o.code] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// DHCPv6 message types (RFC 8415, 7.3) and options.
const (
	solicit6    = 1
	advertise6  = 2
	request6    = 3
	confirm6    = 4
	renew6      = 5
	rebind6     = 6
	reply6      = 7
	release6    = 8
	decline6    = 9
	infoReq6    = 11
	relayForw6  = 12
	relayRepl6  = 13
	clientID6   = 1
	serverID6   = 2
	iaNA6       = 3
	iaAddr6     = 5
	oro6        = 6
	relayMsg6   = 9
	status6     = 13
	rapid6      = 14
	interfaceID = 18
)

type opt6 struct {
	code uint16
	data []byte
}

type message6 struct {
	typ  byte
	xid  uint32 // 24 bits
	opts []opt6
}

func options6(opts []opt6) []byte {
	var b []byte
	for _, o := range opts {
		b = binary.BigEndian.AppendUint16(b, o.code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.data)))
		b = append(b, o.data...)
	}
	return b
}

func (m message6) bytes() []byte {
	return append([]byte{m.typ, byte(m.xid >> 16), byte(m.xid >> 8), byte(m.xid)}, options6(m.opts)...)
}

func parseOptions6(b []byte) (out []opt6, err error) {
	for len(b) > 0 {
		if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint16(b[2:])) {
			return nil, fmt.Errorf("options are cut at %x", b)
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		out = append(out, opt6{binary.BigEndian.Uint16(b), b[4 : 4+n]})
		b = b[4+n:]
	}
	return out, nil
}

func parse6(b []byte) (m message6, err error) {
	if len(b) < 4 {
		return m, fmt.Errorf("message of %d bytes", len(b))
	}
	m.typ, m.xid = b[0], uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3])
	m.opts, err = parseOptions6(b[4:])
	return m, err
}

func (m message6) opt(code uint16) []byte {
	for _, o := range m.opts {
		if o.code == code {
			return o.data
		}
	}
	return nil
}

type addr6 struct {
	ip               netip.Addr
	preferred, valid uint32
}

// ia reads the message's first IA_NA.
func (m message6) ia() (t1, t2 uint32, addrs []addr6, status int) {
	status = -1
	b := m.opt(iaNA6)
	if len(b) < 12 {
		return
	}
	t1, t2 = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	opts, _ := parseOptions6(b[12:])
	for _, o := range opts {
		switch {
		case o.code == iaAddr6 && len(o.data) >= 24:
			addrs = append(addrs, addr6{netip.AddrFrom16([16]byte(o.data)), binary.BigEndian.Uint32(o.data[16:]), binary.BigEndian.Uint32(o.data[20:])})
		case o.code == status6 && len(o.data) >= 2:
			status = int(binary.BigEndian.Uint16(o.data))
		}
	}
	return
}

func iaNA(iaid uint32, ips ...netip.Addr) opt6 {
	b := binary.BigEndian.AppendUint32(nil, iaid)
	b = append(b, make([]byte, 8)...)
	var opts []opt6
	for _, ip := range ips {
		opts = append(opts, opt6{iaAddr6, append(ip.AsSlice(), make([]byte, 8)...)})
	}
	return opt6{iaNA6, append(b, options6(opts)...)}
}

// station is a machine on a network that speaks DHCP by raw frames; its
// kernel has no address and does not interfere.
type station struct {
	t   testing.TB
	ns  *lab.NS
	mac vnet.MAC
	cap *lab.Capture
	xid uint32
	// short: refusals may be so, by dhcp.LimitRefusals.
	short bool
}

const device = "eth0"

// wait is how long an answer may take on a busy machine; quiet how long
// silence must last to be believed.
const (
	wait  = 3 * time.Second
	quiet = 150 * time.Millisecond
)

func (s *station) next() uint32 { s.xid++; return s.xid & 0xffffff }

func (s *station) send4(m message4) message4 {
	s.t.Helper()
	return s.send4to(m, lab.BroadcastMAC, netip.IPv4Unspecified(), addr("255.255.255.255"))
}

func (s *station) send4to(m message4, to vnet.MAC, src, dst netip.Addr) message4 {
	s.t.Helper()
	m.op = 1
	if m.chaddr.IsZero() {
		m.chaddr = s.mac
	}
	if m.xid == 0 {
		m.xid = s.next()
	}
	port := uint16(68)
	if m.giaddr.IsValid() {
		port = 67
	}
	s.ns.Inject(device, lab.Frame{SrcMAC: s.mac, DstMAC: to, Src: src, Dst: dst, Proto: lab.UDP, SrcPort: port, DstPort: 67, Payload: m.bytes()}.Bytes())
	return m
}

func isReply4(xid uint32) func(lab.Frame) bool {
	return func(f lab.Frame) bool {
		return f.Proto == lab.UDP && f.SrcPort == 67 && len(f.Payload) > 8 && f.Payload[0] == 2 && binary.BigEndian.Uint32(f.Payload[4:]) == xid
	}
}

// ask4 sends m and returns the reply, checked for what all replies have.
func (s *station) ask4(m message4) (message4, lab.Frame) {
	s.t.Helper()
	return s.reply4(s.send4(m))
}

func (s *station) reply4(sent message4) (message4, lab.Frame) {
	s.t.Helper()
	f, ok := s.cap.Find(wait, isReply4(sent.xid))
	if !ok {
		s.t.Fatalf("no reply to %+v", sent)
	}
	m, err := parse4(f.Payload)
	if err != nil {
		s.t.Fatalf("reply: %v", err)
	}
	if n := len(f.Payload); n < 300 && !(s.short && m.typ == nak) {
		s.t.Fatalf("reply of %d bytes, shorter than BOOTP's 300", n)
	}
	if m.op != 2 || m.htype != 1 || m.hlen != 6 || m.chaddr != sent.chaddr || m.flags&0x7fff != sent.flags&0x7fff {
		s.t.Fatalf("reply's header is not of the request: %+v", m)
	}
	if f.DstMAC != s.mac {
		s.t.Fatalf("the frame goes to %s, not to the client %s", f.DstMAC, s.mac)
	}
	return m, f
}

// silent4 sends m and checks that nobody answers.
func (s *station) silent4(m message4) {
	s.t.Helper()
	if f, ok := s.cap.Find(quiet, isReply4(s.send4(m).xid)); ok {
		s.t.Fatalf("an answer that should not be: %v", f)
	}
}

var allServers6 = addr("ff02::1:2")

// duid is a DUID-LL of the station.
func (s *station) duid() []byte { return append([]byte{0, 3, 0, 1}, s.mac[:]...) }

func (s *station) send6(typ byte, opts ...opt6) uint32 {
	s.t.Helper()
	return s.send6to(vnet.MAC{0x33, 0x33, 0, 1, 0, 2}, allServers6, typ, opts...)
}

func (s *station) send6to(to vnet.MAC, dst netip.Addr, typ byte, opts ...opt6) uint32 {
	s.t.Helper()
	m := message6{typ: typ, xid: s.next(), opts: append([]opt6{{clientID6, s.duid()}, {8, []byte{0, 0}}}, opts...)}
	s.ns.Inject(device, lab.Frame{SrcMAC: s.mac, DstMAC: to, Src: s.mac.LinkLocal(), Dst: dst, Proto: lab.UDP, SrcPort: 546, DstPort: 547, Payload: m.bytes()}.Bytes())
	return m.xid
}

func isReply6(xid uint32) func(lab.Frame) bool {
	return func(f lab.Frame) bool {
		return f.Proto == lab.UDP && f.SrcPort == 547 && len(f.Payload) >= 4 && f.Payload[0] != relayForw6 && binary.BigEndian.Uint32(f.Payload)&0xffffff == xid
	}
}

func (s *station) ask6(typ byte, opts ...opt6) (message6, lab.Frame) {
	s.t.Helper()
	return s.reply6(s.send6(typ, opts...))
}

func (s *station) reply6(xid uint32) (message6, lab.Frame) {
	s.t.Helper()
	f, ok := s.cap.Find(wait, isReply6(xid))
	if !ok {
		s.t.Fatalf("no reply to %x", xid)
	}
	m, err := parse6(f.Payload)
	if err != nil {
		s.t.Fatalf("reply: %v", err)
	}
	if string(m.opt(clientID6)) != string(s.duid()) || len(m.opt(serverID6)) == 0 {
		s.t.Fatalf("reply does not name client and server: %+v", m)
	}
	if f.DstMAC != s.mac || f.DstPort != 546 || f.Dst != s.mac.LinkLocal() || !f.Src.IsLinkLocalUnicast() {
		s.t.Fatalf("reply goes from %s to %s port %d at %s", f.Src, f.Dst, f.DstPort, f.DstMAC)
	}
	return m, f
}

func (s *station) silent6(typ byte, opts ...opt6) {
	s.t.Helper()
	if f, ok := s.cap.Find(quiet, isReply6(s.send6(typ, opts...))); ok {
		s.t.Fatalf("an answer that should not be: %v", f)
	}
}
