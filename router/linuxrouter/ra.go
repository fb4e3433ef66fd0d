package linuxrouter

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/radv"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/router"
)

// advertiser sends router advertisements for the interfaces it is told of,
// while it is served.
type advertiser struct {
	h  *linux.Host
	mu sync.Mutex
	// want is by router id and port id; running what is being sent.
	want    map[string]map[string]advert
	running map[string]*sender // by port id
	ctx     context.Context    // of Serve; nil while nobody serves
	wg      sync.WaitGroup
}

// advert is one interface to advertise on.
type advert struct {
	netns, dev string
	radv.Config
}

type sender struct {
	advert
	stop   context.CancelFunc
	done   chan struct{}
	ceases atomic.Bool // the router will be none here any more
}

func newAdvertiser(h *linux.Host) *advertiser {
	return &advertiser{h: h, want: map[string]map[string]advert{}, running: map[string]*sender{}}
}

// adverts are the interfaces of r to advertise on.
func (a *advertiser) adverts(r router.Router) map[string]advert {
	m := map[string]advert{}
	for _, i := range r.Interfaces {
		if i.RA == nil || r.AdminDown {
			continue
		}
		x := advert{netns: a.h.NetnsName(vnet.PartRouter, r.ID), dev: a.h.LinkName("i", i.PortID), Config: radv.Config{MAC: i.MAC,
			Managed: i.RA.Mode == router.DHCPv6Stateful, Other: i.RA.Mode == router.DHCPv6Stateless, Autonomous: i.RA.Mode != router.DHCPv6Stateful,
			MTU: i.RA.MTU, RDNSS: i.RA.RDNSS, DNSSL: i.RA.DNSSL, Interval: i.RA.Interval}}
		for _, p := range i.Addresses {
			if p.Addr().Is6() {
				x.Prefixes = append(x.Prefixes, p.Masked())
			}
		}
		m[i.PortID] = x
	}
	return m
}

// set makes the interfaces of r those that are advertised.
func (a *advertiser) set(r router.Router) {
	m := a.adverts(r)
	a.mu.Lock()
	a.want[r.ID] = m
	a.mu.Unlock()
	a.adjust()
}

// keep ends the advertisements of the interfaces that r does not have any
// more, with one that says so, while the devices still stand.
func (a *advertiser) keep(r router.Router) {
	m := a.adverts(r)
	a.mu.Lock()
	for id := range a.want[r.ID] {
		if _, ok := m[id]; !ok {
			delete(a.want[r.ID], id)
		}
	}
	a.mu.Unlock()
	a.adjust()
}

// drop is keep of a router that goes.
func (a *advertiser) drop(routerID string) {
	a.mu.Lock()
	delete(a.want, routerID)
	a.mu.Unlock()
	a.adjust()
}

// adjust starts and ends senders; those that end have said so when it returns.
func (a *advertiser) adjust() {
	a.mu.Lock()
	all := map[string]advert{}
	for _, m := range a.want {
		for id, x := range m {
			all[id] = x
		}
	}
	var ending []*sender
	for id, s := range a.running {
		if x, ok := all[id]; !ok || a.ctx == nil || !reflect.DeepEqual(x, s.advert) {
			if !ok {
				s.ceases.Store(true)
			}
			s.stop()
			ending = append(ending, s)
			delete(a.running, id)
		}
	}
	a.mu.Unlock()
	for _, s := range ending {
		<-s.done
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx == nil {
		return
	}
	for id, x := range all {
		if a.running[id] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(a.ctx)
		s := &sender{advert: x, stop: cancel, done: make(chan struct{})}
		a.running[id] = s
		a.wg.Go(func() {
			defer close(s.done)
			defer cancel()
			s.run(ctx, a.h)
		})
	}
}

// Serve implements [router.Runner]: it sends router advertisements until ctx
// ends. It then says nothing: the routers go on without this process, and the
// next one will be served before their lifetime is over. That a router is none
// any more is said when its interface, its advertisements or itself are removed.
func (b *Backend) Serve(ctx context.Context) error {
	b.a.mu.Lock()
	if b.a.ctx != nil {
		b.a.mu.Unlock()
		return fmt.Errorf("router advertisements are being served already: %w", vnet.ErrConflict)
	}
	b.a.ctx = ctx
	b.a.mu.Unlock()
	b.a.adjust()
	<-ctx.Done()
	b.a.wg.Wait()
	b.a.mu.Lock()
	b.a.ctx = nil
	clear(b.a.running)
	b.a.mu.Unlock()
	return nil
}

// run advertises until ctx ends, over sockets that are opened anew when the
// device or the namespace was made anew.
func (s *sender) run(ctx context.Context, h *linux.Host) {
	for ctx.Err() == nil {
		if err := s.session(ctx, h); err != nil && ctx.Err() == nil {
			h.Logger().Debug("router advertisements", "device", s.dev, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *sender) session(ctx context.Context, h *linux.Host) error {
	ns, err := h.Namespace(ctx, s.netns)
	if err != nil {
		return err
	}
	var c *ndp.Conn
	err = ns.Do(func() error {
		ifi, err := net.InterfaceByName(s.dev)
		if err != nil {
			return err
		}
		c, _, err = ndp.Listen(ifi, ndp.LinkLocal)
		if err != nil {
			return err
		}
		// The hop limit of what is heard says whether it was routed.
		if err := c.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
			return err
		}
		return c.JoinGroup(netip.MustParseAddr("ff02::2"))
	})
	if err != nil {
		if c != nil {
			c.Close()
		}
		return err
	}
	defer c.Close()
	solicited := make(chan netip.Addr, radv.Pending)
	failed := make(chan error, 1)
	go func() {
		for {
			m, cm, from, err := c.ReadFrom()
			from = from.WithZone("")
			if err != nil {
				failed <- err
				return
			}
			if cm == nil || !radv.Solicits(m, cm.HopLimit, from) {
				continue
			}
			select {
			case solicited <- from:
			default:
			}
		}
	}()
	return s.Serve(ctx, h.Logger(), solicited, failed, s.ceases.Load, func(m *ndp.RouterAdvertisement, to netip.Addr) error { return c.WriteTo(m, nil, to) })
}
