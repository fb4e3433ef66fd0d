package main_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/internal/lab"
)

// Virtual functions of a card beside ports of the hosts' switches, in the guest
// that has such cards.
func TestGuestSRIOV(t *testing.T) {
	if lab.RanInGuest(t, "igb") {
		return
	}
	for _, m := range []string{"igbvf", "8021q"} {
		require.NoError(t, exec.Command("modprobe", m).Run(), m)
	}
	c := newCloud(t, "../topologies/hardware/sriov.yaml")
	r := c.up()
	for _, name := range []string{"fast1", "fast2", "slow1", "slow2"} {
		assert.Equal(t, vm.Ready, r.vm(name).Phase, name)
	}
	assert.True(t, r.seen(t, "fast1", "icmp", "10.1.0.21", 0).OK, "a function reaches a port of a switch")
	assert.True(t, r.seen(t, "slow2", "icmp", "10.1.0.12", 0).OK, "and the other way")
	assert.False(t, r.seen(t, "fast1", "tcp", "10.1.0.21", 80).OK, "which its groups still guard")
	assert.Empty(t, c.plan().Changes)
	status := c.must("status", "--name", c.name)
	assert.Regexp(t, `fast1-port +h1 +0000:01:10\.\d +VF \d of 0000:01:00\.0 +VLAN 100 .*spoof check true, trusted false +at most 400 Mbit/s`, status)
	assert.Regexp(t, `fast2-port .*trusted true +no limit`, status)

	// Somebody resets the card's functions: the next up finds and mends it.
	require.NoError(t, os.WriteFile("/sys/class/net/eth0/device/sriov_numvfs", []byte("0"), 0o644))
	assert.NotEmpty(t, c.plan().Changes)
	r = c.up("--force")
	assert.True(t, r.seen(t, "fast1", "icmp", "10.1.0.21", 0).OK)

	c.must("down", "--name", c.name)
	n, err := os.ReadFile("/sys/class/net/eth0/device/sriov_numvfs")
	require.NoError(t, err)
	assert.Equal(t, "0", strings.TrimSpace(string(n)), "the card is as it was")
	lab.Eventually(t, lab.Patience(5e9), "the other card is back", func() bool {
		_, err := os.Stat("/sys/class/net/eth1")
		return err == nil
	})
}

// A machine attached by vhost-user to a switch with DPDK.
func TestDPDK(t *testing.T) {
	pages := func() string {
		b, err := os.ReadFile("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")
		require.NoError(t, err)
		return strings.TrimSpace(string(b))
	}
	before := pages()
	c := newCloud(t, "../topologies/hardware/dpdk.yaml")
	c.backend = "ovs"
	r := c.up()
	assert.NotEqual(t, before, pages())
	for _, name := range []string{"fast1", "slow1"} {
		assert.Equal(t, vm.Ready, r.vm(name).Phase, name)
	}
	assert.NotNil(t, r.vm("fast1").Metadata)
	assert.True(t, r.seen(t, "slow1", "tcp", "10.1.0.11", 80).OK)
	assert.False(t, r.seen(t, "slow1", "tcp", "10.1.0.11", 22).OK, "what no rule allows")
	assert.Empty(t, c.plan().Changes)
	assert.Contains(t, c.must("limits", "--name", c.name), "fast1-port")
	assert.Contains(t, c.must("status", "--name", c.name), "/ovs/h1/vhost/")

	// The hypervisor ends, and its machine with it; the switch goes on.
	require.NoError(t, c.machine().Kill("vm fast1"))
	require.NoError(t, c.machine().Kill("hv-fast1"))
	r = c.up()
	assert.True(t, r.seen(t, "fast1", "icmp", "10.1.0.21", 0).OK)

	c.must("down", "--name", c.name)
	assert.Equal(t, before, pages(), "huge pages are given back")
	mounts, err := os.ReadFile("/proc/mounts")
	require.NoError(t, err)
	assert.NotContains(t, string(mounts), c.name)
}
