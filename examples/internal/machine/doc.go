// Package machine makes and removes what stands for hardware: hosts,
// outside servers and virtual machines as network namespaces, the wires
// between them, and the processes that run in them. Whatever it makes can be
// found again by name, so that a killed program leaves nothing that the next
// one cannot finish or take away. Nothing is made in the machine's own
// network namespace.
package machine
