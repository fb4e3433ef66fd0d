package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// guestEnv is set inside the guest.
const guestEnv = "VNET_GUEST"

// guestTimeout bounds one guest from power on to off. The processor is
// emulated in software: a boot takes 5 to 15 seconds.
const guestTimeout = 12 * time.Minute

// Patience returns d, or several times that in a guest: how long to wait for
// what ends the wait when it comes, and for what must not come. [Eventually],
// [Capture.Wait], [NS.Ping] and the starts of daemons take it into account
// themselves.
func Patience(d time.Duration) time.Duration {
	if os.Getenv(guestEnv) != "" {
		return 4 * d
	}
	return d
}

// InGuest reports whether this process is in a guest.
func InGuest() bool { return os.Getenv(guestEnv) != "" }

// RanInGuest reports whether the test has been run elsewhere: where the
// kernel lacks the named module ("8021q", "nf_conntrack_bridge"), the same
// test is run in a virtual machine with a Debian kernel, its result becomes
// this test's, and the caller returns. Where the kernel has it, or the test
// already is in the guest, the caller goes on.
//
// The guest sees this machine's files read-only, with memory laid over them,
// and no network. For module "igb" it has an IOMMU and two cards of that kind
// with SR-IOV, joined by a wire. Call it before [New].
func RanInGuest(t *testing.T, module string) bool {
	t.Helper()
	if testing.Short() {
		t.Skip("integration test left out by -short")
	}
	if !strings.HasPrefix(t.Name(), "TestGuest") {
		t.Fatalf("lab: the name of a test that needs the guest begins with TestGuest, for tools/test.sh runs those apart")
	}
	if _, err := os.Stat("/sys/module/" + module); err == nil {
		return false
	}
	err := exec.Command("modprobe", module).Run()
	if err == nil {
		return false
	}
	if os.Getenv(guestEnv) != "" {
		t.Fatalf("lab: module %s cannot be loaded in the guest: %v", module, err)
	}
	out, err := runGuest(module, "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout="+(guestTimeout-time.Minute).String())
	if err != nil {
		t.Fatalf("lab: guest: %v\n%s", err, out)
	}
	if !strings.Contains(out, "--- PASS: "+t.Name()) {
		t.Fatalf("lab: the guest did not run %s:\n%s", t.Name(), out)
	}
	t.Logf("ran in the guest:\n%s", out)
	return true
}

// cards are the arguments of QEMU (8.1 or later) for two Intel 82576 behind an
// IOMMU, and what the kernel has to be told.
func cards() (args []string, words string) {
	args = []string{"-device", "intel-iommu,intremap=on"}
	for i, id := range []string{"igb0", "igb1"} {
		args = slices.Concat(args, []string{
			"-device", fmt.Sprintf("pcie-root-port,id=rp%d,slot=%d,chassis=%d", i, i+1, i+1),
			"-netdev", fmt.Sprintf("hubport,id=%s,hubid=1", id),
			"-device", fmt.Sprintf("igb,netdev=%s,bus=rp%d,mac=52:54:00:00:00:0%d", id, i, i+1)})
	}
	return args, " intel_iommu=on iommu=pt pci=realloc,assign-busses iomem=relaxed" // relaxed: tests look into the card's registers
}

// runGuest runs this test binary with args in a guest and returns what it printed.
func runGuest(module string, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "vnet-guest")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	kernel, version, err := guestKernel()
	if err != nil {
		return "", err
	}
	var cmdline strings.Builder
	for _, a := range append([]string{self}, args...) {
		fmt.Fprintf(&cmdline, " '%s'", strings.ReplaceAll(a, "'", `'\''`))
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, version, fmt.Sprintf(guestMain, guestEnv, wd, cmdline.String())); err != nil {
		return "", err
	}
	console := filepath.Join(dir, "console")
	ctx, cancel := context.WithTimeout(context.Background(), guestTimeout)
	defer cancel()
	machine, more, words := "q35,accel=tcg", []string(nil), ""
	if module == "igb" {
		machine += ",kernel-irqchip=split"
		more, words = cards()
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(more,
		"-machine", machine, "-cpu", "max", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-reboot", "-display", "none", "-nic", "none",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off"+words,
		"-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
		"-serial", "file:"+console, "-serial", "stdio")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	body, code, ended := strings.Cut(text, guestExit)
	switch {
	case ended && strings.TrimSpace(code) == "0":
		return body, nil
	case ended:
		return body, fmt.Errorf("the test binary ended with %s", strings.TrimSpace(code))
	}
	log, _ := os.ReadFile(console)
	return body, fmt.Errorf("ended early (%v) %s\nconsole: %s", errors.Join(err, ctx.Err()), errs.String(), log)
}

const guestExit = "guest-exit-status "

// guestInit mounts the machine's files with memory over them and goes there.
// switch_root, because the kernel runs its module loader in the first root.
const guestInit = `#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /proc /sys /dev /lower /over /new
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
for m in $($B cat /modules); do $B insmod /mod/$m; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /lower || { echo "no root over 9p"; $B poweroff -f; }
$B mount -t tmpfs over /over
$B mkdir /over/up /over/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/over/up,workdir=/over/work over /new
$B cp /main /new/main
$B umount /proc
$B mount --move /dev /new/dev
exec $B switch_root /new /bin/sh /main
`

// guestMain runs the test binary, with its output on the second serial port.
const guestMain = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root %s=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/netns
mount -t tmpfs tmp /var/tmp
stty -F /dev/ttyS1 raw -echo 2>/dev/null
ip link set lo up
cd '%s'
%s > /dev/ttyS1 2>&1
echo "` + guestExit + `$?" > /dev/ttyS1
sleep 0.2
echo o > /proc/sysrq-trigger
sleep 10
`

// guestKernel finds an installed kernel that has its modules beside it.
func guestKernel() (path, version string, err error) {
	all, _ := filepath.Glob("/boot/vmlinuz-*")
	sort.Strings(all)
	for _, p := range all {
		v := strings.TrimPrefix(filepath.Base(p), "vmlinuz-")
		if _, err := os.Stat("/lib/modules/" + v + "/modules.dep"); err == nil {
			path, version = p, v
		}
	}
	if path == "" {
		return "", "", errors.New("no kernel in /boot with modules (make deps installs linux-image-amd64)")
	}
	return path, version, nil
}

// writeInitrd makes the first root: busybox, the modules for 9p and overlay, and init.
func writeInitrd(path, version, main string) error {
	var b bytes.Buffer
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w (make deps installs busybox-static)", err)
	}
	for _, d := range []string{"bin", "mod"} {
		cpioFile(&b, d, 0o040755, nil)
	}
	cpioFile(&b, "bin/busybox", 0o100755, busybox)
	cpioFile(&b, "init", 0o100755, []byte(guestInit))
	cpioFile(&b, "main", 0o100755, []byte(main))
	var order []string
	done := map[string]bool{}
	for _, m := range []string{"virtio_pci", "9pnet_virtio", "9p", "overlay"} {
		out, err := exec.Command("modprobe", "-S", version, "--show-depends", m).Output()
		if err != nil {
			return fmt.Errorf("modprobe --show-depends %s: %w (make deps installs kmod)", m, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "insmod" || done[f[1]] {
				continue
			}
			done[f[1]] = true
			ko, err := os.ReadFile(f[1])
			if err != nil {
				return err
			}
			order = append(order, filepath.Base(f[1]))
			cpioFile(&b, "mod/"+filepath.Base(f[1]), 0o100644, ko)
		}
	}
	cpioFile(&b, "modules", 0o100644, []byte(strings.Join(order, "\n")+"\n"))
	cpioFile(&b, "TRAILER!!!", 0, nil)
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// cpioFile appends one member in the "new ASCII" format that the kernel reads
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func cpioFile(b *bytes.Buffer, name string, mode uint32, data []byte) {
	fmt.Fprintf(b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		b.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad(b)
	b.Write(data)
	pad(b)
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
