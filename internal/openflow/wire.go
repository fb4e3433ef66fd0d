package openflow

import (
	"encoding/binary"
	"fmt"
)

// Version of OpenFlow on the wire: 1.5.
const version = 6

// Message types (OpenFlow 1.5.1, section 7.1.1).
const (
	typeHello            = 0
	typeError            = 1
	typeEchoRequest      = 2
	typeEchoReply        = 3
	typeExperimenter     = 4
	typeFeaturesRequest  = 5
	typeFeaturesReply    = 6
	typePacketIn         = 10
	typeSetConfig        = 9
	typeFlowRemoved      = 11
	typePortStatus       = 12
	typePacketOut        = 13
	typeFlowMod          = 14
	typeGroupMod         = 15
	typeMultipartRequest = 18
	typeMultipartReply   = 19
	typeBarrierRequest   = 20
	typeBarrierReply     = 21
	typeSetAsync         = 28
	typeMeterMod         = 29
	typeBundleControl    = 33
	typeBundleAdd        = 34
)

// Multipart types (section 7.3.5.1).
const (
	partFlow          = 1 // OFPST_FLOW; Open vSwitch sends descriptions and statistics in one
	partAggregate     = 2
	partTable         = 3
	partGroup         = 6
	partGroupDesc     = 7
	partMeter         = 9
	partMeterConfig   = 10
	partMeterFeatures = 11
	partPortDesc      = 13
	partFlowMonitor   = 16
)

// Nicira's experimenter id and its messages (nicira-ext.h, ofp-msgs.h).
const (
	nicira               = 0x2320
	nxtSetPacketInFormat = 16
	nxtSetControllerID   = 20
	nxtResume            = 28
	nxtCtFlushZone       = 29
	nxtPacketIn2         = 30
	nxtCtFlush           = 32
)

const (
	noBuffer = 0xffffffff
	groupAny = 0xffffffff
	maxMsg   = 0xffff
)

func be16(b []byte, vs ...uint16) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

func be32(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func be64(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func appendMsgHeader(b []byte, typ uint8, xid uint32) []byte {
	return be32(append(b, version, typ, 0, 0), xid)
}

func appendNicira(b []byte, subtype, xid uint32) []byte {
	return be32(appendMsgHeader(b, typeExperimenter, xid), nicira, subtype)
}

// finish writes the length of the message that begins at start.
func finish(b []byte, start int) ([]byte, error) {
	if n := len(b) - start; n > maxMsg {
		return nil, fmt.Errorf("openflow: a message of %d bytes, more than 65535", n)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b, nil
}
