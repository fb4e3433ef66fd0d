package ovsdpdk_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/dpdk/ovsdpdk"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/reach"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

// site is one host whose switch has DPDK, with two machines:
//
//	m1 eth0 -- g1 testpmd virtio_user0 -- p1 | switch | p2 -- virtio_user1 testpmd g2 -- eth0 m2
type site struct {
	l       *lab.Lab
	d       *lab.DPDK
	host    *lab.Switch
	sw      *ovs.Switch
	setup   *dpdk.Setup
	fabric  *overlay.Fabric
	groups  *secgroup.Enforcer
	config  dpdk.Config
	vms     *lab.NS
	m       [2]*lab.NS
	net     overlay.State
	filter  secgroup.State
	segment overlay.SegmentType
}

func newSite(t testing.TB) *site {
	l := lab.New(t)
	d := l.DPDK()
	return onSwitch(t, l, d, l.Switches(lab.SwitchOptions{Name: "h1", DPDK: true, Physical: []string{"ex"}})[0])
}

func onSwitch(t testing.TB, l *lab.Lab, d *lab.DPDK, host *lab.Switch) *site {
	s := &site{l: l, d: d, host: host, segment: overlay.VXLAN}
	var err error
	s.sw, err = ovs.Open(t.Context(), vnet.Owner(l.Owner("d")), &ovs.Options{Name: "h1", Database: s.host.Endpoint, Control: s.host.Vswitchd.Ctl, Netns: s.host.Path,
		DatapathType: "netdev", TunnelIP: s.host.EncapIP, PhysicalNetworks: s.host.Mappings, Timeout: lab.Patience(30 * time.Second)})
	require.NoError(t, err)
	t.Cleanup(func() { s.sw.Close() })
	b, err := ovsdpdk.New(s.sw, nil)
	require.NoError(t, err)
	s.setup, err = dpdk.New(b)
	require.NoError(t, err)
	networks, err := ovsoverlay.New(s.sw, nil)
	require.NoError(t, err)
	s.fabric, err = overlay.New(networks, nil)
	require.NoError(t, err)
	filters, err := ovssecgroup.New(s.sw, nil)
	require.NoError(t, err)
	s.groups, err = secgroup.New(filters, nil)
	require.NoError(t, err)
	s.config = dpdk.Config{Init: "true", Hugepages: []dpdk.Hugepages{{Node: 0, SizeKB: 2048, Count: pages(t) + 512}}, SocketMemory: []int{512}, PMDCores: []int{1},
		LCores: []int{0}, HugepageDir: s.d.Mount, ExtraArgs: []string{"--no-pci", "--no-telemetry", "--file-prefix=" + s.d.Prefix},
		SocketDirs: []dpdk.SocketDir{{Path: filepath.Join(s.host.Dir, "vhost"), Mode: 0o2770}}}
	t.Cleanup(func() { // the switch must not hold pages when they are given back
		s.host.Vswitchd.Stop()
		require.NoError(t, s.setup.DeleteConfig(context.Background()))
	})
	return s
}

func pages(t testing.TB) (n int) {
	b, err := os.ReadFile("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), &n)
	require.NoError(t, err)
	return n
}

func (s *site) socket(i int) string {
	return filepath.Join(s.config.SocketDirs[0].Path, fmt.Sprint("p", i+1))
}

func port(i int) overlay.Port {
	return overlay.Port{ID: fmt.Sprint("p", i+1), NetworkID: "n", MAC: vnet.MAC{2, 0x5e, 0, 0, 0, byte(i + 1)}, FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})}, Filtered: true}
}

// machines ensures both ports and their filters, which let UDP 1000 in.
func (s *site) machines(t testing.TB) { s.machinesIn(t, "") }

// machinesIn has namespaces whose names begin with that.
func (s *site) machinesIn(t testing.TB, prefix string) {
	s.net = overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: s.segment, ID: 9}, Subnets: []overlay.Subnet{{ID: "n4", CIDR: netip.MustParsePrefix("198.51.100.0/24")}}}},
		Ports: []overlay.Port{port(0), port(1)}}
	open := uint16(1000)
	s.filter = secgroup.State{Groups: []secgroup.Group{{ID: "g", Rules: []secgroup.Rule{
		{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4},
		{ID: "in", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udp", PortMin: &open, PortMax: &open}}}}}
	for _, p := range s.net.Ports {
		s.filter.Ports = append(s.filter.Ports, secgroup.Port{ID: p.ID, NetworkID: "n", MAC: p.MAC, FixedIPs: p.FixedIPs, Groups: []string{"g"}})
	}
	s.sync(t)
	s.vms = s.l.NS(prefix + "vms")
	for i := range s.m {
		s.m[i] = s.l.NS(fmt.Sprint(prefix, "m", i+1))
		s.l.Veth(s.vms, fmt.Sprint("g", i+1), s.m[i], "eth0")
	}
}

func (s *site) sync(t testing.TB) {
	t.Helper()
	require.NoError(t, s.fabric.Sync(t.Context(), s.net, vnet.SyncOptions{}))
	require.NoError(t, s.groups.Sync(t.Context(), s.filter, vnet.SyncOptions{}))
}

// judge compares what arrives at m2 of what m1 sends with what the model says.
func (s *site) judge(t testing.TB) {
	t.Helper()
	at := s.m[1].Capture("eth0")
	defer at.Close()
	model, err := reach.New(reach.World{Overlay: s.net, SecGroup: s.filter})
	require.NoError(t, err)
	for port, want := range map[uint16]bool{1000: true, 1001: false} {
		v := model.Send(reach.Packet{From: "p1", Dst: port1.FixedIPs[0], Proto: 17, SrcPort: 4000, DstPort: port})
		require.Equal(t, want, v.OK(), v.Why())
	}
	spoofed := model.Send(reach.Packet{From: "p1", SrcMAC: vnet.MAC{2, 0xff, 0, 0, 0, 1}, Dst: port1.FixedIPs[0], Proto: 17, SrcPort: 4000, DstPort: 1000})
	require.False(t, spoofed.OK())
	frame := func(port uint16, mac vnet.MAC) lab.Frame {
		return lab.Frame{SrcMAC: mac, DstMAC: port1.MAC, Src: port0.FixedIPs[0], Dst: port1.FixedIPs[0], Proto: 17, SrcPort: 4000, DstPort: port, Payload: []byte("vhost")}
	}
	is := func(port uint16) func(lab.Frame) bool {
		return func(f lab.Frame) bool { return f.Proto == 17 && f.DstPort == port }
	}
	send := func() bool {
		s.m[0].Inject("eth0", frame(1001, port0.MAC).Bytes())
		spoof := frame(1000, vnet.MAC{2, 0xff, 0, 0, 0, 1})
		spoof.SrcPort = 4001
		s.m[0].Inject("eth0", spoof.Bytes())
		s.m[0].Inject("eth0", frame(1000, port0.MAC).Bytes())
		_, ok := at.Find(200*time.Millisecond, is(1000))
		return ok
	}
	lab.Eventually(t, 30*time.Second, "what a rule allows arrives", send)
	for range 3 {
		lab.Eventually(t, 5*time.Second, "it goes on", send)
	}
	for _, f := range at.Frames() {
		require.False(t, is(1001)(f) || f.Proto == 17 && f.SrcPort == 4001, "%s", f)
	}
}

var port0, port1 = port(0), port(1)

func (s *site) guests(t testing.TB, queues int) func() {
	for i := range s.m {
		require.NoError(t, ovsdpdk.PrepareSocket(s.config, s.socket(i)))
	}
	return s.d.Guests(s.vms, true, queues, [2]string{s.socket(0), "g1"}, [2]string{s.socket(1), "g2"})
}

func TestVhostUser(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	before, none := pages(t), s.sw.Writes()

	wrong := s.config
	wrong.PMDCores = []int{4095}
	require.ErrorContains(t, s.setup.EnsureConfig(ctx, wrong), "no processor that is online")
	wrong = s.config
	wrong.SocketMemory = []int{1 << 20}
	require.ErrorContains(t, s.setup.EnsureConfig(ctx, wrong), "MB of huge pages of that node")
	wrong = s.config
	wrong.Hugepages = []dpdk.Hugepages{{Node: 77, SizeKB: 2048, Count: 1}}
	require.ErrorContains(t, s.setup.EnsureConfig(ctx, wrong), "no NUMA node")
	require.ErrorIs(t, s.setup.EnsurePort(ctx, dpdk.Port{ID: "x", Bridge: "br-ex", Name: "dpdk0", Devargs: "net_null0"}), vnet.ErrNotReady)
	require.Equal(t, before, pages(t))
	require.Equal(t, none, s.sw.Writes(), "nothing is written of what is refused")

	require.NoError(t, s.setup.EnsureConfig(ctx, s.config))
	require.Equal(t, before+512, pages(t))
	require.NoError(t, s.setup.WaitReady(ctx))
	st, err := s.setup.Status(ctx)
	require.NoError(t, err)
	require.True(t, st.Initialized)
	require.Empty(t, st.RestartNeeded, "the first initialisation needs none")
	writes := s.sw.Writes()
	require.NoError(t, s.setup.EnsureConfig(ctx, s.config))
	require.Equal(t, writes, s.sw.Writes(), "twice is once")

	s.machines(t)
	for i := range s.m {
		a := overlay.Attachment{PortID: port(i).ID, Kind: overlay.VhostUserClient, Socket: s.socket(i)}
		d, err := s.fabric.Plug(ctx, a)
		require.NoError(t, err)
		require.Len(t, d.Name, 14)
		writes := s.sw.Writes()
		_, err = s.fabric.Plug(ctx, a)
		require.NoError(t, err)
		require.Equal(t, writes, s.sw.Writes())
	}
	stop := s.guests(t, 1)
	s.judge(t)

	x, err := s.setup.Statistics(ctx)
	require.NoError(t, err)
	require.Len(t, x.PMDs, 1)
	require.Equal(t, 1, x.PMDs[0].Core)
	require.NotZero(t, x.PMDs[0].Received)
	require.NotEmpty(t, x.Queues)

	stop() // the machines, with two queues when they come back
	stop = s.guests(t, 2)
	s.judge(t)
	lab.Eventually(t, 10*time.Second, "two queues a machine", func() bool {
		x, err := s.setup.Statistics(ctx)
		return err == nil && len(x.Queues) >= 4
	})

	// A setting that waits for a restart, and the restart.
	later := s.config
	later.PerPortMemory = true
	require.NoError(t, s.setup.EnsureConfig(ctx, later))
	st, err = s.setup.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"per-port-memory"}, st.RestartNeeded)
	s.host.Vswitchd.Restart()
	require.NoError(t, s.setup.WaitReady(ctx))
	st, err = s.setup.Status(ctx)
	require.NoError(t, err)
	require.Empty(t, st.RestartNeeded)
	s.sync(t)
	s.judge(t)
	stop()
	for i := range s.m {
		require.NoError(t, s.fabric.Unplug(ctx, port(i).ID))
	}
}

// What the physical port hears comes to a machine's side of its bridge, and back.
func TestPhysicalPort(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	wire := s.l.NS("wire")
	s.l.Veth(s.host.NS, "phy0", wire, "eth0")
	state := dpdk.State{Config: s.config, Ports: []dpdk.Port{{ID: "up", Bridge: "br-ex", Name: "dpdk0", Devargs: "net_af_packet7,iface=phy0", RxQueues: 1, MTU: 1500}}}
	plan, err := s.setup.Plan(ctx, state)
	require.NoError(t, err)
	require.Equal(t, 2, plan.Count(vnet.Create))
	require.NoError(t, s.setup.Sync(ctx, state, vnet.SyncOptions{}))
	plan, err = s.setup.Plan(ctx, state)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
	writes := s.sw.Writes()
	require.NoError(t, s.setup.Sync(ctx, state, vnet.SyncOptions{}))
	require.Equal(t, writes, s.sw.Writes())

	// br-ex joins the physical network "ex" and the port, as a switch that learns.
	far := s.l.NS("far")
	s.l.Plug(s.l.Wire("ex"), far, "eth0")
	at := far.Capture("eth0")
	defer at.Close()
	lab.Eventually(t, 30*time.Second, "a frame goes through the physical port", func() bool {
		wire.Inject("eth0", lab.Frame{SrcMAC: port0.MAC, DstMAC: port1.MAC, Src: port0.FixedIPs[0], Dst: port1.FixedIPs[0], Proto: 17, SrcPort: 1, DstPort: 7}.Bytes())
		_, ok := at.Find(200*time.Millisecond, func(f lab.Frame) bool { return f.DstPort == 7 })
		return ok
	})
	require.ErrorIs(t, s.setup.DeleteConfig(ctx), vnet.ErrInUse)
	require.NoError(t, s.setup.Sync(ctx, dpdk.State{Config: s.config}, vnet.SyncOptions{}))
}
