package openflow

import "fmt"

// Error is what a switch refused, with the names of the specification.
type Error struct {
	Type, Code uint16
	Vendor     uint32 // 0: OpenFlow's own
	XID        uint32
	Data       []byte // the beginning of the message that was refused
}

func (e *Error) Error() string { return fmt.Sprintf("openflow: error %d,%d", e.Type, e.Code) }

// FlowError is the change of a flow that was refused; Err is an [*Error].
type FlowError struct {
	Mod FlowMod
	Err error
}

func (e *FlowError) Error() string { return fmt.Sprintf("openflow: %s: %v", e.Mod, e.Err) }
func (e *FlowError) Unwrap() error { return e.Err }
