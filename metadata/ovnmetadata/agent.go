package ovnmetadata

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	gosync "sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
	"github.com/vnet-go/vnet/ovn"
)

// AgentOptions of an [Agent].
type AgentOptions struct {
	// Instances says who asks.
	Instances metadata.Instances
	// Server is about the answers, which this process gives, unless Nova is set:
	// then requests go there.
	Server metadata.ServerOptions
	Nova   *metadata.NovaOptions
	// Proxy bounds what instances may do.
	Proxy metadata.ProxyOptions
	// Metrics gets the agent's metrics; nil: none.
	Metrics prometheus.Registerer
	// Logger gets what a person may want to know later; nil: the host's.
	Logger *slog.Logger
}

// Agent is the half on a hypervisor: it answers at the endpoints of the
// networks that have machines there. It only reads the Southbound. It is safe
// for use by several goroutines.
type Agent struct {
	sb    *ovn.Conn
	ch    *ovn.Chassis
	h     *linux.Host
	log   *slog.Logger
	a     *answer.Answerer
	since time.Time
	wake  chan struct{}

	mu      gosync.Mutex // guards what follows
	serving map[string]*served
	running bool
	looked  bool  // the Southbound has been looked at
	err     error // why it could not be, last time
}

// served is an endpoint on this host.
type served struct {
	e      metadata.Endpoint
	ns     *linux.Namespace
	err    error // why it could not be
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ceased to answer; nil: it has not begun
}

// device is what an endpoint's device is called in its namespace.
const device = "meta0"

// recheck is how often Serve looks for what no event told of.
const recheck = 10 * time.Second

// NewAgent returns an agent that learns from sb what is where, plugs into the
// switch of ch and makes namespaces by h, all three of the same owner and the
// latter of this host. It starts no goroutine; Serve does.
func NewAgent(sb *ovn.Conn, ch *ovn.Chassis, h *linux.Host, o *AgentOptions) (*Agent, error) {
	switch {
	case sb == nil:
		return nil, &vnet.FieldError{Field: "southbound", Reason: "is nil"}
	case ch == nil:
		return nil, &vnet.FieldError{Field: "chassis", Reason: "is nil"}
	case h == nil:
		return nil, &vnet.FieldError{Field: "host", Reason: "is nil"}
	case sb.Owner() != h.Owner() || ch.Owner() != h.Owner():
		return nil, &vnet.FieldError{Field: "host", Value: string(h.Owner()), Reason: fmt.Sprintf("is the owner of the host, %s of the connection, %s of the chassis", sb.Owner(), ch.Owner())}
	}
	var opt AgentOptions
	if o != nil {
		opt = *o
	}
	a := &Agent{sb: sb, ch: ch, h: h, log: opt.Logger, since: time.Now(), wake: make(chan struct{}, 1), serving: map[string]*served{}}
	if a.log == nil {
		a.log = h.Logger()
	}
	var err error
	a.a, err = answer.New(answer.Options{Instances: opt.Instances, Server: opt.Server, Nova: opt.Nova, Proxy: opt.Proxy,
		Metrics: opt.Metrics, Logger: a.log, Owner: string(h.Owner()), Host: h.Name(), Endpoint: a.endpointOf})
	if err == nil {
		err = a.a.Ready()
	}
	return a, err
}

func (a *Agent) endpointOf(x metadata.Asker) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, s := range a.serving {
		if s.e.NetworkID == x.NetworkID {
			return id
		}
	}
	return ""
}

// Watch yields events as [metadata.Watcher] has them.
func (a *Agent) Watch(ctx context.Context) iter.Seq[vnet.Event] { return a.a.Watch(ctx) }

// Serve answers at the endpoints that this host has and will have, until ctx
// ends, when it returns nil; requests being answered then get two seconds, and
// what was made stays for the next to take over. While the Southbound is away
// it goes on as it knows. One Serve runs at a time; another is
// [vnet.ErrConflict].
func (a *Agent) Serve(ctx context.Context) error {
	a.mu.Lock()
	if a.running {
		a.mu.Unlock()
		return fmt.Errorf("serving already: %w", vnet.ErrConflict)
	}
	a.running = true
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var wg gosync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		a.mu.Lock()
		all := a.serving
		a.serving, a.running, a.looked = map[string]*served{}, false, false
		a.mu.Unlock()
		for _, s := range all {
			s.stop()
		}
		a.a.Serving(0)
	}()
	var all gosync.Mutex
	look := false // at everything that was made
	poke := func(everything bool) {
		all.Lock()
		look = look || everything
		all.Unlock()
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	wg.Go(func() {
		for range a.sb.Changes(ctx, "Port_Binding", "Chassis") {
			poke(false)
		}
	})
	wg.Go(func() {
		for range a.ch.Changes(ctx) {
			poke(true)
		}
	})
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			poke(true)
			continue
		case <-a.wake:
		}
		all.Lock()
		everything := look
		look = false
		all.Unlock()
		err := a.reconcile(ctx, everything)
		if ctx.Err() != nil {
			return nil
		}
		a.mu.Lock()
		a.err = err
		a.looked = a.looked || err == nil
		a.mu.Unlock()
		if err != nil {
			a.log.Warn("metadata: what is where is not known; going on as it was", "error", err)
		}
		// Ports come in crowds; one look for all of them will do.
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wanted are the endpoints of the networks that have machines on this host.
func (a *Agent) wanted(ctx context.Context) (map[string]metadata.Endpoint, error) {
	if h := a.sb.Health(ctx); !h.Complete { // View would wait
		return nil, fmt.Errorf("southbound: %s: %w", h.Detail, vnet.ErrNotReady)
	}
	v, err := a.sb.View(ctx)
	if err != nil {
		return nil, err
	}
	cfg, err := a.ch.Config(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]metadata.Endpoint{}
	chassis := ovn.By[sbrow.Chassis](v, "name", cfg.SystemID)
	if len(chassis) == 0 { // ovn-controller has taken it away, and will put it back, or the Southbound is new
		return nil, fmt.Errorf("southbound: no chassis %q: %w", cfg.SystemID, vnet.ErrNotReady)
	}
	for _, c := range chassis {
		here := map[string]bool{} // datapaths
		for p := range ovn.All[sbrow.PortBinding](v) {
			if p.Type == "" && (p.Chassis != nil && *p.Chassis == c.UUID || slices.Contains(p.AdditionalChassis, c.UUID)) {
				here[p.Datapath] = true
			}
		}
		for p := range ovn.All[sbrow.PortBinding](v) {
			if !here[p.Datapath] || p.Type != "localport" {
				continue
			}
			m, ok := ovn.MarkOf(p.ExternalIDs)
			if !ok || m.Owner != a.h.Owner() || m.Part != vnet.PartMetadata || m.Kind != kindEndpoint {
				continue
			}
			e := endpointOf(p.ExternalIDs)
			if err := e.Validate(); err != nil || e.ID != m.ID {
				a.log.Warn("metadata: an endpoint cannot be read", "endpoint", m.ID, "error", err)
				continue
			}
			out[e.ID] = e
		}
	}
	return out, nil
}

// reconcile takes away what is not wanted here, and makes what is.
func (a *Agent) reconcile(ctx context.Context, everything bool) error {
	want, err := a.wanted(ctx)
	if err != nil {
		return err
	}
	if err := a.remove(ctx, want); err != nil {
		return err
	}
	n := 0
	for _, id := range slices.Sorted(maps.Keys(want)) {
		e := want[id]
		a.mu.Lock()
		s := a.serving[id]
		a.mu.Unlock()
		if s != nil && (!s.e.Equal(e) || s.ended()) {
			s.stop()
			s = nil
		}
		if s != nil && s.err == nil && !everything {
			n++
			continue
		}
		if s == nil {
			s = &served{e: e}
		}
		ns, err := a.make(ctx, e)
		if err == nil && s.ns != nil && s.ns != ns { // somebody made the namespace anew
			s.stop()
			s = &served{e: e}
		}
		if err == nil && s.ns == nil {
			err = a.listen(ctx, s, ns)
		}
		if ctx.Err() != nil {
			s.stop()
			return ctx.Err()
		}
		if err != nil {
			a.log.Warn("metadata: cannot answer at an endpoint", "endpoint", id, "error", err)
		} else {
			n++
		}
		a.mu.Lock()
		s.err = err
		a.serving[id] = s
		a.mu.Unlock()
	}
	a.a.Serving(n)
	return nil
}

// remove takes away the endpoints of ours on this host that are not wanted.
func (a *Agent) remove(ctx context.Context, want map[string]metadata.Endpoint) error {
	ports := map[string]bool{}
	for _, e := range want {
		ports[e.PortID] = true
	}
	a.mu.Lock()
	var ended []*served
	for id, s := range a.serving {
		if _, ok := want[id]; !ok {
			ended = append(ended, s)
			delete(a.serving, id)
		}
	}
	a.mu.Unlock()
	for _, s := range ended {
		s.stop()
	}
	plugged, err := a.ch.Plugged(ctx)
	if err != nil {
		return err
	}
	for _, p := range plugged {
		if p.Part == vnet.PartMetadata && !ports[p.PortID] {
			if err := a.ch.Unplug(ctx, vnet.PartMetadata, p.PortID); err != nil {
				return err
			}
		}
	}
	ids, err := a.h.Namespaces(ctx, vnet.PartMetadata)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := want[id]; !ok {
			if err := a.h.DeleteNamespace(ctx, a.h.NetnsName(vnet.PartMetadata, id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// make makes the namespace of an endpoint be as it must, and plugs it.
func (a *Agent) make(ctx context.Context, e metadata.Endpoint) (*linux.Namespace, error) {
	ns, err := a.h.CreateNamespace(ctx, a.h.NetnsName(vnet.PartMetadata, e.ID))
	if err != nil {
		return nil, err
	}
	if _, err := ns.Sysctl().Set(answer.Settings()...); err != nil {
		return nil, err
	}
	if err := a.h.Submit(ctx, linux.Step{Phase: linux.LinkAdd, NS: ns, NFT: answer.Rules}); err != nil {
		return nil, err
	}
	p := ovn.Plug{Part: vnet.PartMetadata, PortID: e.PortID, Kind: ovn.DeviceVeth, Name: device, Netns: ns.Path(), MAC: e.MAC}
	in := ns.RTNL()
	if _, err := in.Link(device); errors.Is(err, vnet.ErrNotFound) {
		// Or the other end is in a namespace that was removed.
		if err := a.ch.Unplug(ctx, vnet.PartMetadata, e.PortID); err != nil {
			return nil, err
		}
	}
	if _, err := a.ch.Plug(ctx, p); err != nil {
		return nil, err
	}
	if err := in.SetUp(device); err != nil {
		return nil, err
	}
	have, err := in.Addrs(device)
	if err != nil {
		return nil, err
	}
	want := answer.Addresses(e)
	for _, p := range want {
		if !slices.ContainsFunc(have, func(h rtnl.Addr) bool { return h.Prefix == p }) {
			if err := in.AddAddr(device, rtnl.Addr{Prefix: p, NoDAD: true}); err != nil {
				return nil, err
			}
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h.Prefix) {
			if err := in.DelAddr(device, h.Prefix); err != nil {
				return nil, err
			}
		}
	}
	routes, err := in.Routes(0)
	if err != nil {
		return nil, err
	}
	for _, r := range answer.Routes(device) {
		if !slices.ContainsFunc(routes, func(h rtnl.Route) bool { return h.Dst == r.Dst && h.Dev == device && !h.Via.IsValid() }) {
			if err := in.SetRoute(r); err != nil {
				return nil, err
			}
		}
	}
	return ns, nil
}

// listen begins to answer.
func (a *Agent) listen(ctx context.Context, s *served, ns *linux.Namespace) error {
	network := s.e.NetworkID
	ls, err := answer.Listen(ctx, ns, answer.Port, func(source netip.Addr, _ int) (metadata.Asker, bool) {
		return metadata.NewAsker("", network, source), true
	})
	if err != nil {
		return err
	}
	own, cancel := context.WithCancel(ctx)
	s.ns, s.cancel, s.done = ns, cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		if err := a.a.Serve(own, ls...); err != nil && own.Err() == nil {
			a.log.Warn("metadata: an endpoint has ceased to answer", "endpoint", s.e.ID, "error", err)
		}
	}()
	return nil
}

// ended reports whether it has ceased to answer by itself.
func (s *served) ended() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *served) stop() {
	if s.done != nil {
		s.cancel()
		<-s.done
	}
}

// Health is complete while Serve answers at all endpoints that this host is to
// have, as far as the Southbound says, and knows both databases.
func (a *Agent) Health(ctx context.Context) vnet.Health {
	for _, h := range []vnet.Health{a.sb.Health(ctx), a.ch.Health(ctx)} {
		if !h.Complete {
			return h
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := vnet.Health{Complete: true, Since: a.since}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(a.serving)) {
		s := a.serving[id]
		switch {
		case s.err != nil:
			errs = append(errs, fmt.Errorf("endpoint %s: %w", id, s.err))
		case s.ended():
			errs = append(errs, fmt.Errorf("endpoint %s: %w", id, vnet.ErrNotReady))
		}
	}
	switch {
	case !a.running:
		h.Complete, h.Detail = false, "not serving: Serve is not running"
	case a.err != nil:
		h.Complete, h.Detail = false, a.err.Error()
	case !a.looked:
		h.Complete, h.Detail = false, "the Southbound is being read"
	case len(errs) > 0:
		h.Complete, h.Detail = false, errors.Join(errs...).Error()
	default:
		h.Detail = fmt.Sprintf("answering at %d endpoints", len(a.serving))
	}
	return h
}
