package ovsdpdk_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// The same machines and filters on OVN.
func TestVhostUserOVN(t *testing.T) {
	l := lab.New(t)
	d := l.DPDK()
	central := l.OVNCentral(nil)
	hv := l.Chassis(central, lab.ChassisOptions{Name: "hv1", DPDK: true})[0]
	s := onSwitch(t, l, d, hv.Switch)
	ctx := t.Context()
	conn, err := ovn.Dial(ctx, s.sw.Owner(), strings.Split(central.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(central.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: lab.Patience(time.Minute)})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	ch, err := ovn.OpenChassis(ctx, s.sw.Owner(), hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
	require.NoError(t, err)
	t.Cleanup(func() { ch.Close() })
	networks, err := ovnoverlay.New(conn, nil)
	require.NoError(t, err)
	plug, err := ovnoverlay.NewPlugger(conn, ch)
	require.NoError(t, err)
	s.fabric, err = overlay.New(networks, &overlay.Options{Plugger: plug})
	require.NoError(t, err)
	filters, err := ovnsecgroup.New(conn, nil)
	require.NoError(t, err)
	s.groups, err = secgroup.New(filters, nil)
	require.NoError(t, err)
	s.segment = overlay.Geneve

	s.machines(t)
	client := overlay.Attachment{PortID: "p1", Kind: overlay.VhostUserClient, Socket: s.socket(0)}
	_, err = s.fabric.Plug(ctx, client)
	require.ErrorIs(t, err, vnet.ErrNotReady, "DPDK is not initialised yet")
	require.NoError(t, s.setup.EnsureConfig(ctx, s.config))
	require.NoError(t, s.setup.WaitReady(ctx))
	// The chassis has a connection of its own, which hears of it a moment later.
	lab.Eventually(t, 10*time.Second, "the chassis hears that DPDK is ready", func() bool {
		_, err := s.fabric.Plug(ctx, client)
		if err != nil {
			require.ErrorIs(t, err, vnet.ErrNotReady)
		}
		return err == nil
	})
	for i := range s.m {
		a := overlay.Attachment{PortID: port(i).ID, Kind: overlay.VhostUserClient, Socket: s.socket(i)}
		for range 2 {
			d, err := s.fabric.Plug(ctx, a)
			require.NoError(t, err)
			require.Len(t, d.Name, 14)
			require.Equal(t, a.Socket, d.Socket)
		}
	}
	_, err = s.fabric.Plug(ctx, overlay.Attachment{PortID: "p1", Kind: overlay.VhostUserServer})
	require.ErrorIs(t, err, vnet.ErrConflict)
	stop := s.guests(t, 1)
	s.judge(t)
	stop()
	for i := range s.m {
		require.NoError(t, s.fabric.Unplug(ctx, port(i).ID))
	}
}
