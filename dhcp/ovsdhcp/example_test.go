package ovsdhcp_test

import (
	"context"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/ovs"
)

// An agent that serves the ports of its host's switch.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "cloud", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sw.Close()
	store, err := leasestore.Open("/var/lib/agent/leases", nil) // only for pools
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	backend, err := ovsdhcp.New(sw, &ovsdhcp.Options{Leases: store})
	if err != nil {
		log.Fatal(err)
	}
	svc, err := dhcp.New(backend, nil)
	if err != nil {
		log.Fatal(err)
	}
	state := dhcp.State{Scopes: []dhcp.Scope{{
		ID: "subnet-1", NetworkID: "net-1", Subnet: netip.MustParsePrefix("192.0.2.0/24"), ServerIP: netip.MustParseAddr("192.0.2.2"),
	}}}
	if err := svc.Sync(ctx, state, vnet.SyncOptions{}); err != nil {
		log.Fatal(err)
	}
	if err := svc.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
