package dhcp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
)

var (
	ip     = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

func good() Scope {
	return Scope{ID: "s", NetworkID: "n", Subnet: prefix("192.0.2.0/24"), ServerIP: ip("192.0.2.2"), Router: ip("192.0.2.1")}
}

func good6() Scope { return Scope{ID: "s6", NetworkID: "n", Subnet: prefix("2001:db8::/64")} }

// fields lists the fields that an error names.
func fields(err error) []string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *vnet.FieldError:
			out = append(out, e.Field)
		case interface{ Unwrap() []error }:
			for _, x := range e.Unwrap() {
				walk(x)
			}
		default:
			out = append(out, "not a field error: "+err.Error())
		}
	}
	walk(err)
	return out
}

func TestScopeValidate(t *testing.T) {
	require.NoError(t, good().Validate())
	require.NoError(t, good6().Validate())
	for field, change := range map[string]func(*Scope){
		"id":                    func(s *Scope) { s.ID = "" },
		"network_id":            func(s *Scope) { s.NetworkID = "a/b" },
		"subnet":                func(s *Scope) { s.Subnet = prefix("192.0.2.1/24") },
		"mode":                  func(s *Scope) { s.Mode = Stateless },
		"server_ip":             func(s *Scope) { s.ServerIP = ip("192.0.2.255") },
		"router":                func(s *Scope) { s.Router = ip("2001:db8::1") },
		"dns[1]":                func(s *Scope) { s.DNS = []netip.Addr{ip("192.0.2.9"), ip("0.0.0.0")} },
		"ntp[0]":                func(s *Scope) { s.NTP = []netip.Addr{ip("2001:db8::1")} },
		"domain":                func(s *Scope) { s.Domain = "a..b" },
		"search_domain[0]":      func(s *Scope) { s.SearchDomain = []string{strings.Repeat("a", 64)} },
		"mtu":                   func(s *Scope) { s.MTU = 67 },
		"routes[0].destination": func(s *Scope) { s.Routes = []Route{{Destination: prefix("192.0.2.1/24")}} },
		"routes[0].nexthop":     func(s *Scope) { s.Routes = []Route{{Destination: prefix("192.0.2.0/24"), NextHop: ip("::1")}} },
		"lease":                 func(s *Scope) { s.Lease = time.Millisecond },
		"t1":                    func(s *Scope) { s.T1, s.T2 = 3*time.Hour, time.Hour },
		"tftp_server":           func(s *Scope) { s.TFTPServer = strings.Repeat("a", 256) },
		"boot_files[7]":         func(s *Scope) { s.BootFiles = map[uint16]string{7: ""} },
		"options[0].code":       func(s *Scope) { s.Options = []Option{{Code: 53, Data: []byte{1}}} },
		"options[1].code":       func(s *Scope) { s.Options = []Option{{Code: 150}, {Code: 150}} },
		"options[0].data":       func(s *Scope) { s.Options = []Option{{Code: 150, Data: make([]byte, 256)}} },
		"pool[0].first":         func(s *Scope) { s.Pool = []AddrRange{{ip("192.0.2.0"), ip("192.0.2.9")}} },
		"pool[0]":               func(s *Scope) { s.Pool = []AddrRange{{ip("192.0.2.9"), ip("192.0.2.3")}} },
		"pool[1]": func(s *Scope) {
			s.Pool = []AddrRange{{ip("192.0.2.3"), ip("192.0.2.9")}, {ip("192.0.2.9"), ip("192.0.2.10")}}
		},
		"relays[0]": func(s *Scope) { s.Relays = []netip.Prefix{prefix("::/0")} },
	} {
		s := good()
		change(&s)
		require.Equal(t, []string{field}, fields(s.Validate()))
	}
	s := good6()
	s.Routes = []Route{{Destination: prefix("::/0"), NextHop: ip("fe80::1")}}
	require.Equal(t, []string{"routes[0]"}, fields(s.Validate()))
	s = good()
	s.ID, s.MTU, s.Domain = "", 1, "-"
	require.Equal(t, []string{"id", "domain", "mtu"}, fields(s.Validate()), "all at once")
}

func TestStateValidate(t *testing.T) {
	mac := vnet.MustParseMAC("02:00:00:00:00:01")
	r := Reservation{ID: "r", NetworkID: "n", MAC: mac, IPs: []netip.Addr{ip("192.0.2.10"), ip("2001:db8::10")}}
	require.NoError(t, State{Scopes: []Scope{good(), good6()}, Reservations: []Reservation{r}}.Validate())

	overlap := good()
	overlap.ID, overlap.Subnet, overlap.ServerIP, overlap.Router = "s2", prefix("192.0.2.128/25"), ip("192.0.2.130"), netip.Addr{}
	require.Equal(t, []string{"scopes[1].subnet"}, fields(State{Scopes: []Scope{good(), overlap}}.Validate()))
	overlap.NetworkID = "other"
	require.NoError(t, State{Scopes: []Scope{good(), overlap}}.Validate(), "networks may use the same addresses")
	require.Equal(t, []string{"scopes[1].id", "scopes[1].subnet"}, fields(State{Scopes: []Scope{good(), good()}}.Validate()))

	for want, change := range map[string]func(*Reservation){
		"reservations[1].id":     func(x *Reservation) { x.ID = "r" },
		"reservations[1].mac":    func(x *Reservation) { x.MAC = mac },
		"reservations[1].ips[0]": func(x *Reservation) { x.IPs = []netip.Addr{ip("192.0.2.10")} },
		"reservations[1].ips[1]": func(x *Reservation) { x.IPs = []netip.Addr{ip("192.0.2.11"), ip("192.0.2.12")} },
		"reservations[1].ips":    func(x *Reservation) { x.IPs = []netip.Addr{ip("192.0.2.2")} },
	} {
		x := Reservation{ID: "x", NetworkID: "n", MAC: vnet.MustParseMAC("02:00:00:00:00:02")}
		change(&x)
		got := fields(State{Scopes: []Scope{good()}, Reservations: []Reservation{r, x}}.Validate())
		require.Len(t, got, 1)
		require.True(t, strings.HasPrefix(got[0], want), "%v, want %s", got, want)
	}
}

func TestEqualIsByMeaning(t *testing.T) {
	a, b := good(), good()
	b.Mode, b.Lease, b.T1, b.T2 = Stateful, DefaultLease, DefaultLease/2, DefaultLease/8*7
	b.Domain, a.Domain = "Example.org.", "example.org"
	a.Options = []Option{{Code: 9, Data: []byte{1}}, {Code: 7, Data: nil}}
	b.Options = []Option{{Code: 7, Data: []byte{}}, {Code: 9, Data: []byte{1}}}
	require.True(t, a.Equal(b))
	b.MTU = 1400
	require.False(t, a.Equal(b))
	c := a.Clone()
	c.Options[0].Data[0] = 7
	require.EqualValues(t, 1, a.Options[0].Data[0])
}

func TestDiff(t *testing.T) {
	r := Reservation{ID: "r", NetworkID: "n", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), IPs: []netip.Addr{ip("192.0.2.10")}}
	have := State{Scopes: []Scope{good(), good6()}, Reservations: []Reservation{r}}
	require.True(t, Diff(have, have.Clone()).Empty())
	want := have.Clone()
	want.Scopes = want.Scopes[:1]
	want.Scopes[0].MTU = 1400
	want.Reservations[0].ID = "q"
	require.Equal(t, "~ dhcp scope s\n      mtu: 0 -> 1400\n+ dhcp reservation q\n- dhcp reservation r  (impact: some)\n- dhcp scope s6  (impact: some)\n1 to create, 1 to update, 2 to delete\n", Diff(have, want).String())
}

func TestErrorsAreJoined(t *testing.T) {
	s := good()
	s.MTU = 1
	var f *vnet.FieldError
	require.True(t, errors.As(State{Scopes: []Scope{s}}.Validate(), &f))
	require.Equal(t, `scopes[0].mtu "1" is not 68 to 65535`, f.Error())
}
