package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// packetSocket opens a raw AF_PACKET socket bound to dev in the namespace.
func (n *NS) packetSocket(dev string, proto uint16) (fd int, err error) {
	err = n.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return fmt.Errorf("device %s in %s: %w", dev, n.Name, err)
		}
		// Protocol 0 until bound, so that nothing of other devices is queued.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
		if proto == unix.ETH_P_ALL {
			mr := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
			if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mr); err != nil {
				unix.Close(fd)
				return err
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: ifi.Index}); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})
	return fd, err
}

// Inject puts a frame on the wire as if the namespace's stack had sent it by dev.
func (n *NS) Inject(dev string, frame []byte) {
	n.l.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		n.l.must(errGone)
	}
	fd, ok := n.inject[dev]
	if !ok {
		var err error
		fd, err = n.packetSocket(dev, 0)
		n.l.must(err)
		n.inject[dev] = fd
	}
	if len(frame) < 60 { // Ethernet's least length without checksum
		frame = append(append([]byte(nil), frame...), make([]byte, 60-len(frame))...)
	}
	if _, err := unix.Write(fd, frame); err != nil {
		// The device may have been made again under the same name.
		unix.Close(fd)
		delete(n.inject, dev)
		fd, err2 := n.packetSocket(dev, 0)
		n.l.must(err2)
		n.inject[dev] = fd
		if _, err := unix.Write(fd, frame); err != nil {
			n.l.t.Fatalf("lab: send on %s in %s: %v", dev, n.Name, err)
		}
	}
}

// Capture is a recording of the frames that arrive at a device.
type Capture struct {
	n    *NS
	dev  string
	fd   int
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	signal chan struct{} // closed and replaced when a frame comes
	closed bool
}

// Capture starts recording what arrives at dev (not what it sends); the
// namespace's own stack sees the frames too.
func (n *NS) Capture(dev string) *Capture { n.l.t.Helper(); return n.capture(dev, false) }

// CaptureBoth is [NS.Capture] of what dev sends as well.
func (n *NS) CaptureBoth(dev string) *Capture { n.l.t.Helper(); return n.capture(dev, true) }

func (n *NS) capture(dev string, both bool) *Capture {
	n.l.t.Helper()
	fd, err := n.packetSocket(dev, unix.ETH_P_ALL)
	n.l.must(err)
	tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
	n.l.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	c := &Capture{n: n, dev: dev, fd: fd, done: make(chan struct{}), signal: make(chan struct{})}
	n.mu.Lock()
	n.caps = append(n.caps, c)
	n.mu.Unlock()
	go c.loop(both)
	return c
}

func (c *Capture) loop(both bool) {
	defer close(c.done)
	buf := make([]byte, 70000)
	oob := make([]byte, 256)
	for {
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			unix.Close(c.fd)
			return
		}
		num, oobn, _, from, err := unix.Recvmsg(c.fd, buf, oob, 0)
		if err != nil {
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			time.Sleep(5 * time.Millisecond) // ENETDOWN: the device went away or down
			continue
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING && !both {
			continue
		}
		f, err := ParseFrame(buf[:num])
		if err != nil {
			continue
		}
		if tci, ok := vlanOf(oob[:oobn]); ok {
			f.VLAN = tci & 0xfff
		}
		f.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		f.When = time.Now()
		c.mu.Lock()
		c.frames = append(c.frames, f)
		close(c.signal)
		c.signal = make(chan struct{})
		c.mu.Unlock()
	}
}

// vlanOf finds the VLAN tag that the kernel took off a frame (struct tpacket_auxdata, packet(7)).
func vlanOf(oob []byte) (uint16, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 {
			if binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				return binary.NativeEndian.Uint16(m.Data[16:]), true
			}
		}
	}
	return 0, false
}

// Frames returns what has been recorded so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Frame(nil), c.frames...)
}

// Reset forgets what has been recorded.
func (c *Capture) Reset() {
	c.mu.Lock()
	c.frames = nil
	c.mu.Unlock()
}

// Find returns the first recorded or coming frame that matches within d.
func (c *Capture) Find(d time.Duration, match func(Frame) bool) (Frame, bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	seen := 0
	for {
		c.mu.Lock()
		frames, signal := c.frames, c.signal
		c.mu.Unlock()
		if seen > len(frames) {
			seen = 0
		}
		for ; seen < len(frames); seen++ {
			if match(frames[seen]) {
				return frames[seen], true
			}
		}
		select {
		case <-signal:
		case <-timer.C:
			return Frame{}, false
		}
	}
}

// Wait is [Capture.Find] within [Patience] of d that fails the test when no
// frame matches.
func (c *Capture) Wait(d time.Duration, match func(Frame) bool) Frame {
	c.n.l.t.Helper()
	d = Patience(d)
	f, ok := c.Find(d, match)
	if !ok {
		c.n.l.t.Fatalf("lab: no matching frame at %s in %s within %v; seen: %v", c.dev, c.n.Short, d, c.Frames())
	}
	return f
}

// None fails the test when a frame that matches is recorded or comes within d.
func (c *Capture) None(d time.Duration, match func(Frame) bool) {
	c.n.l.t.Helper()
	if f, ok := c.Find(d, match); ok {
		c.n.l.t.Fatalf("lab: unexpected frame at %s in %s: %v", c.dev, c.n.Short, f)
	}
}

// Close ends the recording.
func (c *Capture) Close() {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if !was {
		<-c.done
	}
}
