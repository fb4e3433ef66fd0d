package ovsmetadata_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

// Both hosts have the network's endpoint, at one address and MAC. A machine is
// answered by its own host, and nothing of it is in the tunnel.
func TestRequestsStayOnTheHost(t *testing.T) {
	lab.Need(t, "curl")
	ctx := t.Context()
	l := lab.New(t)
	hosts := l.Switches(lab.SwitchOptions{Name: "h1"}, lab.SwitchOptions{Name: "h2"})
	owner := vnet.Owner(l.Owner("o"))
	ids, names := []string{"p1", "p2"}, []string{"first", "second"}
	macs := []vnet.MAC{{2, 0xcc, 0, 0, 0, 1}, {2, 0xcc, 0, 0, 0, 2}}
	addresses := []string{"10.0.0.5", "10.0.0.6"}
	var vms []*lab.NS
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
		h, err := linux.Open(context.Background(), owner, &linux.Options{Name: hv.Short, Netns: hv.Path, NetnsDir: l.NetnsDir()})
		require.NoError(t, err)
		t.Cleanup(func() {
			if err := h.Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
			h.Close()
		})
		ob, err := ovsoverlay.New(sw, nil)
		require.NoError(t, err)
		fabric, err := overlay.New(ob, nil)
		require.NoError(t, err)
		require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: "a", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 77}, Flooding: overlay.Flooding{Broadcast: true}}))
		require.NoError(t, fabric.EnsurePort(ctx, overlay.Port{ID: ids[i], NetworkID: "a", MAC: macs[i]}))
		require.NoError(t, fabric.EnsureRemotePort(ctx, overlay.RemotePort{ID: ids[1-i], NetworkID: "a", MAC: macs[1-i], Endpoint: hosts[1-i].EncapIP}))
		vm := l.NS("vm" + ids[i])
		_, err = fabric.Plug(ctx, overlay.Attachment{PortID: ids[i], Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		vm.Configure("eth0", []string{addresses[i] + "/24"})
		vm.Route("169.254.169.254/32", "10.0.0.2")
		vms = append(vms, vm)
		who := &metadatatest.Table{}
		for _, a := range addresses { // each host has its own name for everybody
			who.Put(metadata.NewAsker("", "a", netip.MustParseAddr(a)), metadatatest.Instance(names[i]))
		}
		b, err := ovsmetadata.New(sw, h, &ovsmetadata.Options{Instances: who})
		require.NoError(t, err)
		svc, _ := serve(t, b)
		require.NoError(t, svc.Sync(ctx, metadata.State{Endpoints: []metadata.Endpoint{endpointOn("a", 1)}}, vnet.SyncOptions{}))
	}
	tunnel := hosts[1].Capture("tun0")
	for i, vm := range vms {
		lab.Eventually(t, patience, "an answer", func() bool { return hostname(vm) == says(names[i]) })
		for range 3 {
			require.Equal(t, says(names[i]), hostname(vm))
		}
	}
	other := lab.Frame{SrcMAC: macs[0], DstMAC: macs[1], Src: netip.MustParseAddr(addresses[0]), Dst: netip.MustParseAddr(addresses[1]), Proto: lab.UDP, SrcPort: 9, DstPort: 9}
	lab.Eventually(t, patience, "what is for the other host in the tunnel", func() bool {
		vms[0].Inject("eth0", other.Bytes())
		_, ok := tunnel.Find(200*time.Millisecond, func(f lab.Frame) bool {
			return f.DstPort == 4789 && bytes.Contains(f.Payload, netip.MustParseAddr(addresses[1]).AsSlice())
		})
		return ok
	})
	tunnel.None(0, func(f lab.Frame) bool { return bytes.Contains(f.Payload, metadata.IPv4().AsSlice()) })
}
