package ovsrouter

import (
	"encoding/binary"
	"net/netip"
	"slices"

	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// The tables of this package; what each does is in the package's comment.
const (
	tCommit    = pipeline.Commit          // 15, secgroup's
	tLocal     = pipeline.RouterLocal     // 31
	tAdmission = pipeline.RouterAdmission // 40
	tCheck     = 41
	tSelf      = 42
	tAdvertise = 43
	tExternal  = 44
	tUnSNAT    = 45
	tDNAT      = 46
	tTTL       = 47
	tHome      = 48
	tShare     = 49
	tRoute     = 50
	tStage     = 51
	tUnDNAT    = 52
	tSNAT      = 53
	tRoutedIn  = 54
	tNeighbour = 55
	tSource    = 56
	tLearned   = 57
	tLeave     = 58
	tKnown     = pipeline.Neighbours // 59, overlay's
	tL2        = pipeline.L2         // 60
)

// Bits of register 0 that others set and read.
const (
	fromTunnel = pipeline.FromTunnel
	fromWire   = pipeline.FromWire
	routed     = pipeline.Routed
	resolved   = pipeline.Resolved
	resolvedAt = 6
	hop4       = pipeline.Hop4
	hop4At     = 7
)

// Bits of register 0 that are this package's, while a packet is in its tables.
const (
	fromGateway = 1 << 16 // came in by the gateway
	toGateway   = 1 << 17 // goes out by the gateway
	translated  = 1 << 18 // an answer whose source translation is undone
	redirected  = 1 << 19 // its destination was translated
	original    = 1 << 20 // the router's own
	remote      = 1 << 21 // the router is on another host; here is but a short cut
	tooLong     = 1 << 22
	hides       = 1 << 23 // the router hides sources
	translates  = 1 << 24 // the router has a gateway
	allBits     = 0xffff0000
)

// Registers: 4 is the router's number; 8 to 11 the next hop, and 11 before
// that the chosen of several. 12 is the destination as it came, before translation.
var (
	regNet      = of.Reg(pipeline.RegNetwork)
	regRouter   = of.Reg(pipeline.RegRouter)
	regHop4     = of.Reg(pipeline.RegHop).All()
	regHop6     = of.XXReg(2).All()
	regWay      = of.Reg(11)
	regCame     = of.Reg(12)
	regCamePort = of.Reg(13).Range(0, 15) // or the network a packet came from, where a router is remote
	regZoneSNAT = of.Reg(13).Range(16, 31)
	regZoneDNAT = of.Reg(14).Range(16, 31)
	regMAC      = of.XReg(7).Range(0, 47) // that it leaves with
)

// What packets are handed to [Backend.Serve] for: the first byte of userdata.
const (
	askTTL       = 1 + iota // its TTL has ended
	askPort                 // nobody serves that port, or protocol
	askRoute                // there is no way
	askTooLong              // it is too long for where it goes
	askNeighbour            // where is the next hop?
	askSolicit              // a neighbour solicitation that cannot be answered in place
	askRS                   // a router solicitation
	askHeard                // a neighbour has answered
)

func ask(what byte) of.Action { return of.Controller{ID: controllerID, UserData: []byte{what}} }

func flags(set, clear uint64) of.Cond { return of.Reg(0).Masked(set, set|clear) }

func tracked(set, clear uint64) of.Cond { return of.CtBits(of.CtTrk|set, clear) }

func setFlags(bits uint64) of.Action { return of.Set(of.Reg(0).Masked(bits, bits)) }

func flow(table uint8, priority uint16, m of.Match, actions ...of.Action) of.Flow {
	return of.Flow{Table: table, Priority: priority, Match: m, Actions: actions}
}

var restore = &of.NAT{Kind: of.NATRestore}

// baseFlows are those that all routers share.
func baseFlows() (out []of.Flow) {
	add := func(table uint8, priority uint16, m of.Match, actions ...of.Action) {
		out = append(out, flow(table, priority, m, actions...))
	}
	zoneS, zoneD := regZoneSNAT, regZoneDNAT
	// What is nothing to forward: RFC 1812, 5.3.7, and RFC 919.
	for _, p := range []string{"0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4"} {
		add(tCheck, 900, of.IP4(of.IPv4Src.Prefix(netip.MustParsePrefix(p))))
	}
	for _, p := range []string{"255.255.255.255/32", "127.0.0.0/8", "224.0.0.0/4"} {
		add(tCheck, 900, of.IP4(of.IPv4Dst.Prefix(netip.MustParsePrefix(p))))
	}
	for _, p := range []string{"::/128", "::1/128", "ff00::/8"} {
		add(tCheck, 900, of.IP6(of.IPv6Src.Prefix(netip.MustParsePrefix(p))))
		add(tCheck, 900, of.IP6(of.IPv6Dst.Prefix(netip.MustParsePrefix(p))))
	}
	linkLocal4, linkLocal6 := netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")
	for _, f := range []of.Field{of.IPv4Src, of.IPv4Dst} {
		add(tCheck, 600, of.IP4(f.Prefix(linkLocal4)))
	}
	for _, f := range []of.Field{of.IPv6Src, of.IPv6Dst} {
		add(tCheck, 600, of.IP6(f.Prefix(linkLocal6)))
	}
	for _, m := range []of.Match{of.IP4(), of.IP6()} {
		add(tCheck, 100, m.With(flags(0, remote)), of.Goto(tTTL))
		add(tCheck, 100, m.With(flags(remote, 0)), of.Goto(tRoute))
	}

	// The router itself answers echo requests, and has no other service. Of a
	// remote router only whom it certainly reaches; the rest goes to its host.
	turn := []of.Action{of.Push{Slice: of.EthDst.All()}, of.Move{Src: of.EthSrc.All(), Dst: of.EthDst.All()}, of.Pop{Slice: of.EthSrc.All()}}
	swap := func(v6 bool) []of.Action {
		a, b, typ := of.IPv4Src.All(), of.IPv4Dst.All(), of.Set(of.ICMPType.Is(0))
		if v6 {
			a, b, typ = of.IPv6Src.All(), of.IPv6Dst.All(), of.Set(of.ICMPv6Type.Is(129))
		}
		return []of.Action{of.Push{Slice: a}, of.Push{Slice: b}, of.Pop{Slice: a}, of.Pop{Slice: b}, typ, of.SetTTL{TTL: 64}}
	}
	echo4, echo6 := of.ICMP4(of.ICMPType.Is(8)), of.ICMP6(of.ICMPv6Type.Is(128))
	add(tSelf, 200, of.IP4(flags(remote, 0)), of.Goto(tHome))
	add(tSelf, 200, of.IP6(flags(remote, 0)), of.Goto(tHome))
	add(tSelf, 110, echo6.With(of.IPv6Src.Prefix(linkLocal6)),
		append(append(slices.Clone(turn), swap(true)...), leave(of.Goto(tAdmission))...)...)
	add(tSelf, 100, echo4, append(swap(false), setFlags(original), of.Goto(tRoute))...)
	add(tSelf, 100, echo6, append(swap(true), setFlags(original), of.Goto(tRoute))...)
	for _, v6 := range []bool{false, true} {
		add(tSelf, 60, of.IP(v6, of.ProtoTCP, of.TCPFlags.Masked(of.TCPRst, of.TCPRst)))
		ip := of.IP4()
		if v6 {
			ip = of.IP6()
			add(tSelf, 60, of.ICMP6())
		} else {
			add(tSelf, 60, of.ICMP4())
		}
		add(tSelf, 50, ip, ask(askPort))
	}

	// The second half of a solicitation's answer: an advertisement by now.
	add(tAdvertise, 1, of.ICMP6(of.ICMPv6Type.Is(136)), append([]of.Action{of.Move{Src: of.EthSrc.All(), Dst: of.NDTLL.All()}}, leave(of.Goto(tL2))...)...)

	// What is sent to an external address may be an answer to what was hidden
	// behind it, then to what is forwarded, then to the router.
	keep := of.Move{Src: of.IPv4Dst.All(), Dst: regCame.All()}
	unSNAT := of.CT{ZoneFrom: zoneS, NAT: restore, Table: tUnSNAT}
	add(tExternal, 110, of.TCP4(), keep, of.Move{Src: of.TCPDst.All(), Dst: regCamePort}, unSNAT)
	add(tExternal, 110, of.UDP4(), keep, of.Move{Src: of.UDPDst.All(), Dst: regCamePort}, unSNAT)
	add(tExternal, 100, of.IP4(), keep, unSNAT)
	add(tUnSNAT, 100, of.IP4(tracked(of.CtRpl, of.CtInv), flags(fromGateway, 0)), setFlags(translated), of.Goto(tTTL))
	add(tUnSNAT, 100, of.IP4(tracked(of.CtRpl, of.CtInv), flags(0, fromGateway)), setFlags(translated), of.CT{ZoneFrom: zoneD, NAT: restore, Table: tTTL})
	add(tUnSNAT, 50, of.IP4(), of.CT{ZoneFrom: zoneD, NAT: restore, Table: tDNAT})
	add(tDNAT, 200, of.IP4(tracked(of.CtInv, 0)))
	// A connection is new until it is answered, though it is translated already.
	add(tDNAT, 190, of.IP4(tracked(of.CtDNAT, 0)), setFlags(redirected), of.Goto(tTTL))
	add(tDNAT, 185, of.IP4(tracked(0, of.CtNew)), setFlags(redirected), of.Goto(tTTL))
	// TCP connections begin with SYN, or one that was ended would be taken up.
	unopened := []of.Cond{of.TCPFlags.Masked(0, of.TCPSyn), of.TCPFlags.Masked(of.TCPSyn|of.TCPAck, of.TCPSyn|of.TCPAck)}
	for _, c := range unopened {
		add(tDNAT, 180, of.TCP4(tracked(of.CtNew, 0), c))
	}
	add(tDNAT, 50, of.IP4(), of.Goto(tSelf))

	for _, v6 := range []bool{false, true} {
		ip := of.IP4
		if v6 {
			ip = of.IP6
		}
		add(tTTL, 100, ip(of.IPTTL.Is(0)), ask(askTTL))
		add(tTTL, 100, ip(of.IPTTL.Is(1)), ask(askTTL))
		add(tTTL, 50, ip(), of.DecTTL{}, of.Goto(tRoute))
		add(tRoute, 1, ip(flags(0, remote|original)), ask(askRoute))
		add(tRoute, 1, ip(flags(remote, original)), of.Goto(tHome))
		// Having passed: it is known where it goes.
		add(tStage, 300, ip(flags(tooLong, original|remote)), ask(askTooLong))
		add(tStage, 200, ip(flags(remote, 0)), of.Goto(tNeighbour))
		add(tStage, 200, ip(flags(original, 0)), of.Goto(tNeighbour))
	}
	add(tStage, 100, of.IP6(), of.Goto(tNeighbour))
	next, snat := of.Goto(tNeighbour), of.CT{ZoneFrom: zoneS, NAT: restore, Table: tSNAT}
	add(tStage, 190, of.IP4(flags(0, translates)), next)
	add(tStage, 180, of.IP4(flags(translated, 0)), next)
	add(tStage, 170, of.IP4(flags(fromGateway|redirected, 0)), next)
	add(tStage, 160, of.IP4(flags(fromGateway|toGateway, redirected)), next)
	add(tStage, 160, of.IP4(flags(fromGateway, redirected|toGateway)), of.CT{ZoneFrom: zoneS, Table: tRoutedIn})
	// What is new there is new here: a turn less, of the few that the userspace
	// data path has for a packet. Without it the first packet of every hairpinned
	// connection between filtered ports is lost.
	add(tStage, 155, of.IP4(flags(redirected, fromGateway), tracked(of.CtNew, of.CtInv)), of.Goto(tSource))
	add(tStage, 150, of.IP4(flags(redirected, fromGateway)), snat)
	add(tStage, 140, of.IP4(flags(toGateway, fromGateway|redirected)), of.CT{ZoneFrom: zoneD, NAT: restore, Table: tUnDNAT})
	add(tStage, 130, of.IP4(), next)
	add(tUnDNAT, 100, of.IP4(tracked(of.CtRpl, of.CtInv)), next)
	add(tUnDNAT, 50, of.IP4(), snat)
	add(tSNAT, 110, of.IP4(tracked(of.CtSNAT, 0)), next)
	add(tSNAT, 100, of.IP4(tracked(0, of.CtNew|of.CtInv)), next)
	add(tSNAT, 90, of.IP4(tracked(of.CtInv, 0), flags(hides|toGateway, 0)))
	add(tSNAT, 80, of.IP4(tracked(of.CtInv, 0)), next)
	for _, c := range unopened {
		add(tSNAT, 90, of.TCP4(tracked(of.CtNew, 0), c, flags(hides|toGateway, 0)))
		add(tSNAT, 80, of.TCP4(tracked(of.CtNew, 0), c), next)
		add(tRoutedIn, 80, of.TCP4(tracked(of.CtNew, 0), c), next)
	}
	add(tSNAT, 50, of.IP4(tracked(of.CtNew, 0)), of.Goto(tSource))
	add(tSource, 1, of.IP4(), next)
	// Who came in untranslated gets answers untranslated.
	add(tRoutedIn, 50, of.IP4(tracked(of.CtNew, 0)), of.CT{Commit: true, ZoneFrom: zoneS, Table: tNeighbour})
	add(tRoutedIn, 1, of.IP4(), next)

	add(tNeighbour, 1, nil, of.CTClear{}, of.Resubmit{Table: tKnown}, of.Resubmit{Table: tLearned}, of.Goto(tLeave))
	found := uint64(resolved)
	// From its gate on, as the network may be down, or the hop another router here.
	away := append([]of.Action{of.Move{Src: regMAC, Dst: of.EthSrc.All()}}, leave(of.Goto(pipeline.Gate))...)
	add(tLeave, 100, of.Any(flags(found, remote)), away...)
	add(tLeave, 50, of.Any(flags(0, found|remote)), ask(askNeighbour))
	for _, ip := range []func(...of.Cond) of.Match{of.IP4, of.IP6} {
		add(tLeave, 110, ip(flags(found|remote, original), of.IPTTL.Is(0)), ask(askTTL))
		add(tLeave, 110, ip(flags(found|remote, original), of.IPTTL.Is(1)), ask(askTTL))
		add(tLeave, 100, ip(flags(found|remote, original)), append([]of.Action{of.DecTTL{}}, away...)...)
	}
	add(tLeave, 100, of.Any(flags(found|remote|original, 0)), away...)
	add(tLeave, 50, of.Any(flags(remote, found)), of.Load(regNet.Range(16, 31), 0), of.Move{Src: regCamePort, Dst: regNet.Range(0, 15)},
		of.Set(of.Reg(0).Masked(0, allBits)), of.Goto(tHome))
	add(tHome, 1, nil, of.Goto(tL2))
	return out
}

// leave makes a packet one that begins on the network in register 1. It comes
// from the controller, and not from port 0: what Serve says has no port to go on
// from when it is looked up again, and ovs-vswitchd knows that of the controller only.
func leave(last of.Action) []of.Action {
	return []of.Action{
		of.Set(of.Reg(0).Masked(routed, allBits|0xff)), // as one that no port sent
		of.Set(of.Reg(2).Is(0)), of.Set(of.Reg(3).Is(0)), of.Set(regRouter.Is(0)), of.Set(of.InPort.Is(uint64(of.PortController))), last,
	}
}

// site is a router and what of this host its flows depend on.
type site struct {
	r      router.Router
	number uint16
	nets   map[string]uint16 // numbers of its networks
	wire   map[string]bool   // networks that are on a physical network
	apart  map[string]bool   // networks that the router is on at home only: those, and Local ones
	home   bool              // the router is here; else a short cut to it
	cookie uint64            // of learned neighbours
	kernel bool              // the datapath is the kernel's
	// Of a router that may be at home on several hosts: where it is, this host
	// or, at the tunnel end, another; and whether it may be here.
	at      *string
	end     netip.Addr
	standby bool
	tunnels map[string]tunnel // of its networks, where end is to be sent to
	// spread: floating IPs are translated where their port is. edge: this host
	// is not the router's, and on the gateway's physical network. has reports
	// whether a port is on this host.
	spread, edge bool
	has          func(portID string) bool
}

// Where a floating IP is translated.
const (
	nowhere   = ""          // not here
	atHome    = "home"      // with all else of the router
	atEdge    = "edge"      // on the host of its port, which is this one
	standby   = "standby"   // known here, where the router may come
	elsewhere = "elsewhere" // known here, as the router's home, and translated on the host of its port
)

// place is where a floating IP is translated, as far as this host is concerned.
func (s site) place(f router.FloatingIP) string {
	spread := s.spread && s.r.Gateway != nil && s.wire[s.r.Gateway.NetworkID] && f.PortID != "" && !f.ExternalMAC.IsZero()
	switch {
	case s.home && (!spread || s.has(f.PortID)):
		return atHome
	case s.home:
		return elsewhere
	case spread && s.edge && s.has(f.PortID):
		return atEdge
	case s.standby && spread:
		return elsewhere
	case s.standby:
		return standby
	}
	return nowhere
}

// side is one of a router's ports.
type side struct {
	id, network string
	mac         vnet.MAC
	addrs       []netip.Prefix
	gateway     bool
	mtu         int
	ra          *router.RA
}

func sides(r router.Router) (out []side) {
	for _, i := range r.Interfaces {
		out = append(out, side{i.PortID, i.NetworkID, i.MAC, i.Addresses, false, i.MTU, i.RA})
	}
	if g := r.Gateway; g != nil {
		out = append(out, side{g.PortID, g.NetworkID, g.MAC, g.Addresses, true, g.MTU, nil})
	}
	return out
}

// here are the sides that packets are taken from on this host.
func (s site) here() (out []side) {
	for _, x := range sides(s.r) {
		if s.home || !x.gateway && !s.apart[x.network] {
			out = append(out, x)
		}
	}
	return out
}

func (s site) net(id string) of.Cond { return regNet.Is(uint64(s.nets[id])) }

// firstIPv4 is the address that SNAT uses; invalid when there is none.
func firstIPv4(g *router.Gateway) netip.Addr {
	if g != nil {
		for _, p := range g.Addresses {
			if p.Addr().Is4() {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// shared is a priority of its own for each router, so that several on one
// network may have the same match; the highest does for all.
func (s site) shared(base uint16) uint16 { return base + s.number }

// neighbourAge is how long, in seconds, a neighbour that was heard of is
// taken to be where it was; neighbourLimit how many of them a router knows.
const (
	neighbourAge   = 300
	neighbourLimit = 8192
)

func (s site) learn(hop, value, mac of.Slice) of.Action {
	four := uint64(0)
	if hop == regHop4 {
		four = 1
	}
	return of.Learn{Table: tLearned, Priority: 50, Cookie: s.cookie, HardTimeout: neighbourAge, Limit: neighbourLimit, DeleteLearned: true, Specs: []of.LearnSpec{
		of.LearnMatch(regNet.All(), regNet.All()),
		of.LearnMatchValue(of.Reg(0).Bit(hop4At), four),
		of.LearnMatchValue(of.Reg(0).Bit(resolvedAt), 0),
		of.LearnMatch(hop, value),
		of.LearnLoad(of.EthDst.All(), mac),
		of.LearnLoadValue(of.Reg(0).Bit(resolvedAt), 1),
	}}
}

// routerFlows are those of the router itself.
func routerFlows(s site) (out []of.Flow) {
	add := func(table uint8, priority uint16, m of.Match, actions ...of.Action) {
		out = append(out, flow(table, priority, m, actions...))
	}
	here := s.here()
	for _, x := range here {
		on := s.net(x.network)
		if s.r.AdminDown || s.home { // what is for a router is for nobody else
			add(tAdmission, 50, of.Any(on, of.EthDst.MAC(x.mac)))
		}
		if s.r.AdminDown {
			continue
		}
		if !s.home {
			from := []of.Cond{on, of.EthDst.MAC(x.mac), flags(0, fromTunnel|fromWire)}
			s.admit(&out, of.IP4(from...), remote)
			s.admit(&out, of.IP6(from...), remote)
		} else {
			bits := uint64(0)
			if x.gateway {
				bits |= fromGateway
			}
			if g := s.r.Gateway; g != nil {
				bits |= translates
				if !g.DisableSNAT && firstIPv4(g).IsValid() {
					bits |= hides
				}
			}
			s.admit(&out, of.IP4(on, of.EthDst.MAC(x.mac)), bits)
			s.admit(&out, of.IP6(on, of.EthDst.MAC(x.mac)), bits)
		}
		for _, a := range x.own() {
			out = append(out, s.answer(x, a)...)
		}
	}
	if s.r.AdminDown {
		return out
	}
	mine := regRouter.Is(uint64(s.number))
	for _, x := range sides(s.r) {
		if x.gateway && !s.home {
			continue // which are another host's business
		}
		for _, a := range x.own() {
			if a.Is6() {
				add(tCheck, 700, of.IP6(mine, of.IPv6Dst.Addr(a)), of.Goto(tSelf))
				continue
			}
			add(tCheck, 800, of.IP4(mine, of.IPv4Src.Addr(a)))
			to := of.Goto(tSelf)
			if x.gateway {
				to = of.Goto(tExternal)
			}
			add(tCheck, 700, of.IP4(mine, of.IPv4Dst.Addr(a)), to)
		}
	}
	if !s.edge {
		out = append(out, s.routes()...)
	}
	out = append(out, s.homeward()...)
	if s.home {
		seen := map[string]bool{}
		for _, x := range here {
			if !seen[x.network] {
				seen[x.network] = true
				out = append(out, s.listen(x)...)
			}
			if x.ra != nil {
				out = append(out, s.solicited(x, 0))
			}
		}
		if own := firstIPv4(s.r.Gateway); own.IsValid() {
			to := of.CT{Commit: true, ZoneFrom: regZoneSNAT, NAT: &of.NAT{Kind: of.NATSrc, Min: own}, Table: tNeighbour}
			add(tSource, 50, of.IP4(mine, flags(0, toGateway)), to)
			if !s.r.Gateway.DisableSNAT {
				add(tSource, 50, of.IP4(mine, flags(toGateway, 0)), to)
			}
		}
		return out
	}
	for _, x := range here {
		if x.ra != nil {
			out = append(out, s.solicited(x, fromTunnel|fromWire))
		}
	}
	if s.edge {
		// What machines with floating IPs send takes the router's ways here, but
		// between internal networks that of all.
		out = append(out, with(s.routes(), flags(remote, 0))...)
		out = append(out, with(s.atHome().routes(), flags(0, remote))...)
		for _, x := range sides(s.r) {
			for _, p := range x.addrs {
				if p.Addr().Is4() && !x.gateway {
					add(tCheck, 650, of.IP4(mine, flags(0, remote|fromGateway), of.IPv4Dst.Prefix(p)), of.Set(of.Reg(0).Masked(remote, allBits)), of.Goto(tRoute))
				}
			}
		}
		all := sides(s.r)
		out = append(out, s.listen(all[len(all)-1])...)
	}
	return out
}

// atHome is s as if the router were here.
func (s site) atHome() site {
	s.home = true
	return s
}

func with(flows []of.Flow, c of.Cond) []of.Flow {
	for i := range flows {
		flows[i].Match = flows[i].Match.With(c)
	}
	return flows
}

// edgeFlows are those of a floating IP on the host of its port: it has a MAC of
// its own there.
func edgeFlows(s site, f router.FloatingIP) (external, fixed []of.Flow) {
	all := sides(s.r)
	out := all[len(all)-1]
	out.mac = f.ExternalMAC
	mine := regRouter.Is(uint64(s.number))
	bits := uint64(translates)
	if !s.r.Gateway.DisableSNAT {
		bits |= hides
	}
	external = append(s.atHome().answer(out, f.FloatingIP),
		flow(tAdmission, 50, of.Any(s.net(out.network), of.EthDst.MAC(f.ExternalMAC))),
		flow(tCheck, 800, of.IP4(mine, flags(0, remote), of.IPv4Src.Addr(f.FloatingIP))),
		flow(tCheck, 700, of.IP4(mine, flags(0, remote), of.IPv4Dst.Addr(f.FloatingIP)), of.Goto(tExternal)),
		flow(tLeave, 120, of.IP4(mine, s.net(out.network), flags(resolved, remote), of.IPv4Src.Addr(f.FloatingIP)),
			append([]of.Action{of.Set(of.EthSrc.MAC(f.ExternalMAC))}, leave(of.Goto(pipeline.Gate))...)...))
	s.admit(&external, of.IP4(s.net(out.network), of.EthDst.MAC(f.ExternalMAC), of.IPv4Dst.Addr(f.FloatingIP)), bits|fromGateway)
	for _, x := range s.here() {
		n := len(fixed)
		s.admit(&fixed, of.IP4(s.net(x.network), of.EthDst.MAC(x.mac), flags(0, fromTunnel|fromWire), of.IPv4Src.Addr(f.FixedIP)), bits)
		fixed[n].Priority = 110
	}
	return append(external, fipFlows(s, f)...), append(fixed, fixedFlows(s, f)...)
}

// own are the addresses of a side, with its link-local one.
func (x side) own() (out []netip.Addr) {
	for _, p := range x.addrs {
		out = append(out, p.Addr())
	}
	return append(out, x.mac.LinkLocal())
}

// admit takes packets that are for a router's MAC.
func (s site) admit(out *[]of.Flow, m of.Match, bits uint64) {
	dnat, snat := pipeline.ZonesOfRouter(s.number)
	*out = append(*out, flow(tAdmission, 100, m, of.Resubmit{Table: tCommit}, of.Set(regRouter.Is(uint64(s.number))),
		of.Set(of.Reg(0).Masked(bits, allBits)), of.Set(regCame.Is(0)), of.Set(of.Reg(13).Is(uint64(snat)<<16)), of.Set(of.Reg(14).Is(uint64(dnat)<<16)), of.Goto(tCheck)))
}

// answer are the flows that say where one of a router's addresses is.
func (s site) answer(x side, a netip.Addr) (out []of.Flow) {
	from := []of.Cond{s.net(x.network)}
	if !s.home {
		from = append(from, flags(0, fromTunnel|fromWire))
	} else {
		out = append(out, s.known(x, a))
	}
	back := []of.Action{of.Move{Src: of.EthSrc.All(), Dst: of.EthDst.All()}, of.Set(of.EthSrc.MAC(x.mac))}
	if a.Is4() {
		var do []of.Action
		if s.home {
			do = append(do, s.learn(regHop4, of.ARPSPA.All(), of.ARPSHA.All()))
		}
		do = append(do, back...)
		do = append(do, of.Set(of.ARPOp.Is(2)), of.Move{Src: of.ARPSHA.All(), Dst: of.ARPTHA.All()}, of.Set(of.ARPSHA.MAC(x.mac)),
			of.Move{Src: of.ARPSPA.All(), Dst: of.ARPTPA.All()}, of.Set(of.ARPSPA.Addr(a)))
		do = append(do, leave(of.Goto(tL2))...)
		return append(out, flow(tLocal, 100, of.ARP(append(from, of.ARPOp.Is(1), of.ARPTPA.Addr(a))...), do...))
	}
	asks := of.ICMP6(append(from, of.ICMPv6Type.Is(135), of.NDTarget.Addr(a))...)
	var do []of.Action
	if s.home {
		do = append(do, s.learn(regHop6, of.IPv6Src.All(), of.NDSLL.All()))
	}
	do = append(do, back...)
	do = append(do, of.Set(of.ICMPv6Type.Is(136)), of.Move{Src: of.IPv6Src.All(), Dst: of.IPv6Dst.All()}, of.Set(of.IPv6Src.Addr(a)),
		of.SetTTL{TTL: 255}, of.Set(of.NDReserved.Is(naRouter|naSolicited|naOverride)), of.Set(of.NDOptionsType.Is(2)), of.Goto(tAdvertise))
	if s.kernel { // its datapath cannot make an answer of a question
		do = []of.Action{ask(askSolicit)}
		if s.home {
			do = append([]of.Action{s.learn(regHop6, of.IPv6Src.All(), of.NDSLL.All())}, do...)
		}
	}
	return append(out,
		flow(tLocal, 110, asks.With(of.NDSLL.Is(0)), ask(askSolicit)), // without its MAC
		flow(tLocal, 100, asks, do...))
}

// Flags of neighbour advertisements (RFC 4861, 4.4).
const (
	naRouter    = 0x80000000
	naSolicited = 0x40000000
	naOverride  = 0x20000000
)

// known is where one of a router's addresses is, for other routers here.
func (s site) known(x side, a netip.Addr) of.Flow {
	do := []of.Action{of.Set(of.EthDst.MAC(x.mac)), setFlags(resolved)}
	if a.Is4() {
		return flow(tLearned, 100, of.Any(s.net(x.network), flags(hop4, resolved), of.Reg(8).Addr(a)), do...)
	}
	return flow(tLearned, 100, of.Any(s.net(x.network), flags(0, hop4|resolved), of.XXReg(2).Addr(a)), do...)
}

// listen are the flows that learn where neighbours are from what they say.
func (s site) listen(x side) []of.Flow {
	na := of.ICMP6(s.net(x.network), of.ICMPv6Type.Is(136))
	return []of.Flow{
		flow(tLocal, s.shared(1000), of.ARP(s.net(x.network), of.ARPOp.Is(2)), s.learn(regHop4, of.ARPSPA.All(), of.ARPSHA.All()), ask(askHeard), of.Goto(tAdmission)),
		flow(tLocal, s.shared(10000), na.With(of.NDTLL.Is(0)), s.learn(regHop6, of.NDTarget.All(), of.EthSrc.All()), ask(askHeard), of.Goto(tAdmission)),
		flow(tLocal, s.shared(1000), na, s.learn(regHop6, of.NDTarget.All(), of.NDTLL.All()), ask(askHeard), of.Goto(tAdmission)),
	}
}

// solicited hands router solicitations to Serve, and lets them go on.
func (s site) solicited(x side, not uint64) of.Flow {
	return flow(tLocal, s.shared(20000), of.ICMP6(s.net(x.network), of.ICMPv6Type.Is(133), flags(0, not)), ask(askRS), of.Goto(tAdmission))
}

// way is where a route leads: by a side, to a next hop; an invalid hop is the
// destination itself.
type way struct {
	side
	hop netip.Addr
}

// Kinds of routes, from the weakest, of one prefix.
const (
	byDefault = iota
	byRoute
	connected
)

func (s site) routes() (out []of.Flow) {
	all := sides(s.r)
	mine := regRouter.Is(uint64(s.number))
	to := func(p netip.Prefix) of.Match {
		if p.Addr().Is4() {
			return of.IP4(mine, of.IPv4Dst.Prefix(p))
		}
		return of.IP6(mine, of.IPv6Dst.Prefix(p))
	}
	priority := func(p netip.Prefix, kind int) uint16 { return uint16(100 + 10*p.Bits() + kind) }
	seen := map[netip.Prefix]bool{}
	for _, x := range all {
		for _, p := range x.addrs {
			p = p.Masked()
			if seen[p] {
				continue // two addresses of one interface may share a subnet
			}
			seen[p] = true
			out = append(out, flow(tRoute, priority(p, connected), to(p), s.by(p, way{side: x})...))
			if last, ok := broadcast(p); ok && !s.remoteWay(x) { // RFC 2644
				out = append(out, flow(tRoute, 5000, to(last)))
			}
		}
	}
	ways := map[netip.Prefix][]way{}
	kinds := map[netip.Prefix]int{}
	var order []netip.Prefix
	via := func(dst netip.Prefix, hop netip.Addr, kind int) {
		if k, ok := kinds[dst]; ok && k > kind {
			return
		}
		for _, x := range all {
			if slices.ContainsFunc(x.addrs, func(p netip.Prefix) bool { return p.Masked().Contains(hop) }) {
				if ways[dst] == nil {
					order = append(order, dst)
				}
				ways[dst], kinds[dst] = append(ways[dst], way{x, hop}), kind
				return
			}
		}
		if kind == byDefault { // a next hop outside the subnets is on the gateway's link
			if ways[dst] == nil {
				order = append(order, dst)
			}
			ways[dst], kinds[dst] = append(ways[dst], way{all[len(all)-1], hop}), kind
		}
	}
	for _, x := range s.r.Routes {
		via(x.Destination, x.NextHop, byRoute)
	}
	if g := s.r.Gateway; g != nil {
		for _, hop := range g.NextHops {
			dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if hop.Is6() {
				dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			via(dst, hop, byDefault)
		}
	}
	for _, dst := range order {
		several := ways[dst]
		at := priority(dst, kinds[dst])
		if len(several) == 1 || !s.home {
			out = append(out, flow(tRoute, at, to(dst), s.by(dst, several[0])...))
			continue
		}
		out = append(out, flow(tRoute, at, to(dst), of.Multipath{Fields: of.HashSymmetricL3L4UDP, Algorithm: of.HRW, Links: uint32(len(several)), Dst: regWay.All()}, of.Goto(tShare)))
		for i, w := range several {
			out = append(out, flow(tShare, at, to(dst).With(regWay.Is(uint64(i))), s.by(dst, w)...))
		}
	}
	return out
}

// remoteWay reports whether only the router's own host can send by a side.
func (s site) remoteWay(x side) bool { return !s.home && (x.gateway || s.apart[x.network]) }

// by are the actions of a packet that goes a way.
func (s site) by(dst netip.Prefix, w way) []of.Action {
	// A short cut is for what certainly takes no other way at home: between
	// networks, where no answer needs to be translated.
	if s.remoteWay(w.side) || !s.home && (w.hop.IsValid() || dst.Addr().Is4() && s.r.Gateway != nil && !firstIPv4(s.r.Gateway).IsValid()) {
		return []of.Action{of.Set(of.Reg(0).Masked(0, allBits)), of.Goto(tHome)}
	}
	var do []of.Action
	if !s.home {
		do = append(do, of.Move{Src: regNet.Range(0, 15), Dst: regCamePort})
	}
	bits := uint64(0)
	switch {
	case dst.Addr().Is4() && w.hop.IsValid():
		bits |= hop4
		do = append(do, of.Set(of.Reg(8).Addr(w.hop)))
	case dst.Addr().Is4():
		bits |= hop4
		do = append(do, of.Move{Src: of.IPv4Dst.All(), Dst: regHop4})
	case w.hop.IsValid():
		do = append(do, of.Set(of.XXReg(2).Addr(w.hop)))
	default:
		do = append(do, of.Move{Src: of.IPv6Dst.All(), Dst: regHop6})
	}
	if w.gateway {
		bits |= toGateway
	}
	do = append(do, of.Set(s.net(w.network)), of.Load(regMAC, macBits(w.mac)), of.Set(of.Reg(0).Masked(bits, toGateway|hop4|resolved)))
	if w.mtu != 0 && s.home {
		do = append(do, of.CheckPktLarger{Len: uint16(min(w.mtu+14, 65535)), Dst: of.Reg(0).Bit(22)})
	}
	return append(do, of.Goto(tStage))
}

func macBits(m vnet.MAC) uint64 {
	return binary.BigEndian.Uint64(append([]byte{0, 0}, m[:]...))
}

// broadcast is the broadcast address of an IPv4 subnet that has one.
func broadcast(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Prefix{}, false
	}
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.PrefixFrom(netip.AddrFrom4(b), 32), true
}

// externalFlows are those of an external address other than the gateway's own.
func externalFlows(s site, a netip.Addr) []of.Flow {
	if !s.home || s.r.AdminDown || s.r.Gateway == nil {
		return nil
	}
	all := sides(s.r)
	mine := regRouter.Is(uint64(s.number))
	return append(s.answer(all[len(all)-1], a),
		flow(tCheck, 800, of.IP4(mine, of.IPv4Src.Addr(a))),
		flow(tCheck, 700, of.IP4(mine, of.IPv4Dst.Addr(a)), of.Goto(tExternal)))
}

// fipFlows translate what is sent to a floating IP.
func fipFlows(s site, f router.FloatingIP) []of.Flow {
	return []of.Flow{flow(tDNAT, 100, of.IP4(regRouter.Is(uint64(s.number)), of.IPv4Dst.Addr(f.FloatingIP)), setFlags(redirected),
		of.CT{Commit: true, ZoneFrom: regZoneDNAT, NAT: &of.NAT{Kind: of.NATDst, Min: f.FixedIP}, Table: tTTL})}
}

// fixedFlows translate what a fixed address sends.
func fixedFlows(s site, f router.FloatingIP) []of.Flow {
	return []of.Flow{flow(tSource, 100, of.IP4(regRouter.Is(uint64(s.number)), of.IPv4Src.Addr(f.FixedIP)),
		of.CT{Commit: true, ZoneFrom: regZoneSNAT, NAT: &of.NAT{Kind: of.NATSrc, Min: f.FloatingIP}, Table: tNeighbour})}
}

// forwardFlows translate what is sent to forwarded ports.
func forwardFlows(s site, f router.PortForward) (out []of.Flow) {
	if !s.home {
		return nil
	}
	f = f.Canonical()
	proto, port := uint8(of.ProtoTCP), of.TCPDst
	if f.Protocol == "udp" {
		proto, port = of.ProtoUDP, of.UDPDst
	}
	for i := range uint16(f.ExternalPort.Len()) {
		out = append(out, flow(tDNAT, 100, of.IP(false, proto, regRouter.Is(uint64(s.number)), of.IPv4Dst.Addr(f.ExternalIP), port.Is(uint64(f.ExternalPort.First+i))), setFlags(redirected),
			of.CT{Commit: true, ZoneFrom: regZoneDNAT, NAT: &of.NAT{Kind: of.NATDst, Min: f.InternalIP, MinPort: f.InternalPort.First + i}, Table: tTTL}))
	}
	return out
}
