// Package nbrow holds the rows of the OVN Northbound database, one type a table, generated from
// the schema of OVN 23.03 (7.0.0), which lies beside it. Servers with older or
// newer schemas work: package internal/ovsdb asks only for columns that both
// sides have. What the columns mean is in ovn-nb(5).
package nbrow

//go:generate sh ../ovsdb/modelgen.sh nbrow ovn-nb.ovsschema
