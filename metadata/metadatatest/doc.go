// Package metadatatest is the conformance suite of metadata backends. A
// backend's own test is one call of [Run] with a [Harness].
//
// Ring 1 asks what the contract promises of every backend. Ring 2 puts
// machines into network namespaces and lets them fetch their metadata over
// IPv4 and IPv6, honestly and not.
package metadatatest
