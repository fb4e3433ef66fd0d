package reach_test

import (
	"fmt"
	"net/netip"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach"
	"github.com/vnet-go/vnet/secgroup"
)

// May the first machine reach the second one's SSH server?
func Example() {
	port := func(id string, n byte) (overlay.Port, secgroup.Port) {
		mac, ips := vnet.MAC{2, 0, 0, 0, 0, n}, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, n})}
		return overlay.Port{ID: id, NetworkID: "lan", MAC: mac, FixedIPs: ips, Filtered: true},
			secgroup.Port{ID: id, NetworkID: "lan", MAC: mac, FixedIPs: ips, Groups: []string{"web"}}
	}
	o1, s1 := port("vm1", 1)
	o2, s2 := port("vm2", 2)
	http := uint16(80)
	m, err := reach.New(reach.World{
		Overlay: overlay.State{
			Networks: []overlay.Network{{ID: "lan", Segment: overlay.Segment{Type: overlay.Local}, Subnets: []overlay.Subnet{{ID: "lan4", CIDR: netip.MustParsePrefix("192.0.2.0/24")}}}},
			Ports:    []overlay.Port{o1, o2},
		},
		SecGroup: secgroup.State{
			Groups: []secgroup.Group{{ID: "web", Rules: []secgroup.Rule{
				{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4},
				{ID: "http", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &http, PortMax: &http},
			}}},
			Ports: []secgroup.Port{s1, s2},
		},
	})
	if err != nil {
		panic(err)
	}
	for _, port := range []uint16{80, 22} {
		k := reach.Packet{From: "vm1", Dst: netip.MustParseAddr("192.0.2.2"), Proto: reach.TCP, SrcPort: 40000, DstPort: port}
		_, _, ok := m.Connect(k)
		fmt.Println(port, ok)
		fmt.Print(m.Explain(k))
	}
	// Output:
	// 80 true
	// arrives at port vm2 as 192.0.2.1 > 192.0.2.2
	//   egress rules, port vm1: group web rule out
	//   network, network lan: 192.0.2.2 is at port vm2
	//   ingress rules, port vm2: group web rule http
	// 22 false
	// dropped
	//   egress rules, port vm1: group web rule out
	//   network, network lan: 192.0.2.2 is at port vm2
	//   dropped by ingress rules of port vm2: no rule allows it
}

// Who reaches whom, by ping.
func ExampleModel_Matrix() {
	var w reach.World
	w.Overlay.Networks = []overlay.Network{{ID: "lan", Segment: overlay.Segment{Type: overlay.Local}, Subnets: []overlay.Subnet{{ID: "lan4", CIDR: netip.MustParsePrefix("192.0.2.0/24")}}}}
	w.SecGroup.Groups = []secgroup.Group{secgroup.DefaultGroup("default"), {ID: "quiet", Rules: []secgroup.Rule{{ID: "out", Direction: secgroup.Egress, Ethertype: secgroup.IPv4}}}}
	for i, group := range []string{"default", "default", "quiet"} {
		p := overlay.Port{ID: fmt.Sprintf("vm%d", i+1), NetworkID: "lan", MAC: vnet.MAC{2, 0, 0, 0, 0, byte(i)}, FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}, Filtered: true}
		w.Overlay.Ports = append(w.Overlay.Ports, p)
		w.SecGroup.Ports = append(w.SecGroup.Ports, secgroup.Port{ID: p.ID, NetworkID: "lan", MAC: p.MAC, FixedIPs: p.FixedIPs, Groups: []string{group}})
	}
	m, err := reach.New(w)
	if err != nil {
		panic(err)
	}
	for _, c := range m.Matrix(reach.Probe{Proto: reach.ICMP}) {
		fmt.Println(c.From, c.To, c.OK)
	}
	// Output:
	// vm1 vm2 true
	// vm1 vm3 false
	// vm2 vm1 true
	// vm2 vm3 false
	// vm3 vm1 false
	// vm3 vm2 false
}
