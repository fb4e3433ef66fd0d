package dhcp_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/memdhcp"
)

// A scope, a reservation, and a machine that boots.
func Example() {
	ctx := context.Background()
	mem := memdhcp.New(nil)
	svc, err := dhcp.New(mem, nil)
	if err != nil {
		panic(err)
	}

	mac := vnet.MustParseMAC("02:00:00:00:00:0a")
	state := dhcp.State{
		Scopes: []dhcp.Scope{{
			ID: "subnet-1", NetworkID: "net-1", Subnet: netip.MustParsePrefix("192.0.2.0/24"),
			ServerIP: netip.MustParseAddr("192.0.2.2"), Router: netip.MustParseAddr("192.0.2.1"),
			DNS: []netip.Addr{netip.MustParseAddr("198.51.100.53")}, Domain: "example.org",
		}},
		Reservations: []dhcp.Reservation{{ID: "port-1", NetworkID: "net-1", MAC: mac, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Hostname: "web"}},
	}
	plan, err := svc.Plan(ctx, state)
	if err != nil {
		panic(err)
	}
	fmt.Print(plan)
	if err := svc.Sync(ctx, state, vnet.SyncOptions{}); err != nil {
		panic(err)
	}

	leases, err := mem.Ask("net-1", mac)
	if err != nil {
		panic(err)
	}
	fmt.Println(leases[0].MAC, "has", leases[0].IP)

	bad := state.Scopes[0]
	bad.Router = netip.MustParseAddr("203.0.113.1")
	fmt.Println(svc.EnsureScope(ctx, bad))
	// Output:
	// + dhcp scope subnet-1
	// + dhcp reservation port-1
	// 2 to create, 0 to update, 0 to delete
	// 02:00:00:00:00:0a has 192.0.2.10
	// ensure scope "subnet-1": router "203.0.113.1" is not an address of 192.0.2.0/24
}
