package dhcpwire_test

import (
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
)

// A request's bytes in, a reply's bytes out.
func Example() {
	s := dhcpwire.New("net-1", nil)
	s.PutScope(dhcp.Scope{
		ID: "subnet-1", NetworkID: "net-1", Subnet: netip.MustParsePrefix("192.0.2.0/24"),
		ServerIP: netip.MustParseAddr("192.0.2.2"), Router: netip.MustParseAddr("192.0.2.1"), MTU: 1450,
	})
	mac := vnet.MustParseMAC("02:00:00:00:00:0a")
	s.PutReservation(dhcp.Reservation{ID: "port-1", NetworkID: "net-1", MAC: mac, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Hostname: "web"})

	discover, err := dhcpv4.NewDiscovery(mac.HardwareAddr())
	if err != nil {
		panic(err)
	}
	r := s.Handle4(dhcpwire.Packet{MAC: mac, Src: netip.MustParseAddrPort("0.0.0.0:68"), Payload: discover.ToBytes()})
	offer, err := dhcpv4.FromBytes(r.Payload)
	if err != nil {
		panic(err)
	}
	fmt.Println(r.Request, "->", r.Reply, "to", r.Dst, "at", r.MAC)
	fmt.Println(offer.YourIPAddr, offer.Router(), offer.IPAddressLeaseTime(0))

	stranger := vnet.MustParseMAC("02:00:00:00:00:99")
	discover.ClientHWAddr = stranger.HardwareAddr()
	r = s.Handle4(dhcpwire.Packet{MAC: stranger, Payload: discover.ToBytes()})
	fmt.Println(r.Request, "->", r.Drop)
	// Output:
	// discover -> offer to 192.0.2.10:68 at 02:00:00:00:00:0a
	// 192.0.2.10 [192.0.2.1] 24h0m0s
	// discover -> unknown
}
