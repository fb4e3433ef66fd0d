package ovnrouter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
)

// Explain implements [router.Explainer]: down to the Northbound rows, and to
// the chassis that the Southbound has the gateway on.
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	v, err := b.c.View(ctx)
	if err != nil {
		return x, err
	}
	missing := fmt.Errorf("%s %s: %w", kind, id, vnet.ErrNotFound)
	switch kind {
	case "router":
		s, ok := standingRouter(v, id)
		if !ok {
			return x, missing
		}
		return b.explainRouter(v, s), nil
	case "floatingip":
		n := ovn.Find[nbrow.NAT](v, vnet.PartRouter, kindFloating, id)
		if n == nil {
			return x, missing
		}
		lr := ovn.Holder[nbrow.LogicalRouter](v, n)
		x.Text = fmt.Sprintf("floating IP %s on %s", id, routerText(lr))
		y := x.Add(natText(n))
		if n.ExternalMAC != nil {
			y.Add("translated on the host of port " + *n.LogicalPort + ", as " + *n.ExternalMAC)
			if b.c.Has("Port_Binding", "") {
				y.Add(boundText(v, *n.LogicalPort))
			}
		} else {
			y.Add("translated where the gateway is")
			if n.ExternalIDs[keyMAC] != "" && n.LogicalPort != nil {
				y.Add("not on the host of its port: ports are forwarded to the same address")
			}
			b.explainGateway(v, y, lr)
		}
		return x, nil
	}
	lb := ovn.Find[nbrow.LoadBalancer](v, vnet.PartRouter, kindForward, id)
	f, ok := forwardOf(lb)
	if !ok {
		return x, missing
	}
	s, ok := standingRouter(v, f.RouterID)
	if !ok {
		return x, fmt.Errorf("router %s of it: %w", f.RouterID, vnet.ErrNotFound)
	}
	x.Text = fmt.Sprintf("port forward %s on %s", id, routerText(s.row))
	y := x.Add(fmt.Sprintf("Load_Balancer %s %s, %s, options %s", lb.UUID, lb.Name, *lb.Protocol, mapText(lb.Options)))
	for i, vip := range sorted(lb.Vips) {
		if i == 16 {
			y.Add(fmt.Sprintf("and %d more", len(lb.Vips)-i))
			break
		}
		y.Add(fmt.Sprintf("vips: %s to %s", vip, lb.Vips[vip]))
	}
	x.Add(fmt.Sprintf("on Logical_Router %s: %t", s.row.Name, slices.Contains(s.row.LoadBalancer, lb.UUID)))
	for _, n := range s.networks() {
		if sw := switchOf(v, n); sw != nil {
			x.Add(fmt.Sprintf("on Logical_Switch %s: %t", sw.Name, slices.Contains(sw.LoadBalancer, lb.UUID)))
		}
	}
	b.explainGateway(v, &x, s.row)
	return x, nil
}

func (b *Backend) explainRouter(v *ovn.View, s standing) (x vnet.Explanation) {
	x.Text = fmt.Sprintf("router %s: %s, options %s", s.r.ID, routerText(s.row), mapText(s.row.Options))
	if s.row.Enabled != nil && !*s.row.Enabled {
		x.Add("enabled: false, it forwards nothing")
	}
	for _, uuid := range s.row.Ports {
		id, ok := own[nbrow.LogicalRouterPort](v, uuid, kindPort)
		if !ok {
			continue
		}
		p := ovn.At[nbrow.LogicalRouterPort](v, uuid)
		what := "interface"
		if _, is := p.ExternalIDs[keyGateway]; is {
			what = "gateway"
		}
		y := x.Add(fmt.Sprintf("%s %s: Logical_Router_Port %s %s, mac %s, networks %s, options %s", what, id, p.UUID, p.Name, p.MAC, strings.Join(p.Networks, " "), mapText(p.Options)))
		if lsp := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartRouter, kindPort, id); lsp != nil {
			y.Add(fmt.Sprintf("Logical_Switch_Port %s %s of network %s, options %s", lsp.UUID, lsp.Name, networkOf(v, id), mapText(lsp.Options)))
		}
		if len(p.Ipv6RaConfigs) > 0 {
			y.Add("ipv6_ra_configs " + mapText(p.Ipv6RaConfigs))
		}
		for _, c := range chassisOf(v, id) {
			y.Add("gateway_chassis: " + c)
		}
	}
	b.explainGateway(v, &x, s.row)
	for _, uuid := range s.row.StaticRoutes {
		if r := ovn.At[nbrow.LogicalRouterStaticRoute](v, uuid); r != nil {
			x.Add(fmt.Sprintf("Logical_Router_Static_Route %s: %s via %s", r.UUID, r.IPPrefix, r.Nexthop))
		}
	}
	for i, uuid := range s.row.Nat {
		if i == 16 {
			x.Add(fmt.Sprintf("and %d more rows of NAT", len(s.row.Nat)-i))
			break
		}
		if n := ovn.At[nbrow.NAT](v, uuid); n != nil {
			x.Add(natText(n))
		}
	}
	for _, f := range s.forwards(v) {
		x.Add("Load_Balancer of port forward " + f.ID)
	}
	return x
}

// explainGateway says on which chassis a router's gateway is.
func (b *Backend) explainGateway(v *ovn.View, x *vnet.Explanation, lr *nbrow.LogicalRouter) {
	if lr == nil || !b.c.Has("Port_Binding", "") {
		return
	}
	for _, uuid := range lr.Ports {
		if p := ovn.At[nbrow.LogicalRouterPort](v, uuid); p != nil && len(p.GatewayChassis) > 0 {
			x.Add(boundText(v, "cr-"+p.Name))
		}
	}
}

// boundText says where the Southbound has a port.
func boundText(v *ovn.View, port string) string {
	rows := ovn.By[sbrow.PortBinding](v, "logical_port", port) // one at the most: it is an index
	if len(rows) == 0 {
		return "Southbound Port_Binding " + port + ": none yet"
	}
	where := "no chassis"
	if rows[0].Chassis != nil {
		if c := ovn.At[sbrow.Chassis](v, *rows[0].Chassis); c != nil {
			where = fmt.Sprintf("chassis %s (%s)", c.Name, c.Hostname)
		}
	}
	return fmt.Sprintf("Southbound Port_Binding %s: on %s", port, where)
}

func routerText(lr *nbrow.LogicalRouter) string {
	if lr == nil {
		return "no router"
	}
	return fmt.Sprintf("Logical_Router %s %s", lr.UUID, lr.Name)
}

func natText(n *nbrow.NAT) string {
	s := fmt.Sprintf("NAT %s: %s, external_ip %s, logical_ip %s", n.UUID, n.Type, n.ExternalIP, n.LogicalIP)
	if n.LogicalPort != nil {
		s += ", logical_port " + *n.LogicalPort
	}
	if n.ExternalMAC != nil {
		s += ", external_mac " + *n.ExternalMAC
	}
	if n.AllowedExtIPs != nil {
		s += ", only to its own floating IPs (allowed_ext_ips)"
	}
	return s
}

func sorted(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func mapText(m map[string]string) string {
	var out []string
	for _, k := range sorted(m) {
		out = append(out, k+"="+m[k])
	}
	return "{" + strings.Join(out, ", ") + "}"
}
