package ovsmetadata_test

import (
	"context"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/ovs"
)

// An agent that answers the machines of its host.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "cloud", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sw.Close()
	host, err := linux.Open(ctx, "cloud", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	who, err := filesource.Open("instances.json", nil)
	if err != nil {
		log.Fatal(err)
	}
	backend, err := ovsmetadata.New(sw, host, &ovsmetadata.Options{Instances: who})
	if err != nil {
		log.Fatal(err)
	}
	svc, err := metadata.New(backend, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = svc.EnsureEndpoint(ctx, metadata.Endpoint{ID: "red", NetworkID: "red", PortID: "red-metadata", MAC: vnet.MustParseMAC("02:a9:fe:00:00:01"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}})
	if err != nil {
		log.Fatal(err)
	}
	if err := svc.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
