package rtnl

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// Qdisc is the root queueing discipline of a device.
type Qdisc struct {
	Kind    string // "noqueue", "htb", ...
	Major   uint16 // of its handle; 0 of one that the kernel gave the device
	Default uint16 // of HTB: the minor of the class of what no class claims
}

// HTBClass is a class of a device's root HTB (tc-htb(8)). What has a priority of
// MAJOR:Minor goes to it (skb->priority).
type HTBClass struct {
	Minor  uint16
	Parent uint16 // minor; 0: the root
	Rate   uint64 // what it gets, bit/s
	Ceil   uint64 // what it may borrow up to, bit/s
}

// htbMajor is that of the HTB that SetHTB makes, and Open vSwitch's.
const htbMajor = 1

// Root returns the root qdisc of a device.
func (c *Conn) Root(dev string) (Qdisc, error) {
	var q Qdisc
	l, err := c.Link(dev)
	if err != nil {
		return q, named("read qdisc of", dev, err)
	}
	var list []netlink.Qdisc
	err = c.read(func(h *netlink.Handle) (err error) { list, err = h.QdiscList(device(l)); return err })
	for _, x := range list {
		if a := x.Attrs(); a.Parent == netlink.HANDLE_ROOT {
			q.Kind, q.Major = x.Type(), uint16(a.Handle>>16)
			if t, is := x.(*netlink.Htb); is {
				q.Default = uint16(t.Defcls)
			}
		}
	}
	return q, named("read qdisc of", dev, err)
}

// SetHTB gives a device a new root HTB, 1:, in place of whatever it has; what
// waits there is lost.
func (c *Conn) SetHTB(dev string, defaultMinor uint16) error {
	if err := c.DelRoot(dev); err != nil {
		return err
	}
	return c.set("set HTB of", dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		q := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(htbMajor, 0)})
		q.Defcls = uint32(defaultMinor)
		return h.QdiscReplace(q)
	})
}

// DelRoot takes the root qdisc, if there is one, from a device, which then has
// the kernel's. A device that is gone is no error.
func (c *Conn) DelRoot(dev string) error {
	err := c.set("remove qdisc of", dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		err := h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // the kernel's own
			return nil
		}
		return err
	})
	return gone(err)
}

// HTBClasses returns the classes of a device's root HTB, by minor.
func (c *Conn) HTBClasses(dev string) ([]HTBClass, error) {
	l, err := c.Link(dev)
	if err != nil {
		return nil, named("read classes of", dev, err)
	}
	var list []netlink.Class
	err = c.read(func(h *netlink.Handle) (err error) {
		list, err = h.ClassList(device(l), netlink.HANDLE_NONE)
		return err
	})
	if err != nil {
		return nil, named("read classes of", dev, err)
	}
	var out []HTBClass
	for _, x := range list {
		t, is := x.(*netlink.HtbClass)
		if !is || t.Handle>>16 != htbMajor {
			continue
		}
		k := HTBClass{Minor: uint16(t.Handle), Rate: 8 * t.Rate, Ceil: 8 * t.Ceil}
		if t.Parent != netlink.HANDLE_ROOT {
			k.Parent = uint16(t.Parent)
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b HTBClass) int { return int(a.Minor) - int(b.Minor) })
	return out, nil
}

// HTBCounts returns what the classes of a device's root HTB have sent and
// dropped, by minor.
func (c *Conn) HTBCounts(dev string) (map[uint16]Count, error) {
	l, err := c.Link(dev)
	if err != nil {
		return nil, named("count classes of", dev, err)
	}
	out := map[uint16]Count{}
	err = c.read(func(h *netlink.Handle) error {
		list, err := h.ClassList(device(l), netlink.HANDLE_NONE)
		for _, x := range list {
			n := x.Attrs().Statistics
			if n == nil || n.Basic == nil || x.Attrs().Handle>>16 != htbMajor {
				continue
			}
			k := Count{Packets: uint64(n.Basic.Packets), Bytes: n.Basic.Bytes}
			if n.Queue != nil {
				k.Dropped = uint64(n.Queue.Drops)
			}
			out[uint16(x.Attrs().Handle)] = k
		}
		return err
	})
	return out, named("count classes of", dev, err)
}

// SetHTBClass makes a class, or changes the one of its minor, whose queue stays.
func (c *Conn) SetHTBClass(dev string, k HTBClass) error {
	if k.Rate < 8 {
		return fmt.Errorf("class %x of %s: its rate is 0", k.Minor, dev)
	}
	return c.set(fmt.Sprintf("set class %x of", k.Minor), dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		parent := netlink.MakeHandle(htbMajor, k.Parent)
		// 4 ms of its rate at once: what a timer that is late may have missed.
		burst := func(rate uint64) uint32 { return uint32(min(max(rate/8/250, 3200), 1<<30)) }
		return h.ClassReplace(netlink.NewHtbClass(
			netlink.ClassAttrs{LinkIndex: l.Attrs().Index, Parent: parent, Handle: netlink.MakeHandle(htbMajor, k.Minor)},
			netlink.HtbClassAttrs{Rate: k.Rate, Ceil: k.Ceil, Buffer: burst(k.Rate), Cbuffer: burst(k.Ceil), Quantum: 3200}))
	})
}

// DelHTBClass removes a class; one that is gone is no error.
func (c *Conn) DelHTBClass(dev string, minor uint16) error {
	err := c.set(fmt.Sprintf("remove class %x of", minor), dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		return h.ClassDel(netlink.NewHtbClass(netlink.ClassAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_NONE, Handle: netlink.MakeHandle(htbMajor, minor)}, netlink.HtbClassAttrs{Rate: 8}))
	})
	return gone(err)
}

// Minors of the classes of a device that is shared out: Open vSwitch's for all,
// and what has no other class.
const (
	ShareRoot   = 0xfffe
	ShareOthers = 0xf001
)

// ShareDevice makes a device's root an HTB of rate bit/s that is shared out
// among classes, below [ShareRoot], of which one is [ShareOthers]. What stands so
// is not written; classes may borrow more already, as ovn-controller lets them.
// A root that is neither this nor Open vSwitch's is [vnet.ErrConflict].
func (c *Conn) ShareDevice(dev string, rate uint64, classes map[uint16]HTBClass) error {
	root, ours, err := c.share(dev)
	if err != nil {
		return err
	}
	var have []HTBClass
	switch {
	case ours:
		if have, err = c.HTBClasses(dev); err != nil {
			return err
		}
	case root.Major != 0 && !(root.Kind == "htb" && root.Major == htbMajor && root.Default == 1): // that of Open vSwitch
		return fmt.Errorf("device %s has a qdisc %s %x: of somebody else: %w", dev, root.Kind, root.Major, vnet.ErrConflict)
	default:
		if err := c.SetHTB(dev, ShareOthers); err != nil {
			return err
		}
	}
	was := map[uint16]HTBClass{}
	for _, k := range have {
		was[k.Minor] = k
	}
	set := func(want HTBClass) error {
		is, stands := was[want.Minor]
		if stands && is.Rate == want.Rate/8*8 && is.Parent == want.Parent && is.Ceil >= want.Ceil/8*8 && (want.Minor < ShareOthers || is.Ceil == want.Ceil/8*8) {
			return nil
		}
		return c.SetHTBClass(dev, want)
	}
	// The root first, as the others hang on it.
	if err := set(HTBClass{Minor: ShareRoot, Rate: rate, Ceil: rate}); err != nil {
		return err
	}
	for _, m := range slices.Backward(slices.Sorted(maps.Keys(classes))) {
		k := classes[m]
		k.Minor, k.Parent = m, ShareRoot
		if err := set(k); err != nil {
			return err
		}
	}
	for m := range was {
		if _, keep := classes[m]; !keep && m != ShareRoot {
			if err := c.DelHTBClass(dev, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// UnshareDevice takes away what ShareDevice made.
func (c *Conn) UnshareDevice(dev string) error {
	_, ours, err := c.share(dev)
	if err != nil || !ours {
		return gone(err)
	}
	return c.DelRoot(dev)
}

func (c *Conn) share(dev string) (root Qdisc, ours bool, err error) {
	root, err = c.Root(dev)
	return root, root.Kind == "htb" && root.Major == htbMajor && root.Default == ShareOthers, err
}
