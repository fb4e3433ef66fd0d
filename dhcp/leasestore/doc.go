// Package leasestore gives addresses from pools and remembers them across
// crashes.
//
// # Model
//
// A [Store] holds leases of any number of scopes in memory and in one
// append-only file. [Store.Offer] chooses an address and holds it for a short
// while, in memory only. [Store.Bind], [Store.Release] and [Store.Decline]
// append a record; it is on the disk when [Store.Flush] has returned, and only
// then may the client be told. Flushes that overlap share one fsync, so the
// rate is not bound to that of the disk.
//
// An address is chosen in this order: the one the client had, the one it asks
// for, one given back, one never used, the one whose lease ended longest ago. A
// declined address rests for [Options.DeclineHold].
//
// # File
//
// After an 8-byte magic each record is a 4-byte length, a 4-byte CRC-32C of
// the payload, and the payload, big endian. Reading stops at the first record
// that is short or does not match; the file is cut there, which loses only
// what was never flushed. When the file is mostly history it is rewritten
// beside itself and renamed. A lock file keeps a second process out.
package leasestore
