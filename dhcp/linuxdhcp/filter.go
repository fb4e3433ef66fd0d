package linuxdhcp

import "golang.org/x/net/bpf"

const (
	ethLen  = 14
	ip6Len  = 40
	typeIP4 = 0x0800
	typeARP = 0x0806
	typeIP6 = 0x86dd

	protoUDP    = 17
	protoICMPv6 = 58
	ndSolicit   = 135
)

// filter lets up what the server may have to answer: ARP requests, UDP to
// port 67 by IPv4 and 547 by IPv6, neighbour solicitations; not what the host
// sends itself, and no fragments.
func filter() []bpf.Instruction {
	const outgoing = 4 // PACKET_OUTGOING, packet(7)
	return []bpf.Instruction{
		/*  0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/*  1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: outgoing, SkipTrue: 20},
		/*  2 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/*  3 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeIP4, SkipTrue: 4},
		/*  4 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeIP6, SkipTrue: 10},
		/*  5 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeARP, SkipTrue: 16},
		/*  6 */ bpf.LoadAbsolute{Off: ethLen + 6, Size: 2},
		/*  7 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 13, SkipFalse: 14},
		/*  8 */ bpf.LoadAbsolute{Off: ethLen + 9, Size: 1},
		/*  9 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 12},
		/* 10 */ bpf.LoadAbsolute{Off: ethLen + 6, Size: 2},
		/* 11 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 10},
		/* 12 */ bpf.LoadMemShift{Off: ethLen},
		/* 13 */ bpf.LoadIndirect{Off: ethLen + 2, Size: 2},
		/* 14 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 67, SkipTrue: 6, SkipFalse: 7},
		/* 15 */ bpf.LoadAbsolute{Off: ethLen + 6, Size: 1},
		/* 16 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoICMPv6, SkipTrue: 2},
		/* 17 */ bpf.LoadAbsolute{Off: ethLen + ip6Len + 2, Size: 2},
		/* 18 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 547, SkipTrue: 2, SkipFalse: 3},
		/* 19 */ bpf.LoadAbsolute{Off: ethLen + ip6Len, Size: 1},
		/* 20 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndSolicit, SkipTrue: 1},
		/* 21 */ bpf.RetConstant{Val: 1 << 16},
		/* 22 */ bpf.RetConstant{Val: 0},
	}
}
