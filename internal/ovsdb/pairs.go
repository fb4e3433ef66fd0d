package ovsdb

import (
	"maps"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// What follows is for maps so large that comparing them whole would cost more
// than what is changed in them.

// HasPair judges at once that a map column of a row has a pair.
func HasPair(table, uuid, column, key, value string) Operation {
	return Operation{Op: "wait", Table: table,
		Where:   append(byUUID(uuid), ovsdb.NewCondition(column, ovsdb.ConditionIncludes, []any{"map", []any{[]any{key, value}}})),
		Columns: []string{"_uuid"}, Until: "==", Rows: []ovsdb.Row{{"_uuid": uuidValue(uuid)}}, Timeout: &noWait}
}

// RefersTo judges at once that a column of a row refers to just these rows.
func RefersTo(table, uuid, column string, rows []string) Operation {
	refs := make([]any, 0, len(rows))
	for _, r := range rows {
		refs = append(refs, uuidValue(r))
	}
	return Operation{Op: "wait", Table: table, Where: byUUID(uuid), Columns: []string{column}, Until: "==",
		Rows: []ovsdb.Row{{column: []any{"set", refs}}}, Timeout: &noWait}
}

// SetPairs sets and removes pairs of a map column of a row.
func SetPairs(table, uuid, column string, set map[string]string, remove ...string) Operation {
	var gone, pairs []any
	for _, k := range slices.Sorted(maps.Keys(set)) {
		gone, pairs = append(gone, k), append(pairs, []any{k, set[k]})
	}
	for _, k := range remove {
		gone = append(gone, k)
	}
	o := Operation{Op: "mutate", Table: table, Where: byUUID(uuid)}
	if len(gone) > 0 {
		o.Mutations = append(o.Mutations, *ovsdb.NewMutation(column, ovsdb.MutateOperationDelete, []any{"set", gone}))
	}
	if len(pairs) > 0 {
		o.Mutations = append(o.Mutations, *ovsdb.NewMutation(column, ovsdb.MutateOperationInsert, []any{"map", pairs}))
	}
	return o
}
