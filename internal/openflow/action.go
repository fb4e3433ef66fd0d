package openflow

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Action is one step of what a flow does with a packet. The types of this
// package are the only ones. Its String is as in ovs-ofctl.
type Action interface {
	String() string
	// encode appends the action, a multiple of 8 bytes.
	encode(b []byte) ([]byte, error)
}

// Action types (OpenFlow 1.5.1, section 7.2.6) and Nicira's (ofp-actions.c).
const (
	actOutput       = 0
	actPushVLAN     = 17
	actPopVLAN      = 18
	actSetQueue     = 21
	actGroup        = 22
	actSetTTL       = 23
	actDecTTL       = 24
	actSetField     = 25
	actCopyField    = 28
	actMeter        = 29
	actExperimenter = 0xffff

	nxResubmit       = 1
	nxPopQueue       = 5
	nxNote           = 8
	nxMultipath      = 10
	nxResubmitTable  = 14
	nxOutputReg      = 15
	nxLearn          = 16
	nxExit           = 17
	nxController     = 20
	nxPush           = 27
	nxPop            = 28
	nxOutputReg2     = 32
	nxConjunction    = 34
	nxCT             = 35
	nxNAT            = 36
	nxController2    = 37
	nxClone          = 42
	nxCTClear        = 43
	nxResubmitCT     = 44
	nxLearn2         = 45
	nxCheckPktLarger = 49
)

// Port is the number of a port, or one of the reserved ones.
type Port uint32

// Reserved ports (OpenFlow 1.5.1, section 7.2.2.1).
const (
	PortUnset      Port = 0xfffffff7
	PortInPort     Port = 0xfffffff8
	PortTable      Port = 0xfffffff9 // for packet-outs: begin with table 0
	PortNormal     Port = 0xfffffffa
	PortFlood      Port = 0xfffffffb
	PortAll        Port = 0xfffffffc
	PortController Port = 0xfffffffd
	PortLocal      Port = 0xfffffffe
	PortAny        Port = 0xffffffff
)

// String is as in ovs-ofctl.
func (p Port) String() string {
	if p >= PortUnset {
		return [...]string{"UNSET", "IN_PORT", "TABLE", "NORMAL", "FLOOD", "ALL", "CONTROLLER", "LOCAL", "ANY"}[p-PortUnset]
	}
	return strconv.FormatUint(uint64(p), 10)
}

// short is p in the 16 bits that Nicira's actions have.
func (p Port) short() (uint16, error) {
	if p >= 0xff00 && p < 0xffffff00 {
		return 0, fmt.Errorf("port %d is above 0xfeff", uint32(p))
	}
	return uint16(p), nil
}

func longPort(p uint16) Port {
	if p >= 0xff00 {
		return Port(p) | 0xffff0000
	}
	return Port(p)
}

// Output sends the packet to a port. It is not sent to the port it came from:
// that takes PortInPort.
type Output struct {
	Port   Port
	MaxLen uint16 // of PortController: how many bytes; 0 stands for all. See [Controller]
}

func (a Output) String() string {
	switch {
	case a.Port == PortController:
		return "CONTROLLER:" + strconv.Itoa(int(orAll(a.MaxLen)))
	case a.Port >= PortUnset:
		return a.Port.String()
	}
	return "output:" + a.Port.String()
}

func orAll(n uint16) uint16 {
	if n == 0 {
		return 0xffff
	}
	return n
}

func (a Output) encode(b []byte) ([]byte, error) {
	n := uint16(0)
	if a.Port == PortController {
		n = orAll(a.MaxLen)
	}
	b = be32(be16(b, actOutput, 16), uint32(a.Port))
	return append(be16(b, n), 0, 0, 0, 0, 0, 0), nil
}

// OutputReg sends the packet to the port whose number is in a field.
type OutputReg struct{ Src Slice }

func (a OutputReg) String() string { return "output:" + a.Src.String() }

func (a OutputReg) encode(b []byte) ([]byte, error) {
	if err := a.Src.check(); err != nil {
		return nil, err
	}
	b = be16(nxAction(b, nxOutputReg2, 24), a.Src.ofsBits(), 0xffff)
	return append(a.Src.Field.appendHeader(b), 0, 0, 0, 0, 0, 0), nil
}

// ofsBits packs offset and width of fields of up to 64 bits.
func (s Slice) ofsBits() uint16 { return s.Ofs<<6 | (s.Bits - 1) }

// nxAction appends the header of one of Nicira's actions, 10 bytes.
func nxAction(b []byte, subtype, length uint16) []byte {
	return be16(be32(be16(b, actExperimenter, length), nicira), subtype)
}

// endAction pads the action that begins at start and writes its length.
func endAction(b []byte, start int) ([]byte, error) {
	b = pad(b, start)
	if len(b)-start > maxMsg-64 {
		return nil, errors.New("an action of more than 64 KiB")
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b, nil
}

// Controller sends the packet to the controllers of that id (NXAST_CONTROLLER2)
// with what the pipeline knows of it, see [PacketIn].
type Controller struct {
	ID       uint16
	MaxLen   uint16 // bytes of the packet; 0 stands for all
	Reason   uint8  // see [PacketIn]; 0 stands for ReasonAction
	UserData []byte // arrives with the packet
	Pause    bool   // the pipeline goes on when the packet is resumed
	Meter    uint32 // 0: none
}

func (a Controller) String() string {
	var p []string
	if a.Reason != 0 && a.Reason != ReasonAction {
		p = append(p, "reason="+reasonName(a.Reason))
	}
	if n := orAll(a.MaxLen); n != 0xffff {
		p = append(p, fmt.Sprintf("max_len=%d", n))
	}
	if a.ID != 0 {
		p = append(p, fmt.Sprintf("id=%d", a.ID))
	}
	if len(a.UserData) > 0 {
		p = append(p, "userdata="+dotted(a.UserData))
	}
	if a.Pause {
		p = append(p, "pause")
	}
	if a.Meter != 0 {
		p = append(p, fmt.Sprintf("meter_id=%d", a.Meter))
	}
	if len(p) == 0 || len(p) == 1 && orAll(a.MaxLen) != 0xffff {
		return Output{PortController, a.MaxLen}.String()
	}
	return "controller(" + strings.Join(p, ",") + ")"
}

// dotted is bytes as ovs-ofctl writes them: 01.ab.
func dotted(b []byte) string {
	s := make([]string, len(b))
	for i, c := range b {
		s[i] = hex.EncodeToString([]byte{c})
	}
	return strings.Join(s, ".")
}

func (a Controller) encode(b []byte) ([]byte, error) {
	start := len(b)
	b = append(nxAction(b, nxController2, 0), 0, 0, 0, 0, 0, 0)
	if n := orAll(a.MaxLen); n != 0xffff {
		b = be16(b, 0, 8, n, 0)
	}
	if a.ID != 0 {
		b = be16(b, 1, 8, a.ID, 0)
	}
	if a.Reason != 0 && a.Reason != ReasonAction {
		b = append(be16(b, 2, 5), a.Reason, 0, 0, 0)
	}
	if len(a.UserData) > 0 {
		if len(a.UserData) > 0x8000 {
			return nil, fmt.Errorf("userdata of %d bytes", len(a.UserData))
		}
		p := len(b)
		b = append(be16(b, 3, uint16(4+len(a.UserData))), a.UserData...)
		b = pad(b, p)
	}
	if a.Pause {
		b = append(be16(b, 4, 4), 0, 0, 0, 0)
	}
	if a.Meter != 0 {
		b = be32(be16(b, 5, 8), a.Meter)
	}
	return endAction(b, start)
}

// SetField gives a field, or the bits of it under the mask, a value. Made by
// [Set], [Load] and [LoadWide].
type SetField struct{ Cond }

// Set gives the field of c its value: Set(EthDst.MAC(mac)), Set(Reg(0).Masked(1, 1)).
func Set(c Cond) SetField { return SetField{c} }

// Load gives the bits of s the value v.
func Load(s Slice, v uint64) SetField { return SetField{s.Is(v)} }

// LoadWide is [Load] for more than 64 bits.
func LoadWide(s Slice, v Value) SetField { return SetField{s.wide(v)} }

func (a SetField) String() string {
	return "set_field:" + a.Cond.text() + "->" + a.Field.long()
}

func (a SetField) encode(b []byte) ([]byte, error) {
	switch {
	case !a.Field.known():
		return nil, fmt.Errorf("set_field of an unknown field %d", a.Field)
	case a.Field.info().access&canSet == 0:
		return nil, badField(a.Field, "cannot be set")
	case !a.Exact() && a.Field.info().access&canMask == 0:
		return nil, badField(a.Field, "cannot be set in part")
	case !a.Value.andNot(a.Mask).isZero():
		return nil, badField(a.Field, "is set to %s, with bits outside of the mask %s", a.Value.text(), a.Mask.text())
	case a.Mask.isZero() || !a.Mask.andNot(a.Field.ones()).isZero():
		return nil, badField(a.Field, "has %d bits, the mask is %s", a.Field.Width(), a.Mask.text())
	}
	if a.Field == InPort { // as the 16 bits that Open vSwitch takes port 0 in too
		short, err := Port(a.Value.Lo).short()
		if err != nil {
			return nil, err
		}
		a.Cond = InPort16.Is(uint64(short))
	}
	start := len(b)
	return endAction(a.appendTLV(be16(b, actSetField, 0)), start)
}

// Move copies bits; both slices have the same number of them.
type Move struct{ Src, Dst Slice }

func (a Move) String() string { return "move:" + a.Src.String() + "->" + a.Dst.String() }

func (a Move) encode(b []byte) ([]byte, error) {
	if err := errors.Join(a.Src.check(), a.Dst.check()); err != nil {
		return nil, err
	}
	if a.Src.Bits != a.Dst.Bits {
		return nil, fmt.Errorf("%s: %d bits are not %d", a, a.Src.Bits, a.Dst.Bits)
	}
	start := len(b)
	b = append(be16(b, actCopyField, 0, a.Src.Bits, a.Src.Ofs, a.Dst.Ofs), 0, 0)
	return endAction(a.Dst.Field.appendHeader(a.Src.Field.appendHeader(b)), start)
}

// Resubmit looks the packet up in another table and comes back.
type Resubmit struct {
	Port  Port  // in_port for the look-up; 0 leaves it
	Table uint8 // 255: the current one
	CT    bool  // addresses and ports as they were before NAT
}

// Goto is the Resubmit to a table that changes nothing else: as the last action
// it goes on there.
func Goto(table uint8) Resubmit { return Resubmit{Table: table} }

func (a Resubmit) String() string {
	port, table := "", ""
	if a.Port != 0 && a.Port != PortInPort {
		port = a.Port.String()
	}
	if a.Table != 255 {
		table = strconv.Itoa(int(a.Table))
	} else if port != "" {
		return "resubmit:" + port
	}
	if a.CT {
		table += ",ct"
	}
	return "resubmit(" + port + "," + table + ")"
}

func (a Resubmit) encode(b []byte) ([]byte, error) {
	p := a.Port
	if p == 0 {
		p = PortInPort
	}
	short, err := p.short()
	if err != nil {
		return nil, err
	}
	sub := uint16(nxResubmitTable)
	if a.CT {
		sub = nxResubmitCT
	}
	return append(be16(nxAction(b, sub, 16), short), a.Table, 0, 0, 0), nil
}

// PushVLAN pushes a tag with id 0.
type PushVLAN struct{ EtherType uint16 } // 0 stands for 0x8100

func (a PushVLAN) etherType() uint16 {
	if a.EtherType == 0 {
		return EthVLAN
	}
	return a.EtherType
}

func (a PushVLAN) String() string { return fmt.Sprintf("push_vlan:0x%x", a.etherType()) }

func (a PushVLAN) encode(b []byte) ([]byte, error) {
	return append(be16(b, actPushVLAN, 8, a.etherType()), 0, 0), nil
}

// PopVLAN removes the outer tag.
type PopVLAN struct{}

func (PopVLAN) String() string                  { return "pop_vlan" }
func (PopVLAN) encode(b []byte) ([]byte, error) { return be32(be16(b, actPopVLAN, 8), 0), nil }

// DecTTL decrements TTL or hop limit. A packet of TTL 0 or 1 goes to
// controllers of id 0 that asked for ReasonInvalidTTL, and no further.
type DecTTL struct{}

func (DecTTL) String() string                  { return "dec_ttl" }
func (DecTTL) encode(b []byte) ([]byte, error) { return be32(be16(b, actDecTTL, 8), 0), nil }

// SetTTL sets TTL or hop limit.
type SetTTL struct{ TTL uint8 }

func (a SetTTL) String() string { return fmt.Sprintf("mod_nw_ttl:%d", a.TTL) }
func (a SetTTL) encode(b []byte) ([]byte, error) {
	return append(be16(b, actSetTTL, 8), a.TTL, 0, 0, 0), nil
}

// SetQueue chooses the queue of the outputs that follow.
type SetQueue struct{ Queue uint32 }

func (a SetQueue) String() string { return fmt.Sprintf("set_queue:%d", a.Queue) }
func (a SetQueue) encode(b []byte) ([]byte, error) {
	return be32(be16(b, actSetQueue, 8), a.Queue), nil
}

// PopQueue ends [SetQueue].
type PopQueue struct{}

func (PopQueue) String() string                  { return "pop_queue" }
func (PopQueue) encode(b []byte) ([]byte, error) { return void(b, nxPopQueue), nil }

// Enqueue outputs to a port's queue; OpenFlow 1.1 and later have no single
// action for that.
func Enqueue(p Port, queue uint32) []Action {
	return []Action{SetQueue{queue}, Output{Port: p}, PopQueue{}}
}

// Group hands the packet to a group.
type Group struct{ ID uint32 }

func (a Group) String() string                  { return fmt.Sprintf("group:%d", a.ID) }
func (a Group) encode(b []byte) ([]byte, error) { return be32(be16(b, actGroup, 8), a.ID), nil }

// Meter drops the packet if the meter says so.
type Meter struct{ ID uint32 }

func (a Meter) String() string                  { return fmt.Sprintf("meter:%d", a.ID) }
func (a Meter) encode(b []byte) ([]byte, error) { return be32(be16(b, actMeter, 8), a.ID), nil }

// Conjunction says that the flow is clause K (1 to N) of the N clauses of a
// conjunctive match; see "conjunction" in ovs-actions(7).
type Conjunction struct {
	ID   uint32
	K, N uint8
}

func (a Conjunction) String() string { return fmt.Sprintf("conjunction(%d,%d/%d)", a.ID, a.K, a.N) }

func (a Conjunction) encode(b []byte) ([]byte, error) {
	if a.N < 2 || a.N > 64 || a.K < 1 || a.K > a.N {
		return nil, fmt.Errorf("%s: clauses are 1 to N, and N is 2 to 64", a)
	}
	return be32(append(nxAction(b, nxConjunction, 16), a.K-1, a.N), a.ID), nil
}

// Note does nothing and carries data. The wire has it padded with zeros to 6
// and a multiple of 8 bytes, and so has a decoded Note.
type Note struct{ Data []byte }

func (a Note) String() string { return "note:" + dotted(a.padded()) }

func (a Note) padded() []byte {
	b := append(make([]byte, 0, len(a.Data)+16), a.Data...)
	for len(b) < 6 || (len(b)-6)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

func (a Note) encode(b []byte) ([]byte, error) {
	start := len(b)
	b = append(nxAction(b, nxNote, 0), a.Data...)
	for len(b)-start < 16 {
		b = append(b, 0)
	}
	return endAction(b, start)
}

// Clone does the actions to a copy: what they change is forgotten after.
type Clone struct{ Actions []Action }

func (a Clone) String() string { return "clone(" + joinActions(a.Actions) + ")" }

func (a Clone) encode(b []byte) ([]byte, error) {
	start := len(b)
	b, err := appendActions(append(nxAction(b, nxClone, 0), 0, 0, 0, 0, 0, 0), a.Actions)
	if err != nil {
		return nil, err
	}
	return endAction(b, start)
}

// Push puts bits on the stack, Pop takes them off.
type (
	Push struct{ Slice }
	Pop  struct{ Slice }
)

func (a Push) String() string                  { return "push:" + a.Slice.String() }
func (a Pop) String() string                   { return "pop:" + a.Slice.String() }
func (a Push) encode(b []byte) ([]byte, error) { return a.encodeStack(b, nxPush) }
func (a Pop) encode(b []byte) ([]byte, error)  { return a.encodeStack(b, nxPop) }

func (s Slice) encodeStack(b []byte, sub uint16) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b = s.Field.appendHeader(be16(nxAction(b, sub, 24), s.Ofs))
	return append(be16(b, s.Bits), 0, 0, 0, 0, 0, 0), nil
}

// Exit ends the processing of the packet, in all tables.
type Exit struct{}

func (Exit) String() string                  { return "exit" }
func (Exit) encode(b []byte) ([]byte, error) { return void(b, nxExit), nil }

// void appends an action of Nicira's without arguments.
func void(b []byte, sub uint16) []byte {
	return append(nxAction(b, sub, 16), 0, 0, 0, 0, 0, 0)
}

// CheckPktLarger sets a bit to whether the packet, without tags, is larger.
type CheckPktLarger struct {
	Len uint16
	Dst Slice // one bit
}

func (a CheckPktLarger) String() string {
	return fmt.Sprintf("check_pkt_larger(%d)->%s", a.Len, a.Dst)
}

func (a CheckPktLarger) encode(b []byte) ([]byte, error) {
	if err := a.Dst.check(); err != nil {
		return nil, err
	}
	b = a.Dst.Field.appendHeader(be16(nxAction(b, nxCheckPktLarger, 24), a.Len, a.Dst.Ofs))
	return append(b, 0, 0, 0, 0, 0, 0), nil
}

// Raw is an action that this package has no type for, as it is on the wire.
type Raw struct{ Bytes []byte }

func (a Raw) String() string { return "raw(" + hex.EncodeToString(a.Bytes) + ")" }

func (a Raw) encode(b []byte) ([]byte, error) {
	if n := len(a.Bytes); n < 8 || n%8 != 0 || int(binary.BigEndian.Uint16(a.Bytes[2:])) != n {
		return nil, fmt.Errorf("%s is no action", a)
	}
	return append(b, a.Bytes...), nil
}
