package memsriov_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/sriov"
	"github.com/vnet-go/vnet/sriov/memsriov"
	"github.com/vnet-go/vnet/sriov/sriovtest"
)

func TestConformance(t *testing.T) {
	card := sriov.PF{Function: sriov.Function{PCI: "0000:01:00.0", Netdev: "eth0", IOMMUGroup: 10}, TotalVFs: 7}
	b := memsriov.New(card)
	sriovtest.Run(t, sriovtest.Harness{PF: "eth0", Open: func(t *testing.T) *sriov.Allocator {
		a, err := sriov.New(b, nil)
		require.NoError(t, err)
		return a
	}})
}
