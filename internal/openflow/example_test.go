package openflow_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet/internal/openflow"
)

// A flow is built of conditions and actions, and reads as ovs-ofctl prints it.
func Example() {
	f := openflow.Flow{Table: 60, Priority: 100, Cookie: 0x1f,
		Match: openflow.IP4(openflow.Reg(1).Is(7), openflow.IPv4Dst.Prefix(netip.MustParsePrefix("192.0.2.0/24"))),
		Actions: []openflow.Action{
			openflow.CT{Commit: true, ZoneFrom: openflow.Reg(1).Range(0, 15)},
			openflow.Load(openflow.Reg(0).Bit(4), 1),
			openflow.Goto(70),
		}}
	fmt.Println(f.String())
	for _, p := range openflow.PortRange(8000, 8010) {
		fmt.Println(openflow.TCP4(p.Of(openflow.TCPDst)))
	}
	// Output:
	// cookie=0x1f, table=60, priority=100,ip,reg1=0x7,nw_dst=192.0.2.0/24 actions=ct(commit,zone=NXM_NX_REG1[0..15]),set_field:0x10/0x10->reg0,resubmit(,70)
	// tcp,tp_dst=0x1f40/0xfff8
	// tcp,tp_dst=0x1f48/0xfffe
	// tcp,tp_dst=8010
}

// Flows are added in one bundle, all or none.
func ExampleConn_Bundle() {
	ctx := context.Background()
	c, err := openflow.Dial(ctx, "unix", "/var/run/openvswitch/br-int.mgmt", nil)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.Bundle(ctx, []openflow.FlowMod{
		openflow.DeleteAll(openflow.AllTables, 0x1f, ^uint64(0), nil),
		openflow.Add(openflow.Flow{Match: openflow.Any(openflow.InPort.Is(3)), Actions: []openflow.Action{openflow.Goto(10)}}),
	})
}
