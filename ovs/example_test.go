package ovs_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovs"
)

// The handle of a compute host, and a loop that makes all stand again when the
// switch was restarted. Backends are made over the handle, or over a batch of it.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "example", &ovs.Options{Name: "compute1", TunnelIP: netip.MustParseAddr("192.0.2.7"),
		PhysicalNetworks: map[string]string{"external": "br-ex"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sw.Close()
	sync := func(context.Context) error { return nil } // of all subsystems
	if err := sync(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for e := range sw.Watch(ctx) {
		if e.Kind == ovs.EventRestarted { // nothing passes until then
			fmt.Println(sync(ctx))
		}
	}
}

// Where no switch runs, Open waits for one, until its time is over.
func ExampleOpen() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := ovs.Open(ctx, "example", &ovs.Options{Database: "unix:/nonexistent/db.sock", DatapathType: "netdev"})
	fmt.Println(errors.Is(err, vnet.ErrNotReady), errors.Is(err, context.DeadlineExceeded))

	_, err = ovs.Open(ctx, "example", &ovs.Options{DatapathType: "quick"})
	fmt.Println(err)
	// Output:
	// true true
	// datapath_type "quick" must be "system" or "netdev"
}
