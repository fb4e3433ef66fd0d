package dhcp

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/vnet-go/vnet"
)

// Diff returns the plan that turns have into want: creations and changes
// first (scopes before reservations), then deletions (reservations before
// scopes), each in the order of ids. It is for backends whose state is their
// own process; a platform with rows compares those.
func Diff(have, want State) vnet.Plan {
	have, want = have.Canonical(), want.Canonical()
	var p vnet.Plan
	upsert, gone := diffKind("scope", have.Scopes, want.Scopes, func(s Scope) string { return s.ID })
	upsertR, goneR := diffKind("reservation", have.Reservations, want.Reservations, func(r Reservation) string { return r.ID })
	p.Changes = append(p.Changes, upsert...)
	p.Changes = append(p.Changes, upsertR...)
	p.Changes = append(p.Changes, goneR...)
	p.Changes = append(p.Changes, gone...)
	return p
}

func diffKind[T any](kind string, have, want []T, id func(T) string) (upsert, gone []vnet.Change) {
	old := make(map[string]T, len(have))
	for _, x := range have {
		old[id(x)] = x
	}
	keep := make(map[string]bool, len(want))
	for _, x := range want {
		keep[id(x)] = true
		o, ok := old[id(x)]
		switch {
		case !ok:
			upsert = append(upsert, vnet.Change{Verb: vnet.Create, Part: vnet.PartDHCP, Kind: kind, ID: id(x), Impact: vnet.ImpactNone})
		case !reflect.DeepEqual(o, x):
			upsert = append(upsert, vnet.Change{Verb: vnet.Update, Part: vnet.PartDHCP, Kind: kind, ID: id(x), Diff: diffFields(o, x), Impact: vnet.ImpactNone})
		}
	}
	for _, x := range have {
		if !keep[id(x)] {
			gone = append(gone, vnet.Change{Verb: vnet.Delete, Part: vnet.PartDHCP, Kind: kind, ID: id(x), Impact: vnet.ImpactSome})
		}
	}
	return upsert, gone
}

// diffFields has a line for each field that differs, by its JSON name.
func diffFields(a, b any) []string {
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
