package book

import (
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet/secgroup"
)

// Change is one object as it was and as it is to be. Of each, at most one of
// the three is set; none is absent.
type Change struct{ Old, New Object }

// Object is one object of the contract.
type Object struct {
	Group        *secgroup.Group
	AddressGroup *secgroup.AddressGroup
	Port         *secgroup.Port
}

// Marks of a connection, as bits: which side's port let it pass by a
// stateless rule, and so has no connection.
const (
	OpenerStateless   = 1
	ReceiverStateless = 2
)

// Connection is one that a host tracks, as its first packet was.
type Connection struct {
	Network  string // the id
	Protocol uint8
	Src, Dst netip.Addr
	// SrcPort is 0 when there is none, Selector as secgroup.Selector has it, but
	// whatever it is for protocols that have none.
	SrcPort, Selector uint16
	Mark              uint32
}

// Ends finds the connections that some changes leave without a rule.
type Ends struct {
	b     *Book
	local func(secgroup.Port) bool
	// Networks are those where something was removed or narrowed.
	Networks map[string]bool
	lost     map[string][]netip.Prefix // network -> addresses that a port of this host lost
}

// NewEnds looks at changes before they are made to b. local reports whether a
// port is of this host, fresh whether a port of this host that is new may have
// connections already.
func NewEnds(b *Book, changes []Change, local func(secgroup.Port) bool, fresh func(portID string) bool) *Ends {
	e := &Ends{b: b, local: local, Networks: map[string]bool{}, lost: map[string][]netip.Prefix{}}
	for _, c := range changes {
		switch {
		case c.Old.Group != nil && c.New.Group != nil:
			if Narrowed(*c.Old.Group, *c.New.Group) {
				e.of(c.Old.Group.ID)
			}
		case c.Old.AddressGroup != nil:
			var now []netip.Prefix
			if c.New.AddressGroup != nil {
				now = c.New.AddressGroup.Prefixes
			}
			if missing(c.Old.AddressGroup.Prefixes, now) {
				for _, g := range b.AddressGroupReferrers(c.Old.AddressGroup.ID) {
					e.of(g)
				}
			}
		case c.Old.Port != nil:
			e.port(*c.Old.Port, c.New.Port)
		case e.enforced(c.New.Port) && fresh(c.New.Port.ID):
			e.Networks[c.New.Port.NetworkID] = true
		}
	}
	return e
}

// enforced reports whether packets of the port are judged here.
func (e *Ends) enforced(p *secgroup.Port) bool {
	return p != nil && !p.DisablePortSecurity && e.local(*p)
}

// of notes the networks of the group's ports here.
func (e *Ends) of(group string) {
	for _, id := range e.b.PortsIn(group) {
		if p := e.b.Port(id); e.enforced(p) {
			e.Networks[p.NetworkID] = true
		}
	}
}

func (e *Ends) port(old secgroup.Port, now *secgroup.Port) {
	for _, g := range old.Groups {
		var stays []netip.Prefix
		if now != nil && slices.Contains(now.Groups, g) {
			stays = now.Addresses()
		}
		if missing(old.Addresses(), stays) {
			for _, r := range e.b.Referrers(g) {
				e.of(r)
			}
		}
	}
	if !e.local(old) {
		// It moves here: its connections were seen on their way through this
		// host, by rules of nobody's.
		if now != nil && e.enforced(now) {
			e.Networks[now.NetworkID] = true
		}
		return
	}
	here := now != nil && e.local(*now) && now.NetworkID == old.NetworkID
	var stays []netip.Prefix
	if here {
		stays = ownPrefixes(*now)
	}
	for _, p := range ownPrefixes(old) {
		if !slices.Contains(stays, p) {
			e.lost[old.NetworkID] = append(e.lost[old.NetworkID], p)
			e.Networks[old.NetworkID] = true
		}
	}
	if here && e.enforced(now) && (old.DisablePortSecurity || missing(old.Groups, now.Groups)) {
		e.Networks[old.NetworkID] = true
	}
}

// ownPrefixes are the addresses of a port, link-local ones too, whatever its
// port security.
func ownPrefixes(p secgroup.Port) []netip.Prefix {
	p.DisablePortSecurity = false
	var out []netip.Prefix
	for _, o := range p.Own() {
		out = append(out, o.Prefix)
	}
	return out
}

// missing reports whether something of was is not in now.
func missing[T comparable](was, now []T) bool {
	has := make(map[T]bool, len(now))
	for _, x := range now {
		has[x] = true
	}
	return slices.ContainsFunc(was, func(x T) bool { return !has[x] })
}

// Narrowed reports whether group b may allow less than a.
func Narrowed(a, b secgroup.Group) bool {
	return a.Stateless != b.Stateless || missing(secgroup.Compile(a.Rules), secgroup.Compile(b.Rules))
}

// Judge returns what is true of a connection that nothing allows any more,
// once the changes have been made and b is what stands. It may be asked by
// one goroutine at a time, and not while b changes.
func (e *Ends) Judge(b *Book) func(Connection) bool {
	type place struct {
		network string
		addr    netip.Addr
	}
	type netPort struct {
		prefix netip.Prefix
		port   secgroup.Port
	}
	exact := map[place][]secgroup.Port{}
	wide := map[string][]netPort{}
	for p := range b.Ports {
		if !e.local(p) || !e.Networks[p.NetworkID] {
			continue
		}
		for _, q := range ownPrefixes(p) {
			if q.IsSingleIP() {
				k := place{p.NetworkID, q.Addr()}
				exact[k] = append(exact[k], p)
			} else {
				wide[p.NetworkID] = append(wide[p.NetworkID], netPort{q, p})
			}
		}
	}
	// dead reports whether one end of a connection has ports here, none of
	// which allows it. carried is the bit that says that the port let it pass
	// by a stateless rule.
	dead := func(c Connection, at netip.Addr, p secgroup.Packet, carried uint32) bool {
		ports := exact[place{c.Network, at}]
		for _, w := range wide[c.Network] {
			if w.prefix.Contains(at) {
				ports = append(slices.Clip(ports), w.port)
			}
		}
		if len(ports) == 0 {
			return slices.ContainsFunc(e.lost[c.Network], func(l netip.Prefix) bool { return l.Contains(at) })
		}
		ethertype := secgroup.IPv4
		if at.Is6() {
			ethertype = secgroup.IPv6
		}
		if secgroup.Always(p.Direction, ethertype, p.Protocol, c.SrcPort, p.Selector) {
			return false
		}
		return !slices.ContainsFunc(ports, func(port secgroup.Port) bool {
			if port.DisablePortSecurity {
				return true
			}
			v, ok := b.Allows(port, p)
			return ok && (v.Stateful || c.Mark&carried != 0)
		})
	}
	return func(c Connection) bool {
		if !e.Networks[c.Network] {
			return false
		}
		p := secgroup.Packet{Direction: secgroup.Egress, Remote: c.Dst, Protocol: c.Protocol}
		if _, has := secgroup.HasSelector(int(c.Protocol)); has {
			p.Selector = c.Selector
		}
		if dead(c, c.Src, p, OpenerStateless) {
			return true
		}
		p.Direction, p.Remote = secgroup.Ingress, c.Src
		return dead(c, c.Dst, p, ReceiverStateless)
	}
}

// Same reports whether nothing changes.
func (c Change) Same() bool {
	switch {
	case c.Old.Group != nil && c.New.Group != nil:
		return c.Old.Group.Equal(*c.New.Group)
	case c.Old.AddressGroup != nil && c.New.AddressGroup != nil:
		return c.Old.AddressGroup.Equal(*c.New.AddressGroup)
	case c.Old.Port != nil && c.New.Port != nil:
		return c.Old.Port.Equal(*c.New.Port)
	}
	return c.Old == c.New
}
