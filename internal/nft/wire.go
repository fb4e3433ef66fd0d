package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// nlmsg builds netlink attributes. Numbers of nf_tables are big-endian.
type nlmsg struct{ b []byte }

func (m *nlmsg) bytes(typ uint16, v []byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(v)))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = append(m.b, v...)
	m.pad()
}

func (m *nlmsg) pad() {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *nlmsg) str(typ uint16, s string)  { m.bytes(typ, append([]byte(s), 0)) }
func (m *nlmsg) be32(typ uint16, v uint32) { m.bytes(typ, binary.BigEndian.AppendUint32(nil, v)) }

func (m *nlmsg) nest(typ uint16, f func()) {
	at := len(m.b)
	m.b = binary.NativeEndian.AppendUint16(m.b, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, typ|unix.NLA_F_NESTED)
	f()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}

var errShort = errors.New("short netlink message")

// attrs calls f with each attribute of b.
func attrs(b []byte, f func(typ uint16, v []byte)) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errShort
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

func cstr(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func be32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// message is one request of a batch.
type message struct {
	typ    uint16 // NFT_MSG_*
	flags  uint16
	family Family
	body   []byte
	what   string // for errors and Check: "chain inet vnet-a x"
	elems  int
}

const (
	subsystem   = unix.NFNL_SUBSYS_NFTABLES
	batchBegin  = 0x10 // NFNL_MSG_BATCH_BEGIN
	batchEnd    = 0x11
	batchGenID  = 1 // NFNL_BATCH_GENID
	headerLen   = unix.SizeofNlMsghdr + 4
	baseBufSize = 4 << 20
)

// header appends an nlmsghdr and nfgenmsg; the length is patched by finish.
func header(b []byte, typ, flags uint16, seq uint32, family uint8, res uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, 0) // NFNETLINK_V0
	return binary.BigEndian.AppendUint16(b, res)
}

func finish(b []byte, from int) { binary.NativeEndian.PutUint32(b[from:], uint32(len(b)-from)) }

// Error is what the kernel said of one message of a transaction, or of the
// transaction as a whole. Nothing of the transaction stands.
type Error struct {
	What   string // which object, e.g. "chain bridge vnet-a forward"
	Reason string // the kernel's words, often empty
	Errno  unix.Errno
}

func (e *Error) Error() string {
	s := "nftables"
	if e.What != "" {
		s += ": " + e.What
	}
	s += ": " + e.Errno.Error()
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	return s
}

// Unwrap returns the errno, so that errors.Is(err, unix.ENOENT) works.
func (e *Error) Unwrap() error { return e.Errno }

// socket is a netlink socket whose requests are answered before send returns,
// as the kernel does the work of this family in sendmsg.
type socket struct {
	fd     int
	seq    uint32
	sndbuf int
	buf    []byte
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	s := &socket{fd: fd, seq: 1, buf: make([]byte, 64<<10)} // the kernel lists in pieces of 32 KiB
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	// Both only make errors more telling; kernels without them do too.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	s.size(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, baseBufSize)
	s.size(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, baseBufSize)
	s.sndbuf = baseBufSize
	return s, nil
}

// size sets a buffer beyond the system's limit, which needs CAP_NET_ADMIN in
// the initial user namespace, or else up to the limit.
func (s *socket) size(force, plain, n int) {
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, force, n) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, plain, n)
	}
}

func (s *socket) close() { unix.Close(s.fd) }

func (s *socket) write(b []byte) error {
	if len(b)+4096 > s.sndbuf {
		s.sndbuf = len(b) * 2
		s.size(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, s.sndbuf)
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// read reads what is queued, without waiting; nil at the end.
func (s *socket) read(flags int) ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, flags)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		return s.buf[:n], nil
	}
}

// answers calls f with each netlink message of b.
func answers(b []byte, f func(typ, flags uint16, seq uint32, body []byte)) error {
	for len(b) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return errShort
		}
		f(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:]), b[unix.SizeofNlMsghdr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// errnoOf reads an NLMSG_ERROR.
func errnoOf(flags uint16, body []byte) (unix.Errno, string) {
	if len(body) < 4 {
		return unix.EBADMSG, ""
	}
	code := int32(binary.NativeEndian.Uint32(body))
	reason := ""
	// With CAP_ACK only the header of the request follows, then the words.
	if at := 4 + unix.SizeofNlMsghdr; flags&unix.NLM_F_ACK_TLVS != 0 && len(body) > at {
		_ = attrs(body[at:], func(typ uint16, v []byte) {
			if typ == 1 { // NLMSGERR_ATTR_MSG
				reason = cstr(v)
			}
		})
	}
	return unix.Errno(-code), reason
}

// errAgain: the transaction was computed on a state that is no more.
var errAgain = errors.New("nftables: changed meanwhile")

// commit sends a batch computed on generation gen.
func (s *socket) commit(msgs []message, gen uint32) error {
	first := s.seq
	b := header(nil, batchBegin, 0, s.seq, unix.AF_UNSPEC, subsystem)
	x := nlmsg{b: b}
	x.be32(batchGenID, gen)
	b = x.b
	finish(b, 0)
	s.seq++
	var last uint32
	for i, m := range msgs {
		at := len(b)
		flags := m.flags
		if i == len(msgs)-1 {
			flags |= unix.NLM_F_ACK
			last = s.seq
		}
		b = header(b, subsystem<<8|m.typ, flags, s.seq, uint8(m.family), 0)
		b = append(b, m.body...)
		finish(b, at)
		s.seq++
	}
	at := len(b)
	b = header(b, batchEnd, 0, s.seq, unix.AF_UNSPEC, subsystem)
	finish(b, at)
	s.seq++
	if err := s.write(b); err != nil {
		return fmt.Errorf("nftables: send %d messages, %d bytes: %w", len(msgs), len(b), err)
	}
	acked, lost := false, false
	var failed error
	for {
		r, err := s.read(unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if errors.Is(err, unix.ENOBUFS) {
			lost = true
			continue
		}
		if err != nil {
			return fmt.Errorf("nftables: answer: %w", err)
		}
		if err := answers(r, func(typ, flags uint16, seq uint32, body []byte) {
			if typ != unix.NLMSG_ERROR || seq < first {
				return
			}
			errno, reason := errnoOf(flags, body)
			if errno == 0 {
				acked = acked || seq == last
				return
			}
			if failed != nil {
				return // the first says it; later ones follow from it
			}
			if errno == unix.ERESTART {
				failed = errAgain
				return
			}
			e := &Error{Errno: errno, Reason: reason}
			if i := int(seq - first - 1); i >= 0 && i < len(msgs) {
				e.What = msgs[i].what
			}
			failed = e
		}); err != nil {
			return err
		}
	}
	switch {
	case failed != nil:
		return failed
	case acked:
		return nil
	case lost: // applied or not: look
		return errAgain
	}
	return errors.New("nftables: the kernel gave no answer")
}

// dump sends a request and calls f with each answer of type want.
func (s *socket) dump(req message, want uint16, f func(family Family, body []byte)) error {
	for range 20 {
		again, err := s.dumpOnce(req, want, f)
		if !again {
			return err
		}
	}
	return fmt.Errorf("nftables: list: interrupted by changes again and again: %w", unix.EINTR)
}

func (s *socket) dumpOnce(req message, want uint16, f func(family Family, body []byte)) (again bool, err error) {
	seq := s.seq
	s.seq++
	b := header(nil, subsystem<<8|req.typ, req.flags, seq, uint8(req.family), 0)
	b = append(b, req.body...)
	finish(b, 0)
	if err := s.write(b); err != nil {
		return false, fmt.Errorf("nftables: list: %w", err)
	}
	type answer struct {
		family Family
		body   []byte
	}
	var got []answer
	done := false
	for !done {
		r, err := s.read(0)
		if errors.Is(err, unix.ENOBUFS) {
			again = true
			continue
		}
		if err != nil {
			return false, fmt.Errorf("nftables: list: %w", err)
		}
		var failed error
		if err := answers(r, func(typ, flags uint16, at uint32, body []byte) {
			if at != seq {
				return
			}
			if flags&unix.NLM_F_DUMP_INTR != 0 {
				again = true
			}
			switch {
			case typ == unix.NLMSG_DONE:
				done = true
				if len(body) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
						failed = unix.Errno(-code)
					}
				}
			case typ == unix.NLMSG_ERROR:
				done = true
				if errno, reason := errnoOf(flags, body); errno != 0 {
					failed = &Error{What: req.what, Errno: errno, Reason: reason}
				}
			case typ == subsystem<<8|want && len(body) >= 4:
				got = append(got, answer{Family(body[0]), append([]byte(nil), body[4:]...)})
				if flags&unix.NLM_F_MULTI == 0 {
					done = true
				}
			}
		}); err != nil {
			return false, err
		}
		if errors.Is(failed, unix.EINTR) {
			return true, nil
		}
		if failed != nil {
			return false, failed
		}
	}
	if again {
		return true, nil
	}
	for _, a := range got {
		f(a.family, a.body)
	}
	return false, nil
}

// generation is how many transactions the namespace has seen.
func (s *socket) generation() (uint32, error) {
	var gen uint32
	err := s.dump(message{typ: unix.NFT_MSG_GETGEN, family: Family(unix.AF_UNSPEC)}, unix.NFT_MSG_NEWGEN, func(_ Family, b []byte) {
		_ = attrs(b, func(typ uint16, v []byte) {
			if typ == 1 { // NFTA_GEN_ID
				gen = be32(v)
			}
		})
	})
	return gen, err
}

var errClosed = fmt.Errorf("nftables: %w", os.ErrClosed)
