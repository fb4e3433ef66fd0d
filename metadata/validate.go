package metadata

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
)

// Addresses under which instances reach the service, at TCP port 80.
// 169.254.169.254 is EC2's and everybody's; fe80::a9fe:a9fe is Neutron's for
// IPv6; fd00:ec2::254 is what EC2 and cloud-init's EC2 source use.
var (
	addr4     = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	addr6     = netip.AddrFrom16([16]byte{0xfe, 0x80, 12: 0xa9, 13: 0xfe, 14: 0xa9, 15: 0xfe})
	addrEC2v6 = netip.AddrFrom16([16]byte{0xfd, 0x00, 0x0e, 0xc2, 14: 0x02, 15: 0x54})
)

// IPv4 is the IPv4 address of the service, 169.254.169.254.
func IPv4() netip.Addr { return addr4 }

// IPv6LinkLocal is the service's link-local address, fe80::a9fe:a9fe.
func IPv6LinkLocal() netip.Addr { return addr6 }

// IPv6 is the service's unique local address, fd00:ec2::254.
func IPv6() netip.Addr { return addrEC2v6 }

func bad(field, value, reason string) error {
	return &vnet.FieldError{Field: field, Value: value, Reason: reason}
}

// Validate reports what is wrong with e, as [*vnet.FieldError]s.
func (e Endpoint) Validate() error {
	errs := []error{vnet.CheckID("id", e.ID)}
	switch {
	case e.RouterID == "" && e.NetworkID == "":
		errs = append(errs, bad("router_id", "", "and network_id are both empty; one says where the endpoint is"))
	case e.RouterID != "" && e.NetworkID != "":
		errs = append(errs, bad("network_id", e.NetworkID, "stands beside router_id; an endpoint is in one place"))
	case e.RouterID != "":
		errs = append(errs, vnet.CheckID("router_id", e.RouterID))
		if e.PortID != "" {
			errs = append(errs, bad("port_id", e.PortID, "is of endpoints on a network only"))
		}
		if !e.MAC.IsZero() {
			errs = append(errs, bad("mac", e.MAC.String(), "is of endpoints on a network only"))
		}
		if len(e.Addresses) > 0 {
			errs = append(errs, bad("addresses", e.Addresses[0].String(), "are of endpoints on a network only"))
		}
	default:
		errs = append(errs, vnet.CheckID("network_id", e.NetworkID), vnet.CheckID("port_id", e.PortID))
		if !e.MAC.IsUnicast() {
			errs = append(errs, bad("mac", e.MAC.String(), "is not a unicast address"))
		}
		if e.Host != "" {
			errs = append(errs, bad("host", e.Host, "is of endpoints in a router only; one on a network is on every host"))
		}
	}
	seen := map[netip.Addr]bool{}
	for i, p := range e.Addresses {
		f := fmt.Sprintf("addresses[%d]", i)
		switch a := p.Addr(); {
		case !p.IsValid():
			errs = append(errs, bad(f, "", "is not an address with a length"))
		case a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
			errs = append(errs, bad(f, p.String(), "is not an address of an interface"))
		case a.Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == lastAddr(p)):
			errs = append(errs, bad(f, p.String(), "is the network's or the broadcast address"))
		case seen[a]:
			errs = append(errs, bad(f, p.String(), "stands twice"))
		default:
			seen[a] = true
		}
	}
	return errors.Join(errs...)
}

func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

// Canonical returns e without empty lists. The order of Addresses is kept: the
// first IPv4 address is the one that DHCP points at.
func (e Endpoint) Canonical() Endpoint {
	e = e.Clone()
	if len(e.Addresses) == 0 {
		e.Addresses = nil
	}
	return e
}

// Clone returns a copy that shares nothing with e.
func (e Endpoint) Clone() Endpoint {
	e.Addresses = slices.Clone(e.Addresses)
	return e
}

// Equal reports whether e and o mean the same.
func (e Endpoint) Equal(o Endpoint) bool { return reflect.DeepEqual(e.Canonical(), o.Canonical()) }

// Validate reports what is wrong with s: every endpoint's mistakes, ids that
// stand twice, and two endpoints in one place.
func (s State) Validate() error {
	var errs []error
	ids, places := map[string]int{}, map[string]int{}
	for i, e := range s.Endpoints {
		f := fmt.Sprintf("endpoints[%d]", i)
		errs = append(errs, vnet.In(f, e.Validate()))
		if j, ok := ids[e.ID]; ok {
			errs = append(errs, bad(f+".id", e.ID, fmt.Sprintf("is also the id of endpoints[%d]", j)))
		}
		ids[e.ID] = i
		for what, id := range map[string]string{"router_id": e.RouterID, "network_id": e.NetworkID} {
			if id == "" {
				continue
			}
			// A router may be on several hosts (distributed), once on each.
			place := what + " " + id + " " + e.Host
			if j, ok := places[place]; ok {
				errs = append(errs, bad(f+"."+what, id, fmt.Sprintf("has an endpoint already, endpoints[%d]", j)))
			}
			places[place] = i
		}
	}
	return errors.Join(errs...)
}

// Canonical returns s with its endpoints in the order of their ids.
func (s State) Canonical() State {
	out := State{}
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, e.Canonical())
	}
	slices.SortFunc(out.Endpoints, func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Clone returns a copy that shares nothing with s.
func (s State) Clone() State {
	var out State
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, e.Clone())
	}
	return out
}

// Equal reports whether s and o mean the same.
func (s State) Equal(o State) bool { return reflect.DeepEqual(s.Canonical(), o.Canonical()) }

// Diff returns the plan that turns have into want: creations and changes, then
// deletions, in the order of ids.
func Diff(have, want State) vnet.Plan {
	have, want = have.Canonical(), want.Canonical()
	old, keep := map[string]Endpoint{}, map[string]bool{}
	for _, e := range have.Endpoints {
		old[e.ID] = e
	}
	var p vnet.Plan
	for _, e := range want.Endpoints {
		keep[e.ID] = true
		o, ok := old[e.ID]
		switch {
		case !ok:
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Create, Part: vnet.PartMetadata, Kind: "endpoint", ID: e.ID, Impact: vnet.ImpactNone})
		case !o.Equal(e):
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Update, Part: vnet.PartMetadata, Kind: "endpoint", ID: e.ID, Diff: diffFields(o, e), Impact: vnet.ImpactSome})
		}
	}
	for _, e := range have.Endpoints {
		if !keep[e.ID] {
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Delete, Part: vnet.PartMetadata, Kind: "endpoint", ID: e.ID, Impact: vnet.ImpactObject})
		}
	}
	return p
}

// diffFields has a line for each field that differs, by its JSON name.
func diffFields(a, b Endpoint) []string {
	var out []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		x, y := va.Field(i).Interface(), vb.Field(i).Interface()
		if reflect.DeepEqual(x, y) {
			continue
		}
		name, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("json"), ",")
		out = append(out, fmt.Sprintf("%s: %v -> %v", name, x, y))
	}
	return out
}

// nicTypes are the types of a network in network_data.json.
var nicTypes = []string{"ipv4", "ipv4_dhcp", "ipv6", "ipv6_dhcp", "ipv6_slaac", "ipv6_dhcpv6-stateful", "ipv6_dhcpv6-stateless"}

// Validate reports what is wrong with in, as [*vnet.FieldError]s.
func (in Instance) Validate() error {
	errs := []error{vnet.CheckID("uuid", in.UUID)}
	line := func(field, v string) {
		if i := strings.IndexFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
			errs = append(errs, bad(field, v, fmt.Sprintf("has a control character at offset %d", i)))
		}
	}
	line("name", in.Name)
	line("hostname", in.Hostname)
	line("project_id", in.ProjectID)
	line("availability_zone", in.AvailabilityZone)
	line("instance_type", in.InstanceType)
	line("image_id", in.ImageID)
	if in.LaunchIndex < 0 {
		errs = append(errs, bad("launch_index", strconv.Itoa(in.LaunchIndex), "is negative"))
	}
	for i, g := range in.SecurityGroups {
		line(fmt.Sprintf("security_groups[%d]", i), g)
	}
	if in.PublicIPv4.IsValid() && !in.PublicIPv4.Is4() {
		errs = append(errs, bad("public_ipv4", in.PublicIPv4.String(), "is not an IPv4 address"))
	}
	switch in.Tokens {
	case "", TokensOptional, TokensRequired, TokensOff:
	default:
		errs = append(errs, bad("tokens", string(in.Tokens), `is not "optional", "required" or "off"`))
	}
	names := map[string]bool{}
	for i, k := range in.Keys {
		f := fmt.Sprintf("keys[%d]", i)
		switch {
		case k.Name == "":
			errs = append(errs, bad(f+".name", "", "is empty"))
		case names[k.Name]:
			errs = append(errs, bad(f+".name", k.Name, "stands twice"))
		}
		names[k.Name] = true
		line(f+".name", k.Name)
		if k.Type != "ssh" && k.Type != "x509" && k.Type != "" {
			errs = append(errs, bad(f+".type", k.Type, `is not "ssh" or "x509"`))
		}
		if strings.TrimSpace(k.Data) == "" {
			errs = append(errs, bad(f+".data", "", "is empty"))
		}
	}
	for f, doc := range map[string][]byte{"vendor_data": in.VendorData, "vendor_data2": in.VendorData2} {
		if len(doc) > 0 && !json.Valid(doc) {
			errs = append(errs, bad(f, "", "is not a JSON document"))
		}
	}
	paths := map[string]bool{}
	for i, file := range in.Files {
		f := fmt.Sprintf("files[%d].path", i)
		switch {
		case !strings.HasPrefix(file.Path, "/"):
			errs = append(errs, bad(f, file.Path, "is not absolute"))
		case paths[file.Path]:
			errs = append(errs, bad(f, file.Path, "stands twice"))
		}
		paths[file.Path] = true
	}
	macs := map[vnet.MAC]bool{}
	for i, n := range in.Interfaces {
		f := fmt.Sprintf("interfaces[%d]", i)
		errs = append(errs, vnet.In(f, n.validate()))
		if !n.MAC.IsZero() && macs[n.MAC] {
			errs = append(errs, bad(f+".mac", n.MAC.String(), "stands twice"))
		}
		macs[n.MAC] = true
	}
	for i, d := range in.DNS {
		if !d.IsValid() {
			errs = append(errs, bad(fmt.Sprintf("dns[%d]", i), "", "is not an address"))
		}
	}
	return errors.Join(errs...)
}

func (n NIC) validate() error {
	errs := []error{vnet.CheckID("port_id", n.PortID), vnet.CheckID("network_id", n.NetworkID)}
	if !n.MAC.IsUnicast() {
		errs = append(errs, bad("mac", n.MAC.String(), "is not a unicast address"))
	}
	if n.MTU < 0 || n.MTU > 65535 {
		errs = append(errs, bad("mtu", strconv.Itoa(n.MTU), "is not within 0 to 65535"))
	}
	for i, a := range n.Addresses {
		f := fmt.Sprintf("addresses[%d]", i)
		switch {
		case !slices.Contains(nicTypes, a.Type):
			errs = append(errs, bad(f+".type", a.Type, "is not one of "+strings.Join(nicTypes, ", ")))
		case !a.Address.IsValid():
			errs = append(errs, bad(f+".address", "", "is not an address with a length"))
		case a.Address.Addr().Is4() != strings.HasPrefix(a.Type, "ipv4"):
			errs = append(errs, bad(f+".address", a.Address.String(), "is not of the family of type "+a.Type))
		case a.Gateway.IsValid() && a.Gateway.Is4() != a.Address.Addr().Is4():
			errs = append(errs, bad(f+".gateway", a.Gateway.String(), "is not of the family of the address"))
		}
		for j, r := range a.Routes {
			g := fmt.Sprintf("%s.routes[%d]", f, j)
			if !r.Destination.IsValid() {
				errs = append(errs, bad(g+".destination", "", "is not a prefix"))
			} else if !r.NextHop.IsValid() || r.NextHop.Is4() != r.Destination.Addr().Is4() {
				errs = append(errs, bad(g+".nexthop", r.NextHop.String(), "is not an address of the destination's family"))
			}
		}
		for j, d := range a.DNS {
			if !d.IsValid() {
				errs = append(errs, bad(fmt.Sprintf("%s.dns[%d]", f, j), "", "is not an address"))
			}
		}
	}
	return errors.Join(errs...)
}

// Clone returns a copy that shares nothing with in.
func (in Instance) Clone() Instance {
	out := in
	if in.Meta != nil {
		out.Meta = make(map[string]string, len(in.Meta))
		for k, v := range in.Meta {
			out.Meta[k] = v
		}
	}
	out.Keys = slices.Clone(in.Keys)
	out.UserData = slices.Clone(in.UserData)
	out.VendorData = slices.Clone(in.VendorData)
	out.VendorData2 = slices.Clone(in.VendorData2)
	out.SecurityGroups = slices.Clone(in.SecurityGroups)
	out.DNS = slices.Clone(in.DNS)
	out.Files = slices.Clone(in.Files)
	for i := range out.Files {
		out.Files[i].Content = slices.Clone(out.Files[i].Content)
	}
	out.Interfaces = slices.Clone(in.Interfaces)
	for i := range out.Interfaces {
		n := &out.Interfaces[i]
		n.Addresses = slices.Clone(n.Addresses)
		for j := range n.Addresses {
			n.Addresses[j].DNS = slices.Clone(n.Addresses[j].DNS)
			n.Addresses[j].Routes = slices.Clone(n.Addresses[j].Routes)
		}
	}
	return out
}

// Equal reports whether in and o tell the same. Lists in another order, nil or
// empty, are equal only where the order tells nothing: none here.
func (in Instance) Equal(o Instance) bool {
	a, err1 := json.Marshal(in)
	b, err2 := json.Marshal(o)
	return err1 == nil && err2 == nil && string(a) == string(b)
}
