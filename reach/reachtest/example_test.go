package reachtest_test

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/reach/reachtest"
)

// A test draws a world inside rapid.Check; here one is drawn by its seed.
func Example() {
	w := rapid.Custom(func(t *rapid.T) reach.World {
		return reachtest.World(t, reachtest.Want{Hosts: 2, Routers: true, Groups: true})
	}).Example(1)
	m, err := reach.New(w)
	fmt.Println(m != nil, err)
	// Output: true <nil>
}
