package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/lab"
)

// With ovs-vswitchd its flows go. The agent hears of it and makes all again,
// also when it was not there itself, and waits for a switch that is not.
func TestSwitchRestarts(t *testing.T) {
	s := newSite(t, topology.OVS)
	h1, h2 := s.hosts["h1"], s.hosts["h2"]
	s.up("1")
	s.boot("a1", "a2", "b1", "b2")
	all := func() {
		t.Helper()
		s.reaches(s.vms["a1"], s.addr("b1").String())
		s.reaches(s.vms["b1"], s.addr("a2").String())
		s.reaches(s.vms["b2"], "198.51.100.1")
	}
	all()
	for _, h := range []*host{h1, h2} {
		h.sw.Vswitchd.Kill()
		h.until("the switch is missed", func(status int, x health) bool { return !x.Subsystems["overlay"].Complete })
		h.sw.Vswitchd.Start()
		h.until("all is there again", func(status int, x health) bool { return status == 200 && x.Behind.IsZero() })
		all()
		assert.NotZero(t, h.metric("vnet_agent_events_total"))
	}

	// The agent ends first, and starts before the switch does.
	h1.stop()
	h1.sw.Vswitchd.Kill()
	h1.start("-retry-max", "100ms")
	h1.until("it waits", func(status int, x health) bool { return status == 503 && x.Applied == "" })
	h1.sw.Vswitchd.Start()
	h1.applied("1")
	all()

	// Only the database restarts: nothing is lost.
	flow := s.traffic("a1", "b1")
	h1.sw.Vswitch.Restart()
	flow.flows()
	h1.until("the database is back", func(status int, x health) bool { return status == 200 })
	d := s.wanted("h1", "2")
	write(t, h1.state, d)
	h1.applied("2")
	flow.done()

	// Somebody takes a port out of the bridge, and flows.
	dev := strings.TrimSpace(h1.sw.Vsctl("--bare", "--columns=name", "find", "Interface", "external_ids:vnet\\:id="+s.topo.VM("a2").NICs[0].PortID))
	require.NotEmpty(t, dev, "%s", h1.sw.Vsctl("list", "Interface"))
	h1.sw.Vsctl("del-port", dev)
	lab.Eventually(t, 30*time.Second, "the port is back", func() bool { return strings.Contains(h1.sw.Vsctl("list-ifaces", h1.bridge()), dev) })
	s.reaches(s.vms["a1"], s.addr("a2").String())
}

// bridge is the integration bridge.
func (h *host) bridge() string {
	for _, b := range strings.Fields(h.sw.Vsctl("list-br")) {
		if !strings.HasPrefix(b, "br-") {
			return b
		}
	}
	h.s.Fatal("no integration bridge")
	return ""
}
