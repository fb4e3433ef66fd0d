// Package secgrouptest is the conformance suite of security groups: any
// backend, ours or a stranger's, runs it with one call of [Run].
//
// It has three rings. The first asks what the contract promises of every
// backend, by calls alone. The second plugs namespaces into ports and sends
// real packets between them: each case says which must arrive, and the model
// of package reach must agree. The third draws groups, ports and packets at
// random, compares with the model, and shrinks what disagrees to a small
// state and one packet. Backends that carry no packets run the first only.
//
// Every case is a value with a name and the sentence of the contract that it
// checks.
package secgrouptest
