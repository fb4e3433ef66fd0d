// Package dpdk sets up a switch whose packets are carried by DPDK: huge pages,
// memory, cores, physical ports; and says what a hypervisor needs for the
// vhost-user ports of machines.
//
// # Configuration
//
// A [Config] is the desired state of the switch as a whole, a [Port] one
// physical device of it. What cannot be is refused before anything is written:
// cores, NUMA nodes and folders that are not there, more memory than huge pages.
// The library starts no process: [Status] says which settings wait for a restart
// of the switch, and [Setup.WaitReady] when it has come up.
//
// # Machines
//
// The port of a machine is a port of package overlay, plugged with the kind
// overlay.VhostUserClient (preferred: either side may be restarted) or
// overlay.VhostUserServer, and filtered by package secgroup like any other.
// Roles are told of the switch there. Neutron's vhostuser_mode names QEMU's:
// where the switch is the client, QEMU is the "server". [Guest] has both.
package dpdk
