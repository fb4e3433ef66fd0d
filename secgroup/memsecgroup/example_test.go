package memsecgroup_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/memsecgroup"
)

// Two ports of a default group, one of which is a web server too.
func Example() {
	ctx := context.Background()
	e, err := secgroup.New(memsecgroup.New(nil), nil)
	if err != nil {
		panic(err)
	}
	http := uint16(80)
	web := secgroup.Group{ID: "web", Rules: []secgroup.Rule{
		{ID: "http", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &http, PortMax: &http},
	}}
	state := secgroup.State{
		Groups: []secgroup.Group{secgroup.DefaultGroup("default"), web},
		Ports: []secgroup.Port{
			{ID: "p1", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), FixedIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Groups: []string{"default", "web"}},
			{ID: "p2", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:02"), FixedIPs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Groups: []string{"default"}},
		},
	}
	if err := e.Sync(ctx, state, vnet.SyncOptions{}); err != nil {
		panic(err)
	}
	for _, p := range []secgroup.Packet{
		{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Selector: 80},
		{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Selector: 22},
		{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("192.0.2.2"), Protocol: 6, Selector: 22},
	} {
		x, err := e.ExplainPacket(ctx, "p1", p)
		if err != nil {
			panic(err)
		}
		fmt.Print(x)
	}

	state.Groups[1].Rules = nil
	plan, err := e.Plan(ctx, state)
	if err != nil {
		panic(err)
	}
	fmt.Print(plan)
	fmt.Println(e.DeleteGroup(ctx, "web"))
	// Output:
	// passes
	//   by group web: ingress IPv4 tcp 80
	//     rule web/http: ingress IPv4 tcp 80
	// dropped: no rule of port p1 allows it
	//   not in group default
	//   not in group web
	// passes
	//   by group default: ingress IPv4 from group default
	//     rule default/ingress-ipv4: ingress IPv4 from group default
	// ~ secgroup group web  (impact: some)
	//       rule http: gone, ingress IPv4 tcp 80
	// 0 to create, 1 to update, 0 to delete
	// delete group "web": in use by port p1
}
