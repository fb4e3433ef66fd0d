package router_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

func good() router.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return router.State{
		Routers: []router.Router{{ID: "r1",
			Interfaces: []router.Interface{
				{PortID: "i1", NetworkID: "in", MAC: vnet.MAC{2, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24"), p("2001:db8:1::1/64")}, RA: &router.RA{Mode: router.SLAAC}},
				{PortID: "i2", NetworkID: "in2", MAC: vnet.MAC{2, 2}, Addresses: []netip.Prefix{p("10.0.1.1/24")}},
			},
			Gateway: &router.Gateway{PortID: "g1", NetworkID: "out", MAC: vnet.MAC{2, 3}, Addresses: []netip.Prefix{p("203.0.113.2/24")}, NextHops: []netip.Addr{a("203.0.113.1")}},
			Routes:  []router.Route{{Destination: p("192.168.0.0/16"), NextHop: a("10.0.0.9")}},
		}, {ID: "r2",
			// The same subnet, on another network.
			Interfaces: []router.Interface{{PortID: "i3", NetworkID: "in3", MAC: vnet.MAC{2, 1}, Addresses: []netip.Prefix{p("10.0.0.1/24")}}},
			Gateway:    &router.Gateway{PortID: "g2", NetworkID: "out", MAC: vnet.MAC{2, 4}, Addresses: []netip.Prefix{p("203.0.113.3/24")}},
		}},
		FloatingIPs: []router.FloatingIP{
			{ID: "f1", RouterID: "r1", FloatingIP: a("203.0.113.50"), FixedIP: a("10.0.0.5")},
			{ID: "f2", RouterID: "r2", FloatingIP: a("203.0.113.51"), FixedIP: a("10.0.0.5")},
			{ID: "f3", RouterID: "r1", FloatingIP: a("203.0.113.52"), FixedIP: a("192.168.3.4")}, // by the extra route
		},
		PortForwards: []router.PortForward{
			{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: a("203.0.113.2"), ExternalPort: router.PortRange{First: 80, Last: 90}, InternalIP: a("10.0.1.5"), InternalPort: router.PortRange{First: 8080, Last: 8090}},
			{ID: "p2", RouterID: "r1", Protocol: "udp", ExternalIP: a("203.0.113.2"), ExternalPort: router.PortRange{First: 85}, InternalIP: a("10.0.1.5"), InternalPort: router.PortRange{First: 53}},
		},
	}
}

func TestValidate(t *testing.T) {
	require.NoError(t, good().Validate())
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	for _, c := range []struct {
		name   string
		change func(s *router.State)
		want   string
	}{
		{"no id", func(s *router.State) { s.Routers[0].ID = "" }, "routers[0].id"},
		{"two routers of an id", func(s *router.State) { s.Routers[1].ID = "r1" }, `routers[1].id "r1" is there twice`},
		{"a port of two routers", func(s *router.State) { s.Routers[1].Interfaces[0].PortID = "i1" }, "is a port of router r1 too"},
		{"a port twice", func(s *router.State) { s.Routers[0].Gateway.PortID = "i1" }, `gateway.port_id "i1" is there twice`},
		{"no address", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses = nil }, "interfaces[1].addresses is empty"},
		{"no mac", func(s *router.State) { s.Routers[0].Interfaces[1].MAC = vnet.MAC{} }, "interfaces[1].mac is missing"},
		{"a group mac", func(s *router.State) { s.Routers[0].Interfaces[1].MAC = vnet.MAC{3} }, "is a group address"},
		{"the subnet", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses[0] = p("10.0.1.0/24") }, "is the subnet"},
		{"its broadcast", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses[0] = p("10.0.1.255/24") }, "is the broadcast address"},
		{"link-local", func(s *router.State) { s.Routers[0].Interfaces[0].Addresses[1] = p("fe80::1/64") }, "is link-local"},
		{"loopback", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses[0] = p("127.0.0.1/8") }, "is not the address of a host"},
		{"mapped", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses[0] = p("::ffff:10.0.1.1/120") }, "IPv4-mapped"},
		{"overlapping interfaces", func(s *router.State) { s.Routers[0].Interfaces[1].Addresses[0] = p("10.0.0.129/25") }, "overlaps 10.0.0.0/24"},
		{"gateway overlapping", func(s *router.State) { s.Routers[0].Gateway.Addresses[0] = p("10.0.1.9/16") }, "overlaps"},
		{"MTU of IPv6", func(s *router.State) { s.Routers[0].Interfaces[0].MTU = 1000 }, "mtu"},
		{"no autoconfiguration by /96", func(s *router.State) { s.Routers[0].Interfaces[0].Addresses[1] = p("2001:db8:1::1/96") }, "is not a /64"},
		{"advertised IPv4", func(s *router.State) { s.Routers[0].Interfaces[1].RA = &router.RA{Mode: router.SLAAC} }, "without IPv6 addresses"},
		{"mode", func(s *router.State) { s.Routers[0].Interfaces[0].RA.Mode = "often" }, "is none of slaac"},
		{"interval", func(s *router.State) { s.Routers[0].Interfaces[0].RA.Interval = time.Second }, "is not 4s to 1800s"},
		{"rdnss", func(s *router.State) { s.Routers[0].Interfaces[0].RA.RDNSS = []netip.Addr{a("192.0.2.1")} }, "is not an IPv6 unicast address"},
		{"dnssl", func(s *router.State) { s.Routers[0].Interfaces[0].RA.DNSSL = []string{"a..b"} }, "is not a domain name"},
		{"two next hops", func(s *router.State) {
			s.Routers[0].Gateway.NextHops = []netip.Addr{a("203.0.113.1"), a("203.0.113.4")}
		}, "is the second of its family"},
		{"next hop of the other family", func(s *router.State) { s.Routers[0].Gateway.NextHops = []netip.Addr{a("2001:db8::1")} }, "of a family that the gateway has no address of"},
		{"no host", func(s *router.State) { s.Routers[0].Gateway.Hosts = []string{"a", ""} }, "gateway.hosts[1] is empty"},
		{"two hosts in one", func(s *router.State) { s.Routers[0].Gateway.Hosts = []string{"a,b"} }, "has characters that no host name has"},
		{"a host twice", func(s *router.State) { s.Routers[0].Gateway.Hosts = []string{"a", "b", "a"} }, `gateway.hosts[2] "a" is there twice`},
		{"next hop itself", func(s *router.State) { s.Routers[0].Gateway.NextHops = []netip.Addr{a("203.0.113.2")} }, "the gateway's own address"},
		{"route with host bits", func(s *router.State) { s.Routers[0].Routes[0].Destination = p("192.168.1.1/16") }, "did you mean 192.168.0.0/16?"},
		{"route by nowhere", func(s *router.State) { s.Routers[0].Routes[0].NextHop = a("10.9.9.9") }, "is on no attached network"},
		{"route by itself", func(s *router.State) { s.Routers[0].Routes[0].NextHop = a("10.0.0.1") }, "is the router's own address"},
		{"route to an attached subnet", func(s *router.State) { s.Routers[0].Routes[0].Destination = p("10.0.1.0/24") }, "is an attached subnet"},
		{"route of two families", func(s *router.State) { s.Routers[0].Routes[0].NextHop = a("2001:db8:1::9") }, "destination's family"},
		{"route twice", func(s *router.State) { s.Routers[0].Routes = append(s.Routers[0].Routes, s.Routers[0].Routes[0]) }, "routes[1] \"192.168.0.0/16\" is there twice"},
		{"a mac on one network twice", func(s *router.State) { s.Routers[1].Gateway.MAC = s.Routers[0].Gateway.MAC }, "is that of a port of router r1 on network out too"},
		{"an address on one network twice", func(s *router.State) { s.Routers[1].Gateway.Addresses[0] = p("203.0.113.2/24") }, "is that of router r1 on network out too"},
		{"no router", func(s *router.State) { s.FloatingIPs[0].RouterID = "r9" }, "is no router of the state"},
		{"no gateway", func(s *router.State) { s.Routers[0].Gateway = nil }, `floating_ips[0].router_id "r1" has no gateway`},
		{"floating IPv6", func(s *router.State) { s.FloatingIPs[0].FloatingIP = a("2001:db8::1") }, "is not an IPv4 unicast address"},
		{"floating IP twice", func(s *router.State) { s.FloatingIPs[1].FloatingIP = a("203.0.113.50") }, "is that of floating IP f1"},
		{"fixed IP twice", func(s *router.State) { s.FloatingIPs[2].FixedIP = a("10.0.0.5") }, "has floating IP f1 already"},
		{"floating IP of the gateway", func(s *router.State) { s.FloatingIPs[0].FloatingIP = a("203.0.113.2") }, "is the gateway's own address"},
		{"floating IP of another gateway", func(s *router.State) { s.FloatingIPs[0].FloatingIP = a("203.0.113.3") }, "is that of router r2 on network out"},
		{"floating IP inside", func(s *router.State) { s.FloatingIPs[0].FloatingIP = a("10.0.0.77") }, "which is behind router r1"},
		{"fixed IP elsewhere", func(s *router.State) { s.FloatingIPs[0].FixedIP = a("10.7.0.5") }, "is in no subnet and no route behind router r1"},
		{"fixed IP of the router", func(s *router.State) { s.FloatingIPs[0].FixedIP = a("10.0.0.1") }, "is router r1's own address"},
		{"protocol", func(s *router.State) { s.PortForwards[0].Protocol = "sctp" }, "is neither tcp nor udp"},
		{"no port", func(s *router.State) { s.PortForwards[1].ExternalPort = router.PortRange{} }, "external_port.first is missing"},
		{"ports backwards", func(s *router.State) { s.PortForwards[0].ExternalPort.Last = 70 }, "is before first, 80"},
		{"ranges of two sizes", func(s *router.State) { s.PortForwards[0].InternalPort.Last = 8089 }, "has 10 ports, and external_port 11"},
		{"overlapping forwards", func(s *router.State) { s.PortForwards[1].Protocol = "tcp" }, "port_forwards[1].external_port \"85\" is that of port forward p1"},
		{"forward on a floating IP", func(s *router.State) { s.PortForwards[0].ExternalIP = a("203.0.113.50") }, "is floating IP f1, all of which"},
		{"forward on another gateway", func(s *router.State) { s.PortForwards[0].ExternalIP = a("203.0.113.3") }, "is that of router r2 on network out"},
		{"forward to elsewhere", func(s *router.State) { s.PortForwards[0].InternalIP = a("10.7.0.5") }, "is in no subnet and no route"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			c.change(&s)
			err := s.Validate()
			require.ErrorContains(t, err, c.want)
			var fe *vnet.FieldError
			require.ErrorAs(t, err, &fe)
		})
	}
	// The same address on two external networks is two addresses.
	s := good()
	s.Routers[1].Gateway.NetworkID = "out2"
	s.FloatingIPs[1].FloatingIP = s.FloatingIPs[0].FloatingIP
	require.NoError(t, s.Validate())
}

func TestCanonicalAndDiff(t *testing.T) {
	a, b := good(), good()
	b.Routers[0].Interfaces[0], b.Routers[0].Interfaces[1] = b.Routers[0].Interfaces[1], b.Routers[0].Interfaces[0]
	b.Routers[0], b.Routers[1] = b.Routers[1], b.Routers[0]
	b.PortForwards[1].ExternalPort.Last = 85
	require.Equal(t, a.Canonical(), b.Canonical().Canonical())
	require.Empty(t, router.Diff(a, b))
	require.True(t, a.Routers[0].Equal(b.Routers[1]))
	c := a.Clone()
	c.Routers[0].Interfaces[0].RA.Mode = router.DHCPv6Stateful
	require.Equal(t, router.SLAAC, a.Routers[0].Interfaces[0].RA.Mode)
	require.Len(t, router.Diff(a, c), 1)
	var text []string
	for _, x := range router.Diff(router.State{}, a) {
		text = append(text, x.Kind)
	}
	require.Equal(t, "router router floatingip floatingip floatingip portforward portforward", strings.Join(text, " "))
	require.Len(t, router.Diff(a, router.State{}), 7)
}

func TestHostsOfAGateway(t *testing.T) {
	a, b := good().Routers[0], good().Routers[0]
	b.Gateway.Hosts = []string{"hv2", "hv1"}
	require.NoError(t, b.Validate())
	require.Equal(t, b, b.Canonical(), "their order is what is meant")
	require.False(t, a.Equal(b))
	c := b.Clone()
	require.True(t, b.Equal(c))
	c.Gateway.Hosts[0], c.Gateway.Hosts[1] = "hv1", "hv2"
	require.Equal(t, "hv2", b.Gateway.Hosts[0])
	require.False(t, b.Equal(c))
	d, ok := router.DiffRouter(&b, &c)
	require.True(t, ok)
	require.Equal(t, vnet.ImpactSome, d.Impact)
}
