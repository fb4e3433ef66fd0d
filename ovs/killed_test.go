package ovs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
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

const (
	killedOptions = "VNET_TEST_OVS_KILLED" // what to open, for a process that will be killed
	killedPorts   = 150
)

type killable struct {
	Owner   vnet.Owner
	Options ovs.Options
}

// killedState is one of several that differ in half of what they have. Ports
// are n to n+150, in networks of ten; one network has a tunnel or a patch.
func killedState(n int) func(*ovs.Tx) error {
	return func(tx *ovs.Tx) error {
		want := map[string]bool{}
		out := uint16(0)
		if n%20 == 0 {
			out = tx.Tunnel(ovs.VXLAN)
		} else {
			out = tx.Patch("ex")
		}
		stands := tx.All()
		for i := n; i < n+killedPorts; i++ {
			id := fmt.Sprint("p", i)
			want[id] = true
			p, net := uint64(tx.PortNumber(id)), uint64(tx.NetworkNumber(fmt.Sprint("n", i/10)))
			tx.Put("port", id, nil,
				of.Flow{Table: pipeline.Classify, Priority: 10, Match: of.Any(of.InPort.Is(p)), Actions: []of.Action{of.Set(of.Reg(pipeline.RegNetwork).Is(net)), of.Goto(pipeline.L2)}},
				of.Flow{Table: pipeline.L2, Priority: 10, Match: of.Any(of.Reg(pipeline.RegNetwork).Is(net), of.Reg(pipeline.RegIn).Is(p)), Actions: []of.Action{of.Output{Port: of.Port(out)}}})
		}
		for _, o := range stands {
			if !want[o.ID] {
				tx.Delete(o.Kind, o.ID)
			}
		}
		return nil
	}
}

// routers is what another part wants beside killedState.
func routers(n int) func(*ovs.Tx) error {
	return func(tx *ovs.Tx) error {
		stands := tx.All()
		id := fmt.Sprint("r", n)
		r := uint64(tx.RouterNumber(id))
		tx.NetworkNumber(fmt.Sprint("n", n/10))
		tx.Put("router", id, nil, of.Flow{Table: 41, Priority: 3, Match: of.Any(of.Reg(pipeline.RegRouter).Is(r))})
		for _, o := range stands {
			if o.ID != id {
				tx.Delete(o.Kind, o.ID)
			}
		}
		return nil
	}
}

// TestKilledProcess is what TestKilled starts and kills.
func TestKilledProcess(t *testing.T) {
	text := os.Getenv(killedOptions)
	if text == "" {
		return
	}
	var k killable
	require.NoError(t, json.Unmarshal([]byte(text), &k))
	ctx := context.Background()
	s, err := ovs.Open(ctx, k.Owner, &k.Options)
	require.NoError(t, err)
	for i := 1; ; i++ {
		b := s.Batch()
		require.NoError(t, b.Submit(ctx, vnet.PartOverlay, killedState(i%8*10)))
		require.NoError(t, b.Submit(ctx, vnet.PartRouter, routers(i%8*10)))
		require.NoError(t, b.Commit(ctx))
	}
}

func TestKilled(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}})[0]
	owner := vnet.Owner(l.Owner(""))
	o := ovs.Options{Database: sw.Endpoint, Control: sw.Vswitchd.Ctl, Netns: sw.Path, Name: sw.Short, TunnelIP: sw.EncapIP, PhysicalNetworks: sw.Mappings}
	text, err := json.Marshal(killable{owner, o})
	require.NoError(t, err)
	ctx := t.Context()
	s := open(t, sw, owner, ovs.Options{})
	for round := range 8 {
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, killedState(0)))
		require.NoError(t, s.Submit(ctx, vnet.PartRouter, routers(0)))
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), killedOptions+"="+string(text))
		require.NoError(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		lab.Eventually(t, time.Minute, "it has begun", func() bool {
			n, _ := s.Number("port", "p0")
			return n == 0
		})
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		require.ErrorContains(t, <-done, "killed")

		// What it left is one of its states, whole, and in no flow is a number that
		// is not its own.
		var ports, others []string
		_, err := s.Plan(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
			ports = nil
			for _, x := range tx.All() {
				ports = append(ports, x.ID)
				n, ok := tx.Known("port", x.ID)
				require.True(t, ok, "%s has flows and no number", x.ID)
				require.Len(t, x.Flows, 2)
				for _, f := range x.Flows {
					for _, c := range f.Match {
						if c.Field == of.InPort || c.Field == of.Reg(pipeline.RegIn) {
							require.EqualValues(t, n, c.Value.Lo, "%s: %s", x.ID, f)
						}
					}
				}
			}
			return nil
		})
		require.NoError(t, err)
		_, err = s.Plan(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
			others = nil
			for _, x := range tx.All() {
				others = append(others, x.ID)
			}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, others, 1)
		first := 0
		fmt.Sscanf(others[0], "r%d", &first)
		require.Len(t, ports, killedPorts)
		for i := range killedPorts {
			require.Contains(t, ports, fmt.Sprint("p", first+i), "a batch is whole or not there")
		}
		left := numbersIn(t, sw)
		t.Logf("round %d: killed with state %d; numbers of %d things", round, first, len(left))

		// Another process makes it what it wants, and nothing is left over.
		next := open(t, sw, owner, ovs.Options{})
		for _, h := range []*ovs.Switch{next, s} {
			require.NoError(t, h.Submit(ctx, vnet.PartOverlay, killedState(20)))
			require.NoError(t, h.Submit(ctx, vnet.PartRouter, routers(20)))
			w := h.Writes()
			require.NoError(t, h.Submit(ctx, vnet.PartOverlay, killedState(20)))
			require.Equal(t, w, h.Writes(), "twice is once")
		}
		have := numbersIn(t, sw)
		require.Len(t, have, killedPorts+killedPorts/10+1+1) // ports, networks, router, tunnel
		seen := map[string]bool{}
		for k, v := range have {
			n := k[1] + strings.Fields(v)[0]
			require.False(t, seen[n], "%v", have)
			seen[n] = true
			if was, ok := left[k]; ok {
				require.Equal(t, strings.Fields(was)[0], strings.Fields(v)[0], "the number of what stays stays")
			}
		}
		require.Equal(t, []string{"overlay", "router"}, strings.Fields(have[[3]string{string(owner), "network", "n2"}])[1:])
		require.Len(t, slices.DeleteFunc(dump(sw, s), func(l string) bool { return !strings.Contains(l, "table=253") }), 1+killedPorts+1)
		require.NotContains(t, sw.Vsctl("list-ports", "br-ex"), "v", "the patch has gone")
		require.NoError(t, next.Close())
	}
}

// TestTheSwitchIsKilled ends ovs-vswitchd and ovsdb-server while changes are
// written: each stands, or its error says that this is not known.
func TestTheSwitchIsKilled(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}})[0]
	owner := vnet.Owner(l.Owner(""))
	s := open(t, sw, owner, ovs.Options{})
	ctx := t.Context()
	stop, done := make(chan struct{}), make(chan [2]int)
	go func() {
		stood, unknown := 0, 0
		defer func() { done <- [2]int{stood, unknown} }()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			switch err := s.Submit(ctx, vnet.PartOverlay, killedState(i%8*10)); {
			case err == nil:
				stood++
			case errors.Is(err, vnet.ErrNotReady):
				unknown++
			default:
				t.Errorf("submission %d: %v", i, err)
			}
		}
	}()
	for range 4 {
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		sw.Vswitchd.Kill()
		sw.Vswitchd.Start()
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		sw.Vswitch.Kill()
		sw.Vswitch.Start()
	}
	close(stop)
	n := <-done
	t.Logf("%d stood, of %d it is not known", n[0], n[1])
	require.NotZero(t, n[0])
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, killedState(20)))
	require.Len(t, numbersIn(t, sw), killedPorts+killedPorts/10+1)
	require.Len(t, slices.DeleteFunc(dump(sw, s), func(l string) bool { return !strings.Contains(l, "table=253") }), 1+killedPorts)
}
