package linuxsriov

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// kernel is all that this package asks of the kernel. Paths are below /sys.
// Tests of cards that cannot be had put a recorded conversation in its place.
type kernel interface {
	read(path string) (string, error)   // without the newline
	target(path string) (string, error) // last element of what a link points to
	list(path string) ([]string, error)
	write(path, text string) error
	link(name string) (rtnl.Link, error)
	setUp(name string, up bool) error
	vfs(pf string) ([]rtnl.VF, error)
	setMAC(pf string, vf int, m vnet.MAC) error
	setVLAN(pf string, vf, vlan, qos int, proto uint16) error
	setSpoofCheck(pf string, vf int, on bool) error
	setTrust(pf string, vf int, on bool) error
	setLinkState(pf string, vf int, state uint32) error
	setRate(pf string, vf, minRate, maxRate int) error
	eswitch(ctx context.Context, pci string) (string, error)
	setEswitch(ctx context.Context, pci, mode string) error
	setFeature(dev, feature string, on bool) error // ethtool's
	addMacvtap(name, parent, alias string, m vnet.MAC) error
	delLink(name string) error
	// held reports whether a process has the character device of a group open.
	held(group int) (bool, error)
}

// live is the kernel that runs.
type live struct {
	sys string
	c   *rtnl.Conn
}

func (k live) read(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(k.sys, path))
	return strings.TrimSpace(string(b)), err
}

func (k live) target(path string) (string, error) {
	s, err := os.Readlink(filepath.Join(k.sys, path))
	if err != nil {
		return "", err
	}
	return filepath.Base(s), nil
}

func (k live) list(path string) ([]string, error) {
	all, err := os.ReadDir(filepath.Join(k.sys, path))
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out, err
}

func (k live) write(path, text string) error {
	f, err := os.OpenFile(filepath.Join(k.sys, path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (k live) link(name string) (rtnl.Link, error) { return k.c.Link(name) }
func (k live) setUp(name string, up bool) error {
	if up {
		return k.c.SetUp(name)
	}
	return k.c.SetDown(name)
}
func (k live) vfs(pf string) ([]rtnl.VF, error)               { return k.c.VFs(pf) }
func (k live) setMAC(pf string, vf int, m vnet.MAC) error     { return k.c.SetVFMAC(pf, vf, m) }
func (k live) setTrust(pf string, vf int, on bool) error      { return k.c.SetVFTrust(pf, vf, on) }
func (k live) setLinkState(pf string, vf int, s uint32) error { return k.c.SetVFLinkState(pf, vf, s) }
func (k live) setRate(pf string, vf, a, b int) error          { return k.c.SetVFRate(pf, vf, a, b) }
func (k live) setSpoofCheck(pf string, vf int, on bool) error {
	return k.c.SetVFSpoofCheck(pf, vf, on)
}
func (k live) setVLAN(pf string, vf, vlan, qos int, proto uint16) error {
	return k.c.SetVFVLAN(pf, vf, vlan, qos, proto)
}
func (k live) eswitch(ctx context.Context, pci string) (string, error) { return k.c.Eswitch(ctx, pci) }
func (k live) setEswitch(ctx context.Context, pci, mode string) error {
	return k.c.SetEswitch(ctx, pci, mode)
}
func (k live) setFeature(dev, feature string, on bool) error { return k.c.SetFeature(dev, feature, on) }
func (k live) delLink(name string) error                     { return k.c.DelLink(name) }

func (k live) addMacvtap(name, parent, alias string, m vnet.MAC) error {
	if err := k.c.AddMacvtap(name, parent, m); err != nil {
		return err
	}
	err := k.c.SetAlias(name, alias)
	if err == nil {
		err = k.c.SetUp(name)
	}
	if err != nil {
		return errors.Join(err, k.c.DelLink(name))
	}
	return nil
}

// held opens the group: the kernel lets one process have it (EBUSY to others).
func (k live) held(group int) (bool, error) {
	fd, err := unix.Open(vfioPath(group), unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "open", Path: vfioPath(group), Err: err}
	}
	return false, unix.Close(fd)
}
