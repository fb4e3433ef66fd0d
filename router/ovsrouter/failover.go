package ovsrouter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
)

const (
	// holdDown is for how long a host must have been there before a router goes
	// to it from one that is there as well.
	holdDown = 5 * time.Second
	// innocence is for how long a host that is newly watched is taken to be there.
	innocence = 5 * time.Second
	// together is within what time peers go that go for one reason.
	together = 5 * time.Second
	// lookEvery is how often peers are looked at, and reviewEvery how often homes
	// are though no peer has come or gone: another process may have chosen.
	lookEvery   = 100 * time.Millisecond
	reviewEvery = 5 * time.Second
)

// candidates are the hosts that a router may be at home on, the one to prefer
// first; none where it stays where Router.Host says.
func candidates(r router.Router) []string {
	if g := r.Gateway; g != nil && len(g.Hosts) > 1 {
		return g.Hosts
	}
	return nil
}

// seat is the record of a router: what was asked for and, where it may be at
// home on several hosts, which it is: "" for none.
type seat struct {
	router.Router
	At *string `json:"at,omitempty"`
}

// choose is the host of hosts that a router is to be at home on, which at is
// now; self is this host. "" is none.
func choose(hosts []string, self, at string, up, steady func(host string) bool) string {
	for _, h := range hosts {
		if steady(h) || h == at && up(h) {
			return h
		}
	}
	for _, h := range hosts {
		if h != self && up(h) {
			return h
		}
	}
	return ""
}

// judge knows which hosts are there, from what the switch says of its peers.
type judge struct {
	self string

	mu      sync.Mutex
	on      bool // somebody keeps it up to date
	seen    map[string]*sight
	own     sight
	cutOff  bool // this host is: several peers went at once, and nobody is there
	live    bool // the switch runs, and has its routers
	sawLast time.Time
}

// sight is a host as it was seen last.
type sight struct {
	up    bool
	since time.Time // of its being up; the zero value: ever since
	until time.Time // it is taken to be there though it has not been seen
	lost  time.Time // when it went; the zero value: it was never there, or this switch went
}

// start begins to judge. homes are the hosts that routers are known to be at
// home on, among them "" when that is none.
func (j *judge) start(now time.Time, probes map[string]ovs.Probe, live bool, homes map[string]bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seen, j.sawLast, j.live = map[string]*sight{}, now, live
	any := false
	for h, p := range probes {
		s := &sight{up: p.Up}
		if !p.Up && homes[h] {
			s.until = now.Add(innocence)
		}
		any = any || p.Up
		j.seen[h] = s
	}
	j.cutOff = homes[""] && len(probes) > 1 && !any
	j.own = sight{up: live && !j.cutOff}
	if !any && !homes[j.self] && len(probes) > 0 { // as after a restart of the host: another may stand in
		j.own.since = now
	}
}

// observe takes down what is seen now.
func (j *judge) observe(now time.Time, probes map[string]ovs.Probe, live bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sawLast, j.live = now, live
	if !live { // nobody is seen; the flows are gone too
		for _, s := range j.seen {
			*s = sight{}
		}
		j.own.up, j.cutOff = false, false
		return
	}
	for h := range j.seen {
		if _, ok := probes[h]; !ok {
			delete(j.seen, h)
		}
	}
	any := false
	var last time.Time
	for h, p := range probes {
		s := j.seen[h]
		switch {
		case s == nil:
			s = &sight{up: p.Up}
			if !p.Up {
				s.until = now.Add(innocence)
			}
			j.seen[h] = s
		case p.Up && !s.up:
			if s.up = true; !now.Before(s.until) {
				s.since = now
			}
		case !p.Up && s.up:
			*s = sight{lost: now}
		}
		any = any || p.Up
		if s.lost.After(last) {
			last = s.lost
		}
	}
	if any {
		j.cutOff = false
	} else if !j.cutOff {
		n := 0
		for _, s := range j.seen {
			if !s.lost.IsZero() && last.Sub(s.lost) <= together {
				n++
			}
		}
		j.cutOff = n > 1
	}
	if !j.cutOff && !j.own.up {
		j.own.since = now
	}
	j.own.up = !j.cutOff
}

// is reports whether a host is there, and whether it has been for long enough.
func (j *judge) is(host string) (up, steady bool) {
	s := &j.own
	if host != j.self {
		if s = j.seen[host]; s == nil { // not watched yet
			return true, true
		}
		if j.sawLast.Before(s.until) {
			return true, true
		}
	}
	return s.up, s.up && (s.since.IsZero() || j.sawLast.Sub(s.since) >= holdDown)
}

// choose is the host that a router is to be at home on.
func (j *judge) choose(hosts []string, at string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return choose(hosts, j.self, at, func(h string) bool { up, _ := j.is(h); return up }, func(h string) bool { _, steady := j.is(h); return steady })
}

// verdict is all that choices depend on, as text.
func (j *judge) verdict() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, h := range append(slices.Sorted(keys(j.seen)), j.self) {
		up, steady := j.is(h)
		fmt.Fprintf(&b, "%s %t %t\n", h, up, steady)
	}
	return b.String()
}

// steady are the other hosts that are there and have been for long enough.
func (j *judge) steady() (out []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for h, s := range j.seen {
		if _, steady := j.is(h); steady && s.up {
			out = append(out, h)
		}
	}
	return out
}

// pending reports whether a host is there, and not yet for long enough, or this
// one is not.
func (j *judge) pending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for h := range j.seen {
		if up, steady := j.is(h); up && !steady {
			return true
		}
	}
	up, steady := j.is(j.self)
	return !j.live || up && !steady
}

func (j *judge) keep(on bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.on = on
}

func (j *judge) kept() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.on
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// checkHosts refuses a router whose hosts cannot watch each other.
func (b *Backend) checkHosts(r router.Router) error {
	for i, h := range candidates(r) {
		field := fmt.Sprintf("gateway.hosts[%d]", i)
		if !b.sw.Options().TunnelIP.IsValid() {
			return &vnet.FieldError{Field: field, Value: h, Reason: "is one of several, and this host has no tunnel address to watch them by"}
		}
		if _, ok := b.sw.Peer(h); !ok && h != b.sw.Name() {
			return &vnet.FieldError{Field: field, Value: h, Reason: "is a host whose tunnel address is not known here"}
		}
	}
	return nil
}

// peers are the hosts that this one has to watch for some routers: those they
// may be at home on, and where this host is among them, all who may look at it.
func (b *Backend) peers(rs []router.Router) (out []string) {
	for _, r := range rs {
		c := candidates(r)
		if slices.Contains(c, b.sw.Name()) {
			return b.sw.Peers()
		}
		out = append(out, c...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// at is the host that a router is at home on, where it may be on several: as
// its record says, or as the hosts look now.
func (w *work) at(r router.Router) (*string, error) {
	hosts := candidates(r)
	if hosts == nil {
		return nil, nil
	}
	if h, ok := w.moved[r.ID]; ok {
		return &h, nil
	}
	have, err := one[seat](w, kindRouter, r.ID)
	if err != nil {
		return nil, err
	}
	if have != nil && have.At != nil && (*have.At == "" || slices.Contains(hosts, *have.At)) {
		return have.At, nil
	}
	j := &w.b.judge
	if !j.kept() {
		seats, err := every[seat](w, kindRouter)
		if err != nil {
			return nil, err
		}
		probes, live := w.b.sw.Probes()
		j = &judge{self: w.b.sw.Name()}
		j.start(time.Now(), probes, live, homes(seats))
	}
	h := j.choose(hosts, "")
	return &h, nil
}

// homes are the hosts that routers are at home on which may be on several.
func homes(seats []seat) map[string]bool {
	out := map[string]bool{}
	for _, s := range seats {
		if s.At != nil {
			out[*s.At] = true
		}
	}
	return out
}

// seats are the routers that stand and may be at home on several hosts.
func (b *Backend) seats(ctx context.Context) (out []seat, err error) {
	_, err = b.sw.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		all, err := every[seat](&work{b: b, tx: tx}, kindRouter)
		out = slices.DeleteFunc(all, func(s seat) bool { return s.At == nil || candidates(s.Router) == nil })
		return err
	})
	return out, err
}

// follow moves routers to where they are to be at home, until ctx ends.
func (b *Backend) follow(ctx context.Context) {
	probes, live := b.sw.Probes() // whose routers stand
	seats, err := b.seats(ctx)
	if err != nil && ctx.Err() == nil {
		b.log.Warn("router: where routers are at home", "err", err)
	}
	b.judge.start(time.Now(), probes, live, homes(seats))
	empty := len(probes) > 0 && len(seats) == 0 // the switch was started anew
	if empty {
		b.judge.observe(time.Now(), probes, false)
	}
	b.judge.keep(true)
	defer b.judge.keep(false)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	known, reviewed := "", time.Time{}
	there := b.judge.steady()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		probes, live := b.sw.Probes()
		empty = (empty || !live) && len(probes) > 0
		if empty && live {
			if empty, err = b.restarted(ctx); err != nil && ctx.Err() == nil {
				b.log.Warn("router: after a restart of the switch", "err", err)
			}
		}
		b.judge.observe(now, probes, live && !empty)
		if !live || empty || len(probes) == 0 {
			continue
		}
		v := b.judge.verdict()
		if v == known && now.Sub(reviewed) < reviewEvery {
			continue
		}
		reviewed = now
		err := b.review(ctx)
		if now := b.judge.steady(); err == nil {
			back := slices.DeleteFunc(slices.Clone(now), func(h string) bool { return slices.Contains(there, h) })
			if len(back) > 0 {
				err = b.repeat(ctx, back)
			}
			there = now
		}
		if err == nil {
			known = v
		} else if known = ""; ctx.Err() == nil {
			b.log.Warn("router: move to another host", "err", err)
		}
	}
}

// restarted reports whether a switch that is there again has lost its routers,
// and until they stand has the peers not count on it.
func (b *Backend) restarted(ctx context.Context) (empty bool, err error) {
	seats, err := b.seats(ctx)
	if err != nil {
		return true, err
	}
	return len(seats) == 0, b.sw.HoldBack(ctx, len(seats) == 0)
}

// review moves the routers that are to be at home elsewhere.
func (b *Backend) review(ctx context.Context) error {
	seats, err := b.seats(ctx)
	if err != nil {
		return err
	}
	for _, s := range seats {
		if to := b.judge.choose(candidates(s.Router), *s.At); to != *s.At {
			if err := b.move(ctx, s.ID); err != nil {
				return fmt.Errorf("router %s: %w", s.ID, err)
			}
		}
	}
	return nil
}

// Settled waits until routers with several gateway hosts are where they stay, as
// far as this host can see now; without Serve, it returns at once. After a
// restart of a host's switch that takes several seconds.
func (b *Backend) Settled(ctx context.Context) error {
	for b.judge.kept() {
		seats, err := b.seats(ctx)
		if err != nil {
			return err
		}
		stay := len(seats) == 0 || !b.judge.pending()
		for _, s := range seats {
			stay = stay && b.judge.choose(candidates(s.Router), *s.At) == *s.At
		}
		if stay {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// repeat announces what routers are known by that are at home here, where hosts
// that have come back may have stood in: while neither could see the other, the
// outside may have believed both.
func (b *Backend) repeat(ctx context.Context, back []string) error {
	_, err := b.sw.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		w := &work{b: b, tx: tx}
		st, err := w.standing()
		if err != nil {
			return err
		}
		here := map[string]bool{}
		for _, r := range st.Routers {
			here[r.ID] = w.homes[r.ID] && slices.ContainsFunc(candidates(r), func(h string) bool { return slices.Contains(back, h) })
		}
		all := announcements(st, func(id string) bool { return here[id] }, func(f router.FloatingIP) string {
			if !here[f.RouterID] {
				return nowhere
			}
			return w.before[f.ID]
		})
		for k := range all {
			if n, ok := tx.Known("network", k.network); ok {
				b.announce.announce(n, k.mac, k.addr)
			}
		}
		return nil
	})
	return err
}

// move makes a router be at home where it is to be.
func (b *Backend) move(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sw.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		w := &work{b: b, tx: tx}
		all, err := w.standing()
		if err != nil {
			return err
		}
		was := partOf(all, id)
		have, err := one[seat](w, kindRouter, id)
		if err != nil || have == nil || have.At == nil {
			return err
		}
		to := b.judge.choose(candidates(have.Router), *have.At)
		if to == *have.At {
			return nil
		}
		b.log.Info("router moves to another host", "router", id, "from", *have.At, "to", to)
		w.moved = map[string]string{id: to}
		return w.bring(was, was, names(was), others(all, id))
	})
}

// tunnel is how another host is sent frames of a network.
type tunnel struct {
	port uint16 // OpenFlow
	id   uint32 // the network's
}

// tunnel is that of a network, which package overlay has made; not ok where
// the network is not tunnelled, or not known here.
func (w *work) tunnel(n networkRecord) (t tunnel, ok bool) {
	kind := n.Segment.Type
	if kind != string(ovs.VXLAN) && kind != string(ovs.Geneve) {
		return t, false
	}
	port, ok := w.tx.Known("tunnel", kind)
	return tunnel{port, n.Segment.ID}, ok
}

// homeward are the flows that take what is for the router's host to the one
// that it is at home on now, wherever package overlay thinks that its ports are.
func (s site) homeward() (out []of.Flow) {
	if s.home || !s.end.IsValid() {
		return nil
	}
	dst := of.TunDst.Addr(s.end)
	if s.end.Is6() {
		dst = of.TunIPv6Dst.Addr(s.end)
	}
	mine := regRouter.Is(uint64(s.number))
	sent := map[string]bool{}
	for _, x := range s.here() {
		t, ok := s.tunnels[x.network]
		if !ok {
			continue
		}
		out = append(out, flow(tAdmission, 60, of.ARP(s.net(x.network), of.EthDst.MAC(x.mac), flags(0, fromTunnel|fromWire)), of.Set(mine), of.Goto(tHome)))
		if !sent[x.network] {
			sent[x.network] = true
			out = append(out, flow(tHome, 100, of.Any(mine, s.net(x.network)),
				of.Resubmit{Table: tCommit}, of.Set(of.TunID.Is(uint64(t.id))), of.Set(dst), of.Output{Port: of.Port(t.port)}))
		}
	}
	return out
}

// endOf is the tunnel end of the host that a router is at home on, if that is
// another one.
func (b *Backend) endOf(at *string) netip.Addr {
	if at == nil {
		return netip.Addr{}
	}
	a, _ := b.sw.Peer(*at)
	return a
}
