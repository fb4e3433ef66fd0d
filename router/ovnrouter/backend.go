package ovnrouter

import (
	"context"
	"fmt"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/router"
)

const name = "ovnrouter"

// Options of a [Backend]. Zero values are the defaults; nil will do.
type Options struct {
	// GatewayHosts are the hosts of gateways that name none themselves
	// (router.Gateway.Hosts), by chassis name or hostname. Each gateway gets
	// MaxGatewayHosts of them, spread by router. None: hosts are chosen among
	// the chassis in the Southbound.
	GatewayHosts []string
	// MaxGatewayHosts is how many hosts a gateway is given that names none.
	// Default 5.
	MaxGatewayHosts int
	// NeighborAge is after how long routers forget a neighbour's MAC, and ask
	// anew. Default 300 s; negative: never.
	NeighborAge time.Duration
}

// Backend is a [router.Backend] for a whole OVN installation. It keeps no
// state; methods may be called from several goroutines.
type Backend struct {
	t ovn.Target
	c *ovn.Conn
	o Options
}

var (
	_ router.Backend   = (*Backend)(nil)
	_ router.Explainer = (*Backend)(nil)
)

// New returns a backend that writes through t.
func New(t ovn.Target, o *Options) (*Backend, error) {
	if t == nil {
		return nil, &vnet.FieldError{Field: "target", Reason: "is nil"}
	}
	b := &Backend{t: t, c: t.Conn()}
	if o != nil {
		b.o = *o
	}
	if b.o.MaxGatewayHosts < 0 {
		return nil, &vnet.FieldError{Field: "max_gateway_hosts", Value: fmt.Sprint(b.o.MaxGatewayHosts), Reason: "is negative"}
	}
	if b.o.MaxGatewayHosts == 0 {
		b.o.MaxGatewayHosts = 5
	}
	if b.o.NeighborAge == 0 {
		b.o.NeighborAge = 300 * time.Second
	}
	return b, nil
}

// Features implements [router.Backend].
func (b *Backend) Features(context.Context) router.Features {
	return router.Features{RA: true, PortForward: true, IPv6: true, Distributed: true, ExtraRoutes: true, SharedGateIP: true,
		Limits: []router.Limit{router.LimitRoutedIn, router.LimitForwardHairpin, router.LimitHairpinTTL, router.LimitMovedConnections, router.LimitPicksUp, router.LimitBusyForwards, router.LimitSilentPorts,
			router.LimitAnnounceIPv6, router.LimitAdvertisedLifetime}}
}

// Health implements [router.Backend].
func (b *Backend) Health(ctx context.Context) vnet.Health { return b.c.Health(ctx) }

func (b *Backend) submit(ctx context.Context, f func(tx *ovn.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err // also when there is nothing to do
	}
	return b.t.Submit(ctx, vnet.PartRouter, f)
}

// EnsureRouter implements [router.Backend].
func (b *Backend) EnsureRouter(ctx context.Context, r router.Router) error {
	if err := refuse(r); err != nil {
		return err
	}
	return b.submit(ctx, func(tx *ovn.Tx) error {
		st, ok := standingRouter(tx, r.ID)
		if ok {
			if user := st.user(tx); user != "" && r.Gateway == nil {
				return fmt.Errorf("gateway: %s is on it: %w", user, vnet.ErrInUse)
			}
			for _, f := range st.fips(tx) {
				if err := r.CheckFloatingIP(f); err != nil {
					return fmt.Errorf("floating IP %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
			for _, f := range st.forwards(tx) {
				if err := r.CheckPortForward(f); err != nil {
					return fmt.Errorf("port forward %s: %w: %w", f.ID, vnet.ErrInUse, err)
				}
			}
		}
		return b.putRouter(tx, r, nil)
	})
}

// DeleteRouter implements [router.Backend].
func (b *Backend) DeleteRouter(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		st, ok := standingRouter(tx, id)
		if !ok {
			return nil
		}
		if user := st.user(tx); user != "" {
			return fmt.Errorf("%s is on it: %w", user, vnet.ErrInUse)
		}
		dropRouter(tx, st)
		return nil
	})
}

// carrier is the router that a floating IP or forward asks for.
func carrier(tx *ovn.Tx, id string) (standing, error) {
	st, ok := standingRouter(tx, id)
	if !ok {
		return st, fmt.Errorf("router %s: %w", id, vnet.ErrNotFound)
	}
	if st.r.Gateway == nil {
		return st, fmt.Errorf("router %s has no gateway: %w", id, vnet.ErrConflict)
	}
	return st, nil
}

func conflict(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", vnet.ErrConflict, err)
}

// EnsureFloatingIP implements [router.Backend].
func (b *Backend) EnsureFloatingIP(ctx context.Context, f router.FloatingIP) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		st, err := carrier(tx, f.RouterID)
		if err == nil {
			err = conflict(st.r.CheckFloatingIP(f))
		}
		if err == nil {
			err = conflict(clashFloating(tx, st, f))
		}
		if err == nil {
			b.putFloating(tx, st, f)
		}
		return err
	})
}

// DeleteFloatingIP implements [router.Backend].
func (b *Backend) DeleteFloatingIP(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		dropFloating(tx, id)
		return nil
	})
}

// EnsurePortForward implements [router.Backend].
func (b *Backend) EnsurePortForward(ctx context.Context, f router.PortForward) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		st, err := carrier(tx, f.RouterID)
		if err == nil {
			err = conflict(st.r.CheckPortForward(f))
		}
		if err == nil {
			err = conflict(clashForward(tx, st, f))
		}
		if err == nil {
			b.putForward(tx, st, f)
		}
		return err
	})
}

// DeletePortForward implements [router.Backend].
func (b *Backend) DeletePortForward(ctx context.Context, id string) error {
	return b.submit(ctx, func(tx *ovn.Tx) error {
		b.dropForward(tx, id)
		return nil
	})
}

// Sync implements [router.Backend].
func (b *Backend) Sync(ctx context.Context, s router.State, o vnet.SyncOptions) error {
	f, err := b.sync(s, &o)
	if err != nil {
		return err
	}
	return b.submit(ctx, f)
}

// Plan implements [router.Backend].
func (b *Backend) Plan(ctx context.Context, s router.State) (vnet.Plan, error) {
	f, err := b.sync(s, nil)
	if err != nil {
		return vnet.Plan{}, err
	}
	return b.t.Plan(ctx, vnet.PartRouter, f)
}

// sync makes the whole of s so, within the bounds of o if there are any.
func (b *Backend) sync(s router.State, o *vnet.SyncOptions) (func(tx *ovn.Tx) error, error) {
	for _, r := range s.Routers {
		if err := refuse(r); err != nil {
			return nil, fmt.Errorf("router %s: %w", r.ID, err)
		}
	}
	return func(tx *ovn.Tx) error {
		existing := 0
		var goneRouters, goneFloating, goneForwards []string
		keep := map[[2]string]bool{}
		for _, r := range s.Routers {
			keep[[2]string{kindRouter, r.ID}] = true
		}
		for _, f := range s.FloatingIPs {
			keep[[2]string{kindFloating, f.ID}] = true
		}
		for _, f := range s.PortForwards {
			keep[[2]string{kindForward, f.ID}] = true
		}
		gone := func(list *[]string, m ovn.Mark) {
			existing++
			if !keep[[2]string{m.Kind, m.ID}] {
				*list = append(*list, m.ID)
			}
		}
		for m := range ovn.Own[nbrow.LogicalRouter](tx, vnet.PartRouter) {
			gone(&goneRouters, m)
		}
		for m := range ovn.Own[nbrow.NAT](tx, vnet.PartRouter) {
			if m.Kind == kindFloating {
				gone(&goneFloating, m)
			}
		}
		for m := range ovn.Own[nbrow.LoadBalancer](tx, vnet.PartRouter) {
			gone(&goneForwards, m)
		}

		ports := map[string]string{} // whose they will be
		for _, r := range s.Routers {
			for _, i := range r.Interfaces {
				ports[i.PortID] = r.ID
			}
			if r.Gateway != nil {
				ports[r.Gateway.PortID] = r.ID
			}
		}
		for _, r := range s.Routers {
			if err := b.putRouter(tx, r, func(port string) bool { return ports[port] != "" && ports[port] != r.ID }); err != nil {
				return fmt.Errorf("router %s: %w", r.ID, err)
			}
		}
		carriers := map[string]standing{}
		for _, r := range s.Routers {
			carriers[r.ID], _ = standingRouter(tx, r.ID)
		}
		// Forwards first: they decide where floating IPs are translated.
		central := centralised(s)
		for _, f := range s.FloatingIPs {
			b.putFloatingAs(tx, carriers[f.RouterID], f, central[f.ID])
		}
		for _, f := range s.PortForwards {
			b.putForwardRow(tx, carriers[f.RouterID], f)
		}
		for _, id := range goneForwards {
			dropForwardRow(tx, id)
		}
		for _, id := range goneFloating {
			dropFloating(tx, id)
		}
		for _, id := range goneRouters {
			if st, ok := standingRouter(tx, id); ok {
				dropRouter(tx, st)
			}
		}
		if err := b.strays(tx); err != nil || o == nil {
			return err
		}
		return o.Check(tx.Changes(), existing)
	}, nil
}

// centralised are the floating IPs of fixed addresses that ports are forwarded
// to: answers of both must come back to where both are translated.
func centralised(s router.State) map[string]bool {
	type end struct{ router, ip string }
	ends, out := map[end]bool{}, map[string]bool{}
	for _, f := range s.PortForwards {
		ends[end{f.RouterID, f.InternalIP.String()}] = true
	}
	for _, f := range s.FloatingIPs {
		out[f.ID] = ends[end{f.RouterID, f.FixedIP.String()}]
	}
	return out
}
