// Package answer answers at endpoints, wherever a platform has made them: it
// has the proxy, what counts and tells of requests, and what the namespace of
// an endpoint on a network is like.
package answer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

// Options of an [Answerer]; as the backends' own.
type Options struct {
	Instances metadata.Instances
	Server    metadata.ServerOptions
	Nova      *metadata.NovaOptions
	Proxy     metadata.ProxyOptions
	Metrics   prometheus.Registerer
	Logger    *slog.Logger
	// Labels of the metrics.
	Owner, Host string
	// Endpoint is the id of the endpoint at which somebody asks.
	Endpoint func(metadata.Asker) string
}

// Answerer answers, counts and tells.
type Answerer struct {
	o     Options
	proxy *metadata.Proxy
	m     *metrics
	hub   hub
}

// New returns an answerer. Without Instances it answers nothing.
func New(o Options) (*Answerer, error) {
	a := &Answerer{o: o}
	var err error
	if a.m, err = newMetrics(o.Metrics, o.Owner, o.Host); err != nil {
		return nil, fmt.Errorf("metadata metrics: %w", err)
	}
	if o.Instances == nil {
		return a, nil
	}
	var next http.Handler
	src := &known{a: a, next: o.Instances}
	if o.Nova != nil {
		no := *o.Nova
		if no.Logger == nil {
			no.Logger = o.Logger
		}
		next, err = metadata.NewNova(src, &no)
		err = vnet.In("nova", err)
	} else {
		so := o.Server
		if so.Logger == nil {
			so.Logger = o.Logger
		}
		next, err = metadata.NewServer(src, &so)
		err = vnet.In("server", err)
	}
	if err != nil {
		return nil, err
	}
	po, theirs := o.Proxy, o.Proxy.Observe
	po.Observe = func(x metadata.Access) {
		a.observe(x)
		if theirs != nil {
			theirs(x)
		}
	}
	a.proxy, err = metadata.NewProxy(next, &po)
	return a, vnet.In("proxy", err)
}

// Ready is an error when there is nothing to answer from.
func (a *Answerer) Ready() error {
	if a.proxy == nil {
		return &vnet.FieldError{Field: "instances", Reason: "is nil; there is nothing to answer from"}
	}
	return nil
}

// Serve answers on listeners until ctx ends, and closes them.
func (a *Answerer) Serve(ctx context.Context, ls ...metadata.Listener) error {
	err := a.proxy.Serve(ctx, ls...)
	for _, l := range ls {
		l.Close()
	}
	return err
}

// Serving says at how many endpoints it is being answered.
func (a *Answerer) Serving(n int) { a.m.serving.Set(float64(n)) }

// known tells of askers that are nobody.
type known struct {
	a    *Answerer
	next metadata.Instances
}

func (k *known) Lookup(ctx context.Context, a metadata.Asker) (*metadata.Instance, error) {
	in, err := k.next.Lookup(ctx, a)
	if errors.Is(err, vnet.ErrNotFound) {
		k.a.m.unknown.Inc()
		k.a.tell("refused", a, map[string]string{"reason": "unknown"})
	}
	return in, err
}

func (a *Answerer) observe(x metadata.Access) {
	a.m.observe(x)
	switch {
	case x.Limited:
		a.tell("limited", x.Asker, map[string]string{"method": x.Method, "path": x.Path})
	case x.Status == http.StatusUnauthorized || x.Status == http.StatusForbidden:
		a.tell("refused", x.Asker, map[string]string{"method": x.Method, "path": x.Path, "status": strconv.Itoa(x.Status)})
	case x.Status >= 500:
		a.tell("failed", x.Asker, map[string]string{"method": x.Method, "path": x.Path, "status": strconv.Itoa(x.Status)})
	}
}

// tell makes an event about an asker, of the endpoint it asked at.
func (a *Answerer) tell(kind string, x metadata.Asker, d map[string]string) {
	d["address"] = x.Addr.String()
	if x.RouterID != "" {
		d["router"] = x.RouterID
	}
	if x.NetworkID != "" {
		d["network"] = x.NetworkID
	}
	a.hub.tell(kind, a.o.Endpoint(x), d)
}
