package linuxsriov_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/sriov"
	"github.com/vnet-go/vnet/sriov/linuxsriov"
)

// The cards of this host, and who has which of their functions.
func Example() {
	ctx := context.Background()
	h, err := linux.Open(ctx, "my-cloud", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	b, err := linuxsriov.New(h, nil)
	if err != nil {
		log.Fatal(err)
	}
	a, err := sriov.New(b, nil)
	if err != nil {
		log.Fatal(err)
	}
	pfs, err := a.Discover(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, pf := range pfs {
		fmt.Println(pf.Netdev, pf.PCI, pf.NUMANode, pf.Device, len(pf.VFs), "of", pf.TotalVFs)
		for _, vf := range pf.VFs {
			fmt.Println(" ", vf.Index, vf.PCI, vf.Driver, vf.IOMMUGroup, vf.Port)
		}
	}
}
