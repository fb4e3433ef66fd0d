package linuxmetadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
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
	if b.proxy == nil {
		return &vnet.FieldError{Field: "instances", Reason: "is nil; there is nothing to answer from"}
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
		b.m.serving.Set(0)
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
	b.m.serving.Set(float64(up))
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
		err := b.proxy.Serve(own, ls...)
		for _, l := range ls {
			l.Close()
		}
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
	port := httpPort
	if s.e.RouterID != "" {
		port = proxyPort
	}
	var out []metadata.Listener
	err := s.ns.Do(func() error {
		for network, host := range map[string]string{"tcp4": "0.0.0.0", "tcp6": "::"} {
			l, err := new(net.ListenConfig).Listen(ctx, network, net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			out = append(out, metadata.Listener{Listener: l, Who: s.who, HopLimit: hopLimit})
		}
		return nil
	})
	if err != nil {
		for _, l := range out {
			l.Close()
		}
		return nil, err
	}
	return out, nil
}

// who is at the other end of a connection. The zone of a link-local address is
// an index in the endpoint's namespace: package net would look for its name in
// the process's.
func (s *served) who(c net.Conn) (a metadata.Asker, ok bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return a, false
	}
	var sa unix.Sockaddr
	if cerr := raw.Control(func(fd uintptr) { sa, err = unix.Getpeername(int(fd)) }); cerr != nil || err != nil {
		return a, false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return metadata.NewAsker(s.e.RouterID, s.e.NetworkID, netip.AddrFrom4(sa.Addr)), true
	case *unix.SockaddrInet6:
		source, network := netip.AddrFrom16(sa.Addr), s.e.NetworkID
		if s.e.RouterID != "" && source.IsLinkLocalUnicast() {
			if m := s.networks.Load(); m != nil {
				network = (*m)[int(sa.ZoneId)]
			}
			if network == "" { // the same address may be on each of the router's networks
				return metadata.NewAsker(s.e.RouterID, "", source), false
			}
		}
		return metadata.NewAsker(s.e.RouterID, network, source), true
	}
	return a, false
}

// hopLimit sets the TTL or hop limit of what a connection sends from now on.
func hopLimit(c net.Conn, hops int) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		level, opt := unix.IPPROTO_IP, unix.IP_TTL
		if d, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); e == nil && d == unix.AF_INET6 {
			level, opt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		err = unix.SetsockoptInt(int(fd), level, opt, hops)
	})
	return errors.Join(cerr, err)
}
