// Package tcqos holds limits and guarantees on the Linux kernel: queueing
// disciplines of devices, and nftables for packet rates, marks, gateways and
// floating IPs.
package tcqos
