package openflow

import (
	"context"
	"encoding/binary"
	"fmt"
)

// Reasons of packet-ins (OpenFlow 1.5.1, section 7.4.1).
const (
	ReasonNoMatch    = 0
	ReasonAction     = 1
	ReasonInvalidTTL = 2
	ReasonActionSet  = 3
	ReasonGroup      = 4
	ReasonPacketOut  = 5
)

func reasonName(r uint8) string {
	return name(r, "no_match", "action", "invalid_ttl", "action_set", "group", "packet_out")
}

// PacketIn is a packet that a flow sent here (NXT_PACKET_IN2).
type PacketIn struct {
	Table    uint8
	Cookie   uint64 // of the flow
	Reason   uint8  // ReasonNoMatch too where the flow has priority 0 and matches everything
	UserData []byte // of the [Controller] action
	// Metadata is what the switch knew of the packet besides its bytes and that
	// was not zero: in_port, registers, metadata, tunnel, ct_state ...
	Metadata Match
	Packet   []byte
	FullLen  int // of the packet, where MaxLen cut it
	// Continuation is for [Conn.Resume], where the action said Pause.
	Continuation []byte
}

// InPort is the port that the packet came from, or 0.
func (p *PacketIn) InPort() Port {
	c, _ := p.Metadata.Get(InPort)
	return Port(c.Value.Lo)
}

// Field is the value of a metadata field; 0 if it is not there.
func (p *PacketIn) Field(f Field) Value {
	c, _ := p.Metadata.Get(f)
	return c.Value
}

// PacketInFilter says which packets are wanted.
type PacketInFilter struct {
	// Accept chooses; nil takes all. It is called by the goroutine that reads the
	// connection: it must be quick, and call nothing of the connection.
	Accept func(*PacketIn) bool
	// Buffer is how many packets may wait to be taken; more are lost, and counted
	// in [Conn.Lost]. Default 256.
	Buffer int
}

// PacketIns delivers packets until ctx or the connection ends; then the channel
// is closed. It returns when the switch sends them.
func (c *Conn) PacketIns(ctx context.Context, f PacketInFilter) (<-chan *PacketIn, error) {
	feed := newFeed(f.Buffer, f.Accept, &c.lost)
	if err := follow(ctx, c, feed, c.packets); err != nil {
		return nil, err
	}
	if err := c.want(ctx, asyncMask{packetIn: 1<<ReasonNoMatch | 1<<ReasonAction | 1<<ReasonInvalidTTL | 1<<ReasonActionSet | 1<<ReasonGroup | 1<<ReasonPacketOut}); err != nil {
		unfollow(c, feed, c.packets)
		return nil, err
	}
	return feed.ch, nil
}

// Properties of NXT_PACKET_IN2 and NXT_RESUME (enum nx_packet_in2_prop_type).
const (
	pinPacket       = 0
	pinFullLen      = 1
	pinTable        = 3
	pinCookie       = 4
	pinReason       = 5
	pinMetadata     = 6
	pinUserData     = 7
	pinContinuation = 8
)

func (c *Conn) packetIn(b []byte) error {
	p, err := decodePacketIn(b)
	if err != nil { // what cannot be told is lost, as any packet may be
		c.lost.Add(1)
		c.o.Logger.Warn("openflow: a packet-in", "error", err)
		return nil
	}
	publish(c, c.packets, p)
	return nil
}

func decodePacketIn(b []byte) (*PacketIn, error) {
	p := &PacketIn{}
	for len(b) > 0 {
		typ, body, rest, err := takeProperty(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch {
		case typ == pinPacket:
			p.Packet = append([]byte(nil), body...)
		case typ == pinFullLen && len(body) == 4:
			p.FullLen = int(binary.BigEndian.Uint32(body))
		case typ == pinTable && len(body) == 1:
			p.Table = body[0]
		case typ == pinCookie && len(body) == 12:
			p.Cookie = binary.BigEndian.Uint64(body[4:])
		case typ == pinReason && len(body) == 1:
			p.Reason = body[0]
		case typ == pinMetadata:
			p.Metadata = knownTLVs(body)
		case typ == pinUserData:
			p.UserData = append([]byte(nil), body...)
		case typ == pinContinuation && len(body) >= 4:
			p.Continuation = append([]byte(nil), body[4:]...)
		}
	}
	if p.FullLen == 0 {
		p.FullLen = len(p.Packet)
	}
	return p, nil
}

// knownTLVs is the canonical form of the fields that this package knows.
func knownTLVs(b []byte) Match {
	var m Match
	for len(b) >= 4 {
		n := 4 + int(b[3])
		if n > len(b) {
			break
		}
		if c, _, err := takeTLV(b[:n]); err == nil {
			m = append(m, c)
		}
		b = b[n:]
	}
	c, err := m.canonical()
	if err != nil {
		return m
	}
	return c
}

// takeProperty reads a type, a length and that many bytes, and their padding.
func takeProperty(b []byte) (typ uint16, body, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, errShort
	}
	n := int(get16(b[2:]))
	if n < 4 || n > len(b) {
		return 0, nil, nil, fmt.Errorf("a property of %d bytes in %d", n, len(b))
	}
	return get16(b), b[4:n], b[min((n+7)/8*8, len(b)):], nil
}

// appendProperty appends type, length, body and padding.
func appendProperty(b []byte, typ uint16, body []byte) []byte {
	start := len(b)
	return pad(append(be16(b, typ, uint16(4+len(body))), body...), start)
}

// appendNested appends a property whose body begins at a multiple of 8 bytes.
func appendNested(b []byte, typ uint16, body []byte) []byte {
	return appendProperty(b, typ, append([]byte{0, 0, 0, 0}, body...))
}

// append writes the properties that decodePacketIn reads.
func (p *PacketIn) append(b []byte) ([]byte, error) {
	m, err := p.Metadata.canonical()
	if err != nil {
		return nil, &InvalidError{What: "a packet-in", Reason: err.Error()}
	}
	b = appendProperty(b, pinPacket, p.Packet)
	b = appendProperty(b, pinTable, []byte{p.Table})
	b = appendProperty(b, pinCookie, be64([]byte{0, 0, 0, 0}, p.Cookie))
	b = appendProperty(b, pinReason, []byte{p.Reason})
	var tlvs []byte
	for _, x := range m {
		tlvs = x.appendTLV(tlvs)
	}
	b = appendProperty(b, pinMetadata, tlvs)
	if len(p.UserData) > 0 {
		b = appendProperty(b, pinUserData, p.UserData)
	}
	if len(p.Continuation) > 0 {
		b = appendNested(b, pinContinuation, p.Continuation)
	}
	return b, nil
}

// Resume lets a packet whose [Controller] action said Pause go on, with Packet
// and Metadata as they are now (NXT_RESUME).
func (c *Conn) Resume(ctx context.Context, p *PacketIn) error {
	return c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) {
		start := len(b)
		b, err := p.append(appendNicira(b, nxtResume, xid))
		if err != nil {
			return nil, err
		}
		return finish(b, start)
	})
}

// PacketOut is a packet to send.
type PacketOut struct {
	InPort   Port     // 0 stands for PortController
	Metadata Match    // registers, tunnel, metadata as the actions find them
	Actions  []Action // Output{Port: PortTable} runs the packet through the tables
	Packet   []byte
}

// append appends the whole message (OpenFlow 1.5.1, section 7.3.6).
func (p *PacketOut) append(b []byte, xid uint32) ([]byte, error) {
	port := p.InPort
	if port == 0 {
		port = PortController
	}
	m, err := p.Metadata.With(InPort.Is(uint64(port))).canonical()
	if err != nil {
		return nil, &InvalidError{What: "a packet-out", Reason: err.Error()}
	}
	start := len(b)
	b = be16(be32(appendMsgHeader(b, typePacketOut, xid), noBuffer), 0, 0)
	b = appendMatch(b, m)
	actions := len(b)
	if b, err = appendActions(b, p.Actions); err != nil {
		return nil, &InvalidError{What: "a packet-out with actions=" + actionsString(p.Actions), Reason: err.Error()}
	}
	if len(b)-actions > 0xffff {
		return nil, &InvalidError{What: "a packet-out", Reason: "has more than 64 KiB of actions"}
	}
	binary.BigEndian.PutUint16(b[start+12:], uint16(len(b)-actions))
	return finish(append(b, p.Packet...), start)
}

// PacketOut sends a packet and returns when the switch has taken it.
func (c *Conn) PacketOut(ctx context.Context, p PacketOut) error {
	return c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) { return p.append(b, xid) })
}
