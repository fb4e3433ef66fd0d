package ovndhcp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

// Explain implements [dhcp.Explainer]: down to the rows of the Northbound and,
// of a reservation, the logical flows of the Southbound where the connection has it.
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	missing := fmt.Errorf("%s %s: %w", kind, id, vnet.ErrNotFound)
	switch kind {
	case "scope":
		row := ovn.Find[nbrow.DHCPOptions](v, vnet.PartDHCP, kindScope, id)
		if row == nil {
			return x, missing
		}
		b.explainScope(v, &x, scopeOf(row), row)
	case "reservation":
		port := standingOf(v, id)
		r := reservationOf(port)
		if r == nil {
			return x, missing
		}
		x.Text = fmt.Sprintf("reservation %s of %s on network %s", id, r.MAC, r.NetworkID)
		p := x.Add(fmt.Sprintf("Logical_Switch_Port %s %s, addresses %q", port.UUID, port.Name, port.Addresses))
		for _, v4 := range []bool{true, false} {
			col, ref := "dhcpv4_options", port.Dhcpv4Options
			if !v4 {
				col, ref = "dhcpv6_options", port.Dhcpv6Options
			}
			if ref == nil {
				p.Add(col + ": none, it is not served")
				continue
			}
			if row := ovn.At[nbrow.DHCPOptions](v, *ref); row != nil {
				m, _ := ovn.MarkOf(row.ExternalIDs)
				y := p.Add(fmt.Sprintf("%s: DHCP_Options %s of %s %s, cidr %s", col, row.UUID, m.Kind, m.ID, row.Cidr))
				y.Add(optionText(row.Options))
				flows, err := b.c.Flows(ctx, row.UUID)
				if err != nil && !errors.Is(err, vnet.ErrUnsupported) { // without Southbound
					return x, err
				}
				for _, f := range flows {
					if strings.Contains(f.Match, quote(port.Name)) {
						y.Add(fmt.Sprintf("Logical_Flow %s, priority %d: %s", f.ExternalIDs["stage-name"], f.Priority, f.Match))
					}
				}
			}
		}
	case "network":
		for _, s := range scopesOf(v, b.c.Owner(), id) {
			b.explainScope(v, x.Add(""), s, ovn.Find[nbrow.DHCPOptions](v, vnet.PartDHCP, kindScope, s.ID))
		}
		if len(x.Of) == 0 {
			return x, missing
		}
		x.Text = "network " + id
	default:
		return x, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "scope", "reservation" or "network"`}
	}
	return x, nil
}

func (b *Backend) explainScope(v *ovn.View, x *vnet.Explanation, s dhcp.Scope, row *nbrow.DHCPOptions) {
	x.Text = fmt.Sprintf("scope %s: %s on network %s", s.ID, s.Subnet, s.NetworkID)
	x.Add(fmt.Sprintf("DHCP_Options %s, cidr %s", row.UUID, row.Cidr)).Add(optionText(row.Options))
	if p := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartDHCP, kindServer, s.ID); p != nil {
		x.Add(fmt.Sprintf("Logical_Switch_Port %s %s answers for the server's address, %q", p.UUID, p.Name, p.Addresses))
	}
	sw := ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", s.NetworkID)
	if sw == nil {
		x.Add("the network does not stand")
		return
	}
	n, own := 0, 0
	for _, u := range sw.Ports {
		p := ovn.At[nbrow.LogicalSwitchPort](v, u)
		r := reservationOf(p)
		if r == nil {
			continue
		}
		mine := ovn.UUID[nbrow.DHCPOptions](v, vnet.PartDHCP, kindOwn, ownID(r.ID, s.Is4()))
		for _, ref := range []*string{p.Dhcpv4Options, p.Dhcpv6Options} {
			if ref != nil && *ref == row.UUID {
				n++
			}
			if ref != nil && *ref == mine {
				own++
			}
		}
	}
	x.Add(fmt.Sprintf("%d ports refer to it, %d to rows of their own made from it", n, own))
}
