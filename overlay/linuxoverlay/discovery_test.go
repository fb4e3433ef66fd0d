package linuxoverlay_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// Whatever a network floods, ARP and ND for a port on another host are
// answered: where multicast does not cross, on the host.
func TestDiscoveryWhateverIsFlooded(t *testing.T) {
	l, ms := machines(t, 1, nil)
	b := ms[0].backend(t)
	vm := l.NS("vm")
	vm.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	ip, ip6 := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")
	far, far6, farMAC := netip.MustParseAddr("10.0.0.6"), netip.MustParseAddr("2001:db8::6"), vnet.MAC{2, 0, 0, 0, 0, 6}
	p := overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 0, 0, 0, 0, 5}, FixedIPs: []netip.Addr{ip, ip6}}
	for i, f := range []overlay.Flooding{{}, {NoMulticast: true}, {Broadcast: true, NoMulticast: true}, {Broadcast: true, UnknownUnicast: true, NoMulticast: true}} {
		t.Run(fmt.Sprintf("%+v", f), func(t *testing.T) {
			s := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 7}, MTU: 1400, Flooding: f}}, Ports: []overlay.Port{p},
				RemotePorts: []overlay.RemotePort{{ID: "far", NetworkID: "n", MAC: farMAC, IPs: []netip.Addr{far, far6}, Endpoint: netip.MustParseAddr("192.0.2.99")}}}
			require.NoError(t, b.Sync(t.Context(), s, vnet.SyncOptions{}))
			if i == 0 {
				_, err := b.Plug(t.Context(), overlay.Attachment{PortID: "p", Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
				require.NoError(t, err)
				vm.Up("eth0")
			}
			c := vm.Capture("eth0")
			defer c.Close()
			vm.Inject("eth0", lab.NeighborSolicitation(p.MAC, ip6, far6).Bytes())
			c.Wait(3*time.Second, func(f lab.Frame) bool {
				return f.Proto == lab.ICMPv6 && f.ICMPType == 136 && f.Target == far6 && f.LinkAddr == farMAC
			})
			if !f.Broadcast { // else the far machine is asked itself
				vm.Inject("eth0", lab.ARPRequest(p.MAC, ip, far).Bytes())
				c.Wait(3*time.Second, func(f lab.Frame) bool {
					return f.ARP != nil && f.ARP.Op == 2 && f.ARP.SPA == far && f.ARP.SHA == farMAC
				})
			}
		})
	}
}
