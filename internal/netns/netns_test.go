package netns_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/netns"
)

func inode(t testing.TB) uint64 {
	t.Helper()
	var s unix.Stat_t
	require.NoError(t, unix.Stat("/proc/thread-self/ns/net", &s))
	return s.Ino
}

func TestDoComesBack(t *testing.T) {
	l := lab.New(t)
	n, err := netns.Open(l.NS("a").Path)
	require.NoError(t, err)
	defer n.Close()
	id, err := n.ID()
	require.NoError(t, err)
	boom := errors.New("boom")
	require.ErrorIs(t, n.Do(func() error {
		require.Equal(t, id.Ino, inode(t))
		return boom
	}), boom)
	require.PanicsWithValue(t, "oh", func() { _ = n.Do(func() error { panic("oh") }) })
	done := make(chan bool)
	go func() {
		defer close(done)
		_ = n.Do(func() error { runtime.Goexit(); return nil })
		done <- true
	}()
	require.False(t, <-done, "Goexit goes on in the caller")

	// No thread of the pool is left in the namespace.
	var wg sync.WaitGroup
	home := inode(t)
	bad := make(chan uint64, 2000)
	for i := range 2000 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if i%2 == 0 {
				_ = n.Do(func() error { return nil })
			}
			runtime.Gosched()
			var s unix.Stat_t
			if unix.Stat("/proc/thread-self/ns/net", &s) == nil && s.Ino != home {
				bad <- s.Ino
			}
		}()
	}
	wg.Wait()
	require.Empty(t, bad)
	require.NoError(t, n.Close())
	require.ErrorIs(t, n.Do(func() error { return nil }), os.ErrClosed)
}

func TestNamed(t *testing.T) {
	l := lab.New(t)
	path := filepath.Join(l.NetnsDir(), "x")
	_, err := netns.Open(path)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	// A file left by a crash before the namespace was mounted on it.
	require.NoError(t, os.WriteFile(path, nil, 0o444))
	_, err = netns.Open(path)
	require.ErrorIs(t, err, vnet.ErrNotFound)
	n, err := netns.Create(path)
	require.NoError(t, err)
	defer n.Close()
	require.Equal(t, path, n.Path())
	_, err = netns.Create(path)
	require.ErrorIs(t, err, fs.ErrExist)
	require.NoError(t, n.Do(func() error {
		require.NotEqual(t, uint64(0), inode(t))
		return nil
	}))
	require.NoError(t, netns.Remove(path), "even while it is open")
	require.NoError(t, netns.Remove(path), "gone is no error")
	_, err = os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(path, nil, 0o444))
	require.NoError(t, netns.Remove(path), "a leftover file")
}

func TestCurrentNeedsNoPrivilege(t *testing.T) {
	n, err := netns.Current()
	require.NoError(t, err)
	defer n.Close()
	home := inode(t)
	require.NoError(t, n.Do(func() error {
		require.Equal(t, home, inode(t))
		return nil
	}))
}
