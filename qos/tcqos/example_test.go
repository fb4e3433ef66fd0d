package tcqos_test

import (
	"context"
	"log"

	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/tcqos"
)

// A port may send 10 Mbit/s and be sent 20, whether it is plugged already or
// will be. It needs root, so it is not run here.
func Example() {
	ctx := context.Background()
	host, err := linux.Open(ctx, "example", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	b, err := tcqos.New(host, nil)
	if err != nil {
		log.Fatal(err)
	}
	shaper, err := qos.New(b, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := shaper.EnsurePort(ctx, qos.Port{ID: "web", Shape: qos.Shape{Egress: qos.Limits{Kbps: 10_000}, Ingress: qos.Limits{Kbps: 20_000}}}); err != nil {
		log.Fatal(err)
	}
}
