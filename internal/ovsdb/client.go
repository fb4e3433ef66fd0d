package ovsdb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/vnet-go/vnet"
)

// Options of a [Client]. Zero values are the defaults.
type Options struct {
	// TLS is used for "ssl:" endpoints. Without ServerName the server's chain is
	// verified and its name is not, as Open vSwitch's own clients do.
	TLS *tls.Config
	// Timeout bounds each step of the handshake but the dump, and writes to the
	// socket; dialling has a third of it. Default 10 s.
	Timeout time.Duration
	// Keepalive is after how long a silence the server is asked for an echo;
	// after three times that it is given up. Default 5 s.
	Keepalive time.Duration
	// MaxDelay bounds the pause between attempts to connect. Default 5 s.
	MaxDelay time.Duration
	// Patience is for how long a leader is looked for before a follower will do,
	// where several endpoints are known. Default 5 s.
	Patience time.Duration
	// AnyMember takes any server of a cluster that is connected to it, at random,
	// where only reading is done.
	AnyMember bool
	Logger    *slog.Logger
}

// Endpoint is where a server listens.
type Endpoint struct {
	Scheme  string // tcp, ssl, unix
	Address string // host:port, or a path
}

func (e Endpoint) String() string { return e.Scheme + ":" + e.Address }

// ParseEndpoint reads "tcp:HOST:PORT", "ssl:HOST:PORT" or "unix:PATH". An IPv6
// address is in brackets.
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, addr, _ := strings.Cut(s, ":")
	bad := func(why string) (Endpoint, error) {
		return Endpoint{}, &vnet.FieldError{Field: "endpoint", Value: s, Reason: why}
	}
	switch scheme {
	case "unix":
		if addr == "" {
			return bad("has no path")
		}
	case "tcp", "ssl":
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return bad("is not " + scheme + ":HOST:PORT")
		}
	default:
		return bad("is none of tcp:HOST:PORT, ssl:HOST:PORT and unix:PATH")
	}
	return Endpoint{scheme, addr}, nil
}

// Status says how a client stands.
type Status struct {
	Connected bool
	Complete  bool      // connected, dumped, and the sentinel is there
	Since     time.Time // when Complete last changed
	Endpoint  Endpoint  // the one in use
	Follower  bool      // of a RAFT cluster, and no leader was to be found
	Quiet     time.Duration
	Err       error // why not connected
	// Lost is when the view was last known to be the server's, while it is not.
	Lost time.Time
}

// Client is a connection to one database.
type Client struct {
	spec      Spec
	endpoints []Endpoint
	o         Options
	seed      maphash.Seed
	id        string // of monitors
	state     atomic.Pointer[State]
	cancel    context.CancelFunc
	stopped   chan struct{}

	mu       sync.Mutex
	sess     *session // nil while there is none to use
	endpoint Endpoint
	follower bool
	complete bool
	since    time.Time
	lost     time.Time
	err      error
	news     chan struct{} // closed at every change of what is above or of the state
	watchers map[*watcher]struct{}
	minIndex uint64 // RAFT: entries already seen
	oldest   bool   // the server knows no monitor_cond_since
	reset    bool   // load everything anew
	closed   bool

	stats struct{ connects, transactions, operations, races atomic.Uint64 }
}

// Stats are counts since the client was made.
type Stats struct {
	Connects     uint64 // times that the contents were loaded, or what is new of them
	Transactions uint64 // sent
	Operations   uint64 // in them
	Races        uint64 // transactions refused because another writer was faster
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	return Stats{c.stats.connects.Load(), c.stats.transactions.Load(), c.stats.operations.Load(), c.stats.races.Load()}
}

type watcher struct {
	tables map[string]bool
	wake   chan struct{}
}

// errNotLeader is why a server of a cluster is left.
var errNotLeader = errors.New("not the leader of its cluster")

// NewClient begins to connect. It ends with [Client.Close].
func NewClient(spec Spec, endpoints []string, o *Options) (*Client, error) {
	c := &Client{spec: spec, seed: maphash.MakeSeed(), id: "vnet", since: time.Now(), news: make(chan struct{}),
		watchers: map[*watcher]struct{}{}, stopped: make(chan struct{})}
	if o != nil {
		c.o = *o
	}
	if c.o.Timeout <= 0 {
		c.o.Timeout = 10 * time.Second
	}
	if c.o.Keepalive <= 0 {
		c.o.Keepalive = 5 * time.Second
	}
	if c.o.MaxDelay <= 0 {
		c.o.MaxDelay = 5 * time.Second
	}
	if c.o.Patience <= 0 {
		c.o.Patience = 5 * time.Second
	}
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, s := range endpoints {
		for _, one := range strings.Split(s, ",") {
			e, err := ParseEndpoint(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			if e.Scheme == "ssl" && c.o.TLS == nil {
				return nil, &vnet.FieldError{Field: "endpoint", Value: s, Reason: "needs a TLS configuration"}
			}
			c.endpoints = append(c.endpoints, e)
		}
	}
	if len(c.endpoints) == 0 {
		return nil, &vnet.FieldError{Field: "endpoint", Reason: "is missing"}
	}
	sc, err := newSchema(&c.spec, nil)
	if err != nil {
		return nil, err
	}
	c.state.Store(emptyState(&c.spec, sc, c.seed))
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.supervise(ctx)
	return c, nil
}

// Close ends the connection and every wait.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	<-c.stopped
}

// State is the newest copy of the database, complete or not.
func (c *Client) State() *State { return c.state.Load() }

// Keepalive is the silence after which a server is asked for an echo.
func (c *Client) Keepalive() time.Duration { return c.o.Keepalive }

// Database is its name.
func (c *Client) Database() string { return c.spec.Model.Name() }

// Status says how the client stands.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Connected: c.sess != nil, Complete: c.complete, Since: c.since, Endpoint: c.endpoint, Follower: c.follower, Err: c.err, Lost: c.lost}
	if c.sess != nil {
		s.Quiet = c.sess.quiet()
	}
	return s
}

// Err says why the view is not complete; nil when it is. It wraps [vnet.ErrNotReady].
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notReady()
}

func (c *Client) notReady() error {
	db := c.spec.Model.Name()
	switch {
	case c.closed:
		return fmt.Errorf("%s: closed: %w", db, vnet.ErrNotReady)
	case c.complete:
		return nil
	case c.sess != nil:
		return fmt.Errorf("%s: the contents are unknown: table %s of %s has no row: %w", db, c.spec.Sentinel, c.endpoint, vnet.ErrNotReady)
	case c.err != nil:
		return fmt.Errorf("%s: the contents are unknown: no connection to %s (%v): %w", db, c.where(), c.err, vnet.ErrNotReady)
	}
	return fmt.Errorf("%s: the contents are unknown: not yet connected to %s: %w", db, c.where(), vnet.ErrNotReady)
}

func (c *Client) where() string {
	var s []string
	for _, e := range c.endpoints {
		s = append(s, e.String())
	}
	return strings.Join(s, ", ")
}

// changed wakes who waits; c.mu is held.
func (c *Client) changed(tables map[string]bool) {
	close(c.news)
	c.news = make(chan struct{})
	for w := range c.watchers {
		hit := len(w.tables) == 0
		if tables == nil { // all of them
			hit = true
		}
		for t := range tables {
			hit = hit || w.tables[t]
		}
		if hit {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// settle computes complete anew; c.mu is held.
func (c *Client) settle() {
	s := c.state.Load()
	now := c.sess != nil && (c.spec.Sentinel == "" || s.Len(c.spec.Sentinel) > 0)
	if now != c.complete {
		c.complete, c.since = now, time.Now()
		if !now {
			c.lost = c.since
		}
	}
}

// Ready waits until the view is complete and returns it.
func (c *Client) Ready(ctx context.Context) (*State, error) {
	for {
		c.mu.Lock()
		news, err := c.news, c.notReady()
		s, closed := c.state.Load(), c.closed
		c.mu.Unlock()
		if err == nil {
			return s, nil
		}
		if closed {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-c.stopped:
			return nil, err
		case <-news:
		}
	}
}

// Wait returns nil when cond holds of a complete view, looking again at each
// change, or the context's error.
func (c *Client) Wait(ctx context.Context, cond func(*State) bool) error {
	for {
		c.mu.Lock()
		news, complete, closed := c.news, c.complete, c.closed
		s := c.state.Load()
		c.mu.Unlock()
		if closed {
			return c.Err()
		}
		if complete && cond(s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.stopped:
			return c.Err()
		case <-news:
		}
	}
}

// Watch wakes up when one of the tables (none: any) has changed since the last
// time, or the connection has come or gone. The first wake is at once; stop
// ends it.
func (c *Client) Watch(tables ...string) (wake <-chan struct{}, stop func()) {
	w := &watcher{tables: map[string]bool{}, wake: make(chan struct{}, 1)}
	for _, t := range tables {
		w.tables[t] = true
	}
	w.wake <- struct{}{}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	return w.wake, func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}
}

// Stopped is closed when the client has been closed.
func (c *Client) Stopped() <-chan struct{} { return c.stopped }

func (c *Client) supervise(ctx context.Context) {
	defer close(c.stopped)
	defer func() {
		c.mu.Lock()
		c.changed(nil)
		c.mu.Unlock()
	}()
	var leaderless time.Time // since when followers were seen and no leader
	delay := 50 * time.Millisecond
	first := 0 // endpoint to begin with
	for {
		sawFollower, served := false, false
		// Followers of a leader that has just died do not know it yet.
		follower := !leaderless.IsZero() && (len(c.endpoints) == 1 || time.Since(leaderless) > c.o.Patience)
		// The one that was lost comes last.
		endpoints := slices.Concat(c.endpoints[first:], c.endpoints[:first])
		if c.o.AnyMember {
			follower = true
			rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
		}
		for _, e := range endpoints {
			if ctx.Err() != nil {
				return
			}
			began := time.Now()
			err := c.serve(ctx, e, follower)
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, errNotLeader) {
				sawFollower = true
			}
			if time.Since(began) > time.Second {
				served = true
			}
			c.mu.Lock()
			c.err = fmt.Errorf("%s: %w", e, err)
			c.changed(nil)
			c.mu.Unlock()
			c.o.Logger.Debug("no connection", "database", c.spec.Model.Name(), "endpoint", e.String(), "error", err)
			if served { // what was known of the others is old
				first = (slices.Index(c.endpoints, e) + 1) % len(c.endpoints)
				break
			}
		}
		switch {
		case !sawFollower:
			leaderless = time.Time{}
		case leaderless.IsZero() || served:
			leaderless = time.Now()
		}
		if served {
			delay = 50 * time.Millisecond
		}
		// Not all clients of a server that has died at the same moment.
		d := delay/2 + rand.N(delay/2+1)
		delay = min(delay*2, c.o.MaxDelay)
		select {
		case <-ctx.Done():
			return
		case <-time.After(d):
		}
	}
}

func (c *Client) dial(ctx context.Context, e Endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout/3) // a host that is cut off does not refuse
	defer cancel()
	network := "tcp"
	if e.Scheme == "unix" {
		network = "unix"
	}
	conn, err := (&net.Dialer{KeepAlive: c.o.Keepalive}).DialContext(ctx, network, e.Address)
	if err != nil || e.Scheme != "ssl" {
		return conn, err
	}
	cfg := c.o.TLS.Clone()
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verifyChain(cfg, cs) }
	}
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// verifyChain verifies a server's certificate but for its name.
func verifyChain(cfg *tls.Config, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("server has no certificate")
	}
	o := x509.VerifyOptions{Roots: cfg.RootCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, x := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(x)
	}
	_, err := cs.PeerCertificates[0].Verify(o)
	return err
}

// zeroTxn asks monitor_cond_since for everything.
const zeroTxn = "00000000-0000-0000-0000-000000000000"

// serve connects to one server and stays until the connection ends.
func (c *Client) serve(ctx context.Context, e Endpoint, follower bool) error {
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	member := &member{c: c, follower: follower}
	s := newSession(conn, c.o.Timeout, func(method string, params json.RawMessage) error {
		return c.notified(member, method, params)
	})
	defer s.close(errClosed)
	go s.keepalive(c.o.Keepalive)
	stop := context.AfterFunc(ctx, func() { s.close(ctx.Err()) })
	defer stop()

	call := func(method string, params any, apply func(json.RawMessage) error) (json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
		defer cancel()
		r, err := s.call(ctx, method, params, apply)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		return r, nil
	}
	// Otherwise the server ends the connection when any of its databases comes or goes.
	if _, err := call("set_db_change_aware", []any{true}, nil); err != nil && !isRefusal(err) {
		return err
	}
	_, err = call("monitor", askMember, member.update)
	switch {
	case isRefusal(err): // older than 2.9: no clusters
	case err != nil:
		return err
	default:
		if err := member.check(); err != nil {
			return err
		}
	}
	db := c.spec.Model.Name()
	raw, err := call("get_schema", []any{db}, nil)
	if err != nil {
		return err
	}
	sc, err := newSchema(&c.spec, raw)
	if err != nil {
		return err
	}
	if err := c.monitor(ctx, s, sc); err != nil {
		return err
	}
	c.mu.Lock()
	c.sess, c.endpoint, c.follower, c.err = s, e, member.isFollower() && !c.o.AnyMember, nil
	c.settle()
	c.changed(nil)
	c.mu.Unlock()
	c.stats.connects.Add(1)
	c.o.Logger.Info("connected", "database", db, "endpoint", e.String(), "schema", sc.version, "follower", member.isFollower())

	if member.isFollower() && len(c.endpoints) > 1 && !c.o.AnyMember {
		go c.lookForLeader(ctx, s, e)
	}
	<-s.done
	c.mu.Lock()
	c.sess = nil
	c.settle()
	c.changed(nil)
	c.mu.Unlock()
	if ctx.Err() == nil {
		c.o.Logger.Warn("connection lost", "database", db, "endpoint", e.String(), "error", s.cause())
	}
	return s.cause()
}

// lookForLeader leaves the follower that s is connected to when another
// endpoint has become the leader.
func (c *Client) lookForLeader(ctx context.Context, s *session, not Endpoint) {
	for {
		select {
		case <-s.done:
			return
		case <-time.After(c.o.Patience):
		}
		for _, e := range c.endpoints {
			if e != not && c.leads(ctx, e) {
				s.close(fmt.Errorf("the leader is %s", e))
				return
			}
		}
	}
}

// leads asks a server whether it is the leader.
func (c *Client) leads(ctx context.Context, e Endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	conn, err := c.dial(ctx, e)
	if err != nil {
		return false
	}
	m := &member{c: c}
	s := newSession(conn, c.o.Timeout, func(string, json.RawMessage) error { return nil })
	defer s.close(errClosed)
	_, err = s.call(ctx, "monitor", askMember, m.update)
	return err == nil && m.check() == nil
}

// isRefusal reports whether the server has answered, and said no.
func isRefusal(err error) bool {
	var e *rpcError
	return errors.As(err, &e)
}

// monitor loads what is new since the state we have, or all of it.
func (c *Client) monitor(ctx context.Context, s *session, sc *schema) error {
	db := c.spec.Model.Name()
	base := c.state.Load()
	c.mu.Lock()
	keep := base.schema.same(sc) && base.TxnID != "" && !c.reset
	oldest := c.oldest
	c.mu.Unlock()
	since := zeroTxn
	if keep {
		since = base.TxnID
	}
	if !oldest {
		// No time limit: while bytes come, or echoes, the server is alive.
		_, err := s.call(ctx, "monitor_cond_since", []any{db, c.id, sc.requests(), since}, func(r json.RawMessage) error {
			var three []json.RawMessage
			var found bool
			var txn string
			var us tableUpdates
			if err := json.Unmarshal(r, &three); err != nil || len(three) != 3 {
				return fmt.Errorf("reply to monitor_cond_since makes no sense: %.80s", r)
			}
			if err := errors.Join(json.Unmarshal(three[0], &found), json.Unmarshal(three[1], &txn), json.Unmarshal(three[2], &us)); err != nil {
				return err
			}
			return c.load(sc, found && keep, us, txn)
		})
		if err == nil || !isRefusal(err) {
			return err
		}
		c.mu.Lock()
		c.oldest = true
		c.mu.Unlock()
	}
	_, err := s.call(ctx, "monitor_cond", []any{db, c.id, sc.requests()}, func(r json.RawMessage) error {
		var us tableUpdates
		if err := json.Unmarshal(r, &us); err != nil {
			return err
		}
		return c.load(sc, false, us, "")
	})
	return err
}

// load takes in the first reply of a monitor.
func (c *Client) load(sc *schema, delta bool, us tableUpdates, txn string) error {
	old := c.state.Load()
	base := old
	if !delta {
		base = emptyState(&c.spec, sc, c.seed)
		base.Version = old.Version
	}
	n, _, err := base.apply(us, txn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reset = err != nil; err != nil {
		return err
	}
	c.state.Store(n)
	c.settle()
	c.changed(nil)
	return nil
}

// notified deals with what the server sends unasked, on the reader's goroutine.
func (c *Client) notified(m *member, method string, params json.RawMessage) error {
	var ps []json.RawMessage
	if err := json.Unmarshal(params, &ps); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	switch method {
	case "update": // of _Server
		if len(ps) < 2 {
			return fmt.Errorf("update of %d parameters", len(ps))
		}
		if err := m.update(ps[1]); err != nil {
			return err
		}
		return m.check()
	case "update2", "update3":
		if len(ps) < 2 {
			return fmt.Errorf("%s of %d parameters", method, len(ps))
		}
		txn := ""
		if method == "update3" {
			if err := json.Unmarshal(ps[1], &txn); err != nil {
				return err
			}
		}
		var us tableUpdates
		err := json.Unmarshal(ps[len(ps)-1], &us)
		var n *State
		var tables map[string]bool
		if err == nil {
			n, tables, err = c.state.Load().apply(us, txn)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.reset = true
			c.o.Logger.Warn("the copy is not the server's; loading it anew", "database", c.spec.Model.Name(), "error", err)
			return err
		}
		c.state.Store(n)
		c.settle()
		c.changed(tables)
	case "monitor_canceled":
		return errors.New("the server has changed or removed the database")
	}
	return nil
}

// askMember are the parameters of a monitor of database _Server (ovsdb-server(5)).
var askMember = []any{"_Server", "_Server", map[string]any{"Database": map[string]any{
	"columns": []string{"name", "model", "connected", "leader", "index"}}}}

// member is what a server says of itself in database _Server.
type member struct {
	c        *Client
	follower bool // may it be one

	mu    sync.Mutex
	known map[string]memberRow // by UUID
}

type memberRow struct {
	Name      string          `json:"name"`
	Model     string          `json:"model"`
	Connected bool            `json:"connected"`
	Leader    bool            `json:"leader"`
	Index     json.RawMessage `json:"index"`
}

// update takes in an RFC 7047 <table-updates>.
func (m *member) update(raw json.RawMessage) error {
	var us map[string]map[string]struct {
		New *memberRow `json:"new"`
	}
	if err := json.Unmarshal(raw, &us); err != nil {
		return fmt.Errorf("rows of _Server: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[string]memberRow{}
	}
	for id, u := range us["Database"] {
		if u.New == nil {
			delete(m.known, id)
		} else {
			m.known[id] = *u.New
		}
	}
	return nil
}

func (m *member) row() (memberRow, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.known {
		if r.Name == m.c.spec.Model.Name() {
			return r, true
		}
	}
	return memberRow{}, false
}

func (m *member) isFollower() bool {
	r, ok := m.row()
	return ok && r.Model == "clustered" && !r.Leader
}

// check says why this server is not to be used.
func (m *member) check() error {
	r, ok := m.row()
	if !ok {
		return fmt.Errorf("server has no database %s", m.c.spec.Model.Name())
	}
	if r.Model != "clustered" {
		return nil
	}
	if !r.Connected {
		return errors.New("server has lost its cluster")
	}
	if !r.Leader && !m.follower {
		return errNotLeader
	}
	var index uint64
	if as, err := atoms(r.Index); err == nil && len(as) == 1 {
		json.Unmarshal(as[0], &index) // 0 when it has none
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	// After a minute it is taken for a cluster that was made anew.
	if index != 0 && index < m.c.minIndex && time.Since(m.c.lost) < time.Minute {
		return fmt.Errorf("server is behind: entry %d, seen before %d", index, m.c.minIndex)
	}
	m.c.minIndex = index
	return nil
}

// TransactError is a refusal of a transaction by the server; nothing of it was done.
type TransactError struct {
	Index         int // of the operation; that behind the last is the commit
	Code, Details string
}

func (e *TransactError) Error() string {
	if e.Details == "" {
		return e.Code
	}
	return e.Code + ": " + e.Details
}

// Race reports whether the refusal may come of another writer: a wait that
// failed, a row that was there, an index, or a reference.
func (e *TransactError) Race() bool {
	return slices.Contains([]string{"timed out", "duplicate uuid", "constraint violation", "referential integrity violation"}, e.Code)
}

// Temporary reports whether the server could not do it now: a cluster without
// leader, for one.
func (e *TransactError) Temporary() bool {
	return slices.Contains([]string{"not leader", "cluster error", "raft is disconnected", "canceled", "disabled", "timeout", "prerequisite mismatch"}, e.Code) ||
		strings.Contains(e.Code, "leader")
}

// errLost is why a transaction's outcome is unknown.
var errLost = errors.New("the connection was lost before the reply came; whether it was done is unknown")

// Transact sends one transaction and returns the results of its operations.
// The state has the changes when it returns.
func (c *Client) Transact(ctx context.Context, ops []Operation) ([]Result, error) {
	c.mu.Lock()
	s, err := c.sess, c.notReady()
	c.mu.Unlock()
	if s == nil {
		return nil, err
	}
	params := make([]any, 0, len(ops)+1)
	params = append(params, c.spec.Model.Name())
	for _, o := range ops {
		params = append(params, o)
	}
	c.stats.transactions.Add(1)
	c.stats.operations.Add(uint64(len(ops)))
	raw, err := s.call(ctx, "transact", params, nil)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case isRefusal(err):
		var e *rpcError
		errors.As(err, &e)
		return nil, &TransactError{Index: len(ops), Code: e.Code, Details: e.Details}
	default:
		return nil, fmt.Errorf("%s: %w (%v)", c.spec.Model.Name(), errLost, err)
	}
	var results []*Result
	if err := json.Unmarshal(raw, &results); err != nil {
		return nil, fmt.Errorf("reply to transact: %w", err)
	}
	out := make([]Result, len(ops))
	for i, r := range results {
		if r == nil {
			continue
		}
		if r.Error != "" {
			return nil, &TransactError{Index: i, Code: r.Error, Details: r.Details}
		}
		if i < len(out) {
			out[i] = *r
		}
	}
	if len(results) < len(ops) {
		return nil, fmt.Errorf("reply to transact has %d results for %d operations", len(results), len(ops))
	}
	return out, nil
}

// Select asks the server for rows of a table of which column includes value (a
// string, or a map of strings).
func (c *Client) Select(ctx context.Context, table, column string, value any) ([]any, error) {
	s, err := c.Ready(ctx)
	if err != nil {
		return nil, err
	}
	t := s.schema.tables[table]
	if t == nil || !t.here || t.by[column] == nil || !t.by[column].here {
		return nil, &vnet.UnsupportedError{Feature: "asking for " + table + "." + column, Backend: "the server", Need: "that column"}
	}
	cols := []string{"_uuid"}
	for _, x := range t.columns {
		if x.here {
			cols = append(cols, x.name)
		}
	}
	r, err := c.Transact(ctx, []Operation{{Op: "select", Table: table, Columns: cols,
		Where: []ovsdb.Condition{ovsdb.NewCondition(column, ovsdb.ConditionIncludes, t.by[column].encode(reflect.ValueOf(value)))}}})
	if err != nil {
		return nil, err
	}
	var out []any
	for _, raw := range r[0].Rows {
		id, err := decode(reflect.TypeFor[string](), raw["_uuid"])
		if err != nil {
			return nil, err
		}
		row, err := t.row(id.String(), nil, raw, false)
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, nil
}

// Lost reports whether err leaves the outcome of a transaction unknown.
func Lost(err error) bool { return errors.Is(err, errLost) }

// Result is what the server says of one operation.
type Result struct {
	Count   int                          `json:"count"`
	Error   string                       `json:"error"`
	Details string                       `json:"details"`
	Rows    []map[string]json.RawMessage `json:"rows"`
}
