package openflow

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a [Conn]. Zero values are the defaults.
type Options struct {
	Logger *slog.Logger
	// Timeout bounds the handshake and each write to the socket. Default 10 s.
	Timeout time.Duration
	// Keepalive is after how long a silence the switch is asked for an echo;
	// after three times that it is given up. Default 10 s: Open vSwitch answers
	// nothing while it commits a large bundle.
	Keepalive time.Duration
}

// Conn is a connection to one switch. It is for concurrent use, and is never
// made anew: after it has ended all calls fail with why.
type Conn struct {
	nc       net.Conn
	o        Options
	features Features
	ctl      chan []byte   // small messages of the connection's own
	writing  chan struct{} // holds a token while nobody writes
	done     chan struct{}
	ended    sync.WaitGroup
	heard    atomic.Int64 // when a byte last came, Unix nanoseconds
	lost     atomic.Uint64

	mu      sync.Mutex
	err     error
	xid     uint32
	calls   map[uint32]*call
	ranges  map[*errRange]struct{}
	bundles uint32
	packets map[*feed[*PacketIn]]struct{}
	ports   map[*feed[PortStatus]]struct{}
	updates *feed[FlowUpdate]
	removed map[*feed[FlowRemoved]]struct{}
	async   asyncMask
	asyncMu chan struct{} // a token: one at a time changes what is asked for
}

// Features is what a switch says of itself.
type Features struct {
	DatapathID   uint64
	Buffers      uint32
	Tables       uint8 // 0 to Tables-1; Open vSwitch has 254 and hidden ones above
	AuxiliaryID  uint8
	Capabilities uint32
}

// VersionError says that the switch does not speak OpenFlow 1.5.
type VersionError struct {
	// Versions has bit n set for wire version n (4: 1.3, 5: 1.4, 6: 1.5), as far as
	// the switch told.
	Versions uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("openflow: the switch does not speak OpenFlow 1.5 (wire version 6); it offers %#b: does the bridge's column protocols leave it out?", e.Versions)
}

// ErrClosed is the end of a connection by [Conn.Close].
var ErrClosed = errors.New("openflow: the connection is closed")

// Dial connects to a switch: "unix" and the path of the bridge's .mgmt socket,
// or "tcp" and an address.
func Dial(ctx context.Context, network, address string, o *Options) (*Conn, error) {
	if o == nil {
		o = &Options{}
	}
	dctx, cancel := context.WithTimeout(ctx, orDuration(o.Timeout, 10*time.Second))
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(dctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("openflow: %w", err)
	}
	return NewConn(ctx, nc, o)
}

func orDuration(d, or time.Duration) time.Duration {
	if d <= 0 {
		return or
	}
	return d
}

// NewConn greets the switch at the other end of nc, which is the Conn's from
// then on, also if it fails.
func NewConn(ctx context.Context, nc net.Conn, o *Options) (*Conn, error) {
	if o == nil {
		o = &Options{}
	}
	c := newIdle()
	c.nc, c.o = nc, *o
	c.o.Timeout = orDuration(o.Timeout, 10*time.Second)
	c.o.Keepalive = orDuration(o.Keepalive, 10*time.Second)
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	c.heard.Store(time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	in := bufio.NewReaderSize(nc, 64<<10)
	if err := c.greet(ctx, in); err != nil {
		nc.Close()
		return nil, err
	}
	c.ended.Add(3)
	go func() { defer c.ended.Done(); c.fail(c.read(in)) }()
	go func() { defer c.ended.Done(); c.control() }()
	go func() { defer c.ended.Done(); c.keepalive() }()
	err := c.call(ctx, func(b []byte, xid uint32) ([]byte, error) {
		return finish(appendMsgHeader(b, typeFeaturesRequest, xid), len(b))
	}, func(m []byte) (bool, error) {
		if m[1] != typeFeaturesReply || len(m) < 32 {
			return true, unexpected(m, "a features reply")
		}
		c.features = Features{binary.BigEndian.Uint64(m[8:]), binary.BigEndian.Uint32(m[16:]), m[20], m[21], binary.BigEndian.Uint32(m[24:])}
		return true, nil
	})
	if err == nil {
		err = c.setPacketInFormat(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// newIdle is a Conn without a connection.
func newIdle() *Conn {
	c := &Conn{ctl: make(chan []byte, 16), writing: make(chan struct{}, 1), done: make(chan struct{}), asyncMu: make(chan struct{}, 1),
		calls: map[uint32]*call{}, ranges: map[*errRange]struct{}{}, packets: map[*feed[*PacketIn]]struct{}{},
		ports: map[*feed[PortStatus]]struct{}{}, removed: map[*feed[FlowRemoved]]struct{}{}}
	c.o.Logger = slog.New(slog.DiscardHandler)
	c.writing <- struct{}{}
	c.asyncMu <- struct{}{}
	return c
}

// greet exchanges hellos (OpenFlow 1.5.1, section 6.3.1).
func (c *Conn) greet(ctx context.Context, in io.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if stop() {
			_ = c.nc.SetDeadline(time.Time{})
		}
	}()
	fail := func(err error) error {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("openflow: greeting the switch: %w", err)
	}
	hello := be32(be16(appendMsgHeader(nil, typeHello, 1), 1, 8), 1<<version)
	hello, _ = finish(hello, 0)
	if _, err := c.nc.Write(hello); err != nil {
		return fail(err)
	}
	m, err := readMessage(in, nil)
	if err != nil {
		return fail(err)
	}
	if m[1] == typeError {
		return fail(decodeError(m))
	}
	if m[1] != typeHello {
		return fail(unexpected(m, "a hello"))
	}
	versions := uint32(1)<<(min(m[0], 31)+1) - 2 // all up to it, unless it says more
	for b := m[8:]; len(b) >= 8; {
		n := int(get16(b[2:]))
		if n < 4 || n > len(b) {
			break
		}
		if get16(b) == 1 && n >= 8 {
			versions = binary.BigEndian.Uint32(b[4:])
		}
		b = b[min((n+7)/8*8, len(b)):]
	}
	if versions&(1<<version) == 0 {
		return &VersionError{versions}
	}
	c.mu.Lock()
	c.xid = 1
	c.mu.Unlock()
	return nil
}

func unexpected(m []byte, want string) error {
	return fmt.Errorf("openflow: a message of type %d, version %d and %d bytes where %s was due", m[1], m[0], len(m), want)
}

// handle hands one message to whom it is for. An error ends the connection.
func (c *Conn) handle(m []byte) error {
	xid := binary.BigEndian.Uint32(m[4:])
	switch m[1] {
	case typeHello:
		return nil
	case typeEchoRequest:
		reply := append([]byte(nil), m...)
		reply[0], reply[1] = version, typeEchoReply
		c.tell(reply)
		return nil
	case typeError:
		c.refused(xid, decodeError(m))
		return nil
	case typePortStatus:
		return c.portStatus(m)
	case typeFlowRemoved:
		return c.flowRemoved(m)
	case typeExperimenter:
		if len(m) >= 16 && binary.BigEndian.Uint32(m[8:]) == nicira && binary.BigEndian.Uint32(m[12:]) == nxtPacketIn2 {
			return c.packetIn(m[16:])
		}
	case typeMultipartReply:
		if len(m) >= 16 && get16(m[8:]) == partFlowMonitor {
			if xid == 0 { // what changes; what stands has the request's
				return c.flowUpdates(m[16:])
			}
		}
	}
	c.mu.Lock()
	call := c.calls[xid]
	c.mu.Unlock()
	if call == nil {
		c.o.Logger.Debug("openflow: message for nobody", "type", m[1], "xid", xid, "length", len(m))
		return nil
	}
	if done, err := call.hear(m); done || err != nil {
		c.finish(xid, call, err)
	}
	return nil
}

// call is a request that waits for an answer. on is called by the reader, with
// each message of the xid that is not an error.
type call struct {
	on   func(m []byte) (done bool, err error)
	done chan struct{}
	err  error

	mu   sync.Mutex // held while on runs
	over bool       // on must not run any more
}

// hear hands the call a message.
func (k *call) hear(m []byte) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return false, nil
	}
	return k.on(m)
}

// end returns when on does not run and will not again.
func (k *call) end() {
	k.mu.Lock()
	k.over = true
	k.mu.Unlock()
}

func (c *Conn) finish(xid uint32, k *call, err error) {
	c.mu.Lock()
	mine := c.calls[xid] == k
	delete(c.calls, xid)
	c.mu.Unlock()
	if mine {
		k.err = err
		close(k.done)
	}
}

// errRange collects the errors of messages without an answer, by xid.
type errRange struct {
	first, n uint32
	errs     []*Error
}

// refused hands an error to whom it is for.
func (c *Conn) refused(xid uint32, e *Error) {
	c.mu.Lock()
	k := c.calls[xid]
	found := k != nil
	for r := range c.ranges {
		if xid-r.first < r.n {
			found = true
			if len(r.errs) < 16 {
				r.errs = append(r.errs, e)
			}
		}
	}
	c.mu.Unlock()
	if k != nil {
		c.finish(xid, k, e)
	}
	if !found {
		c.o.Logger.Warn("openflow: the switch refused a message nobody waits for", "xid", xid, "error", e)
	}
}

// xids takes n numbers in a row, none of them 0.
func (c *Conn) xids(n int) uint32 {
	if c.xid+uint32(n) < c.xid {
		c.xid = 0
	}
	first := c.xid + 1
	c.xid += uint32(n)
	return first
}

// watch begins to collect the errors of n messages; forget ends it.
func (c *Conn) watch(n int) *errRange {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &errRange{first: c.xids(n), n: uint32(n)}
	c.ranges[r] = struct{}{}
	return r
}

func (c *Conn) forget(r *errRange) {
	c.mu.Lock()
	delete(c.ranges, r)
	c.mu.Unlock()
}

// first is the earliest error, after a barrier.
func (c *Conn) firstError(r *errRange) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(r.errs) == 0 {
		return nil
	}
	return r.errs[0]
}

// call sends a message and waits until on has had the whole answer.
func (c *Conn) call(ctx context.Context, build func(b []byte, xid uint32) ([]byte, error), on func(m []byte) (bool, error)) error {
	k := &call{on: on, done: make(chan struct{})}
	c.mu.Lock()
	if err := c.err; err != nil {
		c.mu.Unlock()
		return err
	}
	xid := c.xids(1)
	c.calls[xid] = k
	c.mu.Unlock()
	defer k.end()
	b, err := build(nil, xid)
	if err == nil {
		err = c.write(ctx, b)
	}
	if err != nil {
		c.finish(xid, k, err)
		return err
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		c.finish(xid, k, ctx.Err())
	case <-c.done:
		c.finish(xid, k, c.Err())
	}
	<-k.done // by us or by the reader
	return k.err
}

// send sends messages that have no answer, and a barrier, and returns the first
// error of the switch. build is called n times.
func (c *Conn) send(ctx context.Context, n int, build func(i int, b []byte, xid uint32) ([]byte, error)) error {
	r := c.watch(n)
	defer c.forget(r)
	var b []byte
	var err error
	for i := range n {
		if b, err = build(i, b, r.first+uint32(i)); err != nil {
			return err
		}
	}
	if err := c.write(ctx, b); err != nil {
		return err
	}
	if err := c.Barrier(ctx); err != nil {
		return err
	}
	if e := c.firstError(r); e != nil {
		return e
	}
	return nil
}

// fail ends the connection; the first reason stays.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("openflow: the connection has ended: %w", err)
	}
	c.err = err
	close(c.done)
	feeds := []interface{ close() }{}
	for f := range c.packets {
		feeds = append(feeds, f)
	}
	for f := range c.ports {
		feeds = append(feeds, f)
	}
	for f := range c.removed {
		feeds = append(feeds, f)
	}
	if c.updates != nil {
		feeds = append(feeds, c.updates)
	}
	c.mu.Unlock()
	c.nc.Close()
	for _, f := range feeds {
		f.close()
	}
}

// Close ends the connection and returns when nothing of it runs any more.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	c.ended.Wait()
	return nil
}

// Done is closed when the connection has ended, however it did.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it stands.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Features is what the switch said of itself at the start.
func (c *Conn) Features() Features { return c.features }

// Lost is how many packets and other events found their channel full.
func (c *Conn) Lost() uint64 { return c.lost.Load() }

// Echo asks the switch for an answer.
func (c *Conn) Echo(ctx context.Context) error {
	return c.call(ctx, func(b []byte, xid uint32) ([]byte, error) {
		return finish(appendMsgHeader(b, typeEchoRequest, xid), len(b))
	}, func(m []byte) (bool, error) {
		if m[1] != typeEchoReply {
			return true, unexpected(m, "an echo reply")
		}
		return true, nil
	})
}

// Barrier returns when the switch has done all that was sent before.
func (c *Conn) Barrier(ctx context.Context) error {
	return c.call(ctx, func(b []byte, xid uint32) ([]byte, error) {
		return finish(appendMsgHeader(b, typeBarrierRequest, xid), len(b))
	}, func(m []byte) (bool, error) {
		if m[1] != typeBarrierReply {
			return true, unexpected(m, "a barrier reply")
		}
		return true, nil
	})
}
