package linux_test

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
)

// Names are computed from the owner and the application's ids, so a new
// process, or a person, finds what an old one made.
func ExampleHost_names() {
	h, err := linux.Open(context.Background(), "acme", &linux.Options{Name: "host1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	fmt.Println(h.NetworkDevice("net-1"))
	fmt.Println(h.Alias(vnet.PartOverlay, "network", "net-1"))
	fmt.Println(h.NetnsName(vnet.PartRouter, "router-1"))
	fmt.Println(h.BridgeTable())
	// Output:
	// nwzibp4hrduvuwh
	// vnet:acme:overlay:network:net-1
	// acme.host1.router.router-1
	// bridge vnet-acme
}

// A batch collects what backends submit; Plan shows it, Commit does it.
func ExampleBatch() {
	ctx := context.Background()
	h, err := linux.Open(ctx, "acme", &linux.Options{Name: "host1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	b := h.Batch()
	_ = b.Submit(ctx, linux.Step{
		Change: vnet.Change{Verb: vnet.Create, Part: vnet.PartOverlay, Kind: "network", ID: "net-1"},
		Phase:  linux.LinkAdd,
		Do:     func(context.Context) error { fmt.Println("made"); return nil },
	}, linux.Step{ // belongs to the same change, and comes first
		Phase: linux.FilterAdd,
		Do:    func(context.Context) error { fmt.Println("closed"); return nil },
	})
	fmt.Print(b.Plan())
	if err := b.Commit(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// + overlay network net-1
	// 1 to create, 0 to update, 0 to delete
	// closed
	// made
}
