package metadata

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// ProxyOptions of a [Proxy]. The zero value is usable.
type ProxyOptions struct {
	// Rate is how many requests a second one asker may make after a burst of
	// Burst; more get 429. Zero: 50 and 300, room for a few boots of cloud-init
	// (some 60 requests each). A negative Rate: no limit.
	Rate  float64
	Burst int
	// AskerInFlight and AskerConns bound the requests at a time and the open
	// connections of one asker. Zero: 16 and 32.
	AskerInFlight, AskerConns int
	// Conns bounds the open connections of one listener. Zero: 1024, as
	// Neutron's haproxy.
	Conns int
	// Askers is how many askers the limits remember. Zero: 16384.
	Askers int
	// MaxBody bounds a request's body in bytes; more is 413. Zero: 64 KiB.
	MaxBody int64
	// MaxHeader bounds a request's line and headers in bytes. Zero: 16 KiB.
	MaxHeader int
	// HeaderTimeout is how long a request's headers may take, RequestTimeout how
	// long all of a request and its answer. Zero: 10 s and 65 s.
	HeaderTimeout, RequestTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request. Zero: 15 s.
	IdleTimeout time.Duration
	// Observe is told of every request, when it is answered; nil: nobody. It
	// must not wait.
	Observe func(Access)
	// Now is the clock of the rate limit; nil: time.Now.
	Now func() time.Time
}

// Access is one request, answered.
type Access struct {
	Asker        Asker
	Method, Path string
	Status       int
	Took         time.Duration
	// Limited: refused by the proxy itself, before anybody was asked.
	Limited bool
}

// Proxy stands between instances and what answers them, a [*Server] or a
// [*Nova]. It knows who asks from where the connection came in; of what a
// request says about that nothing is let through. It bounds what one asker,
// and all together, may take of memory and time.
type Proxy struct {
	next http.Handler
	o    ProxyOptions
	lim  limiter
}

// NewProxy returns a proxy to next, which finds the asker by [AskerOf]. o may
// be nil.
func NewProxy(next http.Handler, o *ProxyOptions) (*Proxy, error) {
	if next == nil {
		return nil, bad("next", "", "is nil")
	}
	p := &Proxy{next: next}
	if o != nil {
		p.o = *o
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	dur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if p.o.Rate == 0 {
		p.o.Rate = 50
	}
	def(&p.o.Burst, 300)
	def(&p.o.AskerInFlight, 16)
	def(&p.o.AskerConns, 32)
	def(&p.o.Conns, 1024)
	def(&p.o.Askers, 16384)
	def(&p.o.MaxHeader, 16<<10)
	dur(&p.o.HeaderTimeout, 10*time.Second)
	dur(&p.o.RequestTimeout, 65*time.Second)
	dur(&p.o.IdleTimeout, 15*time.Second)
	if p.o.MaxBody == 0 {
		p.o.MaxBody = 64 << 10
	}
	for field, v := range map[string]int64{"burst": int64(p.o.Burst), "asker_in_flight": int64(p.o.AskerInFlight), "asker_conns": int64(p.o.AskerConns),
		"conns": int64(p.o.Conns), "askers": int64(p.o.Askers), "max_body": p.o.MaxBody, "max_header": int64(p.o.MaxHeader),
		"header_timeout": int64(p.o.HeaderTimeout), "request_timeout": int64(p.o.RequestTimeout), "idle_timeout": int64(p.o.IdleTimeout)} {
		if v < 0 {
			return nil, bad(field, "", "is negative")
		}
	}
	now := p.o.Now
	if now == nil {
		now = time.Now
	}
	p.lim = limiter{rate: p.o.Rate, burst: float64(p.o.Burst), inFlight: p.o.AskerInFlight, conns: p.o.AskerConns, max: p.o.Askers, now: now}
	return p, nil
}

// passed are the headers of a request that are looked at at all. None of them
// says who asks: X-Forwarded-For only makes a request for a token be refused.
var passed = [...]string{headerToken, headerTTL, "Content-Type", "X-Forwarded-For"}

// ServeHTTP implements [http.Handler]. The context must have the asker, as
// [Proxy.Serve] gives it; without one the answer is 500.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	a, ok := AskerOf(r.Context())
	acc := Access{Asker: a, Method: r.Method, Path: r.URL.Path}
	defer func() {
		if p.o.Observe != nil {
			acc.Status, acc.Took = rec.status, time.Since(start)
			p.o.Observe(acc)
		}
	}()
	if !ok {
		fail(rec, http.StatusInternalServerError)
		return
	}
	done, ok := p.lim.request(a)
	if !ok {
		acc.Limited = true
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close") // the body, if any, is not read
		fail(rec, http.StatusTooManyRequests)
		return
	}
	defer done()
	if r.ContentLength > p.o.MaxBody {
		w.Header().Set("Connection", "close")
		fail(rec, http.StatusRequestEntityTooLarge)
		return
	}
	out := r.Clone(r.Context())
	out.Header = http.Header{}
	for _, h := range passed {
		if v := r.Header.Values(h); len(v) > 0 {
			out.Header[h] = v
		}
	}
	out.Trailer = nil
	out.Body = http.MaxBytesReader(w, r.Body, p.o.MaxBody)
	p.next.ServeHTTP(rec, out)
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Listener is where a proxy listens, and who that says is asking.
type Listener struct {
	net.Listener
	// Who says who is at the other end of a connection; called once for each.
	// When ok is false the connection is closed.
	Who func(c net.Conn) (a Asker, ok bool)
	// HopLimit sets the hop limit of a connection; nil: it stays.
	HopLimit func(c net.Conn, hops int) error
}

// Serve answers on all listeners until ctx ends; then it closes them, lets
// requests that are being answered finish for up to two seconds, and returns
// nil. When a listener fails, all end, and its error is returned.
func (p *Proxy) Serve(ctx context.Context, listeners ...Listener) error {
	srv := &http.Server{
		Handler:           p,
		ReadHeaderTimeout: p.o.HeaderTimeout,
		ReadTimeout:       p.o.RequestTimeout,
		WriteTimeout:      p.o.RequestTimeout,
		IdleTimeout:       p.o.IdleTimeout,
		MaxHeaderBytes:    p.o.MaxHeader,
		ErrorLog:          nil,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			gc := c.(*guardedConn)
			ctx = WithAsker(ctx, gc.who)
			if gc.hop != nil {
				ctx = WithHopLimit(ctx, func(n int) error { return gc.hop(gc.Conn, n) })
			}
			return ctx
		},
	}
	srv.ErrorLog = quiet()
	errc := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { errc <- srv.Serve(&guard{Listener: l, p: p, slots: make(chan struct{}, p.o.Conns)}) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errc:
	}
	// Those still being answered get a moment, then the connections are cut.
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(stopping) != nil {
		_ = srv.Close()
	}
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// guard accepts what is within the bounds, and closes the rest at once.
type guard struct {
	Listener
	p     *Proxy
	slots chan struct{}
}

func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, ok := g.Who(c)
		if !ok {
			g.refuse(c, who)
			continue
		}
		left, ok := g.p.lim.connect(who)
		if !ok {
			g.refuse(c, who)
			continue
		}
		select {
		case g.slots <- struct{}{}:
		default:
			left()
			g.refuse(c, who)
			continue
		}
		return &guardedConn{Conn: c, who: who, hop: g.HopLimit, leave: sync.OnceFunc(func() { left(); <-g.slots })}, nil
	}
}

func (g *guard) refuse(c net.Conn, who Asker) {
	c.Close()
	if g.p.o.Observe != nil {
		g.p.o.Observe(Access{Asker: who, Status: 0, Limited: true})
	}
}

type guardedConn struct {
	net.Conn
	who   Asker
	hop   func(net.Conn, int) error
	leave func()
}

func (c *guardedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
