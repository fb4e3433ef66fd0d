package ovsrouter

import (
	"context"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
)

// controllerID is that of the handle's connection.
const controllerID = ovs.ControllerID

// Explain implements [router.Explainer]: down to the flows.
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	_, err = b.sw.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		w := &work{b: b, tx: tx}
		missing := fmt.Errorf("%s %s on host %s: %w", kind, id, b.sw.Name(), vnet.ErrNotFound)
		o, ok := tx.Get(kind, id)
		if !ok {
			return missing
		}
		switch kind {
		case kindRouter:
			return w.explainRouter(&x, o)
		case kindFIP:
			f, err := read[fip](o.Record)
			if err != nil {
				return err
			}
			x.Text = fmt.Sprintf("floating IP %s on router %s, host %s: %s for %s, translated %s", id, f.RouterID, b.sw.Name(), f.FloatingIP.FloatingIP, f.FixedIP,
				map[string]string{atHome: "at the router's home", atEdge: "here, where its port is", elsewhere: "on the host of its port", standby: "where the router is at home"}[f.Here])
			if r, err := one[router.Router](w, kindRouter, f.RouterID); err == nil && r != nil && r.Gateway != nil {
				w.explainFlows(&x, kindExternal, externalID(*r, f.FloatingIP.FloatingIP))
			}
			w.explainFlows(&x, kindFixed, fixedID(f.RouterID, f.FixedIP))
		case kindForward:
			f, err := read[router.PortForward](o.Record)
			if err != nil {
				return err
			}
			x.Text = fmt.Sprintf("port forward %s on router %s, host %s: %s %s ports %d-%d to %s ports %d-%d", id, f.RouterID, b.sw.Name(), f.ExternalIP, f.Protocol,
				f.ExternalPort.First, f.ExternalPort.Last, f.InternalIP, f.InternalPort.First, f.InternalPort.Last)
			w.explainFlows(&x, kindForward, id)
			if r, err := one[router.Router](w, kindRouter, f.RouterID); err == nil && r != nil && r.Gateway != nil {
				w.explainFlows(&x, kindExternal, externalID(*r, f.ExternalIP))
			}
		default:
			return missing
		}
		return nil
	})
	return x, err
}

func (w *work) explainRouter(x *vnet.Explanation, o ovs.Object) error {
	r, err := read[router.Router](o.Record)
	if err != nil {
		return err
	}
	s, err := w.site(r)
	if err != nil {
		return err
	}
	where := "a short cut to host " + r.Host
	switch {
	case s.home:
		where = "at home"
	case s.at != nil && *s.at == "":
		where = "at home nowhere"
	case s.at != nil:
		where = "a short cut to host " + *s.at
	}
	if s.at != nil {
		where += fmt.Sprintf(" (of %s)", strings.Join(candidates(r), ", "))
	}
	x.Text = fmt.Sprintf("router %s on host %s: %s, number %d (register 4)", r.ID, w.b.sw.Name(), where, s.number)
	for _, p := range sides(r) {
		kind := "interface"
		if p.gateway {
			kind = "gateway"
		}
		x.Add(fmt.Sprintf("%s %s: network %s, number %d (register 1), mac %s, addresses %v", kind, p.id, p.network, s.nets[p.network], p.mac, p.addrs))
	}
	if s.home && r.Gateway != nil {
		dnat, snat := pipeline.ZonesOfRouter(s.number)
		x.Add(fmt.Sprintf("conntrack zones: %d (destinations), %d (sources)", dnat, snat))
	}
	w.explainFlows(x, kindRouter, r.ID)
	w.explainFlows(x, kindBase, kindBase)
	return nil
}

// explainFlows adds an object's flows.
func (w *work) explainFlows(x *vnet.Explanation, kind, id string) {
	o, ok := w.tx.Get(kind, id)
	if !ok {
		return
	}
	what := strings.TrimSpace(kind + " " + id)
	if kind == kindBase {
		x.Add(fmt.Sprintf("%d flows that all routers share", len(o.Flows)))
		return
	}
	y := x.Add(fmt.Sprintf("%s: %d flows, cookie %#x", what, len(o.Flows), w.b.sw.Cookie(vnet.PartRouter, kind, id)))
	for i := range o.Flows {
		f := o.Flows[i]
		f.Cookie = 0
		y.Add(f.String())
	}
}
