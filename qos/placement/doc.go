// Package placement is the ledger of what hosts can promise: so much bandwidth
// of a device, so many packets a second of a switch. It finds hosts that can
// keep a promise, writes the promise down, and never promises more than there
// is, whoever asks at the same time.
//
// # The model
//
// It is that of OpenStack's Placement, in whose words it speaks:
//
//   - A [Provider] has something to give: an [Inventory] for each [Class] of
//     resource, and traits that say what it is. Providers form trees; the root
//     of a tree is a host.
//   - A [Request] has groups: what one provider has to give together, and which
//     traits it must have. Different groups may be given by different providers
//     of the same host.
//   - A [Candidate] says which provider would give which group. Candidates are
//     ranked by a stated [Policy].
//   - An [Allocation] is what a consumer (a port, a server) has been promised: of
//     several providers together, or of none.
//
// [HostProviders] makes the tree of a host, and [PortRequest] what a port asks
// for, as Neutron makes them, with the same ids and names.
//
// # One port, step by step
//
// Host h1 has a device eth1 on physical network physnet1, of 10 Gbit/s. Its
// tree is h1, below it the agent "h1:Open vSwitch agent", below that the device,
// with 10,000,000 of NET_BW_EGR_KILOBIT_PER_SEC and the trait
// CUSTOM_PHYSNET_PHYSNET1. A port with a minimum of 1 Gbit/s asks for a group of
// 1,000,000 of that class from a provider with that trait.
// [Ledger.Claim] finds the device and writes the allocation; the eleventh such
// port gets [vnet.ErrConflict], or another host.
//
// # Stores
//
// A [Ledger] stands on a [Store]: [Memory], [OpenFile], which is durable, or
// package qos/placement/openstack, which speaks to a Placement that is there
// already.
package placement
