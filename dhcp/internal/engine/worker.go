package engine

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/internal/hub"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// Options of a backend's workers.
type Options struct {
	Store   *leasestore.Store // nil: no pools
	Rate    float64           // messages a second of one client; zero: 20
	Burst   int               // zero: 60
	Metrics *Metrics
	Hub     *hub.Hub
	Log     *slog.Logger
}

// Default fills in what is zero, and refuses what cannot be.
func (o *Options) Default() error {
	if o.Rate == 0 {
		o.Rate = 20
	}
	if o.Burst == 0 {
		o.Burst = 60
	}
	if o.Rate < 0 || o.Burst < 0 {
		return &vnet.FieldError{Field: "client_rate", Reason: "is negative"}
	}
	return nil
}

// answer is a frame to be sent.
type answer struct {
	via     uint32
	frame   []byte
	durable bool
	count   prometheus.Counter
	notices []dhcpwire.Notice
}

// Under load the lease store is synced at most once in FlushEvery, for all
// that was asked meanwhile; a client that is alone does not wait for others.
// flushMost bounds how many answers leave at once: a relay's socket takes
// about a hundred.
const (
	FlushEvery = time.Millisecond
	flushMost  = 32
)

// Worker answers the frames of one network. It is used by one goroutine.
type Worker struct {
	o       *Options
	network string
	wire    *dhcpwire.Server
	mac     vnet.MAC
	ll      netip.Addr
	put     func(frame []byte, via uint32) error
	limit   *Limiter[vnet.MAC]
	waiting []answer  // until the lease store is synced
	flushed time.Time // last time it was
}

// NewWorker returns a worker that answers as wire says, from mac and its
// link-local address; put sends a frame the way its request came.
func NewWorker(o *Options, network string, wire *dhcpwire.Server, mac vnet.MAC, put func(frame []byte, via uint32) error) *Worker {
	return &Worker{o: o, network: network, wire: wire, mac: mac, ll: mac.LinkLocal(), put: put, limit: NewLimiter[vnet.MAC](o.Rate, o.Burst)}
}

// Handle answers a frame that came in by via, now or when the lease store is
// synced. It keeps nothing of the frame.
func (w *Worker) Handle(frame []byte, via uint32, at time.Time) {
	a, ok := w.handle(frame, at)
	a.via = via
	switch {
	case !ok:
	case a.durable:
		if w.waiting = append(w.waiting, a); len(w.waiting) >= flushMost {
			w.Flush()
		}
	default:
		w.send(a)
	}
}

// Waiting reports whether answers wait for a flush, which is due at the time.
func (w *Worker) Waiting() (due time.Time, ok bool) {
	return w.flushed.Add(FlushEvery), len(w.waiting) > 0
}

// Flush syncs the lease store and sends what waited for it.
func (w *Worker) Flush() {
	if len(w.waiting) == 0 {
		return
	}
	err := w.o.Store.Flush()
	w.flushed = time.Now()
	if err != nil {
		w.o.Log.Error("dhcp: leases cannot be kept", "network", w.network, "error", err)
	}
	for i, a := range w.waiting {
		if err != nil {
			w.o.Metrics.dropped.WithLabelValues(dropStore).Inc()
		} else {
			w.send(a)
		}
		w.waiting[i] = answer{}
	}
	w.waiting = w.waiting[:0]
}

// send sends the answer and tells of what happened.
func (w *Worker) send(a answer) {
	if a.frame != nil {
		if err := w.put(a.frame, a.via); err != nil {
			w.o.Metrics.dropped.WithLabelValues(dropSend).Inc()
			return
		}
		a.count.Inc()
	}
	if len(a.notices) > 0 && w.o.Hub.Any() {
		for _, x := range a.notices {
			w.o.Hub.Tell(x.Event())
		}
	}
}

func (w *Worker) drop(reason string) (answer, bool) {
	w.o.Metrics.dropped.WithLabelValues(reason).Inc()
	return answer{}, false
}

// handle answers one frame; ok is false when there is nothing to do.
func (w *Worker) handle(b []byte, at time.Time) (a answer, ok bool) {
	f := parse(b)
	m := w.o.Metrics
	switch f.kind {
	case other:
		return w.drop(dropFrame)
	case arpRequest, solicitation:
		// Most are for others: they cost their senders nothing.
		mine := f.kind == arpRequest && w.wire.Answers(f.target, f.packet.MAC) || f.kind == solicitation && f.target == w.ll && w.wire.Answers6(f.packet.MAC)
		if !mine {
			return answer{}, false
		}
		if !w.limit.Allow(f.packet.MAC, at, false) {
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
		if relay, client := giaddr(f.packet.Payload); !relay.IsUnspecified() && w.wire.TrustsRelay(relay) {
			key, relayed = client, true
		}
	} else if p := f.packet.Payload; len(p) >= 34 && p[0] == 12 && w.wire.TrustsRelay(f.packet.Src.Addr()) {
		copy(key[:], p[28:34]) // the end of the peer-address
		relayed = true
	}
	if !w.limit.Allow(key, at, relayed) {
		return w.drop(dropLimit)
	}
	family, r := "4", dhcpwire.Result{}
	if f.kind == dhcp4 {
		r = w.wire.Handle4(f.packet)
	} else {
		family = "6"
		r = w.wire.Handle6(f.packet)
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
