package ovsdhcp

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/internal/openflow"
)

func text(flows []openflow.Flow) string {
	var b strings.Builder
	for _, f := range flows {
		b.WriteString(strings.TrimPrefix(strings.TrimSpace(f.String()), "cookie=0, ") + "\n")
	}
	return b.String()
}

func TestFlows(t *testing.T) {
	s := dhcp.Scope{ID: "s", NetworkID: "net", Subnet: netip.MustParsePrefix("10.0.0.0/24"), ServerIP: netip.MustParseAddr("10.0.0.2"), Router: netip.MustParseAddr("10.0.0.1")}
	require.Equal(t, strings.TrimLeft(`
table=20, priority=1000,udp,reg0=0/0x6,reg1=0x7,nw_dst=255.255.255.255,tp_dst=67 actions=controller(id=1)
table=20, priority=1000,udp,reg0=0/0x6,reg1=0x7,nw_dst=10.0.0.2,tp_dst=67 actions=controller(id=1)
table=20, priority=1000,arp,reg0=0/0x6,reg1=0x7,arp_tpa=10.0.0.2,arp_op=1 actions=controller(id=1)
`, "\n"), text(scopeFlows("o", s, 7, 0, action())))

	// The router answers for its own address; the next scope of a network is
	// told from the first; relays may be on the wire.
	s.ServerIP, s.Relays = s.Router, []netip.Prefix{netip.MustParsePrefix("10.0.0.254/32")}
	require.Equal(t, strings.TrimLeft(`
table=20, priority=1001,udp,reg0=0/0x6,reg1=0x7,nw_dst=255.255.255.255,tp_dst=67 actions=controller(id=1)
table=20, priority=1001,udp,reg0=0/0x6,reg1=0x7,nw_dst=10.0.0.1,tp_dst=67 actions=controller(id=1)
table=20, priority=1001,udp,reg0=0x4/0x4,reg1=0x7,nw_src=10.0.0.254,nw_dst=10.0.0.1,tp_dst=67 actions=controller(id=1)
`, "\n"), text(scopeFlows("o", s, 7, 1, action())))

	six := dhcp.Scope{ID: "t", NetworkID: "net", Subnet: netip.MustParsePrefix("2001:db8::/64")}
	ll := serverMAC("o", "net").LinkLocal().String()
	require.Equal(t, strings.TrimLeft(`
table=20, priority=1000,icmp6,reg0=0/0x6,reg1=0x7,icmp_type=135,icmp_code=0,nd_target=LL actions=drop
table=20, priority=1000,udp6,reg0=0/0x6,reg1=0x7,ipv6_dst=ff02::1:2,tp_dst=547 actions=drop
table=20, priority=1000,udp6,reg0=0/0x6,reg1=0x7,ipv6_dst=ff05::1:3,tp_dst=547 actions=drop
table=20, priority=1000,udp6,reg0=0/0x6,reg1=0x7,ipv6_dst=LL,tp_dst=547 actions=drop
`, "\n"), strings.ReplaceAll(text(scopeFlows("o", six, 7, 0)), ll, "LL"))
	for _, f := range scopeFlows("o", six, 7, 0, action()) {
		require.NoError(t, f.Validate())
	}
}

func TestServerMAC(t *testing.T) {
	seen := map[vnet.MAC]bool{}
	for _, owner := range []vnet.Owner{"a", "b"} {
		for _, net := range []string{"a", "b", "c"} {
			m := serverMAC(owner, net)
			require.True(t, m.IsUnicast() && m[0]&2 != 0, m)
			require.False(t, seen[m])
			seen[m] = true
			require.Equal(t, m, serverMAC(owner, net))
		}
	}
}

func TestSlots(t *testing.T) {
	e := newPackets(nil, nil)
	slot := func(scope string) uint16 {
		n, err := e.slot("net", scope)
		require.NoError(t, err)
		return n
	}
	require.EqualValues(t, 0, slot("a"))
	require.EqualValues(t, 1, slot("b"))
	require.EqualValues(t, 0, slot("a"), "it keeps its slot")
	e.hold("net", "z", 7)
	require.EqualValues(t, 7, slot("z"))
	e.free("net", "a")
	require.EqualValues(t, 0, slot("c"))
	require.EqualValues(t, 2, slot("d"))
	require.ElementsMatch(t, []string{"b", "c", "d", "z"}, e.scopes("net"))
}
