package openflow

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// text is value and mask as ovs prints the field in set_field.
func (c Cond) text() string {
	v, m := c.Value, c.Mask
	n := c.Field.wireLen()
	suffix := ""
	if !c.Exact() {
		suffix = "/" + m.text()
	}
	switch c.Field.info().format {
	case ipv4, ipv6:
		a, _ := netip.AddrFromSlice(v.bytes(n))
		if c.Exact() {
			return a.String()
		}
		if p, ok := c.prefixLen(); ok {
			return fmt.Sprintf("%s/%d", a, p)
		}
		ma, _ := netip.AddrFromSlice(m.bytes(n))
		return a.String() + "/" + ma.String()
	case mac:
		if c.Exact() {
			return macText(v)
		}
		return macText(v) + "/" + macText(m)
	case port:
		if c.Field == InPort16 {
			return longPort(uint16(v.Lo)).String()
		}
		return Port(v.Lo).String()
	case ctFlags:
		return flagText(c, "|", ctStateNames[:], 0xff)
	case tcpFlagText:
		return flagText(c, "|", tcpFlagNames[:], 0xfff)
	case frag:
		return c.fragText()
	case decimal, vlanText:
		return strconv.FormatUint(v.Lo, 10) + suffix
	}
	return v.text() + suffix
}

func macText(v Value) string {
	b := v.bytes(6)
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// prefixLen is the number of leading one-bits of the mask, if it is only these.
func (c Cond) prefixLen() (int, bool) {
	w := c.Field.Width()
	n := c.Mask.ones()
	return n, c.Mask == lowOnes(w).andNot(lowOnes(w-n))
}

var (
	ctStateNames = [...]string{"new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"}
	tcpFlagNames = [...]string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"}
)

// flagText is +a-b, or a|b where all bits are given.
func flagText(c Cond, sep string, names []string, all uint64) string {
	var b strings.Builder
	if c.Mask.Lo&all == all {
		if c.Value.Lo == 0 {
			return "0"
		}
		var set []string
		for v := c.Value.Lo; v != 0; v &= v - 1 {
			set = append(set, flagName(bits.TrailingZeros64(v), names))
		}
		return strings.Join(set, sep)
	}
	for m := c.Mask.Lo; m != 0; m &= m - 1 {
		bit := bits.TrailingZeros64(m)
		sign := "-"
		if c.Value.Lo&(1<<bit) != 0 {
			sign = "+"
		}
		b.WriteString(sign + flagName(bit, names))
	}
	return b.String()
}

func flagName(bit int, names []string) string {
	if bit < len(names) {
		return names[bit]
	}
	return fmt.Sprintf("[%x]", uint64(1)<<bit)
}

func (c Cond) fragText() string {
	any, later := c.Value.Lo&FragAny != 0, c.Value.Lo&FragLater != 0
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	switch c.Mask.Lo {
	case FragAny:
		return pick(any, "yes", "no")
	case FragLater:
		return pick(later, "later", "not_later")
	}
	if any {
		return pick(later, "later", "first")
	}
	return pick(later, "<error>", "no")
}

// String is the match in the order and spelling of ovs-ofctl.
func (m Match) String() string {
	c, err := m.canonical()
	if err != nil { // as good as it gets
		var p []string
		for _, x := range m {
			p = append(p, x.Field.String()+"="+x.Value.text()+"/"+x.Mask.text())
		}
		return strings.Join(p, ",")
	}
	k := kindOf(c)
	var p []string
	add := func(name, text string) { p = append(p, name+"="+text) }
	short := shorthand(k)
	for i := 0; i < len(c); i++ {
		x := c[i]
		switch x.Field {
		case EthType:
			if short != "" {
				p = append(p, short)
			}
		case IPProto:
			if short == "" || short == "ip" || short == "ipv6" {
				add("nw_proto", x.text())
			}
		case VLANVID, VLANPCP:
			var pcp Cond
			vid := x
			if x.Field == VLANPCP {
				vid, pcp = Cond{Field: VLANVID}, x
			} else if i+1 < len(c) && c[i+1].Field == VLANPCP {
				i++
				pcp = c[i]
			}
			p = append(p, vlanParts(vid, pcp)...)
		case IPDSCP:
			add("nw_tos", strconv.FormatUint(x.Value.Lo<<2, 10))
		case ICMPv6Type, ICMPv6Code:
			add(strings.Replace(x.Field.String(), "v6", "", 1), x.text())
		case CtTpSrc, CtTpDst:
			add(x.Field.String(), portText(x))
		case TCPSrc, UDPSrc, SCTPSrc:
			add("tp_src", portText(x))
		case TCPDst, UDPDst, SCTPDst:
			add("tp_dst", portText(x))
		case IPv6Label:
			if x.Exact() {
				add("ipv6_label", fmt.Sprintf("0x%05x", x.Value.Lo))
			} else {
				add("ipv6_label", fmt.Sprintf("0x%05x/0x%05x", x.Value.Lo, x.Mask.Lo))
			}
		default:
			add(x.Field.String(), x.text())
		}
		if last := i+1 == len(c) || c[i+1].Field > EthDst; last && x.Field <= EthDst && short == "" && k.ethType >= 0 {
			add("dl_type", fmt.Sprintf("0x%04x", k.ethType))
		}
	}
	return strings.Join(p, ",")
}

// portText is a port in a match, where one under a mask is hexadecimal.
func portText(c Cond) string {
	if c.Exact() {
		return c.text()
	}
	return fmt.Sprintf("0x%x/0x%x", c.Value.Lo, c.Mask.Lo)
}

// shorthand is how ovs-ofctl says dl_type and nw_proto, or nothing.
func shorthand(k kind) string {
	six := ""
	switch k.ethType {
	case EthIPv4:
	case EthIPv6:
		six = "6"
	case EthARP:
		return "arp"
	case EthRARP:
		return "rarp"
	case EthMPLS:
		return "mpls"
	case EthMPLS + 1:
		return "mplsm"
	default:
		return ""
	}
	switch {
	case k.proto == ProtoTCP:
		return "tcp" + six
	case k.proto == ProtoUDP:
		return "udp" + six
	case k.proto == ProtoSCTP:
		return "sctp" + six
	case k.proto == ProtoICMP && six == "", k.proto == ProtoICMPv6 && six != "":
		return "icmp" + six
	case six != "":
		return "ipv6"
	}
	return "ip"
}

// vlanParts prints dl_vlan and dl_vlan_pcp, or vlan_tci where these do not say it.
func vlanParts(vid, pcp Cond) []string {
	tci, mask := vid.Value.Lo|pcp.Value.Lo<<13, vid.Mask.Lo|pcp.Mask.Lo<<13
	vm, pm := mask&0xfff, mask&0xe000
	if mask&tci&VLANPresent != 0 && (vm == 0 || vm == 0xfff) && (pm == 0 || pm == 0xe000) && (vm != 0 || pm != 0) {
		var p []string
		if vm != 0 {
			p = append(p, fmt.Sprintf("dl_vlan=%d", tci&0xfff))
		}
		if pm != 0 {
			p = append(p, fmt.Sprintf("dl_vlan_pcp=%d", tci>>13))
		}
		return p
	}
	if mask == 0xffff {
		return []string{fmt.Sprintf("vlan_tci=0x%04x", tci)}
	}
	return []string{fmt.Sprintf("vlan_tci=0x%04x/0x%04x", tci, mask)}
}
