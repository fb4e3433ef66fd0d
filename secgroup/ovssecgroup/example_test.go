package ovssecgroup_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

// A port and its filters, in one bundle of flows.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "tenants", &ovs.Options{Name: "host1", TunnelIP: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		log.Fatal(err)
	}
	defer sw.Close()
	batch := sw.Batch()
	networks, err := ovsoverlay.New(batch, nil)
	if err != nil {
		log.Fatal(err)
	}
	groups, err := ovssecgroup.New(batch, nil)
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
		fabric.EnsureNetwork(ctx, overlay.Network{ID: "net1", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}, MTU: 1450}),
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
