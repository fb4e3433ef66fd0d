package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vnet-go/vnet"
)

// status is what the daemon says of itself.
type status struct {
	lag     time.Duration
	metrics prometheus.Gatherer

	mu sync.Mutex
	of healthy // nil: starting
}

type healthy interface {
	Health(context.Context) vnet.Health
}

func (s *status) watch(h healthy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of = h
}

// serve answers at l until the function that it returns is called. A failure
// ends the daemon.
func (s *status) serve(l net.Listener, fail context.CancelCauseFunc) (done func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", s.healthz)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); err != http.ErrServerClosed {
			fail(err)
		}
	}()
	return func() { srv.Close(); <-ended }
}

// healthz is 200 while every network with machines here is answered for from a
// view that is complete and not too old, and 503 otherwise; the body says why.
func (s *status) healthz(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	of := s.of
	s.mu.Unlock()
	h := vnet.Health{Detail: "starting: Open vSwitch of this host has not been reached"}
	if of != nil {
		h = of.Health(r.Context())
	}
	ok := h.Complete && h.Lag <= s.lag
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(struct {
		OK         bool      `json:"ok"`
		Complete   bool      `json:"complete"`
		Since      time.Time `json:"since,omitzero"`
		LagSeconds float64   `json:"lag_seconds"`
		Detail     string    `json:"detail,omitempty"`
	}{ok, h.Complete, h.Since, h.Lag.Seconds(), h.Detail})
}
