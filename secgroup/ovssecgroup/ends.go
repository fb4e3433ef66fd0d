package ovssecgroup

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	of "github.com/vnet-go/vnet/internal/openflow"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/internal/book"
)

// mayEnd reports whether a change may leave connections without a rule: only
// then all that stands has to be read, to know which. It is asked before the
// change is made.
func (l *ledger) mayEnd(c book.Change, fresh func(portID string) bool) bool {
	enforced := func(p *secgroup.Port) bool { return p != nil && !p.DisablePortSecurity && l.st.local(p.Host) }
	switch {
	case c.Old.Group != nil && c.New.Group != nil:
		return book.Narrowed(*c.Old.Group, *c.New.Group)
	case c.Old.AddressGroup != nil:
		id := remoteID(secgroup.Remote{AddressGroup: c.Old.AddressGroup.ID})
		return !c.Same() && l.remote(id) != nil
	case c.Old.Port != nil:
		if c.Same() {
			return false
		}
		old, now := *c.Old.Port, c.New.Port
		if l.st.local(old.Host) || enforced(now) {
			return true
		}
		return slices.ContainsFunc(old.Groups, func(g string) bool { return l.remote(remoteID(secgroup.Remote{Group: g})) != nil })
	}
	return enforced(c.New.Port) && fresh(c.New.Port.ID)
}

// endAfter ends the connections that nothing allows any more, once the
// submission stands.
func (b *Backend) endAfter(tx *ovs.Tx, l *ledger, ends *book.Ends) {
	if ends == nil || len(ends.Networks) == 0 {
		return
	}
	zones := map[uint16]string{}
	for n := range ends.Networks {
		if zone, ok := tx.Known("network", n); ok {
			zones[zone] = n
		}
	}
	tx.After(func(ctx context.Context) error {
		now := l.all()
		if _, batch := b.t.(*ovs.Batch); batch {
			// More may have been submitted since.
			if err := b.look(ctx, func(_ *ovs.Tx, l *ledger) error {
				now = l.all()
				return nil
			}); err != nil {
				return err
			}
		}
		// What has been let through by what stood before is committed by now.
		if err := b.sw.Settle(ctx); err != nil {
			return fmt.Errorf("end connections: %w", err)
		}
		b.metrics.walks.Inc()
		dead := ends.Judge(now)
		n := 0
		for zone, network := range zones {
			all, err := b.sw.Connections(ctx, zone)
			if err != nil {
				return fmt.Errorf("connections of network %s: %w", network, err)
			}
			all = slices.DeleteFunc(all, func(c ovs.Connection) bool { return !dead(connection(network, c)) })
			n += len(all)
			marked := slices.DeleteFunc(slices.Clone(all), func(c ovs.Connection) bool { return !b.sw.Userspace() || c.Proto != of.ProtoICMPv6 })
			if len(marked) > 0 {
				all = slices.DeleteFunc(all, func(c ovs.Connection) bool { return c.Proto == of.ProtoICMPv6 })
			}
			if err := cmp.Or(b.sw.Forget(ctx, all...), b.endMarked(ctx, marked)); err != nil {
				return fmt.Errorf("end connections of network %s: %w", network, err)
			}
		}
		if n > 0 {
			b.metrics.ended.Add(float64(n))
			b.sw.Logger().InfoContext(ctx, "secgroup: connections ended", "host", b.sw.Name(), "count", n)
		}
		return nil
	})
}

// endMarked ends connections of ICMPv6 on the userspace data path by marking
// them: ovs-vswitchd 3.1 to 3.1.6 ends itself when it is told to forget one
// (tuple_to_conn_key in lib/conntrack.c, mended by "conntrack: Do not use icmp
// reverse helper for icmpv6."). An echo request as the first one was is
// tracked and goes nowhere. The entry times out.
func (b *Backend) endMarked(ctx context.Context, cs []ovs.Connection) error {
	for _, c := range cs {
		fields := []of.Cond{of.InPort.Is(uint64(of.PortController)), of.Reg(regNetwork).Is(uint64(c.Zone)), of.Reg(regFlags).Is(1<<bitNew | 1<<bitEnd)}
		if err := b.sw.Inject(ctx, fields, echo(c.Orig), of.Resubmit{Table: tableCommit}); err != nil {
			return err
		}
	}
	return nil
}

// echo is a frame of ICMPv6 without payload (RFC 4443, 4.1).
func echo(t ovs.Tuple) []byte {
	f := make([]byte, 14+40+8)
	f[0], f[6] = 2, 2
	binary.BigEndian.PutUint16(f[12:], of.EthIPv6)
	ip, icmp := f[14:54], f[54:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(icmp)), of.ProtoICMPv6, 64
	src, dst := t.Src.As16(), t.Dst.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	icmp[0], icmp[1] = t.Type, t.Code
	binary.BigEndian.PutUint16(icmp[4:], t.ID)
	// Over a pseudo header too (RFC 8200, 8.1).
	sum := uint32(len(icmp)) + of.ProtoICMPv6
	for _, part := range [][]byte{src[:], dst[:], icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))
	return f
}

// connection is c as the judge sees it.
func connection(network string, c ovs.Connection) book.Connection {
	out := book.Connection{Network: network, Protocol: c.Proto, Src: c.Orig.Src, Dst: c.Orig.Dst, SrcPort: c.Orig.SrcPort, Selector: c.Orig.DstPort, Mark: c.Mark}
	if c.Proto == of.ProtoICMP || c.Proto == of.ProtoICMPv6 {
		out.SrcPort, out.Selector = 0, uint16(c.Orig.Type)<<8|uint16(c.Orig.Code)
	}
	return out
}

// Features implements [secgroup.Backend].
func (b *Backend) Features(context.Context) secgroup.Features {
	f := secgroup.Features{
		Stateless: true, Tracking: "Open vSwitch connection tracking, a zone for each network",
		Limits: []string{"ranges of ports are for tcp, udp and sctp"},
	}
	if b.sw.Userspace() {
		f.Limits = append(f.Limits,
			"on the userspace data path, ICMP echo and timestamp with a code other than 0 are invalid",
			"on the userspace data path, a datagram in fragments opens no connection by a rule about ports or types",
		)
	}
	return f
}
