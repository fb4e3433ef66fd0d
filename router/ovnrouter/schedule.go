package ovnrouter

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
)

// gatewayAsGW is what hosts that are meant for gateways have in
// ovn-cms-options (ovn-architecture(7) leaves the words to us; these are Neutron's).
const gatewayAsGW = "enable-chassis-as-gw"

// place chooses the chassis of a gateway, the one to prefer first.
func (b *Backend) place(tx *ovn.Tx, routerID string, g *router.Gateway) ([]string, error) {
	south := b.c.Has("Chassis", "")
	if len(g.Hosts) > 0 {
		return resolve(tx, south, g.Hosts), nil
	}
	if len(b.o.GatewayHosts) > 0 {
		return pick(routerID, nil, resolve(tx, south, b.o.GatewayHosts), b.o.MaxGatewayHosts), nil
	}
	if !south {
		return nil, &vnet.UnsupportedError{Feature: "a gateway that names no hosts", Backend: name, Need: "a connection to the Southbound, or Options.GatewayHosts"}
	}
	physical := physicalOf(tx, g.NetworkID)
	var all []candidate
	for c := range ovn.All[sbrow.Chassis](tx) {
		all = append(all, candidateOf(c))
	}
	stands := chassisOf(tx, g.PortID)
	can := fit(all, physical)
	if len(can) == 0 {
		if len(stands) > 0 {
			return stands, nil // nowhere better
		}
		where := "any host"
		if physical != "" {
			where = "a host with physical network " + physical
		}
		return nil, fmt.Errorf("gateway %s: there is no chassis of %s in the Southbound: %w", g.PortID, where, vnet.ErrNotReady)
	}
	return pick(routerID, stands, can, b.o.MaxGatewayHosts), nil
}

// chassisOf are the chassis that a gateway has, the one to prefer first.
func chassisOf(v ovn.Reader, portID string) (out []string) {
	lrp := ovn.Find[nbrow.LogicalRouterPort](v, vnet.PartRouter, kindPort, portID)
	if lrp == nil {
		return nil
	}
	var rows []*nbrow.GatewayChassis
	for _, uuid := range lrp.GatewayChassis {
		if g := ovn.At[nbrow.GatewayChassis](v, uuid); g != nil {
			rows = append(rows, g)
		}
	}
	slices.SortFunc(rows, func(a, b *nbrow.GatewayChassis) int {
		if a.Priority != b.Priority {
			return b.Priority - a.Priority
		}
		return strings.Compare(a.ChassisName, b.ChassisName)
	})
	for _, g := range rows {
		out = append(out, g.ChassisName)
	}
	return out
}

// resolve makes chassis names of chassis names and hostnames. What is unknown,
// it may come later, is taken for a chassis name.
func resolve(v ovn.Reader, south bool, hosts []string) (out []string) {
	for _, h := range hosts {
		if south && len(ovn.By[sbrow.Chassis](v, "name", h)) == 0 {
			if by := ovn.By[sbrow.Chassis](v, "hostname", h); len(by) == 1 {
				h = by[0].Name
			}
		}
		if !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// candidate is a chassis as far as gateways care.
type candidate struct {
	name     string
	physical []string
	meant    bool // for gateways
}

func candidateOf(c *sbrow.Chassis) candidate {
	get := func(key string) string {
		if s, ok := c.OtherConfig[key]; ok {
			return s
		}
		return c.ExternalIDs[key] // before OVN 20.09
	}
	out := candidate{name: c.Name}
	for m := range strings.SplitSeq(get("ovn-bridge-mappings"), ",") {
		if p, _, ok := strings.Cut(strings.TrimSpace(m), ":"); ok {
			out.physical = append(out.physical, p)
		}
	}
	for o := range strings.SplitSeq(get("ovn-cms-options"), ",") {
		out.meant = out.meant || strings.TrimSpace(o) == gatewayAsGW
	}
	return out
}

// fit are the chassis that reach a physical network (any, if that is ""); if
// some of them are meant for gateways, only those.
func fit(all []candidate, physical string) (out []string) {
	var meant []string
	for _, c := range all {
		if physical != "" && !slices.Contains(c.physical, physical) {
			continue
		}
		out = append(out, c.name)
		if c.meant {
			meant = append(meant, c.name)
		}
	}
	if len(meant) > 0 {
		out = meant
	}
	slices.Sort(out)
	return out
}

// pick orders chassis for a router: those that it has stay in their order, as
// long as they are among those that can; others come after them, each router
// having an order of its own (rendezvous hashing), so that routers are spread
// and stay where they are when hosts come and go.
func pick(routerID string, stands, can []string, most int) []string {
	var out []string
	for _, c := range stands {
		if slices.Contains(can, c) {
			out = append(out, c)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(can), func(c string) bool { return slices.Contains(out, c) })
	rank := func(c string) []byte {
		h := sha256.Sum256([]byte(routerID + "\x00" + c))
		return h[:]
	}
	slices.SortFunc(rest, func(a, b string) int { return bytes.Compare(rank(a), rank(b)) })
	out = append(out, rest...)
	return out[:min(most, len(out))]
}
