package ovnoverlay_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// The controller: a network and a port of host "hv1" in one transaction, done
// when every hypervisor has them.
func Example() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "example", []string{"ssl:192.0.2.1:6641", "ssl:192.0.2.2:6641", "ssl:192.0.2.3:6641"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	batch := conn.Batch()
	backend, err := ovnoverlay.New(batch, nil)
	if err != nil {
		log.Fatal(err)
	}
	fabric, err := overlay.New(backend, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = fabric.EnsureNetwork(ctx, overlay.Network{ID: "blue", Segment: overlay.Segment{Type: overlay.Geneve, ID: 100},
		Subnets: []overlay.Subnet{{ID: "blue-4", CIDR: netip.MustParsePrefix("10.0.0.0/24")}}})
	if err == nil {
		err = fabric.EnsurePort(ctx, overlay.Port{ID: "vm1", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:01"),
			FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Host: "hv1", Filtered: true})
	}
	if err == nil {
		err = batch.Commit(ovn.WithWait(ctx, ovn.WaitHypervisors))
	}
	if err != nil {
		log.Fatal(err)
	}
}

// The agent of a hypervisor: it sees the Southbound and its own Open vSwitch,
// plugs what it is told to, and takes away what is left of deleted ports.
func ExamplePlugger() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "example", nil, &ovn.Options{Southbound: []string{"ssl:192.0.2.1:6642"}})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	chassis, err := ovn.OpenChassis(ctx, "example", "unix:/run/openvswitch/db.sock", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer chassis.Close()
	plugger, err := ovnoverlay.NewPlugger(conn, chassis)
	if err != nil {
		log.Fatal(err)
	}
	go plugger.Serve(ctx, nil)
	device, err := plugger.Plug(ctx, overlay.Attachment{PortID: "vm1", Kind: overlay.Tap})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("give the machine", device.Name, "with MTU", device.MTU)
}
