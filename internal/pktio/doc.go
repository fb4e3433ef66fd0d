// Package pktio sends and receives whole Ethernet frames on a device of a
// namespace (AF_PACKET), and makes the frames that announce addresses.
//
// A packet socket sees what arrives at a device before the host's firewall and
// whether or not the device has addresses. That is how servers of this module
// answer on the bridge of a network that the host's own IP stack never hears.
package pktio
