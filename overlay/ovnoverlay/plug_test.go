package ovnoverlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// agent is a host's plugger that sees the Southbound only.
func (s *site) agent(t testing.TB, owner vnet.Owner, i int) (*ovnoverlay.Plugger, *ovn.Chassis) {
	c, err := ovn.Dial(t.Context(), owner, nil, &ovn.Options{Southbound: strings.Split(s.c.SBEndpoints(), ","), Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	ch := s.chassis(t, owner, i)
	p, err := ovnoverlay.NewPlugger(c, ch)
	require.NoError(t, err)
	return p, ch
}

func aPort(id string, n int, host string) overlay.Port {
	return overlay.Port{ID: id, NetworkID: "n", MAC: vnet.MAC{2, 0, 0, 0, 0, byte(n)}, Host: host,
		FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))}}
}

// TestAgent: the two-daemon shape. A controller writes the Northbound; agents
// of two hosts see only the Southbound and their own switch.
func TestAgent(t *testing.T) {
	s := newSite(t, 2)
	owner := s.owner()
	f, err := overlay.New(s.backend(t, owner), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	state := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}}},
		Ports: []overlay.Port{aPort("a", 1, "hv1"), aPort("b", 2, "hv2")}}
	// Without waiting: the agents wait for what they need.
	require.NoError(t, f.Sync(ovn.WithWait(ctx, ovn.WaitNone), state, vnet.SyncOptions{}))
	one, ch1 := s.agent(t, owner, 0)
	two, _ := s.agent(t, owner, 1)
	vms := map[string]*lab.NS{}
	plug := func(p *ovnoverlay.Plugger, id string, n int) overlay.Device {
		t.Helper()
		if vms[id] == nil {
			vms[id] = s.l.NS(id)
		}
		d, err := p.Plug(ctx, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: "eth0", Netns: vms[id].Path})
		require.NoError(t, err)
		require.Equal(t, 1442, d.MTU)
		require.Contains(t, vms[id].IP("link", "show", "dev", "eth0"), "mtu 1442 ")
		require.Equal(t, vnet.MAC{2, 0, 0, 0, 0, byte(n)}, vms[id].MAC("eth0"))
		vms[id].IP("addr", "replace", fmt.Sprintf("10.0.0.%d/24", n), "dev", "eth0")
		vms[id].IP("addr", "replace", fmt.Sprintf("2001:db8::%d/64", n), "dev", "eth0", "nodad")
		vms[id].Up("eth0")
		return d
	}
	a := plug(one, "a", 1)
	plug(two, "b", 2)
	reach := func(ip string) bool { return vms["a"].Ping(ip, 1) == nil }
	lab.Eventually(t, time.Minute, "a reaches b", func() bool { return reach("10.0.0.2") && reach("2001:db8::2") })
	_, err = one.Plug(ctx, overlay.Attachment{PortID: "b", Kind: overlay.Tap})
	require.ErrorIs(t, err, vnet.ErrConflict, "a port of another host")
	_, err = one.Plug(ctx, overlay.Attachment{PortID: "none", Kind: overlay.Tap})
	require.ErrorIs(t, err, vnet.ErrNotFound)

	// An agent takes away devices whose ports have gone, when they have been for
	// a while, and not when all seem to have gone at once.
	for i := range 12 {
		p := aPort(fmt.Sprint("m", i), 10+i, "hv1")
		state.Ports = append(state.Ports, p)
	}
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	for i := range 12 {
		_, err := one.Plug(ctx, overlay.Attachment{PortID: fmt.Sprint("m", i), Kind: overlay.Tap})
		require.NoError(t, err)
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- one.Serve(serving, &ovnoverlay.ServeOptions{Grace: 300 * time.Millisecond}) }()
	plugged := func() int {
		list, err := ch1.Plugged(ctx)
		require.NoError(t, err)
		return len(list)
	}
	require.NoError(t, f.DeletePort(ctx, "m11"))
	lab.Eventually(t, time.Minute, "the device of a port that has gone goes", func() bool { return plugged() == 12 })
	moved := aPort("m10", 20, "hv2")
	require.NoError(t, f.EnsurePort(ctx, moved))
	lab.Eventually(t, time.Minute, "the device of a port that has moved goes", func() bool { return plugged() == 11 })
	require.True(t, reach("10.0.0.2"))
	// The Southbound comes back without our rows while northd is away, as a
	// database that was lost does.
	s.c.Northds[0].Pause()
	s.c.SBCtl("--all", "destroy", "Port_Binding")
	time.Sleep(time.Second)
	require.Equal(t, 11, plugged(), "what would take everything away is not believed")
	s.c.Northds[0].Resume()
	lab.Eventually(t, time.Minute, "a reaches b when northd is back", func() bool { return reach("10.0.0.2") })
	require.Equal(t, 11, plugged())
	// Killed and started anew it knows as much.
	stop()
	require.ErrorIs(t, <-done, context.Canceled)
	one, _ = s.agent(t, owner, 0)
	again := plug(one, "a", 1)
	require.Equal(t, a, again)
	require.NoError(t, ch1.Cleanup(ctx))
	require.NoError(t, two.Unplug(ctx, "b"))
	require.NoError(t, f.Sync(ctx, overlay.State{}, vnet.SyncOptions{Force: true}))
}

// TestFilledOnTheWire: a filtered port is opened by the transaction in which
// part secgroup fills it, and closed by the one in which it empties it.
func TestFilledOnTheWire(t *testing.T) {
	s := newSite(t, 2)
	owner := s.owner()
	c := s.dial(t, owner, ovn.WaitHypervisors)
	back, err := ovnoverlay.New(c, nil)
	require.NoError(t, err)
	f, err := overlay.New(back, nil)
	require.NoError(t, err)
	ctx := t.Context()
	state := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Geneve, ID: 1}}},
		Ports: []overlay.Port{aPort("a", 1, "hv1"), aPort("b", 2, "hv2")}}
	state.Ports[1].Filtered = true
	require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	var vms []*lab.NS
	for i, p := range state.Ports {
		plug, err := ovnoverlay.NewPlugger(c, s.chassis(t, owner, i))
		require.NoError(t, err)
		vm := s.l.NS(p.ID)
		_, err = plug.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, plug.Unplug(context.Background(), p.ID)) })
		vm.IP("addr", "add", fmt.Sprintf("10.0.0.%d/24", i+1), "dev", "eth0")
		vm.IP("addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "eth0", "nodad")
		vm.Up("eth0")
		vms = append(vms, vm)
	}
	fill := func(filled bool) {
		t.Helper()
		require.NoError(t, c.Submit(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error {
			want := &nbrow.LogicalSwitchPort{}
			if filled {
				want.ExternalIDs = map[string]string{ovn.KeyFilled: "{}"}
			}
			ovn.Update(tx, ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "b"), want)
			return nil
		}))
	}
	reach := func() bool { return vms[0].Ping("10.0.0.2", 1) == nil && vms[1].Ping("2001:db8::1", 1) == nil }
	for range 2 {
		require.Error(t, vms[0].Ping("10.0.0.2", 1))
		require.Error(t, vms[1].Ping("2001:db8::1", 1))
		fill(true)
		lab.Eventually(t, time.Minute, "the port is open", reach)
		p, err := f.Plan(ctx, state)
		require.NoError(t, err)
		require.True(t, p.Empty(), p.String())
		fill(false)
		lab.Eventually(t, 10*time.Second, "the port is closed", func() bool { return vms[0].Ping("10.0.0.2", 1) != nil })
		require.NoError(t, f.Sync(ctx, state, vnet.SyncOptions{}))
	}
}
