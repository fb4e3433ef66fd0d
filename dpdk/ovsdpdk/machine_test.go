package ovsdpdk

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
)

// tree is a machine of two processors and one node with 4 huge pages.
func tree(t *testing.T) machine {
	m := machine{root: t.TempDir()}
	for path, text := range map[string]string{
		"sys/devices/system/cpu/online":     "0-1\n",
		m.pageFile(0, 2048, "nr_hugepages"): "4\n",
	} {
		path = filepath.Join(m.root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return m
}

func TestMachineRefuses(t *testing.T) {
	m := tree(t)
	require.NoError(t, m.check(dpdk.Config{PMDCores: []int{1}, SocketMemory: []int{8}}))
	require.NoError(t, m.check(dpdk.Config{SocketMemory: []int{16}, Hugepages: []dpdk.Hugepages{{SizeKB: 2048, Count: 8}}}))
	for want, c := range map[string]dpdk.Config{
		"no processor that is online (0-1)":           {LCores: []int{2}},
		"is more than the 8 MB":                       {SocketMemory: []int{9}},
		"is for a NUMA node that is not there":        {SocketMemory: []int{0, 1}},
		"no size of huge pages":                       {Hugepages: []dpdk.Hugepages{{SizeKB: 4096, Count: 1}}},
		"is no NUMA node":                             {Hugepages: []dpdk.Hugepages{{Node: 1, SizeKB: 2048, Count: 1}}},
		`hugepage_dir "/nowhere/at/all" is no folder`: {HugepageDir: "/nowhere/at/all"},
		"has no parent folder":                        {SocketDirs: []dpdk.SocketDir{{Path: "/nowhere/at/all", Mode: 0o770}}},
	} {
		require.ErrorContains(t, m.check(c), want)
	}
	require.ErrorContains(t, m.checkPort(dpdk.Port{Devargs: "0000:01:00.0"}), "no PCI device")
	require.ErrorContains(t, m.checkPort(dpdk.Port{Devargs: "net_null0", RxqAffinity: map[int]int{0: 5}}), "no processor")
}

func TestHugepages(t *testing.T) {
	m, before := tree(t), map[string]int{}
	undo, err := m.reserve(dpdk.Config{Hugepages: []dpdk.Hugepages{{SizeKB: 2048, Count: 10}}}, before)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"0:2048": 4}, before)
	n, err := m.pages(0, 2048)
	require.NoError(t, err)
	require.Equal(t, 10, n)
	_, err = m.reserve(dpdk.Config{Hugepages: []dpdk.Hugepages{{SizeKB: 2048, Count: 12}}}, before)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"0:2048": 4}, before, "what was there at first is what is put back")
	require.NoError(t, undo())
	n, err = m.pages(0, 2048)
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.ErrorIs(t, &HugepagesError{}, vnet.ErrNotReady)
}

func TestPrepareSocket(t *testing.T) {
	dir := t.TempDir()
	c := dpdk.Config{SocketDirs: []dpdk.SocketDir{{Path: dir, Mode: 0o770}}}
	path := filepath.Join(dir, "p1")
	require.NoError(t, PrepareSocket(c, path), "nothing there")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.ErrorIs(t, PrepareSocket(c, path), vnet.ErrInUse)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	require.FileExists(t, path)
	require.NoError(t, PrepareSocket(c, path))
	require.NoFileExists(t, path)
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	require.ErrorIs(t, PrepareSocket(c, path), vnet.ErrConflict)
	require.ErrorContains(t, PrepareSocket(c, "/tmp/x"), "is in no folder")
}

func TestMakeDirs(t *testing.T) {
	c := dpdk.Config{SocketDirs: []dpdk.SocketDir{{Path: filepath.Join(t.TempDir(), "vhost"), UID: os.Getuid(), GID: os.Getgid(), Mode: 0o2770}}}
	m := machine{}
	require.Len(t, m.dirDiff(c), 1)
	require.NoError(t, m.makeDirs(c))
	require.Empty(t, m.dirDiff(c))
	require.NoError(t, os.Chmod(c.SocketDirs[0].Path, 0o700))
	require.Len(t, m.dirDiff(c), 1)
	require.NoError(t, m.makeDirs(c))
	require.Empty(t, m.dirDiff(c))
}

func TestSettings(t *testing.T) {
	require.Equal(t, map[string]string{"dpdk-init": "try", "pmd-cpu-mask": "0x10000000000000002", "dpdk-lcore-mask": "0x1", "dpdk-socket-mem": "1024,0", "dpdk-extra": "--no-pci -w x"},
		settings(dpdk.Config{Init: "try", PMDCores: []int{1, 64}, LCores: []int{0}, SocketMemory: []int{1024, 0}, ExtraArgs: []string{"--no-pci", "-w", "x"}}))
}

// As ovs-vswitchd 3.1.0 prints it.
func TestParse(t *testing.T) {
	require.Equal(t, []dpdk.PMD{{Core: 1, Received: 12, EMCHits: 3, MegaflowHits: 7, Misses: 2, IdleCycles: 1000, BusyCycles: 24}}, parsePMDs(`pmd thread numa_id 0 core_id 1:
  packets received: 12
  packet recirculations: 4
  avg. datapath passes per packet: 1.33
  phwol hits: 0
  mfex opt hits: 0
  simple match hits: 0
  emc hits: 3
  smc hits: 0
  megaflow hits: 7
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 2
  miss with failed upcall: 0
  avg. packets per output batch: 1.00
  idle cycles: 1000 (97.66%)
  processing cycles: 24 (2.34%)
main thread:
  packets received: 5
`))
	require.Equal(t, []dpdk.Queue{
		{Port: "dpdk0", Queue: 0, Core: 1, Enabled: true, Usage: -1},
		{Port: "vhuabc", Queue: 1, Core: 1, Usage: 3}}, parseQueues(`pmd thread numa_id 0 core_id 1:
  isolated : false
  port: dpdk0             queue-id:  0 (enabled)   pmd usage: NOT AVAIL
  port: vhuabc            queue-id:  1 (disabled)  pmd usage:  3 %
  overhead:  0 %
`))
}
