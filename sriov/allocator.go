package sriov

import (
	"context"
	"errors"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Options of an [Allocator]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// Allocator is what applications call: it validates, brings input into canonical
// form, wraps errors in [vnet.OpError], and hands the rest to its [Backend]. It
// keeps no state. Methods may be called from several goroutines.
type Allocator struct {
	b   Backend
	o   Options
	log *slog.Logger
}

// New returns an Allocator over b.
func New(b Backend, o *Options) (*Allocator, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	a := &Allocator{b: b, log: slog.New(slog.DiscardHandler)}
	if o != nil {
		a.o = *o
	}
	if x := a.o.Sync.DeleteShare; x < 0 || x > 1 {
		return nil, &vnet.FieldError{Field: "sync.delete_share", Reason: "is not between 0 and 1"}
	}
	if a.o.Logger != nil {
		a.log = a.o.Logger
	}
	return a, nil
}

// Backend returns what a stands on, for interfaces of the backend's own.
func (a *Allocator) Backend() Backend { return a.b }

// Discover returns all PFs of the host, with their VFs, by PCI address.
func (a *Allocator) Discover(ctx context.Context) (all []PF, err error) {
	err = a.do(ctx, "discover", "device", "", nil, func() error { all, err = a.b.Discover(ctx); return err })
	return all, err
}

// EnsureDevice makes a PF as described.
func (a *Allocator) EnsureDevice(ctx context.Context, d Device) error {
	return a.do(ctx, "ensure", "device", d.ID, d.Validate(), func() error { return a.b.EnsureDevice(ctx, d.Canonical()) })
}

// DeleteDevice makes a PF what it was before; [vnet.ErrInUse] while ports have
// functions of it.
func (a *Allocator) DeleteDevice(ctx context.Context, id string) error {
	return a.do(ctx, "delete", "device", id, vnet.CheckID("id", id), func() error { return a.b.DeleteDevice(ctx, id) })
}

// EnsurePort gives a port a function, if it has none, and makes that as
// described. [vnet.ErrConflict] when no device of the physical network has one
// left.
func (a *Allocator) EnsurePort(ctx context.Context, p Port) (x Attachment, err error) {
	err = a.do(ctx, "ensure", "port", p.ID, p.Validate(), func() error { x, err = a.b.EnsurePort(ctx, p.Canonical()); return err })
	return x, err
}

// DeletePort resets a port's function to what it was and takes it back;
// [vnet.ErrInUse] while a machine holds it open.
func (a *Allocator) DeletePort(ctx context.Context, id string) error {
	return a.do(ctx, "delete", "port", id, vnet.CheckID("id", id), func() error { return a.b.DeletePort(ctx, id) })
}

// Attachments returns those of all ports of this owner, by port.
func (a *Allocator) Attachments(ctx context.Context) (all []Attachment, err error) {
	err = a.do(ctx, "read", "attachments", "", nil, func() error { all, err = a.b.Attachments(ctx); return err })
	return all, err
}

// Sync makes the whole of s so, within the bounds of o, or of Options.Sync when
// o is the zero value.
func (a *Allocator) Sync(ctx context.Context, s State, o vnet.SyncOptions) error {
	if o == (vnet.SyncOptions{}) {
		o = a.o.Sync
	}
	return a.do(ctx, "sync", "state", "", s.Validate(), func() error { return a.b.Sync(ctx, s.Canonical(), o) })
}

// Plan says what Sync would do, and does nothing.
func (a *Allocator) Plan(ctx context.Context, s State) (p vnet.Plan, err error) {
	err = a.do(ctx, "plan", "state", "", s.Validate(), func() error { p, err = a.b.Plan(ctx, s.Canonical()); return err })
	return p, err
}

// Health says how far the backend's view can be trusted.
func (a *Allocator) Health(ctx context.Context) vnet.Health { return a.b.Health(ctx) }

// do runs f unless the input is bad or ctx has ended, and says in the error what
// was being done.
func (a *Allocator) do(ctx context.Context, op, kind, id string, check error, f func() error) error {
	err := errors.Join(check, ctx.Err())
	if err == nil {
		err = f()
	}
	if err == nil {
		a.log.DebugContext(ctx, "sriov", "op", op, "kind", kind, "id", id)
		return nil
	}
	a.log.WarnContext(ctx, "sriov", "op", op, "kind", kind, "id", id, "error", err)
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}
