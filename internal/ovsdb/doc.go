// Package ovsdb is the module's OVSDB client (RFC 7047 and the extensions of
// ovsdb-server(7)): one [Client] is one database of one server or RAFT cluster.
//
// It keeps a copy of the tables it was told of, as immutable rows in a [State];
// a State never changes, so any number of readers look at one without locks.
// A [Tx] is a State with changes over it, and the operations that make them.
//
// Of github.com/ovn-kubernetes/libovsdb it uses the generator of row types and
// the wire types, and not the client: that one refuses servers whose schema
// lacks a column of the model, loses updates of unknown columns, cannot say
// whether its cache is whole, and has dead-locked in reconnects.
//
// What holds whatever the server does: every call ends with its context or
// when the connection is given up (a server that is silent for longer than the
// keepalive is given up); the client reconnects for ever; rows are applied by one
// goroutine, in the order of the server, before the reply that follows them, so
// that a transaction's own changes are in the State when it returns; what
// cannot be decoded gives the connection up and loads everything anew.
//
// Rows are found and made by UUIDs that the caller computes (the "uuid" member
// of insert, ovsdb-server(7)), so the same object cannot be made twice, in a
// table with a unique index or without.
package ovsdb
