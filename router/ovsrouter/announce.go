package ovsrouter

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/pktio"
)

// Announcements are repeated, for frames get lost and switches may not forward
// yet; Neutron sends three, two seconds apart.
const (
	repeats          = 3
	announceInterval = 2 * time.Second
)

// announcer tells networks by gratuitous ARP and unsolicited neighbour
// advertisements where addresses are now. While there is something to say it has
// one goroutine.
type announcer struct {
	log  *slog.Logger
	send func(ctx context.Context, o *out) error

	mu    sync.Mutex
	fresh map[said]int // not announced yet; how often to
	left  map[said]int // announced; how often to announce again
	wake  chan struct{}
	runs  bool
}

// said is an address to announce.
type said struct {
	network uint16
	mac     vnet.MAC
	addr    netip.Addr
}

func newAnnouncer(log *slog.Logger, send func(context.Context, *out) error) *announcer {
	return &announcer{log: log, send: send, fresh: map[said]int{}, left: map[said]int{}, wake: make(chan struct{}, 1)}
}

// announce returns at once. Failures are logged: the neighbours find out by
// themselves in time.
func (a *announcer) announce(network uint16, mac vnet.MAC, addrs ...netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range addrs {
		k := said{network, mac, x}
		delete(a.left, k)
		a.fresh[k] = repeats
	}
	if !a.runs && len(a.fresh) > 0 {
		a.runs = true
		go a.run()
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// forget stops to announce what routers are not known by any more.
func (a *announcer) forget(all map[said]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range all {
		delete(a.fresh, k)
		delete(a.left, k)
	}
}

func (a *announcer) run() {
	again := time.NewTicker(announceInterval)
	defer again.Stop()
	for {
		all := false
		select {
		case <-a.wake:
		case <-again.C:
			all = true
		}
		a.mu.Lock()
		now := a.fresh
		a.fresh = map[said]int{}
		if all {
			for x, n := range a.left {
				now[x] = n
			}
		}
		for x, n := range now {
			if a.left[x] = n - 1; n == 1 {
				delete(a.left, x)
			}
		}
		a.mu.Unlock()
		for x := range now {
			ctx, cancel := context.WithTimeout(context.Background(), announceInterval)
			err := a.send(ctx, onNetwork(x.network, 0, pktio.Announce(x.mac, x.addr, true)))
			cancel()
			if err != nil {
				a.log.Debug("router: announce", "address", x.addr, "err", err)
				break
			}
		}
		a.mu.Lock()
		if len(a.left)+len(a.fresh) == 0 { // all is said
			a.runs = false
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}
