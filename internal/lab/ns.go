package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// NS is a network namespace of a lab.
type NS struct {
	Short string // as given to [Lab.NS]
	Name  string // as in `ip netns exec`
	Path  string

	l      *Lab
	mu     sync.Mutex
	inject map[string]int // device -> packet socket
	caps   []*Capture
	gone   bool
}

// Do runs f on a thread that is in the namespace. f must not start goroutines
// that are expected to be in it too.
func (n *NS) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		errc <- func() error {
			if err := n.enter(); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-errc
}

func (n *NS) enter() error {
	fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", n.Name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespace %s: %w", n.Name, err)
	}
	return nil
}

// start starts cmd in the namespace, on the calling goroutine's thread, which it keeps.
func (n *NS) start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	if err := n.enter(); err != nil {
		return err
	}
	return cmd.Start()
}

// Command returns a command that has not been started; run it with [NS.Exec],
// [NS.Start], or from inside [NS.Do].
func (n *NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// Exec runs a program in the namespace and returns its standard output; the
// error has what it wrote to standard error.
func (n *NS) Exec(ctx context.Context, name string, args ...string) (string, error) {
	cmd := n.Command(ctx, name, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := n.Do(func() error { return cmd.Run() })
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// IP runs `ip args...` in the namespace and fails the test when it fails.
func (n *NS) IP(args ...string) string {
	n.l.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", n.Name}, args...)...).CombinedOutput()
	if err != nil {
		n.l.t.Fatalf("lab: ip -n %s %s: %v: %s", n.Name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out)
}

// Up sets a device up.
func (n *NS) Up(dev string) { n.l.t.Helper(); n.IP("link", "set", "dev", dev, "up") }

// Addr adds an address, "10.0.0.5/24", without duplicate address detection.
func (n *NS) Addr(dev, prefix string) {
	n.l.t.Helper()
	args := []string{"addr", "add", prefix, "dev", dev}
	if netip.MustParsePrefix(prefix).Addr().Is6() {
		args = append(args, "nodad")
	}
	n.IP(args...)
}

// Route adds a route by a gateway; dst may be "default".
func (n *NS) Route(dst, via string) {
	n.l.t.Helper()
	args := []string{"route", "add", dst, "via", via}
	if netip.MustParseAddr(via).Is6() {
		args = append([]string{"-6"}, args...)
	}
	n.IP(args...)
}

// Configure brings a VM's device up with addresses and, when gateway is not
// empty, default routes by those addresses.
func (n *NS) Configure(dev string, prefixes []string, gateways ...string) {
	n.l.t.Helper()
	n.Up(dev)
	for _, p := range prefixes {
		n.Addr(dev, p)
	}
	for _, g := range gateways {
		n.Route("default", g)
	}
}

// MAC returns the address of a device.
func (n *NS) MAC(dev string) vnet.MAC {
	n.l.t.Helper()
	f := strings.Fields(n.IP("-br", "link", "show", "dev", dev))
	if len(f) < 3 {
		n.l.t.Fatalf("lab: no MAC of %s in %s", dev, n.Name)
	}
	m, err := vnet.ParseMAC(f[2])
	n.l.must(err)
	return m
}

// SetMAC changes the address of a device.
func (n *NS) SetMAC(dev string, m vnet.MAC) {
	n.l.t.Helper()
	n.IP("link", "set", "dev", dev, "address", m.String())
}

// Sysctl sets a key, with slashes: "net/ipv4/ip_forward".
func (n *NS) Sysctl(key, value string) {
	n.l.t.Helper()
	n.l.must(n.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }))
}

// Ping sends echo requests, 200 ms apart, and returns nil when count of them
// came back within two seconds, and half a second more each.
func (n *NS) Ping(dst string, count int) error {
	limit := Patience(2*time.Second + time.Duration(count)*time.Second/2)
	_, err := n.Exec(context.Background(), "ping", "-n", "-q", "-i", "0.2", "-w", fmt.Sprint(int(limit.Seconds())), "-c", fmt.Sprint(count), dst)
	return err
}

func (n *NS) close() error {
	n.mu.Lock()
	n.gone = true
	caps := n.caps
	n.caps = nil
	for _, fd := range n.inject {
		unix.Close(fd)
	}
	n.inject = nil
	n.mu.Unlock()
	for _, c := range caps {
		c.Close()
	}
	return run("ip", "netns", "del", n.Name)
}
