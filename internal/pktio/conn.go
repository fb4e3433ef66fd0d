package pktio

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// Doer enters a network namespace.
type Doer interface{ Do(func() error) error }

// EtherTypes for [Filter].
const (
	IPv4 uint16 = 0x0800
	ARP  uint16 = 0x0806
	IPv6 uint16 = 0x86dd
)

// Filter says which frames a socket gets; the kernel drops the others. The
// zero value: all.
type Filter struct {
	EtherType uint16   // zero: all
	IPProto   uint8    // with EtherType IPv4 or IPv6, without extension headers; zero: all
	DstPorts  []uint16 // with IPProto TCP or UDP, first fragments only; empty: all
}

// Options of a socket. nil is the zero value.
type Options struct {
	Filters   []Filter // a frame that one of them lets through is received; empty: all
	Outgoing  bool     // also receive what this host sends on the device
	Promisc   bool     // also receive what is for other MACs, where the device filters
	RcvBuffer int      // bytes; default 4 MiB
}

// Conn is an AF_PACKET socket bound to one device. It stays in its namespace
// wherever it is used from. Its methods may be called from several goroutines,
// Receive from one at a time.
type Conn struct {
	c      *packet.Conn
	ifi    net.Interface
	closed atomic.Bool
}

// Open opens a socket on a device in the namespace. Frames with a VLAN tag are
// not received: their tag would not be seen.
func Open(ns Doer, device string, o *Options) (*Conn, error) {
	if o == nil {
		o = &Options{}
	}
	filter, err := bpf.Assemble(program(o))
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	c := &Conn{}
	err = ns.Do(func() error {
		ifi, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("%w (%v)", vnet.ErrNotFound, err)
		}
		c.ifi = *ifi
		c.c, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	if o.Promisc {
		if err := c.c.SetPromiscuous(true); err != nil {
			c.c.Close()
			return nil, fmt.Errorf("packet socket on %s: %w", device, err)
		}
	}
	size := o.RcvBuffer
	if size == 0 {
		size = 4 << 20
	}
	if raw, err := c.c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
			}
		})
	}
	return c, nil
}

// Close closes the socket and ends pending reads.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.c.Close()
}

// MAC is the device's address when the socket was opened.
func (c *Conn) MAC() vnet.MAC {
	if len(c.ifi.HardwareAddr) != 6 {
		return vnet.MAC{}
	}
	return vnet.MAC(c.ifi.HardwareAddr)
}

// Index is the device's index.
func (c *Conn) Index() int { return c.ifi.Index }

// Device is the device's name when the socket was opened.
func (c *Conn) Device() string { return c.ifi.Name }

// Send puts a frame on the device. The device must be up.
func (c *Conn) Send(frame []byte) error {
	if len(frame) < 14 {
		return fmt.Errorf("send on %s: frame of %d bytes", c.ifi.Name, len(frame))
	}
	_, err := c.c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}

// Receive waits for a frame and reads it into buf; what does not fit is cut
// off. It ends with ctx's error, or net.ErrClosed. The transport checksum of a
// frame that this host's stack sent may be unfilled.
func (c *Conn) Receive(ctx context.Context, buf []byte) (n int, err error) {
	if ctx.Done() != nil {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		stop := context.AfterFunc(ctx, func() { _ = c.c.SetReadDeadline(time.Unix(1, 0)) })
		defer func() {
			if !stop() { // it ran, or runs: this socket is to be used again
				_ = c.c.SetReadDeadline(time.Time{})
			}
		}()
	}
	n, _, err = c.c.ReadFrom(buf)
	if err != nil && ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Dropped is how many frames the kernel dropped because the reader was slow,
// since the last call.
func (c *Conn) Dropped() uint64 {
	s, err := c.c.Stats()
	if err != nil {
		return 0
	}
	return uint64(s.Drops)
}

const (
	accept = 1 << 18 // bytes of a frame that are kept: all
	drop   = 0

	packetOutgoing = 4 // PACKET_OUTGOING
)

// program is the socket filter of o.
func program(o *Options) []bpf.Instruction {
	var out []bpf.Instruction
	out = append(out, bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	if !o.Outgoing {
		out = append(out, bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOutgoing, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	}
	if len(o.Filters) == 0 {
		return append(out, bpf.RetConstant{Val: accept})
	}
	for _, f := range o.Filters {
		out = append(out, f.program()...)
	}
	return append(out, bpf.RetConstant{Val: drop})
}

// program accepts what f lets through, and otherwise comes to its end.
func (f Filter) program() []bpf.Instruction {
	var p []bpf.Instruction
	var tests []int // jumps whose false branch leaves the program
	test := func(load bpf.Instruction, cond bpf.JumpTest, val uint32) {
		p = append(p, load, bpf.JumpIf{Cond: cond, Val: val})
		tests = append(tests, len(p)-1)
	}
	if f.EtherType != 0 {
		test(bpf.LoadAbsolute{Off: 12, Size: 2}, bpf.JumpEqual, uint32(f.EtherType))
		ip := f.EtherType == IPv4 || f.EtherType == IPv6
		if ip && f.IPProto != 0 {
			off := uint32(23)
			if f.EtherType == IPv6 {
				off = 20
			}
			test(bpf.LoadAbsolute{Off: off, Size: 1}, bpf.JumpEqual, uint32(f.IPProto))
			if len(f.DstPorts) > 0 {
				load := []bpf.Instruction{bpf.LoadAbsolute{Off: 14 + 40 + 2, Size: 2}}
				if f.EtherType == IPv4 {
					test(bpf.LoadAbsolute{Off: 20, Size: 2}, bpf.JumpBitsNotSet, 0x1fff) // no later fragment
					load = []bpf.Instruction{bpf.LoadMemShift{Off: 14}, bpf.LoadIndirect{Off: 14 + 2, Size: 2}}
				}
				p = append(p, load...)
				for i, port := range f.DstPorts {
					left := len(f.DstPorts) - 1 - i
					if left == 0 {
						p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port)})
						tests = append(tests, len(p)-1)
					} else {
						p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: uint8(left)})
					}
				}
			}
		}
	}
	p = append(p, bpf.RetConstant{Val: accept})
	for _, i := range tests {
		j := p[i].(bpf.JumpIf)
		j.SkipFalse = uint8(len(p) - 1 - i)
		p[i] = j
	}
	return p
}
