package openflow

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// seedFlows are encoded flows for the corpus.
func seedFlows(f *testing.F) {
	for i := range 40 {
		mod := Add(rapid.Custom(genFlow).Example(i))
		b, err := mod.appendMessage(nil, uint32(i))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// What is decoded of any bytes can be encoded, and is the same when decoded
// again.
func FuzzDecodeFlowMod(f *testing.F) {
	seedFlows(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeFlowMod(b)
		if err != nil {
			return
		}
		_ = m.String()
		e, err := m.appendMessage(nil, 1)
		if err != nil { // a switch would not have sent it
			return
		}
		again, err := decodeFlowMod(e)
		require.NoError(t, err)
		require.True(t, again.Equal(&m.Flow), "%s\n%s", m, again)
		e2, err := again.appendMessage(nil, 1)
		require.NoError(t, err)
		require.Equal(t, e, e2)
	})
}

// No message of a switch makes a connection panic.
func FuzzDecodeMessage(f *testing.F) {
	for i := range 10 {
		p := &PacketIn{Table: 3, Cookie: 5, Reason: 1, UserData: []byte{1}, Metadata: rapid.Custom(genMatch).Example(i), Packet: make([]byte, 64), Continuation: []byte{1, 2, 3}}
		b, err := p.append(appendNicira(nil, nxtPacketIn2, 0))
		if err == nil {
			b, _ = finish(b, 0)
			f.Add(b)
		}
	}
	f.Add(message(typePortStatus, 0, make([]byte, 48)...))
	f.Add(message(typeError, 5, 0, 1, 0, 2, 3, 4))
	f.Add(message(typeFlowRemoved, 0, make([]byte, 40)...))
	for _, part := range []byte{partFlow, partAggregate, partGroup, partGroupDesc, partMeter, partMeterConfig, partMeterFeatures, partPortDesc, partFlowMonitor} {
		f.Add(message(typeMultipartReply, 0, append([]byte{0, part, 0, 0, 0, 0, 0, 0}, make([]byte, 96)...)...))
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		if len(m) < 8 {
			return
		}
		c := newIdle()
		c.updates = newFeed[FlowUpdate](4, nil, &c.lost)
		binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
		_ = c.handle(m)
		if len(m) < 16 {
			return
		}
		b := m[16:]
		if s, n, err := decodeFlowStats(b); err == nil {
			require.LessOrEqual(t, n, len(b))
			_ = s.String()
		}
		if g, n, err := decodeGroup(b); err == nil {
			require.LessOrEqual(t, n, len(b))
			_ = g.String()
		}
		_, _, _ = decodeMeter(b)
		_, _, _ = decodePort(b)
		_, _, _ = takeStats(b)
		_, _ = takeActions(b, 0)
		_ = eachUpdate(b, func(FlowUpdate) {})
	})
}
