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
	none := true
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
