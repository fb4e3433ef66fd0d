// Package ovsdpdk sets up Open vSwitch with DPDK: a [dpdk.Backend] over an
// [ovs.Switch]. What stands is kept in the switch's own database: settings in
// other_config of its one row, whose owner and what else is to be put back in
// external_ids, ports as rows.
//
// DPDK's own settings are read by ovs-vswitchd once, when it initialises DPDK.
// The first dpdk-init=true takes effect at once; what is changed later waits for
// a restart, and is named by Status. PMD cores, and how queues are spread over
// them, take effect at once.
//
// A switch has one configuration: the second owner's is [vnet.ErrConflict], as
// are settings of an operator's that differ from what is asked for.
package ovsdpdk
