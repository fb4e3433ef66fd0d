package ovsmetadata_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/metadata/ovsmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
)

const patience = 15 * time.Second

func endpointOn(network string, n byte) metadata.Endpoint {
	return metadata.Endpoint{ID: "e-" + network, NetworkID: network, PortID: "m-" + network, MAC: vnet.MAC{2, 0xa9, 0xfe, 0, 0, n},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}
}

// machine plugs a machine with 10.0.0.5 into a network.
func (p *place) machine(t testing.TB, network string, n byte) *lab.NS {
	vm := p.l.NS(fmt.Sprint("vm", p.n.Add(1)))
	p.plug(t, network, vm.Path, "eth0", vnet.MAC{2, 0xcc, 0, 0, 0, n})
	vm.Configure("eth0", []string{"10.0.0.5/24"})
	vm.Route("169.254.169.254/32", "10.0.0.2")
	return vm
}

// hostname is what a machine is told; "" when nobody answers.
func hostname(vm *lab.NS) string {
	out, err := vm.Exec(context.Background(), "curl", "-sSf", "-m", "2", "http://169.254.169.254/latest/meta-data/hostname")
	if err != nil {
		return ""
	}
	return out
}

func (p *place) backend(t testing.TB, sw *ovs.Switch, h *linux.Host, who metadata.Instances) *ovsmetadata.Backend {
	b, err := ovsmetadata.New(sw, h, &ovsmetadata.Options{Instances: who})
	require.NoError(t, err)
	return b
}

func serve(t testing.TB, b metadata.Backend) (s *metadata.Service, stop func()) {
	s, err := metadata.New(b, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return s, stop
}

// table knows the machines with 10.0.0.5 on these networks.
func table(networks ...string) *metadatatest.Table {
	var x metadatatest.Table
	for _, n := range networks {
		x.Put(metadata.NewAsker("", n, netip.MustParseAddr("10.0.0.5")), metadatatest.Instance(n))
	}
	return &x
}

func says(name string) string { return "vm-" + name + ".example.org" }

// The process is restarted, then the switch; who asked before is answered again.
func TestRestarts(t *testing.T) {
	lab.Need(t, "curl")
	ctx := t.Context()
	p := newSite(t).place(t)
	h := p.host(t)
	who := table("a", "b")
	svc, stop := serve(t, p.backend(t, p.sw, h, who))
	p.network(t, "a")
	p.network(t, "b")
	st := metadata.State{Endpoints: []metadata.Endpoint{endpointOn("a", 1), endpointOn("b", 2)}}
	require.NoError(t, svc.Sync(ctx, st, vnet.SyncOptions{}))
	vms := map[string]*lab.NS{"a": p.machine(t, "a", 1), "b": p.machine(t, "b", 2)}
	answered := func() {
		t.Helper()
		for name, vm := range vms {
			lab.Eventually(t, patience, "an answer on "+name, func() bool { return hostname(vm) == says(name) })
		}
	}
	answered()
	require.Eventually(t, func() bool { return svc.Health(ctx).Complete }, patience, 10*time.Millisecond)
	stop()
	require.Empty(t, hostname(vms["a"]))

	svc, _ = serve(t, p.backend(t, p.open(t, p.owner), h, who)) // it is told nothing
	answered()
	plan, err := svc.Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)

	port := func() uint16 { n, _ := p.sw.Number("port", "vnet-metadata-device"); return n }
	before := port()
	require.NotZero(t, before)
	p.hv.Vswitchd.Restart()
	require.Empty(t, hostname(vms["a"]), "closed")
	lab.Eventually(t, patience, "the switch", func() bool { return svc.Health(ctx).Complete })
	require.NoError(t, svc.Sync(ctx, st, vnet.SyncOptions{}))
	p.again(t)
	answered()
	require.Equal(t, before, port())
}

// One batch has the network, the port and the endpoint, of three packages.
func TestBatch(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	direct := p.backend(t, p.sw, p.host(t), table("a"))
	batch := p.sw.Batch()
	b, err := direct.With(batch)
	require.NoError(t, err)
	ob, err := ovsoverlay.New(batch, nil)
	require.NoError(t, err)
	require.NoError(t, b.EnsureEndpoint(ctx, endpointOn("a", 1)))
	require.NoError(t, ob.EnsureNetwork(ctx, overlay.Network{ID: "a", Segment: overlay.Segment{Type: overlay.Local}}))
	twice := endpointOn("a", 2)
	twice.ID = "other"
	require.ErrorIs(t, b.EnsureEndpoint(ctx, twice), vnet.ErrConflict, "it sees what is pending")
	_, err = direct.Explain(ctx, "endpoint", "e-a")
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.NoError(t, batch.Commit(ctx))
	x, err := direct.Explain(ctx, "endpoint", "e-a")
	require.NoError(t, err)
	require.Contains(t, x.String(), "does not answer")
	plan, err := direct.Plan(ctx, metadata.State{Endpoints: []metadata.Endpoint{endpointOn("a", 1)}}.Canonical())
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
}

// What somebody breaks is made again, and what nobody needs is taken away.
func TestDeviceIsKept(t *testing.T) {
	lab.Need(t, "curl")
	ctx := t.Context()
	p := newSite(t).place(t)
	h := p.host(t)
	svc, _ := serve(t, p.backend(t, p.sw, h, table("a")))
	p.network(t, "a")
	require.NoError(t, svc.EnsureEndpoint(ctx, endpointOn("a", 1)))
	vm := p.machine(t, "a", 1)
	answered := func() {
		t.Helper()
		lab.Eventually(t, patience, "an answer", func() bool { return hostname(vm) == says("a") })
	}
	answered()
	names := func() []string {
		ids, err := h.Namespaces(ctx, vnet.PartMetadata)
		require.NoError(t, err)
		return ids
	}
	require.Len(t, names(), 1, "one for all networks")
	require.NoError(t, h.DeleteNamespace(ctx, h.NetnsName(vnet.PartMetadata, names()[0])))
	answered()

	// The endpoint moves to another network with the same addresses.
	e := endpointOn("b", 1)
	e.ID = "e-a"
	p.network(t, "b")
	require.NoError(t, svc.EnsureEndpoint(ctx, e))
	lab.Eventually(t, patience, "silence", func() bool { return hostname(vm) == "" })
	_, claimed := p.sw.Number("network", "a")
	require.True(t, claimed, "overlay still has it")

	require.NoError(t, svc.DeleteEndpoint(ctx, "e-a"))
	lab.Eventually(t, patience, "no device", func() bool {
		plugged, err := p.sw.Plugged(ctx)
		require.NoError(t, err)
		for _, x := range plugged {
			if x.Part == vnet.PartMetadata {
				return false
			}
		}
		return len(names()) == 0
	})
	out, err := p.hv.NS.Exec(ctx, "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "unix:"+p.hv.Dir+"/"+p.sw.Bridge()+".mgmt")
	require.NoError(t, err, out)
	require.NotContains(t, out, "198.18.0.0")
	require.NotContains(t, out, "169.254.169.254")
	require.Zero(t, strings.Count(out, "table=21, ")-1, "the handle's own flow only")
}

// One machine's connections are its port's: others on the network with its
// address and MAC do not hear the answers.
func TestAnswersGoToThePort(t *testing.T) {
	lab.Need(t, "curl")
	ctx := t.Context()
	p := newSite(t).place(t)
	svc, _ := serve(t, p.backend(t, p.sw, p.host(t), table("a")))
	p.network(t, "a")
	require.NoError(t, svc.EnsureEndpoint(ctx, endpointOn("a", 1)))
	one, twin := p.machine(t, "a", 1), p.machine(t, "a", 2)
	twin.IP("link", "set", "dev", "eth0", "address", one.MAC("eth0").String())
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(one) == says("a") })
	cap := twin.Capture("eth0")
	for range 3 {
		require.Equal(t, says("a"), hostname(one))
	}
	cap.None(200*time.Millisecond, func(f lab.Frame) bool { return f.Src == metadata.IPv4() || f.Dst == metadata.IPv4() })
	require.Equal(t, says("a"), hostname(twin), "and the twin gets its own")
	for _, port := range p.state.Ports {
		n, ok := p.sw.Number("port", port.ID)
		require.True(t, ok)
		conns, err := p.sw.Connections(ctx, pipeline.ZoneOfPort(n))
		require.NoError(t, err)
		require.NotEmpty(t, conns)
		for _, c := range conns {
			require.Equal(t, netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), c.Orig.Dst)
		}
	}
}

// A port with security groups is given metadata by what its rules let out, and
// hears nothing of it by itself.
func TestSecurityGroups(t *testing.T) {
	lab.Need(t, "curl")
	ctx := t.Context()
	p := newSite(t).place(t)
	svc, _ := serve(t, p.backend(t, p.sw, p.host(t), table("a")))
	p.network(t, "a")
	require.NoError(t, svc.EnsureEndpoint(ctx, endpointOn("a", 1)))
	port := overlay.Port{ID: "vm", NetworkID: "a", MAC: vnet.MAC{2, 0xcc, 0, 0, 0, 1}, FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Filtered: true}
	vm := p.l.NS("vm")
	p.plugPort(t, port, vm.Path, "eth0")
	vm.Configure("eth0", []string{"10.0.0.5/24"})
	vm.Route("169.254.169.254/32", "10.0.0.2")
	require.Empty(t, hostname(vm), "born closed")
	sb, err := ovssecgroup.New(p.sw, nil)
	require.NoError(t, err)
	groups, err := secgroup.New(sb, nil)
	require.NoError(t, err)
	sp := secgroup.Port{ID: port.ID, NetworkID: "a", MAC: port.MAC, FixedIPs: port.FixedIPs, Groups: []string{"g"}}
	web := uint16(80)
	rule := secgroup.Rule{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &web, PortMax: &web}
	require.NoError(t, groups.EnsureGroup(ctx, secgroup.Group{ID: "g"}))
	require.NoError(t, groups.EnsurePort(ctx, sp))
	require.Empty(t, hostname(vm), "no rule lets it out")
	require.NoError(t, groups.EnsureGroup(ctx, secgroup.Group{ID: "g", Rules: []secgroup.Rule{rule}}))
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(vm) == says("a") })
	for range 20 { // of connections that were, and are, nothing is in the way
		require.Equal(t, says("a"), hostname(vm))
	}
	// A source that is not its own.
	vm.IP("addr", "replace", "10.0.0.66/24", "dev", "eth0")
	out, err := vm.Exec(ctx, "curl", "-sSf", "-m", "2", "--interface", "10.0.0.66", "http://169.254.169.254/latest/meta-data/hostname")
	require.Error(t, err, out)
	require.NoError(t, groups.EnsureGroup(ctx, secgroup.Group{ID: "g"}))
	lab.Eventually(t, patience, "silence", func() bool { return hostname(vm) == "" })
}

// The kernel's datapath, in the guest: all three addresses, of tenants alike,
// one of whom has security groups.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	lab.Need(t, "curl")
	ctx := t.Context()
	p := newSiteOn(t, "system").place(t)
	who := table("a", "b")
	svc, _ := serve(t, p.backend(t, p.sw, p.host(t), who))
	sb, err := ovssecgroup.New(p.sw, nil)
	require.NoError(t, err)
	groups, err := secgroup.New(sb, nil)
	require.NoError(t, err)
	require.NoError(t, groups.EnsureGroup(ctx, secgroup.Group{ID: "g", Rules: []secgroup.Rule{
		{ID: "four", Direction: secgroup.Egress, Ethertype: secgroup.IPv4}, {ID: "six", Direction: secgroup.Egress, Ethertype: secgroup.IPv6}}}))
	vms := map[string]*lab.NS{}
	for i, name := range []string{"a", "b"} {
		p.network(t, name)
		require.NoError(t, svc.EnsureEndpoint(ctx, endpointOn(name, byte(i))))
		mac := vnet.MAC{2, 0xcc, 0, 0, 0, byte(i)}
		port := overlay.Port{ID: "vm-" + name, NetworkID: name, MAC: mac, Filtered: name == "b",
			FixedIPs: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")}}
		if port.Filtered {
			require.NoError(t, groups.EnsurePort(ctx, secgroup.Port{ID: port.ID, NetworkID: name, MAC: mac, FixedIPs: port.FixedIPs, Groups: []string{"g"}}))
		}
		vm := p.l.NS("vm-" + name)
		p.plugPort(t, port, vm.Path, "eth0")
		vm.Configure("eth0", []string{"10.0.0.5/24"})
		vm.Route("169.254.169.254/32", "10.0.0.2")
		vm.IP("route", "add", "fd00:ec2::254/128", "dev", "eth0")
		vm.IP("addr", "add", "2001:db8::5/64", "dev", "eth0", "nodad")
		who.Put(metadata.NewAsker("", name, netip.MustParseAddr("2001:db8::5")), metadatatest.Instance(name))
		who.Put(metadata.NewAsker("", name, vm.MAC("eth0").LinkLocal()), metadatatest.Instance(name))
		vms[name] = vm
	}
	for name, vm := range vms {
		lab.Eventually(t, 2*patience, "an answer", func() bool { return hostname(vm) == says(name) })
		for _, host := range []string{"[fd00:ec2::254]", "[fe80::a9fe:a9fe%25eth0]"} {
			lab.Eventually(t, 2*patience, "an answer of "+host, func() bool {
				out, err := vm.Exec(ctx, "curl", "-sSfg", "-m", "5", "http://"+host+"/latest/meta-data/hostname")
				return err == nil && out == says(name)
			})
		}
	}
}

// Numbers are held as long as an endpoint serves, and no longer.
func TestNumbers(t *testing.T) {
	ctx := t.Context()
	p := newSite(t).place(t)
	b := p.backend(t, p.sw, p.host(t), nil)
	require.NoError(t, p.sw.Submit(ctx, vnet.PartRouter, func(tx *ovs.Tx) error {
		tx.Keep("router", "r", []byte(`{"id":"r","interfaces":[{"network_id":"a"},{"network_id":"b"}]}`))
		return nil
	}))
	held := func() (out []string) {
		for _, k := range [][2]string{{"network", "a"}, {"network", "b"}, {"network", "c"}, {"router", "r"}} {
			if _, ok := p.sw.Number(k[0], k[1]); ok {
				out = append(out, k[0]+" "+k[1])
			}
		}
		return out
	}
	own := endpointOn("a", 1)
	in := metadata.Endpoint{ID: "in", RouterID: "r"}
	require.NoError(t, b.EnsureEndpoint(ctx, own))
	require.NoError(t, b.EnsureEndpoint(ctx, in))
	require.Equal(t, []string{"network a", "network b", "router r"}, held())
	require.ErrorIs(t, b.EnsureEndpoint(ctx, metadata.Endpoint{ID: "more", RouterID: "r"}), vnet.ErrConflict)
	own.NetworkID = "c"
	require.NoError(t, b.EnsureEndpoint(ctx, own))
	require.Equal(t, []string{"network a", "network b", "network c", "router r"}, held(), "the router has a still")
	require.NoError(t, b.DeleteEndpoint(ctx, "in"))
	require.Equal(t, []string{"network c"}, held())
	two := endpointOn("a", 2)
	two.ID = "two"
	require.NoError(t, b.EnsureEndpoint(ctx, two))
	// They change places in one Sync.
	own.NetworkID, two.NetworkID = "a", "c"
	st := metadata.State{Endpoints: []metadata.Endpoint{own, two}}.Canonical()
	require.NoError(t, b.Sync(ctx, st, vnet.SyncOptions{}))
	plan, err := b.Plan(ctx, st)
	require.NoError(t, err)
	require.Empty(t, plan.Changes)
	before := p.sw.Writes()
	for _, e := range st.Endpoints {
		require.NoError(t, b.EnsureEndpoint(ctx, e))
	}
	require.Equal(t, before, p.sw.Writes())
	require.NoError(t, b.Sync(ctx, metadata.State{}, vnet.SyncOptions{}))
	require.Empty(t, held())
}
