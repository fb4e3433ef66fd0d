package ovnsecgroup

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// installation is a Northbound with a network N and ports, for one owner.
func installation(t testing.TB, ports ...secgroup.Port) *ovn.Conn {
	t.Helper()
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c, err := ovn.Dial(t.Context(), "o", []string{s.Endpoint()}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	overlay(t, c, ports...)
	return c
}

// overlay makes ports on network N.
func overlay(t testing.TB, to ovn.Target, ports ...secgroup.Port) {
	t.Helper()
	require.NoError(t, to.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", "N", &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", "N")})
		var uuids []string
		for _, p := range ports {
			a := p.MAC.String()
			for _, ip := range p.FixedIPs {
				a += " " + ip.String()
			}
			uuids = append(uuids, ovn.Ensure(tx, "port", p.ID, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(p.ID), Addresses: []string{a}}).UUID)
		}
		tx.Members(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", uuids, nil)
		return nil
	}))
}

// example is the worked example of the mapping: port P lets ssh in and
// everything of IPv4 out.
func example() secgroup.State {
	return secgroup.State{
		Groups: []secgroup.Group{{ID: "web", Rules: []secgroup.Rule{
			{ID: "ssh", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: num(22), PortMax: num(22)},
			{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4},
		}}},
		Ports: []secgroup.Port{{ID: "P", NetworkID: "N", MAC: vnet.MustParseMAC("fa:16:3e:aa:00:07"), FixedIPs: []netip.Addr{netip.MustParseAddr("10.1.0.7")}, Groups: []string{"web"}}},
	}.Canonical()
}

func (b *Backend) print(t testing.TB, f func(w *writer) error) string {
	t.Helper()
	s, err := b.c.Print(t.Context(), vnet.PartSecGroup, func(tx *ovn.Tx) error { return f(&writer{tx: tx, o: b.o}) })
	require.NoError(t, err)
	return s
}

func TestWorkedExample(t *testing.T) {
	s := example()
	c := installation(t, s.Ports...)
	b, err := New(c, nil)
	require.NoError(t, err)
	golden(t, "example.txt", b.print(t, func(w *writer) error { _, err := w.all(s); return err }))
	require.NoError(t, b.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Empty(t, b.print(t, func(w *writer) error { _, err := w.all(s); return err }))
	golden(t, "example-gone.txt", b.print(t, func(w *writer) error { _, err := w.all(secgroup.State{}); return err }))
	x, err := b.Explain(t.Context(), "port", "P")
	require.NoError(t, err)
	golden(t, "example-port.txt", x.String())
	x, err = b.ExplainPacket(t.Context(), "P", secgroup.Packet{Direction: secgroup.Ingress, Remote: netip.MustParseAddr("192.0.2.1"), Protocol: 6, Selector: 22})
	require.NoError(t, err)
	golden(t, "example-packet.txt", x.String())
}

func member(n int) secgroup.Port {
	return secgroup.Port{ID: fmt.Sprintf("port-%06d", n), NetworkID: "N", MAC: vnet.MAC{2, 0x5e, 1, byte(n >> 16), byte(n >> 8), byte(n)}, Groups: []string{"big"},
		FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n+1))}}
}

func crowd(n int) secgroup.State {
	s := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big")}}
	for i := range n {
		s.Ports = append(s.Ports, member(i))
	}
	return s
}

// TestJoin: one mutation of the group of all, of the group, and of each of its
// address sets, and the port's own row.
func TestJoin(t *testing.T) {
	s := crowd(20)
	c := installation(t, append(s.Ports, member(20))...)
	b, err := New(c, nil)
	require.NoError(t, err)
	require.NoError(t, b.Sync(t.Context(), s, vnet.SyncOptions{}))
	text := b.print(t, func(w *writer) error {
		p := member(20)
		row := w.port(p.ID)
		w.ensurePort(row, nil, p)
		w.filtered([]string{row.UUID}, nil)
		w.join(row.UUID, nil, &p)
		return nil
	})
	golden(t, "join.txt", text)
	require.NotContains(t, text, "ACL")
}

// TestSharedAddress: an address goes from a set with the last member that has it.
func TestSharedAddress(t *testing.T) {
	a, z := member(1), member(2)
	shared := secgroup.AddressPair{Prefix: netip.MustParsePrefix("10.9.9.9/32")}
	a.AllowedPairs, z.AllowedPairs = []secgroup.AddressPair{shared}, []secgroup.AddressPair{shared}
	c := installation(t, a, z)
	b, err := New(c, nil)
	require.NoError(t, err)
	require.NoError(t, b.EnsureGroup(t.Context(), secgroup.DefaultGroup("big")))
	require.NoError(t, b.EnsurePort(t.Context(), a))
	require.NoError(t, b.EnsurePort(t.Context(), z))
	set := func() []string {
		v, err := c.View(t.Context())
		require.NoError(t, err)
		return ovn.Find[nbrow.AddressSet](v, vnet.PartSecGroup, kindMembers, "big/4").Addresses
	}
	require.Equal(t, []string{"10.0.0.1", "10.0.0.2", "10.9.9.9"}, set())
	require.NoError(t, b.DeletePort(t.Context(), a.ID))
	require.Equal(t, []string{"10.0.0.2", "10.9.9.9"}, set())
	z.AllowedPairs = nil
	require.NoError(t, b.EnsurePort(t.Context(), z))
	require.Equal(t, []string{"10.0.0.2"}, set())
	plan, err := b.Plan(t.Context(), secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big")}, Ports: []secgroup.Port{z}})
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
}

// TestRaces: two processes change what touches, and none of it is lost.
func TestRaces(t *testing.T) {
	a, z := member(1), member(2)
	shared := secgroup.AddressPair{Prefix: netip.MustParsePrefix("10.9.9.9/32")}
	a.AllowedPairs, z.AllowedPairs = []secgroup.AddressPair{shared}, []secgroup.AddressPair{shared}
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	var b [2]*Backend
	for i := range b {
		c, err := ovn.Dial(t.Context(), "o", []string{srv.Endpoint()}, nil)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		b[i], err = New(c, nil)
		require.NoError(t, err)
	}
	overlay(t, b[0].c, a, z)
	web, ssh := secgroup.Group{ID: "g", Rules: secgroup.DefaultGroup("g").Rules[:1]}, secgroup.Group{ID: "g", Rules: secgroup.DefaultGroup("g").Rules[1:2]}
	start := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("big"), {ID: "g"}, {ID: "h"}}, Ports: []secgroup.Port{a, z}}
	inG, inH := a, a
	inG.Groups, inH.Groups = []string{"g"}, []string{"h"}
	for _, x := range []struct {
		name        string
		first, last func(ctx context.Context, b *Backend) error
		want        secgroup.State
	}{
		{"both leave", func(ctx context.Context, b *Backend) error { return b.DeletePort(ctx, a.ID) }, func(ctx context.Context, b *Backend) error { return b.DeletePort(ctx, z.ID) },
			secgroup.State{Groups: start.Groups}},
		{"two minds about a port", func(ctx context.Context, b *Backend) error { return b.EnsurePort(ctx, inG) }, func(ctx context.Context, b *Backend) error { return b.EnsurePort(ctx, inH) },
			secgroup.State{Groups: start.Groups, Ports: []secgroup.Port{inH, z}}},
		{"two minds about a group", func(ctx context.Context, b *Backend) error { return b.EnsureGroup(ctx, web) }, func(ctx context.Context, b *Backend) error { return b.EnsureGroup(ctx, ssh) },
			secgroup.State{Groups: []secgroup.Group{start.Groups[0], ssh, start.Groups[2]}, Ports: start.Ports}},
	} {
		t.Run(x.name, func(t *testing.T) {
			ctx := t.Context()
			require.NoError(t, b[0].Sync(ctx, start, vnet.SyncOptions{Force: true}))
			require.Eventually(t, func() bool { // until the other has seen it
				plan, err := b[1].Plan(ctx, start)
				require.NoError(t, err)
				return plan.Empty()
			}, 10*time.Second, time.Millisecond)
			// The last has computed what it writes when the first has written.
			slow := &late{Target: b[1].c, before: func() { require.NoError(t, x.first(ctx, b[0])) }}
			last, err := New(slow, nil)
			require.NoError(t, err)
			require.NoError(t, x.last(ctx, last))
			require.GreaterOrEqual(t, slow.calls, 2)
			plan, err := last.Plan(ctx, x.want)
			require.NoError(t, err)
			require.True(t, plan.Empty(), plan.String())
		})
	}
}

// late is a connection over which something else happens once a transaction
// has been computed.
type late struct {
	ovn.Target
	before func()
	calls  int
}

func (l *late) Submit(ctx context.Context, part vnet.Part, f func(*ovn.Tx) error) error {
	return l.Target.Submit(ctx, part, func(tx *ovn.Tx) error {
		err := f(tx)
		if l.calls++; l.calls == 1 {
			l.before()
		}
		return err
	})
}

// TestDrift: what a stranger's hands have changed is told and mended.
func TestDrift(t *testing.T) {
	s := example()
	s.AddressGroups = []secgroup.AddressGroup{{ID: "office", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}}
	srv := ovsdbtest.New(t, ovsdbtest.NB)
	c, err := ovn.Dial(t.Context(), "o", []string{srv.Endpoint()}, nil)
	require.NoError(t, err)
	defer c.Close()
	overlay(t, c, s.Ports...)
	b, err := New(c, nil)
	require.NoError(t, err)
	sync := func() { require.NoError(t, b.Sync(t.Context(), s, vnet.SyncOptions{})) }
	sync()
	nbctl := func(args ...string) { srv.Run("ovn-nbctl", append([]string{"--db=" + srv.Endpoint()}, args...)...) }
	pg, filter := c.Symbol(kindGroup, "web"), c.Symbol(kindFilter, "all")
	for _, x := range []struct {
		kind string
		by   []string
	}{
		{"group web", []string{"acl-del", pg, "to-lport"}},
		{"group web", []string{"clear", "Port_Group", pg, "ports"}},
		{"group web", []string{"remove", "Address_Set", setName(c, kindMembers, "web", "4"), "addresses", "10.1.0.7"}},
		{"port (all)", []string{"acl-del", filter, "from-lport"}},
		{"port P", []string{"clear", "Logical_Switch_Port", "o/P", "port_security"}},
		{"addressgroup office", []string{"clear", "Address_Set", setName(c, kindAddresses, "office", "4"), "addresses"}},
	} {
		nbctl(x.by...)
		require.Eventually(t, func() bool {
			plan, err := b.Plan(t.Context(), s)
			require.NoError(t, err)
			return len(plan.Changes) == 1
		}, 10*time.Second, 10*time.Millisecond, x.by)
		plan, err := b.Plan(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, x.kind, plan.Changes[0].Kind+" "+plan.Changes[0].ID, plan.String())
		sync()
		plan, err = b.Plan(t.Context(), s)
		require.NoError(t, err)
		require.True(t, plan.Empty(), plan.String())
	}
}

// TestBatch: a port and its filters are one transaction, and EnsurePort sees
// the port that is pending.
func TestBatch(t *testing.T) {
	s := example()
	c := installation(t)
	batch := c.Batch()
	b, err := New(batch, nil)
	require.NoError(t, err)
	require.ErrorIs(t, b.EnsurePort(t.Context(), s.Ports[0]), vnet.ErrNotFound)
	require.NoError(t, b.EnsureGroup(t.Context(), s.Groups[0]))
	err = b.EnsurePort(t.Context(), s.Ports[0])
	require.ErrorIs(t, err, vnet.ErrNotFound)
	require.ErrorContains(t, err, `"P"`)
	overlay(t, batch, s.Ports...)
	require.NoError(t, b.EnsurePort(t.Context(), s.Ports[0]))
	require.NoError(t, batch.Commit(t.Context()))
	over, err := New(c, nil)
	require.NoError(t, err)
	plan, err := over.Plan(t.Context(), s)
	require.NoError(t, err)
	require.True(t, plan.Empty(), plan.String())
}

func TestOptions(t *testing.T) {
	s := example()
	c := installation(t, s.Ports...)
	b, err := New(c, &Options{Log: &Logging{Rate: 10}})
	require.NoError(t, err)
	text := b.print(t, func(w *writer) error { _, err := w.all(s); return err })
	var lines []string
	for _, l := range strings.Split(text, "\n") {
		if strings.Contains(l, "Meter") || strings.Contains(l, `"drop"`) || strings.Contains(l, "Port_Group") {
			lines = append(lines, l)
		}
	}
	golden(t, "logging.txt", strings.Join(lines, "\n")+"\n")
	require.NoError(t, b.Sync(t.Context(), s, vnet.SyncOptions{}))
	require.Empty(t, b.print(t, func(w *writer) error { _, err := w.all(s); return err }))
	quiet, err := New(c, nil)
	require.NoError(t, err)
	require.NoError(t, quiet.Sync(t.Context(), s, vnet.SyncOptions{}))
	v, err := c.View(t.Context())
	require.NoError(t, err)
	for m := range ovn.All[nbrow.Meter](v) {
		t.Errorf("meter %s is left", m.Name)
	}
	loose, err := New(c, &Options{Loose: true})
	require.NoError(t, err)
	plan, err := loose.Plan(t.Context(), s)
	require.NoError(t, err)
	require.Len(t, plan.Changes, 1)
	require.NoError(t, loose.Sync(t.Context(), s, vnet.SyncOptions{}))
	v, err = c.View(t.Context())
	require.NoError(t, err)
	for a := range ovn.All[nbrow.ACL](v) {
		require.NotContains(t, a.Match, "ct.new")
	}
	_, err = New(c, &Options{Log: &Logging{Severity: "loud"}})
	var f *vnet.FieldError
	require.ErrorAs(t, err, &f)
}
