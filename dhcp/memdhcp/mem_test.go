package memdhcp_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcptest"
	"github.com/vnet-go/vnet/dhcp/memdhcp"
)

func TestConformance(t *testing.T) {
	dhcptest.Run(t, dhcptest.Harness{NoPackets: true, Volatile: true, Make: func(t testing.TB) dhcptest.Host {
		b := memdhcp.New(nil)
		return dhcptest.Host{DHCP: b, Writes: b.Writes, Reopen: func(testing.TB) dhcp.Backend { return memdhcp.New(nil) }}
	}})
}

func TestAsk(t *testing.T) {
	b := memdhcp.New(&memdhcp.Options{Host: "h1"})
	_, err := b.Ask("net", vnet.MustParseMAC("02:00:00:00:00:01"))
	require.ErrorIs(t, err, vnet.ErrNotFound)
}
