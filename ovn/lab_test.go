package ovn_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
)

func dialLab(t *testing.T, c *lab.Central) *ovn.Conn {
	t.Helper()
	return dial(t, "red", &ovn.Options{Southbound: strings.Split(c.SBEndpoints(), ","), Keepalive: time.Second}, strings.Split(c.NBEndpoints(), ",")...)
}

// addresses are those of machine i.
func addresses(i int) (mac vnet.MAC, ip string) {
	return vnet.MAC{2, 0, 0, 0, 0, byte(i)}, fmt.Sprintf("10.0.0.%d", i)
}

func openPort(network, id string, i int) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", network, &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", network)})
		mac, ip := addresses(i)
		p := ovn.Ensure(tx, "port", id, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(id), Addresses: []string{mac.String() + " " + ip}})
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", p.UUID)
		return nil
	}
}

// machine plugs a machine with package ovn's own host half.
func machine(t *testing.T, l *lab.Lab, hv *lab.Chassis, id string, i int) *lab.NS {
	t.Helper()
	ch, err := ovn.OpenChassis(t.Context(), "red", hv.Endpoint, &ovn.ChassisOptions{Netns: hv.NS.Path})
	require.NoError(t, err)
	t.Cleanup(func() { ch.Close() })
	vm := l.NS(id)
	mac, ip := addresses(i)
	_, err = ch.Plug(t.Context(), ovn.Plug{Part: vnet.PartOverlay, PortID: id, Kind: ovn.DeviceVeth, Netns: vm.Path, MAC: mac, MTU: 1442})
	require.NoError(t, err)
	vm.Addr("eth0", ip+"/24")
	vm.Up("eth0")
	p, err := ch.WaitInstalled(t.Context(), vnet.PartOverlay, id)
	require.NoError(t, err)
	require.NotZero(t, p.OFPort)
	return vm
}

func TestOnChassis(t *testing.T) {
	l := lab.New(t)
	central := l.OVNCentral(nil)
	hv := l.Chassis(central, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
	c := dialLab(t, central)
	ctx := ovn.WithWait(t.Context(), ovn.WaitHypervisors)
	b := c.Batch()
	require.NoError(t, b.Submit(ctx, vnet.PartOverlay, openPort("n1", "a", 1)))
	require.NoError(t, b.Submit(ctx, vnet.PartOverlay, openPort("n1", "b", 2)))
	require.NoError(t, b.Commit(ctx))
	a := machine(t, l, hv[0], "a", 1)
	machine(t, l, hv[1], "b", 2)
	require.NoError(t, a.Ping("10.0.0.2", 3))
	up := map[string]string{}
	for e := range c.WatchPorts(t.Context()) {
		require.Equal(t, "port-up", e.Kind)
		if up[e.ID] = e.Detail["chassis"]; len(up) == 2 {
			break
		}
	}
	require.Equal(t, map[string]string{"a": "hv1", "b": "hv2"}, up)

	// The same objects made again at once: their rows have the UUIDs they had.
	gone := func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "a"))
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "b"))
		tx.Delete(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "n1"))
		return nil
	}
	for range 3 {
		require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, gone))
		require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, openPort("n1", "a", 1)))
		require.NoError(t, c.Submit(ctx, vnet.PartOverlay, openPort("n1", "b", 2)))
		require.NoError(t, a.Ping("10.0.0.2", 3))
	}
	ch, err := ovn.OpenChassis(t.Context(), "red", hv[0].Endpoint, &ovn.ChassisOptions{Netns: hv[0].NS.Path})
	require.NoError(t, err)
	defer ch.Close()
	for range 3 {
		require.NoError(t, ch.Unplug(t.Context(), vnet.PartOverlay, "a"))
		_, err = ch.Plug(t.Context(), ovn.Plug{Part: vnet.PartOverlay, PortID: "a", Kind: ovn.DeviceVeth, Netns: a.Path, MAC: vnet.MAC{2, 0, 0, 0, 0, 1}, MTU: 1442})
		require.NoError(t, err)
		a.Addr("eth0", "10.0.0.1/24")
		a.Up("eth0")
		_, err = ch.WaitInstalled(t.Context(), vnet.PartOverlay, "a")
		require.NoError(t, err)
		require.NoError(t, a.Ping("10.0.0.2", 3))
	}
	// The same when the device has gone from under the switch.
	for range 5 {
		a.IP("link", "del", "dev", "eth0")
		_, err = ch.Plug(t.Context(), ovn.Plug{Part: vnet.PartOverlay, PortID: "a", Kind: ovn.DeviceVeth, Netns: a.Path, MAC: vnet.MAC{2, 0, 0, 0, 0, 1}, MTU: 1442})
		require.NoError(t, err)
		a.Addr("eth0", "10.0.0.1/24")
		a.Up("eth0")
		_, err = ch.WaitInstalled(t.Context(), vnet.PartOverlay, "a")
		require.NoError(t, err)
		require.NoError(t, a.Ping("10.0.0.2", 3))
	}
	// And on another host.
	require.NoError(t, ch.Unplug(t.Context(), vnet.PartOverlay, "a"))
	ch2, err := ovn.OpenChassis(t.Context(), "red", hv[1].Endpoint, &ovn.ChassisOptions{Netns: hv[1].NS.Path})
	require.NoError(t, err)
	defer ch2.Close()
	_, err = ch2.Plug(t.Context(), ovn.Plug{Part: vnet.PartOverlay, PortID: "a", Kind: ovn.DeviceVeth, Netns: a.Path, MAC: vnet.MAC{2, 0, 0, 0, 0, 1}, MTU: 1442})
	require.NoError(t, err)
	a.Addr("eth0", "10.0.0.1/24")
	a.Up("eth0")
	_, err = ch2.WaitInstalled(t.Context(), vnet.PartOverlay, "a")
	require.NoError(t, err)
	require.NoError(t, a.Ping("10.0.0.2", 3))

	// A chassis that does not answer is named, and the others go on.
	hv[1].OVNController.Pause()
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = c.Submit(short, vnet.PartOverlay, openPort("n1", "c", 3))
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "hv2")
	require.NotContains(t, err.Error(), "hv1")
	hv[1].OVNController.Resume()
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, openPort("n1", "d", 4)))
	require.NoError(t, a.Ping("10.0.0.2", 3))
	require.NoError(t, c.Cleanup(ctx))
	require.Error(t, a.Ping("10.0.0.2", 1))
}

// TestLeadersDie: the leaders of both databases are killed and cut off while
// ports are made and a machine talks to another.
func TestLeadersDie(t *testing.T) {
	l := lab.New(t)
	central := l.OVNCentral(&lab.CentralOptions{Raft: true})
	hv := l.Chassis(central, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
	c := dialLab(t, central)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	hvs := ovn.WithWait(ctx, ovn.WaitHypervisors)
	require.NoError(t, c.Submit(hvs, vnet.PartOverlay, openPort("n1", "a", 1)))
	require.NoError(t, c.Submit(hvs, vnet.PartOverlay, openPort("n1", "b", 2)))
	a := machine(t, l, hv[0], "a", 1)
	machine(t, l, hv[1], "b", 2)
	require.NoError(t, a.Ping("10.0.0.2", 3))

	stop, done := make(chan struct{}), make(chan error, 1)
	made := 0
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := c.Submit(ctx, vnet.PartOverlay, openPort("n2", fmt.Sprint("w", i), 5)); err != nil {
				done <- err
				return
			}
			made = i + 1
		}
	}()
	ports := func() int { return count(ovn.Own[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay)) }
	goesOn := func(what string) {
		t.Helper()
		from := ports()
		lab.Eventually(t, time.Minute, what, func() bool { return ports() > from+10 })
	}
	goesOn("writes are under way")
	nb, _ := central.Leader(central.NB)
	nb.CutOff()
	nb.Kill()
	goesOn("writes go on after the Northbound's leader has died")
	sb, _ := central.Leader(central.SB)
	sb.CutOff()
	sb.Kill()
	goesOn("writes go on after the Southbound's leader has died")
	require.NoError(t, a.Ping("10.0.0.2", 3), "what was allowed flows on")
	nb.Join()
	nb.Start()
	sb.Join()
	sb.Start()
	next, _ := central.Leader(central.NB)
	require.NoError(t, next.Transfer())
	goesOn("writes go on after the Northbound's leader has handed over")
	close(stop)
	require.NoError(t, <-done)
	require.NoError(t, c.Submit(hvs, vnet.PartOverlay, openPort("n1", "z", 9)), "and all of it reaches the hypervisors")
	require.Equal(t, made+3, ports(), "nothing is lost, nothing is twice")
	require.Len(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n2").Ports, made)
	require.NoError(t, a.Ping("10.0.0.2", 3))
	require.True(t, c.Health(ctx).Complete, c.Health(ctx).Detail)
}
