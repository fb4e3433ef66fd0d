package ovsdhcp_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

// site is a host with Open vSwitch.
type site struct {
	l  *lab.Lab
	hv *lab.Switch
	dp string // datapath type
	n  atomic.Uint32
}

func newSite(t testing.TB, physical ...string) *site {
	return newSiteOn(t, "netdev", physical...)
}

func newSiteOn(t testing.TB, datapath string, physical ...string) *site {
	l := lab.New(t)
	return &site{l: l, dp: datapath, hv: l.Switches(lab.SwitchOptions{Name: "h1", Physical: physical, Datapath: datapath})[0]}
}

func (s *site) connect(t testing.TB, owner vnet.Owner) *ovs.Switch {
	sw, err := ovs.Open(context.Background(), owner, &ovs.Options{Name: "h1", Database: s.hv.Endpoint, DatapathType: s.dp, Netns: s.hv.Path,
		Control: s.hv.Vswitchd.Ctl, PhysicalNetworks: s.hv.Mappings, Timeout: 20 * time.Second})
	require.NoError(t, err)
	return sw
}

// open opens the switch for an owner.
func (s *site) open(t testing.TB, owner vnet.Owner) *ovs.Switch {
	sw := s.connect(t, owner)
	t.Cleanup(func() { sw.Close() })
	return sw
}

// place is the switch as one owner has it, with networks and ports.
type place struct {
	*site
	sw     *ovs.Switch
	owner  vnet.Owner
	fabric *overlay.Fabric
	state  overlay.State
}

func (s *site) place(t testing.TB) *place {
	owner := vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1))))
	p := &place{site: s, owner: owner}
	clean := s.connect(t, owner)
	t.Cleanup(func() {
		if err := clean.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
		clean.Close()
	})
	p.sw = s.open(t, owner)
	b, err := ovsoverlay.New(p.sw, nil)
	require.NoError(t, err)
	p.fabric, err = overlay.New(b, nil)
	require.NoError(t, err)
	return p
}

func (p *place) network(t testing.TB, id string) {
	p.networkOn(t, id, overlay.Segment{Type: overlay.Local})
}

func (p *place) networkOn(t testing.TB, id string, s overlay.Segment) {
	n := overlay.Network{ID: id, Segment: s, Flooding: overlay.Flooding{Broadcast: true}}
	require.NoError(t, p.fabric.EnsureNetwork(context.Background(), n))
	p.state.Networks = append(p.state.Networks, n)
}

func (p *place) removeNetwork(t testing.TB, id string) {
	ctx := context.Background()
	var left overlay.State
	for _, port := range p.state.Ports {
		if port.NetworkID != id {
			left.Ports = append(left.Ports, port)
			continue
		}
		require.NoError(t, p.fabric.Unplug(ctx, port.ID))
		require.NoError(t, p.fabric.DeletePort(ctx, port.ID))
	}
	for _, n := range p.state.Networks {
		if n.ID != id {
			left.Networks = append(left.Networks, n)
		}
	}
	require.NoError(t, p.fabric.DeleteNetwork(ctx, id))
	p.state = left
}

func (p *place) plug(t testing.TB, network, netns, device string, mac vnet.MAC) string {
	return p.plugPort(t, overlay.Port{ID: fmt.Sprint("vm", p.n.Add(1)), NetworkID: network, MAC: mac}, netns, device)
}

func (p *place) plugPort(t testing.TB, port overlay.Port, netns, device string) string {
	ctx := context.Background()
	require.NoError(t, p.fabric.EnsurePort(ctx, port))
	_, err := p.fabric.Plug(ctx, overlay.Attachment{PortID: port.ID, Kind: overlay.Veth, Name: device, Netns: netns})
	require.NoError(t, err)
	p.state.Ports = append(p.state.Ports, port)
	return port.ID
}

// again makes what stood before the switch was restarted.
func (p *place) again(t testing.TB) {
	require.NoError(t, p.fabric.Sync(context.Background(), p.state, vnet.SyncOptions{}))
}
