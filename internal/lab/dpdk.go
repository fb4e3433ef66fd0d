package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const dpdkSwitch = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

const hugepagesFile = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"

// DPDK is what programs that use DPDK need of the machine in a lab.
type DPDK struct {
	Mount  string // hugetlbfs of 2-MiB pages
	Prefix string // of the EAL (--file-prefix), which two processes must not share

	l       *Lab
	before  int
	serials int
}

// DPDK mounts a hugetlbfs of this lab, and remembers how many huge pages node 0
// has. At the end the mount and the EAL's files go; pages that the test has not
// given back are a leak, which is told of and mended. Call it before anything
// that uses huge pages is made, so that it ends after it.
func (l *Lab) DPDK() *DPDK {
	l.t.Helper()
	Need(l.t, "dpdk-testpmd")
	d := &DPDK{l: l, Mount: l.Dir("huge"), Prefix: strings.TrimSuffix(l.prefix, "-")}
	var err error
	d.before, err = hugepages()
	l.must(err)
	l.must(unix.Mount("hugetlbfs", d.Mount, "hugetlbfs", 0, "pagesize=2M"))
	l.t.Cleanup(func() {
		for end := time.Now().Add(Patience(10 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
			// Pages in files of a process that was killed are in use until those go.
			left, _ := filepath.Glob(filepath.Join(d.Mount, "*"))
			for _, f := range left {
				_ = os.Remove(f)
			}
			err := unix.Unmount(d.Mount, 0)
			if err == nil || time.Now().After(end) {
				if err != nil {
					l.t.Errorf("lab: %s: %v", d.Mount, err)
					_ = unix.Unmount(d.Mount, unix.MNT_DETACH)
				}
				break
			}
		}
		runs, _ := filepath.Glob("/var/run/dpdk/" + d.Prefix + "*")
		for _, r := range runs {
			_ = os.RemoveAll(r)
		}
		if n, err := hugepages(); err != nil || n != d.before {
			_ = os.WriteFile(hugepagesFile, []byte(strconv.Itoa(d.before)), 0o644)
			if !l.t.Failed() {
				l.t.Errorf("lab: %d huge pages are left behind (%d before): %v", n, d.before, err)
			}
		}
	})
	return d
}

// hugepages is how many huge pages of 2 MiB node 0 has.
func hugepages() (int, error) {
	b, err := os.ReadFile(hugepagesFile)
	if err != nil {
		return 0, fmt.Errorf("huge pages of 2 MiB: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Guests runs a dpdk-testpmd in ns that plays virtual machines: each has a
// virtio device on a vhost-user socket, and what comes by it goes out by a
// device of the namespace, and back. pairs lead from sockets to devices.
// server says that testpmd listens. It shares processor 0; stop ends it.
func (d *DPDK) Guests(ns *NS, server bool, queues int, pairs ...[2]string) (stop func()) {
	d.l.t.Helper()
	d.serials++
	args := []string{"--lcores=0@0,1@0", "--main-lcore=0", "--no-pci", "--single-file-segments", "--huge-dir=" + d.Mount, "--socket-mem=128", "--no-telemetry",
		fmt.Sprintf("--file-prefix=%sg%d", d.Prefix, d.serials)}
	for i, p := range pairs {
		v := fmt.Sprintf("--vdev=net_virtio_user%d,path=%s,queues=%d,queue_size=256", i, p[0], queues)
		if server {
			v += ",server=1"
		}
		args = append(args, v)
	}
	for i, p := range pairs {
		args = append(args, fmt.Sprintf("--vdev=net_af_packet%d,iface=%s,qpairs=%d", i, p[1], queues))
	}
	// Ports are numbered as they are made; the first half is joined with the second.
	args = append(args, "--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=4096", "--stats-period=3600",
		fmt.Sprintf("--rxq=%d", queues), fmt.Sprintf("--txq=%d", queues), "--port-topology=paired", "--portlist="+paired(len(pairs)))
	_, stop = ns.Start("dpdk-testpmd", args...)
	return stop
}

// Throughput is how often a second frames of 64 bytes go from one device to
// another of the switch: a dpdk-testpmd sends a burst of them by the first, and
// what it hears at the second it sends by the first again, as fast as it can. The
// devices are arguments of --vdev; between is called when it runs. It has
// processor 0.
func (d *DPDK) Throughput(ns *NS, from, to string, f Frame, between func()) float64 {
	d.l.t.Helper()
	d.serials++
	_, stop, heard := ns.startHeard("dpdk-testpmd", "--lcores=0@0,1@0", "--main-lcore=0", "--no-pci", "--single-file-segments", "--huge-dir="+d.Mount, "--socket-mem=128",
		"--no-telemetry", fmt.Sprintf("--file-prefix=%sg%d", d.Prefix, d.serials), "--vdev="+from, "--vdev="+to, "--", "--forward-mode=io", "--tx-first", "--burst=128",
		"--port-topology=paired", "--total-num-mbufs=8192", "--stats-period=1", "--txpkts=64", "--eth-peer=0,"+f.DstMAC.String(),
		fmt.Sprintf("--tx-ip=%s,%s", f.Src, f.Dst), fmt.Sprintf("--tx-udp=%d,%d", f.SrcPort, f.DstPort))
	defer stop()
	between()
	rates := func() (out []float64) {
		second := false
		for _, l := range strings.Split(heard.String(), "\n") {
			if strings.Contains(l, "statistics for port ") {
				second = strings.Contains(l, "port 1 ")
			}
			if !second {
				continue
			}
			if _, rest, ok := strings.Cut(l, "Rx-pps:"); ok && len(strings.Fields(rest)) > 0 {
				if n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64); err == nil && n > 0 {
					out = append(out, n)
				}
			}
		}
		return out
	}
	const seconds = 4
	Eventually(d.l.t, 60*time.Second, "frames arrive for some seconds", func() bool { return len(rates()) > seconds })
	sum := 0.0
	for _, r := range rates()[1 : seconds+1] { // the first second is not a whole one
		sum += r
	}
	return sum / seconds
}

func paired(n int) string {
	var s []string
	for i := range n {
		s = append(s, strconv.Itoa(i), strconv.Itoa(n+i))
	}
	return strings.Join(s, ",")
}
