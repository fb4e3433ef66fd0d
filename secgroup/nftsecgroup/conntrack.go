package nftsecgroup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup"
)

// endings finds the connections that some changes leave without a rule.
type endings struct {
	f        *facts
	networks map[string]bool           // where something was removed or narrowed
	lost     map[string][]netip.Prefix // network -> addresses that a port of this host lost
}

// newEndings looks at changes before they are made to f. fresh reports
// whether a new port may have connections already.
func newEndings(f *facts, changes []change, fresh func(portID string) bool) *endings {
	e := &endings{f: f, networks: map[string]bool{}, lost: map[string][]netip.Prefix{}}
	of := func(group string) {
		for _, id := range f.PortsIn(group) {
			if p := f.Port(id); f.enforced(p) {
				e.networks[p.NetworkID] = true
			}
		}
	}
	for _, c := range changes {
		switch {
		case c.old.group != nil && c.new.group != nil:
			if narrowed(*c.old.group, *c.new.group) {
				of(c.old.group.ID)
			}
		case c.old.addressGroup != nil:
			var now []netip.Prefix
			if c.new.addressGroup != nil {
				now = c.new.addressGroup.Prefixes
			}
			if missing(c.old.addressGroup.Prefixes, now) {
				for _, g := range f.AddressGroupReferrers(c.old.addressGroup.ID) {
					of(g)
				}
			}
		case c.old.port != nil:
			e.port(*c.old.port, c.new.port, of)
		case f.enforced(c.new.port) && fresh(c.new.port.ID):
			e.networks[c.new.port.NetworkID] = true
		}
	}
	return e
}

func (e *endings) port(old secgroup.Port, now *secgroup.Port, of func(string)) {
	for _, g := range old.Groups {
		var stays []netip.Prefix
		if now != nil && slices.Contains(now.Groups, g) {
			stays = now.Addresses()
		}
		if missing(old.Addresses(), stays) {
			for _, r := range e.f.Referrers(g) {
				of(r)
			}
		}
	}
	if !e.f.local(old) {
		// It moves here: its connections were seen on their way through this
		// host, by rules of nobody's.
		if now != nil && e.f.local(*now) && e.f.enforced(now) {
			e.networks[now.NetworkID] = true
		}
		return
	}
	here := now != nil && e.f.local(*now) && now.NetworkID == old.NetworkID
	var stays []netip.Prefix
	if here {
		stays = ownPrefixes(*now)
	}
	for _, p := range ownPrefixes(old) {
		if !slices.Contains(stays, p) {
			e.lost[old.NetworkID] = append(e.lost[old.NetworkID], p)
			e.networks[old.NetworkID] = true
		}
	}
	if here && e.f.enforced(now) && (old.DisablePortSecurity || missing(old.Groups, now.Groups)) {
		e.networks[old.NetworkID] = true
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

// narrowed reports whether b may allow less than a.
func narrowed(a, b secgroup.Group) bool {
	return a.Stateless != b.Stateless || missing(secgroup.Compile(a.Rules), secgroup.Compile(b.Rules))
}

// judge returns, after the changes have been made to e.f, what is true of a
// connection that nothing allows any more.
func (e *endings) judge(zones map[uint16]string) func(rtnl.Flow) bool {
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
	for p := range e.f.Ports {
		if !e.f.local(p) || !e.networks[p.NetworkID] {
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
	dead := func(network string, at netip.Addr, f rtnl.Flow, p secgroup.Packet, carried uint32) bool {
		ports := exact[place{network, at}]
		for _, w := range wide[network] {
			if w.prefix.Contains(at) {
				ports = append(slices.Clip(ports), w.port)
			}
		}
		if len(ports) == 0 {
			return slices.ContainsFunc(e.lost[network], func(l netip.Prefix) bool { return l.Contains(at) })
		}
		ethertype := secgroup.IPv4
		if at.Is6() {
			ethertype = secgroup.IPv6
		}
		if secgroup.Always(p.Direction, ethertype, p.Protocol, f.Orig.SrcPort, p.Selector) {
			return false
		}
		return !slices.ContainsFunc(ports, func(port secgroup.Port) bool {
			if port.DisablePortSecurity {
				return true
			}
			v, ok := e.f.Allows(port, p)
			return ok && (v.Stateful || f.Mark&carried != 0)
		})
	}
	return func(f rtnl.Flow) bool {
		network, ok := zones[f.Zone]
		if !ok {
			return false
		}
		p := secgroup.Packet{Direction: secgroup.Egress, Remote: f.Orig.Dst, Protocol: f.Proto}
		if _, has := secgroup.HasSelector(int(f.Proto)); has {
			p.Selector = f.Orig.DstPort
		}
		if dead(network, f.Orig.Src, f, p, openerStateless) {
			return true
		}
		p.Direction, p.Remote = secgroup.Ingress, f.Orig.Src
		return dead(network, f.Orig.Dst, f, p, receiverStateless)
	}
}

// zones returns the conntrack zones of the networks concerned.
func (b *Backend) zones(ctx context.Context, networks map[string]bool) (map[uint16]string, error) {
	out := map[uint16]string{}
	for n := range networks {
		z, err := b.h.Zones().Get(ctx, n)
		if errors.Is(err, vnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("conntrack zone of network %s: %w", n, err)
		}
		out[z] = n
	}
	return out, nil
}

// end is the step that deletes the connections that dead says; it runs after
// the transaction.
func (b *Backend) end(dead func(rtnl.Flow) bool) linux.Step {
	return linux.Step{Phase: linux.FilterDel, Do: func(ctx context.Context) error {
		b.metrics.walks.Inc()
		n, err := b.h.NS().DeleteConntrack(ctx, dead)
		b.metrics.ended.Add(float64(n))
		if err != nil {
			return fmt.Errorf("end connections: %w", err)
		}
		if n > 0 {
			b.h.Logger().InfoContext(ctx, "secgroup: connections ended", "host", b.h.Name(), "count", n)
		}
		return nil
	}}
}
