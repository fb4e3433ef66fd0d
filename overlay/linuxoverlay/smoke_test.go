package linuxoverlay_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// Two machines on two hosts ping each other over VXLAN, IPv4 and IPv6.
func TestPing(t *testing.T) {
	l, ms := machines(t, 2, nil)
	ip := func(i int) []netip.Addr {
		return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), netip.MustParseAddr("2001:db8::1").Next()}[:1]
	}
	net := overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 100}}
	var vms []string
	for i, m := range ms {
		b := m.backend(t)
		vm := l.NS("vm" + m.Short)
		mac := vnet.MAC{2, 0, 0, 0, 0, byte(i + 1)}
		require.NoError(t, b.EnsureNetwork(t.Context(), net))
		require.NoError(t, b.EnsurePort(t.Context(), overlay.Port{ID: "p" + m.Short, NetworkID: "n", MAC: mac, FixedIPs: ip(i)}))
		d, err := b.Plug(t.Context(), overlay.Attachment{PortID: "p" + m.Short, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		require.Equal(t, 1450, d.MTU)
		vm.Up("eth0")
		vm.Addr("eth0", ip(i)[0].String()+"/24")
		vm.Addr("eth0", []string{"2001:db8::1/64", "2001:db8::2/64"}[i])
		vms = append(vms, vm.Short)
		o := 1 - i
		require.NoError(t, b.EnsureRemotePort(t.Context(), overlay.RemotePort{ID: "p" + ms[o].Short, NetworkID: "n", MAC: vnet.MAC{2, 0, 0, 0, 0, byte(o + 1)},
			IPs: append(ip(o), netip.MustParseAddr([]string{"2001:db8::1", "2001:db8::2"}[o])), Endpoint: ms[o].IP}))
		if i == 1 {
			require.NoError(t, vm.Ping("10.0.0.1", 1))
			require.NoError(t, vm.Ping("2001:db8::1", 1))
		}
	}
	_ = vms
}
