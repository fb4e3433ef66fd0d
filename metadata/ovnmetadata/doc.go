// Package ovnmetadata makes metadata endpoints on OVN and answers at them, on
// every hypervisor for the machines that are there.
package ovnmetadata
