package qos

import (
	"slices"
	"strconv"

	"github.com/vnet-go/vnet"
)

// Direction is which way packets go, seen from the instance.
type Direction string

// The directions.
const (
	Egress  Direction = "egress"  // sent by the port; leaving by the gateway; from the floating IP
	Ingress Direction = "ingress" // sent to the port; coming by the gateway; to the floating IP
)

// Limits are what may pass one way. The zero value limits and promises nothing.
type Limits struct {
	// Kbps is the most that passes, in kbit/s of Ethernet frames. Zero: no limit.
	Kbps uint32 `json:"max_kbps,omitempty"`
	// BurstKbit is the size of what may pass at once, in kbit; see [Limits.Burst].
	// With Kbps only, and at least [MinBurstKbit]: a smaller one lets no full frame pass.
	BurstKbit uint32 `json:"max_burst_kbit,omitempty"`
	// PPS is the most packets a second. Zero: no limit.
	PPS uint32 `json:"max_pps,omitempty"`
	// BurstPackets is how many may pass at once; see [Limits.PacketBurst]. With PPS only.
	BurstPackets uint32 `json:"max_burst_packets,omitempty"`
	// MinKbps and MinPPS are promised: not above Kbps and PPS, if these are set.
	// MinPPS is only promised (qos/placement), no backend enforces it.
	MinKbps uint32 `json:"min_kbps,omitempty"`
	MinPPS  uint32 `json:"min_pps,omitempty"`
}

// MinBurstKbit is the smallest burst that can be asked for: one frame of 1500 bytes.
const MinBurstKbit = 12

// jumboKbit is one frame of 9000 bytes, which the default burst lets pass.
const jumboKbit = 72

// Burst is BurstKbit or its default in kbit: 80 % of a second at the limit, as
// Neutron has it, and never less than a frame of 9000 bytes. 0 without a limit.
func (l Limits) Burst() uint32 {
	switch {
	case l.Kbps == 0:
		return 0
	case l.BurstKbit > 0:
		return l.BurstKbit
	}
	return max(uint32(uint64(l.Kbps)*8/10), jumboKbit)
}

// PacketBurst is BurstPackets or its default: 80 % of a second at the limit,
// and never less than one. 0 without a limit.
func (l Limits) PacketBurst() uint32 {
	switch {
	case l.PPS == 0:
		return 0
	case l.BurstPackets > 0:
		return l.BurstPackets
	}
	return max(uint32(uint64(l.PPS)*8/10), 1)
}

// Limited reports whether l limits anything.
func (l Limits) Limited() bool { return l.Kbps > 0 || l.PPS > 0 }

// Shape is what a port, a gateway or a floating IP may do.
type Shape struct {
	Egress  Limits `json:"egress"`
	Ingress Limits `json:"ingress"`
	// DSCP is put into the IP header (v4 and v6) of what is sent, whatever it
	// had; nil leaves it. The values are Neutron's: see [Shape.Validate].
	DSCP *uint8 `json:"dscp_mark,omitempty"`
}

// Zero reports whether s asks for nothing.
func (s Shape) Zero() bool { return s.Egress == Limits{} && s.Ingress == Limits{} && s.DSCP == nil }

// Way returns the limits of one direction.
func (s Shape) Way(d Direction) Limits {
	if d == Ingress {
		return s.Ingress
	}
	return s.Egress
}

// Equal reports whether both ask for the same.
func (s Shape) Equal(o Shape) bool {
	if (s.DSCP == nil) != (o.DSCP == nil) || s.DSCP != nil && *s.DSCP != *o.DSCP {
		return false
	}
	return s.Egress == o.Egress && s.Ingress == o.Ingress
}

// Clone returns a copy that shares nothing.
func (s Shape) Clone() Shape {
	if s.DSCP != nil {
		d := *s.DSCP
		s.DSCP = &d
	}
	return s
}

// Policy is a [Shape] with a name, which many may have.
type Policy struct {
	ID    string `json:"id"`
	Shape `json:"shape"`
	// MinPPS is promised whichever way packets go (Neutron's direction "any");
	// not together with that of one direction.
	MinPPS uint32 `json:"min_pps_any,omitempty"`
}

// dscps are the values Neutron accepts: class selectors, assured and expedited
// forwarding, and voice admit (RFC 2474, 2597, 3246, 5865).
func dscps() []uint8 {
	return []uint8{0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 44, 46, 48, 56}
}

// Validate reports, as [*vnet.FieldError], what is wrong with p.
func (p Policy) Validate() error {
	var e fields
	e.add("", vnet.CheckID("id", p.ID))
	e.add("shape", p.Shape.Validate())
	if p.MinPPS > 0 {
		for _, d := range []Direction{Egress, Ingress} {
			l := p.Way(d)
			e.is(l.MinPPS > 0, "min_pps_any", p.MinPPS, "is set together with that of "+string(d))
			e.is(l.PPS > 0 && p.MinPPS > l.PPS, "min_pps_any", p.MinPPS, "is above the limit of "+string(d)+", "+strconv.Itoa(int(l.PPS)))
		}
	}
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with s.
func (s Shape) Validate() error {
	var e fields
	e.add("egress", s.Egress.Validate())
	e.add("ingress", s.Ingress.Validate())
	if s.DSCP != nil {
		e.is(!slices.Contains(dscps(), *s.DSCP), "dscp_mark", *s.DSCP, "is none of those that are used (0, the even ones from 8 to 40, 44, 46, 48, 56)")
	}
	return e.err()
}

// Validate reports, as [*vnet.FieldError], what is wrong with l.
func (l Limits) Validate() error {
	var e fields
	e.is(l.BurstKbit > 0 && l.Kbps == 0, "max_burst_kbit", l.BurstKbit, "is set without max_kbps")
	e.is(l.BurstKbit > 0 && l.BurstKbit < MinBurstKbit, "max_burst_kbit", l.BurstKbit, "is less than one frame of 1500 bytes, 12 kbit: nothing would pass")
	e.is(l.BurstPackets > 0 && l.PPS == 0, "max_burst_packets", l.BurstPackets, "is set without max_pps")
	e.is(l.Kbps > 0 && l.MinKbps > l.Kbps, "min_kbps", l.MinKbps, "is above max_kbps, "+strconv.Itoa(int(l.Kbps)))
	e.is(l.PPS > 0 && l.MinPPS > l.PPS, "min_pps", l.MinPPS, "is above max_pps, "+strconv.Itoa(int(l.PPS)))
	return e.err()
}

// VFRates are the rates of a virtual function (sriov.Port) that has shape s:
// cards promise and limit what is sent, in whole Mbit/s, and nothing else. The
// rest of s is refused by name, [*vnet.UnsupportedError], except what is only
// promised (qos/placement).
func (s Shape) VFRates() (minKbps, maxKbps int, err error) {
	for _, x := range []struct {
		name  string
		asked bool
	}{
		{"ingress bandwidth", s.Ingress.Kbps > 0},
		{"egress packet rate", s.Egress.PPS > 0},
		{"ingress packet rate", s.Ingress.PPS > 0},
		{"egress burst", s.Egress.BurstKbit > 0},
		{"DSCP", s.DSCP != nil},
	} {
		if x.asked {
			return 0, 0, &vnet.UnsupportedError{Feature: x.name + " of a VF", Backend: "SR-IOV", Need: "a port that the host's switch carries"}
		}
	}
	return int(s.Egress.MinKbps), int(s.Egress.Kbps), nil
}
