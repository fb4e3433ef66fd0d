package ovnrouter_test

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/ovnrouter"
)

// north is a Northbound without northd, with the networks of the tests.
func north(t testing.TB, o *ovnrouter.Options) (*ovn.Conn, *router.Service) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c, err := ovn.Dial(t.Context(), "owner", []string{s.Endpoint()}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		for id, segment := range map[string]string{"N": "geneve 7", "M": "geneve 8", "E": "flat on ext", "V": "vlan on ext 100"} { // as part overlay has it
			sw := ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{Name: c.Name("network", id), ExternalIDs: map[string]string{"vnet:segment": segment}})
			if strings.Contains(segment, " on ") {
				if id == "V" {
					id = "V/100"
				}
				l := ovn.Ensure(tx, "localnet", id, &nbrow.LogicalSwitchPort{Name: c.Name("localnet", id), Type: "localnet", Options: map[string]string{"network_name": "ext"}})
				tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", l.UUID)
			}
		}
		return nil
	}))
	b, err := ovnrouter.New(c, o)
	require.NoError(t, err)
	svc, err := router.New(b, nil)
	require.NoError(t, err)
	return c, svc
}

// example is the worked example: one tenant network, one router, one floating IP.
func example() router.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return router.State{
		Routers: []router.Router{{ID: "R",
			Interfaces: []router.Interface{{PortID: "I", NetworkID: "N", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:01"), Addresses: []netip.Prefix{p("10.1.0.1/24")}}},
			Gateway: &router.Gateway{PortID: "G", NetworkID: "E", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:0a"), Addresses: []netip.Prefix{p("203.0.113.10/24")},
				NextHops: []netip.Addr{a("203.0.113.1")}, MTU: 1442, Hosts: []string{"host1", "host2"}},
		}},
		FloatingIPs: []router.FloatingIP{{ID: "F", RouterID: "R", FloatingIP: a("203.0.113.50"), FixedIP: a("10.1.0.7"),
			PortID: "P", ExternalMAC: vnet.MustParseMAC("fa:16:3e:aa:00:32")}},
	}
}

// everything is more than the example: both families, advertisements, several
// routes, no SNAT, forwards, one of them to the address of the floating IP.
func everything() router.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	s := example()
	r := &s.Routers[0]
	r.Interfaces[0].Addresses = append(r.Interfaces[0].Addresses, p("2001:db8:1::1/64"))
	r.Interfaces[0].MTU = 1400
	r.Interfaces[0].RA = &router.RA{Mode: router.DHCPv6Stateless, MTU: 1400, RDNSS: []netip.Addr{a("2001:db8::53")}, DNSSL: []string{"example.org", "example.net"}, Interval: 60e9}
	r.Interfaces = append(r.Interfaces, router.Interface{PortID: "J", NetworkID: "M", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:02"), Addresses: []netip.Prefix{p("10.2.0.1/24")}})
	r.Gateway.Addresses = append(r.Gateway.Addresses, p("2001:db8:f::10/64"))
	r.Gateway.NextHops = append(r.Gateway.NextHops, a("fe80::1"))
	r.Gateway.DisableSNAT = true
	r.Routes = []router.Route{{Destination: p("192.168.0.0/16"), NextHop: a("10.1.0.8")}, {Destination: p("192.168.0.0/16"), NextHop: a("10.2.0.8")}}
	s.PortForwards = []router.PortForward{
		{ID: "T", RouterID: "R", Protocol: "tcp", ExternalIP: a("203.0.113.10"), ExternalPort: router.PortRange{First: 2200, Last: 2202}, InternalIP: a("10.1.0.7"), InternalPort: router.PortRange{First: 22, Last: 24}},
		{ID: "U", RouterID: "R", Protocol: "udp", ExternalIP: a("203.0.113.60"), ExternalPort: router.PortRange{First: 53}, InternalIP: a("10.2.0.9"), InternalPort: router.PortRange{First: 53}}}
	return s
}

// text is what part router has in the Northbound, and the members it has in
// the switches of others.
func text(t testing.TB, c *ovn.Conn) string {
	v, err := c.View(t.Context())
	require.NoError(t, err)
	var out []string
	names := map[string]string{}
	out = append(out, rowsText[nbrow.LogicalRouter](v, names)...)
	out = append(out, rowsText[nbrow.LogicalRouterPort](v, names)...)
	out = append(out, rowsText[nbrow.GatewayChassis](v, names)...)
	out = append(out, rowsText[nbrow.LogicalSwitchPort](v, names)...)
	out = append(out, rowsText[nbrow.LogicalRouterStaticRoute](v, names)...)
	out = append(out, rowsText[nbrow.NAT](v, names)...)
	out = append(out, rowsText[nbrow.AddressSet](v, names)...)
	out = append(out, rowsText[nbrow.LoadBalancer](v, names)...)
	for m, sw := range ovn.Own[nbrow.LogicalSwitch](v, vnet.PartOverlay) {
		out = append(out, fmt.Sprintf("network %s: Logical_Switch\n  ports %v\n  load_balancer %v\n", m.ID, sw.Ports, sw.LoadBalancer))
	}
	s := strings.Join(out, "")
	for uuid, name := range names {
		s = strings.ReplaceAll(s, uuid, name)
	}
	s = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).ReplaceAllString(s, "<localnet>")
	// Sets are in the order of UUIDs, which says nothing.
	return regexp.MustCompile(`\[[^\]{]*\]`).ReplaceAllStringFunc(s, func(set string) string {
		f := strings.Fields(strings.Trim(set, "[]"))
		sort.Strings(f)
		return "[" + strings.Join(f, " ") + "]"
	})
}

func rowsText[T any](v *ovn.View, names map[string]string) (out []string) {
	for m, row := range ovn.Own[T](v, vnet.PartRouter) {
		val := reflect.ValueOf(row).Elem()
		names[val.FieldByName("UUID").String()] = "<" + m.Kind + ":" + m.ID + ">"
		s := fmt.Sprintf("%s %s: %s\n", m.Kind, m.ID, val.Type().Name())
		for i := range val.NumField() {
			col, f := val.Type().Field(i).Tag.Get("ovsdb"), val.Field(i)
			if f.Kind() == reflect.Pointer && !f.IsNil() {
				f = f.Elem()
			} else if f.IsZero() || col == "_uuid" || f.Kind() == reflect.Map && f.Len() == 0 {
				continue
			}
			if ids, ok := f.Interface().(map[string]string); ok {
				var keys []string
				for k := range ids {
					if !slices.Contains([]string{"vnet:owner", "vnet:part", "vnet:kind", "vnet:id"}, k) {
						keys = append(keys, k)
					}
				}
				slices.Sort(keys)
				for _, k := range keys {
					s += fmt.Sprintf("  %s:%s=%s\n", col, k, ids[k])
				}
				continue
			}
			s += fmt.Sprintf("  %s %v\n", col, f.Interface())
		}
		out = append(out, s)
	}
	return out
}

// TestRows compares with golden rows, those of Neutron's driver in mind for the
// example; the two differ in names, in what stands in external_ids, and in that
// forwards are announced too.
func TestRows(t *testing.T) {
	for name, s := range map[string]router.State{"example": example(), "everything": everything()} {
		t.Run(name, func(t *testing.T) {
			c, svc := north(t, nil)
			require.NoError(t, svc.Sync(t.Context(), s, vnet.SyncOptions{}))
			got, file := text(t, c), "testdata/"+name+".golden"
			if os.Getenv("UPDATE") != "" {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got, "UPDATE=1 go test -run TestRows ./router/ovnrouter")
			p, err := svc.Plan(t.Context(), s)
			require.NoError(t, err)
			require.True(t, p.Empty(), p.String())

			// Object by object makes the same rows.
			c2, svc2 := north(t, nil)
			for _, r := range s.Routers {
				require.NoError(t, svc2.EnsureRouter(t.Context(), r))
			}
			for _, f := range s.FloatingIPs {
				require.NoError(t, svc2.EnsureFloatingIP(t.Context(), f))
			}
			for _, f := range s.PortForwards {
				require.NoError(t, svc2.EnsurePortForward(t.Context(), f))
			}
			require.Equal(t, got, text(t, c2))
			// And away again.
			for _, f := range s.PortForwards {
				require.NoError(t, svc2.DeletePortForward(t.Context(), f.ID))
			}
			for _, f := range s.FloatingIPs {
				require.NoError(t, svc2.DeleteFloatingIP(t.Context(), f.ID))
			}
			for _, r := range s.Routers {
				require.NoError(t, svc2.DeleteRouter(t.Context(), r.ID))
			}
			require.NotContains(t, text(t, c2), "vnet:")
			require.NotContains(t, text(t, c2), "router")
		})
	}
}

func TestGatewaysWithoutHosts(t *testing.T) {
	s := example()
	s.Routers[0].Gateway.Hosts = nil
	// Nobody to ask, and no hosts to choose from.
	_, svc := north(t, nil)
	var u *vnet.UnsupportedError
	require.ErrorAs(t, svc.EnsureRouter(t.Context(), s.Routers[0]), &u)
	require.Contains(t, u.Need, "GatewayHosts")

	c, svc := north(t, &ovnrouter.Options{GatewayHosts: []string{"x", "y", "z"}, MaxGatewayHosts: 2, NeighborAge: -1})
	require.NoError(t, svc.EnsureRouter(t.Context(), s.Routers[0]))
	out := text(t, c)
	require.Equal(t, 2, strings.Count(out, "  chassis_name "), out)
	require.NotContains(t, out, "mac_binding_age_threshold")
	p, err := svc.Plan(t.Context(), router.State{Routers: s.Routers})
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())
}

func TestInterfacesOnPhysicalNetworks(t *testing.T) {
	c, svc := north(t, nil)
	r := example().Routers[0]
	for _, network := range []string{"N", "V", "E"} {
		r.Interfaces[0].NetworkID = network
		for _, g := range []*router.Gateway{nil, example().Routers[0].Gateway} {
			r.Gateway = g
			require.NoError(t, svc.EnsureRouter(t.Context(), r))
			require.Equal(t, network != "N" && g != nil, strings.Contains(text(t, c), "options:reside-on-redirect-chassis=true"), "%s %v", network, g)
		}
	}
}

func TestNetworkThatIsNot(t *testing.T) {
	_, svc := north(t, nil)
	r := example().Routers[0]
	r.Interfaces[0].NetworkID = "nowhere"
	require.ErrorIs(t, svc.EnsureRouter(t.Context(), r), vnet.ErrNotFound)
	r = example().Routers[0]
	r.Gateway.NetworkID = "nowhere"
	require.ErrorIs(t, svc.EnsureRouter(t.Context(), r), vnet.ErrNotFound)
}

func TestBatch(t *testing.T) {
	c, _ := north(t, nil)
	batch := c.Batch()
	b, err := ovnrouter.New(batch, nil)
	require.NoError(t, err)
	s := everything().Canonical()
	for _, r := range s.Routers {
		require.NoError(t, b.EnsureRouter(t.Context(), r))
	}
	for _, f := range s.FloatingIPs {
		require.NoError(t, b.EnsureFloatingIP(t.Context(), f))
	}
	for _, f := range s.PortForwards {
		require.NoError(t, b.EnsurePortForward(t.Context(), f))
	}
	require.NotContains(t, text(t, c), "Logical_Router_Port")
	require.NoError(t, batch.Commit(t.Context()))
	want, err := os.ReadFile("testdata/everything.golden")
	require.NoError(t, err)
	require.Equal(t, string(want), text(t, c))
}

func TestPortsGoToAnotherRouter(t *testing.T) {
	_, svc := north(t, nil)
	s := example()
	s.FloatingIPs = nil
	require.NoError(t, svc.Sync(t.Context(), s, vnet.SyncOptions{}))
	// Both ids that sort before and after.
	for _, id := range []string{"A", "Z"} {
		other := s.Routers[0].Clone()
		other.ID = id
		other.Gateway = nil
		left := s.Routers[0].Clone()
		left.Interfaces = nil
		now := router.State{Routers: []router.Router{left, other}}
		require.NoError(t, svc.Sync(t.Context(), now, vnet.SyncOptions{}))
		p, err := svc.Plan(t.Context(), now)
		require.NoError(t, err)
		require.True(t, p.Empty(), p.String())
		require.NoError(t, svc.Sync(t.Context(), s, vnet.SyncOptions{}))
		p, err = svc.Plan(t.Context(), s)
		require.NoError(t, err)
		require.True(t, p.Empty(), p.String())
	}
}

func TestWhatIsChangedByHandIsMended(t *testing.T) {
	c, svc := north(t, nil)
	s := everything()
	require.NoError(t, svc.Sync(t.Context(), s, vnet.SyncOptions{}))
	want := text(t, c)
	v, err := c.View(t.Context())
	require.NoError(t, err)
	nat := ovn.Find[nbrow.NAT](v, vnet.PartRouter, "snat", "R/10.1.0.0/24")
	lrp := ovn.Find[nbrow.LogicalRouterPort](v, vnet.PartRouter, "port", "I")
	require.NoError(t, c.Submit(t.Context(), vnet.PartRouter, func(tx *ovn.Tx) error {
		tx.Delete(ovn.At[nbrow.NAT](tx, nat.UUID))
		ovn.Ensure(tx, "port", "I", &nbrow.LogicalRouterPort{MAC: "02:00:00:00:00:99"}, "mac")
		tx.Members(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "M"), "load_balancer", nil, []string{ovn.UUID[nbrow.LoadBalancer](tx, vnet.PartRouter, "portforward", "T")})
		tx.Delete(ovn.Find[nbrow.NAT](tx, vnet.PartRouter, "floatingip", "F"))
		return nil
	}))
	require.NotNil(t, lrp)
	p, err := svc.Plan(t.Context(), s)
	require.NoError(t, err)
	require.Len(t, p.Changes, 2, p.String())
	require.NoError(t, svc.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Equal(t, want, text(t, c))
}
