package reach

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/secgroup"
)

func TestMatrix(t *testing.T) {
	m, err := New(world())
	require.NoError(t, err)
	cells := map[string]Cell{}
	for _, c := range m.Matrix(Probe{Proto: ICMP}, Probe{TCP, 22}) {
		cells[fmt.Sprint(c.From, " ", c.To, " ", c.Addr, " ", c.Probe.Port)] = c
	}
	for _, c := range []struct {
		cell string
		ok   bool
		who  string
	}{
		{"red1 red2 10.0.0.6 0", true, "red2"},
		{"red1 red2 2001:db8:1::6 22", true, "red2"},
		{"red1 blue2 10.0.0.6 0", false, "red2"}, // another one has the address here
		{"server f-red1 203.0.113.50 0", true, "red1"},
		{"server f-red1 203.0.113.50 22", false, ""},
		{"red1 f-red1 203.0.113.50 0", true, "red1"},
		{"red2 server 203.0.113.1 22", true, "server"},
		{"server red1 10.0.0.5 0", false, ""},
	} {
		got, there := cells[c.cell]
		require.True(t, there, c.cell)
		require.Equal(t, c.ok, got.OK, "%s: %s", c.cell, got.Why)
		require.Equal(t, c.who, got.Who, c.cell)
		require.NotEmpty(t, got.Why, c.cell)
	}
}

// RFC 1122, 3.3.1: on-link directly, the rest by the gateway.
func TestRoute(t *testing.T) {
	m, err := New(world())
	require.NoError(t, err)
	for _, c := range []struct{ from, dst, hop, src string }{
		{"red1", "10.0.0.6", "10.0.0.6", "10.0.0.5"},
		{"red1", "192.0.2.1", "10.0.0.1", "10.0.0.5"},
		{"red1", "2001:db8:99::1", "2001:db8:1::1", "2001:db8:1::5"},
		{"red1", "fe80::1", "fe80::1", mac(0x10).LinkLocal().String()},
		{"server", "2001:db8:1::5", "2001:db8:ff::10", "2001:db8:ff::1"},
	} {
		hop, src, err := m.Route(c.from, ip(c.dst))
		require.NoError(t, err)
		require.Equal(t, []string{c.hop, c.src}, []string{hop.String(), src.String()}, c.dst)
	}
	_, _, err = m.Route("server", ip("192.0.2.1"))
	require.ErrorContains(t, err, "no route")
	_, _, err = m.Route("nobody", ip("192.0.2.1"))
	require.ErrorIs(t, err, vnet.ErrNotFound)
}

// crowd is n machines in one group on one network.
func crowd(n int) World {
	var w World
	w.Overlay.Networks = []overlay.Network{{ID: "n", Segment: overlay.Segment{Type: overlay.VXLAN, ID: 1}, Subnets: []overlay.Subnet{{ID: "s", CIDR: pfx("10.0.0.0/16")}, {ID: "s6", CIDR: pfx("2001:db8::/64")}}}}
	w.SecGroup.Groups = []secgroup.Group{secgroup.DefaultGroup("default")}
	for i := range n {
		p := overlay.Port{ID: fmt.Sprintf("p%d", i), NetworkID: "n", MAC: vnet.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, Filtered: true,
			FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i + 1)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i + 1)})}}
		w.Overlay.Ports = append(w.Overlay.Ports, p)
		w.SecGroup.Ports = append(w.SecGroup.Ports, secgroup.Port{ID: p.ID, NetworkID: "n", MAC: p.MAC, FixedIPs: p.FixedIPs, Groups: []string{"default"}})
	}
	return w
}

// The matrix of 50 machines takes less than a second: people wait for it.
func TestMatrixIsQuick(t *testing.T) {
	m, err := New(crowd(50))
	require.NoError(t, err)
	start := time.Now()
	cells := m.Matrix(Probe{Proto: ICMP}, Probe{TCP, 22}, Probe{UDP, 53})
	took := time.Since(start)
	require.Len(t, cells, 50*49*2*3)
	for _, c := range cells {
		require.True(t, c.OK, c.Why)
	}
	t.Logf("%d cells in %v", len(cells), took)
	require.Less(t, took, 5*time.Second) // on a busy machine
}
