package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// skipStats leaves the counters out of a dump; the mask also lacks
// RTEXT_FILTER_VF, which would list every virtual function.
const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

const infoPropList, infoAltName = 52, 53 // IFLA_PROP_LIST, IFLA_ALT_IFNAME

// Links returns all devices.
func (c *Conn) Links() ([]Link, error) {
	links, err := c.dumpLinks()
	return links, named("list", "devices", err)
}

func (c *Conn) dumpLinks(filter ...nl.NetlinkRequestData) ([]Link, error) {
	body := append([]nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats))}, filter...)
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETLINK, unix.NLM_F_DUMP, unix.RTM_NEWLINK, body...)
	if err != nil {
		return nil, err
	}
	links := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// Ports returns the devices that are ports of the bridge.
func (c *Conn) Ports(bridge string) ([]Link, error) {
	br, err := c.Link(bridge)
	if err != nil {
		return nil, err
	}
	links, err := c.dumpLinks(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(br.Index))))
	if err != nil {
		return nil, named("list ports of", bridge, err)
	}
	out := links[:0]
	for _, l := range links {
		if l.Master == br.Index { // kernels before 4.6 do not filter
			out = append(out, l)
		}
	}
	return out, nil
}

// Link returns a device by its name or one of its alternative names.
func (c *Conn) Link(name string) (Link, error) {
	attr := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))
	if len(name) >= unix.IFNAMSIZ {
		attr = nl.NewRtAttr(infoAltName, nl.ZeroTerminated(name))
	}
	l, err := c.getLink(nl.NewIfInfomsg(unix.AF_UNSPEC), attr)
	return l, named("device", name, err)
}

// LinkByIndex returns a device by its index.
func (c *Conn) LinkByIndex(index int) (Link, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	l, err := c.getLink(msg)
	return l, named("device", "#"+itoa(index), err)
}

func (c *Conn) getLink(body ...nl.NetlinkRequestData) (Link, error) {
	body = append(body, nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, body...)
	if err != nil {
		return Link{}, err
	}
	if len(msgs) != 1 {
		return Link{}, vnet.ErrNotFound
	}
	return parseLink(msgs[0])
}

var errShort = errors.New("short rtnetlink message")

// attrs calls f with each attribute of b; nested flags are taken off.
func attrs(b []byte, f func(typ uint16, v []byte)) error {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return errShort
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func flag(b []byte) bool { return len(b) > 0 && b[0] != 0 }

func str(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func parseLink(m []byte) (Link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return Link{}, errShort
	}
	flags := u32(m[8:])
	l := Link{
		Index: int(int32(u32(m[4:]))),
		Up:    flags&unix.IFF_UP != 0,
		// IFF_RUNNING follows the operational state, which tells a carrier.
		Running: flags&unix.IFF_RUNNING != 0,
		PeerNS:  -1,
	}
	var slave string
	var data, slaveData []byte
	err := attrs(m[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = str(v)
		case unix.IFLA_IFALIAS:
			l.Alias = str(v)
		case unix.IFLA_ADDRESS:
			if len(v) == 6 {
				l.MAC = vnet.MAC(v)
			}
		case unix.IFLA_MTU:
			l.MTU = int(u32(v))
		case unix.IFLA_MASTER:
			l.Master = int(u32(v))
		case unix.IFLA_LINK:
			l.Peer = int(u32(v))
		case unix.IFLA_LINK_NETNSID:
			l.PeerNS = int(int32(u32(v)))
		case unix.IFLA_PROMISCUITY:
			l.Promisc = u32(v) > 0
		case unix.IFLA_NUM_TX_QUEUES:
			l.TxQueues = int(u32(v))
		case infoPropList:
			_ = attrs(v, func(typ uint16, v []byte) {
				if typ == infoAltName {
					l.AltNames = append(l.AltNames, str(v))
				}
			})
		case unix.IFLA_LINKINFO:
			_ = attrs(v, func(typ uint16, v []byte) {
				switch typ {
				case nl.IFLA_INFO_KIND:
					l.Kind = str(v)
				case nl.IFLA_INFO_DATA:
					data = v
				case nl.IFLA_INFO_SLAVE_KIND:
					slave = str(v)
				case nl.IFLA_INFO_SLAVE_DATA:
					slaveData = v
				}
			})
		}
	})
	if err != nil {
		return Link{}, err
	}
	if slave == "bridge" {
		l.Port = parsePort(slaveData)
	}
	switch l.Kind {
	case "vxlan":
		l.VXLAN = parseVXLAN(data)
	case "vlan":
		_ = attrs(data, func(typ uint16, v []byte) {
			if typ == nl.IFLA_VLAN_ID && len(v) >= 2 {
				l.VLAN = int(binary.NativeEndian.Uint16(v))
			}
		})
	}
	return l, nil
}

func parsePort(b []byte) *Port {
	p := &Port{}
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case nl.IFLA_BRPORT_UNICAST_FLOOD:
			p.Flood = flag(v)
		case nl.IFLA_BRPORT_BCAST_FLOOD:
			p.BcastFlood = flag(v)
		case nl.IFLA_BRPORT_MCAST_FLOOD:
			p.McastFlood = flag(v)
		case nl.IFLA_BRPORT_LEARNING:
			p.Learning = flag(v)
		case nl.IFLA_BRPORT_NEIGH_SUPPRESS:
			p.NeighSuppress = flag(v)
		case nl.IFLA_BRPORT_ISOLATED:
			p.Isolated = flag(v)
		case nl.IFLA_BRPORT_MODE:
			p.Hairpin = flag(v)
		}
	})
	return p
}

func parseVXLAN(b []byte) *VXLAN {
	x := &VXLAN{}
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case nl.IFLA_VXLAN_ID:
			x.VNI = u32(v)
		case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
			if a, ok := netip.AddrFromSlice(v); ok {
				x.Local = a
			}
		case nl.IFLA_VXLAN_PORT:
			if len(v) >= 2 {
				x.Port = binary.BigEndian.Uint16(v)
			}
		case nl.IFLA_VXLAN_LEARNING:
			x.Learning = flag(v)
		case nl.IFLA_VXLAN_FLOWBASED:
			x.External = flag(v)
		}
	})
	return x
}

// AddLink makes a device. What stands under its name already is
// [vnet.ErrConflict].
func (c *Conn) AddLink(s Spec) error {
	add := func() error { return c.write(func(h *netlink.Handle) error { return h.LinkAdd(s) }) }
	var err error
	if _, tun := s.(*netlink.Tuntap); tun {
		// Made by /dev/net/tun, in the namespace of the thread that opens it.
		err = c.ns.Do(add)
	} else {
		err = add()
	}
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w (%v)", vnet.ErrConflict, err)
	}
	return named("make device", s.Attrs().Name, err)
}

// AddVeth makes a pair in one step: a in this namespace, b in ns (nil: this
// one) with the MACs and MTU given (zero: the kernel's choice).
func (c *Conn) AddVeth(a, b string, ns Namespace, mac, peerMAC vnet.MAC, mtu int) error {
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: b}
	v.Name, v.MTU, v.PeerMTU = a, mtu, uint32(mtu)
	if !mac.IsZero() {
		v.HardwareAddr = mac.HardwareAddr()
	}
	if !peerMAC.IsZero() {
		v.PeerHardwareAddr = peerMAC.HardwareAddr()
	}
	if ns == nil {
		return c.AddLink(v)
	}
	return named("make veth", a, ns.WithFd(func(fd int) error {
		v.PeerNamespace = netlink.NsFd(fd)
		return c.AddLink(v)
	}))
}

// DelLink removes a device; one that is gone is no error.
func (c *Conn) DelLink(name string) error {
	l, err := c.Link(name)
	if err == nil {
		err = c.write(func(h *netlink.Handle) error { return h.LinkDel(device(l)) })
	}
	return gone(named("remove device", name, err))
}

// gone turns absence into success.
func gone(err error) error {
	if errors.Is(err, vnet.ErrNotFound) {
		return nil
	}
	return err
}

// device is what the library's calls want of a link that is known.
func device(l Link) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index, Name: l.Name}}
}

// set looks a device up and changes it unless already says it is so.
func (c *Conn) set(op, name string, already func(Link) bool, f func(*netlink.Handle, netlink.Link) error) error {
	l, err := c.Link(name)
	if err != nil {
		return named(op, name, err)
	}
	if already != nil && already(l) {
		return nil
	}
	return named(op, name, c.write(func(h *netlink.Handle) error { return f(h, device(l)) }))
}

// SetUp sets a device up.
func (c *Conn) SetUp(name string) error {
	return c.set("set up", name, func(l Link) bool { return l.Up }, (*netlink.Handle).LinkSetUp)
}

// SetDown sets a device down.
func (c *Conn) SetDown(name string) error {
	return c.set("set down", name, func(l Link) bool { return !l.Up }, (*netlink.Handle).LinkSetDown)
}

// SetMTU sets the MTU in bytes.
func (c *Conn) SetMTU(name string, mtu int) error {
	return c.set("set MTU of", name, func(l Link) bool { return l.MTU == mtu },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, mtu) })
}

// SetTxQLen sets how many packets wait, at most, in queues that are made for a
// device from now on.
func (c *Conn) SetTxQLen(name string, n int) error {
	return c.set("set queue length of", name, nil, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetTxQLen(l, n) })
}

// SetMAC sets the hardware address.
func (c *Conn) SetMAC(name string, m vnet.MAC) error {
	return c.set("set MAC of", name, func(l Link) bool { return l.MAC == m },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetHardwareAddr(l, m.HardwareAddr()) })
}

// SetMaster makes a device a port of a bridge; master "" takes it out.
func (c *Conn) SetMaster(name, master string) error {
	index := 0
	if master != "" {
		m, err := c.Link(master)
		if err != nil {
			return named("connect", name, err)
		}
		index = m.Index
	}
	return c.set("connect", name, func(l Link) bool { return l.Master == index },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMasterByIndex(l, index) })
}

// SetAlias sets the alias, at most 255 bytes; "" removes it.
func (c *Conn) SetAlias(name, alias string) error {
	return c.set("set alias of", name, func(l Link) bool { return l.Alias == alias },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetAlias(l, alias) })
}

// AddAltName gives a device another name, at most 127 bytes. One it has
// already is no error; one that another device has is [vnet.ErrConflict].
func (c *Conn) AddAltName(name, alt string) error {
	return c.set("add name "+alt+" to", name, func(l Link) bool { return hasAlt(l, alt) },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkAddAltName(l, alt) })
}

// DelAltName takes a name away; one that is gone is no error.
func (c *Conn) DelAltName(name, alt string) error {
	return gone(c.set("take name "+alt+" from", name, func(l Link) bool { return !hasAlt(l, alt) },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkDelAltName(l, alt) }))
}

func hasAlt(l Link, alt string) bool {
	for _, a := range l.AltNames {
		if a == alt {
			return true
		}
	}
	return false
}

// Rename changes a device's name; kernels before 6.2 want it down.
func (c *Conn) Rename(name, to string) error {
	return c.set("rename", name, func(l Link) bool { return l.Name == to },
		func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetName(l, to) })
}

// MoveTo moves a device to another namespace, under a new name if to is not "".
func (c *Conn) MoveTo(name string, ns Namespace, to string) error {
	l, err := c.Link(name)
	if err != nil {
		return err
	}
	return named("move", name, ns.WithFd(func(fd int) error {
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Index)
		body := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd)))}
		if to != "" {
			body = append(body, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(to)))
		}
		return c.change(unix.NETLINK_ROUTE, unix.RTM_SETLINK, 0, body...)
	}))
}

// SetPort sets what a bridge does with its port, all in one request; nothing
// is sent when it does so already.
func (c *Conn) SetPort(name string, p Port) error {
	l, err := c.Link(name)
	if err != nil {
		return err
	}
	if l.Port == nil {
		return named("set port", name, errors.New("is no port of a bridge"))
	}
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	n := 0
	for _, f := range []struct {
		typ      int
		now, has bool
	}{
		{nl.IFLA_BRPORT_UNICAST_FLOOD, p.Flood, l.Port.Flood},
		{nl.IFLA_BRPORT_BCAST_FLOOD, p.BcastFlood, l.Port.BcastFlood},
		{nl.IFLA_BRPORT_MCAST_FLOOD, p.McastFlood, l.Port.McastFlood},
		{nl.IFLA_BRPORT_LEARNING, p.Learning, l.Port.Learning},
		{nl.IFLA_BRPORT_NEIGH_SUPPRESS, p.NeighSuppress, l.Port.NeighSuppress},
		{nl.IFLA_BRPORT_ISOLATED, p.Isolated, l.Port.Isolated},
		{nl.IFLA_BRPORT_MODE, p.Hairpin, l.Port.Hairpin},
	} {
		if f.now != f.has {
			info.AddRtAttr(f.typ, []byte{b2u(f.now)})
			n++
		}
	}
	if n == 0 {
		return nil
	}
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Index)
	return named("set port", name, c.change(unix.NETLINK_ROUTE, unix.RTM_SETLINK, 0, msg, info))
}

func b2u(b bool) byte {
	if b {
		return 1
	}
	return 0
}
