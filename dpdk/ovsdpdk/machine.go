package ovsdpdk

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
)

// machine is the host as sysfs shows it (Documentation/admin-guide/mm/hugetlbpage.rst
// and Documentation/ABI/stable/sysfs-devices-node of the kernel).
type machine struct{ root string }

func (m machine) read(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(m.root, path))
	return strings.TrimSpace(string(b)), err
}

func (m machine) nodeDir(node int) string { return fmt.Sprintf("sys/devices/system/node/node%d", node) }

func (m machine) pageFile(node, sizeKB int, file string) string {
	return fmt.Sprintf("%s/hugepages/hugepages-%dkB/%s", m.nodeDir(node), sizeKB, file)
}

func (m machine) pages(node, sizeKB int) (int, error) {
	s, err := m.read(m.pageFile(node, sizeKB, "nr_hugepages"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(s)
}

func (m machine) isDir(path string, rooted bool) bool {
	if rooted {
		path = filepath.Join(m.root, path)
	}
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// parseList reads a list of processors, as "0-3,8".
func parseList(s string) (out []int) {
	for part := range strings.SplitSeq(s, ",") {
		a, z, span := strings.Cut(part, "-")
		lo, err := strconv.Atoi(a)
		if err != nil {
			continue
		}
		hi := lo
		if span {
			if hi, err = strconv.Atoi(z); err != nil {
				continue
			}
		}
		for ; lo <= hi; lo++ {
			out = append(out, lo)
		}
	}
	return out
}

func (m machine) check(c dpdk.Config) error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &vnet.FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
	}
	online, err := m.read("sys/devices/system/cpu/online")
	if err != nil {
		return fmt.Errorf("processors: %w", err)
	}
	cores := parseList(online)
	for field, all := range map[string][]int{"pmd_cores": c.PMDCores, "lcores": c.LCores} {
		for i, n := range all {
			if !slices.Contains(cores, n) {
				bad(fmt.Sprintf("%s[%d]", field, i), n, "is no processor that is online ("+online+")")
			}
		}
	}
	for i, h := range c.Hugepages {
		if !m.isDir(m.nodeDir(h.Node), true) {
			bad(fmt.Sprintf("hugepages[%d].node", i), h.Node, "is no NUMA node of this machine")
		} else if _, err := m.pages(h.Node, h.SizeKB); err != nil {
			bad(fmt.Sprintf("hugepages[%d].size_kb", i), h.SizeKB, "is no size of huge pages of this machine")
		}
	}
	for field, all := range map[string][]int{"socket_memory": c.SocketMemory, "socket_limit": c.SocketLimit} {
		for node, mb := range all {
			if mb > 0 && !m.isDir(m.nodeDir(node), true) {
				bad(fmt.Sprintf("%s[%d]", field, node), mb, "is for a NUMA node that is not there")
			}
		}
	}
	if !slices.Contains(c.ExtraArgs, "--no-huge") {
		for node, mb := range c.SocketMemory {
			if have := m.memory(c, node); mb > have && m.isDir(m.nodeDir(node), true) {
				bad(fmt.Sprintf("socket_memory[%d]", node), mb, fmt.Sprintf("is more than the %d MB of huge pages of that node", have))
			}
		}
	}
	if c.HugepageDir != "" && !m.isDir(c.HugepageDir, false) {
		bad("hugepage_dir", c.HugepageDir, "is no folder")
	}
	for i, d := range c.SocketDirs {
		if !m.isDir(filepath.Dir(d.Path), false) {
			bad(fmt.Sprintf("socket_dirs[%d].path", i), d.Path, "has no parent folder")
		}
	}
	return errors.Join(errs...)
}

// memory is how many MB of huge pages a node will have.
func (m machine) memory(c dpdk.Config, node int) int {
	kb := 0
	dirs, _ := filepath.Glob(filepath.Join(m.root, m.nodeDir(node), "hugepages", "hugepages-*kB"))
	for _, d := range dirs {
		var size int
		if n, _ := fmt.Sscanf(filepath.Base(d), "hugepages-%dkB", &size); n != 1 {
			continue
		}
		count, _ := m.pages(node, size)
		for _, h := range c.Hugepages {
			if h.Node == node && h.SizeKB == size {
				count = max(count, h.Count)
			}
		}
		kb += count * size
	}
	return kb >> 10
}

// reserve has the kernel make huge pages, and notes in before how many there
// were. undo puts back what this call changed.
func (m machine) reserve(c dpdk.Config, before map[string]int) (undo func() error, err error) {
	changed := map[string]int{}
	undo = func() error { return m.putBack(changed) }
	for _, h := range c.Hugepages {
		n, err := m.pages(h.Node, h.SizeKB)
		if err != nil {
			return undo, errors.Join(err, undo())
		}
		if n >= h.Count {
			continue
		}
		k := fmt.Sprintf("%d:%d", h.Node, h.SizeKB)
		changed[k] = n
		if err := m.set(h.Node, h.SizeKB, h.Count); err != nil {
			return undo, errors.Join(err, undo())
		}
		got, err := m.pages(h.Node, h.SizeKB)
		if err == nil && got < h.Count { // memory may be in pieces
			err = &HugepagesError{Node: h.Node, SizeKB: h.SizeKB, Asked: h.Count, Got: got}
		}
		if err != nil {
			return undo, errors.Join(err, undo())
		}
	}
	for k, n := range changed {
		if _, known := before[k]; !known {
			before[k] = n
		}
	}
	return undo, nil
}

// HugepagesError: the kernel has given fewer huge pages than were asked for;
// they have been put back. It is a [vnet.ErrNotReady].
type HugepagesError struct{ Node, SizeKB, Asked, Got int }

func (e *HugepagesError) Error() string {
	return fmt.Sprintf("node %d has memory for %d huge pages of %d kB, and %d were asked for", e.Node, e.Got, e.SizeKB, e.Asked)
}

// Is makes errors.Is(err, vnet.ErrNotReady) true.
func (e *HugepagesError) Is(target error) bool { return target == vnet.ErrNotReady }

func (m machine) set(node, sizeKB, n int) error {
	return os.WriteFile(filepath.Join(m.root, m.pageFile(node, sizeKB, "nr_hugepages")), []byte(strconv.Itoa(n)), 0o644)
}

func (m machine) putBack(before map[string]int) error {
	var errs []error
	for k, n := range before {
		var node, size int
		if c, _ := fmt.Sscanf(k, "%d:%d", &node, &size); c == 2 {
			errs = append(errs, m.set(node, size, n))
		}
	}
	return errors.Join(errs...)
}

// differs says what of a folder is not as it should be.
func differs(d dpdk.SocketDir) string {
	st, err := os.Lstat(d.Path)
	if err != nil {
		return "absent"
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return "no folder"
	case ok && (int(s.Uid) != d.UID || int(s.Gid) != d.GID):
		return fmt.Sprintf("owner %d:%d", s.Uid, s.Gid)
	case ok && s.Mode&0o7777 != d.Mode:
		return fmt.Sprintf("mode %#o", s.Mode&0o7777)
	}
	return ""
}

func (m machine) dirDiff(c dpdk.Config) (out []string) {
	for _, d := range c.SocketDirs {
		if x := differs(d); x != "" {
			out = append(out, fmt.Sprintf("folder %s: %s -> owner %d:%d mode %#o", d.Path, x, d.UID, d.GID, d.Mode))
		}
	}
	return out
}

func (m machine) makeDirs(c dpdk.Config) error {
	for _, d := range c.SocketDirs {
		if differs(d) == "" {
			continue
		}
		if err := os.Mkdir(d.Path, fs.FileMode(d.Mode&0o777)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if x := differs(d); x == "no folder" {
			return fmt.Errorf("%s is no folder: %w", d.Path, vnet.ErrConflict)
		}
		if err := errors.Join(os.Chown(d.Path, d.UID, d.GID), syscall.Chmod(d.Path, d.Mode)); err != nil {
			return err
		}
	}
	return nil
}

var pci = regexp.MustCompile(`^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]`)

func (m machine) checkPort(p dpdk.Port) error {
	if a := pci.FindString(p.Devargs); a != "" && !m.isDir("sys/bus/pci/devices/"+a, true) {
		return &vnet.FieldError{Field: "devargs", Value: p.Devargs, Reason: "is no PCI device of this machine"}
	}
	online, _ := m.read("sys/devices/system/cpu/online")
	for q, core := range p.RxqAffinity {
		if !slices.Contains(parseList(online), core) {
			return &vnet.FieldError{Field: "rxq_affinity", Value: fmt.Sprintf("%d:%d", q, core), Reason: "is no processor that is online (" + online + ")"}
		}
	}
	return nil
}

// PrepareSocket makes way for a VMM that is to listen at path: a socket that
// somebody has left there, and that nobody listens to, is removed. One that is
// in use is [vnet.ErrInUse]; what is no socket is [vnet.ErrConflict]. path must be
// in a folder of the configuration's, which only switch and VMMs write to.
func PrepareSocket(c dpdk.Config, path string) error {
	if !slices.ContainsFunc(c.SocketDirs, func(d dpdk.SocketDir) bool { return filepath.Clean(d.Path) == filepath.Dir(path) }) {
		return &vnet.FieldError{Field: "path", Value: path, Reason: "is in no folder of socket_dirs"}
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket: %w", path, vnet.ErrConflict)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("somebody listens on %s: %w", path, vnet.ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}
