package nft

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// LimitBytesOver matches what exceeds rate bytes a second, after a burst of
// bytes. What counts is the packet as the chain's family sees it: with the
// Ethernet header in families bridge and netdev, without it in the others.
func LimitBytesOver(rate uint64, burst uint32) Stmt { return byteLimit{rate, burst} }

type byteLimit struct {
	rate  uint64
	burst uint32
}

func (l byteLimit) String() string {
	return fmt.Sprintf("limit rate over %d bytes/second burst %d bytes", l.rate, l.burst)
}

func (l byteLimit) emit(e *emitter) error {
	return e.add(&expr.Limit{Type: expr.LimitTypePktBytes, Rate: l.rate, Unit: expr.LimitTimeSecond, Burst: l.burst, Over: true})
}

// SetPriority sets the packet's priority: MAJOR:MINOR of a class of the root
// qdisc that it leaves by (tc(8), skb->priority).
func SetPriority(major, minor uint16) Stmt { return priority{major, minor} }

type priority struct{ major, minor uint16 }

func (p priority) String() string { return fmt.Sprintf("meta priority set %x:%x", p.major, p.minor) }

func (p priority) emit(e *emitter) error {
	n := binary.NativeEndian.AppendUint32(nil, uint32(p.major)<<16|uint32(p.minor))
	if err := e.add(&expr.Immediate{Register: reg(0), Data: n}); err != nil {
		return err
	}
	return e.add(&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg(0), SourceRegister: true})
}

// SetIPDSCP sets the DSCP of IPv4 packets (RFC 2474); the two bits of ECN stay.
func SetIPDSCP(v uint8) Stmt { return dscp{v, ipv4Packet} }

// SetIP6DSCP sets the DSCP of IPv6 packets.
func SetIP6DSCP(v uint8) Stmt { return dscp{v, ipv6Packet} }

type dscp struct {
	v     uint8
	layer layer
}

func (d dscp) String() string {
	if d.layer == ipv6Packet {
		return fmt.Sprintf("ip6 dscp set 0x%02x", d.v)
	}
	return fmt.Sprintf("ip dscp set 0x%02x", d.v)
}

func (d dscp) emit(e *emitter) error {
	if err := e.need(d.layer, 0); err != nil {
		return err
	}
	// The first two bytes: version, header length and TOS, or version, traffic class and flow label.
	mask, xor, csum := uint16(0xff03), uint16(d.v)<<2, expr.CsumTypeInet
	if d.layer == ipv6Packet {
		mask, xor, csum = 0xf03f, uint16(d.v)<<6, expr.CsumTypeNone
	}
	be := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg(0), Base: expr.PayloadBaseNetworkHeader, Len: 2, CsumType: csum}
	if csum == expr.CsumTypeInet {
		write.CsumOffset = 10
	}
	for _, x := range []expr.Any{
		&expr.Payload{DestRegister: reg(0), Base: expr.PayloadBaseNetworkHeader, Len: 2},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 2, Mask: be(mask), Xor: be(xor)},
		write,
	} {
		if err := e.add(x); err != nil {
			return err
		}
	}
	return nil
}

// Count is what a [Counter] has counted.
type Count struct{ Packets, Bytes uint64 }

// Counts returns the counters of a table's chains, in the order of the rules
// and of the counters in them; nothing of chains without. nil when there is no
// such table.
func (c *Conn) Counts(ctx context.Context, t Table) (map[string][]Count, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		return nil, err
	}
	if st, err := c.table(t); err != nil || st == nil {
		return nil, err
	}
	out := map[string][]Count{}
	var q nlmsg
	q.str(unix.NFTA_RULE_TABLE, t.Name)
	err := c.s.dump(message{typ: unix.NFT_MSG_GETRULE, flags: unix.NLM_F_DUMP, family: t.Family, body: q.b, what: "rules of table " + t.String()}, unix.NFT_MSG_NEWRULE,
		func(f Family, b []byte) {
			var table, chain string
			var counts []Count
			_ = attrs(b, func(typ uint16, v []byte) {
				switch typ {
				case unix.NFTA_RULE_TABLE:
					table = cstr(v)
				case unix.NFTA_RULE_CHAIN:
					chain = cstr(v)
				case unix.NFTA_RULE_EXPRESSIONS:
					_ = attrs(v, func(_ uint16, v []byte) {
						var name string
						var data []byte
						_ = attrs(v, func(typ uint16, v []byte) {
							switch typ {
							case unix.NFTA_EXPR_NAME:
								name = cstr(v)
							case unix.NFTA_EXPR_DATA:
								data = v
							}
						})
						if name == "counter" {
							counts = append(counts, parseCount(data))
						}
					})
				}
			})
			if f == t.Family && table == t.Name && len(counts) > 0 {
				out[chain] = append(out[chain], counts...)
			}
		})
	return out, err
}

func parseCount(b []byte) (n Count) {
	_ = attrs(b, func(typ uint16, v []byte) {
		switch {
		case len(v) < 8:
		case typ == unix.NFTA_COUNTER_BYTES:
			n.Bytes = binary.BigEndian.Uint64(v)
		case typ == unix.NFTA_COUNTER_PACKETS:
			n.Packets = binary.BigEndian.Uint64(v)
		}
	})
	return n
}
