package tcqos

import (
	"fmt"

	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/qos"
)

// Names and priorities of what stands in nftables. The page in package linux
// says the same.
const (
	chainEgress  = "qos-egress"  // bridge prerouting
	chainIngress = "qos-ingress" // bridge postrouting
	mapEgress    = "qos-out"     // index of the sender -> its chain
	mapIngress   = "qos-in"      // index of the receiver -> its chain
	setRecord    = "qos-record"

	priorityEgress  int32 = -280 // after the handle has set the mark, before secgroup
	priorityIngress int32 = 0

	routerTable            = "vnet-qos"
	priorityIn       int32 = -310 // before connections are tracked and destinations translated
	priorityOut      int32 = 110  // after sources are translated
	mapFloatingIn          = "floating-in"
	mapFloatingOut         = "floating-out"
	chainGatewayIn         = "gateway-in"
	chainGatewayOut        = "gateway-out"
	chainFloatingIn        = "f-in-"
	chainFloatingOut       = "f-out-"
)

func recordSet(h *linux.Host) nft.Set {
	return nft.Set{Table: h.BridgeTable(), Name: setRecord, Key: []nft.Type{nft.TypeIPv6}}
}

func verdicts(t nft.Table, name string, key nft.Type) nft.Set {
	return nft.Set{Table: t, Name: name, Key: []nft.Type{key}, Data: []nft.Type{nft.TypeVerdict}}
}

// base declares what all ports share.
func base(h *linux.Host, tx *nft.Tx) {
	t := h.BridgeTable()
	if !tx.Once("qos") {
		return
	}
	h.Base(tx)
	out, in := verdicts(t, mapEgress, nft.TypeMark), verdicts(t, mapIngress, nft.TypeMark)
	tx.Set(out)
	tx.Set(in)
	tx.Set(recordSet(h))
	tx.Chain(nft.Chain{Table: t, Name: chainEgress, Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: priorityEgress}, Rules: []nft.Rule{
		{nft.IIfName.NotIn(h.DevicesSet()), nft.Accept()},
		{nft.Mark.Vmap(out)},
	}})
	tx.Chain(nft.Chain{Table: t, Name: chainIngress, Base: &nft.Hook{Type: nft.Filter, Hook: nft.Postrouting, Priority: priorityIngress}, Rules: []nft.Rule{
		{nft.OIfName.NotIn(h.DevicesSet()), nft.Accept()},
		{nft.Mark.Vmap(in)},
	}})
}

func portChain(d qos.Direction, index uint32) string {
	if d == qos.Egress {
		return fmt.Sprintf("%s-%d", mapEgress, index)
	}
	return fmt.Sprintf("%s-%d", mapIngress, index)
}

// packetRules drop what is over the packet rate, and count: what is dropped, what passes.
func packetRules(l qos.Limits) []nft.Rule {
	if l.PPS == 0 {
		return nil
	}
	return []nft.Rule{{nft.LimitOver(uint64(l.PPS), l.PacketBurst()), nft.Counter(), nft.Drop()}, {nft.Counter()}}
}

// markRules set the DSCP.
func markRules(s qos.Shape) []nft.Rule {
	if s.DSCP == nil {
		return nil
	}
	return []nft.Rule{{nft.SetIPDSCP(*s.DSCP)}, {nft.SetIP6DSCP(*s.DSCP)}}
}

// portRules are the rules of a port; nil when it needs none.
func portRules(p qos.Port, d qos.Direction, index uint32) []nft.Rule {
	rules := packetRules(p.Way(d))
	if d == qos.Egress {
		rules = append(rules, markRules(p.Shape)...)
		if p.Uplink != "" && p.Egress.MinKbps > 0 {
			rules = append(rules, nft.Rule{nft.SetPriority(uplinkMajor, uint16(index))})
		}
	}
	return rules
}

// declarePort declares the rules of a port, or that it has none.
func declarePort(h *linux.Host, tx *nft.Tx, p qos.Port, index uint32) {
	t := h.BridgeTable()
	base(h, tx)
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		set := verdicts(t, mapEgress, nft.TypeMark)
		if d == qos.Ingress {
			set = verdicts(t, mapIngress, nft.TypeMark)
		}
		name, rules := portChain(d, index), portRules(p, d, index)
		if rules == nil {
			tx.Remove(set, nft.Key(index))
			tx.DeleteChain(t, name)
			continue
		}
		tx.Chain(nft.Chain{Table: t, Name: name, Rules: rules})
		tx.Add(set, nft.Key(index).To(nft.Jump(name)))
	}
}

// boundRules are the rules of a gateway or floating IP in one direction: what
// is over is dropped and counted, what passes is counted.
func boundRules(s qos.Shape, d qos.Direction) []nft.Rule {
	var rules []nft.Rule
	l := s.Way(d)
	if l.Kbps > 0 {
		rules = append(rules, nft.Rule{nft.LimitBytesOver(uint64(l.Kbps)*1000/8, burstBytes(l, 1500)), nft.Counter(), nft.Drop()})
	}
	if l.PPS > 0 {
		rules = append(rules, nft.Rule{nft.LimitOver(uint64(l.PPS), l.PacketBurst()), nft.Counter(), nft.Drop()})
	}
	if d == qos.Egress {
		rules = append(rules, markRules(s)...)
	}
	return append(rules, nft.Rule{nft.Counter()})
}

func tableOf() nft.Table { return nft.Table{Family: nft.Inet, Name: routerTable} }

// declareRouter declares what all limits of a router share.
func declareRouter(tx *nft.Tx, gateway string) {
	t := tableOf()
	if !tx.Once("qos") {
		return
	}
	in, out := verdicts(t, mapFloatingIn, nft.TypeIPv4), verdicts(t, mapFloatingOut, nft.TypeIPv4)
	tx.Set(in)
	tx.Set(out)
	for _, c := range []string{chainGatewayIn, chainGatewayOut} {
		if !tx.HasChain(t, c) {
			tx.Chain(nft.Chain{Table: t, Name: c})
		}
	}
	tx.Chain(nft.Chain{Table: t, Name: "prerouting", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Prerouting, Priority: priorityIn}, Rules: []nft.Rule{
		{nft.IIfName.Ne(gateway), nft.Accept()},
		{nft.IPDst.Vmap(in)},
		{nft.Goto(chainGatewayIn)},
	}})
	tx.Chain(nft.Chain{Table: t, Name: "postrouting", Base: &nft.Hook{Type: nft.Filter, Hook: nft.Postrouting, Priority: priorityOut}, Rules: []nft.Rule{
		{nft.OIfName.Ne(gateway), nft.Accept()},
		{nft.IPSrc.Vmap(out)},
		{nft.Goto(chainGatewayOut)},
	}})
}

// declareGateway declares a gateway's limits; without a shape, that it has none.
func declareGateway(tx *nft.Tx, device string, s qos.Shape) {
	declareRouter(tx, device)
	for d, name := range map[qos.Direction]string{qos.Ingress: chainGatewayIn, qos.Egress: chainGatewayOut} {
		c := nft.Chain{Table: tableOf(), Name: name}
		if !s.Zero() {
			c.Rules = boundRules(s, d)
		}
		tx.Chain(c)
	}
}

// floatingChain is the name of a floating IP's chain.
func floatingChain(prefix, id string) string { return fmt.Sprintf("%s%x", prefix, keyHash(id)) }

// declareFloating declares a floating IP's limits; without a shape, that it has none.
func declareFloating(tx *nft.Tx, device string, f qos.FloatingIP) {
	declareRouter(tx, device)
	t := tableOf()
	for _, x := range []struct {
		d           qos.Direction
		set, prefix string
	}{{qos.Ingress, mapFloatingIn, chainFloatingIn}, {qos.Egress, mapFloatingOut, chainFloatingOut}} {
		set, name := verdicts(t, x.set, nft.TypeIPv4), floatingChain(x.prefix, f.ID)
		// Its address may have been another.
		for _, e := range tx.Elements(set) {
			if e.Comment == f.ID && (e.Key[0] != any(f.FloatingIP) || f.Shape.Zero()) {
				tx.Remove(set, e)
			}
		}
		if f.Shape.Zero() {
			tx.DeleteChain(t, name)
			continue
		}
		tx.Chain(nft.Chain{Table: t, Name: name, Rules: boundRules(f.Shape, x.d)})
		e := nft.Key(f.FloatingIP).To(nft.Goto(name))
		e.Comment = f.ID
		tx.Add(set, e)
	}
}
