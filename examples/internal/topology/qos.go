package topology

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/placement"
)

// policy is a policy of the file as the contract has it.
func (b *builder) policy(p QoSPolicy, path string) qos.Policy {
	out := qos.Policy{ID: p.Name}
	seen := map[string]bool{}
	for i, r := range p.Rules {
		rp := fmt.Sprintf("%s.rules[%d]", path, i)
		d := r.Direction
		if d == "" {
			d = "egress"
		}
		if k := r.Type + " " + d; seen[k] {
			b.bad(rp+".type", "there is another %s of direction %s", r.Type, d)
		} else {
			seen[k] = true
		}
		if d == "any" && r.Type != "minimum_packet_rate" {
			b.bad(rp+".direction", "any is for minimum_packet_rate only")
			continue
		}
		// What belongs to another type would be lost in silence.
		own := map[string][]string{"bandwidth_limit": {"max_kbps", "max_burst_kbps"}, "packet_rate_limit": {"max_kpps", "max_burst_kpps"},
			"dscp_marking": {"dscp_mark"}, "minimum_bandwidth": {"min_kbps"}, "minimum_packet_rate": {"min_kpps"}}[r.Type]
		for _, f := range []struct {
			name string
			set  bool
		}{{"max_kbps", r.MaxKbps > 0}, {"max_burst_kbps", r.MaxBurstKbit > 0}, {"max_kpps", r.MaxKpps != 0}, {"max_burst_kpps", r.MaxBurstKpps != 0},
			{"dscp_mark", r.DSCPMark != nil}, {"min_kbps", r.MinKbps > 0}, {"min_kpps", r.MinKpps != 0}} {
			if f.set && own != nil && !slices.Contains(own, f.name) {
				b.bad(rp+"."+f.name, "is not for %s", r.Type)
			}
		}
		way := &out.Egress
		if d == "ingress" {
			way = &out.Ingress
		}
		missing := func(field string, none bool) {
			if none {
				b.bad(rp, "a %s needs %s", r.Type, field)
			}
		}
		switch r.Type {
		case "bandwidth_limit":
			missing("max_kbps", r.MaxKbps == 0)
			way.Kbps, way.BurstKbit = r.MaxKbps, r.MaxBurstKbit
		case "packet_rate_limit":
			missing("max_kpps", r.MaxKpps == 0)
			way.PPS, way.BurstPackets = b.thousands(r.MaxKpps, rp+".max_kpps"), b.thousands(r.MaxBurstKpps, rp+".max_burst_kpps")
		case "dscp_marking":
			missing("dscp_mark", r.DSCPMark == nil)
			if d != "egress" {
				b.bad(rp+".direction", "only what is sent is marked")
			}
			out.DSCP = r.DSCPMark
		case "minimum_bandwidth":
			missing("min_kbps", r.MinKbps == 0)
			way.MinKbps = r.MinKbps
		case "minimum_packet_rate":
			missing("min_kpps", r.MinKpps == 0)
			n := b.thousands(r.MinKpps, rp+".min_kpps")
			if d == "any" {
				out.MinPPS = n
			} else {
				way.MinPPS = n
			}
		}
	}
	b.contract(path, out.Validate())
	return out
}

func (b *builder) thousands(n float64, path string) uint32 {
	if n < 0 || n*1000 > math.MaxUint32 {
		b.bad(path, "%g is no number of thousands of packets", n)
		return 0
	}
	return uint32(math.Round(n * 1000))
}

// makeQoS resolves who has which policy.
func (b *builder) makeQoS() {
	a := qos.Assignments{Networks: map[string]string{}}
	for i, p := range b.f.QoSPolicies {
		path := fmt.Sprintf("qos_policies[%d]", i)
		if b.claim("QoS policy", p.Name, path) {
			a.Policies = append(a.Policies, b.policy(p, path))
		}
	}
	use := func(id, path string) string {
		if id != "" && b.known("QoS policy", id, path+".qos_policy_id") {
			return id
		}
		return ""
	}
	for i, n := range b.f.Networks {
		if id := use(n.QoSPolicy, fmt.Sprintf("networks[%d]", i)); id != "" {
			a.Networks[n.Name] = id
		}
	}
	for _, h := range b.c.Hosts {
		for _, w := range h.Bandwidths {
			if u := (qos.Uplink{Name: w.PhysicalNW, Kbps: w.EgressKbps, Host: h.Name}); u.Kbps > 0 {
				if u.Name == "" {
					u.Name = qos.Tunnelled
				}
				a.Uplinks = append(a.Uplinks, u)
			}
		}
	}
	for _, p := range b.portList {
		n := b.networks[p.Network]
		if p.server == nil || n == nil {
			use(p.QoSPolicy, p.path)
			continue
		}
		x := qos.AssignedPort{ID: p.Name, NetworkID: n.Name, PolicyID: use(p.QoSPolicy, p.path), Uplink: n.PhysicalNW, Host: p.host}
		if x.Uplink == "" {
			x.Uplink = qos.Tunnelled
		}
		// Where nothing is said of the way out, there is nothing to promise.
		if !slices.ContainsFunc(a.Uplinks, func(u qos.Uplink) bool { return u.Name == x.Uplink && u.Host == x.Host }) || n.Type == "local" || p.direct() {
			x.Uplink = ""
		}
		a.Ports = append(a.Ports, x)
	}
	for i, r := range b.f.Routers {
		if r.Gateway == nil {
			continue
		}
		id := use(r.Gateway.QoSPolicy, fmt.Sprintf("routers[%d].external_gateway_info", i))
		for _, rt := range b.c.All.Router.Routers {
			if rt.ID == r.Name && rt.Gateway != nil {
				a.Gateways = append(a.Gateways, qos.AssignedGateway{RouterID: rt.ID, PortID: rt.Gateway.PortID, NetworkID: rt.Gateway.NetworkID, MAC: rt.Gateway.MAC, PolicyID: id, Host: rt.Host})
			}
		}
	}
	for i, f := range b.f.FloatingIPs {
		path := fmt.Sprintf("floatingips[%d]", i)
		id := use(f.QoSPolicy, path)
		if id != "" && len(f.Forwards) > 0 {
			b.bad(path+".qos_policy_id", "one with port_forwardings has the gateway's")
		}
		for _, x := range b.c.All.Router.FloatingIPs {
			if x.ID != f.Name {
				continue
			}
			for _, rt := range b.c.All.Router.Routers {
				if rt.ID == x.RouterID && rt.Gateway != nil {
					a.FloatingIPs = append(a.FloatingIPs, qos.AssignedFloatingIP{ID: x.ID, RouterID: x.RouterID, PortID: rt.Gateway.PortID, NetworkID: rt.Gateway.NetworkID,
						FloatingIP: x.FloatingIP, FixedPortID: x.PortID, PolicyID: id, Host: rt.Host})
				}
			}
		}
	}
	if len(b.problems) > 0 {
		return
	}
	// The ledger's word is the better one: it knows the line.
	plain := a
	plain.Uplinks, plain.Ports = nil, slices.Clone(a.Ports)
	for i := range plain.Ports {
		plain.Ports[i].Uplink = ""
	}
	s, err := plain.State()
	if err == nil {
		b.promise(s)
		if len(b.problems) > 0 {
			return
		}
		s, err = a.State()
	}
	if err != nil {
		b.contract("", vnet.In("qos", err))
		return
	}
	s.Ports = slices.DeleteFunc(s.Ports, func(p qos.Port) bool {
		x := b.ports[p.ID]
		if !x.direct() {
			return false
		}
		b.rates(x, p.Shape)
		return true
	})
	b.c.All.QoS = s
}

// promise claims all minimum bandwidths in a ledger of the hosts, and reports
// the ports whose host has not so much: what a scheduler does before it starts a
// server.
func (b *builder) promise(s qos.State) {
	ctx := context.Background()
	ledger, err := placement.New(new(placement.Memory), nil)
	if err != nil {
		b.bad("hosts", "%v", err)
		return
	}
	for i, h := range b.c.Hosts {
		host := placement.Host{ID: h.Name, Name: h.Name, Kind: placement.AgentOVS}
		for _, w := range h.Bandwidths {
			host.Devices = append(host.Devices, placement.Device{Name: w.PhysicalNW, PhysicalNetwork: w.PhysicalNW, EgressKbps: int64(w.EgressKbps), IngressKbps: int64(w.IngressKbps)})
		}
		tree, err := placement.HostProviders(host)
		if err == nil {
			err = ledger.EnsureProviders(ctx, false, tree...)
		}
		if cards := b.f.Hosts[i].SRIOVDevices; err == nil && len(cards) > 0 {
			host.Kind, host.Devices, host.VNICTypes = placement.AgentSRIOV, nil, []string{"direct"}
			for _, d := range cards {
				host.Devices = append(host.Devices, placement.Device{Name: d.Name, PhysicalNetwork: d.PhysicalNW, EgressKbps: int64(d.EgressKbps), IngressKbps: int64(d.IngressKbps)})
			}
			if tree, err = placement.HostProviders(host); err == nil {
				err = ledger.EnsureProviders(ctx, false, tree...)
			}
		}
		if err != nil {
			b.contract(fmt.Sprintf("hosts[%d]", i), err)
			return
		}
	}
	for _, p := range s.Ports {
		n := b.networks[b.ports[p.ID].Network]
		r, asks, err := placement.PortRequest(placement.Port{ID: p.ID, PhysicalNetwork: n.PhysicalNW, EgressKbps: int64(p.Egress.MinKbps), IngressKbps: int64(p.Ingress.MinKbps),
			VNICType: b.ports[p.ID].VNICType})
		if err == nil && asks {
			r.Hosts = []string{p.Host}
			_, err = ledger.Claim(ctx, p.ID, r)
		}
		switch {
		case errors.Is(err, vnet.ErrConflict):
			way := "tunnels"
			if n.PhysicalNW != "" {
				way = "physical network " + n.PhysicalNW
			}
			b.bad(b.ports[p.ID].path, "host %q has not the minimum bandwidth that port %q asks for (egress %d kbit/s, ingress %d kbit/s) left on its way to %s", p.Host, p.ID, p.Egress.MinKbps, p.Ingress.MinKbps, way)
		case err != nil:
			b.contract(b.ports[p.ID].path, err)
		}
	}
}
