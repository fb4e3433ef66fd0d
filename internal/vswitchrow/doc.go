// Package vswitchrow holds the rows of the Open_vSwitch database of one host, one type a table, generated from
// the schema of Open vSwitch 3.1 (8.3.1), which lies beside it. What the
// columns mean is in ovs-vswitchd.conf.db(5).
package vswitchrow

//go:generate sh ../ovsdb/modelgen.sh vswitchrow vswitch.ovsschema
