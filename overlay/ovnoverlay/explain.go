package ovnoverlay

import (
	"context"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
)

// Explain implements [overlay.Explainer]: down to the Northbound rows, and to
// the chassis that the Southbound has ports on.
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	missing := fmt.Errorf("%s %s: %w", kind, id, vnet.ErrNotFound)
	if kind == "port" {
		row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, kindPort, id)
		if row == nil {
			return x, missing
		}
		x.Text = fmt.Sprintf("port %s: %s", id, portText(row))
		if sw := ovn.Holder[nbrow.LogicalSwitch](v, row); sw != nil {
			x.Add(switchText(sw))
		}
		if ovn.Closed(row) {
			x.Add("disabled until security groups are filled in")
		}
		b.explainBinding(v, &x, row.Name)
		if b.c.Has("Port_Binding", "") {
			flows, err := b.c.Flows(ctx, row.UUID)
			if err != nil {
				return x, err
			}
			for _, f := range flows {
				x.Add(fmt.Sprintf("Logical_Flow %s table %d priority %d: %s -> %s", f.Pipeline, f.TableID, f.Priority, f.Match, f.Actions))
			}
		}
		return x, nil
	}
	sw := ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, kindNetwork, id)
	if sw == nil {
		return x, missing
	}
	x.Text = fmt.Sprintf("network %s: %s", id, switchText(sw))
	for _, u := range sw.Ports {
		row := ovn.At[nbrow.LogicalSwitchPort](v, u)
		if row == nil {
			continue
		}
		y := x.Add(portText(row))
		b.explainBinding(v, y, row.Name)
	}
	return x, nil
}

func switchText(sw *nbrow.LogicalSwitch) string {
	s := fmt.Sprintf("Logical_Switch %s, %s, MTU %s", sw.Name, sw.ExternalIDs[keySegment], sw.ExternalIDs[keyMTU])
	if sw.ExternalIDs[keyDown] == "true" {
		s += ", down"
	}
	return s
}

func portText(p *nbrow.LogicalSwitchPort) string {
	s := fmt.Sprintf("Logical_Switch_Port %s", p.Name)
	if p.Type != "" {
		s += ", " + p.Type
	}
	if n := p.Options["network_name"]; n != "" {
		s += " on " + n
	}
	if p.TagRequest != nil {
		s += fmt.Sprintf(" with VLAN %d", *p.TagRequest)
	}
	s += ", " + strings.Join(p.Addresses, " and ")
	if p.Enabled != nil && !*p.Enabled {
		s += ", disabled"
	}
	if h := p.Options["requested-chassis"]; h != "" {
		s += ", of host " + h
	}
	return s
}

// explainBinding says where the port is, as far as the Southbound is known.
func (b *Backend) explainBinding(v *ovn.View, x *vnet.Explanation, lsp string) {
	if !b.c.Has("Port_Binding", "") {
		return
	}
	for _, pb := range ovn.By[sbrow.PortBinding](v, "logical_port", lsp) {
		s := fmt.Sprintf("Port_Binding: tunnel key %d", pb.TunnelKey)
		if pb.Chassis == nil {
			s += ", on no chassis"
		} else if ch := ovn.At[sbrow.Chassis](v, *pb.Chassis); ch != nil {
			s += ", on chassis " + ch.Name
		}
		if pb.Up != nil {
			s += fmt.Sprintf(", up %t", *pb.Up)
		}
		x.Add(s)
	}
}
