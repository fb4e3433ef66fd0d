// Package memqos is limits and guarantees in memory: what applications test
// against, without root. It keeps the desired state and refuses what every
// backend refuses; it carries no packets, so nothing is ever dropped.
package memqos
