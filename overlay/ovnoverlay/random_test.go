package ovnoverlay_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/ovn"
)

// drawState makes up a state of few names, so that things come, go and change.
func drawState(t *rapid.T) (s overlay.State) {
	segments := []overlay.Segment{{Type: overlay.Geneve, ID: 5}, {Type: overlay.Geneve, ID: 6}, {Type: overlay.Flat, PhysicalNetwork: "x"},
		{Type: overlay.VLAN, PhysicalNetwork: "x", ID: 5}, {Type: overlay.VLAN, PhysicalNetwork: "y", ID: 5}, {Type: overlay.VLAN, PhysicalNetwork: "x", ID: 6}}
	order := rapid.Permutation(segments).Draw(t, "segments")
	for i := range rapid.IntRange(1, 4).Draw(t, "networks") {
		n := overlay.Network{ID: fmt.Sprint("n", i), Segment: order[i], MTU: rapid.SampledFrom([]int{0, 1300}).Draw(t, "mtu"),
			AdminDown: rapid.IntRange(0, 3).Draw(t, "network down") == 3, Flooding: overlay.Flooding{Broadcast: rapid.Bool().Draw(t, "broadcast")}}
		if rapid.Bool().Draw(t, "subnet") {
			n.Subnets = []overlay.Subnet{{ID: "s", CIDR: netip.MustParsePrefix("10.0.0.0/8")}}
		}
		s.Networks = append(s.Networks, n)
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "ports") {
		p := overlay.Port{ID: fmt.Sprint("p", rapid.IntRange(0, 1).Draw(t, "which")*5+i), NetworkID: rapid.SampledFrom(s.Networks).Draw(t, "network").ID,
			MAC:       vnet.MAC{2, 0, 0, byte(rapid.IntRange(0, 1).Draw(t, "mac")), 0, byte(i)},
			AdminDown: rapid.IntRange(0, 3).Draw(t, "down") == 3, Filtered: rapid.Bool().Draw(t, "filtered"), Host: rapid.SampledFrom([]string{"", "h1", "h2"}).Draw(t, "host")}
		if rapid.Bool().Draw(t, "address") {
			p.FixedIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 1).Draw(t, "ip")), 0, byte(i + 1)})}
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// TestRandomStates: whatever stood before, a state comes to the same rows as
// made afresh, by Sync or object by object; twice is once; and a port passes
// frames if it and its network are up and it is open, whoever wrote last.
func TestRandomStates(t *testing.T) {
	red := newNorth(t)
	blue := onNorth(t, red.Server, "blue")
	rapid.Check(t, func(r *rapid.T) {
		s := drawState(r)
		force := vnet.SyncOptions{Force: true}
		require.NoError(r, red.f.Sync(t.Context(), s, force))
		require.Equal(r, "nothing to do\n", red.plan(t, s))
		before := operations(t, red.reg)
		require.NoError(r, red.f.Sync(t.Context(), s, vnet.SyncOptions{}))
		for _, n := range s.Networks {
			require.NoError(r, red.f.EnsureNetwork(t.Context(), n))
		}
		for _, p := range s.Ports {
			require.NoError(r, red.f.EnsurePort(t.Context(), p))
		}
		require.Equal(r, before, operations(t, red.reg), "something was written twice")

		require.NoError(r, blue.f.Sync(t.Context(), overlay.State{}, force))
		for _, n := range s.Networks {
			require.NoError(r, blue.f.EnsureNetwork(t.Context(), n))
		}
		for _, p := range s.Ports {
			require.NoError(r, blue.f.EnsurePort(t.Context(), p))
		}
		fill := func(n *north, id string, want bool) {
			require.NoError(r, n.c.Submit(t.Context(), vnet.PartSecGroup, func(tx *ovn.Tx) error {
				row := &nbrow.LogicalSwitchPort{}
				if want {
					row.ExternalIDs = map[string]string{ovn.KeyFilled: "{}"}
				}
				ovn.Update(tx, ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", id), row)
				return nil
			}))
		}
		now := map[string]bool{}
		for _, p := range s.Ports {
			now[p.ID] = rapid.Bool().Draw(r, "filled")
			if now[p.ID] {
				fill(blue, p.ID, true)
			}
			fill(red, p.ID, now[p.ID])
		}

		require.Equal(r, strings.ReplaceAll(red.text(t), "red/", "blue/"), blue.text(t))
		v := red.view(t)
		for _, p := range s.Ports {
			row := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", p.ID)
			up := !p.AdminDown && (!p.Filtered || now[p.ID])
			for _, n := range s.Networks {
				up = up && (n.ID != p.NetworkID || !n.AdminDown)
			}
			require.Equal(r, up, row.Enabled == nil || *row.Enabled, "port %s: %v", p.ID, row.ExternalIDs)
		}
	})
}
