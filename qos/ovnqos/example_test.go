package ovnqos_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovnqos"
)

// A port, and the floating IPs of a network, limited in one transaction that
// returns when every hypervisor has installed it.
func Example() {
	ctx := ovn.WithWait(context.Background(), ovn.WaitHypervisors)
	conn, err := ovn.Dial(ctx, "tenants", []string{"ssl:192.0.2.1:6641", "ssl:192.0.2.2:6641", "ssl:192.0.2.3:6641"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	batch := conn.Batch()
	backend, err := ovnqos.New(batch, nil)
	if err != nil {
		log.Fatal(err)
	}
	shaper, err := qos.New(backend, nil)
	if err != nil {
		log.Fatal(err)
	}
	mark := uint8(26)
	gold := qos.Shape{Egress: qos.Limits{Kbps: 100_000}, Ingress: qos.Limits{Kbps: 500_000}, DSCP: &mark}
	for _, id := range []string{"p1", "p2"} {
		if err := shaper.EnsurePort(ctx, qos.Port{ID: id, Shape: gold}); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Print(batch.Changes())
	if err := batch.Commit(ctx); err != nil {
		log.Fatal(err)
	}
}

// What runs on a host: it shares out the host's uplinks, by what is promised in
// the Southbound.
func ExampleShares() {
	ctx := context.Background()
	south, err := ovn.Dial(ctx, "tenants", nil, &ovn.Options{Southbound: []string{"ssl:192.0.2.4:6642"}})
	if err != nil {
		log.Fatal(err)
	}
	defer south.Close()
	shares, err := ovnqos.NewShares(south, "hv1", &ovnqos.SharesOptions{
		Devices: map[string]string{"physnet1": "eth1", qos.Tunnelled: "eth0"}})
	if err != nil {
		log.Fatal(err)
	}
	defer shares.Close()
	log.Fatal(shares.Serve(ctx))
}
