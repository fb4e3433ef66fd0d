package openflow

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// asyncMask has a bit per reason that the switch is to send messages for.
type asyncMask struct{ packetIn, portStatus, flowRemoved uint32 }

func (a asyncMask) or(b asyncMask) asyncMask {
	return asyncMask{a.packetIn | b.packetIn, a.portStatus | b.portStatus, a.flowRemoved | b.flowRemoved}
}

// want asks the switch for more asynchronous messages; one that was asked for
// before is not asked for again (OpenFlow 1.5.1, section 7.3.10). A connection to the
// .mgmt socket gets none until it says how much of a packet it wants.
func (c *Conn) want(ctx context.Context, more asyncMask) error {
	select {
	case <-c.asyncMu:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { c.asyncMu <- struct{}{} }()
	all := c.async.or(more)
	if all == c.async {
		return nil
	}
	err := c.send(ctx, 2, func(i int, b []byte, xid uint32) ([]byte, error) {
		start := len(b)
		if i == 0 {
			return finish(be16(appendMsgHeader(b, typeSetConfig, xid), 0, 0xffff), start)
		}
		b = appendMsgHeader(b, typeSetAsync, xid)
		b = be32(be16(b, 1, 8), all.packetIn) // 1, 3, 5: for the roles but secondary
		b = be32(be16(b, 3, 8), all.portStatus)
		b = be32(be16(b, 5, 8), all.flowRemoved)
		return finish(b, start)
	})
	if err == nil {
		c.async = all
	}
	return err
}

// setPacketInFormat asks for NXT_PACKET_IN2, the only one that has user data.
func (c *Conn) setPacketInFormat(ctx context.Context) error {
	return c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) {
		return finish(be32(appendNicira(b, nxtSetPacketInFormat, xid), 2), len(b))
	})
}

// SetControllerID makes this connection the controller of that id, for
// [Controller] actions. A connection has id 0 until then.
func (c *Conn) SetControllerID(ctx context.Context, id uint16) error {
	return c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) {
		return finish(be16(append(appendNicira(b, nxtSetControllerID, xid), 0, 0, 0, 0, 0, 0), id), len(b))
	})
}

// Reasons of [FlowRemoved] (OpenFlow 1.5.1, section 7.4.2).
const (
	RemovedIdle   = 0
	RemovedHard   = 1
	RemovedDelete = 2
)

// FlowRemoved says that a flow with SendFlowRemoved is gone. Its Flow has no
// actions and no flags.
type FlowRemoved struct {
	FlowStats
	Reason uint8
}

// FlowsRemoved delivers what the switch says of flows with SendFlowRemoved,
// until ctx or the connection ends; then the channel is closed. More than
// buffer (0: 256) that nobody takes are lost.
func (c *Conn) FlowsRemoved(ctx context.Context, buffer int) (<-chan FlowRemoved, error) {
	feed := newFeed[FlowRemoved](buffer, nil, &c.lost)
	if err := follow(ctx, c, feed, c.removed); err != nil {
		return nil, err
	}
	if err := c.want(ctx, asyncMask{flowRemoved: 0x3f}); err != nil {
		unfollow(c, feed, c.removed)
		return nil, err
	}
	return feed.ch, nil
}

func (c *Conn) flowRemoved(m []byte) error {
	r, err := decodeFlowRemoved(m[8:])
	if err != nil {
		return fmt.Errorf("openflow: a flow-removed message: %w", err)
	}
	publish(c, c.removed, r)
	return nil
}

func decodeFlowRemoved(b []byte) (FlowRemoved, error) {
	if len(b) < 16 {
		return FlowRemoved{}, errShort
	}
	r := FlowRemoved{Reason: b[1]}
	r.Table, r.Priority, r.IdleTimeout, r.HardTimeout, r.Cookie = b[0], get16(b[2:]), get16(b[4:]), get16(b[6:]), binary.BigEndian.Uint64(b[8:])
	m, rest, err := takeMatch(b[16:])
	if err != nil {
		return r, err
	}
	r.Match = m
	s, _, err := takeStats(rest)
	r.Packets, r.Bytes, r.Duration, r.Idle = s.packets, s.bytes, s.duration, time.Duration(s.idle)
	return r, err
}
