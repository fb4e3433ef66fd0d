package openflow

import (
	"context"
	"fmt"
	"net/netip"
)

// FlushZone forgets the connections of a conntrack zone (NXT_CT_FLUSH_ZONE).
// The switch says nothing when it fails to.
func (c *Conn) FlushZone(ctx context.Context, zone uint16) error {
	return c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) {
		return finish(be16(append(appendNicira(b, nxtCtFlushZone, xid), 0, 0, 0, 0, 0, 0), zone), len(b))
	})
}

// CtMatch says which connections are meant: those that are all that is given.
type CtMatch struct {
	Zone    uint16
	AnyZone bool    // Zone is of no account
	Proto   uint8   // IP protocol; 0: any
	Orig    CtTuple // as the first packet was
	Reply   CtTuple // as the answers are, with what NAT did
}

// CtTuple is one direction of a connection. What is not given is of no account.
type CtTuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	// Of ICMP, where they are always compared if Src or Dst is given.
	ICMPID             uint16
	ICMPType, ICMPCode uint8
}

// FlushConnections forgets connections (NXT_CT_FLUSH, Open vSwitch 3.1 and
// later).
func (c *Conn) FlushConnections(ctx context.Context, ms ...CtMatch) error {
	if len(ms) == 0 {
		return nil
	}
	return c.send(ctx, len(ms), func(i int, b []byte, xid uint32) ([]byte, error) {
		start := len(b)
		b, err := ms[i].append(appendNicira(b, nxtCtFlush, xid))
		if err != nil {
			return nil, err
		}
		return finish(b, start)
	})
}

// append appends the body (struct nx_ct_flush and enum nx_ct_flush_tlv_type).
func (m CtMatch) append(b []byte) ([]byte, error) {
	b = append(b, m.Proto, 0, 0, 0, 0, 0, 0, 0)
	for i, t := range []CtTuple{m.Orig, m.Reply} {
		p, err := t.append(nil, m.Proto)
		if err != nil {
			return nil, err
		}
		if len(p) > 0 {
			b = appendNested(b, uint16(i), p)
		}
	}
	if !m.AnyZone {
		b = appendProperty(b, 2, be16(nil, m.Zone, 0))
	}
	return b, nil
}

func (t CtTuple) append(b []byte, proto uint8) ([]byte, error) {
	if t.Src.IsValid() && t.Dst.IsValid() && t.Src.Unmap().Is4() != t.Dst.Unmap().Is4() {
		return nil, &InvalidError{What: "a connection", Reason: fmt.Sprintf("goes from %s to %s", t.Src, t.Dst)}
	}
	for i, a := range []netip.Addr{t.Src, t.Dst} {
		if a.IsValid() {
			as16 := a.As16() // IPv4 as ::ffff:a.b.c.d
			b = appendProperty(b, uint16(i), as16[:])
		}
	}
	switch {
	case proto == ProtoICMP || proto == ProtoICMPv6:
		if len(b) == 0 {
			return b, nil
		}
		b = appendProperty(b, 4, be16(nil, t.ICMPID, 0))
		b = appendProperty(b, 5, []byte{t.ICMPType})
		return appendProperty(b, 6, []byte{t.ICMPCode}), nil
	case proto == 0 && (t.SrcPort != 0 || t.DstPort != 0):
		return nil, &InvalidError{What: "a connection", Reason: "has a port and no protocol"}
	}
	if t.SrcPort != 0 {
		b = appendProperty(b, 2, be16(nil, t.SrcPort, 0))
	}
	if t.DstPort != 0 {
		b = appendProperty(b, 3, be16(nil, t.DstPort, 0))
	}
	return b, nil
}
