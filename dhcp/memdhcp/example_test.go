package memdhcp_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/memdhcp"
)

// A test of an application: what would this machine get?
func Example() {
	ctx := context.Background()
	mem := memdhcp.New(nil)
	svc, err := dhcp.New(mem, nil)
	if err != nil {
		panic(err)
	}
	mac := vnet.MustParseMAC("02:00:00:00:00:0a")
	if err := svc.EnsureScope(ctx, dhcp.Scope{ID: "s", NetworkID: "n", Subnet: netip.MustParsePrefix("2001:db8::/64")}); err != nil {
		panic(err)
	}
	if err := svc.EnsureReservation(ctx, dhcp.Reservation{ID: "p", NetworkID: "n", MAC: mac, IPs: []netip.Addr{netip.MustParseAddr("2001:db8::a")}}); err != nil {
		panic(err)
	}
	leases, err := mem.Ask("n", mac)
	fmt.Println(len(leases), leases[0].IP, err)
	_, err = mem.Ask("n", vnet.MustParseMAC("02:00:00:00:00:99"))
	fmt.Println(err)
	// Output:
	// 1 2001:db8::a <nil>
	// not found: nobody answers 02:00:00:00:00:99 on network "n"
}
