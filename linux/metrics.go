package linux

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what a host counts. Its methods do nothing on nil.
type metrics struct {
	r       prometheus.Registerer
	all     []prometheus.Collector
	commits *prometheus.CounterVec
	seconds prometheus.Histogram
}

// newMetrics registers the host's metrics; nil when r is nil.
func newMetrics(r prometheus.Registerer, h *Host) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	labels := prometheus.Labels{"owner": string(h.owner), "host": h.o.Name}
	m := &metrics{
		r: r,
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_linux_commits_total", ConstLabels: labels,
			Help: "Commits of steps to the kernel, by result (ok, failed)."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vnet_linux_commit_seconds", ConstLabels: labels,
			Help: "How long a commit took.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
	}
	count := func(name, help string, f func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f()) })
	}
	m.all = []prometheus.Collector{m.commits, m.seconds,
		count("vnet_linux_nft_messages_total", "Messages of nftables transactions in the host's namespace.", h.ns.nft.Writes),
		count("vnet_linux_nft_reloads_total", "Times that nftables of the host's namespace was read anew, because others wrote.", func() uint64 { return h.ns.nft.Stats().Reloads }),
		count("vnet_linux_rtnetlink_changes_total", "Changing requests of rtnetlink in the host's namespace.", h.ns.rtnl.Writes),
	}
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
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

func (m *metrics) commit(since time.Time, err error) {
	if m == nil {
		return
	}
	m.seconds.Observe(time.Since(since).Seconds())
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.commits.WithLabelValues(result).Inc()
}
