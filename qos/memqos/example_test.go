package memqos_test

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/memqos"
)

// A network has a policy, one of its ports another; then the policy changes.
func Example() {
	ctx := context.Background()
	shaper, err := qos.New(memqos.New(nil), nil)
	if err != nil {
		panic(err)
	}
	want := qos.Assignments{
		Policies: []qos.Policy{
			{ID: "bronze", Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000}, Ingress: qos.Limits{Kbps: 20_000}}},
			{ID: "gold", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 100_000}}},
		},
		Networks: map[string]string{"net": "bronze"},
		Ports: []qos.AssignedPort{
			{ID: "web", NetworkID: "net"},
			{ID: "db", NetworkID: "net", PolicyID: "gold", Uplink: qos.Tunnelled},
			{ID: "router", NetworkID: "net", NetworkOwned: true},
		},
		Uplinks: []qos.Uplink{{Name: qos.Tunnelled, Kbps: 1_000_000}},
	}
	state, err := want.State()
	if err != nil {
		panic(err)
	}
	if err := shaper.Sync(ctx, state, vnet.SyncOptions{}); err != nil {
		panic(err)
	}
	want.Policies[0].Egress.Kbps = 15_000
	if state, err = want.State(); err != nil {
		panic(err)
	}
	plan, err := shaper.Plan(ctx, state)
	if err != nil {
		panic(err)
	}
	fmt.Print(plan)
	fmt.Println(shaper.EnsurePort(ctx, qos.Port{ID: "greedy", Uplink: qos.Tunnelled, Shape: qos.Shape{Egress: qos.Limits{MinKbps: 950_000}}}))
	// Output:
	// ~ qos port web  (impact: some)
	//       egress max_kbps: 10000 -> 15000
	//       egress burst_kbit: 8000 -> 12000
	// 0 to create, 1 to update, 0 to delete
	// ensure port "greedy": port greedy: uplink *tunnelled has 900000 kbit/s left, and 950000 are to be promised: conflict
}
