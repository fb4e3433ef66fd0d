// Package rtnl is rtnetlink of one namespace: links, bridge ports, addresses,
// neighbours, forwarding entries, routes, rules, connection tracking and link
// events, in the module's own words (netip, vnet.MAC). It is the only importer
// of vishvananda/netlink.
//
// A [Conn] owns its sockets, opened inside the namespace; no package-level
// handle is used. Dumps that the kernel says were interrupted by a change are
// done again. Links are dumped without the virtual functions' details, which
// on a host with many of them hold the kernel's RTNL lock for most of a second.
//
// Writing methods are idempotent where a caller would want it so: adding what
// stands and deleting what is gone is no error. What a method names and does
// not find is [vnet.ErrNotFound].
package rtnl
