package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/desired"
)

// health is the body of /healthz.
type health struct {
	OK bool `json:"ok"`
	desired.Status
	LagSeconds float64                `json:"lag_seconds"`
	Subsystems map[string]vnet.Health `json:"subsystems"`
	Servers    map[string]string      `json:"servers,omitempty"` // why one does not run
}

// health says how the host does. It is well while it has been made what is
// wanted, or is not behind for longer than maxLag, its platform is whole in
// view and everything serves.
func (a *agent) health(ctx context.Context, maxLag time.Duration) health {
	a.mu.Lock()
	h := health{Status: a.status, Servers: map[string]string{}}
	for n, why := range a.servers {
		h.Servers[n] = why
	}
	a.mu.Unlock()
	lag := h.Lag(time.Now())
	h.LagSeconds = lag.Seconds()
	h.Subsystems = a.s.health(ctx)
	h.OK = h.Applied != "" && lag <= maxLag && len(h.Servers) == 0
	for _, s := range h.Subsystems {
		h.OK = h.OK && s.Complete && s.Lag <= maxLag
	}
	return h
}

// lag is that of the host in seconds.
func (a *agent) lag() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.Lag(time.Now()).Seconds()
}

// pages are what is answered; until there is an agent, what it waits for.
type pages struct {
	now     atomic.Pointer[http.Handler]
	metrics prometheus.Gatherer
}

func newPages(metrics prometheus.Gatherer) *pages {
	p := &pages{metrics: metrics}
	p.wait(errors.New("the platform is being opened"))
	return p
}

// ServeHTTP implements [http.Handler].
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*p.now.Load()).ServeHTTP(w, r) }

func (p *pages) serve(h http.Handler) { p.now.Store(&h) }

func (p *pages) wait(err error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusServiceUnavailable, health{Status: desired.Status{Error: "starting: " + err.Error()}})
	})
	p.serve(mux)
}

// handler answers for the agent; everything only reads.
func (a *agent) handler(metrics prometheus.Gatherer, maxLag time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := a.health(r.Context(), maxLag)
		status := http.StatusOK
		if !h.OK {
			status = http.StatusServiceUnavailable
		}
		answer(w, status, h)
	})
	mux.HandleFunc("GET /plan", a.handlePlan)
	mux.HandleFunc("GET /explain", a.handleExplain)
	return mux
}

// handlePlan tells what the next attempt would do; as text with ?format=text.
func (a *agent) handlePlan(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	d, made := a.want, a.made
	a.mu.Unlock()
	if d == nil {
		http.Error(w, "what is wanted is not known", http.StatusServiceUnavailable)
		return
	}
	plans, unsure := plan(r.Context(), a.s, made, d)
	sum := struct {
		Revision string `json:"revision"`
		vnet.Plan
		Unsure string `json:"unsure,omitempty"` // why a part of it is the difference of two states
	}{Revision: d.Revision, Plan: vnet.Plan{Changes: []vnet.Change{}}}
	for _, p := range plans {
		sum.Changes = append(sum.Changes, p.Changes...)
	}
	if unsure != nil {
		sum.Unsure = unsure.Error()
	}
	if r.URL.Query().Get("format") == "text" {
		fmt.Fprintf(w, "revision %s\n%s", d.Revision, sum.Plan)
		if unsure != nil {
			fmt.Fprintf(w, "a part of it is the difference of two states, because %v\n", unsure)
		}
		return
	}
	answer(w, http.StatusOK, sum)
}

// handleExplain tells what carries the thing ?kind=...&id=...
func (a *agent) handleExplain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	of, err := a.s.explain(r.Context(), q.Get("kind"), q.Get("id"))
	switch {
	case errors.Is(err, errKind):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, vnet.ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case q.Get("format") == "text":
		var b strings.Builder
		for _, e := range of {
			b.WriteString(e.String())
		}
		fmt.Fprint(w, b.String())
	default:
		answer(w, http.StatusOK, of)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

// listenHTTP answers at l until the function that it returns is called. A
// failure ends the daemon.
func listenHTTP(l net.Listener, h http.Handler, fail context.CancelCauseFunc) (done func()) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); err != http.ErrServerClosed {
			fail(err)
		}
	}()
	return func() { srv.Close(); <-ended }
}
