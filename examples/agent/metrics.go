package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
)

// metrics are the daemon's own; the backends have theirs beside them.
type metrics struct {
	applies  *prometheus.CounterVec
	seconds  prometheus.Histogram
	changes  *prometheus.CounterVec
	drift    prometheus.Counter
	events   *prometheus.CounterVec
	restarts *prometheus.CounterVec
	source   prometheus.Counter
	devices  *prometheus.GaugeVec
	applied  prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, lag func() float64) *metrics {
	m := &metrics{
		applies: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_agent_applies_total",
			Help: "Attempts to make the host as wanted, and checks that it is, by result (ok, failed, waiting, budget)."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vnet_agent_apply_seconds",
			Help: "How long an attempt took.", Buckets: prometheus.ExponentialBuckets(0.005, 4, 8)}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_agent_changes_total",
			Help: "Changes that attempts began with, by part and verb."}, []string{"part", "verb"}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_agent_drift_total",
			Help: "Checks that found the host otherwise than it had been made."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_agent_events_total",
			Help: "Events of the platform that led to a check, by kind."}, []string{"kind"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vnet_agent_server_restarts_total",
			Help: "Servers that ended and were started again."}, []string{"server"}),
		source: prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_agent_source_errors_total",
			Help: "Times that what is wanted could not be known."}),
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vnet_agent_attachments",
			Help: "Devices that are wanted at ports, by state (plugged, waiting)."}, []string{"state"}),
		applied: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vnet_agent_applied_timestamp_seconds",
			Help: "When the newest revision applied was first whole."}),
	}
	for _, result := range []string{"ok", "failed", "waiting", "budget"} {
		m.applies.WithLabelValues(result)
	}
	r.MustRegister(m.applies, m.seconds, m.changes, m.drift, m.events, m.restarts, m.source, m.devices, m.applied,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vnet_agent_lag_seconds",
			Help: "For how long the host has not been what is wanted, or that has not been known."}, lag))
	return m
}

func (m *metrics) changed(changes []vnet.Change) {
	for _, c := range changes {
		m.changes.WithLabelValues(string(c.Part), string(c.Verb)).Inc()
	}
}
