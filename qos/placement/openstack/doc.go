// Package openstack is a [placement.Store] that speaks the HTTP API of OpenStack's
// Placement: where that is there already, applications promise of the same
// ledger as Nova does, with the same rules.
//
// # What it needs
//
// Microversion 1.37 (Victoria or later): nested providers and groups that may be
// given by different ones are 1.29, names of groups 1.33, which provider gives
// which group 1.34, groups of one subtree 1.36, another parent for a provider
// 1.37. A service without it is refused with [*vnet.UnsupportedError].
//
// # How it maps
//
//   - Ids of providers and consumers are UUIDs there: others are refused with
//     [*vnet.FieldError]. placement.HostProviders makes such ids of all but the
//     host's own; use that of the compute node's provider.
//   - A store's generation is the service's plus one, as 0 means "not there".
//   - Numbers of an inventory are at most 2147483647, and 1 as smallest unit and
//     step, and 2147483647 as largest unit, are read as "not set".
//   - A provider is made in up to four requests. One that a crash has left half
//     made is completed by the next PutProvider of it.
//   - The service does not rank: candidates are asked for without limit, ordered
//     by the policy here, and cut off. A request that names hosts is one query for
//     each.
//   - Classes and traits that begin with CUSTOM_ are made when a provider has them.
//
// Facts are from the Placement API reference (docs.openstack.org/api-ref/placement)
// and its history of microversions.
package openstack
