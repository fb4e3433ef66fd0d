package nftsecgroup_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

// A port of this host in the default group. It needs CAP_NET_ADMIN.
func Example() {
	ctx := context.Background()
	host, err := linux.Open(ctx, "example", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	backend, err := nftsecgroup.New(host, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("connections are held by", backend.Features(ctx).Tracking)
	e, err := secgroup.New(backend, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = e.Sync(ctx, secgroup.State{
		Groups: []secgroup.Group{secgroup.DefaultGroup("default")},
		Ports: []secgroup.Port{{ID: "p1", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:01"),
			FixedIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Groups: []string{"default"}}},
	}, vnet.SyncOptions{})
	if err != nil {
		log.Fatal(err)
	}
}
