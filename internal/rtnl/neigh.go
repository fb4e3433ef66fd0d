package rtnl

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// ndmsg is struct ndmsg of rtnetlink: family, index, state, flags, type.
type ndmsg struct {
	family uint8
	index  int
	state  uint16
	flags  uint8
}

func (m ndmsg) Len() int { return unix.SizeofNdMsg }

func (m ndmsg) Serialize() []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = m.family
	binary.NativeEndian.PutUint32(b[4:], uint32(m.index))
	binary.NativeEndian.PutUint16(b[8:], m.state)
	b[10] = m.flags
	return b
}

type ndEntry struct {
	ndmsg
	dst    []byte
	lladdr []byte
	master int
}

func (c *Conn) dumpNeigh(m ndmsg, filter ...nl.NetlinkRequestData) ([]ndEntry, error) {
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETNEIGH, unix.NLM_F_DUMP, unix.RTM_NEWNEIGH,
		append([]nl.NetlinkRequestData{m}, filter...)...)
	if err != nil {
		return nil, err
	}
	var out []ndEntry
	for _, b := range msgs {
		if len(b) < unix.SizeofNdMsg {
			return nil, errShort
		}
		e := ndEntry{ndmsg: ndmsg{family: b[0], index: int(u32(b[4:])), state: binary.NativeEndian.Uint16(b[8:]), flags: b[10]}}
		if err := attrs(b[unix.SizeofNdMsg:], func(typ uint16, v []byte) {
			switch typ {
			case unix.NDA_DST:
				e.dst = v
			case unix.NDA_LLADDR:
				e.lladdr = v
			case unix.NDA_MASTER:
				e.master = int(u32(v))
			}
		}); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Neighs returns the ARP and ND entries of a device, without proxy entries.
func (c *Conn) Neighs(dev string) ([]Neigh, error) { return c.neighs(dev, 0) }

// ProxyNeighs returns the proxy entries of a device.
func (c *Conn) ProxyNeighs(dev string) ([]Neigh, error) { return c.neighs(dev, unix.NTF_PROXY) }

func (c *Conn) neighs(dev string, flags uint8) ([]Neigh, error) {
	l, err := c.Link(dev)
	if err != nil {
		return nil, err
	}
	var out []Neigh
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := c.dumpNeigh(ndmsg{family: fam, flags: flags}, nl.NewRtAttr(unix.NDA_IFINDEX, nl.Uint32Attr(uint32(l.Index))))
		if err != nil {
			return nil, named("neighbours of", dev, err)
		}
		for _, e := range list {
			if e.index != l.Index || e.family != fam || e.flags&unix.NTF_PROXY != flags {
				continue
			}
			n := Neigh{Dev: dev, State: NeighState(e.state), Proxy: flags != 0}
			n.IP, _ = netip.AddrFromSlice(e.dst)
			if len(e.lladdr) == 6 {
				n.MAC = vnet.MAC(e.lladdr)
			}
			out = append(out, n)
		}
	}
	return out, nil
}

func (c *Conn) neighRequest(n Neigh, index int) []nl.NetlinkRequestData {
	m := ndmsg{family: unix.AF_INET, index: index, state: uint16(n.State)}
	if n.IP.Is6() {
		m.family = unix.AF_INET6
	}
	if n.State == 0 {
		m.state = unix.NUD_PERMANENT
	}
	if n.Proxy {
		m.flags = unix.NTF_PROXY
	}
	body := []nl.NetlinkRequestData{m, nl.NewRtAttr(unix.NDA_DST, n.IP.AsSlice())}
	if !n.MAC.IsZero() && !n.Proxy {
		body = append(body, nl.NewRtAttr(unix.NDA_LLADDR, n.MAC[:]))
	}
	return body
}

// SetNeigh adds or replaces an entry. The zero State is Permanent.
func (c *Conn) SetNeigh(n Neigh) error {
	l, err := c.Link(n.Dev)
	if err == nil {
		err = c.change(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, c.neighRequest(n, l.Index)...)
	}
	return named("set neighbour", n.IP.String()+" on "+n.Dev, err)
}

// DelNeigh removes an entry; one that is gone is no error.
func (c *Conn) DelNeigh(n Neigh) error {
	l, err := c.Link(n.Dev)
	if err == nil {
		err = c.change(unix.NETLINK_ROUTE, unix.RTM_DELNEIGH, 0, c.neighRequest(n, l.Index)...)
	}
	return gone(named("remove neighbour", n.IP.String()+" on "+n.Dev, err))
}

// FDBs returns the forwarding entries of a device: with a bridge those of all
// its ports, with Dev the port's name. Entries of both tables are returned: the
// bridge's (Master) and, of vxlan devices, their own.
func (c *Conn) FDBs(dev string) ([]FDB, error) {
	l, err := c.Link(dev)
	if err != nil {
		return nil, err
	}
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	names := map[int]string{l.Index: l.Name}
	if l.Kind == "bridge" {
		if names, err = c.names(); err != nil {
			return nil, err
		}
	}
	// Unlike for neighbours, the kernel wants an ifinfomsg here, and filters by
	// its index or by IFLA_MASTER.
	body := []nl.NetlinkRequestData{msg}
	if l.Kind == "bridge" {
		body = append(body, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(l.Index))))
	} else {
		msg.Index = int32(l.Index)
		if l.Master != 0 { // without it only the device's own table is dumped
			body = append(body, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(l.Master))))
		}
	}
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETNEIGH, unix.NLM_F_DUMP, unix.RTM_NEWNEIGH, body...)
	if err != nil {
		return nil, named("forwarding entries of", dev, err)
	}
	var out []FDB
	for _, b := range msgs {
		if len(b) < unix.SizeofNdMsg {
			return nil, errShort
		}
		index := int(u32(b[4:]))
		f := FDB{Dev: names[index], State: NeighState(binary.NativeEndian.Uint16(b[8:])), Index: index}
		flags := b[10]
		err := attrs(b[unix.SizeofNdMsg:], func(typ uint16, v []byte) {
			switch typ {
			case unix.NDA_LLADDR:
				if len(v) == 6 {
					f.MAC = vnet.MAC(v)
				}
			case unix.NDA_DST:
				f.Dst, _ = netip.AddrFromSlice(v)
			case unix.NDA_MASTER:
				f.Master = true
			}
		})
		if err != nil {
			return nil, err
		}
		f.Master = f.Master && flags&unix.NTF_SELF == 0
		f.ExtLearned = flags&unix.NTF_EXT_LEARNED != 0
		f.Sticky = flags&ntfSticky != 0
		if l.Kind != "bridge" && index != l.Index {
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// ntfSticky is NTF_STICKY of linux/neighbour.h.
const ntfSticky = 0x40

func fdbRequest(f FDB, index int) []nl.NetlinkRequestData {
	m := ndmsg{family: unix.AF_BRIDGE, index: index, state: uint16(f.State), flags: unix.NTF_SELF}
	if f.State == 0 {
		m.state = unix.NUD_PERMANENT
		if f.Master {
			m.state = unix.NUD_NOARP
		}
	}
	if f.Master {
		m.flags = unix.NTF_MASTER
	}
	if f.Sticky {
		m.flags |= ntfSticky
	}
	body := []nl.NetlinkRequestData{m, nl.NewRtAttr(unix.NDA_LLADDR, f.MAC[:])}
	if f.Dst.IsValid() {
		body = append(body, nl.NewRtAttr(unix.NDA_DST, f.Dst.AsSlice()))
	}
	return body
}

func (c *Conn) changeFDB(op string, typ, flags int, f FDB) error {
	l, err := c.Link(f.Dev)
	if err == nil {
		err = c.change(unix.NETLINK_ROUTE, typ, flags, fdbRequest(f, l.Index)...)
	}
	return named(op, f.MAC.String()+" on "+f.Dev, err)
}

// SetFDB adds or replaces a forwarding entry. The zero State is Permanent for
// an entry of a vxlan device, and NoARP (static, not an address of this host)
// for an entry of a bridge.
func (c *Conn) SetFDB(f FDB) error {
	return c.changeFDB("set forwarding entry", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, f)
}

// AppendFDB adds a further destination to a MAC of a vxlan device (the
// head-end list is the MAC 00:00:00:00:00:00); one that stands is no error.
func (c *Conn) AppendFDB(f FDB) error {
	err := c.changeFDB("add forwarding entry", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND, f)
	if errors.Is(err, vnet.ErrConflict) {
		return nil
	}
	return err
}

// DelFDB removes a forwarding entry (with Dst: that destination); one that is
// gone is no error.
func (c *Conn) DelFDB(f FDB) error {
	return gone(c.changeFDB("remove forwarding entry", unix.RTM_DELNEIGH, 0, f))
}
