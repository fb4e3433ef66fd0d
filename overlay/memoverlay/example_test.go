package memoverlay_test

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
)

// An application's own test looks at what it has asked for.
func Example() {
	ctx := context.Background()
	b := memoverlay.New(nil)
	f, err := overlay.New(b, nil)
	if err != nil {
		panic(err)
	}
	s := overlay.State{
		Networks: []overlay.Network{{ID: "blue", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}}},
		Ports:    []overlay.Port{{ID: "web", NetworkID: "blue", MAC: vnet.MustParseMAC("02:00:00:00:00:05")}},
	}
	if err := f.Sync(ctx, s, vnet.SyncOptions{}); err != nil {
		panic(err)
	}
	writes := b.Kernel().Writes()
	_ = f.Sync(ctx, s, vnet.SyncOptions{})
	fmt.Println(len(b.State().Ports), "port; writes of the second Sync:", b.Kernel().Writes()-writes)
	// Output: 1 port; writes of the second Sync: 0
}
