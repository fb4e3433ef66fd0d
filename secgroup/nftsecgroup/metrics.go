package nftsecgroup

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a backend counts. Backends of one host and registry share them.
type metrics struct {
	ended   prometheus.Counter   // connections
	walks   prometheus.Counter   // times that connections were looked at
	objects *prometheus.GaugeVec // by kind
}

func newMetrics(r prometheus.Registerer, host string) (*metrics, error) {
	labels := prometheus.Labels{"host": host}
	m := &metrics{
		ended:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_secgroup_connections_ended_total", Help: "Connections deleted because nothing allows them any more.", ConstLabels: labels}),
		walks:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vnet_secgroup_connection_walks_total", Help: "Times that all connections were looked at.", ConstLabels: labels}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vnet_secgroup_objects", Help: "Groups, address groups, ports and ports enforced on this host.", ConstLabels: labels}, []string{"kind"}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	if m.ended, err = register(r, m.ended); err != nil {
		return nil, err
	}
	if m.walks, err = register(r, m.walks); err != nil {
		return nil, err
	}
	m.objects, err = register(r, m.objects)
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

func (m *metrics) count(f *facts) {
	groups, ags, ports := f.Count()
	m.objects.WithLabelValues("group").Set(float64(groups))
	m.objects.WithLabelValues("addressgroup").Set(float64(ags))
	m.objects.WithLabelValues("port").Set(float64(ports))
	n := 0
	for _, k := range f.networks {
		n += k
	}
	m.objects.WithLabelValues("enforced port").Set(float64(n))
}
