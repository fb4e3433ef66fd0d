package ovsqos_test

import (
	"context"
	"log"
	"net/netip"

	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovsqos"
)

// A port may send 10 Mbit/s and 5,000 packets a second, and a floating IP be
// sent 30 Mbit/s. It needs Open vSwitch, so it is not run here.
func Example() {
	ctx := context.Background()
	sw, err := ovs.Open(ctx, "example", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sw.Close()
	b, err := ovsqos.New(sw, nil)
	if err != nil {
		log.Fatal(err)
	}
	shaper, err := qos.New(b, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := shaper.EnsurePort(ctx, qos.Port{ID: "web", Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000, PPS: 5000}}}); err != nil {
		log.Fatal(err)
	}
	f := qos.FloatingIP{ID: "web-public", RouterID: "r1", PortID: "r1-gateway", NetworkID: "public", FloatingIP: netip.MustParseAddr("203.0.113.9"),
		Shape: qos.Shape{Ingress: qos.Limits{Kbps: 30_000}}}
	if err := shaper.EnsureFloatingIP(ctx, f); err != nil {
		log.Fatal(err)
	}
}
