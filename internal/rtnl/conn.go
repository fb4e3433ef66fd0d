package rtnl

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// Namespace enters a network namespace and lends its open file.
type Namespace interface {
	Do(func() error) error
	WithFd(func(fd int) error) error
}

// Conn is rtnetlink of one namespace. Its methods may be called from several
// goroutines.
type Conn struct {
	ns     Namespace
	writes atomic.Uint64

	mu     sync.Mutex
	h      *netlink.Handle
	socks  map[int]*nl.SocketHandle // of requests that the library has no call for
	closed bool
	users  sync.WaitGroup // of h and socks
}

// Open returns a connection in the namespace. Its sockets are opened when first
// used.
func Open(ns Namespace) *Conn { return &Conn{ns: ns} }

// answerTimeout bounds the wait for an answer of the kernel, in seconds.
const answerTimeout = 60

// Close closes it, when what is under way has ended.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true // nobody comes any more
	c.mu.Unlock()
	c.users.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.h != nil {
		c.h.Close()
		for _, s := range c.socks {
			s.Close()
		}
		c.h, c.socks = nil, nil
	}
	return nil
}

// Writes is the number of requests sent that change something.
func (c *Conn) Writes() uint64 { return c.writes.Load() }

// sockets opens what is needed once, and lends it until users.Done. Netlink sockets stay in the namespace they were opened in, whichever
// thread uses them.
func (c *Conn) sockets() (*netlink.Handle, map[int]*nl.SocketHandle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, fmt.Errorf("rtnetlink: %w", os.ErrClosed)
	}
	if c.h != nil {
		c.users.Add(1)
		return c.h, c.socks, nil
	}
	err := c.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		_ = h.SetSocketTimeout(answerTimeout * time.Second)
		socks := map[int]*nl.SocketHandle{}
		for _, proto := range []int{unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER} {
			s, err := nl.Subscribe(proto)
			if err != nil {
				h.Close()
				for _, s := range socks {
					s.Close()
				}
				return err
			}
			_ = s.SetExtAck(true) // reasons in words; older kernels do without
			// The kernel answers at once; an answer that was lost must not be waited for for ever.
			_ = s.SetReceiveTimeout(&unix.Timeval{Sec: answerTimeout})
			// A dump of many connections must not overrun while we parse.
			if s.SetReceiveBufferSize(4<<20, true) != nil {
				_ = s.SetReceiveBufferSize(4<<20, false)
			}
			socks[proto] = &nl.SocketHandle{Socket: s}
		}
		c.h, c.socks = h, socks
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("rtnetlink: %w", err)
	}
	c.users.Add(1)
	return c.h, c.socks, nil
}

// read does f again as long as the kernel says that its answer was
// interrupted by a change.
func (c *Conn) read(f func(h *netlink.Handle) error) error {
	h, _, err := c.sockets()
	if err != nil {
		return err
	}
	defer c.users.Done()
	return retry(func() error { return f(h) })
}

// retry bounds how often a dump is begun again: on a host whose tables change
// all the time, an error is better than no end.
func retry(f func() error) error {
	var err error
	for range 20 {
		err = f()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	return err
}

// write does one change.
func (c *Conn) write(f func(h *netlink.Handle) error) error {
	h, _, err := c.sockets()
	if err != nil {
		return err
	}
	defer c.users.Done()
	c.writes.Add(1)
	return f(h)
}

// request sends a request of our own making and returns the answers of type
// want (0: any).
func (c *Conn) request(proto, typ, flags int, want uint16, body ...nl.NetlinkRequestData) ([][]byte, error) {
	_, socks, err := c.sockets()
	if err != nil {
		return nil, err
	}
	defer c.users.Done()
	var out [][]byte
	err = retry(func() error {
		out = nil
		req := nl.NewNetlinkRequest(typ, flags)
		req.Sockets = socks
		for _, b := range body {
			req.AddData(b)
		}
		out, err = req.Execute(proto, want)
		return err
	})
	return out, err
}

// change is request for something that changes state.
func (c *Conn) change(proto, typ, flags int, body ...nl.NetlinkRequestData) error {
	c.writes.Add(1)
	_, socks, err := c.sockets()
	if err != nil {
		return err
	}
	defer c.users.Done()
	req := nl.NewNetlinkRequest(typ, flags|unix.NLM_F_ACK)
	req.Sockets = socks
	for _, b := range body {
		req.AddData(b)
	}
	_, err = req.Execute(proto, 0)
	return err
}

// named wraps an error with what was being done to which thing, and maps what
// the kernel says of absence and presence to the module's words.
func named(op, name string, err error) error {
	var lnf netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, vnet.ErrNotFound), errors.Is(err, vnet.ErrConflict):
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH), errors.As(err, &lnf):
		err = fmt.Errorf("%w (%v)", vnet.ErrNotFound, err)
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w (%v)", vnet.ErrConflict, err)
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}
