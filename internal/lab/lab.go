package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// labDir holds one folder a Lab, named by its prefix, for the namespaces that
// the library under test makes (linux.Options.NetnsDir).
const labDir = "/run/vnet-lab"

var serial atomic.Uint32 // distinguishes the labs of one process

// Lab is the set of namespaces, processes and files of one test.
type Lab struct {
	t      testing.TB
	prefix string

	mu    sync.Mutex
	ns    []*NS
	procs []*exec.Cmd
	next  int // last octet of the next underlay host
}

// New makes an empty lab that is removed when t ends. Under -short it skips
// the test; without root it fails it.
func New(t testing.TB) *Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("integration test left out by -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("lab: this test needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")
	}
	Need(t, "ip")
	sweep()
	l := &Lab{t: t, prefix: fmt.Sprintf("lab%d-%d-", os.Getpid(), serial.Add(1))}
	for _, d := range []string{netnsDir, l.NetnsDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatalf("lab: %v", err)
		}
	}
	t.Cleanup(l.close)
	return l
}

// Need fails the test by name when one of the tools is not installed.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, x := range tools {
		if _, err := exec.LookPath(x); err != nil {
			t.Fatalf("lab: this test needs the program %q (make deps installs it)", x)
		}
	}
}

// Prefix is what all names of this lab begin with.
func (l *Lab) Prefix() string { return l.prefix }

// Owner returns a vnet owner that no other lab uses, at most 16 characters.
func (l *Lab) Owner(suffix string) string {
	s := strings.TrimSuffix(l.prefix, "-") + suffix
	if len(s) > 16 {
		l.t.Fatalf("lab: owner %q is too long", s)
	}
	return s
}

// NetnsDir is a folder of this lab for the namespaces that the library makes;
// what is left there is unmounted and reported as a leak at the end.
func (l *Lab) NetnsDir() string { return filepath.Join(labDir, strings.TrimSuffix(l.prefix, "-")) }

// NS makes a network namespace, with loopback up. name is short and unique in the lab.
func (l *Lab) NS(name string) *NS {
	l.t.Helper()
	n := &NS{l: l, Short: name, Name: l.prefix + name, Path: filepath.Join(netnsDir, l.prefix+name), inject: map[string]int{}}
	l.must(run("ip", "netns", "add", n.Name))
	l.mu.Lock()
	l.ns = append(l.ns, n)
	l.mu.Unlock()
	l.must(run("ip", "-n", n.Name, "link", "set", "lo", "up"))
	return n
}

// Remove ends the processes in a namespace and removes it before the lab ends.
func (l *Lab) Remove(n *NS) {
	l.t.Helper()
	l.mu.Lock()
	for i, x := range l.ns {
		if x == n {
			l.ns = append(l.ns[:i], l.ns[i+1:]...)
			break
		}
	}
	l.mu.Unlock()
	if err := n.close(); err != nil {
		l.t.Errorf("lab: %v", err)
	}
}

// Veth joins two namespaces by a pair of devices, both up, with checksum and
// segmentation offload as the kernel has it.
func (l *Lab) Veth(a *NS, aDev string, b *NS, bDev string) {
	l.t.Helper()
	l.must(run("ip", "link", "add", "name", aDev, "netns", a.Name, "type", "veth", "peer", "name", bDev, "netns", b.Name))
	a.Up(aDev)
	b.Up(bDev)
}

// Host is a namespace that plays a hypervisor.
type Host struct {
	*NS
	IP, IP6 netip.Addr // on the underlay
	Dev     string     // the underlay device

	cut bool // off the underlay
}

// Underlay makes a host namespace a name, each with a device "under0" on one
// common bridge and the addresses 192.0.2.N/24 and 2001:db8:ffff::N/64. The
// bridge is in a namespace of its own, returned by [Lab.Wire]("under").
func (l *Lab) Underlay(names ...string) []*Host {
	l.t.Helper()
	wire := l.Wire("under")
	var hosts []*Host
	for _, name := range names {
		l.mu.Lock()
		l.next++
		n := l.next
		l.mu.Unlock()
		h := &Host{NS: l.NS(name), Dev: "under0",
			IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), IP6: netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", n))}
		l.Plug(wire, h.NS, h.Dev)
		h.Addr(h.Dev, h.IP.String()+"/24")
		h.Addr(h.Dev, h.IP6.String()+"/64")
		hosts = append(hosts, h)
	}
	return hosts
}

// Wire returns the namespace of that name with a bridge "br" in it, made at
// the first call: an Ethernet that hosts and stations are plugged into.
func (l *Lab) Wire(name string) *NS {
	l.t.Helper()
	l.mu.Lock()
	for _, n := range l.ns {
		if n.Short == name {
			l.mu.Unlock()
			return n
		}
	}
	l.mu.Unlock()
	n := l.NS(name)
	n.IP("link", "add", "name", "br", "type", "bridge", "mcast_snooping", "0")
	n.Up("br")
	return n
}

// Plug gives ns a device dev on the wire; the wire's end is named like the namespace.
func (l *Lab) Plug(wire, ns *NS, dev string) {
	l.t.Helper()
	end := ns.Short
	if len(end) > 15 {
		end = end[:15]
	}
	l.Veth(wire, end, ns, dev)
	wire.IP("link", "set", "dev", end, "master", "br")
}

func (l *Lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("lab: %v", err)
	}
}

func (l *Lab) close() {
	l.mu.Lock()
	ns, procs := l.ns, l.procs
	l.ns, l.procs = nil, nil
	l.mu.Unlock()
	for _, p := range procs {
		stop(p)
	}
	for _, n := range ns {
		if err := n.close(); err != nil {
			l.t.Errorf("lab: %v", err)
		}
	}
	ents, _ := os.ReadDir(l.NetnsDir())
	for _, e := range ents {
		if !l.t.Failed() { // after a failure the test may not have got to its own removal
			l.t.Errorf("lab: namespace %s was left behind", e.Name())
		}
	}
	removeDir(l.NetnsDir())
}

// removeDir unmounts and removes the namespaces in dir, and dir.
func removeDir(dir string) {
	ents, _ := os.ReadDir(dir)
	for _, e := range ents {
		p := filepath.Join(dir, e.Name())
		_ = unix.Unmount(p, unix.MNT_DETACH)
		_ = os.Remove(p)
	}
	_ = os.Remove(dir)
}

// sweep removes what killed test processes left: prefixes whose process is gone.
func sweep() {
	for _, dir := range []string{netnsDir, labDir} {
		ents, _ := os.ReadDir(dir)
		for _, e := range ents {
			rest, ok := strings.CutPrefix(e.Name(), "lab")
			if !ok {
				continue
			}
			digits, _, ok := strings.Cut(rest, "-")
			pid, err := strconv.Atoi(digits)
			if !ok || err != nil || unix.Kill(pid, 0) == nil {
				continue
			}
			p := filepath.Join(dir, e.Name())
			if dir == labDir {
				removeDir(p)
				continue
			}
			_ = unix.Unmount(p, unix.MNT_DETACH)
			_ = os.Remove(p)
		}
	}
}

// Start runs a program in a namespace until the lab ends or stop is called;
// its output goes to the test's log when the test has failed.
func (n *NS) Start(name string, args ...string) (cmd *exec.Cmd, stopNow func()) {
	n.l.t.Helper()
	cmd, stopNow, _ = n.startHeard(name, args...)
	return cmd, stopNow
}

// startHeard is Start; what the program has printed so far can be read.
func (n *NS) startHeard(name string, args ...string) (cmd *exec.Cmd, stopNow func(), out *lockedBuffer) {
	n.l.t.Helper()
	out = new(lockedBuffer)
	cmd = n.Command(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// The parent-death signal is about the thread that started the child, so
	// the child is started and waited for on a thread kept for it.
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		err := n.start(cmd)
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	n.l.must(<-started)
	var once sync.Once
	stopNow = func() {
		once.Do(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(2 * time.Second):
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				<-ended
			}
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // children of it that stayed
		})
	}
	n.l.t.Cleanup(func() {
		stopNow()
		if n.l.t.Failed() {
			n.l.t.Logf("%s %s: %s\n%s", name, strings.Join(args, " "), cmd.ProcessState, out.String())
		}
	})
	return cmd, stopNow, out
}

func stop(p *exec.Cmd) {
	if p.Process != nil {
		_ = p.Process.Kill()
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() < 1<<20 {
		b.b.Write(p)
	}
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Eventually polls cond every 10 ms until it is true, and fails the test with
// what was waited for when it is not within d, or [Patience] of it.
func Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	d = Patience(d)
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("lab: not within %v: %s", d, what)
		}
	}
}

var errGone = errors.New("namespace is gone")
