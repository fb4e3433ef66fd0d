package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
)

func Example() {
	ctx := context.Background()
	f, err := overlay.New(memoverlay.New(nil), nil) // or linuxoverlay.New(host, nil)
	if err != nil {
		panic(err)
	}
	blue := overlay.Network{
		ID:      "blue",
		Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100},
		Subnets: []overlay.Subnet{{ID: "blue-v4", CIDR: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.1")}},
	}
	web := overlay.Port{
		ID: "web", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:05"),
		FixedIPs: []netip.Addr{netip.MustParseAddr("192.0.2.5")},
	}
	if err := errors.Join(f.EnsureNetwork(ctx, blue), f.EnsurePort(ctx, web)); err != nil {
		panic(err)
	}
	d, err := f.Plug(ctx, overlay.Attachment{PortID: "web", Kind: overlay.Veth, Netns: "/run/netns/web"})
	if err != nil {
		panic(err)
	}
	fmt.Println("the machine should use an MTU of", d.MTU)

	// The port is to go, a network to come.
	plan, err := f.Plan(ctx, overlay.State{Networks: []overlay.Network{blue, {ID: "lab", Segment: overlay.Segment{Type: overlay.Local}}}})
	if err != nil {
		panic(err)
	}
	fmt.Print(plan)
	// Output:
	// the machine should use an MTU of 1430
	// + overlay network lab
	//       segment: local
	// - overlay port web  (impact: object)
	// 1 to create, 0 to update, 1 to delete
}

func ExampleState_Validate() {
	s := overlay.State{
		Networks: []overlay.Network{{ID: "blue", Segment: overlay.Segment{Type: overlay.VLAN, ID: 4095}, MTU: 40}},
		Ports:    []overlay.Port{{ID: "web", NetworkID: "green", MAC: vnet.MustParseMAC("02:00:00:00:00:05")}},
	}
	fmt.Println(s.Validate())
	// Output:
	// networks[0].segment.physical_network is missing, and vlan segments are on one
	// networks[0].segment.id "4095" is not 1 to 4094
	// networks[0].mtu "40" is not 68 to 65535
	// ports[0].network_id "green" is no network of the state
}

func ExampleNetwork_EffectiveMTU() {
	n := overlay.Network{ID: "blue", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}}
	v4, _ := n.EffectiveMTU(1500, netip.MustParseAddr("198.51.100.1"))
	v6, _ := n.EffectiveMTU(1500, netip.MustParseAddr("2001:db8::1"))
	fmt.Println(v4, v6)
	// Output: 1450 1430
}

func ExampleAllocator() {
	vlans, err := overlay.NewAllocator(overlay.VLAN, overlay.IDRange{First: 100, Last: 199})
	if err != nil {
		panic(err)
	}
	_ = vlans.Reserve(100) // an operator's, from the database
	id, err := vlans.Allocate()
	fmt.Println(id, err)
	vlans.Release(id)
	// Output: 101 <nil>
}
