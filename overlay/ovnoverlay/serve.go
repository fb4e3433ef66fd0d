package ovnoverlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/sbrow"
	"github.com/vnet-go/vnet/ovn"
)

// wanted is a port as its host's plugger needs to know it.
type wanted struct {
	mac  vnet.MAC
	mtu  int
	host string // of Port.Host
}

// lookUp reads ports: from the Northbound where the connection has one, else
// from what ovn-northd has copied into the Southbound. Ports that are not there
// are left out.
func (p *Plugger) lookUp(ctx context.Context, ids ...string) (map[string]wanted, error) {
	out := map[string]wanted{}
	add := func(id string, external, options map[string]string) {
		mac, _ := parse(external[keyAddress])
		mtu, _ := strconv.Atoi(external[keyMTU])
		out[id] = wanted{mac, mtu, options["requested-chassis"]}
	}
	if p.c.Has("Logical_Switch_Port", "") {
		// Not by a view, which would wait for the Southbound too.
		_, err := p.c.Plan(ctx, vnet.PartOverlay, func(tx *ovn.Tx) error {
			for _, id := range ids {
				if row := ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, kindPort, id); row != nil {
					add(id, row.ExternalIDs, row.Options)
				}
			}
			return nil
		})
		return out, err
	}
	v, err := p.c.View(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		for _, row := range ovn.By[sbrow.PortBinding](v, "logical_port", p.c.PortName(id)) {
			if m, ok := ovn.MarkOf(row.ExternalIDs); ok && m.Owner == p.c.Owner() && m.Part == vnet.PartOverlay && m.Kind == kindPort {
				add(id, row.ExternalIDs, row.Options)
			}
		}
	}
	return out, nil
}

// find is lookUp of one port; in the Southbound it waits a moment for
// ovn-northd to have copied it.
func (p *Plugger) find(ctx context.Context, id string) (wanted, error) {
	ports, err := p.lookUp(ctx, id)
	if err != nil {
		return wanted{}, err
	}
	if w, ok := ports[id]; ok {
		return w, nil
	}
	missing := fmt.Errorf("port %s: %w", id, vnet.ErrNotFound)
	if p.c.Has("Logical_Switch_Port", "") {
		return wanted{}, missing
	}
	moment, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for range p.c.Changes(moment, "Port_Binding") {
		if ports, err := p.lookUp(moment, id); err == nil && len(ports) > 0 {
			return ports[id], nil
		}
	}
	if err := ctx.Err(); err != nil {
		return wanted{}, err
	}
	return wanted{}, missing
}

// ServeOptions of [Plugger.Serve]. Zero values are the defaults; nil will do.
type ServeOptions struct {
	// Grace is how long a port must have been gone, all that time seen in a
	// database that was known whole, until its device is taken away. Default 30 s.
	Grace time.Duration
	// Sync bounds how many devices may go at once: a database that has lost its
	// rows does not take them from machines that run.
	Sync vnet.SyncOptions
	// Logger gets a line for each device that goes. Default: none.
	Logger *slog.Logger
}

// Serve takes away the devices that this plugger has plugged when their ports
// have gone or are of another host, until ctx ends: for the agent of a host,
// where nobody calls Unplug for ports that are deleted centrally. (Such a port
// carries nothing from the moment it is deleted.)
func (p *Plugger) Serve(ctx context.Context, o *ServeOptions) error {
	var opt ServeOptions
	if o != nil {
		opt = *o
	}
	if opt.Grace <= 0 {
		opt.Grace = 30 * time.Second
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wake := make(chan struct{}, 1)
	signal := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	go func() {
		for range p.c.Changes(ctx, "Logical_Switch_Port", "Port_Binding") {
			signal()
		}
	}()
	go func() {
		for range p.ch.Changes(ctx) {
			signal()
		}
	}()
	gone := map[string]time.Time{} // since when
	said := ""
	tick := time.NewTimer(opt.Grace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-tick.C:
		}
		next, err := p.prune(ctx, &opt, gone)
		tick.Reset(next)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			opt.Logger.Warn("devices of ports that have gone stay", "err", err)
		}
		if said = ""; err != nil {
			said = err.Error()
		}
	}
}

// prune takes away what has been gone long enough, and says when to look again.
func (p *Plugger) prune(ctx context.Context, o *ServeOptions, gone map[string]time.Time) (time.Duration, error) {
	if h := p.c.Health(ctx); !h.Complete { // begin again when it is
		clear(gone)
		return o.Grace, fmt.Errorf("%s: %w", h.Detail, vnet.ErrNotReady)
	}
	cfg, err := p.ch.Config(ctx)
	if err != nil {
		return o.Grace, err
	}
	plugged, err := p.ch.Plugged(ctx)
	if err != nil {
		return o.Grace, err
	}
	var ids []string
	for _, x := range plugged {
		if x.Part == vnet.PartOverlay {
			ids = append(ids, x.PortID)
		}
	}
	ports, err := p.lookUp(ctx, ids...)
	if err != nil {
		return o.Grace, err
	}
	now, next := time.Now(), o.Grace
	var plan vnet.Plan
	for id := range gone {
		if !slices.Contains(ids, id) {
			delete(gone, id)
		}
	}
	for _, id := range ids {
		if w, ok := ports[id]; ok && slices.Contains([]string{"", cfg.SystemID, cfg.Hostname}, w.host) {
			delete(gone, id)
			continue
		}
		if gone[id].IsZero() {
			gone[id] = now
		}
		if left := o.Grace - now.Sub(gone[id]); left > 0 {
			next = min(next, left)
			continue
		}
		plan.Changes = append(plan.Changes, vnet.Change{Verb: vnet.Delete, Part: vnet.PartOverlay, Kind: "device of port", ID: id, Impact: vnet.ImpactObject, Where: cfg.SystemID})
	}
	if err := o.Sync.Check(plan, len(ids)); err != nil {
		return next, err
	}
	var errs []error
	for _, c := range plan.Changes {
		if err := p.ch.Unplug(ctx, vnet.PartOverlay, c.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(gone, c.ID)
		o.Logger.Info("device taken away: its port has gone", "port", c.ID)
	}
	return next, errors.Join(errs...)
}
