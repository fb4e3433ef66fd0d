// Package memdhcp keeps DHCP's desired state in memory and answers for it
// without packets: what applications test against, without root.
//
// [Backend.Ask] plays a client that boots, with the choices of the contract:
// who is known, who gets which address, who hears nothing. It gives no pool
// addresses and says so in its features.
package memdhcp

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/internal/hub"
)

var (
	_ dhcp.Backend     = (*Backend)(nil)
	_ dhcp.Watcher     = (*Backend)(nil)
	_ dhcp.LeaseLister = (*Backend)(nil)
	_ dhcp.Explainer   = (*Backend)(nil)
)

// Options of a [Backend]. The zero value is usable.
type Options struct {
	// Host is this host's name; reservations of others are not answered.
	Host string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Backend is a DHCP server of the mind. It is safe for use by several goroutines.
type Backend struct {
	o Options

	mu     sync.Mutex
	state  dhcp.State
	leases []dhcp.Lease
	writes int
	hub    hub.Hub
}

// New returns an empty backend. o may be nil.
func New(o *Options) *Backend {
	b := &Backend{}
	if o != nil {
		b.o = *o
	}
	if b.o.Now == nil {
		b.o.Now = time.Now
	}
	return b
}

// Writes returns how many objects have been created, changed or deleted so
// far: what conformance tests count.
func (b *Backend) Writes() int { b.mu.Lock(); defer b.mu.Unlock(); return b.writes }

// State returns what stands.
func (b *Backend) State() dhcp.State { b.mu.Lock(); defer b.mu.Unlock(); return b.state.Clone() }

// apply replaces the state, and takes away leases that nothing carries any more.
func (b *Backend) apply(ctx context.Context, change func(*dhcp.State)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.state.Clone()
	change(&next)
	b.writes += len(dhcp.Diff(b.state, next).Changes)
	b.state = next
	b.leases = slices.DeleteFunc(b.leases, func(l dhcp.Lease) bool {
		return !slices.ContainsFunc(next.Reservations, func(r dhcp.Reservation) bool {
			return r.ID == l.ReservationID && slices.Contains(r.IPs, l.IP)
		})
	})
	return nil
}

// EnsureScope implements [dhcp.Backend].
func (b *Backend) EnsureScope(ctx context.Context, s dhcp.Scope) error {
	return b.apply(ctx, func(st *dhcp.State) {
		st.Scopes = append(slices.DeleteFunc(st.Scopes, func(x dhcp.Scope) bool { return x.ID == s.ID }), s.Clone())
	})
}

// DeleteScope implements [dhcp.Backend].
func (b *Backend) DeleteScope(ctx context.Context, id string) error {
	return b.apply(ctx, func(st *dhcp.State) {
		st.Scopes = slices.DeleteFunc(st.Scopes, func(x dhcp.Scope) bool { return x.ID == id })
	})
}

// EnsureReservation implements [dhcp.Backend].
func (b *Backend) EnsureReservation(ctx context.Context, r dhcp.Reservation) error {
	return b.apply(ctx, func(st *dhcp.State) {
		st.Reservations = append(slices.DeleteFunc(st.Reservations, func(x dhcp.Reservation) bool { return x.ID == r.ID }), r.Clone())
	})
}

// DeleteReservation implements [dhcp.Backend].
func (b *Backend) DeleteReservation(ctx context.Context, id string) error {
	return b.apply(ctx, func(st *dhcp.State) {
		st.Reservations = slices.DeleteFunc(st.Reservations, func(x dhcp.Reservation) bool { return x.ID == id })
	})
}

// Plan implements [dhcp.Backend].
func (b *Backend) Plan(_ context.Context, s dhcp.State) (vnet.Plan, error) {
	return dhcp.Diff(b.State(), s), nil
}

// Sync implements [dhcp.Backend].
func (b *Backend) Sync(ctx context.Context, s dhcp.State, o vnet.SyncOptions) error {
	have := b.State()
	if err := o.Check(dhcp.Diff(have, s), len(have.Scopes)+len(have.Reservations)); err != nil {
		return err
	}
	return b.apply(ctx, func(st *dhcp.State) { *st = s.Clone() })
}

// Health implements [dhcp.Backend]: always complete.
func (b *Backend) Health(context.Context) vnet.Health {
	return vnet.Health{Complete: true, Detail: "in memory"}
}

// Features implements [dhcp.Backend].
func (b *Backend) Features(context.Context) dhcp.Features {
	return dhcp.Features{V6: true, Leases: true, Options: true, Relay: true}
}

// Ask is a client with that MAC booting on the network: it returns the
// addresses it is given, IPv4 before IPv6, and remembers them as leases. The
// error is [vnet.ErrNotFound] when nobody answers.
func (b *Backend) Ask(networkID string, mac vnet.MAC) ([]dhcp.Lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []dhcp.Lease
	for _, r := range b.state.Reservations {
		if r.NetworkID != networkID || r.MAC != mac || r.Host != "" && b.o.Host != "" && r.Host != b.o.Host {
			continue
		}
		for _, ip := range r.IPs {
			for _, s := range b.state.Scopes {
				if s.NetworkID != networkID || s.Mode == dhcp.Stateless || !s.Contains(ip) {
					continue
				}
				l := dhcp.Lease{ScopeID: s.ID, ReservationID: r.ID, MAC: mac, ClientID: r.ClientID, IP: ip}
				if d, _, _ := s.Times(); d >= 0 {
					l.Expires = b.o.Now().Add(d)
				}
				out = append(out, l)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: nobody answers %s on network %q", vnet.ErrNotFound, mac, networkID)
	}
	slices.SortFunc(out, func(x, y dhcp.Lease) int { return x.IP.Compare(y.IP) })
	for _, l := range out {
		renewed := slices.ContainsFunc(b.leases, func(x dhcp.Lease) bool { return x.IP == l.IP && x.ReservationID == l.ReservationID })
		b.leases = append(slices.DeleteFunc(b.leases, func(x dhcp.Lease) bool { return x.IP == l.IP && x.ReservationID == l.ReservationID }), l)
		d := map[string]string{"network": networkID, "scope": l.ScopeID, "mac": mac.String(), "ip": l.IP.String(), "state": "new"}
		if renewed {
			d["state"] = "renewed"
		}
		if !l.Expires.IsZero() {
			d["expires"] = l.Expires.UTC().Format(time.RFC3339)
		}
		b.hub.Tell(vnet.Event{Time: b.o.Now(), Part: vnet.PartDHCP, Kind: "lease", ID: l.ReservationID, Detail: d})
	}
	return out, nil
}

// Leases implements [dhcp.LeaseLister].
func (b *Backend) Leases(context.Context) iter.Seq2[dhcp.Lease, error] {
	b.mu.Lock()
	ls := slices.Clone(b.leases)
	b.mu.Unlock()
	return func(yield func(dhcp.Lease, error) bool) {
		for _, l := range ls {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Watch implements [dhcp.Watcher].
func (b *Backend) Watch(ctx context.Context) iter.Seq[vnet.Event] { return b.hub.Watch(ctx) }

// Explain implements [dhcp.Explainer].
func (b *Backend) Explain(_ context.Context, kind, id string) (vnet.Explanation, error) {
	st := b.State()
	var x vnet.Explanation
	switch kind {
	case "scope":
		for _, s := range st.Scopes {
			if s.ID == id {
				x.Text = fmt.Sprintf("scope %s: %s on network %s", s.ID, s.Subnet, s.NetworkID)
			}
		}
	case "network":
		for _, s := range st.Scopes {
			if s.NetworkID == id {
				x.Text = "network " + id
				x.Add(fmt.Sprintf("scope %s: %s", s.ID, s.Subnet))
			}
		}
	case "reservation":
		for _, r := range st.Reservations {
			if r.ID == id {
				x.Text = fmt.Sprintf("reservation %s of %s on network %s", r.ID, r.MAC, r.NetworkID)
				for _, ip := range r.IPs {
					x.Add(ip.String())
				}
			}
		}
	default:
		return x, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "scope", "reservation" or "network"`}
	}
	if x.Text == "" {
		return x, vnet.ErrNotFound
	}
	return x, nil
}
