package linuxsriov

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/sriov"
)

const (
	devices = "bus/pci/devices/"
	vfioPCI = string(sriov.VFIO)
)

func vfioPath(group int) string { return "/dev/vfio/" + strconv.Itoa(group) }

// absent: there is no such file, or no such function any more.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func (b *Backend) number(path string, none int) int {
	s, err := b.k.read(path)
	if err != nil {
		return none
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return none
	}
	return n
}

// function reads what sysfs says of a PCI function; [vnet.ErrNotFound].
func (b *Backend) function(pci string) (sriov.Function, error) {
	f := sriov.Function{PCI: pci, IOMMUGroup: -1}
	dir := devices + pci
	vendor, err := b.k.read(dir + "/vendor")
	if absent(err) {
		return f, fmt.Errorf("PCI function %s: %w", pci, vnet.ErrNotFound)
	} else if err != nil {
		return f, err
	}
	product, _ := b.k.read(dir + "/device")
	f.Vendor, f.Product = strings.TrimPrefix(vendor, "0x"), strings.TrimPrefix(product, "0x")
	f.NUMANode = b.number(dir+"/numa_node", -1)
	f.Driver, _ = b.k.target(dir + "/driver")
	if g, err := b.k.target(dir + "/iommu_group"); err == nil {
		if n, err := strconv.Atoi(g); err == nil {
			f.IOMMUGroup = n
		}
	}
	f.Netdev = b.netdev(pci)
	return f, nil
}

// uplink is how drivers name the port of a card that goes out of it.
var uplink = regexp.MustCompile(`^p[0-9]+$`)

// netdev is the name of a function's device. In switchdev mode a PF's folder has
// the representors too, which are named after VFs.
func (b *Backend) netdev(pci string) string {
	names, _ := b.k.list(devices + pci + "/net")
	slices.Sort(names)
	for _, n := range names {
		port, err := b.k.read("class/net/" + n + "/phys_port_name")
		if err != nil || port == "" || uplink.MatchString(port) {
			return n
		}
	}
	return ""
}

// represents takes a representor's phys_port_name apart: "3", "vf3", "pf0vf3".
var represents = regexp.MustCompile(`^(?:pf([0-9]+))?(?:vf)?([0-9]+)$`)

// representors returns those of a PF's VFs, by index.
func (b *Backend) representors(pci, uplink string) map[int]string {
	out := map[int]string{}
	id, err := b.k.read("class/net/" + uplink + "/phys_switch_id")
	if uplink == "" || err != nil || id == "" {
		return out
	}
	names, _ := b.k.list("class/net")
	for _, n := range names {
		if n == uplink {
			continue
		}
		if other, err := b.k.read("class/net/" + n + "/phys_switch_id"); err != nil || other != id {
			continue
		}
		port, _ := b.k.read("class/net/" + n + "/phys_port_name")
		m := represents.FindStringSubmatch(port)
		// pfX is the PF's PCI function: two PFs of a card share one switch.
		if m == nil || m[1] != "" && !strings.HasSuffix(pci, "."+m[1]) {
			continue
		}
		if vf, err := strconv.Atoi(m[2]); err == nil {
			out[vf] = n
		}
	}
	return out
}

// mode is how a PF's switch works; cards without such a choice are legacy.
func (b *Backend) mode(ctx context.Context, pci string) (sriov.Mode, error) {
	m, err := b.k.eswitch(ctx, pci)
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return sriov.Legacy, nil
	case err != nil:
		return "", err
	}
	return sriov.Mode(m), nil
}

// vfAddress is the PCI address of a VF, or "".
func (b *Backend) vfAddress(pf string, vf int) string {
	s, err := b.k.target(devices + pf + "/virtfn" + strconv.Itoa(vf))
	if err != nil {
		return ""
	}
	return s
}

func (b *Backend) numVFs(pf string) int { return b.number(devices+pf+"/sriov_numvfs", 0) }

// settings returns what the driver of a PF holds, by VF, and which of it the
// driver does not tell. There is none while the PF has no device.
func (b *Backend) settings(netdev string) (map[int]sriov.Settings, map[int]unknown, error) {
	out, silent := map[int]sriov.Settings{}, map[int]unknown{}
	if netdev == "" {
		return out, silent, nil
	}
	all, err := b.k.vfs(netdev)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range all {
		s := sriov.Settings{MAC: f.MAC, SpoofCheck: f.SpoofCheck == 1, Trusted: f.Trust == 1,
			LinkState: sriov.Auto, MinMbps: f.MinRate, MaxMbps: f.MaxRate}
		if f.VLAN > 0 {
			s.VLAN = sriov.VLAN{ID: f.VLAN, Priority: f.QoS, Service: f.Proto == unix.ETH_P_8021AD}
		}
		switch f.LinkState {
		case 1:
			s.LinkState = sriov.Enable
		case 2:
			s.LinkState = sriov.Disable
		}
		out[f.Index], silent[f.Index] = s, unknown{spoof: f.SpoofCheck < 0, trust: f.Trust < 0}
	}
	return out, silent, nil
}

// unknown are settings that a driver does not tell.
type unknown struct{ spoof, trust bool }

// pf reads a PF whole.
func (b *Backend) pf(ctx context.Context, pci string) (sriov.PF, error) {
	f, err := b.function(pci)
	if err != nil {
		return sriov.PF{}, err
	}
	p := sriov.PF{Function: f, TotalVFs: b.number(devices+pci+"/sriov_totalvfs", 0), VFs: []sriov.VF{}}
	if p.Netdev != "" {
		l, err := b.k.link(p.Netdev)
		if err != nil {
			return p, err
		}
		p.MAC, p.Up, p.Carrier = l.MAC, l.Up, l.Running
	}
	if p.Mode, err = b.mode(ctx, pci); err != nil {
		return p, err
	}
	n := b.numVFs(pci)
	if n == 0 {
		return p, nil
	}
	set, _, err := b.settings(p.Netdev)
	if err != nil {
		return p, err
	}
	reps := map[int]string{}
	if p.Mode == sriov.Switchdev {
		reps = b.representors(pci, p.Netdev)
	}
	for i := range n {
		a := b.vfAddress(pci, i)
		if a == "" {
			return p, fmt.Errorf("VF %d of %s is not in sysfs yet: %w", i, pci, vnet.ErrNotReady)
		}
		f, err := b.function(a)
		if err != nil {
			return p, err
		}
		p.VFs = append(p.VFs, sriov.VF{Function: f, Index: i, Settings: set[i], Representor: reps[i]})
	}
	return p, nil
}

// bound waits for nothing: the kernel binds and unbinds while it is written to.
func (b *Backend) bind(pci, driver, override string) error {
	dir := devices + pci
	if now, _ := b.k.target(dir + "/driver"); now != "" {
		if err := b.unbind(pci); err != nil {
			return err
		}
	}
	if override == "" {
		override = "\n" // the kernel's word for none
	}
	if err := b.k.write(dir+"/driver_override", override); err != nil {
		return err
	}
	if driver == "" {
		return nil
	}
	if err := b.k.write("bus/pci/drivers_probe", pci); err != nil {
		return fmt.Errorf("bind %s to %s: %w", pci, driver, err)
	}
	if now, _ := b.k.target(dir + "/driver"); now == "" || driver != anyDriver && now != driver {
		return fmt.Errorf("bind %s to %s: the kernel has bound %q: %w", pci, driver, now, vnet.ErrNotReady)
	}
	return nil
}

// anyDriver is the function's own driver, whichever that is.
const anyDriver = "its own driver"

// unbind takes the driver away, unless a machine has the function: then the
// kernel would wait until that ends.
func (b *Backend) unbind(pci string) error {
	now, _ := b.k.target(devices + pci + "/driver")
	if now == "" {
		return nil
	}
	if err := b.free(pci); err != nil {
		return err
	}
	return b.k.write(devices+pci+"/driver/unbind", pci)
}

// free returns [vnet.ErrInUse] when a process has the function open.
func (b *Backend) free(pci string) error {
	f, err := b.function(pci)
	if err != nil || f.Driver != vfioPCI || f.IOMMUGroup < 0 {
		return err
	}
	held, err := b.k.held(f.IOMMUGroup)
	if held {
		return fmt.Errorf("%s: a process has %s open: %w", pci, vfioPath(f.IOMMUGroup), vnet.ErrInUse)
	}
	return err
}

// alone refuses vfio for a function that shares its IOMMU group with one that
// the host uses: the kernel would let no machine have it.
func (b *Backend) alone(pci string) error {
	if _, err := b.k.list("bus/pci/drivers/" + vfioPCI); err != nil {
		return &vnet.UnsupportedError{Feature: "driver vfio-pci", Backend: "linuxsriov", Need: "kernel module vfio-pci"}
	}
	others, err := b.k.list(devices + pci + "/iommu_group/devices")
	if absent(err) {
		return &vnet.UnsupportedError{Feature: "driver vfio-pci", Backend: "linuxsriov", Need: "an IOMMU, switched on (intel_iommu=on)"}
	} else if err != nil {
		return err
	}
	for _, o := range others {
		if o == pci {
			continue
		}
		if d, _ := b.k.target(devices + o + "/driver"); d != "" && d != vfioPCI && d != "pcieport" {
			return fmt.Errorf("IOMMU group of %s has %s too, which the host uses (%s): %w", pci, o, d, vnet.ErrConflict)
		}
	}
	return nil
}
