package linuxdhcp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

const (
	batch   = 128     // frames taken from a socket at once: they share one sync of the lease store
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
	bufs  [batch][slot]byte
	lens  [batch]int
}

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

// receive waits for frames and returns how many there are; frame i is in
// bufs[i][:lens[i]]. It ends with os.ErrClosed after close, and with
// unix.ENETDOWN when the device is down or gone.
func (s *socket) receive() (n int, err error) {
	rerr := s.raw.Read(func(fd uintptr) bool {
		for n < batch {
			k, _, e := unix.Recvfrom(int(fd), s.bufs[n][:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch {
			case e == unix.EINTR:
				continue
			case e == unix.EAGAIN:
				return n > 0
			case e != nil:
				err = e
				return true
			}
			if k > slot {
				continue // longer than any frame that concerns us
			}
			s.lens[n] = k
			n++
		}
		return true
	})
	if n > 0 {
		return n, nil
	}
	if rerr != nil {
		return 0, rerr
	}
	return 0, err
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

func (s *socket) close() { s.file.Close() }
