package ovnqos

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

// Explain implements [qos.Explainer]: down to rows of the Northbound, and to
// logical flows if the handle has a Southbound.
func (b *Backend) Explain(ctx context.Context, kind, id string) (vnet.Explanation, error) {
	x := vnet.Explanation{Text: kind + " " + id}
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	if kind == kindUplink {
		return explainUplink(v, x, id)
	}
	none := true
	if row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", id); kind == kindPort && row != nil {
		if p := portOf(row); p != nil && p.Uplink != "" {
			none = false
			x.Add(fmt.Sprintf("Logical_Switch_Port %s: options:qos_min_rate %s: has %d kbit/s promised on uplink %s", row.Name, row.Options["qos_min_rate"], p.Egress.MinKbps, p.Uplink))
		}
	}
	for _, d := range directions() {
		q := ovn.Find[nbrow.QoS](v, vnet.PartQoS, kind, ovn.LimitID(id, string(d)))
		if q == nil {
			continue
		}
		none = false
		y := x.Add(fmt.Sprintf("%s: %s", d, describe(q)))
		if sw := ovn.Holder[nbrow.LogicalSwitch](v, q); sw != nil && slices.Contains(sw.QOSRules, q.UUID) {
			y.Add("of Logical_Switch " + sw.Name)
		}
		if !b.c.Has("Logical_Flow", "") {
			continue
		}
		flows, err := b.c.Flows(ctx, q.UUID)
		if err != nil {
			return x, err
		}
		for _, f := range flows {
			y.Add(fmt.Sprintf("Logical_Flow %s: %s table %d: %s", f.UUID, f.Pipeline, f.TableID, f.Actions))
		}
	}
	if none {
		return x, fmt.Errorf("limits of %s %s: %w", kind, id, vnet.ErrNotFound)
	}
	return x, nil
}

// explainUplink tells of the uplinks of that name, on all hosts.
func explainUplink(v *ovn.View, x vnet.Explanation, name string) (vnet.Explanation, error) {
	s := stateOf(v)
	for _, u := range s.Uplinks {
		if u.Name != name {
			continue
		}
		row := ovn.Find[nbrow.Meter](v, vnet.PartQoS, kindUplink, uplinkID(u))
		y := x.Add(fmt.Sprintf("host %q: Meter %s: %d kbit/s, %s promised", u.Host, row.Name, u.Kbps, row.ExternalIDs[keyPromised]))
		for _, p := range s.Ports {
			if p.Uplink == u.Name && p.Host == u.Host {
				y.Add(fmt.Sprintf("%d to port %s", p.Egress.MinKbps, p.ID))
			}
		}
	}
	if len(x.Of) == 0 {
		return x, fmt.Errorf("uplink %s: %w", name, vnet.ErrNotFound)
	}
	return x, nil
}
