// Package sbrow holds the rows of the OVN Southbound database, one type a table, generated from
// the schema of OVN 23.03 (20.27.0), which lies beside it. They are only read.
// What the columns mean is in ovn-sb(5).
package sbrow

//go:generate sh ../ovsdb/modelgen.sh sbrow ovn-sb.ovsschema
