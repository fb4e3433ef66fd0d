package router

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vnet-go/vnet"
)

// DefaultInterval is [RA.Interval] when that is zero.
const DefaultInterval = 600 * time.Second

// Clone returns a copy that shares nothing with r.
func (r Router) Clone() Router {
	r.Interfaces = slices.Clone(r.Interfaces)
	for i := range r.Interfaces {
		x := &r.Interfaces[i]
		x.Addresses = slices.Clone(x.Addresses)
		if x.RA != nil {
			ra := *x.RA
			ra.RDNSS, ra.DNSSL = slices.Clone(ra.RDNSS), slices.Clone(ra.DNSSL)
			x.RA = &ra
		}
	}
	if r.Gateway != nil {
		g := *r.Gateway
		g.Addresses, g.NextHops = slices.Clone(g.Addresses), slices.Clone(g.NextHops)
		r.Gateway = &g
	}
	r.Routes = slices.Clone(r.Routes)
	return r
}

// Canonical returns r in the form that equal routers share: interfaces by
// port, routes by destination, prefixes masked, defaults filled in. The order
// of addresses stays, as the gateway's first counts.
func (r Router) Canonical() Router {
	r = r.Clone()
	slices.SortFunc(r.Interfaces, func(a, b Interface) int { return strings.Compare(a.PortID, b.PortID) })
	for i := range r.Interfaces {
		x := &r.Interfaces[i]
		slices.SortStableFunc(x.Addresses, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if x.RA != nil {
			if x.RA.Interval == 0 {
				x.RA.Interval = DefaultInterval
			}
			for j, d := range x.RA.DNSSL {
				x.RA.DNSSL[j] = strings.TrimSuffix(strings.ToLower(d), ".")
			}
		}
	}
	if r.Gateway != nil {
		slices.SortFunc(r.Gateway.NextHops, netip.Addr.Compare)
	}
	for i := range r.Routes {
		r.Routes[i].Destination = r.Routes[i].Destination.Masked()
	}
	slices.SortFunc(r.Routes, func(a, b Route) int {
		return cmp.Or(a.Destination.Addr().Compare(b.Destination.Addr()), cmp.Compare(a.Destination.Bits(), b.Destination.Bits()), a.NextHop.Compare(b.NextHop))
	})
	// Empty and nil are the same.
	if len(r.Interfaces) == 0 {
		r.Interfaces = nil
	}
	if len(r.Routes) == 0 {
		r.Routes = nil
	}
	for i := range r.Interfaces {
		if ra := r.Interfaces[i].RA; ra != nil {
			if len(ra.RDNSS) == 0 {
				ra.RDNSS = nil
			}
			if len(ra.DNSSL) == 0 {
				ra.DNSSL = nil
			}
		}
	}
	if r.Gateway != nil && len(r.Gateway.NextHops) == 0 {
		r.Gateway.NextHops = nil
	}
	return r
}

// Equal reports whether r and o mean the same.
func (r Router) Equal(o Router) bool { return reflect.DeepEqual(r.Canonical(), o.Canonical()) }

// Clone returns a copy.
func (f FloatingIP) Clone() FloatingIP { return f }

// Equal reports whether f and o mean the same.
func (f FloatingIP) Equal(o FloatingIP) bool { return f == o }

// Clone returns a copy.
func (f PortForward) Clone() PortForward { return f }

// Canonical returns f with the ends of its ranges filled in.
func (f PortForward) Canonical() PortForward {
	f.ExternalPort.Last, f.InternalPort.Last = f.ExternalPort.last(), f.InternalPort.last()
	return f
}

// Equal reports whether f and o mean the same.
func (f PortForward) Equal(o PortForward) bool { return f.Canonical() == o.Canonical() }

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	s.Routers = slices.Clone(s.Routers)
	for i := range s.Routers {
		s.Routers[i] = s.Routers[i].Clone()
	}
	s.FloatingIPs, s.PortForwards = slices.Clone(s.FloatingIPs), slices.Clone(s.PortForwards)
	return s
}

// Canonical returns s with its objects in canonical form, sorted by id.
func (s State) Canonical() State {
	s = s.Clone()
	for i := range s.Routers {
		s.Routers[i] = s.Routers[i].Canonical()
	}
	for i := range s.PortForwards {
		s.PortForwards[i] = s.PortForwards[i].Canonical()
	}
	slices.SortFunc(s.Routers, func(a, b Router) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.FloatingIPs, func(a, b FloatingIP) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.PortForwards, func(a, b PortForward) int { return strings.Compare(a.ID, b.ID) })
	return s
}

// Equal reports whether s and o mean the same.
func (s State) Equal(o State) bool {
	eq := func(a, b State) bool {
		return slices.EqualFunc(a.Routers, b.Routers, Router.Equal) && slices.Equal(a.FloatingIPs, b.FloatingIPs) && slices.Equal(a.PortForwards, b.PortForwards)
	}
	return eq(s.Canonical(), o.Canonical())
}

// On returns the part of s that a per-host backend on the named host is to
// carry: routers of that host or of none, and what belongs to them.
func (s State) On(host string) State {
	var out State
	here := map[string]bool{}
	for _, r := range s.Routers {
		if r.Host == "" || r.Host == host {
			here[r.ID] = true
			out.Routers = append(out.Routers, r)
		}
	}
	for _, f := range s.FloatingIPs {
		if here[f.RouterID] {
			out.FloatingIPs = append(out.FloatingIPs, f)
		}
	}
	for _, f := range s.PortForwards {
		if here[f.RouterID] {
			out.PortForwards = append(out.PortForwards, f)
		}
	}
	return out
}

// Announced are the prefixes that an interface's advertisements carry: those
// of its IPv6 addresses, masked.
func (d Interface) Announced() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range d.Addresses {
		if a.Addr().Is6() && !slices.Contains(out, a.Masked()) {
			out = append(out, a.Masked())
		}
	}
	return out
}

// LinkLocal is the router's link-local address on the interface's network, the
// source of its advertisements.
func (d Interface) LinkLocal() netip.Addr { return vnet.MAC(d.MAC).LinkLocal() }
