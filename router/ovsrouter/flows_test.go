package ovsrouter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	of "github.com/vnet-go/vnet/internal/openflow"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

func pfx(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, netip.MustParsePrefix(x))
	}
	return out
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func someSite(home bool) site {
	r := router.Router{ID: "r1",
		Interfaces: []router.Interface{
			{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: pfx("10.0.0.1/24", "2001:db8:1::1/64"), MTU: 1400, RA: &router.RA{Mode: router.SLAAC}},
			{PortID: "r1-in2", NetworkID: "in2", MAC: vnet.MAC{2, 0, 0, 0, 1, 2}, Addresses: pfx("10.0.1.1/24", "2001:db8:2::1/64")},
		},
		Routes: []router.Route{{Destination: netip.MustParsePrefix("192.168.5.0/24"), NextHop: ip("10.0.0.5")}, {Destination: netip.MustParsePrefix("192.168.5.0/24"), NextHop: ip("10.0.0.6")}},
		Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Addresses: pfx("203.0.113.2/24", "2001:db8:f::2/64"),
			NextHops: []netip.Addr{ip("203.0.113.1"), ip("2001:db8:f::1")}},
	}
	return site{r: r, number: 1, nets: map[string]uint16{"in": 1, "in2": 2, "out": 3}, home: home, cookie: 0x77}
}

var (
	someFIP     = router.FloatingIP{ID: "f1", RouterID: "r1", FloatingIP: ip("203.0.113.50"), FixedIP: ip("10.0.0.5")}
	someForward = router.PortForward{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: ip("203.0.113.60"), ExternalPort: router.PortRange{First: 2200, Last: 2203},
		InternalIP: ip("10.0.0.6"), InternalPort: router.PortRange{First: 22, Last: 25}}
)

func allFlows(t *testing.T, home bool) (out []of.Flow) {
	s := someSite(home)
	st := router.State{Routers: []router.Router{s.r}, FloatingIPs: []router.FloatingIP{someFIP}, PortForwards: []router.PortForward{someForward}}
	require.NoError(t, st.Validate())
	for _, o := range objects(st, map[string]site{"r1": s}) {
		out = append(out, o.flows...)
	}
	return out
}

// Flows are valid, and each is there once.
func TestFlows(t *testing.T) {
	for _, home := range []bool{true, false} {
		seen := map[of.FlowKey]string{}
		for _, f := range allFlows(t, home) {
			require.NoError(t, f.Validate())
			require.Empty(t, seen[f.Key()], f.String())
			seen[f.Key()] = f.String()
		}
	}
	s := someSite(true)
	s.r.AdminDown = true
	for _, f := range routerFlows(s) {
		require.Empty(t, f.Actions, f.String())
	}
}

func text(flows []of.Flow) string {
	var b strings.Builder
	for _, f := range flows {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// What a floating IP is, in full.
func TestFloatingIPFlows(t *testing.T) {
	n := 0
	var all []of.Flow
	for _, o := range someSite(true).floating(someFIP) {
		n += len(o.flows) + 1
		all = append(all, o.flows...)
	}
	require.Equal(t, 9, n, "with records")
	for _, want := range []string{
		"table=46, priority=100,ip,reg4=0x1,nw_dst=203.0.113.50 actions=set_field:0x80000/0x80000->reg0,ct(commit,table=47,zone=NXM_NX_REG14[16..31],nat(dst=10.0.0.5))\n",
		"table=56, priority=100,ip,reg4=0x1,nw_src=10.0.0.5 actions=ct(commit,table=55,zone=NXM_NX_REG13[16..31],nat(src=203.0.113.50))\n",
		"table=41, priority=800,ip,reg4=0x1,nw_src=203.0.113.50 actions=drop\n",
		"table=41, priority=700,ip,reg4=0x1,nw_dst=203.0.113.50 actions=resubmit(,44)\n",
	} {
		require.Contains(t, text(all), want)
	}
	require.Len(t, someSite(true).forward(someForward).flows, 4)
}

// A new hairpinned connection between filtered ports is looked up seven times,
// the most there is on the userspace data path: its source is translated
// without being looked for first.
func TestHairpinTurns(t *testing.T) {
	require.Regexp(t, `(?m)^table=51, priority=155,ct_state=\+new-inv\+trk,ip,.*reg0=.* actions=resubmit\(,56\)$`, text(baseFlows()))
}

// Where a router is not at home, only what certainly stays between its
// networks is routed; the rest is left as it is.
func TestShortCuts(t *testing.T) {
	for _, f := range routerFlows(someSite(false)) {
		line := f.String()
		switch f.Table {
		case tRoute:
			inside := strings.Contains(line, "nw_dst=10.0.") || strings.Contains(line, "ipv6_dst=2001:db8:1::/64") || strings.Contains(line, "ipv6_dst=2001:db8:2::/64")
			require.Equal(t, inside, !strings.HasSuffix(line, "resubmit(,48)"), line)
		case tAdmission:
			require.Contains(t, line, "reg0=0/0x6", "of own machines only")
		case tSource, tLearned:
			t.Error(line)
		}
	}
}

func TestCarries(t *testing.T) {
	st := router.State{Routers: []router.Router{someSite(true).r}, FloatingIPs: []router.FloatingIP{someFIP}, PortForwards: []router.PortForward{someForward}}
	tr := translations(st)["r1"]
	ap := netip.MustParseAddrPort
	for _, x := range []struct {
		dnat                     bool
		src, dst, repSrc, repDst string
		want                     bool
	}{
		{true, "198.51.100.1:1", "203.0.113.50:80", "10.0.0.5:80", "198.51.100.1:1", true},
		{true, "198.51.100.1:1", "203.0.113.50:80", "10.0.0.6:80", "198.51.100.1:1", false},
		{true, "198.51.100.1:1", "203.0.113.60:2201", "10.0.0.6:23", "198.51.100.1:1", true},
		{true, "198.51.100.1:1", "203.0.113.60:2201", "10.0.0.6:24", "198.51.100.1:1", false},
		{true, "198.51.100.1:1", "203.0.113.60:2204", "10.0.0.6:26", "198.51.100.1:1", false},
		{false, "10.0.0.5:1", "198.51.100.1:80", "198.51.100.1:80", "203.0.113.50:1", true},
		{false, "10.0.0.6:1", "198.51.100.1:80", "198.51.100.1:80", "203.0.113.50:1", false},
		{false, "10.0.0.6:1", "198.51.100.1:80", "198.51.100.1:80", "203.0.113.2:9", true},
		{false, "10.0.0.6:1", "198.51.100.1:80", "198.51.100.1:80", "203.0.113.3:9", false},
		{false, "198.51.100.1:1", "10.0.0.5:80", "10.0.0.5:80", "198.51.100.1:1", true}, // routed in
		{false, "10.0.0.6:1", "203.0.113.50:80", "203.0.113.50:80", "203.0.113.2:9", false},
	} {
		c := conn{6, ap(x.src), ap(x.dst), ap(x.repSrc), ap(x.repDst)}
		require.Equal(t, x.want, tr.carries(c, x.dnat), "%v", x)
	}
	m := touches(ip("203.0.113.50"), 0, 0, 0)
	require.True(t, m(conn{6, ap("10.0.0.5:1"), ap("198.51.100.1:80"), ap("198.51.100.1:80"), ap("203.0.113.50:1")}, false))
	require.False(t, m(conn{6, ap("10.0.0.6:1"), ap("198.51.100.1:80"), ap("198.51.100.1:80"), ap("203.0.113.2:1")}, false))
}

func TestBroadcast(t *testing.T) {
	for in, want := range map[string]string{"10.0.1.7/24": "10.0.1.255/32", "10.1.0.0/16": "10.1.255.255/32", "192.0.2.8/30": "192.0.2.11/32"} {
		got, ok := broadcast(netip.MustParsePrefix(in))
		require.True(t, ok)
		require.Equal(t, want, got.String())
	}
	_, ok := broadcast(netip.MustParsePrefix("192.0.2.8/31"))
	require.False(t, ok)
}
