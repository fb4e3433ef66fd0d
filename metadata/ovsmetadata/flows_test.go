package ovsmetadata

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/internal/pipeline"
	"github.com/vnet-go/vnet/metadata"
)

func text(flows []openflow.Flow) string {
	var b strings.Builder
	for _, f := range flows {
		b.WriteString(strings.TrimPrefix(strings.TrimSpace(f.String()), "cookie=0, ") + "\n")
	}
	return b.String()
}

// What is written, as ovs-ofctl has it: testdata/flows.txt.
func TestFlows(t *testing.T) {
	e := metadata.Endpoint{ID: "e", NetworkID: "net", PortID: "p", MAC: vnet.MAC{2, 0xa9, 0xfe, 0, 0, 1}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}
	r := metadata.Endpoint{ID: "r", RouterID: "router"}
	all := [][]openflow.Flow{onNetwork(e, 7).flows(), inRouter("o", r, 3, 8).flows(), deviceFlows(9, deviceMAC(), hopMAC())}
	got := "# on network 7\n" + text(all[0]) + "# in router 3, on network 8\n" + text(all[1]) + "# the device, port 9\n" + text(all[2])
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile("testdata/flows.txt", []byte(got), 0o644))
	}
	want, err := os.ReadFile("testdata/flows.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), got)
	seen := map[openflow.FlowKey]bool{}
	for _, flows := range append(all, inRouter("o", r, 4, 7).flows(), onNetwork(e, 8).flows()) {
		for _, f := range flows {
			require.NoError(t, f.Validate())
			require.True(t, pipeline.MayFill(vnet.PartMetadata, f.Table))
			require.False(t, seen[f.Key()], "two objects have the flow %s", f.String())
			seen[f.Key()] = true
		}
	}
}

func TestBits(t *testing.T) {
	require.EqualValues(t, pipeline.Filtered, 1<<bitFiltered)
	require.EqualValues(t, pipeline.OutFiltered, 1<<bitOutFiltered)
	require.EqualValues(t, pipeline.Ports, 1<<portBits-1)
	require.EqualValues(t, pipeline.Networks, 1<<networkBits-1)
	require.Less(t, routerServe+pipeline.Routers, networkServe)
	require.Less(t, routerDrop+pipeline.Routers, networkDrop)
	require.Zero(t, pipeline.Networks&networkPorts)
	require.Zero(t, pipeline.Routers&routerPorts)
	require.EqualValues(t, pipeline.ZoneOfPort(5), 1<<portBits|5)
	require.EqualValues(t, 0x1234, networkOf(netip.MustParseAddr("fd00:a9fe:a9fe:2::1234:17")))
	require.Zero(t, networkOf(netip.MustParseAddr("fe80::1234:17")))
	require.Zero(t, networkOf(netip.MustParseAddr("198.18.0.1")))
	require.EqualValues(t, 1<<portBits, 1<<(32-inside4().Bits()), "a port, an address")
}
