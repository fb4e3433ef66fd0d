// Package sriov gives the functions of SR-IOV network cards to machines: it
// sets up how many virtual functions (VFs) a physical function (PF) has, gives
// one to a port with its MAC, VLAN, spoof check, trust, link state and rates,
// binds it to the driver a hypervisor wants, and puts all back as it was when
// the port is gone.
//
// # Words
//
//   - A [PF] is a card's port with SR-IOV; a [VF] is one of the slices of it that
//     a machine can have. Both are PCI functions. [Allocator.Discover] lists them.
//   - A [Device] is a PF as it is wanted: on which physical network it is, how
//     many VFs it has, which of them are kept out, and how its switch works.
//   - A [Port] asks for a function of a device of a physical network; which one
//     it got is its [Attachment], with what a hypervisor needs: PCI address, IOMMU
//     group, vfio path, libvirt's and QEMU's words for it.
//
// The kinds of ports are Neutron's vnic types: [Direct] (a VF), [MacVTap] (a
// macvtap device above a VF) and [DirectPhysical] (a whole PF).
//
// # Legacy and switchdev
//
// In legacy mode a card switches by MAC and VLAN, and nothing on the host sees
// the packets of a VF: security groups cannot hold there. A port that asks for
// both is refused, unless its port security is off. In switchdev mode each VF
// has a representor on the host, which [Attachment.Representor] names: plug it
// into the overlay as any existing device (overlay.Existing), and Open vSwitch
// filters and forwards, in hardware where the card can. Such ports have Offload.
//
// # Never twice
//
// A function has no place for a mark once a machine has it, so a backend keeps a
// record of each function it gave, written before the first change and removed
// after the last. The records are shared by all owners and processes of a host:
// a function is given to one port at a time, and a crash between any two steps
// is mended by Sync.
package sriov
