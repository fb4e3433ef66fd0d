package tcqos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/internal/rtnl"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/qos"
)

type addr = netip.Addr

// Statistics implements [qos.Backend].
func (b *Backend) Statistics(ctx context.Context) ([]qos.Statistics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := b.records(ctx)
	if err != nil {
		return nil, err
	}
	bridge, err := b.h.NS().NFT().Counts(ctx, b.h.BridgeTable())
	if err != nil {
		return nil, err
	}
	routers := map[string]map[string][]nft.Count{}
	out := qos.NoStatistics(state(all))
	for i := range out {
		s := &out[i]
		e := all[s.Kind+" "+s.ID]
		if e.Port != nil {
			err = b.portCount(ctx, s, *e.Port, bridge)
		} else {
			r := e.router()
			if routers[r] == nil {
				if routers[r], err = b.routerCounts(ctx, r); err != nil {
					return nil, err
				}
			}
			var chain string
			var shape qos.Shape
			switch {
			case e.Gateway != nil && s.Direction == qos.Egress:
				chain, shape = chainGatewayOut, e.Gateway.Shape
			case e.Gateway != nil:
				chain, shape = chainGatewayIn, e.Gateway.Shape
			case s.Direction == qos.Egress:
				chain, shape = floatingChain(chainFloatingOut, s.ID), e.FloatingIP.Shape
			default:
				chain, shape = floatingChain(chainFloatingIn, s.ID), e.FloatingIP.Shape
			}
			count(s, routers[r][chain], shape.Way(s.Direction))
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// count takes over the counters of a chain: one for each limit, and one of what passed.
func count(s *qos.Statistics, counts []nft.Count, l qos.Limits) {
	n := 0
	for _, limited := range []bool{l.Kbps > 0, l.PPS > 0} {
		if limited {
			n++
		}
	}
	if len(counts) != n+1 {
		return
	}
	for _, c := range counts[:n] {
		s.Dropped.Packets += c.Packets
		s.Dropped.Bytes += c.Bytes
	}
	s.Passed = qos.Count{Packets: counts[n].Packets, Bytes: counts[n].Bytes}
}

func (b *Backend) routerCounts(ctx context.Context, router string) (map[string][]nft.Count, error) {
	n, err := b.h.Namespace(ctx, b.h.NetnsName(vnet.PartRouter, router))
	if errors.Is(err, vnet.ErrNotFound) {
		return map[string][]nft.Count{}, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := n.NFT().Counts(ctx, tableOf())
	if c == nil {
		c = map[string][]nft.Count{}
	}
	return c, err
}

func (b *Backend) portCount(ctx context.Context, s *qos.Statistics, p qos.Port, bridge map[string][]nft.Count) error {
	l, limits := b.h.NS().RTNL(), p.Way(s.Direction)
	if limits.Kbps > 0 {
		var c rtnl.Count
		var err error
		dev, _, plugged := b.h.PortDevice(ctx, p.ID)
		switch {
		case s.Direction == qos.Egress && !b.police:
			_, c, err = l.TBF(b.ifb(p.ID), linux.LimitMajor)
		case plugged != nil:
			err = plugged
		case s.Direction == qos.Egress:
			_, c, err = l.Policed(dev)
		default:
			_, c, err = l.TBF(dev, linux.LimitMajor)
		}
		if err != nil && !errors.Is(err, vnet.ErrNotFound) {
			return err
		}
		s.Passed = qos.Count{Packets: c.Packets, Bytes: c.Bytes}
		if s.Direction == qos.Egress && b.police { // a policer counts what it drops too
			s.Passed.Packets -= min(s.Passed.Packets, c.Dropped)
			s.Passed.Bytes = 0
		}
		s.Dropped.Packets = c.Dropped
	}
	if limits.PPS > 0 {
		e, err := b.h.Ports().Get(ctx, p.ID)
		if err != nil {
			return err
		}
		if c := bridge[portChain(s.Direction, e.Index)]; len(c) == 2 {
			s.Dropped.Packets += c[0].Packets
			s.Dropped.Bytes += c[0].Bytes
			if s.Direction == qos.Egress || limits.Kbps == 0 { // what comes after passes both
				s.Passed = qos.Count{Packets: c[1].Packets, Bytes: c[1].Bytes}
			}
		}
	}
	return nil
}

// Explain implements [qos.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	e, ok, err := b.record(ctx, kind+" "+id)
	if err != nil {
		return x, err
	}
	if !ok {
		return x, fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound)
	}
	switch {
	case e.Port != nil:
		p := *e.Port
		dev, _, err := b.h.PortDevice(ctx, id)
		if err != nil {
			dev = "(its device, when it is plugged)"
		}
		if p.Ingress.Kbps > 0 {
			x.Add(fmt.Sprintf("to it: qdisc tbf %x: root of %s, %d kbit/s, burst %d kbit", linux.LimitMajor, dev, p.Ingress.Kbps, p.Ingress.Burst()))
		}
		switch {
		case p.Egress.Kbps > 0 && b.police:
			x.Add(fmt.Sprintf("from it: a policer on ingress of %s, %d kbit/s, burst %d kbit", dev, p.Egress.Kbps, p.Egress.Burst()))
		case p.Egress.Kbps > 0:
			x.Add(fmt.Sprintf("from it: ingress of %s is redirected to %s: qdisc tbf %x: root, %d kbit/s, burst %d kbit", dev, b.ifb(id), linux.LimitMajor, p.Egress.Kbps, p.Egress.Burst()))
		}
		i, err := b.h.Ports().Get(ctx, id)
		if err != nil {
			return x, err
		}
		for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
			if rules := portRules(p, d, i.Index); rules != nil {
				c := x.Add(fmt.Sprintf("chain %s of table %s", portChain(d, i.Index), b.h.BridgeTable()))
				for _, r := range rules {
					c.Add(r.String())
				}
			}
		}
		if p.Uplink != "" {
			x.Add(fmt.Sprintf("class %x:%x of uplink %s, at least %d kbit/s", uplinkMajor, i.Index, p.Uplink, p.Egress.MinKbps))
		}
	case e.Uplink != nil:
		dev, err := b.uplinkDevice(id)
		if err != nil {
			return x, err
		}
		have, err := b.h.NS().RTNL().HTBClasses(dev)
		if err != nil {
			return x, err
		}
		q := x.Add(fmt.Sprintf("qdisc htb %x: root of %s", uplinkMajor, dev))
		for _, c := range have {
			q.Add(fmt.Sprintf("class %x:%x rate %d bit/s ceil %d bit/s", uplinkMajor, c.Minor, c.Rate, c.Ceil))
		}
	default:
		n := x.Add(fmt.Sprintf("table %s in namespace %s", tableOf(), b.h.NetnsName(vnet.PartRouter, e.router())))
		for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
			var shape qos.Shape
			if e.Gateway != nil {
				shape = e.Gateway.Shape
			} else {
				shape = e.FloatingIP.Shape
			}
			c := n.Add(string(d))
			for _, r := range boundRules(shape, d) {
				c.Add(r.String())
			}
		}
	}
	return x, nil
}
