package main_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovndhcp"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
)

// A network with a router, metadata and a port with its groups and DHCP, made
// by five packages, is one transaction, whole or not at all.
func TestOneBatchIsOneTransaction(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test")
	}
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c, err := ovn.Dial(t.Context(), "batch", []string{s.Endpoint()}, nil)
	require.NoError(t, err)
	defer c.Close()
	mac, ip := vnet.MustParseMAC("02:00:00:00:00:05"), netip.MustParseAddr("10.0.0.5")
	fill := func(target ovn.Target) error {
		t.Helper()
		ob, err := ovnoverlay.New(target, nil)
		require.NoError(t, err)
		sb, err := ovnsecgroup.New(target, nil)
		require.NoError(t, err)
		rb, err := ovnrouter.New(target, nil)
		require.NoError(t, err)
		db, err := ovndhcp.New(target, nil)
		require.NoError(t, err)
		mb, err := ovnmetadata.New(target, nil)
		require.NoError(t, err)
		fabric, err := overlay.New(ob, nil)
		require.NoError(t, err)
		enforcer, err := secgroup.New(sb, nil)
		require.NoError(t, err)
		routers, err := router.New(rb, nil)
		require.NoError(t, err)
		leases, err := dhcp.New(db, nil)
		require.NoError(t, err)
		meta, err := metadata.New(mb, nil)
		require.NoError(t, err)
		ctx := t.Context()
		subnet := netip.MustParsePrefix("10.0.0.0/24")
		for _, f := range []func() error{
			func() error {
				return fabric.EnsureNetwork(ctx, overlay.Network{ID: "red", Segment: overlay.Segment{Type: overlay.Geneve, ID: 7}, Subnets: []overlay.Subnet{{ID: "s", CIDR: subnet}}})
			},
			func() error {
				return fabric.EnsurePort(ctx, overlay.Port{ID: "p", NetworkID: "red", MAC: mac, FixedIPs: []netip.Addr{ip}, Filtered: true})
			},
			func() error { return enforcer.EnsureGroup(ctx, secgroup.DefaultGroup("default")) },
			func() error {
				return enforcer.EnsurePort(ctx, secgroup.Port{ID: "p", NetworkID: "red", MAC: mac, FixedIPs: []netip.Addr{ip}, Groups: []string{"default"}})
			},
			func() error {
				return routers.EnsureRouter(ctx, router.Router{ID: "r", Interfaces: []router.Interface{{PortID: "r-red", NetworkID: "red",
					MAC: vnet.MustParseMAC("02:00:00:00:00:01"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}})
			},
			func() error {
				return leases.EnsureScope(ctx, dhcp.Scope{ID: "s", NetworkID: "red", Subnet: subnet, ServerIP: netip.MustParseAddr("10.0.0.2"), Router: netip.MustParseAddr("10.0.0.1")})
			},
			func() error {
				return leases.EnsureReservation(ctx, dhcp.Reservation{ID: "p", NetworkID: "red", MAC: mac, IPs: []netip.Addr{ip}, Hostname: "web"})
			},
			func() error {
				return meta.EnsureEndpoint(ctx, metadata.Endpoint{ID: "m", NetworkID: "red", PortID: "m", MAC: vnet.MustParseMAC("02:00:00:00:00:03"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/24")}})
			},
		} {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	transactions := func() int {
		b, err := os.ReadFile(filepath.Join(s.Dir, "db"))
		require.NoError(t, err)
		return bytes.Count(b, []byte("OVSDB JSON "))
	}
	before := transactions()
	b := c.Batch()
	require.NoError(t, fill(b))
	assert.Equal(t, before, transactions(), "nothing is written before the commit")
	assert.GreaterOrEqual(t, len(b.Changes().Changes), 8, "%s", b.Changes())
	require.NoError(t, b.Commit(t.Context()))
	assert.Equal(t, before+1, transactions())
	require.NoError(t, fill(c), "the same again, one by one")
	assert.Equal(t, before+1, transactions(), "all of it stood")
}
