package ovsrouter

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/mdlayher/ndp"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/radv"
	"github.com/vnet-go/vnet/router"
)

// advert is one interface to advertise on.
type advert struct {
	network uint16
	bits    uint64 // of register 0: how far an advertisement goes
	radv.Config
}

// advertiser sends router advertisements for the interfaces it is told of,
// while it is served.
type advertiser struct {
	log  *slog.Logger
	send func(ctx context.Context, o *out) error

	mu      sync.Mutex
	want    map[string]map[string]advert // by router id and port id
	running map[string]*sender           // by port id
	ctx     context.Context              // of Serve; nil while nobody serves
	wg      sync.WaitGroup
}

type sender struct {
	advert
	solicited chan netip.Addr
	stop      context.CancelFunc
	done      chan struct{}
	ceases    atomic.Bool // the router will be none here any more

	mu   sync.Mutex
	macs map[netip.Addr]vnet.MAC // of who solicited
}

// where takes the MAC that a solicitation came from.
func (s *sender) where(a netip.Addr) (vnet.MAC, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.macs[a]
	delete(s.macs, a)
	return m, ok
}

func (s *sender) heard(a netip.Addr, m vnet.MAC) {
	s.mu.Lock()
	if len(s.macs) < radv.Pending {
		s.macs[a] = m
	}
	s.mu.Unlock()
	select {
	case s.solicited <- a:
	default:
	}
}

func newAdvertiser(log *slog.Logger, send func(context.Context, *out) error) *advertiser {
	return &advertiser{log: log, send: send, want: map[string]map[string]advert{}, running: map[string]*sender{}}
}

// adverts are the interfaces of a router to advertise on from this host. On a
// network of this cloud's own every host tells its own machines; on a physical
// one the router's host tells all.
func (s site) adverts() map[string]advert {
	m := map[string]advert{}
	for _, x := range s.here() {
		if x.ra == nil || s.r.AdminDown {
			continue
		}
		a := advert{network: s.nets[x.network], bits: fromTunnel | fromWire, Config: radv.Config{MAC: x.mac,
			Managed: x.ra.Mode == router.DHCPv6Stateful, Other: x.ra.Mode == router.DHCPv6Stateless, Autonomous: x.ra.Mode != router.DHCPv6Stateful,
			MTU: x.ra.MTU, RDNSS: x.ra.RDNSS, DNSSL: x.ra.DNSSL, Interval: x.ra.Interval}}
		if s.wire[x.network] {
			a.bits = 0
		}
		for _, p := range x.addrs {
			if p.Addr().Is6() {
				a.Prefixes = append(a.Prefixes, p.Masked())
			}
		}
		m[x.id] = a
	}
	return m
}

// set makes the interfaces of a router those that are advertised.
func (a *advertiser) set(id string, m map[string]advert) {
	a.mu.Lock()
	a.want[id] = m
	a.mu.Unlock()
	a.adjust()
}

// all makes these all the routers that are advertised.
func (a *advertiser) all(m map[string]map[string]advert) {
	a.mu.Lock()
	a.want = m
	a.mu.Unlock()
	a.adjust()
}

// serve begins to advertise.
func (a *advertiser) serve(ctx context.Context) {
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	a.adjust()
}

// rest ends to advertise; ctx has ended.
func (a *advertiser) rest() {
	a.mu.Lock()
	a.ctx = nil
	clear(a.running)
	a.mu.Unlock()
	a.wg.Wait()
}

// adjust starts and ends senders; those that end have said so when it returns.
func (a *advertiser) adjust() {
	a.mu.Lock()
	all := map[string]advert{}
	for _, m := range a.want {
		maps.Copy(all, m)
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
		s := &sender{advert: x, solicited: make(chan netip.Addr, radv.Pending), stop: cancel, done: make(chan struct{}), macs: map[netip.Addr]vnet.MAC{}}
		a.running[id] = s
		a.wg.Go(func() {
			defer close(s.done)
			defer cancel()
			// What is said last is said after ctx has ended.
			err := s.Serve(ctx, a.log, s.solicited, nil, s.ceases.Load, func(m *ndp.RouterAdvertisement, to netip.Addr) error {
				return a.say(context.WithoutCancel(ctx), s, m, to)
			})
			if err != nil {
				a.log.Debug("router advertisements", "port", id, "err", err)
			}
		})
	}
}

func (a *advertiser) say(ctx context.Context, x *sender, m *ndp.RouterAdvertisement, to netip.Addr) error {
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		return err
	}
	mac := groupMAC(radv.AllNodes())
	if !to.IsMulticast() {
		var ok bool
		if mac, ok = x.where(to); !ok {
			to, mac = radv.AllNodes(), groupMAC(radv.AllNodes())
		}
	}
	// A switch that is away for a moment is no reason to end.
	if err := a.send(ctx, onNetwork(x.network, x.bits, icmp6(x.MAC, mac, x.MAC.LinkLocal(), to, 255, b))); err != nil {
		a.log.Debug("router advertisement", "to", to, "err", err)
	}
	return nil
}

// hear tells the senders on a network who solicits.
func (a *advertiser) hear(network uint16, frame []byte) {
	p, ok := parse(frame)
	if !ok {
		return
	}
	m, err := ndp.ParseMessage(p.l4)
	if err != nil || !radv.Solicits(m, int(p.hops), p.src) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.running {
		if s.network == network {
			s.heard(p.src, p.from)
		}
	}
}
