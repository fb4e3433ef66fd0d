package ovssecgroup

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
)

func missing(kind, id string) error { return fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound) }

// look runs f on what stands, and writes nothing.
func (b *Backend) look(ctx context.Context, f func(tx *ovs.Tx, l *ledger) error) error {
	_, err := b.sw.Plan(ctx, vnet.PartSecGroup, func(tx *ovs.Tx) error {
		l := b.ledger(tx)
		return cmp.Or(f(tx, l), l.err)
	})
	return err
}

// Explain implements [secgroup.Explainer]: down to the flows that stand.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id + " on " + b.sw.Name()}
	err := b.look(ctx, func(tx *ovs.Tx, l *ledger) error {
		x.Of = nil
		switch kind {
		case "port":
			return b.explainPort(tx, l, &x, id)
		case "group":
			return explainGroup(tx, l, &x, id)
		case "rule":
			return explainRule(tx, l, &x, id)
		case "addressgroup":
			return explainAddressGroup(tx, l, &x, id)
		}
		return nil
	})
	return x, err
}

// flows adds the flows of an object that stand, those that pick says.
func flows(tx *ovs.Tx, x *vnet.Explanation, kind, id string, pick func(of.Flow) bool) {
	o, ok := tx.Get(kind, id)
	if !ok {
		x.Add("does not stand")
		return
	}
	list := slices.Clone(o.Flows)
	slices.SortFunc(list, func(a, b of.Flow) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(b.Priority, a.Priority), strings.Compare(a.String(), b.String()))
	})
	for _, f := range list {
		if pick == nil || pick(f) {
			x.Add(f.String())
		}
	}
}

func (b *Backend) explainPort(tx *ovs.Tx, l *ledger, x *vnet.Explanation, id string) error {
	p := l.port(id)
	if p == nil {
		return missing("port", id)
	}
	if !l.st.local(p.Host) {
		explainMember(tx, l, x.Add("is on host "+p.Host+": counts here as a member of its groups"), *p)
		return nil
	}
	if n, ok := tx.Known("port", id); ok {
		x.Add(fmt.Sprintf("number %d: reg2 of what it sends, reg3 of what it is sent", n))
	}
	if zone, ok := tx.Known("network", p.NetworkID); ok {
		x.Add(fmt.Sprintf("connections in conntrack zone %d of network %s", zone, p.NetworkID))
	}
	if p.DisablePortSecurity {
		flows(tx, x.Add("port security is off: anything passes"), kindPort, id, nil)
		return nil
	}
	flows(tx, x.Add("its own flows"), kindPort, id, nil)
	for _, g := range p.Groups {
		r := read[groupRecord](l, kindGroup, g)
		if r == nil {
			x.Add("group " + g + " does not stand")
			continue
		}
		flows(tx, x.Add(fmt.Sprintf("group %s, number %d", g, r.N)), kindGroup, g, nil)
	}
	explainMember(tx, l, x.Add("as a member of its groups"), *p)
	return nil
}

// explainMember says how the addresses of a port stand for its groups.
func explainMember(tx *ovs.Tx, l *ledger, x *vnet.Explanation, p secgroup.Port) {
	for _, g := range p.Groups {
		r := l.remote(remoteID(secgroup.Remote{Group: g}))
		if r == nil {
			x.Add("group " + g + ": no rule refers to it, so its members have no flows")
			continue
		}
		of := x.Add(fmt.Sprintf("group %s: rules refer to it as conjunction %d", g, r.N))
		for _, a := range p.Addresses() {
			explainAddress(tx, of, a, r.N)
		}
	}
}

// explainAddress adds the flows that say that an address belongs to a remote.
func explainAddress(tx *ovs.Tx, x *vnet.Explanation, p netip.Prefix, n uint32) {
	if _, ok := tx.Get(kindAddress, p.String()); ok {
		flows(tx, x, kindAddress, p.String(), func(f of.Flow) bool { return about(f, n) })
	}
}

// about reports whether a flow is part of a conjunction.
func about(f of.Flow, n uint32) bool {
	return slices.ContainsFunc(f.Actions, func(a of.Action) bool {
		c, ok := a.(of.Conjunction)
		return ok && c.ID == n
	})
}

func explainGroup(tx *ovs.Tx, l *ledger, x *vnet.Explanation, id string) error {
	r := read[groupRecord](l, kindGroup, id)
	if r == nil {
		return missing("group", id)
	}
	flows(tx, x.Add(fmt.Sprintf("number %d, in reg6 when its rules are asked", r.N)), kindGroup, id, nil)
	x.Add(fmt.Sprintf("%d member ports%s", len(l.all().PortsIn(id)), some(l.all().PortsIn(id))))
	if refs := l.all().Referrers(id); len(refs) > 0 {
		x.Add(fmt.Sprintf("rules of groups %s refer to it, as conjunction %d", strings.Join(refs, ", "), l.number(remoteID(secgroup.Remote{Group: id}))))
	}
	return nil
}

func explainRule(tx *ovs.Tx, l *ledger, x *vnet.Explanation, id string) error {
	group, name, _ := strings.Cut(id, "/")
	r := read[groupRecord](l, kindGroup, group)
	if r == nil {
		return missing("rule", id)
	}
	i := slices.IndexFunc(r.Group.Rules, func(r secgroup.Rule) bool { return r.ID == name })
	if i < 0 {
		return missing("rule", id)
	}
	m := r.Group.Rules[i].Match()
	by := x.Add(m.String())
	if err := explainMatch(tx, by, r, m); err != nil {
		return err
	}
	remote := remoteID(m.Remote)
	if remote == "" {
		return nil
	}
	n := l.number(remote)
	list := sortedPrefixes(l.members(remote))
	of := by.Add(fmt.Sprintf("%s, conjunction %d: %d addresses", m.Remote, n, len(list)))
	for i, p := range list {
		if i == 16 {
			of.Add("...")
			break
		}
		explainAddress(tx, of, p, n)
	}
	return nil
}

// explainMatch adds the flows of a group that a match is drawn as. Rules that
// are drawn as one, or that others cover, are found by what has become of them.
func explainMatch(tx *ovs.Tx, x *vnet.Explanation, r *groupRecord, m secgroup.Match) error {
	want := map[of.FlowKey]bool{}
	for _, c := range matchesOf(r.Group) {
		if !overlap(c, m) {
			continue
		}
		drawn, err := matchFlows(c, r.N, r.Group.Stateless, func(string) uint32 { return 0 })
		if err != nil {
			return err
		}
		for _, f := range drawn {
			if f.Priority != prioFound {
				want[f.Key()] = true
			}
		}
	}
	flows(tx, x, kindGroup, r.Group.ID, func(f of.Flow) bool { return want[f.Key()] })
	return nil
}

// overlap reports whether the packets of m are in part those of c.
func overlap(c, m secgroup.Match) bool {
	if c.Direction != m.Direction || c.Ethertype != m.Ethertype || c.Protocol >= 0 && c.Protocol != m.Protocol {
		return false
	}
	if c.Protocol >= 0 && (c.Lo > m.Hi || c.Hi < m.Lo) {
		return false
	}
	if c.Remote.Prefix.IsValid() && m.Remote.Prefix.IsValid() {
		return c.Remote.Prefix.Overlaps(m.Remote.Prefix)
	}
	return c.Remote == (secgroup.Remote{}) || c.Remote == m.Remote
}

func explainAddressGroup(tx *ovs.Tx, l *ledger, x *vnet.Explanation, id string) error {
	a := l.addressGroup(id)
	if a == nil {
		return missing("addressgroup", id)
	}
	r := l.remote(remoteID(secgroup.Remote{AddressGroup: id}))
	if r == nil {
		x.Add(fmt.Sprintf("no rule refers to it, so its %d prefixes have no flows", len(a.Prefixes)))
		return nil
	}
	of := x.Add(fmt.Sprintf("rules of groups %s refer to it, as conjunction %d", strings.Join(l.all().AddressGroupReferrers(id), ", "), r.N))
	for _, p := range a.Prefixes {
		explainAddress(tx, of.Add(p.String()), p, r.N)
	}
	return nil
}

// ExplainPacket implements [secgroup.PacketExplainer], by what is recorded;
// the flows are those that stand.
func (b *Backend) ExplainPacket(ctx context.Context, portID string, q secgroup.Packet) (vnet.Explanation, error) {
	var x vnet.Explanation
	err := b.look(ctx, func(tx *ovs.Tx, l *ledger) error {
		p := l.port(portID)
		if p == nil {
			return missing("port", portID)
		}
		x = l.all().Explain(*p, q)
		v, ok := l.all().Allows(*p, q)
		if r := read[groupRecord](l, kindGroup, v.Group); ok && r != nil {
			return explainMatch(tx, x.Add("flows"), r, v.Match)
		}
		return nil
	})
	return x, err
}

func some(ids []string) string {
	switch {
	case len(ids) == 0:
		return ""
	case len(ids) > 8:
		return ": " + strings.Join(ids[:8], ", ") + ", ..."
	}
	return ": " + strings.Join(ids, ", ")
}
