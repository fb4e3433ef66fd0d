package engine

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcpwire"
	"github.com/vnet-go/vnet/dhcp/leasestore"
)

// ServedOptions of a [Served].
type ServedOptions struct {
	Owner vnet.Owner
	Host  string
	Store *leasestore.Store // nil: no pools
	Log   *slog.Logger
	// Begin is called when a network has its first scope, End when its last is
	// gone. Neither may call the Served.
	Begin func(network string, wire *dhcpwire.Server)
	End   func(network string)
}

// Served is what a process serves. It is safe for use by several goroutines.
type Served struct {
	o ServedOptions

	mu           sync.Mutex
	scopes       map[string]dhcp.Scope
	reservations map[string]dhcp.Reservation
	holders      map[holder]string // reservation of an address or a client
	nets         map[string]*netState
}

// holder is what no two reservations may both have.
type holder struct {
	network string
	ip      netip.Addr
	mac     vnet.MAC
	id      string // client identifier and DUID
}

type netState struct {
	wire    *dhcpwire.Server
	scopes  int
	objects int
}

// NewServed returns one that serves nothing.
func NewServed(o ServedOptions) *Served {
	return &Served{o: o, scopes: map[string]dhcp.Scope{}, reservations: map[string]dhcp.Reservation{},
		holders: map[holder]string{}, nets: map[string]*netState{}}
}

// Scope returns the scope of that id.
func (s *Served) Scope(id string) (dhcp.Scope, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.scopes[id]
	return x, ok
}

// Reservation returns the reservation of that id.
func (s *Served) Reservation(id string) (dhcp.Reservation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.reservations[id]
	return x, ok
}

// State returns all that is served.
func (s *Served) State() dhcp.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return dhcp.State{Scopes: slices.Collect(maps.Values(s.scopes)), Reservations: slices.Collect(maps.Values(s.reservations))}
}

// Len is how many objects are served.
func (s *Served) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.scopes) + len(s.reservations)
}

// ScopeConflict is an [vnet.ErrConflict] when a scope that stands, other than
// x itself, has addresses of x on its network.
func (s *Served) ScopeConflict(x dhcp.Scope, stands func(id string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.scopes {
		if o.ID != x.ID && o.NetworkID == x.NetworkID && o.Subnet.Overlaps(x.Subnet) && stands(o.ID) {
			return fmt.Errorf("%w: %s overlaps %s of scope %q", vnet.ErrConflict, x.Subnet, o.Subnet, o.ID)
		}
	}
	return nil
}

// ReservationConflict is an [vnet.ErrConflict] when a reservation that stands,
// other than r itself, has an address or the client of r.
func (s *Served) ReservationConflict(r dhcp.Reservation, stands func(id string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range holds(r) {
		if other, ok := s.holders[k]; ok && other != r.ID && stands(other) {
			what := k.mac.String()
			if k.ip.IsValid() {
				what = k.ip.String()
			}
			return fmt.Errorf("%w: %s is reservation %q's", vnet.ErrConflict, what, other)
		}
	}
	return nil
}

// CheckPools refuses pools where there is no store.
func (s *Served) CheckPools(backend string, scopes ...dhcp.Scope) error {
	for _, x := range scopes {
		if len(x.Pool) > 0 && s.o.Store == nil {
			return &vnet.UnsupportedError{Feature: "pool", Backend: backend, Need: "Options.Leases"}
		}
	}
	return nil
}

// net is called with mu held, as all that follow here.
func (s *Served) net(id string) *netState {
	n := s.nets[id]
	if n == nil {
		n = &netState{wire: dhcpwire.New(id, &dhcpwire.Options{Host: s.o.Host, DUID: dhcpwire.DUID(string(s.o.Owner) + "/" + id), Store: s.o.Store})}
		s.nets[id] = n
	}
	return n
}

func (s *Served) forget(id string, n *netState) {
	if n.objects--; n.objects == 0 {
		delete(s.nets, id)
	}
}

func holds(r dhcp.Reservation) []holder {
	out := []holder{{network: r.NetworkID, mac: r.MAC, id: string(r.ClientID) + "\x00" + string(r.DUID)}}
	for _, ip := range r.IPs {
		out = append(out, holder{network: r.NetworkID, ip: ip})
	}
	return out
}

func (s *Served) unhold(r dhcp.Reservation) {
	for _, k := range holds(r) {
		if s.holders[k] == r.ID {
			delete(s.holders, k)
		}
	}
}

// PutScope serves the scope, in place of one of the same id.
func (s *Served) PutScope(x dhcp.Scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.scopes[x.ID]; ok && old.NetworkID != x.NetworkID {
		s.dropScope(x.ID)
	}
	n := s.net(x.NetworkID)
	n.wire.PutScope(x)
	if _, ok := s.scopes[x.ID]; !ok {
		n.objects++
		if n.scopes++; n.scopes == 1 {
			s.o.Begin(x.NetworkID, n.wire)
		}
	}
	s.scopes[x.ID] = x
}

// DropScope serves the scope no more, and forgets the leases of its pool.
func (s *Served) DropScope(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropScope(id)
}

func (s *Served) dropScope(id string) {
	x, ok := s.scopes[id]
	if !ok {
		return
	}
	delete(s.scopes, id)
	n := s.nets[x.NetworkID]
	n.wire.DropScope(id)
	if n.scopes--; n.scopes == 0 {
		s.o.End(x.NetworkID)
	}
	s.forget(x.NetworkID, n)
	if s.o.Store != nil && len(x.Pool) > 0 {
		s.o.Store.Forget(func(scope string) bool { return scope != id })
		if err := s.o.Store.Flush(); err != nil {
			s.o.Log.Error("dhcp: leases cannot be kept", "scope", id, "error", err)
		}
	}
}

// PutReservation serves the reservation, in place of one of the same id.
func (s *Served) PutReservation(r dhcp.Reservation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.reservations[r.ID]
	if had {
		s.unhold(old)
		if old.NetworkID != r.NetworkID {
			s.dropReservation(r.ID)
			had = false
		}
	}
	n := s.net(r.NetworkID)
	n.wire.PutReservation(r)
	if !had {
		n.objects++
	}
	for _, k := range holds(r) {
		s.holders[k] = r.ID
	}
	s.reservations[r.ID] = r
}

// DropReservation serves the reservation no more.
func (s *Served) DropReservation(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropReservation(id)
}

func (s *Served) dropReservation(id string) {
	r, ok := s.reservations[id]
	if !ok {
		return
	}
	s.unhold(r)
	delete(s.reservations, id)
	n := s.nets[r.NetworkID]
	n.wire.DropReservation(id)
	s.forget(r.NetworkID, n)
}

// Leases is that of [dhcp.LeaseLister].
func (s *Served) Leases(ctx context.Context) iter.Seq2[dhcp.Lease, error] {
	s.mu.Lock()
	var out []dhcp.Lease
	for _, n := range s.nets {
		out = append(out, n.wire.Leases()...)
	}
	s.mu.Unlock()
	if s.o.Store != nil {
		out = append(out, s.o.Store.Leases()...)
	}
	return func(yield func(dhcp.Lease, error) bool) {
		for _, l := range out {
			if err := ctx.Err(); err != nil {
				yield(dhcp.Lease{}, err)
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Carrier says what carries a network and a scope on a platform.
type Carrier interface {
	ExplainNetwork(x *vnet.Explanation, network string)
	ExplainScope(x *vnet.Explanation, s dhcp.Scope)
}

// Explain is that of [dhcp.Explainer].
func (s *Served) Explain(kind, id string, c Carrier) (vnet.Explanation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case "scope":
		x, ok := s.scopes[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		return s.explainScope(x, c), nil
	case "reservation":
		r, ok := s.reservations[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		return s.nets[r.NetworkID].wire.Explain(id), nil
	case "network":
		n, ok := s.nets[id]
		if !ok {
			return vnet.Explanation{}, vnet.ErrNotFound
		}
		x := vnet.Explanation{Text: fmt.Sprintf("network %s: %d scopes, %d reservations", id, n.scopes, n.objects-n.scopes)}
		c.ExplainNetwork(&x, id)
		for _, k := range slices.Sorted(maps.Keys(s.scopes)) {
			if sc := s.scopes[k]; sc.NetworkID == id {
				x.Of = append(x.Of, s.explainScope(sc, c))
			}
		}
		return x, nil
	}
	return vnet.Explanation{}, &vnet.FieldError{Field: "kind", Value: kind, Reason: `is not "scope", "reservation" or "network"`}
}

func (s *Served) explainScope(sc dhcp.Scope, c Carrier) vnet.Explanation {
	x := vnet.Explanation{Text: fmt.Sprintf("scope %s: %s %s on network %s", sc.ID, sc.Mode, sc.Subnet, sc.NetworkID)}
	c.ExplainNetwork(&x, sc.NetworkID)
	c.ExplainScope(&x, sc)
	n := 0
	for _, r := range s.reservations {
		if r.NetworkID == sc.NetworkID && slices.ContainsFunc(r.IPs, sc.Contains) {
			n++
		}
	}
	x.Add(fmt.Sprintf("%d reservations", n))
	if len(sc.Pool) > 0 {
		held := 0
		for _, l := range s.o.Store.Leases() {
			if l.ScopeID == sc.ID {
				held++
			}
		}
		x.Add(fmt.Sprintf("%d pool addresses given", held))
	}
	return x
}
