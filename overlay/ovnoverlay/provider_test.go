package ovnoverlay_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// TestProviderStation: machines on provider networks and a station on the
// physical network that knows nothing of OVN: untagged with a flat network,
// with that network's tag with a VLAN, also after the tag has changed.
//
//	hv1: f (flat)  v (VLAN)      hv2: g (flat)     wire ex: station
func TestProviderStation(t *testing.T) {
	s := newSite(t, 2)
	owner := s.owner()
	c := s.dial(t, owner, ovn.WaitHypervisors)
	back, err := ovnoverlay.New(c, nil)
	require.NoError(t, err)
	f, err := overlay.New(back, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	state := overlay.State{
		Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"}},
			{ID: "v", Segment: overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "ex", ID: 100}}},
		Ports: []overlay.Port{aPort("f", 1, "hv1"), aPort("g", 2, "hv2"), aPort("v", 3, "hv1")}}
	state.Ports[2].NetworkID = "v"
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	vms := map[string]*lab.NS{}
	for i, p := range state.Ports {
		host := 0
		if p.Host == "hv2" {
			host = 1
		}
		plug, err := ovnoverlay.NewPlugger(c, s.chassis(t, owner, host))
		require.NoError(t, err)
		vm := s.l.NS(p.ID)
		d, err := plug.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		require.Equal(t, 1500, d.MTU, "a tag does not count in an MTU")
		t.Cleanup(func() { require.NoError(t, plug.Unplug(context.Background(), p.ID)) })
		vm.IP("addr", "add", fmt.Sprintf("10.0.0.%d/24", i+1), "dev", "eth0")
		vm.IP("addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "eth0", "nodad")
		vm.Up("eth0")
		vms[p.ID] = vm
	}
	station := s.l.Station(s.l.Wire("ex"), "station", "10.0.0.9/24", "2001:db8::9/64")
	for _, id := range []string{"f", "g"} {
		lab.Eventually(t, time.Minute, id+" and the station reach each other", func() bool {
			return vms[id].Ping("10.0.0.9", 1) == nil && vms[id].Ping("2001:db8::9", 1) == nil &&
				station.Ping("10.0.0."+map[string]string{"f": "1", "g": "2"}[id], 1) == nil
		})
	}
	require.Error(t, vms["v"].Ping("10.0.0.9", 1), "another VLAN")

	// Frames of the VLAN: heard with the tag, taken with the tag and no other.
	heard, mac := station.Capture("eth0"), vnet.MAC{2, 0, 0, 0, 0, 0x99}
	inner := vms["v"].Capture("eth0")
	tagged := func(vlan uint16) {
		t.Helper()
		ask := lab.ARPRequest(state.Ports[2].MAC, state.Ports[2].FixedIPs[0], state.Ports[2].FixedIPs[0].Next().Next())
		lab.Eventually(t, time.Minute, fmt.Sprintf("frames with VLAN %d both ways", vlan), func() bool {
			vms["v"].Inject("eth0", ask.Bytes())
			_, out := heard.Find(100*time.Millisecond, func(g lab.Frame) bool { return g.VLAN == vlan && g.ARP != nil && g.SrcMAC == state.Ports[2].MAC })
			hello := lab.Frame{SrcMAC: mac, DstMAC: lab.BroadcastMAC, VLAN: vlan, Src: state.Ports[2].FixedIPs[0].Next(), Dst: state.Ports[2].FixedIPs[0], Proto: lab.UDP, SrcPort: 7, DstPort: vlan}
			station.Inject("eth0", hello.Bytes())
			_, in := inner.Find(100*time.Millisecond, func(g lab.Frame) bool { return g.VLAN == 0 && g.SrcMAC == mac && g.DstPort == vlan })
			return out && in
		})
	}
	tagged(100)
	state.Networks[1].Segment.ID = 101
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	tagged(101)
	heard.Reset()
	inner.Reset()
	old := lab.Frame{SrcMAC: mac, DstMAC: lab.BroadcastMAC, VLAN: 100, Src: state.Ports[2].FixedIPs[0].Next(), Dst: state.Ports[2].FixedIPs[0], Proto: lab.UDP, SrcPort: 7, DstPort: 5}
	station.Inject("eth0", old.Bytes())
	tagged(101) // a later frame that does arrive
	for _, g := range inner.Frames() {
		require.NotEqual(t, uint16(5), g.DstPort, "a frame of the VLAN that was")
	}
	for _, g := range heard.Frames() {
		require.NotEqual(t, uint16(100), g.VLAN)
	}
	require.NoError(t, f.Sync(ctx, overlay.State{}, vnet.SyncOptions{Force: true}))
}

// TestConformanceVXLAN: where the chassis offer VXLAN only, networks of that
// type are what there is, and those of Geneve are refused by name.
func TestConformanceVXLAN(t *testing.T) {
	s := newSiteOf(t, 3, "vxlan")
	overlaytest.Run(t, overlaytest.Harness{PhysicalNetwork: "ex", Settle: s.settle,
		Only: func(ring, name string) bool {
			switch name {
			case "refused by name", "unicast", "answers", "flooding", "flooding broadcast", "MTU", "born closed":
				return true
			}
			return false
		},
		Make: func(t testing.TB, n int) []overlaytest.Host { return s.hosts(t, n) }})
}
