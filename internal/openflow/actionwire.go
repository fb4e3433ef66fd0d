package openflow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// maxNesting bounds clone in clone in ...; Open vSwitch itself stops at 64
// resubmits.
const maxNesting = 16

var errNesting = errors.New("actions are nested too deep")

// GotoTable goes on in a later table after the actions (instruction
// OFPIT_GOTO_TABLE). Flows of ours use [Goto].
type GotoTable struct{ Table uint8 }

// WriteMetadata sets metadata after the actions (OFPIT_WRITE_METADATA).
type WriteMetadata struct{ Value, Mask uint64 }

// ClearActions empties the action set (OFPIT_CLEAR_ACTIONS).
type ClearActions struct{}

// WriteActions puts actions in the action set (OFPIT_WRITE_ACTIONS).
type WriteActions struct{ Actions []Action }

func (a GotoTable) String() string { return fmt.Sprintf("goto_table:%d", a.Table) }
func (a WriteMetadata) String() string {
	if a.Mask == ^uint64(0) {
		return "write_metadata:" + U64(a.Value).text()
	}
	return "write_metadata:" + U64(a.Value).text() + "/" + U64(a.Mask).text()
}
func (a ClearActions) String() string { return "clear_actions" }
func (a WriteActions) String() string { return "write_actions(" + joinActions(a.Actions) + ")" }

var errInstruction = errors.New("stands only at the top of a flow")

func (a GotoTable) encode([]byte) ([]byte, error) { return nil, fmt.Errorf("%s %w", a, errInstruction) }
func (a WriteMetadata) encode([]byte) ([]byte, error) {
	return nil, fmt.Errorf("%s %w", a, errInstruction)
}
func (a ClearActions) encode([]byte) ([]byte, error) {
	return nil, fmt.Errorf("%s %w", a, errInstruction)
}
func (a WriteActions) encode([]byte) ([]byte, error) {
	return nil, fmt.Errorf("%s %w", a, errInstruction)
}

// Instructions (OpenFlow 1.5.1, section 7.2.5).
const (
	instGotoTable     = 1
	instWriteMetadata = 2
	instWriteActions  = 3
	instApplyActions  = 4
	instClearActions  = 5
)

func appendActions(b []byte, as []Action) ([]byte, error) {
	var err error
	for _, a := range as {
		if a == nil {
			return nil, errors.New("a nil action")
		}
		if b, err = a.encode(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// appendInstructions appends the instructions that do the actions.
func appendInstructions(b []byte, as []Action) ([]byte, error) {
	apply := len(as)
	for apply > 0 && isInstruction(as[apply-1]) {
		apply--
	}
	var err error
	if apply > 0 {
		start := len(b)
		if b, err = appendActions(append(be16(b, instApplyActions, 0), 0, 0, 0, 0), as[:apply]); err != nil {
			return nil, err
		}
		if b, err = endAction(b, start); err != nil {
			return nil, err
		}
	}
	for _, a := range as[apply:] {
		switch a := a.(type) {
		case ClearActions:
			b = append(be16(b, instClearActions, 8), 0, 0, 0, 0)
		case WriteActions:
			start := len(b)
			if b, err = appendActions(append(be16(b, instWriteActions, 0), 0, 0, 0, 0), a.Actions); err != nil {
				return nil, err
			}
			if b, err = endAction(b, start); err != nil {
				return nil, err
			}
		case WriteMetadata:
			if a.Value&^a.Mask != 0 {
				return nil, fmt.Errorf("%s has bits outside of the mask", a)
			}
			b = be64(append(be16(b, instWriteMetadata, 24), 0, 0, 0, 0), a.Value, a.Mask)
		case GotoTable:
			b = append(be16(b, instGotoTable, 8), a.Table, 0, 0, 0)
		}
	}
	return b, nil
}

func isInstruction(a Action) bool {
	switch a.(type) {
	case GotoTable, WriteMetadata, ClearActions, WriteActions:
		return true
	}
	return false
}

func get16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// takeInstructions reads all of b.
func takeInstructions(b []byte) ([]Action, error) {
	var apply, rest []Action
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, errShort
		}
		n := int(get16(b[2:]))
		if n < 8 || n%8 != 0 || n > len(b) {
			return nil, fmt.Errorf("instruction of %d bytes in %d", n, len(b))
		}
		body := b[8:n]
		switch t := get16(b); {
		case t == instApplyActions:
			as, err := takeActions(body, 0)
			if err != nil {
				return nil, err
			}
			apply = append(apply, as...)
		case t == instWriteActions:
			as, err := takeActions(body, 0)
			if err != nil {
				return nil, err
			}
			rest = append(rest, WriteActions{as})
		case t == instClearActions && n == 8:
			rest = append(rest, ClearActions{})
		case t == instWriteMetadata && n == 24:
			m := WriteMetadata{binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])}
			m.Value &= m.Mask
			rest = append(rest, m)
		case t == instGotoTable && n == 8:
			rest = append(rest, GotoTable{b[4]})
		default:
			return nil, fmt.Errorf("instruction %d of %d bytes is unknown", t, n)
		}
		b = b[n:]
	}
	return append(apply, rest...), nil
}

// takeActions reads all of b.
func takeActions(b []byte, depth int) ([]Action, error) {
	if depth > maxNesting {
		return nil, errNesting
	}
	var as []Action
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, errShort
		}
		n := int(get16(b[2:]))
		if n < 8 || n%8 != 0 || n > len(b) {
			return nil, fmt.Errorf("action of %d bytes in %d", n, len(b))
		}
		a, err := takeAction(b[:n:n], depth)
		if err != nil {
			return nil, err
		}
		as = append(as, a)
		b = b[n:]
	}
	return as, nil
}

// takeAction reads one action of len(b) bytes. What it does not know becomes a
// Raw; what it knows and cannot be, an error.
func takeAction(b []byte, depth int) (Action, error) {
	raw := Raw{append([]byte(nil), b...)}
	be := binary.BigEndian
	switch t := get16(b); {
	case t == actOutput && len(b) == 16:
		a := Output{Port: Port(be.Uint32(b[4:]))}
		if a.Port == PortController {
			a.MaxLen = get16(b[8:])
			if a.MaxLen == 0xffff {
				a.MaxLen = 0
			} else if a.MaxLen == 0 {
				return raw, nil // no byte of the packet
			}
		}
		return a, nil
	case t == actSetField:
		c, rest, err := takeTLV(b[4:])
		if err != nil || c.Mask.isZero() || len(rest) > 7 {
			return raw, nil
		}
		if c.Field == InPort16 {
			c = InPort.Is(uint64(longPort(uint16(c.Value.Lo))))
		}
		return SetField{c}, nil
	case t == actCopyField && len(b) >= 16:
		src, rest, err := takeField(b[12:])
		if err != nil {
			return raw, nil
		}
		dst, _, err := takeField(rest)
		if err != nil {
			return raw, nil
		}
		bits := get16(b[4:])
		return Move{Slice{src, get16(b[6:]), bits}, Slice{dst, get16(b[8:]), bits}}, nil
	case t == actExperimenter && len(b) >= 16 && be.Uint32(b[4:]) == nicira:
		a, err := takeNicira(b, depth)
		if a == nil && err == nil {
			return raw, nil
		}
		return a, err
	case len(b) != 8:
		return raw, nil
	case t == actPushVLAN:
		return PushVLAN{get16(b[4:])}, nil
	case t == actPopVLAN:
		return PopVLAN{}, nil
	case t == actDecTTL:
		return DecTTL{}, nil
	case t == actSetTTL:
		return SetTTL{b[4]}, nil
	case t == actSetQueue:
		return SetQueue{be.Uint32(b[4:])}, nil
	case t == actGroup:
		return Group{be.Uint32(b[4:])}, nil
	case t == actMeter:
		return Meter{be.Uint32(b[4:])}, nil
	}
	return raw, nil
}

// takeNicira reads one of Nicira's actions; nil without an error is one it does
// not know.
func takeNicira(b []byte, depth int) (Action, error) {
	be := binary.BigEndian
	n := len(b)
	switch sub := get16(b[8:]); {
	case sub == nxResubmit && n == 16:
		return resubmit(get16(b[10:]), 255, false), nil
	case (sub == nxResubmitTable || sub == nxResubmitCT) && n == 16:
		return resubmit(get16(b[10:]), b[12], sub == nxResubmitCT), nil
	case sub == nxPopQueue && n == 16:
		return PopQueue{}, nil
	case sub == nxExit && n == 16:
		return Exit{}, nil
	case sub == nxCTClear && n == 16:
		return CTClear{}, nil
	case sub == nxNote:
		return Note{append([]byte(nil), b[10:]...)}, nil
	case (sub == nxOutputReg || sub == nxOutputReg2) && n == 24:
		// The older has the field before the length, the newer after it.
		at := 14
		if sub == nxOutputReg {
			at = 12
		}
		f, _, err := takeField(b[at:])
		if err != nil {
			return nil, nil
		}
		a := OutputReg{ofsBits(f, get16(b[10:]))}
		return a, a.Src.check()
	case sub == nxController && n == 16:
		return controller(Controller{MaxLen: get16(b[10:]), ID: get16(b[12:]), Reason: b[14]})
	case sub == nxController2:
		return takeController(b[16:])
	case sub == nxConjunction && n == 16:
		return Conjunction{be.Uint32(b[12:]), b[10] + 1, b[11]}, nil
	case (sub == nxPush || sub == nxPop) && n == 24:
		f, rest, err := takeField(b[12:])
		if err != nil {
			return nil, nil
		}
		s := Slice{f, get16(b[10:]), get16(rest)}
		if sub == nxPop {
			return Pop{s}, s.check()
		}
		return Push{s}, s.check()
	case sub == nxCheckPktLarger && n == 24:
		f, _, err := takeField(b[14:])
		if err != nil {
			return nil, nil
		}
		s := Slice{f, get16(b[12:]), 1}
		return CheckPktLarger{get16(b[10:]), s}, s.check()
	case sub == nxMultipath && n == 32:
		f, _, err := takeField(b[28:])
		if err != nil {
			return nil, nil
		}
		a := Multipath{Fields: HashFields(get16(b[10:])), Basis: get16(b[12:]), Algorithm: get16(b[16:]), Links: uint32(get16(b[18:])) + 1,
			Arg: be.Uint32(b[20:]), Dst: ofsBits(f, get16(b[26:]))}
		return a, a.Dst.check()
	case sub == nxLearn && n >= 32, sub == nxLearn2 && n >= 40:
		a, err := takeLearn(b, sub == nxLearn2)
		if err != nil {
			return nil, nil
		}
		return a, nil
	case sub == nxClone:
		as, err := takeActions(b[16:], depth+1)
		return Clone{as}, err
	case sub == nxCT && n >= 24:
		return takeCT(b, depth)
	}
	return nil, nil
}

func ofsBits(f Field, v uint16) Slice { return Slice{f, v >> 6, v&63 + 1} }

func resubmit(port uint16, table uint8, ct bool) Resubmit {
	a := Resubmit{longPort(port), table, ct}
	if a.Port == PortInPort {
		a.Port = 0
	}
	return a
}

// controller gives the defaults their zero values.
func controller(a Controller) (Action, error) {
	if a.MaxLen == 0 {
		return nil, nil // no byte of the packet: not what our zero means
	}
	if a.MaxLen == 0xffff {
		a.MaxLen = 0
	}
	if a.Reason == ReasonAction {
		a.Reason = 0
	} else if a.Reason == 0 {
		return nil, nil // ReasonNoMatch, likewise
	}
	return a, nil
}

func takeController(b []byte) (Action, error) {
	a := Controller{MaxLen: 0xffff, Reason: ReasonAction}
	for len(b) >= 4 && (get16(b) != 0 || get16(b[2:]) != 0) {
		n := int(get16(b[2:]))
		if n < 4 || n > len(b) {
			return nil, fmt.Errorf("controller: property of %d bytes in %d", n, len(b))
		}
		body := b[4:n]
		switch t := get16(b); {
		case t == 0 && n == 8:
			a.MaxLen = get16(body)
		case t == 1 && n == 8:
			a.ID = get16(body)
		case t == 2 && n == 5:
			a.Reason = body[0]
		case t == 3:
			a.UserData = append([]byte(nil), body...)
		case t == 4:
			a.Pause = true
		case t == 5 && n == 8:
			a.Meter = binary.BigEndian.Uint32(body)
		default:
			return nil, nil
		}
		b = b[min((n+7)/8*8, len(b)):]
	}
	return controller(a)
}

func takeCT(b []byte, depth int) (Action, error) {
	flags := get16(b[10:])
	if flags&^3 != 0 {
		return nil, nil
	}
	a := CT{Commit: flags&1 != 0, Force: flags&2 != 0, ALG: get16(b[22:])}
	if b[18] != 255 {
		a.Table, a.Recirc = b[18], b[18] == 0
	}
	if binary.BigEndian.Uint32(b[12:]) != 0 {
		f, _, err := takeField(b[12:])
		if err != nil {
			return nil, nil
		}
		a.ZoneFrom = ofsBits(f, get16(b[16:]))
		if err := a.ZoneFrom.check(); err != nil {
			return nil, err
		}
	} else {
		a.Zone = get16(b[16:])
	}
	for b = b[24:]; len(b) > 0; {
		if len(b) < 8 {
			return nil, errShort
		}
		n := int(get16(b[2:]))
		if n < 8 || n%8 != 0 || n > len(b) {
			return nil, fmt.Errorf("ct: action of %d bytes in %d", n, len(b))
		}
		if n >= 16 && get16(b) == actExperimenter && binary.BigEndian.Uint32(b[4:]) == nicira && get16(b[8:]) == nxNAT {
			nat, err := takeNAT(b[:n])
			if err != nil {
				return nil, err
			}
			if a.NAT != nil || len(a.Exec) > 0 {
				return nil, nil // in an order that CT does not have
			}
			a.NAT = nat
		} else {
			x, err := takeAction(b[:n:n], depth+1)
			if err != nil {
				return nil, err
			}
			a.Exec = append(a.Exec, x)
		}
		b = b[n:]
	}
	return a, nil
}

func joinActions(as []Action) string {
	s := make([]string, len(as))
	for i, a := range as {
		if s[i] = "<nil>"; a != nil {
			s[i] = a.String()
		}
	}
	return strings.Join(s, ",")
}

func actionsString(as []Action) string {
	if len(as) == 0 {
		return "drop"
	}
	return joinActions(as)
}

// HashFields are what a hash is made of.
type HashFields uint16

// Fields to hash (enum nx_hash_fields).
const (
	HashEthSrc HashFields = iota
	HashSymmetricL4
	HashSymmetricL3L4
	HashSymmetricL3L4UDP
	HashIPSrc
	HashIPDst
	HashSymmetricL3
)

// Algorithms of Multipath (enum nx_mp_algorithm).
const (
	ModuloN       = 0
	HashThreshold = 1
	HRW           = 2
	IterHash      = 3
)

// Multipath chooses a link by a hash and writes its number, from 0, to a field.
type Multipath struct {
	Fields    HashFields
	Basis     uint16
	Algorithm uint16
	Links     uint32 // 1 to 65536
	Arg       uint32
	Dst       Slice
}

func (a Multipath) String() string {
	return fmt.Sprintf("multipath(%s,%d,%s,%d,%d,%s)", name(uint16(a.Fields), "eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst", "symmetric_l3"),
		a.Basis, name(a.Algorithm, "modulo_n", "hash_threshold", "hrw", "iter_hash"), a.Links, a.Arg, a.Dst)
}

func (a Multipath) encode(b []byte) ([]byte, error) {
	if err := a.Dst.check(); err != nil {
		return nil, err
	}
	if a.Links < 1 || a.Links > 1<<16 || a.Dst.Bits < 16 && a.Links > 1<<a.Dst.Bits {
		return nil, fmt.Errorf("multipath: %d links do not fit %s", a.Links, a.Dst)
	}
	b = be16(nxAction(b, nxMultipath, 32), uint16(a.Fields), a.Basis, 0, a.Algorithm, uint16(a.Links-1))
	b = be16(be32(b, a.Arg), 0, a.Dst.ofsBits())
	return a.Dst.Field.appendHeader(b), nil
}

// name is the nth of the names, or the number.
func name[T ~uint8 | ~uint16 | ~uint32](n T, names ...string) string {
	if int(n) < len(names) && names[n] != "" {
		return names[n]
	}
	return fmt.Sprintf("%d", n)
}
