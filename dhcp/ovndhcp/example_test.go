package ovndhcp_test

import (
	"context"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovndhcp"
	"github.com/vnet-go/vnet/ovn"
)

// A scope and what a port of the network is to be told, in one transaction.
func Example() {
	ctx := context.Background()
	conn, err := ovn.Dial(ctx, "cloud", []string{"unix:/run/ovn/ovnnb_db.sock"}, nil)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	batch := conn.Batch()
	b, err := ovndhcp.New(batch, nil)
	if err != nil {
		panic(err)
	}
	s, err := dhcp.New(b, nil)
	if err != nil {
		panic(err)
	}
	err = s.EnsureScope(ctx, dhcp.Scope{ID: "red-v4", NetworkID: "red", Subnet: netip.MustParsePrefix("10.0.0.0/24"),
		ServerIP: netip.MustParseAddr("10.0.0.2"), Router: netip.MustParseAddr("10.0.0.1"), MTU: 1442})
	if err != nil {
		panic(err)
	}
	// The port is there, or is in the batch already.
	err = s.EnsureReservation(ctx, dhcp.Reservation{ID: "web1", NetworkID: "red", MAC: vnet.MustParseMAC("02:00:00:00:00:0b"),
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.11")}, Hostname: "web1"})
	if err != nil {
		panic(err)
	}
	if err := batch.Commit(ctx); err != nil {
		panic(err)
	}
}
