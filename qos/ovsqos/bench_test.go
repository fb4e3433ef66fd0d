package ovsqos_test

import (
	"testing"

	"github.com/vnet-go/vnet/qos/qostest"
)

func BenchmarkCost(b *testing.B) {
	qostest.BenchmarkCost(b, qostest.Harness{Make: newSite(b, "netdev").tenant})
}
