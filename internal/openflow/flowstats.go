package openflow

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// FlowFilter says which flows are meant. The zero value is all flows of table
// 0; see AllTables.
type FlowFilter struct {
	Table              uint8
	Cookie, CookieMask uint64 // flows that have these bits; Open vSwitch has an index for a mask of all ones
	Match              Match  // flows that are this or more specific
	OutPort            Port   // flows that output there; 0: any
	OutGroup           uint32 // flows that use the group; 0: any
}

// append appends the body of a flow statistics request (OpenFlow 1.5.1, section 7.3.5.2).
func (f FlowFilter) append(b []byte) ([]byte, error) {
	port, group := f.OutPort, f.OutGroup
	if port == 0 {
		port = PortAny
	}
	if group == 0 {
		group = groupAny
	}
	b = be32(append(b, f.Table, 0, 0, 0), uint32(port), group, 0)
	b = be64(b, f.Cookie, f.CookieMask)
	return f.appendMatch(b)
}

func (f FlowFilter) appendMatch(b []byte) ([]byte, error) {
	m, err := f.Match.canonical()
	if err == nil {
		err = m.prerequisites()
	}
	if err != nil {
		return nil, &InvalidError{What: "a filter on flows", Reason: err.Error()}
	}
	return appendMatch(b, m), nil
}

// multipart sends a request and hands the body of each reply to on.
func (c *Conn) multipart(ctx context.Context, typ uint16, body func(b []byte) ([]byte, error), on func(b []byte) error) error {
	return c.call(ctx, func(b []byte, xid uint32) ([]byte, error) {
		start := len(b)
		b = append(be16(appendMsgHeader(b, typeMultipartRequest, xid), typ, 0), 0, 0, 0, 0)
		b, err := body(b)
		if err != nil {
			return nil, err
		}
		return finish(b, start)
	}, func(m []byte) (bool, error) {
		if m[1] != typeMultipartReply || len(m) < 16 || get16(m[8:]) != typ {
			return true, unexpected(m, fmt.Sprintf("a multipart reply of type %d", typ))
		}
		if err := on(m[16:]); err != nil {
			return true, fmt.Errorf("openflow: a multipart reply of type %d: %w", typ, err)
		}
		return get16(m[10:])&1 == 0, nil
	})
}

// Flows reads flows, in no order. Actions that this package does not know come as
// [Raw]; a match on a field that it does not know fails the call and is named, so
// where others write flows too, ask for a cookie.
func (c *Conn) Flows(ctx context.Context, f FlowFilter) ([]FlowStats, error) {
	var out []FlowStats
	err := c.multipart(ctx, partFlow, f.append, func(b []byte) error {
		for len(b) > 0 {
			s, n, err := decodeFlowStats(b)
			if err != nil {
				return err
			}
			out = append(out, s)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Aggregate are sums over flows.
type Aggregate struct{ Flows, Packets, Bytes uint64 }

// Aggregate counts flows and what passed through them.
func (c *Conn) Aggregate(ctx context.Context, f FlowFilter) (a Aggregate, err error) {
	err = c.multipart(ctx, partAggregate, f.append, func(b []byte) error {
		s, _, err := takeStats(b)
		a = Aggregate{s.flows, s.packets, s.bytes}
		return err
	})
	return a, err
}

// decodeFlowStats reads one entry and returns its length.
func decodeFlowStats(b []byte) (FlowStats, int, error) {
	be := binary.BigEndian
	if len(b) < 24 {
		return FlowStats{}, 0, errShort
	}
	n := int(get16(b))
	if n < 24 || n > len(b) || n%8 != 0 {
		return FlowStats{}, 0, fmt.Errorf("a flow of %d bytes in %d", n, len(b))
	}
	f := FlowStats{Flow: Flow{Table: b[4], Priority: get16(b[6:]), IdleTimeout: get16(b[8:]), HardTimeout: get16(b[10:]), Flags: FlowFlags(get16(b[12:])),
		Importance: get16(b[14:]), Cookie: be.Uint64(b[16:])}}
	wrap := func(err error) error {
		return fmt.Errorf("the flow of table %d, priority %d and cookie %#x: %w", f.Table, f.Priority, f.Cookie, err)
	}
	m, rest, err := takeMatch(b[24:n])
	if err != nil {
		return f, n, wrap(err)
	}
	f.Match = m
	s, rest, err := takeStats(rest)
	if err != nil {
		return f, n, wrap(err)
	}
	f.Packets, f.Bytes, f.Duration, f.Idle = s.packets, s.bytes, s.duration, s.idle
	if f.Actions, err = takeInstructions(rest); err != nil {
		return f, n, wrap(err)
	}
	return f, n, nil
}

type oxs struct {
	duration, idle        time.Duration
	flows, packets, bytes uint64
}

// takeStats reads statistics in OXS form (OpenFlow 1.5.1, section 7.2.4.4) and their
// padding.
func takeStats(b []byte) (s oxs, rest []byte, err error) {
	if len(b) < 4 {
		return s, nil, errShort
	}
	n := int(get16(b[2:]))
	padded := (n + 7) / 8 * 8
	if n < 4 || padded > len(b) {
		return s, nil, fmt.Errorf("statistics of %d bytes in %d", n, len(b))
	}
	b, rest = b[4:n], b[padded:]
	for len(b) > 0 {
		if len(b) < 4 {
			return s, nil, errShort
		}
		class, field, l := get16(b), b[2]>>1, int(b[3])
		if l > len(b)-4 {
			return s, nil, errShort
		}
		v := valueOf(b[4 : 4+l]).Lo
		b = b[4+l:]
		if class != 0x8002 {
			continue
		}
		switch {
		case field == 0 && l == 8:
			s.duration = seconds(v)
		case field == 1 && l == 8:
			s.idle = seconds(v)
		case field == 3:
			s.flows = v
		case field == 4:
			s.packets = v
		case field == 5:
			s.bytes = v
		}
	}
	return s, rest, nil
}

// seconds is a duration of 32 bits of seconds and 32 of nanoseconds.
func seconds(v uint64) time.Duration {
	return time.Duration(v>>32)*time.Second + time.Duration(uint32(v))
}
