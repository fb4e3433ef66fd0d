package ovsmetadata

import (
	"crypto/sha256"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/internal/answer"
	"github.com/vnet-go/vnet/ovs"
)

// Where the service is in our namespace. A request's destination tells the
// port that it came from, in its low bits, and by IPv6 the network and which of
// the addresses was asked too; its TCP port tells the endpoint. The source stays
// as it is: with a destination for each port no two connections are alike,
// whatever addresses tenants use.
func inside4() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/17") } // RFC 2544: nobody's
func inside6() netip.Prefix { return netip.MustParsePrefix("fd00:a9fe:a9fe::/48") }

func insideGlobal() netip.Prefix { return netip.MustParsePrefix("fd00:a9fe:a9fe:1::/64") }
func insideLink() netip.Prefix   { return netip.MustParsePrefix("fd00:a9fe:a9fe:2::/64") }

const (
	portBits    = 15
	networkBits = 14
	networkAt   = 16 // bit of an IPv6 address

	networkPorts = 0x4000 // TCP port of the endpoint on network n: 0x4000 + n
	routerPorts  = 0x8000 // in router n: 0x8000 + n
)

// networkOf is the number of the network in an address of ours.
func networkOf(a netip.Addr) uint16 {
	if !a.Is6() || !inside6().Contains(a) {
		return 0
	}
	b := a.As16()
	return (uint16(b[12])<<8 | uint16(b[13])) & (1<<networkBits - 1)
}

// Bits of ct_label: what of a connection's first packets the answers need.
func labelClient() openflow.Slice   { return openflow.CtLabel.Range(0, 47) }   // MAC of the machine
func labelServer() openflow.Slice   { return openflow.CtLabel.Range(48, 95) }  // MAC that it sent to
func labelNetwork() openflow.Slice  { return openflow.CtLabel.Range(96, 111) } // number
func labelFiltered() openflow.Slice { return openflow.CtLabel.Bit(112) }       // the port wants filtering

// The tables behind the first of the answers.
const (
	tableReply = pipeline.MetadataAnswers + 1 // an answer, tracked
	tableOut   = pipeline.MetadataAnswers + 2 // a request, tracked
)

// Bits of the flags, as places.
const (
	bitFiltered    = 0 // pipeline.Filtered
	bitOutFiltered = 4 // pipeline.OutFiltered
)

// Priorities in the table. Endpoints in routers are below those on networks,
// and each router has its own: two on one network would else be the same flow.
const (
	networkServe = 40000
	networkDrop  = 10000
	routerServe  = 20000
	routerDrop   = 1000
)

// place is where an endpoint serves: a network, and by what MAC it is known there.
type place struct {
	network uint16 // number
	tcp     uint16 // port in our namespace
	mac     vnet.MAC
	own     []netip.Addr
	serve   uint16 // priorities
	drop    uint16
}

// routerMAC is where the endpoint of a router is found on the link.
func routerMAC(owner vnet.Owner, router string) vnet.MAC {
	h := sha256.Sum256([]byte("metadata\x00" + string(owner) + "\x00" + router))
	m := vnet.MAC(h[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

func onNetwork(e metadata.Endpoint, number uint16) place {
	p := place{network: number, tcp: networkPorts | number, mac: e.MAC, serve: networkServe, drop: networkDrop}
	for _, a := range e.Addresses {
		p.own = append(p.own, a.Addr())
	}
	return p
}

func inRouter(owner vnet.Owner, e metadata.Endpoint, router, network uint16) place {
	return place{network: network, tcp: routerPorts | router, mac: routerMAC(owner, e.RouterID), serve: routerServe + router, drop: routerDrop + router}
}

// flows take requests of local ports of the place's network.
func (p place) flows() []openflow.Flow {
	var out []openflow.Flow
	local := []openflow.Cond{openflow.Reg(pipeline.RegNetwork).Is(uint64(p.network)), openflow.Reg(pipeline.RegFlags).Masked(0, pipeline.FromTunnel|pipeline.FromWire)}
	add := func(priority uint16, m openflow.Match, do ...openflow.Action) {
		out = append(out, openflow.Flow{Table: pipeline.Metadata, Priority: priority, Match: m.With(local...), Actions: do})
	}
	add(p.serve, openflow.TCP4(openflow.IPv4Dst.Addr(metadata.IPv4()), openflow.TCPDst.Is(answer.Port)),
		p.request(openflow.Set(openflow.IPv4Dst.Addr(inside4().Addr())), copyBits(pipeline.RegIn, openflow.IPv4Dst, 0, portBits))...)
	for _, v6 := range []struct{ asked, base netip.Addr }{{metadata.IPv6(), insideGlobal().Addr()}, {metadata.IPv6LinkLocal(), insideLink().Addr()}} {
		add(p.serve, openflow.TCP6(openflow.IPv6Dst.Addr(v6.asked), openflow.TCPDst.Is(answer.Port)),
			p.request(openflow.Set(openflow.IPv6Dst.Addr(v6.base)), copyBits(pipeline.RegIn, openflow.IPv6Dst, 0, portBits),
				copyBits(pipeline.RegNetwork, openflow.IPv6Dst, networkAt, networkBits))...)
	}
	for _, a := range append([]netip.Addr{metadata.IPv4(), metadata.IPv6(), metadata.IPv6LinkLocal()}, p.own...) {
		if a.Is4() {
			add(p.serve, openflow.ARP(openflow.ARPOp.Is(1), openflow.ARPTPA.Addr(a)), arpAnswer(a, p.mac)...)
		} else {
			add(p.serve, solicitation(openflow.NDTarget.Addr(a)), ndAnswer(p.mac))
		}
	}
	add(p.drop, openflow.IP4(openflow.IPv4Dst.Addr(metadata.IPv4())))
	add(p.drop, openflow.IP6(openflow.IPv6Dst.Addr(metadata.IPv6())))
	add(p.drop, openflow.IP6(openflow.IPv6Dst.Addr(metadata.IPv6LinkLocal())))
	return out
}

// copyBits copies the low bits of a register.
func copyBits(reg int, to openflow.Field, at, n uint16) openflow.Action {
	return openflow.Move{Src: openflow.Reg(reg).Range(0, n-1), Dst: to.Range(at, at+n-1)}
}

// regZone has the zone of a port's connections to us.
const regZone = 12

func zone() openflow.Slice { return openflow.Reg(regZone).Range(0, 15) }

// request is what is done with a request: it is let go of by the egress rules,
// gets its new destination, and its connection remembers the way back. ct
// commits each packet, so that a machine which changes its MAC is answered.
func (p place) request(destination ...openflow.Action) []openflow.Action {
	out := []openflow.Action{openflow.Goto(pipeline.Commit)}
	out = append(out, copyBits(pipeline.RegIn, openflow.Reg(regZone), 0, portBits), openflow.Load(openflow.Reg(regZone).Bit(portBits), 1))
	out = append(out, destination...)
	return append(out, openflow.Set(openflow.TCPDst.Is(uint64(p.tcp))),
		openflow.CT{Commit: true, ZoneFrom: zone(), Table: tableOut, Exec: []openflow.Action{
			openflow.Move{Src: openflow.EthSrc.All(), Dst: labelClient()},
			openflow.Move{Src: openflow.EthDst.All(), Dst: labelServer()},
			openflow.Move{Src: openflow.Reg(pipeline.RegNetwork).Range(0, 15), Dst: labelNetwork()},
			openflow.Move{Src: openflow.Reg(pipeline.RegFlags).Bit(bitFiltered), Dst: labelFiltered()},
		}})
}

func solicitation(c ...openflow.Cond) openflow.Match {
	return openflow.ICMP6(openflow.ICMPv6Type.Is(135), openflow.ICMPv6Code.Is(0)).With(c...)
}

// arpAnswer turns an ARP request for a into its answer, and sends it back.
func arpAnswer(a netip.Addr, mac vnet.MAC) []openflow.Action {
	return []openflow.Action{
		openflow.Move{Src: openflow.EthSrc.All(), Dst: openflow.EthDst.All()}, openflow.Set(openflow.EthSrc.MAC(mac)),
		openflow.Set(openflow.ARPOp.Is(2)),
		openflow.Move{Src: openflow.ARPSHA.All(), Dst: openflow.ARPTHA.All()}, openflow.Set(openflow.ARPSHA.MAC(mac)),
		openflow.Move{Src: openflow.ARPSPA.All(), Dst: openflow.ARPTPA.All()}, openflow.Set(openflow.ARPSPA.Addr(a)),
		openflow.Output{Port: openflow.PortInPort},
	}
}

// ndAnswer has a neighbour solicitation answered by this process, with the
// MAC: the kernel's datapath cannot turn one into an advertisement.
func ndAnswer(mac vnet.MAC) openflow.Action {
	return openflow.Controller{ID: ovs.ControllerID, UserData: mac[:]}
}

// deviceFlows are those of the host's metadata device: port is its number, mac
// that of its end in our namespace, hop that of all that is behind it.
func deviceFlows(port uint16, mac, hop vnet.MAC) []openflow.Flow {
	out := []openflow.Flow{
		{Table: pipeline.Classify, Priority: 100, Match: openflow.Any(openflow.InPort.Is(uint64(port))), Actions: []openflow.Action{openflow.Goto(pipeline.MetadataAnswers)}},
		{Table: pipeline.MetadataAnswers, Priority: 100, Match: solicitation(), Actions: []openflow.Action{ndAnswer(hop)}},
	}
	for _, v6 := range []bool{false, true} {
		out = append(out, openflow.Flow{Table: tableOut, Priority: 50, Match: openflow.IP(v6, openflow.ProtoTCP),
			Actions: []openflow.Action{openflow.Set(openflow.EthDst.MAC(mac)), openflow.Output{Port: openflow.Port(port)}}})
	}
	for _, v := range []struct {
		from  openflow.Cond
		field openflow.Field
		as    netip.Addr
	}{
		{openflow.IPv4Src.Prefix(inside4()), openflow.IPv4Src, metadata.IPv4()},
		{openflow.IPv6Src.Prefix(insideGlobal()), openflow.IPv6Src, metadata.IPv6()},
		{openflow.IPv6Src.Prefix(insideLink()), openflow.IPv6Src, metadata.IPv6LinkLocal()},
	} {
		low := v.field.Range(0, portBits-1)
		tcp := openflow.IP(v.as.Is6(), openflow.ProtoTCP, v.from)
		out = append(out,
			// Answers: whose, and of a connection that the machine began.
			openflow.Flow{Table: pipeline.MetadataAnswers, Priority: 100, Match: tcp, Actions: []openflow.Action{
				openflow.Move{Src: low, Dst: openflow.Reg(pipeline.RegOut).Range(0, portBits-1)},
				openflow.Move{Src: low, Dst: openflow.Reg(regZone).Range(0, portBits-1)},
				openflow.Load(openflow.Reg(regZone).Bit(portBits), 1),
				openflow.CT{ZoneFrom: zone(), Table: tableReply}}},
			openflow.Flow{Table: tableReply, Priority: 100, Match: tcp.With(openflow.CtBits(openflow.CtTrk|openflow.CtEst|openflow.CtRpl, openflow.CtInv)), Actions: []openflow.Action{
				openflow.Move{Src: labelClient(), Dst: openflow.EthDst.All()},
				openflow.Move{Src: labelServer(), Dst: openflow.EthSrc.All()},
				openflow.Move{Src: labelNetwork(), Dst: openflow.Reg(pipeline.RegNetwork).Range(0, 15)},
				openflow.Move{Src: labelFiltered(), Dst: openflow.Reg(pipeline.RegFlags).Bit(bitOutFiltered)},
				openflow.Set(v.field.Addr(v.as)), openflow.Set(openflow.TCPSrc.Is(answer.Port)),
				openflow.CTClear{}, openflow.Goto(pipeline.ToPort)}})
	}
	return out
}
