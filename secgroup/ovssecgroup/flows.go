package ovssecgroup

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// Marks of a connection: which side's port let it pass by a stateless rule,
// and so has no connection; and whether it has ended.
const (
	openerStateless   = book.OpenerStateless
	receiverStateless = book.ReceiverStateless
	ended             = 4 // nothing allows it any more, see [Backend.endMarked]
)

// Priorities in the tables of the rules. A rule about a remote group is of
// lower priority than others and found in three steps, see [groupFlows].
const (
	prioFound = 70
	prioRule  = 60
	prioConj  = 50
)

// side is what one direction is written with.
type side struct {
	d                    secgroup.Direction
	state, rules, decide uint8 // tables
	next                 uint8 // where what passes goes
	port                 of.Field
}

func sides() []side {
	return []side{egress(), ingress()}
}

func egress() side {
	return side{d: secgroup.Egress, state: tableEgressState, rules: tableEgressRules, decide: tableEgressDecide, next: tableDHCP, port: of.Reg(regIn)}
}

func ingress() side {
	return side{d: secgroup.Ingress, state: tableIngressState, rules: tableIngressRules, decide: tableIngressDecide, next: tableDeliver, port: of.Reg(regOut)}
}

func sideOf(d secgroup.Direction) side {
	if d == secgroup.Ingress {
		return ingress()
	}
	return egress()
}

// family is what one IP version is written with.
type family struct {
	v6         bool
	ether      uint64
	src, dst   of.Field
	icmp       uint8
	typ, code  of.Field
	everything netip.Prefix
}

func families() []family {
	return []family{familyOf(false), familyOf(true)}
}

func familyOf(v6 bool) family {
	if v6 {
		return family{true, of.EthIPv6, of.IPv6Src, of.IPv6Dst, of.ProtoICMPv6, of.ICMPv6Type, of.ICMPv6Code, netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	return family{false, of.EthIPv4, of.IPv4Src, of.IPv4Dst, of.ProtoICMP, of.ICMPType, of.ICMPCode, netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
}

func (f family) ip(conds ...of.Cond) of.Match { return of.Eth(uint16(f.ether), conds...) }

func (f family) proto(n uint8, conds ...of.Cond) of.Match {
	return of.IP(f.v6, n, conds...)
}

func (f family) ethertype() secgroup.Ethertype {
	if f.v6 {
		return secgroup.IPv6
	}
	return secgroup.IPv4
}

// remote is the field of the other side's address.
func (f family) remote(d secgroup.Direction) of.Field {
	if d == secgroup.Ingress {
		return f.src
	}
	return f.dst
}

func isFlag(bit uint16, v uint64) of.Cond { return of.Reg(regFlags).Bit(bit).Is(v) }

func setFlag(bit uint16, v uint64) of.Action { return of.Load(of.Reg(regFlags).Bit(bit), v) }

func goOn(table uint8) []of.Action { return []of.Action{of.Resubmit{Table: table}} }

func track(table uint8) []of.Action {
	return []of.Action{of.CT{ZoneFrom: zone(), Table: table}}
}

func zone() of.Slice { return of.Reg(regNetwork).Range(0, 15) }

// baseFlows are the flows that all ports share. They decide what the rules
// have found.
func baseFlows() []of.Flow {
	var out []of.Flow
	add := func(table uint8, prio uint16, m of.Match, actions ...of.Action) {
		out = append(out, of.Flow{Table: table, Priority: prio, Match: m, Actions: actions})
	}
	drop := func(table uint8, prio uint16, m of.Match) { add(table, prio, m) }

	// What only servers and routers send never passes from a secured port.
	for _, f := range families() {
		src, dst := secgroup.DHCPPorts(secgroup.Ingress, f.ethertype())
		drop(tableSource, 50, f.proto(of.ProtoUDP, of.UDPSrc.Is(uint64(src)), of.UDPDst.Is(uint64(dst))))
	}
	drop(tableSource, 50, of.ICMP6(of.ICMPv6Type.Is(134)))
	// From the unspecified address: DHCP requests; duplicate address detection,
	// first solicitations and reports (RFC 4862, 5.4.2; RFC 3810, 5.2.13).
	src, dst := secgroup.DHCPPorts(secgroup.Egress, secgroup.IPv4)
	add(tableSource, 30, of.UDP4(of.IPv4Src.Is(0), of.UDPSrc.Is(uint64(src)), of.UDPDst.Is(uint64(dst))), goOn(tableDHCP)...)
	for _, t := range secgroup.AlwaysICMPv6(secgroup.Egress) {
		if t != 136 {
			add(tableSource, 30, of.ICMP6(of.IPv6Src.Addr(netip.IPv6Unspecified()), of.ICMPv6Type.Is(uint64(t))), goOn(tableDHCP)...)
		}
	}

	// What passes whatever the rules is not tracked; all else is.
	for _, s := range sides() {
		track0 := uint8(tableEgressTrack)
		pass := goOn(s.next)
		if s.d == secgroup.Ingress {
			track0 = tableIngressTrack
			pass = []of.Action{of.Resubmit{Table: tableCommit}, of.Resubmit{Table: s.next}}
			add(track0, 50, of.ARP(), pass...)
		}
		for _, f := range families() {
			src, dst := secgroup.DHCPPorts(s.d, f.ethertype())
			add(track0, 50, f.proto(of.ProtoUDP, of.UDPSrc.Is(uint64(src)), of.UDPDst.Is(uint64(dst))), pass...)
		}
		for _, t := range secgroup.AlwaysICMPv6(s.d) {
			add(track0, 50, of.ICMP6(of.ICMPv6Type.Is(uint64(t))), pass...)
		}
		for _, f := range families() {
			if s.d == secgroup.Ingress {
				// The sender's port is of the same network, and has tracked it.
				add(track0, 20, f.ip(of.CtBits(of.CtTrk, 0)), goOn(s.state)...)
			}
			add(track0, 10, f.ip(), track(s.state)...)
		}

		// A packet in the opener's direction is of a connection of the port that
		// sends it unless that is stateless as opener, and so on.
		sender, receiver := uint64(openerStateless|ended), uint64(receiverStateless|ended)
		if s.d == secgroup.Ingress {
			sender, receiver = receiver, sender
		}
		for _, state := range []uint64{of.CtEst, of.CtRel} {
			add(s.state, 100, of.Any(of.CtBits(of.CtTrk|state, of.CtInv|of.CtRpl), of.CtMark.Masked(0, sender)), goOn(s.next)...)
			add(s.state, 100, of.Any(of.CtBits(of.CtTrk|state|of.CtRpl, of.CtInv), of.CtMark.Masked(0, receiver)), goOn(s.next)...)
		}

		out = append(out, decideFlows(s)...)
	}

	// Who takes a packet out of its network's local switching comes here first.
	commit := func(prio uint16, bit uint16, mark uint64) {
		for _, f := range families() {
			m := f.ip(isFlag(bitNew, 1))
			if mark != 0 {
				m = m.With(isFlag(bit, 1))
			}
			add(tableCommit, prio, m, of.CT{Commit: true, ZoneFrom: zone(), Exec: []of.Action{of.Set(of.CtMark.Is(mark))}}, setFlag(bitNew, 0))
		}
	}
	commit(40, bitEnd, ended)
	commit(30, bitReceiver, receiverStateless)
	commit(20, bitItself, openerStateless)
	commit(10, 0, 0)

	// A port without filter ends the network's switching too.
	add(tableToPort, 2, of.Any(isFlag(bitOutFiltered, 0), isFlag(bitNew, 1)), of.Resubmit{Table: tableCommit}, of.Resubmit{Table: tableDeliver})
	return out
}

// decideFlows say what becomes of a packet that is of no connection of the
// port, once its rules have been asked.
func decideFlows(s side) []of.Flow {
	var out []of.Flow
	add := func(prio uint16, m of.Match, actions ...of.Action) {
		out = append(out, of.Flow{Table: s.decide, Priority: prio, Match: m, Actions: actions})
	}
	first := []of.Action{setFlag(bitNew, 1)}
	itself := []of.Action{setFlag(bitItself, 1)}
	if s.d == secgroup.Ingress {
		first = append(first, of.Resubmit{Table: tableCommit})
		itself = []of.Action{setFlag(bitReceiver, 1), of.Resubmit{Table: tableCommit}}
	}
	on := of.Resubmit{Table: s.next}
	first, itself = append(first, on), append(itself, on)
	yes := isFlag(bitStateful, 1)

	add(100, of.Any(isFlag(bitStateless, 1)), itself...)
	add(90, of.Any(yes, of.CtBits(of.CtTrk|of.CtInv, 0)))
	// Of a connection that is none for this port: a segment in the middle of a
	// stream opens none, nor does the answer to an ICMP query or an ICMP error; a
	// datagram may.
	for _, f := range families() {
		for _, state := range []uint64{of.CtEst, of.CtRel} {
			add(80, f.proto(of.ProtoTCP, yes, of.CtBits(of.CtTrk|state, 0)))
		}
		add(85, f.proto(f.icmp, yes, of.CtBits(of.CtTrk|of.CtEst, of.CtRpl|of.CtRel), of.CtMark.Masked(ended, ended)), first...)
		add(80, f.proto(f.icmp, yes, of.CtBits(of.CtTrk|of.CtRel, 0)))
		add(80, f.proto(f.icmp, yes, of.CtBits(of.CtTrk|of.CtEst|of.CtRpl, 0)))
		// Tracking takes up streams in their middle; what has been forgotten is
		// not to come back.
		const flags = of.TCPSyn | of.TCPAck | of.TCPRst | of.TCPFin
		add(70, f.proto(of.ProtoTCP, yes, of.CtBits(of.CtTrk|of.CtNew, 0), of.TCPFlags.Masked(of.TCPSyn, flags)), first...)
		add(60, f.proto(of.ProtoTCP, yes))
	}
	add(50, of.Any(yes, of.CtBits(of.CtTrk|of.CtNew, 0)), first...)
	add(40, of.Any(yes), on)
	return out
}

// portFlows are those of a port of this host with number n, whose groups have
// these numbers.
func portFlows(p secgroup.Port, n uint16, groups []uint32) []of.Flow {
	var out []of.Flow
	add := func(table uint8, prio uint16, m of.Match, actions ...of.Action) {
		out = append(out, of.Flow{Table: table, Priority: prio, Match: m, Actions: actions})
	}
	from, to := of.Reg(regIn).Is(uint64(n)), of.Reg(regOut).Is(uint64(n))
	if p.DisablePortSecurity {
		add(tablePortSecurity, 50, of.Any(from), goOn(tableDHCP)...)
		add(tableToPort, 50, of.Any(to), of.Resubmit{Table: tableCommit}, of.Resubmit{Table: tableDeliver})
		return out
	}

	own := p.Own()
	var macs []vnet.MAC
	for _, o := range own {
		if !slices.Contains(macs, o.MAC) {
			macs = append(macs, o.MAC)
		}
		mac := of.EthSrc.MAC(o.MAC)
		f := familyOf(o.Prefix.Addr().Is6())
		add(tableSource, 20, f.ip(from, mac, f.src.Prefix(o.Prefix)), goOn(tableEgressTrack)...)
		if f.v6 {
			add(tablePortSecurity, 40, of.ICMP6(from, mac, of.Untagged(), of.ICMPv6Type.Is(136), of.NDTarget.Prefix(o.Prefix)), goOn(tableSource)...)
		} else {
			add(tableSource, 20, of.ARP(from, of.ARPSHA.MAC(o.MAC), of.ARPSPA.Prefix(o.Prefix)), goOn(tableDHCP)...)
		}
	}
	add(tablePortSecurity, 30, of.ICMP6(from, of.ICMPv6Type.Is(136)))
	for _, m := range macs {
		add(tablePortSecurity, 20, of.Any(from, of.EthSrc.MAC(m), of.Untagged()), goOn(tableSource)...)
		add(tableSource, 30, of.ARP(from, of.ARPSHA.MAC(m), of.ARPSPA.Is(0)), goOn(tableDHCP)...) // a probe (RFC 5227)
	}
	add(tablePortSecurity, 10, of.Any(from))

	add(tableToPort, 20, of.Any(to, of.Untagged()), goOn(tableIngressTrack)...)
	add(tableToPort, 10, of.Any(to))
	if len(groups) == 0 {
		return out
	}
	for _, s := range sides() {
		// What another port's rules have left behind is not ours: a flooded
		// packet comes to many ports.
		actions := []of.Action{of.Load(of.Reg(regFlags).Range(bitStateless, bitReceiver), 0)}
		for _, g := range groups {
			actions = append(actions, of.Load(of.Reg(regGroup).All(), uint64(g)), of.Resubmit{Table: s.rules})
		}
		add(s.state, 50, of.Any(s.port.Is(uint64(n))), append(actions, of.Resubmit{Table: s.decide})...)
	}
	return out
}

// numbers are those of remotes, by [remoteID].
type numbers func(remote string) uint32

// groupFlows are the rules of a group with number n. A rule about a remote
// group is a conjunction of who is in it, see [addressFlows], and of what it
// allows; the conjunction's id is the remote's number, so that the group's
// members are written once for all who refer to it, and what is found is
// looked up once more with the group that asks. Such conjunctions may overlap:
// all of them say the same.
func groupFlows(g secgroup.Group, n uint32, number numbers) ([]of.Flow, error) {
	var out []of.Flow
	at := map[of.FlowKey]int{}
	for _, m := range matchesOf(g) {
		drawn, err := matchFlows(m, n, g.Stateless, number)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", g.ID, err)
		}
		for _, f := range drawn {
			i, had := at[f.Key()]
			if !had {
				at[f.Key()] = len(out)
				out = append(out, f)
				continue
			}
			for _, a := range f.Actions {
				if c, ok := a.(of.Conjunction); ok && !slices.Contains(out[i].Actions, of.Action(c)) {
					out[i].Actions = append(out[i].Actions, c)
				}
			}
		}
	}
	for _, f := range out {
		slices.SortFunc(f.Actions, func(a, b of.Action) int {
			x, _ := a.(of.Conjunction)
			y, _ := b.(of.Conjunction)
			return cmp.Compare(x.ID, y.ID)
		})
	}
	return out, nil
}

// matchFlows are those of one match of the group with number n.
func matchFlows(m secgroup.Match, n uint32, stateless bool, number numbers) ([]of.Flow, error) {
	bit := uint16(bitStateful)
	if stateless {
		bit = bitStateless
	}
	verdict := []of.Action{setFlag(bit, 1)}
	s, f := sideOf(m.Direction), familyOf(m.Ethertype == secgroup.IPv6)
	pieces, err := selectors(m, f)
	if err != nil {
		return nil, err
	}
	group := of.Reg(regGroup).Is(uint64(n))
	var out []of.Flow
	add := func(prio uint16, match of.Match, actions ...of.Action) {
		out = append(out, of.Flow{Table: s.rules, Priority: prio, Match: match.With(group), Actions: actions})
	}
	id := remoteID(m.Remote)
	for _, match := range pieces {
		switch {
		case id != "":
			add(prioConj, match, of.Conjunction{ID: number(id), K: 2, N: 2})
		case m.Remote.Prefix.IsValid():
			add(prioRule, match.With(f.remote(m.Direction).Prefix(m.Remote.Prefix)), verdict...)
		default:
			add(prioRule, match, verdict...)
		}
	}
	if id != "" {
		add(prioFound, of.Any(of.ConjID.Is(uint64(number(id)))), verdict...)
	}
	return out, nil
}

// matchesOf is what the rules of a group allow, compiled, but for ICMP: types
// and codes are nominal fields, for which OpenFlow has no masks. Where
// compiling has joined or cut some, the rules' own matches stand instead; what
// they allow beyond the compiled ones, wider ones allow too.
func matchesOf(g secgroup.Group) []secgroup.Match {
	var out []secgroup.Match
	add := func(m secgroup.Match) {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	for _, m := range secgroup.Compile(g.Rules) {
		if off, _ := secgroup.HasSelector(m.Protocol); off != 0 || m.Protocol != of.ProtoICMP && m.Protocol != of.ProtoICMPv6 || nominal(m) {
			add(m)
			continue
		}
		for _, r := range g.Rules {
			own := r.Match()
			same := own
			same.Lo, same.Hi = m.Lo, m.Hi
			if same == m {
				add(own)
			}
		}
	}
	return out
}

// nominal reports whether a range of ICMP is all, one type, or one type and code.
func nominal(m secgroup.Match) bool {
	return m.Whole() || m.Lo == m.Hi || m.Lo&0xff == 0 && m.Hi == m.Lo|0xff
}

// selectors are the matches of version, protocol and range, which together
// are what m allows of any address.
func selectors(m secgroup.Match, f family) ([]of.Match, error) {
	if m.Protocol < 0 {
		return []of.Match{f.ip()}, nil
	}
	proto := uint8(m.Protocol)
	if m.Whole() {
		return []of.Match{f.proto(proto)}, nil
	}
	var field of.Field
	switch {
	case proto == f.icmp:
		match := f.proto(proto, f.typ.Is(uint64(m.Lo>>8)))
		if m.Lo == m.Hi {
			match = match.With(f.code.Is(uint64(m.Lo & 0xff)))
		}
		return []of.Match{match}, nil
	case proto == of.ProtoTCP:
		field = of.TCPDst
	case proto == of.ProtoUDP:
		field = of.UDPDst
	case proto == of.ProtoSCTP:
		field = of.SCTPDst
	default:
		return nil, &vnet.UnsupportedError{Feature: fmt.Sprintf("a range in %q", m), Backend: backendName}
	}
	var out []of.Match
	for _, mask := range of.PortRange(m.Lo, m.Hi) {
		out = append(out, f.proto(proto, mask.Of(field)))
	}
	return out, nil
}

// directions of references to a remote, as bits.
const (
	refIngress = 1
	refEgress  = 2
)

// belongs is an address's part in a remote.
type belongs struct {
	N     uint32 `json:"n"` // the remote's number
	Count int    `json:"c"` // how many of its ports are called by the address; 1 for an address group
	Dirs  uint8  `json:"d"` // directions of the rules that refer to it
}

// addressFlows say to which remotes an address belongs.
func addressFlows(p netip.Prefix, of4 []belongs) []of.Flow {
	f := familyOf(p.Addr().Is6())
	var out []of.Flow
	for i, s := range []side{ingress(), egress()} {
		var actions []of.Action
		for _, b := range of4 {
			if b.Dirs&(1<<i) != 0 {
				actions = append(actions, of.Conjunction{ID: b.N, K: 1, N: 2})
			}
		}
		if actions != nil {
			out = append(out, of.Flow{Table: s.rules, Priority: prioConj, Match: f.ip(f.remote(s.d).Prefix(p)), Actions: actions})
		}
	}
	return out
}
