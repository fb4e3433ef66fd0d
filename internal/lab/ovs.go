package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/internal/rtnl"
)

// runDir holds one folder a Lab for databases, control sockets and logs. It is
// short because the path of a unix socket has at most 107 characters
// (unix(7)), and in memory on most machines because ovsdb-server syncs its
// file at every transaction.
const runDir = "/run/vnet-ovn"

// Dir makes a folder of that name that is removed when the lab ends. Its path
// is short enough for unix sockets in it.
func (l *Lab) Dir(name string) string {
	l.t.Helper()
	root := filepath.Join(runDir, strings.TrimSuffix(l.prefix, "-"))
	if _, err := os.Stat(root); err != nil {
		sweepRunDir()
		l.must(os.MkdirAll(root, 0o755))
		l.t.Cleanup(func() { _ = os.RemoveAll(root) })
	}
	d := filepath.Join(root, name)
	l.must(os.MkdirAll(d, 0o755))
	return d
}

// sweepRunDir removes the folders of test processes that were killed.
func sweepRunDir() {
	ents, _ := os.ReadDir(runDir)
	for _, e := range ents {
		digits, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "lab"), "-")
		if pid, err := strconv.Atoi(digits); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.RemoveAll(filepath.Join(runDir, e.Name()))
		}
	}
}

// Daemon is a program of a lab that can be stopped, killed and started again.
// It is ended with the lab; a daemon that ended by itself fails the test. Its
// methods are not for concurrent use.
type Daemon struct {
	Name string // "hv1/ovn-controller"
	Ctl  string // control socket for ovs-appctl -t and ovn-appctl -t
	Log  string // file

	ns      *NS
	args    []string
	env     []string
	ready   func() error // waits until a start is complete
	cmd     *exec.Cmd
	ended   chan struct{}
	wanted  bool // it is supposed to run
	stopped bool // by SIGSTOP
}

// daemon describes a program of the Open vSwitch family, which logs to
// dir/name.log and has its control socket at dir/name.ctl. It does not start it.
func (l *Lab) daemon(ns *NS, dir, name, program string, args ...string) *Daemon {
	d := &Daemon{Name: ns.Short + "/" + name, Ctl: filepath.Join(dir, name+".ctl"), Log: filepath.Join(dir, name+".log"), ns: ns,
		env: append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVN_RUNDIR="+dir, "OVN_LOGDIR="+dir, "OVN_DBDIR="+dir)}
	d.args = append([]string{program, "--log-file=" + d.Log, "-vconsole:off", "-vsyslog:off", "-vfile:info"}, args...)
	if program == "ovn-controller" { // its socket has the process id in its name
		d.Ctl = ""
	} else {
		d.args = append(d.args, "--unixctl="+d.Ctl)
	}
	l.t.Cleanup(func() {
		if d.wanted && !d.Running() {
			l.t.Errorf("lab: %s ended by itself: %v", d.Name, d.cmd.ProcessState)
		}
		d.end(syscall.SIGKILL)
		if l.t.Failed() {
			l.t.Logf("log of %s:\n%s", d.Name, tail(d.Log, 4<<10))
		}
	})
	return d
}

// Start starts the daemon and returns when it serves.
func (d *Daemon) Start() {
	t := d.ns.l.t
	t.Helper()
	d.launch()
	if d.ready != nil {
		if err := d.ready(); err != nil {
			t.Fatalf("lab: %s: %v\n%s", d.Name, err, tail(d.Log, 2<<10))
		}
	}
}

func (d *Daemon) launch() {
	d.ns.l.t.Helper()
	if d.Running() {
		d.ns.l.t.Fatalf("lab: %s runs already", d.Name)
	}
	if d.args[0] == "ovs-vswitchd" || d.args[0] == dpdkSwitch {
		awaitUptime()
	}
	cmd := exec.Command(d.args[0], d.args[1:]...)
	cmd.Env = d.env
	cmd.Dir = filepath.Dir(d.Log)
	errs, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	d.ns.l.must(err)
	cmd.Stdout, cmd.Stderr = errs, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() { // keeps its thread, to which the parent-death signal belongs
		err := d.ns.start(cmd)
		errs.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	d.ns.l.must(<-started)
	if d.args[0] == "ovn-controller" {
		d.Ctl = filepath.Join(cmd.Dir, fmt.Sprintf("ovn-controller.%d.ctl", cmd.Process.Pid))
	}
	d.cmd, d.ended, d.wanted, d.stopped = cmd, ended, true, false
}

// awaitUptime waits until the machine has been up for ten seconds, which a
// guest may not have been. An ovs-vswitchd of Open vSwitch before 3.2 that is
// started earlier counts no processors (openvswitch commit b354cee2e0a7), sets
// up no socket for what the kernel's datapath asks it, and never mends that: no
// packet passes.
func awaitUptime() {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &up) == nil {
		time.Sleep(10*time.Second + 100*time.Millisecond - time.Duration(up.Nano()))
	}
}

// Running reports whether the process exists; a paused one does.
func (d *Daemon) Running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Pid returns the process id, or 0.
func (d *Daemon) Pid() int {
	if !d.Running() {
		return 0
	}
	return d.cmd.Process.Pid
}

// Stop ends the daemon with SIGTERM and waits.
func (d *Daemon) Stop() { d.end(syscall.SIGTERM) }

// Kill ends the daemon with SIGKILL and waits.
func (d *Daemon) Kill() { d.end(syscall.SIGKILL) }

// Restart is Stop and Start.
func (d *Daemon) Restart() { d.ns.l.t.Helper(); d.Stop(); d.Start() }

// Pause stops the process with SIGSTOP: its sockets stay open, connections are
// still accepted by the kernel, and nothing is answered.
func (d *Daemon) Pause() {
	d.ns.l.t.Helper()
	d.ns.l.must(syscall.Kill(d.cmd.Process.Pid, syscall.SIGSTOP))
	d.stopped = true
}

// Resume lets a paused process go on.
func (d *Daemon) Resume() {
	d.ns.l.t.Helper()
	d.ns.l.must(syscall.Kill(d.cmd.Process.Pid, syscall.SIGCONT))
	d.stopped = false
}

// Appctl sends a command to the daemon's control socket and returns the answer.
func (d *Daemon) Appctl(args ...string) (string, error) {
	return d.ns.l.tool("ovs-appctl", append([]string{fmt.Sprintf("--timeout=%d", int(Patience(10*time.Second).Seconds())), "-t", d.Ctl}, args...)...)
}

func (d *Daemon) end(sig syscall.Signal) {
	d.wanted = false
	if !d.Running() {
		return
	}
	_ = syscall.Kill(d.cmd.Process.Pid, sig)
	if d.stopped {
		_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGCONT)
	}
	select {
	case <-d.ended:
	case <-time.After(Patience(10 * time.Second)):
		_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGKILL)
		<-d.ended
	}
	_ = os.Remove(d.Ctl) // a killed one leaves it
}

// tool runs a program outside of any namespace: what talks to unix sockets only.
func (l *Lab) tool(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience(time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// tail returns the end of a file, from the start of a line.
func tail(path string, size int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) <= size {
		return string(b)
	}
	s := string(b[len(b)-size:])
	if _, after, ok := strings.Cut(s, "\n"); ok {
		s = after
	}
	return "...\n" + s
}

// waitSocket returns when something listens on a unix socket.
func waitSocket(path string, d *Daemon, limit time.Duration) error {
	limit = Patience(limit)
	for end := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		unix.Close(fd)
		switch {
		case err == nil:
			return nil
		case !d.Running():
			return errors.New("ended while it was starting")
		case time.Now().After(end):
			return fmt.Errorf("not listening on %s after %v: %w", path, limit, err)
		}
	}
}

// NoOffload is [rtnl.NoChecksumOffload] of a device that sends into a user
// space switch (Open vSwitch with datapath_type=netdev, DPDK).
func (n *NS) NoOffload(dev string) {
	n.l.t.Helper()
	n.l.must(n.Do(func() error { return rtnl.NoChecksumOffload(dev) }))
}
