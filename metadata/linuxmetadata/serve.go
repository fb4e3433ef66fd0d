package linuxmetadata

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
)

// served is an endpoint that this process answers at.
type served struct {
	e        metadata.Endpoint
	ns       *linux.Namespace
	networks atomic.Pointer[map[int]string] // router: index of device -> network
	cancel   context.CancelFunc
	done     chan struct{}
	up       bool  // guarded by Backend.emu
	err      error // guarded by Backend.emu
}

// recheck is how often Serve looks by itself for what no event told.
const recheck = 5 * time.Second

// Serve answers at all endpoints, those there are and those to come, until ctx
// ends, when it returns nil; requests being answered then get two seconds. One
// Serve runs at a time; another is [vnet.ErrConflict].
func (b *Backend) Serve(ctx context.Context) error {
	if err := b.a.Ready(); err != nil {
		return err
	}
	b.emu.Lock()
	if b.running {
		b.emu.Unlock()
		return fmt.Errorf("serving already: %w", vnet.ErrConflict)
	}
	b.running = true
	b.emu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		b.emu.Lock()
		all := b.serving
		b.serving = map[string]*served{}
		b.running = false
		b.emu.Unlock()
		for _, s := range all {
			<-s.done
		}
		b.a.Serving(0)
	}()
	watch := make(chan error, 1)
	wg.Go(func() {
		watch <- b.h.NS().RTNL().Watch(ctx, func(rtnl.LinkEvent) { b.poke() })
	})
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	b.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watch:
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("watching devices ended")
			}
			return fmt.Errorf("metadata: %w", err)
		case <-tick.C:
		case <-b.wake:
		}
		b.reconcile(ctx)
		// Devices come in crowds; one look for all of them will do.
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reconcile makes what could not be made before, follows routers whose
// devices changed, and starts and stops answering.
func (b *Backend) reconcile(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.emu.Lock()
	want := make([]metadata.Endpoint, 0, len(b.endpoints))
	for _, e := range b.endpoints {
		want = append(want, e)
	}
	b.emu.Unlock()
	stand, err := b.standing(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("metadata: endpoints cannot be listed", "error", err)
		}
		return
	}
	here := map[string]bool{}
	for _, e := range want {
		steps, err := b.steps(ctx, e, stand)
		if err == nil && len(steps) > 0 {
			err = b.h.Submit(ctx, steps...)
		}
		if err != nil && ctx.Err() == nil {
			// The next event of a device, or the next round, tries again.
			b.log.Info("metadata: endpoint not made yet", "endpoint", e.ID, "error", err)
		}
		name := b.h.NetnsName(vnet.PartRouter, e.RouterID)
		if e.NetworkID != "" {
			name = b.h.NetnsName(vnet.PartMetadata, e.ID)
		}
		ns, err := b.h.Namespace(ctx, name)
		if err != nil {
			continue
		}
		here[e.ID] = true
		b.answer(ctx, e, ns)
	}
	b.emu.Lock()
	defer b.emu.Unlock()
	up := 0
	for id, s := range b.serving {
		if !here[id] {
			s.cancel()
			delete(b.serving, id)
		} else if s.up {
			up++
		}
	}
	b.a.Serving(up)
}

// answer starts answering at e in ns, unless it is so already.
func (b *Backend) answer(ctx context.Context, e metadata.Endpoint, ns *linux.Namespace) {
	b.emu.Lock()
	s := b.serving[e.ID]
	b.emu.Unlock()
	if s != nil {
		b.emu.Lock()
		same := s.ns == ns && s.e.RouterID == e.RouterID && s.e.NetworkID == e.NetworkID && s.err == nil
		b.emu.Unlock()
		if same {
			b.learn(ctx, s)
			return
		}
		s.cancel()
		<-s.done
	}
	s = &served{e: e, ns: ns, done: make(chan struct{})}
	b.learn(ctx, s)
	own, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	ls, err := b.listen(ctx, s)
	b.emu.Lock()
	defer b.emu.Unlock()
	b.serving[e.ID] = s
	if s.err = err; err != nil {
		cancel()
		close(s.done)
		b.log.Warn("metadata: cannot listen", "endpoint", e.ID, "error", err)
		return
	}
	s.up = true
	go func() {
		defer close(s.done)
		err := b.a.Serve(own, ls...)
		b.emu.Lock()
		defer b.emu.Unlock()
		s.up = false
		if err != nil && own.Err() == nil {
			s.err = err
			b.poke()
		}
	}()
}

// learn finds out which device of a router is on which network.
func (b *Backend) learn(ctx context.Context, s *served) {
	if s.e.RouterID == "" {
		return
	}
	_, ports, err := b.internal(s.ns)
	if err != nil {
		return
	}
	bridges, err := b.h.Links(ctx, vnet.PartOverlay)
	if err != nil {
		return
	}
	outer, err := b.h.Links(ctx, vnet.PartRouter)
	if err != nil {
		return
	}
	network := map[int]string{}
	for _, l := range bridges {
		if l.Kind == "network" {
			network[l.Index] = l.ID
		}
	}
	byPort := map[string]string{}
	for _, l := range outer {
		byPort[l.ID] = network[l.Master]
	}
	out := map[int]string{}
	for index, port := range ports {
		if n := byPort[port]; n != "" {
			out[index] = n
		}
	}
	s.networks.Store(&out)
}

// listen opens the sockets of an endpoint in its namespace.
func (b *Backend) listen(ctx context.Context, s *served) ([]metadata.Listener, error) {
	port := answer.Port
	if s.e.RouterID != "" {
		port = proxyPort
	}
	return answer.Listen(ctx, s.ns, port, s.who)
}

// who is at the other end of a connection.
func (s *served) who(source netip.Addr, zone int) (metadata.Asker, bool) {
	network := s.e.NetworkID
	if s.e.RouterID != "" && source.Is6() && source.IsLinkLocalUnicast() {
		if m := s.networks.Load(); m != nil {
			network = (*m)[zone]
		}
		if network == "" { // the same address may be on each of the router's networks
			return metadata.NewAsker(s.e.RouterID, "", source), false
		}
	}
	return metadata.NewAsker(s.e.RouterID, network, source), true
}
