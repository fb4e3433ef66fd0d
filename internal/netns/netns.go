package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// NS is an open network namespace. Its methods may be called from several
// goroutines.
type NS struct {
	path string

	mu sync.RWMutex
	fd int // -1 after Close
}

// ID tells namespaces apart as long as one of the two is open.
type ID struct{ Dev, Ino uint64 }

// Current opens the namespace that the calling goroutine's thread is in.
func Current() (*NS, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return Open("/proc/thread-self/ns/net")
}

// Open opens the namespace at path. What is not there is [vnet.ErrNotFound];
// a file that is no namespace (left by a crash between making the file and
// mounting) is too.
func Open(path string) (*NS, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("namespace %s: %w", path, vnet.ErrNotFound)
		}
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	if !isNamespace(fd) {
		unix.Close(fd)
		return nil, fmt.Errorf("namespace %s: nothing mounted there: %w", path, vnet.ErrNotFound)
	}
	return &NS{path: path, fd: fd}, nil
}

func isNamespace(fd int) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(fd, &s) == nil && (s.Type == unix.NSFS_MAGIC || s.Type == unix.PROC_SUPER_MAGIC)
}

// New makes a namespace without a name; it is gone after Close.
func New() (*NS, error) {
	n := &NS{fd: -1}
	err := onNewThread(func() error {
		h, err := netns.New()
		if err != nil {
			return fmt.Errorf("new namespace: %w", err)
		}
		n.fd = int(h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Create makes a namespace with its name at path, and the folder when it is
// missing. What stands there already is [fs.ErrExist]; a leftover file without
// a namespace is used.
func Create(path string) (*NS, error) {
	if n, err := Open(path); err == nil {
		n.Close()
		return nil, fmt.Errorf("namespace %s: %w", path, fs.ErrExist)
	} else if !errors.Is(err, vnet.ErrNotFound) {
		return nil, err
	}
	if err := shareDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	f.Close()
	n, err := New()
	if err == nil {
		defer n.Close()
		err = unix.Mount("/proc/self/fd/"+strconv.Itoa(n.fd), path, "none", unix.MS_BIND, "")
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	return Open(path)
}

// commonDir is where `ip netns` keeps its namespaces.
const commonDir = "/run/netns"

// shareDir makes dir. The common folder becomes a mount point with shared
// propagation, as `ip netns` makes it, so that namespaces made and removed
// here are seen so in other mount namespaces; otherwise one of those would
// keep a removed namespace alive. Any other folder is the application's to
// arrange so.
func shareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("namespace folder: %w", err)
	}
	if dir != commonDir {
		return nil
	}
	err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("namespace folder %s: share: %w", dir, err)
	}
	return nil
}

// Remove takes away the name at path. What is gone is no error. The namespace
// itself ends, with all its devices, when nothing else holds it; a process in
// it keeps it alive without a name.
func Remove(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // it may have been mounted more than once
		case errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EINVAL):
			return fmt.Errorf("namespace %s: unmount: %w", path, err)
		}
		// EINVAL: nothing is mounted there any more.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("namespace %s: %w", path, err)
		}
		return nil
	}
}

// Path is where the namespace was opened; empty for one without a name.
func (n *NS) Path() string { return n.path }

// Close lets go of the namespace.
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	fd := n.fd
	n.fd = -1
	return unix.Close(fd)
}

// ID identifies the namespace.
func (n *NS) ID() (ID, error) {
	var s unix.Stat_t
	err := n.WithFd(func(fd int) error { return unix.Fstat(fd, &s) })
	return ID{Dev: s.Dev, Ino: s.Ino}, err
}

// WithFd calls f with the namespace's open file, which stays open until f
// returns: what rtnetlink takes to move a device there.
func (n *NS) WithFd(f func(fd int) error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return fmt.Errorf("namespace %s: %w", n.path, os.ErrClosed)
	}
	return f(n.fd)
}

// Do runs f on a thread that is in the namespace, and returns its error. f
// must not start goroutines that are expected to be in the namespace too. A
// panic or runtime.Goexit in f goes on in the caller.
func (n *NS) Do(f func() error) error {
	return n.WithFd(func(fd int) error {
		return onThread(func(now int) (bool, error) {
			if same(now, fd) { // needs no privilege
				return false, nil
			}
			return true, netns.Set(netns.NsHandle(fd))
		}, f)
	})
}

func same(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

func onNewThread(f func() error) error {
	return onThread(func(int) (bool, error) { return true, nil }, f)
}

// onThread runs enter and f on one locked thread, and brings the thread back
// to where it was or throws it away. enter is given the namespace that the
// thread is in, and says whether it, or f, may leave it.
func onThread(enter func(now int) (moved bool, err error), f func() error) error {
	var (
		err      error
		panicked any
		returned bool
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		back, berr := netns.Get()
		if berr != nil {
			runtime.UnlockOSThread() // still where it was
			err, returned = fmt.Errorf("this thread's namespace: %w", berr), true
			return
		}
		moved := true
		defer func() {
			if !moved || netns.Set(back) == nil {
				runtime.UnlockOSThread()
			}
			back.Close()
		}()
		defer func() {
			if !returned {
				panicked = recover()
			}
		}()
		if moved, err = enter(int(back)); err != nil {
			err = fmt.Errorf("enter namespace: %w", err)
		} else {
			err = f()
		}
		returned = true
	}()
	<-done
	if !returned {
		if panicked != nil {
			panic(panicked)
		}
		runtime.Goexit()
	}
	return err
}
