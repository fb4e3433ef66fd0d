package linuxdhcp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

const (
	batch   = 64      // frames taken from a socket at once: they share one sync of the lease store
	slot    = 2048    // bytes of a frame's buffer
	rcvSize = 2 << 20 // bytes of the kernel's queue of one network
)

// enterer is a network namespace.
type enterer interface{ Do(func() error) error }

// socket is an AF_PACKET socket on a device. It takes frames in batches,
// which package pktio does not, so that one sync of the lease store and one
// wake-up serve many clients. The kernel's queue is the bound of what waits.
type socket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	mac   vnet.MAC
}

// frames is what a socket gave at once. Networks share a few: one that is
// quiet holds none.
type frames struct {
	n    int
	bufs [batch][slot]byte
	lens [batch]int
}

func (f *frames) frame(i int) []byte { return f.bufs[i][:f.lens[i]] }

// openSocket opens the socket; vnet.ErrNotFound when the device is not there.
func openSocket(ns enterer, device string) (*socket, error) {
	s := &socket{}
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("device %s: %w", device, vnet.ErrNotFound)
		}
		if len(ifi.HardwareAddr) != 6 {
			return fmt.Errorf("device %s is not Ethernet", device)
		}
		s.index, s.mac = ifi.Index, vnet.MAC(ifi.HardwareAddr)
		// Protocol 0 until bound: nothing of other devices is queued.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := configure(fd, ifi.Index); err != nil {
			unix.Close(fd)
			return fmt.Errorf("device %s: %w", device, err)
		}
		s.file = os.NewFile(uintptr(fd), "packet:"+device)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

func configure(fd, index int) error {
	prog, err := bpf.Assemble(filter())
	if err != nil {
		return err
	}
	f := make([]unix.SockFilter, len(prog))
	for i, p := range prog {
		f[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}); err != nil {
		return os.NewSyscallError("attach filter", err)
	}
	// Over the system's limit where we may; what it gives otherwise will do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvSize) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvSize)
	}
	proto := uint16(unix.ETH_P_ALL)
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: index}))
}

// receive waits for frames and takes them, at least one. The caller puts
// them back into pool. It ends with os.ErrClosed after close, and with
// unix.ENETDOWN when the device is down or gone.
func (s *socket) receive(pool *sync.Pool) (f *frames, err error) {
	rerr := s.raw.Read(func(fd uintptr) bool {
		f, err = pool.Get().(*frames), nil
		f.n = 0
	take:
		for f.n < batch {
			k, _, e := unix.Recvfrom(int(fd), f.bufs[f.n][:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch {
			case e == unix.EINTR, e == nil && k > slot:
				continue // longer than any frame that concerns us
			case e == nil:
				f.lens[f.n] = k
				f.n++
				continue
			case e != unix.EAGAIN:
				err = e
			}
			break take
		}
		if f.n == 0 {
			pool.Put(f)
			f = nil
		}
		return f != nil || err != nil
	})
	if f != nil {
		return f, nil
	}
	if rerr != nil {
		return nil, rerr
	}
	return nil, err
}

var errFull = errors.New("device queue is full")

// send puts a frame on the device. It never waits.
func (s *socket) send(b []byte) (err error) {
	werr := s.raw.Write(func(fd uintptr) bool {
		for {
			_, err = unix.Write(int(fd), b)
			if err != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case werr != nil:
		return werr
	case err == unix.EAGAIN || err == unix.ENOBUFS:
		return errFull
	}
	return err
}

// dropped is how many frames the kernel dropped since the last call because
// the queue was full.
func (s *socket) dropped() (n uint32) {
	_ = s.raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = st.Drops
		}
	})
	return n
}

// deadline makes receive end with os.ErrDeadlineExceeded at that time; zero: never.
func (s *socket) deadline(t time.Time) { _ = s.file.SetReadDeadline(t) }

func (s *socket) close() { s.file.Close() }
