package linuxdhcp

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
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

func newMetrics(r prometheus.Registerer, owner string) (*metrics, error) {
	labels := prometheus.Labels{"owner": owner}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vnet", Subsystem: "dhcp", Name: name, Help: help, ConstLabels: labels})
	}
	vec := func(name, help string, l ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "vnet", Subsystem: "dhcp", Name: name, Help: help, ConstLabels: labels}, l)
	}
	m := &metrics{
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
