package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// dpdkSwitch is ovs-vswitchd with DPDK, where Debian has it.
const dpdkSwitch = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

// pagesFile says how many huge pages this machine has.
const pagesFile = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"

// hugeDir is where the cloud's huge pages are mounted, pagesBefore how many
// there were before it.
func (m *Machine) hugeDir() string     { return filepath.Join(m.Dir, "huge") }
func (m *Machine) pagesBefore() string { return filepath.Join(m.Dir, "hugepages") }

// filePrefix keeps processes with DPDK apart (--file-prefix of the EAL).
func (m *Machine) filePrefix(role string) string { return "vc" + short(m.Dir+role) }

// DPDK is the configuration of a host's switch on this machine.
func (m *Machine) DPDK(h topology.CloudHost, pages int) dpdk.Config {
	c := h.DPDK.Config()
	c.HugepageDir = m.hugeDir()
	c.Hugepages[0].Count += pages
	c.ExtraArgs = append(c.ExtraArgs, "--file-prefix="+m.filePrefix(h.Name))
	c.SocketDirs = []dpdk.SocketDir{{Path: m.socketDir(h.Name), Mode: 0o2770}}
	return c
}

// PagesBefore is how many huge pages there were before the cloud.
func (m *Machine) PagesBefore() (int, error) { return number(m.pagesBefore()) }

func number(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func (m *Machine) socketDir(host string) string { return filepath.Join(m.daemons(host).dir, "vhost") }

// Socket is where the hypervisor of a machine on a host with DPDK listens for
// the switch.
func (m *Machine) Socket(host, vm, dev string) string {
	return filepath.Join(m.socketDir(host), short(vm+dev))
}

// prepareDPDK mounts huge pages, once, and writes down how many there were.
func (m *Machine) prepareDPDK() error {
	if _, err := os.Stat(dpdkSwitch); err != nil {
		return fmt.Errorf("%w (Debian has it in openvswitch-switch-dpdk)", err)
	}
	if err := programs("dpdk-dev", "dpdk-testpmd"); err != nil {
		return err
	}
	if _, err := os.Stat(m.pagesBefore()); errors.Is(err, os.ErrNotExist) {
		n, err := number(pagesFile)
		if err != nil {
			return fmt.Errorf("huge pages of 2 MiB: %w", err)
		}
		if err := os.WriteFile(m.pagesBefore(), []byte(strconv.Itoa(n)), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(m.hugeDir(), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.hugeDir(), &fs); err != nil {
		return err
	}
	if fs.Type == unix.HUGETLBFS_MAGIC {
		return nil
	}
	return unix.Mount("hugetlbfs", m.hugeDir(), "hugetlbfs", 0, "pagesize=2M")
}

// ReturnPages gives huge pages back. All that used them has ended.
func (m *Machine) ReturnPages() error {
	before, err := m.PagesBefore()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var fs unix.Statfs_t
	if unix.Statfs(m.hugeDir(), &fs) == nil && fs.Type == unix.HUGETLBFS_MAGIC {
		left, _ := filepath.Glob(filepath.Join(m.hugeDir(), "*"))
		for _, f := range left {
			os.Remove(f)
		}
		// A process that was killed has its memory for a moment longer.
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err = unix.Unmount(m.hugeDir(), 0); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", m.hugeDir(), err)
		}
	}
	runs, _ := filepath.Glob("/var/run/dpdk/vc*")
	for _, r := range runs {
		for _, role := range m.dpdkRoles() {
			if filepath.Base(r) == m.filePrefix(role) {
				os.RemoveAll(r)
			}
		}
	}
	return os.WriteFile(pagesFile, []byte(strconv.Itoa(before)), 0o644)
}

// dpdkRoles are the hosts and machines that have run with DPDK.
func (m *Machine) dpdkRoles() []string {
	b, _ := os.ReadFile(filepath.Join(m.Dir, "dpdk-roles"))
	return strings.Fields(string(b))
}

// hasDPDK writes down that a host or machine runs with DPDK.
func (m *Machine) hasDPDK(role string) error {
	for _, r := range m.dpdkRoles() {
		if r == role {
			return nil
		}
	}
	f, err := os.OpenFile(filepath.Join(m.Dir, "dpdk-roles"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, role)
	return errors.Join(err, f.Close())
}

// Hypervise plays the hypervisor of a machine on a host with DPDK: a
// dpdk-testpmd has virtio devices on the machine's sockets, and carries what
// comes by them to the devices of its namespace and back. It is left alone while
// it and the devices are there.
func (m *Machine) Hypervise(ctx context.Context, host, vm string, nics []topology.NIC) error {
	role := "hv-" + vm
	if err := m.hasDPDK(role); err != nil {
		return err
	}
	fresh := len(m.Processes(role)) == 0
	for _, n := range nics {
		x := pair{host: m.HostNS(host), tap: tapName(vm, n.Device), ns: m.VMNS(vm), dev: n.Device, mac: n.MAC.HardwareAddr()}
		made, err := x.ensure()
		if err != nil {
			return fmt.Errorf("device %s of %s: %w", n.Device, vm, err)
		}
		fresh = fresh || made
	}
	if !fresh {
		return nil
	}
	if err := m.Kill(role); err != nil {
		return err
	}
	args := []string{"--lcores=0@0,1@0", "--main-lcore=0", "--no-pci", "--single-file-segments", "--huge-dir=" + m.hugeDir(), "--socket-mem=128", "--no-telemetry", "--file-prefix=" + m.filePrefix(role)}
	for i, n := range nics {
		s := m.Socket(host, vm, n.Device)
		os.Remove(s) // of one that was killed
		args = append(args, fmt.Sprintf("--vdev=net_virtio_user%d,path=%s,server=1,queues=1,queue_size=256", i, s))
	}
	var ports []string
	for i, n := range nics {
		args = append(args, fmt.Sprintf("--vdev=net_af_packet%d,iface=%s", i, tapName(vm, n.Device)))
		ports = append(ports, strconv.Itoa(i), strconv.Itoa(len(nics)+i))
	}
	args = append(args, "--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=4096", "--stats-period=3600", "--port-topology=paired", "--portlist="+strings.Join(ports, ","))
	log := filepath.Join(m.VMDir(vm), "hypervisor.log")
	if err := os.MkdirAll(m.VMDir(vm), 0o755); err != nil {
		return err
	}
	ended, err := m.run(role, m.HostNS(host), log, nil, "dpdk-testpmd", args...)
	if err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Lstat(m.Socket(host, vm, nics[0].Device)); err == nil {
			return nil
		}
		if ended() || time.Now().After(end) {
			return fmt.Errorf("the hypervisor of %s does not come up, see %s", vm, log)
		}
	}
	return ctx.Err()
}

func tapName(vm, dev string) string { return "hv-" + short(vm+dev) }

// pair is a veth between a host, where a hypervisor reads it, and a machine.
type pair struct {
	host, tap, ns, dev string
	mac                []byte
}

// ensure makes the pair unless it is there.
func (x pair) ensure() (made bool, err error) {
	near, err := lookup(x.host, x.tap)
	if err != nil {
		return false, err
	}
	far, err := lookup(x.ns, x.dev)
	if err != nil {
		return false, err
	}
	if near != nil && far != nil {
		return false, nil
	}
	if near != nil {
		if err := Do(x.host, func() error { return netlink.LinkDel(near) }); err != nil {
			return false, err
		}
	}
	peer, err := os.Open(x.ns)
	if err != nil {
		return false, err
	}
	defer peer.Close()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: x.tap, MTU: 1500}, PeerName: x.dev, PeerNamespace: netlink.NsFd(int(peer.Fd())), PeerHardwareAddr: x.mac}
	err = Do(x.host, func() error {
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		os.WriteFile("/proc/sys/net/ipv6/conf/"+x.tap+"/disable_ipv6", []byte("1"), 0o644) // the host has no part in it
		l, err := netlink.LinkByName(x.tap)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	if err != nil {
		return false, err
	}
	return true, Do(x.ns, func() error {
		if err := rtnl.NoChecksumOffload(x.dev); err != nil { // what reads the frames takes them as they are
			return err
		}
		l, err := netlink.LinkByName(x.dev)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}
