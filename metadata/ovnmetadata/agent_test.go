package ovnmetadata_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/ovn"
)

const patience = 20 * time.Second

func endpoint(network string, mac byte) metadata.Endpoint {
	return metadata.Endpoint{ID: "ep-" + network, NetworkID: network, PortID: "meta-" + network, MAC: vnet.MAC{2, 0xa9, 0xfe, 0, 0, mac},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}
}

// machine plugs a machine with 10.0.0.5 into a network on a chassis.
func (i *install) machine(t testing.TB, n int, network, id string) *lab.NS {
	vm := i.s.l.NS(fmt.Sprint("m", i.s.n.Add(1)))
	i.plugOn(t, n, network, id, vm.Path, "eth0", vnet.MAC{2, 0xcc, 1, 0, 0, byte(i.s.n.Add(1))})
	vm.Configure("eth0", []string{"10.0.0.5/24"})
	vm.Route("169.254.169.254/32", "10.0.0.2")
	return vm
}

// hostname asks as a machine does; "" when nobody answers.
func hostname(vm *lab.NS) string {
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = vm.Do(func() error { c, err = net.DialTimeout(network, addr, time.Second); return err })
		return c, err
	}}}
	r, err := c.Get("http://169.254.169.254/latest/meta-data/hostname")
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

// places are the namespaces of endpoints on a chassis.
func (i *install) places(t testing.TB, n int) []string {
	ids, err := i.hosts[n].Namespaces(t.Context(), vnet.PartMetadata)
	require.NoError(t, err)
	return ids
}

func (i *install) eventually(t testing.TB, n int, want ...string) {
	t.Helper()
	lab.Eventually(t, patience, fmt.Sprintf("endpoints %v on hv%d", want, n+1), func() bool { return slices.Equal(i.places(t, n), want) })
}

func start(t testing.TB, a *ovnmetadata.Agent) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

// Only networks with machines on a host are served there; endpoints come and
// go with them, and outlive the agent.
func TestAgent(t *testing.T) {
	s := newSite(t)
	table := &metadatatest.Table{}
	i := s.install(t, metadatatest.Setup{Instances: table})
	ctx := t.Context()
	b, err := ovnmetadata.New(i.c, nil)
	require.NoError(t, err)
	var st metadata.State
	for k, n := range []string{"red", "blue", "empty"} {
		i.network(t, n)
		e := endpoint(n, byte(k+1))
		st.Endpoints = append(st.Endpoints, e)
		table.Put(metadata.NewAsker("", n, netip.MustParseAddr("10.0.0.5")), &metadata.Instance{UUID: n, Hostname: n})
	}
	require.NoError(t, b.Sync(ctx, st, vnet.SyncOptions{}))
	one, two := i.agent(t, 0), i.agent(t, 1)
	require.False(t, one.Health(ctx).Complete)
	stop := start(t, one)
	start(t, two)

	red := i.machine(t, 0, "red", "r1")
	blue := i.machine(t, 1, "blue", "b1")
	i.eventually(t, 0, "ep-red")
	i.eventually(t, 1, "ep-blue")
	require.ErrorIs(t, one.Serve(ctx), vnet.ErrConflict)
	lab.Eventually(t, patience, "answers", func() bool { return hostname(red) == "red" && hostname(blue) == "blue" })
	require.True(t, one.Health(ctx).Complete, one.Health(ctx).Detail)
	require.Contains(t, one.Health(ctx).Detail, "at 1 endpoints")

	// A second machine of the network elsewhere, and the last one going.
	i.machine(t, 0, "blue", "b2")
	i.eventually(t, 0, "ep-blue", "ep-red")
	require.NoError(t, i.ch[0].Unplug(ctx, vnet.PartOverlay, "b2"))
	i.eventually(t, 0, "ep-red")

	// An endpoint that changes.
	st.Endpoints[0].MAC = vnet.MAC{2, 0xa9, 0xfe, 0, 0, 0x99}
	st.Endpoints[0].Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.3/24"), netip.MustParsePrefix("2001:db8::3/64")}
	require.NoError(t, b.EnsureEndpoint(ctx, st.Endpoints[0]))
	ns, err := i.hosts[0].Namespace(ctx, i.hosts[0].NetnsName(vnet.PartMetadata, "ep-red"))
	require.NoError(t, err)
	lab.Eventually(t, patience, "the new addresses", func() bool {
		as, err := ns.RTNL().Addrs("meta0")
		l, err2 := ns.RTNL().Link("meta0")
		return err == nil && err2 == nil && len(as) == 5 && l.MAC == st.Endpoints[0].MAC
	})
	red.IP("route", "replace", "169.254.169.254/32", "via", "10.0.0.3")
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(red) == "red" })

	// The agent stops: nobody answers; what it made stands, and the next one
	// takes it over as it is.
	path := ns.Path()
	was, err := os.Stat(path)
	require.NoError(t, err)
	index := func() int {
		l, err := ns.RTNL().Link("meta0")
		require.NoError(t, err)
		return l.Index
	}
	dev := index()
	stop()
	require.Empty(t, hostname(red))
	require.Equal(t, []string{"ep-red"}, i.places(t, 0))
	// Meanwhile something of ours is left that nobody wants.
	_, err = i.hosts[0].CreateNamespace(ctx, i.hosts[0].NetnsName(vnet.PartMetadata, "stale"))
	require.NoError(t, err)
	again := i.agent(t, 0)
	start(t, again)
	i.eventually(t, 0, "ep-red")
	lab.Eventually(t, patience, "an answer of the next", func() bool { return hostname(red) == "red" })
	now, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(was, now))
	require.Equal(t, dev, index())

	// Somebody takes the namespace away, or the interface out of the switch.
	other, err := linux.Open(ctx, i.owner, &linux.Options{Name: "hv1", Netns: s.hv[0].Path, NetnsDir: s.l.NetnsDir()})
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, other.DeleteNamespace(ctx, filepath.Base(path)))
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(red) == "red" })
	s.hv[0].Vsctl("del-port", "br-int", i.ch[0].DeviceName(vnet.PartMetadata, "meta-red"))
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(red) == "red" })

	// The Southbound is away: it goes on, and says so.
	s.c.SB[0].Pause()
	lab.Eventually(t, 60*time.Second, "the loss is told", func() bool { return !again.Health(ctx).Complete })
	lab.Eventually(t, patience, "an answer", func() bool { return hostname(red) == "red" })
	require.Equal(t, []string{"ep-red"}, i.places(t, 0))
	s.c.SB[0].Resume()
	lab.Eventually(t, 60*time.Second, "the Southbound is back", func() bool { return again.Health(ctx).Complete })

	// Gone with its endpoint, and with its network.
	require.NoError(t, b.DeleteEndpoint(ctx, "ep-red"))
	i.eventually(t, 0)
	i.overlay(t, func(tx *ovn.Tx) { tx.Delete(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "blue")) })
	i.eventually(t, 1)
	for n := range s.hv {
		require.NotContains(t, s.hv[n].Vsctl("--bare", "--columns=external_ids", "list", "Interface"), "iface-id="+string(i.owner)+"/meta-")
	}
}

// What others have made at a network is theirs.
func TestForeign(t *testing.T) {
	s := newSite(t)
	i := s.install(t, metadatatest.Setup{Instances: &metadatatest.Table{}})
	ctx := t.Context()
	b, err := ovnmetadata.New(i.c, nil)
	require.NoError(t, err)
	i.network(t, "red")
	sw := i.c.Name("network", "red")
	s.c.NBCtl("lsp-add", sw, "theirs", "--", "lsp-set-type", "theirs", "localport", "--", "lsp-set-addresses", "theirs", "02:00:00:00:00:09 10.0.0.2")
	s.c.NBCtl("lsp-add", sw, "another", "--", "lsp-set-type", "another", "localport", "--", "set", "Logical_Switch_Port", "another",
		`external_ids={"vnet:owner"=another,"vnet:part"=metadata,"vnet:kind"=endpoint,"vnet:id"=ep-red}`)
	start(t, i.agent(t, 0))
	i.machine(t, 0, "red", "r1")
	look := func() string {
		return s.c.NBCtl("list", "Logical_Switch_Port", "theirs") + s.c.NBCtl("list", "Logical_Switch_Port", "another")
	}
	was := look()
	require.NoError(t, b.EnsureEndpoint(ctx, endpoint("red", 1)))
	i.eventually(t, 0, "ep-red")
	require.NoError(t, b.Sync(ctx, metadata.State{}, vnet.SyncOptions{Force: true}))
	i.eventually(t, 0)
	require.Equal(t, was, look())
	x, err := b.Plan(ctx, metadata.State{})
	require.NoError(t, err)
	require.True(t, x.Empty(), strings.TrimSpace(x.String()))
}
