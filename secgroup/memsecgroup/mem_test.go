package memsecgroup_test

import (
	"testing"

	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/memsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

func TestConformance(t *testing.T) {
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
