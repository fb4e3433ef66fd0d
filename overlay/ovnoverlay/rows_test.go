package ovnoverlay_test

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

const (
	patience = 30 * time.Second
	tick     = 2 * time.Millisecond
)

var update = flag.Bool("update", false, "write the golden files anew")

// north is a Northbound that no northd reads, for one owner.
type north struct {
	*ovsdbtest.Server
	c   *ovn.Conn
	reg *prometheus.Registry
	f   *overlay.Fabric
}

func newNorth(t testing.TB) *north { return onNorth(t, ovsdbtest.New(t, ovsdbtest.NB), "red") }

func onNorth(t testing.TB, s *ovsdbtest.Server, owner vnet.Owner) *north {
	t.Helper()
	n := &north{Server: s, reg: prometheus.NewRegistry()}
	var err error
	n.c, err = ovn.Dial(t.Context(), owner, []string{s.Endpoint()}, &ovn.Options{Metrics: n.reg})
	require.NoError(t, err)
	t.Cleanup(func() { n.c.Close() })
	b, err := ovnoverlay.New(n.c, nil)
	require.NoError(t, err)
	n.f, err = overlay.New(b, nil)
	require.NoError(t, err)
	return n
}

func (n *north) view(t testing.TB) *ovn.View {
	t.Helper()
	v, err := n.c.View(t.Context())
	require.NoError(t, err)
	return v
}

func (n *north) plan(t testing.TB, s overlay.State) string {
	t.Helper()
	p, err := n.f.Plan(t.Context(), s)
	require.NoError(t, err)
	return p.String()
}

// text is all that part overlay has in the Northbound.
func (n *north) text(t testing.TB) string {
	v := n.view(t)
	names := map[string]string{}
	out := table[nbrow.LogicalSwitch](v, names) + table[nbrow.LogicalSwitchPort](v, names) + table[nbrow.ACL](v, names)
	var lines []string
	for line := range strings.Lines(out) {
		head, set, is := strings.Cut(strings.TrimSuffix(line, "\n"), " [")
		if is { // in the order of names, not of UUIDs
			members := strings.Split(strings.TrimSuffix(set, "]"), ", ")
			for i, m := range members {
				if names[m] != "" {
					members[i] = names[m]
				}
			}
			slices.Sort(members)
			line = head + " [" + strings.Join(members, ", ") + "]\n"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func table[T any](v *ovn.View, names map[string]string) string {
	var out strings.Builder
	for m, row := range ovn.Own[T](v, vnet.PartOverlay) {
		val := reflect.ValueOf(row).Elem()
		names[val.FieldByName("UUID").String()] = "<" + m.Kind + " " + m.ID + ">"
		fmt.Fprintf(&out, "%s %s: %s\n", m.Kind, m.ID, val.Type().Name())
		for i := range val.NumField() {
			col, f := val.Type().Field(i).Tag.Get("ovsdb"), val.Field(i)
			switch x := f.Interface().(type) {
			case []string:
				if len(x) > 0 {
					fmt.Fprintf(&out, "  %s [%s]\n", col, strings.Join(x, ", "))
				}
			case map[string]string:
				for _, k := range slices.Sorted(maps.Keys(x)) {
					if !slices.Contains([]string{"vnet:owner", "vnet:part", "vnet:kind", "vnet:id"}, k) {
						fmt.Fprintf(&out, "  %s:%s %s\n", col, k, x[k])
					}
				}
			default:
				if f.IsZero() || col == "_uuid" {
					continue
				}
				if f.Kind() == reflect.Pointer {
					f = f.Elem()
				}
				fmt.Fprintf(&out, "  %s %v\n", col, f.Interface())
			}
		}
	}
	return out.String()
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

// example has some of everything.
func example() overlay.State {
	return overlay.State{
		Networks: []overlay.Network{
			{ID: "N", Segment: overlay.Segment{Type: overlay.Geneve, ID: 7}, Subnets: []overlay.Subnet{
				{ID: "S4", CIDR: pfx("10.1.0.0/24"), Gateway: ip("10.1.0.1")}, {ID: "S6", CIDR: pfx("2001:db8:1::/64")}}},
			{ID: "E", Segment: overlay.Segment{Type: overlay.VLAN, PhysicalNetwork: "ext", ID: 100}, MTU: 1400},
			{ID: "F", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ext"}},
			{ID: "D", Segment: overlay.Segment{Type: overlay.Geneve, ID: 8}, AdminDown: true, Flooding: overlay.Flooding{Broadcast: true}},
		},
		Ports: []overlay.Port{
			{ID: "P", NetworkID: "N", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:07"), FixedIPs: []netip.Addr{ip("10.1.0.7"), ip("2001:db8:1::7")}, Filtered: true, Host: "host1"},
			{ID: "Q", NetworkID: "N", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:08"), AdminDown: true},
			{ID: "R", NetworkID: "E", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:09")},
			{ID: "T", NetworkID: "D", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:0a"), FixedIPs: []netip.Addr{ip("10.9.0.1")}},
		},
	}
}

// TestRows: the rows of a state as text.
func TestRows(t *testing.T) {
	n := newNorth(t)
	require.NoError(t, n.f.Sync(t.Context(), example(), vnet.SyncOptions{}))
	got := n.text(t)
	const file = "testdata/example.golden"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// TestChanges: each change of a state costs the operations of that change,
// and comes to the same rows as making the new state afresh.
func TestChanges(t *testing.T) {
	n := newNorth(t)
	s := example()
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	for _, c := range []struct {
		name   string
		change func(s *overlay.State)
		plan   string
	}{
		{"a port moves to another network", func(s *overlay.State) { s.Ports[1].NetworkID = "F" }, "~ overlay port Q"},
		{"a MAC", func(s *overlay.State) { s.Ports[0].MAC[5] = 0x17 }, "~ overlay port P"},
		{"an address", func(s *overlay.State) { s.Ports[0].FixedIPs = s.Ports[0].FixedIPs[:1] }, "~ overlay port P"},
		{"a host", func(s *overlay.State) { s.Ports[0].Host = "host2" }, "~ overlay port P"},
		{"any host", func(s *overlay.State) { s.Ports[0].Host = "" }, "~ overlay port P"},
		{"not filtered", func(s *overlay.State) { s.Ports[0].Filtered = false }, "~ overlay port P"},
		{"filtered again", func(s *overlay.State) { s.Ports[0].Filtered = true }, "~ overlay port P"},
		{"a port up", func(s *overlay.State) { s.Ports[1].AdminDown = false }, "~ overlay port Q"},
		{"a network up", func(s *overlay.State) { s.Networks[3].AdminDown = false }, "~ overlay network D"},
		{"a network down", func(s *overlay.State) { s.Networks[0].AdminDown = true }, "~ overlay network N"},
		{"a VLAN", func(s *overlay.State) { s.Networks[1].Segment.ID = 101 }, "~ overlay network E"},
		{"from flat to Geneve", func(s *overlay.State) { s.Networks[2].Segment = overlay.Segment{Type: overlay.Geneve, ID: 9} }, "~ overlay network F"},
		{"subnets", func(s *overlay.State) { s.Networks[2].Subnets = []overlay.Subnet{{ID: "x", CIDR: pfx("10.5.0.0/24")}} }, "~ overlay network F"},
		{"MTU", func(s *overlay.State) { s.Networks[0].MTU = 1300 }, "~ overlay network N"},
		{"a port goes", func(s *overlay.State) { s.Ports = s.Ports[:3] }, "- overlay port T"},
		{"a network goes", func(s *overlay.State) { s.Networks = s.Networks[:3] }, "- overlay network D"},
	} {
		c.change(&s)
		p, err := n.f.Plan(t.Context(), s)
		require.NoError(t, err, c.name)
		var brief []string
		for _, x := range p.Changes {
			line, _, _ := strings.Cut(x.String(), "\n")
			line, _, _ = strings.Cut(line, "  (")
			brief = append(brief, line)
		}
		require.Equal(t, []string{c.plan}, brief, c.name)
		before := operations(t, n.reg)
		require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}), c.name)
		require.LessOrEqual(t, operations(t, n.reg)-before, 10.0, c.name)
		require.Equal(t, "nothing to do\n", n.plan(t, s), c.name)
		fresh := newNorth(t)
		require.NoError(t, fresh.f.Sync(t.Context(), s, vnet.SyncOptions{}), c.name)
		require.Equal(t, fresh.text(t), n.text(t), c.name)
	}
	before := operations(t, n.reg)
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Equal(t, before, operations(t, n.reg), "nothing differs, and nothing is written")
}

// TestDrift: what an administrator has changed in our rows is seen and put right.
func TestDrift(t *testing.T) {
	n := newNorth(t)
	s := example()
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	want := n.text(t)
	for _, tx := range []string{
		`{"op":"update","table":"Logical_Switch_Port","where":[["name","==","red/P"]],"row":{"enabled":true,"options":["map",[]]}}`,
		`{"op":"mutate","table":"Logical_Switch_Port","where":[["name","==","red/P"]],"mutations":[["addresses","delete","fa:16:3e:aa:00:07 10.1.0.7 2001:db8:1::7"]]}`,
		`{"op":"update","table":"Logical_Switch_Port","where":[["name","==","red/Q"]],"row":{"enabled":true}}`,
		`{"op":"update","table":"Logical_Switch_Port","where":[["name","==","red/localnet/E/100"]],"row":{"tag_request":5,"addresses":["set",[]]}}`,
		`{"op":"update","table":"Logical_Switch","where":[["name","==","red/network/D"]],"row":{"acls":["set",[]]}}`,
		`{"op":"update","table":"Logical_Switch","where":[["name","==","red/network/F"]],"row":{"ports":["set",[]],"name":"mine"}}`,
	} {
		n.Transact(`["OVN_Northbound",` + tx + `]`)
		require.Eventually(t, func() bool { return n.text(t) != want }, patience, tick, "the change has come: %s", tx)
		require.NotEqual(t, "nothing to do\n", n.plan(t, s), tx)
		require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
		require.Equal(t, want, n.text(t), tx)
		require.Equal(t, "nothing to do\n", n.plan(t, s), tx)
	}
}

// TestOwners: two owners with the same ids, names and addresses, and rows of
// nobody, in one Northbound.
func TestOwners(t *testing.T) {
	red := newNorth(t)
	blue := onNorth(t, red.Server, "blue")
	nobody := func() string {
		return red.Run("ovn-nbctl", "--db="+red.Endpoint(), "--columns=_uuid,name,ports", "find", "Logical_Switch", "external_ids={}") +
			red.Run("ovn-nbctl", "--db="+red.Endpoint(), "list", "Logical_Switch_Port", "P")
	}
	red.Run("ovn-nbctl", "--db="+red.Endpoint(), "ls-add", "N", "--", "lsp-add", "N", "P", "--", "lsp-set-addresses", "P", "fa:16:3e:aa:00:07 10.1.0.7")
	was := nobody()
	require.Contains(t, was, "P")
	s := example()
	require.NoError(t, red.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	before := red.text(t)
	require.NoError(t, blue.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Equal(t, before, red.text(t))
	require.Equal(t, strings.ReplaceAll(before, "red/", "blue/"), blue.text(t))
	s.Networks[1].MTU, s.Ports[0].AdminDown = 1300, true
	require.NoError(t, blue.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.NoError(t, blue.f.Sync(t.Context(), overlay.State{}, vnet.SyncOptions{Force: true}))
	require.Empty(t, blue.text(t), "nothing is left")
	require.Equal(t, before, red.text(t))
	require.NoError(t, red.f.Sync(t.Context(), overlay.State{}, vnet.SyncOptions{Force: true}))
	require.Empty(t, red.text(t))
	require.Equal(t, was, nobody())
}

// TestUsers: a network goes when nobody is on it, of whatever part, and Sync
// asks that too.
func TestUsers(t *testing.T) {
	n := newNorth(t)
	s := example()
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	router := func(tx *ovn.Tx) error {
		p := ovn.Ensure(tx, "port", "I", &nbrow.LogicalSwitchPort{Name: tx.Conn().Name("port", "I"), Type: "router", Addresses: []string{"router"}})
		tx.Hold(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "F"), "ports", p.UUID)
		return nil
	}
	require.NoError(t, n.c.Submit(t.Context(), vnet.PartRouter, router))
	err := n.f.DeleteNetwork(t.Context(), "F")
	require.ErrorIs(t, err, vnet.ErrInUse)
	require.ErrorContains(t, err, "router port I")
	before := n.text(t)
	require.ErrorIs(t, n.f.Sync(t.Context(), overlay.State{}, vnet.SyncOptions{Force: true}), vnet.ErrInUse)
	require.Equal(t, before, n.text(t), "all or nothing")
	require.NoError(t, n.c.Submit(t.Context(), vnet.PartRouter, func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartRouter, "port", "I"))
		return nil
	}))
	require.NoError(t, n.f.DeleteNetwork(t.Context(), "F"))
}

// TestOtherParts: what other parts have in our rows stays.
func TestOtherParts(t *testing.T) {
	n := newNorth(t)
	s := example()
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.NoError(t, n.c.Submit(t.Context(), vnet.PartSecGroup, func(tx *ovn.Tx) error {
		row := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "R")
		ovn.Update(tx, row, &nbrow.LogicalSwitchPort{PortSecurity: []string{"fa:16:3e:aa:00:09"}})
		tx.Members(row, "addresses", []string{"unknown"}, nil)
		return nil
	}))
	require.Equal(t, "nothing to do\n", n.plan(t, s))
	s.Ports[2].MAC[5], s.Ports[2].NetworkID = 0x19, "N"
	require.NoError(t, n.f.Sync(t.Context(), s, vnet.SyncOptions{}))
	row := ovn.Find[nbrow.LogicalSwitchPort](n.view(t), vnet.PartOverlay, "port", "R")
	require.Equal(t, []string{"fa:16:3e:aa:00:19", "unknown"}, row.Addresses)
	require.Equal(t, []string{"fa:16:3e:aa:00:09"}, row.PortSecurity)
}
