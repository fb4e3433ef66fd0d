package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Offer is how much a [Flow] sends.
type Offer struct {
	// Frame is the size of its frames in bytes, of Ethernet without the
	// checksum. Zero: 1400.
	Frame int
	// PPS or Kbps is the steady rate, one of them.
	PPS  int
	Kbps int
	// TOS is the second byte of the IP header that frames are sent with.
	TOS int
}

// Flow is UDP from one machine to another at a steady rate, which is kept up
// over pauses of the sender.
type Flow struct {
	o     Offer
	sent  atomic.Uint64
	from  *net.UDPConn
	to    *net.UDPConn
	stop  chan struct{}
	done  sync.WaitGroup
	began time.Time

	mu      sync.Mutex
	packets uint64
	tos     int // of the last one received
}

// Send starts a flow from a machine to an address of another, which listens.
// It ends with the test, or by Stop.
func (n *NS) Send(to *NS, dst string, o Offer) *Flow {
	n.l.t.Helper()
	addr := netip.MustParseAddr(dst)
	header := 14 + 20 + 8
	network := "udp4"
	if addr.Is6() {
		header, network = 14+40+8, "udp6"
	}
	if o.Frame == 0 {
		o.Frame = 1400
	}
	if o.PPS == 0 {
		o.PPS = max(1, o.Kbps*1000/8/o.Frame)
	}
	f := &Flow{o: o, stop: make(chan struct{}), tos: -1}
	n.l.must(to.Do(func() (err error) {
		f.to, err = net.ListenUDP(network, nil)
		return err
	}))
	n.l.must(f.to.SetReadBuffer(16 << 20))
	port := uint16(f.to.LocalAddr().(*net.UDPAddr).Port)
	n.l.must(n.Do(func() (err error) {
		f.from, err = net.DialUDP(network, nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		return err
	}))
	f.from.SetWriteBuffer(4 << 20)
	if o.TOS > 0 {
		if addr.Is6() {
			n.l.must(ipv6.NewConn(f.from).SetTrafficClass(o.TOS))
		} else {
			n.l.must(ipv4.NewConn(f.from).SetTOS(o.TOS))
		}
	}
	n.l.must(receiveMarks(f.to, addr.Is6()))
	f.done.Go(f.receive)
	f.began = time.Now()
	f.done.Go(func() { f.send(o.Frame - header) })
	n.l.t.Cleanup(f.Stop)
	return f
}

func (f *Flow) send(payload int) {
	b := make([]byte, payload)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for sent := uint64(0); ; {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		due := uint64(time.Since(began).Seconds() * float64(f.o.PPS))
		for ; sent < due; sent++ {
			select {
			case <-f.stop: // a full queue has kept it behind
				return
			default:
			}
			f.from.Write(b)
			f.sent.Add(1)
		}
	}
}

// receive counts what arrives, and reads how it is marked.
func (f *Flow) receive() {
	b, oob := make([]byte, 2048), make([]byte, 128)
	for {
		_, n, _, _, err := f.to.ReadMsgUDP(b, oob)
		if err != nil {
			return
		}
		tos := mark(oob[:n])
		f.mu.Lock()
		f.packets++
		if tos >= 0 {
			f.tos = tos
		}
		f.mu.Unlock()
	}
}

// mark is the TOS or traffic class among control messages (ip(7), ipv6(7)).
func mark(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) > 0:
			return int(m.Data[0])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS && len(m.Data) >= 4:
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return -1
}

// receiveMarks has the kernel tell how packets are marked.
func receiveMarks(c *net.UDPConn, v6 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVTOS
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, set)
}

// Stop ends the flow, and returns when what was under way has had time to arrive.
func (f *Flow) Stop() {
	f.mu.Lock()
	select {
	case <-f.stop:
		f.mu.Unlock()
		f.done.Wait()
		return
	default:
	}
	close(f.stop)
	f.mu.Unlock()
	f.to.SetReadDeadline(time.Now().Add(Patience(300 * time.Millisecond)))
	f.done.Wait()
	f.from.Close()
	f.to.Close()
}

// Sent is how many frames have been sent.
func (f *Flow) Sent() uint64 { return f.sent.Load() }

// Received is how many frames have arrived.
func (f *Flow) Received() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.packets
}

// TOS is the second byte of the IP header of the frame that arrived last; -1: none.
func (f *Flow) TOS() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tos
}

// Rate is what happened to a flow for a while.
type Rate struct {
	Kbps, PPS          float64 // what arrived
	OfferKbps, OfferPP float64 // what was sent
	Sent, Received     uint64
}

func (r Rate) String() string {
	return fmt.Sprintf("%.0f kbit/s, %.0f packets/s of %.0f kbit/s, %.0f packets/s", r.Kbps, r.PPS, r.OfferKbps, r.OfferPP)
}

// Measure waits for d and says what arrived meanwhile.
func (f *Flow) Measure(d time.Duration) Rate {
	t0, s0, r0 := time.Now(), f.Sent(), f.Received()
	time.Sleep(d)
	s, r, in := f.Sent()-s0, f.Received()-r0, time.Since(t0).Seconds()
	bits := float64(f.o.Frame) * 8 / 1000
	return Rate{Kbps: float64(r) * bits / in, PPS: float64(r) / in, OfferKbps: float64(s) * bits / in, OfferPP: float64(s) / in, Sent: s, Received: r}
}
