package dhcpwire

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

func scope6() dhcp.Scope {
	return dhcp.Scope{
		ID: "s6", NetworkID: "n", Subnet: prefix("2001:db8::/64"), DNS: []netip.Addr{ip("2001:db8:53::1")}, Domain: "example.org",
		NTP: []netip.Addr{ip("2001:db8:123::1")}, Lease: time.Hour,
	}
}

func server6(t testing.TB, change ...func(*dhcp.Scope)) *Server {
	s := server(t, true)
	sc := scope6()
	for _, f := range change {
		f(&sc)
	}
	require.NoError(t, sc.Validate())
	s.PutScope(sc)
	return s
}

func pool6(sc *dhcp.Scope) {
	sc.Pool = []dhcp.AddrRange{{First: ip("2001:db8::1000"), Last: ip("2001:db8::ffff")}}
}

func duid(mac vnet.MAC) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac.HardwareAddr()}
}

func ours() dhcpv6.Option { return &dhcpv6.OptionGeneric{OptionCode: 2, OptionData: DUID("n")} }
func notOurs() dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: 2, OptionData: DUID("other")}
}
func iana6(id byte, addrs ...string) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, id}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.IP(ip(a).AsSlice())})
	}
	return ia
}
func oro(codes ...dhcpv6.OptionCode) dhcpv6.Option { return dhcpv6.OptRequestedOption(codes...) }
func raw6(code dhcpv6.OptionCode, b ...byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: b}
}

func msg6(mac vnet.MAC, typ dhcpv6.MessageType, opts ...dhcpv6.Option) Packet {
	m := &dhcpv6.Message{MessageType: typ, TransactionID: [3]byte{1, 2, 3}}
	m.Options.Add(dhcpv6.OptClientID(duid(mac)))
	for _, o := range opts {
		m.Options.Add(o)
	}
	return Packet{MAC: mac, Src: netip.AddrPortFrom(mac.LinkLocal(), 546), Dst: netip.MustParseAddrPort("[ff02::1:2]:547"), Payload: m.ToBytes()}
}

func relayed(p Packet, hops int, link string) Packet {
	for i := range hops {
		rm := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, HopCount: uint8(i), LinkAddr: net.IP(ip("::").AsSlice()), PeerAddr: net.IP(p.Src.Addr().AsSlice())}
		if i == 0 {
			rm.LinkAddr = net.IP(ip(link).AsSlice())
			rm.Options.Add(dhcpv6.OptInterfaceID([]byte("eth7")))
		}
		rm.Options.Add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRelayMsg, OptionData: p.Payload})
		p = Packet{MAC: macX, Src: netip.MustParseAddrPort("[2001:db8:ff::1]:547"), Dst: p.Dst, Payload: rm.ToBytes()}
	}
	return p
}

func outcome6(t testing.TB, r Result) string {
	t.Helper()
	s := r.Drop
	if r.Payload != nil {
		d, err := dhcpv6.FromBytes(r.Payload)
		require.NoError(t, err)
		m, err := d.GetInnerMessage()
		require.NoError(t, err)
		require.Equal(t, strings.ToLower(m.MessageType.String()), r.Reply)
		s = r.Reply
		if st := m.Options.Status(); st != nil {
			s += " " + st.StatusCode.String()
		}
		for _, ia := range m.Options.IANA() {
			s += fmt.Sprintf(" [%d", ia.IaId[3])
			for _, a := range ia.Options.Addresses() {
				s += fmt.Sprintf(" %s/%d", a.IPv6Addr, int(a.ValidLifetime/time.Second))
			}
			if st := ia.Options.Status(); st != nil {
				s += " " + st.StatusCode.String()
			}
			s += "]"
		}
	}
	for _, n := range r.Notices {
		s += fmt.Sprintf("; %s %s", n.Kind, n.Lease.IP)
	}
	return s
}

func TestV6Conversations(t *testing.T) {
	const (
		solicit = dhcpv6.MessageTypeSolicit
		request = dhcpv6.MessageTypeRequest
		renew   = dhcpv6.MessageTypeRenew
		rebind  = dhcpv6.MessageTypeRebind
		confirm = dhcpv6.MessageTypeConfirm
		release = dhcpv6.MessageTypeRelease
		decline = dhcpv6.MessageTypeDecline
		info    = dhcpv6.MessageTypeInformationRequest
	)
	rapid := func(sc *dhcp.Scope) { sc.RapidCommit = true }
	stateless := func(sc *dhcp.Scope) { sc.Mode = dhcp.Stateless }
	nakUnknown := func(sc *dhcp.Scope) { sc.NAKUnknown = true }
	relay := func(sc *dhcp.Scope) { sc.Relays = []netip.Prefix{prefix("2001:db8:ff::1/128")} }
	for _, c := range []struct {
		name   string
		change []func(*dhcp.Scope)
		send   []Packet
		want   []string
	}{
		{name: "solicit", send: []Packet{msg6(macA, solicit, iana6(1))}, want: []string{"advertise [1 2001:db8::10/3600]"}},
		{name: "solicit unknown", send: []Packet{msg6(macX, solicit, iana6(1))}, want: []string{DropUnknown}},
		{name: "second association gets none", send: []Packet{msg6(macA, solicit, iana6(1), iana6(2))}, want: []string{"advertise [1 2001:db8::10/3600] [2 NoAddrsAvail]"}},
		{name: "solicit with a server", send: []Packet{msg6(macA, solicit, iana6(1), ours())}, want: []string{DropMalformed}},
		{name: "rapid commit", change: []func(*dhcp.Scope){rapid}, send: []Packet{msg6(macA, solicit, iana6(1), raw6(14))}, want: []string{"reply [1 2001:db8::10/3600]; lease 2001:db8::10"}},
		{name: "rapid commit not enabled", send: []Packet{msg6(macA, solicit, iana6(1), raw6(14))}, want: []string{"advertise [1 2001:db8::10/3600]"}},
		{name: "request", send: []Packet{msg6(macA, request, iana6(1, "2001:db8::10"), ours())}, want: []string{"reply [1 2001:db8::10/3600]; lease 2001:db8::10"}},
		{name: "request to another server", send: []Packet{msg6(macA, request, iana6(1), notOurs())}, want: []string{DropOtherServer}},
		{name: "request to nobody", send: []Packet{msg6(macA, request, iana6(1))}, want: []string{DropMalformed}},
		{name: "request off link", send: []Packet{msg6(macA, request, iana6(1, "2001:db8:9::1"), ours())}, want: []string{"reply [1 NotOnLink]; nak 2001:db8:9::1"}},
		{name: "renew", send: []Packet{msg6(macA, renew, iana6(1, "2001:db8::10"), ours())}, want: []string{"reply [1 2001:db8::10/3600]; lease 2001:db8::10"}},
		{name: "renew a wrong address", send: []Packet{msg6(macA, renew, iana6(1, "2001:db8::11"), ours())}, want: []string{"reply [1 2001:db8::10/3600 2001:db8::11/0]; lease 2001:db8::10; nak 2001:db8::11"}},
		{name: "rebind", send: []Packet{msg6(macA, rebind, iana6(1, "2001:db8::10"))}, want: []string{"reply [1 2001:db8::10/3600]; lease 2001:db8::10"}},
		{name: "confirm", send: []Packet{msg6(macA, confirm, iana6(1, "2001:db8::10"))}, want: []string{"reply Success"}},
		{name: "confirm on a new network", send: []Packet{msg6(macA, confirm, iana6(1, "2001:db8:7::10"))}, want: []string{"reply NotOnLink"}},
		{name: "confirm nothing", send: []Packet{msg6(macA, confirm, iana6(1))}, want: []string{DropMalformed}},
		{name: "confirm of an unknown client", send: []Packet{msg6(macX, confirm, iana6(1, "2001:db8:7::10"))}, want: []string{DropUnknown}},
		{name: "confirm of an unknown client, the only server", change: []func(*dhcp.Scope){nakUnknown}, send: []Packet{msg6(macX, confirm, iana6(1, "2001:db8:7::10"))}, want: []string{"reply NotOnLink"}},
		{name: "release", send: []Packet{msg6(macA, release, iana6(1, "2001:db8::10"), ours())}, want: []string{"reply Success; release 2001:db8::10"}},
		{name: "release of another's", send: []Packet{msg6(macA, release, iana6(1, "2001:db8::11"), ours())}, want: []string{"reply Success [1 NoBinding]"}},
		{name: "decline", send: []Packet{msg6(macA, decline, iana6(1, "2001:db8::10"), ours())}, want: []string{"reply Success; decline 2001:db8::10"}},
		{name: "information", send: []Packet{msg6(macA, info, oro(23))}, want: []string{"reply"}},
		{name: "information unknown", send: []Packet{msg6(macX, info, oro(23))}, want: []string{DropUnknown}},
		{name: "information, stateless", change: []func(*dhcp.Scope){stateless}, send: []Packet{msg6(macX, info, oro(23))}, want: []string{"reply"}},
		{name: "information with addresses", send: []Packet{msg6(macA, info, iana6(1))}, want: []string{DropMalformed}},
		{name: "solicit in a stateless scope", change: []func(*dhcp.Scope){stateless}, send: []Packet{msg6(macA, solicit, iana6(1))}, want: []string{"advertise [1 NoAddrsAvail]"}},
		{name: "renew in a stateless scope", change: []func(*dhcp.Scope){stateless}, send: []Packet{msg6(macA, renew, iana6(1, "2001:db8::10"), ours())}, want: []string{"reply [1 NoBinding]"}},
		{name: "relay", change: []func(*dhcp.Scope){relay}, send: []Packet{relayed(msg6(macA, solicit, iana6(1)), 1, "2001:db8::ff")}, want: []string{"advertise [1 2001:db8::10/3600]"}},
		{name: "relay of relay", change: []func(*dhcp.Scope){relay}, send: []Packet{relayed(msg6(macA, solicit, iana6(1)), 3, "2001:db8::ff")}, want: []string{"advertise [1 2001:db8::10/3600]"}},
		{name: "too many relays", change: []func(*dhcp.Scope){relay}, send: []Packet{relayed(msg6(macA, solicit, iana6(1)), 9, "2001:db8::ff")}, want: []string{DropMalformed}},
		{name: "relay nobody named", send: []Packet{relayed(msg6(macA, solicit, iana6(1)), 1, "2001:db8::ff")}, want: []string{DropRelay}},
		{name: "relay of another link", change: []func(*dhcp.Scope){relay}, send: []Packet{relayed(msg6(macA, solicit, iana6(1)), 1, "2001:db8:5::ff")}, want: []string{DropNoScope}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := server6(t, c.change...)
			var got []string
			for _, p := range c.send {
				got = append(got, outcome6(t, s.Handle6(p)))
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestV6Pool(t *testing.T) {
	s := server6(t, pool6)
	r := s.Handle6(msg6(macX, dhcpv6.MessageTypeSolicit, iana6(7)))
	got := outcome6(t, r)
	require.Regexp(t, `^advertise \[7 2001:db8::[0-9a-f]+/3600\]$`, got)
	a := strings.TrimSuffix(strings.Fields(got)[2], "/3600]")
	r = s.Handle6(msg6(macX, dhcpv6.MessageTypeRequest, iana6(7, a), ours()))
	require.True(t, r.Durable)
	require.Equal(t, "reply [7 "+a+"/3600]; lease "+a, outcome6(t, r))
	r = s.Handle6(msg6(macX, dhcpv6.MessageTypeRenew, iana6(7, a), ours()))
	require.True(t, r.Notices[0].Renewed)
	require.Equal(t, "reply [8 NoBinding]", outcome6(t, s.Handle6(msg6(macX, dhcpv6.MessageTypeRenew, iana6(8, a), ours()))))
	require.Equal(t, "reply Success; decline "+a, outcome6(t, s.Handle6(msg6(macX, dhcpv6.MessageTypeDecline, iana6(7, a), ours()))))
	require.NotContains(t, outcome6(t, s.Handle6(msg6(macX, dhcpv6.MessageTypeSolicit, iana6(7, a)))), a)
	require.Equal(t, "advertise [1 2001:db8::10/3600]", outcome6(t, s.Handle6(msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1)))), "reserved clients keep theirs")
}

func TestV6Options(t *testing.T) {
	s := server6(t, func(sc *dhcp.Scope) {
		sc.TFTPServer = "2001:db8::69"
		sc.BootFiles = map[uint16]string{7: "grub.efi", dhcp.BootIPXE: "http://example.org/x"}
		sc.Options = []dhcp.Option{{Code: 17, Data: []byte{0, 0, 0, 9}}}
	})
	inner := func(r Result) *dhcpv6.Message {
		d, err := dhcpv6.FromBytes(r.Payload)
		require.NoError(t, err)
		m, err := d.GetInnerMessage()
		require.NoError(t, err)
		return m
	}
	m := inner(s.Handle6(msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1), oro(23, 24, 56, 31, 59), raw6(61, 0, 7), raw6(39, 1, 3, 'f', 'o', 'o', 0))))
	require.Equal(t, "2001:db8:53::1", m.Options.DNS()[0].String())
	require.Equal(t, []string{"example.org"}, m.Options.DomainSearchList().Labels)
	require.Equal(t, "2001:db8:123::1", m.Options.NTPServers()[0].String())
	require.Equal(t, "2001:db8:123::1", m.Options.SNTP()[0].String())
	require.Equal(t, "tftp://[2001:db8::69]/grub.efi", m.Options.BootFileURL())
	require.Equal(t, []string{"web.example.org"}, m.Options.FQDN().DomainName.Labels)
	require.EqualValues(t, 6, m.Options.FQDN().Flags, "N, and O because the client asked for S")
	require.EqualValues(t, 255, m.Options.Preference())
	require.Equal(t, DUID("n"), m.Options.ServerID().ToBytes())
	require.NotNil(t, m.GetOneOption(17))
	require.Equal(t, 30*time.Minute, m.Options.OneIANA().T1)
	m = inner(s.Handle6(msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1), oro(23))))
	require.Nil(t, m.GetOneOption(24))
	require.Nil(t, m.GetOneOption(59))
}

func TestV6RelayReply(t *testing.T) {
	s := server6(t, func(sc *dhcp.Scope) { sc.Relays = []netip.Prefix{prefix("2001:db8:ff::/64")} })
	r := s.Handle6(relayed(msg6(macA, dhcpv6.MessageTypeSolicit, iana6(1)), 2, "2001:db8::ff"))
	require.Equal(t, "[2001:db8:ff::1]:547", r.Dst.String())
	require.Equal(t, "[fe80::1]:547", r.Src.String())
	d, err := dhcpv6.FromBytes(r.Payload)
	require.NoError(t, err)
	outer := d.(*dhcpv6.RelayMessage)
	require.Equal(t, dhcpv6.MessageTypeRelayReply, outer.MessageType)
	require.EqualValues(t, 1, outer.HopCount)
	in := outer.Options.RelayMessage().(*dhcpv6.RelayMessage)
	require.Equal(t, macA.LinkLocal().String(), in.PeerAddr.String())
	require.Equal(t, "2001:db8::ff", in.LinkAddr.String())
	require.Equal(t, "eth7", string(in.Options.InterfaceID()))
}

func TestV6Infinite(t *testing.T) {
	s := server6(t, func(sc *dhcp.Scope) { sc.Lease = -1 })
	r := s.Handle6(msg6(macA, dhcpv6.MessageTypeRequest, iana6(1), ours()))
	require.Contains(t, string(r.Payload), "\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff")
	require.True(t, r.Notices[0].Lease.Expires.IsZero())
}

func TestDUIDIsConstant(t *testing.T) {
	require.Equal(t, "0004149505950c258eea9e083cd0ae93e67a", fmt.Sprintf("%x", DUID("n")))
}
