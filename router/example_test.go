package router_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/memrouter"
)

func Example() {
	ctx := context.Background()
	svc, err := router.New(memrouter.New(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	state := router.State{
		Routers: []router.Router{{
			ID: "r1",
			Interfaces: []router.Interface{{
				PortID: "r1-web", NetworkID: "web", MAC: vnet.MustParseMAC("02:00:00:00:01:01"),
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")},
				RA:        &router.RA{Mode: router.SLAAC},
			}},
			Gateway: &router.Gateway{
				PortID: "r1-gw", NetworkID: "public", MAC: vnet.MustParseMAC("02:00:00:00:01:02"),
				Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24")},
				NextHops:  []netip.Addr{netip.MustParseAddr("203.0.113.1")},
			},
		}},
		FloatingIPs: []router.FloatingIP{{ID: "f1", RouterID: "r1",
			FloatingIP: netip.MustParseAddr("203.0.113.80"), FixedIP: netip.MustParseAddr("10.0.0.5")}},
	}
	plan, err := svc.Plan(ctx, state)
	fmt.Print(plan)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(svc.Sync(ctx, state, vnet.SyncOptions{}))

	// A floating IP has all ports: none of them can be forwarded elsewhere.
	fmt.Println(svc.EnsurePortForward(ctx, router.PortForward{ID: "ssh", RouterID: "r1", Protocol: "tcp",
		ExternalIP: netip.MustParseAddr("203.0.113.80"), ExternalPort: router.PortRange{First: 22},
		InternalIP: netip.MustParseAddr("10.0.0.6"), InternalPort: router.PortRange{First: 22}}))
	// Output:
	// + router router r1
	// + router floatingip f1
	//       203.0.113.80 -> 10.0.0.5
	// 2 to create, 0 to update, 0 to delete
	// <nil>
	// ensure portforward "ssh": conflict: port_forwards[0].external_ip "203.0.113.80" is floating IP f1, all of which goes to one address
}
