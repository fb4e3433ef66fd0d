package linuxrouter

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// Explain implements [router.Explainer]: down to the namespace, devices,
// addresses, routes and map elements.
func (b *Backend) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	if kind == "router" {
		return b.explainRouter(ctx, id)
	}
	all, err := b.h.Namespaces(ctx, vnet.PartRouter)
	if err != nil {
		return x, err
	}
	for _, r := range all {
		n, err := b.standingNAT(ctx, r)
		if err != nil {
			return x, err
		}
		where := fmt.Sprintf("table %s in namespace %s", table, b.h.NetnsName(vnet.PartRouter, r))
		for _, f := range n.fips {
			if kind == "floatingip" && f.ID == id {
				x.Text = fmt.Sprintf("floating IP %s on router %s, host %s", id, r, b.h.Name())
				x.Add(where)
				x.Add(fmt.Sprintf("map %s: %s : %s (destination, to the port)", dnatMap.Name, f.FloatingIP, f.FixedIP))
				x.Add(fmt.Sprintf("map %s: %s : %s (source, from the port)", snatMap.Name, f.FixedIP, f.FloatingIP))
				if g := b.routers[r].Gateway; g != nil {
					x.Add(fmt.Sprintf("address %s/32 of the gateway device %s", f.FloatingIP, b.inner(g.PortID)))
				}
				return x, nil
			}
		}
		for _, f := range n.forwards {
			if kind == "portforward" && f.ID == id {
				x.Text = fmt.Sprintf("port forward %s on router %s, host %s", id, r, b.h.Name())
				x.Add(where)
				x.Add(fmt.Sprintf("map %s: %s %s ports %d-%d to %s ports %d-%d", portsMap.Name, f.ExternalIP, f.Protocol,
					f.ExternalPort.First, f.ExternalPort.Last, f.InternalIP, f.InternalPort.First, f.InternalPort.Last))
				return x, nil
			}
		}
	}
	return x, fmt.Errorf("%s %s on host %s: %w", kind, id, b.h.Name(), vnet.ErrNotFound)
}

func (b *Backend) explainRouter(ctx context.Context, id string) (x vnet.Explanation, err error) {
	ns, stands, err := b.namespace(ctx, id)
	if err != nil {
		return x, err
	}
	if !stands {
		return x, fmt.Errorf("router %s on host %s: %w", id, b.h.Name(), vnet.ErrNotFound)
	}
	x.Text = fmt.Sprintf("router %s on host %s: namespace %s", id, b.h.Name(), ns.Name())
	links, err := ns.RTNL().Links()
	if err != nil {
		return x, err
	}
	for _, l := range links {
		part, kind, pid, ok := b.h.ParseAlias(l.Alias)
		if !ok || part != vnet.PartRouter {
			continue
		}
		d := x.Add(fmt.Sprintf("%s %s: device %s, mac %s, mtu %d, to %s on the host", kind, pid, l.Name, l.MAC, l.MTU, b.outer(pid)))
		addrs, err := ns.RTNL().Addrs(l.Name)
		if err != nil {
			return x, err
		}
		for i, a := range addrs {
			if i == 16 {
				d.Add(fmt.Sprintf("and %d more addresses", len(addrs)-i))
				break
			}
			d.Add("address " + a.Prefix.String())
		}
	}
	routes, err := ns.RTNL().Routes(0)
	if err != nil {
		return x, err
	}
	for _, r := range routes {
		if r.Protocol == rtnl.ProtoVnet {
			x.Add(fmt.Sprintf("route %s via %s %v", r.Dst, r.Via, r.More))
		}
	}
	n, err := b.standingNAT(ctx, id)
	if err != nil {
		return x, err
	}
	x.Add(fmt.Sprintf("table %s: %d floating IPs, %d port forwards", table, len(n.fips), len(n.forwards)))
	return x, nil
}
