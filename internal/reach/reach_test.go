package reach

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func num(n uint16) *uint16      { return &n }
func mac(n byte) vnet.MAC       { return vnet.MAC{2, 0, 0, 0, 0, n} }
func pfxs(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, pfx(x))
	}
	return out
}

// world is two tenants with the same addresses, each with a router to one
// public network where a server stands.
func world() World {
	w := World{Stations: []Station{{ID: "server", NetworkID: "public", MAC: mac(0xee), Addresses: pfxs("203.0.113.1/24", "2001:db8:ff::1/64"),
		Routes: []router.Route{{Destination: pfx("2001:db8:1::/64"), NextHop: ip("2001:db8:ff::10")}}}}}
	w.Overlay.Networks = []overlay.Network{{ID: "public", Segment: overlay.Segment{Type: overlay.Flat, PhysicalNetwork: "ext"},
		Subnets: []overlay.Subnet{{ID: "p4", CIDR: pfx("203.0.113.0/24")}, {ID: "p6", CIDR: pfx("2001:db8:ff::/64")}}}}
	all := secgroup.DefaultGroup("default")
	web := secgroup.Group{ID: "web", Rules: []secgroup.Rule{
		{ID: "http", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: num(80), PortMax: num(89)},
		{ID: "ping", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "icmp"},
		{ID: "ping6", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "icmp"}}}
	raw := secgroup.Group{ID: "raw", Stateless: true, Rules: []secgroup.Rule{{ID: "in", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "udp"}}}
	w.SecGroup.Groups = []secgroup.Group{all, web, raw}
	for i, tenant := range []string{"red", "blue"} {
		w.Overlay.Networks = append(w.Overlay.Networks, overlay.Network{ID: tenant, Segment: overlay.Segment{Type: overlay.VXLAN, ID: uint32(i + 1)},
			Subnets: []overlay.Subnet{{ID: tenant + "4", CIDR: pfx("10.0.0.0/24"), Gateway: ip("10.0.0.1")}, {ID: tenant + "6", CIDR: pfx("2001:db8:1::/64"), Gateway: ip("2001:db8:1::1")}}})
		for j, host := range []string{"h1", "h2"} {
			id := tenant + string(rune('1'+j))
			p := overlay.Port{ID: id, NetworkID: tenant, MAC: mac(byte(0x10*(i+1) + j)), FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(5 + j)}), netip.MustParseAddr("2001:db8:1::5")}, Filtered: true, Host: host}
			if j == 1 {
				p.FixedIPs[1] = ip("2001:db8:1::6")
			}
			w.Overlay.Ports = append(w.Overlay.Ports, p)
			s := secgroup.Port{ID: id, NetworkID: tenant, MAC: p.MAC, FixedIPs: p.FixedIPs, Groups: []string{"default"}}
			if j == 0 {
				s.Groups = append(s.Groups, "web")
			}
			w.SecGroup.Ports = append(w.SecGroup.Ports, s)
		}
		gw := byte(10 + i)
		w.Router.Routers = append(w.Router.Routers, router.Router{ID: "r-" + tenant, Host: "h1",
			Interfaces: []router.Interface{{PortID: "ri-" + tenant, NetworkID: tenant, MAC: mac(byte(0x80 + i)), Addresses: pfxs("10.0.0.1/24", "2001:db8:1::1/64")}},
			Gateway: &router.Gateway{PortID: "rg-" + tenant, NetworkID: "public", MAC: mac(byte(0x90 + i)),
				Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, gw}), 24), netip.PrefixFrom(ip("2001:db8:ff::10"), 64)},
				NextHops:  []netip.Addr{ip("203.0.113.1"), ip("2001:db8:ff::1")}}})
	}
	w.Router.Routers[1].Gateway.Addresses[1] = pfx("2001:db8:ff::11/64")
	w.Router.FloatingIPs = []router.FloatingIP{{ID: "f-red1", RouterID: "r-red", FloatingIP: ip("203.0.113.50"), FixedIP: ip("10.0.0.5")},
		{ID: "f-red2", RouterID: "r-red", FloatingIP: ip("203.0.113.51"), FixedIP: ip("10.0.0.6")}}
	w.Router.PortForwards = []router.PortForward{{ID: "pf", RouterID: "r-blue", Protocol: "tcp", ExternalIP: ip("203.0.113.11"), ExternalPort: router.PortRange{First: 8080, Last: 8082},
		InternalIP: ip("10.0.0.5"), InternalPort: router.PortRange{First: 80, Last: 82}}}
	return w
}

func TestConnections(t *testing.T) {
	tcp := func(from, to string, port uint16) Packet {
		return Packet{From: from, Dst: ip(to), Proto: TCP, SrcPort: 1000, DstPort: port}
	}
	ping := func(from, to string) Packet {
		k := Packet{From: from, Dst: ip(to), Proto: ICMP, ICMPType: 8}
		if k.Dst.Is6() {
			k.Proto, k.ICMPType = ICMPv6, 128
		}
		return k
	}
	for _, c := range []struct {
		says string // the sentence
		k    Packet
		at   string // where it arrives; "" dropped
		src  string // as there
		dst  string
		by   string // stage that drops
	}{
		{"members of the default group reach each other, across hosts", tcp("red1", "10.0.0.6", 22), "red2", "10.0.0.5", "10.0.0.6", ""},
		{"and over IPv6", tcp("red1", "2001:db8:1::6", 22), "red2", "2001:db8:1::5", "2001:db8:1::6", ""},
		{"the same address is another machine in another tenant", tcp("blue1", "10.0.0.6", 22), "blue2", "10.0.0.5", "10.0.0.6", ""},
		{"leaving, the source is the floating IP", tcp("red1", "203.0.113.1", 443), "server", "203.0.113.50", "203.0.113.1", ""},
		{"without one it is the gateway's", tcp("blue1", "203.0.113.1", 443), "server", "203.0.113.11", "203.0.113.1", ""},
		{"IPv6 is not translated", tcp("red1", "2001:db8:ff::1", 443), "server", "2001:db8:1::5", "2001:db8:ff::1", ""},
		{"from outside by floating IP, to an allowed port", tcp("server", "203.0.113.50", 80), "red1", "203.0.113.1", "10.0.0.5", ""},
		{"and to one that no rule allows", tcp("server", "203.0.113.50", 22), "", "", "", "ingress rules"},
		{"port of a forward", tcp("server", "203.0.113.11", 8081), "blue1", "203.0.113.1", "10.0.0.5", ""},
		{"no port of a forward", tcp("server", "203.0.113.11", 8083), "", "", "", "router"},
		{"the router answers echo requests", ping("server", "203.0.113.11"), "r-blue", "203.0.113.1", "203.0.113.11", ""},
		{"hairpin: the neighbour's floating IP, as from one's own", ping("red2", "203.0.113.50"), "red1", "203.0.113.51", "10.0.0.5", ""},
		{"hairpin: one's own floating IP", ping("red1", "203.0.113.50"), "red1", "203.0.113.50", "10.0.0.5", ""},
		{"another tenant's floating IP", ping("blue1", "203.0.113.50"), "red1", "203.0.113.11", "10.0.0.5", ""},
		{"an unknown address of the subnet", ping("red1", "10.0.0.77"), "", "", "", "network"},
		{"an address nobody routes", ping("server", "198.51.100.1"), "", "", "", "sender"},
		{"into a tenant by its IPv6 addresses", ping("server", "2001:db8:1::5"), "red1", "2001:db8:ff::1", "2001:db8:1::5", ""},
		{"which its groups may forbid", ping("server", "2001:db8:1::6"), "", "", "", "ingress rules"},
		{"a spoofed address", Packet{From: "red1", Src: ip("10.0.0.9"), Dst: ip("10.0.0.6"), Proto: UDP}, "", "", "", "port security"},
		{"a router's own address, which it believes nobody else", Packet{From: "server", Src: ip("203.0.113.10"), Dst: ip("203.0.113.50"), Proto: TCP, DstPort: 80}, "", "", "", "router"},
		{"a floating IP, which its router believes nobody else", Packet{From: "server", Src: ip("203.0.113.51"), Dst: ip("203.0.113.50"), Proto: TCP, DstPort: 80}, "", "", "", "router"},
		{"a spoofed MAC", Packet{From: "red1", SrcMAC: mac(0x77), Dst: ip("10.0.0.6"), Proto: UDP}, "", "", "", "port security"},
		{"a machine is no DHCP server", Packet{From: "red1", Dst: ip("10.0.0.6"), Proto: UDP, SrcPort: 67, DstPort: 68}, "", "", "", "port security"},
	} {
		t.Run(c.says, func(t *testing.T) {
			m, err := New(world())
			require.NoError(t, err)
			there, back, ok := m.Connect(c.k)
			if c.at == "" {
				require.False(t, there.OK(), there.Explain())
				require.Equal(t, c.by, there.Drops[0].Stage, there.Explain())
				return
			}
			require.True(t, there.OK(), there.Explain())
			a := there.Arrivals[0]
			require.Equal(t, []string{c.at, c.src, c.dst}, []string{a.ID, a.Packet.Src.String(), a.Packet.Dst.String()}, there.Explain())
			require.True(t, ok, "%v\nreply: %v", there.Explain(), back.Explain())
		})
	}
}

func TestStatelessPortNeedsARuleForReplies(t *testing.T) {
	w := world()
	w.SecGroup.Ports[1].Groups = []string{"raw"} // red2
	m, err := New(w)
	require.NoError(t, err)
	there, back, ok := m.Connect(Packet{From: "red1", Dst: ip("10.0.0.6"), Proto: UDP, SrcPort: 5, DstPort: 6})
	require.True(t, there.OK(), there.Explain())
	require.False(t, ok)
	require.Equal(t, "egress rules", back.Drops[0].Stage)
}

func TestBornClosedAndDown(t *testing.T) {
	k := Packet{From: "red1", Dst: ip("10.0.0.6"), Proto: UDP}
	for name, change := range map[string]func(*World){
		"port security": func(w *World) { w.SecGroup.Ports = w.SecGroup.Ports[1:] },
		"network":       func(w *World) { w.Overlay.Ports[0].AdminDown = true },
		"network ":      func(w *World) { w.Overlay.Networks[1].AdminDown = true },
		"network  ": func(w *World) {
			w.Overlay.Networks[1].Segment = overlay.Segment{Type: overlay.Local} // and the ports are on two hosts
		},
	} {
		w := world()
		change(&w)
		m, err := New(w)
		require.NoError(t, err)
		v := m.Send(k)
		require.False(t, v.OK())
		require.Contains(t, name, v.Drops[0].Stage)
	}
}

func TestBroadcastCrossesTunnelsOnlyWhenAsked(t *testing.T) {
	w := world()
	k := Packet{From: "red1", ARP: &ARP{SenderMAC: mac(0x10), SenderIP: ip("10.0.0.5")}}
	m, _ := New(w)
	require.False(t, m.Send(k).OK())
	w.Overlay.Networks[1].Flooding.Broadcast = true
	m, _ = New(w)
	require.Equal(t, "red2", m.Send(k).Arrivals[0].ID)
}

// Taking a rule away never lets more through, and tenants never meet but by
// what is public.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		k := Packet{From: rapid.SampledFrom([]string{"red1", "red2", "blue1", "blue2", "server"}).Draw(t, "from"),
			Dst:   ip(rapid.SampledFrom([]string{"10.0.0.5", "10.0.0.6", "203.0.113.50", "203.0.113.11", "2001:db8:1::6", "203.0.113.1"}).Draw(t, "to")),
			Proto: rapid.SampledFrom([]uint8{TCP, UDP}).Draw(t, "proto"), SrcPort: 9, DstPort: uint16(rapid.IntRange(78, 91).Draw(t, "port"))}
		m, err := New(w)
		if err != nil {
			t.Fatal(err)
		}
		before := m.Send(k)
		g := &w.SecGroup.Groups[rapid.IntRange(0, 2).Draw(t, "group")]
		i := rapid.IntRange(0, len(g.Rules)-1).Draw(t, "rule")
		g.Rules = append(append([]secgroup.Rule(nil), g.Rules[:i]...), g.Rules[i+1:]...)
		m, _ = New(w)
		if after := m.Send(k); after.OK() && !before.OK() {
			t.Fatalf("%v passes only without rule %d of %s", k, i, g.ID)
		}
		if before.OK() {
			a := before.Arrivals[0]
			from, to := k.From[:3], a.ID[:3]
			if from != to && from != "ser" && to != "ser" && k.Dst.Is4() && k.Dst.IsPrivate() {
				t.Fatalf("%v went from tenant to tenant: %v", k, before.Explain())
			}
			if _, _, ok := m.Connect(k); ok && !m.Send(k).OK() {
				t.Fatal("an answer to what did not arrive")
			}
		}
	})
}

// Echo replies and TCP segments other than SYN open no connection (package
// secgroup, "Connections"): where none is, a stateful rule does not help them.
func TestWhatOpensNoConnection(t *testing.T) {
	w := world()
	any4 := secgroup.Rule{Direction: secgroup.Ingress, Ethertype: secgroup.IPv4}
	out, in := any4, any4
	out.ID, out.Direction, in.ID = "out", secgroup.Egress, "in"
	w.SecGroup.Groups = append(w.SecGroup.Groups, secgroup.Group{ID: "asks", Stateless: true, Rules: []secgroup.Rule{out}}, secgroup.Group{ID: "hears", Rules: []secgroup.Rule{in}})
	w.SecGroup.Ports[0].Groups = []string{"asks", "hears"} // red1 asks without a connection
	w.SecGroup.Ports[1].Groups = []string{"web"}
	m, err := New(w)
	require.NoError(t, err)
	there, back, ok := m.Connect(Packet{From: "red1", Dst: ip("10.0.0.6"), Proto: ICMP, ICMPType: 8})
	require.True(t, there.OK(), there.Explain())
	require.False(t, ok, back.Explain())
	require.Equal(t, Drop{"ingress rules", "port red1", "it is of no connection"}, back.Drops[0])

	w.SecGroup.Ports[0].Groups, w.SecGroup.Ports[1].Groups = []string{"default"}, []string{"web"}
	m, err = New(w)
	require.NoError(t, err)
	k := Packet{From: "red1", Dst: ip("10.0.0.6"), Proto: TCP, SrcPort: 1, DstPort: 80}
	require.True(t, m.Send(k).OK())
	k.Middle = true
	require.Equal(t, "egress rules", m.Send(k).Drops[0].Stage)
}

// What package secgroup says under "Port security", line by line, for a port
// without groups (no rules help it) and what is sent to it.
func TestPortSecurity(t *testing.T) {
	w := world()
	for i := range w.SecGroup.Ports {
		w.SecGroup.Ports[i].Groups = nil
	}
	shared := vnet.MAC{2, 0, 0, 0, 9, 9}
	w.SecGroup.Ports[0].AllowedPairs = []secgroup.AddressPair{{Prefix: pfx("10.0.0.128/25")}, {MAC: shared, Prefix: pfx("10.0.0.100/32")}}
	m, err := New(w)
	require.NoError(t, err)
	own, ll := w.Overlay.Ports[0].MAC, w.Overlay.Ports[0].MAC.LinkLocal()
	to := w.Overlay.Ports[1].MAC
	all := ip("ff02::1")
	arp := func(mac, sha vnet.MAC, spa string) Packet {
		return Packet{SrcMAC: mac, ARP: &ARP{SenderMAC: sha, SenderIP: ip(spa)}, DstMAC: to}
	}
	icmp6 := func(src netip.Addr, kind uint8, target string) Packet {
		k := Packet{Src: src, Dst: all, Proto: ICMPv6, ICMPType: kind}
		if target != "" {
			k.Target = ip(target)
		}
		return k
	}
	udp := func(src, dst string, from, port uint16) Packet {
		return Packet{Src: ip(src), Dst: ip(dst), Proto: UDP, SrcPort: from, DstPort: port, DstMAC: to}
	}
	for _, c := range []struct {
		says string
		k    Packet
		pass bool
	}{
		{"ARP for its own address", arp(own, own, "10.0.0.5"), true},
		{"ARP probe", arp(own, own, "0.0.0.0"), true},
		{"ARP for another's address", arp(own, own, "10.0.0.6"), false},
		{"ARP for an address of an allowed prefix", arp(own, own, "10.0.0.200"), true},
		{"ARP from a pair's MAC for the pair's address", arp(shared, shared, "10.0.0.100"), true},
		{"ARP from a pair's MAC for another address of the port", arp(shared, shared, "10.0.0.5"), false},
		{"ARP whose sender is not the frame's", arp(own, mac(0x66), "10.0.0.5"), false},
		{"a MAC that is not its own", Packet{SrcMAC: mac(0x66), EtherType: 0x88cc, DstMAC: to}, false},
		{"a frame that is neither ARP nor IP", Packet{EtherType: 0x88cc, DstMAC: to}, false},
		{"a tagged frame", Packet{EtherType: 0x8100, DstMAC: to}, false},
		{"a solicitation", icmp6(ll, 135, "2001:db8:1::6"), true},
		{"duplicate address detection", icmp6(ip("::"), 135, "2001:db8:1::5"), true},
		{"an advertisement of its own address", icmp6(ll, 136, "2001:db8:1::5"), true},
		{"an advertisement of another's", icmp6(ll, 136, "2001:db8:1::6"), false},
		{"an advertisement of nothing", icmp6(ll, 136, ""), false},
		{"a router solicitation", icmp6(ip("::"), 133, ""), true},
		{"a router advertisement", icmp6(ll, 134, ""), false},
		{"a first listener report", icmp6(ip("::"), 143, ""), true},
		{"a listener report", icmp6(ll, 131, ""), true},
		{"a listener query, which is for the rules", icmp6(ll, 130, ""), false},
		{"a ping from the unspecified address", icmp6(ip("::"), 128, ""), false},
		{"a solicitation from another's address", icmp6(ip("fe80::1"), 135, "2001:db8:1::6"), false},
		{"a DHCP request, which only the rules of the receiver stop", udp("0.0.0.0", "255.255.255.255", 68, 67), false},
		{"a DHCP answer", udp("10.0.0.5", "255.255.255.255", 67, 68), false},
		{"a datagram from nowhere", udp("0.0.0.0", "10.0.0.6", 1, 2), false},
		{"DHCPv6 as a server", udp(ll.String(), "ff02::1:2", 547, 546), false},
	} {
		c.k.From = "red1"
		v := m.Send(c.k)
		require.Equal(t, c.pass, v.OK(), "%s: %s", c.says, v.Explain())
		if !c.pass {
			require.NotEmpty(t, v.Why(), c.says)
		}
	}
	// Towards the port, from one without port security.
	w.SecGroup.Ports[1].DisablePortSecurity = true
	m, err = New(w)
	require.NoError(t, err)
	for _, c := range []struct {
		says string
		k    Packet
		pass bool
	}{
		{"a DHCP answer", udp("10.0.0.2", "10.0.0.5", 67, 68), true},
		{"a DHCPv6 answer", udp("fe80::2", ll.String(), 547, 546), true},
		{"a DHCP request", udp("10.0.0.2", "10.0.0.5", 68, 67), false},
		{"a router advertisement", icmp6(ip("fe80::2"), 134, ""), true},
		{"a router solicitation", icmp6(ip("fe80::2"), 133, ""), true},
		{"a listener query", icmp6(ip("fe80::2"), 130, ""), true},
		{"a redirect", icmp6(ip("fe80::2"), 137, ""), false},
		{"a frame that is neither ARP nor IP", Packet{EtherType: 0x88cc}, false},
		{"ARP, whoever speaks", arp(mac(0x66), mac(0x67), "10.0.0.77"), true},
	} {
		c.k.From = "red2"
		if !c.k.Dst.IsValid() || !c.k.Dst.IsMulticast() {
			c.k.DstMAC = own
		}
		v := m.Send(c.k)
		require.Equal(t, c.pass, v.OK(), "%s: %s", c.says, v.Explain())
	}
}

// "Replies and related ICMP pass": an error goes back the way of the packet it
// is about, and says of it what the sender sent (RFC 5508, section 4).
func TestErrorsAreRelated(t *testing.T) {
	m, err := New(world())
	require.NoError(t, err)
	v := m.Send(Packet{From: "server", Dst: ip("203.0.113.50"), Proto: TCP, SrcPort: 1000, DstPort: 80})
	back := v.Unreachable()
	require.True(t, back.OK(), back.Explain())
	a := back.Arrivals[0]
	require.Equal(t, "server", a.ID)
	require.Equal(t, ip("203.0.113.50"), a.Packet.Src, "the address that was asked")
	require.Equal(t, ip("203.0.113.50"), a.Packet.About.Dst)
	require.Equal(t, []uint16{1000, 80}, []uint16{a.Packet.About.SrcPort, a.Packet.About.DstPort})

	v = m.Send(Packet{From: "blue1", Dst: ip("203.0.113.1"), Proto: UDP, SrcPort: 1000, DstPort: 53})
	back = v.Unreachable()
	require.True(t, back.OK(), back.Explain())
	a = back.Arrivals[0]
	require.Equal(t, []string{"blue1", "203.0.113.1", "10.0.0.5", "10.0.0.5"}, []string{a.ID, a.Packet.Src.String(), a.Packet.Dst.String(), a.Packet.About.Src.String()})

	// About nothing that was sent, it is invalid.
	about := Packet{Src: ip("10.0.0.5"), Dst: ip("10.0.0.6"), Proto: UDP, SrcPort: 1, DstPort: 2}
	v = m.Send(Packet{From: "red2", Dst: ip("10.0.0.5"), Proto: ICMP, ICMPType: 3, ICMPCode: 3, About: &about})
	require.False(t, v.OK())
}

// A switch floods what it does not know (package overlay, Flooding), and a
// router none of it, nor broadcasts (RFC 1812, 5.3.5).
func TestFlooding(t *testing.T) {
	w := world()
	for i := range w.SecGroup.Ports {
		w.SecGroup.Ports[i] = secgroup.Port{ID: w.SecGroup.Ports[i].ID, NetworkID: w.SecGroup.Ports[i].NetworkID, MAC: w.SecGroup.Ports[i].MAC, DisablePortSecurity: true}
	}
	here := w.Overlay.Ports[0].Clone()
	here.ID, here.MAC, here.FixedIPs, here.Filtered = "red3", mac(0x33), nil, false
	w.Overlay.Ports = append(w.Overlay.Ports, here)
	heard := func(w World, k Packet) (ids []string, v Verdict) {
		m, err := New(w)
		require.NoError(t, err)
		k.From, k.Proto = "red1", UDP
		v = m.Send(k)
		for _, a := range v.Arrivals {
			ids = append(ids, a.ID)
		}
		return ids, v
	}
	unknown := Packet{Dst: ip("10.0.0.6"), DstMAC: mac(0x99)}
	ids, v := heard(w, unknown)
	require.Equal(t, []string{"red3"}, ids, "on its host only")
	require.True(t, v.Arrivals[0].Flooded && v.Arrivals[0].Foreign)
	own := unknown
	own.DstMAC = w.Overlay.Ports[0].MAC
	ids, _ = heard(w, own)
	require.Empty(t, ids, "no frame comes back by the port it came from")
	for _, dst := range []string{"255.255.255.255", "10.0.0.255"} {
		ids, v = heard(w, Packet{Dst: ip(dst)})
		require.Equal(t, []string{"red3"}, ids, v.Explain())
		require.Equal(t, broadcastMAC, v.Arrivals[0].Packet.DstMAC)
	}
	ids, v = heard(w, Packet{Dst: ip("224.0.0.251")})
	require.Equal(t, []string{"red2", "red3"}, ids, "multicast crosses tunnels")
	require.Equal(t, vnet.MAC{1, 0, 0x5e, 0, 0, 0xfb}, v.Arrivals[0].Packet.DstMAC)
	ids, v = heard(w, Packet{Dst: ip("203.0.113.255")})
	require.Empty(t, ids, "directed broadcasts end at the router: %s", v.Explain())
	w.Overlay.Networks[1].Flooding = overlay.Flooding{Broadcast: true, UnknownUnicast: true, NoMulticast: true}
	for _, k := range []Packet{unknown, {Dst: ip("255.255.255.255")}} {
		ids, _ = heard(w, k)
		require.Equal(t, []string{"red2", "red3"}, ids)
	}
	ids, _ = heard(w, Packet{Dst: ip("224.0.0.251")})
	require.Equal(t, []string{"red3"}, ids)
}

// Routers translate what opens a connection or is of one; the rest does not
// leave where sources are hidden.
func TestNothingLeavesUntranslated(t *testing.T) {
	w := world()
	w.SecGroup.Ports[0] = secgroup.Port{ID: "red1", NetworkID: "red", MAC: w.Overlay.Ports[0].MAC, DisablePortSecurity: true}
	k := Packet{From: "red1", Dst: ip("203.0.113.1"), Proto: TCP, SrcPort: 1, DstPort: 2, Middle: true}
	m, err := New(w)
	require.NoError(t, err)
	require.Equal(t, Drop{"router", "router r-red", "it is of no connection"}, m.Send(k).Drops[0])
	gateway := *w.Router.Routers[0].Gateway
	gateway.DisableSNAT = true
	w.Router.Routers[0].Gateway = &gateway
	m, err = New(w)
	require.NoError(t, err)
	require.Equal(t, ip("10.0.0.5"), m.Send(k).Arrivals[0].Packet.Src)
}

// A station that routes passes on what is for others, and hears broadcasts as
// everybody does.
func TestStationsThatForward(t *testing.T) {
	w := world()
	w.Stations[0].Forwards = true
	w.Stations = append(w.Stations, Station{ID: "far", NetworkID: "public", MAC: mac(0xef), Addresses: pfxs("203.0.113.2/24", "2001:db8:ff::2/64"),
		Routes: []router.Route{{Destination: pfx("2001:db8:1::/64"), NextHop: ip("2001:db8:ff::1")}}})
	m, err := New(w)
	require.NoError(t, err)
	v := m.Send(Packet{From: "far", Dst: ip("255.255.255.255"), Proto: UDP})
	require.Equal(t, "server", v.Arrivals[0].ID, v.Explain())
	v = m.Send(Packet{From: "far", Dst: mac(0xee).LinkLocal(), Proto: UDP})
	require.Equal(t, "server", v.Arrivals[0].ID, v.Explain())
	v = m.Send(Packet{From: "far", Dst: ip("2001:db8:1::5"), Proto: ICMPv6, ICMPType: 128})
	require.Equal(t, "red1", v.Arrivals[0].ID, v.Explain())
	require.EqualValues(t, 62, v.Arrivals[0].Packet.TTL, "two hops")
}
