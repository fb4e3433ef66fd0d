// Package memsecgroup is security groups in memory: what applications test
// against, without root. It keeps the desired state, refuses what every
// backend refuses, and answers which packets its rules allow
// ([Backend.ExplainPacket]); it carries no packets.
package memsecgroup
