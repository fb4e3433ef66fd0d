package ovsdhcp

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/engine"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
)

// queued is how many requests of one network wait; more are dropped.
const queued = 512

// batch is how many are looked at before answers that wait for the lease
// store go out.
const batch = 64

// portShare is how much more than one client all clients of a port may send.
const portShare = 10

// senders is how many answers are on their way to the switch at once: it says
// of each when it has taken it, and looks at what it was sent in rounds.
const senders = 16

// sendTimeout is how long an answer waits for a switch that is away.
const sendTimeout = time.Second

// cutFor is how long a port that floods is not heard.
const cutFor = time.Second

// packets takes what the switch sends and answers it: each network has a
// queue and a goroutine of its own, so a flood on one keeps only itself busy.
type packets struct {
	sw *ovs.Switch
	o  *engine.Options
	// deaf are the flows that cut a port off.
	deaf func(network string, number, port uint16) []openflow.Flow

	mu       sync.RWMutex
	running  bool
	nets     map[string]*network
	byNumber map[uint16]*network
	slots    map[string]map[uint16]string // network -> slot -> scope
	numbers  map[string]uint16            // network -> number
	out      chan reply                   // while running
}

type network struct {
	id    string
	wire  *dhcpwire.Server
	mac   vnet.MAC
	queue chan request
	done  chan struct{} // nil: no goroutine
}

// reply is an answer on its way.
type reply struct {
	frame []byte
	via   uint32
}

type request struct {
	frame []byte
	port  uint16 // 0: from the wire
	net   uint16
}

func newPackets(sw *ovs.Switch, o *engine.Options) *packets {
	return &packets{sw: sw, o: o, nets: map[string]*network{}, byNumber: map[uint16]*network{}, slots: map[string]map[uint16]string{}, numbers: map[string]uint16{}}
}

// slot is what tells the flows of a scope from those of others of its network.
func (e *packets) slot(net, scope string) (uint16, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	have := e.slots[net]
	if have == nil {
		have = map[uint16]string{}
		e.slots[net] = have
	}
	for i, s := range have {
		if s == scope {
			return i, nil
		}
	}
	for i := range uint16(maxSlots) {
		if _, taken := have[i]; !taken {
			have[i] = scope
			return i, nil
		}
	}
	return 0, fmt.Errorf("network %s has %d scopes: %w", net, maxSlots, vnet.ErrConflict)
}

func (e *packets) free(net, scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, s := range e.slots[net] {
		if s == scope {
			delete(e.slots[net], i)
		}
	}
	if len(e.slots[net]) == 0 {
		delete(e.slots, net)
	}
}

// hold takes a slot that stands in the switch.
func (e *packets) hold(net, scope string, slot uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slots[net] == nil {
		e.slots[net] = map[uint16]string{}
	}
	e.slots[net][slot] = scope
}

// scopes are those of a network that have a slot.
func (e *packets) scopes(net string) []string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return slices.Collect(maps.Values(e.slots[net]))
}

// number says what number a network has in the switch.
func (e *packets) number(net string, number uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.numbers[net]; old != number && e.byNumber[old] == e.nets[net] {
		delete(e.byNumber, old)
	}
	e.numbers[net] = number
	if n := e.nets[net]; n != nil {
		e.byNumber[number] = n
	}
}

// begin serves the network, end does no more.
func (e *packets) begin(id string, wire *dhcpwire.Server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := &network{id: id, wire: wire, mac: serverMAC(e.sw.Owner(), id)}
	e.nets[id] = n
	if k, ok := e.numbers[id]; ok {
		e.byNumber[k] = n
	}
	if e.running {
		e.attach(n)
	}
}

func (e *packets) end(id string) {
	e.mu.Lock()
	n := e.nets[id]
	delete(e.nets, id)
	delete(e.byNumber, e.numbers[id])
	delete(e.numbers, id)
	done := e.detach(n)
	e.mu.Unlock()
	wait(done)
}

// attach and detach are called with mu held.
func (e *packets) attach(n *network) {
	n.queue, n.done = make(chan request, queued), make(chan struct{})
	e.o.Metrics.Attached(1)
	go e.serve(n, e.out, n.queue, n.done)
}

func (e *packets) detach(n *network) chan struct{} {
	if n == nil || n.done == nil {
		return nil
	}
	done := n.done
	close(n.queue)
	n.queue, n.done = nil, nil
	e.o.Metrics.Attached(-1)
	return done
}

func wait(done chan struct{}) {
	if done != nil {
		<-done
	}
}

func (e *packets) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return fmt.Errorf("already serving: %w", vnet.ErrConflict)
	}
	e.running, e.out = true, make(chan reply, queued)
	for range senders {
		go e.deliver(e.out)
	}
	for _, n := range e.nets {
		e.attach(n)
	}
	return nil
}

func (e *packets) stop() {
	e.mu.Lock()
	e.running = false
	var all []chan struct{}
	for _, n := range e.nets {
		all = append(all, e.detach(n))
	}
	e.mu.Unlock()
	for _, d := range all {
		wait(d)
	}
	close(e.out)
}

// serving is how many networks are served; -1 when Serve does not run.
func (e *packets) serving() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !e.running {
		return -1
	}
	return len(e.nets)
}

func (e *packets) explain(id string) string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	n := e.nets[id]
	switch {
	case n == nil:
		return "not served: it has no scope"
	case !e.running:
		return fmt.Sprintf("network number %d; Serve is not running", e.numbers[id])
	}
	return fmt.Sprintf("network number %d, served at %s and %s", e.numbers[id], n.mac, n.mac.LinkLocal())
}

// take puts what came in into the queue of its network. It never waits.
func (e *packets) take(r request) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	n := e.byNumber[r.net]
	if n == nil || n.queue == nil {
		return
	}
	select {
	case n.queue <- r:
	default:
		e.o.Metrics.QueueFull(1)
	}
}

// relayed reports whether the network's scopes name relays: then a port may
// have many clients behind it.
func (e *packets) relayed(net uint16) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	n := e.byNumber[net]
	return n != nil && n.wire.Relayed()
}

// run hands out what the switch sends, until ctx ends or the handle is closed.
func (e *packets) run(ctx context.Context) {
	in := e.sw.Packets(ctx, vnet.PartDHCP)
	ports := engine.NewLimiter[uint16](e.o.Rate*portShare, e.o.Burst*portShare)
	cuts := make(cuts, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(cuts)
	wg.Go(func() { e.cut(ctx, cuts) })
	for p := range in {
		r := request{frame: p.Packet, net: uint16(p.Field(openflow.Reg(pipeline.RegNetwork)).Lo), port: uint16(p.Field(openflow.Reg(pipeline.RegIn)).Lo)}
		if at := time.Now(); r.port != 0 && !ports.Allow(r.port, at, false) && !e.relayed(r.net) {
			e.o.Metrics.Limited()
			cuts.add(r.net, r.port)
			continue
		}
		e.take(r)
	}
}

// serve answers what comes in on one network until the queue is closed.
func (e *packets) serve(n *network, out chan reply, queue chan request, done chan struct{}) {
	defer close(done)
	w := engine.NewWorker(e.o, n.id, n.wire, n.mac, func(frame []byte, via uint32) error { out <- reply{frame, via}; return nil })
	defer w.Flush()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, waiting := w.Waiting()
		if waiting {
			timer.Reset(time.Until(due))
		}
		select {
		case r, ok := <-queue:
			if !ok {
				return
			}
			at := time.Now()
			w.Handle(r.frame, r.via(), at)
		more:
			for range batch - 1 {
				select {
				case r, ok := <-queue:
					if !ok {
						return
					}
					w.Handle(r.frame, r.via(), at)
				default:
					break more
				}
			}
			if due, ok := w.Waiting(); ok && !at.Before(due) {
				w.Flush()
			}
		case <-timer.C:
			w.Flush()
		}
	}
}

// deliver sends answers to the ports that asked, or into the network when the
// question came from the wire.
func (e *packets) deliver(out chan reply) {
	from := openflow.InPort.Is(uint64(openflow.PortController))
	for r := range out {
		ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
		net, port := uint16(r.via>>16), uint16(r.via)
		var err error
		if port != 0 {
			err = e.sw.Inject(ctx, []openflow.Cond{from}, r.frame, openflow.Output{Port: openflow.Port(port)})
		} else {
			err = e.sw.Inject(ctx, []openflow.Cond{from, openflow.Reg(pipeline.RegNetwork).Is(uint64(net))}, r.frame, openflow.Goto(pipeline.L2))
		}
		cancel()
		if err != nil {
			e.o.Metrics.SendFailed()
		}
	}
}

// via is how an answer gets back: the port, or the network's wire.
func (r request) via() uint32 { return uint32(r.net)<<16 | uint32(r.port) }

// action hands a packet to this process.
func action() openflow.Action { return openflow.Controller{ID: ovs.ControllerID} }
