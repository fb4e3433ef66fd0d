// Package linuxsriov is the backend of sriov for the Linux kernel: sysfs, rtnetlink
// and devlink; no tool is run.
//
// # What goes where
//
//   - The number of VFs, drivers, IOMMU groups: sysfs (sriov_numvfs,
//     driver_override, unbind, drivers_probe).
//   - MAC, VLAN, spoof check, trust, link state and rates of a VF: rtnetlink, at
//     its PF (IFLA_VFINFO_LIST). The kernel has no request for one VF, so what is
//     read is the list of one PF, without counters, and only where a VF matters.
//     Minimum and maximum rate are always sent together, as the kernel takes an
//     absent one as 0. What stands already is not written, so a driver that lacks
//     a setting is no trouble to who does not ask for it.
//   - Switchdev: devlink's eswitch mode, set while no VF has a driver; ethtool's
//     hw-tc-offload on the PF. Representors are found by phys_switch_id and
//     phys_port_name. That Open vSwitch offloads is its operator's to say
//     (other_config:hw-offload, read when ovs-vswitchd starts).
//   - Who has which function: records in [Options.Dir], on a tmpfs that a restart
//     of the machine empties together with the VFs. One lock keeps processes
//     apart.
//
// # Order
//
// A record is written first. Then the function loses its driver, so that no
// machine sees half of its settings; then they are written; then it is bound.
// Release goes the other way, clears the MAC (a card keeps what is for a stale
// one away from the wire), and removes the record last. [Backend.Sync] goes on
// where a crash ended either.
//
// # What it finds and repairs
//
// A driver that somebody changed, settings that a machine, a tool or a reset
// changed, VFs that are gone because the PF's driver was loaded again: Plan says
// so and Sync puts it right. A function whose vfio group a process has open is
// never taken away: the kernel would wait for that process, for ever.
//
// # Tested on
//
// The 82576 that QEMU emulates (igb), with an IOMMU: see docs/hardware.md for what
// that card has and what it refuses. Switchdev mode is in no emulated card: it is
// tested against a conversation with the kernel written down from its
// documentation and drivers, not against hardware.
package linuxsriov
