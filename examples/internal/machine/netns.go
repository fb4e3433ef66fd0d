package machine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/internal/netns"
)

// NetnsDir is where named network namespaces are, as ip-netns(8) has it.
const NetnsDir = "/run/netns"

// Do runs f on a thread that is in the network namespace at path. The thread
// ends with f. What f starts as a process is in the namespace too, what it
// starts as a goroutine is not.
func Do(path string, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errc <- fmt.Errorf("namespace %s: %w", path, err)
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			errc <- fmt.Errorf("namespace %s: %w", path, err)
			return
		}
		errc <- f()
	}()
	return <-errc
}

// exists reports whether path is a live namespace, and not the empty file
// that a killed program left before it was mounted.
func exists(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// ensureNS makes a namespace, with its loopback device up.
func ensureNS(path string) error {
	if exists(path) {
		return nil
	}
	n, err := netns.Create(path)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// deleteNS removes a namespace and, at once, the links in it: the kernel would
// take them away some time later, and their other ends stand in namespaces that may stay.
func deleteNS(path string) error {
	if exists(path) {
		err := Do(path, func() error {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			for _, l := range links {
				if l.Type() == "veth" || l.Type() == "bridge" || l.Type() == "vxlan" {
					netlink.LinkDel(l) // a pair goes with its first end
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return netns.Remove(path)
}

// listNS lists the names of namespaces that begin with prefix, dead ones included.
func listNS(prefix string) ([]string, error) {
	entries, err := os.ReadDir(NetnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, e.Name())
		}
	}
	return out, err
}
