// Package routertest is the conformance suite of routers: any backend, ours or
// a stranger's, runs it with one call of [Run].
//
// The first ring asks what the contract promises of every backend, by calls
// alone. The second plugs machines (network namespaces) into ports and sends
// real packets through the routers: each case says what must arrive. The third
// draws packets at random and compares what arrives with the model of
// internal/reach. Backends that carry no packets run the first only.
//
// Every case is a value with a name and the sentence of the contract that it
// checks.
package routertest
