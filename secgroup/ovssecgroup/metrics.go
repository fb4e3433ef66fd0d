package ovssecgroup

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a backend counts. Backends of one host and registry share them.
type metrics struct {
	ended prometheus.Counter // connections
	walks prometheus.Counter // times that connections were looked at
}

func newMetrics(r prometheus.Registerer, host string) (*metrics, error) {
	labels := prometheus.Labels{"host": host}
	m := &metrics{
		ended: prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_secgroup_connections_ended_total", Help: "Connections deleted because nothing allows them any more.", ConstLabels: labels}),
		walks: prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_secgroup_connection_walks_total", Help: "Times that the connections of networks were looked at.", ConstLabels: labels}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	if m.ended, err = register(r, m.ended); err != nil {
		return nil, err
	}
	m.walks, err = register(r, m.walks)
	return m, err
}

// register returns c, or what stands registered in its place.
func register[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	err := r.Register(c)
	var has prometheus.AlreadyRegisteredError
	if errors.As(err, &has) {
		if old, ok := has.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}
