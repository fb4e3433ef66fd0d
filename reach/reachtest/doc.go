// Package reachtest draws random worlds and packets for tests that compare
// with the judge: small ones, with the same addresses in several networks, and
// packets a good share of which is near what decides about them.
//
//	rapid.Check(t, func(t *rapid.T) {
//		w := reachtest.World(t, reachtest.Want{Hosts: 2, Routers: true, Groups: true})
//		m, err := reach.New(w)
//		...
//		v := m.Send(reachtest.Packet(t, w))
//	})
//
// All that is drawn is valid and can be made by every backend that supports
// the segment types asked for.
package reachtest
