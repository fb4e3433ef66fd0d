// Command embed is the smallest program that embeds the library: one network,
// two ports, one rule, on this host's kernel.
//
//	ip netns add vm1; ip netns add vm2
//	embed /run/netns/vm1 /run/netns/vm2
//
// gives each namespace an eth0. They may ping each other, and nothing else.
package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: embed NETNS...")
	}
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, machines []string) error {
	host, err := linux.Open(ctx, "embed", nil)
	if err != nil {
		return err
	}
	defer host.Close()
	fabric, enforcer, err := wire(host)
	if err != nil {
		return err
	}

	// What we want, as plain structs. Calling it all again changes nothing.
	if err := fabric.EnsureNetwork(ctx, overlay.Network{ID: "lan", Segment: overlay.Segment{Type: overlay.Local}}); err != nil {
		return err
	}
	ping := secgroup.Group{ID: "ping", Rules: []secgroup.Rule{
		{ID: "in", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp", RemoteGroup: "ping"},
		{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4, Protocol: "icmp"},
	}}
	if err := enforcer.EnsureGroup(ctx, ping); err != nil {
		return err
	}
	for i, netns := range machines {
		id := fmt.Sprintf("port%d", i+1)
		mac, ips := vnet.MAC{2, 0, 0, 0, 0, byte(i + 1)}, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
		if err := fabric.EnsurePort(ctx, overlay.Port{ID: id, NetworkID: "lan", MAC: mac, FixedIPs: ips, Filtered: true}); err != nil {
			return err
		}
		if err := enforcer.EnsurePort(ctx, secgroup.Port{ID: id, NetworkID: "lan", MAC: mac, FixedIPs: ips, Groups: []string{"ping"}}); err != nil {
			return err
		}
		if _, err := fabric.Plug(ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Netns: netns}); err != nil {
			return err
		}
		fmt.Printf("%s is %s with %s at eth0 of %s\n", id, mac, ips[0], netns)
	}
	return nil
}

// wire puts the subsystems on the kernel. Another platform is another wire.
func wire(host *linux.Host) (*overlay.Fabric, *secgroup.Enforcer, error) {
	ob, err := linuxoverlay.New(host, nil)
	if err != nil {
		return nil, nil, err
	}
	fabric, err := overlay.New(ob, nil)
	if err != nil {
		return nil, nil, err
	}
	sb, err := nftsecgroup.New(host, nil)
	if err != nil {
		return nil, nil, err
	}
	enforcer, err := secgroup.New(sb, nil)
	return fabric, enforcer, err
}
