// Package openflow speaks OpenFlow 1.5 with Nicira's extensions to Open vSwitch
// 3.1 and later.
package openflow
