package ovn

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet/internal/ovsdb"
)

// metrics is what a connection counts. Its methods do nothing on nil.
type metrics struct {
	r           prometheus.Registerer
	all         []prometheus.Collector
	submissions *prometheus.CounterVec
	seconds     prometheus.Histogram
}

// newMetrics registers the connection's metrics; nil when r is nil.
func newMetrics(r prometheus.Registerer, c *Conn) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	labels := prometheus.Labels{"owner": string(c.owner)}
	m := &metrics{
		r: r,
		submissions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_ovn_submissions_total", ConstLabels: labels,
			Help: "Submissions and batches, by result (ok, failed)."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vnet_ovn_submission_seconds", ConstLabels: labels,
			Help: "How long they took, with what was waited for.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}),
	}
	m.all = []prometheus.Collector{m.submissions, m.seconds}
	for name, k := range map[string]*ovsdb.Client{"northbound": c.nb, "southbound": c.sb} {
		if k == nil {
			continue
		}
		labels := prometheus.Labels{"owner": string(c.owner), "database": name}
		count := func(name, help string, f func(ovsdb.Stats) uint64) {
			m.all = append(m.all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
				func() float64 { return float64(f(k.Stats())) }))
		}
		count("vnet_ovn_connects_total", "Times that a database was connected to and read.", func(s ovsdb.Stats) uint64 { return s.Connects })
		count("vnet_ovn_transactions_total", "Transactions sent.", func(s ovsdb.Stats) uint64 { return s.Transactions })
		count("vnet_ovn_operations_total", "Operations in the transactions sent.", func(s ovsdb.Stats) uint64 { return s.Operations })
		count("vnet_ovn_races_total", "Transactions refused because another writer was faster.", func(s ovsdb.Stats) uint64 { return s.Races })
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vnet_ovn_complete", ConstLabels: labels,
			Help: "1 while the database has been read whole."}, func() float64 {
			if k.Err() != nil {
				return 0
			}
			return 1
		}))
	}
	for i, x := range m.all {
		if err := r.Register(x); err != nil {
			m.all = m.all[:i]
			m.close()
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) close() {
	if m == nil {
		return
	}
	for _, c := range m.all {
		m.r.Unregister(c)
	}
}

func (m *metrics) submission(since time.Time, err error) {
	if m == nil {
		return
	}
	m.seconds.Observe(time.Since(since).Seconds())
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.submissions.WithLabelValues(result).Inc()
}
