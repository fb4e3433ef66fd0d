package book

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/vnet-go/vnet/secgroup"
)

// TestMembers compares membership, as ports come, change and go, with a look
// at all ports.
func TestMembers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := New(secgroup.State{})
		ports := map[string]secgroup.Port{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			p := secgroup.Port{ID: rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "port")}
			if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
				b.DropPort(p.ID)
				delete(ports, p.ID)
				continue
			}
			p.FixedIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 5).Draw(t, "ip"))})}
			if rapid.Bool().Draw(t, "pair") {
				q, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 5).Draw(t, "net"))}).Prefix(rapid.IntRange(28, 32).Draw(t, "bits"))
				p.AllowedPairs = []secgroup.AddressPair{{Prefix: q}}
			}
			for _, g := range []string{"g", "h"} {
				if rapid.Bool().Draw(t, g) {
					p.Groups = append(p.Groups, g)
				}
			}
			b.PutPort(p)
			ports[p.ID] = p
		}
		for _, g := range []string{"g", "h"} {
			for i := range byte(8) {
				a := netip.AddrFrom4([4]byte{10, 0, 0, i})
				want := false
				for _, p := range ports {
					for _, in := range p.Groups {
						for _, q := range p.Addresses() {
							want = want || in == g && q.Contains(a)
						}
					}
				}
				if got := b.InGroup(g, a); got != want {
					t.Fatalf("%s in %s: %t, want %t", a, g, got, want)
				}
			}
		}
	})
}
