package main

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/secgroup"
)

// writes are the metrics that count what is written to the platform.
var writes = map[string][]string{
	topology.Linux: {"vnet_linux_nft_messages_total", "vnet_linux_rtnetlink_changes_total"},
	topology.OVS:   {"vnet_ovs_flow_changes_total"},
}

func (h *host) written() (sum float64) {
	for _, m := range writes[h.s.backend] {
		sum += h.metric(m)
	}
	return sum
}

// onEach runs a test on all platforms that there are agents for.
func onEach(t *testing.T, f func(t *testing.T, backend string)) {
	for _, b := range []string{topology.Linux, topology.OVS} {
		t.Run(b, func(t *testing.T) { f(t, b) })
	}
}

func TestAgents(t *testing.T) { onEach(t, testAgents) }

// Two hosts, each with an agent of its own, carry a cloud; traffic flows on
// whatever is done to the agents.
func testAgents(t *testing.T, backend string) {
	s := newSite(t, backend)
	h1 := s.hosts["h1"]
	s.up("1")
	s.boot("a1", "a2", "b1", "b2")
	s.reaches(s.vms["a1"], s.addr("b1").String())
	s.reaches(s.vms["a1"], s.addr("a2").String())
	s.reaches(s.vms["b2"], "198.51.100.1") // by the router of h1
	status, body := h1.get("/plan?format=text")
	assert.Equal(t, 200, status)
	assert.Equal(t, "revision 1\nnothing to do\n", body)
	status, body = h1.get("/explain?kind=router&id=r1&format=text")
	assert.Equal(t, 200, status, body)
	assert.Contains(t, body, "r1")
	status, body = h1.get("/explain?kind=port&id=nope")
	assert.Equal(t, 404, status, body)
	status, body = h1.get("/explain?kind=nope&id=nope")
	assert.Equal(t, 400, status, body)

	remote, local := s.traffic("a1", "b1"), s.traffic("a1", "a2")
	flows := func() { t.Helper(); remote.flows(); local.flows() }
	flows()

	t.Log("stopped and started again")
	how := h1.end(syscall.SIGTERM)
	assert.True(t, how.Success(), "%s", how)
	flows()
	h1.start()
	h1.applied("1")
	assert.Zero(t, h1.written(), "the same state: nothing is written")
	flows()

	t.Log("killed and started again")
	for _, h := range s.hosts {
		h.end(syscall.SIGKILL)
	}
	flows()
	for _, h := range s.hosts {
		h.start()
	}
	for _, h := range s.hosts {
		h.applied("1")
		assert.Zero(t, h.written(), "%s: the same state: nothing is written", h.name)
	}
	flows()

	t.Log("a new revision")
	for name, h := range s.hosts {
		d := s.wanted(name, "2")
		for i, g := range d.SecGroup.Groups {
			if g.ID == "open" {
				port := uint16(22)
				g.Rules = append(g.Rules[:len(g.Rules):len(g.Rules)], secgroup.Rule{ID: "ssh", Direction: secgroup.Ingress, Ethertype: secgroup.IPv4, Protocol: "tcp", PortMin: &port, PortMax: &port})
				d.SecGroup.Groups = append([]secgroup.Group(nil), d.SecGroup.Groups...)
				d.SecGroup.Groups[i] = g
			}
		}
		write(t, h.state, d)
	}
	for _, h := range s.hosts {
		h.applied("2")
	}
	flows()

	t.Log("a file with mistakes")
	text, err := os.ReadFile(h1.state)
	require.NoError(t, err)
	writeText(t, h1.state, string(text[:len(text)/2])) // half of it
	h1.until("half a file is told", func(status int, x health) bool { return x.SourceError != "" && x.Applied == "2" })
	_, x := h1.health()
	assert.Contains(t, x.SourceError, "state.json: line ")
	bad := s.wanted("h1", "3")
	bad.Attachments[0].PortID = "nope"
	write(t, h1.state, bad)
	h1.until("the field is told", func(status int, x health) bool {
		return x.SourceError == `state.json: attachments[0].port_id "nope" is no port of overlay.ports` && x.Revision == "2"
	})
	flows()
	h1.end(syscall.SIGKILL) // and nobody knows what is wanted but the agent's own memory
	h1.start()
	h1.until("what was wanted before is applied", func(status int, x health) bool { return x.Applied == "2" && x.SourceError != "" })
	assert.Zero(t, h1.written())
	assert.Empty(t, x.Servers)
	writeText(t, h1.state, string(text))
	h1.applied("2")
	flows()
	remote.done()
	local.done()
}
