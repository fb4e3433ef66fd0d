package ovn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
)

func view(t *testing.T, c *ovn.Conn) *ovn.View {
	t.Helper()
	v, err := c.View(t.Context())
	require.NoError(t, err)
	return v
}

// ensureOptions is a dhcp of one row and one reference.
func ensureOptions(port, cidr string) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		lsp := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", port)
		if lsp == nil {
			return fmt.Errorf("port %s: %w", port, vnet.ErrNotFound)
		}
		d := ovn.Ensure(tx, "reservation", port, &nbrow.DHCPOptions{Cidr: cidr, Options: map[string]string{"router": "10.0.0.1"}})
		u := ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{Dhcpv4Options: &d.UUID})
		tx.Record("reservation", port, vnet.ImpactNone, d, u)
		return nil
	}
}

// ensureGroup is a security group of one rule.
func ensureGroup(id string, ports ...string) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		name := tx.Conn().Symbol("pg", id)
		pg := &nbrow.PortGroup{Name: name}
		for _, p := range ports {
			pg.Ports = append(pg.Ports, ovn.UUID[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", p))
		}
		acl := ovn.Ensure(tx, "rule", id+"/r", &nbrow.ACL{Direction: "to-lport", Priority: 1002, Action: "allow-related", Match: "outport == @" + name + " && ip4"})
		pg.ACLs = []string{acl.UUID}
		g := ovn.Ensure(tx, "group", id, pg)
		tx.Record("group", id, vnet.ImpactNone, g, acl)
		return nil
	}
}

func TestBatchIsOneTransaction(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	b := c.Batch()
	require.ErrorIs(t, b.Submit(ctx, vnet.PartDHCP, ensureOptions("p1", "10.0.0.0/24")), vnet.ErrNotFound, "not yet in the batch")
	require.NoError(t, b.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	require.NoError(t, b.Submit(ctx, vnet.PartDHCP, ensureOptions("p1", "10.0.0.0/24")))
	require.NoError(t, b.Submit(ctx, vnet.PartSecGroup, ensureGroup("g1", "p1")))
	p, err := b.Plan(ctx, vnet.PartSecGroup, ensureGroup("g1", "p1"))
	require.NoError(t, err)
	require.True(t, p.Empty(), "what is pending stands")
	require.Equal(t, `+ overlay network n1
+ overlay port p1
+ dhcp reservation p1
+ secgroup group g1
4 to create, 0 to update, 0 to delete
`, b.Changes().String())
	require.Nil(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n1"))
	// Another writer comes in between: the batch is computed anew.
	d := dial(t, "red", nil, s.Endpoint())
	require.NoError(t, d.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p0")))
	records := transactions(s)
	require.NoError(t, b.Commit(ctx))
	require.True(t, b.Changes().Empty())
	require.NoError(t, b.Commit(ctx), "nothing")
	v := view(t, c)
	require.Len(t, ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", "n1").Ports, 2)
	lsp := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", "p1")
	require.Equal(t, ovn.UUID[nbrow.DHCPOptions](v, vnet.PartDHCP, "reservation", "p1"), *lsp.Dhcpv4Options)
	require.Equal(t, []string{lsp.UUID}, ovn.Find[nbrow.PortGroup](v, vnet.PartSecGroup, "group", "g1").Ports)
	require.Equal(t, records+1, transactions(s))
}

// transactions is how many the server has written down.
func transactions(s *ovsdbtest.Server) int {
	return strings.Count(s.Run("ovsdb-tool", "show-log", s.Dir+"/db"), "record ")
}

func TestBatchFailsWhole(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	b := c.Batch()
	require.NoError(t, b.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	boom := errors.New("boom")
	require.ErrorIs(t, b.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		require.NoError(t, ensureNetwork("n2", "p2")(tx))
		return boom
	}), boom)
	require.NoError(t, b.Submit(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error {
		require.Nil(t, ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "n2"), "taken back")
		ovn.Ensure(tx, "set", "x", &nbrow.AddressSet{Name: "taken"})
		return nil
	}))
	s.Run("ovn-nbctl", "--db="+s.Endpoint(), "create", "address_set", "name=taken")
	err := b.Commit(ctx)
	require.ErrorIs(t, err, vnet.ErrConflict)
	require.ErrorContains(t, err, "Address_Set")
	require.Nil(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n1"), "nothing of it is written")
}

func TestForeignRowsAreNotTouched(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	red, blue := dial(t, "red", nil, s.Endpoint()), dial(t, "blue", nil, s.Endpoint())
	ctx := t.Context()
	require.NoError(t, blue.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	require.NoError(t, red.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	s.Run("ovn-nbctl", "--db="+s.Endpoint(), "ls-add", "n1", "--", "lsp-add", "n1", "p1")
	before := s.Run("ovsdb-client", "dump", s.Endpoint(), "OVN_Northbound", "Logical_Switch")
	err := red.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		require.Equal(t, 1, count(ovn.Own[nbrow.LogicalSwitch](tx, vnet.PartOverlay)))
		require.Zero(t, count(ovn.Own[nbrow.LogicalSwitch](tx, vnet.PartRouter)))
		return nil
	})
	require.NoError(t, err)
	for sw := range ovn.All[nbrow.LogicalSwitch](view(t, red)) {
		if m, ok := ovn.MarkOf(sw.ExternalIDs); ok && m.Owner == "red" {
			continue
		}
		for what, f := range map[string]func(tx *ovn.Tx){
			"delete":  func(tx *ovn.Tx) { tx.Delete(sw) },
			"update":  func(tx *ovn.Tx) { ovn.Update(tx, sw, &nbrow.LogicalSwitch{Name: "mine"}) },
			"members": func(tx *ovn.Tx) { tx.Members(sw, "acls", nil, sw.Ports) },
			"hold": func(tx *ovn.Tx) {
				tx.Hold(sw, "ports", ovn.UUID[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "p1"))
			},
		} {
			err := red.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error { f(tx); return nil })
			require.ErrorIs(t, err, vnet.ErrConflict, what)
		}
	}
	// A row that has our UUID and not our mark.
	id := ovn.UUID[nbrow.LogicalSwitch](view(t, red), vnet.PartOverlay, "network", "n2")
	s.Transact(fmt.Sprintf(`["OVN_Northbound",{"op":"insert","table":"Logical_Switch","uuid":%q,"row":{"name":"odd"}}]`, id))
	require.Eventually(t, func() bool { return ovn.At[nbrow.LogicalSwitch](view(t, red), id) != nil }, time.Minute, time.Millisecond)
	require.ErrorIs(t, red.Submit(ctx, vnet.PartOverlay, ensureNetwork("n2")), vnet.ErrConflict)
	s.Transact(fmt.Sprintf(`["OVN_Northbound",{"op":"delete","table":"Logical_Switch","where":[["_uuid","==",["uuid",%q]]]}]`, id))
	require.Equal(t, before, s.Run("ovsdb-client", "dump", s.Endpoint(), "OVN_Northbound", "Logical_Switch"))
}

func count[A, B any](seq func(func(A, B) bool)) (n int) {
	for range seq {
		n++
	}
	return n
}

func TestColumnsHaveOwners(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	v := view(t, c)
	lsp := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", "p1")
	sw := ovn.Holder[nbrow.LogicalSwitch](v, lsp)
	for name, x := range map[string]struct {
		part vnet.Part
		f    func(tx *ovn.Tx)
	}{
		"a column of another part": {vnet.PartDHCP, func(tx *ovn.Tx) { ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{Addresses: []string{"unknown"}}) }},
		"by name":                  {vnet.PartDHCP, func(tx *ovn.Tx) { ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{}, "addresses") }},
		"a column of northd":       {vnet.PartOverlay, func(tx *ovn.Tx) { ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{Up: new(true)}) }},
		"a key of another part": {vnet.PartOverlay, func(tx *ovn.Tx) {
			ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{Options: map[string]string{"router-port": "x"}})
		}},
		"a table of another part": {vnet.PartDHCP, func(tx *ovn.Tx) { ovn.Ensure(tx, "x", "y", &nbrow.LogicalSwitch{Name: "x"}) }},
		"members of another part": {vnet.PartDHCP, func(tx *ovn.Tx) { tx.Members(sw, "acls", nil, sw.Ports) }},
		"the mark": {vnet.PartOverlay, func(tx *ovn.Tx) {
			ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{ExternalIDs: map[string]string{"vnet:owner": "x"}})
		}},
		"a key without vnet": {vnet.PartOverlay, func(tx *ovn.Tx) {
			ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{ExternalIDs: map[string]string{"neutron:x": "x"}})
		}},
		"a key of another's": {vnet.PartDHCP, func(tx *ovn.Tx) {
			ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{ExternalIDs: map[string]string{"vnet:x": "x"}})
		}},
		"to remove another's row":   {vnet.PartDHCP, func(tx *ovn.Tx) { tx.Delete(lsp) }},
		"to make a row unknown yet": {vnet.PartOverlay, func(tx *ovn.Tx) { ovn.Ensure(tx, "x", "y", &nbrow.NAT{Type: "snat"}) }},
	} {
		_, err := c.Plan(ctx, x.part, func(tx *ovn.Tx) error { x.f(tx); return nil })
		require.Error(t, err, name)
	}
	// What others have in our rows stays.
	s.Run("ovn-nbctl", "--db="+s.Endpoint(), "set", "logical_switch_port", "red/p1", "options:theirs=1", "external_ids:theirs=1", `port_security="00:00:00:00:00:01"`)
	require.NoError(t, c.Submit(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error {
		ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{PortSecurity: []string{"00:00:00:00:00:02"}, ExternalIDs: map[string]string{"vnet:secgroup:x": "1"}})
		return nil
	}))
	require.Eventually(t, func() bool {
		return ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p1").Options["theirs"] == "1"
	}, time.Minute, time.Millisecond)
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		r := ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{Name: "red/p1", Enabled: new(false), Options: map[string]string{"requested-chassis": "c"},
			ExternalIDs: map[string]string{"vnet:mac": "1"}})
		require.Equal(t, []string{"enabled: none -> false", "external_ids:vnet:mac: none -> 1", "options:requested-chassis: none -> c"}, r.Diff)
		return nil
	}))
	lsp = ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p1")
	require.Equal(t, map[string]string{"theirs": "1", "requested-chassis": "c"}, lsp.Options)
	require.Equal(t, []string{"00:00:00:00:00:02"}, lsp.PortSecurity)
	require.Equal(t, "1", lsp.ExternalIDs["theirs"])
	require.Equal(t, "1", lsp.ExternalIDs["vnet:secgroup:x"])
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		r := ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{Name: "red/p1"}, "options", "external_ids:vnet:mac")
		require.Equal(t, []string{"external_ids:vnet:mac: 1 -> none", "options:requested-chassis: c -> none"}, r.Diff)
		return nil
	}))
}

func TestRowsThatAreNot(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	for name, f := range map[string]func(tx *ovn.Tx){
		"update":  func(tx *ovn.Tx) { ovn.Update(tx, nil, &nbrow.LogicalSwitch{}) },
		"members": func(tx *ovn.Tx) { tx.Members((*nbrow.LogicalSwitch)(nil), "ports", nil, nil) },
		"hold":    func(tx *ovn.Tx) { tx.Hold((*nbrow.LogicalSwitch)(nil), "ports", "x") },
		"guard":   func(tx *ovn.Tx) { tx.Guard((*nbrow.LogicalSwitch)(nil)) },
		"gone":    func(tx *ovn.Tx) { tx.Members(&nbrow.LogicalSwitch{UUID: "x"}, "ports", nil, nil) },
	} {
		err := c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error { f(tx); return nil })
		require.ErrorIs(t, err, vnet.ErrNotFound, name)
	}
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		tx.Delete(nil)
		tx.Delete((*nbrow.LogicalSwitch)(nil))
		require.Nil(t, ovn.Holder[nbrow.LogicalSwitch](tx, (*nbrow.LogicalSwitchPort)(nil)))
		require.Nil(t, ovn.Holder[nbrow.LogicalSwitch](tx, nil))
		return nil
	}))
	require.Error(t, c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error { tx.Hold(nil, "ports", "x"); return nil }))
}

// TestSeenTooLate: what a part has as a whole becomes what it says, also when
// another writer has just put something else there; what it shares does not lose
// the others'.
func TestSeenTooLate(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
	calls := 0
	err := c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		if calls++; calls == 1 { // after the view was taken
			s.Run("ovn-nbctl", "--db="+s.Endpoint(), "set", "logical_switch_port", "red/p1", "options:theirs=1", "options:requested-chassis=theirs", "type=router")
		}
		ovn.Ensure(tx, "port", "p1", &nbrow.LogicalSwitchPort{Name: "red/p1", Type: "localnet", Options: map[string]string{"requested-chassis": "c"}})
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, calls)
	lsp := ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p1")
	require.Equal(t, map[string]string{"theirs": "1", "requested-chassis": "c"}, lsp.Options)
	require.Equal(t, "localnet", lsp.Type)
	calls = 0
	require.NoError(t, c.Submit(ctx, vnet.PartSecGroup, func(tx *ovn.Tx) error {
		if calls++; calls == 1 {
			s.Run("ovn-nbctl", "--db="+s.Endpoint(), "lsp-set-port-security", "red/p1", "00:00:00:00:00:01")
		}
		ovn.Update(tx, lsp, &nbrow.LogicalSwitchPort{PortSecurity: []string{"00:00:00:00:00:02"}})
		return nil
	}))
	require.Equal(t, []string{"00:00:00:00:00:02"}, ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p1").PortSecurity)
}

// TestOperations is what is sent, as text.
func TestOperations(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	print := func(part vnet.Part, f func(*ovn.Tx) error) string {
		t.Helper()
		p, err := c.Print(ctx, part, f)
		require.NoError(t, err)
		require.NoError(t, c.Submit(ctx, part, f))
		again, err := c.Print(ctx, part, f)
		require.NoError(t, err)
		require.Empty(t, again, "twice is once")
		return p
	}
	var got strings.Builder
	got.WriteString("make\n" + print(vnet.PartOverlay, ensureNetwork("n1", "p1")))
	got.WriteString("add a port\n" + print(vnet.PartOverlay, ensureNetwork("n1", "p1", "p2")))
	got.WriteString("make a group\n" + print(vnet.PartSecGroup, ensureGroup("g1", "p1")))
	got.WriteString("a member joins\n" + print(vnet.PartSecGroup, ensureGroup("g1", "p1", "p2")))
	got.WriteString("another port\n" + print(vnet.PartSecGroup, ensureGroup("g1", "p2")))
	got.WriteString("options\n" + print(vnet.PartDHCP, ensureOptions("p1", "10.0.0.0/24")))
	got.WriteString("other options\n" + print(vnet.PartDHCP, ensureOptions("p1", "10.0.0.0/25")))
	got.WriteString("move a port\n" + print(vnet.PartOverlay, ensureNetwork("n2", "p2")))
	got.WriteString("remove a port, and a group\n" + print(vnet.PartOverlay, func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", "p2"))
		return nil
	}) + print(vnet.PartSecGroup, func(tx *ovn.Tx) error {
		tx.Delete(ovn.Find[nbrow.PortGroup](tx, vnet.PartSecGroup, "group", "g1"))
		tx.Delete(ovn.Find[nbrow.ACL](tx, vnet.PartSecGroup, "rule", "g1/r"))
		return nil
	}))
	golden(t, "operations.txt", got.String())
}

// TestSameObjectFromManyProcesses: in tables without an index, and with.
func TestSameObjectFromManyProcesses(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 4 {
		c := dial(t, "red", nil, s.Endpoint())
		wg.Go(func() {
			for i := range 10 {
				errs <- c.Submit(t.Context(), vnet.PartOverlay, ensureNetwork("n1", fmt.Sprint("p", i)))
				b := c.Batch()
				errs <- errors.Join(b.Submit(t.Context(), vnet.PartDHCP, ensureOptions(fmt.Sprint("p", i), "10.0.0.0/24")),
					b.Submit(t.Context(), vnet.PartSecGroup, ensureGroup(fmt.Sprint("g", i), fmt.Sprint("p", i))), b.Commit(t.Context()))
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	v := view(t, dial(t, "red", nil, s.Endpoint()))
	require.Equal(t, 1, count(ovn.Own[nbrow.LogicalSwitch](v, vnet.PartOverlay)))
	require.Equal(t, 10, count(ovn.Own[nbrow.LogicalSwitchPort](v, vnet.PartOverlay)))
	require.Equal(t, 10, count(ovn.Own[nbrow.DHCPOptions](v, vnet.PartDHCP)))
	require.Equal(t, 10, count(ovn.Own[nbrow.PortGroup](v, vnet.PartSecGroup)))
	require.Equal(t, 10, count(ovn.Own[nbrow.ACL](v, vnet.PartSecGroup)))
}

// TestDecidedOnWhatIsGone: a decision that rests on rows which are not written
// is made anew when they have changed.
func TestDecidedOnWhatIsGone(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c, d := dial(t, "red", nil, s.Endpoint()), dial(t, "red", nil, s.Endpoint())
	ctx := t.Context()
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1")))
	calls := 0
	err := c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		sw := ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "n1")
		if calls++; calls == 1 {
			require.NoError(t, d.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1")))
		}
		if len(sw.Ports) > 0 {
			return vnet.ErrInUse
		}
		tx.Guard(sw, "ports")
		tx.Delete(sw)
		return nil
	})
	require.ErrorIs(t, err, vnet.ErrInUse)
	require.Equal(t, 2, calls)
	// A row that another has removed is not changed into nothing in silence.
	calls = 0
	require.NoError(t, c.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
		if calls++; calls == 1 {
			require.NoError(t, d.Submit(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
				tx.Delete(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", "n1"))
				return nil
			}))
		}
		return ensureNetwork("n1", "p1", "p2")(tx)
	}))
	require.Equal(t, 2, calls)
	require.Len(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n1").Ports, 2)
}

func TestNames(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	seen := map[string]string{}
	for _, owner := range []vnet.Owner{"red", "red-1", "r"} {
		c := dial(t, owner, nil, s.Endpoint())
		for _, id := range []string{"a", "a-b", "a_b", "a__b", "a_hb", "a.b", "1-a", "1", "lrp.a"} {
			for kind, name := range map[string]string{"port": c.PortName(id), "lrp": c.Name("lrp", id), "pg": c.Symbol("pg", id), "ag": c.Symbol("ag", id)} {
				what := fmt.Sprint(owner, kind, id)
				require.NotContains(t, seen, name, what)
				seen[name] = what
				if kind == "pg" || kind == "ag" {
					require.Regexp(t, `^[a-zA-Z_.][a-zA-Z_.0-9]*$`, name)
				}
				got, ok := ovn.ParsePortName(owner, name)
				require.Equal(t, kind == "port", ok)
				if ok {
					require.Equal(t, id, got)
				}
			}
		}
	}
}

func TestDialNamesWhatIsWrong(t *testing.T) {
	_, err := ovn.Dial(t.Context(), "Red", []string{"unix:/x"}, nil)
	require.ErrorContains(t, err, "owner")
	_, err = ovn.Dial(t.Context(), "red", nil, nil)
	require.ErrorContains(t, err, "northbound")
	_, err = ovn.Dial(t.Context(), "red", []string{"http:x"}, nil)
	require.ErrorContains(t, err, "northbound.endpoint")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = ovn.Dial(ctx, "red", []string{"unix:/nonexistent"}, nil)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "unix:/nonexistent")
	c, err := ovn.Dial(ctx, "red", []string{"unix:/nonexistent"}, &ovn.Options{Lazy: true, Timeout: 50 * time.Millisecond})
	require.NoError(t, err)
	defer c.Close()
	require.False(t, c.Health(ctx).Complete)
	require.ErrorIs(t, c.Need("ports", "Logical_Switch_Port", "name"), vnet.ErrNotReady)
	require.ErrorIs(t, c.Submit(t.Context(), vnet.PartOverlay, ensureNetwork("n1")), vnet.ErrNotReady)
	_, err = c.Plan(t.Context(), vnet.PartOverlay, ensureNetwork("n1"))
	require.ErrorIs(t, err, vnet.ErrNotReady)
}

func TestCleanup(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	red, blue := dial(t, "red", nil, s.Endpoint()), dial(t, "blue", nil, s.Endpoint())
	ctx := t.Context()
	for _, c := range []*ovn.Conn{red, blue} {
		b := c.Batch()
		require.NoError(t, b.Submit(ctx, vnet.PartOverlay, ensureNetwork("n1", "p1", "p2")))
		require.NoError(t, b.Submit(ctx, vnet.PartDHCP, ensureOptions("p1", "10.0.0.0/24")))
		require.NoError(t, b.Submit(ctx, vnet.PartSecGroup, ensureGroup("g1", "p1")))
		require.NoError(t, b.Commit(ctx))
	}
	before := s.Run("ovsdb-client", "dump", s.Endpoint(), "OVN_Northbound")
	require.NoError(t, red.Cleanup(ctx))
	after := s.Run("ovsdb-client", "dump", s.Endpoint(), "OVN_Northbound")
	require.NotContains(t, after, "red")
	require.Equal(t, strings.Count(before, "blue"), strings.Count(after, "blue"))
	require.NoError(t, red.Cleanup(ctx), "nothing")
}

func TestMetrics(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	reg := prometheus.NewRegistry()
	c, err := ovn.Dial(t.Context(), "red", []string{s.Endpoint()}, &ovn.Options{Metrics: reg})
	require.NoError(t, err)
	_, err = ovn.Dial(t.Context(), "red", []string{s.Endpoint()}, &ovn.Options{Metrics: reg})
	require.Error(t, err, "the same twice")
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, ensureNetwork("n1")))
	value := func(name string) float64 {
		all, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range all {
			if f.GetName() == name {
				m := f.GetMetric()[0]
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		t.Fatal(name)
		return 0
	}
	require.EqualValues(t, 1, value("vnet_ovn_submissions_total"))
	require.EqualValues(t, 1, value("vnet_ovn_transactions_total"))
	require.EqualValues(t, 1, value("vnet_ovn_operations_total"))
	require.EqualValues(t, 1, value("vnet_ovn_complete"))
	require.NoError(t, c.Close())
	all, err := reg.Gather()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestRowNobodyHolds(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	options := map[string]string{"network_name": "x"}
	f := func(tx *ovn.Tx) error {
		ovn.Ensure(tx, "port", "p", &nbrow.LogicalSwitchPort{Name: "red/p", Options: options})
		return nil
	}
	require.ErrorContains(t, c.Submit(t.Context(), vnet.PartOverlay, f), "held by no other row")
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", "n", &nbrow.LogicalSwitch{Name: "n"})
		p := ovn.Ensure(tx, "port", "p", &nbrow.LogicalSwitchPort{Name: "red/p", Options: options})
		options["network_name"] = "the caller's to change"
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", p.UUID)
		return nil
	}))
	require.Equal(t, "x", ovn.Find[nbrow.LogicalSwitchPort](view(t, c), vnet.PartOverlay, "port", "p").Options["network_name"])
}

// TestSouthboundNotKnown: what looks into the Southbound waits for it.
func TestSouthboundNotKnown(t *testing.T) {
	nb, sb := ovsdbtest.New(t, ovsdbtest.NB), ovsdbtest.New(t, ovsdbtest.SB)
	chassis(sb, "one")
	sb.Kill()
	c := dial(t, "red", &ovn.Options{Lazy: true, Southbound: []string{sb.Endpoint()}}, nb.Endpoint())
	looks := func(tx *ovn.Tx) error {
		n := 0
		for range ovn.All[sbrow.Chassis](tx) {
			n++
		}
		ovn.Ensure(tx, "network", fmt.Sprint("with", n), &nbrow.LogicalSwitch{Name: "x"})
		return nil
	}
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, ensureNetwork("n1")), "one that does not look")
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := c.Submit(short, vnet.PartOverlay, looks)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	require.ErrorContains(t, err, "OVN_Southbound")
	done := make(chan error, 1)
	go func() { done <- c.Submit(t.Context(), vnet.PartOverlay, looks) }()
	sb.Start()
	require.NoError(t, <-done)
	v := view(t, c)
	require.Nil(t, ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", "with0"))
	require.NotNil(t, ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", "with1"))
	d := dial(t, "red", nil, nb.Endpoint())
	require.ErrorIs(t, d.Submit(t.Context(), vnet.PartOverlay, looks), vnet.ErrUnsupported)
}

// TestOlderNorthbound: a column that the server has not is left out, and
// asked for by name.
func TestOlderNorthbound(t *testing.T) {
	b, err := os.ReadFile(ovsdbtest.NB)
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(b, &schema))
	delete(schema, "cksum")
	tables := schema["tables"].(map[string]any)
	delete(tables["Logical_Switch_Port"].(map[string]any)["columns"].(map[string]any), "enabled")
	delete(tables, "BFD")
	delete(tables["Logical_Router_Static_Route"].(map[string]any)["columns"].(map[string]any), "bfd")
	old := filepath.Join(t.TempDir(), "schema")
	b, _ = json.Marshal(schema)
	require.NoError(t, os.WriteFile(old, b, 0o644))
	s := ovsdbtest.New(t, old)
	c := dial(t, "red", nil, s.Endpoint())
	require.NoError(t, c.Need("ports", "Logical_Switch_Port", "name"))
	err = c.Need("admin state of ports", "Logical_Switch_Port", "enabled")
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.ErrorContains(t, err, "admin state of ports not supported by this OVN (needs column Logical_Switch_Port.enabled)")
	port := func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", "n", &nbrow.LogicalSwitch{Name: "x"})
		p := ovn.Ensure(tx, "port", "p", &nbrow.LogicalSwitchPort{Name: "red/p", Enabled: new(true)})
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", p.UUID)
		tx.Record("port", "p", vnet.ImpactNone, p)
		return nil
	}
	require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, port))
	p, err := c.Plan(t.Context(), vnet.PartOverlay, port)
	require.NoError(t, err)
	require.True(t, p.Empty(), "and does not come up again and again: %s", p)
	err = c.Submit(t.Context(), vnet.PartRouter, func(tx *ovn.Tx) error {
		ovn.Ensure(tx, "bfd", "b", &nbrow.BFD{DstIP: "192.0.2.1", LogicalPort: "x"})
		return nil
	})
	require.ErrorIs(t, err, vnet.ErrUnsupported)
	require.ErrorContains(t, err, "table BFD")
}
