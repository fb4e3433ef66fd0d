package placement_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos/placement"
)

// Two hosts with 10 Gbit/s each, and ports that are promised 6.
func Example() {
	ctx := context.Background()
	ledger, err := placement.New(new(placement.Memory), nil)
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"h1", "h2"} {
		tree, err := placement.HostProviders(placement.Host{ID: name, Name: name, Kind: placement.AgentOVS,
			Devices: []placement.Device{{Name: "br-eth1", PhysicalNetwork: "physnet1", EgressKbps: 10_000_000}}})
		if err != nil {
			panic(err)
		}
		if err := ledger.EnsureProviders(ctx, false, tree...); err != nil {
			panic(err)
		}
	}
	for _, port := range []string{"port1", "port2", "port3"} {
		request, _, err := placement.PortRequest(placement.Port{ID: port, PhysicalNetwork: "physnet1", EgressKbps: 6_000_000})
		if err != nil {
			panic(err)
		}
		c, err := ledger.Claim(ctx, port, request)
		if errors.Is(err, vnet.ErrConflict) {
			fmt.Println(port, "fits nowhere")
			continue
		}
		fmt.Printf("%s on %s, %.0f %% of it promised\n", port, c.Host, 100*c.Load)
	}
	// Output:
	// port1 on h1, 60 % of it promised
	// port2 on h2, 60 % of it promised
	// port3 fits nowhere
}
