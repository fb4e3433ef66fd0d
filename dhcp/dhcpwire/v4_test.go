package dhcpwire

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

var (
	ip     = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	macA   = vnet.MustParseMAC("02:00:00:00:00:0a")
	macB   = vnet.MustParseMAC("02:00:00:00:00:0b")
	macX   = vnet.MustParseMAC("02:00:00:00:00:99")
	epoch  = time.Unix(1_700_000_000, 0)
)

func scopeA() dhcp.Scope {
	return dhcp.Scope{
		ID: "s4", NetworkID: "n", Subnet: prefix("192.0.2.0/24"), ServerIP: ip("192.0.2.2"), Router: ip("192.0.2.1"),
		DNS: []netip.Addr{ip("198.51.100.53")}, Domain: "example.org", SearchDomain: []string{"a.example.org", "b.example.org"},
		MTU: 1450, NTP: []netip.Addr{ip("198.51.100.123")}, Lease: time.Hour,
		Routes: []dhcp.Route{{Destination: prefix("198.51.100.0/24"), NextHop: ip("192.0.2.3")}, {Destination: prefix("203.0.113.0/25")}},
	}
}

func resA() dhcp.Reservation {
	return dhcp.Reservation{ID: "pa", NetworkID: "n", MAC: macA, IPs: []netip.Addr{ip("192.0.2.10"), ip("2001:db8::10")}, Hostname: "web"}
}

func server(t testing.TB, pool bool, change ...func(*dhcp.Scope)) *Server {
	t.Helper()
	o := &Options{Host: "h1", LinkLocal: ip("fe80::1"), Now: func() time.Time { return epoch }}
	if pool {
		st, err := leasestore.Open("", &leasestore.Options{Now: o.Now})
		require.NoError(t, err)
		o.Store = st
	}
	s := New("n", o)
	sc := scopeA()
	for _, f := range change {
		f(&sc)
	}
	require.NoError(t, sc.Validate())
	require.NoError(t, resA().Validate())
	s.PutScope(sc)
	s.PutReservation(resA())
	return s
}

func withPool(sc *dhcp.Scope) {
	sc.Pool = []dhcp.AddrRange{{First: ip("192.0.2.100"), Last: ip("192.0.2.102")}}
}

func withRelay(sc *dhcp.Scope) { sc.Relays = []netip.Prefix{prefix("192.0.2.254/32")} }

func msg4(mac vnet.MAC, typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) Packet {
	mods = append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac.HardwareAddr()), dhcpv4.WithMessageType(typ), dhcpv4.WithTransactionID([4]byte{1, 2, 3, 4}),
	}, mods...)
	m, err := dhcpv4.New(mods...)
	if err != nil {
		panic(err)
	}
	return Packet{MAC: mac, Src: netip.MustParseAddrPort("0.0.0.0:68"), Dst: netip.MustParseAddrPort("255.255.255.255:67"), Payload: m.ToBytes()}
}

func opt(code uint8, b ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), b)
}
func want(a string) dhcpv4.Modifier   { return opt(optRequestedIP, ip(a).AsSlice()...) }
func sid(a string) dhcpv4.Modifier    { return opt(optServerID, ip(a).AsSlice()...) }
func ciaddr(a string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.IP(ip(a).AsSlice())) }
func prl(codes ...byte) dhcpv4.Modifier {
	return opt(optParams, codes...)
}
func giaddr(a string) dhcpv4.Modifier { return dhcpv4.WithGatewayIP(net.IP(ip(a).AsSlice())) }

func parse(t testing.TB, b []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.FromBytes(b)
	require.NoError(t, err)
	return m
}

// outcome prints what a test wants to see: reply, to whom, address, or why not.
func outcome(t testing.TB, r Result) string {
	t.Helper()
	s := r.Drop
	if r.Payload != nil {
		m := parse(t, r.Payload)
		require.Equal(t, strings.ToLower(m.MessageType().String()), r.Reply)
		s = fmt.Sprintf("%s %s to %s", r.Reply, m.YourIPAddr, r.Dst)
	}
	for _, n := range r.Notices {
		s += fmt.Sprintf("; %s %s", n.Kind, n.Lease.IP)
	}
	return s
}

const (
	discover = dhcpv4.MessageTypeDiscover
	request  = dhcpv4.MessageTypeRequest
	decline  = dhcpv4.MessageTypeDecline
	release  = dhcpv4.MessageTypeRelease
	inform   = dhcpv4.MessageTypeInform
)

func TestV4Conversations(t *testing.T) {
	nakUnknown := func(sc *dhcp.Scope) { sc.NAKUnknown = true }
	rapid := func(sc *dhcp.Scope) { sc.RapidCommit = true }
	for _, c := range []struct {
		name   string
		change []func(*dhcp.Scope)
		pool   bool
		send   []Packet
		want   []string
	}{
		{name: "discover of a known client", send: []Packet{msg4(macA, discover)}, want: []string{"offer 192.0.2.10 to 192.0.2.10:68"}},
		{name: "broadcast flag", send: []Packet{msg4(macA, discover, dhcpv4.WithBroadcast(true))}, want: []string{"offer 192.0.2.10 to 255.255.255.255:68"}},
		{name: "discover asking another address", send: []Packet{msg4(macA, discover, want("192.0.2.77"))}, want: []string{"offer 192.0.2.10 to 192.0.2.10:68"}},
		{name: "discover of an unknown client", send: []Packet{msg4(macX, discover)}, want: []string{DropUnknown}},
		{name: "selecting", send: []Packet{msg4(macA, request, sid("192.0.2.2"), want("192.0.2.10"))}, want: []string{"ack 192.0.2.10 to 192.0.2.10:68; lease 192.0.2.10"}},
		{name: "selecting another server", send: []Packet{msg4(macA, request, sid("192.0.2.9"), want("192.0.2.10"))}, want: []string{DropOtherServer}},
		{name: "selecting a wrong address", send: []Packet{msg4(macA, request, sid("192.0.2.2"), want("192.0.2.11"))}, want: []string{"nak 0.0.0.0 to 255.255.255.255:68; nak 192.0.2.11"}},
		{name: "init-reboot", send: []Packet{msg4(macA, request, want("192.0.2.10"))}, want: []string{"ack 192.0.2.10 to 192.0.2.10:68; lease 192.0.2.10"}},
		{name: "init-reboot on a new network", send: []Packet{msg4(macA, request, want("198.51.100.7"))}, want: []string{"nak 0.0.0.0 to 255.255.255.255:68; nak 198.51.100.7"}},
		{name: "init-reboot unknown", send: []Packet{msg4(macX, request, want("192.0.2.10"))}, want: []string{DropUnknown}},
		{name: "init-reboot unknown, the only server", change: []func(*dhcp.Scope){nakUnknown}, send: []Packet{msg4(macX, request, want("192.0.2.10"))}, want: []string{"nak 0.0.0.0 to 255.255.255.255:68; nak 192.0.2.10"}},
		{name: "renewing", send: []Packet{msg4(macA, request, ciaddr("192.0.2.10"))}, want: []string{"ack 192.0.2.10 to 192.0.2.10:68; lease 192.0.2.10"}},
		{name: "renewing a wrong address", send: []Packet{msg4(macA, request, ciaddr("192.0.2.44"))}, want: []string{"nak 0.0.0.0 to 255.255.255.255:68; nak 192.0.2.44"}},
		{name: "request for nothing", send: []Packet{msg4(macA, request)}, want: []string{DropMalformed}},
		{name: "rapid commit", change: []func(*dhcp.Scope){rapid}, send: []Packet{msg4(macA, discover, opt(optRapid))}, want: []string{"ack 192.0.2.10 to 192.0.2.10:68; lease 192.0.2.10"}},
		{name: "rapid commit not enabled", send: []Packet{msg4(macA, discover, opt(optRapid))}, want: []string{"offer 192.0.2.10 to 192.0.2.10:68"}},
		{name: "inform", send: []Packet{msg4(macA, inform, ciaddr("192.0.2.10"))}, want: []string{"ack 0.0.0.0 to 192.0.2.10:68"}},
		{name: "inform unknown", send: []Packet{msg4(macX, inform, ciaddr("192.0.2.66"))}, want: []string{DropUnknown}},
		{name: "release", send: []Packet{msg4(macA, release, sid("192.0.2.2"), ciaddr("192.0.2.10"))}, want: []string{"; release 192.0.2.10"}},
		{name: "release of another's", send: []Packet{msg4(macA, release, sid("192.0.2.2"), ciaddr("192.0.2.11"))}, want: []string{DropNoAddress}},
		{name: "decline", send: []Packet{msg4(macA, decline, sid("192.0.2.2"), want("192.0.2.10"))}, want: []string{"; decline 192.0.2.10"}},
		{name: "decline to another server", send: []Packet{msg4(macA, decline, sid("192.0.2.9"), want("192.0.2.10"))}, want: []string{DropOtherServer}},
		{name: "naming another MAC", send: []Packet{{MAC: macX, Payload: msg4(macA, discover).Payload}}, want: []string{DropSpoofed}},
		{name: "relay", change: []func(*dhcp.Scope){withRelay}, send: []Packet{msg4(macA, discover, giaddr("192.0.2.254"))}, want: []string{"offer 192.0.2.10 to 192.0.2.254:67"}},
		{name: "relay nobody named", send: []Packet{msg4(macA, discover, giaddr("192.0.2.254"))}, want: []string{DropRelay}},
		{name: "relay of another link", change: []func(*dhcp.Scope){withRelay}, send: []Packet{msg4(macA, discover, giaddr("192.0.2.254"), opt(optRelayInfo, 5, 4, 203, 0, 113, 1))}, want: []string{DropNoScope}},
		{name: "nak through a relay", change: []func(*dhcp.Scope){withRelay}, send: []Packet{msg4(macA, request, giaddr("192.0.2.254"), want("192.0.2.99"))}, want: []string{"nak 0.0.0.0 to 192.0.2.254:67; nak 192.0.2.99"}},
		{name: "pool", pool: true, change: []func(*dhcp.Scope){withPool}, send: []Packet{
			msg4(macX, discover), msg4(macX, request, sid("192.0.2.2"), want("192.0.2.100")), msg4(macX, request, ciaddr("192.0.2.100")),
			msg4(macB, discover, want("192.0.2.100")), msg4(macB, request, sid("192.0.2.2"), want("192.0.2.100")),
			msg4(macX, request, ciaddr("192.0.2.102")), msg4(macX, request, want("192.0.2.100")),
			msg4(macX, release, sid("192.0.2.2"), ciaddr("192.0.2.100")), msg4(macX, request, ciaddr("192.0.2.100")),
			msg4(macA, discover),
		}, want: []string{
			"offer 192.0.2.100 to 192.0.2.100:68", "ack 192.0.2.100 to 192.0.2.100:68; lease 192.0.2.100", "ack 192.0.2.100 to 192.0.2.100:68; lease 192.0.2.100",
			"offer 192.0.2.101 to 192.0.2.101:68", "nak 0.0.0.0 to 255.255.255.255:68; nak 192.0.2.100",
			"nak 0.0.0.0 to 255.255.255.255:68; nak 192.0.2.102", "ack 192.0.2.100 to 192.0.2.100:68; lease 192.0.2.100",
			"; release 192.0.2.100", DropUnknown,
			"offer 192.0.2.10 to 192.0.2.10:68",
		}},
		{name: "pool address declined", pool: true, change: []func(*dhcp.Scope){withPool}, send: []Packet{
			msg4(macX, discover), msg4(macX, request, sid("192.0.2.2"), want("192.0.2.100")), msg4(macX, decline, sid("192.0.2.2"), want("192.0.2.100")), msg4(macX, discover),
		}, want: []string{"offer 192.0.2.100 to 192.0.2.100:68", "ack 192.0.2.100 to 192.0.2.100:68; lease 192.0.2.100", "; decline 192.0.2.100", "offer 192.0.2.101 to 192.0.2.101:68"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := server(t, c.pool, c.change...)
			var got []string
			for _, p := range c.send {
				r := s.Handle4(p)
				if r.Payload != nil {
					require.Equal(t, p.MAC, r.MAC)
					require.GreaterOrEqual(t, len(r.Payload), 300)
				}
				got = append(got, outcome(t, r))
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestV4Options(t *testing.T) {
	s := server(t, false)
	all := prl(1, 3, 6, 12, 15, 26, 28, 42, 119, 121, 249)
	m := parse(t, s.Handle4(msg4(macA, discover, all)).Payload)
	got := map[uint8]string{}
	for c, b := range m.Options {
		got[c] = fmt.Sprintf("%x", b)
	}
	require.Equal(t, map[uint8]string{
		1: "ffffff00", 3: "c0000201", 6: "c6336435", 12: fmt.Sprintf("%x", "web"), 15: fmt.Sprintf("%x", "example.org"),
		26: "05aa", 28: "c00002ff", 42: "c633647b", 51: "00000e10", 53: "02", 54: "c0000202", 58: "00000708", 59: "00000c4e",
		119: "0161076578616d706c65036f7267000162c002",
		121: "18c63364c0000203" + "19cb00710000000000" + "00c0000201",
		249: "18c63364c0000203" + "19cb00710000000000" + "00c0000201",
	}, got)

	m = parse(t, s.Handle4(msg4(macA, discover, prl(1, 3))).Payload)
	var codes []int
	for c := range m.Options {
		codes = append(codes, int(c))
	}
	slices.Sort(codes)
	require.Equal(t, []int{1, 3, 26, 51, 53, 54, 58, 59, 121}, codes, "121 and 26 are sent unasked, others not")

	m = parse(t, s.Handle4(msg4(macA, discover, opt(optClientID, 1, 2, 3), opt(optRelayInfo, 1, 1, 7))).Payload)
	require.Equal(t, []byte{1, 2, 3}, m.Options[optClientID])
	require.Equal(t, []byte{1, 1, 7}, m.Options[optRelayInfo])
	require.NotContains(t, m.Options, uint8(optRoutesMS), "only for those who ask")
	require.Contains(t, m.Options, uint8(optSearch))
}

func TestV4Overrides(t *testing.T) {
	s := server(t, false, func(sc *dhcp.Scope) {
		sc.Options = []dhcp.Option{{Code: 150, Data: []byte{192, 0, 2, 5}}, {Code: 6, Data: []byte{9, 9, 9, 9}}}
	})
	r := resA()
	r.Options = []dhcp.Option{{Code: 150, Data: []byte{1}}, {Code: 224, Data: []byte("site")}}
	s.PutReservation(r)
	m := parse(t, s.Handle4(msg4(macA, discover, prl(1))).Payload)
	require.Equal(t, []byte{9, 9, 9, 9}, m.Options[6])
	require.Equal(t, []byte{1}, m.Options[150])
	require.Equal(t, []byte("site"), m.Options[224])
}

func TestV4Infinite(t *testing.T) {
	s := server(t, false, func(sc *dhcp.Scope) { sc.Lease = -1; sc.Router = netip.Addr{} })
	m := parse(t, s.Handle4(msg4(macA, request, want("192.0.2.10"))).Payload)
	require.Equal(t, []byte{255, 255, 255, 255}, m.Options[optLease])
	require.NotContains(t, m.Options, uint8(optT1))
	require.NotContains(t, m.Options, uint8(optRouter))
	require.Equal(t, "18c63364c000020319cb00710000000000", fmt.Sprintf("%x", m.Options[optRoutes]), "no default route without a router")
	require.True(t, s.Leases()[0].Expires.IsZero())
}

func TestV4Inform(t *testing.T) {
	s := server(t, false)
	m := parse(t, s.Handle4(msg4(macA, inform, ciaddr("192.0.2.10"), prl(6, 51))).Payload)
	require.NotContains(t, m.Options, uint8(optLease))
	require.Contains(t, m.Options, uint8(optDNS))
	require.Empty(t, s.Leases())
}

func TestV4Boot(t *testing.T) {
	s := server(t, false, func(sc *dhcp.Scope) {
		sc.TFTPServer = "192.0.2.5"
		sc.BootFiles = map[uint16]string{0: "pxelinux.0", 7: "grub.efi", dhcp.BootIPXE: "http://192.0.2.5/boot.ipxe", dhcp.BootDefault: "default"}
	})
	for _, c := range []struct {
		name string
		mods []dhcpv4.Modifier
		file string
	}{
		{"bios", []dhcpv4.Modifier{opt(optArch, 0, 0)}, "pxelinux.0"},
		{"uefi", []dhcpv4.Modifier{opt(optArch, 0, 7)}, "grub.efi"},
		{"second architecture", []dhcpv4.Modifier{opt(optArch, 0, 9, 0, 7)}, "grub.efi"},
		{"none", nil, "default"},
		{"ipxe", []dhcpv4.Modifier{opt(optArch, 0, 7), opt(optIPXE, 1)}, "http://192.0.2.5/boot.ipxe"},
		{"ipxe by user class", []dhcpv4.Modifier{opt(optUserClass, []byte("iPXE")...)}, "http://192.0.2.5/boot.ipxe"},
	} {
		m := parse(t, s.Handle4(msg4(macA, discover, append(c.mods, prl(66, 67))...)).Payload)
		require.Equal(t, c.file, m.BootFileName, c.name)
		require.Equal(t, c.file, string(m.Options[67]), c.name)
		require.Equal(t, "192.0.2.5", string(m.Options[66]), c.name)
		require.Equal(t, "192.0.2.5", m.ServerIPAddr.String(), c.name)
	}
}

func TestV4FQDN(t *testing.T) {
	s := server(t, false)
	m := parse(t, s.Handle4(msg4(macA, discover, opt(optFQDN, append([]byte{5, 0, 0}, "\x03foo\x00"...)...))).Payload)
	require.Equal(t, "\x0e\xff\xff\x03web\x07example\x03org\x00", string(m.Options[optFQDN]))
	m = parse(t, s.Handle4(msg4(macA, discover, opt(optFQDN, append([]byte{0, 0, 0}, "foo"...)...))).Payload)
	require.Equal(t, "\x08\xff\xffweb.example.org", string(m.Options[optFQDN]))
}

func TestV4Size(t *testing.T) {
	s := server(t, false, func(sc *dhcp.Scope) {
		for i := range 60 {
			sc.Routes = append(sc.Routes, dhcp.Route{Destination: prefix(fmt.Sprintf("198.18.%d.0/24", i)), NextHop: ip("192.0.2.9")})
		}
	})
	// 62 routes are over 500 bytes: for a client of the minimum they do not fit.
	r := s.Handle4(msg4(macA, discover, prl(1, 3, 6, 249)))
	require.LessOrEqual(t, len(r.Payload), minSize-ipUDPLen)
	m := parse(t, r.Payload)
	require.NotContains(t, m.Options, uint8(optRoutes))
	require.Contains(t, m.Options, uint8(optDNS))
	r = s.Handle4(msg4(macA, discover, prl(1, 3, 6, 249), opt(optMaxSize, 5, 220)))
	require.LessOrEqual(t, len(r.Payload), maxSize-ipUDPLen)
	m = parse(t, r.Payload)
	require.Len(t, m.ClasslessStaticRoute(), 63)
}

func TestOtherHost(t *testing.T) {
	s := server(t, true, withPool, func(sc *dhcp.Scope) { sc.NAKUnknown = true })
	r := resA()
	r.Host = "h2"
	s.PutReservation(r)
	require.Equal(t, DropOtherHost, s.Handle4(msg4(macA, discover)).Drop)
	require.False(t, s.Answers(ip("192.0.2.2"), macA))
	require.True(t, s.Answers(ip("192.0.2.2"), macB), "the pool's clients may be anybody")
	require.False(t, s.Answers(ip("192.0.2.1"), macB), "the router answers for itself")
	s = server(t, false)
	require.True(t, s.Answers(ip("192.0.2.2"), macA))
	require.False(t, s.Answers(ip("192.0.2.2"), macB), "nobody we talk to")
}

func TestClientIDMustMatch(t *testing.T) {
	s := server(t, false)
	r := resA()
	r.ClientID = []byte("abc")
	s.PutReservation(r)
	require.Equal(t, DropUnknown, s.Handle4(msg4(macA, discover)).Drop)
	require.Equal(t, DropUnknown, s.Handle4(msg4(macA, discover, opt(61, []byte("abd")...))).Drop)
	require.Equal(t, "offer", s.Handle4(msg4(macA, discover, opt(61, []byte("abc")...))).Reply)
}

func TestReservationsComeAndGo(t *testing.T) {
	s := server(t, false)
	require.Equal(t, "ack", s.Handle4(msg4(macA, request, want("192.0.2.10"))).Reply)
	require.Len(t, s.Leases(), 1)
	r := resA()
	r.IPs = []netip.Addr{ip("192.0.2.20")}
	s.PutReservation(r)
	require.Empty(t, s.Leases())
	require.Equal(t, "nak", s.Handle4(msg4(macA, request, ciaddr("192.0.2.10"))).Reply)
	s.DropReservation("pa")
	require.Equal(t, DropUnknown, s.Handle4(msg4(macA, discover)).Drop)
	s.DropScope("s4")
	require.True(t, s.Empty())
	require.Equal(t, DropNoScope, s.Handle4(msg4(macA, discover)).Drop)
}

func BenchmarkHandle4(b *testing.B) {
	s := server(b, false)
	p := msg4(macA, request, want("192.0.2.10"), prl(1, 3, 6, 12, 15, 26, 28, 42, 119, 121))
	b.ReportAllocs()
	for b.Loop() {
		s.Handle4(p)
	}
}
