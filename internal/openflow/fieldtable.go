package openflow

import "fmt"

// OXM classes (OpenFlow 1.5.1 section 7.2.3.2; nicira-ext.h).
const (
	nxm0        = 0x0000
	nxm1        = 0x0001
	oxmBasic    = 0x8000
	oxmPktReg   = 0x8001
	oxmEricsson = 0x1000 // what ERICOXM_OF_ is in OVS
)

type access uint8

const (
	canMask access = 1 << iota
	canSet
)

// need is what a packet must be for it to have the field.
type need uint8

const (
	needNone need = iota
	needEthernet
	needVLAN
	needMPLS
	needIPv4
	needIPv6
	needIP
	needARP
	needTCP
	needUDP
	needSCTP
	needICMP
	needICMPv6
	needND
	needNS
	needNA
	needCt
)

type format uint8

const (
	decimal format = iota
	hexText
	ipv4
	ipv6
	mac
	ctFlags
	tcpFlagText
	frag
	port
	vlanText
)

// wire is the class and number of a TLV.
type wire struct {
	class uint16
	num   uint8
}

type fieldInfo struct {
	name   string
	nxm    string // name in subfields
	bits   uint8
	format format
	access access
	need   need
	write  wire // what we and OpenFlow 1.5 switches send
	also   wire // another way it may come; the same as write if none
}

// Short names keep the table narrow.
const (
	rw  = canMask | canSet
	rwx = canSet // no mask
	rom = canMask
	ro  = 0
)

// fieldTable holds the facts of meta-flow.h and ovs-fields(7) of OVS 3.1.
var fieldTable = [fieldEnd]fieldInfo{
	PktMark:      nx("pkt_mark", "PKT_MARK", 32, hexText, rw, needNone, 33),
	RecircID:     nx("recirc_id", "RECIRC_ID", 32, hexText, ro, needNone, 36),
	DPHash:       nx("dp_hash", "DP_HASH", 32, hexText, rom, needNone, 35),
	ConjID:       nx("conj_id", "CONJ_ID", 32, decimal, ro, needNone, 37),
	ActsetOutput: ox("actset_output", "OXM_OF_ACTSET_OUTPUT", 32, port, ro, needNone, 43, wire{}),
	CtState:      nx("ct_state", "CT_STATE", 32, ctFlags, rom, needNone, 105),
	CtZone:       nx("ct_zone", "CT_ZONE", 16, decimal, ro, needNone, 106),
	CtMark:       nx("ct_mark", "CT_MARK", 32, hexText, rw, needNone, 107),
	CtLabel:      nx("ct_label", "CT_LABEL", 128, hexText, rw, needNone, 108),
	CtNwSrc:      nx("ct_nw_src", "CT_NW_SRC", 32, ipv4, rom, needCt, 120),
	CtIPv6Src:    nx("ct_ipv6_src", "CT_IPV6_SRC", 128, ipv6, rom, needCt, 122),
	CtNwDst:      nx("ct_nw_dst", "CT_NW_DST", 32, ipv4, rom, needCt, 121),
	CtIPv6Dst:    nx("ct_ipv6_dst", "CT_IPV6_DST", 128, ipv6, rom, needCt, 123),
	CtNwProto:    nx("ct_nw_proto", "CT_NW_PROTO", 8, decimal, ro, needCt, 119),
	CtTpSrc:      nx("ct_tp_src", "CT_TP_SRC", 16, decimal, rom, needCt, 124),
	CtTpDst:      nx("ct_tp_dst", "CT_TP_DST", 16, decimal, rom, needCt, 125),
	packetType:   ox("packet_type", "OXM_OF_PACKET_TYPE", 32, hexText, ro, needNone, 44, wire{}),
	EthType:      ox("dl_type", "NXM_OF_ETH_TYPE", 16, hexText, ro, needEthernet, 5, wire{nxm0, 3}),

	Reg0: reg(0), Reg1: reg(1), Reg2: reg(2), Reg3: reg(3), Reg4: reg(4), Reg5: reg(5), Reg6: reg(6), Reg7: reg(7),
	Reg8: reg(8), Reg9: reg(9), Reg10: reg(10), Reg11: reg(11), Reg12: reg(12), Reg13: reg(13), Reg14: reg(14), Reg15: reg(15),
	XReg0: xreg(0), XReg1: xreg(1), XReg2: xreg(2), XReg3: xreg(3), XReg4: xreg(4), XReg5: xreg(5), XReg6: xreg(6), XReg7: xreg(7),
	XXReg0: xxreg(0), XXReg1: xxreg(1), XXReg2: xxreg(2), XXReg3: xxreg(3),

	TunID:       ox("tun_id", "NXM_NX_TUN_ID", 64, hexText, rw, needNone, 38, wire{nxm1, 16}),
	TunSrc:      nx("tun_src", "TUN_IPV4_SRC", 32, ipv4, rw, needNone, 31),
	TunDst:      nx("tun_dst", "TUN_IPV4_DST", 32, ipv4, rw, needNone, 32),
	TunIPv6Src:  nx("tun_ipv6_src", "TUN_IPV6_SRC", 128, ipv6, rw, needNone, 109),
	TunIPv6Dst:  nx("tun_ipv6_dst", "TUN_IPV6_DST", 128, ipv6, rw, needNone, 110),
	TunGBPID:    nx("tun_gbp_id", "TUN_GBP_ID", 16, decimal, rw, needNone, 38),
	TunGBPFlags: nx("tun_gbp_flags", "TUN_GBP_FLAGS", 8, hexText, rw, needNone, 39),
	TunFlags:    nx("tun_flags", "TUN_FLAGS", 16, hexText, rw, needNone, 104),
	Metadata:    ox("metadata", "OXM_OF_METADATA", 64, hexText, rw, needNone, 2, wire{}),
	InPort:      ox("in_port", "OXM_OF_IN_PORT", 32, port, rwx, needNone, 0, wire{}),
	InPort16:    {"in_port", "NXM_OF_IN_PORT", 16, port, rwx, needNone, wire{nxm0, 0}, wire{nxm0, 0}},

	VLANVID:   ox("vlan_vid", "OXM_OF_VLAN_VID", 13, vlanText, rw, needEthernet, 6, wire{}),
	VLANPCP:   ox("dl_vlan_pcp", "OXM_OF_VLAN_PCP", 3, decimal, rwx, needVLAN, 7, wire{}),
	VLANTCI:   {"vlan_tci", "NXM_OF_VLAN_TCI", 16, hexText, rw, needEthernet, wire{nxm0, 4}, wire{nxm0, 4}},
	EthSrc:    ox("dl_src", "NXM_OF_ETH_SRC", 48, mac, rw, needEthernet, 4, wire{nxm0, 2}),
	EthDst:    ox("dl_dst", "NXM_OF_ETH_DST", 48, mac, rw, needEthernet, 3, wire{nxm0, 1}),
	IPv6Src:   ox("ipv6_src", "NXM_NX_IPV6_SRC", 128, ipv6, rw, needIPv6, 26, wire{nxm1, 19}),
	IPv6Dst:   ox("ipv6_dst", "NXM_NX_IPV6_DST", 128, ipv6, rw, needIPv6, 27, wire{nxm1, 20}),
	IPv6Label: ox("ipv6_label", "NXM_NX_IPV6_LABEL", 20, hexText, rw, needIPv6, 28, wire{nxm1, 27}),
	ARPSPA:    ox("arp_spa", "NXM_OF_ARP_SPA", 32, ipv4, rw, needARP, 22, wire{nxm0, 16}),
	ARPTPA:    ox("arp_tpa", "NXM_OF_ARP_TPA", 32, ipv4, rw, needARP, 23, wire{nxm0, 17}),
	IPv4Src:   ox("nw_src", "NXM_OF_IP_SRC", 32, ipv4, rw, needIPv4, 11, wire{nxm0, 7}),
	IPv4Dst:   ox("nw_dst", "NXM_OF_IP_DST", 32, ipv4, rw, needIPv4, 12, wire{nxm0, 8}),
	ARPOp:     ox("arp_op", "NXM_OF_ARP_OP", 16, decimal, rwx, needARP, 21, wire{nxm0, 15}),
	IPProto:   ox("nw_proto", "NXM_OF_IP_PROTO", 8, decimal, ro, needIP, 10, wire{nxm0, 6}),
	ARPSHA:    ox("arp_sha", "NXM_NX_ARP_SHA", 48, mac, rw, needARP, 24, wire{nxm1, 17}),
	ARPTHA:    ox("arp_tha", "NXM_NX_ARP_THA", 48, mac, rw, needARP, 25, wire{nxm1, 18}),
	IPDSCP:    ox("ip_dscp", "OXM_OF_IP_DSCP", 6, decimal, rwx, needIP, 8, wire{}),
	IPECN:     ox("nw_ecn", "NXM_NX_IP_ECN", 2, decimal, rwx, needIP, 9, wire{nxm1, 28}),
	IPTTL:     nx("nw_ttl", "IP_TTL", 8, decimal, rwx, needIP, 29),
	MPLSLabel: ox("mpls_label", "OXM_OF_MPLS_LABEL", 20, decimal, rwx, needMPLS, 34, wire{}),
	MPLSTC:    ox("mpls_tc", "OXM_OF_MPLS_TC", 3, decimal, rwx, needMPLS, 35, wire{}),
	MPLSTTL:   nx("mpls_ttl", "MPLS_TTL", 8, decimal, rwx, needMPLS, 30),
	MPLSBOS:   ox("mpls_bos", "OXM_OF_MPLS_BOS", 1, decimal, ro, needMPLS, 36, wire{}),
	IPFrag:    nx("nw_frag", "IP_FRAG", 2, frag, rom, needIP, 26),

	ICMPType:      ox("icmp_type", "NXM_OF_ICMP_TYPE", 8, decimal, rwx, needICMP, 19, wire{nxm0, 13}),
	ICMPCode:      ox("icmp_code", "NXM_OF_ICMP_CODE", 8, decimal, rwx, needICMP, 20, wire{nxm0, 14}),
	ICMPv6Type:    ox("icmpv6_type", "NXM_NX_ICMPV6_TYPE", 8, decimal, rwx, needICMPv6, 29, wire{nxm1, 21}),
	ICMPv6Code:    ox("icmpv6_code", "NXM_NX_ICMPV6_CODE", 8, decimal, rwx, needICMPv6, 30, wire{nxm1, 22}),
	NDTarget:      ox("nd_target", "NXM_NX_ND_TARGET", 128, ipv6, rw, needND, 31, wire{nxm1, 23}),
	NDSLL:         ox("nd_sll", "NXM_NX_ND_SLL", 48, mac, rw, needNS, 32, wire{nxm1, 24}),
	NDTLL:         ox("nd_tll", "NXM_NX_ND_TLL", 48, mac, rw, needNA, 33, wire{nxm1, 25}),
	NDReserved:    eric("nd_reserved", "ERICOXM_OF_ICMPV6_ND_RESERVED", 32, decimal, 1),
	NDOptionsType: eric("nd_options_type", "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE", 8, decimal, 2),
	TCPSrc:        ox("tcp_src", "NXM_OF_TCP_SRC", 16, decimal, rw, needTCP, 13, wire{nxm0, 9}),
	TCPDst:        ox("tcp_dst", "NXM_OF_TCP_DST", 16, decimal, rw, needTCP, 14, wire{nxm0, 10}),
	UDPSrc:        ox("udp_src", "NXM_OF_UDP_SRC", 16, decimal, rw, needUDP, 15, wire{nxm0, 11}),
	UDPDst:        ox("udp_dst", "NXM_OF_UDP_DST", 16, decimal, rw, needUDP, 16, wire{nxm0, 12}),
	SCTPSrc:       ox("sctp_src", "OXM_OF_SCTP_SRC", 16, decimal, rw, needSCTP, 17, wire{}),
	SCTPDst:       ox("sctp_dst", "OXM_OF_SCTP_DST", 16, decimal, rw, needSCTP, 18, wire{}),
	TCPFlags:      ox("tcp_flags", "NXM_NX_TCP_FLAGS", 12, tcpFlagText, rom, needTCP, 42, wire{nxm1, 34}),
}

func ox(name, nxm string, bits uint8, f format, a access, n need, num uint8, also wire) fieldInfo {
	w := wire{oxmBasic, num}
	if also == (wire{}) {
		also = w
	}
	return fieldInfo{name, nxm, bits, f, a, n, w, also}
}

func nx(name, nxm string, bits uint8, f format, a access, n need, num uint8) fieldInfo {
	w := wire{nxm1, num}
	return fieldInfo{name, "NXM_NX_" + nxm, bits, f, a, n, w, w}
}

// eric are fields of ND that Ericsson's extension defines.
func eric(name, nxm string, bits uint8, f format, num uint8) fieldInfo {
	w := wire{oxmEricsson, num}
	return fieldInfo{name, nxm, bits, f, rwx, needND, w, w}
}

func reg(n uint8) fieldInfo {
	return nx(fmt.Sprintf("reg%d", n), fmt.Sprintf("REG%d", n), 32, hexText, rw, needNone, n)
}

func xreg(n uint8) fieldInfo {
	w := wire{oxmPktReg, n}
	return fieldInfo{fmt.Sprintf("xreg%d", n), fmt.Sprintf("OXM_OF_PKT_REG%d", n), 64, hexText, rw, needNone, w, w}
}

func xxreg(n uint8) fieldInfo {
	return nx(fmt.Sprintf("xxreg%d", n), fmt.Sprintf("XXREG%d", n), 128, hexText, rw, needNone, 111+n)
}

// fieldOf finds fields by what is on the wire.
var fieldOf = func() map[wire]Field {
	m := map[wire]Field{}
	for f := Field(1); f < fieldEnd; f++ {
		m[fieldTable[f].also] = f
	}
	for f := Field(1); f < fieldEnd; f++ {
		m[fieldTable[f].write] = f
	}
	return m
}()
