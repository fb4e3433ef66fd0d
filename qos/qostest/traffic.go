package qostest

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/qos"
)

const (
	window    = 5 * time.Second // for which a rate is measured
	tolerance = 0.10
	frame     = 1400 // bytes of an Ethernet frame without checksum
)

// world is a site with machines that all traffic cases share.
type world struct {
	*bench
	h    Harness
	f    qos.Features
	peer VM // elsewhere, without limits
	free VM // here, without limits
	vms  map[string]VM
}

// RunTraffic runs the cases that measure traffic: for a second platform of a
// backend whose first has passed all of [Run].
func RunTraffic(t *testing.T, h Harness) {
	t.Run("traffic", func(t *testing.T) {
		if h.Rates == nil {
			h.Rates = []uint32{1000, 10_000, 100_000}
		}
		w := &world{bench: newBench(t, h.Make(t)), h: h, vms: map[string]VM{}}
		w.f = w.s.Features(w.ctx)
		w.peer, w.free = w.site.VM(t, "peer", true), w.site.VM(t, "free", false)
		for _, c := range trafficCases() {
			if h.Only != nil && !h.Only(c.name) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				w := *w
				b := *w.bench
				b.t, b.ctx = t, t.Context()
				w.bench = &b
				c.run(&w)
			})
		}
	})
}

type trafficCase struct {
	name string
	run  func(*world)
}

func trafficCases() []trafficCase {
	return []trafficCase{
		{"accuracy", (*world).accuracy},
		{"change", (*world).change},
		{"both limits", (*world).bothLimits},
		{"mark", (*world).mark},
		{"default burst", (*world).defaultBurst},
		{"before plugging", (*world).beforePlugging},
		{"restart", (*world).restart},
		{"gateway and floating IP", (*world).routed},
		{"guarantee on tunnels", func(w *world) { w.guarantee(qos.Tunnelled, w.f.TunnelGuarantees) }},
		{"guarantee on a physical network", func(w *world) { w.guarantee("physnet1", w.f.Guarantees) }},
	}
}

// vm is a machine of the host under test.
func (w *world) vm(id string) VM {
	v, ok := w.vms[id]
	if !ok {
		v = w.site.VM(w.t, id, false)
		w.vms[id] = v
	}
	return v
}

// limit gives a machine's port a shape, until the case ends.
func (w *world) limit(v VM, x qos.Shape) {
	w.t.Helper()
	require.NoError(w.t, w.s.EnsurePort(w.ctx, qos.Port{ID: v.PortID, Shape: x, Host: w.site.Host}))
	w.settle()
}

func (w *world) settle() {
	if w.site.Settle != nil {
		w.site.Settle()
	}
}

// unlimit takes away what the case has limited.
func (w *world) unlimit(all ...VM) {
	for _, v := range all {
		if v.NS == nil {
			continue // it was not needed
		}
		require.NoError(w.t, w.s.DeletePort(w.ctx, v.PortID))
	}
}

// limits is a bandwidth with a burst of a tenth of a second, which is sent soon.
func limits(kbps uint32) qos.Limits {
	return qos.Limits{Kbps: kbps, BurstKbit: max(kbps/10, 3*qos.MinBurstKbit)}
}

func packets(pps uint32) qos.Limits { return qos.Limits{PPS: pps, BurstPackets: pps / 10} }

// path is one direction between a limited machine and the peer.
type path struct {
	what string
	flow *lab.Flow
	want lab.Rate // Kbps or PPS
	vm   VM
	d    qos.Direction
}

// flow sends one way between a machine and the peer.
func (w *world) flow(v VM, d qos.Direction, o lab.Offer) *lab.Flow {
	w.t.Helper()
	if d == qos.Egress {
		return v.NS.Send(w.peer.NS, w.peer.V4, o)
	}
	return w.peer.NS.Send(v.NS, v.V4, o)
}

// measure drains bursts, then measures all paths at the same time, and checks
// that each is what it should be, and that drops are counted.
func (w *world) measure(paths []path) {
	w.t.Helper()
	time.Sleep(700 * time.Millisecond) // a burst is sent in less
	before := w.counted()
	begun := make([]lab.Rate, len(paths))
	done := make(chan int)
	for i, p := range paths {
		go func() { begun[i] = p.flow.Measure(window); done <- i }()
	}
	for range paths {
		<-done
	}
	after := w.counted()
	for i, p := range paths {
		got, want, offered := begun[i].Kbps, p.want.Kbps, begun[i].OfferKbps
		if want == 0 {
			got, want, offered = begun[i].PPS, p.want.PPS, begun[i].OfferPP
		}
		w.t.Logf("%s: %s", p.what, begun[i])
		assert.Greater(w.t, offered, 1.1*want, "%s: the sender offered too little to say", p.what)
		assert.Less(w.t, math.Abs(got-want), tolerance*want, "%s: %.0f instead of %.0f", p.what, got, want)
		k := statKey{"port", p.vm.PortID, p.d}
		dropped, lost := after[k].Dropped.Packets-before[k].Dropped.Packets, begun[i].Sent-begun[i].Received
		// What the window cuts off at its ends is on one side only.
		assert.InDelta(w.t, lost, dropped, 0.05*float64(lost)+50, "%s: drops counted", p.what)
	}
}

type statKey struct {
	kind, id string
	d        qos.Direction
}

func (w *world) counted() map[statKey]qos.Statistics {
	w.t.Helper()
	all, err := w.s.Statistics(w.ctx)
	require.NoError(w.t, err)
	out := map[statKey]qos.Statistics{}
	for _, x := range all {
		out[statKey{x.Kind, x.ID, x.Direction}] = x
	}
	return out
}

func way(d qos.Direction, l qos.Limits) (x qos.Shape) {
	if d == qos.Egress {
		x.Egress = l
	} else {
		x.Ingress = l
	}
	return x
}

// accuracy: every limit that is claimed holds within 10 % over 5 s, and a flow
// of another machine on the host loses nothing.
func (w *world) accuracy() {
	type todo struct {
		vm VM
		l  qos.Limits
		d  qos.Direction
		o  lab.Offer
	}
	rounds := make([][]todo, 1) // what is slow is measured at the same time
	var limited []VM
	add := func(id string, l qos.Limits, o lab.Offer, egress, ingress bool) {
		if !egress && !ingress {
			return
		}
		v := w.vm(id)
		limited = append(limited, v)
		var x qos.Shape
		for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
			switch {
			case d == qos.Egress && egress:
				x.Egress = l
			case d == qos.Ingress && ingress:
				x.Ingress = l
			default:
				continue
			}
			if l.Kbps < 50_000 {
				rounds[0] = append(rounds[0], todo{v, l, d, o})
			} else {
				rounds = append(rounds, []todo{{v, l, d, o}})
			}
		}
		w.limit(v, x)
	}
	a := w.f.Port
	for _, r := range w.h.Rates {
		add(fmt.Sprintf("m%d", r), limits(r), lab.Offer{Kbps: int(r) * 3 / 2}, a.EgressBandwidth, a.IngressBandwidth)
	}
	add("mpps", packets(1000), lab.Offer{PPS: 2000, Frame: 200}, a.EgressPacketRate, a.IngressPacketRate)
	for _, list := range rounds {
		if len(list) == 0 {
			continue
		}
		out := w.free.NS.Send(w.peer.NS, w.peer.V4, lab.Offer{PPS: 400, Frame: 600})
		in := w.peer.NS.Send(w.free.NS, w.free.V4, lab.Offer{PPS: 400, Frame: 600})
		var paths []path
		for _, x := range list {
			paths = append(paths, path{what: fmt.Sprintf("%s %s", x.vm.PortID, x.d), flow: w.flow(x.vm, x.d, x.o),
				want: lab.Rate{Kbps: float64(x.l.Kbps), PPS: float64(x.l.PPS)}, vm: x.vm, d: x.d})
		}
		w.measure(paths)
		for _, p := range paths {
			p.flow.Stop()
		}
		out.Stop()
		in.Stop()
		for what, f := range map[string]*lab.Flow{"from": out, "to": in} {
			assert.GreaterOrEqual(w.t, float64(f.Received()), 0.99*float64(f.Sent()), "what goes %s a machine without limits", what)
		}
	}
	w.unlimit(limited...)
}

// change: changing a limit loses nothing that is within both.
func (w *world) change() {
	v := w.vm("change")
	kbps := func(n uint32) qos.Shape {
		var x qos.Shape
		if w.f.Port.EgressBandwidth {
			x.Egress.Kbps = n
		}
		if w.f.Port.IngressBandwidth {
			x.Ingress.Kbps = n
		}
		return x
	}
	w.limit(v, kbps(20_000))
	out, in := w.flow(v, qos.Egress, lab.Offer{PPS: 300, Frame: 600}), w.flow(v, qos.Ingress, lab.Offer{PPS: 300, Frame: 600})
	time.Sleep(200 * time.Millisecond)
	for i := range 10 {
		w.limit(v, kbps(20_000+uint32(i%2)*10_000))
	}
	time.Sleep(200 * time.Millisecond)
	out.Stop()
	in.Stop()
	assert.Equal(w.t, out.Sent(), out.Received(), "packets of the machine while its limit changed")
	assert.Equal(w.t, in.Sent(), in.Received(), "packets to the machine while its limit changed")
	// A limit that goes holds no longer.
	w.limit(v, kbps(1000))
	w.unlimit(v)
	w.settle()
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		f := w.flow(v, d, lab.Offer{Kbps: 4000})
		r := f.Measure(time.Second)
		f.Stop()
		assert.Greater(w.t, r.Kbps, 3500.0, "%s without a limit: %s", d, r)
	}
}

// bothLimits: bandwidth and packet rate of one direction both hold.
func (w *world) bothLimits() {
	v := w.vm("both")
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		if d == qos.Egress && !(w.f.Port.EgressBandwidth && w.f.Port.EgressPacketRate) || d == qos.Ingress && !(w.f.Port.IngressBandwidth && w.f.Port.IngressPacketRate) {
			continue
		}
		l := limits(4000)
		l.PPS, l.BurstPackets = 1000, 100
		w.limit(v, way(d, l))
		for _, c := range []struct {
			o    lab.Offer
			kbps float64
			pps  float64
		}{{lab.Offer{PPS: 2000, Frame: 120}, 0, 1000}, {lab.Offer{PPS: 900, Frame: frame}, 4000, 0}} {
			f := w.flow(v, d, c.o)
			time.Sleep(700 * time.Millisecond)
			r := f.Measure(2 * time.Second)
			f.Stop()
			w.t.Logf("%s, frames of %d bytes: %s", d, c.o.Frame, r)
			got, want := r.Kbps, c.kbps
			if want == 0 {
				got, want = r.PPS, c.pps
			}
			assert.Less(w.t, math.Abs(got-want), tolerance*want, "%s, frames of %d bytes: %.0f instead of %.0f", d, c.o.Frame, got, want)
		}
	}
	w.unlimit(v)
}

// mark: what is sent has the DSCP of the policy, and nothing else has.
func (w *world) mark() {
	if !w.f.Port.DSCP {
		return
	}
	v := w.vm("mark")
	try := func(from, to VM, want int) {
		w.t.Helper()
		for _, dst := range []string{to.V4, to.V6} {
			if dst == "" {
				continue
			}
			// What stands below, explicit congestion notification, stays.
			f := from.NS.Send(to.NS, dst, lab.Offer{PPS: 50, Frame: 200, TOS: 32<<2 | 1})
			lab.Eventually(w.t, 10*time.Second, fmt.Sprintf("packets of %s to %s with DSCP %d", from.PortID, dst, want), func() bool { return f.TOS() == want<<2|1 })
			f.Stop()
		}
	}
	w.limit(v, qos.Shape{DSCP: mark(46)})
	try(v, w.peer, 46)
	try(w.peer, v, 32)
	try(w.free, w.peer, 32)
	w.limit(v, qos.Shape{DSCP: mark(0)})
	try(v, w.peer, 0)
	w.unlimit(v)
	w.settle()
	try(v, w.peer, 32)
}

// defaultBurst leaves one TCP connection at least 80 % of the limit.
func (w *world) defaultBurst() {
	var done sync.WaitGroup
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		if d == qos.Egress && !w.f.Port.EgressBandwidth || d == qos.Ingress && !w.f.Port.IngressBandwidth {
			continue
		}
		v := w.vm("tcp-" + string(d))
		w.limit(v, way(d, qos.Limits{Kbps: 10_000}))
		from, to := v, w.peer
		if d == qos.Ingress {
			from, to = to, from
		}
		done.Go(func() {
			got := w.stream(from, to, 6*time.Second)
			w.t.Logf("%s: TCP %.0f kbit/s", d, got)
			assert.Greater(w.t, got, 8000.0, "%s: TCP with the default burst", d)
			// The burst itself is 80 % of a second, so 6 s carry at most 6.8.
			assert.Less(w.t, got, 10_000*1.25, "%s: TCP with the default burst", d)
		})
	}
	done.Wait()
	w.unlimit(w.vms["tcp-egress"], w.vms["tcp-ingress"])
}

// stream sends by one TCP connection and says how much arrived, in kbit/s.
func (w *world) stream(from, to VM, d time.Duration) float64 {
	var l net.Listener
	err := to.NS.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	})
	if !assert.NoError(w.t, err) {
		return 0
	}
	defer l.Close()
	addr := netip.AddrPortFrom(netip.MustParseAddr(to.V4), uint16(l.Addr().(*net.TCPAddr).Port))
	got := make(chan float64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- 0
			return
		}
		defer c.Close()
		n, began := 0, time.Now()
		c.SetReadDeadline(began.Add(d))
		for b := make([]byte, 1<<16); ; {
			k, err := c.Read(b)
			n += k
			if err != nil {
				break
			}
		}
		got <- float64(n) * 8 / 1000 / time.Since(began).Seconds()
	}()
	var c net.Conn
	err = from.NS.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", addr.String(), lab.Patience(10*time.Second))
		return err
	})
	if !assert.NoError(w.t, err) {
		return 0
	}
	defer c.Close()
	go func() {
		for b := make([]byte, 1<<14); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	return <-got
}

// holds checks that a limit of 2 Mbit/s holds.
func (w *world) holds(v VM, d qos.Direction) {
	w.t.Helper()
	f := w.flow(v, d, lab.Offer{Kbps: 5000})
	time.Sleep(700 * time.Millisecond)
	r := f.Measure(2 * time.Second)
	f.Stop()
	assert.Less(w.t, math.Abs(r.Kbps-2000), 0.15*2000, "%s: %s instead of 2000", d, r)
}

// beforePlugging: limits that were asked for before hold when a device is plugged.
func (w *world) beforePlugging() {
	if w.site.Late == nil {
		return
	}
	plug := w.site.Late(w.t, "late")
	var x qos.Shape
	var ways []qos.Direction
	if w.f.Port.EgressBandwidth {
		x.Egress, ways = limits(2000), append(ways, qos.Egress)
	}
	if w.f.Port.IngressBandwidth {
		x.Ingress, ways = limits(2000), append(ways, qos.Ingress)
	}
	require.NoError(w.t, w.s.EnsurePort(w.ctx, qos.Port{ID: "late", Shape: x, Host: w.site.Host}))
	v := plug()
	w.settle()
	for _, d := range ways {
		w.holds(v, d)
	}
	w.unlimit(v)
}

// restart: limits stand while nobody runs, and a new process loses no packet.
func (w *world) restart() {
	v := w.vm("restart")
	var x qos.Shape
	d := qos.Egress
	if w.f.Port.EgressBandwidth {
		x.Egress = limits(2000)
	}
	if w.f.Port.IngressBandwidth {
		x.Ingress, d = limits(2000), qos.Ingress
	}
	w.limit(v, x)
	f := w.free.NS.Send(w.peer.NS, w.peer.V4, lab.Offer{PPS: 300, Frame: 600})
	s := w.over(w.site.Reopen(w.t))
	port := qos.Port{ID: v.PortID, Shape: x, Host: w.site.Host}
	p, err := s.Plan(w.ctx, qos.State{Ports: []qos.Port{port}})
	require.NoError(w.t, err)
	require.Empty(w.t, slices.DeleteFunc(brief(p), func(c string) bool { return c != "update port "+v.PortID && c != "create port "+v.PortID }))
	require.NoError(w.t, s.EnsurePort(w.ctx, port))
	w.holds(v, d)
	f.Stop()
	assert.Equal(w.t, f.Sent(), f.Received(), "packets of another machine during the restart")
	require.NoError(w.t, s.DeletePort(w.ctx, v.PortID))
	w.s = s
}

// routed: limits of gateways and floating IPs, and whose win.
func (w *world) routed() {
	g, f := w.f.Gateway, w.f.FloatingIP
	if !g.EgressBandwidth && !g.IngressBandwidth && !f.EgressBandwidth && !f.IngressBandwidth {
		return
	}
	require.NotNil(w.t, w.site.Routed, "the harness has no router")
	r := w.site.Routed(w.t)
	type way struct {
		what     string
		from, to VM
		dst      string
		want     float64 // 0: no limit
	}
	// Ways that share no limit are measured at the same time.
	measure := func(ways ...way) {
		w.t.Helper()
		var done sync.WaitGroup
		for _, x := range ways {
			flow := x.from.NS.Send(x.to.NS, x.dst, lab.Offer{Kbps: 9000})
			done.Go(func() {
				time.Sleep(1500 * time.Millisecond) // what may pass at once has passed
				got := flow.Measure(2 * time.Second)
				flow.Stop()
				w.t.Logf("%s: %s", x.what, got)
				if x.want == 0 {
					assert.Greater(w.t, got.Kbps, 8000.0, "%s: %s without a limit", x.what, got)
					return
				}
				assert.Less(w.t, math.Abs(got.Kbps-x.want), tolerance*x.want, "%s: %s instead of %.0f", x.what, got, x.want)
			})
		}
		done.Wait()
	}
	limitOr0 := func(can bool, x float64) float64 {
		if can {
			return x
		}
		return 0
	}
	gw, fl := r.Gateway, r.FloatingIP
	if g.EgressBandwidth {
		gw.Egress = limits(3000)
	}
	if g.IngressBandwidth {
		gw.Ingress = limits(4000)
	}
	if f.EgressBandwidth {
		fl.Egress = limits(4500)
	}
	if f.IngressBandwidth {
		fl.Ingress = limits(2000)
	}
	out, in := limitOr0(g.EgressBandwidth, 3000), limitOr0(g.IngressBandwidth, 4000)
	plain := way{"by the gateway, source translated", r.Plain, r.Outside, r.Outside.V4, out}
	if !gw.Shape.Zero() {
		require.NoError(w.t, w.s.EnsureGateway(w.ctx, gw))
		w.settle()
		ways := []way{plain}
		if r.Outside.V6 != "" && r.Plain.V6 != "" {
			ways = append(ways, way{"in by the gateway, IPv6", r.Outside, r.Plain, r.Plain.V6, in})
			measure(way{"by the gateway, IPv6", r.Plain, r.Outside, r.Outside.V6, out})
		}
		measure(ways...)
	}
	if !fl.Shape.Zero() {
		require.NoError(w.t, w.s.EnsureFloatingIP(w.ctx, fl))
		w.settle()
		measure(way{"from the floating IP", r.Floating, r.Outside, r.Outside.V4, limitOr0(f.EgressBandwidth, 4500)},
			way{"to the floating IP", r.Outside, r.Floating, fl.FloatingIP.String(), limitOr0(f.IngressBandwidth, 2000)}, plain)
		if f.IngressBandwidth {
			assert.NotZero(w.t, w.counted()[statKey{"floatingip", fl.ID, qos.Ingress}].Dropped.Packets, "drops of the floating IP")
		}
		require.NoError(w.t, w.s.DeleteFloatingIP(w.ctx, fl.ID))
	}
	if g.EgressBandwidth {
		assert.NotZero(w.t, w.counted()[statKey{"gateway", gw.RouterID, qos.Egress}].Dropped.Packets, "drops of the gateway")
	}
	require.NoError(w.t, w.s.DeleteGateway(w.ctx, gw.RouterID))
	w.settle()
	plain.want, plain.what = 0, "by the gateway without limits"
	measure(plain)
}

// guarantee: of two flows that want more than an uplink carries, the promised
// one gets what it was promised, and the other the rest.
func (w *world) guarantee(name string, can bool) {
	if !can {
		return // refused by name: a case of the contract
	}
	require.NotNil(w.t, w.site.Uplink, "the harness has no uplinks")
	u := w.site.Uplink(w.t, name)
	all := w.h.UplinkKbps
	if all == 0 {
		all = 20_000
	}
	promise, offer, little, total := all*3/4, int(all*3/2), int(all*15/100), float64(all)
	require.NoError(w.t, w.s.EnsureUplink(w.ctx, qos.Uplink{Name: u.Name, Kbps: all, Host: w.site.Host}))
	port := qos.Port{ID: u.From[0].PortID, Uplink: u.Name, Shape: qos.Shape{Egress: qos.Limits{MinKbps: promise}}, Host: w.site.Host}
	compete := func(first, second int) (a, b lab.Rate) {
		// Both at the same rate, so that what they get is not by what they send.
		x := u.From[0].NS.Send(u.To[0].NS, u.To[0].V4, lab.Offer{Kbps: first})
		y := u.From[1].NS.Send(u.To[1].NS, u.To[1].V4, lab.Offer{Kbps: second})
		time.Sleep(time.Second)
		done := make(chan lab.Rate, 1)
		go func() { done <- y.Measure(3 * time.Second) }()
		a = x.Measure(3 * time.Second)
		b = <-done
		x.Stop()
		y.Stop()
		w.t.Logf("%s: %s; %s", u.Name, a, b)
		return a, b
	}
	w.settle()
	a, b := compete(offer, offer)
	assert.Less(w.t, a.Kbps, 0.68*total, "without a promise")
	assert.Less(w.t, a.Kbps+b.Kbps, 1.1*total, "more than the uplink has")
	require.NoError(w.t, w.s.EnsurePort(w.ctx, port))
	w.settle()
	a, b = compete(offer, offer)
	assert.Greater(w.t, a.Kbps, 0.9*float64(promise), "promised")
	assert.Greater(w.t, b.Kbps, 0.6*(total-float64(promise)), "the other gets the rest")
	assert.Greater(w.t, a.Kbps+b.Kbps, 0.85*total, "the uplink is used")
	assert.Less(w.t, a.Kbps+b.Kbps, 1.1*total, "more than the uplink has")
	// What is promised and not used is everybody's.
	a, b = compete(little, offer)
	assert.Greater(w.t, a.Kbps, 0.9*float64(little))
	assert.Greater(w.t, b.Kbps, 0.8*(total-float64(little)), "what is promised and not used")
	require.NoError(w.t, w.s.DeletePort(w.ctx, port.ID))
	require.NoError(w.t, w.s.DeleteUplink(w.ctx, u.Name))
	p, err := w.s.Plan(w.ctx, qos.State{})
	require.NoError(w.t, err)
	require.Zero(w.t, p.Count(vnet.Delete), p.String())
}
