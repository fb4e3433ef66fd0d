package overlay

import (
	"context"
	"errors"
	"iter"
	"log/slog"

	"github.com/vnet-go/vnet"
)

// Options of a [Fabric]. The zero value and nil are the same.
type Options struct {
	// Sync bounds every Sync that brings no bounds of its own.
	Sync vnet.SyncOptions
	// Plugger connects devices when the backend is not one itself, as on
	// platforms with a central backend.
	Plugger Plugger
	// Logger gets a line for every change asked for, at debug level, and for
	// every failure, at warn level. Nil: none.
	Logger *slog.Logger
}

// Fabric is what applications call: it validates, brings input into canonical
// form, wraps errors in [vnet.OpError], and hands the rest to its [Backend].
// It keeps no state. Methods may be called from several goroutines.
type Fabric struct {
	b    Backend
	plug Plugger
	o    Options
	log  *slog.Logger
}

// New returns a Fabric over b.
func New(b Backend, o *Options) (*Fabric, error) {
	if b == nil {
		return nil, &vnet.FieldError{Field: "backend", Reason: "is nil"}
	}
	f := &Fabric{b: b, log: slog.New(slog.DiscardHandler)}
	if o != nil {
		f.o = *o
	}
	if s := f.o.Sync.DeleteShare; s < 0 || s > 1 {
		return nil, &vnet.FieldError{Field: "sync.delete_share", Reason: "is not between 0 and 1"}
	}
	if f.plug = f.o.Plugger; f.plug == nil {
		f.plug, _ = b.(Plugger)
	}
	if f.o.Logger != nil {
		f.log = f.o.Logger
	}
	return f, nil
}

// Backend returns what f stands on, for interfaces of the backend's own.
func (f *Fabric) Backend() Backend { return f.b }

func (f *Fabric) do(ctx context.Context, op, kind, id string, g func() error) error {
	err := ctx.Err()
	if err == nil {
		err = g()
	}
	if err == nil {
		f.log.Debug("overlay: "+op, "kind", kind, "id", id)
		return nil
	}
	f.log.Warn("overlay: "+op, "kind", kind, "id", id, "err", err)
	return &vnet.OpError{Op: op, Kind: kind, ID: id, Err: err}
}

// EnsureNetwork makes the network as described.
func (f *Fabric) EnsureNetwork(ctx context.Context, n Network) error {
	return f.do(ctx, "ensure", "network", n.ID, func() error {
		if err := n.Validate(); err != nil {
			return err
		}
		if err := f.supports(ctx, n); err != nil {
			return err
		}
		return f.b.EnsureNetwork(ctx, n.Canonical())
	})
}

// supports refuses by name what the backend says it cannot do.
func (f *Fabric) supports(ctx context.Context, n Network) error {
	fs := f.b.Features(ctx)
	refuse := func(feature, need string) error {
		return &vnet.UnsupportedError{Feature: feature, Backend: "this overlay backend", Need: need}
	}
	switch t := n.Segment.Type; {
	case !fs.Segments[t]:
		return refuse(string(t)+" segments", fs.Missing[t])
	case n.Flooding.Broadcast && !fs.Flooding.Broadcast:
		return refuse("flooding of broadcast", "")
	case n.Flooding.UnknownUnicast && !fs.Flooding.UnknownUnicast:
		return refuse("flooding of unknown unicast", "")
	case n.Flooding.NoMulticast && !fs.Flooding.NoMulticast:
		return refuse("no_multicast", "")
	}
	return nil
}

// DeleteNetwork removes the network; [vnet.ErrInUse] while it has ports.
func (f *Fabric) DeleteNetwork(ctx context.Context, id string) error {
	return f.do(ctx, "delete", "network", id, func() error {
		if err := vnet.CheckID("id", id); err != nil {
			return err
		}
		return f.b.DeleteNetwork(ctx, id)
	})
}

// EnsurePort makes the port as described; its network must have been ensured
// ([vnet.ErrNotFound]).
func (f *Fabric) EnsurePort(ctx context.Context, p Port) error {
	return f.do(ctx, "ensure", "port", p.ID, func() error {
		if err := p.Validate(); err != nil {
			return err
		}
		return f.b.EnsurePort(ctx, p.Canonical())
	})
}

// DeletePort unplugs and removes the port. On a central platform the device
// is unplugged if it is of this host; that of another host is cut off, and
// taken away by that one's [Pruner].
func (f *Fabric) DeletePort(ctx context.Context, id string) error {
	return f.do(ctx, "delete", "port", id, func() error {
		if err := vnet.CheckID("id", id); err != nil {
			return err
		}
		if f.o.Plugger != nil {
			if err := f.o.Plugger.Unplug(ctx, id); err != nil {
				return err
			}
		}
		return f.b.DeletePort(ctx, id)
	})
}

// EnsureRemotePort tells a per-host backend of a port on another host.
// Central backends know by themselves: for them it does nothing.
func (f *Fabric) EnsureRemotePort(ctx context.Context, p RemotePort) error {
	return f.do(ctx, "ensure", "remote_port", p.ID, func() error {
		if err := p.Validate(); err != nil {
			return err
		}
		r, err := f.remote(ctx)
		if r == nil {
			return err
		}
		return r.EnsureRemotePort(ctx, p.Canonical())
	})
}

// DeleteRemotePort takes back what EnsureRemotePort told.
func (f *Fabric) DeleteRemotePort(ctx context.Context, id string) error {
	return f.do(ctx, "delete", "remote_port", id, func() error {
		if err := vnet.CheckID("id", id); err != nil {
			return err
		}
		r, err := f.remote(ctx)
		if r == nil {
			return err
		}
		return r.DeleteRemotePort(ctx, id)
	})
}

func (f *Fabric) remote(ctx context.Context) (RemoteBackend, error) {
	if r, ok := f.b.(RemoteBackend); ok {
		return r, nil
	}
	if f.b.Features(ctx).Central {
		return nil, nil
	}
	return nil, &vnet.UnsupportedError{Feature: "remote ports", Backend: "this overlay backend"}
}

// Plug connects a device of this host to a port.
func (f *Fabric) Plug(ctx context.Context, a Attachment) (d Device, err error) {
	err = f.do(ctx, "plug", "port", a.PortID, func() error {
		if a.Kind == Veth && a.Name == "" {
			a.Name = "eth0"
		}
		if err := a.Validate(); err != nil {
			return err
		}
		if f.plug == nil {
			return &vnet.UnsupportedError{Feature: "plugging", Backend: "this overlay backend", Need: "Options.Plugger"}
		}
		d, err = f.plug.Plug(ctx, a)
		return err
	})
	return d, err
}

// Unplug disconnects the port's device; a port without one is no error.
func (f *Fabric) Unplug(ctx context.Context, portID string) error {
	return f.do(ctx, "unplug", "port", portID, func() error {
		if err := vnet.CheckID("port_id", portID); err != nil {
			return err
		}
		if f.plug == nil {
			return &vnet.UnsupportedError{Feature: "plugging", Backend: "this overlay backend", Need: "Options.Plugger"}
		}
		return f.plug.Unplug(ctx, portID)
	})
}

func (f *Fabric) check(ctx context.Context, s State) error {
	errs := []error{s.Validate()}
	if errs[0] == nil {
		for _, n := range s.Networks {
			errs = append(errs, f.supports(ctx, n))
		}
	}
	return errors.Join(errs...)
}

// Sync makes the whole of s so, within the bounds of o, or of Options.Sync
// when o is the zero value. Devices stay plugged as long as their port stays;
// those of this host go with it.
func (f *Fabric) Sync(ctx context.Context, s State, o vnet.SyncOptions) error {
	return f.do(ctx, "sync", "state", "", func() error {
		if err := f.check(ctx, s); err != nil {
			return err
		}
		if o == (vnet.SyncOptions{}) {
			o = f.o.Sync
		}
		s = s.Canonical()
		if err := f.b.Sync(ctx, s, o); err != nil {
			return err
		}
		if p, ok := f.o.Plugger.(Pruner); ok {
			return p.Prune(ctx, s.Ports)
		}
		return nil
	})
}

// Plan says what Sync would do, and does nothing.
func (f *Fabric) Plan(ctx context.Context, s State) (p vnet.Plan, err error) {
	err = f.do(ctx, "plan", "state", "", func() error {
		if err := f.check(ctx, s); err != nil {
			return err
		}
		p, err = f.b.Plan(ctx, s.Canonical())
		return err
	})
	return p, err
}

// Health says how far the backend's view can be trusted.
func (f *Fabric) Health(ctx context.Context) vnet.Health { return f.b.Health(ctx) }

// Features is what the backend can do.
func (f *Fabric) Features(ctx context.Context) Features { return f.b.Features(ctx) }

// Explain goes from a "network" or "port" to what carries it.
func (f *Fabric) Explain(ctx context.Context, kind, id string) (x vnet.Explanation, err error) {
	err = f.do(ctx, "explain", kind, id, func() error {
		b, ok := f.b.(Explainer)
		if !ok {
			return &vnet.UnsupportedError{Feature: "Explain", Backend: "this overlay backend"}
		}
		if kind != "network" && kind != "port" {
			return &vnet.FieldError{Field: "kind", Value: kind, Reason: `is neither "network" nor "port"`}
		}
		x, err = b.Explain(ctx, kind, id)
		return err
	})
	return x, err
}

// Watch yields "port-up" and "port-down" events until ctx ends; none when the
// backend notices nothing by itself.
func (f *Fabric) Watch(ctx context.Context) iter.Seq[vnet.Event] {
	if w, ok := f.b.(Watcher); ok {
		return w.Watch(ctx)
	}
	return func(func(vnet.Event) bool) {}
}
