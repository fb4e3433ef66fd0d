package secgrouptest

import (
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/secgroup"
)

// na is an unsolicited neighbour advertisement.
func na(srcAddr, target netip.Addr, m vnet.MAC) lab.Frame {
	return lab.Frame{Proto: lab.ICMPv6, ICMPType: 136, NAFlags: 0x20, Src: srcAddr, Dst: addr("ff02::1"), Target: target, LinkAddr: m}
}

func arpFrom(frameMAC, sha vnet.MAC, spa, tpa netip.Addr, op uint16) lab.Frame {
	return lab.Frame{SrcMAC: frameMAC, DstMAC: lab.BroadcastMAC, ARP: &lab.ARP{Op: op, SHA: sha, SPA: spa, TPA: tpa}}
}

func spoofCases() []PacketCase {
	zero := netip.IPv4Unspecified()
	return []PacketCase{
		{"anti-spoofing", "With port security a port sends only from its own addresses; ARP and ND speak only of those; it is no DHCP or DHCPv6 server and sends no router advertisements.",
			func(w *world) secgroup.State {
				return secgroup.State{Groups: []secgroup.Group{all(both, in, out)}, Ports: []secgroup.Port{w.port("a", both), w.open("d")}}
			},
			func(w *world) []round {
				a, b := w.vms["a"], w.vms["b"]
				other := mac(77)
				t := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 8, n}) }
				tagged := udp(1)
				tagged.VLAN = 5
				return []round{{probes: []probe{
					{"to an address not its own", "d", "a", dst(udp(1), "10.0.0.77"), false, !w.limit.OwnAddressesOnly},
					{"DHCP request to a port", "d", "a", udpFrom(68, 67), false, true}, {"DHCPv6 request to a port", "d", "a", udpFrom(546, 547), true, true},
					{"own", "a", "d", udp(1), false, true}, {"own, IPv6", "a", "d", udp(1), true, true},
					{"own link-local", "a", "d", src(udp(1), a.ll.String()), true, true},
					{"foreign MAC", "a", "d", srcMAC(udp(1), other), false, false}, {"foreign MAC, IPv6", "a", "d", srcMAC(udp(1), other), true, false},
					{"foreign address", "a", "d", src(udp(1), "10.0.0.2"), false, false}, {"foreign address, IPv6", "a", "d", src(udp(1), "2001:db8::2"), true, false},
					{"foreign link-local", "a", "d", src(udp(1), b.ll.String()), true, false},
					{"from nobody", "a", "d", src(udp(1), "0.0.0.0"), false, false}, {"from nobody, IPv6", "a", "d", src(udp(1), "::"), true, false},
					{"ARP", "a", "d", arpFrom(a.mac, a.mac, a.v4, t(1), 1), false, true},
					{"ARP probe", "a", "d", arpFrom(a.mac, a.mac, zero, t(2), 1), false, true},
					{"ARP answer", "a", "d", arpFrom(a.mac, a.mac, a.v4, t(3), 2), false, true},
					{"ARP for a foreign address", "a", "d", arpFrom(a.mac, a.mac, b.v4, t(4), 1), false, false},
					{"ARP answer for a foreign address", "a", "d", arpFrom(a.mac, a.mac, b.v4, t(5), 2), false, false},
					{"ARP of a foreign sender", "a", "d", arpFrom(a.mac, other, a.v4, t(6), 1), false, false},
					{"ARP from a foreign MAC", "a", "d", arpFrom(other, a.mac, a.v4, t(7), 1), false, false},
					{"ARP probe of a foreign sender", "a", "d", arpFrom(a.mac, other, zero, t(8), 1), false, false},
					{"NS", "a", "d", lab.NeighborSolicitation(a.mac, a.v6, addr("2001:db8::8:1")), true, true},
					{"NS for duplicate detection", "a", "d", lab.NeighborSolicitation(a.mac, netip.IPv6Unspecified(), a.v6), true, true},
					{"NS from a foreign address", "a", "d", lab.NeighborSolicitation(a.mac, b.v6, addr("2001:db8::8:2")), true, false},
					{"NA", "a", "d", na(a.v6, a.v6, a.mac), true, true},
					{"NA of the link-local", "a", "d", na(a.ll, a.ll, a.mac), true, true},
					{"NA for a foreign target", "a", "d", na(a.v6, b.v6, a.mac), true, false},
					{"NA for a foreign link-local", "a", "d", na(a.ll, b.ll, a.mac), true, false},
					{"NA from a foreign address", "a", "d", na(b.v6, a.v6, a.mac), true, false},
					{"DHCP request", "a", "d", dst(src(udpFrom(68, 67), "0.0.0.0"), "255.255.255.255"), false, true},
					{"DHCP request from a foreign address", "a", "d", src(udpFrom(68, 67), "10.0.0.2"), false, false},
					{"DHCP server", "a", "d", udpFrom(67, 68), false, false}, {"DHCPv6 server", "a", "d", udpFrom(547, 546), true, false},
					{"DHCPv6 request", "a", "d", src(dst(udpFrom(546, 547), "ff02::1:2"), a.ll.String()), true, true},
					{"RA", "a", "d", src(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 134, TTL: 255}, "ff02::1"), a.ll.String()), true, w.limit.RouterAdvertisements},
					{"RS", "a", "d", src(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 133, TTL: 255}, "ff02::2"), a.ll.String()), true, true},
					{"MLD report from nobody", "a", "d", src(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 143, TTL: 1}, "ff02::16"), "::"), true, true},
					{"no IP", "a", "d", lab.Frame{EtherType: 0x88cc, Payload: []byte("lldp of a vm, long enough to be told apart from others")}, false, false},
					{"tagged", "a", "d", tagged, false, false},
					{"no IP to it", "d", "a", lab.Frame{EtherType: 0x88cc, Payload: []byte("lldp to a vm, long enough to be told apart from others")}, false, false},
				}}, {probes: []probe{
					{"DHCP server in a connection", "a", "d", udpFrom(67, 68), false, false}, {"DHCPv6 server in a connection", "a", "d", udpFrom(547, 546), true, false},
				}}}
			}},
		{"port security off", "DisablePortSecurity: anything passes.",
			func(w *world) secgroup.State {
				return secgroup.State{Ports: []secgroup.Port{w.open("a"), w.open("d")}}
			},
			func(w *world) []round {
				a, b := w.vms["a"], w.vms["b"]
				return []round{{probes: []probe{
					{"foreign MAC", "a", "d", srcMAC(udp(1), mac(77)), false, true}, {"foreign address", "a", "d", src(udp(1), "10.0.0.2"), false, true}, {"foreign address, IPv6", "a", "d", src(udp(1), "2001:db8::2"), true, true},
					{"ARP for a foreign address", "a", "d", arpFrom(a.mac, a.mac, b.v4, addr("10.0.8.9"), 1), false, true},
					{"NA for a foreign target", "a", "d", na(a.v6, b.v6, a.mac), true, true},
					{"DHCP server", "a", "d", udpFrom(67, 68), false, true},
					{"RA", "a", "d", src(dst(lab.Frame{Proto: lab.ICMPv6, ICMPType: 134, TTL: 255}, "ff02::1"), a.ll.String()), true, true},
					{"no IP", "a", "d", lab.Frame{EtherType: 0x88cc, Payload: []byte("lldp of an open vm, long enough to be told apart")}, false, true},
					{"in", "d", "a", udp(1), false, true},
				}}}
			}},
		{"one version of IP", "Its own addresses are (MAC, FixedIPs) and (MAC, its link-local address); ARP probes, DHCP requests and ND pass whatever those are.",
			func(w *world) secgroup.State {
				a, b := w.port("a", both), w.port("b", both)
				a.FixedIPs, b.FixedIPs = a.FixedIPs[:1], b.FixedIPs[1:]
				return secgroup.State{Groups: []secgroup.Group{all(both, in, out)}, Ports: []secgroup.Port{a, b, w.open("d")}}
			},
			func(w *world) []round {
				a, b := w.vms["a"], w.vms["b"]
				return []round{{probes: []probe{
					{"IPv4", "a", "d", udp(1), false, true}, {"IPv6 of an IPv4 port", "a", "d", udp(1), true, false}, {"its link-local", "a", "d", src(udp(1), a.ll.String()), true, true},
					{"its NS", "a", "d", lab.NeighborSolicitation(a.mac, a.ll, addr("2001:db8::9:1")), true, true},
					{"IPv6", "b", "d", udp(1), true, true}, {"IPv4 of an IPv6 port", "b", "d", udp(1), false, false}, {"its link-local", "b", "d", src(udp(1), b.ll.String()), true, true},
					{"ARP of an IPv6 port", "b", "d", arpFrom(b.mac, b.mac, b.v4, addr("10.0.8.21"), 1), false, false},
					{"its ARP probe", "b", "d", arpFrom(b.mac, b.mac, zero, addr("10.0.8.22"), 1), false, true},
					{"its DHCP request", "b", "d", dst(src(udpFrom(68, 67), "0.0.0.0"), "255.255.255.255"), false, true},
				}}}
			}},
		{"a pair of everything", "AllowedPairs may be as wide as the address space.",
			func(w *world) secgroup.State {
				a := w.port("a", both, "wide")
				a.AllowedPairs = []secgroup.AddressPair{{Prefix: prefix("0.0.0.0/0")}, {Prefix: prefix("::/0")}}
				wide := func(r *secgroup.Rule) { r.RemoteGroup = "wide" }
				return secgroup.State{Groups: []secgroup.Group{all(both, in, out), group("wide"), group("from", rule(in, ip4, wide), rule(in, ip6, wide))},
					Ports: []secgroup.Port{a, w.port("b", "from"), w.open("d")}}
			},
			func(w *world) []round {
				a := w.vms["a"]
				return []round{{probes: []probe{
					{"anything", "a", "d", src(udp(1), "203.0.113.9"), false, true}, {"anything, IPv6", "a", "d", src(udp(1), "2001:db8:77::9"), true, true},
					{"ARP of anything", "a", "d", arpFrom(a.mac, a.mac, addr("203.0.113.9"), addr("10.0.8.31"), 1), false, true},
					{"from another MAC", "a", "d", srcMAC(src(udp(1), "203.0.113.9"), mac(99)), false, false},
					{"members are all", "d", "b", udp(1), false, true}, {"members are all, IPv6", "d", "b", udp(1), true, true},
				}}}
			}},
		{"allowed pairs", "AllowedPairs are further addresses the port may use as its own: a prefix with a MAC, or with the port's MAC when that is zero. They are also addresses of the port for RemoteGroup.",
			func(w *world) secgroup.State {
				p := w.port("a", both, "pairs")
				p.AllowedPairs = []secgroup.AddressPair{
					{Prefix: prefix("10.0.9.0/24")}, {Prefix: prefix("10.0.9.7/32")}, {MAC: mac(99), Prefix: prefix("10.0.0.99/32")},
					{Prefix: prefix("2001:db8:9::/48")}, {MAC: mac(99), Prefix: prefix("2001:db8::99/128")},
				}
				return secgroup.State{
					Groups: []secgroup.Group{all(both, in, out), group("pairs"),
						group("from", rule(in, ip4, func(r *secgroup.Rule) { r.RemoteGroup = "pairs" }), rule(in, ip6, func(r *secgroup.Rule) { r.RemoteGroup = "pairs" }))},
					Ports: []secgroup.Port{p, w.port("b", "from"), w.port("c", "from"), w.open("d")},
				}
			},
			func(w *world) []round {
				a := w.vms["a"]
				return []round{{probes: []probe{
					{"prefix", "a", "d", src(udp(1), "10.0.9.200"), false, true}, {"address within the prefix", "a", "d", src(udp(1), "10.0.9.7"), false, true},
					{"prefix, IPv6", "a", "d", src(udp(1), "2001:db8:9:1::5"), true, true}, {"beside the prefix", "a", "d", src(udp(1), "10.0.10.1"), false, false},
					{"prefix from another MAC", "a", "d", srcMAC(src(udp(1), "10.0.9.200"), mac(99)), false, false},
					{"MAC of the pair", "a", "d", srcMAC(src(udp(1), "10.0.0.99"), mac(99)), false, true}, {"MAC of the pair, IPv6", "a", "d", srcMAC(src(udp(1), "2001:db8::99"), mac(99)), true, true},
					{"link-local of the pair's MAC", "a", "d", srcMAC(src(udp(1), mac(99).LinkLocal().String()), mac(99)), true, true},
					{"pair's address from own MAC", "a", "d", src(udp(1), "10.0.0.99"), false, false}, {"own address from the pair's MAC", "a", "d", srcMAC(udp(1), mac(99)), false, false},
					{"ARP of the prefix", "a", "d", arpFrom(a.mac, a.mac, addr("10.0.9.3"), addr("10.0.8.1"), 1), false, true},
					{"ARP of the pair", "a", "d", arpFrom(mac(99), mac(99), addr("10.0.0.99"), addr("10.0.8.2"), 2), false, true},
					{"ARP of neither", "a", "d", arpFrom(a.mac, a.mac, addr("10.0.10.3"), addr("10.0.8.3"), 1), false, false},
					{"NA of the prefix", "a", "d", na(a.v6, addr("2001:db8:9::7"), a.mac), true, true},
					{"NA of the pair", "a", "d", srcMAC(na(addr("2001:db8::99"), addr("2001:db8::99"), mac(99)), mac(99)), true, true},
					{"NA of neither", "a", "d", na(a.v6, addr("2001:db8:10::7"), a.mac), true, false},
					{"member by prefix", "a", "b", src(udp(1), "10.0.9.200"), false, true}, {"member by prefix, IPv6, another host", "a", "c", src(udp(1), "2001:db8:9::1"), true, true},
					{"member by pair", "a", "b", srcMAC(src(udp(1), "10.0.0.99"), mac(99)), false, true},
					{"not a member", "d", "b", udp(1), false, false},
				}}}
			}},
	}
}
