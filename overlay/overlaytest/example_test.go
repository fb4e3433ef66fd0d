package overlaytest_test

import (
	"testing"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
)

// A backend's own test is one call.
func Example() {
	_ = func(t *testing.T) { // func TestConformance(t *testing.T)
		overlaytest.Run(t, overlaytest.Harness{
			NoPackets: true, // it carries none
			Make: func(t testing.TB, n int) []overlaytest.Host {
				var hosts []overlaytest.Host
				for range n {
					k := new(memoverlay.Kernel)
					hosts = append(hosts, overlaytest.Host{
						Overlay: memoverlay.New(k),
						Reopen:  func(testing.TB) overlay.Backend { return memoverlay.New(k) },
						Writes:  k.Writes,
					})
				}
				return hosts
			},
		})
	}
	// Output:
}
