package openflow

import (
	"errors"
	"fmt"
)

// prerequisites checks that a packet that meets the match has the fields of it.
// The match is canonical.
func (m Match) prerequisites() error {
	k := kindOf(m)
	for _, c := range m {
		if !k.has(c.Field.info().need) {
			return badField(c.Field, "needs %s", c.Field.info().need)
		}
	}
	return nil
}

// kind is what a match says about the packet.
type kind struct {
	ethType, proto, icmp int // -1: nothing
	later                bool
	vlan, trk            bool
}

func kindOf(m Match) kind {
	k := kind{-1, -1, -1, false, false, false}
	for _, c := range m {
		switch c.Field {
		case EthType:
			k.ethType = int(c.Value.Lo)
		case IPProto:
			k.proto = int(c.Value.Lo)
		case ICMPv6Type:
			k.icmp = int(c.Value.Lo)
		case IPFrag:
			k.later = c.Value.Lo&FragLater != 0
		case VLANVID:
			k.vlan = c.Value.Lo&VLANPresent != 0
		case CtState:
			k.trk = c.Value.Lo&(CtNew|CtEst|CtRel|CtRpl|CtSNAT|CtDNAT) != 0 || c.Value.Lo&CtTrk != 0 && c.Mask.Lo&^c.Value.Lo&CtInv != 0
		}
	}
	return k
}

func (k kind) has(n need) bool {
	ip := k.ethType == EthIPv4 || k.ethType == EthIPv6
	l4 := ip && !k.later
	switch n {
	case needVLAN:
		return k.vlan
	case needMPLS:
		return k.ethType == EthMPLS || k.ethType == EthMPLS+1
	case needIPv4:
		return k.ethType == EthIPv4
	case needIPv6:
		return k.ethType == EthIPv6
	case needIP:
		return ip
	case needARP:
		return k.ethType == EthARP || k.ethType == EthRARP
	case needTCP:
		return l4 && k.proto == ProtoTCP
	case needUDP:
		return l4 && k.proto == ProtoUDP
	case needSCTP:
		return l4 && k.proto == ProtoSCTP
	case needICMP:
		return k.ethType == EthIPv4 && !k.later && k.proto == ProtoICMP
	case needICMPv6:
		return k.ethType == EthIPv6 && !k.later && k.proto == ProtoICMPv6
	case needND:
		return k.has(needICMPv6) && (k.icmp == 135 || k.icmp == 136)
	case needNS:
		return k.has(needICMPv6) && k.icmp == 135
	case needNA:
		return k.has(needICMPv6) && k.icmp == 136
	case needCt:
		return k.trk && ip
	}
	return true
}

func (n need) String() string {
	return [...]string{"nothing", "an Ethernet packet", "VLANVID with a tag", "dl_type of MPLS", "dl_type=0x0800 (IPv4)", "dl_type=0x86dd (IPv6)",
		"dl_type=0x0800 or 0x86dd (IP)", "dl_type=0x0806 (ARP)", "IP with nw_proto=6 (TCP)", "IP with nw_proto=17 (UDP)", "IP with nw_proto=132 (SCTP)",
		"IPv4 with nw_proto=1 (ICMP)", "IPv6 with nw_proto=58 (ICMPv6)", "ICMPv6 with icmpv6_type=135 or 136 (ND)",
		"ICMPv6 with icmpv6_type=135 (neighbour solicitation)", "ICMPv6 with icmpv6_type=136 (neighbour advertisement)", "ct_state=+trk-inv, or with one of +new, +est, +rel, +rpl, +snat, +dnat"}[n]
}

// actionsFit checks that packets of the match have what the actions are about.
// Open vSwitch refuses anything else from OpenFlow 1.1 on
// (OFPBAC_MATCH_INCONSISTENT).
func (k kind) actionsFit(as []Action) error {
	conjunctions, others := 0, 0
	for _, a := range as {
		switch a.(type) {
		case Conjunction:
			conjunctions++
		case Note:
		default:
			others++
		}
	}
	if conjunctions > 0 && others > 0 {
		return errors.New("conjunction goes with other conjunctions and notes only")
	}
	for _, a := range as {
		if err := k.actionFits(a); err != nil {
			return err
		}
		switch a.(type) {
		case PushVLAN:
			k.vlan = true
		case PopVLAN:
			k.vlan = false
		}
	}
	return nil
}

func (k kind) actionFits(a Action) error {
	needs := func(n need) error {
		if k.has(n) {
			return nil
		}
		return fmt.Errorf("%s needs a match on %s", a, n)
	}
	field := func(f Field) error {
		if f == VLANVID {
			return needs(needVLAN)
		}
		return needs(f.info().need)
	}
	switch a := a.(type) {
	case SetField:
		return field(a.Field)
	case Move:
		if err := field(a.Src.Field); err != nil {
			return err
		}
		return field(a.Dst.Field)
	case Push:
		return field(a.Field)
	case Pop:
		return field(a.Field)
	case OutputReg:
		return field(a.Src.Field)
	case PopVLAN:
		return needs(needVLAN)
	case DecTTL, SetTTL:
		return needs(needIP)
	case Resubmit:
		if a.CT {
			return needs(needCt)
		}
	case CT:
		switch a.ALG {
		case 0:
		case 21:
			return needs(needTCP)
		case 69:
			return needs(needUDP)
		}
		if err := needs(needIP); err != nil {
			return err
		}
		return k.actionsFit(a.Exec)
	case Clone:
		return k.actionsFit(a.Actions)
	case WriteActions:
		return k.actionsFit(a.Actions)
	}
	return nil
}
