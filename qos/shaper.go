package qos

import (
	"context"
	"errors"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Options of a [Shaper]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// Shaper is what applications call: it validates, brings input into canonical
// form, refuses by name what the backend cannot do, wraps errors in
// [vnet.OpError], and hands the rest to its [Backend]. It keeps no state.
// Methods may be called from several goroutines.
type Shaper struct {
	b   Backend
	o   Options
	log *slog.Logger
}

// New returns a Shaper over b.
func New(b Backend, o *Options) (*Shaper, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	s := &Shaper{b: b, log: slog.New(slog.DiscardHandler)}
	if o != nil {
		s.o = *o
	}
	if x := s.o.Sync.DeleteShare; x < 0 || x > 1 {
		return nil, &vnet.FieldError{Field: "sync.delete_share", Reason: "is not between 0 and 1"}
	}
	if s.o.Logger != nil {
		s.log = s.o.Logger
	}
	return s, nil
}

// Backend returns what s stands on, for interfaces of the backend's own.
func (s *Shaper) Backend() Backend { return s.b }

// EnsurePort makes the port's limits and guarantee as described.
func (s *Shaper) EnsurePort(ctx context.Context, p Port) error {
	return s.do(ctx, "ensure", "port", p.ID, func() error {
		if err := p.Validate(); err != nil {
			return err
		}
		if err := s.supports(ctx, State{Ports: []Port{p}}); err != nil {
			return err
		}
		return s.b.EnsurePort(ctx, p.Clone())
	})
}

// DeletePort takes away the port's limits and guarantee.
func (s *Shaper) DeletePort(ctx context.Context, id string) error {
	return s.do(ctx, "delete", "port", id, func() error { return s.delete(id, func() error { return s.b.DeletePort(ctx, id) }) })
}

// EnsureGateway makes the limits of a router's gateway as described.
func (s *Shaper) EnsureGateway(ctx context.Context, g Gateway) error {
	return s.do(ctx, "ensure", "gateway", g.RouterID, func() error {
		if err := g.Validate(); err != nil {
			return err
		}
		if err := s.supports(ctx, State{Gateways: []Gateway{g}}); err != nil {
			return err
		}
		return s.b.EnsureGateway(ctx, g.Clone())
	})
}

// DeleteGateway takes away the limits of the router's gateway.
func (s *Shaper) DeleteGateway(ctx context.Context, routerID string) error {
	return s.do(ctx, "delete", "gateway", routerID, func() error {
		return s.delete(routerID, func() error { return s.b.DeleteGateway(ctx, routerID) })
	})
}

// EnsureFloatingIP makes the limits of a floating IP as described.
func (s *Shaper) EnsureFloatingIP(ctx context.Context, f FloatingIP) error {
	return s.do(ctx, "ensure", "floatingip", f.ID, func() error {
		if err := f.Validate(); err != nil {
			return err
		}
		if err := s.supports(ctx, State{FloatingIPs: []FloatingIP{f}}); err != nil {
			return err
		}
		f = f.Clone()
		f.FloatingIP = f.FloatingIP.Unmap()
		return s.b.EnsureFloatingIP(ctx, f)
	})
}

// DeleteFloatingIP takes away the limits of the floating IP.
func (s *Shaper) DeleteFloatingIP(ctx context.Context, id string) error {
	return s.do(ctx, "delete", "floatingip", id, func() error {
		return s.delete(id, func() error { return s.b.DeleteFloatingIP(ctx, id) })
	})
}

// EnsureUplink lets an uplink keep guarantees.
func (s *Shaper) EnsureUplink(ctx context.Context, u Uplink) error {
	return s.do(ctx, "ensure", "uplink", u.Name, func() error {
		if err := u.Validate(); err != nil {
			return err
		}
		if err := s.supports(ctx, State{Uplinks: []Uplink{u}}); err != nil {
			return err
		}
		return s.b.EnsureUplink(ctx, u)
	})
}

// DeleteUplink gives an uplink back; [vnet.ErrInUse] while ports have
// guarantees there.
func (s *Shaper) DeleteUplink(ctx context.Context, name string) error {
	return s.do(ctx, "delete", "uplink", name, func() error {
		if name != Tunnelled {
			if err := vnet.CheckID("name", name); err != nil {
				return err
			}
		}
		return s.b.DeleteUplink(ctx, name)
	})
}

// Sync makes the whole of x so, within the bounds of o, or of Options.Sync
// when o is the zero value.
func (s *Shaper) Sync(ctx context.Context, x State, o vnet.SyncOptions) error {
	return s.do(ctx, "sync", "state", "", func() error {
		if err := s.check(ctx, x); err != nil {
			return err
		}
		if o == (vnet.SyncOptions{}) {
			o = s.o.Sync
		}
		return s.b.Sync(ctx, x.Canonical(), o)
	})
}

// Plan says what Sync would do, and does nothing.
func (s *Shaper) Plan(ctx context.Context, x State) (p vnet.Plan, err error) {
	err = s.do(ctx, "plan", "state", "", func() error {
		if err := s.check(ctx, x); err != nil {
			return err
		}
		p, err = s.b.Plan(ctx, x.Canonical())
		return err
	})
	return p, err
}

// Health says how far the backend's view can be trusted.
func (s *Shaper) Health(ctx context.Context) vnet.Health { return s.b.Health(ctx) }

// Features is what the backend can do.
func (s *Shaper) Features(ctx context.Context) Features { return s.b.Features(ctx) }

// Statistics returns what has passed and what was dropped by limits.
func (s *Shaper) Statistics(ctx context.Context) (x []Statistics, err error) {
	err = s.do(ctx, "read", "statistics", "", func() error {
		x, err = s.b.Statistics(ctx)
		return err
	})
	return x, err
}

// Explain goes from a "port", "gateway", "floatingip" or "uplink" to what
// carries it. [vnet.UnsupportedError] when the backend cannot say.
func (s *Shaper) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = s.do(ctx, "explain", kind, id, func() error {
		b, ok := s.b.(Explainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "Explain", Backend: "this qos backend"}
		}
		switch kind {
		case "port", "gateway", "floatingip", "uplink":
		default:
			return &vnet.FieldError{Field: "kind", Value: kind, Reason: `is none of "port", "gateway", "floatingip", "uplink"`}
		}
		x, err = b.Explain(ctx, kind, id)
		return err
	})
	return x, err
}

func (s *Shaper) check(ctx context.Context, x State) error {
	if err := x.Validate(); err != nil {
		return err
	}
	return s.supports(ctx, x)
}

// supports refuses what the backend cannot do, by name.
func (s *Shaper) supports(ctx context.Context, x State) error {
	f := s.b.Features(ctx)
	refuse := func(name, what, id string) error {
		return &vnet.UnsupportedError{Feature: name + " of " + what + " " + id, Backend: "this qos backend", Need: f.Missing[name]}
	}
	able := func(a Abilities, x Shape, what, id string) error {
		for _, n := range []struct {
			name  string
			asked bool
			can   bool
		}{
			{"egress bandwidth", x.Egress.Kbps > 0, a.EgressBandwidth},
			{"ingress bandwidth", x.Ingress.Kbps > 0, a.IngressBandwidth},
			{"egress packet rate", x.Egress.PPS > 0, a.EgressPacketRate},
			{"ingress packet rate", x.Ingress.PPS > 0, a.IngressPacketRate},
			{"DSCP", x.DSCP != nil, a.DSCP},
		} {
			if n.asked && !n.can {
				return refuse(n.name, what, id)
			}
		}
		return nil
	}
	for _, p := range x.Ports {
		if err := able(f.Port, p.Shape, "port", p.ID); err != nil {
			return err
		}
	}
	for _, g := range x.Gateways {
		if err := able(f.Gateway, g.Shape, "gateway of router", g.RouterID); err != nil {
			return err
		}
	}
	for _, i := range x.FloatingIPs {
		if err := able(f.FloatingIP, i.Shape, "floating IP", i.ID); err != nil {
			return err
		}
	}
	for _, u := range x.Uplinks {
		switch {
		case u.Name == Tunnelled && !f.TunnelGuarantees:
			return refuse("tunnel guarantees", "uplink", u.Name)
		case u.Name != Tunnelled && !f.Guarantees:
			return refuse("guarantees", "uplink", u.Name)
		}
	}
	return nil
}

func (s *Shaper) delete(id string, f func() error) error {
	if err := vnet.CheckID("id", id); err != nil {
		return err
	}
	return f()
}

// do runs f unless ctx has ended, and says in the error what was being done.
func (s *Shaper) do(ctx context.Context, op, kind, id string, f func() error) error {
	err := ctx.Err()
	if err == nil {
		err = f()
	}
	if err == nil {
		s.log.DebugContext(ctx, "qos", "op", op, "kind", kind, "id", id)
		return nil
	}
	s.log.WarnContext(ctx, "qos", "op", op, "kind", kind, "id", id, "error", err)
	var oe *vnet.OpError
	if errors.As(err, &oe) && oe.Op == op && oe.ID == id {
		return err
	}
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}
