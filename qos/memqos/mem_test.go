package memqos_test

import (
	"testing"

	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/memqos"
	"github.com/vnet-go/vnet/qos/qostest"
)

func TestConformance(t *testing.T) {
	qostest.Run(t, qostest.Harness{NoPackets: true, Make: func(testing.TB) qostest.Site {
		k := new(memqos.Kernel)
		return qostest.Site{Backend: memqos.New(k), Writes: k.Writes, Reopen: func(testing.TB) qos.Backend { return memqos.New(k) }}
	}})
}
