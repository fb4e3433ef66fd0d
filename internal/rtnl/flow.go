package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaTimeout    = 7
	ctaMark       = 8
	ctaID         = 12
	ctaZone       = 18

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctMsgGet    = 1
	ctMsgDelete = 2
	ctSubsys    = 1 // NFNL_SUBSYS_CTNETLINK
)

// Flows calls f with every tracked connection, of both families, until it
// returns false.
func (c *Conn) Flows(ctx context.Context, f func(Flow) bool) error {
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := ctx.Err(); err != nil {
			return err
		}
		msgs, err := c.request(unix.NETLINK_NETFILTER, ctSubsys<<8|ctMsgGet, unix.NLM_F_DUMP, ctSubsys<<8, &nl.Nfgenmsg{NfgenFamily: fam})
		if err != nil {
			return named("list", "connections", err)
		}
		for _, m := range msgs {
			fl, err := parseFlow(m)
			if err != nil {
				return named("list", "connections", err)
			}
			if !f(fl) {
				return nil
			}
		}
	}
	return nil
}

func parseFlow(m []byte) (Flow, error) {
	if len(m) < nl.SizeofNfgenmsg {
		return Flow{}, errShort
	}
	fl := Flow{family: m[0]}
	err := attrs(m[nl.SizeofNfgenmsg:], func(typ uint16, v []byte) {
		be32 := func() uint32 {
			if len(v) < 4 {
				return 0
			}
			return binary.BigEndian.Uint32(v)
		}
		switch typ {
		case ctaTupleOrig:
			fl.Proto = parseTuple(v, &fl.Orig)
			fl.orig = v
		case ctaTupleReply:
			parseTuple(v, &fl.Reply)
		case ctaStatus:
			fl.Status = be32()
		case ctaTimeout:
			fl.Timeout = be32()
		case ctaMark:
			fl.Mark = be32()
		case ctaID:
			fl.id = v
		case ctaZone:
			if len(v) >= 2 {
				fl.Zone = binary.BigEndian.Uint16(v)
			}
		}
	})
	return fl, err
}

func parseTuple(b []byte, t *Tuple) (proto uint8) {
	var icmpType, icmpCode uint8
	isICMP := false
	_ = attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case ctaTupleIP:
			_ = attrs(v, func(typ uint16, v []byte) {
				a, _ := netip.AddrFromSlice(v)
				switch typ {
				case 1, 3: // CTA_IP_V4_SRC, CTA_IP_V6_SRC
					t.Src = a
				case 2, 4:
					t.Dst = a
				}
			})
		case ctaTupleProto:
			_ = attrs(v, func(typ uint16, v []byte) {
				switch {
				case typ == 1 && len(v) >= 1: // CTA_PROTO_NUM
					proto = v[0]
				case (typ == 2 || typ == 4 || typ == 7) && len(v) >= 2: // source port, ICMP id, ICMPv6 id
					t.SrcPort = binary.BigEndian.Uint16(v)
				case typ == 3 && len(v) >= 2:
					t.DstPort = binary.BigEndian.Uint16(v)
				case (typ == 5 || typ == 8) && len(v) >= 1:
					icmpType, isICMP = v[0], true
				case (typ == 6 || typ == 9) && len(v) >= 1:
					icmpCode = v[0]
				}
			})
		}
	})
	if isICMP {
		t.DstPort = uint16(icmpType)<<8 | uint16(icmpCode)
	}
	return proto
}

// DeleteFlows ends the tracked connections that match says, exactly (by the
// tuple, zone and the kernel's id of the entry), and returns how many.
func (c *Conn) DeleteFlows(ctx context.Context, match func(Flow) bool) (int, error) {
	var dead []Flow
	if err := c.Flows(ctx, func(f Flow) bool {
		if match(f) {
			dead = append(dead, f)
		}
		return true
	}); err != nil {
		return 0, err
	}
	n := 0
	for _, f := range dead {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		body := []nl.NetlinkRequestData{&nl.Nfgenmsg{NfgenFamily: f.family}, nl.NewRtAttr(ctaTupleOrig|unix.NLA_F_NESTED, f.orig)}
		if f.Zone != 0 {
			body = append(body, nl.NewRtAttr(ctaZone, binary.BigEndian.AppendUint16(nil, f.Zone)))
		}
		if f.id != nil {
			body = append(body, nl.NewRtAttr(ctaID, f.id))
		}
		err := c.change(unix.NETLINK_NETFILTER, ctSubsys<<8|ctMsgDelete, 0, body...)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.ENOENT): // ended by itself
		default:
			return n, named("end", "connection", err)
		}
	}
	return n, nil
}
