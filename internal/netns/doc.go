// Package netns makes, opens, enters and removes network namespaces. It is
// the only importer of vishvananda/netns.
//
// A namespace is entered only inside [NS.Do]: f runs on a goroutine of its
// own, locked to a thread. When the thread cannot be brought back it stays
// locked, and ends with the goroutine: a thread in a strange namespace never
// returns to the scheduler's pool, where it would serve other goroutines.
//
// A named namespace is a file with the namespace bind-mounted on it, as
// `ip netns` makes them: it lives until the mount is taken away and nothing
// else (process, socket, open file) holds it.
package netns
