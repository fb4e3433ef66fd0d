package linuxdhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/engine"
)

// netEngine serves networks: each has one socket and one goroutine, so a flood
// on one network keeps only itself busy, and the kernel bounds its queue.
type netEngine struct {
	ns     enterer
	o      *engine.Options
	frames sync.Pool

	mu      sync.Mutex
	serving bool
	nets    map[string]*network // by id
	byDev   map[string]*network
}

// network is one network being served, or waiting for its device.
type network struct {
	id, dev string
	wire    *dhcpwire.Server

	// Guarded by netEngine.mu.
	sock *socket // nil: not attached
	done chan struct{}
	err  error // why not attached, when the device is there
}

// add makes the network known and attaches it when its device is there.
func (e *netEngine) add(id, dev string, wire *dhcpwire.Server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := &network{id: id, dev: dev, wire: wire}
	e.nets[id], e.byDev[dev] = n, n
	e.attach(n)
}

// remove stops serving the network.
func (e *netEngine) remove(id string) {
	e.mu.Lock()
	n := e.nets[id]
	if n == nil {
		e.mu.Unlock()
		return
	}
	delete(e.nets, id)
	delete(e.byDev, n.dev)
	done := e.detach(n)
	e.mu.Unlock()
	wait(done)
}

func wait(done chan struct{}) {
	if done != nil {
		<-done
	}
}

// start attaches all networks whose devices are there.
func (e *netEngine) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serving {
		return fmt.Errorf("already serving: %w", vnet.ErrConflict)
	}
	e.serving = true
	for _, n := range e.nets {
		e.attach(n)
	}
	return nil
}

// stop detaches all and waits for what is being answered.
func (e *netEngine) stop() {
	e.mu.Lock()
	e.serving = false
	var all []chan struct{}
	for _, n := range e.nets {
		all = append(all, e.detach(n))
	}
	e.mu.Unlock()
	for _, d := range all {
		wait(d)
	}
}

// device tells the engine that a device came, changed (index, MAC) or went.
func (e *netEngine) device(name string, index int, mac vnet.MAC, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.byDev[name]
	if n == nil {
		return
	}
	if n.sock != nil && (gone || n.sock.index != index || n.sock.mac != mac) {
		e.detach(n)
	}
	if !gone {
		e.attach(n)
	}
}

// recheck looks at all networks' devices, after changes may have been missed.
func (e *netEngine) recheck() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.nets {
		if n.sock != nil {
			index := 0
			_ = e.ns.Do(func() error {
				if ifi, err := net.InterfaceByName(n.dev); err == nil {
					index = ifi.Index
				}
				return nil
			})
			if index != n.sock.index {
				e.detach(n)
			}
		}
		e.attach(n)
	}
}

// attach is called with mu held.
func (e *netEngine) attach(n *network) {
	if !e.serving || n.sock != nil {
		return
	}
	s, err := openSocket(e.ns, n.dev)
	if err != nil {
		n.err = err
		if errors.Is(err, vnet.ErrNotFound) {
			n.err = nil // it will come
		} else {
			e.o.Log.Warn("dhcp: cannot serve network", "network", n.id, "device", n.dev, "error", err)
		}
		return
	}
	n.sock, n.err, n.done = s, nil, make(chan struct{})
	e.o.Metrics.Attached(1)
	e.o.Log.Debug("dhcp: serving network", "network", n.id, "device", n.dev)
	go e.serve(n, s, n.done)
}

// detach is called with mu held; the goroutine has ended when done is closed.
func (e *netEngine) detach(n *network) (done chan struct{}) {
	if n.sock == nil {
		return nil
	}
	n.sock.close()
	n.sock, done = nil, n.done
	e.o.Metrics.Attached(-1)
	return done
}

// status counts networks and says what is wrong with those not attached.
func (e *netEngine) status() (known, attached int, errs []error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.nets {
		known++
		if n.sock != nil {
			attached++
		} else if n.err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", n.id, n.err))
		}
	}
	return known, attached, errs
}

// serve answers what comes in on one network until the socket is closed.
func (e *netEngine) serve(n *network, s *socket, done chan struct{}) {
	defer close(done)
	w := engine.NewWorker(e.o, n.id, n.wire, s.mac, func(frame []byte, _ uint32) error { return s.send(frame) })
	defer w.Flush()
	for {
		if due, ok := w.Waiting(); ok {
			s.deadline(due)
		}
		in, err := s.receive(&e.frames)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.deadline(time.Time{})
			w.Flush()
			continue
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENOBUFS):
			// Down, or about to go: the watcher of devices says which.
			time.Sleep(time.Millisecond)
			continue
		default:
			return
		}
		at := time.Now()
		for i := range in.n {
			w.Handle(in.frame(i), 0, at)
		}
		full := in.n == batch
		e.frames.Put(in) // the codec copies what it keeps
		due, waiting := w.Waiting()
		if waiting && !at.Before(due) {
			w.Flush()
			waiting = false
		}
		if !waiting {
			s.deadline(time.Time{})
		}
		if full {
			if d := s.dropped(); d > 0 {
				e.o.Metrics.QueueFull(float64(d))
			}
		}
	}
}

// tick counts what the kernel dropped, on networks that are quiet now too.
func (e *netEngine) tick(ctx context.Context) {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		e.mu.Lock()
		for _, n := range e.nets {
			if n.sock != nil {
				if d := n.sock.dropped(); d > 0 {
					e.o.Metrics.QueueFull(float64(d))
				}
			}
		}
		e.mu.Unlock()
	}
}

func newEngine(ns enterer, o *engine.Options) *netEngine {
	return &netEngine{ns: ns, o: o, nets: map[string]*network{}, byDev: map[string]*network{}, frames: sync.Pool{New: func() any { return new(frames) }}}
}

func (e *netEngine) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serving
}

// explain says how the network is served.
func (e *netEngine) explain(id string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nets[id]
	switch {
	case n == nil:
		return "not served: it has no scope"
	case n.sock != nil:
		return fmt.Sprintf("packet socket on %s (index %d, %s)", n.dev, n.sock.index, n.sock.mac)
	case !e.serving:
		return fmt.Sprintf("device %s; Serve is not running", n.dev)
	case n.err != nil:
		return fmt.Sprintf("device %s: %v", n.dev, n.err)
	}
	return fmt.Sprintf("waiting for device %s", n.dev)
}

// ExplainNetwork implements [engine.Carrier].
func (e *netEngine) ExplainNetwork(x *vnet.Explanation, id string) { x.Add(e.explain(id)) }

// ExplainScope implements [engine.Carrier].
func (e *netEngine) ExplainScope(x *vnet.Explanation, s dhcp.Scope) {
	switch {
	case !s.Is4():
	case s.ServerIP == s.Router:
		x.Add(fmt.Sprintf("server identifier %s is the router's, which answers ARP for it", s.ServerIP))
	default:
		x.Add(fmt.Sprintf("ARP for %s is answered with the device's MAC", s.ServerIP))
	}
}
