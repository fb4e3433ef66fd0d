package ovnqos_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/router"
)

const patience = 30 * time.Second

// TestPort: a limit each way between two hosts, and what it dropped.
func TestPort(t *testing.T) {
	x := newSite(t).tenant(t)
	x.network("in", overlay.Segment{Type: overlay.Geneve, ID: 1})
	a := x.vm(0, "in", "a", 1, "10.0.0.1/24")
	b := x.vm(1, "in", "b", 2, "10.0.0.2/24")
	lab.Eventually(t, patience, "they reach each other", func() bool { return a.Ping("10.0.0.2", 1) == nil })
	for _, d := range []qos.Direction{qos.Egress, qos.Ingress} {
		shape, from, to, addr := kbps(5000, 0), a, b, "10.0.0.2"
		if d == qos.Ingress {
			shape, from, to, addr = kbps(0, 5000), b, a, "10.0.0.1"
		}
		require.NoError(t, x.qos.EnsurePort(t.Context(), qos.Port{ID: "a", Shape: shape}))
		f := start(t, from, to, addr, 10_000)
		_, _ = f.count(2 * time.Second) // the burst
		require.InEpsilon(t, 5000, f.kbps(2*time.Second), 0.1, d)
		sent := f.end()
		st, err := x.qos.Statistics(t.Context())
		require.NoError(t, err)
		require.Len(t, st, 1)
		require.Equal(t, []any{"port", "a", d}, []any{st[0].Kind, st[0].ID, st[0].Direction})
		require.InDelta(t, sent, st[0].Passed.Packets+st[0].Dropped.Packets, 5)
		require.InEpsilon(t, sent/3, st[0].Dropped.Packets, 0.3)
	}
}

// TestGateway: limits that were there before the router, of what passes by the
// gateway, of a floating IP, translated at the gateway and on its port's host.
func TestGateway(t *testing.T) {
	x := newSite(t).tenant(t)
	ctx := t.Context()
	x.network("in", overlay.Segment{Type: overlay.Geneve, ID: 1})
	x.network("out", overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ex"})
	g := qos.Gateway{RouterID: "r1", PortID: "r1-out", NetworkID: "out", Shape: kbps(4000, 3000)}
	require.NoError(t, x.qos.EnsureGateway(ctx, g))
	f := qos.FloatingIP{ID: "f1", RouterID: "r1", PortID: "r1-out", NetworkID: "out", FixedPortID: "b",
		FloatingIP: netip.MustParseAddr("203.0.113.50"), Shape: kbps(6000, 5000)}
	require.NoError(t, x.qos.EnsureFloatingIP(ctx, f))

	a := x.vm(0, "in", "a", 1, "10.0.0.5/24")
	b := x.vm(1, "in", "b", 2, "10.0.0.6/24")
	ext := x.l.Station(x.l.Wire("ex"), "ext", "203.0.113.1/24")
	for _, vm := range []*lab.NS{a, b} {
		vm.Route("default", "10.0.0.1")
	}
	ext.Route("10.0.0.0/24", "203.0.113.2")
	r := router.Router{ID: "r1",
		Interfaces: []router.Interface{{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}},
		Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Hosts: []string{"hv1"},
			Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24")}, NextHops: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}}
	require.NoError(t, x.router.EnsureRouter(ctx, r))
	reach := func(what string, from *lab.NS, to string) {
		t.Helper()
		lab.Eventually(t, patience, what, func() bool { return from.Ping(to, 1) == nil })
	}
	reach("out", a, "203.0.113.1")
	out := func(vm *lab.NS) int { return x.measure(vm, ext, "203.0.113.1", 10_000) }
	require.InEpsilon(t, 4000, out(a), 0.1, "the gateway's, out")
	require.InEpsilon(t, 3000, x.measure(ext, a, "10.0.0.5", 10_000), 0.1, "the gateway's, in") // UDP unasked, so not translated
	require.InEpsilon(t, 4000, out(b), 0.1, "the gateway's for b")

	fip := router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: f.FloatingIP, FixedIP: netip.MustParseAddr("10.0.0.6"), PortID: "b"}
	for _, where := range []string{"at the gateway", "on the port's host"} {
		if where != "at the gateway" {
			fip.ExternalMAC = vnet.MAC{2, 0, 0, 0, 1, 5}
		}
		require.NoError(t, x.router.EnsureFloatingIP(ctx, fip))
		reach("floating IP "+where, ext, "203.0.113.50")
		require.InEpsilon(t, 6000, out(b), 0.1, "from the floating IP, "+where)
		require.InEpsilon(t, 5000, x.measure(ext, b, "203.0.113.50", 10_000), 0.1, "to the floating IP, "+where)
	}
	// The gateway's port gets another name.
	r.Gateway.MAC = vnet.MAC{2, 0, 0, 0, 1, 4}
	require.NoError(t, x.router.EnsureRouter(ctx, r))
	reach("with another MAC", a, "203.0.113.1")
	require.InEpsilon(t, 4000, out(a), 0.1, "with another MAC")
	st, err := x.qos.Statistics(ctx)
	require.NoError(t, err)
	require.Len(t, st, 4)
	require.NotZero(t, st[2].Dropped.Packets, "%+v", st)
	require.NoError(t, x.qos.DeleteGateway(ctx, "r1"))
	require.InEpsilon(t, 10_000, out(a), 0.1, "not limited")
}

// measure is the rate at which a flow arrives whose burst has passed.
func (x *tenant) measure(from, to *lab.NS, addr string, kbps int) int {
	x.t.Helper()
	f := start(x.t, from, to, addr, kbps)
	defer f.end()
	f.count(1500 * time.Millisecond)
	return f.kbps(2 * time.Second)
}
