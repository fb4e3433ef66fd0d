package ovsrouter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
)

// How often neighbours that do not answer are looked at, and how long what
// Serve knows of the routers is taken to be so.
const (
	tickEvery  = 200 * time.Millisecond
	knownFor   = time.Second
	answerRate = 200 // a second, of all routers
)

// book is what Serve knows of the routers here.
type book struct {
	mu   sync.Mutex
	all  map[uint16]station // by number
	read time.Time
}

// forget makes the book be read again when it is needed.
func (k *book) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read = time.Time{}
}

// read reads the routers that stand, and the floating IPs at this host's ports.
func (b *Backend) read(ctx context.Context) (out map[string]site, edges []fip, err error) {
	_, err = b.sw.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		w := &work{b: b, tx: tx}
		rs, err := every[router.Router](w, kindRouter)
		if err != nil {
			return err
		}
		if b.o.DistributedFloatingIPs {
			if edges, err = every[fip](w, kindFIP); err != nil {
				return err
			}
			edges = slices.DeleteFunc(edges, func(f fip) bool { return f.Here != atEdge })
		}
		out, err = w.sites(router.State{Routers: rs})
		return err
	})
	return out, edges, err
}

// look calls f for the routers that stand, by number.
func (b *Backend) look(ctx context.Context, f func(all map[uint16]station)) {
	b.book.mu.Lock()
	defer b.book.mu.Unlock()
	if time.Since(b.book.read) > knownFor {
		sites, edges, err := b.read(ctx)
		if err != nil {
			b.log.Debug("router: read", "err", err)
			return
		}
		macs := map[string]map[netip.Addr]vnet.MAC{}
		for _, f := range edges {
			if macs[f.RouterID] == nil {
				macs[f.RouterID] = map[netip.Addr]vnet.MAC{}
			}
			macs[f.RouterID][f.FloatingIP.FloatingIP] = f.ExternalMAC
		}
		b.book.all, b.book.read = map[uint16]station{}, time.Now()
		for _, s := range sites {
			b.book.all[s.number] = station{s.r, s.number, s.home, s.nets, macs[s.r.ID]}
		}
	}
	f(b.book.all)
}

// station is the router with a number.
func (b *Backend) station(ctx context.Context, number uint16) (s station, ok bool) {
	b.look(ctx, func(all map[uint16]station) { s, ok = all[number] })
	return s, ok
}

// solicited answers a neighbour solicitation for an address of a router.
func (b *Backend) solicited(ctx context.Context, p report) (o *out) {
	k, ok := parse(p.frame)
	if !ok || len(k.l4) < 24 {
		return nil
	}
	target := netip.AddrFrom16([16]byte(k.l4[8:24]))
	b.look(ctx, func(all map[uint16]station) {
		for _, s := range all {
			for _, x := range sides(s.r) {
				if s.nets[x.network] == p.network() && slices.Contains(x.own(), target) {
					o = onNetwork(p.network(), routed, advertisement(x.mac, k.from, target, k.src))
				}
			}
		}
	})
	return o
}

// Serve implements [router.Runner]: it sends router advertisements, asks for
// neighbours, and says what routers say, until ctx ends. Of advertisements it
// then says nothing: the routers go on without this process. That a
// router is none any more is said when its interface, its advertisements or
// itself are removed.
func (b *Backend) Serve(ctx context.Context) error {
	if !b.serving.TryLock() {
		return fmt.Errorf("routers are being served already: %w", vnet.ErrConflict)
	}
	defer b.serving.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packets := b.sw.Packets(ctx, vnet.PartRouter)
	sites, _, err := b.read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var follows sync.WaitGroup
	follows.Go(func() { b.follow(ctx) })
	defer follows.Wait()
	defer cancel()
	adverts := map[string]map[string]advert{}
	for id, s := range sites {
		adverts[id] = s.adverts()
	}
	b.adverts.all(adverts)
	b.adverts.serve(ctx)
	defer b.adverts.rest()
	defer cancel()
	q := resolver{}
	answers := bucket{}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	say := func(all ...*out) {
		for _, o := range all {
			if o == nil {
				continue
			}
			if err := b.send(ctx, o); err != nil && ctx.Err() == nil {
				b.log.Debug("router: say", "err", err)
			}
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			say(q.tick(now)...)
		case in, ok := <-packets:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("the switch is gone: %w", vnet.ErrNotReady)
			}
			p, ok := reportOf(in)
			if !ok {
				continue
			}
			switch p.what {
			case askRS:
				b.adverts.hear(p.network(), p.frame)
			case askHeard:
				if a, ok := told(p.frame); ok {
					say(q.heard(p.network(), a)...)
				}
			case askNeighbour:
				if s, ok := b.station(ctx, uint16(p.reg(4))); ok {
					question, full := q.add(s, p, time.Now())
					say(question)
					if full {
						if err := b.sw.Learn(ctx, hush(p, b.sw.LearnCookie(vnet.PartRouter, kindRouter, s.r.ID))); err != nil && ctx.Err() == nil {
							b.log.Debug("router: hush", "err", err)
						}
					}
				}
			case askSolicit:
				say(b.solicited(ctx, p))
			default:
				if s, ok := b.station(ctx, uint16(p.reg(4))); ok && answers.take(time.Now()) {
					say(answer(s, p))
				}
			}
		}
	}
}

// reportOf reads what a flow of this package handed over.
func reportOf(in *of.PacketIn) (report, bool) {
	if len(in.UserData) == 0 {
		return report{}, false
	}
	var regs [16]uint32
	for n := range regs {
		if c, ok := in.Metadata.Get(of.Reg(n)); ok {
			regs[n] = uint32(c.Value.Lo)
		}
	}
	return report{in.UserData[0], in.Table, func(n int) uint32 { return regs[n] }, in.Packet}, true
}

// bucket bounds how much routers say: [answerRate] a second, and as much at once.
type bucket struct {
	used float64
	last time.Time
}

func (k *bucket) take(now time.Time) bool {
	k.used = max(0, k.used-answerRate*now.Sub(k.last).Seconds())
	k.last = now
	if k.used >= answerRate {
		return false
	}
	k.used++
	return true
}
