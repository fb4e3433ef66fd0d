package placement

import (
	"crypto/sha1"
	"fmt"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Agent is the kind of agent that a host's providers are named for.
type Agent string

// The agents, by the names that Neutron gives their providers.
const (
	AgentOVS   Agent = "Open vSwitch agent"
	AgentSRIOV Agent = "NIC Switch agent"
	AgentOVN   Agent = "OVN Controller agent"
)

// namespace is that of the ids of an agent's providers
// (neutron_lib.placement.constants and neutron's ML2 drivers).
func (a Agent) namespace() ([16]byte, bool) {
	ns, ok := map[Agent]string{
		AgentOVS:   "87ee7d5c-73bb-11e8-9008-c4d987b2a692",
		AgentSRIOV: "87f1895c-73bb-11e8-9008-c4d987b2a692",
		AgentOVN:   "5533233b-800c-11eb-b1f4-000056b2f5b8",
	}[a]
	return parseUUID(ns), ok
}

// Device is a way out of a host that bandwidth is promised of.
type Device struct {
	Name string // of the bridge or device; "" of the tunnels: "rp_tunnelled"
	// PhysicalNetwork is empty for the device that carries tunnels.
	PhysicalNetwork         string
	EgressKbps, IngressKbps int64 // 0: nothing is promised that way
	Reserved                int64 // kbit/s each way that are not promised
	Ratio                   float64
}

// Host is what a host gives.
type Host struct {
	ID   string // of its provider, the root of the tree
	Name string // the hypervisor's host name
	Kind Agent
	// VNICTypes are those that its ports may have. Default: "normal".
	VNICTypes []string
	Devices   []Device
	// Thousands of packets a second: whichever way, or by direction; not both.
	Kpps, EgressKpps, IngressKpps int64
}

// TunnelTrait is that of the device that carries tunnels.
const TunnelTrait = "CUSTOM_NETWORK_TUNNEL_PROVIDER"

// trait makes a custom trait of a name, as os-traits does: upper case, and an
// underscore for what is neither letter nor digit.
func trait(prefix, name string) string {
	return prefix + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// PhysnetTrait is the trait of devices on a physical network. Names that differ
// in case only have the same: [HostProviders] refuses them.
func PhysnetTrait(name string) string { return trait("CUSTOM_PHYSNET_", name) }

// VNICTrait is the trait of providers for ports of a vNIC type.
func VNICTrait(name string) string { return trait("CUSTOM_VNIC_TYPE_", name) }

// HostProviders returns the tree of a host, parents first: the host, its agent
// with the packet rate, and a provider for each device, with the names, ids and
// traits that Neutron gives them. Errors are [*vnet.FieldError].
func HostProviders(h Host) ([]Provider, error) {
	ns, ok := h.Kind.namespace()
	switch {
	case !ok:
		return nil, &vnet.FieldError{Field: "kind", Value: string(h.Kind), Reason: "is no agent that is known"}
	case h.Name == "":
		return nil, &vnet.FieldError{Field: "name", Reason: "is empty"}
	case h.Kpps > 0 && (h.EgressKpps > 0 || h.IngressKpps > 0):
		return nil, &vnet.FieldError{Field: "kpps", Value: fmt.Sprint(h.Kpps), Reason: "is set together with that of a direction"}
	}
	types := h.VNICTypes
	if len(types) == 0 {
		types = []string{"normal"}
	}
	var vnics []string
	for _, t := range types {
		vnics = append(vnics, VNICTrait(t))
	}
	agent := Provider{ID: uuid5(ns, h.Name), Name: h.Name + ":" + string(h.Kind), Parent: h.ID, Traits: vnics}
	agent.Inventories = inventories(map[Class]int64{PacketRate: h.Kpps, EgressPacketRate: h.EgressKpps, IngressPacketRate: h.IngressKpps}, 0, 0)
	out := []Provider{{ID: h.ID, Name: h.Name}, agent}
	traits := map[string]string{}
	names := map[string]bool{}
	for i, d := range h.Devices {
		at := fmt.Sprintf("devices[%d]", i)
		name, t := d.Name, TunnelTrait
		if d.PhysicalNetwork != "" {
			t = PhysnetTrait(d.PhysicalNetwork)
			if other, ok := traits[t]; ok && other != d.PhysicalNetwork {
				return nil, &vnet.FieldError{Field: at + ".physical_network", Value: d.PhysicalNetwork, Reason: "has the same trait as " + other + ": they differ only in case or punctuation"}
			}
			traits[t] = d.PhysicalNetwork
		} else if name == "" {
			name = "rp_tunnelled"
		}
		switch {
		case name == "" || names[name]:
			return nil, &vnet.FieldError{Field: at + ".name", Value: name, Reason: "is empty or there twice"}
		case d.EgressKbps < 0 || d.IngressKbps < 0 || d.Reserved < 0:
			return nil, &vnet.FieldError{Field: at + ".egress_kbps", Value: fmt.Sprint(d.EgressKbps), Reason: "or another of its numbers is negative"}
		}
		names[name] = true
		p := Provider{ID: uuid5(ns, h.Name+":"+name), Name: agent.Name + ":" + name, Parent: agent.ID, Traits: append([]string{t}, vnics...),
			Inventories: inventories(map[Class]int64{EgressKbps: d.EgressKbps, IngressKbps: d.IngressKbps}, d.Reserved, d.Ratio)}
		out = append(out, p)
	}
	for i := range out {
		out[i] = out[i].canonical()
		if err := out[i].Validate(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func inventories(totals map[Class]int64, reserved int64, ratio float64) map[Class]Inventory {
	out := map[Class]Inventory{}
	for k, n := range totals {
		if n > 0 {
			out[k] = Inventory{Total: n, Reserved: reserved, Ratio: ratio}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Port is what a port is to be promised.
type Port struct {
	ID string // a UUID
	// Rules are the ids of the rules that ask for it, which make the groups' ids.
	BandwidthRules, PacketRules []string
	// PhysicalNetwork is where it leaves its host; empty: by tunnels.
	PhysicalNetwork string
	VNICType        string // default "normal"
	EgressKbps      int64
	IngressKbps     int64
	// Thousands of packets a second: whichever way, or by direction; not both.
	Kpps, EgressKpps, IngressKpps int64
}

// PortRequest returns what a port asks for, as Neutron's resource_request
// does: a group of bandwidth, of a device of its physical network or of the
// tunnels, and one of packet rate, of the agent above it; ok is false when it
// asks for nothing.
func PortRequest(p Port) (r Request, ok bool, err error) {
	if p.Kpps > 0 && (p.EgressKpps > 0 || p.IngressKpps > 0) {
		return r, false, &vnet.FieldError{Field: "kpps", Value: fmt.Sprint(p.Kpps), Reason: "is set together with that of a direction"}
	}
	for _, n := range []int64{p.EgressKbps, p.IngressKbps, p.Kpps, p.EgressKpps, p.IngressKpps} {
		if n < 0 {
			return r, false, &vnet.FieldError{Field: "egress_kbps", Value: fmt.Sprint(n), Reason: "or another of its numbers is negative"}
		}
	}
	id, err := portUUID(p.ID)
	if err != nil {
		return r, false, err
	}
	vnic := VNICTrait("normal")
	if p.VNICType != "" {
		vnic = VNICTrait(p.VNICType)
	}
	way := TunnelTrait
	if p.PhysicalNetwork != "" {
		way = PhysnetTrait(p.PhysicalNetwork)
	}
	add := func(rules []string, amounts map[Class]int64, traits ...string) {
		res := Resources{}
		for k, n := range amounts {
			if n > 0 {
				res[k] = n
			}
		}
		if len(res) == 0 {
			return
		}
		rules = slices.Clone(rules)
		slices.Sort(rules)
		slices.Sort(traits)
		r.Groups = append(r.Groups, Group{ID: uuid5(id, strings.Join(rules, ":")), Resources: res, Required: traits})
	}
	bandwidth, packets := p.BandwidthRules, p.PacketRules
	if len(bandwidth) == 0 {
		bandwidth = []string{"bandwidth"}
	}
	if len(packets) == 0 {
		packets = []string{"packets"}
	}
	add(bandwidth, map[Class]int64{EgressKbps: p.EgressKbps, IngressKbps: p.IngressKbps}, way, vnic)
	add(packets, map[Class]int64{PacketRate: p.Kpps, EgressPacketRate: p.EgressKpps, IngressPacketRate: p.IngressKpps}, vnic)
	if len(r.Groups) == 2 {
		r.SameSubtree = [][]string{{r.Groups[0].ID, r.Groups[1].ID}}
	}
	return r, len(r.Groups) > 0, nil
}

// portUUID is a port's id as the namespace of its groups' ids; of an id that is
// no UUID it is made of its text.
func portUUID(id string) ([16]byte, error) {
	if err := vnet.CheckID("id", id); err != nil {
		return [16]byte{}, err
	}
	if u := parseUUID(id); u != ([16]byte{}) {
		return u, nil
	}
	return parseUUID(uuid5([16]byte{}, id)), nil
}

// uuid5 is a name-based UUID (RFC 9562, section 5.5).
func uuid5(ns [16]byte, name string) string {
	h := sha1.Sum(append(ns[:], name...))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// parseUUID reads the usual form; zero when it is none.
func parseUUID(s string) (u [16]byte) {
	var raw []byte
	if _, err := fmt.Sscanf(strings.ReplaceAll(s, "-", ""), "%32x", &raw); err != nil || len(raw) != 16 || len(s) != 36 {
		return [16]byte{}
	}
	return [16]byte(raw)
}
