package placement

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/vnet-go/vnet"
)

// Class is what is counted, by Placement's name: upper-case letters, digits and
// underscores.
type Class string

// The classes of networks (os-resource-classes).
const (
	EgressKbps  Class = "NET_BW_EGR_KILOBIT_PER_SEC"
	IngressKbps Class = "NET_BW_IGR_KILOBIT_PER_SEC"
	// Packets in thousands a second, whichever way, and by direction.
	PacketRate        Class = "NET_PACKET_RATE_KILOPACKET_PER_SEC"
	EgressPacketRate  Class = "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC"
	IngressPacketRate Class = "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC"
)

// Resources are amounts by class.
type Resources map[Class]int64

// Inventory is how much of a class a provider has.
type Inventory struct {
	Total    int64 `json:"total"`
	Reserved int64 `json:"reserved,omitempty"` // of Total: never promised
	// Ratio is how often the rest is promised. Zero means 1.
	Ratio float64 `json:"allocation_ratio,omitempty"`
	// MinUnit, MaxUnit and StepSize bound one allocation. Zero: 1, all, and 1.
	MinUnit  int64 `json:"min_unit,omitempty"`
	MaxUnit  int64 `json:"max_unit,omitempty"`
	StepSize int64 `json:"step_size,omitempty"`
}

// Capacity is what may be promised in all: (Total - Reserved) * Ratio, rounded down.
func (i Inventory) Capacity() int64 {
	r := i.Ratio
	if r == 0 {
		r = 1
	}
	return int64(math.Min(float64(i.Total-i.Reserved)*r, math.MaxInt64/2))
}

// fits reports whether one allocation may be of that amount.
func (i Inventory) fits(n int64) bool {
	return n >= max(i.MinUnit, 1) && (i.MaxUnit == 0 || n <= i.MaxUnit) && n%max(i.StepSize, 1) == 0
}

// Provider is a node of a host's tree.
type Provider struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Parent string `json:"parent,omitempty"` // empty: it is a host, the root of its tree
	// Generation counts the changes of the provider and of what is allocated of
	// it. To a store it says which one is to be changed: 0 for one that is new.
	Generation  uint64              `json:"generation"`
	Inventories map[Class]Inventory `json:"inventories,omitempty"`
	Traits      []string            `json:"traits,omitempty"` // sorted
}

// Clone returns a copy that shares nothing.
func (p Provider) Clone() Provider {
	p.Inventories, p.Traits = maps.Clone(p.Inventories), slices.Clone(p.Traits)
	return p
}

// same reports whether both say the same, but for the generation.
func (p Provider) same(o Provider) bool {
	return p.ID == o.ID && p.Name == o.Name && p.Parent == o.Parent && maps.Equal(p.Inventories, o.Inventories) && slices.Equal(p.Traits, o.Traits)
}

// Group is what one provider has to give together.
type Group struct {
	ID        string    `json:"id"`
	Resources Resources `json:"resources"`
	Required  []string  `json:"required,omitempty"`  // traits that it has to have
	Forbidden []string  `json:"forbidden,omitempty"` // traits that it must not have
}

// Request is what a consumer needs of one host.
type Request struct {
	Groups []Group `json:"groups"`
	// SameSubtree are lists of groups that have to be given within one subtree:
	// one of their providers is above all the others, or the same.
	SameSubtree [][]string `json:"same_subtree,omitempty"`
	// Hosts are roots, by id, that may give it. Empty: any.
	Hosts []string `json:"hosts,omitempty"`
}

// Candidate is how a request could be met.
type Candidate struct {
	Host      string            `json:"host"`      // the root's id
	Providers map[string]string `json:"providers"` // group -> provider
	// Load is the largest share of a capacity, 0 to 1, that would be promised
	// then, of those that the request takes from.
	Load float64 `json:"load"`
}

// Parts is what the candidate takes of which provider for the request.
func (c Candidate) Parts(r Request) map[string]Resources {
	out := map[string]Resources{}
	for _, g := range r.Groups {
		p := c.Providers[g.ID]
		if out[p] == nil {
			out[p] = Resources{}
		}
		for k, n := range g.Resources {
			out[p][k] += n
		}
	}
	return out
}

// Allocation is what a consumer has been promised.
type Allocation struct {
	Consumer string               `json:"consumer"`
	Parts    map[string]Resources `json:"parts,omitempty"` // provider -> what of it
	// Generation counts its changes. To a store it says which one is to be
	// replaced: 0 for a consumer that has nothing.
	Generation uint64 `json:"generation"`
}

// Clone returns a copy that shares nothing.
func (a Allocation) Clone() Allocation {
	parts := make(map[string]Resources, len(a.Parts))
	for p, r := range a.Parts {
		parts[p] = maps.Clone(r)
	}
	a.Parts = parts
	return a
}

// Policy is the order of candidates.
type Policy string

// The policies. Candidates that are equal are in the order of their hosts' ids.
const (
	Spread Policy = "spread" // the least loaded first
	Pack   Policy = "pack"   // the most loaded first, that emptier ones stay empty
)

// Compare is for stores: it orders candidates, best first.
func (p Policy) Compare(a, b Candidate) int {
	load := cmp.Compare(a.Load, b.Load)
	if p == Pack {
		load = -load
	}
	return cmp.Or(load, cmp.Compare(a.Host, b.Host), compareMaps(a.Providers, b.Providers))
}

func compareMaps(a, b map[string]string) int {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if c := cmp.Compare(a[k], b[k]); c != 0 {
			return c
		}
	}
	return 0
}

// isName reports whether s can name a class or trait.
func isName(s string) bool {
	for _, r := range s {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// Validate reports, as [*vnet.FieldError], what is wrong with p.
func (p Provider) Validate() error {
	if err := vnet.CheckID("id", p.ID); err != nil {
		return err
	}
	if p.Name == "" || len(p.Name) > 200 {
		return &vnet.FieldError{Field: "name", Value: p.Name, Reason: "is empty or longer than 200 characters"}
	}
	if p.Parent == p.ID {
		return &vnet.FieldError{Field: "parent", Value: p.Parent, Reason: "is the provider itself"}
	}
	for _, t := range p.Traits {
		if !isName(t) {
			return &vnet.FieldError{Field: "traits", Value: t, Reason: "is not of upper-case letters, digits and underscores"}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.Inventories)) {
		i, field := p.Inventories[k], fmt.Sprintf("inventories[%s]", k)
		bad := func(name string, v any, reason string) error {
			return &vnet.FieldError{Field: field + "." + name, Value: fmt.Sprint(v), Reason: reason}
		}
		switch {
		case !isName(string(k)):
			return &vnet.FieldError{Field: "inventories", Value: string(k), Reason: "is not of upper-case letters, digits and underscores"}
		case i.Total < 1:
			return bad("total", i.Total, "is not above 0")
		case i.Reserved < 0 || i.Reserved > i.Total:
			return bad("reserved", i.Reserved, "is not from 0 to the total")
		case i.Ratio < 0 || math.IsNaN(i.Ratio) || i.Ratio > 1e6:
			return bad("allocation_ratio", i.Ratio, "is not from 0 to a million")
		case i.MinUnit < 0 || i.StepSize < 0 || i.MaxUnit < 0:
			return bad("min_unit", i.MinUnit, "or another unit is negative")
		case i.MaxUnit > 0 && i.MaxUnit < i.MinUnit:
			return bad("max_unit", i.MaxUnit, "is below the smallest unit")
		}
	}
	return nil
}

// Validate reports, as [*vnet.FieldError], what is wrong with r.
func (r Request) Validate() error {
	if len(r.Groups) == 0 {
		return &vnet.FieldError{Field: "groups", Reason: "are none"}
	}
	if len(r.Groups) > 16 {
		return &vnet.FieldError{Field: "groups", Value: fmt.Sprint(len(r.Groups)), Reason: "are more than 16"}
	}
	ids := map[string]bool{}
	for i, g := range r.Groups {
		at := fmt.Sprintf("groups[%d]", i)
		if g.ID == "" || ids[g.ID] {
			return &vnet.FieldError{Field: at + ".id", Value: g.ID, Reason: "is empty or there twice"}
		}
		ids[g.ID] = true
		if len(g.Resources) == 0 && len(g.Required) == 0 {
			return &vnet.FieldError{Field: at + ".resources", Reason: "are none"}
		}
		for k, n := range g.Resources {
			if n < 1 {
				return &vnet.FieldError{Field: fmt.Sprintf("%s.resources[%s]", at, k), Value: fmt.Sprint(n), Reason: "is not above 0"}
			}
		}
		for _, t := range g.Required {
			if slices.Contains(g.Forbidden, t) {
				return &vnet.FieldError{Field: at + ".required", Value: t, Reason: "is forbidden too"}
			}
		}
	}
	for i, list := range r.SameSubtree {
		for _, id := range list {
			if !ids[id] {
				return &vnet.FieldError{Field: fmt.Sprintf("same_subtree[%d]", i), Value: id, Reason: "is none of the groups"}
			}
		}
	}
	return nil
}

// Validate reports, as [*vnet.FieldError], what is wrong with a.
func (a Allocation) Validate() error {
	if err := vnet.CheckID("consumer", a.Consumer); err != nil {
		return err
	}
	for p, r := range a.Parts {
		if len(r) == 0 {
			return &vnet.FieldError{Field: fmt.Sprintf("parts[%s]", p), Reason: "has no resources"}
		}
		for k, n := range r {
			if n < 1 {
				return &vnet.FieldError{Field: fmt.Sprintf("parts[%s][%s]", p, k), Value: fmt.Sprint(n), Reason: "is not above 0"}
			}
		}
	}
	return nil
}

// canonical is p with sorted traits.
func (p Provider) canonical() Provider {
	p = p.Clone()
	slices.Sort(p.Traits)
	p.Traits = slices.Compact(p.Traits)
	if len(p.Traits) == 0 {
		p.Traits = nil
	}
	return p
}
