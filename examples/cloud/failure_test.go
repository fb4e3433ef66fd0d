package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// Whatever of OVN's own dies or hangs, an allowed connection between two hosts
// goes on, calls end by their deadline and say what is unknown, and what was
// asked for meanwhile is there in the end, once.
func TestAllowedTrafficOutlivesFailures(t *testing.T) {
	l := lab.New(t)
	central := l.OVNCentral(&lab.CentralOptions{Raft: true})
	hv := l.Chassis(central, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
	ctx := t.Context()
	owner := vnet.Owner(l.Owner("f"))
	c, err := ovn.Dial(ctx, owner, strings.Split(central.NBEndpoints(), ","), &ovn.Options{Southbound: strings.Split(central.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: 2 * time.Minute})
	require.NoError(t, err)
	defer c.Close()
	ob, err := ovnoverlay.New(c, nil)
	require.NoError(t, err)
	fabric, err := overlay.New(ob, nil)
	require.NoError(t, err)
	sb, err := ovnsecgroup.New(c, nil)
	require.NoError(t, err)
	enforcer, err := secgroup.New(sb, nil)
	require.NoError(t, err)

	nets := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Geneve, ID: 5}}}}
	groups := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	add := func(i int) (overlay.Port, secgroup.Port) {
		mac, ips := vnet.MAC{2, 0, 0, 0, 0, byte(i)}, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
		p := overlay.Port{ID: fmt.Sprint("p", i), NetworkID: "n", MAC: mac, FixedIPs: ips, Filtered: true}
		g := secgroup.Port{ID: p.ID, NetworkID: "n", MAC: mac, FixedIPs: ips, Groups: []string{"default"}}
		nets.Ports, groups.Ports = append(nets.Ports, p), append(groups.Ports, g)
		return p, g
	}
	add(1)
	add(2)
	require.NoError(t, fabric.Sync(ctx, nets, vnet.SyncOptions{}))
	require.NoError(t, enforcer.Sync(ctx, groups, vnet.SyncOptions{}))
	var vms []*lab.NS
	for i, h := range hv {
		ch, err := ovn.OpenChassis(ctx, owner, h.Endpoint, &ovn.ChassisOptions{Netns: h.Path})
		require.NoError(t, err)
		defer ch.Close()
		p, err := ovnoverlay.NewPlugger(c, ch)
		require.NoError(t, err)
		vm := l.NS(fmt.Sprint("vm", i+1))
		_, err = p.Plug(ctx, overlay.Attachment{PortID: fmt.Sprint("p", i+1), Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
		require.NoError(t, err)
		vm.Addr("eth0", fmt.Sprintf("10.0.0.%d/24", i+1))
		vm.Up("eth0")
		vms = append(vms, vm)
	}
	lab.Eventually(t, 20*time.Second, "the machines reach each other", func() bool { return vms[0].Ping("10.0.0.2", 1) == nil })
	echoes := stream(t, vms[0], vms[1], "10.0.0.2")
	flows := func(what string) {
		t.Helper()
		from := echoes.Load()
		lab.Eventually(t, 10*time.Second, "the connection goes on: "+what, func() bool { return echoes.Load() > from+10 })
	}
	flows("at first")
	next := 2
	change := func(what string) {
		t.Helper()
		next++
		p, g := add(next)
		ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
		defer cancel()
		require.NoError(t, fabric.EnsurePort(ctx, p), what)
		require.NoError(t, enforcer.EnsurePort(ctx, g), what)
		flows(what)
	}

	nb, _ := central.Leader(central.NB)
	nb.CutOff()
	nb.Kill()
	change("the Northbound's leader has died")
	leader, _ := central.Leader(central.SB)
	leader.CutOff()
	leader.Kill()
	change("the Southbound's leader has died")
	nb.Join()
	nb.Start()
	leader.Join()
	leader.Start()
	active := central.ActiveNorthd()
	active.Kill()
	change("the active northd has died")
	active.Start()
	hv[1].OVNController.Kill()
	flows("a controller has died")
	hv[1].OVNController.Start()
	change("a controller has started again")

	// The Southbound grows old: nobody carries changes there any more.
	for _, d := range central.Northds {
		d.Pause()
	}
	next++
	p, g := add(next)
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	begin := time.Now()
	err = fabric.EnsurePort(short, p)
	cancel()
	assert.Less(t, time.Since(begin), 10*time.Second, "it ended by its deadline")
	require.ErrorIs(t, err, vnet.ErrNotReady)
	assert.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	assert.Contains(t, err.Error(), "northd", "it says what is unknown")
	flows("the Southbound is old")
	for _, d := range central.Northds {
		d.Resume()
	}
	require.NoError(t, fabric.EnsurePort(ctx, p))
	require.NoError(t, enforcer.EnsurePort(ctx, g))
	flows("at last")

	plan, err := fabric.Plan(ctx, nets)
	require.NoError(t, err)
	assert.Empty(t, plan.Changes, "%s", plan)
	plan, err = enforcer.Plan(ctx, groups)
	require.NoError(t, err)
	assert.Empty(t, plan.Changes, "%s", plan)
}

// stream keeps one TCP connection busy and counts what has come back by it.
// The test fails when it breaks.
func stream(t *testing.T, from, to *lab.NS, ip string) *atomic.Int64 {
	var ln net.Listener
	require.NoError(t, to.Do(func() (err error) { ln, err = net.Listen("tcp", ":7"); return err }))
	go func() {
		if c, err := ln.Accept(); err == nil {
			for s := bufio.NewScanner(c); s.Scan(); {
				fmt.Fprintln(c, s.Text())
			}
		}
	}()
	conn, err := from.Dial(t.Context(), "tcp", ip+":7")
	require.NoError(t, err)
	var n atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(conn)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			conn.SetDeadline(time.Now().Add(time.Minute))
			_, err := fmt.Fprintln(conn, i)
			if err == nil {
				_, err = r.ReadString('\n')
			}
			if err != nil {
				t.Errorf("the connection broke after %d lines: %v", i, err)
				return
			}
			n.Add(1)
		}
	}()
	t.Cleanup(func() { close(stop); <-done; conn.Close(); ln.Close() })
	return &n
}
