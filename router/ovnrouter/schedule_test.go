package ovnrouter

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/router"
)

func TestCandidates(t *testing.T) {
	all := []candidate{
		candidateOf(&sbrow.Chassis{Name: "c", OtherConfig: map[string]string{"ovn-bridge-mappings": "ext:br-ex, dc:br-dc"}}),
		candidateOf(&sbrow.Chassis{Name: "a", OtherConfig: map[string]string{"ovn-bridge-mappings": "ext:br-ex"}}),
		candidateOf(&sbrow.Chassis{Name: "b", OtherConfig: map[string]string{"ovn-bridge-mappings": "dc:br-dc"}}),
		candidateOf(&sbrow.Chassis{Name: "old", ExternalIDs: map[string]string{"ovn-bridge-mappings": "ext:br-ex"}}),
	}
	require.Equal(t, []string{"a", "c", "old"}, fit(all, "ext"))
	require.Equal(t, []string{"b", "c"}, fit(all, "dc"))
	require.Equal(t, []string{"a", "b", "c", "old"}, fit(all, ""))
	require.Empty(t, fit(all, "extra"))
	all = append(all, candidateOf(&sbrow.Chassis{Name: "g", OtherConfig: map[string]string{"ovn-bridge-mappings": "ext:br-ex", "ovn-cms-options": "x=1, enable-chassis-as-gw"}}))
	require.Equal(t, []string{"g"}, fit(all, "ext"), "some are meant for gateways")
	require.Equal(t, []string{"b", "c"}, fit(all, "dc"), "but none of these")
}

func TestPick(t *testing.T) {
	can := []string{"a", "b", "c", "d"}
	first := map[string]int{}
	for i := range 400 {
		id := fmt.Sprint("r", i)
		got := pick(id, nil, can, 3)
		require.Len(t, got, 3)
		require.Equal(t, got, pick(id, got, can, 3), "what stands stays")
		require.Equal(t, got, pick(id, got, append([]string{"0"}, can...), 3), "whoever comes")
		without := pick(id, got, []string{got[0], got[2], "z"}, 3)
		require.Equal(t, []string{got[0], got[2], "z"}, without, "who has gone leaves the others in their order")
		first[got[0]]++
	}
	for _, c := range can {
		require.InDelta(t, 100, first[c], 40, "routers are spread: %v", first)
	}
	require.Equal(t, []string{"a"}, pick("r", nil, []string{"a"}, 5))
}

func TestRefused(t *testing.T) {
	r := router.Router{ID: "r", Interfaces: []router.Interface{{PortID: "p", RA: &router.RA{Mode: router.SLAAC, RDNSS: []netip.Addr{netip.IPv6Loopback(), netip.IPv6Loopback()}}}}}
	var u *vnet.UnsupportedError
	require.ErrorAs(t, refuse(r), &u)
	require.Contains(t, u.Feature, "resolver")
	r.Interfaces[0].RA = &router.RA{Mode: router.SLAAC, Interval: 4500 * time.Millisecond}
	require.ErrorAs(t, refuse(r), &u)
	require.Contains(t, u.Feature, "interval")
	r.Interfaces[0].RA.Interval = 5 * time.Second
	require.NoError(t, refuse(r))
}

func TestInternal(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	r := router.Router{
		Interfaces: []router.Interface{{Addresses: []netip.Prefix{p("10.1.0.1/24"), p("2001:db8::1/64")}}, {Addresses: []netip.Prefix{p("10.0.0.1/24")}}},
		Gateway:    &router.Gateway{Addresses: []netip.Prefix{p("203.0.113.2/24")}},
		Routes: []router.Route{{Destination: p("192.168.0.0/16"), NextHop: a("10.1.0.9")}, {Destination: p("192.168.0.0/16"), NextHop: a("10.0.0.9")},
			{Destination: p("198.51.100.0/24"), NextHop: a("203.0.113.9")}, {Destination: p("0.0.0.0/0"), NextHop: a("10.1.0.9")}, {Destination: p("2001:db8:9::/64"), NextHop: a("2001:db8::9")}}}
	require.Equal(t, []netip.Prefix{p("10.0.0.0/24"), p("10.1.0.0/24"), p("192.168.0.0/16")}, internal4(r))
}
