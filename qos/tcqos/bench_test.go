package tcqos_test

import (
	"testing"

	"github.com/vnet-go/vnet/qos/qostest"
)

func BenchmarkCost(b *testing.B) {
	qostest.BenchmarkCost(b, qostest.Harness{Make: func(t testing.TB) qostest.Site { return newSite(t, nil).harness() }})
}
