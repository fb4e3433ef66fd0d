package openflow

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
)

// All of a connection beside ovs-ofctl, on one switch.
func TestConnAgainstOpenVSwitch(t *testing.T) {
	s := newSwitch(t)
	c := s.dial()
	for _, tc := range []struct {
		name string
		f    func(*testing.T, *testSwitch, *Conn)
	}{
		{"features and echo", testFeatures},
		{"a bundle is all or nothing and names what was refused", testBundleAtomic},
		{"a bundle is in order", testBundleOrder},
		{"a bundle ended by its context changes nothing", testBundleCancel},
		{"flows are read by table, cookie, match and port", testFilter},
		{"flows are changed one by one", testApply},
		{"meters", testMeters},
		{"groups", testGroups},
		{"ports and their changes", testPorts},
		{"monitor", testMonitor},
		{"packets in and out", testPackets},
		{"conntrack is flushed", testConntrack},
		{"the switch goes away", testGone}, // last
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.t = t
			s.ofctl("del-flows")
			tc.f(t, s, c)
		})
	}
	s.t = t
}

func testFeatures(t *testing.T, s *testSwitch, c *Conn) {
	assert.EqualValues(t, 254, c.Features().Tables)
	assert.Contains(t, s.ofctl("show"), fmt.Sprintf("dpid:%016x", c.Features().DatapathID))
	require.NoError(t, c.Echo(t.Context()))
	require.NoError(t, c.Barrier(t.Context()))
}

func numbered(n int) []FlowMod {
	mods := make([]FlowMod, n)
	for i := range mods {
		mods[i] = Add(Flow{Table: 5, Priority: 10, Cookie: 7, Match: Any(Reg(1).Is(uint64(i + 1))), Actions: []Action{Goto(6)}})
	}
	return mods
}

func testBundleAtomic(t *testing.T, s *testSwitch, c *Conn) {
	require.NoError(t, c.Bundle(t.Context(), nil))
	// One that cannot be encoded.
	mods := numbered(1000)
	mods[500].Match = Any(TCPDst.Is(80))
	var invalid *InvalidError
	require.ErrorAs(t, c.Bundle(t.Context(), mods), &invalid)
	assert.Equal(t, "tcp_dst", invalid.Field)
	assert.Empty(t, s.dump())
	// One that the switch refuses when it reads it.
	mods = numbered(1000)
	mods[500].Actions = []Action{Group{77}}
	err := c.Bundle(t.Context(), mods)
	var fe *FlowError
	require.ErrorAs(t, err, &fe)
	assert.Equal(t, mods[500], fe.Mod)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "OFPBAC_BAD_OUT_GROUP", e.Name())
	assert.Contains(t, err.Error(), "OFPBAC_BAD_OUT_GROUP")
	assert.Contains(t, err.Error(), "reg1=0x1f5")
	assert.Empty(t, s.dump())
	// One that it refuses when it commits.
	mods = numbered(1000)
	mods[500].Flags = CheckOverlap
	mods[500].Match = mods[499].Match.With(Reg(2).Is(1))
	err = c.Bundle(t.Context(), mods)
	require.ErrorAs(t, err, &fe)
	assert.Equal(t, mods[500], fe.Mod)
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "OFPFMFC_OVERLAP", e.Name())
	assert.Empty(t, s.dump())
	// And all is well after that.
	require.NoError(t, c.Bundle(t.Context(), numbered(1000)))
	assert.Len(t, s.dump(), 1000)
}

func testBundleOrder(t *testing.T, s *testSwitch, c *Conn) {
	f := Flow{Table: 3, Match: Any(InPort.Is(1)), Actions: []Action{Output{Port: 2}}}
	g := f
	g.Actions = []Action{Output{Port: 3}}
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{Add(f), DeleteAll(AllTables, 0, 0, nil), Add(g)}))
	assert.Equal(t, []string{g.String()}, s.dump())
	m := g
	m.Actions = nil
	m.Cookie = 99 // stays as it was
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{Modify(m)}))
	m.Cookie = 0
	assert.Equal(t, []string{m.String()}, s.dump())
}

func testBundleCancel(t *testing.T, s *testSwitch, c *Conn) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Bundle(ctx, numbered(10)), context.Canceled)
	assert.Empty(t, s.dump())
	require.NoError(t, c.Barrier(t.Context()))
}

func testFilter(t *testing.T, s *testSwitch, c *Conn) {
	flow := func(table uint8, cookie uint64, in, out uint64) FlowMod {
		return Add(Flow{Table: table, Cookie: cookie, Match: Any(InPort.Is(in)), Actions: []Action{Output{Port: Port(out)}}})
	}
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{flow(0, 0x10, 1, 5), flow(0, 0x11, 2, 5), flow(1, 0x11, 1, 6), flow(1, 0x21, 2, 6)}))
	count := func(f FlowFilter) int {
		flows, err := c.Flows(t.Context(), f)
		require.NoError(t, err)
		a, err := c.Aggregate(t.Context(), f)
		require.NoError(t, err)
		assert.EqualValues(t, len(flows), a.Flows)
		return len(flows)
	}
	assert.Equal(t, 2, count(FlowFilter{}))
	assert.Equal(t, 4, count(FlowFilter{Table: AllTables}))
	assert.Equal(t, 2, count(FlowFilter{Table: AllTables, Cookie: 0x11, CookieMask: ^uint64(0)}))
	assert.Equal(t, 3, count(FlowFilter{Table: AllTables, Cookie: 0x10, CookieMask: 0xf0}))
	assert.Equal(t, 2, count(FlowFilter{Table: AllTables, Match: Any(InPort.Is(1))}))
	assert.Equal(t, 2, count(FlowFilter{Table: AllTables, OutPort: 6}))
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{DeleteAll(AllTables, 0x10, 0xf0, nil)}))
	assert.Equal(t, 1, count(FlowFilter{Table: AllTables}))
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{Delete(flow(1, 0x22, 2, 6).Flow, ^uint64(0))}))
	assert.Equal(t, 1, count(FlowFilter{Table: AllTables}), "of another cookie")
}

func testApply(t *testing.T, s *testSwitch, c *Conn) {
	gone, err := c.FlowsRemoved(t.Context(), 0)
	require.NoError(t, err)
	f := Flow{Table: 4, Cookie: 5, HardTimeout: 1, Flags: SendFlowRemoved, Match: Any(InPort.Is(9))}
	bad := Flow{Match: Any(Reg(0).Is(1)), Actions: []Action{Group{77}}}
	err = c.Apply(t.Context(), []FlowMod{Add(bad), Add(f)})
	require.ErrorContains(t, err, "OFPBAC_BAD_OUT_GROUP")
	assert.Equal(t, []string{f.String()}, s.dump())
	select {
	case r := <-gone:
		assert.EqualValues(t, RemovedHard, r.Reason)
		assert.Equal(t, f.Key(), r.Key())
		assert.EqualValues(t, 5, r.Cookie)
	case <-time.After(30 * time.Second):
		t.Error("no flow-removed message")
	}
}

func testMeters(t *testing.T, s *testSwitch, c *Conn) {
	m := MeterConfig{ID: 5, Packets: true, Rate: 10, Burst: 20}
	require.NoError(t, c.AddMeter(t.Context(), m))
	assert.Contains(t, s.ofctl("dump-meters"), "meter=5 pktps burst bands=\ntype=drop rate=10 burst_size=20")
	require.ErrorContains(t, c.AddMeter(t.Context(), m), ErrNameMeterExists)
	got, err := c.Meters(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []MeterConfig{m}, got)
	m.Packets, m.Rate, m.Burst = false, 1000, 0
	require.NoError(t, c.ModifyMeter(t.Context(), m))
	assert.Contains(t, s.ofctl("dump-meters"), "meter=5 kbps bands=\ntype=drop rate=1000")
	stats, err := c.MeterStats(t.Context())
	require.NoError(t, err)
	require.Len(t, stats, 1)
	assert.EqualValues(t, 5, stats[0].ID)
	f, err := c.MeterFeatures(t.Context())
	require.NoError(t, err)
	assert.NotZero(t, f.MaxMeters)
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{Add(Flow{Match: Any(InPort.Is(1)), Actions: []Action{Meter{5}, Output{Port: 2}}})}))
	assert.Equal(t, []string{"priority=0,in_port=1 actions=meter:5,output:2"}, s.dump())
	require.NoError(t, c.DeleteMeter(t.Context(), 5))
	require.NoError(t, c.DeleteMeter(t.Context(), 5))
	assert.Empty(t, s.dump())
}

func testGroups(t *testing.T, s *testSwitch, c *Conn) {
	sel := GroupDesc{ID: 9, Type: GroupSelect, Method: "hash", Param: 3, Fields: []Field{IPv4Src, IPv4Dst},
		Buckets: []Bucket{{ID: 1, Weight: 1, Actions: []Action{Output{Port: 1}}}, {ID: 2, Weight: 50, Actions: []Action{Set(Reg(0).Is(1)), Goto(7)}}}}
	all := GroupDesc{ID: 10, Type: GroupAll, Buckets: []Bucket{{Actions: []Action{Output{Port: 1}}}, {Actions: []Action{Output{Port: 2}}}}}
	ff := GroupDesc{ID: 11, Type: GroupFastFailover, Buckets: []Bucket{{WatchPort: PortLocal, Actions: []Action{Output{Port: PortLocal}}}, {WatchGroup: 10, Actions: []Action{Group{10}}}}}
	use := Flow{Match: Any(InPort.Is(1)), Actions: []Action{Group{9}}}
	mods := []Mod{}
	for _, g := range []GroupDesc{sel, all, ff} {
		m := PutGroup(g)
		mods = append(mods, &m)
	}
	add := Add(use)
	require.NoError(t, c.BundleMods(t.Context(), append(mods, &add)))
	dump := s.ofctl("dump-groups")
	for _, g := range []GroupDesc{sel, all, ff} {
		assert.Contains(t, dump, g.String())
	}
	got, err := c.Groups(t.Context())
	require.NoError(t, err)
	require.Len(t, got, 3)
	text := map[uint32]string{}
	for _, g := range got {
		text[g.ID] = g.String()
	}
	for _, g := range []GroupDesc{sel, all, ff} {
		assert.Equal(t, g.String(), text[g.ID])
	}
	st, err := c.GroupStats(t.Context())
	require.NoError(t, err)
	require.Len(t, st, 3)
	for _, x := range st {
		assert.Len(t, x.Buckets, 2)
	}
	require.ErrorContains(t, c.Group(t.Context(), AddGroup(all)), ErrNameGroupExists)
	bad := ModifyGroup(GroupDesc{ID: 99, Type: GroupAll})
	require.ErrorContains(t, c.BundleMods(t.Context(), []Mod{&bad}), ErrNameUnknownGroup)
	require.NoError(t, c.Group(t.Context(), DeleteGroup(AllGroups)))
	require.NoError(t, c.Group(t.Context(), DeleteGroup(9)))
	assert.Empty(t, s.dump(), "a flow goes with its group")
}

func testPorts(t *testing.T, s *testSwitch, c *Conn) {
	changes, err := c.PortChanges(t.Context(), 0)
	require.NoError(t, err)
	s.port(7)
	wait := func(want func(PortStatus) bool) {
		t.Helper()
		for end := time.After(30 * time.Second); ; {
			select {
			case p := <-changes:
				if want(p) {
					return
				}
			case <-end:
				t.Fatal("no such port status")
			}
		}
	}
	wait(func(p PortStatus) bool { return p.Reason == PortAdded && p.Number == 7 && p.Name == "p7" })
	ports, err := c.Ports(t.Context())
	require.NoError(t, err)
	found := false
	for _, p := range ports {
		if p.Number == 7 {
			found = true
			assert.Equal(t, "p7", p.Name)
			assert.Equal(t, s.ns.MAC("p7"), vnet.MAC(p.MAC))
			assert.True(t, p.LinkUp())
		}
	}
	assert.True(t, found)
	s.vsctl("del-port", "p7")
	wait(func(p PortStatus) bool { return p.Reason == PortDeleted && p.Number == 7 })
}

func testMonitor(t *testing.T, s *testSwitch, c *Conn) {
	ctx, cancel := context.WithCancel(t.Context())
	f := Flow{Table: 2, Cookie: 0x1001, Match: Any(InPort.Is(1)), Actions: []Action{Output{Port: 2}}}
	other := Flow{Table: 2, Cookie: 0x2001, Match: Any(InPort.Is(2))}
	require.NoError(t, c.Bundle(ctx, []FlowMod{Add(f), Add(other)}))
	flows, updates, err := c.Monitor(ctx, FlowFilter{Table: AllTables, Cookie: 0x1000, CookieMask: 0xf000}, 0)
	require.NoError(t, err)
	require.Len(t, flows, 1)
	assert.Equal(t, f.String(), flows[0].String())
	_, _, err = c.Monitor(ctx, FlowFilter{}, 0)
	require.ErrorIs(t, err, ErrMonitored)
	next := func() FlowUpdate {
		t.Helper()
		select {
		case u, ok := <-updates:
			require.True(t, ok)
			return u
		case <-time.After(30 * time.Second):
			t.Fatal("no update")
		}
		return FlowUpdate{}
	}
	g := f
	g.Match = Any(InPort.Is(3))
	require.NoError(t, c.Bundle(ctx, []FlowMod{Add(g), Delete(other, 0)}))
	u := next()
	assert.Equal(t, FlowAdded, u.Event)
	assert.Equal(t, g.String(), u.Flow.String())
	s.ofctl("mod-flows", "table=2,in_port=3,actions=output:9")
	u = next()
	assert.Equal(t, FlowModified, u.Event)
	assert.Equal(t, []Action{Output{Port: 9}}, u.Actions)
	s.ofctl("del-flows", "table=2,in_port=3")
	u = next()
	assert.Equal(t, FlowDeleted, u.Event)
	assert.EqualValues(t, RemovedDelete, u.Reason)
	assert.Equal(t, g.Key(), u.Key())
	cancel()
	for range updates {
	}
	require.Eventually(t, func() bool { // ended at the switch too
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, _, err := c.Monitor(ctx, FlowFilter{Table: AllTables}, 1)
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
}

func testPackets(t *testing.T, s *testSwitch, c *Conn) {
	a, _ := s.port(1)
	b, _ := s.port(2)
	ctx, cancel := context.WithCancel(t.Context())
	frame := lab.Frame{SrcMAC: a.MAC("eth0"), DstMAC: b.MAC("eth0"), Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"),
		Proto: lab.UDP, SrcPort: 68, DstPort: 67, Payload: []byte("hello, all of you out there")}.Bytes()
	user := []byte{1, 2, 3, 4, 5, 6, 7}
	require.NoError(t, c.SetControllerID(ctx, 42))
	require.NoError(t, c.Bundle(ctx, []FlowMod{
		Add(Flow{Table: 0, Priority: 5, Match: UDP4(InPort.Is(1), UDPSrc.Is(68)), Actions: []Action{Set(Reg(1).Is(77)), Set(XXReg(1).Addr(netip.MustParseAddr("2001:db8::1"))), Set(Metadata.Is(9)), Goto(20)}}),
		Add(Flow{Table: 20, Priority: 1, Cookie: 0xabcdef, Actions: []Action{Controller{ID: 42, UserData: user}}}),
	}))
	all, err := c.PacketIns(ctx, PacketInFilter{})
	require.NoError(t, err)
	none, err := c.PacketIns(ctx, PacketInFilter{Accept: func(p *PacketIn) bool { return p.Table != 20 }})
	require.NoError(t, err)
	take := func() *PacketIn {
		t.Helper()
		select {
		case p := <-all:
			return p
		case <-time.After(30 * time.Second):
			t.Fatal("no packet-in")
		}
		return nil
	}
	a.Inject("eth0", frame)
	p := take()
	assert.Equal(t, frame, p.Packet)
	assert.Equal(t, len(frame), p.FullLen)
	assert.Equal(t, user, p.UserData)
	assert.EqualValues(t, 20, p.Table)
	assert.EqualValues(t, 0xabcdef, p.Cookie)
	assert.EqualValues(t, ReasonAction, p.Reason)
	assert.Equal(t, Port(1), p.InPort())
	assert.Equal(t, U64(77), p.Field(Reg1))
	assert.Equal(t, U64(9), p.Field(Metadata))
	assert.Equal(t, U64(0x20010db8), p.Field(Reg4))
	assert.Equal(t, U64(1), p.Field(Reg7))
	select {
	case <-none:
		t.Error("a packet that was not wanted")
	default:
	}
	// Out: to a port, and through the tables with metadata.
	seen := b.Capture("eth0")
	require.NoError(t, c.PacketOut(ctx, PacketOut{Actions: []Action{Output{Port: 2}}, Packet: frame}))
	want := func(f lab.Frame) bool { return string(f.Payload) == "hello, all of you out there" }
	seen.Wait(30*time.Second, want)
	require.NoError(t, c.Bundle(ctx, []FlowMod{Add(Flow{Table: 0, Priority: 9, Match: Any(Reg(3).Is(5), TunID.Is(8)), Actions: []Action{Output{Port: 2}}})}))
	seen = b.Capture("eth0")
	require.NoError(t, c.PacketOut(ctx, PacketOut{InPort: 1, Metadata: Any(Reg(3).Is(5), TunID.Is(8)), Actions: []Action{Output{Port: PortTable}}, Packet: frame}))
	seen.Wait(30*time.Second, want)
	// Refused by name.
	err = c.PacketOut(ctx, PacketOut{Actions: []Action{Group{99}}, Packet: frame})
	require.ErrorContains(t, err, "OFPBAC_BAD_OUT_GROUP")
	// Pause and resume.
	require.NoError(t, c.Bundle(ctx, []FlowMod{Add(Flow{Table: 20, Priority: 1, Actions: []Action{Controller{ID: 42, UserData: user, Pause: true}, Set(Reg(6).Is(1)), Goto(21)}}),
		Add(Flow{Table: 21, Match: Any(Reg(6).Is(1), Reg(9).Is(3)), Actions: []Action{Output{Port: 2}}})}))
	s.run("ovs-appctl", "-t", s.path("vs.ctl"), "revalidator/wait") // the data path has the flow of before cached
	a.Inject("eth0", frame)
	p = take()
	require.NotEmpty(t, p.Continuation)
	p.Metadata = p.Metadata.With(Reg(9).Is(3))
	seen = b.Capture("eth0")
	require.NoError(t, c.Resume(ctx, p))
	seen.Wait(30*time.Second, want)
	// The end of the context is the end of the channel.
	cancel()
	for range all {
	}
	for range none {
	}
}

func testConntrack(t *testing.T, s *testSwitch, c *Conn) {
	require.NoError(t, c.Bundle(t.Context(), []FlowMod{Add(Flow{Match: IP4(), Actions: []Action{CT{Commit: true, ZoneFrom: Reg(1).Range(0, 15)}}})}))
	frame := lab.Frame{SrcMAC: vnet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: vnet.MAC{2, 0, 0, 0, 0, 2}, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"),
		Proto: lab.UDP, DstPort: 53}
	send := func(zone uint64, src uint16) {
		frame.SrcPort = src
		require.NoError(t, c.PacketOut(t.Context(), PacketOut{Metadata: Any(Reg(1).Is(zone)), Actions: []Action{Output{Port: PortTable}}, Packet: frame.Bytes()}))
	}
	count := func() int {
		return strings.Count(s.run("ovs-appctl", "-t", s.path("vs.ctl"), "dpctl/dump-conntrack"), "udp,")
	}
	send(5, 1000)
	send(5, 1001)
	send(6, 1000)
	require.Eventually(t, func() bool { return count() == 3 }, 30*time.Second, 10*time.Millisecond)
	tuple := CtTuple{Src: frame.Src, Dst: frame.Dst, SrcPort: 1000, DstPort: 53}
	require.NoError(t, c.FlushConnections(t.Context(), CtMatch{Zone: 5, Proto: ProtoUDP, Orig: tuple}))
	assert.Equal(t, 2, count())
	require.NoError(t, c.FlushConnections(t.Context(), CtMatch{Zone: 9, Proto: ProtoUDP, Orig: CtTuple{Src: frame.Src}}))
	assert.Equal(t, 2, count(), "of another zone")
	require.NoError(t, c.FlushConnections(t.Context(), CtMatch{AnyZone: true, Proto: ProtoUDP, Reply: CtTuple{Dst: frame.Src, DstPort: 1001}}))
	assert.Equal(t, 1, count())
	require.NoError(t, c.FlushZone(t.Context(), 6))
	assert.Equal(t, 0, count())
	var invalid *InvalidError
	require.ErrorAs(t, c.FlushConnections(t.Context(), CtMatch{Orig: CtTuple{SrcPort: 1}}), &invalid)
}

func testGone(t *testing.T, s *testSwitch, c *Conn) {
	packets, err := c.PacketIns(t.Context(), PacketInFilter{})
	require.NoError(t, err)
	s.vsctl("del-br", "br0")
	select {
	case <-c.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("nobody noticed")
	}
	for range packets {
	}
	require.Error(t, c.Err())
	require.ErrorIs(t, c.Bundle(t.Context(), numbered(1)), c.Err())
	_, err = c.Flows(t.Context(), FlowFilter{})
	require.ErrorIs(t, err, c.Err())
	_, err = c.PacketIns(t.Context(), PacketInFilter{})
	require.ErrorIs(t, err, c.Err())
	require.NoError(t, c.Close())
}
