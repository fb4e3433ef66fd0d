package secgrouptest_test

import (
	"testing"

	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/memsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

// A backend's own test is its harness. One that carries packets has Overlay,
// and leaves NoPackets out.
func ExampleRun() {
	_ = func(t *testing.T) { // TestConformance
		secgrouptest.Run(t, secgrouptest.Harness{
			NoPackets: true,
			Make: func(testing.TB, int) []secgrouptest.Host {
				k := new(memsecgroup.Kernel)
				return []secgrouptest.Host{{
					Name:     "h1",
					SecGroup: memsecgroup.New(k),
					Reopen:   func(testing.TB) secgroup.Backend { return memsecgroup.New(k) },
					Writes:   k.Writes,
				}}
			},
		})
	}
}
