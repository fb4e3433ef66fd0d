package ovsqos

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
)

const floatingMeters = pipeline.FloatingMeters

func meterOfPort(n uint16) uint32     { return pipeline.MeterOfPort + 4*uint32(n) }
func meterOfGateway(n uint16) uint32  { return pipeline.MeterOfGateway + 4*uint32(n) }
func meterOfFloating(n uint32) uint32 { return pipeline.MeterOfFloating + 4*n }

// Of an object's four meters, by direction.
func meterIDs(base uint32, d qos.Direction) (kbps, packets uint32) {
	if d == qos.Ingress {
		base += 2
	}
	return base, base + 1
}

func directions() []qos.Direction { return []qos.Direction{qos.Egress, qos.Ingress} }

// metersOf are the meters of a shape.
func metersOf(s qos.Shape, base uint32) []of.MeterConfig {
	var out []of.MeterConfig
	for _, d := range directions() {
		l := s.Way(d)
		kbps, packets := meterIDs(base, d)
		if l.PPS > 0 {
			out = append(out, of.MeterConfig{ID: packets, Packets: true, Rate: l.PPS, Burst: l.PacketBurst()})
		}
		if l.Kbps > 0 {
			out = append(out, of.MeterConfig{ID: kbps, Rate: l.Kbps, Burst: l.Burst()})
		}
	}
	return out
}

// through are the actions of one direction: what is over the packet rate is not
// counted for the other limit.
func through(s qos.Shape, d qos.Direction, base uint32) []of.Action {
	var out []of.Action
	l := s.Way(d)
	kbps, packets := meterIDs(base, d)
	if l.PPS > 0 {
		out = append(out, of.Meter{ID: packets})
	}
	if l.Kbps > 0 {
		out = append(out, of.Meter{ID: kbps})
	}
	if s.DSCP != nil && d == qos.Egress {
		out = append(out, of.Set(of.IPDSCP.Is(uint64(*s.DSCP))))
	}
	return out
}

// Priorities in table Gate. A network that is down is above them.
const (
	prioPort     = 500
	prioGateway  = 510
	prioFloating = 520
	prioND       = 5 // more than the flow that it is an exception of
)

// neighbourTypes are the ICMPv6 types of neighbour discovery (RFC 4861, section 4).
func neighbourTypes() []uint64 { return []uint64{133, 134, 135, 136} }

// limited are the flows that take IP packets with these conditions through
// actions and then to next, and neighbour discovery to next alone.
func limited(table uint8, prio uint16, actions []of.Action, next of.Action, families []bool, conds ...of.Cond) []of.Flow {
	if len(actions) == 0 {
		return nil
	}
	var out []of.Flow
	for _, v6 := range families {
		m := of.IP4(conds...)
		if v6 {
			m = of.IP6(conds...)
			for _, typ := range neighbourTypes() {
				out = append(out, of.Flow{Table: table, Priority: prio + prioND, Match: of.ICMP6(append(slices.Clone(conds), of.ICMPv6Type.Is(typ))...), Actions: []of.Action{next}})
			}
		}
		out = append(out, of.Flow{Table: table, Priority: prio, Match: m, Actions: append(slices.Clone(actions), next)})
	}
	return out
}

// flows are those of an object.
func (w *writer) flows(r record, base uint32) []of.Flow {
	both, gate := []bool{false, true}, of.Goto(pipeline.PortSecurity)
	out, in := through(r.metered(), qos.Egress, base), through(r.metered(), qos.Ingress, base)
	switch {
	case r.Uplink != nil:
		return nil
	case r.Port != nil:
		n := uint64(w.tx.PortNumber(r.Port.ID))
		if r.Port.Uplink != "" {
			out = append(out, of.SetQueue{Queue: uint32(n)})
		}
		deliver := of.OutputReg{Src: of.Reg(pipeline.RegOut).All()}
		return append(limited(pipeline.Gate, prioPort, out, gate, both, of.Reg(pipeline.RegIn).Is(n), flag(pipeline.Routed, false)),
			limited(pipeline.Deliver, prioPort, in, deliver, both, of.Reg(pipeline.RegOut).Is(n))...)
	case r.Gateway != nil:
		net := of.Reg(pipeline.RegNetwork).Is(uint64(w.tx.NetworkNumber(r.Gateway.NetworkID)))
		return append(limited(pipeline.Gate, prioGateway, out, gate, both, net, flag(pipeline.Routed, true), of.EthSrc.MAC(r.Gateway.MAC)),
			limited(pipeline.Gate, prioGateway, in, gate, both, net, flag(pipeline.Routed, false), of.EthDst.MAC(r.Gateway.MAC))...)
	}
	f := r.FloatingIP
	net := of.Reg(pipeline.RegNetwork).Is(uint64(w.tx.NetworkNumber(f.NetworkID)))
	// One without limits of a direction is not counted for the gateway either.
	pass := func(a []of.Action, d qos.Direction, c of.Cond) []of.Flow {
		if len(a) == 0 {
			return []of.Flow{{Table: pipeline.Gate, Priority: prioFloating, Match: of.IP4(net, flag(pipeline.Routed, d == qos.Egress), c), Actions: []of.Action{gate}}}
		}
		return limited(pipeline.Gate, prioFloating, a, gate, []bool{false}, net, flag(pipeline.Routed, d == qos.Egress), c)
	}
	return append(pass(out, qos.Egress, of.IPv4Src.Addr(f.FloatingIP)), pass(in, qos.Ingress, of.IPv4Dst.Addr(f.FloatingIP))...)
}

func flag(bit uint64, set bool) of.Cond {
	v := uint64(0)
	if set {
		v = bit
	}
	return of.Reg(pipeline.RegFlags).Masked(v, bit)
}

// objects are all records that stand.
func (b *Backend) objects(ctx context.Context) (map[string]record, map[string]uint32, error) {
	all, base := map[string]record{}, map[string]uint32{}
	_, err := b.s.Plan(ctx, vnet.PartQoS, func(tx *ovs.Tx) error {
		for _, kind := range []string{kindPort, kindGateway, kindFloating} {
			for _, o := range tx.List(kind) {
				r, key := decode(o.Record), o.Kind+" "+o.ID
				all[key] = r
				switch kind {
				case kindPort:
					n, _ := tx.Known("port", o.ID)
					base[key] = meterOfPort(n)
				case kindGateway:
					n, _ := tx.Known("router", o.ID)
					base[key] = meterOfGateway(n)
				default:
					base[key] = meterOfFloating(r.Slot)
				}
			}
		}
		return nil
	})
	return all, base, err
}

// Statistics implements [qos.Backend].
func (b *Backend) Statistics(ctx context.Context) ([]qos.Statistics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, base, err := b.objects(ctx)
	if err != nil {
		return nil, err
	}
	stats, err := b.s.MeterStats(ctx)
	if err != nil {
		return nil, err
	}
	waited, err := b.counts(ctx, all)
	if err != nil {
		return nil, err
	}
	by := map[uint32]of.MeterStats{}
	for _, m := range stats {
		by[m.ID] = m
	}
	var s qos.State
	for _, r := range all {
		switch {
		case r.Port != nil:
			s.Ports = append(s.Ports, *r.Port)
		case r.Gateway != nil:
			s.Gateways = append(s.Gateways, *r.Gateway)
		case r.FloatingIP != nil:
			s.FloatingIPs = append(s.FloatingIPs, *r.FloatingIP)
		}
	}
	out := qos.NoStatistics(s)
	for i := range out {
		x := &out[i]
		key := x.Kind + " " + x.ID
		l := all[key].shape().Way(x.Direction)
		kbps, packets := meterIDs(base[key], x.Direction)
		// In the order that packets pass them: the last says what passed.
		for _, m := range []struct {
			id   uint32
			used bool
		}{{packets, l.PPS > 0}, {kbps, l.Kbps > 0}} {
			if n, ok := by[m.id]; ok && m.used {
				x.Dropped.Packets += n.DroppedPackets
				x.Dropped.Bytes += n.DroppedBytes
				x.Passed = qos.Count{Packets: n.Packets - min(n.Packets, n.DroppedPackets), Bytes: n.Bytes - min(n.Bytes, n.DroppedBytes)}
			}
		}
		if n, ok := waited[x.ID]; ok && x.Kind == kindPort && x.Direction == qos.Ingress {
			x.Passed = qos.Count{Packets: n.Packets, Bytes: n.Bytes}
			x.Dropped.Packets += n.Dropped
		}
	}
	return out, nil
}

// Explain implements [qos.Explainer].
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	all, base, err := b.objects(ctx)
	if err != nil {
		return x, err
	}
	r, ok := all[kind+" "+id]
	if !ok {
		return x, fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound)
	}
	for _, m := range metersOf(r.metered(), base[kind+" "+id]) {
		x.Add(m.String())
	}
	if r.Queued {
		x.Add(fmt.Sprintf("queue of its device: %d kbit/s", r.Port.Ingress.Kbps))
	}
	flows, err := b.s.FlowStats(ctx, vnet.PartQoS, kind, id)
	if err != nil {
		return x, err
	}
	for _, f := range flows {
		if f.Table != pipeline.Registry {
			x.Add(f.String())
		}
	}
	return x, nil
}
