package ovsoverlay

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/overlay"
)

// What an object's flows are, as functions of what is asked for and of the
// numbers of the handle. Nothing here knows a switch.

// place is a network as the pipeline has it.
type place struct {
	n      overlay.Network
	number uint16
	tunnel uint16 // OpenFlow port, of tunnelled networks
	patch  uint16 // OpenFlow port, of physical ones; 0: this host is not on it
	// advertises: the datapath can make an advertisement of a solicitation.
	advertises bool
}

const (
	prioDown      = 1000
	prioOwn       = 110 // what a port asks about itself is no question to us
	prioKnown     = 100
	prioRemote    = 90
	prioReserved  = 51
	prioSpread    = 50
	prioUnknown   = 10
	regChunk      = 15 // which of a network's ports to flood to
	solicitation  = 135
	advertisement = 136
)

func net(number uint16) of.Cond { return of.Reg(pipeline.RegNetwork).Is(uint64(number)) }

// flag is a condition on flags: those of set are, those of clear are not.
func flags(set, clear uint64) of.Cond { return of.Reg(pipeline.RegFlags).Masked(set, set|clear) }

// setFlags sets flags and clears others.
func setFlags(set, clear uint64) of.Action {
	return of.Set(of.Reg(pipeline.RegFlags).Masked(set, set|clear))
}

func mac(m vnet.MAC) [6]byte { return [6]byte(m) }

// networkFlows are how frames of a network come in and go out.
func networkFlows(p place) []of.Flow {
	num := uint64(p.number)
	var out []of.Flow
	if p.n.AdminDown {
		out = append(out,
			of.Flow{Table: pipeline.Gate, Priority: prioDown, Match: of.Any(net(p.number))},
			of.Flow{Table: pipeline.L2, Priority: prioDown, Match: of.Any(net(p.number))})
	}
	in := func(m of.Match, flag uint64, first ...of.Action) {
		actions := append(first, of.Set(of.Reg(pipeline.RegNetwork).Is(num)), of.Set(of.Reg(pipeline.RegFlags).Is(flag)), of.Goto(pipeline.Gate))
		out = append(out, of.Flow{Table: pipeline.Classify, Priority: prioKnown, Match: m, Actions: actions})
	}
	switch p.n.Segment.Type {
	case overlay.VXLAN, overlay.Geneve:
		in(of.Any(of.InPort.Is(uint64(p.tunnel)), of.TunID.Is(uint64(p.n.Segment.ID))), pipeline.FromTunnel)
	case overlay.Flat:
		if p.patch != 0 {
			in(of.Any(of.InPort.Is(uint64(p.patch)), of.Untagged()), pipeline.FromWire)
		}
	case overlay.VLAN:
		if p.patch != 0 {
			in(of.Any(of.InPort.Is(uint64(p.patch)), of.VLAN(uint16(p.n.Segment.ID))), pipeline.FromWire, of.PopVLAN{})
		}
	}
	if p.patch != 0 {
		out = append(out, of.Flow{Table: pipeline.L2, Priority: prioUnknown, Match: of.Any(append(p.wired(), flags(0, pipeline.FromWire))...), Actions: p.toWire()})
	}
	return append(out,
		of.Flow{Table: pipeline.L2, Priority: prioSpread, Match: of.Any(net(p.number), group()), Actions: []of.Action{of.Goto(pipeline.Flood)}},
		of.Flow{Table: pipeline.L2, Priority: prioReserved, Match: of.Any(net(p.number), reserved())})
}

// reserved is the condition that a frame is for the next bridge only, such as
// of the spanning tree protocol (IEEE 802.1Q, 8.6.3).
func reserved() of.Cond {
	return of.EthDst.MACMasked([6]byte{1, 0x80, 0xc2}, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0})
}

// wired are the conditions on frames that may go to the wire: a tag that a
// machine puts on would on a flat network lead into another one.
func (p place) wired() []of.Cond {
	if p.n.Segment.Type == overlay.Flat {
		return []of.Cond{net(p.number), of.Untagged()}
	}
	return []of.Cond{net(p.number)}
}

// group is the condition that a frame is to more than one (IEEE 802, the I/G bit).
func group() of.Cond { return of.EthDst.MACMasked([6]byte{1}, [6]byte{1}) }

// toWire sends the frame out on the physical network.
func (p place) toWire() []of.Action {
	out := []of.Action{of.Goto(pipeline.Commit)}
	if p.n.Segment.Type == overlay.VLAN {
		out = append(out, of.PushVLAN{}, of.Set(of.VLAN(uint16(p.n.Segment.ID))))
	}
	return append(out, of.Output{Port: of.Port(p.patch)})
}

// to sends the frame to another host.
func (p place) to(endpoint netip.Addr) []of.Action {
	dst := of.TunDst.Addr(endpoint)
	if endpoint.Is6() {
		dst = of.TunIPv6Dst.Addr(endpoint)
	}
	return []of.Action{of.Set(dst), of.Output{Port: of.Port(p.tunnel)}}
}

// spread is what is flooded where: the chunks of this host's ports, and the
// other hosts with how many ports each has.
type spread struct {
	Chunks    []int              `json:"chunks,omitempty"`
	Endpoints map[netip.Addr]int `json:"endpoints,omitempty"`
}

// spreadFlows flood a network: to this host's ports, then off the host, unless
// the frame came from there.
func spreadFlows(p place, s spread) []of.Flow {
	var local []of.Action
	for _, c := range s.Chunks {
		local = append(local, of.Set(of.Reg(regChunk).Is(uint64(c))), of.Goto(pipeline.Flood+2))
	}
	out := []of.Flow{{Table: pipeline.Flood, Priority: 1, Match: of.Any(net(p.number)), Actions: append(local, of.Goto(pipeline.Flood+1))}}
	off := func(prio uint16, actions []of.Action, more ...of.Cond) {
		m := of.Any(append(append(more, p.wired()...), flags(0, pipeline.FromTunnel|pipeline.FromWire))...)
		out = append(out, of.Flow{Table: pipeline.Flood + 1, Priority: prio, Match: m, Actions: actions})
	}
	switch t := p.n.Segment.Type; {
	case t.Physical() && p.patch != 0:
		off(1, p.toWire())
	case t.Tunnel():
		var all []of.Action
		if len(s.Endpoints) > 0 {
			all = append(all, of.Goto(pipeline.Commit), of.Set(of.TunID.Is(uint64(p.n.Segment.ID))))
		}
		for _, e := range slices.SortedFunc(maps.Keys(s.Endpoints), netip.Addr.Compare) {
			all = append(all, p.to(e)...)
		}
		if f := p.n.Flooding; f.Broadcast != !f.NoMulticast {
			if f.NoMulticast {
				off(2, nil, group())
				off(3, all, of.EthDst.MAC([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
			} else {
				off(2, all)
				off(3, nil, of.EthDst.MAC([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
			}
		} else if f.Broadcast {
			off(2, all)
		}
	}
	return out
}

// member is a port of this host that is flooded to.
type member struct {
	Number   uint16 `json:"n"`
	Filtered bool   `json:"filtered,omitempty"`
}

// chunkSize bounds the flows that one more port rewrites.
const chunkSize = 64

func chunkOf(number uint16) int { return int(number) / chunkSize }

// chunkFlows hand a copy to each port of a chunk. Each is judged by itself.
func chunkFlows(p place, chunk int, ms []member) []of.Flow {
	var actions []of.Action
	for _, m := range ms {
		actions = append(actions, out(m.Number, m.Filtered)...)
		actions = append(actions, of.Goto(pipeline.ToPort))
	}
	return []of.Flow{{Table: pipeline.Flood + 2, Priority: 1, Match: of.Any(net(p.number), of.Reg(regChunk).Is(uint64(chunk))), Actions: actions}}
}

// out names the port that a frame goes to.
func out(number uint16, filtered bool) []of.Action {
	set := uint64(0)
	if filtered {
		set = pipeline.OutFiltered
	}
	return []of.Action{of.Set(of.Reg(pipeline.RegOut).Is(uint64(number))), setFlags(set, pipeline.OutFiltered&^set)}
}

// portFlows are those of a port of this host.
func portFlows(p place, x overlay.Port, number uint16) []of.Flow {
	if x.AdminDown {
		return nil
	}
	set := uint64(0)
	if x.Filtered {
		set = pipeline.Filtered
	}
	flows := []of.Flow{
		{Table: pipeline.Classify, Priority: prioKnown, Match: of.Any(of.InPort.Is(uint64(number))), Actions: []of.Action{
			of.Set(of.Reg(pipeline.RegNetwork).Is(uint64(p.number))), of.Set(of.Reg(pipeline.RegIn).Is(uint64(number))),
			of.Set(of.Reg(pipeline.RegFlags).Is(set)), of.Goto(pipeline.Gate)}},
		{Table: pipeline.L2, Priority: prioKnown, Match: of.Any(net(p.number), of.EthDst.MAC(mac(x.MAC))),
			Actions: append(out(number, x.Filtered), of.Goto(pipeline.ToPort))},
	}
	for _, a := range x.FixedIPs {
		from := of.Reg(pipeline.RegIn).Is(uint64(number))
		own := of.ARP(from, of.ARPTPA.Addr(a))
		if a.Is6() {
			own = of.ICMP6(from, of.ICMPv6Type.Is(solicitation), of.NDTarget.Addr(a))
		}
		flows = append(flows, of.Flow{Table: pipeline.Responder, Priority: prioOwn, Match: own, Actions: []of.Action{of.Goto(pipeline.RouterLocal)}})
	}
	return flows
}

// remoteFlows are those of a port of another host.
func remoteFlows(p place, r overlay.RemotePort) []of.Flow {
	actions := append([]of.Action{of.Goto(pipeline.Commit), of.Set(of.TunID.Is(uint64(p.n.Segment.ID)))}, p.to(r.Endpoint)...)
	return []of.Flow{{Table: pipeline.L2, Priority: prioRemote, Match: of.Any(net(p.number), flags(0, pipeline.FromTunnel), of.EthDst.MAC(mac(r.MAC))), Actions: actions}}
}

// holder is a port that has an address. Several may, as failover pairs do: the
// last one is who is answered for.
type holder struct {
	ID  string   `json:"id"` // "port/ID" or "remote-port/ID"
	MAC vnet.MAC `json:"mac"`
}

// answers are what is known of who has an address: ARP (RFC 826) and neighbour
// solicitations (RFC 4861, 7.2.4) from this host's ports are answered in
// place, and routers find it as a neighbour.
func answers(p place, a netip.Addr, m vnet.MAC) []of.Flow {
	asked := flags(0, pipeline.FromTunnel|pipeline.FromWire)
	back := of.Output{Port: of.PortInPort}
	if a.Is4() {
		return []of.Flow{
			{Table: pipeline.Responder, Priority: prioKnown, Match: of.ARP(net(p.number), asked, of.ARPOp.Is(1), of.ARPTPA.Addr(a)), Actions: []of.Action{
				of.Move{Src: of.EthSrc.All(), Dst: of.EthDst.All()}, of.Set(of.EthSrc.MAC(mac(m))), of.Set(of.ARPOp.Is(2)),
				of.Move{Src: of.ARPSHA.All(), Dst: of.ARPTHA.All()}, of.Set(of.ARPSHA.MAC(mac(m))),
				of.Move{Src: of.ARPSPA.All(), Dst: of.ARPTPA.All()}, of.Set(of.ARPSPA.Addr(a)), back}},
			{Table: pipeline.Neighbours, Priority: prioKnown, Match: of.Any(net(p.number), flags(pipeline.Hop4, 0), of.Reg(pipeline.RegHop).Is(uint64(v4(a)))),
				Actions: []of.Action{of.Set(of.EthDst.MAC(mac(m))), setFlags(pipeline.Resolved, 0)}},
		}
	}
	known := of.Flow{Table: pipeline.Neighbours, Priority: prioKnown, Match: of.Any(net(p.number), flags(0, pipeline.Hop4), of.XXReg(2).Addr(a)),
		Actions: []of.Action{of.Set(of.EthDst.MAC(mac(m))), setFlags(pipeline.Resolved, 0)}}
	asks := of.ICMP6(net(p.number), asked, of.ICMPv6Type.Is(solicitation), of.ICMPv6Code.Is(0), of.NDTarget.Addr(a), group())
	// Machines know routers by their link-local addresses, and forget one whose
	// advertisement does not say that it is one (RFC 4861, 7.2.5).
	if !p.advertises || a.IsLinkLocalUnicast() { // who has it is asked, and nobody else
		return []of.Flow{known, {Table: pipeline.Responder, Priority: prioKnown, Match: asks,
			Actions: []of.Action{of.Set(of.EthDst.MAC(mac(m))), of.Goto(pipeline.RouterLocal)}}}
	}
	return []of.Flow{known,
		// One who looks whether an address is free has none of its own (RFC 4862, 5.4):
		// who has it answers for itself.
		{Table: pipeline.Responder, Priority: prioKnown + 1, Match: asks.With(of.IPv6Src.Addr(netip.IPv6Unspecified())), Actions: []of.Action{of.Goto(pipeline.RouterLocal)}},
		{Table: pipeline.Responder, Priority: prioKnown, Match: asks, Actions: []of.Action{
			of.Move{Src: of.EthSrc.All(), Dst: of.EthDst.All()}, of.Set(of.EthSrc.MAC(mac(m))),
			of.Move{Src: of.IPv6Src.All(), Dst: of.IPv6Dst.All()}, of.Set(of.IPv6Src.Addr(a)),
			of.Set(of.ICMPv6Type.Is(advertisement)), of.Set(of.NDReserved.Is(0x60000000)), // solicited, override
			of.Set(of.NDOptionsType.Is(2)), of.Goto(pipeline.Answer)}},
		// Only what is an advertisement may get the option of one.
		{Table: pipeline.Answer, Priority: prioKnown, Match: of.ICMP6(net(p.number), of.ICMPv6Type.Is(advertisement), of.ICMPv6Code.Is(0), of.NDTarget.Addr(a)),
			Actions: []of.Action{of.Set(of.NDTLL.MAC(mac(m))), back}},
	}
}

func v4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

type flow = of.Flow
