package ovsmetadata

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pktio"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
	"github.com/vnet-go/vnet/ovs"
)

// served is an endpoint that this process answers at.
type served struct {
	r        record
	ns       *linux.Namespace
	networks atomic.Pointer[map[uint16]string]
	cancel   context.CancelFunc
	done     chan struct{}
	up       bool  // guarded by core.mu
	err      error // guarded by core.mu
}

// recheck is how often Serve looks by itself for what no event told.
const recheck = 5 * time.Second

// Serve makes the host's metadata device and answers at all endpoints, those
// there are and those to come, until ctx ends, when it returns nil; requests
// being answered then get two seconds, and the device stays for the next. While
// the switch is away it waits. One Serve runs at a time; another is
// [vnet.ErrConflict].
func (b *Backend) Serve(ctx context.Context) error {
	if err := b.a.Ready(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.running {
		b.mu.Unlock()
		return fmt.Errorf("serving already: %w", vnet.ErrConflict)
	}
	b.running = true
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var wg gosync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		b.mu.Lock()
		all := b.serving
		b.serving, b.running = map[string]*served{}, false
		b.mu.Unlock()
		for _, s := range all {
			<-s.done
		}
		b.a.Serving(0)
	}()
	wg.Go(func() { b.neighbours(ctx) })
	wg.Go(func() {
		for range b.sw.Watch(ctx) {
			b.poke()
		}
	})
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	b.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-b.wake:
		}
		if err := b.reconcile(ctx); err != nil && ctx.Err() == nil {
			b.log.Info("metadata: not all can be answered; going on as it was", "error", err)
		}
		// Endpoints come in crowds; one look for all of them will do.
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reconcile makes the device while there are endpoints, follows routers whose
// networks changed, and starts and stops answering.
func (b *Backend) reconcile(ctx context.Context) error {
	if err := b.load(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	want := maps.Clone(b.endpoints)
	b.mu.Unlock()
	if err := b.follow(ctx, want); err != nil {
		return err
	}
	ns, err := b.device(ctx, len(want) > 0)
	b.mu.Lock()
	if ctx.Err() == nil {
		b.err = err
	}
	for id, s := range b.serving {
		if r, ok := want[id]; !ok || ns == nil || s.ns != ns || s.r.TCP != r.TCP || !s.r.Endpoint.Equal(r.Endpoint) || s.err != nil {
			s.cancel()
			b.mu.Unlock()
			<-s.done
			b.mu.Lock()
			delete(b.serving, id)
		}
	}
	b.mu.Unlock()
	if err != nil || ns == nil {
		b.a.Serving(0)
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		b.answer(ctx, want[id], ns)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.serving {
		if s.up {
			n++
		}
	}
	b.a.Serving(n)
	return nil
}

// follow puts the endpoints in routers anew whose routers have other networks.
func (b *Backend) follow(ctx context.Context, want map[string]record) error {
	var changed []metadata.Endpoint
	_, err := b.sw.Plan(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error {
		changed = changed[:0]
		for _, id := range slices.Sorted(maps.Keys(want)) {
			r := want[id]
			if r.Endpoint.RouterID == "" {
				continue
			}
			networks, err := attached(tx, r.Endpoint.RouterID)
			if err != nil {
				return err
			}
			slices.Sort(networks)
			if !slices.Equal(networks, slices.Sorted(maps.Values(r.Networks))) {
				changed = append(changed, r.Endpoint)
			}
		}
		return nil
	})
	if err != nil || len(changed) == 0 {
		return err
	}
	return b.sw.Submit(ctx, vnet.PartMetadata, func(tx *ovs.Tx) error {
		for _, e := range changed {
			if _, ok := tx.Get(kindEndpoint, e.ID); !ok {
				continue // it went meanwhile, or the switch has been restarted
			}
			if err := b.put(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// answer starts answering at an endpoint, unless it is so already.
func (b *Backend) answer(ctx context.Context, r record, ns *linux.Namespace) {
	id := r.Endpoint.ID
	b.mu.Lock()
	s := b.serving[id]
	b.mu.Unlock()
	if s != nil {
		s.networks.Store(&r.Networks)
		return
	}
	s = &served{r: r, ns: ns, done: make(chan struct{})}
	s.networks.Store(&r.Networks)
	own, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	ls, err := answer.ListenAt(ctx, ns, int(r.TCP), s.who)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serving[id] = s
	if s.err = err; err != nil {
		cancel()
		close(s.done)
		b.log.Warn("metadata: cannot listen", "endpoint", id, "error", err)
		return
	}
	s.up = true
	go func() {
		defer close(s.done)
		err := b.a.Serve(own, ls...)
		b.mu.Lock()
		defer b.mu.Unlock()
		s.up = false
		if err != nil && own.Err() == nil {
			s.err = err
			b.poke()
		}
	}()
}

// who is at the other end of a connection. In a router the network is told for
// link-local addresses only: it is what makes them one's own.
func (s *served) who(source, local netip.Addr) (metadata.Asker, bool) {
	e := s.r.Endpoint
	if e.RouterID == "" {
		return metadata.NewAsker("", e.NetworkID, source), true
	}
	if !source.Is6() || !source.IsLinkLocalUnicast() {
		return metadata.NewAsker(e.RouterID, "", source), true
	}
	network, ok := (*s.networks.Load())[networkOf(local)]
	return metadata.NewAsker(e.RouterID, network, source), ok
}

// Neighbour solicitations of one port that are answered: so many a second,
// after a burst.
const (
	solicitRate  = 20
	solicitBurst = 50
)

// neighbours answers neighbour solicitations for the service's addresses, and
// of our own device for machines, until ctx ends.
func (b *Backend) neighbours(ctx context.Context) {
	type bucket struct {
		tokens float64
		at     time.Time
	}
	ports := map[uint16]*bucket{} // no more than the switch has ports
	for p := range b.sw.Packets(ctx, vnet.PartMetadata) {
		port := uint16(p.Field(openflow.InPort).Lo)
		k, now := ports[port], time.Now()
		if k == nil {
			k = &bucket{solicitBurst, now}
			ports[port] = k
		}
		k.tokens = min(solicitBurst, k.tokens+now.Sub(k.at).Seconds()*solicitRate)
		k.at = now
		if k.tokens < 1 || len(p.UserData) != len(vnet.MAC{}) {
			continue
		}
		k.tokens--
		frame, ok := pktio.AnswerNS(p.Packet, vnet.MAC(p.UserData), false)
		if !ok {
			continue
		}
		err := b.sw.Inject(ctx, []openflow.Cond{openflow.InPort.Is(uint64(openflow.PortController))}, frame, openflow.Output{Port: openflow.Port(port)})
		if err != nil && ctx.Err() == nil {
			b.log.Debug("metadata: a neighbour is not answered", "error", err)
		}
	}
}
