package linuxsriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

// given is the record of a PCI function that a port has. It is written before
// the function is touched, and removed when it is as it was.
type given struct {
	Owner  vnet.Owner `json:"owner"`
	Port   sriov.Port `json:"port"` // as asked for
	Device string     `json:"device"`
	PF     string     `json:"pf"` // PCI address
	VF     int        `json:"vf"` // -1: the PF itself
	PCI    string     `json:"pci"`
	Was    struct {
		sriov.Settings
		Driver   string `json:"driver"`
		Override string `json:"override"`
		Up       bool   `json:"up"` // of a PF
	} `json:"was"`
}

// taken is the record of a PF that is a device of ours.
type taken struct {
	Owner  vnet.Owner   `json:"owner"`
	Device sriov.Device `json:"device"` // as asked for
	PCI    string       `json:"pci"`
	Was    struct {
		VFs  int        `json:"vfs"`
		Mode sriov.Mode `json:"mode"`
		Up   bool       `json:"up"`
	} `json:"was"`
}

// journal is the folder of the records of this host, of all owners.
type journal struct{ dir string }

const functionPrefix, devicePrefix = "function-", "device-"

// lock keeps other processes and goroutines out until the function returned is called.
func (j journal) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(j.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(5 * time.Millisecond):
			continue
		}
		break
	}
	f.Close()
	return nil, fmt.Errorf("lock of %s: %w", j.dir, err)
}

// load reads all records. One that cannot be read is an error: its function
// would be given again.
func (j journal) load() (devices []taken, functions []given, err error) {
	all, err := os.ReadDir(j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, e := range all {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(j.dir, e.Name()))
		if err != nil {
			return nil, nil, err
		}
		switch {
		case strings.HasPrefix(name, functionPrefix):
			var g given
			err = json.Unmarshal(b, &g)
			functions = append(functions, g)
		case strings.HasPrefix(name, devicePrefix):
			var t taken
			err = json.Unmarshal(b, &t)
			devices = append(devices, t)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("record %s: %w", filepath.Join(j.dir, e.Name()), err)
		}
	}
	return devices, functions, nil
}

// put writes a record whole, or not at all.
func (j journal) put(name string, record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	path := filepath.Join(j.dir, name+".json")
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (j journal) remove(name string) error {
	err := os.Remove(filepath.Join(j.dir, name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// host is what a call sees: the records, under the lock.
type host struct {
	devices   []taken
	functions []given
}

// device returns the record of one of the owner's devices.
func (h *host) device(owner vnet.Owner, id string) *taken {
	i := slices.IndexFunc(h.devices, func(t taken) bool { return t.Owner == owner && t.Device.ID == id })
	if i < 0 {
		return nil
	}
	return &h.devices[i]
}

// port returns the record of one of the owner's ports.
func (h *host) port(owner vnet.Owner, id string) *given {
	i := slices.IndexFunc(h.functions, func(g given) bool { return g.Owner == owner && g.Port.ID == id })
	if i < 0 {
		return nil
	}
	return &h.functions[i]
}

// holder returns the record of a PCI function.
func (h *host) holder(pci string) *given {
	i := slices.IndexFunc(h.functions, func(g given) bool { return g.PCI == pci })
	if i < 0 {
		return nil
	}
	return &h.functions[i]
}
