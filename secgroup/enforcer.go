package secgroup

import (
	"context"
	"errors"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Options of an [Enforcer]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// Enforcer is what applications call: it validates, brings input into
// canonical form, wraps errors in [vnet.OpError], and hands the rest to its
// [Backend]. It keeps no state. Methods may be called from several goroutines.
type Enforcer struct {
	b   Backend
	o   Options
	log *slog.Logger
}

// New returns an Enforcer over b.
func New(b Backend, o *Options) (*Enforcer, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	e := &Enforcer{b: b, log: slog.New(slog.DiscardHandler)}
	if o != nil {
		e.o = *o
	}
	if s := e.o.Sync.DeleteShare; s < 0 || s > 1 {
		return nil, &vnet.FieldError{Field: "sync.delete_share", Reason: "is not between 0 and 1"}
	}
	if e.o.Logger != nil {
		e.log = e.o.Logger
	}
	return e, nil
}

// Backend returns what e stands on, for interfaces of the backend's own.
func (e *Enforcer) Backend() Backend { return e.b }

// EnsureGroup makes the group as described. Address groups and groups that
// its rules refer to may come later; until then they have no members.
func (e *Enforcer) EnsureGroup(ctx context.Context, g Group) error {
	return e.do(ctx, "ensure", "group", g.ID, func() error {
		if err := g.Validate(); err != nil {
			return err
		}
		if err := e.supports(ctx, g); err != nil {
			return err
		}
		return e.b.EnsureGroup(ctx, g.Canonical())
	})
}

// DeleteGroup removes the group; [vnet.ErrInUse] while ports or rules of
// other groups refer to it.
func (e *Enforcer) DeleteGroup(ctx context.Context, id string) error {
	return e.do(ctx, "delete", "group", id, func() error { return e.delete(id, func() error { return e.b.DeleteGroup(ctx, id) }) })
}

// EnsureAddressGroup makes the address group as described.
func (e *Enforcer) EnsureAddressGroup(ctx context.Context, a AddressGroup) error {
	return e.do(ctx, "ensure", "addressgroup", a.ID, func() error {
		if err := a.Validate(); err != nil {
			return err
		}
		return e.b.EnsureAddressGroup(ctx, a.Canonical())
	})
}

// DeleteAddressGroup removes the address group; [vnet.ErrInUse] while rules
// refer to it.
func (e *Enforcer) DeleteAddressGroup(ctx context.Context, id string) error {
	return e.do(ctx, "delete", "addressgroup", id, func() error { return e.delete(id, func() error { return e.b.DeleteAddressGroup(ctx, id) }) })
}

// EnsurePort filters the port as described. Its groups must have been ensured
// before ([vnet.ErrNotFound]).
func (e *Enforcer) EnsurePort(ctx context.Context, p Port) error {
	return e.do(ctx, "ensure", "port", p.ID, func() error {
		if err := p.Validate(); err != nil {
			return err
		}
		return e.b.EnsurePort(ctx, p.Canonical())
	})
}

// DeletePort ends the filtering of the port. A device that is still plugged
// and was to be filtered (overlay's Port.Filtered) is closed from then on.
func (e *Enforcer) DeletePort(ctx context.Context, id string) error {
	return e.do(ctx, "delete", "port", id, func() error { return e.delete(id, func() error { return e.b.DeletePort(ctx, id) }) })
}

// Sync makes the whole of s so, within the bounds of o, or of Options.Sync
// when o is the zero value.
func (e *Enforcer) Sync(ctx context.Context, s State, o vnet.SyncOptions) error {
	return e.do(ctx, "sync", "state", "", func() error {
		if err := e.check(ctx, s); err != nil {
			return err
		}
		if o == (vnet.SyncOptions{}) {
			o = e.o.Sync
		}
		return e.b.Sync(ctx, s.Canonical(), o)
	})
}

// Plan says what Sync would do, and does nothing.
func (e *Enforcer) Plan(ctx context.Context, s State) (p vnet.Plan, err error) {
	err = e.do(ctx, "plan", "state", "", func() error {
		if err := e.check(ctx, s); err != nil {
			return err
		}
		p, err = e.b.Plan(ctx, s.Canonical())
		return err
	})
	return p, err
}

// Health says how far the backend's view can be trusted.
func (e *Enforcer) Health(ctx context.Context) vnet.Health { return e.b.Health(ctx) }

// Features is what the backend can do.
func (e *Enforcer) Features(ctx context.Context) Features { return e.b.Features(ctx) }

// Explain goes from a "port", "group", "rule" (id "group/rule") or
// "addressgroup" to what carries it. [vnet.UnsupportedError] when the backend
// cannot say.
func (e *Enforcer) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = e.do(ctx, "explain", kind, id, func() error {
		b, ok := e.b.(Explainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "Explain", Backend: "this secgroup backend"}
		}
		switch kind {
		case "port", "group", "rule", "addressgroup":
		default:
			return &vnet.FieldError{Field: "kind", Value: kind, Reason: `is none of "port", "group", "rule", "addressgroup"`}
		}
		x, err = b.Explain(ctx, kind, id)
		return err
	})
	return x, err
}

// ExplainPacket says whether the port's rules let p pass as the first packet
// of a connection, and by which rule. [vnet.UnsupportedError] when the backend
// cannot say.
func (e *Enforcer) ExplainPacket(ctx context.Context, portID string, p Packet) (x vnet.Explanation, err error) {
	err = e.do(ctx, "explain", "packet", portID, func() error {
		b, ok := e.b.(PacketExplainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "ExplainPacket", Backend: "this secgroup backend"}
		}
		if !p.Remote.IsValid() {
			return &vnet.FieldError{Field: "remote", Reason: "is no valid address"}
		}
		x, err = b.ExplainPacket(ctx, portID, p)
		return err
	})
	return x, err
}

func (e *Enforcer) check(ctx context.Context, s State) error {
	if err := s.Validate(); err != nil {
		return err
	}
	for _, g := range s.Groups {
		if err := e.supports(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// supports refuses what the backend cannot do, by name.
func (e *Enforcer) supports(ctx context.Context, g Group) error {
	if g.Stateless && !e.b.Features(ctx).Stateless {
		return &vnet.UnsupportedError{Feature: "stateless group " + g.ID, Backend: "this secgroup backend"}
	}
	return nil
}

func (e *Enforcer) delete(id string, f func() error) error {
	if err := vnet.CheckID("id", id); err != nil {
		return err
	}
	return f()
}

// do runs f unless ctx has ended, and says in the error what was being done.
func (e *Enforcer) do(ctx context.Context, op, kind, id string, f func() error) error {
	err := ctx.Err()
	if err == nil {
		err = f()
	}
	if err == nil {
		e.log.DebugContext(ctx, "secgroup", "op", op, "kind", kind, "id", id)
		return nil
	}
	e.log.WarnContext(ctx, "secgroup", "op", op, "kind", kind, "id", id, "error", err)
	var oe *vnet.OpError
	if errors.As(err, &oe) && oe.Op == op && oe.ID == id {
		return err
	}
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}
