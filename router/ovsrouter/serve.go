package ovsrouter

import (
	"net/netip"
	"slices"
	"time"

	of "github.com/vnet-go/vnet/internal/openflow"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// station is a router of this host as Serve knows it.
type station struct {
	r      router.Router
	number uint16
	home   bool
	nets   map[string]uint16
	edges  map[netip.Addr]vnet.MAC // floating IPs that are translated on this host, that of their port
}

// side is the side with a MAC on a network; network 0 is any.
func (s station) side(network uint16, mac vnet.MAC) (side, bool) {
	for _, x := range sides(s.r) {
		if x.mac == mac && (network == 0 || s.nets[x.network] == network) {
			return x, true
		}
	}
	return side{}, false
}

// on is the first side on a network.
func (s station) on(network uint16) (side, bool) {
	for _, x := range sides(s.r) {
		if s.nets[x.network] == network {
			return x, true
		}
	}
	return side{}, false
}

// speaksFrom is the address of a side that a neighbour is asked from, or an
// error comes from: one of the same subnet if there is, else the first of the family.
func (x side) speaksFrom(to netip.Addr) netip.Addr {
	if to.Is6() && to.IsLinkLocalUnicast() {
		return x.mac.LinkLocal()
	}
	var first netip.Addr
	for _, p := range x.addrs {
		if p.Masked().Contains(to) {
			return p.Addr()
		}
		if !first.IsValid() && p.Addr().Is4() == to.Is4() {
			first = p.Addr()
		}
	}
	if !first.IsValid() && to.Is6() {
		return x.mac.LinkLocal()
	}
	return first
}

// report is a packet that a flow handed to this process.
type report struct {
	what  byte
	table uint8
	reg   func(n int) uint32
	frame []byte
}

func (p report) network() uint16 { return uint16(p.reg(1)) }

// hop is the next hop of a packet that has been routed.
func (p report) hop() netip.Addr {
	if p.reg(0)&hop4 != 0 {
		n := p.reg(8)
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	var b [16]byte
	for i := range 4 {
		n := p.reg(8 + i)
		b[4*i], b[4*i+1], b[4*i+2], b[4*i+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	}
	return netip.AddrFrom16(b)
}

// mac is what a packet that has been routed leaves with.
func (p report) mac() vnet.MAC {
	a, b := p.reg(14), p.reg(15)
	return vnet.MAC{byte(a >> 8), byte(a), byte(b >> 24), byte(b >> 16), byte(b >> 8), byte(b)}
}

// came gives the packet the destination that it came with.
func (p report) came(k packet) packet {
	n := p.reg(12)
	if p.reg(0)&(redirected|translated) == 0 || n == 0 || !k.src.Is4() {
		return k
	}
	return untranslate(k, netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), uint16(p.reg(13)))
}

// out is a frame to say: where it begins, with which registers.
type out struct {
	regs  []of.Cond
	table uint8
	frame []byte
}

// on says a frame on a network as if a machine at it did; bits are of register 0.
func onNetwork(network uint16, bits uint64, frame []byte) *out {
	return &out{[]of.Cond{of.Reg(0).Is(bits), regNet.Is(uint64(network))}, tAdmission, frame}
}

// answer is what a router says to a report at once; nil for nothing.
func answer(s station, p report) *out {
	k, ok := parse(p.frame)
	if !ok {
		return nil
	}
	in, ok := s.incoming(p, k)
	if !ok {
		return nil
	}
	var frame []byte
	switch p.what {
	case askTTL:
		frame = complain(p.came(k), in.speaksFrom(k.src), ttlExceeded, 0)
	case askRoute:
		frame = complain(p.came(k), in.speaksFrom(k.src), noRoute, 0)
	case askTooLong:
		x, ok := s.side(p.network(), p.mac())
		if !ok || x.mtu == 0 {
			return nil
		}
		frame = complain(p.came(k), in.speaksFrom(k.src), tooBig, x.mtu)
	case askPort:
		switch k.proto {
		case of.ProtoTCP:
			frame = reset(k)
		case of.ProtoUDP:
			frame = complain(k, k.dst, portUnreachable, 0)
		default:
			frame = complain(k, k.dst, protoUnreachable, 0)
		}
	}
	if frame == nil {
		return nil
	}
	return s.say(s.nets[in.network], k.src, frame)
}

// say sends what the router itself says to an address: by its routes, or, to
// a link-local one, on the network that it is on.
func (s station) say(network uint16, to netip.Addr, frame []byte) *out {
	if to.Is6() && to.IsLinkLocalUnicast() {
		return onNetwork(network, routed, frame)
	}
	bits := uint64(original)
	if !s.home {
		bits |= remote
	}
	return &out{[]of.Cond{of.Reg(0).Is(bits), regNet.Is(uint64(network)), regRouter.Is(uint64(s.number))}, tRoute, frame}
}

// incoming is the side that a packet came in by.
func (s station) incoming(p report, k packet) (side, bool) {
	switch {
	case p.reg(0)&remote != 0 && p.table == tLeave: // its destination is the next hop's
		return s.on(uint16(p.reg(13)))
	case p.what == askTooLong, p.what == askNeighbour:
		return s.side(0, k.to)
	}
	return s.side(p.network(), k.to)
}

// waiting are packets that wait for a neighbour.
type waiting struct {
	from    station
	network uint16
	hop     netip.Addr
	mac     vnet.MAC   // of the side
	own     netip.Addr // who asks; the zero value: the side
	asked   int
	next    time.Time
	packets []report
}

// How neighbours are asked for (RFC 4861, 10: MAX_MULTICAST_SOLICIT, RetransTimer).
const (
	questions     = 3
	questionEvery = time.Second
	queueLimit    = 8 // packets that wait for one neighbour; the oldest goes
	hopsLimit     = 4096
)

type hopKey struct {
	network uint16
	hop     netip.Addr
}

// resolver asks for neighbours, and keeps packets until there is an answer.
type resolver map[hopKey]*waiting

// add puts a packet into the queue, and returns a question if one is due. full
// reports that enough packets wait.
func (q resolver) add(s station, p report, now time.Time) (question *out, full bool) {
	k := hopKey{p.network(), p.hop()}
	w := q[k]
	if w == nil {
		if len(q) >= hopsLimit {
			return nil, true
		}
		w = &waiting{from: s, network: k.network, hop: k.hop, mac: p.mac()}
		if f, ok := parse(p.frame); ok && !s.home {
			if mac, ok := s.edges[f.src]; ok {
				w.mac, w.own = mac, f.src
			}
		}
		q[k] = w
	}
	if w.packets = append(w.packets, p); len(w.packets) > queueLimit {
		w.packets = w.packets[1:]
	}
	return w.ask(now), len(w.packets) == queueLimit
}

// hushFor is how long, in seconds, packets to a neighbour that enough wait for
// are dropped where they are.
const hushFor = 1

// hush is the flow that drops them.
func hush(p report, cookie uint64) of.Flow {
	m := of.Match{regNet.Is(uint64(p.network())), flags(uint64(p.reg(0))&hop4, resolved|remote|hop4&^(uint64(p.reg(0))&hop4))}
	if hop := p.hop(); hop.Is4() {
		m = append(m, of.Reg(8).Addr(hop))
	} else {
		m = append(m, of.XXReg(2).Addr(hop))
	}
	f := flow(tLeave, 60, m)
	f.Cookie, f.HardTimeout = cookie, hushFor
	return f
}

func (w *waiting) ask(now time.Time) *out {
	if now.Before(w.next) || w.asked == questions {
		return nil
	}
	own := w.own
	if !own.IsValid() {
		x, ok := w.from.side(w.network, w.mac)
		if !ok {
			return nil
		}
		if own = x.speaksFrom(w.hop); !own.IsValid() {
			return nil
		}
	}
	w.asked++
	w.next = now.Add(questionEvery)
	return onNetwork(w.network, 0, who(w.mac, own, w.hop))
}

// heard takes the packets that waited for a neighbour.
func (q resolver) heard(network uint16, a netip.Addr) (out []*out) {
	k := hopKey{network, a}
	w := q[k]
	if w == nil {
		return nil
	}
	delete(q, k)
	for _, p := range w.packets {
		out = append(out, p.again())
	}
	return out
}

// again is the packet where it waited.
func (p report) again() *out {
	var regs []of.Cond
	for n := range 16 {
		if v := p.reg(n); v != 0 {
			regs = append(regs, of.Reg(n).Is(uint64(v)))
		}
	}
	return &out{regs, tNeighbour, p.frame}
}

// tick asks again who has not answered, and gives up at last.
func (q resolver) tick(now time.Time) (say []*out) {
	for k, w := range q {
		if now.Before(w.next) {
			continue
		}
		if w.asked < questions {
			if o := w.ask(now); o != nil {
				say = append(say, o)
				continue
			}
		}
		delete(q, k)
		for _, p := range w.packets {
			if f, ok := parse(p.frame); ok {
				if in, ok := w.from.incoming(p, f); ok {
					if frame := complain(p.came(f), in.speaksFrom(f.src), hostUnreachable, 0); frame != nil {
						say = append(say, w.from.say(w.from.nets[in.network], f.src, frame))
					}
				}
			}
		}
	}
	return say
}

// told reads who says of which address that it is there.
func told(frame []byte) (netip.Addr, bool) {
	if len(frame) >= 42 && frame[12] == 8 && frame[13] == 6 {
		return netip.AddrFrom4([4]byte(frame[28:32])), true
	}
	if k, ok := parse(frame); ok && k.proto == of.ProtoICMPv6 && len(k.l4) >= 24 && slices.Contains([]byte{135, 136}, k.l4[0]) {
		if k.l4[0] == 135 {
			return k.src, true
		}
		return netip.AddrFrom16([16]byte(k.l4[8:24])), true
	}
	return netip.Addr{}, false
}
