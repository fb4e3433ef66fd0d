package ovsoverlay_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

// A network of two hosts: vm1 is here, on compute1, and vm2 on the host whose
// tunnel end is 192.0.2.8.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "example", &ovs.Options{Name: "compute1", TunnelIP: netip.MustParseAddr("192.0.2.7")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sw.Close()
	batch := sw.Batch()
	backend, err := ovsoverlay.New(batch, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fabric, err := overlay.New(backend, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = fabric.EnsureNetwork(ctx, overlay.Network{ID: "blue", Segment: overlay.Segment{Type: overlay.Geneve, ID: 100},
		Subnets: []overlay.Subnet{{ID: "blue-4", CIDR: netip.MustParsePrefix("10.0.0.0/24")}}})
	if err == nil {
		err = fabric.EnsurePort(ctx, overlay.Port{ID: "vm1", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:01"),
			FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Filtered: true})
	}
	if err == nil {
		err = fabric.EnsureRemotePort(ctx, overlay.RemotePort{ID: "vm2", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:02"),
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.6")}, Endpoint: netip.MustParseAddr("192.0.2.8")})
	}
	if err == nil {
		err = batch.Commit(ctx) // one bundle
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := fabric.Plug(ctx, overlay.Attachment{PortID: "vm1", Kind: overlay.Tap})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("give the machine", device.Name, "with MTU", device.MTU)
}
