package linuxdhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/hub"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// engine serves networks: each has one socket and one goroutine, so a flood
// on one network keeps only itself busy, and the kernel bounds its queue.
type engine struct {
	ns      enterer
	store   *leasestore.Store // nil: no pools
	rate    float64
	burst   int
	metrics *metrics
	hub     *hub.Hub
	log     *slog.Logger
	frames  sync.Pool

	mu      sync.Mutex
	serving bool
	nets    map[string]*network // by id
	byDev   map[string]*network
}

// network is one network being served, or waiting for its device.
type network struct {
	id, dev string
	wire    *dhcpwire.Server

	// Guarded by engine.mu.
	sock *socket // nil: not attached
	done chan struct{}
	err  error // why not attached, when the device is there
}

// add makes the network known and attaches it when its device is there.
func (e *engine) add(id, dev string, wire *dhcpwire.Server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := &network{id: id, dev: dev, wire: wire}
	e.nets[id], e.byDev[dev] = n, n
	e.attach(n)
}

// remove stops serving the network.
func (e *engine) remove(id string) {
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
func (e *engine) start() error {
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
func (e *engine) stop() {
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
func (e *engine) device(name string, index int, mac vnet.MAC, gone bool) {
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
func (e *engine) recheck() {
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
func (e *engine) attach(n *network) {
	if !e.serving || n.sock != nil {
		return
	}
	s, err := openSocket(e.ns, n.dev)
	if err != nil {
		n.err = err
		if errors.Is(err, vnet.ErrNotFound) {
			n.err = nil // it will come
		} else {
			e.log.Warn("dhcp: cannot serve network", "network", n.id, "device", n.dev, "error", err)
		}
		return
	}
	n.sock, n.err, n.done = s, nil, make(chan struct{})
	e.metrics.attached.Inc()
	e.log.Debug("dhcp: serving network", "network", n.id, "device", n.dev)
	go e.serve(n, s, n.done)
}

// detach is called with mu held; the goroutine has ended when done is closed.
func (e *engine) detach(n *network) (done chan struct{}) {
	if n.sock == nil {
		return nil
	}
	n.sock.close()
	n.sock, done = nil, n.done
	e.metrics.attached.Dec()
	return done
}

// status counts networks and says what is wrong with those not attached.
func (e *engine) status() (known, attached int, errs []error) {
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

// answer is a frame to be sent.
type answer struct {
	frame   []byte
	durable bool
	count   prometheus.Counter
	notices []dhcpwire.Notice
}

// Under load the lease store is synced at most once in flushEvery, for all
// that was asked meanwhile; a client that is alone does not wait for others.
// flushMost bounds how many answers leave at once: a relay's socket takes
// about a hundred.
const (
	flushEvery = time.Millisecond
	flushMost  = 32
)

// serve answers what comes in on one network until the socket is closed.
func (e *engine) serve(n *network, s *socket, done chan struct{}) {
	defer close(done)
	w := &worker{e: e, n: n, sock: s, mac: s.mac, ll: s.mac.LinkLocal(), limit: newLimiter(e.rate, e.burst)}
	defer w.flush()
	for {
		if len(w.waiting) > 0 {
			s.deadline(w.flushed.Add(flushEvery))
		}
		in, err := s.receive(&e.frames)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.deadline(time.Time{})
			w.flush()
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
			a, ok := w.handle(in.frame(i), at)
			switch {
			case !ok:
			case a.durable:
				if w.waiting = append(w.waiting, a); len(w.waiting) >= flushMost {
					w.flush()
				}
			default:
				w.send(a)
			}
		}
		full := in.n == batch
		e.frames.Put(in) // the codec copies what it keeps
		if at.Sub(w.flushed) >= flushEvery {
			w.flush()
		}
		if len(w.waiting) == 0 {
			s.deadline(time.Time{})
		}
		if full {
			if d := s.dropped(); d > 0 {
				e.metrics.dropped.WithLabelValues(dropQueue).Add(float64(d))
			}
		}
	}
}

// worker answers the frames of one network.
type worker struct {
	e       *engine
	n       *network
	sock    *socket
	mac     vnet.MAC
	ll      netip.Addr
	limit   *limiter
	waiting []answer  // until the lease store is synced
	flushed time.Time // last time it was
}

// flush syncs the lease store and sends what waited for it.
func (w *worker) flush() {
	if len(w.waiting) == 0 {
		return
	}
	err := w.e.store.Flush()
	w.flushed = time.Now()
	if err != nil {
		w.e.log.Error("dhcp: leases cannot be kept", "network", w.n.id, "error", err)
	}
	for i, a := range w.waiting {
		if err != nil {
			w.e.metrics.dropped.WithLabelValues(dropStore).Inc()
		} else {
			w.send(a)
		}
		w.waiting[i] = answer{}
	}
	w.waiting = w.waiting[:0]
}

// send puts the answer on the device and tells of what happened.
func (w *worker) send(a answer) {
	if a.frame != nil {
		if err := w.sock.send(a.frame); err != nil {
			w.e.metrics.dropped.WithLabelValues(dropSend).Inc()
			return
		}
		a.count.Inc()
	}
	if len(a.notices) > 0 && w.e.hub.Any() {
		for _, x := range a.notices {
			w.e.hub.Tell(x.Event())
		}
	}
}

func (w *worker) drop(reason string) (answer, bool) {
	w.e.metrics.dropped.WithLabelValues(reason).Inc()
	return answer{}, false
}

// handle answers one frame; ok is false when there is nothing to do.
func (w *worker) handle(b []byte, at time.Time) (a answer, ok bool) {
	f := parse(b)
	m := w.e.metrics
	switch f.kind {
	case other:
		return w.drop(dropFrame)
	case arpRequest, solicitation:
		// Most are for others: they cost their senders nothing.
		mine := f.kind == arpRequest && w.n.wire.Answers(f.target, f.packet.MAC) || f.kind == solicitation && f.target == w.ll && w.n.wire.Answers6(f.packet.MAC)
		if !mine {
			return answer{}, false
		}
		if !w.limit.allow(f.packet.MAC, at, false) {
			return w.drop(dropLimit)
		}
		if f.kind == arpRequest {
			return answer{frame: arpReply(nil, w.mac, f), count: m.arp}, true
		}
		return answer{frame: advertisement(nil, w.mac, f), count: m.nd}, true
	}
	// A relay carries many clients: each has its own bucket.
	key, relayed := f.packet.MAC, false
	if f.kind == dhcp4 {
		if relay, client := giaddr(f.packet.Payload); !relay.IsUnspecified() && w.n.wire.TrustsRelay(relay) {
			key, relayed = client, true
		}
	} else if p := f.packet.Payload; len(p) >= 34 && p[0] == 12 && w.n.wire.TrustsRelay(f.packet.Src.Addr()) {
		copy(key[:], p[28:34]) // the end of the peer-address
		relayed = true
	}
	if !w.limit.allow(key, at, relayed) {
		return w.drop(dropLimit)
	}
	family, r := "4", dhcpwire.Result{}
	if f.kind == dhcp4 {
		r = w.n.wire.Handle4(f.packet)
	} else {
		family = "6"
		r = w.n.wire.Handle6(f.packet)
	}
	if r.Request != "" {
		m.requests.WithLabelValues(family, r.Request).Inc()
	}
	if r.Drop != "" {
		m.dropped.WithLabelValues(r.Drop).Inc()
	}
	a = answer{durable: r.Durable, notices: r.Notices}
	if r.Payload != nil {
		if f.kind == dhcp6 {
			r.Src = netip.AddrPortFrom(w.ll, r.Src.Port())
		}
		a.frame = datagram(make([]byte, 0, ethLen+ip6Len+udpLen+len(r.Payload)), w.mac, r)
		a.count = m.replies.WithLabelValues(family, r.Reply)
	}
	return a, a.frame != nil || a.durable || len(a.notices) > 0
}

// tick counts what the kernel dropped, on networks that are quiet now too.
func (e *engine) tick(ctx context.Context) {
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
					e.metrics.dropped.WithLabelValues(dropQueue).Add(float64(d))
				}
			}
		}
		e.mu.Unlock()
	}
}

func newEngine(ns enterer, o Options, m *metrics, h *hub.Hub) *engine {
	return &engine{
		ns: ns, store: o.Leases, rate: o.ClientRate, burst: o.ClientBurst, metrics: m, hub: h, log: o.Logger,
		nets: map[string]*network{}, byDev: map[string]*network{}, frames: sync.Pool{New: func() any { return new(frames) }},
	}
}

func (e *engine) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serving
}

// explain says how the network is served.
func (e *engine) explain(id string) string {
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
