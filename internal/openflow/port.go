package openflow

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
)

// PortDesc is a port of a switch.
type PortDesc struct {
	Number Port
	Name   string
	MAC    [6]byte
	Config uint32 // bit 0: down by configuration
	State  uint32 // bit 0: no link
}

// LinkUp reports whether frames can pass.
func (p PortDesc) LinkUp() bool { return p.Config&1 == 0 && p.State&1 == 0 }

// Reasons of [PortStatus] (OpenFlow 1.5.1, section 7.4.3).
const (
	PortAdded    = 0
	PortDeleted  = 1
	PortModified = 2
)

// PortStatus is a change of a port.
type PortStatus struct {
	Reason uint8
	PortDesc
}

// Ports reads the ports.
func (c *Conn) Ports(ctx context.Context) ([]PortDesc, error) {
	var out []PortDesc
	err := c.multipart(ctx, partPortDesc, func(b []byte) ([]byte, error) {
		return be32(b, uint32(PortAny), 0), nil
	}, func(b []byte) error {
		for len(b) > 0 {
			p, n, err := decodePort(b)
			if err != nil {
				return err
			}
			out = append(out, p)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// PortChanges delivers changes of ports until ctx or the connection ends; then
// the channel is closed. More than buffer (0: 256) that nobody takes are lost.
func (c *Conn) PortChanges(ctx context.Context, buffer int) (<-chan PortStatus, error) {
	feed := newFeed[PortStatus](buffer, nil, &c.lost)
	if err := follow(ctx, c, feed, c.ports); err != nil {
		return nil, err
	}
	if err := c.want(ctx, asyncMask{portStatus: 1<<PortAdded | 1<<PortDeleted | 1<<PortModified}); err != nil {
		unfollow(c, feed, c.ports)
		return nil, err
	}
	return feed.ch, nil
}

func (c *Conn) portStatus(m []byte) error {
	if len(m) < 16 {
		return unexpected(m, "a port status")
	}
	p, _, err := decodePort(m[16:])
	if err != nil {
		return fmt.Errorf("openflow: a port status: %w", err)
	}
	publish(c, c.ports, PortStatus{m[8], p})
	return nil
}

// decodePort reads a port (OpenFlow 1.5.1, section 7.2.1) and returns its length.
func decodePort(b []byte) (PortDesc, int, error) {
	if len(b) < 40 {
		return PortDesc{}, 0, errShort
	}
	n := int(get16(b[4:]))
	if n < 40 || n > len(b) {
		return PortDesc{}, 0, fmt.Errorf("a port of %d bytes in %d", n, len(b))
	}
	text, _, _ := bytes.Cut(b[16:32], []byte{0})
	return PortDesc{Port(binary.BigEndian.Uint32(b)), string(text), [6]byte(b[8:14]), binary.BigEndian.Uint32(b[32:]), binary.BigEndian.Uint32(b[36:])}, n, nil
}
