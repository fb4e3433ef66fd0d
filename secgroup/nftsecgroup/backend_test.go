package nftsecgroup_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/nftsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

func small() secgroup.State {
	return secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")},
		Ports: []secgroup.Port{benchPort(1, "", "default"), benchPort(2, "far", "default")}}
}

// TestBatch collects what several calls ask for and commits it as one.
func TestBatch(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1)[0]
	h := m.open(t)
	batch := h.Batch()
	b, err := nftsecgroup.New(batch, nil)
	require.NoError(t, err)
	before := m.writes()
	for _, g := range small().Groups {
		require.NoError(t, b.EnsureGroup(ctx, g))
	}
	for _, p := range small().Ports {
		require.NoError(t, b.EnsurePort(ctx, p))
	}
	require.NoError(t, b.EnsurePort(ctx, small().Ports[0]), "what the batch holds already")
	require.Equal(t, before, m.writes())
	plan := batch.Plan()
	require.Len(t, plan.Changes, 3)
	require.Contains(t, plan.String(), "+ secgroup port port-000001 on h1")
	require.NoError(t, batch.Commit(ctx))

	standing, err := m.backend(t).Plan(ctx, small())
	require.NoError(t, err)
	require.True(t, standing.Empty(), standing.String())
}

// TestSeveralBackends share a host: each sees what the others wrote.
func TestSeveralBackends(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1)[0]
	h := m.open(t)
	one, err := nftsecgroup.New(h, nil)
	require.NoError(t, err)
	two, err := nftsecgroup.New(h, nil)
	require.NoError(t, err)
	other := m.backend(t) // another process
	require.NoError(t, one.Sync(ctx, small(), vnet.SyncOptions{}))
	less := small()
	less.Ports = less.Ports[:1]
	require.NoError(t, two.DeletePort(ctx, small().Ports[1].ID))
	for _, b := range []*nftsecgroup.Backend{one, two, other} {
		plan, err := b.Plan(ctx, less)
		require.NoError(t, err)
		require.True(t, plan.Empty(), plan.String())
	}
	require.NoError(t, other.EnsurePort(ctx, benchPort(3, "", "default")))
	require.NoError(t, one.EnsurePort(ctx, benchPort(4, "", "default")))
	plan, err := two.Plan(ctx, less)
	require.NoError(t, err)
	require.Equal(t, 2, plan.Count(vnet.Delete))
}

// TestTwoOwners live side by side on a host.
func TestTwoOwners(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1)[0]
	o := m.o
	h2, err := linux.Open(ctx, m.owner+"2", &o)
	require.NoError(t, err)
	defer h2.Close()
	defer func() { require.NoError(t, h2.Cleanup(ctx)) }()
	a := m.backend(t)
	b, err := nftsecgroup.New(h2, nil)
	require.NoError(t, err)
	require.NoError(t, a.Sync(ctx, small(), vnet.SyncOptions{}))
	require.NoError(t, b.Sync(ctx, small(), vnet.SyncOptions{}))
	require.NoError(t, b.Sync(ctx, secgroup.State{}, vnet.SyncOptions{Force: true}))
	plan, err := m.backend(t).Plan(ctx, small())
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
}

// TestExplain goes from rules that share a set to that set and its elements.
func TestExplain(t *testing.T) {
	ctx := context.Background()
	b := machines(t, 1)[0].backend(t)
	s := small()
	s.Groups = append(s.Groups, secgroup.Group{ID: "web", Rules: []secgroup.Rule{
		{ID: "http", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(80), PortMax: port(80)},
		{ID: "https", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(443), PortMax: port(443)},
		{ID: "ssh", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: port(22), PortMax: port(22), RemoteGroup: "default"},
	}})
	s.Ports[0].Groups = []string{"default", "web"}
	require.NoError(t, b.Sync(ctx, s, vnet.SyncOptions{}))
	says := func(kind, id string, want ...string) {
		t.Helper()
		x, err := b.Explain(ctx, kind, id)
		require.NoError(t, err)
		for _, w := range want {
			require.Contains(t, x.String(), w)
		}
	}
	says("rule", "web/http", "th dport @sg-in4/6/web accept", "sg-in4/6/web: 2 elements in the kernel", "443")
	says("rule", "web/ssh", "th dport 22 ip saddr @sg-group4/default accept", "sg-group4/default: 2 elements in the kernel", "10.0.0.2")
	says("port", "port-000001", "index (mark) 0x", "conntrack zone", "jump sg-in/web", "sg-own4", "02:5e:01:00:00:01 . 10.0.0.1")
	says("port", "port-000002", "is on host far", "10.0.0.2/32 in set")
	says("group", "default", "rules of groups default, web refer to it", "2 member ports")
}

func TestMetrics(t *testing.T) {
	ctx := context.Background()
	m := machines(t, 1)[0]
	r := prometheus.NewRegistry()
	h := m.open(t)
	for range 2 { // a second backend shares them
		b, err := nftsecgroup.New(h, &nftsecgroup.Options{Metrics: r})
		require.NoError(t, err)
		require.NoError(t, b.Sync(ctx, small(), vnet.SyncOptions{}))
	}
	all, err := r.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range all {
		names = append(names, f.GetName())
	}
	require.Equal(t, []string{"vnet_secgroup_connection_walks_total", "vnet_secgroup_connections_ended_total", "vnet_secgroup_objects"}, names)
}

// TestWalks looks at connections only when something was removed or narrowed.
func TestWalks(t *testing.T) {
	ctx := context.Background()
	r := prometheus.NewRegistry()
	b, err := nftsecgroup.New(machines(t, 1)[0].open(t), &nftsecgroup.Options{Metrics: r})
	require.NoError(t, err)
	walks := func() float64 {
		all, err := r.Gather()
		require.NoError(t, err)
		for _, f := range all {
			if f.GetName() == "vnet_secgroup_connection_walks_total" {
				return f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return -1
	}
	require.NoError(t, b.Sync(ctx, small(), vnet.SyncOptions{}))
	require.NoError(t, b.EnsurePort(ctx, benchPort(3, "far", "default")))
	require.NoError(t, b.EnsurePort(ctx, benchPort(4, "", "default")))
	g := secgroup.DefaultGroup("default")
	g.Rules = append(g.Rules, secgroup.Rule{ID: "more", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp"})
	require.NoError(t, b.EnsureGroup(ctx, g))
	require.Zero(t, walks(), "after adding")
	require.NoError(t, b.EnsureGroup(ctx, secgroup.DefaultGroup("default")))
	require.EqualValues(t, 1, walks(), "after a rule went")
	require.NoError(t, b.DeletePort(ctx, benchPort(3, "far").ID))
	require.EqualValues(t, 2, walks(), "after a member went")
}

// TestTracking says which way this kernel holds connections.
func TestTracking(t *testing.T) {
	b := machines(t, 1)[0].backend(t)
	got := b.Features(context.Background()).Tracking
	require.True(t, got == "bridge conntrack" || got == "inet conntrack through br_netfilter", got)
	t.Log(got)
}

// TestGuestBridgeConntrack runs the packets of the suite where the kernel tracks connections
// in family bridge.
func TestGuestBridgeConntrack(t *testing.T) {
	if lab.RanInGuest(t, "nf_conntrack_bridge") {
		return
	}
	b := machines(t, 1)[0].backend(t)
	require.Equal(t, "bridge conntrack", b.Features(context.Background()).Tracking)
	h := harness()
	h.Slow = true
	secgrouptest.RunPackets(t, h)
}
