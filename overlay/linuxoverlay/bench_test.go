package linuxoverlay_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/overlay"
)

// crowd is n ports on networks of 50, each with a tap, and 10 remote ports for
// each network.
func crowd(b *testing.B, m *machine, n int) (*overlay.Fabric, overlay.State) {
	b.Helper()
	f, err := overlay.New(m.backend(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	var s overlay.State
	for i := range n {
		net := fmt.Sprintf("n%d", i/50)
		if i%50 == 0 {
			s.Networks = append(s.Networks, overlay.Network{ID: net, Segment: overlay.Segment{Type: overlay.VXLAN, ID: uint32(1000 + i)}})
			for j := range 10 {
				s.RemotePorts = append(s.RemotePorts, overlay.RemotePort{ID: fmt.Sprintf("%s-r%d", net, j), NetworkID: net, MAC: vnet.MAC{2, 9, byte(j), byte(i >> 16), byte(i >> 8), byte(i)},
					IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(j)})}, Endpoint: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + j)})})
			}
		}
		s.Ports = append(s.Ports, overlay.Port{ID: fmt.Sprintf("p%d", i), NetworkID: net, MAC: vnet.MAC{2, 8, 0, byte(i >> 16), byte(i >> 8), byte(i)},
			FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 50)})}})
	}
	if err := f.Sync(b.Context(), s, vnet.SyncOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, p := range s.Ports {
		if _, err := f.Plug(b.Context(), overlay.Attachment{PortID: p.ID, Kind: overlay.Tap}); err != nil {
			b.Fatal(err)
		}
	}
	return f, s
}

// One port ensured and plugged when so many exist.
func BenchmarkPort(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprintf("exist=%d", n), func(b *testing.B) {
			_, ms := machines(b, 1, nil)
			ms[0].leave = true
			f, s := crowd(b, ms[0], n)
			ctx, i := b.Context(), 0
			for b.Loop() {
				i++
				p := overlay.Port{ID: fmt.Sprintf("more%d", i), NetworkID: s.Networks[0].ID, MAC: vnet.MAC{2, 7, 0, 0, byte(i >> 8), byte(i)}}
				if err := f.EnsurePort(ctx, p); err != nil {
					b.Fatal(err)
				}
				if _, err := f.Plug(ctx, overlay.Attachment{PortID: p.ID, Kind: overlay.Tap}); err != nil {
					b.Fatal(err)
				}
				if i%100 == 0 { // as many as are said to exist, or nearly
					b.StopTimer()
					if err := f.Sync(ctx, s, vnet.SyncOptions{Force: true}); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
		})
	}
}

// Sync of 2,000 ports that are as they should be, after a restart.
func BenchmarkSyncUnchanged(b *testing.B) {
	_, ms := machines(b, 1, nil)
	ms[0].leave = true
	_, s := crowd(b, ms[0], 2000)
	f, err := overlay.New(ms[0].backend(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	before := ms[0].writes()
	for b.Loop() {
		if err := f.Sync(b.Context(), s, vnet.SyncOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(ms[0].writes()-before)/float64(b.N), "writes/op")
}
