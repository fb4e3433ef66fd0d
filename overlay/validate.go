package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Tunnel reports whether frames of the type cross the underlay in tunnels.
func (t SegmentType) Tunnel() bool { return t == VXLAN || t == Geneve }

// Physical reports whether segments of the type are on a physical network.
func (t SegmentType) Physical() bool { return t == Flat || t == VLAN }

// MaxID is the highest segment id of the type, and 0 for those that have none.
// IEEE 802.1Q reserves VLAN 4095; VNIs have 24 bits (RFC 7348, RFC 8926).
func (t SegmentType) MaxID() uint32 {
	switch t {
	case VLAN:
		return 4094
	case VXLAN, Geneve:
		return 1<<24 - 1
	}
	return 0
}

// Validate returns what is wrong with s as [*vnet.FieldError]s, joined.
func (s Segment) Validate() error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	switch s.Type {
	case Local, Flat, VLAN, VXLAN, Geneve:
	case "":
		return &vnet.FieldError{Field: "type", Reason: "is empty"}
	default:
		return &vnet.FieldError{Field: "type", Value: string(s.Type), Reason: "is none of local, flat, vlan, vxlan, geneve"}
	}
	if s.Type.Physical() && s.PhysicalNetwork == "" {
		errs = append(errs, &vnet.FieldError{Field: "physical_network", Reason: "is missing, and " + string(s.Type) + " segments are on one"})
	}
	if !s.Type.Physical() && s.PhysicalNetwork != "" {
		bad("physical_network", s.PhysicalNetwork, "is given, and "+string(s.Type)+" segments are on none")
	}
	if most := s.Type.MaxID(); most == 0 && s.ID != 0 {
		bad("id", s.ID, "is given, and "+string(s.Type)+" segments have none")
	} else if most != 0 && (s.ID == 0 || s.ID > most) {
		bad("id", s.ID, fmt.Sprintf("is not 1 to %d", most))
	}
	return errors.Join(errs...)
}

func (s Segment) String() string {
	out := string(s.Type)
	if s.PhysicalNetwork != "" {
		out += " on " + s.PhysicalNetwork
	}
	if s.ID != 0 {
		out += fmt.Sprintf(" %d", s.ID)
	}
	return out
}

// Validate returns what is wrong with n as [*vnet.FieldError]s, joined.
func (n Network) Validate() error {
	errs := []error{vnet.CheckID("id", n.ID), vnet.In("segment", n.Segment.Validate())}
	ids := map[string]bool{}
	for i, s := range n.Subnets {
		at := fmt.Sprintf("subnets[%d]", i)
		if s.ID != "" && ids[s.ID] {
			errs = append(errs, &vnet.FieldError{Field: at + ".id", Value: s.ID, Reason: "is there twice"})
		}
		ids[s.ID] = true
		errs = append(errs, vnet.In(at, s.Validate()))
		for j, o := range n.Subnets[:i] {
			if s.CIDR.IsValid() && o.CIDR.IsValid() && s.CIDR.Overlaps(o.CIDR) {
				errs = append(errs, &vnet.FieldError{Field: at + ".cidr", Value: s.CIDR.String(), Reason: fmt.Sprintf("overlaps subnets[%d]", j)})
			}
		}
	}
	if least := n.leastMTU(); n.MTU != 0 && (n.MTU < least || n.MTU > 65535) {
		errs = append(errs, &vnet.FieldError{Field: "mtu", Value: fmt.Sprint(n.MTU), Reason: fmt.Sprintf("is not %d to 65535", least)})
	}
	return errors.Join(errs...)
}

// leastMTU is what the network's subnets need.
func (n Network) leastMTU() int {
	if slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.CIDR.IsValid() && s.CIDR.Addr().Is6() }) {
		return 1280 // RFC 8200, section 5
	}
	return 68 // RFC 791
}

// Validate returns what is wrong with s as [*vnet.FieldError]s, joined.
func (s Subnet) Validate() error {
	var errs []error
	if s.ID != "" {
		errs = append(errs, vnet.CheckID("id", s.ID))
	}
	switch {
	case !s.CIDR.IsValid():
		errs = append(errs, &vnet.FieldError{Field: "cidr", Reason: "is missing"})
	case s.CIDR.Addr().Is4In6():
		errs = append(errs, &vnet.FieldError{Field: "cidr", Value: s.CIDR.String(), Reason: "is an IPv4-mapped IPv6 prefix"})
	case s.CIDR.Addr().IsMulticast():
		errs = append(errs, &vnet.FieldError{Field: "cidr", Value: s.CIDR.String(), Reason: "is multicast"})
	case s.CIDR.Masked() != s.CIDR:
		errs = append(errs, &vnet.FieldError{Field: "cidr", Value: s.CIDR.String(), Reason: "has host bits; did you mean " + s.CIDR.Masked().String() + "?"})
	case s.Gateway.IsValid() && s.Gateway.Is4() != s.CIDR.Addr().Is4():
		errs = append(errs, &vnet.FieldError{Field: "gateway", Value: s.Gateway.String(), Reason: "is of another family than the subnet"})
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with p as [*vnet.FieldError]s, joined.
// Whether its addresses are of its network is [State.Validate]'s to see.
func (p Port) Validate() error {
	errs := []error{vnet.CheckID("id", p.ID), vnet.CheckID("network_id", p.NetworkID), checkMAC(p.MAC)}
	errs = append(errs, checkIPs("fixed_ips", p.FixedIPs)...)
	return errors.Join(errs...)
}

// Validate returns what is wrong with p as [*vnet.FieldError]s, joined.
func (p RemotePort) Validate() error {
	errs := []error{vnet.CheckID("id", p.ID), vnet.CheckID("network_id", p.NetworkID), checkMAC(p.MAC)}
	errs = append(errs, checkIPs("ips", p.IPs)...)
	switch e := p.Endpoint; {
	case !e.IsValid():
		errs = append(errs, &vnet.FieldError{Field: "endpoint", Reason: "is missing"})
	case e.IsUnspecified() || e.IsMulticast() || e.Is4In6():
		errs = append(errs, &vnet.FieldError{Field: "endpoint", Value: e.String(), Reason: "is not a unicast address"})
	}
	return errors.Join(errs...)
}

func checkMAC(m MAC) error {
	switch {
	case m.IsZero():
		return &vnet.FieldError{Field: "mac", Reason: "is missing"}
	case !m.IsUnicast():
		return &vnet.FieldError{Field: "mac", Value: m.String(), Reason: "is a group address"}
	}
	return nil
}

func checkIPs(field string, ips []netip.Addr) (errs []error) {
	for i, a := range ips {
		reason := ""
		switch {
		case !a.IsValid():
			reason = "is missing"
		case a.Is4In6():
			reason = "is an IPv4-mapped IPv6 address"
		case a.Zone() != "":
			reason = "has a zone"
		case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			reason = "is not a unicast address"
		case slices.Contains(ips[:i], a):
			reason = "is there twice"
		default:
			continue
		}
		v := ""
		if a.IsValid() {
			v = a.String()
		}
		errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s[%d]", field, i), Value: v, Reason: reason})
	}
	return errs
}

// Validate returns all that is wrong with s: its objects, ids that are there
// twice, ports on networks that are not there, two networks on one segment,
// and MACs and addresses that two ports of a network have.
func (s State) Validate() error {
	var errs []error
	nets := map[string]*Network{}
	segments := map[Segment]string{}
	for i := range s.Networks {
		n := &s.Networks[i]
		at := fmt.Sprintf("networks[%d]", i)
		errs = append(errs, vnet.In(at, n.Validate()))
		if nets[n.ID] != nil {
			errs = append(errs, twice(at+".id", n.ID))
		}
		nets[n.ID] = n
		if n.Segment.Type != Local {
			if other, ok := segments[n.Segment]; ok {
				errs = append(errs, &vnet.FieldError{Field: at + ".segment", Value: n.Segment.String(), Reason: "is that of network " + other})
			}
			segments[n.Segment] = n.ID
		}
	}
	type key struct{ net, what string }
	seen := map[key]string{}
	ids := map[string]bool{}
	check := func(at, id, network string, mac MAC, field string, ips []netip.Addr) {
		if ids[id] {
			errs = append(errs, twice(at+".id", id))
		}
		ids[id] = true
		n := nets[network]
		if n == nil {
			errs = append(errs, &vnet.FieldError{Field: at + ".network_id", Value: network, Reason: "is no network of the state"})
			return
		}
		one := func(field, value string) {
			if other, ok := seen[key{network, value}]; ok {
				errs = append(errs, &vnet.FieldError{Field: at + "." + field, Value: value, Reason: "is that of port " + other})
				return
			}
			seen[key{network, value}] = id
		}
		one("mac", mac.String())
		for i, a := range ips {
			f := fmt.Sprintf("%s[%d]", field, i)
			if !a.IsValid() {
				continue
			}
			one(f, a.String())
			if len(n.Subnets) > 0 && !slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.CIDR.Contains(a) }) {
				errs = append(errs, &vnet.FieldError{Field: at + "." + f, Value: a.String(), Reason: "is in no subnet of network " + network})
			}
		}
	}
	for i, p := range s.Ports {
		at := fmt.Sprintf("ports[%d]", i)
		errs = append(errs, vnet.In(at, p.Validate()))
		check(at, p.ID, p.NetworkID, p.MAC, "fixed_ips", p.FixedIPs)
	}
	for i, p := range s.RemotePorts {
		at := fmt.Sprintf("remote_ports[%d]", i)
		errs = append(errs, vnet.In(at, p.Validate()))
		// Remote addresses may be shared (an allowed pair of two ports), so only
		// id, network and MAC are checked.
		check(at, p.ID, p.NetworkID, p.MAC, "ips", nil)
	}
	return errors.Join(errs...)
}

func twice(field, id string) error {
	return &vnet.FieldError{Field: field, Value: id, Reason: "is there twice"}
}

// Clone returns a deep copy.
func (n Network) Clone() Network { n.Subnets = slices.Clone(n.Subnets); return n }

// Clone returns a deep copy.
func (p Port) Clone() Port { p.FixedIPs = slices.Clone(p.FixedIPs); return p }

// Clone returns a deep copy.
func (p RemotePort) Clone() RemotePort { p.IPs = slices.Clone(p.IPs); return p }

// Clone returns a deep copy.
func (s State) Clone() State {
	return State{clones(s.Networks, Network.Clone), clones(s.Ports, Port.Clone), clones(s.RemotePorts, RemotePort.Clone)}
}

func clones[T any](in []T, f func(T) T) []T {
	if in == nil {
		return nil
	}
	out := make([]T, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}

// Canonical returns n in the form backends get: subnets sorted by prefix.
func (n Network) Canonical() Network {
	n = n.Clone()
	slices.SortFunc(n.Subnets, func(a, b Subnet) int { return a.CIDR.Compare(b.CIDR) })
	return n
}

// Canonical returns p in the form backends get: addresses sorted.
func (p Port) Canonical() Port {
	p = p.Clone()
	slices.SortFunc(p.FixedIPs, netip.Addr.Compare)
	return p
}

// Canonical returns p in the form backends get: addresses sorted.
func (p RemotePort) Canonical() RemotePort {
	p = p.Clone()
	slices.SortFunc(p.IPs, netip.Addr.Compare)
	return p
}

// Canonical returns s in the form backends get: every list sorted by id.
func (s State) Canonical() State {
	out := State{clones(s.Networks, Network.Canonical), clones(s.Ports, Port.Canonical), clones(s.RemotePorts, RemotePort.Canonical)}
	slices.SortFunc(out.Networks, func(a, b Network) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(out.Ports, func(a, b Port) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(out.RemotePorts, func(a, b RemotePort) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Equal reports whether n and o mean the same.
func (n Network) Equal(o Network) bool {
	n, o = n.Canonical(), o.Canonical()
	return n.ID == o.ID && n.Segment == o.Segment && n.MTU == o.MTU && n.Flooding == o.Flooding && n.AdminDown == o.AdminDown && slices.Equal(n.Subnets, o.Subnets)
}

// Equal reports whether p and o mean the same.
func (p Port) Equal(o Port) bool {
	p, o = p.Canonical(), o.Canonical()
	return p.ID == o.ID && p.NetworkID == o.NetworkID && p.MAC == o.MAC && p.AdminDown == o.AdminDown && p.Filtered == o.Filtered && p.Host == o.Host && slices.Equal(p.FixedIPs, o.FixedIPs)
}

// Equal reports whether p and o mean the same.
func (p RemotePort) Equal(o RemotePort) bool {
	p, o = p.Canonical(), o.Canonical()
	return p.ID == o.ID && p.NetworkID == o.NetworkID && p.MAC == o.MAC && p.Endpoint == o.Endpoint && slices.Equal(p.IPs, o.IPs)
}

// Validate returns what is wrong with a as [*vnet.FieldError]s, joined.
func (a Attachment) Validate() error {
	errs := []error{vnet.CheckID("port_id", a.PortID)}
	name := func() {
		if len(a.Name) > 15 || strings.ContainsAny(a.Name, "/ \t\n:") || a.Name == "." || a.Name == ".." {
			errs = append(errs, &vnet.FieldError{Field: "name", Value: a.Name, Reason: "is not a device name (at most 15 characters, no space, slash or colon)"})
		}
	}
	switch a.Kind {
	case Existing:
		if a.Name == "" {
			errs = append(errs, &vnet.FieldError{Field: "name", Reason: "is missing: which device?"})
		}
		name()
		if a.Netns != "" {
			errs = append(errs, &vnet.FieldError{Field: "netns", Value: a.Netns, Reason: "is for veth only"})
		}
	case Veth:
		name()
		if a.Netns == "" {
			errs = append(errs, &vnet.FieldError{Field: "netns", Reason: "is missing: where does the far end go?"})
		}
	case Tap:
		if a.Name != "" {
			errs = append(errs, &vnet.FieldError{Field: "name", Value: a.Name, Reason: "is chosen by Plug for a tap"})
		}
		if a.Netns != "" {
			errs = append(errs, &vnet.FieldError{Field: "netns", Value: a.Netns, Reason: "is for veth only"})
		}
	case VhostUserClient, VhostUserServer:
		if a.Name != "" {
			errs = append(errs, &vnet.FieldError{Field: "name", Value: a.Name, Reason: "is chosen by Plug for vhost-user"})
		}
		if a.Netns != "" {
			errs = append(errs, &vnet.FieldError{Field: "netns", Value: a.Netns, Reason: "is for veth only"})
		}
		if a.Kind == VhostUserClient && (!strings.HasPrefix(a.Socket, "/") || len(a.Socket) > 107) {
			errs = append(errs, &vnet.FieldError{Field: "socket", Value: a.Socket, Reason: "is not an absolute path of at most 107 characters"})
		}
	default:
		errs = append(errs, &vnet.FieldError{Field: "kind", Value: string(a.Kind), Reason: "is none of existing, veth, tap, vhostuser-client, vhostuser-server"})
	}
	if a.Kind != VhostUserClient && a.Socket != "" {
		errs = append(errs, &vnet.FieldError{Field: "socket", Value: a.Socket, Reason: "is for vhostuser-client only"})
	}
	return errors.Join(errs...)
}
