package dpdk_test

import (
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/overlay"
)

// What QEMU needs for a port of which the switch is the client.
func ExampleGuest() {
	args, err := dpdk.Guest{ID: "net0", Kind: overlay.VhostUserClient, Socket: "/run/vhost/p1", MAC: vnet.MustParseMAC("02:5e:00:00:00:07"), Queues: 2, MTU: 1450}.QEMU()
	fmt.Println(strings.Join(args, "\n"), err)
	// Output:
	// -chardev
	// socket,id=chr-net0,path=/run/vhost/p1,server=on,wait=off
	// -netdev
	// vhost-user,id=net0,chardev=chr-net0,queues=2
	// -device
	// virtio-net-pci,netdev=net0,mac=02:5e:00:00:00:07,mq=on,vectors=6,host_mtu=1450 <nil>
}
