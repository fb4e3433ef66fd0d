package openflow

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Error is what a switch refused. Its text has the names of the specification
// and of Open vSwitch.
type Error struct {
	Type, Code uint16
	Vendor     uint32 // 0: OpenFlow's own; else Type is 0xffff
	XID        uint32
	Data       []byte // the beginning of the message that was refused
}

// Some errors that callers ask for, by [Error.Name].
const (
	ErrNameUnknownGroup = "OFPGMFC_UNKNOWN_GROUP"
	ErrNameGroupExists  = "OFPGMFC_GROUP_EXISTS"
	ErrNameUnknownMeter = "OFPMMFC_UNKNOWN_METER"
	ErrNameMeterExists  = "OFPMMFC_METER_EXISTS"
)

// Name is the error's name, such as "OFPBMC_BAD_PREREQ", or "".
func (e *Error) Name() string {
	if e.Type == 0xffff {
		if e.Vendor == nicira {
			return niciraErrors[e.Code]
		}
		return ""
	}
	if int(e.Type) >= len(errorTypes) {
		return ""
	}
	t := errorTypes[e.Type]
	codes := strings.Fields(t.codes)
	if int(e.Code) >= len(codes) || codes[e.Code] == "-" {
		return ""
	}
	return t.prefix + "_" + codes[e.Code]
}

func (e *Error) Error() string {
	n := e.Name()
	if n == "" {
		n = "unknown to this package"
	}
	if e.Vendor != 0 {
		return fmt.Sprintf("openflow: the switch says %s (experimenter %#x, type %d)", n, e.Vendor, e.Code)
	}
	kind := "unknown type"
	if int(e.Type) < len(errorTypes) {
		kind = errorTypes[e.Type].name
	}
	return fmt.Sprintf("openflow: the switch says %s (%s %d, code %d)", n, kind, e.Type, e.Code)
}

// decodeError reads an error message, however short.
func decodeError(m []byte) *Error {
	e := &Error{XID: binary.BigEndian.Uint32(m[4:])}
	b := m[8:]
	if len(b) < 4 {
		return e
	}
	e.Type, e.Code, b = get16(b), get16(b[2:]), b[4:]
	if e.Type == 0xffff && len(b) >= 4 {
		e.Vendor, b = binary.BigEndian.Uint32(b), b[4:]
	}
	e.Data = append([]byte(nil), b[:min(len(b), 1024)]...)
	return e
}

// FlowError is a change of a flow that the switch refused; Err is an [*Error].
type FlowError struct {
	Mod FlowMod
	Err error
}

func (e *FlowError) Error() string { return fmt.Sprintf("%v: %s", e.Err, e.Mod) }
func (e *FlowError) Unwrap() error { return e.Err }

// errorTypes are the types and codes of OpenFlow 1.5.1, section 7.5.4, with the
// names of ofp-errors.h.
var errorTypes = [...]struct{ name, prefix, codes string }{
	{"OFPET_HELLO_FAILED", "OFPHFC", "INCOMPATIBLE EPERM"},
	{"OFPET_BAD_REQUEST", "OFPBRC", "BAD_VERSION BAD_TYPE BAD_STAT BAD_VENDOR BAD_SUBTYPE EPERM BAD_LEN BUFFER_EMPTY BUFFER_UNKNOWN BAD_TABLE_ID IS_SECONDARY BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW MULTIPART_REQUEST_TIMEOUT MULTIPART_REPLY_TIMEOUT MULTIPART_BAD_SCHED PIPELINE_FIELDS_ONLY UNKNOWN"},
	{"OFPET_BAD_ACTION", "OFPBAC", "BAD_TYPE BAD_LEN BAD_VENDOR BAD_VENDOR_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE BAD_OUT_GROUP MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT BAD_SET_MASK BAD_METER"},
	{"OFPET_BAD_INSTRUCTION", "OFPBIC", "UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER BAD_EXP_TYPE BAD_LEN EPERM DUP_INST"},
	{"OFPET_BAD_MATCH", "OFPBMC", "BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE BAD_MASK BAD_PREREQ DUP_FIELD EPERM"},
	{"OFPET_FLOW_MOD_FAILED", "OFPFMFC", "UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS CANT_SYNC BAD_PRIORITY IS_SYNC"},
	{"OFPET_GROUP_MOD_FAILED", "OFPGMFC", "GROUP_EXISTS INVALID_GROUP WEIGHT_UNSUPPORTED OUT_OF_GROUPS OUT_OF_BUCKETS CHAINING_UNSUPPORTED WATCH_UNSUPPORTED LOOP UNKNOWN_GROUP CHAINED_GROUP BAD_TYPE BAD_COMMAND BAD_BUCKET BAD_WATCH EPERM UNKNOWN_BUCKET BUCKET_EXISTS"},
	{"OFPET_PORT_MOD_FAILED", "OFPPMFC", "BAD_PORT BAD_HW_ADDR BAD_CONFIG BAD_ADVERTISE EPERM"},
	{"OFPET_TABLE_MOD_FAILED", "OFPTMFC", "BAD_TABLE BAD_CONFIG EPERM"},
	{"OFPET_QUEUE_OP_FAILED", "OFPQOFC", "BAD_PORT BAD_QUEUE EPERM"},
	{"OFPET_SWITCH_CONFIG_FAILED", "OFPSCFC", "BAD_FLAGS BAD_LEN EPERM"},
	{"OFPET_ROLE_REQUEST_FAILED", "OFPRRFC", "STALE UNSUP BAD_ROLE ID_UNSUP ID_IN_USE"},
	{"OFPET_METER_MOD_FAILED", "OFPMMFC", "UNKNOWN METER_EXISTS INVALID_METER UNKNOWN_METER BAD_COMMAND BAD_FLAGS BAD_RATE BAD_BURST BAD_BAND BAD_BAND_VALUE OUT_OF_METERS OUT_OF_BANDS"},
	{"OFPET_TABLE_FEATURES_FAILED", "OFPTFFC", "BAD_TABLE BAD_METADATA - - - EPERM BAD_CAPA BAD_MAX_ENT BAD_FEATURES BAD_COMMAND TOO_MANY"},
	{"OFPET_BAD_PROPERTY", "OFPBPC", "BAD_TYPE BAD_LEN BAD_VALUE TOO_MANY DUP_TYPE BAD_EXPERIMENTER BAD_EXP_TYPE BAD_EXP_VALUE EPERM"},
	{"OFPET_ASYNC_CONFIG_FAILED", "OFPACFC", "INVALID UNSUPPORTED EPERM"},
	{"OFPET_FLOW_MONITOR_FAILED", "OFPMOFC", "UNKNOWN MONITOR_EXISTS INVALID_MONITOR UNKNOWN_MONITOR BAD_COMMAND BAD_FLAGS BAD_TABLE_ID BAD_OUT"},
	{"OFPET_BUNDLE_FAILED", "OFPBFC", "UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN MSG_BAD_XID MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS SCHED_NOT_SUPPORTED SCHED_FUTURE SCHED_PAST"},
}

// niciraErrors are Open vSwitch's own (ofp-errors.h, "NX1.2+" and so on).
var niciraErrors = map[uint16]string{
	2: "NXBRC_NXM_INVALID", 3: "NXBRC_NXM_BAD_TYPE", 4: "NXBRC_MUST_BE_ZERO", 5: "NXBRC_BAD_REASON", 9: "NXBRC_FM_BAD_EVENT",
	10: "NXBRC_UNENCODABLE_ERROR", 11: "NXBAC_MUST_BE_ZERO", 12: "NXFMFC_HARDWARE", 13: "NXFMFC_BAD_TABLE_ID", 15: "NXBAC_BAD_CONJUNCTION",
	16: "NXTTMFC_BAD_COMMAND", 17: "NXTTMFC_BAD_OPT_LEN", 18: "NXTTMFC_BAD_FIELD_IDX", 19: "NXTTMFC_TABLE_FULL", 20: "NXTTMFC_ALREADY_MAPPED",
	21: "NXTTMFC_DUP_ENTRY", 22: "OFPBFC_BAD_VERSION", 23: "NXQOFC_QUEUE_ERROR", 34: "NXR_NOT_SUPPORTED", 35: "NXR_STALE", 36: "NXST_NOT_CONFIGURED",
	37: "NXFMFC_INVALID_TLV_FIELD", 38: "NXTTMFC_INVALID_TLV_DEL", 39: "NXBAC_BAD_HEADER_TYPE", 40: "NXBAC_UNKNOWN_ED_PROP", 41: "NXBAC_BAD_ED_PROP",
	42: "NXBAC_CT_DATAPATH_SUPPORT", 43: "NXBMC_CT_DATAPATH_SUPPORT", 44: "NXTFFC_DUP_TABLE",
}
