package memoverlay_test

import (
	"testing"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
)

func TestConformance(t *testing.T) {
	overlaytest.Run(t, overlaytest.Harness{NoPackets: true, PhysicalNetwork: "physnet", Make: func(t testing.TB, n int) []overlaytest.Host {
		var out []overlaytest.Host
		for range n {
			k := &memoverlay.Kernel{Host: "h"}
			out = append(out, overlaytest.Host{Name: "h", Overlay: memoverlay.New(k), Writes: k.Writes,
				Reopen: func(testing.TB) overlay.Backend { return memoverlay.New(k) }})
		}
		return out
	}})
}
