package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The environment of every process of a cloud says whose it is and what it
// does, from its first instruction on: so it is found whatever was killed,
// and whether or not anything was written down.
const (
	dirVar  = "VNET_CLOUD_DIR"
	roleVar = "VNET_CLOUD_ROLE"
)

// Process is a process of a cloud.
type Process struct {
	PID  int
	Role string // "agent" or "vm NAME"
}

// Processes lists the processes with the role, or with any when it is empty.
func (m *Machine) Processes(role string) []Process {
	return m.processes(func(p Process) bool { return p.Role != "" && (role == "" || p.Role == role) })
}

// processes lists those that match. A process without our environment has an
// empty role.
func (m *Machine) processes(match func(Process) bool) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p := (Process{pid, m.role(pid)}); match(p) {
			out = append(out, p)
		}
	}
	return out
}

// role reads a process's role out of its environment.
func (m *Machine) role(pid int) string {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil || len(env) == 0 {
		return ""
	}
	vars := bytes.Split(env, []byte{0})
	if !slices.ContainsFunc(vars, func(v []byte) bool { return string(v) == dirVar+"="+m.Dir }) {
		return ""
	}
	for _, v := range vars {
		if r, ok := strings.CutPrefix(string(v), roleVar+"="); ok {
			return r
		}
	}
	return ""
}

// Kill ends the processes with the role, or all when it is empty, and waits
// until they are gone. With a machine goes whatever runs in its namespace:
// some DHCP clients forget their environment.
func (m *Machine) Kill(role string) error {
	inside := map[uint64]bool{} // inodes of namespaces
	var paths []string
	if vm, ok := strings.CutPrefix(role, "vm "); ok {
		paths = append(paths, m.VMNS(vm))
	} else if role == "" {
		names, err := listNS(m.prefix() + "vm.")
		if err != nil {
			return err
		}
		for _, n := range names {
			paths = append(paths, filepath.Join(NetnsDir, n))
		}
	}
	for _, p := range paths {
		var st unix.Stat_t
		if exists(p) && unix.Stat(p, &st) == nil {
			inside[st.Ino] = true
		}
	}
	match := func(p Process) bool {
		if p.Role != "" && (role == "" || p.Role == role) {
			return true
		}
		var st unix.Stat_t
		return len(inside) > 0 && unix.Stat(filepath.Join("/proc", strconv.Itoa(p.PID), "ns/net"), &st) == nil && inside[st.Ino]
	}
	var errs []error
	// A process may have started another meanwhile: look until there is none.
	for range 10 {
		procs := m.processes(match)
		if len(procs) == 0 {
			return errors.Join(errs...)
		}
		for _, p := range procs {
			errs = append(errs, m.kill(p.PID, match))
		}
	}
	return errors.Join(append(errs, errors.New("processes do not end"))...)
}

func (m *Machine) kill(pid int, match func(Process) bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The number may be another's since it was listed; the descriptor is not.
	if !match(Process{pid, m.role(pid)}) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("process %d does not end: %v", pid, err)
		}
		return nil
	}
}

// env is the environment of a process with the role.
func (m *Machine) env(role string) []string {
	return append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "VNET_CLOUD_") }),
		dirVar+"="+m.Dir, roleVar+"="+role)
}

// Start starts this program again in the background, with args, in the
// network namespace at netns when that is not empty. A process in a namespace
// gets mount and UTS namespaces of its own, too. Its output goes to log.
func (m *Machine) Start(role, netns, log string, args ...string) (int, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	// The link leads to this program even when a new one was built over it.
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "cloud"
	cmd.Dir = "/"
	cmd.Env = m.env(role)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if netns != "" {
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS
		start = func() error { return Do(netns, cmd.Start) }
	}
	if err := start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", role, err)
	}
	go cmd.Wait() // or it stays as a zombie while we run
	return cmd.Process.Pid, nil
}
