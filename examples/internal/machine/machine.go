package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/topology"
)

// UnderlayDevice is a host's device on the underlay.
const UnderlayDevice = "under0"

// Machine is the hardware of one cloud.
type Machine struct {
	Name string // of the cloud
	Dir  string // where its state is kept
}

// prefix begins the names of all namespaces made here. The backends' own
// begin with the cloud's name and the host's.
func (m *Machine) prefix() string { return "vc." + m.Name + "." }

// HostNS is the path of a host's namespace.
func (m *Machine) HostNS(host string) string {
	return filepath.Join(NetnsDir, m.prefix()+"host."+host)
}

// VMNS is the path of the namespace of a virtual machine or outside server.
func (m *Machine) VMNS(vm string) string { return filepath.Join(NetnsDir, m.prefix()+"vm."+vm) }

func (m *Machine) underlayNS() string { return filepath.Join(NetnsDir, m.prefix()+"underlay") }

func (m *Machine) physicalNS(name string) string {
	return filepath.Join(NetnsDir, m.prefix()+"phys."+name)
}

// VMDir is where a virtual machine keeps its files.
func (m *Machine) VMDir(vm string) string { return filepath.Join(m.Dir, "vms", vm) }

// PhysicalDevice is the name of a host's device on a physical network.
func PhysicalDevice(physnet string) string { return "phys-" + short(physnet) }

// short makes a part of a device name of a name of any length.
func short(name string) string {
	h := sha256.Sum256([]byte(name))
	return hex.EncodeToString(h[:4])
}

// want is all the hardware of a cloud, in the order of making.
type want struct {
	ns    []string // paths
	wires []wire
}

// wire is a veth pair from a bridge br0 in one namespace to a device in another.
type wire struct {
	bridge, port string // namespace of the bridge, name of its port
	ns, dev      string
	mtu          int
	mac          vnet.MAC
	addr         netip.Prefix
}

func (m *Machine) want(c *topology.Cloud) want {
	w := want{ns: []string{m.underlayNS()}}
	for _, p := range c.PhysicalNets {
		w.ns = append(w.ns, m.physicalNS(p))
	}
	for _, h := range c.Hosts {
		w.ns = append(w.ns, m.HostNS(h.Name))
		under := wire{bridge: m.underlayNS(), port: "h-" + short(h.Name), ns: m.HostNS(h.Name), dev: UnderlayDevice, mtu: c.UnderlayMTU}
		if c.Backend != topology.OVN && c.Backend != topology.OVS { // there a bridge has it
			under.addr = netip.PrefixFrom(h.LocalIP, c.Underlay.Bits())
		}
		w.wires = append(w.wires, under)
		for _, p := range h.PhysicalNets {
			w.wires = append(w.wires, wire{bridge: m.physicalNS(p), port: "h-" + short(h.Name), ns: m.HostNS(h.Name), dev: PhysicalDevice(p), mtu: 1500})
		}
	}
	for _, o := range c.Outside {
		w.ns = append(w.ns, m.VMNS(o.Name))
		w.wires = append(w.wires, wire{bridge: m.physicalNS(o.PhysicalNW), port: "o-" + short(o.Name), ns: m.VMNS(o.Name), dev: "eth0", mtu: 1500, mac: o.MAC})
	}
	for _, v := range c.VMs {
		w.ns = append(w.ns, m.VMNS(v.Name))
	}
	return w
}

// Plan says what Ensure would make and remove.
func (m *Machine) Plan(c *topology.Cloud) vnet.Plan {
	var p vnet.Plan
	w := m.want(c)
	for _, ns := range w.ns {
		if !exists(ns) {
			kind, id := m.kind(filepath.Base(ns))
			p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Create, Part: "machine", Kind: kind, ID: id, Impact: vnet.ImpactNone})
		}
	}
	for _, name := range m.unwanted(w) {
		kind, id := m.kind(name)
		p.Changes = append(p.Changes, vnet.Change{Verb: vnet.Delete, Part: "machine", Kind: kind, ID: id, Impact: vnet.ImpactObject})
	}
	return p
}

// kind splits a namespace's name into what it stands for and its name.
func (m *Machine) kind(name string) (kind, id string) {
	kind, id, _ = strings.Cut(strings.TrimPrefix(name, m.prefix()), ".")
	switch kind {
	case "vm":
		return "server", id
	case "phys":
		return "wire", "physical network " + id
	case "underlay":
		return "wire", "underlay"
	}
	return kind, id
}

func (m *Machine) unwanted(w want) []string {
	have, _ := listNS(m.prefix())
	return slices.DeleteFunc(have, func(name string) bool { return slices.Contains(w.ns, filepath.Join(NetnsDir, name)) })
}

// Ensure makes all namespaces and wires of the cloud, whatever of them is there.
func (m *Machine) Ensure(c *topology.Cloud) error {
	w := m.want(c)
	for _, ns := range w.ns {
		if err := ensureNS(ns); err != nil {
			return err
		}
	}
	bridges := []string{m.underlayNS()}
	mtus := map[string]int{m.underlayNS(): c.UnderlayMTU}
	for _, p := range c.PhysicalNets {
		bridges = append(bridges, m.physicalNS(p))
	}
	for _, b := range bridges {
		if err := Do(b, func() error { return ensureBridge(mtus[b]) }); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(b), err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.Devices)) {
		if err := cable(m.physicalNS(p), c.Devices[p]); err != nil {
			return fmt.Errorf("card %s on physical network %s: %w", c.Devices[p], p, err)
		}
	}
	for _, x := range w.wires {
		if err := x.ensure(); err != nil {
			return fmt.Errorf("wire from %s to %s in %s: %w", filepath.Base(x.bridge), x.dev, filepath.Base(x.ns), err)
		}
	}
	return nil
}

// cable makes a card of this machine a port of the bridge in a namespace. When
// that is removed, the kernel gives the card back.
func cable(ns, dev string) error {
	l, err := netlink.LinkByName(dev)
	switch {
	case err == nil:
		if err := moveTo(l, ns, dev); err != nil {
			return err
		}
	case !errors.As(err, new(netlink.LinkNotFoundError)):
		return err
	}
	return Do(ns, func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if l.Attrs().MasterIndex != br.Attrs().Index {
			if err := netlink.LinkSetMaster(l, br); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// moveTo moves a device of this namespace to another, under a name.
func moveTo(l netlink.Link, ns, name string) error {
	f, err := os.Open(ns)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := netlink.LinkSetDown(l); err != nil {
		return err
	}
	if l.Attrs().Name == name {
		return netlink.LinkSetNsFd(l, int(f.Fd()))
	}
	// One may have that name here already.
	tmp := "v" + short(name+l.Attrs().Name)
	if err := netlink.LinkSetName(l, tmp); err != nil {
		return err
	}
	if err := netlink.LinkSetNsFd(l, int(f.Fd())); err != nil {
		return err
	}
	return Do(ns, func() error {
		l, err := netlink.LinkByName(tmp)
		if err != nil {
			return err
		}
		return netlink.LinkSetName(l, name)
	})
}

// GiveFunction puts the device of a card's virtual function, by its name on this
// machine, into a machine's namespace, under a name. "": it is there already.
func (m *Machine) GiveFunction(vm, dev, name string) error {
	if dev != "" {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		if err := moveTo(l, m.VMNS(vm), name); err != nil {
			return err
		}
	}
	return Do(m.VMNS(vm), func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

// HasDevice reports whether a machine has a device of that name.
func (m *Machine) HasDevice(vm, dev string) bool {
	l, err := lookup(m.VMNS(vm), dev)
	return err == nil && l != nil
}

func ensureBridge(mtu int) error {
	os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
	br, err := netlink.LinkByName("br0")
	if err != nil {
		snoop := false
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snoop}); err != nil {
			return err
		}
		if br, err = netlink.LinkByName("br0"); err != nil {
			return err
		}
	}
	if mtu > 0 {
		if err := netlink.LinkSetMTU(br, mtu); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(br)
}

// lookup finds a link in a namespace; nil when it is not there.
func lookup(ns, name string) (netlink.Link, error) {
	var l netlink.Link
	err := Do(ns, func() (err error) {
		l, err = netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return err
	})
	return l, err
}

func (x wire) ensure() error {
	port, err := lookup(x.bridge, x.port)
	if err != nil {
		return err
	}
	dev, err := lookup(x.ns, x.dev)
	if err != nil {
		return err
	}
	paired := port != nil && dev != nil && port.Attrs().ParentIndex == dev.Attrs().Index && dev.Attrs().ParentIndex == port.Attrs().Index
	if !paired {
		for ns, l := range map[string]netlink.Link{x.bridge: port, x.ns: dev} {
			if l != nil {
				if err := Do(ns, func() error { return netlink.LinkDel(l) }); err != nil {
					return err
				}
			}
		}
		peer, err := os.Open(x.ns)
		if err != nil {
			return err
		}
		defer peer.Close()
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: x.port, MTU: x.mtu}, PeerName: x.dev, PeerNamespace: netlink.NsFd(int(peer.Fd()))}
		if !x.mac.IsZero() {
			v.PeerHardwareAddr = x.mac.HardwareAddr()
		}
		if err := Do(x.bridge, func() error { return netlink.LinkAdd(v) }); err != nil {
			return err
		}
	}
	err = Do(x.bridge, func() error {
		l, err := netlink.LinkByName(x.port)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if l.Attrs().MTU != x.mtu {
			if err := netlink.LinkSetMTU(l, x.mtu); err != nil {
				return err
			}
		}
		if l.Attrs().MasterIndex != br.Attrs().Index {
			if err := netlink.LinkSetMaster(l, br); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
	if err != nil {
		return err
	}
	return Do(x.ns, func() error {
		l, err := netlink.LinkByName(x.dev)
		if err != nil {
			return err
		}
		if l.Attrs().MTU != x.mtu {
			if err := netlink.LinkSetMTU(l, x.mtu); err != nil {
				return err
			}
		}
		if x.addr.IsValid() {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: x.addr.Addr().AsSlice(), Mask: net.CIDRMask(x.addr.Bits(), x.addr.Addr().BitLen())}}
			have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, h := range have {
				if !h.Equal(*a) && !h.IP.IsLinkLocalUnicast() {
					if err := netlink.AddrDel(l, &h); err != nil {
						return err
					}
				}
			}
			if err := netlink.AddrReplace(l, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Reset removes a machine's namespace, so that it starts from nothing.
func (m *Machine) Reset(vm string) error { return deleteNS(m.VMNS(vm)) }

// Prune removes the namespaces that the cloud does not want.
func (m *Machine) Prune(c *topology.Cloud) error {
	var errs []error
	for _, name := range m.unwanted(m.want(c)) {
		errs = append(errs, deleteNS(filepath.Join(NetnsDir, name)))
	}
	return errors.Join(errs...)
}

// Remove ends all processes of the cloud and removes all its namespaces,
// those too that the backends on the given hosts made.
func (m *Machine) Remove(hosts []string) error {
	errs := []error{m.Kill("")}
	names, err := listNS(m.prefix())
	errs = append(errs, err)
	for _, h := range hosts {
		more, err := listNS(m.Name + "." + h + ".")
		names, errs = append(names, more...), append(errs, err)
	}
	for _, name := range names {
		errs = append(errs, deleteNS(filepath.Join(NetnsDir, name)))
	}
	return errors.Join(errs...)
}

// HasHost reports whether a host's namespace stands.
func (m *Machine) HasHost(host string) bool { return exists(m.HostNS(host)) }

// RemoveHost ends a host's daemons, and removes its namespace and those that
// backends made on it.
func (m *Machine) RemoveHost(host string) error {
	names, err := listNS(m.Name + "." + host + ".")
	errs := []error{err, m.endDaemons(host), deleteNS(m.HostNS(host))}
	for _, name := range names {
		errs = append(errs, deleteNS(filepath.Join(NetnsDir, name)))
	}
	return errors.Join(errs...)
}

// Left lists what of the cloud is on the machine: namespaces, processes, files.
func (m *Machine) Left(hosts []string) []string {
	out, _ := listNS(m.prefix())
	for _, h := range hosts {
		more, _ := listNS(m.Name + "." + h + ".")
		out = append(out, more...)
	}
	for _, p := range m.Processes("") {
		out = append(out, fmt.Sprintf("process %d (%s)", p.PID, p.Role))
	}
	if _, err := os.Stat(m.Dir); err == nil {
		out = append(out, m.Dir)
	}
	return out
}
