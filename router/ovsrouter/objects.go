package ovsrouter

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	of "github.com/vnet-go/vnet/internal/openflow"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// Kinds of objects on the switch. The first three are the caller's; the
// others are kept so that a change costs the same whatever stands: who has an
// address is one look.
const (
	kindRouter   = "router"
	kindFIP      = "floatingip"
	kindForward  = "portforward"
	kindExternal = "external" // an external address: "network address"
	kindFixed    = "fixed"    // a fixed address with a floating IP: "router address"
	kindBase     = "base"     // what routers share
)

// external is the record of an external address.
type external struct {
	Router   string `json:"router"`
	FIP      string `json:"fip,omitempty"`      // whose it is
	Forwards int    `json:"forwards,omitempty"` // or how many are on it
}

func externalID(r router.Router, a netip.Addr) string { return r.Gateway.NetworkID + " " + a.String() }

func fixedID(routerID string, a netip.Addr) string { return routerID + " " + a.String() }

// object is one thing on the switch: its record and flows.
type object struct {
	kind, id string
	record   []byte
	flows    []of.Flow
}

func record(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("ovsrouter: %v", err)) // plain structs are encoded
	}
	return b
}

func read[T any](b []byte) (v T, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}

// ownGateway reports whether an address is the gateway's own.
func ownGateway(r router.Router, a netip.Addr) bool {
	return r.Gateway != nil && slices.ContainsFunc(r.Gateway.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (s site) object() object {
	return object{kindRouter, s.r.ID, record(seat{s.r, s.at}), routerFlows(s)}
}

// fip is the record of a floating IP: what was asked for, and where it is.
type fip struct {
	router.FloatingIP
	Here string `json:"here"`
}

// floating are the objects of a floating IP; none where it is not to be.
func (s site) floating(f router.FloatingIP) []object {
	at := s.place(f)
	var ext, fixed []of.Flow
	switch at {
	case nowhere:
		return nil
	case atHome:
		ext, fixed = append(fipFlows(s, f), externalFlows(s, f.FloatingIP)...), fixedFlows(s, f)
	case atEdge:
		ext, fixed = edgeFlows(s, f)
	}
	return []object{
		{kindFIP, f.ID, record(fip{f, at}), nil},
		{kindExternal, externalID(s.r, f.FloatingIP), record(external{Router: s.r.ID, FIP: f.ID}), ext},
		{kindFixed, fixedID(s.r.ID, f.FixedIP), record(f.ID), fixed},
	}
}

func (s site) externalObject(a netip.Addr, x external) object {
	return object{kindExternal, externalID(s.r, a), record(x), externalFlows(s, a)}
}

func (s site) forward(f router.PortForward) object {
	return object{kindForward, f.ID, record(f.Canonical()), forwardFlows(s, f)}
}

// bare is a floating IP without what only matters where it is translated on
// the host of its port.
func bare(f router.FloatingIP) router.FloatingIP {
	return router.FloatingIP{ID: f.ID, RouterID: f.RouterID, FloatingIP: f.FloatingIP, FixedIP: f.FixedIP}
}

// objects are all of a state on this host. sites has the routers that are
// to be here, by id.
func objects(st router.State, sites map[string]site) (out []object) {
	if len(sites) > 0 {
		out = append(out, object{kindBase, kindBase, nil, baseFlows()})
	}
	for _, r := range st.Routers {
		if s, ok := sites[r.ID]; ok {
			out = append(out, s.object())
		}
	}
	for _, f := range st.FloatingIPs {
		if s, ok := sites[f.RouterID]; ok {
			out = append(out, s.floating(f)...)
		}
	}
	type place struct {
		router string
		addr   netip.Addr
	}
	shared := map[place]int{}
	var order []place
	for _, f := range st.PortForwards {
		s, ok := sites[f.RouterID]
		if !ok || !s.home && !s.standby {
			continue
		}
		out = append(out, s.forward(f))
		if !ownGateway(s.r, f.ExternalIP) {
			p := place{f.RouterID, f.ExternalIP}
			if shared[p]++; shared[p] == 1 {
				order = append(order, p)
			}
		}
	}
	for _, p := range order {
		out = append(out, sites[p.router].externalObject(p.addr, external{Router: p.router, Forwards: shared[p]}))
	}
	return out
}

// local is what of a state is this host's: short cuts need no translations
// but those of its own ports.
func local(st router.State, sites map[string]site) router.State {
	out := router.State{Routers: st.Routers}
	for _, f := range st.FloatingIPs {
		s, ok := sites[f.RouterID]
		if !ok {
			continue
		}
		if !s.spread {
			f = bare(f)
		}
		if s.place(f) != nowhere {
			out.FloatingIPs = append(out.FloatingIPs, f)
		}
	}
	for _, f := range st.PortForwards {
		if s := sites[f.RouterID]; s.home || s.standby {
			out.PortForwards = append(out.PortForwards, f)
		}
	}
	return out
}

// apart is an error when ports are forwarded to a fixed address whose floating
// IP is translated on another host than the forwards: answers to both must pass
// where both are.
func apart(f router.FloatingIP, p router.PortForward) error {
	if f.RouterID != p.RouterID || f.FixedIP != p.InternalIP {
		return nil
	}
	return &vnet.UnsupportedError{Feature: fmt.Sprintf("port forward %s to %s, whose floating IP %s is translated on the host of its port", p.ID, f.FixedIP, f.ID), Backend: "ovsrouter"}
}

// translation is what a router translates, to judge connections by.
type translation struct {
	own      netip.Addr                  // that sources are hidden by
	fips     map[netip.Addr]netip.Addr   // floating IP -> fixed IP
	fixed    map[netip.Addr]netip.Addr   // and back
	forwards map[endpoint]netip.AddrPort // external -> internal
	external map[netip.Addr]bool         // all addresses that are translated
}

type endpoint struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

// translations are those of all routers of a state that have a gateway, by id.
func translations(st router.State) map[string]*translation {
	out := map[string]*translation{}
	for _, r := range st.Routers {
		if r.Gateway == nil {
			continue
		}
		out[r.ID] = &translation{firstIPv4(r.Gateway), map[netip.Addr]netip.Addr{}, map[netip.Addr]netip.Addr{}, map[endpoint]netip.AddrPort{}, map[netip.Addr]bool{}}
	}
	for _, f := range st.FloatingIPs {
		if t := out[f.RouterID]; t != nil {
			t.fips[f.FloatingIP], t.fixed[f.FixedIP], t.external[f.FloatingIP] = f.FixedIP, f.FloatingIP, true
		}
	}
	for _, f := range st.PortForwards {
		if t := out[f.RouterID]; t != nil {
			f = f.Canonical()
			t.external[f.ExternalIP] = true
			for i := range uint16(f.ExternalPort.Len()) {
				t.forwards[endpoint{f.ExternalIP, protocol(f.Protocol), f.ExternalPort.First + i}] = netip.AddrPortFrom(f.InternalIP, f.InternalPort.First+i)
			}
		}
	}
	return out
}

// conn is a tracked connection: addresses and ports as it came, and as answers
// to it come.
type conn struct {
	proto          uint8
	src, dst       netip.AddrPort
	repSrc, repDst netip.AddrPort
}

// carries reports whether a connection of one of the router's two zones is
// as t says. What is translated otherwise is of an earlier translation, and
// so is what called an address untranslated that is translated now.
func (t *translation) carries(c conn, dnat bool) bool {
	if dnat {
		if fixed, ok := t.fips[c.dst.Addr()]; ok {
			return fixed == c.repSrc.Addr()
		}
		to, ok := t.forwards[endpoint{c.dst.Addr(), c.proto, c.dst.Port()}]
		return ok && to == c.repSrc
	}
	if t.external[c.dst.Addr()] {
		return false
	}
	from := c.repDst.Addr()
	return from == c.src.Addr() || from == t.own || t.fixed[c.src.Addr()] == from
}

// touches are the connections that one floating IP or port forward has to do
// with: those of before, and who has called its address when it was nothing.
func touches(ext netip.Addr, proto uint8, first, last uint16) func(c conn, dnat bool) bool {
	return func(c conn, dnat bool) bool {
		if c.dst.Addr() == ext && (proto == 0 || c.proto == proto && first <= c.dst.Port() && c.dst.Port() <= last) {
			return true
		}
		return !dnat && proto == 0 && c.repDst.Addr() == ext
	}
}

func protocol(name string) uint8 {
	if name == "udp" {
		return of.ProtoUDP
	}
	return of.ProtoTCP
}

func routerID(r router.Router) string { return r.ID }

func index[T any](in []T, id func(T) string) map[string]*T {
	m := make(map[string]*T, len(in))
	for i := range in {
		m[id(in[i])] = &in[i]
	}
	return m
}

// clashFIP is [vnet.ErrConflict] when what is known of two addresses says
// that f cannot have them.
func clashFIP(f router.FloatingIP, ext *external, fixed string) error {
	switch {
	case ext != nil && ext.Forwards > 0:
		return fmt.Errorf("%s has port forwards: %w", f.FloatingIP, vnet.ErrConflict)
	case ext != nil && ext.FIP != f.ID:
		return fmt.Errorf("%s is floating IP %s: %w", f.FloatingIP, ext.FIP, vnet.ErrConflict)
	case fixed != "" && fixed != f.ID:
		return fmt.Errorf("%s has floating IP %s: %w", f.FixedIP, fixed, vnet.ErrConflict)
	}
	return nil
}
