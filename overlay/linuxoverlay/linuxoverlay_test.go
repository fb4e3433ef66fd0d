package linuxoverlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
)

// What crosses tunnels, with tunnels over IPv6.
func TestConformanceOverIPv6(t *testing.T) {
	h := harness(func(_ *lab.Lab, m *machine) { m.o.TunnelIP = m.IP6 })
	h.Only = func(ring, name string) bool {
		return ring == "packets" && !strings.Contains(name, "VLAN") || strings.Contains(name, "remote") || name == "restart adopts"
	}
	overlaytest.Run(t, h)
}

// What is about physical networks, with that at a bridge of the host.
func TestConformanceOnABridge(t *testing.T) {
	h := harness(func(_ *lab.Lab, m *machine) { physicalBridge(m) })
	h.Only = func(ring, name string) bool {
		return strings.Contains(name, "flat") || strings.Contains(name, "physical") || name == "restart adopts" || name == "topologies"
	}
	overlaytest.Run(t, h)
}

// physicalBridge puts phys0 on a bridge that is the physical network.
func physicalBridge(m *machine) {
	m.NS.IP("link", "add", "name", "brphys", "type", "bridge")
	m.NS.IP("link", "set", "dev", "phys0", "master", "brphys")
	m.NS.IP("link", "set", "dev", "brphys", "up")
	m.o.PhysicalNetworks = map[string]string{"physnet": "brphys"}
}

// Where VLAN devices exist: the suite's VLAN cases, and the tags on the wire.
func TestGuestVLAN(t *testing.T) {
	if lab.RanInGuest(t, "8021q") {
		return
	}
	_, ms := machines(t, 2, nil)
	require.True(t, ms[0].backend(t).Features(t.Context()).Segments[overlay.VLAN])
	vlan(t, ms)
	h := harness(nil)
	h.Only = func(_, name string) bool { return strings.Contains(name, "VLAN") }
	overlaytest.Run(t, h)
}

// VLANs on a bridge of the host.
func TestGuestVLANOnABridge(t *testing.T) {
	if lab.RanInGuest(t, "8021q") {
		return
	}
	_, ms := machines(t, 2, func(_ *lab.Lab, m *machine) { physicalBridge(m) })
	vlan(t, ms)
}

// vlan pings through VLANs 11 and 12, and looks at the tags on the wire.
func vlan(t *testing.T, ms []*machine) {
	l := lab.New(t)
	wire := ms[0].Capture("phys0")
	var vms []*lab.NS
	for i, m := range ms {
		f, err := overlay.New(m.backend(t), nil)
		require.NoError(t, err)
		s := overlay.State{}
		for _, id := range []uint32{11, 12} {
			n := fmt.Sprint("v", id)
			s.Networks = append(s.Networks, overlay.Network{ID: n, Segment: overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "physnet", ID: id}})
			s.Ports = append(s.Ports, overlay.Port{ID: n + m.Short, NetworkID: n, MAC: vnet.MAC{2, 0, 0, byte(id), 0, byte(i + 1)}})
		}
		require.NoError(t, f.Sync(t.Context(), s, vnet.SyncOptions{}))
		for _, p := range s.Ports {
			vm := l.NS(p.ID)
			d, err := f.Plug(t.Context(), overlay.Attachment{PortID: p.ID, Kind: overlay.Veth, Netns: vm.Path})
			require.NoError(t, err)
			require.Equal(t, 1500, d.MTU, "a tag does not count in an MTU")
			vm.Configure("eth0", []string{fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)})
			vms = append(vms, vm)
		}
		p, err := f.Plan(t.Context(), s)
		require.NoError(t, err)
		require.True(t, p.Empty(), p)
	}
	for i, id := range []uint16{11, 12} {
		for _, dst := range []string{"10.0.0.2", "2001:db8::2"} {
			lab.Eventually(t, 10*time.Second, "ping "+dst, func() bool { return vms[i].Ping(dst, 1) == nil })
		}
		wire.Wait(5*time.Second, func(f lab.Frame) bool { return f.VLAN == id && f.SrcMAC == vnet.MAC{2, 0, 0, byte(id), 0, 2} })
	}
	wire.None(0, func(f lab.Frame) bool { return f.VLAN == 11 && f.SrcMAC[3] == 12 || f.VLAN == 12 && f.SrcMAC[3] == 11 })
	// The same VLAN on two networks.
	two := overlay.Network{ID: "again", Segment: overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "physnet", ID: 11}}
	f, err := overlay.New(ms[0].backend(t), nil)
	require.NoError(t, err)
	if ms[0].o.PhysicalNetworks["physnet"] == "phys0" {
		require.ErrorIs(t, f.EnsureNetwork(t.Context(), two), vnet.ErrConflict)
	}
	require.NoError(t, f.Sync(t.Context(), overlay.State{}, vnet.SyncOptions{Force: true}))
}

// Two owners on one host, with networks and ports of the same ids and
// addresses, do not see each other.
func TestTwoOwners(t *testing.T) {
	l, ms := machines(t, 1, nil)
	m := ms[0]
	other := &machine{Host: m.Host, owner: vnet.Owner(l.Owner("w")), o: m.o}
	t.Cleanup(func() { require.NoError(t, other.open(t).Cleanup(context.Background())) })
	state := func(vni uint32) overlay.State {
		return overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: vni}}, {ID: "l", Segment: overlay.Segment{Type: overlay.Local}}},
			Ports: []overlay.Port{{ID: "a", NetworkID: "l", MAC: vnet.MAC{2, 5: 1}}, {ID: "b", NetworkID: "l", MAC: vnet.MAC{2, 5: 2}}}}
	}
	var fs []*overlay.Fabric
	for i, x := range []*machine{m, other} {
		f, err := overlay.New(x.backend(t), nil)
		require.NoError(t, err)
		require.NoError(t, f.Sync(t.Context(), state(uint32(7+i)), vnet.SyncOptions{}))
		for j, id := range []string{"a", "b"} {
			vm := l.NS(fmt.Sprint(id, i))
			_, err := f.Plug(t.Context(), overlay.Attachment{PortID: id, Kind: overlay.Veth, Netns: vm.Path})
			require.NoError(t, err)
			vm.Configure("eth0", []string{fmt.Sprintf("10.0.0.%d/24", 2*i+j+1)})
			if j == 1 {
				require.NoError(t, vm.Ping(fmt.Sprintf("10.0.0.%d", 2*i+1), 1))
				if i == 1 {
					require.Error(t, vm.Ping("10.0.0.1", 1), "of the other owner")
				}
			}
		}
		fs = append(fs, f)
	}
	require.ErrorIs(t, fs[1].EnsureNetwork(t.Context(), overlay.Network{ID: "x", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 7}}), vnet.ErrConflict, "the VNI is the other's")
	require.NoError(t, fs[0].Sync(t.Context(), overlay.State{}, vnet.SyncOptions{Force: true}))
	p, err := fs[1].Plan(t.Context(), state(8))
	require.NoError(t, err)
	require.True(t, p.Empty(), p)
}

// A physical bridge keeps its MTU, whatever its networks have.
func TestPhysicalBridgeKeepsItsMTU(t *testing.T) {
	_, ms := machines(t, 1, func(_ *lab.Lab, m *machine) { physicalBridge(m) })
	f, err := overlay.New(ms[0].backend(t), nil)
	require.NoError(t, err)
	for _, mtu := range []int{1280, 1400, 0, 1300} {
		s := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "physnet"}, MTU: mtu}}}
		require.NoError(t, f.Sync(t.Context(), s, vnet.SyncOptions{}))
		require.Contains(t, ms[0].NS.IP("link", "show", "dev", "brphys"), "mtu 1500 ")
		p, err := f.Plan(t.Context(), s)
		require.NoError(t, err)
		require.True(t, p.Empty(), p)
	}
}

// What is collected in a batch is done when it commits, and its plan is that of
// Sync.
func TestBatch(t *testing.T) {
	l, ms := machines(t, 1, nil)
	h := ms[0].open(t)
	b, err := linuxoverlay.New(h, nil)
	require.NoError(t, err)
	batch := h.Batch()
	in, err := b.With(batch)
	require.NoError(t, err)
	ctx := t.Context()
	n := overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 5}}
	p := overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}}
	r := overlay.RemotePort{ID: "r", NetworkID: "n", MAC: vnet.MAC{2, 5: 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Endpoint: netip.MustParseAddr("192.0.2.99")}
	vm := l.NS("vm")
	before := ms[0].writes()
	require.NoError(t, in.EnsureNetwork(ctx, n))
	require.NoError(t, in.EnsurePort(ctx, p))
	require.NoError(t, in.EnsureRemotePort(ctx, r))
	_, err = in.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
	require.NoError(t, err)
	require.Equal(t, before, ms[0].writes(), "nothing yet")
	require.Equal(t, 3, batch.Plan().Count(vnet.Create), batch.Plan())
	require.NoError(t, batch.Commit(ctx))
	s := overlay.State{Networks: []overlay.Network{n}, Ports: []overlay.Port{p}, RemotePorts: []overlay.RemotePort{r}}
	plan, err := b.Plan(ctx, s)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan)
	require.NotEmpty(t, vm.MAC("eth0"))

	// Port and network go in one batch.
	require.NoError(t, in.DeletePort(ctx, "p"))
	require.NoError(t, in.DeleteNetwork(ctx, "n"))
	require.NoError(t, batch.Commit(ctx))
	plan, err = b.Plan(ctx, overlay.State{})
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan)
}

// What somebody else did to our things is mended by Sync, and Plan says what.
func TestDrift(t *testing.T) {
	l, ms := machines(t, 1, nil)
	m := ms[0]
	h := m.open(t)
	f, err := overlay.New(m.backend(t), nil)
	require.NoError(t, err)
	ctx := t.Context()
	far := netip.MustParseAddr("192.0.2.99")
	s := overlay.State{Networks: []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 5}}},
		Ports:       []overlay.Port{{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}}},
		RemotePorts: []overlay.RemotePort{{ID: "r", NetworkID: "n", MAC: vnet.MAC{2, 5: 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::2")}, Endpoint: far}}}
	require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}))
	d, err := f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Veth, Netns: l.NS("vm").Path})
	require.NoError(t, err)
	br, vx := h.NetworkDevice("n"), h.LinkName("x", "n")
	for _, drift := range [][]string{
		{"link", "set", "dev", br, "mtu", "1400"},
		{"link", "set", "dev", br, "down"},
		{"link", "set", "dev", br, "address", "02:00:00:00:00:99"},
		{"link", "del", "dev", br},
		{"link", "set", "dev", vx, "nomaster"},
		{"link", "set", "dev", vx, "down"},
		{"link", "del", "dev", vx},
		{"link", "set", "dev", d.Name, "nomaster"},
		{"link", "set", "dev", d.Name, "down"},
		{"link", "set", "dev", d.Name, "mtu", "1300"},
		{"link", "set", "dev", vx, "type", "bridge_slave", "flood", "on", "neigh_suppress", "off"},
		{"neigh", "del", "10.0.0.2", "dev", br},
		{"neigh", "replace", "2001:db8::2", "lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", br},
		{"neigh", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", br},
	} {
		m.NS.IP(drift...)
		p, err := f.Plan(ctx, s)
		require.NoError(t, err, drift)
		require.False(t, p.Empty(), "%v was not noticed", drift)
		require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}), drift)
		p, err = f.Plan(ctx, s)
		require.NoError(t, err, drift)
		require.True(t, p.Empty(), "after %v: %s", drift, p)
	}
	for _, drift := range [][]string{
		{"fdb", "del", "02:00:00:00:00:02", "dev", vx, "dst", far.String(), "self"},
		{"fdb", "del", "02:00:00:00:00:02", "dev", vx, "master"},
		{"fdb", "del", "00:00:00:00:00:00", "dev", vx, "dst", far.String(), "self"},
		{"fdb", "append", "00:00:00:00:00:00", "dev", vx, "dst", "192.0.2.98", "self", "permanent"},
		{"fdb", "add", "02:00:00:00:00:55", "dev", vx, "dst", "192.0.2.98", "self", "permanent"},
		{"fdb", "del", "02:00:00:00:00:01", "dev", d.Name, "master"},
	} {
		_, err := m.Exec(ctx, "bridge", drift...)
		require.NoError(t, err)
		p, err := f.Plan(ctx, s)
		require.NoError(t, err, drift)
		require.False(t, p.Empty(), "%v was not noticed", drift)
		require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}), drift)
		p, err = f.Plan(ctx, s)
		require.NoError(t, err, drift)
		require.True(t, p.Empty(), "after %v: %s", drift, p)
	}
}

// What is in the way and not ours is a conflict, and stays as it is.
func TestConflicts(t *testing.T) {
	l, ms := machines(t, 1, nil)
	m := ms[0]
	h := m.open(t)
	f, err := overlay.New(m.backend(t), nil)
	require.NoError(t, err)
	ctx := t.Context()
	m.NS.IP("link", "add", "name", h.NetworkDevice("taken"), "type", "bridge")
	m.NS.IP("link", "set", "dev", h.NetworkDevice("taken"), "alias", "somebody's")
	require.ErrorIs(t, f.EnsureNetwork(ctx, overlay.Network{ID: "taken", Segment: overlay.Segment{Type: overlay.Local}}), vnet.ErrConflict)
	require.ErrorIs(t, f.DeleteNetwork(ctx, "taken"), vnet.ErrConflict)

	require.NoError(t, f.EnsureNetwork(ctx, overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, f.EnsurePort(ctx, overlay.Port{ID: "p", NetworkID: "n", MAC: vnet.MAC{2, 5: 1}}))
	vm := l.NS("vm")
	l.Veth(m.NS, "named", vm, "eth0")
	m.NS.IP("link", "set", "dev", "named", "alias", "somebody's")
	l.Veth(m.NS, "bridged", vm, "eth1")
	m.NS.IP("link", "add", "name", "br0", "type", "bridge")
	m.NS.IP("link", "set", "dev", "bridged", "master", "br0")
	show := func(dev string) string { // without what ip(8) says of itself
		_, link, _ := strings.Cut(m.NS.IP("-d", "link", "show", "dev", dev), ": "+dev)
		return link
	}
	for _, dev := range []string{"named", "bridged"} {
		before := show(dev)
		require.Contains(t, before, "mtu")
		_, err = f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Existing, Name: dev})
		require.ErrorIs(t, err, vnet.ErrConflict, dev)
		require.Equal(t, before, show(dev))
	}
	_, err = f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Existing, Name: "absent"})
	require.ErrorIs(t, err, vnet.ErrNotFound)
	_, err = f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Veth, Netns: "/run/netns/absent"})
	require.ErrorIs(t, err, vnet.ErrNotFound)

	m.NS.Addr("phys0", "203.0.113.1/24")
	flat := overlay.Network{ID: "flat", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "physnet"}}
	require.ErrorContains(t, f.EnsureNetwork(ctx, flat), "203.0.113.1/24, which it would lose")
	flat.Segment.PhysicalNetwork = "unmapped"
	require.ErrorContains(t, f.EnsureNetwork(ctx, flat), `segment.physical_network "unmapped" is not mapped to a device on host h1`)
	big := overlay.Network{ID: "big", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 9}, MTU: 1451}
	require.ErrorContains(t, f.EnsureNetwork(ctx, big), `mtu "1451" is more than the 1450 that fit`)
}

// Explain goes down to the bridge, the tunnel, forwarding entries, neighbours.
func TestExplain(t *testing.T) {
	l, ms := machines(t, 1, nil)
	h := ms[0].open(t)
	f, err := overlay.New(ms[0].backend(t), nil)
	require.NoError(t, err)
	ctx := t.Context()
	require.NoError(t, f.Sync(ctx, overlay.State{Networks: []overlay.Network{{ID: "blue", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 5}}},
		Ports:       []overlay.Port{{ID: "web", NetworkID: "blue", MAC: vnet.MAC{2, 5: 1}, Filtered: true}},
		RemotePorts: []overlay.RemotePort{{ID: "db", NetworkID: "blue", MAC: vnet.MAC{2, 5: 2}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Endpoint: netip.MustParseAddr("192.0.2.99")}}}, vnet.SyncOptions{}))
	d, err := f.Plug(ctx, overlay.Attachment{PortID: "web", Kind: overlay.Veth, Netns: l.NS("vm").Path})
	require.NoError(t, err)
	x, err := f.Explain(ctx, "network", "blue")
	require.NoError(t, err)
	for _, want := range []string{"network blue on host h1", "bridge " + h.NetworkDevice("blue"), "vni 5 from 192.0.2.1:4789", "port web",
		"forwarding entry 02:00:00:00:00:02 by tunnel to 192.0.2.99", "10.0.0.2 answered with 02:00:00:00:00:02", "what is flooded goes to 192.0.2.99"} {
		require.Contains(t, x.String(), want)
	}
	x, err = f.Explain(ctx, "port", "web")
	require.NoError(t, err)
	for _, want := range []string{"port web on host h1", "index ", "nothing passes", "device " + d.Name, "which is network blue"} {
		require.Contains(t, x.String(), want)
	}
}

// Without a tunnel address, and without an underlay device, tunnels are refused.
func TestNoTunnels(t *testing.T) {
	_, ms := machines(t, 1, nil)
	m := ms[0]
	for want, ip := range map[string]netip.Addr{"needs a tunnel address": {}, "no device of host h1 has the tunnel address": netip.MustParseAddr("192.0.2.250")} {
		o := m.o
		o.TunnelIP = ip
		h, err := linux.Open(t.Context(), m.owner, &o)
		require.NoError(t, err)
		b, err := linuxoverlay.New(h, nil)
		require.NoError(t, err)
		require.ErrorContains(t, b.EnsureNetwork(t.Context(), overlay.Network{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 1}}), want)
		require.NoError(t, h.Close())
	}
	_, err := linuxoverlay.New(nil, nil)
	require.ErrorContains(t, err, "target is nil")
}

// The kernel's own tools see what we say we made, and no process state is left
// of it after everything has gone.
func TestNothingIsLeft(t *testing.T) {
	l, ms := machines(t, 1, nil)
	m := ms[0]
	before := links(m)
	f, err := overlay.New(m.backend(t), nil)
	require.NoError(t, err)
	ctx := t.Context()
	s := overlay.State{Networks: []overlay.Network{{ID: "v", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 5}}, {ID: "f", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "physnet"}}},
		Ports: []overlay.Port{{ID: "p", NetworkID: "v", MAC: vnet.MAC{2, 5: 1}}, {ID: "q", NetworkID: "f", MAC: vnet.MAC{2, 5: 2}}}}
	require.NoError(t, f.Sync(ctx, s, vnet.SyncOptions{}))
	_, err = f.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Tap})
	require.NoError(t, err)
	_, err = f.Plug(ctx, overlay.Attachment{PortID: "q", Kind: overlay.Veth, Netns: l.NS("vm").Path})
	require.NoError(t, err)
	require.NotEqual(t, before, links(m))
	require.NoError(t, f.Sync(ctx, overlay.State{}, vnet.SyncOptions{}))
	require.Equal(t, before, links(m))
}

// links is what devices there are, which of them are on bridges, and aliases.
func links(m *machine) string {
	var out []string
	for line := range strings.Lines(m.NS.IP("-o", "link")) {
		f := strings.Fields(line)
		text := fmt.Sprint(f[1], " ", slices.Contains(f, "master"))
		if i := slices.Index(f, "alias"); i >= 0 {
			text += " " + f[i+1]
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}
