package nft

// Rule is one rule: statements judged from left to right until a match fails.
type Rule []Stmt

// Stmt is a match or an action of a rule. It prints as nft writes it.
type Stmt interface {
	String() string
	emit(*emitter) error
}

// Field is something of a packet or its connection that can be compared,
// looked up, or stored.
type Field uint8

// The fields. Those of a protocol match only packets of that protocol; the
// test for it is put in by itself (in family bridge as `meta protocol`, in
// inet as `meta nfproto`, for ports as `meta l4proto`).
const (
	IIfName      Field = iota + 1 // input device; in family bridge the bridge's port (TypeIfName)
	OIfName                       // output device (TypeIfName)
	IBrName                       // family bridge: bridge of the input port; needs nf_tables bridge meta (TypeIfName)
	OBrName                       // family bridge: bridge of the output port (TypeIfName)
	Mark                          // packet mark (TypeMark)
	L4Proto                       // transport protocol, past IPv6 extension headers (TypeProto)
	NFProto                       // family of the packet: 2 IPv4, 10 IPv6 (TypeProto)
	Protocol                      // EtherType as the kernel sees it (TypeEtherType)
	PktType                       // PktHost, PktBroadcast, ... (TypePktType)
	EtherSrc                      // (TypeMAC)
	EtherDst                      // (TypeMAC)
	EtherType                     // EtherType in the frame, 0x8100 for a VLAN tag (TypeEtherType)
	ARPOp                         // 1 request, 2 reply (TypeARPOp)
	ARPSrcMAC                     // sender hardware address (TypeMAC)
	ARPSrcIP                      // sender protocol address (TypeIPv4)
	ARPDstMAC                     // target hardware address (TypeMAC)
	ARPDstIP                      // target protocol address (TypeIPv4)
	IPSrc                         // (TypeIPv4)
	IPDst                         // (TypeIPv4)
	IPTTL                         // (TypeProto)
	IP6Src                        // (TypeIPv6)
	IP6Dst                        // (TypeIPv6)
	IP6HopLimit                   // (TypeProto)
	NDTarget                      // target address of a neighbour solicitation or advertisement; match ICMP6Type before it (TypeIPv6)
	ICMPType                      // (TypeICMP)
	ICMPCode                      // (TypeICMPCode)
	ICMP6Type                     // (TypeICMP6)
	ICMP6Code                     // (TypeICMP6Code)
	SPort                         // source port of whatever transport; match L4Proto too (TypePort)
	DPort                         // destination port of whatever transport; match L4Proto too (TypePort)
	TCPSPort                      // (TypePort)
	TCPDPort                      // (TypePort)
	UDPSPort                      // (TypePort)
	UDPDPort                      // (TypePort)
	CtState                       // bits, see CtState values; use Any or None (TypeMark)
	CtStatus                      // bits, see CtDNATed; use Any or None (TypeMark)
	CtMark                        // connection mark (TypeMark)
	CtZone                        // (TypeZone)
	CtDirection                   // 0 original, 1 reply (TypeProto)
	CtOrigIPSrc                   // source of the original direction, IPv4 (TypeIPv4)
	CtOrigIPDst                   // destination of the original direction, IPv4 (TypeIPv4)
	CtOrigIP6Src                  // (TypeIPv6)
	CtOrigIP6Dst                  // (TypeIPv6)
	CtOrigSPort                   // (TypePort)
	CtOrigDPort                   // (TypePort)
)

// Bits of [CtState].
const (
	StateInvalid     uint32 = 1
	StateEstablished uint32 = 2
	StateRelated     uint32 = 4
	StateNew         uint32 = 8
	StateUntracked   uint32 = 64
)

// Bits of [CtStatus] (enum ip_conntrack_status).
const (
	StatusSNAT uint32 = 1 << 4
	StatusDNAT uint32 = 1 << 5
)

// Values of [PktType].
const (
	PktHost      uint8 = 0
	PktBroadcast uint8 = 1
	PktMulticast uint8 = 2
	PktOther     uint8 = 3
)

// Protocol numbers for [L4Proto] and EtherTypes for [Protocol] (IANA).
const (
	ProtoICMP   uint8  = 1
	ProtoTCP    uint8  = 6
	ProtoUDP    uint8  = 17
	ProtoICMPv6 uint8  = 58
	ProtoSCTP   uint8  = 132
	EtherIPv4   uint16 = 0x0800
	EtherARP    uint16 = 0x0806
	EtherIPv6   uint16 = 0x86dd
	EtherVLAN   uint16 = 0x8100
	NFProtoIPv4 uint8  = 2
	NFProtoIPv6 uint8  = 10
)

// Keys are one or more fields, loaded side by side: what is looked up in a set
// or map whose Key has the types of the fields in the same order.
type Keys []Field

// Concat returns the fields as one key.
func Concat(f ...Field) Keys { return Keys(f) }

// In matches what is in the set.
func (k Keys) In(s Set) Stmt { return lookup{keys: k, set: s} }

// NotIn matches what is not in the set. A packet that has not all fields does
// not match either.
func (k Keys) NotIn(s Set) Stmt { return lookup{keys: k, set: s, invert: true} }

// Vmap does the verdict that the verdict map has for the key; when it has
// none, the rule ends without one.
func (k Keys) Vmap(s Set) Stmt { return lookup{keys: k, set: s, vmap: true} }

// Map is the value that the map has for the key; when it has none, the rule
// ends there.
func (k Keys) Map(s Set) Value { return Value{keys: k, set: &s} }

// In matches what is in the set.
func (f Field) In(s Set) Stmt { return Keys{f}.In(s) }

// NotIn matches what is not in the set.
func (f Field) NotIn(s Set) Stmt { return Keys{f}.NotIn(s) }

// Vmap does the verdict that the verdict map has for the field.
func (f Field) Vmap(s Set) Stmt { return Keys{f}.Vmap(s) }

// Map is the value that the map has for the field.
func (f Field) Map(s Set) Value { return Keys{f}.Map(s) }

// Eq matches one value, of the Go type of the field's [Type]. For addresses a
// netip.Prefix matches all within.
func (f Field) Eq(v any) Stmt { return compare{field: f, v: v} }

// Ne matches all other values.
func (f Field) Ne(v any) Stmt { return compare{field: f, v: v, ne: true} }

// Prefix matches device names that begin with s ([IIfName], [OIfName]).
func (f Field) Prefix(s string) Stmt { return compare{field: f, v: namePrefix(s)} }

// Between matches from <= value <= to.
func (f Field) Between(from, to any) Stmt { return compare{field: f, v: Range{from, to}} }

// NotBetween matches values outside from..to.
func (f Field) NotBetween(from, to any) Stmt {
	return compare{field: f, v: Range{from, to}, ne: true}
}

// Any matches when one of the bits is set ([CtState], [CtStatus], [Mark], [CtMark]).
func (f Field) Any(bits uint32) Stmt { return bitTest{field: f, bits: bits} }

// None matches when none of the bits is set.
func (f Field) None(bits uint32) Stmt { return bitTest{field: f, bits: bits, none: true} }

// Value is what a statement stores or translates to: a constant, a field, or
// the result of a map lookup.
type Value struct {
	keys  Keys
	set   *Set
	field Field
	vals  []any
}

// Const is a constant of one or more components, as addr or addr, port.
func Const(v ...any) Value { return Value{vals: v} }

// From is the value of a field.
func From(f Field) Value { return Value{field: f} }

// SetMark sets the packet mark.
func SetMark(v Value) Stmt { return store{field: Mark, v: v} }

// SetCtMark sets the connection's mark.
func SetCtMark(v Value) Stmt { return store{field: CtMark, v: v} }

// SetCtZone chooses the conntrack zone; only before connection tracking
// (prerouting or output at a priority below -200).
func SetCtZone(v Value) Stmt { return store{field: CtZone, v: v} }

// SetPktType sets the packet type; PktHost makes the stack take a frame that
// was for another MAC.
func SetPktType(t uint8) Stmt { return store{field: PktType, v: Const(t)} }

// DNAT translates the destination to v: an address, or address and port.
func DNAT(v Value) Stmt { return nat{dst: true, v: v} }

// SNAT translates the source to v: an address, or address and port.
func SNAT(v Value) Stmt { return nat{v: v} }

// SNATRandom is SNAT with source ports chosen at random (RFC 6056).
func SNATRandom(v Value) Stmt { return nat{v: v, random: true} }

// Masquerade translates the source to the address of the output device.
func Masquerade() Stmt { return masquerade{} }

// Redirect translates the destination to this namespace, at port.
func Redirect(port uint16) Stmt { return redirect{port} }

// Notrack leaves a packet out of connection tracking.
func Notrack() Stmt { return notrack{} }

// Counter counts packets and bytes. A chain whose rules do not change keeps
// its counts.
func Counter() Stmt { return counter{} }

// Comment is shown beside the rule by nft; at most 128 bytes.
func Comment(s string) Stmt { return comment(s) }

// LimitOver matches what exceeds rate packets a second, after a burst.
func LimitOver(rate uint64, burst uint32) Stmt { return limit{rate, burst, true} }

// LimitTo matches what stays within rate packets a second.
func LimitTo(rate uint64, burst uint32) Stmt { return limit{rate, burst, false} }

// ClampMSS lowers the MSS of a TCP SYN to what the route's MTU allows.
func ClampMSS() Stmt { return clampMSS{} }

// Reject answers with an ICMP port unreachable (families inet, ip, ip6; input,
// forward and output hooks).
func Reject() Stmt { return reject{} }

// Verdict ends a rule. It is also the data of a verdict map.
type Verdict struct {
	Code  VerdictCode
	Chain string // for jump and goto
}

// VerdictCode is a verdict by the kernel's number.
type VerdictCode int32

// The verdict codes.
const (
	CodeDrop     VerdictCode = 0
	CodeAccept   VerdictCode = 1
	CodeContinue VerdictCode = -1
	CodeJump     VerdictCode = -3
	CodeGoto     VerdictCode = -4
	CodeReturn   VerdictCode = -5
)

// Accept ends this base chain.
func Accept() Verdict { return Verdict{Code: CodeAccept} }

// Drop ends the packet.
func Drop() Verdict { return Verdict{Code: CodeDrop} }

// Return goes back to the calling chain.
func Return() Verdict { return Verdict{Code: CodeReturn} }

// Continue goes on with the next rule.
func Continue() Verdict { return Verdict{Code: CodeContinue} }

// Jump goes to a chain of the table, and comes back after its end.
func Jump(chain string) Verdict { return Verdict{Code: CodeJump, Chain: chain} }

// Goto goes to a chain of the table, and does not come back here.
func Goto(chain string) Verdict { return Verdict{Code: CodeGoto, Chain: chain} }
