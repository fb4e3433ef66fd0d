package ovs_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
)

// told lets a test wait for restarts that a handle tells of.
func told(t *testing.T, s *ovs.Switch) (wait func(who string), none func(who string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan struct{}, 100)
	seq := s.Watch(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range seq {
			if e.Kind == ovs.EventRestarted {
				events <- struct{}{}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	wait = func(who string) {
		t.Helper()
		select {
		case <-events:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s was not told of the restart: %+v", who, s.Health(ctx))
		}
	}
	none = func(who string) {
		t.Helper()
		select {
		case <-events:
			t.Fatalf("%s was told of a restart", who)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return wait, none
}

// whole is what a part asks for that wants one object and no other.
func whole(id string) func(*ovs.Tx) error {
	return func(tx *ovs.Tx) error {
		for _, o := range tx.All() {
			if o.ID != id {
				tx.Delete(o.Kind, o.ID)
			}
		}
		tx.Put("thing", id, nil, of.Flow{Table: pipeline.L2, Priority: 5, Match: of.Any(of.Reg(1).Is(uint64(tx.NetworkNumber(id))))})
		return nil
	}
}

func TestEveryHandleHearsOfARestart(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	owner := vnet.Owner(l.Owner(""))
	ctx := t.Context()
	a, b := open(t, sw, owner, ovs.Options{}), open(t, sw, owner, ovs.Options{})
	again := func() {
		for _, s := range []*ovs.Switch{a, b} {
			require.NoError(t, s.Submit(ctx, vnet.PartOverlay, whole("x")))
		}
	}
	again()
	stands := func() []string { // but for the record of the base, which is another in each life
		return slices.DeleteFunc(dump(sw, a), func(l string) bool {
			return strings.Contains(l, fmt.Sprintf("table=253, priority=0,metadata=%#x ", a.Cookie(vnet.PartHost, "base", "base")))
		})
	}
	stood := stands()
	waitA, noneA := told(t, a)
	waitB, _ := told(t, b)
	noneA("a handle before it")
	for _, how := range []string{"once", "twice", "while the database is away"} {
		switch how {
		case "twice":
			sw.Vswitchd.Kill()
			sw.Vswitchd.Start()
			sw.Vswitchd.Kill()
			sw.Vswitchd.Start()
		case "while the database is away":
			sw.Vswitch.Kill()
			sw.Vswitchd.Kill()
			sw.Vswitch.Start()
			sw.Vswitchd.Start()
		default:
			sw.Vswitchd.Kill()
			sw.Vswitchd.Start()
		}
		waitA("a handle, " + how)
		waitB("the other handle, " + how)
		again()
		require.Equal(t, stood, stands(), how)
	}

	// Who comes late.
	c := open(t, sw, owner, ovs.Options{})
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, whole("x")))
	_, noneC := told(t, c)
	noneC("one that came after the restarts")
	d := open(t, sw, owner, ovs.Options{})
	require.NoError(t, d.Submit(ctx, vnet.PartOverlay, whole("x")))
	sw.Vswitchd.Kill()
	sw.Vswitchd.Start()
	waitA("the first")
	waitB("the second")
	lab.Eventually(t, time.Minute, "the handle is there again", func() bool { return d.Health(ctx).Complete })
	waitD, _ := told(t, d)
	waitD("one that looks after the restart and did not sync since")
	require.NoError(t, d.Submit(ctx, vnet.PartOverlay, whole("x")))
	_, noneD := told(t, d)
	noneD("one that looks after it synced")
}

func TestTheBridgeIsRemovedByHand(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	s := open(t, sw, vnet.Owner(l.Owner("")), ovs.Options{})
	ctx := t.Context()
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, whole("x")))
	stood := dump(sw, s)
	wait, _ := told(t, s)

	sw.Vsctl("del-br", s.Bridge())
	wait("the handle")
	require.False(t, s.Health(ctx).Complete)
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, whole("x")))
	require.Len(t, dump(sw, s), len(stood))
	require.True(t, s.Health(ctx).Complete)

	// Flows alone, of which nobody tells: Sync finds it.
	sw.Ofctl("del-flows", s.Bridge())
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, whole("x")))
	require.Len(t, dump(sw, s), len(stood))

	// A database that is new: as if all had been removed.
	sw.Vsctl("--no-wait", "--all", "destroy", "Open_vSwitch")
	lab.Eventually(t, time.Minute, "the handle notices", func() bool { return !s.Health(ctx).Complete })
	sw.Vsctl("init")
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, whole("x")))
	require.Len(t, dump(sw, s), len(stood))
	require.NoError(t, s.Cleanup(ctx))
	require.ErrorIs(t, s.Submit(ctx, vnet.PartOverlay, whole("x")), vnet.ErrNotFound)
}

func TestPortEvents(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1"})[0]
	s := open(t, sw, vnet.Owner(l.Owner("")), ovs.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
	events := make(chan vnet.Event, 100)
	seq := s.Watch(ctx)
	go func() {
		for e := range seq {
			events <- e
		}
	}()
	wait := func(kind, id string) {
		t.Helper()
		select {
		case e := <-events:
			require.Equal(t, []string{string(vnet.PartOverlay), kind, id}, []string{string(e.Part), e.Kind, e.ID})
		case <-time.After(time.Minute):
			t.Fatalf("no %s of %s", kind, id)
		}
	}
	vm := l.NS("a")
	_, err := s.Plug(ctx, ovs.Plug{Part: vnet.PartOverlay, PortID: "a", Kind: "veth", Netns: vm.Path})
	require.NoError(t, err)
	vm.IP("link", "set", "eth0", "up")
	wait("port-up", "a")
	vm.IP("link", "set", "eth0", "down")
	wait("port-down", "a")
	vm.IP("link", "set", "eth0", "up")
	wait("port-up", "a")
	require.NoError(t, s.Unplug(ctx, vnet.PartOverlay, "a"))
	wait("port-down", "a")
}
