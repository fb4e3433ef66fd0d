// Package vm is what runs inside a "virtual machine" of the cloud: a process
// in a network namespace that boots as a machine does. It brings its links
// up, gets its addresses by DHCP, DHCPv6 or router advertisements, fetches its
// metadata over the wire, takes its hostname and keys from it, and then answers
// (and, when told to, sends) the probes of the reachability matrix.
//
// Nothing here knows the cloud: all it learns, it learns from the network,
// but for what an image would bring along (whether to ask by DHCP, and the
// config drive of subnets that have none).
package vm
