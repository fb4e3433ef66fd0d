package answer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet/metadata"
)

type metrics struct {
	requests *prometheus.CounterVec // code
	limited  prometheus.Counter
	unknown  prometheus.Counter
	seconds  prometheus.Histogram
	serving  prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, owner, host string) (*metrics, error) {
	labels := prometheus.Labels{"owner": owner, "host": host}
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "vnet", Subsystem: "metadata", Name: name, Help: help, ConstLabels: labels}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(opts("requests_total", "Requests answered, by status code."), []string{"code"}),
		limited:  prometheus.NewCounter(opts("limited_total", "Requests and connections refused by a limit.")),
		unknown:  prometheus.NewCounter(opts("unknown_total", "Requests from addresses that are nobody's.")),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "vnet", Subsystem: "metadata", Name: "request_seconds",
			Help: "Time to answer a request.", ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
		serving: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "vnet", Subsystem: "metadata", Name: "endpoints",
			Help: "Endpoints that are being answered at.", ConstLabels: labels}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.limited, m.unknown, m.seconds, m.serving} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(a metadata.Access) {
	if a.Limited {
		m.limited.Inc()
	}
	if a.Status != 0 {
		m.requests.WithLabelValues(strconv.Itoa(a.Status)).Inc()
		m.seconds.Observe(a.Took.Seconds())
	}
}
