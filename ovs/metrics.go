package ovs

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	seconds *prometheus.HistogramVec
	flows   prometheus.Counter
}

func (m *metrics) register(r prometheus.Registerer) error {
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vnet_ovs_submission_seconds",
		Help: "Time that submissions took, by outcome.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"outcome"})
	m.flows = prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_ovs_flow_changes_total", Help: "Flows that were written or deleted."})
	if r == nil {
		return nil
	}
	return errors.Join(r.Register(m.seconds), r.Register(m.flows))
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r != nil {
		r.Unregister(m.seconds)
		r.Unregister(m.flows)
	}
}

func (m *metrics) submission(since time.Time, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	m.seconds.WithLabelValues(outcome).Observe(time.Since(since).Seconds())
}
