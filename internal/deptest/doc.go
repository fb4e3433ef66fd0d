// Package deptest holds the import rules of the module, as tests:
//
//   - A contract (overlay, router, dhcp, metadata, secgroup) imports the
//     standard library, vnet, overlay, and packages internal to itself; nothing
//     of a third party even indirectly.
//   - A backend imports its contract, the contracts that its contract imports,
//     its one platform handle and internal packages; never another backend or
//     another handle. The agent of metadata/ovnmetadata makes namespaces on its
//     host and has the linux handle for that.
//   - A handle (linux, ovn) imports vnet and internal packages, never a contract.
//   - internal/reach, the judge, imports contracts, never a backend or handle.
//   - netlink, netns and nftables have one importer each, package internal/rtnl,
//     internal/netns and internal/nft; the DHCP codec is in dhcp/dhcpwire.
//   - internal/whole, the suite of whole clouds, imports contracts and the judge,
//     because it is about several subsystems at once and is no subsystem's own
//     suite; like those, it gets its backends from its callers.
//   - testify and rapid are in tests, in packages named *test, and in
//     internal/lab and internal/whole, which only tests import.
//   - No library package runs programs: os/exec is for tests, internal/lab and
//     the examples, which are a module of their own.
//   - No package has an init function or is a dot import's source.
package deptest
