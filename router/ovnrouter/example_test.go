package ovnrouter_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
)

// A router between a tenant's network and an external one, with a floating IP
// that is translated on the host of its port, in one transaction.
func Example() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "example", []string{"tcp:192.0.2.1:6641", "tcp:192.0.2.2:6641", "tcp:192.0.2.3:6641"},
		&ovn.Options{Southbound: []string{"tcp:192.0.2.1:6642", "tcp:192.0.2.2:6642", "tcp:192.0.2.3:6642"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	batch := conn.Batch()
	backend, err := ovnrouter.New(batch, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	routers, err := router.New(backend, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = routers.EnsureRouter(ctx, router.Router{ID: "r1",
		Interfaces: []router.Interface{{PortID: "r1-tenant", NetworkID: "tenant", MAC: vnet.MustParseMAC("02:00:00:00:00:01"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}}},
		Gateway: &router.Gateway{PortID: "r1-external", NetworkID: "external", MAC: vnet.MustParseMAC("02:00:00:00:00:02"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24")}, NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
			Hosts: []string{"network1", "network2"}}})
	if err == nil {
		err = routers.EnsureFloatingIP(ctx, router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: netip.MustParseAddr("203.0.113.50"),
			FixedIP: netip.MustParseAddr("10.1.0.7"), PortID: "vm1", ExternalMAC: vnet.MustParseMAC("02:00:00:00:00:03")})
	}
	if err == nil {
		err = batch.Commit(ovn.WithWait(ctx, ovn.WaitHypervisors))
	}
	fmt.Println(err)
}
