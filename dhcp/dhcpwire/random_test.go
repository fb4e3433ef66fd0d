package dhcpwire

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// Whatever clients do, an ACK gives a reserved client its reservation, no two
// clients hold one address, and no reserved address goes to somebody else.
func TestRandomClients(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := epoch
		clock := func() time.Time { return now }
		store, err := leasestore.Open("", &leasestore.Options{Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		s := New("n", &Options{Store: store, Now: clock})
		sc := scopeA()
		sc.Pool = []dhcp.AddrRange{{First: ip("192.0.2.10"), Last: ip("192.0.2.14")}}
		sc.NAKUnknown = rapid.Bool().Draw(t, "only server")
		sc.RapidCommit = rapid.Bool().Draw(t, "rapid commit")
		s.PutScope(sc)
		addr := func(name string) netip.Addr {
			return ip(fmt.Sprintf("192.0.2.%d", rapid.IntRange(8, 16).Draw(t, name)))
		}
		reserved := map[vnet.MAC]netip.Addr{}
		holder := map[netip.Addr]vnet.MAC{}
		until := map[netip.Addr]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			mac := vnet.MAC{2, 0, 0, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "client"))}
			a := addr("address")
			var p Packet
			switch rapid.IntRange(0, 8).Draw(t, "do") {
			case 0:
				if taken := s.ips[a]; taken != nil && taken.MAC != mac || holder[a] != (vnet.MAC{}) {
					continue // the application would not give what is held
				}
				s.PutReservation(dhcp.Reservation{ID: mac.String(), NetworkID: "n", MAC: mac, IPs: []netip.Addr{a}})
				reserved[mac] = a
				for h, m := range holder {
					if m == mac && h != a {
						delete(holder, h) // it will be refused when it renews
					}
				}
				continue
			case 1:
				s.DropReservation(mac.String())
				if a, ok := reserved[mac]; ok {
					delete(holder, a)
				}
				delete(reserved, mac)
				continue
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "seconds")) * time.Second)
				continue
			case 3:
				p = msg4(mac, discover, want(a.String()), opt(optRapid))
			case 4:
				p = msg4(mac, request, sid("192.0.2.2"), want(a.String()))
			case 5:
				p = msg4(mac, request, want(a.String()))
			case 6:
				p = msg4(mac, request, ciaddr(a.String()))
			case 7:
				p = msg4(mac, release, sid("192.0.2.2"), ciaddr(a.String()))
			case 8:
				p = msg4(mac, decline, sid("192.0.2.2"), want(a.String()))
			}
			r := s.Handle4(p)
			for _, n := range r.Notices {
				if n.Kind == "release" || n.Kind == "decline" {
					if h, ok := holder[n.Lease.IP]; ok && h != mac && until[n.Lease.IP].After(now) {
						t.Fatalf("%s gave back %s, which %s holds", mac, n.Lease.IP, h)
					}
					delete(holder, n.Lease.IP)
				}
			}
			if r.Reply != "ack" {
				continue
			}
			m, err := dhcpv4.FromBytes(r.Payload)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := netip.AddrFromSlice(m.YourIPAddr)
			if own, ok := reserved[mac]; ok && got != own {
				t.Fatalf("%s got %s, reserved is %s", mac, got, own)
			}
			for other, own := range reserved {
				if other != mac && own == got {
					t.Fatalf("%s got %s, which is reserved for %s", mac, got, other)
				}
			}
			if h, ok := holder[got]; ok && h != mac && until[got].After(now) {
				t.Fatalf("%s got %s, which %s holds", mac, got, h)
			}
			for h, m := range holder {
				if m == mac && h != got {
					delete(holder, h)
				}
			}
			holder[got], until[got] = mac, now.Add(time.Hour)
		}
	})
}
