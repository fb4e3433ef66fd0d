package openflow

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

// PacketIn is a packet that a flow sent here.
type PacketIn struct {
	Table    uint8
	Cookie   uint64 // of the flow
	Reason   uint8
	UserData []byte // of the [Controller] action
	Metadata Match  // in_port, registers, metadata, tunnel, ct_state ... that are not zero
	Packet   []byte
	FullLen  int // of the packet, where it was cut
	// Continuation is what Resume sends back, if the action said Pause.
	Continuation []byte
}

// PacketOut is a packet to send.
type PacketOut struct {
	InPort  Port   // 0 stands for PortController
	Match   []Cond // further metadata: registers, tunnel, metadata
	Actions []Action
	Packet  []byte
}
