package memsriov_test

import (
	"context"
	"fmt"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
	"github.com/vnet-go/vnet/sriov/memsriov"
)

// A VF of a card on physical network physnet1, in VLAN 100, for a machine.
func Example() {
	card := sriov.PF{Function: sriov.Function{PCI: "0000:01:00.0", Netdev: "eth1", IOMMUGroup: 20}, TotalVFs: 8}
	a, err := sriov.New(memsriov.New(card), nil) // linuxsriov.New(host, nil) on a real host
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	err = a.EnsureDevice(ctx, sriov.Device{ID: "nic1", PF: "eth1", PhysicalNetwork: "physnet1", VFs: 4})
	if err != nil {
		panic(err)
	}
	vf, err := a.EnsurePort(ctx, sriov.Port{
		ID: "web1", VNICType: sriov.Direct, PhysicalNetwork: "physnet1", MAC: vnet.MustParseMAC("02:00:00:00:00:11"),
		VLAN: sriov.VLAN{ID: 100}, PortSecurity: true, MaxKbps: 500_000,
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(vf.PCI, vf.VFIO)
	fmt.Println(vf.QEMU("net0", 0))
	err = a.EnsureDevice(ctx, sriov.Device{ID: "nic1", PF: "eth1", PhysicalNetwork: "physnet1", VFs: 8})
	fmt.Println(err)
	// Output:
	// 0000:01:10.0 /dev/vfio/21
	// [-device vfio-pci,host=0000:01:10.0,id=net0]
	// ensure device "nic1": functions of eth1 are had by ports web1: in use
}
