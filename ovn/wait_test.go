package ovn_test

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
)

// chassis makes a chassis that answers when the test says so.
func chassis(sb *ovsdbtest.Server, name string) {
	sb.Transact(fmt.Sprintf(`["OVN_Southbound",
		{"op":"insert","table":"Encap","row":{"type":"geneve","ip":%q,"chassis_name":%q},"uuid-name":"e"},
		{"op":"insert","table":"Chassis","row":{"name":%q,"hostname":%q,"encaps":["named-uuid","e"]},"uuid-name":"c"},
		{"op":"insert","table":"Chassis_Private","row":{"name":%q,"chassis":["named-uuid","c"]}}]`, fmt.Sprint("192.0.2.", name[0]), name, name, name+".example", name))
}

// answer lets a chassis say that it has done change n.
func answer(sb *ovsdbtest.Server, name string, n int) {
	sb.Transact(fmt.Sprintf(`["OVN_Southbound",{"op":"update","table":"Chassis_Private","where":[["name","==",%q]],"row":{"nb_cfg":%d}}]`, name, n))
}

func global(t *testing.T, c *ovn.Conn) *nbrow.NBGlobal {
	for g := range ovn.All[nbrow.NBGlobal](view(t, c)) {
		return g
	}
	return nil
}

func TestWaiting(t *testing.T) {
	nb, sb := ovsdbtest.New(t, ovsdbtest.NB), ovsdbtest.New(t, ovsdbtest.SB)
	stopNorthd := ovsdbtest.Northd(t, nb, sb)
	c := dial(t, "red", &ovn.Options{Southbound: []string{sb.Endpoint()}}, nb.Endpoint())
	ctx := t.Context()
	submit := func(w ovn.Wait, d time.Duration, f func(*ovn.Tx) error) error {
		ctx, cancel := context.WithTimeout(ovn.WithWait(ctx, w), d)
		defer cancel()
		return c.Submit(ctx, vnet.PartOverlay, f)
	}
	require.NoError(t, submit(ovn.WaitNone, time.Minute, ensureNetwork("n0")))
	require.Zero(t, global(t, c).NbCfg, "nobody waits: no number")
	require.NoError(t, submit(ovn.WaitNorthd, time.Minute, ensureNetwork("n1")))
	require.Equal(t, 1, global(t, c).NbCfg)
	require.GreaterOrEqual(t, global(t, c).SbCfg, 1)
	require.NoError(t, submit(ovn.WaitHypervisors, time.Minute, ensureNetwork("n2")), "without chassis northd answers for them")
	require.NoError(t, submit(ovn.WaitHypervisors, time.Minute, ensureNetwork("n2")), "nothing to write")
	require.Equal(t, 2, global(t, c).NbCfg, "nothing was written")

	chassis(sb, "one")
	chassis(sb, "two")
	lab.Eventually(t, time.Minute, "northd counts the new chassis", func() bool { return global(t, c).HvCfg == 0 })
	done := make(chan error, 1)
	go func() { done <- submit(ovn.WaitHypervisors, time.Minute, ensureNetwork("n3")) }()
	lab.Eventually(t, time.Minute, "northd is done", func() bool { return global(t, c).SbCfg == 3 })
	answer(sb, "one", 3)
	select {
	case err := <-done:
		t.Fatalf("one chassis has not answered, and the call returns %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	answer(sb, "two", 3)
	require.NoError(t, <-done)

	answer(sb, "one", 4)
	err := submit(ovn.WaitHypervisors, time.Second, ensureNetwork("n4"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "these chassis are not done: two (at 3)")
	require.NotNil(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n4"), "the change stands")
	answer(sb, "two", 4)

	b := c.Batch()
	for i := range 5 {
		require.NoError(t, b.Submit(ctx, vnet.PartOverlay, ensureNetwork(fmt.Sprint("b", i))))
	}
	go func() { done <- b.Commit(ovn.WithWait(ctx, ovn.WaitHypervisors)) }()
	lab.Eventually(t, time.Minute, "northd is done", func() bool { return global(t, c).SbCfg == 5 })
	answer(sb, "one", 5)
	answer(sb, "two", 5)
	require.NoError(t, <-done)
	require.Equal(t, 5, global(t, c).NbCfg, "a batch waits once")

	stopNorthd()
	err = submit(ovn.WaitNorthd, 500*time.Millisecond, ensureNetwork("n5"))
	require.ErrorContains(t, err, "ovn-northd has only done change 5")
	lab.Eventually(t, time.Minute, "the lag is seen", func() bool { return c.Health(ctx).Lag > 500*time.Millisecond })
	require.True(t, c.Health(ctx).Complete)
	sb.Kill()
	lab.Eventually(t, time.Minute, "the Southbound is missed", func() bool { return !c.Health(ctx).Complete })
	require.Contains(t, c.Health(ctx).Detail, "OVN_Southbound")
}

func TestPorts(t *testing.T) {
	nb, sb := ovsdbtest.New(t, ovsdbtest.NB), ovsdbtest.New(t, ovsdbtest.SB)
	ovsdbtest.Northd(t, nb, sb)
	chassis(sb, "one")
	chassis(sb, "two")
	c := dial(t, "red", &ovn.Options{Southbound: []string{sb.Endpoint()}, Keepalive: 300 * time.Millisecond}, nb.Endpoint())
	blue := dial(t, "blue", nil, nb.Endpoint())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1", "p2")))
	require.NoError(t, blue.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	bind := func(port, chassis string, up bool) {
		lab.Eventually(t, time.Minute, "the chassis is seen", func() bool { return len(ovn.By[sbrow.Chassis](view(t, c), "name", chassis)) == 1 })
		id := ovn.By[sbrow.Chassis](view(t, c), "name", chassis)[0].UUID
		sb.Transact(fmt.Sprintf(`["OVN_Southbound",{"op":"update","table":"Port_Binding","where":[["logical_port","==",%q]],"row":{"chassis":["uuid",%q],"up":%t}}]`, port, id, up))
	}
	require.NoError(t, c.Submit(ovn.WithWait(ctx, ovn.WaitNorthd), vnet.PartSecGroup, ensureGroup("g1", "p1")))
	flows, err := c.Flows(ctx, ovn.UUID[nbrow.ACL](view(t, c), vnet.PartSecGroup, "rule", "g1/r"))
	require.NoError(t, err)
	require.NotEmpty(t, flows)
	require.Contains(t, flows[0].Match, "outport == @vnet.red.pg.g1 && ip4")
	require.Equal(t, "egress", flows[0].Pipeline)
	flows, err = c.Flows(ctx, "00000000-0000")
	require.NoError(t, err)
	require.Empty(t, flows)
	_, err = blue.Flows(ctx, "00000000-0000")
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	lab.Eventually(t, time.Minute, "the bindings are there", func() bool { return len(ovn.By[sbrow.PortBinding](view(t, c), "logical_port", "red/p2")) == 1 })
	bind("red/p1", "one", true)
	lab.Eventually(t, time.Minute, "the binding is seen", func() bool {
		b := ovn.By[sbrow.PortBinding](view(t, c), "logical_port", "red/p1")[0]
		return b.Up != nil && *b.Up
	})

	next, stop := iter.Pull(c.WatchPorts(ctx))
	defer stop()
	expect := func(kind, id, chassis string) {
		t.Helper()
		e, ok := next()
		require.True(t, ok)
		require.Equal(t, []string{kind, id, chassis}, []string{e.Kind, e.ID, e.Detail["chassis"]})
		require.Equal(t, vnet.PartOverlay, e.Part)
	}
	expect("port-up", "p1", "one")
	bind("blue/p1", "one", true)
	bind("red/p2", "two", true)
	expect("port-up", "p2", "two")
	bind("red/p1", "two", true)
	expect("port-down", "p1", "one")
	expect("port-up", "p1", "two")
	sb.Kill()
	lab.Eventually(t, time.Minute, "the Southbound is missed", func() bool { return !c.Health(ctx).Complete })
	sb.Start()
	_ = view(t, c)
	bind("red/p2", "two", false)
	expect("port-down", "p2", "two")
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "p1"))
		return nil
	}))
	expect("port-down", "p1", "two")
	go cancel()
	for _, ok := next(); ok; _, ok = next() {
	}

	// Without a Southbound the Northbound says it.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	n2, stop2 := iter.Pull(blue.WatchPorts(ctx))
	defer stop2()
	e, ok := n2()
	require.True(t, ok)
	require.Equal(t, "p1", e.ID)
	require.Equal(t, "port-up", e.Kind)

	// An agent reads the Southbound only.
	agent, err := ovn.Dial(t.Context(), "blue", nil, &ovn.Options{Southbound: []string{sb.Endpoint()}})
	require.NoError(t, err)
	defer agent.Close()
	require.Len(t, ovn.By[sbrow.PortBinding](view(t, agent), "logical_port", "blue/p1"), 1)
	require.ErrorContains(t, agent.Submit(t.Context(), vnet.PartOverlay, ensureNetwork("x")), "Northbound")
}
