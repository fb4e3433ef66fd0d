package ovsdhcp_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovsdhcp"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

// On a network that floods broadcast to the other host, what a machine asks
// of DHCP is answered on its own: it is not in the tunnel, and the server of
// the other host hears nothing.
func TestRequestsStayOnTheHost(t *testing.T) {
	ctx := t.Context()
	l := lab.New(t)
	hosts := l.Switches(lab.SwitchOptions{Name: "h1"}, lab.SwitchOptions{Name: "h2"})
	owner := vnet.Owner(l.Owner("o"))
	const network = "net"
	st := dhcp.State{Scopes: []dhcp.Scope{scopeOn(network)}, Reservations: []dhcp.Reservation{clientOn(network, 10), clientOn(network, 11)}}
	var vms []*lab.NS
	var services []*dhcp.Service
	for i, hv := range hosts {
		sw, err := ovs.Open(context.Background(), owner, &ovs.Options{Name: hv.Short, Database: hv.Endpoint, DatapathType: "netdev", Netns: hv.Path,
			Control: hv.Vswitchd.Ctl, TunnelIP: hv.EncapIP, Timeout: 20 * time.Second})
		require.NoError(t, err)
		t.Cleanup(func() {
			if err := sw.Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
			sw.Close()
		})
		ob, err := ovsoverlay.New(sw, nil)
		require.NoError(t, err)
		fabric, err := overlay.New(ob, nil)
		require.NoError(t, err)
		require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: network, Segment: overlay.Segment{Type: overlay.VXLAN, ID: 77}, Flooding: overlay.Flooding{Broadcast: true}}))
		mine, others := st.Reservations[i], st.Reservations[1-i]
		require.NoError(t, fabric.EnsurePort(ctx, overlay.Port{ID: mine.ID, NetworkID: network, MAC: mine.MAC}))
		require.NoError(t, fabric.EnsureRemotePort(ctx, overlay.RemotePort{ID: others.ID, NetworkID: network, MAC: others.MAC, Endpoint: hosts[1-i].EncapIP}))
		vm := l.NS(fmt.Sprint("vm", i))
		vm.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
		_, err = fabric.Plug(ctx, overlay.Attachment{PortID: mine.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		vm.Up("eth0")
		vms = append(vms, vm)
		b, err := ovsdhcp.New(sw, nil)
		require.NoError(t, err)
		services = append(services, serve(t, b))
	}
	for _, s := range services {
		require.NoError(t, s.Sync(ctx, st, vnet.SyncOptions{}))
	}
	tunnel := hosts[1].Capture("tun0")
	carried := func(port uint16) func(lab.Frame) bool {
		return func(f lab.Frame) bool {
			if f.Proto != lab.UDP || f.DstPort != 4789 || len(f.Payload) < 8 {
				return false
			}
			in, err := lab.ParseFrame(f.Payload[8:])
			return err == nil && in.Proto == lab.UDP && in.DstPort == port
		}
	}
	r := st.Reservations[0]
	other := lab.Frame{SrcMAC: r.MAC, DstMAC: lab.BroadcastMAC, Src: r.IPs[0], Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}), Proto: lab.UDP, SrcPort: 9, DstPort: 9}
	floods := func() {
		t.Helper()
		lab.Eventually(t, patience, "other broadcast in the tunnel", func() bool {
			vms[0].Inject("eth0", other.Bytes())
			_, ok := tunnel.Find(200*time.Millisecond, carried(9))
			return ok
		})
	}
	floods()
	tunnel.Reset()
	require.True(t, asks(t, vms[0]))
	floods() // what was sent before has come by now
	tunnel.None(0, carried(67))
	for l, err := range services[1].Leases(ctx) {
		require.NoError(t, err)
		require.NotEqual(t, r.MAC, l.MAC, "the other host has heard of it")
	}
}
