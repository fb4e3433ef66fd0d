package linux

import (
	"context"
	"iter"

	"github.com/vnet-go/vnet/internal/rtnl"
)

// PortEvent is a change of the device at a port.
type PortEvent struct {
	PortID string
	Device string
	Up     bool // set up and carrying
	Gone   bool // unplugged or removed
	// Lost: the kernel dropped events, or the reader was too slow; the other
	// fields are empty. All ports follow again.
	Lost bool
}

// WatchPorts yields the ports plugged on this host, then each change, until
// ctx ends or the kernel's socket fails.
func (h *Host) WatchPorts(ctx context.Context) iter.Seq[PortEvent] {
	return func(yield func(PortEvent) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// yield must not be called after it returned false, nor by another
		// goroutine: Watch calls it on this one.
		stopped := false
		known := map[int]PortEvent{} // by device index
		err := h.ns.rtnl.Watch(ctx, func(e rtnl.LinkEvent) {
			if stopped {
				return
			}
			var out []PortEvent
			old, was := known[e.Link.Index]
			id, is := h.PortOf(e.Link)
			now := PortEvent{PortID: id, Device: e.Link.Name, Up: e.Link.Up && e.Link.Running}
			switch {
			case e.Resync:
				clear(known)
				out = append(out, PortEvent{Lost: true})
			case is && !e.Gone:
				if was && old.PortID != id {
					out = append(out, PortEvent{PortID: old.PortID, Device: old.Device, Gone: true})
				}
				if !was || old != now {
					known[e.Link.Index] = now
					out = append(out, now)
				}
			case was:
				delete(known, e.Link.Index)
				out = append(out, PortEvent{PortID: old.PortID, Device: old.Device, Gone: true})
			}
			for _, x := range out {
				if !yield(x) {
					stopped = true
					cancel()
					return
				}
			}
		})
		if err != nil {
			h.o.Logger.Warn("watch of ports ended", "error", err)
		}
	}
}
