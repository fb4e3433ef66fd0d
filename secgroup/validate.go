package secgroup

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vnet-go/vnet"
)

// Validate reports what is wrong with g, as [*vnet.FieldError] values joined
// by [errors.Join].
func (g Group) Validate() error {
	errs := []error{vnet.CheckID("id", g.ID)}
	seen := make(map[string]int, len(g.Rules))
	for i, r := range g.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		errs = append(errs, vnet.In(at, r.Validate()))
		if j, dup := seen[r.ID]; dup && r.ID != "" {
			errs = append(errs, &vnet.FieldError{Field: at + ".id", Value: r.ID, Reason: fmt.Sprintf("is that of rules[%d] too", j)})
		}
		seen[r.ID] = i
	}
	return errors.Join(errs...)
}

// Validate reports what is wrong with r.
func (r Rule) Validate() error {
	errs := []error{vnet.CheckID("id", r.ID)}
	bad := func(field, value, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: value, Reason: reason})
	}
	if r.Direction != Ingress && r.Direction != Egress {
		bad("direction", string(r.Direction), `is neither "ingress" nor "egress"`)
	}
	if r.Ethertype != IPv4 && r.Ethertype != IPv6 {
		bad("ethertype", string(r.Ethertype), `is neither "IPv4" nor "IPv6"`)
	}
	n, ok := ProtocolNumber(r.Protocol, r.Ethertype)
	switch name := strings.ToLower(r.Protocol); {
	case !ok:
		bad("protocol", r.Protocol, "is neither a known name nor a number from 0 to 255")
	case r.Ethertype == IPv4 && n == protoICMPv6, r.Ethertype == IPv4 && strings.HasPrefix(name, "ipv6-") && name != "ipv6-encap":
		bad("protocol", r.Protocol, "is of IPv6, the rule is of IPv4")
	}
	if ok {
		errs = append(errs, r.validatePorts(n))
	}
	var remotes []string
	if r.RemotePrefix != (netip.Prefix{}) {
		remotes = append(remotes, "remote_ip_prefix")
		errs = append(errs, vnet.In("remote_ip_prefix", checkPrefix(r.RemotePrefix)))
		if r.RemotePrefix.IsValid() && r.Ethertype == IPv4 != r.RemotePrefix.Addr().Is4() {
			bad("remote_ip_prefix", r.RemotePrefix.String(), "is not of ethertype "+string(r.Ethertype))
		}
	}
	if r.RemoteGroup != "" {
		remotes = append(remotes, "remote_group_id")
		errs = append(errs, vnet.CheckID("remote_group_id", r.RemoteGroup))
	}
	if r.RemoteAddressGroup != "" {
		remotes = append(remotes, "remote_address_group_id")
		errs = append(errs, vnet.CheckID("remote_address_group_id", r.RemoteAddressGroup))
	}
	if len(remotes) > 1 {
		bad(remotes[1], "", "cannot be set beside "+remotes[0])
	}
	return errors.Join(errs...)
}

// validatePorts checks the port fields against protocol number n (-1: any).
func (r Rule) validatePorts(n int) error {
	var errs []error
	bad := func(field string, v *uint16, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(*v), Reason: reason})
	}
	lo, hi := r.PortMin, r.PortMax
	switch {
	case lo == nil && hi == nil:
	case isICMP(n):
		if lo == nil {
			bad("port_range_max", hi, "is an ICMP code without a type in port_range_min")
		} else if *lo > 255 {
			bad("port_range_min", lo, "is no ICMP type, which is 0 to 255")
		}
		if hi != nil && *hi > 255 {
			bad("port_range_max", hi, "is no ICMP code, which is 0 to 255")
		}
	case !hasPorts(n):
		field, v := "port_range_min", lo
		if v == nil {
			field, v = "port_range_max", hi
		}
		if n < 0 {
			bad(field, v, "needs a protocol that has ports")
		} else {
			bad(field, v, "is set for protocol "+canonicalProtocol(r.Protocol, r.Ethertype)+", which has no ports")
		}
	case lo != nil && hi != nil && *lo > *hi:
		bad("port_range_min", lo, fmt.Sprintf("is above port_range_max %d", *hi))
	}
	return errors.Join(errs...)
}

// Validate reports what is wrong with a.
func (a AddressGroup) Validate() error {
	errs := []error{vnet.CheckID("id", a.ID)}
	for i, p := range a.Prefixes {
		errs = append(errs, vnet.In(fmt.Sprintf("addresses[%d]", i), checkPrefix(p)))
	}
	return errors.Join(errs...)
}

// Validate reports what is wrong with p.
func (p Port) Validate() error {
	errs := []error{vnet.CheckID("id", p.ID), vnet.CheckID("network_id", p.NetworkID)}
	if !p.MAC.IsUnicast() {
		errs = append(errs, &vnet.FieldError{Field: "mac", Value: p.MAC.String(), Reason: "is not the address of an interface"})
	}
	seen := make(map[netip.Addr]int, len(p.FixedIPs))
	for i, a := range p.FixedIPs {
		at := fmt.Sprintf("fixed_ips[%d]", i)
		errs = append(errs, vnet.In(at, checkAddr(a)))
		if j, dup := seen[a]; dup {
			errs = append(errs, &vnet.FieldError{Field: at, Value: a.String(), Reason: fmt.Sprintf("is that of fixed_ips[%d] too", j)})
		}
		seen[a] = i
	}
	for i, q := range p.AllowedPairs {
		at := fmt.Sprintf("allowed_address_pairs[%d]", i)
		if !q.MAC.IsZero() && !q.MAC.IsUnicast() {
			errs = append(errs, &vnet.FieldError{Field: at + ".mac_address", Value: q.MAC.String(), Reason: "is not the address of an interface"})
		}
		errs = append(errs, vnet.In(at+".ip_address", checkPrefix(q.Prefix)))
	}
	groups := make(map[string]int, len(p.Groups))
	for i, g := range p.Groups {
		at := fmt.Sprintf("security_groups[%d]", i)
		errs = append(errs, vnet.In(at, vnet.CheckID("", g)))
		if j, dup := groups[g]; dup {
			errs = append(errs, &vnet.FieldError{Field: at, Value: g, Reason: fmt.Sprintf("is that of security_groups[%d] too", j)})
		}
		groups[g] = i
	}
	if p.DisablePortSecurity {
		if len(p.Groups) > 0 {
			errs = append(errs, &vnet.FieldError{Field: "security_groups", Value: strings.Join(p.Groups, ","), Reason: "cannot be set when port security is off"})
		}
		if len(p.AllowedPairs) > 0 {
			errs = append(errs, &vnet.FieldError{Field: "allowed_address_pairs", Reason: "cannot be set when port security is off"})
		}
	}
	return errors.Join(errs...)
}

// Validate reports what is wrong with s: each object by itself, ids used
// twice, and references to what is not there.
func (s State) Validate() error {
	var errs []error
	groups, ags, ports := make(map[string]int), make(map[string]int), make(map[string]int)
	dup := func(seen map[string]int, list, id string, i int) {
		if j, ok := seen[id]; ok && id != "" {
			errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s[%d].id", list, i), Value: id, Reason: fmt.Sprintf("is that of %s[%d] too", list, j)})
		}
		seen[id] = i
	}
	for i, g := range s.Groups {
		dup(groups, "groups", g.ID, i)
	}
	for i, a := range s.AddressGroups {
		dup(ags, "address_groups", a.ID, i)
		errs = append(errs, vnet.In(fmt.Sprintf("address_groups[%d]", i), a.Validate()))
	}
	for i, g := range s.Groups {
		at := fmt.Sprintf("groups[%d]", i)
		errs = append(errs, vnet.In(at, g.Validate()))
		for j, r := range g.Rules {
			if _, ok := groups[r.RemoteGroup]; r.RemoteGroup != "" && !ok {
				errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s.rules[%d].remote_group_id", at, j), Value: r.RemoteGroup, Reason: "is no group of this state"})
			}
			if _, ok := ags[r.RemoteAddressGroup]; r.RemoteAddressGroup != "" && !ok {
				errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s.rules[%d].remote_address_group_id", at, j), Value: r.RemoteAddressGroup, Reason: "is no address group of this state"})
			}
		}
	}
	for i, p := range s.Ports {
		dup(ports, "ports", p.ID, i)
		at := fmt.Sprintf("ports[%d]", i)
		errs = append(errs, vnet.In(at, p.Validate()))
		for j, g := range p.Groups {
			if _, ok := groups[g]; !ok {
				errs = append(errs, &vnet.FieldError{Field: fmt.Sprintf("%s.security_groups[%d]", at, j), Value: g, Reason: "is no group of this state"})
			}
		}
	}
	return errors.Join(errs...)
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() {
		return &vnet.FieldError{Reason: "is no valid prefix"}
	}
	return checkAddr(p.Addr())
}

func checkAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return &vnet.FieldError{Reason: "is no valid address"}
	case a.Is4In6():
		return &vnet.FieldError{Value: a.String(), Reason: "is an IPv4 address written as IPv6"}
	case a.Zone() != "":
		return &vnet.FieldError{Value: a.String(), Reason: "has a zone"}
	}
	return nil
}
