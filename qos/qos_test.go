package qos_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/memqos"
)

func mark(n uint8) *uint8 { return &n }

func TestDefaultBursts(t *testing.T) {
	for _, c := range []struct {
		l              qos.Limits
		kbit, packets_ uint32
	}{
		{qos.Limits{}, 0, 0},
		{qos.Limits{Kbps: 10_000}, 8000, 0},
		{qos.Limits{Kbps: 10_000, BurstKbit: 12}, 12, 0},
		{qos.Limits{Kbps: 10}, 72, 0},
		{qos.Limits{Kbps: 4_294_967_295}, 3_435_973_836, 0},
		{qos.Limits{PPS: 1000}, 0, 800},
		{qos.Limits{PPS: 1}, 0, 1},
		{qos.Limits{PPS: 1000, BurstPackets: 5}, 0, 5},
	} {
		require.Equal(t, c.kbit, c.l.Burst(), "%+v", c.l)
		require.Equal(t, c.packets_, c.l.PacketBurst(), "%+v", c.l)
	}
}

func TestValidate(t *testing.T) {
	egress := func(l qos.Limits) qos.Shape { return qos.Shape{Egress: l} }
	for _, c := range []struct {
		what  interface{ Validate() error }
		field string // empty: nothing is wrong
	}{
		{qos.Policy{ID: "p"}, ""},
		{qos.Policy{}, "id"},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{BurstKbit: 100})}, "shape.egress.max_burst_kbit"},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{Kbps: 1, BurstKbit: 11})}, "shape.egress.max_burst_kbit"},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{Kbps: 1, BurstKbit: 12})}, ""},
		{qos.Policy{ID: "p", Shape: qos.Shape{Ingress: qos.Limits{BurstPackets: 1}}}, "shape.ingress.max_burst_packets"},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{Kbps: 10, MinKbps: 11})}, "shape.egress.min_kbps"},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{Kbps: 10, MinKbps: 10})}, ""},
		{qos.Policy{ID: "p", Shape: egress(qos.Limits{PPS: 10, MinPPS: 11})}, "shape.egress.min_pps"},
		{qos.Policy{ID: "p", Shape: qos.Shape{DSCP: mark(46)}}, ""},
		{qos.Policy{ID: "p", Shape: qos.Shape{DSCP: mark(0)}}, ""},
		{qos.Policy{ID: "p", Shape: qos.Shape{DSCP: mark(42)}}, "shape.dscp_mark"},
		{qos.Policy{ID: "p", Shape: qos.Shape{DSCP: mark(7)}}, "shape.dscp_mark"},
		{qos.Policy{ID: "p", MinPPS: 5, Shape: egress(qos.Limits{MinPPS: 5})}, "min_pps_any"},
		{qos.Policy{ID: "p", MinPPS: 5, Shape: egress(qos.Limits{PPS: 4})}, "min_pps_any"},
		{qos.Port{ID: "p", Uplink: qos.Tunnelled}, ""},
		{qos.Port{ID: "p", Uplink: "no such name!"}, "uplink"},
		{qos.Gateway{RouterID: "r", PortID: "p"}, "network_id"},
		{qos.FloatingIP{ID: "f", RouterID: "r", PortID: "p", NetworkID: "n"}, "floating_ip"},
		{qos.FloatingIP{ID: "f", RouterID: "r", PortID: "p", NetworkID: "n", FloatingIP: netip.MustParseAddr("2001:db8::1")}, "floating_ip"},
		{qos.FloatingIP{ID: "f", RouterID: "r", PortID: "p", NetworkID: "n", FloatingIP: netip.MustParseAddr("203.0.113.1")}, ""},
		{qos.Uplink{Name: "physnet1"}, "kbps"},
		{qos.Uplink{Kbps: 1}, "name"},
		{qos.State{Ports: []qos.Port{{ID: "a", Uplink: "x", Shape: egress(qos.Limits{MinKbps: 1})}}}, "ports[0].uplink"},
		{qos.State{Uplinks: []qos.Uplink{{Name: "x", Kbps: 10}}, Ports: []qos.Port{{ID: "a", Uplink: "x", Shape: egress(qos.Limits{MinKbps: 6})}, {ID: "b", Uplink: "x", Shape: egress(qos.Limits{MinKbps: 5})}}}, "ports[1].uplink"},
		{qos.State{Uplinks: []qos.Uplink{{Name: "x", Kbps: 10}, {Name: "x", Kbps: 10}}}, "uplinks[1].name"},
		{qos.State{Gateways: []qos.Gateway{{RouterID: "r", PortID: "p", NetworkID: "n"}, {RouterID: "r", PortID: "p", NetworkID: "n"}}}, "gateways[1].router_id"},
	} {
		err := c.what.Validate()
		if c.field == "" {
			require.NoError(t, err, "%+v", c.what)
			continue
		}
		var e *vnet.FieldError
		require.ErrorAs(t, err, &e, "%+v", c.what)
		require.Equal(t, c.field, e.Field)
	}
}

// TestWhoHasWhich: a port's policy is its own, else its network's, and a network's own ports have none of the network's; floating IPs and
// gateways have their own, or else the external network's. Policies are not merged.
func TestWhoHasWhich(t *testing.T) {
	kbps := func(id string, egress, ingress uint32) qos.Policy {
		return qos.Policy{ID: id, Shape: qos.Shape{Egress: qos.Limits{Kbps: egress}, Ingress: qos.Limits{Kbps: ingress}}}
	}
	promise := qos.Policy{ID: "promise", Shape: qos.Shape{Egress: qos.Limits{MinKbps: 100}}}
	a := qos.Assignments{
		Policies: []qos.Policy{kbps("net", 1000, 2000), kbps("own", 3000, 0), kbps("ext", 4000, 4000), promise},
		Networks: map[string]string{"n": "net", "x": "ext"},
		Ports: []qos.AssignedPort{{ID: "a", NetworkID: "n"}, {ID: "b", NetworkID: "n", PolicyID: "own"}, {ID: "c", NetworkID: "other"},
			{ID: "router", NetworkID: "n", NetworkOwned: true}, {ID: "dhcp", NetworkID: "n", NetworkOwned: true, PolicyID: "own"},
			{ID: "d", NetworkID: "n", PolicyID: "promise", Uplink: "up"}, {ID: "e", NetworkID: "n", Uplink: "up"}},
		Gateways: []qos.AssignedGateway{{RouterID: "r1", PortID: "g1", NetworkID: "x"}, {RouterID: "r2", PortID: "g2", NetworkID: "x", PolicyID: "own"}},
		FloatingIPs: []qos.AssignedFloatingIP{{ID: "f1", RouterID: "r1", PortID: "g1", NetworkID: "x", FloatingIP: netip.MustParseAddr("203.0.113.1")},
			{ID: "f2", RouterID: "r1", PortID: "g1", NetworkID: "x", FloatingIP: netip.MustParseAddr("203.0.113.2"), PolicyID: "own"}},
		Uplinks: []qos.Uplink{{Name: "up", Kbps: 1000}},
	}
	s, err := a.State()
	require.NoError(t, err)
	got := map[string]qos.Limits{}
	for _, p := range s.Ports {
		got[p.ID+" out"], got[p.ID+" in"] = p.Egress, p.Ingress
		require.Equal(t, p.ID == "d", p.Uplink == "up", "only what has a minimum is about an uplink")
	}
	for _, g := range s.Gateways {
		got[g.RouterID+" out"] = g.Egress
	}
	for _, f := range s.FloatingIPs {
		got[f.ID+" out"] = f.Egress
	}
	require.Equal(t, map[string]qos.Limits{
		"a out": {Kbps: 1000}, "a in": {Kbps: 2000}, "b out": {Kbps: 3000}, "b in": {}, "dhcp out": {Kbps: 3000}, "dhcp in": {}, "d out": {MinKbps: 100}, "d in": {},
		"e out": {Kbps: 1000}, "e in": {Kbps: 2000}, "r1 out": {Kbps: 4000}, "r2 out": {Kbps: 3000}, "f1 out": {Kbps: 4000}, "f2 out": {Kbps: 3000},
	}, got)

	a.Ports[0].PolicyID = "none"
	a.Networks["n"] = "neither"
	_, err = a.State()
	require.ErrorContains(t, err, `ports[0].policy_id "none" is no policy`)
	require.ErrorContains(t, err, `networks[n] "neither" is no policy`)
}

// TestDiffMakesIt: carrying out the differences makes the one state of the other.
func TestDiffMakesIt(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) (s qos.State) {
		limits := func(name string) (l qos.Limits) {
			if rapid.Bool().Draw(t, name) {
				l.Kbps = rapid.Uint32Range(1, 5).Draw(t, name)
			}
			return l
		}
		for _, id := range []string{"a", "b", "c"} {
			s.Ports = append(s.Ports, qos.Port{ID: id, Shape: qos.Shape{Egress: limits(id), Ingress: limits(id)}})
			s.Gateways = append(s.Gateways, qos.Gateway{RouterID: id, PortID: "p", NetworkID: "n", Shape: qos.Shape{Egress: limits(id)}})
		}
		return s.Canonical()
	})
	rapid.Check(t, func(r *rapid.T) {
		a, b := draw.Draw(r, "a"), draw.Draw(r, "b")
		m := memqos.New(nil)
		require.NoError(r, m.Sync(t.Context(), a, vnet.SyncOptions{Force: true}))
		for _, c := range qos.Diff(a, b) {
			for _, p := range b.Ports {
				if c.Kind == "port" && c.ID == p.ID {
					require.NoError(r, m.EnsurePort(t.Context(), p))
				}
			}
			for _, g := range b.Gateways {
				if c.Kind == "gateway" && c.ID == g.RouterID {
					require.NoError(r, m.EnsureGateway(t.Context(), g))
				}
			}
			if c.Verb == vnet.Delete && c.Kind == "port" {
				require.NoError(r, m.DeletePort(t.Context(), c.ID))
			} else if c.Verb == vnet.Delete {
				require.NoError(r, m.DeleteGateway(t.Context(), c.ID))
			}
		}
		require.Empty(r, qos.Diff(m.Kernel().State(), b))
		require.Equal(r, b, m.Kernel().State())
	})
}

func TestVFRates(t *testing.T) {
	low, high, err := qos.Shape{Egress: qos.Limits{MinKbps: 5_000, Kbps: 10_000}, Ingress: qos.Limits{MinKbps: 7_000}}.VFRates()
	require.NoError(t, err)
	require.Equal(t, [2]int{5_000, 10_000}, [2]int{low, high})
	mark := uint8(46)
	for name, s := range map[string]qos.Shape{
		"ingress bandwidth":   {Ingress: qos.Limits{Kbps: 1}},
		"egress packet rate":  {Egress: qos.Limits{PPS: 1}},
		"ingress packet rate": {Ingress: qos.Limits{PPS: 1}},
		"egress burst":        {Egress: qos.Limits{Kbps: 1000, BurstKbit: 100}},
		"DSCP":                {DSCP: &mark},
	} {
		_, _, err := s.VFRates()
		var u *vnet.UnsupportedError
		require.ErrorAs(t, err, &u, name)
		require.Contains(t, u.Feature, name)
	}
}
