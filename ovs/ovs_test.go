package ovs_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/ovs"
)

func open(t *testing.T, sw *lab.Switch, owner vnet.Owner, o ovs.Options) *ovs.Switch {
	t.Helper()
	o.Database, o.Control, o.Netns, o.Name = sw.Endpoint, sw.Vswitchd.Ctl, sw.Path, sw.Short
	o.TunnelIP, o.PhysicalNetworks = sw.EncapIP, sw.Mappings
	s, err := ovs.Open(t.Context(), owner, &o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// dump is the flows of a bridge, but for the base.
func dump(sw *lab.Switch, s *ovs.Switch) (out []string) {
	for l := range strings.Lines(sw.Ofctl("dump-flows", s.Bridge(), "--no-stats")) {
		if l = strings.TrimSpace(l); strings.Contains(l, "actions=") {
			out = append(out, l)
		}
	}
	return out
}

// wired lets two ports of a network reach each other, by their numbers alone.
func wired(a, b string) func(*ovs.Tx) error {
	return func(tx *ovs.Tx) error {
		x, y := uint64(tx.PortNumber(a)), uint64(tx.PortNumber(b))
		n := uint64(tx.NetworkNumber("n"))
		for _, p := range []struct {
			id       string
			from, to uint64
		}{{a, x, y}, {b, y, x}} {
			tx.Put("port", p.id, []byte(`{"of":"n"}`), of.Flow{Table: pipeline.Classify, Priority: 10, Match: of.Any(of.InPort.Is(p.from)),
				Actions: []of.Action{of.Set(of.Reg(pipeline.RegNetwork).Is(n)), of.Set(of.Reg(pipeline.RegOut).Is(p.to)), of.Goto(pipeline.Deliver)}})
		}
		return nil
	}
}

func TestSwitch(t *testing.T) {
	l := lab.New(t)
	sw := l.Switches(lab.SwitchOptions{Name: "h1", Physical: []string{"ex"}})[0]
	owner := vnet.Owner(l.Owner(""))
	s := open(t, sw, owner, ovs.Options{})
	ctx := t.Context()
	base := len(dump(sw, s))
	require.NotZero(t, base)

	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
	stood := dump(sw, s)
	require.Len(t, stood, base+4)
	before := s.Writes()
	require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
	require.Equal(t, before, s.Writes(), "twice is once")
	p, err := s.Plan(ctx, vnet.PartOverlay, wired("a", "b"))
	require.NoError(t, err)
	require.Empty(t, p.Changes)
	again := open(t, sw, owner, ovs.Options{}) // as another process does
	p, err = again.Plan(ctx, vnet.PartOverlay, wired("a", "b"))
	require.NoError(t, err)
	require.Empty(t, p.Changes)
	p, err = again.Plan(ctx, vnet.PartOverlay, wired("a", "c"))
	require.NoError(t, err)
	require.Equal(t, 1, p.Count(vnet.Create))
	require.Equal(t, 1, p.Count(vnet.Update))
	require.Equal(t, stood, dump(sw, s), "a plan does nothing")

	a, b := l.NS("a"), l.NS("b")
	_, err = s.Plug(ctx, ovs.Plug{Part: vnet.PartOverlay, PortID: "z", Kind: "veth", Netns: a.Path})
	require.ErrorIs(t, err, vnet.ErrNotFound)
	for id, ns := range map[string]*lab.NS{"a": a, "b": b} {
		for range 2 {
			got, err := s.Plug(ctx, ovs.Plug{Part: vnet.PartOverlay, PortID: id, Kind: "veth", Netns: ns.Path, MAC: vnet.MAC{2, 0, 0, 0, 0, id[0]}, MTU: 1450})
			require.NoError(t, err)
			n, ok := s.Number("port", id)
			require.True(t, ok)
			require.Equal(t, n, got.Number)
		}
		ns.Configure("eth0", []string{"10.0.0." + fmt.Sprint(id[0]-'a'+1) + "/24"})
	}
	lab.Eventually(t, time.Minute, "packets pass", func() bool { return a.Ping("10.0.0.2", 1) == nil })

	t.Run("the switch is restarted", func(t *testing.T) {
		wait, _ := told(t, s)
		n1, _ := s.Number("port", "a")
		sw.Vswitchd.Kill()
		lab.Eventually(t, time.Minute, "the handle notices", func() bool { return !s.Health(ctx).Complete })
		short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		defer stop()
		require.ErrorIs(t, s.Submit(short, vnet.PartOverlay, wired("a", "b")), vnet.ErrNotReady)
		sw.Vswitchd.Start()
		wait("the handle")
		require.Error(t, a.Ping("10.0.0.2", 1), "closed")
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
		lab.Eventually(t, time.Minute, "packets pass again", func() bool { return a.Ping("10.0.0.2", 1) == nil })
		n2, _ := s.Number("port", "a")
		require.Equal(t, n1, n2)
		require.True(t, s.Health(ctx).Complete)
	})
	t.Run("the database is restarted", func(t *testing.T) {
		sw.Vswitch.Kill()
		sw.Vswitch.Start()
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
		lab.Eventually(t, time.Minute, "packets pass", func() bool { return a.Ping("10.0.0.2", 1) == nil })
	})
	t.Run("all or nothing", func(t *testing.T) {
		before := dump(sw, s)
		b := s.Batch()
		require.NoError(t, b.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
			for i := range 100 {
				tx.Put("thing", fmt.Sprint(i), nil, of.Flow{Table: pipeline.L2, Priority: 5, Match: of.Any(of.Reg(1).Is(uint64(i)))})
			}
			return nil
		}))
		require.NoError(t, b.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
			tx.Put("router", "r", nil, of.Flow{Table: 41, Actions: []of.Action{of.Meter{ID: 77}}})
			return nil
		}))
		require.Len(t, b.Changes().Changes, 101)
		err := b.Commit(ctx)
		require.ErrorContains(t, err, "router router r")
		require.Equal(t, before, dump(sw, s))
		require.ErrorContains(t, s.Submit(ctx, vnet.PartDHCP, func(tx *ovs.Tx) error {
			tx.Put("scope", "s", nil, of.Flow{Table: pipeline.L2})
			return nil
		}), "not of this part")
	})
	t.Run("owners side by side", func(t *testing.T) {
		other := open(t, sw, owner+"x", ovs.Options{})
		require.NoError(t, other.Submit(ctx, vnet.PartOverlay, wired("a", "b")))
		n, _ := s.Number("network", "n")
		m, _ := other.Number("network", "n")
		require.NotEqual(t, n, m, "zones are shared")
		sw.Ofctl("add-flow", other.Bridge(), "table=60,priority=7,reg1=5,actions=drop") // nobody's
		require.NoError(t, other.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
			for _, o := range tx.All() {
				tx.Delete(o.Kind, o.ID)
			}
			return nil
		}))
		require.Len(t, dump(sw, other), base+1)
		_, ok := other.Number("port", "a")
		require.False(t, ok, "the number is free again")
		require.NoError(t, a.Ping("10.0.0.2", 5))
		_, err := ovs.Open(ctx, owner+"y", &ovs.Options{Database: sw.Endpoint, Netns: sw.Path, Bridge: s.Bridge()})
		require.ErrorIs(t, err, vnet.ErrConflict)
		require.NoError(t, other.Cleanup(ctx))
		require.NotContains(t, sw.Vsctl("list-br"), other.Bridge())
	})
	t.Run("packets in and out", func(t *testing.T) {
		require.NoError(t, s.Submit(ctx, vnet.PartDHCP, func(tx *ovs.Tx) error {
			tx.Put("scope", "s", nil, of.Flow{Table: pipeline.DHCP, Priority: 9, Match: of.UDP4(of.UDPDst.Is(67)),
				Actions: []of.Action{of.Controller{ID: ovs.ControllerID, UserData: []byte{1, 2}}}})
			return nil
		}))
		in := s.Packets(ctx, vnet.PartDHCP)
		n, _ := s.Number("port", "b")
		frame := lab.Frame{SrcMAC: vnet.MAC{2, 1}, DstMAC: lab.BroadcastMAC, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.9"), Proto: lab.UDP, SrcPort: 68, DstPort: 67}.Bytes()
		lab.Eventually(t, time.Minute, "a packet", func() bool {
			require.NoError(t, s.Inject(ctx, []of.Cond{of.Reg(1).Is(7)}, frame, of.Goto(pipeline.DHCP)))
			select {
			case p := <-in:
				return string(p.UserData) == "\x01\x02" && string(p.Packet) == string(frame)
			case <-time.After(200 * time.Millisecond):
				return false
			}
		})
		cap := b.Capture("eth0")
		require.NoError(t, s.Inject(ctx, nil, frame, of.Output{Port: of.Port(n)}))
		cap.Wait(30*time.Second, func(f lab.Frame) bool { return f.DstPort == 67 })
	})
	t.Run("connections", func(t *testing.T) {
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error {
			zone := pipeline.ZoneOfNetwork(tx.NetworkNumber("n"))
			for _, o := range tx.List("port") {
				full, _ := tx.Get(o.Kind, o.ID)
				flows := full.Flows
				for _, f := range flows[:1] {
					f.Priority, f.Match = 20, of.IP4(f.Match...)
					f.Actions = append([]of.Action{of.CT{Commit: true, Zone: zone}}, f.Actions...)
					flows = append(flows, f)
				}
				tx.Put(o.Kind, o.ID, o.Record, flows...)
			}
			return nil
		}))
		var ln net.Listener
		require.NoError(t, a.Do(func() (err error) { ln, err = net.Listen("tcp", "10.0.0.1:99"); return err }))
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
			}
		}()
		var c net.Conn
		require.NoError(t, b.Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.0.0.1:99", 10*time.Second); return err }))
		defer c.Close()
		n, _ := s.Number("network", "n")
		cs, err := s.Connections(ctx, n)
		require.NoError(t, err)
		var mine []ovs.Connection
		for _, x := range cs {
			if x.Proto == 6 && x.Orig.DstPort == 99 {
				mine = append(mine, x)
			}
		}
		require.Len(t, mine, 1, "%v\n%s", cs, strings.Join(dump(sw, s), "\n"))
		require.Equal(t, "10.0.0.2", mine[0].Orig.Src.String())
		require.NoError(t, s.Forget(ctx, mine...))
		cs, err = s.Connections(ctx, n)
		require.NoError(t, err)
		for _, x := range cs {
			assert.NotEqual(t, uint16(99), x.Orig.DstPort)
		}
		text, err := s.Trace(ctx, fmt.Sprintf("in_port=%d,tcp,nw_dst=10.0.0.1", 1))
		require.NoError(t, err)
		require.Contains(t, text, "Datapath actions")
	})
	t.Run("tunnels and patches", func(t *testing.T) {
		var g, p uint16
		f := func(tx *ovs.Tx) error {
			g, p = tx.Tunnel(ovs.Geneve), tx.Patch("ex")
			return nil
		}
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, f))
		require.Contains(t, sw.Ofctl("show", s.Bridge()), fmt.Sprintf(" %d(", g))
		require.Contains(t, sw.Ofctl("show", s.Bridge()), fmt.Sprintf(" %d(", p))
		before := s.Writes()
		require.NoError(t, s.Submit(ctx, vnet.PartOverlay, f))
		require.Equal(t, before, s.Writes())
		require.ErrorIs(t, s.Submit(ctx, vnet.PartOverlay, func(tx *ovs.Tx) error { tx.Patch("none"); return nil }), vnet.ErrNotFound)
	})
	require.NoError(t, s.Unplug(ctx, vnet.PartOverlay, "a"))
	require.NoError(t, s.Cleanup(ctx))
	require.Equal(t, "br-ex\nbr-phy", strings.TrimSpace(sw.Vsctl("list-br")))
	require.NotContains(t, sw.Vsctl("list-ports", "br-ex"), "v")
}
