package vnet

import "fmt"

// Compare says what takes the objects old to the objects want: diff is asked
// about each pair of the same id, with nil for the one that is absent. changes
// are what is new or different, in the order of want; gone is what is not
// wanted any more, in the order of old. A subsystem with several kinds of
// objects makes the changes of all kinds first, and removes in the opposite
// order, so that nothing dangles.
func Compare[T any](old, want []T, id func(T) string, diff func(a, b *T) (Change, bool)) (changes, gone []Change) {
	was := make(map[string]*T, len(old))
	for i := range old {
		was[id(old[i])] = &old[i]
	}
	for i := range want {
		k := id(want[i])
		if c, ok := diff(was[k], &want[i]); ok {
			changes = append(changes, c)
		}
		delete(was, k)
	}
	for i := range old {
		if was[id(old[i])] != nil {
			if c, ok := diff(&old[i], nil); ok {
				gone = append(gone, c)
			}
		}
	}
	return changes, gone
}

// NewChange is the change of an object that was there or not, and will be or
// not: without differences yet, and felt by nobody unless it goes.
func NewChange(part Part, kind, id string, was, will bool) Change {
	c := Change{Verb: Update, Part: part, Kind: kind, ID: id, Impact: ImpactNone}
	switch {
	case !was:
		c.Verb = Create
	case !will:
		c.Verb, c.Impact = Delete, ImpactObject
	}
	return c
}

// Differ adds a line "name: a -> b" when a and b print differently, and lets
// the change be felt as far as impact if that is further than before.
func (c *Change) Differ(name string, a, b any, impact Impact) {
	as, bs := fmt.Sprint(a), fmt.Sprint(b)
	if as == bs {
		return
	}
	c.Diff = append(c.Diff, fmt.Sprintf("%s: %s -> %s", name, as, bs))
	if c.Impact == ImpactNone || impact == ImpactObject {
		c.Impact = impact
	}
}
