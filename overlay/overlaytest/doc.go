// Package overlaytest is the conformance suite of overlay backends: a backend's
// own test makes a [Harness] and calls [Run].
//
// Ring one is the contract: twice is once, a restart adopts, what is not ours
// stands, what cannot be done is refused by name. Ring two sends frames between
// virtual machines (network namespaces) on one to three hosts and looks at what
// arrives, and at what crosses the underlay. Ring three does so on random
// topologies and compares with the model of internal/reach, and shrinks what
// disagrees.
//
// A feature that a backend says it lacks is not skipped: it is tested to be
// refused.
package overlaytest
