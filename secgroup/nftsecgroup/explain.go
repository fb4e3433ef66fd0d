package nftsecgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nft"
	"github.com/vnet-go/vnet/secgroup"
)

// Explain implements [secgroup.Explainer]: down to chains with their rules,
// sets with the number of their elements in the kernel, and the elements that
// are the port's own.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return vnet.Explanation{}, err
	}
	x := vnet.Explanation{Text: kind + " " + id + " on " + b.h.Name()}
	var err error
	switch kind {
	case "port":
		err = b.explainPort(ctx, &x, id)
	case "group":
		err = b.explainGroup(ctx, &x, id)
	case "rule":
		err = b.explainRule(ctx, &x, id)
	case "addressgroup":
		err = b.explainAddressGroup(ctx, &x, id)
	}
	return x, err
}

func missingObject(kind, id string) error { return fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound) }

func (b *Backend) explainPort(ctx context.Context, x *vnet.Explanation, id string) error {
	p := b.facts.Port(id)
	if p == nil {
		return missingObject("port", id)
	}
	if !b.facts.local(*p) {
		m := x.Add("is on host " + p.Host + ": counts here as a member of its groups")
		return b.explainMember(ctx, m, *p)
	}
	e, err := b.h.Ports().Get(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case e.Device == "":
		x.Add(fmt.Sprintf("index (mark) %#x, no device plugged", e.Index))
	default:
		x.Add(fmt.Sprintf("index (mark) %#x, device %s", e.Index, e.Device))
	}
	if p.DisablePortSecurity {
		x.Add("port security is off: anything passes")
		return nil
	}
	if z, err := b.h.Zones().Get(ctx, p.NetworkID); err == nil {
		x.Add(fmt.Sprintf("connections in conntrack zone %d of network %s (%s)", z, p.NetworkID, b.tracking()))
	}
	im := newImage()
	im.port(b.l, *p, b.facts.index[id])
	for _, s := range sortedSets(im) {
		of := x.Add("in " + setText(s.set))
		for _, k := range sortedKeys(s.elems) {
			of.Add(elementText(s.elems[k]))
		}
	}
	for _, d := range []secgroup.Direction{secgroup.Egress, secgroup.Ingress} {
		c := b.l.profile(d, p.Groups, b.facts.Book)
		of := x.Add(string(d) + ": " + chainText(c))
		addRules(of, c)
		for _, g := range p.Groups {
			of.Add("group " + g + ": chain " + groupChain(d, g))
		}
	}
	return b.explainMember(ctx, x.Add("as a member of its groups"), *p)
}

// explainMember says in which sets the addresses of a port stand.
func (b *Backend) explainMember(_ context.Context, x *vnet.Explanation, p secgroup.Port) error {
	for _, g := range p.Groups {
		if !b.facts.Referred(g) {
			x.Add("group " + g + ": no rule refers to it, so its members stand in no set")
			continue
		}
		for _, a := range p.Addresses() {
			x.Add(a.String() + " in " + setText(b.l.members(g, a.Addr().Is6(), !a.IsSingleIP())))
		}
	}
	return nil
}

func (b *Backend) explainGroup(ctx context.Context, x *vnet.Explanation, id string) error {
	g := b.facts.Group(id)
	if g == nil {
		return missingObject("group", id)
	}
	im := newImage()
	im.group(b.l, *g, b.facts.Matches(id))
	for _, k := range sortedKeys(im.chains) {
		addRules(x.Add(chainText(im.chains[k])), im.chains[k])
	}
	for _, s := range sortedSets(im) {
		if err := b.explainSet(ctx, x, s.set); err != nil {
			return err
		}
	}
	ports := b.facts.PortsIn(id)
	x.Add(fmt.Sprintf("%d member ports%s", len(ports), some(ports)))
	if refs := b.facts.Referrers(id); len(refs) > 0 {
		of := x.Add("rules of groups " + strings.Join(refs, ", ") + " refer to it")
		for _, v6 := range []bool{false, true} {
			for _, nets := range []bool{false, true} {
				if err := b.explainSet(ctx, of, b.l.members(id, v6, nets)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *Backend) explainRule(ctx context.Context, x *vnet.Explanation, id string) error {
	group, rule, _ := strings.Cut(id, "/")
	g := b.facts.Group(group)
	if g == nil {
		return missingObject("rule", id)
	}
	i := slices.IndexFunc(g.Rules, func(r secgroup.Rule) bool { return r.ID == rule })
	if i < 0 {
		return missingObject("rule", id)
	}
	r := g.Rules[i]
	x.Add("allows " + r.Match().String())
	all := b.facts.Matches(group)
	var carried []secgroup.Match
	for _, m := range secgroup.Compile([]secgroup.Rule{r}) {
		for _, o := range all {
			if covers(o, m) || covers(m, o) {
				carried = append(carried, o)
			}
		}
	}
	by := x.Add("in chain " + groupChain(r.Direction, group) + ", carried by")
	for _, m := range carried {
		by.Add(m.String())
	}
	// The rules of the chain that carry those matches: all that share them are
	// drawn, for rules and sets are as they are because of all.
	var shared []secgroup.Match
	for _, m := range all {
		if slices.ContainsFunc(carried, func(c secgroup.Match) bool { return sameRule(c, m) }) {
			shared = append(shared, m)
		}
	}
	im := newImage()
	im.group(b.l, *g, shared)
	for _, k := range sortedKeys(im.chains) {
		if c := im.chains[k]; c.Name == groupChain(r.Direction, group) {
			addRules(by, c)
		}
	}
	for _, s := range sortedSets(im) {
		if err := b.explainSet(ctx, by, s.set); err != nil {
			return err
		}
	}
	if r.RemoteGroup != "" {
		for _, nets := range []bool{false, true} {
			if err := b.explainSet(ctx, by, b.l.members(r.RemoteGroup, r.Ethertype == secgroup.IPv6, nets)); err != nil {
				return err
			}
		}
	}
	if r.RemoteAddressGroup != "" {
		return b.explainSet(ctx, by, b.l.prefixes(r.RemoteAddressGroup, r.Ethertype == secgroup.IPv6))
	}
	return nil
}

// sameRule reports whether two matches are drawn as one rule of a chain.
func sameRule(a, b secgroup.Match) bool {
	if a.Direction != b.Direction || a.Ethertype != b.Ethertype {
		return false
	}
	plain := secgroup.Remote{}
	if a.Remote == plain && b.Remote == plain && a.Protocol >= 0 && b.Protocol >= 0 && a.Whole() && b.Whole() {
		return true
	}
	if a.Protocol != b.Protocol {
		return false
	}
	return a.Remote == b.Remote && a.Whole() == b.Whole() || a.Remote.Prefix.IsValid() && b.Remote.Prefix.IsValid()
}

// covers reports whether the packets of m are in part those of o.
func covers(o, m secgroup.Match) bool {
	if o.Direction != m.Direction || o.Ethertype != m.Ethertype || o.Protocol >= 0 && o.Protocol != m.Protocol {
		return false
	}
	if o.Protocol >= 0 && (o.Lo > m.Hi || o.Hi < m.Lo) {
		return false
	}
	switch {
	case o.Remote == (secgroup.Remote{}) || o.Remote == m.Remote:
		return true
	case o.Remote.Prefix.IsValid() && m.Remote.Prefix.IsValid():
		return o.Remote.Prefix.Overlaps(m.Remote.Prefix)
	}
	return false
}

func (b *Backend) explainAddressGroup(ctx context.Context, x *vnet.Explanation, id string) error {
	a := b.facts.AddressGroup(id)
	if a == nil {
		return missingObject("addressgroup", id)
	}
	for _, p := range a.Prefixes {
		x.Add(p.String())
	}
	for _, v6 := range []bool{false, true} {
		if err := b.explainSet(ctx, x, b.l.prefixes(id, v6)); err != nil {
			return err
		}
	}
	if refs := b.facts.AddressGroupReferrers(id); len(refs) > 0 {
		x.Add("rules of groups " + strings.Join(refs, ", ") + " refer to it")
	}
	return nil
}

// explainSet says what the kernel has in a set.
func (b *Backend) explainSet(ctx context.Context, x *vnet.Explanation, s nft.Set) error {
	elems, err := b.h.NS().NFT().Elements(ctx, s)
	if errors.Is(err, vnet.ErrNotFound) {
		x.Add(setText(s) + ": does not stand")
		return nil
	}
	if err != nil {
		return err
	}
	of := x.Add(fmt.Sprintf("%s: %d elements in the kernel", setText(s), len(elems)))
	for i, e := range elems {
		if i == 16 {
			of.Add("...")
			break
		}
		of.Add(elementText(e))
	}
	return nil
}

// ExplainPacket implements [secgroup.PacketExplainer].
func (b *Backend) ExplainPacket(ctx context.Context, portID string, p secgroup.Packet) (vnet.Explanation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return vnet.Explanation{}, err
	}
	port := b.facts.Port(portID)
	if port == nil {
		return vnet.Explanation{}, missingObject("port", portID)
	}
	return b.facts.Explain(*port, p), nil
}

func setText(s nft.Set) string { return "set " + s.Table.String() + " " + s.Name }

func chainText(c nft.Chain) string { return "chain " + c.Table.String() + " " + c.Name }

func elementText(e nft.Element) string {
	var parts []string
	for _, k := range e.Key {
		switch k := k.(type) {
		case nft.Range:
			parts = append(parts, fmt.Sprintf("%v-%v", k.From, k.To))
		case nft.Any:
			parts = append(parts, "any")
		case uint32:
			parts = append(parts, fmt.Sprintf("%#x", k))
		default:
			parts = append(parts, fmt.Sprint(k))
		}
	}
	s := strings.Join(parts, " . ")
	for _, d := range e.Data {
		s += " : " + fmt.Sprint(d)
	}
	return s
}

func addRules(x *vnet.Explanation, c nft.Chain) {
	for _, r := range c.Rules {
		x.Add(ruleText(r))
	}
}

func ruleText(r nft.Rule) string {
	var parts []string
	for _, s := range r {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, " ")
}

func some(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	if len(ids) > 8 {
		return ": " + strings.Join(ids[:8], ", ") + ", ..."
	}
	return ": " + strings.Join(ids, ", ")
}

func sortedSets(im *image) []*setImage {
	var out []*setImage
	for _, k := range sortedKeys(im.sets) {
		out = append(out, im.sets[k])
	}
	return out
}
