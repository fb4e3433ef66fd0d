package linuxoverlay_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
)

// A host with a tunnel address and a provider network; it needs root.
func Example() {
	ctx := context.Background()
	h, err := linux.Open(ctx, "mycloud", &linux.Options{
		Name:             "node1",
		TunnelIP:         netip.MustParseAddr("192.0.2.1"),
		PhysicalNetworks: map[string]string{"provider": "eth1"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	b, err := linuxoverlay.New(h, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := overlay.New(b, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	s := overlay.State{
		Networks: []overlay.Network{{ID: "blue", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}}},
		Ports:    []overlay.Port{{ID: "web", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:05")}},
		RemotePorts: []overlay.RemotePort{{ID: "db", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:06"),
			IPs: []netip.Addr{netip.MustParseAddr("198.51.100.6")}, Endpoint: netip.MustParseAddr("192.0.2.2")}},
	}
	plan, err := f.Plan(ctx, s)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(plan)
}
