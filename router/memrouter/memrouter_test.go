package memrouter_test

import (
	"testing"

	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/memrouter"
	"github.com/vnet-go/vnet/router/routertest"
)

func TestConformance(t *testing.T) {
	routertest.Run(t, routertest.Harness{NoPackets: true, Make: func(testing.TB) routertest.Host {
		k := new(memrouter.Kernel)
		return routertest.Host{Router: memrouter.New(k), Reopen: func(testing.TB) router.Backend { return memrouter.New(k) }, Writes: k.Writes}
	}})
}
