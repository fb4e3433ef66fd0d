package routertest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router"
)

// Random are the cases that draw worlds and packets. worlds is how many worlds
// are made, one from the other, and packets how many are sent in each at most.
func Random(worlds, packets int) []Case {
	return []Case{{"worlds", "The same desired state means the same packets: what arrives, and what of the answers, is what the model says, whatever stood before.", func(t *testing.T, e *env) {
		a := newArena(e)
		played, failed := 0, false
		rapid.Check(t, func(t *rapid.T) {
			// What fails is drawn again, smaller, as often as rapid likes.
			if played >= worlds && !failed {
				return
			}
			var turns []turn
			for range 1 + rapid.IntRange(0, 2).Draw(t, "worlds before") {
				turns = append(turns, drawTurn(t, e, packets))
			}
			played += len(turns)
			failed = true
			a.play(t, turns)
			failed = false
		})
	}}}
}

// turn is one world and what is sent in it.
type turn struct {
	w       reach.World
	packets []reach.Packet
	restart bool // by a new process
	killed  int  // which is the heir of one that was killed before this step; 0: it is not
	singly  bool // what was is deleted, and this made, object by object
}

func drawTurn(t *rapid.T, e *env, packets int) turn {
	x := turn{w: e.here(reachtest.World(t, reachtest.Want{Routers: true}))}
	x.packets = everyWay(x.w)
	for range rapid.IntRange(1, packets).Draw(t, "packets") {
		x.packets = append(x.packets, reachtest.Packet(t, x.w))
	}
	if e.limited(router.LimitPicksUp) {
		x.packets = slices.DeleteFunc(x.packets, func(k reach.Packet) bool { return k.Middle })
	}
	x.restart = rapid.IntRange(0, 3).Draw(t, "restart") == 3
	if x.restart && e.Dying != nil {
		x.killed = rapid.IntRange(0, 60).Draw(t, "killed")
	}
	x.singly = !x.restart && rapid.IntRange(0, 3).Draw(t, "singly") == 3
	return x
}

// everyWay is a packet from everybody to every address, and to what is forwarded.
func everyWay(w reach.World) (out []reach.Packet) {
	for i, from := range reachtest.Senders(w) {
		for j, to := range reachtest.Addresses(w) {
			k := reach.Packet{From: from, Dst: to, SrcPort: 1, DstPort: reachtest.Ports[(i+j)%len(reachtest.Ports)]}
			switch (i + j) % 4 {
			case 0:
				k.Proto = reach.TCP
			case 1:
				k.Proto = reach.UDP
			case 2:
				k.Proto, k.Middle = reach.TCP, true
			default:
				k.Proto, k.ICMPType, k.SrcPort, k.DstPort = reach.ICMP, 8, 0, 0
				if to.Is6() {
					k.Proto, k.ICMPType = reach.ICMPv6, 128
				}
			}
			out = append(out, k)
		}
		for _, f := range w.Router.PortForwards {
			for _, proto := range []uint8{reach.TCP, reach.UDP} {
				out = append(out, reach.Packet{From: from, Dst: f.ExternalIP, Proto: proto, SrcPort: 1, DstPort: f.ExternalPort.First + uint16(i)%3})
			}
		}
	}
	return out
}

// here makes a world one for this host and what its backend can do.
func (e *env) here(w reach.World) reach.World {
	f := e.svc.Features(e.ctx)
	w.Overlay, w.Router = w.Overlay.Clone(), w.Router.Clone()
	index := map[string]byte{}
	for i := range w.Overlay.Networks {
		n := &w.Overlay.Networks[i]
		n.Segment = e.segment(n.ID)
		index[n.ID] = byte(i)
	}
	// A machine with the same address on the same network has the same MAC in
	// every world, and another one another, so what routers remember of their
	// neighbours is right or known to nobody.
	mac := func(network string, a netip.Addr) vnet.MAC { return vnet.MAC{2, 0, 0, 1, index[network], a.As4()[3]} }
	for i := range w.Overlay.Ports {
		p := &w.Overlay.Ports[i]
		p.Host, p.MAC = "", mac(p.NetworkID, p.FixedIPs[0])
	}
	for i := range w.Stations {
		s := &w.Stations[i]
		s.MAC = stationMAC(s.ID)
	}
	for i := range w.Router.Routers {
		r := &w.Router.Routers[i]
		r.Host = ""
		if !f.ExtraRoutes {
			r.Routes = nil
		}
	}
	w.Router.PortForwards = slices.DeleteFunc(w.Router.PortForwards, func(p router.PortForward) bool {
		return !f.PortForward || !f.SharedGateIP && slices.ContainsFunc(w.Router.Routers, func(r router.Router) bool {
			return r.Gateway != nil && slices.ContainsFunc(r.Gateway.Addresses, func(a netip.Prefix) bool { return a.Addr() == p.ExternalIP })
		})
	})
	return w
}

// arena is a host with a machine for every port and station that worlds have.
type arena struct {
	*env
	fabric  *overlay.Fabric
	plugger overlay.Plugger
	players map[string]*player
	tag     uint32 // of the last frame

	mu   sync.Mutex
	seen map[uint32][]sighting // by tag
}

// sighting is a frame that came to a machine, and what it quotes if it is an
// ICMP error.
type sighting struct {
	at     string
	frame  lab.Frame
	quoted *lab.Frame
}

// idle is the network of the machines that a world has no use for.
const idle = "idle"

func newArena(e *env) *arena {
	a := &arena{env: e, players: map[string]*player{}, plugger: e.Plugger, seen: map[uint32][]sighting{}}
	var err error
	a.fabric, err = overlay.New(e.Overlay, nil)
	require.NoError(e.t, err)
	if a.plugger == nil {
		a.plugger = e.Overlay.(overlay.Plugger)
	}
	require.NoError(e.t, a.fabric.Sync(e.ctx, overlay.State{}, vnet.SyncOptions{Force: true})) // of other cases
	l := lab.New(e.t)
	ctx, cancel := context.WithCancel(context.Background())
	var answering sync.WaitGroup
	e.t.Cleanup(func() { cancel(); answering.Wait() })
	for _, id := range []string{"p0", "p1", "p2", "p3", "p4", "s0", "s1"} {
		p := &player{NS: l.NS(id), id: id}
		p.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
		p.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		a.players[id] = p
		p.rest()
		if p.outside(e) { // for good
			e.Station(e.t, p.NS, overlay.Port{ID: id, NetworkID: reachtest.External, MAC: stationMAC(id)})
			p.Up("eth0")
		}
	}
	a.wire(reach.World{})
	for _, p := range a.players {
		p.cap = p.Capture("eth0")
		answering.Go(func() { a.run(ctx, p) })
	}
	return a
}

// player is a machine without a stack: it answers ARP and neighbour
// solicitations, and all else that it sends is made here.
type player struct {
	*lab.NS
	id  string
	cap *lab.Capture

	mu         sync.Mutex
	mac        vnet.MAC
	ips        []netip.Addr
	neighbours map[netip.Addr]vnet.MAC
}

func (p *player) set(mac vnet.MAC, ips ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mac, p.ips, p.neighbours = mac, ips, map[netip.Addr]vnet.MAC{}
}

// outside reports whether p is not at a port.
func (p *player) outside(e *env) bool { return e.Station != nil && strings.HasPrefix(p.id, "s") }

func stationMAC(id string) vnet.MAC { return vnet.MAC{2, 0, 0, 3, 0, id[1] - '0'} }

// rest is what p has when a world has no use for it.
func (p *player) rest() { p.set(vnet.MAC{2, 0, 0, 2, p.id[0], p.id[1]}) }

// run answers for a machine, and notes what comes to it, until ctx ends.
func (a *arena) run(ctx context.Context, p *player) {
	heard := 0
	for ctx.Err() == nil {
		n := 0
		p.cap.Find(time.Second, func(f lab.Frame) bool {
			if n++; n > heard {
				heard = n
				p.hear(f)
				if tag, quoted := tagOf(f); tag != 0 && f.DstMAC == p.hardware() {
					a.mu.Lock()
					a.seen[tag] = append(a.seen[tag], sighting{p.id, f, quoted})
					a.mu.Unlock()
				}
			}
			return ctx.Err() != nil
		})
	}
}

func (p *player) hear(f lab.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case f.ARP != nil && f.ARP.Op == 1 && slices.Contains(p.ips, f.ARP.TPA):
		p.Inject("eth0", lab.Frame{SrcMAC: p.mac, DstMAC: f.ARP.SHA, ARP: &lab.ARP{Op: 2, SHA: p.mac, SPA: f.ARP.TPA, THA: f.ARP.SHA, TPA: f.ARP.SPA}}.Bytes())
	case f.ARP != nil && f.ARP.Op == 2 && f.DstMAC == p.mac:
		p.neighbours[f.ARP.SPA] = f.ARP.SHA
	case f.Proto == lab.ICMPv6 && f.ICMPType == 135 && slices.Contains(p.ips, f.Target):
		p.Inject("eth0", lab.Frame{SrcMAC: p.mac, DstMAC: f.SrcMAC, Src: f.Target, Dst: f.Src, Proto: lab.ICMPv6, ICMPType: 136, Target: f.Target, LinkAddr: p.mac, NAFlags: 0x60}.Bytes())
	case f.Proto == lab.ICMPv6 && f.ICMPType == 136 && f.DstMAC == p.mac:
		p.neighbours[f.Target] = f.LinkAddr
	}
}

// ask asks who has an address.
func (p *player) ask(hop netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, own := range p.ips {
		if own.Is4() && hop.Is4() {
			p.Inject("eth0", lab.ARPRequest(p.mac, own, hop).Bytes())
		} else if own.Is6() && hop.Is6() {
			p.Inject("eth0", lab.NeighborSolicitation(p.mac, own, hop).Bytes())
		}
	}
}

// announce tells the network what p has, as machines do that come to it.
func (p *player) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, own := range p.ips {
		f := lab.ARPRequest(p.mac, own, own)
		if own.Is6() {
			f = lab.Frame{SrcMAC: p.mac, DstMAC: vnet.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: own, Dst: addr("ff02::1"), Proto: lab.ICMPv6, ICMPType: 136, Target: own, LinkAddr: p.mac, NAFlags: 0x20}
		}
		p.Inject("eth0", f.Bytes())
	}
}

func (p *player) neighbour(a netip.Addr) (vnet.MAC, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.neighbours[a]
	return m, ok
}

func (p *player) hardware() vnet.MAC {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mac
}

// wire makes the networks and ports of w, with machines at them. Networks stay
// from world to world.
func (a *arena) wire(w reach.World) {
	a.t.Helper()
	s := overlay.State{Networks: slices.Clone(w.Overlay.Networks), Ports: slices.Clone(w.Overlay.Ports)}
	for _, id := range []string{reachtest.External, "n0", "n1", "n2", idle} {
		if !slices.ContainsFunc(s.Networks, func(n overlay.Network) bool { return n.ID == id }) {
			s.Networks = append(s.Networks, overlay.Network{ID: id, Segment: a.segment(id)})
		}
	}
	for _, x := range w.Stations {
		s.Ports = append(s.Ports, overlay.Port{ID: x.ID, NetworkID: x.NetworkID, MAC: x.MAC, FixedIPs: []netip.Addr{x.Addresses[0].Addr(), x.Addresses[1].Addr()}})
	}
	for id, p := range a.players {
		i := slices.IndexFunc(s.Ports, func(x overlay.Port) bool { return x.ID == id })
		if i < 0 {
			p.rest()
			s.Ports = append(s.Ports, overlay.Port{ID: id, NetworkID: idle, MAC: p.mac})
			continue
		}
		p.set(s.Ports[i].MAC, s.Ports[i].FixedIPs...)
	}
	s.Ports = slices.DeleteFunc(s.Ports, func(x overlay.Port) bool { return a.players[x.ID].outside(a.env) })
	require.NoError(a.t, a.fabric.Sync(a.ctx, s, vnet.SyncOptions{Force: true}))
	for id, p := range a.players {
		if p.outside(a.env) {
			continue
		}
		_, err := a.plugger.Plug(a.ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: p.Path})
		require.NoError(a.t, err)
		p.Up("eth0")
	}
}

// play makes the worlds, beginning with nothing, and sends their packets.
func (a *arena) play(t *rapid.T, turns []turn) {
	fail := func(n int, format string, args ...any) {
		t.Helper()
		var b strings.Builder
		for i, x := range turns[:n+1] {
			fmt.Fprintf(&b, "\nworld %d, restarted %t, killed %d, singly %t: %s", i, x.restart, x.killed, x.singly, worldText(x.w))
		}
		t.Fatalf("world %d: %s%s", n, fmt.Sprintf(format, args...), b.String())
	}
	if err := a.svc.Sync(a.ctx, router.State{}, vnet.SyncOptions{Force: true}); err != nil {
		fail(-1, "%v", err)
	}
	for n, x := range turns {
		m, err := reach.New(x.w)
		if err != nil {
			fail(n, "drew a bad world: %v", err)
		}
		a.wire(x.w)
		if x.killed > 0 {
			_ = service(a.t, a.Dying(a.t, x.killed-1)).Sync(a.ctx, x.w.Router, vnet.SyncOptions{Force: true})
		}
		if x.restart {
			a.svc = a.restarted()
		}
		switch {
		case x.singly && n > 0:
			err = a.singly(turns[n-1].w.Router, x.w.Router)
		case x.singly:
			err = a.singly(router.State{}, x.w.Router)
		default:
			err = a.svc.Sync(a.ctx, x.w.Router, vnet.SyncOptions{Force: true})
		}
		if err != nil {
			fail(n, "%v", err)
		}
		if p, err := a.svc.Plan(a.ctx, x.w.Router); err != nil || !p.Empty() {
			fail(n, "after Sync: %v\n%s", err, p)
		}
		for _, p := range a.players {
			p.announce()
		}
		var probes []*probe
		for _, k := range x.packets {
			p := a.probe(m, k)
			p.hairpin = !strings.HasPrefix(k.From, "s") && passes(p, "floating IP ")
			if !a.limitedForward(x.w, p) && !a.limitedEcho(x.w, p) {
				probes = append(probes, p)
			}
		}
		if why := a.send(probes); why != "" {
			fail(n, "%s", why)
		}
		var answers []*probe
		for _, p := range probes {
			switch {
			case len(x.w.Router.PortForwards) > 0 && a.limited(router.LimitForwardHairpin): // which take a way of their own
			case p.seen == nil || p.v.Arrivals[0].Kind == "router" || p.want.Foreign || p.k.Middle: // which nobody answers
			case a.limited(router.LimitRoutedIn) && p.want.Packet.Dst == p.k.Dst && passes(p, "network "+reachtest.External):
			case p.k.Proto == reach.UDP && p.tag%2 == 0:
				answers = append(answers, a.refusal(m, p))
			default:
				answers = append(answers, a.reply(m, p))
			}
		}
		if why := a.send(answers); why != "" {
			fail(n, "%s", why)
		}
	}
}

// limitedForward reports whether p, of world w, is forwarded from inside by a
// backend that does that otherwise.
func (a *arena) limitedForward(w reach.World, p *probe) bool {
	if !a.limited(router.LimitForwardHairpin) || strings.HasPrefix(p.k.From, "s") {
		return false
	}
	return passes(p, "port forward ") || slices.ContainsFunc(w.Router.PortForwards, func(f router.PortForward) bool {
		f = f.Canonical()
		return f.ExternalIP == p.k.Dst && f.ExternalPort.First <= p.k.DstPort && p.k.DstPort <= f.ExternalPort.Last
	})
}

// limitedEcho reports whether p asks for an echo at an address of port
// forwards, of a backend that is silent there.
func (a *arena) limitedEcho(w reach.World, p *probe) bool {
	return a.limited(router.LimitSilentPorts) && p.v.OK() && p.v.Arrivals[0].Kind == "router" &&
		slices.ContainsFunc(w.Router.PortForwards, func(f router.PortForward) bool { return f.ExternalIP == p.k.Dst })
}

// passes reports whether a word is in the way that p takes.
func passes(p *probe, word string) bool {
	return slices.ContainsFunc(p.v.Walk, func(s reach.Step) bool { return strings.Contains(s.Object, word) || strings.Contains(s.Text, word) })
}

// singly comes from one state to another without Sync.
func (a *arena) singly(was, want router.State) (err error) {
	do := func(e error) {
		if err == nil {
			err = e
		}
	}
	for _, f := range was.PortForwards {
		do(a.svc.DeletePortForward(a.ctx, f.ID))
	}
	for _, f := range was.FloatingIPs {
		do(a.svc.DeleteFloatingIP(a.ctx, f.ID))
	}
	for _, r := range was.Routers {
		if !slices.ContainsFunc(want.Routers, func(x router.Router) bool { return x.ID == r.ID }) {
			do(a.svc.DeleteRouter(a.ctx, r.ID))
		}
	}
	for _, r := range want.Routers {
		do(a.svc.EnsureRouter(a.ctx, r))
	}
	for _, f := range want.FloatingIPs {
		do(a.svc.EnsureFloatingIP(a.ctx, f))
	}
	for _, f := range want.PortForwards {
		do(a.svc.EnsurePortForward(a.ctx, f))
	}
	return err
}

// worldText has a line for each object.
func worldText(w reach.World) string {
	var out strings.Builder
	line := func(kind string, x any) {
		b, err := json.Marshal(x)
		fmt.Fprintf(&out, "\n  %s %s", kind, b)
		if err != nil {
			fmt.Fprint(&out, err)
		}
	}
	for _, x := range w.Overlay.Networks {
		line("network", x)
	}
	for _, x := range w.Overlay.Ports {
		line("port", x)
	}
	for _, x := range w.Stations {
		line("station", x)
	}
	for _, x := range w.Router.Routers {
		line("router", x)
	}
	for _, x := range w.Router.FloatingIPs {
		line("floating IP", x)
	}
	for _, x := range w.Router.PortForwards {
		line("port forward", x)
	}
	return out.String()
}

// probe is a frame on its way.
type probe struct {
	what  string
	from  *player
	k     reach.Packet
	v     reach.Verdict
	frame lab.Frame
	tag   uint32
	hop   netip.Addr // whom the machine hands it to; invalid: it has no route
	// want is how a machine must get it; nil: none must.
	want *reach.Arrival
	seen *lab.Frame
	// hairpin: to a floating IP from inside, or the answer.
	hairpin bool
}

// probe is a first packet of a connection that is like no other.
func (a *arena) probe(m *reach.Model, k reach.Packet) *probe {
	a.tag++
	if k.SrcPort != 0 {
		k.SrcPort = uint16(20000 + a.tag%40000)
	}
	if k.Proto == 47 {
		k.Proto = uint8(143 + a.tag%100) // those that IANA has not assigned
	}
	hop, src, err := m.Route(k.From, k.Dst)
	if err != nil {
		hop = netip.Addr{}
	}
	if !k.Src.IsValid() {
		k.Src = src
	}
	p := &probe{what: "packet", from: a.players[k.From], k: k, v: m.Send(k), tag: a.tag, hop: hop}
	p.frame = lab.Frame{SrcMAC: k.SrcMAC, Src: k.Src, Dst: k.Dst, Proto: k.Proto, SrcPort: k.SrcPort, DstPort: k.DstPort, Flags: lab.SYN, Seq: 1000,
		ICMPType: k.ICMPType, ICMPCode: k.ICMPCode, ICMPID: uint16(a.tag), ICMPSeq: 1, TTL: k.TTL, Payload: payload(a.tag)}
	if k.SrcMAC.IsZero() {
		p.frame.SrcMAC = p.from.hardware()
	}
	if k.Middle {
		p.frame.Flags = lab.ACK
	}
	if p.v.OK() && p.v.Arrivals[0].Kind == "router" { // whose answer we see
		if back := p.v.Reply(); back.OK() {
			p.want = &back.Arrivals[0]
		}
	} else if p.v.OK() {
		p.want = &p.v.Arrivals[0]
	}
	return p
}

// reply is the answer of the machine that p came to, to what it saw.
func (a *arena) reply(m *reach.Model, p *probe) *probe {
	r := a.answer(m, p, "answer", p.v.Reply())
	f := *p.seen
	r.frame.Proto, r.frame.SrcPort, r.frame.DstPort, r.frame.Payload = f.Proto, f.DstPort, f.SrcPort, payload(r.tag)
	r.frame.ICMPID, r.frame.ICMPSeq, r.frame.ICMPCode = f.ICMPID, f.ICMPSeq, f.ICMPCode
	switch f.Proto {
	case lab.TCP:
		r.frame.Flags, r.frame.Seq, r.frame.Ack = lab.SYN|lab.ACK, 5000, f.Seq+1+uint32(len(f.Payload))
	case lab.ICMPv6:
		r.frame.ICMPType = 129
	}
	return r
}

// refusal is the ICMP error of the machine that p came to, a UDP packet.
func (a *arena) refusal(m *reach.Model, p *probe) *probe {
	r := a.answer(m, p, "refusal", p.v.Unreachable())
	r.frame.ICMPID, r.frame.ICMPSeq = uint16(r.tag>>16), uint16(r.tag)
	r.frame.Proto, r.frame.ICMPType, r.frame.ICMPCode, r.frame.Payload = lab.ICMP, 3, 3, p.seen.IPBytes()
	if p.seen.Src.Is6() {
		r.frame.Proto, r.frame.ICMPType, r.frame.ICMPCode = lab.ICMPv6, 1, 4
	}
	return r
}

func (a *arena) answer(m *reach.Model, p *probe, what string, v reach.Verdict) *probe {
	a.tag++
	r := &probe{what: what, from: a.players[p.want.ID], k: p.k, v: v, tag: a.tag, hairpin: p.hairpin}
	if hop, _, err := m.Route(p.want.ID, p.seen.Src); err == nil {
		r.hop = hop
	}
	r.frame = lab.Frame{SrcMAC: r.from.hardware(), Src: p.seen.Dst, Dst: p.seen.Src}
	if v.OK() && v.Arrivals[0].Kind != "router" {
		r.want = &v.Arrivals[0]
		r.want.AnySrcPort = false // whoever asked hears from whom it asked
	}
	return r
}

func payload(tag uint32) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 4), tag), "vnet routertest"...)
}

// tagOf is the tag of a frame, and of an ICMP error what it quotes. Errors that
// are not made here have none.
func tagOf(f lab.Frame) (tag uint32, quoted *lab.Frame) {
	if f.Proto == lab.ICMP && f.ICMPType != 8 && f.ICMPType != 0 || f.Proto == lab.ICMPv6 && f.ICMPType < 128 {
		h := lab.Frame{EtherType: f.EtherType, Payload: f.Payload}
		q, err := lab.ParseFrame(h.Bytes())
		if err != nil {
			return 0, nil
		}
		return uint32(f.ICMPID)<<16 | uint32(f.ICMPSeq), &q
	}
	if len(f.Payload) < 8 || f.ARP != nil {
		return 0, nil
	}
	return binary.BigEndian.Uint32(f.Payload[4:]), nil
}

// settled is how long after the last expected frame an unwanted one may come.
const settled = 60 * time.Millisecond

// send sends them all and says what went otherwise than the model says.
func (a *arena) send(probes []*probe) string {
	if len(probes) == 0 {
		return ""
	}
	const again = 300 * time.Millisecond
	for end := time.Now().Add(patience); ; {
		// Like hosts, machines ask for the neighbour and send until they are heard.
		type question struct {
			from *player
			hop  netip.Addr
		}
		asked := map[question]bool{}
		for _, p := range probes {
			if q := (question{p.from, p.hop}); p.hop.IsValid() && p.seen == nil && !asked[q] {
				asked[q] = true
				if _, ok := p.from.neighbour(p.hop); !ok {
					p.from.ask(p.hop)
				}
			}
		}
		all := true
		for stop := time.Now().Add(settled); time.Now().Before(stop); time.Sleep(time.Millisecond) {
			if !slices.ContainsFunc(probes, func(p *probe) bool { _, ok := p.from.neighbour(p.hop); return !ok && p.hop.IsValid() && p.seen == nil }) {
				break
			}
		}
		for _, p := range probes {
			if mac, ok := p.from.neighbour(p.hop); ok && p.seen == nil {
				p.frame.DstMAC = mac
				p.from.Inject("eth0", p.frame.Bytes())
			}
		}
		for stop := time.Now().Add(again); time.Now().Before(stop); time.Sleep(2 * time.Millisecond) {
			all = true
			for _, p := range probes {
				if p.want != nil && p.seen == nil {
					p.seen = a.arrived(p)
					all = all && p.seen != nil
				}
			}
			if all {
				break
			}
		}
		if all || time.Now().After(end) {
			break
		}
	}
	time.Sleep(settled)
	for _, p := range probes {
		if why := a.judge(p); why != "" {
			return fmt.Sprintf("%s, %s from %s: %s: %s\n%s", p.k, p.what, p.from.id, p.frame, why, p.v.Explain())
		}
	}
	return ""
}

// arrived finds p where it must arrive.
func (a *arena) arrived(p *probe) *lab.Frame {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.seen[p.tag] {
		if x.at == p.want.ID {
			return &x.frame
		}
	}
	return nil
}

// judge compares what has come of p with what must.
func (a *arena) judge(p *probe) string {
	if p.want != nil && p.seen == nil {
		if _, ok := p.from.neighbour(p.hop); !ok {
			return fmt.Sprintf("nobody answers for %s", p.hop)
		}
		return "does not arrive at " + p.want.ID
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.seen[p.tag] {
		if p.want == nil || p.want.ID != x.at {
			return fmt.Sprintf("arrives at %s as %s", x.at, x.frame)
		}
		f := x.frame
		switch {
		case p.v.OK() && p.v.Arrivals[0].Kind == "router":
			f.TTL = p.want.Packet.TTL // with which a router begins is its business
		case p.hairpin && a.limited(router.LimitHairpinTTL) && f.TTL == p.want.Packet.TTL-1:
			f.TTL++
		}
		if why := unlike(p.want, f, x.quoted); why != "" {
			return fmt.Sprintf("arrives at %s as %s: %s", x.at, x.frame, why)
		}
	}
	return ""
}

// unlike says in what a frame is not as the model says.
func unlike(a *reach.Arrival, f lab.Frame, quoted *lab.Frame) string {
	k := a.Packet
	var out []string
	differ := func(what string, want, got any) {
		if want != got {
			out = append(out, fmt.Sprintf("%s is %v, not %v", what, got, want))
		}
	}
	differ("source MAC", k.SrcMAC, f.SrcMAC)
	differ("source", k.Src, f.Src)
	differ("destination", k.Dst, f.Dst)
	differ("protocol", k.Proto, f.Proto)
	if !a.AnySrcPort {
		differ("source port", k.SrcPort, f.SrcPort)
	}
	differ("destination port", k.DstPort, f.DstPort)
	differ("ICMP type", k.ICMPType, f.ICMPType)
	differ("TTL", k.TTL, f.TTL)
	if (k.About != nil) != (quoted != nil) {
		return "one quotes a packet and the other does not"
	}
	if q := k.About; q != nil {
		differ("quoted source", q.Src, quoted.Src)
		differ("quoted destination", q.Dst, quoted.Dst)
		differ("quoted source port", q.SrcPort, quoted.SrcPort)
		differ("quoted destination port", q.DstPort, quoted.DstPort)
	}
	return strings.Join(out, ", ")
}
