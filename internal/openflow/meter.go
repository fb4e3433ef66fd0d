package openflow

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// MeterConfig is a rate limit that flows use by the action [Meter]. A packet that
// would exceed Rate is dropped.
type MeterConfig struct {
	ID      uint32
	Packets bool   // Rate counts packets a second, not kilobits a second
	Rate    uint32 // kbit/s or packets/s
	Burst   uint32 // kbit or packets; 0: the switch's choice
}

func (m MeterConfig) String() string {
	unit := "kbps"
	if m.Packets {
		unit = "pktps"
	}
	burst, size := "", ""
	if m.Burst != 0 {
		burst, size = " burst", fmt.Sprintf(" burst_size=%d", m.Burst)
	}
	return fmt.Sprintf("meter=%d %s%s bands= type=drop rate=%d%s", m.ID, unit, burst, m.Rate, size)
}

// AllMeters stands for every meter where one is to be deleted.
const AllMeters = 0xffffffff

// Commands and flags of meters (OpenFlow 1.5.1, section 7.3.4.5).
const (
	meterAdd    = 0
	meterModify = 1
	meterDelete = 2

	meterKbps  = 1
	meterPktps = 2
	meterBurst = 4
)

// AddMeter makes a meter.
func (c *Conn) AddMeter(ctx context.Context, m MeterConfig) error {
	return c.meterMod(ctx, meterAdd, m)
}

// ModifyMeter changes a meter.
func (c *Conn) ModifyMeter(ctx context.Context, m MeterConfig) error {
	return c.meterMod(ctx, meterModify, m)
}

// DeleteMeter deletes a meter, or [AllMeters], and the flows that use it. To
// delete one that is not there is no error.
func (c *Conn) DeleteMeter(ctx context.Context, id uint32) error {
	return c.meterMod(ctx, meterDelete, MeterConfig{ID: id})
}

func (c *Conn) meterMod(ctx context.Context, command uint16, m MeterConfig) error {
	err := c.send(ctx, 1, func(_ int, b []byte, xid uint32) ([]byte, error) {
		start := len(b)
		b = appendMsgHeader(b, typeMeterMod, xid)
		return finish(m.append(b, command), start)
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, m)
	}
	return nil
}

func (m MeterConfig) append(b []byte, command uint16) []byte {
	flags := uint16(meterKbps)
	if m.Packets {
		flags = meterPktps
	}
	if m.Burst != 0 {
		flags |= meterBurst
	}
	b = be32(be16(b, command, flags), m.ID)
	if command == meterDelete {
		return b
	}
	return be32(be16(b, 1, 16), m.Rate, m.Burst, 0)
}

// MeterStats is what a meter has seen.
type MeterStats struct {
	ID                           uint32
	Flows                        uint32
	Packets, Bytes               uint64
	DroppedPackets, DroppedBytes uint64
	Duration                     time.Duration
}

// MeterFeatures is what meters a switch can have.
type MeterFeatures struct {
	MaxMeters uint32
	MaxBands  uint8
}

// Meters reads the meters. One that is not of a single drop band comes with the
// rate of its first.
func (c *Conn) Meters(ctx context.Context) ([]MeterConfig, error) {
	var out []MeterConfig
	err := c.multipart(ctx, partMeterConfig, allMeters, func(b []byte) error {
		for len(b) > 0 {
			m, n, err := decodeMeter(b)
			if err != nil {
				return err
			}
			out = append(out, m)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func allMeters(b []byte) ([]byte, error) { return be32(b, AllMeters, 0), nil }

func decodeMeter(b []byte) (MeterConfig, int, error) {
	if len(b) < 8 {
		return MeterConfig{}, 0, errShort
	}
	n := int(get16(b))
	if n < 8 || n > len(b) {
		return MeterConfig{}, 0, fmt.Errorf("a meter of %d bytes in %d", n, len(b))
	}
	flags := get16(b[2:])
	m := MeterConfig{ID: binary.BigEndian.Uint32(b[4:]), Packets: flags&meterPktps != 0}
	if n >= 20 {
		m.Rate = binary.BigEndian.Uint32(b[12:])
		if flags&meterBurst != 0 {
			m.Burst = binary.BigEndian.Uint32(b[16:])
		}
	}
	return m, n, nil
}

// MeterStats reads what the meters have seen.
func (c *Conn) MeterStats(ctx context.Context) ([]MeterStats, error) {
	var out []MeterStats
	err := c.multipart(ctx, partMeter, allMeters, func(b []byte) error {
		be := binary.BigEndian
		for len(b) > 0 {
			if len(b) < 40 {
				return errShort
			}
			n := int(get16(b[4:]))
			if n < 40 || n > len(b) {
				return fmt.Errorf("a meter of %d bytes in %d", n, len(b))
			}
			s := MeterStats{ID: be.Uint32(b), Flows: be.Uint32(b[12:]), Packets: be.Uint64(b[16:]), Bytes: be.Uint64(b[24:]),
				Duration: time.Duration(be.Uint32(b[32:]))*time.Second + time.Duration(be.Uint32(b[36:]))}
			for at := 40; at+16 <= n; at += 16 {
				s.DroppedPackets += be.Uint64(b[at:])
				s.DroppedBytes += be.Uint64(b[at+8:])
			}
			out = append(out, s)
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// MeterFeatures reads what meters the switch can have.
func (c *Conn) MeterFeatures(ctx context.Context) (MeterFeatures, error) {
	var f MeterFeatures
	err := c.multipart(ctx, partMeterFeatures, func(b []byte) ([]byte, error) { return b, nil }, func(b []byte) error {
		if len(b) < 16 {
			return errShort
		}
		f = MeterFeatures{binary.BigEndian.Uint32(b), b[12]}
		return nil
	})
	return f, err
}
