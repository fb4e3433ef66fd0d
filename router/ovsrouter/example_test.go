package ovsrouter_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovsrouter"
)

// A router of host network1, told to this host, compute1: machines here reach
// the other tenant network without leaving the host, and the outside through
// network1.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sw, err := ovs.Open(ctx, "example", &ovs.Options{Name: "compute1", TunnelIP: netip.MustParseAddr("192.0.2.7")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sw.Close()
	backend, err := ovsrouter.New(sw, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	routers, err := router.New(backend, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	go routers.Serve(ctx) // says what routers say
	err = routers.EnsureRouter(ctx, router.Router{ID: "r1", Host: "network1",
		Interfaces: []router.Interface{
			{PortID: "r1-blue", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}},
			{PortID: "r1-red", NetworkID: "red", MAC: vnet.MustParseMAC("02:00:00:00:00:02"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.1/24")}}},
		Gateway: &router.Gateway{PortID: "r1-external", NetworkID: "external", MAC: vnet.MustParseMAC("02:00:00:00:00:03"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.10/24")}, NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}})
	fmt.Println(err)
}
