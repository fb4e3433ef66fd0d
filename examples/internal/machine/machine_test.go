package machine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/vnet-go/vnet/examples/internal/topology"
)

func small() *topology.Cloud {
	return &topology.Cloud{Underlay: netip.MustParsePrefix("192.0.2.0/24"), UnderlayMTU: 1500, PhysicalNets: []string{"p"},
		Hosts: []topology.CloudHost{{Name: "h1", LocalIP: netip.MustParseAddr("192.0.2.1"), PhysicalNets: []string{"p"}}, {Name: "h2", LocalIP: netip.MustParseAddr("192.0.2.2")}},
		VMs:   []topology.VM{{Name: "a"}}, Outside: []topology.Outside{{Name: "o", PhysicalNW: "p"}}}
}

func newMachine(t *testing.T) *Machine {
	if testing.Short() {
		t.Skip("integration test")
	}
	require.Zero(t, os.Geteuid(), "this test needs root")
	m := &Machine{Name: fmt.Sprintf("t%x", rand.Uint32()), Dir: t.TempDir()}
	t.Cleanup(func() { assert.NoError(t, m.Remove([]string{"h1", "h2"})) })
	return m
}

// Whatever a killed program left half made is finished, and doing it again changes nothing.
func TestEnsureFinishesWhatWasBegun(t *testing.T) {
	m, c := newMachine(t), small()
	// A file without a namespace on it, and a wire to nowhere.
	require.NoError(t, os.MkdirAll(NetnsDir, 0o755))
	require.NoError(t, os.WriteFile(m.HostNS("h1"), nil, 0o644))
	require.NoError(t, ensureNS(m.HostNS("h2")))
	require.NoError(t, Do(m.HostNS("h2"), func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: UnderlayDevice}, PeerName: "stray"})
	}))
	assert.Len(t, m.Plan(c).Changes, 5, "h2 stands")
	require.NoError(t, m.Ensure(c))
	assert.Empty(t, m.Plan(c).Changes)
	index := func() (i int) {
		require.NoError(t, Do(m.HostNS("h2"), func() error {
			l, err := netlink.LinkByName(UnderlayDevice)
			if err == nil {
				i = l.Attrs().Index
			}
			return err
		}))
		return i
	}
	before := index()
	require.NoError(t, m.Ensure(c))
	assert.Equal(t, before, index(), "the wire was left alone")
	require.NoError(t, Do(m.HostNS("h1"), func() error { return exec.Command("ping", "-c1", "-W2", "192.0.2.2").Run() }))

	// What the file does not say any more goes.
	c.VMs, c.Hosts = nil, c.Hosts[:1]
	require.NoError(t, m.Prune(c))
	_, err := os.Stat(m.HostNS("h2"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, m.Remove([]string{"h1", "h2"}))
	require.NoError(t, os.RemoveAll(m.Dir))
	assert.Empty(t, m.Left([]string{"h1", "h2"}))
}

// Processes are found by what they are, not by what was written down, and
// those of another cloud are left alone.
func TestKill(t *testing.T) {
	m, c := newMachine(t), small()
	require.NoError(t, m.Ensure(c))
	start := func(dir, role, ns string) *exec.Cmd {
		cmd := exec.Command("sleep", "60")
		if role != "" {
			cmd.Env = []string{dirVar + "=" + dir, roleVar + "=" + role}
		}
		f := cmd.Start
		if ns != "" {
			f = func() error { return Do(ns, cmd.Start) }
		}
		require.NoError(t, f())
		go cmd.Wait()
		return cmd
	}
	agent, a := start(m.Dir, "agent", ""), start(m.Dir, "vm a", m.VMNS("a"))
	forgetful := start("", "", m.VMNS("a"))
	other := start(filepath.Join(m.Dir, "other"), "agent", "")
	defer other.Process.Kill()
	assert.Len(t, m.Processes(""), 2)
	require.NoError(t, m.Kill("vm a"))
	assert.Equal(t, []Process{{agent.Process.Pid, "agent"}}, m.Processes(""))
	for _, cmd := range []*exec.Cmd{a, forgetful} {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		assert.Error(t, err, "ended")
	}
	require.NoError(t, m.Kill(""))
	assert.Empty(t, m.Processes(""))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", other.Process.Pid))
	assert.NoError(t, err)
	assert.NotEmpty(t, env, "the other cloud's agent lives")
}

// OVN starts, is left alone when it runs, comes back when its daemons were
// killed, and goes whole.
func TestOVN(t *testing.T) {
	m, c := newMachine(t), small()
	c.Backend = topology.OVN
	up := func() {
		t.Helper()
		require.NoError(t, m.Ensure(c))
		require.NoError(t, m.EnsureOVN(t.Context(), c))
		for _, h := range c.Hosts {
			out, err := exec.Command("ovn-sbctl", "--timeout=10", "--db="+m.OVN("").Southbound, "wait-until", "Chassis", h.Name, "name="+h.Name).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		require.NoError(t, Do(m.HostNS("h1"), func() error { return exec.Command("ping", "-c3", "-i0.2", "-W2", "192.0.2.2").Run() }))
	}
	assert.False(t, m.OVNRuns())
	up()
	assert.True(t, m.OVNRuns())
	before := m.Processes("")
	assert.Len(t, before, 3+3*2)
	up()
	assert.Equal(t, before, m.Processes(""))
	require.NoError(t, m.Kill("ovs h1 vswitchd"))
	require.NoError(t, m.Kill("ovs _central nb-server"))
	up()
	require.NoError(t, m.Remove([]string{"h1", "h2"}))
	require.NoError(t, os.RemoveAll(m.Dir))
	assert.Empty(t, m.Left([]string{"h1", "h2"}))
}
