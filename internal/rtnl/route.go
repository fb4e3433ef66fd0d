package rtnl

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

const mainTable = unix.RT_TABLE_MAIN

// names maps device indices to names, for what is read.
func (c *Conn) names() (map[int]string, error) {
	links, err := c.Links()
	m := make(map[int]string, len(links))
	for _, l := range links {
		m[l.Index] = l.Name
	}
	return m, err
}

// Routes returns the routes of a table (zero: main), both families, without
// the kernel's own local and multicast ones.
func (c *Conn) Routes(table int) ([]Route, error) {
	if table == 0 {
		table = mainTable
	}
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	var out []Route
	err = c.read(func(h *netlink.Handle) error {
		out = nil
		for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := h.RouteListFiltered(fam, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range list {
				if r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST {
					continue
				}
				out = append(out, fromRoute(r, names, fam))
			}
		}
		return nil
	})
	return out, named("list", "routes", err)
}

func fromRoute(r netlink.Route, names map[int]string, fam int) Route {
	x := Route{
		Dst: fromIPNet(r.Dst), Via: fromIP(r.Gw), Dev: names[r.LinkIndex], Src: fromIP(r.Src),
		Table: r.Table, Metric: r.Priority, Type: RouteType(r.Type), Protocol: uint8(r.Protocol),
		Scope: Scope(r.Scope), OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
	}
	if !x.Dst.IsValid() {
		x.Dst = defaultRoute(fam == netlink.FAMILY_V6)
	}
	for i, hop := range r.MultiPath {
		if i == 0 {
			x.Via, x.Dev = fromIP(hop.Gw), names[hop.LinkIndex]
		} else {
			x.More = append(x.More, Hop{fromIP(hop.Gw), names[hop.LinkIndex]})
		}
	}
	return x
}

func defaultRoute(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func (c *Conn) toRoute(r Route) (*netlink.Route, error) {
	x := &netlink.Route{
		Dst: toIPNet(r.Dst.Masked()), Gw: toIP(r.Via), Src: toIP(r.Src), Table: r.Table, Priority: r.Metric,
		Type: int(r.Type), Protocol: netlink.RouteProtocol(r.Protocol), Scope: netlink.Scope(r.Scope),
	}
	if x.Table == 0 {
		x.Table = mainTable
	}
	if x.Protocol == 0 {
		x.Protocol = netlink.RouteProtocol(ProtoVnet)
	}
	if x.Type == 0 {
		x.Type = int(Unicast)
	}
	if r.OnLink {
		x.Flags |= int(netlink.FLAG_ONLINK)
	}
	if r.Dev != "" {
		l, err := c.Link(r.Dev)
		if err != nil {
			return nil, err
		}
		x.LinkIndex = l.Index
		if !r.Via.IsValid() && r.Dst.Addr().Is4() && r.Scope == 0 {
			x.Scope = netlink.SCOPE_LINK
		}
	}
	if len(r.More) > 0 {
		x.Gw, x.LinkIndex = nil, 0
		for _, hop := range append([]Hop{{r.Via, r.Dev}}, r.More...) {
			n := &netlink.NexthopInfo{Gw: toIP(hop.Via)}
			if hop.Dev != "" {
				l, err := c.Link(hop.Dev)
				if err != nil {
					return nil, err
				}
				n.LinkIndex = l.Index
			}
			x.MultiPath = append(x.MultiPath, n)
		}
	}
	return x, nil
}

// SetRoute adds a route or replaces the one with the same destination, table
// and metric.
func (c *Conn) SetRoute(r Route) error {
	x, err := c.toRoute(r)
	if err == nil {
		err = c.write(func(h *netlink.Handle) error { return h.RouteReplace(x) })
	}
	return named("set route", r.Dst.String(), err)
}

// DelRoute removes a route; one that is gone is no error.
func (c *Conn) DelRoute(r Route) error {
	x, err := c.toRoute(r)
	if err == nil {
		if r.Protocol == 0 {
			x.Protocol = 0 // whoever made it
		}
		err = c.write(func(h *netlink.Handle) error { return h.RouteDel(x) })
	}
	return gone(named("remove route", r.Dst.String(), err))
}

// RouteTo returns the route that packets to dst take.
func (c *Conn) RouteTo(dst netip.Addr) (Route, error) {
	names, err := c.names()
	if err != nil {
		return Route{}, err
	}
	fam := netlink.FAMILY_V4
	if dst.Is6() {
		fam = netlink.FAMILY_V6
	}
	var out Route
	err = c.read(func(h *netlink.Handle) error {
		list, err := h.RouteGet(toIP(dst))
		if err == nil && len(list) == 0 {
			err = vnet.ErrNotFound
		}
		if err == nil {
			out = fromRoute(list[0], names, fam)
		}
		return err
	})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		err = vnet.ErrNotFound
	}
	return out, named("route to", dst.String(), err)
}

// Rules returns the policy routing rules of both families.
func (c *Conn) Rules() ([]Rule, error) {
	var out []Rule
	err := c.read(func(h *netlink.Handle) error {
		out = nil
		for fam, n := range map[int]int{netlink.FAMILY_V4: 4, netlink.FAMILY_V6: 6} {
			list, err := h.RuleList(fam)
			if err != nil {
				return err
			}
			for _, r := range list {
				x := Rule{Family: n, Priority: r.Priority, IIf: r.IifName, OIf: r.OifName, Src: fromIPNet(r.Src),
					Dst: fromIPNet(r.Dst), Mark: r.Mark, Table: r.Table, Protocol: r.Protocol}
				if r.Mask != nil {
					x.Mask = *r.Mask
				}
				out = append(out, x)
			}
		}
		return nil
	})
	return out, named("list", "rules", err)
}

func toRule(r Rule) *netlink.Rule {
	x := netlink.NewRule()
	x.Family = netlink.FAMILY_V4
	if r.Family == 6 {
		x.Family = netlink.FAMILY_V6
	}
	x.Priority, x.IifName, x.OifName, x.Table = r.Priority, r.IIf, r.OIf, r.Table
	x.Src, x.Dst, x.Mark, x.Protocol = toIPNet(r.Src), toIPNet(r.Dst), r.Mark, r.Protocol
	if r.Mask != 0 {
		x.Mask = &r.Mask
	}
	if x.Protocol == 0 {
		x.Protocol = ProtoVnet
	}
	return x
}

// AddRule adds a rule; one that stands is no error.
func (c *Conn) AddRule(r Rule) error {
	err := c.write(func(h *netlink.Handle) error { return h.RuleAdd(toRule(r)) })
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return named("add rule", itoa(r.Priority), err)
}

// DelRule removes a rule; one that is gone is no error.
func (c *Conn) DelRule(r Rule) error {
	return gone(named("remove rule", itoa(r.Priority), c.write(func(h *netlink.Handle) error { return h.RuleDel(toRule(r)) })))
}
