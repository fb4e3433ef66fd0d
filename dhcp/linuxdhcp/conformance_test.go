package linuxdhcp_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcptest"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/dhcp/linuxdhcp"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/linuxoverlay"
)

// place is a host in a namespace, with bridges made by hand as overlay makes them.
type place struct {
	l    *lab.Lab
	ns   *lab.NS
	host *linux.Host
	n    atomic.Uint32
}

func newPlace(t testing.TB) *place {
	l := lab.New(t)
	p := &place{l: l, ns: l.NS("h1")}
	var err error
	p.host, err = linux.Open(t.Context(), vnet.Owner(l.Owner("d")), &linux.Options{Name: "h1", Netns: p.ns.Path, NetnsDir: l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() { p.host.Close() })
	return p
}

func (p *place) backend(t testing.TB, o *linuxdhcp.Options) *linuxdhcp.Backend {
	b, err := linuxdhcp.New(p.host, o)
	require.NoError(t, err)
	return b
}

func (p *place) network(t testing.TB, id string) {
	dev := p.host.NetworkDevice(id)
	n := p.n.Add(1)
	p.ns.IP("link", "add", "name", dev, "address", fmt.Sprintf("02:b1:00:00:%02x:%02x", n>>8, n&0xff), "type", "bridge", "mcast_snooping", "0")
	p.ns.Sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	p.ns.Up(dev)
}

func (p *place) plug(t testing.TB, network, netns, device string, mac vnet.MAC) {
	end := fmt.Sprint("v", p.n.Add(1))
	p.ns.IP("link", "add", "name", end, "type", "veth", "peer", "name", device, "address", mac.String(), "netns", filepath.Base(netns))
	p.ns.IP("link", "set", "dev", end, "master", p.host.NetworkDevice(network), "up")
}

func TestConformance(t *testing.T) {
	dhcptest.Run(t, dhcptest.Harness{Volatile: true, Make: func(t testing.TB) dhcptest.Host {
		p := newPlace(t)
		path := filepath.Join(t.TempDir(), "leases")
		var store *leasestore.Store
		open := func() dhcp.Backend {
			if store != nil {
				require.NoError(t, store.Close())
			}
			var err error
			store, err = leasestore.Open(path, nil)
			require.NoError(t, err)
			return p.backend(t, &linuxdhcp.Options{Leases: store, Metrics: prometheus.NewRegistry()})
		}
		t.Cleanup(func() { store.Close() })
		return dhcptest.Host{
			Name: "h1", DHCP: open(), Reopen: func(testing.TB) dhcp.Backend { return open() },
			Network:       p.network,
			RemoveNetwork: func(t testing.TB, id string) { p.ns.IP("link", "del", "dev", p.host.NetworkDevice(id)) },
			Plug:          p.plug,
		}
	}})
}

func TestOneServe(t *testing.T) {
	p := newPlace(t)
	b := p.backend(t, nil)
	require.False(t, b.Health(t.Context()).Complete)
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- b.Serve(ctx) }()
	require.Eventually(t, func() bool { return b.Health(ctx).Complete }, 3*time.Second, 10*time.Millisecond)
	require.ErrorIs(t, b.Serve(ctx), vnet.ErrConflict)
}

func scopeOn(network string) dhcp.Scope {
	return dhcp.Scope{
		ID: "s-" + network, NetworkID: network, Subnet: netip.MustParsePrefix("10.0.0.0/24"), ServerIP: netip.MustParseAddr("10.0.0.2"),
		Router: netip.MustParseAddr("10.0.0.1"), MTU: 1450,
	}.Canonical()
}

func portOn(network string, n byte) dhcp.Reservation {
	return dhcp.Reservation{
		ID: fmt.Sprintf("p-%s-%d", network, n), NetworkID: network, MAC: vnet.MAC{2, 0, 0, 0, 0, n},
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n})},
	}
}

// A batch holds the change back until it is committed, plans it with the
// rest, and sees its own pending deletions.
func TestBatch(t *testing.T) {
	p := newPlace(t)
	ctx := t.Context()
	batch := p.host.Batch()
	direct := p.backend(t, nil)
	b, err := direct.With(batch)
	require.NoError(t, err)
	require.NoError(t, b.EnsureScope(ctx, scopeOn("a")))
	require.NoError(t, b.EnsureReservation(ctx, portOn("a", 10)))
	require.Equal(t, "+ dhcp scope s-a on h1\n+ dhcp reservation p-a-10 on h1\n2 to create, 0 to update, 0 to delete\n", batch.Plan().String())
	_, err = b.Explain(ctx, "scope", "s-a")
	require.ErrorIs(t, err, vnet.ErrNotFound, "not committed yet")
	require.NoError(t, batch.Commit(ctx))
	_, err = direct.Explain(ctx, "scope", "s-a")
	require.NoError(t, err, "both serve the same")

	// The address moves to another reservation within one batch.
	moved := portOn("a", 10)
	moved.ID, moved.MAC = "other", vnet.MAC{2, 0, 0, 0, 0, 99}
	require.ErrorIs(t, b.EnsureReservation(ctx, moved), vnet.ErrConflict)
	require.NoError(t, b.DeleteReservation(ctx, "p-a-10"))
	require.NoError(t, b.EnsureReservation(ctx, moved))
	require.NoError(t, batch.Commit(ctx))
	require.Empty(t, mustPlan(t, b, dhcp.State{Scopes: []dhcp.Scope{scopeOn("a")}, Reservations: []dhcp.Reservation{moved}}))

	// Made and taken away before the commit: nothing stands.
	require.NoError(t, b.EnsureScope(ctx, scopeOn("b")))
	require.NoError(t, b.DeleteScope(ctx, "s-b"))
	require.NoError(t, batch.Commit(ctx))
	_, err = b.Explain(ctx, "scope", "s-b")
	require.ErrorIs(t, err, vnet.ErrNotFound)

	// Another part's step fails: what DHCP did is taken back.
	require.NoError(t, b.EnsureScope(ctx, scopeOn("c")))
	require.NoError(t, b.DeleteReservation(ctx, "other"))
	require.NoError(t, batch.Submit(ctx, linux.Step{Phase: linux.FilterDel, Do: func(context.Context) error { return errors.New("no") }}))
	require.Error(t, batch.Commit(ctx))
	require.Empty(t, mustPlan(t, b, dhcp.State{Scopes: []dhcp.Scope{scopeOn("a")}, Reservations: []dhcp.Reservation{moved}}))
}

func mustPlan(t *testing.T, b *linuxdhcp.Backend, s dhcp.State) []vnet.Change {
	t.Helper()
	p, err := b.Plan(t.Context(), s)
	require.NoError(t, err)
	return p.Changes
}

func TestConflicts(t *testing.T) {
	p := newPlace(t)
	ctx := t.Context()
	b := p.backend(t, nil)
	require.NoError(t, b.EnsureScope(ctx, scopeOn("a")))
	over := scopeOn("a")
	over.ID, over.Subnet = "x", netip.MustParsePrefix("10.0.0.0/16")
	require.ErrorIs(t, b.EnsureScope(ctx, over), vnet.ErrConflict)
	require.NoError(t, b.EnsureReservation(ctx, portOn("a", 10)))
	same := portOn("a", 11)
	same.MAC = vnet.MAC{2, 0, 0, 0, 0, 10}
	require.ErrorIs(t, b.EnsureReservation(ctx, same), vnet.ErrConflict)
	require.NoError(t, b.EnsureReservation(ctx, portOn("b", 10)), "networks do not meet")
	pool := scopeOn("p")
	pool.Pool = []dhcp.AddrRange{{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.60")}}
	var u *vnet.UnsupportedError
	require.ErrorAs(t, b.EnsureScope(ctx, pool), &u)
	require.Equal(t, "Options.Leases", u.Need)
}

// Two backends of different owners, and metrics of both in one registry.
func TestTwoOwners(t *testing.T) {
	p := newPlace(t)
	other, err := linux.Open(t.Context(), vnet.Owner(p.l.Owner("e")), &linux.Options{Name: "h1", Netns: p.ns.Path, NetnsDir: p.l.NetnsDir()})
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	reg := prometheus.NewRegistry()
	a := p.backend(t, &linuxdhcp.Options{Metrics: reg})
	b, err := linuxdhcp.New(other, &linuxdhcp.Options{Metrics: reg})
	require.NoError(t, err)
	require.NoError(t, a.EnsureScope(t.Context(), scopeOn("n")))
	require.NoError(t, b.EnsureScope(t.Context(), scopeOn("n")))
	xa, err := a.Explain(t.Context(), "scope", "s-n")
	require.NoError(t, err)
	xb, err := b.Explain(t.Context(), "scope", "s-n")
	require.NoError(t, err)
	require.NotEqual(t, xa.String(), xb.String(), "each has a device of its own")
	_, err = reg.Gather()
	require.NoError(t, err)
}

// One reservation more costs the same when there are ten thousand.
func BenchmarkEnsureReservation(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("have=%d", n), func(b *testing.B) {
			p := newPlace(b)
			be := p.backend(b, nil)
			ctx := b.Context()
			require.NoError(b, be.EnsureScope(ctx, scopeOn("a")))
			r := func(i int) dhcp.Reservation {
				return dhcp.Reservation{ID: fmt.Sprint("p", i), NetworkID: "a", MAC: vnet.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}}
			}
			for i := range n {
				require.NoError(b, be.EnsureReservation(ctx, r(i)))
			}
			for b.Loop() {
				if err := be.EnsureReservation(ctx, r(n)); err != nil {
					b.Fatal(err)
				}
				if err := be.DeleteReservation(ctx, fmt.Sprint("p", n)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A port is put on a network by overlay, and boots.
func TestOverOverlay(t *testing.T) {
	p := newPlace(t)
	ctx := t.Context()
	ob, err := linuxoverlay.New(p.host, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.host.Cleanup(context.Background())) })
	fabric, err := overlay.New(ob, nil)
	require.NoError(t, err)
	b := p.backend(t, nil)
	svc, err := dhcp.New(b, nil)
	require.NoError(t, err)
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- svc.Serve(serving) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })

	// DHCP first, the network later: the order does not matter.
	r := portOn("net", 10)
	require.NoError(t, svc.Sync(ctx, dhcp.State{Scopes: []dhcp.Scope{scopeOn("net")}, Reservations: []dhcp.Reservation{r}}, vnet.SyncOptions{}))
	require.NoError(t, fabric.EnsureNetwork(ctx, overlay.Network{ID: "net", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, fabric.EnsurePort(ctx, overlay.Port{ID: "p", NetworkID: "net", MAC: r.MAC, FixedIPs: r.IPs}))
	vm := p.l.NS("vm")
	_, err = fabric.Plug(ctx, overlay.Attachment{PortID: "p", Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
	require.NoError(t, err)
	vm.Up("eth0")
	lab.Need(t, "udhcpc")
	out, err := vm.Exec(ctx, "udhcpc", "-i", "eth0", "-s", "/bin/true", "-n", "-q", "-t", "5", "-T", "1")
	require.NoError(t, err, out)
	var got []netip.Addr
	for l, err := range svc.Leases(ctx) {
		require.NoError(t, err)
		got = append(got, l.IP)
	}
	require.Equal(t, r.IPs, got)

	require.NoError(t, fabric.Unplug(ctx, "p"))
	require.NoError(t, fabric.DeletePort(ctx, "p"))
	require.NoError(t, fabric.DeleteNetwork(ctx, "net"))
	require.Eventually(t, func() bool {
		x, err := svc.Explain(ctx, "network", "net")
		return err == nil && strings.Contains(x.String(), "waiting for device")
	}, 3*time.Second, 10*time.Millisecond)
}
