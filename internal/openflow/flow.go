package openflow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// DefaultPriority is the priority that ovs-ofctl gives flows, and does not
// print.
const DefaultPriority = 0x8000

// FlowFlags say what else a switch does about a flow.
type FlowFlags uint16

// Flags of flows (OpenFlow 1.5.1, section 7.3.4.2).
const (
	SendFlowRemoved FlowFlags = 1 << iota
	CheckOverlap
	ResetCounts
	NoPacketCounts
	NoByteCounts
)

// Flow is an entry of a table.
type Flow struct {
	Table       uint8
	Priority    uint16 // as it is: zero is the lowest
	Cookie      uint64
	IdleTimeout uint16 // seconds; 0: none
	HardTimeout uint16 // seconds; 0: none
	Importance  uint16
	Flags       FlowFlags
	Match       Match
	Actions     []Action // none: the packet is dropped
}

// FlowKey says which flow of a switch a Flow is. It is comparable.
type FlowKey struct {
	Table    uint8
	Priority uint16
	Match    string // encoded, canonical
}

// Key identifies the flow: a switch has one flow of a key. The keys of flows
// that are not valid mean nothing.
func (f *Flow) Key() FlowKey {
	m, err := f.Match.canonical()
	if err != nil {
		return FlowKey{f.Table, f.Priority, fmt.Sprintf("%+v", f.Match)}
	}
	return FlowKey{f.Table, f.Priority, string(appendMatch(nil, m))}
}

// Equal reports whether both flows can be encoded and are the same: key, cookie,
// time-outs, flags, and actions as they are encoded.
func (f *Flow) Equal(o *Flow) bool {
	if f.Table != o.Table || f.Priority != o.Priority || f.Cookie != o.Cookie || f.IdleTimeout != o.IdleTimeout ||
		f.HardTimeout != o.HardTimeout || f.Importance != o.Importance || f.Flags != o.Flags || !f.Match.Equal(o.Match) {
		return false
	}
	a, err1 := appendInstructions(nil, f.Actions)
	b, err2 := appendInstructions(nil, o.Actions)
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}

// InvalidError says why a flow, or something else that was to be sent, cannot
// be.
type InvalidError struct {
	What   string // the flow in ovs-ofctl's syntax
	Field  string // the field or action that is wrong, where one is
	Reason string
}

func (e *InvalidError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("openflow: %s: %s %s", e.What, e.Field, e.Reason))
}

// Validate reports what is wrong with the flow as an [*InvalidError]: fields
// without what they need, values outside of masks, actions that cannot be
// encoded. A switch may still have more to say, and then does so by an [*Error].
func (f *Flow) Validate() error {
	_, err := f.encode(nil)
	return err
}

// encode appends match and instructions.
func (f *Flow) encode(b []byte) ([]byte, error) {
	m, err := f.Match.canonical()
	if err == nil {
		err = m.prerequisites()
	}
	if err != nil {
		return nil, f.invalid(err)
	}
	if err := kindOf(m).actionsFit(f.Actions); err != nil {
		return nil, f.invalid(err)
	}
	b = appendMatch(b, m)
	if b, err = appendInstructions(b, f.Actions); err != nil {
		return nil, f.invalid(err)
	}
	return b, nil
}

func (f *Flow) invalid(err error) error {
	var c *conditionError
	if errors.As(err, &c) {
		return &InvalidError{f.String(), c.field.String(), c.reason}
	}
	return &InvalidError{What: f.String(), Reason: err.Error()}
}

// String is the flow as "ovs-ofctl -O OpenFlow15 --no-stats --no-names
// dump-flows" prints it.
func (f Flow) String() string {
	var b strings.Builder
	if f.Cookie != 0 {
		fmt.Fprintf(&b, "cookie=0x%x, ", f.Cookie)
	}
	if f.Table != 0 {
		fmt.Fprintf(&b, "table=%d, ", f.Table)
	}
	if f.IdleTimeout != 0 {
		fmt.Fprintf(&b, "idle_timeout=%d, ", f.IdleTimeout)
	}
	if f.HardTimeout != 0 {
		fmt.Fprintf(&b, "hard_timeout=%d, ", f.HardTimeout)
	}
	for i, name := range []string{"send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"} {
		if f.Flags&(1<<i) != 0 {
			b.WriteString(name + " ")
		}
	}
	if f.Importance != 0 {
		fmt.Fprintf(&b, "importance=%d, ", f.Importance)
	}
	m := f.Match.String()
	switch {
	case f.Priority != DefaultPriority && m != "":
		fmt.Fprintf(&b, "priority=%d,%s ", f.Priority, m)
	case f.Priority != DefaultPriority:
		fmt.Fprintf(&b, "priority=%d ", f.Priority)
	case m != "":
		b.WriteString(m + " ")
	}
	b.WriteString("actions=" + actionsString(f.Actions))
	return b.String()
}

// FlowStats is a flow and what passed through it.
type FlowStats struct {
	Flow
	Packets, Bytes uint64
	Duration       time.Duration // since it was added
	Idle           time.Duration // since it last matched
}

// Command is what a FlowMod does.
type Command uint8

// Commands (OpenFlow 1.5.1, section 7.3.4.2). Add replaces a flow of the same
// key. Modify and Delete act on all flows that the match covers, whatever their
// priority; Modify changes actions only.
const (
	CommandAdd Command = iota
	CommandModify
	CommandModifyStrict
	CommandDelete
	CommandDeleteStrict
)

// AllTables is the table of a Delete or a [FlowFilter] that means every table.
const AllTables = 0xff

// FlowMod is a change to flows. Its makers are [Add], [Modify], [Delete] and
// [DeleteAll].
type FlowMod struct {
	Command Command
	// CookieMask is for all but CommandAdd: only flows that have these bits of
	// Flow.Cookie are touched.
	CookieMask uint64
	Flow
}

// Add adds the flow, in place of one with the same key.
func Add(f Flow) FlowMod { return FlowMod{Command: CommandAdd, Flow: f} }

// Modify gives the flow with the same key, if there is one, the actions of f.
// Its counters, time-outs and cookie stay.
func Modify(f Flow) FlowMod { return FlowMod{Command: CommandModifyStrict, Flow: f} }

// Delete deletes the flow with the same key, if there is one, and if cookieMask
// is not zero only if it has these bits of f.Cookie.
func Delete(f Flow, cookieMask uint64) FlowMod {
	f.Actions = nil
	return FlowMod{Command: CommandDeleteStrict, CookieMask: cookieMask, Flow: f}
}

// DeleteAll deletes the flows of a table ([AllTables]) that have the bits of
// cookie under the mask and that the match covers (nil: all).
func DeleteAll(table uint8, cookie, cookieMask uint64, m Match) FlowMod {
	return FlowMod{Command: CommandDelete, CookieMask: cookieMask, Flow: Flow{Table: table, Cookie: cookie, Match: m}}
}

// String is the change as a line for "ovs-ofctl --bundle add-flows".
func (m FlowMod) String() string {
	names := [...]string{"add", "modify", "modify_strict", "delete", "delete_strict"}
	name := fmt.Sprintf("command%d", m.Command)
	if int(m.Command) < len(names) {
		name = names[m.Command]
	}
	s := m.Flow.String()
	if m.CookieMask != 0 {
		s = strings.Replace(s, fmt.Sprintf("cookie=0x%x", m.Cookie), fmt.Sprintf("cookie=0x%x/0x%x", m.Cookie, m.CookieMask), 1)
	}
	if m.Command == CommandDelete || m.Command == CommandDeleteStrict {
		s = strings.TrimSuffix(s, "actions=drop")
	}
	return name + " " + strings.TrimSpace(s)
}

// appendMessage appends the whole OpenFlow message.
func (m *FlowMod) appendMessage(b []byte, xid uint32) ([]byte, error) {
	start := len(b)
	b = appendMsgHeader(b, typeFlowMod, xid)
	b = be64(b, m.Cookie, m.CookieMask)
	b = append(b, m.Table, byte(m.Command))
	b = be16(b, m.IdleTimeout, m.HardTimeout, m.Priority)
	b = be32(b, noBuffer, uint32(PortAny), groupAny)
	b = be16(b, uint16(m.Flags), m.Importance)
	b, err := m.Flow.encode(b)
	if err != nil {
		return nil, err
	}
	if b, err = finish(b, start); err != nil {
		return nil, m.invalid(err)
	}
	return b, nil
}

// decodeFlowMod reads what appendMessage wrote.
func decodeFlowMod(b []byte) (FlowMod, error) {
	if len(b) < 48 || b[1] != typeFlowMod {
		return FlowMod{}, errShort
	}
	b = b[8:]
	be := binary.BigEndian
	m := FlowMod{Command: Command(b[17]), CookieMask: be.Uint64(b[8:]), Flow: Flow{Cookie: be.Uint64(b), Table: b[16],
		IdleTimeout: be.Uint16(b[18:]), HardTimeout: be.Uint16(b[20:]), Priority: be.Uint16(b[22:]), Flags: FlowFlags(be.Uint16(b[36:])), Importance: be.Uint16(b[38:])}}
	var err error
	if m.Match, b, err = takeMatch(b[40:]); err != nil {
		return FlowMod{}, err
	}
	m.Actions, err = takeInstructions(b)
	return m, err
}
