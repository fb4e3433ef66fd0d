package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/overlay"
)

// applier makes the host what a state says. Its calls are one at a time.
type applier struct {
	s    *subsystems
	host string

	// plugged are the attachments that this process has made or found so, and
	// what a process before it has (see remember).
	plugged map[string]overlay.Attachment
	// made is what the host was made last, as far as is known, and told whether
	// the subsystems of this process have been told it: what they keep in memory
	// (whom DHCP serves) is of it.
	made *desired.Desired
	told bool
}

// outcome is what an apply has come to.
type outcome struct {
	changes []vnet.Change     // what was planned
	waiting map[string]string // ports whose device cannot be plugged, and why
}

// rounds bounds how often a Sync is tried again because of another subsystem.
const rounds = 3

// apply makes the host so, and the same again writes nothing.
//
// Additions go from the overlay upwards. A network can go only when the router's
// port on it is gone, which is a later step: what is still in use in one round
// goes in the next. Nothing at all is written when any subsystem would remove
// more than o allows.
func (a *applier) apply(ctx context.Context, d *desired.Desired, o vnet.SyncOptions) (out outcome, err error) {
	if err := ctx.Err(); err != nil {
		return out, err
	}
	plans, unsure := plan(ctx, a.s, a.made, d)
	for i, p := range plans {
		out.changes = append(out.changes, p.Changes...)
		if err := o.Check(p, existing(p, steps[i].count(&d.State.States))); err != nil {
			return out, fmt.Errorf("%s: %w", steps[i].name, err)
		}
	}
	news := !a.told || a.made.Revision != d.Revision
	if !news && unsure == nil && len(out.changes) == 0 {
		out.waiting = a.plug(ctx, d)
		return out, nil
	}
	a.told = false
	var errs []error
	before := ""
	for round := range rounds {
		errs = nil
		for i, st := range steps {
			if err := a.step(ctx, d, i, news && round == 0, o); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", st.name, err))
				if ctx.Err() != nil || errors.Is(err, vnet.ErrBudget) {
					return out, errors.Join(errs...)
				}
			}
			if i == 1 { // filtered before connected
				out.waiting = a.plug(ctx, d)
			}
		}
		// A second round sees that nothing has undone what an earlier step did.
		now := fmt.Sprint(errs)
		if round > 0 && (len(errs) == 0 || now == before) {
			break
		}
		before = now
	}
	if len(errs) == 0 {
		a.made, a.told = d, true
	}
	return out, errors.Join(errs...)
}

// step syncs one subsystem; unless it must be told, only when it is not as wanted.
func (a *applier) step(ctx context.Context, d *desired.Desired, i int, tell bool, o vnet.SyncOptions) error {
	if !tell {
		if p, err := steps[i].plan(ctx, a.s, &d.State.States); err == nil && p.Empty() {
			return nil
		}
	}
	w := &d.State.States
	err := steps[i].sync(ctx, a.s, w, o)
	if err == nil || ctx.Err() != nil || errors.Is(err, vnet.ErrBudget) || steps[i].add == nil {
		return err
	}
	// One object has stopped the Sync of all: one that cannot be here, or cannot
	// go before a later step. The others, which later steps need, can be made.
	return errors.Join(err, steps[i].add(ctx, a.s, w))
}

// plan is what making a host as wanted would do. A subsystem cannot say that
// when it builds on things of another one that are not there yet, or are to go
// after its own, or when something is wrong: then it is the difference from what
// the host was made last, and unsure says why.
func plan(ctx context.Context, s *subsystems, made, want *desired.Desired) (plans []vnet.Plan, unsure error) {
	if made == nil {
		made = new(desired.Desired)
	}
	var errs []error
	for _, st := range steps {
		p, err := st.plan(ctx, s, &want.State.States)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", st.name, err))
			p.Changes = st.diff(&made.State.States, &want.State.States)
		}
		plans = append(plans, p)
	}
	return plans, errors.Join(errs...)
}

// existing is how many objects stand when p makes wanted ones of them.
func existing(p vnet.Plan, wanted int) int {
	return max(0, wanted-p.Count(vnet.Create)) + p.Count(vnet.Delete)
}

// plug connects and disconnects devices of this host's ports.
func (a *applier) plug(ctx context.Context, d *desired.Desired) (waiting map[string]string) {
	waiting = map[string]string{}
	want, ports := map[string]overlay.Attachment{}, map[string]bool{}
	for _, x := range d.State.Attachments {
		want[x.PortID] = x
	}
	for _, p := range d.State.Overlay.Ports {
		if p.Host != "" && p.Host != a.host {
			continue
		}
		ports[p.ID] = true
		x, ok := want[p.ID]
		was, known := a.plugged[p.ID]
		var err error
		if !ok {
			if err = a.s.overlay.Unplug(ctx, p.ID); err == nil {
				delete(a.plugged, p.ID)
			}
		} else {
			_, err = a.s.overlay.Plug(ctx, x)
			if errors.Is(err, vnet.ErrConflict) && known && was != x {
				if err = a.s.overlay.Unplug(ctx, p.ID); err == nil {
					_, err = a.s.overlay.Plug(ctx, x)
				}
			}
			if err == nil {
				a.plugged[p.ID] = x
			}
		}
		if err != nil {
			waiting[p.ID] = err.Error()
		}
	}
	for id := range a.plugged {
		if !ports[id] { // its device went with it
			delete(a.plugged, id)
		}
	}
	return waiting
}

// remember takes over what a process before this one has made, and plugged:
// only then is a device that is not the one wanted known to be ours to replace,
// and not one that its machine has renamed.
func (a *applier) remember(d *desired.Desired) {
	a.made = d
	for _, x := range d.State.Attachments {
		a.plugged[x.PortID] = x
	}
}

// summary counts changes, for people.
func summary(changes []vnet.Change) string {
	n := map[string]int{}
	var order []string
	for _, c := range changes {
		k := string(c.Part) + " " + string(c.Verb)
		if n[k]++; n[k] == 1 {
			order = append(order, k)
		}
	}
	for i, k := range order {
		order[i] = fmt.Sprintf("%s %d", k, n[k])
	}
	return strings.Join(order, ", ")
}
