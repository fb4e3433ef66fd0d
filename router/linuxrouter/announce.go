package linuxrouter

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/pktio"
	"github.com/vnet-go/vnet/linux"
)

// Announcements are repeated, for frames get lost and bridges may not forward
// yet; Neutron sends three, two seconds apart.
const (
	announcements    = 3
	announceInterval = 2 * time.Second
)

// announcer tells networks by gratuitous ARP and unsolicited neighbour
// advertisements where addresses are now. While there is something to say about
// a device it has one goroutine and one socket for it, however many addresses.
type announcer struct {
	log *slog.Logger
	mu  sync.Mutex
	// queues are by namespace and device. Each address is in a queue once.
	queues map[[2]string]*queue
}

type queue struct {
	mac   vnet.MAC
	fresh map[netip.Addr]int // not announced yet; how often to
	left  map[netip.Addr]int // announced; how often to announce again
	wake  chan struct{}
}

func newAnnouncer(log *slog.Logger) *announcer {
	return &announcer{log: log, queues: map[[2]string]*queue{}}
}

// announce returns at once. Failures are logged: the neighbours find out by
// themselves in time.
func (a *announcer) announce(ns *linux.Namespace, dev string, mac vnet.MAC, addrs ...netip.Addr) {
	k := [2]string{ns.Path(), dev}
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queues[k]
	if q == nil {
		q = &queue{fresh: map[netip.Addr]int{}, left: map[netip.Addr]int{}, wake: make(chan struct{}, 1)}
		a.queues[k] = q
		go a.run(k, q, ns, dev)
	}
	q.mac = mac
	for _, x := range addrs {
		delete(q.left, x)
		q.fresh[x] = announcements
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (a *announcer) run(k [2]string, q *queue, ns *linux.Namespace, dev string) {
	c, err := pktio.Open(ns, dev, nil)
	if err != nil {
		a.log.Warn("router: announce", "device", dev, "err", err)
		a.mu.Lock()
		delete(a.queues, k)
		a.mu.Unlock()
		return
	}
	defer c.Close()
	again := time.NewTicker(announceInterval)
	defer again.Stop()
	for {
		all := false
		select {
		case <-q.wake:
		case <-again.C:
			all = true
		}
		a.mu.Lock()
		now := q.fresh
		q.fresh = map[netip.Addr]int{}
		if all {
			for x, n := range q.left {
				now[x] = n
			}
		}
		for x, n := range now {
			if q.left[x] = n - 1; n == 1 {
				delete(q.left, x)
			}
		}
		mac := q.mac
		a.mu.Unlock()
		for x := range now {
			if err = c.Send(pktio.Announce(mac, x, true)); err != nil {
				a.log.Debug("router: announce", "device", dev, "address", x, "err", err)
				break
			}
		}
		a.mu.Lock()
		if err != nil || len(q.left)+len(q.fresh) == 0 { // the device went, or all is said
			delete(a.queues, k)
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}
