package openflow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// FlowEvent is what became of a flow.
type FlowEvent uint16

// Events (OpenFlow 1.5.1, section 7.3.5.18.3).
const (
	FlowInitial  FlowEvent = 0
	FlowAdded    FlowEvent = 1
	FlowDeleted  FlowEvent = 2
	FlowModified FlowEvent = 3
)

func (e FlowEvent) String() string {
	return name(uint16(e), "initial", "added", "deleted", "modified", "abbreviated", "paused", "resumed")
}

// FlowUpdate is a change that another connection or this one made, or a
// time-out. A deleted flow has no actions here.
type FlowUpdate struct {
	Event  FlowEvent
	Reason uint8 // of FlowDeleted, see RemovedIdle
	Flow
}

// Flags and commands of monitors.
const (
	// All events, actions, and own changes in full: Open vSwitch 3.1 takes
	// OFPFMF_ONLY_OWN for that, and refuses OFPFMF_NO_ABBREV.
	monitorFlags  = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<6
	monitorDelete = 2
	monitorID     = 1
)

// ErrMonitored is the answer to a second [Conn.Monitor].
var ErrMonitored = errors.New("openflow: a connection has one flow monitor, updates do not say whose they are")

// Monitor returns the flows that stand and then delivers every change, in
// order, until ctx or the connection ends, or until more than buffer (0: 256)
// wait to be taken; then the channel is closed. A connection has one monitor at
// a time. CookieMask of the filter is not for the switch to look at: other
// cookies are left out here.
func (c *Conn) Monitor(ctx context.Context, f FlowFilter, buffer int) ([]Flow, <-chan FlowUpdate, error) {
	wanted := func(u FlowUpdate) bool { return u.Cookie&f.CookieMask == f.Cookie&f.CookieMask }
	feed := newFeed(buffer, wanted, &c.lost)
	c.mu.Lock()
	if c.err != nil || c.updates != nil {
		defer c.mu.Unlock()
		return nil, nil, errors.Join(c.err, ErrMonitored)
	}
	c.updates = feed
	c.mu.Unlock()
	var flows []Flow
	err := c.multipart(ctx, partFlowMonitor, func(b []byte) ([]byte, error) { return f.appendMonitor(b) }, func(b []byte) error {
		return eachUpdate(b, func(u FlowUpdate) {
			if u.Event == FlowInitial && wanted(u) {
				flows = append(flows, u.Flow)
			}
		})
	})
	if err != nil {
		c.unmonitor(feed)
		return nil, nil, err
	}
	feed.until(ctx, func() { c.unmonitor(feed) })
	return flows, feed.ch, nil
}

// appendMonitor appends a request (section 7.3.5.18).
func (f FlowFilter) appendMonitor(b []byte) ([]byte, error) {
	port, group := f.OutPort, f.OutGroup
	if port == 0 {
		port = PortAny
	}
	if group == 0 {
		group = groupAny
	}
	b = be16(be32(b, monitorID, uint32(port), group), monitorFlags)
	b = append(b, f.Table, 0)
	return f.appendMatch(b)
}

// unmonitor ends a monitor, at the switch too.
func (c *Conn) unmonitor(feed *feed[FlowUpdate]) {
	c.mu.Lock()
	mine := c.updates == feed
	c.mu.Unlock()
	feed.close()
	if !mine || c.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(c.o.Timeout, time.Second))
	defer cancel()
	err := c.multipart(ctx, partFlowMonitor, func(b []byte) ([]byte, error) {
		b = be16(be32(b, monitorID, uint32(PortAny), groupAny), 0)
		return appendMatch(append(b, AllTables, monitorDelete), nil), nil
	}, func([]byte) error { return nil })
	if err != nil && c.Err() == nil {
		c.o.Logger.Debug("openflow: ending a monitor", "error", err)
	}
	c.mu.Lock()
	if c.updates == feed {
		c.updates = nil
	}
	c.mu.Unlock()
}

// flowUpdates handles updates that nobody asked for by xid.
func (c *Conn) flowUpdates(b []byte) error {
	c.mu.Lock()
	feed := c.updates
	c.mu.Unlock()
	if feed == nil {
		return nil
	}
	whole := true
	err := eachUpdate(b, func(u FlowUpdate) { whole = whole && feed.offer(u) })
	if err != nil {
		return fmt.Errorf("openflow: a flow update: %w", err)
	}
	if !whole {
		feed.close()
		go c.unmonitor(feed)
	}
	return nil
}

// eachUpdate decodes updates (section 7.3.5.18.3).
func eachUpdate(b []byte, f func(FlowUpdate)) error {
	for len(b) > 0 {
		if len(b) < 8 {
			return errShort
		}
		n := int(get16(b))
		if n < 8 || n%8 != 0 || n > len(b) {
			return fmt.Errorf("an update of %d bytes in %d", n, len(b))
		}
		u := FlowUpdate{Event: FlowEvent(get16(b[2:]))}
		if u.Event <= FlowModified {
			if n < 24 {
				return errShort
			}
			u.Table, u.Reason, u.IdleTimeout, u.HardTimeout, u.Priority = b[4], b[5], get16(b[6:]), get16(b[8:]), get16(b[10:])
			u.Cookie = binary.BigEndian.Uint64(b[16:])
			m, rest, err := takeMatch(b[24:n])
			if err != nil {
				return err
			}
			u.Match = m
			if u.Actions, err = takeInstructions(rest); err != nil {
				return err
			}
			f(u)
		}
		b = b[n:]
	}
	return nil
}
