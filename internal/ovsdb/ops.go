package ovsdb

import (
	"encoding/json"
	"strings"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Operation is one operation of a transaction, as RFC 7047, section 5.2, has it.
type Operation = ovsdb.Operation

// noWait is the timeout of wait operations: judge at once.
var noWait = 0

func byUUID(uuid string) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, uuidValue(uuid))}
}

// Print is a transaction as text, an operation a line: what golden tests compare.
func Print(ops []Operation) string {
	var b strings.Builder
	for _, o := range ops {
		j, err := json.Marshal(o)
		if err != nil {
			j = []byte(err.Error())
		}
		b.Write(j)
		b.WriteByte('\n')
	}
	// Matches are full of what JSON escapes for HTML's sake.
	return strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(b.String())
}

// Increment adds 1 to an integer column and selects it.
func Increment(table, uuid, column string) []Operation {
	return []Operation{
		{Op: "mutate", Table: table, Where: byUUID(uuid), Mutations: []ovsdb.Mutation{*ovsdb.NewMutation(column, ovsdb.MutateOperationAdd, 1)}},
		{Op: "select", Table: table, Where: byUUID(uuid), Columns: []string{column}},
	}
}
