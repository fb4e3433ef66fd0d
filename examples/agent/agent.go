package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/overlay"
)

// agentOptions are the times and bounds an operator may choose.
type agentOptions struct {
	host               string
	resync             time.Duration // between checks that nothing has changed
	retryMin, retryMax time.Duration // between attempts
	finish             time.Duration // what an attempt gets when the agent is to stop
	budget             vnet.SyncOptions
	instances          bool // metadata can be answered
}

// agent keeps one host as its source wants it.
type agent struct {
	o   agentOptions
	s   *subsystems
	src desired.Source
	log *slog.Logger
	m   *metrics
	a   *applier // used by the loop only

	news chan struct{} // the source has said something
	hint chan struct{} // the platform has

	mu      sync.Mutex
	want    *desired.Desired
	made    *desired.Desired // nil: not known
	status  desired.Status
	servers map[string]string // why a server does not run
}

func newAgent(s *subsystems, src desired.Source, o agentOptions, reg prometheus.Registerer, log *slog.Logger) *agent {
	a := &agent{o: o, s: s, src: src, log: log, a: &applier{s: s, host: o.host, plugged: map[string]overlay.Attachment{}},
		news: make(chan struct{}, 1), hint: make(chan struct{}, 1),
		status: desired.Status{Host: o.host, Behind: time.Now()}, servers: map[string]string{}}
	a.m = newMetrics(reg, a.lag)
	return a
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run works until ctx ends. What it has made stays.
func (a *agent) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.listen(ctx) })
	for name, f := range a.s.servers() {
		wg.Go(func() { a.serve(ctx, name, f) })
	}
	wg.Go(func() { a.watch(ctx, "overlay", a.s.overlay.Watch) })
	if a.s.watch != nil {
		wg.Go(func() { a.watch(ctx, "platform", a.s.watch) })
	}

	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	resync := time.NewTicker(a.o.resync)
	defer resync.Stop()
	wait := a.o.retryMin
	var quiet time.Time // until then hints of the platform are put off
	later := time.NewTimer(time.Hour)
	defer later.Stop()
	for {
		why := ""
		select {
		case <-ctx.Done():
			return
		case <-a.news:
			why, wait = "new state", a.o.retryMin
		case <-a.hint:
			// A machine whose link goes up and down must not keep us busy.
			if d := time.Until(quiet); d > 0 {
				later.Reset(d)
				continue
			}
			why = "event"
		case <-later.C:
			why = "event"
		case <-retry.C:
			why = "again"
		case <-resync.C:
			why = "check"
		}
		if a.wanted() == nil {
			continue
		}
		begin := time.Now()
		if a.attempt(ctx, why) {
			wait = a.o.retryMin
			retry.Stop()
		} else {
			retry.Reset(wait + rand.N(wait/4+1))
			wait = min(2*wait, a.o.retryMax)
		}
		if later.Stop(); why == "event" {
			quiet = time.Now().Add(max(time.Second, 10*time.Since(begin)))
		}
	}
}

func (a *agent) wanted() *desired.Desired {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.want
}

// listen hears the source.
func (a *agent) listen(ctx context.Context) {
	for d, err := range a.src.Watch(ctx) {
		if err == nil && !a.o.instances && len(d.State.Metadata.Endpoints) > 0 {
			err = &vnet.FieldError{Field: "metadata.endpoints", Reason: "are wanted, and nothing says who is behind an address (-instances)"}
		}
		a.mu.Lock()
		st := &a.status
		if err != nil {
			st.SourceError = err.Error()
			if st.Behind.IsZero() {
				st.Behind = time.Now()
			}
		} else {
			st.SourceError = ""
			if st.Revision != d.Revision || st.Behind.IsZero() {
				st.Behind = time.Now()
			}
			a.want, st.Revision = &d, d.Revision
		}
		now := *st
		a.mu.Unlock()
		if err != nil {
			a.m.source.Inc()
			a.log.Error("what is wanted is not known, going on as before", "err", err)
		} else {
			a.log.Info("state", "revision", d.Revision, "networks", len(d.State.Overlay.Networks), "ports", len(d.State.Overlay.Ports), "force", d.Force)
			poke(a.news)
		}
		a.src.Report(ctx, now)
	}
}

// attempt makes the host as wanted; false: try again.
func (a *agent) attempt(ctx context.Context, why string) bool {
	d := a.wanted()
	a.mu.Lock()
	fresh := a.status.Applied != d.Revision
	a.mu.Unlock()
	o := a.o.budget
	o.Force = o.Force || d.Force && fresh
	// What has been begun is ended, also when the agent is to stop.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(a.o.finish, cancel)
		context.AfterFunc(work, func() { t.Stop() })
	})
	defer stop()

	begin := time.Now()
	out, err := a.a.apply(work, d, o)
	took := time.Since(begin)
	a.m.seconds.Observe(took.Seconds())
	a.m.changed(out.changes)
	log := a.log.With("revision", d.Revision, "why", why, "seconds", took.Seconds())
	if !fresh && len(out.changes) > 0 {
		a.m.drift.Inc()
		log.Warn("the host was not as it had been made", "changes", summary(out.changes))
	}
	result := "ok"
	switch {
	case errors.Is(err, vnet.ErrBudget):
		result = "budget"
		log.Error("not applied: it would remove too much (to go on all the same: -force, or the revision as \"force\" in the state)", "err", err)
	case err != nil:
		result = "failed"
		log.Error("not applied", "err", err, "changes", summary(out.changes))
	case len(out.waiting) > 0:
		result = "waiting"
		log.Warn("applied but for devices that cannot be plugged", "waiting", waitingText(out.waiting))
	case fresh:
		log.Info("applied", "changes", summary(out.changes))
	default:
		log.Debug("as wanted")
	}
	a.m.applies.WithLabelValues(result).Inc()
	a.m.devices.WithLabelValues("waiting").Set(float64(len(out.waiting)))
	a.m.devices.WithLabelValues("plugged").Set(float64(len(a.a.plugged)))

	a.mu.Lock()
	st := &a.status
	before := *st
	st.Error, st.Waiting = "", nil
	if len(out.waiting) > 0 {
		st.Waiting = out.waiting
	}
	if err != nil {
		st.Error = err.Error()
	}
	now := time.Now()
	if err == nil {
		a.made, st.CheckedAt = d, now
		if st.Applied != d.Revision {
			st.Applied, st.AppliedAt = d.Revision, now
			a.m.applied.Set(float64(now.UnixNano()) / 1e9)
		}
	}
	switch {
	case result != "ok" && st.Behind.IsZero():
		st.Behind = now
	case result == "ok" && a.want == d && st.SourceError == "":
		st.Behind = time.Time{}
	}
	after := *st
	a.mu.Unlock()
	if fresh || result != "ok" || before.Error != "" || !before.Behind.Equal(after.Behind) {
		a.src.Report(ctx, after)
	}
	return result == "ok"
}

func waitingText(w map[string]string) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(w)) {
		if b.Len() > 500 {
			b.WriteString(" ...")
			break
		}
		fmt.Fprintf(&b, "%s: %s; ", id, w[id])
	}
	return b.String()
}

// watch turns events of the platform into checks. Those that tell of what came
// to be, and not of what went, are none to act on.
func (a *agent) watch(ctx context.Context, name string, events func(context.Context) iter.Seq[vnet.Event]) {
	for ctx.Err() == nil {
		for e := range events(ctx) {
			if e.Kind == "port-up" {
				continue
			}
			a.log.Debug("event", "part", e.Part, "kind", e.Kind, "id", e.ID, "detail", e.Detail)
			a.m.events.WithLabelValues(e.Kind).Inc()
			poke(a.hint)
		}
		if ctx.Err() == nil { // what it would have told is not known
			a.log.Warn("watching ended, starting it again", "what", name)
			poke(a.hint)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// serve runs a server until ctx ends, and starts it again when it ends before.
func (a *agent) serve(ctx context.Context, name string, f func(context.Context) error) {
	say := func(text string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if delete(a.servers, name); text != "" {
			a.servers[name] = text
		}
	}
	wait := a.o.retryMin
	for {
		begin := time.Now()
		// One that ends at once has not come to serve.
		came := time.AfterFunc(time.Second, func() { say("") })
		err := f(ctx)
		came.Stop()
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > time.Minute {
			wait = a.o.retryMin
		}
		text := "ended"
		if err != nil {
			text = err.Error()
		}
		say(text)
		a.m.restarts.WithLabelValues(name).Inc()
		a.log.Error("server ended, starting it again", "server", name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, a.o.retryMax)
	}
}
