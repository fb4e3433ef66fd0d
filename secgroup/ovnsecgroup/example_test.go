package ovnsecgroup_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// A port and its filters, in one transaction that returns when every
// hypervisor has installed it.
func Example() {
	ctx := ovn.WithWait(context.Background(), ovn.WaitHypervisors)
	conn, err := ovn.Dial(ctx, "tenants", []string{"ssl:192.0.2.1:6641", "ssl:192.0.2.2:6641", "ssl:192.0.2.3:6641"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	batch := conn.Batch()
	networks, err := ovnoverlay.New(batch, nil)
	if err != nil {
		log.Fatal(err)
	}
	groups, err := ovnsecgroup.New(batch, nil)
	if err != nil {
		log.Fatal(err)
	}
	fabric, err := overlay.New(networks, nil)
	if err != nil {
		log.Fatal(err)
	}
	enforcer, err := secgroup.New(groups, nil)
	if err != nil {
		log.Fatal(err)
	}

	mac, ip := vnet.MustParseMAC("02:5e:00:00:00:07"), netip.MustParseAddr("198.51.100.7")
	for _, err := range []error{
		fabric.EnsurePort(ctx, overlay.Port{ID: "p1", NetworkID: "net1", MAC: mac, FixedIPs: []netip.Addr{ip}, Filtered: true}),
		enforcer.EnsureGroup(ctx, secgroup.DefaultGroup("default")),
		enforcer.EnsurePort(ctx, secgroup.Port{ID: "p1", NetworkID: "net1", MAC: mac, FixedIPs: []netip.Addr{ip}, Groups: []string{"default"}}),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Print(batch.Changes())
	if err := batch.Commit(ctx); err != nil {
		log.Fatal(err)
	}
}
