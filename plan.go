package vnet

import (
	"fmt"
	"math"
	"strings"
)

// Verb is what a [Change] does.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Impact is how far traffic feels a [Change].
type Impact string

// The impacts, from none to all.
const (
	ImpactNone   Impact = "none"   // nothing that flows notices
	ImpactSome   Impact = "some"   // the traffic that the difference is about, e.g. connections of a removed rule
	ImpactObject Impact = "object" // all traffic of this object stops, or stops for a moment
)

// Change is one difference between what is wanted and what stands.
type Change struct {
	Verb   Verb     `json:"verb"`
	Part   Part     `json:"part"`
	Kind   string   `json:"kind"`            // "network", "port", "router", ... of the contract, never a platform's word
	ID     string   `json:"id"`              // the application's id
	Diff   []string `json:"diff,omitempty"`  // one line per difference, as "mtu: 1500 -> 1450" or "rule r1: gone"
	Impact Impact   `json:"impact"`          // blast radius
	Where  string   `json:"where,omitempty"` // host, when there are several
}

func (c Change) String() string {
	sign := map[Verb]string{Create: "+", Update: "~", Delete: "-"}[c.Verb]
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s", sign, c.Part, c.Kind, c.ID)
	if c.Where != "" {
		fmt.Fprintf(&b, " on %s", c.Where)
	}
	if c.Impact != "" && c.Impact != ImpactNone {
		fmt.Fprintf(&b, "  (impact: %s)", c.Impact)
	}
	for _, d := range c.Diff {
		b.WriteString("\n      " + d)
	}
	return b.String()
}

// Plan is what a Sync would do, in the order it would do it. The zero value
// changes nothing. It marshals to JSON as it stands.
type Plan struct {
	Changes []Change `json:"changes"`
}

// Empty reports whether the plan changes nothing.
func (p Plan) Empty() bool { return len(p.Changes) == 0 }

// Count returns how many changes have verb v.
func (p Plan) Count(v Verb) int {
	n := 0
	for _, c := range p.Changes {
		if c.Verb == v {
			n++
		}
	}
	return n
}

// String is the plan as a person reads it: a line per change, its
// differences below it, and a count at the end.
func (p Plan) String() string {
	if p.Empty() {
		return "nothing to do\n"
	}
	var b strings.Builder
	for _, c := range p.Changes {
		b.WriteString(c.String() + "\n")
	}
	fmt.Fprintf(&b, "%d to create, %d to update, %d to delete\n", p.Count(Create), p.Count(Update), p.Count(Delete))
	return b.String()
}

// SyncOptions bounds what one Sync may do. The zero value allows a Sync to
// delete up to half of what exists of its part, and always up to 10 objects.
type SyncOptions struct {
	// DeleteShare is the share of existing objects, 0 < s <= 1, that may be
	// deleted. Zero means 0.5.
	DeleteShare float64
	// Force goes on whatever the share.
	Force bool
}

// Check returns a [*BudgetError] when p deletes more of existing objects
// than o allows.
func (o SyncOptions) Check(p Plan, existing int) error {
	share := o.DeleteShare
	if share <= 0 {
		share = 0.5
	}
	allowed := max(10, int(math.Ceil(share*float64(existing))))
	if n := p.Count(Delete); !o.Force && n > allowed {
		return &BudgetError{Plan: p, Deletes: n, Existing: existing, Allowed: allowed}
	}
	return nil
}
