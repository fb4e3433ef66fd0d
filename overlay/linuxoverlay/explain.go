package linuxoverlay

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// Explain implements [overlay.Explainer]: down to devices, bridge ports,
// forwarding entries, neighbours and the port index.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	if kind == "port" {
		return b.explainPort(ctx, id)
	}
	return b.explainNetwork(id)
}

func (b *Backend) explainNetwork(id string) (x vnet.Explanation, err error) {
	br := b.h.NetworkDevice(id)
	bridge, err := b.link(br)
	if err != nil {
		return x, err
	}
	if bridge == nil {
		return x, fmt.Errorf("network %s on host %s: %w", id, b.h.Name(), vnet.ErrNotFound)
	}
	x.Text = fmt.Sprintf("network %s on host %s", id, b.h.Name())
	x.Add(fmt.Sprintf("bridge %s: mac %s, mtu %d, up %t, alias %s", br, bridge.MAC, bridge.MTU, bridge.Up, bridge.Alias))
	ports, err := b.h.NS().RTNL().Ports(br)
	if err != nil {
		return x, err
	}
	for _, l := range ports {
		what := l.Alias
		if port, ok := b.h.PortOf(l); ok {
			what = "port " + port
		}
		text := fmt.Sprintf("bridge port %s (%s): %s, up %t", l.Name, l.Kind, what, l.Up)
		if l.VXLAN != nil {
			text += fmt.Sprintf(", vni %d from %s:%d, floods %s", l.VXLAN.VNI, l.VXLAN.Local, l.VXLAN.Port, floods(deref(l.Port)))
		}
		x.Add(text)
	}
	s, err := b.standing(id)
	if err != nil {
		return x, err
	}
	for _, m := range slices.SortedFunc(maps.Keys(s.tunnel), func(a, b vnet.MAC) int { return slices.Compare(a[:], b[:]) }) {
		x.Add(fmt.Sprintf("forwarding entry %s by tunnel to %s", m, s.tunnel[m]))
	}
	for _, ip := range slices.SortedFunc(maps.Keys(s.neigh), netip.Addr.Compare) {
		x.Add(fmt.Sprintf("ARP or ND for %s answered with %s", ip, s.neigh[ip]))
	}
	for _, ip := range slices.SortedFunc(maps.Keys(s.head), netip.Addr.Compare) {
		x.Add("what is flooded goes to " + ip.String())
	}
	return x, nil
}

func (b *Backend) explainPort(ctx context.Context, id string) (x vnet.Explanation, err error) {
	e, err := b.entry(ctx, id)
	if err != nil {
		return x, err
	}
	if e.ID == "" {
		return x, fmt.Errorf("port %s on host %s: %w", id, b.h.Name(), vnet.ErrNotFound)
	}
	x.Text = fmt.Sprintf("port %s on host %s", id, b.h.Name())
	x.Add(fmt.Sprintf("index %d (packet mark %#x), held by %v", e.Index, e.Index, e.Holders))
	switch {
	case e.Filtered && e.Filled:
		x.Add("filtered: security groups decide")
	case e.Filtered:
		x.Add("filtered and not yet filled: nothing passes")
	default:
		x.Add("not filtered")
	}
	l, err := b.link(b.h.PortAltName(id))
	if err != nil {
		return x, err
	}
	if l == nil {
		x.Add("no device is plugged")
		return x, nil
	}
	d := x.Add(fmt.Sprintf("device %s (%s): mtu %d, up %t, alias %s", l.Name, l.Kind, l.MTU, l.Up, l.Alias))
	if m, err := b.h.NS().RTNL().LinkByIndex(l.Master); err == nil {
		text := "on bridge " + m.Name
		if _, _, net, ok := b.h.ParseAlias(m.Alias); ok {
			text += ", which is network " + net
		}
		d.Add(text)
	}
	return x, nil
}

// floods lists what a tunnel device sends to every other host.
func floods(p rtnl.Port) string {
	var kinds []string
	for kind, on := range map[string]bool{"unknown unicast": p.Flood, "broadcast": p.BcastFlood, "multicast": p.McastFlood} {
		if on {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) == 0 {
		return "nothing"
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", ")
}
