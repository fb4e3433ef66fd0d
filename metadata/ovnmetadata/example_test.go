package ovnmetadata_test

import (
	"context"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/ovn"
)

// Once, for all hosts: an endpoint on a network.
func ExampleNew() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "cloud", []string{"unix:/run/ovn/ovnnb_db.sock"}, nil)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	b, err := ovnmetadata.New(conn, nil)
	if err != nil {
		panic(err)
	}
	s, err := metadata.New(b, nil)
	if err != nil {
		panic(err)
	}
	err = s.EnsureEndpoint(ctx, metadata.Endpoint{ID: "red", NetworkID: "red", PortID: "red-metadata", MAC: vnet.MustParseMAC("02:a9:fe:00:00:01"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}})
	if err != nil {
		panic(err)
	}
}

// On every hypervisor: answer.
func ExampleAgent() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "cloud", nil, &ovn.Options{Southbound: []string{"unix:/run/ovn/ovnsb_db.sock"}})
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	chassis, err := ovn.OpenChassis(ctx, "cloud", "unix:/run/openvswitch/db.sock", nil)
	if err != nil {
		panic(err)
	}
	defer chassis.Close()
	host, err := linux.Open(ctx, "cloud", nil)
	if err != nil {
		panic(err)
	}
	defer host.Close()
	who, err := filesource.Open("instances.json", nil)
	if err != nil {
		panic(err)
	}
	agent, err := ovnmetadata.NewAgent(conn, chassis, host, &ovnmetadata.AgentOptions{Instances: who})
	if err != nil {
		panic(err)
	}
	if err := agent.Serve(ctx); err != nil {
		panic(err)
	}
}
