package openflow

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// CT hands the packet to connection tracking.
type CT struct {
	Commit bool
	Force  bool // with Commit: a connection of the other direction is replaced
	Zone   uint16
	// ZoneFrom, if it has bits, is where the zone is taken from.
	ZoneFrom Slice
	// Table is where a copy of the packet goes on, with ct_state. 0 stands for
	// none, unless Recirc is set.
	Table  uint8
	Recirc bool
	NAT    *NAT
	Exec   []Action // SetField and Move, of CtMark and CtLabel
	ALG    uint16   // 21: FTP, 69: TFTP
}

// NATKind is the address that is changed.
type NATKind uint8

// Kinds. NATRestore does what the connection's NAT was when it was committed.
const (
	NATRestore NATKind = 0
	NATSrc     NATKind = 1
	NATDst     NATKind = 2
)

// NAT is address translation as part of [CT].
type NAT struct {
	Kind NATKind
	// Min and Max are the addresses, both included; a Max that is not valid
	// stands for Min, and a Min that is not valid for whatever the switch takes.
	Min, Max netip.Addr
	// MinPort and MaxPort are the ports; a MaxPort of 0 stands for MinPort.
	MinPort, MaxPort         uint16
	Persistent, Hash, Random bool
}

func (a CT) String() string {
	var p []string
	if a.Commit {
		p = append(p, "commit")
	}
	if a.Force {
		p = append(p, "force")
	}
	if a.Table != 0 || a.Recirc {
		p = append(p, fmt.Sprintf("table=%d", a.Table))
	}
	if a.ZoneFrom.Bits != 0 {
		p = append(p, "zone="+a.ZoneFrom.String())
	} else if a.Zone != 0 {
		p = append(p, fmt.Sprintf("zone=%d", a.Zone))
	}
	if a.NAT != nil {
		p = append(p, a.NAT.String())
	}
	if len(a.Exec) > 0 {
		p = append(p, "exec("+joinActions(a.Exec)+")")
	}
	switch a.ALG {
	case 0:
	case 21:
		p = append(p, "alg=ftp")
	case 69:
		p = append(p, "alg=tftp")
	default:
		p = append(p, fmt.Sprintf("alg=%d", a.ALG))
	}
	return "ct(" + strings.Join(p, ",") + ")"
}

func (a CT) encode(b []byte) ([]byte, error) {
	switch {
	case a.Force && !a.Commit:
		return nil, errors.New("ct: force without commit")
	case a.NAT != nil && a.NAT.Kind != NATRestore && !a.Commit:
		return nil, errors.New("ct: nat(src or dst) without commit")
	case len(a.Exec) > 0 && !a.Commit:
		return nil, errors.New("ct: exec without commit")
	}
	flags := uint16(0)
	if a.Commit {
		flags |= 1
	}
	if a.Force {
		flags |= 2
	}
	table := a.Table
	if table == 0 && !a.Recirc {
		table = 255
	}
	start := len(b)
	b = be16(nxAction(b, nxCT, 0), flags)
	if a.ZoneFrom.Bits != 0 {
		if err := a.ZoneFrom.check(); err != nil {
			return nil, err
		}
		if a.ZoneFrom.Bits != 16 {
			return nil, fmt.Errorf("ct: zone of %d bits, not 16", a.ZoneFrom.Bits)
		}
		b = be16(a.ZoneFrom.Field.appendHeader(b), a.ZoneFrom.ofsBits())
	} else {
		b = be16(be32(b, 0), a.Zone)
	}
	b = be16(append(b, table, 0, 0, 0), a.ALG)
	var err error
	if a.NAT != nil {
		if b, err = a.NAT.encode(b); err != nil {
			return nil, err
		}
	}
	for _, x := range a.Exec {
		switch x.(type) {
		case SetField, Move, Raw:
		default:
			return nil, fmt.Errorf("ct: %s cannot be in exec", x)
		}
	}
	if b, err = appendActions(b, a.Exec); err != nil {
		return nil, err
	}
	return endAction(b, start)
}

func (n NAT) String() string {
	if n.Kind == NATRestore {
		return "nat"
	}
	s := "nat(src"
	if n.Kind == NATDst {
		s = "nat(dst"
	}
	if !n.Min.IsValid() {
		return s + ")"
	}
	addr := func(a netip.Addr) string {
		if a.Is6() && n.MinPort != 0 {
			return "[" + a.String() + "]"
		}
		return a.String()
	}
	s += "=" + addr(n.Min)
	if n.Max.IsValid() && n.Max != n.Min {
		s += "-" + addr(n.Max)
	}
	if n.MinPort != 0 {
		s += ":" + strconv.Itoa(int(n.MinPort))
		if n.MaxPort != 0 && n.MaxPort != n.MinPort {
			s += "-" + strconv.Itoa(int(n.MaxPort))
		}
	}
	if n.Persistent {
		s += ",persistent"
	}
	if n.Hash {
		s += ",hash"
	}
	if n.Random {
		s += ",random"
	}
	return s + ")"
}

// Which parts of a range follow (enum nx_nat_range).
const (
	natIPv4Min = 1 << iota
	natIPv4Max
	natIPv6Min
	natIPv6Max
	natPortMin
	natPortMax
)

func (n NAT) encode(b []byte) ([]byte, error) {
	flags := uint16(n.Kind)
	for i, f := range []bool{n.Persistent, n.Hash, n.Random} {
		if f {
			flags |= 4 << i
		}
	}
	lo, hi := n.Min.Unmap(), n.Max.Unmap()
	switch {
	case n.Kind > NATDst:
		return nil, fmt.Errorf("nat: kind %d", n.Kind)
	case n.Hash && n.Random:
		return nil, errors.New("nat: hash and random")
	case n.Kind == NATRestore && (flags != 0 || lo.IsValid() || n.MinPort != 0):
		return nil, errors.New("nat: an address, a port or a flag without src or dst")
	case !lo.IsValid() && (hi.IsValid() || n.MinPort != 0):
		return nil, errors.New("nat: a last address or a port without a first address")
	case lo.IsValid() && hi.IsValid() && (lo.Is4() != hi.Is4() || hi.Less(lo)):
		return nil, fmt.Errorf("nat: the addresses %s-%s are no range", lo, hi)
	case n.MaxPort != 0 && n.MaxPort < n.MinPort || n.MaxPort != 0 && n.MinPort == 0:
		return nil, fmt.Errorf("nat: the ports %d-%d are no range", n.MinPort, n.MaxPort)
	case lo.IsValid() && lo.IsUnspecified():
		return nil, fmt.Errorf("nat: to %s", lo)
	}
	var have uint16
	var args []byte
	add := func(a netip.Addr, bit4, bit6 uint16) {
		if a.Is4() {
			have |= bit4
		} else {
			have |= bit6
		}
		args = append(args, a.AsSlice()...)
	}
	if lo.IsValid() {
		add(lo, natIPv4Min, natIPv6Min)
		if hi.IsValid() && hi != lo {
			add(hi, natIPv4Max, natIPv6Max)
		}
	}
	if n.MinPort != 0 {
		have |= natPortMin
		args = be16(args, n.MinPort)
		if n.MaxPort != 0 && n.MaxPort != n.MinPort {
			have |= natPortMax
			args = be16(args, n.MaxPort)
		}
	}
	start := len(b)
	b = append(be16(append(nxAction(b, nxNAT, 0), 0, 0), flags, have), args...)
	return endAction(b, start)
}

func takeNAT(b []byte) (*NAT, error) {
	if len(b) < 16 {
		return nil, errShort
	}
	flags, have := get16(b[12:]), get16(b[14:])
	n := &NAT{Kind: NATKind(flags & 3), Persistent: flags&4 != 0, Hash: flags&8 != 0, Random: flags&16 != 0}
	if n.Kind > NATDst || flags&^31 != 0 || have&^63 != 0 {
		return nil, fmt.Errorf("nat: flags %#x and parts %#x", flags, have)
	}
	b = b[16:]
	take := func(bit uint16, size int) ([]byte, bool) {
		if have&bit == 0 || len(b) < size {
			return nil, false
		}
		p := b[:size]
		b = b[size:]
		have &^= bit
		return p, true
	}
	for _, v := range []struct {
		bit  uint16
		size int
		to   *netip.Addr
	}{{natIPv4Min, 4, &n.Min}, {natIPv4Max, 4, &n.Max}, {natIPv6Min, 16, &n.Min}, {natIPv6Max, 16, &n.Max}} {
		if p, ok := take(v.bit, v.size); ok {
			*v.to, _ = netip.AddrFromSlice(p)
		}
	}
	if p, ok := take(natPortMin, 2); ok {
		n.MinPort = get16(p)
	}
	if p, ok := take(natPortMax, 2); ok {
		n.MaxPort = get16(p)
	}
	if have != 0 {
		return nil, fmt.Errorf("nat: %w", errShort)
	}
	if n.Max == n.Min {
		n.Max = netip.Addr{}
	}
	if n.MaxPort == n.MinPort {
		n.MaxPort = 0
	}
	return n, nil
}

// CTClear forgets what connection tracking said of the packet.
type CTClear struct{}

func (CTClear) String() string                  { return "ct_clear" }
func (CTClear) encode(b []byte) ([]byte, error) { return void(b, nxCTClear), nil }
