package ovndhcp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/ovndhcp"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// northbound is a database without anything behind it.
type northbound struct {
	*ovsdbtest.Server
	c *ovn.Conn
	b *ovndhcp.Backend
	s *dhcp.Service
}

func newNorthbound(t testing.TB) *northbound {
	n := &northbound{Server: ovsdbtest.New(t, ovsdbtest.NB)}
	var err error
	n.c, err = ovn.Dial(t.Context(), "test", []string{n.Endpoint()}, &ovn.Options{Timeout: 20 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { n.c.Close() })
	n.b, err = ovndhcp.New(n.c, nil)
	require.NoError(t, err)
	n.s, err = dhcp.New(n.b, nil)
	require.NoError(t, err)
	return n
}

func (n *northbound) nbctl(args ...string) string {
	return n.Run("ovn-nbctl", append([]string{"--db=" + n.Endpoint()}, args...)...)
}

// port adds a port of the overlay to t.
func port(t testing.TB, to ovn.Target, network, id, address string) {
	c := to.Conn()
	require.NoError(t, to.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", network, &nbrow.LogicalSwitch{Name: c.Name("network", network)})
		r := ovn.Ensure(tx, "port", id, &nbrow.LogicalSwitchPort{Name: c.PortName(id), Addresses: []string{address}})
		tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", r.UUID)
		return nil
	}))
}

var web = dhcp.Scope{
	ID: "v4", NetworkID: "net", Subnet: prefix("10.0.0.0/24"), ServerIP: addr("10.0.0.2"), Router: addr("10.0.0.1"),
	DNS: []netip.Addr{addr("192.0.2.53"), addr("192.0.2.54")}, Domain: "example.org", SearchDomain: []string{"a.example.org", "example.org"},
	MTU: 1442, NTP: []netip.Addr{addr("192.0.2.123")}, Lease: time.Hour,
	Routes:     []dhcp.Route{{Destination: prefix("169.254.169.254/32"), NextHop: addr("10.0.0.2")}},
	TFTPServer: "10.0.0.9", BootFiles: map[uint16]string{dhcp.BootDefault: `px"e`, dhcp.BootIPXE: "http://10.0.0.9/"},
	Options: []dhcp.Option{{Code: 23, Data: []byte{64}}, {Code: 252, Data: []byte(`a", router = 10.0.0.66, wpad = "b`)}},
}

// What a scope and two clients of it are in the Northbound.
func TestRows(t *testing.T) {
	n := newNorthbound(t)
	ctx := t.Context()
	port(t, n.c, "net", "p1", "02:00:00:00:00:01 10.0.0.11 2001:db8::11")
	port(t, n.c, "net", "p2", "02:00:00:00:00:02 10.0.0.12")
	six := dhcp.Scope{ID: "v6", NetworkID: "net", Subnet: prefix("2001:db8::/64"), DNS: []netip.Addr{addr("2001:db8:53::1")}}
	st := dhcp.State{Scopes: []dhcp.Scope{web, six}, Reservations: []dhcp.Reservation{
		{ID: "p1", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), IPs: []netip.Addr{addr("10.0.0.11"), addr("2001:db8::11")}},
		{ID: "other", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:02"), IPs: []netip.Addr{addr("10.0.0.12")}, Hostname: "web"},
	}}
	require.NoError(t, n.s.Sync(ctx, st, vnet.SyncOptions{}))
	x, err := n.s.Explain(ctx, "reservation", "other")
	require.NoError(t, err)
	mac := strings.TrimSpace(n.nbctl("--bare", "--columns=addresses", "find", "Logical_Switch_Port", "type=localport"))[:17]
	require.Contains(t, x.String(), strings.ReplaceAll(`T1=1800 T2=3150 bootfile_name="http://10.0.0.9/" bootfile_name_alt="px\"e" broadcast_address=10.0.0.255 `+
		`classless_static_route={169.254.169.254/32,10.0.0.2, 0.0.0.0/0,10.0.0.1} default_ttl=64 dns_server={192.0.2.53, 192.0.2.54} `+
		`domain_name="example.org" domain_search_list="a.example.org,example.org" hostname="web" lease_time=3600 `+
		`ms_classless_static_route={169.254.169.254/32,10.0.0.2, 0.0.0.0/0,10.0.0.1} mtu=1442 next_server=10.0.0.9 ntp_server={192.0.2.123} router=10.0.0.1 `+
		`server_id=10.0.0.2 server_mac=MAC tftp_server="10.0.0.9" wpad="a\", router = 10.0.0.66, wpad = \"b"`, "MAC", mac))
	x, err = n.s.Explain(ctx, "reservation", "p1")
	require.NoError(t, err)
	require.Contains(t, x.String(), "of scope v4")
	require.Contains(t, x.String(), "dns_server={2001:db8:53::1} server_id="+mac)
	x, err = n.s.Explain(ctx, "scope", "v4")
	require.NoError(t, err)
	require.Contains(t, x.String(), "1 ports refer to it, 1 to rows of their own")

	// The scope changes: the row made from it follows, in the same change.
	st.Scopes[0].MTU = 1400
	p, err := n.s.Plan(ctx, st)
	require.NoError(t, err)
	require.Equal(t, "~ dhcp scope v4\n      mtu: 1442 -> 1400\n0 to create, 1 to update, 0 to delete\n", p.String())
	require.NoError(t, n.s.EnsureScope(ctx, st.Scopes[0]))
	require.Equal(t, 2, strings.Count(n.nbctl("--columns=options", "list", "DHCP_Options"), `mtu="1400"`))
	p, err = n.s.Plan(ctx, st)
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())

	// Somebody's hand in our rows is found and put right.
	n.nbctl("--", "clear", "Logical_Switch_Port", n.c.PortName("p1"), "dhcpv4_options")
	p, err = n.s.Plan(ctx, st)
	require.NoError(t, err)
	require.Equal(t, 1, p.Count(vnet.Update), p.String())
	require.NoError(t, n.s.Sync(ctx, st, vnet.SyncOptions{}))

	// A reservation moves to another port, and an id to another reservation's.
	st.Reservations[0].MAC, st.Reservations[1].MAC = st.Reservations[1].MAC, st.Reservations[0].MAC
	st.Reservations[0].IPs, st.Reservations[1].IPs = st.Reservations[1].IPs, st.Reservations[0].IPs
	require.ErrorIs(t, n.s.EnsureReservation(ctx, st.Reservations[0]), vnet.ErrConflict)
	require.NoError(t, n.s.Sync(ctx, st, vnet.SyncOptions{}))
	p, err = n.s.Plan(ctx, st)
	require.NoError(t, err)
	require.True(t, p.Empty(), p.String())

	require.NoError(t, n.s.Sync(ctx, dhcp.State{}, vnet.SyncOptions{}))
	require.Empty(t, n.nbctl("--bare", "--columns=name", "find", "Logical_Switch_Port", "type=localport"))
	require.Empty(t, n.nbctl("--bare", "--columns=_uuid", "list", "DHCP_Options"))
}

// A port, what it is to be told and the scope, in one transaction.
func TestBatch(t *testing.T) {
	n := newNorthbound(t)
	ctx := t.Context()
	batch := n.c.Batch()
	b, err := ovndhcp.New(batch, nil)
	require.NoError(t, err)
	r := dhcp.Reservation{ID: "p1", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), IPs: []netip.Addr{addr("10.0.0.11")}, Hostname: "web"}
	require.ErrorIs(t, b.EnsureReservation(ctx, r), vnet.ErrNotFound)
	port(t, batch, "net", "p1", "02:00:00:00:00:01 10.0.0.11")
	require.NoError(t, b.EnsureReservation(ctx, r))
	require.NoError(t, b.EnsureScope(ctx, web.Canonical()), "the order does not matter")
	p := batch.Changes()
	require.Equal(t, 2, p.Count(vnet.Create), p.String())
	require.Empty(t, n.nbctl("--bare", "--columns=_uuid", "list", "DHCP_Options"), "not committed yet")
	require.NoError(t, batch.Commit(ctx))
	x, err := n.s.Explain(ctx, "reservation", "p1")
	require.NoError(t, err)
	require.Contains(t, x.String(), `hostname="web"`)
}

// Rows of others stay, whatever they look like.
func TestForeign(t *testing.T) {
	n := newNorthbound(t)
	ctx := t.Context()
	port(t, n.c, "net", "p1", "02:00:00:00:00:01 10.0.0.11")
	sw := n.c.Name("network", "net")
	n.nbctl("create", "DHCP_Options", "cidr=10.0.0.0/24", "options:server_id=10.0.0.2")
	n.nbctl("create", "DHCP_Options", "cidr=10.0.0.0/24", `external_ids={"vnet:owner"=another,"vnet:part"=dhcp,"vnet:kind"=scope,"vnet:id"=v4}`)
	n.nbctl("lsp-add", sw, "theirs", "--", "lsp-set-addresses", "theirs", "02:00:00:00:00:09 10.0.0.19")
	look := func() string {
		return n.nbctl("list", "DHCP_Options") + n.nbctl("list", "Logical_Switch_Port", "theirs")
	}
	was := look()
	r := dhcp.Reservation{ID: "p9", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:09"), IPs: []netip.Addr{addr("10.0.0.19")}}
	require.ErrorIs(t, n.s.EnsureReservation(ctx, r), vnet.ErrNotFound, "it is not ours")
	require.NoError(t, n.s.EnsureScope(ctx, web))
	require.NoError(t, n.s.Sync(ctx, dhcp.State{}, vnet.SyncOptions{Force: true}))
	require.Equal(t, was, look())
}

func TestRefused(t *testing.T) {
	n := newNorthbound(t)
	for what, change := range map[string]func(*dhcp.Scope){
		"rapid commit": func(s *dhcp.Scope) { s.RapidCommit = true },
		"boot file of client architecture 7": func(s *dhcp.Scope) {
			s.BootFiles = map[uint16]string{7: "x", dhcp.BootDefault: "y"}
		},
		"boot file for iPXE without one for others": func(s *dhcp.Scope) { s.BootFiles = map[uint16]string{dhcp.BootIPXE: "x"} },
		"DHCPv4 option 43":                          func(s *dhcp.Scope) { s.Options = []dhcp.Option{{Code: 43, Data: []byte{1}}} },
		"pool":                                      func(s *dhcp.Scope) { s.Pool = []dhcp.AddrRange{{First: addr("10.0.0.50"), Last: addr("10.0.0.60")}} },
		"relays":                                    func(s *dhcp.Scope) { s.Relays = []netip.Prefix{prefix("192.0.2.0/24")} },
		"NTP servers by DHCPv6": func(s *dhcp.Scope) {
			*s = dhcp.Scope{ID: "v6", NetworkID: "net", Subnet: prefix("2001:db8::/64"), NTP: []netip.Addr{addr("2001:db8::7")}}
		},
	} {
		s := web.Clone()
		change(&s)
		err := n.s.EnsureScope(t.Context(), s)
		require.ErrorIs(t, err, vnet.ErrUnsupported, what)
		require.ErrorContains(t, err, what)
	}
	s := web.Clone()
	s.Options = []dhcp.Option{{Code: 26, Data: []byte{1}}}
	require.ErrorContains(t, n.s.EnsureScope(t.Context(), s), "options[0].data")
	require.Empty(t, n.nbctl("--bare", "--columns=_uuid", "list", "DHCP_Options"))
}

// Ten thousand reservations that differ in nothing cost no write.
func BenchmarkSyncUnchanged(b *testing.B) {
	n := newNorthbound(b)
	st := dhcp.State{Scopes: []dhcp.Scope{web}}
	st.Scopes[0].Subnet = prefix("10.0.0.0/16")
	require.NoError(b, n.c.Submit(b.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		sw := ovn.Ensure(tx, "network", "net", &nbrow.LogicalSwitch{Name: "net"})
		for i := range 10000 {
			mac, ip := vnet.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, netip.AddrFrom4([4]byte{10, 0, byte(i>>8) + 1, byte(i)})
			r := ovn.Ensure(tx, "port", fmt.Sprint("p", i), &nbrow.LogicalSwitchPort{Name: n.c.PortName(fmt.Sprint("p", i)), Addresses: []string{mac.String() + " " + ip.String()}})
			tx.Hold(ovn.At[nbrow.LogicalSwitch](tx, sw.UUID), "ports", r.UUID)
			st.Reservations = append(st.Reservations, dhcp.Reservation{ID: fmt.Sprint("p", i), NetworkID: "net", MAC: mac, IPs: []netip.Addr{ip}, Hostname: fmt.Sprint("h", i)})
		}
		return nil
	}))
	require.NoError(b, n.s.Sync(b.Context(), st, vnet.SyncOptions{}))
	for b.Loop() {
		p, err := n.s.Plan(b.Context(), st)
		require.NoError(b, err)
		require.True(b, p.Empty())
	}
}
