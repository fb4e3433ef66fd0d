package openflow

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Learn adds or changes a flow as the packet passes ("learn" in
// ovs-actions(7)).
type Learn struct {
	Table                          uint8
	Priority                       uint16
	Cookie                         uint64
	IdleTimeout, HardTimeout       uint16 // seconds
	FinIdleTimeout, FinHardTimeout uint16 // seconds, after a FIN or RST
	SendFlowRemoved                bool
	DeleteLearned                  bool
	Limit                          uint32 // flows; 0: none
	Result                         Slice  // one bit, set to whether the flow could be learnt; no bits: nowhere
	Specs                          []LearnSpec
}

// LearnSpec is one part of a learnt flow.
type LearnSpec struct {
	kind  uint16
	Src   Slice // where the bits come from; without bits they are Value
	Value Value
	Dst   Slice // what is matched or set; nothing for an output
}

const (
	learnImmediate = 1 << 13
	learnMatch     = 0 << 11
	learnLoad      = 1 << 11
	learnOutput    = 2 << 11
	learnKinds     = 3 << 11
)

// LearnMatch makes the learnt flow match that dst is what src is now.
func LearnMatch(dst, src Slice) LearnSpec { return LearnSpec{kind: learnMatch, Src: src, Dst: dst} }

// LearnMatchValue makes the learnt flow match that dst is v.
func LearnMatchValue(dst Slice, v uint64) LearnSpec {
	return LearnSpec{kind: learnMatch | learnImmediate, Value: U64(v), Dst: dst}
}

// LearnLoad makes the learnt flow set dst to what src is now.
func LearnLoad(dst, src Slice) LearnSpec { return LearnSpec{kind: learnLoad, Src: src, Dst: dst} }

// LearnLoadValue makes the learnt flow set dst to v.
func LearnLoadValue(dst Slice, v uint64) LearnSpec {
	return LearnSpec{kind: learnLoad | learnImmediate, Value: U64(v), Dst: dst}
}

// LearnOutput makes the learnt flow output to the port that src is now.
func LearnOutput(src Slice) LearnSpec { return LearnSpec{kind: learnOutput, Src: src} }

func (s LearnSpec) String() string {
	value := s.Value.text()
	switch s.kind {
	case learnMatch | learnImmediate:
		if int(s.Dst.Bits) == s.Dst.Field.Width() {
			return s.Dst.Field.long() + "=" + Cond{s.Dst.Field, s.Value, s.Dst.Field.ones()}.text()
		}
		return s.Dst.String() + "=" + value
	case learnMatch:
		if s.Src == s.Dst {
			return s.Dst.String()
		}
		return s.Dst.String() + "=" + s.Src.String()
	case learnLoad | learnImmediate:
		return "load:" + value + "->" + s.Dst.String()
	case learnLoad:
		return "load:" + s.Src.String() + "->" + s.Dst.String()
	}
	return "output:" + s.Src.String()
}

func (a Learn) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "learn(table=%d", a.Table)
	for _, p := range []struct {
		name string
		v    uint16
	}{{"idle_timeout", a.IdleTimeout}, {"hard_timeout", a.HardTimeout}, {"fin_idle_timeout", a.FinIdleTimeout}, {"fin_hard_timeout", a.FinHardTimeout}} {
		if p.v != 0 {
			fmt.Fprintf(&b, ",%s=%d", p.name, p.v)
		}
	}
	if a.Priority != DefaultPriority {
		fmt.Fprintf(&b, ",priority=%d", a.Priority)
	}
	if a.SendFlowRemoved {
		b.WriteString(",send_flow_rem")
	}
	if a.DeleteLearned {
		b.WriteString(",delete_learned")
	}
	if a.Cookie != 0 {
		fmt.Fprintf(&b, ",cookie=0x%x", a.Cookie)
	}
	if a.Limit != 0 {
		fmt.Fprintf(&b, ",limit=%d", a.Limit)
	}
	if a.Result.Bits != 0 {
		b.WriteString(",result_dst=" + a.Result.String())
	}
	for _, s := range a.Specs {
		b.WriteString("," + s.String())
	}
	return b.String() + ")"
}

func (a Learn) encode(b []byte) ([]byte, error) {
	sub, flags := uint16(nxLearn), uint16(0)
	if a.SendFlowRemoved {
		flags |= 1
	}
	if a.DeleteLearned {
		flags |= 2
	}
	if a.Result.Bits != 0 {
		if err := a.Result.check(); err != nil {
			return nil, err
		}
		flags |= 4
	}
	if a.Limit != 0 || a.Result.Bits != 0 {
		sub = nxLearn2
	}
	start := len(b)
	b = be16(nxAction(b, sub, 0), a.IdleTimeout, a.HardTimeout, a.Priority)
	b = append(be16(be64(b, a.Cookie), flags), a.Table, 0)
	b = be16(b, a.FinIdleTimeout, a.FinHardTimeout)
	if sub == nxLearn2 {
		b = be16(be32(b, a.Limit), a.Result.Ofs, 0)
		if a.Result.Bits != 0 {
			b = a.Result.Field.appendHeader(b)
		}
	}
	for _, s := range a.Specs {
		bits := s.Dst.Bits
		if s.kind == learnOutput {
			bits = s.Src.Bits
		} else if err := s.Dst.check(); err != nil {
			return nil, err
		}
		b = be16(b, s.kind|bits)
		if s.kind&learnImmediate != 0 {
			if !s.Value.andNot(lowOnes(int(bits))).isZero() {
				return nil, fmt.Errorf("learn: %s is more than the %d bits of %s", s.Value.text(), bits, s.Dst)
			}
			b = s.Value.append(b, 2*((int(bits)+15)/16))
		} else {
			if err := s.Src.check(); err != nil {
				return nil, err
			}
			if s.kind != learnOutput && s.Src.Bits != bits {
				return nil, fmt.Errorf("learn: %s has %d bits and %s %d", s.Src, s.Src.Bits, s.Dst, bits)
			}
			b = be16(s.Src.Field.appendHeader(b), s.Src.Ofs)
		}
		if s.kind != learnOutput {
			b = be16(s.Dst.Field.appendHeader(b), s.Dst.Ofs)
		}
	}
	return endAction(b, start)
}

func takeLearn(b []byte, second bool) (Action, error) {
	if len(b) < 32 {
		return nil, errShort
	}
	flags := get16(b[24:])
	a := Learn{IdleTimeout: get16(b[10:]), HardTimeout: get16(b[12:]), Priority: get16(b[14:]), Cookie: binary.BigEndian.Uint64(b[16:]),
		SendFlowRemoved: flags&1 != 0, DeleteLearned: flags&2 != 0, Table: b[26], FinIdleTimeout: get16(b[28:]), FinHardTimeout: get16(b[30:])}
	b = b[32:]
	if second {
		if len(b) < 8 {
			return nil, errShort
		}
		a.Limit = binary.BigEndian.Uint32(b)
		a.Result.Ofs = get16(b[4:])
		b = b[8:]
		if flags&4 != 0 {
			f, rest, err := takeField(b)
			if err != nil {
				return nil, err
			}
			a.Result.Field, a.Result.Bits, b = f, 1, rest
		}
	}
	for len(b) >= 2 && get16(b) != 0 {
		h := get16(b)
		s := LearnSpec{kind: h & (learnKinds | learnImmediate)}
		bits := h & 0x3ff
		b = b[2:]
		if s.kind&learnKinds == learnKinds || s.kind == learnOutput|learnImmediate || bits > 128 {
			return nil, fmt.Errorf("learn: spec %#x", h)
		}
		var err error
		if s.kind&learnImmediate != 0 {
			n := 2 * ((int(bits) + 15) / 16)
			if len(b) < n {
				return nil, errShort
			}
			s.Value, b = valueOf(b[:n]).and(lowOnes(int(bits))), b[n:]
		} else if s.Src, b, err = takeSlice(b, bits); err != nil {
			return nil, err
		}
		if s.kind&learnKinds != learnOutput {
			if s.Dst, b, err = takeSlice(b, bits); err != nil {
				return nil, err
			}
		}
		a.Specs = append(a.Specs, s)
	}
	return a, nil
}

// takeSlice reads a field and an offset.
func takeSlice(b []byte, bits uint16) (Slice, []byte, error) {
	f, b, err := takeField(b)
	if err != nil {
		return Slice{}, nil, err
	}
	if len(b) < 2 {
		return Slice{}, nil, errShort
	}
	s := Slice{f, get16(b), bits}
	return s, b[2:], s.check()
}
