package openflow

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Options of a [Conn]. Zero values are the defaults.
type Options struct {
	Logger *slog.Logger
	// Timeout bounds the handshake and each write to the socket. Default 10 s.
	Timeout time.Duration
	// Keepalive is after how long a silence the switch is asked for an echo;
	// after three times that it is given up. Default 5 s.
	Keepalive time.Duration
}

// Conn is a connection to one switch.
type Conn struct{}

var errUnfinished = errors.New("openflow: not there yet")

// Dial connects.
func Dial(ctx context.Context, network, address string, o *Options) (*Conn, error) {
	return nil, errUnfinished
}

// Close ends the connection.
func (c *Conn) Close() error { return nil }

// Done is closed when the connection has ended, however it did.
func (c *Conn) Done() <-chan struct{} { return nil }

// Err says why the connection ended; nil while it stands.
func (c *Conn) Err() error { return errUnfinished }

// Features is what the switch said of itself.
func (c *Conn) Features() Features { return Features{} }

// Features of a switch.
type Features struct {
	DatapathID uint64
	Tables     uint8
}

// Echo asks for an answer.
func (c *Conn) Echo(ctx context.Context) error { return errUnfinished }

// Barrier returns when the switch has done all that was sent before.
func (c *Conn) Barrier(ctx context.Context) error { return errUnfinished }

// Bundle makes all of the changes, in order, or none ([*FlowError] says which
// was refused).
func (c *Conn) Bundle(ctx context.Context, mods []FlowMod) error { return errUnfinished }

// BundleMods is Bundle for groups and flows together.
func (c *Conn) BundleMods(ctx context.Context, mods []Mod) error { return errUnfinished }

// Mod is a change that a bundle can have: a *FlowMod or a *GroupMod.
type Mod interface {
	appendMessage(b []byte, xid uint32) ([]byte, error)
}

// FlowFilter says which flows are meant. The zero value is the flows of table 0.
type FlowFilter struct {
	Table              uint8 // or AllTables
	Cookie, CookieMask uint64
	Match              Match  // flows that are this or more specific
	OutPort            Port   // flows that output there; 0: any
	OutGroup           uint32 // 0: any
}

// Flows reads flows.
func (c *Conn) Flows(ctx context.Context, f FlowFilter) ([]FlowStats, error) {
	return nil, errUnfinished
}

// Aggregate counts flows and what passed through them.
func (c *Conn) Aggregate(ctx context.Context, f FlowFilter) (Aggregate, error) {
	return Aggregate{}, errUnfinished
}

// Aggregate are sums over flows.
type Aggregate struct{ Flows, Packets, Bytes uint64 }

// PacketInFilter says which packets are wanted.
type PacketInFilter struct {
	// Accept chooses; nil takes all. It is called by the goroutine that reads the
	// connection: it must be quick, and call nothing of the connection.
	Accept func(*PacketIn) bool
	Buffer int // packets waiting to be taken; more are lost and counted. Default 256
}

// PacketIns delivers packets until ctx or the connection ends; then the channel
// is closed.
func (c *Conn) PacketIns(ctx context.Context, f PacketInFilter) (<-chan *PacketIn, error) {
	return nil, errUnfinished
}

// PacketOut sends a packet and returns when the switch has accepted it.
func (c *Conn) PacketOut(ctx context.Context, p PacketOut) error { return errUnfinished }

// SetControllerID makes this connection the controller of that id, for
// [Controller] actions. A connection has id 0 until then.
func (c *Conn) SetControllerID(ctx context.Context, id uint16) error { return errUnfinished }
