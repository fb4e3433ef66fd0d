package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// VF is what a PF's driver holds for one of its virtual functions.
type VF struct {
	Index      int
	MAC        vnet.MAC
	VLAN, QoS  int
	Proto      uint16 // EtherType of the VLAN
	SpoofCheck int    // 1, 0; -1: the driver does not say
	Trust      int    // likewise
	LinkState  uint32 // 0 as the PF's, 1 up, 2 down
	MinRate    int    // Mbit/s
	MaxRate    int    // Mbit/s; 0: no limit
}

// Parts of linux/if_link.h and linux/rtnetlink.h.
const (
	extMaskVF   = 1 << 0 // RTEXT_FILTER_VF
	vfInfo      = 1      // IFLA_VF_INFO
	vfMAC       = 1
	vfVLAN      = 2
	vfSpoof     = 4
	vfLinkState = 5
	vfRate      = 6
	vfTrust     = 9
	vfVLANList  = 12
	vfVLANInfo  = 1
)

// VFs returns what a PF's driver holds for its virtual functions, by index. The
// kernel has no request for one of them, so this asks for those of one PF, and
// without their counters, which some drivers fetch from the card one by one.
func (c *Conn) VFs(pf string) ([]VF, error) {
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(pf)), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extMaskVF|skipStats)))
	if err == nil && (len(msgs) != 1 || len(msgs[0]) < unix.SizeofIfInfomsg) {
		err = errShort
	}
	if err != nil {
		return nil, named("virtual functions of", pf, err)
	}
	var out []VF
	err = attrs(msgs[0][unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		if typ == unix.IFLA_VFINFO_LIST {
			_ = attrs(v, func(typ uint16, v []byte) {
				if typ == vfInfo {
					out = append(out, parseVF(v))
				}
			})
		}
	})
	return out, named("virtual functions of", pf, err)
}

func parseVF(b []byte) VF {
	f := VF{SpoofCheck: -1, Trust: -1, Proto: unix.ETH_P_8021Q}
	at := func(v []byte, i int) int { return int(int32(u32(v[min(len(v), 4*i):]))) }
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case vfMAC:
			f.Index = at(v, 0)
			if len(v) >= 10 {
				f.MAC = vnet.MAC(v[4:10])
			}
		case vfVLAN:
			f.VLAN, f.QoS = at(v, 1), at(v, 2)
		case vfSpoof:
			f.SpoofCheck = at(v, 1)
		case vfTrust:
			f.Trust = at(v, 1)
		case vfLinkState:
			f.LinkState = uint32(at(v, 1))
		case vfRate:
			f.MinRate, f.MaxRate = at(v, 1), at(v, 2)
		case vfVLANList:
			_ = attrs(v, func(typ uint16, v []byte) {
				if typ == vfVLANInfo && len(v) >= 14 {
					f.Proto = binary.BigEndian.Uint16(v[12:])
				}
			})
		}
	})
	return f
}

// setVF sends one attribute of one virtual function: 32-bit words, in the order
// of the kernel's struct.
func (c *Conn) setVF(pf, what string, typ int, body []byte) error {
	l, err := c.Link(pf)
	if err != nil {
		return err
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Index)
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, nil)
	list.AddRtAttr(vfInfo|unix.NLA_F_NESTED, nil).AddRtAttr(typ, body)
	return named("set "+what+" of a VF of", pf, c.change(unix.NETLINK_ROUTE, unix.RTM_SETLINK, 0, msg, list))
}

func words(w ...int) []byte {
	var b []byte
	for _, x := range w {
		b = binary.NativeEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// SetVFMAC sets the MAC that a VF gets at its next start; zero lets it choose.
func (c *Conn) SetVFMAC(pf string, vf int, m vnet.MAC) error {
	return c.setVF(pf, "MAC", vfMAC, append(append(words(vf), m[:]...), make([]byte, 26)...))
}

// SetVFVLAN sets the VLAN, its priority and its EtherType; 0 takes it away.
func (c *Conn) SetVFVLAN(pf string, vf, vlan, qos int, proto uint16) error {
	if proto == unix.ETH_P_8021Q {
		return c.setVF(pf, "VLAN", vfVLAN, words(vf, vlan, qos)) // what all drivers and kernels know
	}
	info := append(binary.BigEndian.AppendUint16(words(vf, vlan, qos), proto), 0, 0)
	inner := nl.NewRtAttr(vfVLANInfo, info)
	return c.setVF(pf, "VLAN", vfVLANList|unix.NLA_F_NESTED, inner.Serialize())
}

// SetVFSpoofCheck has the card drop what a VF sends from another MAC, or not.
func (c *Conn) SetVFSpoofCheck(pf string, vf int, on bool) error {
	return c.setVF(pf, "spoof check", vfSpoof, words(vf, int(b2u(on))))
}

// SetVFTrust lets a VF change its MAC and be promiscuous, or not.
func (c *Conn) SetVFTrust(pf string, vf int, on bool) error {
	return c.setVF(pf, "trust", vfTrust, words(vf, int(b2u(on))))
}

// SetVFLinkState sets what a VF sees of the link: 0 as the PF's, 1 up, 2 down.
func (c *Conn) SetVFLinkState(pf string, vf int, state uint32) error {
	return c.setVF(pf, "link state", vfLinkState, words(vf, int(state)))
}

// SetVFRate sets both rates in Mbit/s: the kernel takes an absent one as 0.
func (c *Conn) SetVFRate(pf string, vf, minRate, maxRate int) error {
	return c.setVF(pf, "rates", vfRate, words(vf, minRate, maxRate))
}

// AddMacvtap makes a macvtap that has the device below it to itself.
func (c *Conn) AddMacvtap(name, parent string, mac vnet.MAC) error {
	p, err := c.Link(parent)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.HardwareAddr = name, p.Index, mac.HardwareAddr()
	return c.AddLink(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_PASSTHRU}})
}

// Eswitch returns the mode of a card's switch, "legacy" or "switchdev".
// ENODEV or EOPNOTSUPP when its driver has none.
func (c *Conn) Eswitch(ctx context.Context, pci string) (mode string, err error) {
	err = c.devlink(ctx, pci, func(_ *netlink.Handle, d *netlink.DevlinkDevice) error {
		mode = d.Attrs.Eswitch.Mode
		if mode == "" {
			return unix.EOPNOTSUPP
		}
		return nil
	})
	return mode, err
}

// SetEswitch sets that mode.
func (c *Conn) SetEswitch(ctx context.Context, pci, mode string) error {
	c.writes.Add(1)
	return c.devlink(ctx, pci, func(h *netlink.Handle, d *netlink.DevlinkDevice) error { return h.DevLinkSetEswitchMode(d, mode) })
}

// devlink finds a PCI device among those of devlink in this namespace.
func (c *Conn) devlink(ctx context.Context, pci string, f func(*netlink.Handle, *netlink.DevlinkDevice) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_GENERIC)
		if err != nil {
			return err
		}
		defer h.Close()
		d, err := h.DevLinkGetDeviceByName("pci", pci)
		if err != nil {
			return err
		}
		return f(h, d)
	})
	if errors.Is(err, unix.ENOENT) { // the family devlink is not there at all
		err = fmt.Errorf("%w (%v)", unix.EOPNOTSUPP, err)
	}
	if err != nil {
		return fmt.Errorf("devlink pci/%s: %w", pci, err)
	}
	return nil
}

// SetFeature switches a feature of a device, by the name that ethtool knows it by
// (linux/ethtool_netlink.h, ETHTOOL_MSG_FEATURES_SET). EOPNOTSUPP when the device
// does not let it be switched.
func (c *Conn) SetFeature(dev, feature string, on bool) error {
	const (
		featuresSet     = 12
		header, devName = 1, 2 // ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_HEADER_DEV_NAME
		wanted, replyOf = 3, 3 // ETHTOOL_A_FEATURES_WANTED, of request and reply
		noMask, bits    = 1, 3 // ETHTOOL_A_BITSET_...
		bit, name, set  = 1, 2, 3
	)
	c.writes.Add(1)
	return named("switch "+feature+" of", dev, c.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_GENERIC)
		if err != nil {
			return err
		}
		defer h.Close()
		family, err := h.GenlFamilyGet("ethtool")
		if err != nil {
			return err
		}
		req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		req.AddData(&nl.Genlmsg{Command: featuresSet, Version: 1})
		hd := nl.NewRtAttr(header|unix.NLA_F_NESTED, nil)
		hd.AddRtAttr(devName, nl.ZeroTerminated(dev))
		req.AddData(hd)
		w := nl.NewRtAttr(wanted|unix.NLA_F_NESTED, nil)
		one := w.AddRtAttr(bits|unix.NLA_F_NESTED, nil).AddRtAttr(bit|unix.NLA_F_NESTED, nil)
		one.AddRtAttr(name, nl.ZeroTerminated(feature))
		if on {
			one.AddRtAttr(set, nil)
		}
		req.AddData(w)
		msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
		if err != nil {
			return err
		}
		// The reply names what was wanted and did not come.
		for _, m := range msgs {
			missed := false
			err := attrs(m[min(len(m), nl.SizeofGenlmsg):], func(typ uint16, v []byte) { missed = missed || typ == replyOf && hasBit(v) })
			if err != nil {
				return err
			}
			if missed {
				return unix.EOPNOTSUPP
			}
		}
		return nil
	}))
}

// hasBit reports whether a bitset of the ethtool family has a bit in it.
func hasBit(b []byte) bool {
	found := false
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case 3: // ETHTOOL_A_BITSET_BITS
			found = found || len(v) > 0
		case 4: // ETHTOOL_A_BITSET_VALUE
			for _, x := range v {
				found = found || x != 0
			}
		}
	})
	return found
}
