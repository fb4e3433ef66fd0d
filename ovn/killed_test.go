package ovn_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
)

const killedPorts = 500

// killedEndpoint tells a copy of the test binary to be the process that is killed.
const killedEndpoint = "VNET_TEST_KILLED"

func killedState(from, to int) func(*ovn.Tx) error {
	return func(tx *ovn.Tx) error {
		var ports []string
		for i := from; i < to; i++ {
			ports = append(ports, fmt.Sprint("p", i))
		}
		return ensureNetwork("n1", ports...)(tx)
	}
}

// TestKilledProcess is the process: ports one by one and ten in a batch.
func TestKilledProcess(t *testing.T) {
	endpoint := os.Getenv(killedEndpoint)
	if endpoint == "" {
		return
	}
	c := dial(t, "red", nil, endpoint)
	for i := 0; i < killedPorts; i += 10 {
		require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, killedState(i, i+1)))
		b := c.Batch()
		require.NoError(t, b.Submit(t.Context(), vnet.PartOverlay, killedState(i, i+10)))
		for j := range 10 {
			require.NoError(t, b.Submit(t.Context(), vnet.PartDHCP, ensureOptions(fmt.Sprint("p", i+j), "10.0.0.0/24")))
		}
		require.NoError(t, b.Commit(t.Context()))
	}
	fmt.Println("whole")
}

func TestKilled(t *testing.T) {
	s := ovsdbtest.New(t, ovsdbtest.NB)
	c := dial(t, "red", nil, s.Endpoint())
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), killedEndpoint+"="+s.Endpoint())
		require.NoError(t, cmd.Start())
		lab.Eventually(t, time.Minute, "it has begun", func() bool {
			return ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n1") != nil
		})
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		v := view(t, c)
		options := 0
		for m := range ovn.Own[nbrow.DHCPOptions](v, vnet.PartDHCP) {
			lsp := ovn.Find[nbrow.LogicalSwitchPort](v, vnet.PartOverlay, "port", m.ID)
			require.NotNil(t, lsp, "options without their port")
			require.NotNil(t, lsp.Dhcpv4Options)
			options++
		}
		require.Zero(t, options%10, "a batch is whole or not there")
		t.Logf("round %d: killed after %d ports", round, count(ovn.Own[nbrow.LogicalSwitchPort](v, vnet.PartOverlay)))
		// A new process makes it whole.
		require.NoError(t, c.Submit(t.Context(), vnet.PartOverlay, killedState(0, killedPorts)))
		v = view(t, c)
		require.Equal(t, killedPorts, count(ovn.Own[nbrow.LogicalSwitchPort](v, vnet.PartOverlay)))
		require.Len(t, ovn.Find[nbrow.LogicalSwitch](v, vnet.PartOverlay, "network", "n1").Ports, killedPorts)
		require.NoError(t, c.Cleanup(t.Context()))
		require.Nil(t, ovn.Find[nbrow.LogicalSwitch](view(t, c), vnet.PartOverlay, "network", "n1"))
	}
}
