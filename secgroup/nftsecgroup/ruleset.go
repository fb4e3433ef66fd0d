package nftsecgroup

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// Marks of a connection: which side's port let it pass by a stateless rule.
const (
	openerStateless   = book.OpenerStateless
	receiverStateless = book.ReceiverStateless
)

// version is of what this file draws and what record.go writes; another one
// found in the kernel is drawn anew by the next transaction.
const version uint32 = 2

// prefix begins the names of all our chains and sets: the tables are shared
// with the handle and other parts.
const prefix = "sg-"

// layout says which tables are written and where their hooks are.
type layout struct {
	port   nft.Table // family bridge: what a port may claim to be
	group  nft.Table // what the rules allow
	bridge bool      // connections are tracked in family bridge, and group is port

	devices  nft.Set // the handle's, of family bridge: devices at our ports
	networks nft.Set // the handle's, of family inet: bridges that are our networks
}

func newLayout(devices, networks nft.Set, bridgeConntrack bool) layout {
	l := layout{port: devices.Table, group: networks.Table, devices: devices, networks: networks}
	if bridgeConntrack {
		l.group, l.bridge = l.port, true
	}
	return l
}

// Sets and maps that always stand.

func (l layout) secured() nft.Set {
	return nft.Set{Table: l.port, Name: prefix + "secured", Key: []nft.Type{nft.TypeMark}}
}

func (l layout) mac() nft.Set {
	return nft.Set{Table: l.port, Name: prefix + "mac", Key: []nft.Type{nft.TypeMark, nft.TypeMAC}}
}

// own is the set of a port's addresses; nets is the one of its prefixes.
func (l layout) own(v6, nets bool) nft.Set {
	s := nft.Set{Table: l.port, Name: prefix + "own4", Key: []nft.Type{nft.TypeMark, nft.TypeMAC, nft.TypeIPv4}, Interval: nets}
	if v6 {
		s.Name, s.Key[2] = prefix+"own6", nft.TypeIPv6
	}
	if nets {
		s.Name += "n"
	}
	return s
}

func (l layout) verdicts(d secgroup.Direction) nft.Set {
	name := "profiles-from"
	if d == secgroup.Ingress {
		name = "profiles-to"
	}
	return nft.Set{Table: l.group, Name: prefix + name, Key: []nft.Type{nft.TypeMark}, Data: []nft.Type{nft.TypeVerdict}}
}

func (l layout) record() nft.Set {
	return nft.Set{Table: l.group, Name: prefix + "record", Key: []nft.Type{nft.TypeIPv6, nft.TypeIPv6, nft.TypeIPv6, nft.TypeIPv6}}
}

// revision has one element: the version of the layout, and the number of the
// last transaction.
func (l layout) revision() nft.Set {
	return nft.Set{Table: l.group, Name: prefix + "revision", Key: []nft.Type{nft.TypeMark, nft.TypeMark}}
}

func (l layout) fixedSets() []nft.Set {
	return []nft.Set{
		l.secured(), l.mac(), l.own(false, false), l.own(false, true), l.own(true, false), l.own(true, true),
		l.verdicts(secgroup.Egress), l.verdicts(secgroup.Ingress), l.record(), l.revision(),
	}
}

// Sets that come and go.

// members is the set of addresses, or of prefixes, of a group's members.
func (l layout) members(group string, v6, nets bool) nft.Set {
	s := nft.Set{Table: l.group, Key: []nft.Type{addrType(v6)}, Interval: nets}
	s.Name = prefix + "group" + digit(v6)
	if nets {
		s.Name += "n"
	}
	s.Name += "/" + group
	return s
}

// prefixes is the set of an address group.
func (l layout) prefixes(id string, v6 bool) nft.Set {
	return nft.Set{Table: l.group, Name: prefix + "addresses" + digit(v6) + "/" + id, Key: []nft.Type{addrType(v6)}, Interval: true}
}

func addrType(v6 bool) nft.Type {
	if v6 {
		return nft.TypeIPv6
	}
	return nft.TypeIPv4
}

func digit(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

func groupChain(d secgroup.Direction, id string) string {
	if d == secgroup.Ingress {
		return prefix + "in/" + id
	}
	return prefix + "out/" + id
}

// profileChain names the chain that all ports with these groups share.
func profileChain(d secgroup.Direction, groups []string) string {
	name := prefix + "from/"
	if d == secgroup.Ingress {
		name = prefix + "to/"
	}
	if len(groups) == 0 {
		return name + "closed"
	}
	sum := sha256.Sum256([]byte(strings.Join(groups, "\x00")))
	return name + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}

const (
	chainSecure   = prefix + "secure"
	chainARP      = prefix + "arp"
	chainIP4      = prefix + "ip4"
	chainIP6      = prefix + "ip6"
	chainNA       = prefix + "advert"
	chainTarget   = prefix + "source6"
	chainAlways   = prefix + "always/"    // + direction
	chainByItself = prefix + "by-itself/" // + direction: accept, and remember that no connection is open
)

// fixedChains are the base chains and what they share.
func (l layout) fixedChains() []nft.Chain {
	return slices.Concat(l.portChains(), l.ruleChains())
}

// portChains judge what a port says it is. They run before connection
// tracking, on marks that name the sender.
func (l layout) portChains() []nft.Chain {
	chain := func(name string, rules ...nft.Rule) nft.Chain {
		return nft.Chain{Table: l.port, Name: name, Rules: rules}
	}
	base := func(name string, hook nft.HookPoint, prio int32, rules ...nft.Rule) nft.Chain {
		c := chain(name, rules...)
		c.Base = &nft.Hook{Type: nft.Filter, Hook: hook, Priority: prio}
		return c
	}
	secured := nft.Mark.In(l.secured())
	mac := l.mac()
	notOurs := func(e nft.Stmt) nft.Rule { return nft.Rule{e, nft.Drop()} }
	own := func(v6 bool, mac, addr nft.Field, v nft.Verdict, also ...nft.Stmt) []nft.Rule {
		var out []nft.Rule
		for _, nets := range []bool{false, true} {
			r := append(slices.Clone(also), nft.Concat(nft.Mark, mac, addr).In(l.own(v6, nets)))
			out = append(out, append(r, v))
		}
		return out
	}
	udp := func(e secgroup.Ethertype, d secgroup.Direction) []nft.Stmt {
		src, dst := secgroup.DHCPPorts(d, e)
		return []nft.Stmt{nft.UDPSPort.Eq(src), nft.UDPDPort.Eq(dst)}
	}
	rule := func(s []nft.Stmt, v nft.Verdict) nft.Rule { return append(slices.Clone(s), v) }

	ip4 := []nft.Rule{rule(udp(secgroup.IPv4, secgroup.Ingress), nft.Drop())}
	ip4 = append(ip4, own(false, nft.EtherSrc, nft.IPSrc, nft.Accept())...)
	ip4 = append(ip4,
		append(nft.Rule{nft.IPSrc.Eq(netip.IPv4Unspecified())}, rule(udp(secgroup.IPv4, secgroup.Egress), nft.Accept())...),
		nft.Rule{nft.Drop()})

	// A DAD solicitation or a first MLD report comes from the unspecified
	// address (RFC 4862, 5.4.2; RFC 3810, 5.2.13); an advertisement never does.
	source6 := own(true, nft.EtherSrc, nft.IP6Src, nft.Accept())
	for _, t := range secgroup.AlwaysICMPv6(secgroup.Egress) {
		if t != 136 {
			source6 = append(source6, nft.Rule{nft.IP6Src.Eq(netip.IPv6Unspecified()), nft.ICMP6Type.Eq(t), nft.Accept()})
		}
	}
	source6 = append(source6, nft.Rule{nft.Drop()})

	advert := own(true, nft.EtherSrc, nft.NDTarget, nft.Goto(chainTarget), nft.ICMP6Type.Eq(uint8(136)))
	advert = append(advert, nft.Rule{nft.Drop()})

	arp := own(false, nft.ARPSrcMAC, nft.ARPSrcIP, nft.Accept())
	arp = append(arp,
		nft.Rule{nft.ARPSrcIP.Eq(netip.IPv4Unspecified()), nft.Concat(nft.Mark, nft.ARPSrcMAC).In(mac), nft.Accept()},
		nft.Rule{nft.Drop()})

	return []nft.Chain{
		chain(chainARP, arp...),
		chain(chainIP4, ip4...),
		chain(chainTarget, source6...),
		chain(chainNA, advert...),
		chain(chainIP6,
			rule(udp(secgroup.IPv6, secgroup.Ingress), nft.Drop()),
			nft.Rule{nft.ICMP6Type.Eq(uint8(134)), nft.Drop()},
			nft.Rule{nft.ICMP6Type.Eq(uint8(136)), nft.Goto(chainNA)},
			nft.Rule{nft.Goto(chainTarget)}),
		chain(chainSecure,
			notOurs(nft.Concat(nft.Mark, nft.EtherSrc).NotIn(mac)),
			nft.Rule{nft.EtherType.Eq(nft.EtherIPv4), nft.Goto(chainIP4)},
			nft.Rule{nft.EtherType.Eq(nft.EtherIPv6), nft.Goto(chainIP6)},
			nft.Rule{nft.EtherType.Eq(nft.EtherARP), nft.Goto(chainARP)},
			nft.Rule{nft.Drop()}),
		// Marks on frames of devices that are not ours are somebody else's.
		base(prefix+"from", nft.Prerouting, -250,
			nft.Rule{nft.IIfName.NotIn(l.devices), nft.Accept()},
			nft.Rule{secured, nft.Goto(chainSecure)}),
		base(prefix+"to", nft.Forward, -150,
			nft.Rule{nft.OIfName.NotIn(l.devices), nft.Accept()},
			nft.Rule{nft.EtherType.Eq(nft.EtherIPv4), nft.Accept()},
			nft.Rule{nft.EtherType.Eq(nft.EtherIPv6), nft.Accept()},
			nft.Rule{nft.EtherType.Eq(nft.EtherARP), nft.Accept()},
			nft.Rule{secured, nft.Drop()}),
	}
}

// ruleChains are the fixed part of the table that holds the rules.
func (l layout) ruleChains() []nft.Chain {
	var out []nft.Chain
	for _, d := range []secgroup.Direction{secgroup.Egress, secgroup.Ingress} {
		c := nft.Chain{Table: l.group, Name: prefix + string(d), Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: -150}}
		if d == secgroup.Ingress {
			c.Base.Hook = nft.Forward
		}
		c.Rules = append(c.Rules,
			nft.Rule{nft.CtState.Any(nft.StateEstablished | nft.StateRelated), nft.CtMark.None(openerStateless | receiverStateless), nft.Accept()})
		switch {
		case l.bridge:
			device := nft.IIfName
			if d == secgroup.Ingress {
				device = nft.OIfName
			}
			c.Rules = append(c.Rules,
				nft.Rule{nft.EtherType.Eq(nft.EtherARP), nft.Accept()}, // judged by sg-from alone
				nft.Rule{device.NotIn(l.devices), nft.Accept()})
		default: // through br_netfilter the input device is the bridge
			c.Rules = append(c.Rules, nft.Rule{nft.IIfName.NotIn(l.networks), nft.Accept()})
		}
		c.Rules = append(c.Rules, nft.Rule{nft.Mark.Vmap(l.verdicts(d))})

		always := nft.Chain{Table: l.group, Name: chainAlways + string(d)}
		for _, e := range []secgroup.Ethertype{secgroup.IPv4, secgroup.IPv6} {
			src, dst := secgroup.DHCPPorts(d, e)
			always.Rules = append(always.Rules, nft.Rule{nft.Protocol.Eq(etherType(e)), nft.UDPSPort.Eq(src), nft.UDPDPort.Eq(dst), nft.Accept()})
			if d == secgroup.Egress {
				// Once more after defragmentation: see the chains of the other table.
				src, dst = secgroup.DHCPPorts(secgroup.Ingress, e)
				always.Rules = append(always.Rules, nft.Rule{nft.Protocol.Eq(etherType(e)), nft.UDPSPort.Eq(src), nft.UDPDPort.Eq(dst), nft.Drop()})
			}
		}
		for _, t := range secgroup.AlwaysICMPv6(d) {
			always.Rules = append(always.Rules, nft.Rule{nft.ICMP6Type.Eq(t), nft.Accept()})
		}
		if d == secgroup.Egress {
			always.Rules = append(always.Rules, nft.Rule{nft.ICMP6Type.Eq(uint8(134)), nft.Drop()})
		}

		mine, other := uint32(openerStateless), uint32(receiverStateless)
		if d == secgroup.Ingress {
			mine, other = other, mine
		}
		self := nft.Chain{Table: l.group, Name: chainByItself + string(d), Rules: []nft.Rule{
			{nft.CtState.Any(nft.StateNew), nft.CtMark.Any(other), nft.SetCtMark(nft.Const(mine | other)), nft.Accept()},
			{nft.CtState.Any(nft.StateNew), nft.SetCtMark(nft.Const(mine)), nft.Accept()},
			{nft.Accept()},
		}}
		out = append(out, c, always, self)
	}
	return out
}

func etherType(e secgroup.Ethertype) uint16 {
	if e == secgroup.IPv6 {
		return nft.EtherIPv6
	}
	return nft.EtherIPv4
}

// profile is the chain of all ports that are in these groups.
func (l layout) profile(d secgroup.Direction, groups []string, b *book.Book) nft.Chain {
	c := nft.Chain{Table: l.group, Name: profileChain(d, groups)}
	add := func(s ...nft.Stmt) { c.Rules = append(c.Rules, s) }
	var stateless, stateful []string
	for _, id := range groups {
		if g := b.Group(id); g != nil && g.Stateless {
			stateless = append(stateless, id)
		} else if g != nil {
			stateful = append(stateful, id)
		}
	}
	open := nft.StateEstablished | nft.StateRelated
	if len(stateless) == 0 && len(stateful) > 0 {
		add(nft.CtState.Any(open), nft.Accept())
	}
	add(nft.Jump(chainAlways + string(d)))
	for _, id := range stateless {
		add(nft.Jump(groupChain(d, id)))
	}
	if len(stateless) > 0 && len(stateful) > 0 {
		// The port opened what comes from it in the original direction.
		mine, other := uint32(openerStateless), uint32(receiverStateless)
		if d == secgroup.Ingress {
			mine, other = other, mine
		}
		add(nft.CtDirection.Eq(uint8(0)), nft.CtMark.None(mine), nft.CtState.Any(open), nft.Accept())
		add(nft.CtDirection.Eq(uint8(1)), nft.CtMark.None(other), nft.CtState.Any(open), nft.Accept())
		// What is left is of connections that are none for this port: a segment
		// in the middle of a stream opens none, nor does the answer to an ICMP query
		// or an ICMP error; a datagram may.
		add(nft.L4Proto.Eq(nft.ProtoTCP), nft.CtState.Any(open), nft.Drop())
		for _, icmp := range []uint8{nft.ProtoICMP, nft.ProtoICMPv6} {
			add(nft.L4Proto.Eq(icmp), nft.CtState.Any(nft.StateRelated), nft.Drop())
			add(nft.L4Proto.Eq(icmp), nft.CtState.Any(nft.StateEstablished), nft.CtDirection.Eq(uint8(1)), nft.Drop())
		}
	}
	if len(stateful) > 0 {
		add(nft.CtState.Any(nft.StateInvalid), nft.Drop())
	}
	for _, id := range stateful {
		add(nft.Jump(groupChain(d, id)))
	}
	add(nft.Drop())
	return c
}

// family is what rules of one IP version are written with.
type family struct {
	v6       bool
	ether    uint16
	src, dst nft.Field
	typ      nft.Field // ICMP type and code
	code     nft.Field
	types    [2]nft.Type // of typ and code
	icmp     int
}

func families() []family {
	return []family{
		{false, nft.EtherIPv4, nft.IPSrc, nft.IPDst, nft.ICMPType, nft.ICMPCode, [2]nft.Type{nft.TypeICMP, nft.TypeICMPCode}, int(nft.ProtoICMP)},
		{true, nft.EtherIPv6, nft.IP6Src, nft.IP6Dst, nft.ICMP6Type, nft.ICMP6Code, [2]nft.Type{nft.TypeICMP6, nft.TypeICMP6Code}, int(nft.ProtoICMPv6)},
	}
}

// setImage is a set with elements by their printed keys.
type setImage struct {
	set   nft.Set
	elems map[string]nft.Element
}

// image is a part of the ruleset: chains and sets by table and name.
type image struct {
	chains map[string]nft.Chain
	sets   map[string]*setImage
}

func newImage() *image { return &image{chains: map[string]nft.Chain{}, sets: map[string]*setImage{}} }

func (im *image) chain(c nft.Chain) { im.chains[c.Table.String()+" "+c.Name] = c }

func (im *image) set(s nft.Set) *setImage {
	k := s.Table.String() + " " + s.Name
	x := im.sets[k]
	if x == nil {
		x = &setImage{set: s, elems: map[string]nft.Element{}}
		im.sets[k] = x
	}
	return x
}

func (x *setImage) add(e ...nft.Element) {
	for _, e := range e {
		x.elems[elementKey(e)] = e
	}
}

func elementKey(e nft.Element) string {
	var b strings.Builder
	for _, k := range e.Key {
		fmt.Fprintf(&b, "%v ", k)
	}
	return b.String()
}

// group draws the two chains of a group and the sets of its own that they use.
func (im *image) group(l layout, g secgroup.Group, matches []secgroup.Match) {
	for _, d := range []secgroup.Direction{secgroup.Egress, secgroup.Ingress} {
		v := nft.Accept()
		if g.Stateless {
			v = nft.Goto(chainByItself + string(d))
		}
		c := nft.Chain{Table: l.group, Name: groupChain(d, g.ID)}
		for _, f := range families() {
			c.Rules = append(c.Rules, im.rules(l, g.ID, d, f, v, matches)...)
		}
		im.chain(c)
	}
}

// rules are those of one direction and version. Matches that differ only in
// ports, ICMP types or prefixes are one rule with a set.
func (im *image) rules(l layout, group string, d secgroup.Direction, f family, v nft.Verdict, matches []secgroup.Match) []nft.Rule {
	dirName, addr := "out", f.dst
	if d == secgroup.Ingress {
		dirName, addr = "in", f.src
	}
	e := secgroup.IPv4
	if f.v6 {
		e = secgroup.IPv6
	}
	// name of a set of this group: direction and version, kind, owner.
	name := func(kind ...string) string {
		return strings.Join(append(append([]string{prefix + dirName + digit(f.v6)}, kind...), group), "/")
	}
	var out []nft.Rule
	var protos []int // allowed whole from anywhere
	plain := map[int][]secgroup.Match{}
	byProto := map[int][]secgroup.Match{}                      // with prefixes
	byRemote := map[secgroup.Remote]map[int][]secgroup.Match{} // (address) groups
	for _, m := range matches {
		switch {
		case m.Direction != d || m.Ethertype != e:
		case m.Remote == (secgroup.Remote{}) && m.Protocol < 0:
			out = append(out, nft.Rule{nft.Protocol.Eq(f.ether), v})
		case m.Remote == (secgroup.Remote{}) && m.Whole():
			protos = append(protos, m.Protocol)
		case m.Remote == (secgroup.Remote{}):
			plain[m.Protocol] = append(plain[m.Protocol], m)
		case m.Remote.Prefix.IsValid():
			byProto[m.Protocol] = append(byProto[m.Protocol], m)
		default:
			if byRemote[m.Remote] == nil {
				byRemote[m.Remote] = map[int][]secgroup.Match{}
			}
			byRemote[m.Remote][m.Protocol] = append(byRemote[m.Remote][m.Protocol], m)
		}
	}
	if len(protos) == 1 {
		out = append(out, nft.Rule{nft.Protocol.Eq(f.ether), nft.L4Proto.Eq(uint8(protos[0])), v})
	} else if len(protos) > 1 {
		s := im.set(nft.Set{Table: l.group, Name: name("protocols"), Key: []nft.Type{nft.TypeProto}})
		for _, p := range protos {
			s.add(nft.Key(uint8(p)))
		}
		out = append(out, nft.Rule{nft.Protocol.Eq(f.ether), nft.L4Proto.In(s.set), v})
	}
	for _, p := range slices.Sorted(maps.Keys(plain)) {
		r := nft.Rule{nft.Protocol.Eq(f.ether)}
		r = append(r, im.selector(l, f, p, plain[p], func() string { return name(strconv.Itoa(p)) })...)
		out = append(out, append(r, v))
	}
	for _, p := range slices.Sorted(maps.Keys(byProto)) {
		out = append(out, append(im.prefixRule(l, f, addr, p, byProto[p], name), v))
	}
	for _, r := range slices.SortedFunc(maps.Keys(byRemote), func(a, b secgroup.Remote) int {
		return cmp.Or(cmp.Compare(a.AddressGroup, b.AddressGroup), cmp.Compare(a.Group, b.Group))
	}) {
		var sets []nft.Set
		kind := "g"
		if r.AddressGroup != "" {
			kind = "a"
			sets = []nft.Set{l.prefixes(r.AddressGroup, f.v6)}
		} else {
			sets = []nft.Set{l.members(r.Group, f.v6, false), l.members(r.Group, f.v6, true)}
		}
		for _, p := range slices.Sorted(maps.Keys(byRemote[r])) {
			sel := nft.Rule{nft.Protocol.Eq(f.ether)}
			sel = append(sel, im.selector(l, f, p, byRemote[r][p], func() string { return name(strconv.Itoa(p), kind, r.AddressGroup+r.Group) })...)
			for _, s := range sets {
				out = append(out, append(slices.Clone(sel), addr.In(s), v))
			}
		}
	}
	return out
}

// selector are the statements that match a protocol (none for any) and the
// ranges of ms; a set of that name is drawn when there are several.
func (im *image) selector(l layout, f family, proto int, ms []secgroup.Match, name func() string) []nft.Stmt {
	if proto < 0 {
		return nil
	}
	is := nft.L4Proto.Eq(uint8(proto))
	if ms[0].Whole() {
		return []nft.Stmt{is}
	}
	if proto == f.icmp {
		var boxes []box
		for _, m := range ms {
			boxes = append(boxes, typeCodes(m.Lo, m.Hi)...)
		}
		if len(boxes) == 1 && boxes[0].t0 == boxes[0].t1 {
			b := boxes[0]
			s := []nft.Stmt{f.typ.Eq(b.t0)}
			switch {
			case b.c0 == 0 && b.c1 == 255:
			case b.c0 == b.c1:
				s = append(s, f.code.Eq(b.c0))
			default:
				s = append(s, f.code.Between(b.c0, b.c1))
			}
			return s
		}
		s := im.set(nft.Set{Table: l.group, Name: name(), Key: f.types[:], Interval: true})
		for _, b := range boxes {
			s.add(nft.Key(b.keys()...))
		}
		return []nft.Stmt{nft.Concat(f.typ, f.code).In(s.set)}
	}
	if len(ms) == 1 {
		if ms[0].Lo == ms[0].Hi {
			return []nft.Stmt{is, nft.DPort.Eq(ms[0].Lo)}
		}
		return []nft.Stmt{is, nft.DPort.Between(ms[0].Lo, ms[0].Hi)}
	}
	s := im.set(nft.Set{Table: l.group, Name: name(), Key: []nft.Type{nft.TypePort}, Interval: true})
	for _, m := range ms {
		s.add(nft.Key(between(m.Lo, m.Hi)))
	}
	return []nft.Stmt{is, nft.DPort.In(s.set)}
}

// prefixRule matches one protocol (none for any) with prefixes, which may each
// have ranges of their own.
func (im *image) prefixRule(l layout, f family, addr nft.Field, proto int, ms []secgroup.Match, name func(...string) string) nft.Rule {
	whole := !slices.ContainsFunc(ms, func(m secgroup.Match) bool { return !m.Whole() })
	var r nft.Rule
	if proto >= 0 && (whole || proto != f.icmp) {
		r = append(r, nft.L4Proto.Eq(uint8(proto)))
	}
	kind := "any"
	if proto >= 0 {
		kind = strconv.Itoa(proto)
	}
	typ := addrType(f.v6)
	switch {
	case whole && len(ms) == 1:
		return append(r, addr.Eq(ms[0].Remote.Prefix))
	case whole:
		s := im.set(nft.Set{Table: l.group, Name: name(kind, "nets"), Key: []nft.Type{typ}, Interval: true})
		for _, m := range ms {
			s.add(nft.Key(m.Remote.Prefix))
		}
		return append(r, addr.In(s.set))
	case proto == f.icmp:
		s := im.set(nft.Set{Table: l.group, Name: name(kind, "nets"), Key: []nft.Type{typ, f.types[0], f.types[1]}, Interval: true})
		for _, m := range ms {
			for _, b := range typeCodes(m.Lo, m.Hi) {
				s.add(nft.Key(append([]any{m.Remote.Prefix}, b.keys()...)...))
			}
		}
		return append(r, nft.Concat(addr, f.typ, f.code).In(s.set))
	}
	s := im.set(nft.Set{Table: l.group, Name: name(kind, "nets"), Key: []nft.Type{typ, nft.TypePort}, Interval: true})
	for _, m := range ms {
		s.add(nft.Key(m.Remote.Prefix, between(m.Lo, m.Hi)))
	}
	return append(r, nft.Concat(addr, nft.DPort).In(s.set))
}

func between(lo, hi uint16) any {
	switch {
	case lo == hi:
		return lo
	case lo == 0 && hi == 0xffff:
		return nft.Any{}
	}
	return nft.Range{From: lo, To: hi}
}

// box is a range of ICMP types, each with the same range of codes.
type box struct{ t0, t1, c0, c1 uint8 }

func (b box) keys() []any {
	one := func(lo, hi uint8) any {
		switch {
		case lo == 0 && hi == 255:
			return nft.Any{}
		case lo == hi:
			return lo
		}
		return nft.Range{From: lo, To: hi}
	}
	return []any{one(b.t0, b.t1), one(b.c0, b.c1)}
}

// typeCodes cuts lo..hi of type<<8|code into boxes.
func typeCodes(lo, hi uint16) []box {
	t0, c0, t1, c1 := uint8(lo>>8), uint8(lo), uint8(hi>>8), uint8(hi)
	if t0 == t1 {
		return []box{{t0, t1, c0, c1}}
	}
	var out []box
	if c0 > 0 {
		out = append(out, box{t0, t0, c0, 255})
		t0++
	}
	if c1 < 255 {
		t1--
	}
	if t0 <= t1 {
		out = append(out, box{t0, t1, 0, 255})
	}
	if c1 < 255 {
		out = append(out, box{t1 + 1, t1 + 1, 0, c1})
	}
	return out
}

// addressGroup draws the sets of an address group.
func (im *image) addressGroup(l layout, a secgroup.AddressGroup) {
	for _, v6 := range []bool{false, true} {
		s := im.set(l.prefixes(a.ID, v6))
		for _, p := range a.Prefixes {
			if p.Addr().Is6() == v6 {
				s.add(nft.Key(p))
			}
		}
		s.widest()
	}
}

// widest leaves out prefixes that others of the set hold: interval sets take
// no overlap.
func (x *setImage) widest() {
	has := map[netip.Prefix]bool{}
	for _, e := range x.elems {
		has[e.Key[0].(netip.Prefix)] = true
	}
	for k, e := range x.elems {
		p := e.Key[0].(netip.Prefix)
		for bits := range p.Bits() {
			if up, _ := p.Addr().Prefix(bits); has[up] {
				delete(x.elems, k)
				break
			}
		}
	}
}

// port draws what a port of this host adds to the fixed sets and maps.
func (im *image) port(l layout, p secgroup.Port, index uint32) {
	if p.DisablePortSecurity {
		return
	}
	im.set(l.secured()).add(nft.Key(index))
	macs := im.set(l.mac())
	macs.add(nft.Key(index, p.MAC))
	nets := map[vnet.MAC][]netip.Prefix{}
	for _, o := range p.Own() {
		macs.add(nft.Key(index, o.MAC))
		if o.Prefix.IsSingleIP() {
			im.set(l.own(o.Prefix.Addr().Is6(), false)).add(nft.Key(index, o.MAC, o.Prefix.Addr()))
		} else {
			nets[o.MAC] = append(nets[o.MAC], o.Prefix)
		}
	}
	for m, list := range nets {
		for _, q := range list {
			if !slices.ContainsFunc(list, func(w netip.Prefix) bool { return w.Bits() < q.Bits() && w.Contains(q.Addr()) }) {
				im.set(l.own(q.Addr().Is6(), true)).add(nft.Key(index, m, q))
			}
		}
	}
	for _, d := range []secgroup.Direction{secgroup.Egress, secgroup.Ingress} {
		im.set(l.verdicts(d)).add(nft.Key(index).To(nft.Goto(profileChain(d, p.Groups))))
	}
}
