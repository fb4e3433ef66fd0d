package ovn_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

// What a subsystem's backend does: the same function is planned and submitted.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := ovn.Dial(ctx, "red", []string{"tcp:192.0.2.1:6641", "tcp:192.0.2.2:6641", "tcp:192.0.2.3:6641"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	network := func(tx *ovn.Tx) error {
		r := ovn.Ensure(tx, "network", "blue", &nbrow.LogicalSwitch{
			Name:        conn.Name("network", "blue"),
			OtherConfig: map[string]string{"mcast_snoop": "true"},
		})
		tx.Record("network", "blue", vnet.ImpactNone, r)
		return nil
	}
	plan, err := conn.Plan(ctx, vnet.PartOverlay, network)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Return when every hypervisor has installed it, or say which has not.
	if err := conn.Submit(ovn.WithWait(ctx, ovn.WaitHypervisors), vnet.PartOverlay, network); err != nil {
		log.Fatal(err)
	}
}

func ExamplePortName() {
	name := ovn.PortName("red", "9d0b1a7c")
	fmt.Println(name)
	fmt.Println(ovn.ParsePortName("red", name))
	_, ours := ovn.ParsePortName("blue", name)
	fmt.Println(ours)
	// Output:
	// red/9d0b1a7c
	// 9d0b1a7c true
	// false
}

func ExampleMarkOf() {
	m, ok := ovn.MarkOf(map[string]string{"vnet:owner": "red", "vnet:part": "overlay", "vnet:kind": "port", "vnet:id": "p1"})
	fmt.Println(m.Owner, m.Part, m.Kind, m.ID, ok)
	_, ok = ovn.MarkOf(map[string]string{"neutron:port_name": "p1"})
	fmt.Println(ok)
	// Output:
	// red overlay port p1 true
	// false
}
