package whole

import (
	"slices"
	"strings"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/router"
)

// tally is what has been compared, and what has not, by the limit it is about.
type tally struct {
	compared, matched int
	left              map[string]int
}

// here makes a world one for this platform: its kind of tunnels, and what it
// floods.
func (c *cloud) here(w reach.World) reach.World {
	f := c.writers[0].overlay.Features(c.ctx)
	w.Overlay = w.Overlay.Clone()
	for i := range w.Overlay.Networks {
		n := &w.Overlay.Networks[i]
		if !n.Segment.Type.Tunnel() {
			continue
		}
		if !f.Segments[n.Segment.Type] {
			n.Segment.Type = overlay.Geneve
		}
		n.Flooding.Broadcast = n.Flooding.Broadcast && f.Flooding.Broadcast || f.Floods.Broadcast
		n.Flooding.NoMulticast = n.Flooding.NoMulticast && f.Flooding.NoMulticast
	}
	return w
}

func (c *cloud) limited(l router.Limit) bool {
	return c.writers[0].router.Features(c.ctx).Has(l)
}

// looksAt counts p as left out if it is about a limit.
func (c *cloud) looksAt(p *probe) bool {
	why := c.about(p)
	if why != "" {
		c.left[why]++
	}
	return why == ""
}

// about is the limit that a packet or answer is about; "": none.
func (c *cloud) about(p *probe) string {
	first := p.what == "packet"
	inside := !p.from.station()
	switch {
	case c.limited(router.LimitForwardHairpin) && first && inside && c.forwarded(p):
		return string(router.LimitForwardHairpin)
	case c.limited(router.LimitForwardHairpin) && !first && p.routed && len(c.was.Router.PortForwards) > 0:
		return string(router.LimitForwardHairpin)
	case c.limited(router.LimitRoutedIn) && !first && p.routedIn:
		return string(router.LimitRoutedIn)
	case c.limited(router.LimitSilentPorts) && first && p.v.OK() && p.v.Arrivals[0].Kind == "router" &&
		slices.ContainsFunc(c.was.Router.PortForwards, func(f router.PortForward) bool { return f.ExternalIP == p.k.Dst }):
		return string(router.LimitSilentPorts)
	case c.limited(router.LimitPicksUp) && p.k.Middle && p.passes("router "):
		return string(router.LimitPicksUp)
	case c.Limits.Turns && first && p.routed && p.k.Dst.Is4() && p.v.OK() && p.v.Arrivals[0].Kind == "router":
		return "turns"
	case c.Limits.TrackedAll && p.k.Middle && p.v.OK():
		return "tracked-all"
	case c.Limits.OwnAddressesOnly && p.v.OK() && p.v.Arrivals[0].Foreign:
		return "own-addresses-only"
	}
	return ""
}

// forwarded reports whether p is for a port forward, or would be.
func (c *cloud) forwarded(p *probe) bool {
	return p.passes("port forward ") || slices.ContainsFunc(c.was.Router.PortForwards, func(f router.PortForward) bool {
		f = f.Canonical()
		return f.ExternalIP == p.k.Dst && f.ExternalPort.First <= p.k.DstPort && p.k.DstPort <= f.ExternalPort.Last
	})
}

// passes reports whether a word is in the way that p takes.
func (p *probe) passes(word string) bool {
	return slices.ContainsFunc(p.v.Walk, func(s reach.Step) bool { return strings.Contains(s.Object, word) || strings.Contains(s.Text, word) })
}

// passedOn reports whether a router has passed p on.
func (p *probe) passedOn() bool {
	return slices.ContainsFunc(p.v.Walk, func(s reach.Step) bool { return s.Stage == "router" })
}
