package whole

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/pktio"
)

// machine is a port's or station's: it answers ARP and neighbour
// solicitations, and notes what comes to it.
type machine struct {
	*lab.NS
	id   string
	name string // id, and whose
	ear  *ear
	conn *pktio.Conn // nil: it is not plugged

	mu         sync.Mutex
	mac        vnet.MAC
	ips        []netip.Addr
	neighbours map[netip.Addr]vnet.MAC
}

func (m *machine) station() bool { return strings.HasPrefix(m.id, "s") }

// plugged looks at eth0, which may have come, gone, or come again.
func (m *machine) plugged() error {
	index := 0
	err := m.Do(func() error {
		if d, err := net.InterfaceByName("eth0"); err == nil {
			index = d.Index
		}
		return nil
	})
	if err != nil || m.conn != nil && m.conn.Index() == index {
		return err
	}
	m.unplugged()
	if index == 0 {
		return nil
	}
	m.Up("eth0")
	if m.conn, err = pktio.Open(m, "eth0", &pktio.Options{RcvBuffer: 16 << 20}); err == nil {
		go m.listen(m.conn)
	}
	return err
}

func (m *machine) unplugged() {
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// become gives the machine its MAC and addresses; it forgets its neighbours.
func (m *machine) become(mac vnet.MAC, ips []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mac, m.ips, m.neighbours = mac, append(slices.Clone(ips), mac.LinkLocal()), map[netip.Addr]vnet.MAC{}
}

func (m *machine) hardware() vnet.MAC {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mac
}

func (m *machine) neighbour(a netip.Addr) (vnet.MAC, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mac, ok := m.neighbours[a]
	return mac, ok
}

// send sends a frame. What cannot be sent, as by a machine whose port is gone,
// does not arrive, which is what is looked at.
func (m *machine) send(f lab.Frame) {
	if b := f.Bytes(); m.conn != nil {
		_ = m.conn.Send(append(b, make([]byte, max(0, 60-len(b)))...))
	}
}

// announce tells the network what the machine has, as machines do that come
// to it.
func (m *machine) announce() {
	for _, own := range m.ips {
		f := lab.ARPRequest(m.mac, own, own)
		if own.Is6() {
			f = lab.Frame{SrcMAC: m.mac, DstMAC: vnet.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: own, Dst: netip.IPv6LinkLocalAllNodes(), Proto: lab.ICMPv6, ICMPType: 136,
				Target: own, LinkAddr: m.mac, NAFlags: 0x20}
		}
		m.send(f)
	}
}

// ask asks who has an address.
func (m *machine) ask(hop netip.Addr) {
	for _, own := range m.ips {
		switch {
		case own.Is4() != hop.Is4():
			continue
		case own.Is4():
			m.send(lab.ARPRequest(m.mac, own, hop))
		default:
			m.send(lab.NeighborSolicitation(m.mac, own, hop))
		}
		return
	}
}

func (m *machine) listen(c *pktio.Conn) {
	reply := func(f lab.Frame) {
		b := f.Bytes()
		_ = c.Send(append(b, make([]byte, max(0, 60-len(b)))...))
	}
	buf := make([]byte, 9000)
	for {
		n, err := c.Receive(context.Background(), buf)
		if err == net.ErrClosed {
			return
		}
		if err != nil { // the device went down, or away
			time.Sleep(5 * time.Millisecond)
			continue
		}
		f, err := lab.ParseFrame(buf[:n])
		if err != nil {
			continue
		}
		m.mu.Lock()
		switch mine := f.DstMAC == m.mac; {
		case f.ARP != nil && f.ARP.Op == 1 && slices.Contains(m.ips, f.ARP.TPA):
			reply(lab.Frame{SrcMAC: m.mac, DstMAC: f.ARP.SHA, ARP: &lab.ARP{Op: 2, SHA: m.mac, SPA: f.ARP.TPA, THA: f.ARP.SHA, TPA: f.ARP.SPA}})
		case f.ARP != nil && f.ARP.Op == 2 && mine:
			m.neighbours[f.ARP.SPA] = f.ARP.SHA
		case f.Proto == lab.ICMPv6 && f.ICMPType == 135 && slices.Contains(m.ips, f.Target):
			reply(lab.Frame{SrcMAC: m.mac, DstMAC: f.SrcMAC, Src: f.Target, Dst: f.Src, Proto: lab.ICMPv6, ICMPType: 136, Target: f.Target, LinkAddr: m.mac, NAFlags: 0x60})
		case f.Proto == lab.ICMPv6 && f.ICMPType == 136 && mine:
			m.neighbours[f.Target] = f.LinkAddr
		case mine:
			m.ear.hear(m.name, f)
		}
		m.mu.Unlock()
	}
}

// ear is what all machines have heard, by tag.
type ear struct {
	mu   sync.Mutex
	seen map[uint32][]sighting
}

// sighting is a frame that came to a machine, and what it quotes if it is an
// ICMP error.
type sighting struct {
	at     string
	frame  lab.Frame
	quoted *lab.Frame
}

func (e *ear) hear(at string, f lab.Frame) {
	if tag, quoted := tagOf(f); tag != 0 {
		e.mu.Lock()
		e.seen[tag] = append(e.seen[tag], sighting{at, f, quoted})
		e.mu.Unlock()
	}
}

func (e *ear) heard(tag uint32) []sighting {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.seen[tag])
}

func (e *ear) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = map[uint32][]sighting{}
}

// tags tell frames apart, those of several owners too.
var tags atomic.Uint32

const mark = "whole cloud"

// payload is begun by four zeros, a GRE header that says nothing.
func payload(tag uint32) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 4), tag), mark...)
}

// tagOf is the tag of a frame, and of an ICMP error what it quotes. Errors
// that are not made here have none.
func tagOf(f lab.Frame) (tag uint32, quoted *lab.Frame) {
	if f.Proto == lab.ICMP && f.ICMPType != 8 && f.ICMPType != 0 || f.Proto == lab.ICMPv6 && f.ICMPType < 128 {
		q, err := lab.ParseFrame(lab.Frame{EtherType: f.EtherType, Payload: f.Payload}.Bytes())
		if err != nil {
			return 0, nil
		}
		return uint32(f.ICMPID)<<16 | uint32(f.ICMPSeq), &q
	}
	if b := f.Payload; len(b) >= 8+len(mark) && string(b[8:8+len(mark)]) == mark {
		return binary.BigEndian.Uint32(b[4:]), nil
	}
	return 0, nil
}
