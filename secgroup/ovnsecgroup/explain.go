package ovnsecgroup

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
)

func missing(kind, id string) error { return fmt.Errorf("%s %q: %w", kind, id, vnet.ErrNotFound) }

// Explain implements [secgroup.Explainer]: down to rows of the Northbound.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	switch kind {
	case "port":
		err = b.explainPort(v, &x, id)
	case "group":
		err = explainGroup(v, &x, id)
	case "rule":
		err = explainRule(v, &x, id)
	case "addressgroup":
		if addressGroupOf(v, id) == nil {
			return x, missing(kind, id)
		}
		explainSets(v, &x, kindAddresses, id)
	}
	return x, err
}

func (b *Backend) explainPort(v *ovn.View, x *vnet.Explanation, id string) error {
	row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", id)
	if row == nil {
		return missing("port", id)
	}
	p, err := portOf(id, row)
	if err != nil {
		return err
	}
	if p == nil {
		return missing("port", id)
	}
	lsp := x.Add(fmt.Sprintf("Logical_Switch_Port %q", row.Name))
	if p.DisablePortSecurity {
		lsp.Add("port security is off: anything passes")
	}
	for _, s := range row.PortSecurity {
		lsp.Add("port_security: " + s)
	}
	for _, s := range row.Addresses {
		lsp.Add("addresses: " + s)
	}
	if row.Enabled != nil && !*row.Enabled {
		lsp.Add("enabled: false, nothing passes")
	}
	for _, pb := range ovn.By[sbrow.PortBinding](v, "logical_port", row.Name) {
		chassis := "none"
		if pb.Chassis != nil {
			if c := ovn.At[sbrow.Chassis](v, *pb.Chassis); c != nil {
				chassis = c.Name
			}
		}
		lsp.Add(fmt.Sprintf("Port_Binding %d on chassis %s", pb.TunnelKey, chassis))
	}
	if pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindFilter, "all"); pg != nil && slices.Contains(pg.Ports, row.UUID) {
		in := x.Add(fmt.Sprintf("in Port_Group %s of all filtered ports", pg.Name))
		for _, a := range aclsOf(v, pg) {
			in.Add(aclText(a))
		}
	}
	for _, g := range p.Groups {
		of := x.Add("group " + g)
		if err := explainGroup(v, of, g); err != nil {
			return err
		}
		if pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindGroup, g); pg != nil && !slices.Contains(pg.Ports, row.UUID) {
			of.Add("NOT a member of the Port_Group, as it should be")
		}
	}
	return nil
}

func aclsOf(v *ovn.View, pg *nbrow.PortGroup) []*nbrow.ACL {
	var out []*nbrow.ACL
	for _, u := range pg.ACLs {
		if a := ovn.At[nbrow.ACL](v, u); a != nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *nbrow.ACL) int {
		ma, _ := ovn.MarkOf(a.ExternalIDs)
		mb, _ := ovn.MarkOf(b.ExternalIDs)
		return strings.Compare(ma.ID, mb.ID)
	})
	return out
}

func aclText(a *nbrow.ACL) string {
	s := fmt.Sprintf("ACL %s: %s %d %s %q", a.UUID, a.Direction, a.Priority, a.Action, a.Match)
	if r := a.ExternalIDs[keyRules]; r != "" {
		s += " for rules " + r
	}
	return s
}

func explainGroup(v *ovn.View, x *vnet.Explanation, id string) error {
	pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindGroup, id)
	if pg == nil {
		return missing("group", id)
	}
	row := x.Add(fmt.Sprintf("Port_Group %s, %d ports", pg.Name, len(pg.Ports)))
	for _, a := range aclsOf(v, pg) {
		row.Add(aclText(a))
	}
	explainSets(v, x, kindMembers, id)
	return nil
}

func explainSets(v *ovn.View, x *vnet.Explanation, kind, id string) {
	for _, fam := range []string{"4", "6"} {
		set := ovn.Find[nbrow.AddressSet](v, vnet.PartSecGroup, kind, id+"/"+fam)
		if set == nil {
			continue
		}
		list := set.Addresses
		more := ""
		if len(list) > 8 {
			list, more = list[:8], " ..."
		}
		x.Add(fmt.Sprintf("Address_Set %s, %d addresses: %s%s", set.Name, len(set.Addresses), strings.Join(list, " "), more))
	}
}

func explainRule(v *ovn.View, x *vnet.Explanation, id string) error {
	group, name, _ := strings.Cut(id, "/")
	pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindGroup, group)
	g := groupOf(pg)
	if g == nil {
		return missing("rule", id)
	}
	i := slices.IndexFunc(g.Rules, func(r secgroup.Rule) bool { return r.ID == name })
	if i < 0 {
		return missing("rule", id)
	}
	rule := x.Add(g.Rules[i].Match().String())
	for _, a := range aclsOf(v, pg) {
		if slices.Contains(strings.Fields(a.ExternalIDs[keyRules]), name) {
			rule.Add(aclText(a))
		}
	}
	switch r := g.Rules[i]; {
	case r.RemoteGroup != "":
		explainSets(v, rule, kindMembers, r.RemoteGroup)
	case r.RemoteAddressGroup != "":
		explainSets(v, rule, kindAddresses, r.RemoteAddressGroup)
	}
	return nil
}

// sets answers who is in a group by the address sets that stand.
type sets struct{ v *ovn.View }

func (s sets) has(kind, id string, a netip.Addr) bool {
	set := ovn.Find[nbrow.AddressSet](s.v, vnet.PartSecGroup, kind, id+"/"+family(a))
	return set != nil && slices.ContainsFunc(set.Addresses, func(text string) bool {
		p, ok := parseAddress(text)
		return ok && p.Contains(a)
	})
}

func (s sets) InGroup(id string, a netip.Addr) bool        { return s.has(kindMembers, id, a) }
func (s sets) InAddressGroup(id string, a netip.Addr) bool { return s.has(kindAddresses, id, a) }

// ExplainPacket implements [secgroup.PacketExplainer], by the rows that stand:
// a rule whose ACL is not there does not count.
func (b *Backend) ExplainPacket(ctx context.Context, portID string, q secgroup.Packet) (vnet.Explanation, error) {
	var x vnet.Explanation
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", portID)
	if row == nil {
		return x, missing("port", portID)
	}
	p, err := portOf(portID, row)
	if err != nil {
		return x, err
	}
	if p == nil {
		return x, missing("port", portID)
	}
	if p.DisablePortSecurity {
		x.Text = "passes: port security of port " + portID + " is off"
		return x, nil
	}
	// As in the data path, rules of stateless groups are asked first.
	for _, action := range []string{"allow-stateless", "allow-related"} {
		for _, id := range p.Groups {
			pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindGroup, id)
			if pg == nil || !slices.Contains(pg.Ports, row.UUID) {
				continue
			}
			g := groupOf(pg)
			for _, m := range matchesOf(*g) {
				uuid := ovn.UUID[nbrow.ACL](v, vnet.PartSecGroup, kindACL, aclID(id, m))
				acl := ovn.At[nbrow.ACL](v, uuid)
				if acl == nil || !slices.Contains(pg.ACLs, uuid) || acl.Action != action || !m.Matches(q, sets{v}) {
					continue
				}
				x.Text = "passes"
				if action == "allow-stateless" {
					x.Text += " by itself, opening no connection"
				}
				by := x.Add(fmt.Sprintf("by group %s: %s", id, m))
				by.Add(aclText(acl))
				for _, r := range g.Rules {
					if r.Match().Matches(q, sets{v}) {
						by.Add("rule " + id + "/" + r.ID + ": " + r.Match().String())
					}
				}
				return x, nil
			}
		}
	}
	x.Text = "dropped: no rule of port " + portID + " allows it"
	for _, g := range p.Groups {
		x.Add("not in group " + g)
	}
	if len(p.Groups) == 0 {
		x.Add("the port is in no group")
	}
	if pg := ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, kindFilter, "all"); pg != nil {
		x.Add("dropped by the ACLs of Port_Group " + pg.Name)
	}
	return x, nil
}
