package engine

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a backend.
type Metrics struct {
	requests *prometheus.CounterVec // family, type
	replies  *prometheus.CounterVec // family, type
	dropped  *prometheus.CounterVec // reason
	arp, nd  prometheus.Counter
	attached prometheus.Gauge
}

// Reasons for dropping beside those of package dhcpwire.
const (
	dropLimit = "client-rate"
	dropQueue = "queue-full"
	dropSend  = "send"
	dropStore = "lease-store"
	dropFrame = "frame"
)

// Attached says that so many more networks are being served.
func (m *Metrics) Attached(n float64) { m.attached.Add(n) }

// Limited says that a frame was dropped because its sender sends too many.
func (m *Metrics) Limited() { m.dropped.WithLabelValues(dropLimit).Inc() }

// SendFailed says that an answer could not be sent.
func (m *Metrics) SendFailed() { m.dropped.WithLabelValues(dropSend).Inc() }

// QueueFull says that so many frames were dropped because a queue was full.
func (m *Metrics) QueueFull(n float64) { m.dropped.WithLabelValues(dropQueue).Add(n) }

// NewMetrics registers them with r, unless that is nil.
func NewMetrics(r prometheus.Registerer, owner string) (*Metrics, error) {
	labels := prometheus.Labels{"owner": owner}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vnet", Subsystem: "dhcp", Name: name, Help: help, ConstLabels: labels})
	}
	vec := func(name, help string, l ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "vnet", Subsystem: "dhcp", Name: name, Help: help, ConstLabels: labels}, l)
	}
	m := &Metrics{
		requests: vec("requests_total", "DHCP messages from clients and relays, by type.", "family", "type"),
		replies:  vec("replies_total", "DHCP messages sent, by type.", "family", "type"),
		dropped:  vec("dropped_total", "Frames that were not answered, by reason.", "reason"),
		arp:      counter("arp_replies_total", "ARP requests for server addresses that were answered."),
		nd:       counter("neighbor_advertisements_total", "Neighbour solicitations for the server's address that were answered."),
		attached: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "vnet", Subsystem: "dhcp", Name: "networks", Help: "Networks that are being served.", ConstLabels: labels}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.replies, m.dropped, m.arp, m.nd, m.attached} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
