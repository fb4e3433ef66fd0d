package qos

import (
	"net/netip"

	"github.com/vnet-go/vnet"
)

// Assignments says who has which policy, as an application's database does.
type Assignments struct {
	Policies []Policy `json:"policies,omitempty"`
	// Networks maps a network to its policy: that of its ports, gateways and
	// floating IPs without one of their own.
	Networks    map[string]string    `json:"networks,omitempty"`
	Ports       []AssignedPort       `json:"ports,omitempty"`
	Gateways    []AssignedGateway    `json:"gateways,omitempty"`
	FloatingIPs []AssignedFloatingIP `json:"floating_ips,omitempty"`
	Uplinks     []Uplink             `json:"uplinks,omitempty"`
}

// AssignedPort is a port and the policy that it has, if it has one of its own.
type AssignedPort struct {
	ID        string `json:"id"`
	NetworkID string `json:"network_id"`
	PolicyID  string `json:"policy_id,omitempty"`
	// NetworkOwned: a router's, DHCP server's or other port of the network
	// itself, which the network's policy is not meant for.
	NetworkOwned bool   `json:"network_owned,omitempty"`
	Uplink       string `json:"uplink,omitempty"` // as in [Port]; left out for a port without a minimum
	Host         string `json:"host,omitempty"`
}

// AssignedGateway is a router's gateway and the policy of its own, if any.
type AssignedGateway struct {
	RouterID  string   `json:"router_id"`
	PortID    string   `json:"port_id"`
	NetworkID string   `json:"network_id"`
	MAC       vnet.MAC `json:"mac,omitzero"` // as in [Gateway]
	PolicyID  string   `json:"policy_id,omitempty"`
	Host      string   `json:"host,omitempty"`
}

// AssignedFloatingIP is a floating IP and the policy of its own, if any.
type AssignedFloatingIP struct {
	ID          string     `json:"id"`
	RouterID    string     `json:"router_id"`
	PortID      string     `json:"port_id"`
	NetworkID   string     `json:"network_id"`
	FloatingIP  netip.Addr `json:"floating_ip"`
	FixedPortID string     `json:"fixed_port_id,omitempty"`
	PolicyID    string     `json:"policy_id,omitempty"`
	Host        string     `json:"host,omitempty"`
}

// State resolves a: what every port, gateway and floating IP may do. Errors
// are [*vnet.FieldError]: bad policies, policies that are there twice or not at
// all, and what [State.Validate] finds.
func (a Assignments) State() (State, error) {
	var s State
	var e fields
	policies := map[string]Policy{}
	for i, p := range a.Policies {
		e.add(at("policies", i), p.Validate())
		_, twice := policies[p.ID]
		e.is(twice, at("policies", i)+".id", p.ID, "is there twice")
		policies[p.ID] = p
	}
	for n, p := range a.Networks {
		_, ok := policies[p]
		e.is(!ok, "networks["+n+"]", p, "is no policy")
	}
	shape := func(list string, i int, own, network string) Shape {
		p, ok := policies[own]
		switch {
		case own == "":
			p = policies[a.Networks[network]]
		case !ok:
			e.add(at(list, i), &vnet.FieldError{Field: "policy_id", Value: own, Reason: "is no policy"})
		}
		return p.Shape.Clone()
	}
	for i, p := range a.Ports {
		network := p.NetworkID
		if p.NetworkOwned {
			network = ""
		}
		q := Port{ID: p.ID, Shape: shape("ports", i, p.PolicyID, network), Host: p.Host}
		if q.Egress.MinKbps > 0 {
			q.Uplink = p.Uplink
		}
		s.Ports = append(s.Ports, q)
	}
	for i, g := range a.Gateways {
		s.Gateways = append(s.Gateways, Gateway{RouterID: g.RouterID, PortID: g.PortID, NetworkID: g.NetworkID, MAC: g.MAC, Host: g.Host,
			Shape: shape("gateways", i, g.PolicyID, g.NetworkID)})
	}
	for i, f := range a.FloatingIPs {
		s.FloatingIPs = append(s.FloatingIPs, FloatingIP{ID: f.ID, RouterID: f.RouterID, PortID: f.PortID, NetworkID: f.NetworkID,
			FloatingIP: f.FloatingIP, FixedPortID: f.FixedPortID, Host: f.Host, Shape: shape("floating_ips", i, f.PolicyID, f.NetworkID)})
	}
	s.Uplinks = append(s.Uplinks, a.Uplinks...)
	e.add("", s.Validate())
	if err := e.err(); err != nil {
		return State{}, err
	}
	return s.Canonical(), nil
}
