package vnet

import "strings"

// Explanation goes from one thing of the application's to the things that
// carry it: rows, flows, sets, links, NAT entries; or from a packet to the
// rule that decided. It is a tree for people, and marshals to JSON.
type Explanation struct {
	Text string        `json:"text"`
	Of   []Explanation `json:"of,omitempty"`
}

// Add appends a line below e and returns a pointer to it.
func (e *Explanation) Add(text string) *Explanation {
	e.Of = append(e.Of, Explanation{Text: text})
	return &e.Of[len(e.Of)-1]
}

// String prints the tree, two spaces of indent a level.
func (e Explanation) String() string {
	var b strings.Builder
	var walk func(x Explanation, depth int)
	walk = func(x Explanation, depth int) {
		b.WriteString(strings.Repeat("  ", depth) + x.Text + "\n")
		for _, c := range x.Of {
			walk(c, depth+1)
		}
	}
	walk(e, 0)
	return b.String()
}
