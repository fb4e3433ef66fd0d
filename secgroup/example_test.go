package secgroup_test

import (
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet/secgroup"
)

// What a backend makes of rules: the fewest matches that allow the same.
func ExampleCompile() {
	http, alt, low, high := uint16(80), uint16(81), uint16(82), uint16(90)
	rules := []secgroup.Rule{
		{ID: "1", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &http, PortMax: &http},
		{ID: "2", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "6", PortMin: &alt, PortMax: &alt},
		{ID: "3", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "TCP", PortMin: &low, PortMax: &high},
		{ID: "4", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &http, PortMax: &http, RemotePrefix: netip.MustParsePrefix("192.0.2.0/24")},
		{ID: "5", Direction: secgroup.Ingress, Ethertype: secgroup.IPv6, Protocol: "icmp", RemoteGroup: "web"},
	}
	for _, m := range secgroup.Compile(rules) {
		fmt.Println(m)
	}
	// Output:
	// ingress IPv4 tcp 80-90
	// ingress IPv6 icmpv6 from group web
}

// What has to change from one state to another, as Plan says it.
func ExampleDiff() {
	old := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	want := secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")}}
	want.Groups[0].Rules = want.Groups[0].Rules[:3]
	for _, c := range secgroup.Diff(old, want) {
		fmt.Println(c)
	}
	// Output:
	// ~ secgroup group default  (impact: some)
	//       rule ingress-ipv6: gone, ingress IPv6 from group default
}
