package rtnl

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

func itoa(n int) string { return strconv.Itoa(n) }

func toIPNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	ip := n.IP
	if bits == 32 {
		ip = ip.To4()
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, ones)
}

func toIP(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

// fromIP reads an address of the library, which keeps IPv4 in either form.
func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Addrs returns the addresses of a device; "" for all devices.
func (c *Conn) Addrs(dev string) ([]Addr, error) {
	var of netlink.Link
	if dev != "" {
		l, err := c.Link(dev)
		if err != nil {
			return nil, err
		}
		of = device(l)
	}
	var out []Addr
	err := c.read(func(h *netlink.Handle) error {
		out = nil
		list, err := h.AddrList(of, netlink.FAMILY_ALL)
		for _, a := range list {
			out = append(out, Addr{
				Prefix:   fromIPNet(a.IPNet),
				NoDAD:    a.Flags&unix.IFA_F_NODAD != 0,
				NoPrefix: a.Flags&unix.IFA_F_NOPREFIXROUTE != 0,
				Peer:     peerOf(a),
				Scope:    Scope(a.Scope),
				Index:    a.LinkIndex,
			})
		}
		return err
	})
	return out, named("addresses of", dev, err)
}

func peerOf(a netlink.Addr) netip.Prefix {
	p := fromIPNet(a.Peer)
	if p == fromIPNet(a.IPNet) {
		return netip.Prefix{}
	}
	return p
}

func toAddr(a Addr) *netlink.Addr {
	x := &netlink.Addr{IPNet: toIPNet(a.Prefix), Peer: toIPNet(a.Peer), Scope: int(a.Scope)}
	if a.NoDAD {
		x.Flags |= unix.IFA_F_NODAD
	}
	if a.NoPrefix {
		x.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if a.Prefix.Addr().Is4() {
		x.Broadcast = net.IPv4zero // none: nothing of ours is sent there
	}
	return x
}

// AddAddr gives a device an address; one it has is no error.
func (c *Conn) AddAddr(dev string, a Addr) error {
	err := c.set("add "+a.Prefix.String()+" to", dev, nil,
		func(h *netlink.Handle, l netlink.Link) error { return h.AddrAdd(l, toAddr(a)) })
	if errors.Is(err, vnet.ErrConflict) {
		return nil
	}
	return err
}

// DelAddr takes an address away; one that is gone is no error.
func (c *Conn) DelAddr(dev string, p netip.Prefix) error {
	err := c.set("take "+p.String()+" from", dev, nil,
		func(h *netlink.Handle, l netlink.Link) error { return h.AddrDel(l, &netlink.Addr{IPNet: toIPNet(p)}) })
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return gone(err)
}
