package routertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/router"
)

// Contract are the cases that need no packets.
func Contract() []Case {
	return []Case{
		{"twice is once", "Ensure and Sync of what stands write nothing.", func(t *testing.T, e *env) {
			s := basic()
			for range 2 {
				n := e.writes()
				for i := range 2 {
					for _, r := range s.Routers {
						require.NoError(t, e.svc.EnsureRouter(e.ctx, r))
					}
					for _, f := range s.FloatingIPs {
						require.NoError(t, e.svc.EnsureFloatingIP(e.ctx, f))
					}
					for _, f := range s.PortForwards {
						require.NoError(t, e.svc.EnsurePortForward(e.ctx, f))
					}
					if i == 0 {
						n = e.writes()
					}
				}
				require.Equal(t, n, e.writes())
				e.svc = e.restarted()
			}
			e.nothingToDo(s)
		}},
		{"sync in any order", "Sync makes the whole state so, whatever stood.", func(t *testing.T, e *env) {
			s := basic()
			e.sync(s)
			e.nothingToDo(s)
			s.FloatingIPs[0].FixedIP = addr("10.0.1.7")
			s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: "f2", RouterID: "r1", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.0.5")})
			s.PortForwards[0].ExternalIP = addr("203.0.113.60")
			s.Routers[0].Interfaces[0].Addresses = pfx("10.0.0.1/24", "10.7.0.1/16", "2001:db8:1::1/64")
			s.Routers[0].Routes = []router.Route{{Destination: netip.MustParsePrefix("192.168.0.0/16"), NextHop: addr("10.0.0.9")}, {Destination: netip.MustParsePrefix("192.168.0.0/16"), NextHop: addr("10.0.0.10")}}
			e.sync(s)
			e.nothingToDo(s)
			six := netip.MustParsePrefix("2001:db8:77::/64")
			s.Routers[0].Routes = append(s.Routers[0].Routes[1:], router.Route{Destination: six, NextHop: addr("2001:db8:1::9")}, router.Route{Destination: six, NextHop: addr("2001:db8:2::9")})
			e.sync(s)
			e.nothingToDo(s)
			s.Routers[0].Routes = s.Routers[0].Routes[:2]
			e.sync(s)
			e.nothingToDo(s)
			// A subnet goes to another port, with the next hops in it.
			in := s.Routers[0].Interfaces
			in[0].Addresses, in[1].Addresses = in[1].Addresses, in[0].Addresses
			e.sync(s)
			e.nothingToDo(s)
			in[0].Addresses, in[1].Addresses = in[1].Addresses, in[0].Addresses
			s.Routers[0].Interfaces = in[:1]
			s.FloatingIPs = s.FloatingIPs[1:]
			e.sync(s)
			e.nothingToDo(s)
			s.Routers[0].Gateway.DisableSNAT = true
			s.Routers[0].Gateway.MAC = vnet.MAC{2, 0, 0, 0, 1, 9}
			s.Routers[0].Gateway.MTU = 1400
			e.sync(s)
			e.nothingToDo(s)
			s.Routers[0].Gateway.PortID = "another"
			e.sync(s)
			e.nothingToDo(s)
			s.Routers[0].Interfaces[0].Addresses = pfx("10.0.0.200/24", "2001:db8:1::200/64")
			s.Routers[0].Gateway.Addresses = pfx("203.0.113.3/24")
			s.Routers[0].Gateway.NextHops = s.Routers[0].Gateway.NextHops[:1]
			e.sync(s)
			e.nothingToDo(s)
			// A device and a route that is not by it, in one.
			s.Routers[0].Routes = nil
			s.Routers[0].Gateway, s.FloatingIPs, s.PortForwards = nil, nil, nil
			e.sync(s)
			e.nothingToDo(s)
			e.sync(router.State{})
			e.nothingToDo(router.State{})
		}},
		{"addresses change hands", "In one Sync floating IPs and forwards may swap addresses, ids and ports.", func(t *testing.T, e *env) {
			s := basic()
			s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: "f2", RouterID: "r1", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.0.7")})
			e.sync(s)
			s.FloatingIPs[0].FixedIP, s.FloatingIPs[1].FixedIP = s.FloatingIPs[1].FixedIP, s.FloatingIPs[0].FixedIP
			e.sync(s)
			e.nothingToDo(s)
			s.FloatingIPs[0].ID, s.FloatingIPs[1].ID = "f2", "f1"
			s.PortForwards[0].ID = "p9"
			e.sync(s)
			e.nothingToDo(s)
			// A floating IP becomes an address of forwards, and the other way.
			s.FloatingIPs = s.FloatingIPs[:1]
			s.PortForwards[0].ExternalIP = addr("203.0.113.51")
			if s.FloatingIPs[0].FloatingIP == s.PortForwards[0].ExternalIP {
				s.PortForwards[0].ExternalIP = addr("203.0.113.50")
			}
			e.sync(s)
			e.nothingToDo(s)
		}},
		{"plan does nothing", "Plan says what Sync would do, and does nothing.", func(t *testing.T, e *env) {
			n := e.writes()
			p, err := e.svc.Plan(e.ctx, basic())
			require.NoError(t, err)
			require.Len(t, p.Changes, 3, p.String())
			require.Equal(t, n, e.writes())
			e.nothingToDo(router.State{})
		}},
		{"delete of what is gone", "Deleting what is not there is no error.", func(t *testing.T, e *env) {
			for range 2 {
				n := e.writes()
				require.NoError(t, e.svc.DeleteFloatingIP(e.ctx, "f1"))
				require.NoError(t, e.svc.DeletePortForward(e.ctx, "p1"))
				require.NoError(t, e.svc.DeleteRouter(e.ctx, "r1"))
				require.Equal(t, n, e.writes())
				e.sync(basic())
				require.NoError(t, e.svc.DeleteFloatingIP(e.ctx, "f1"))
				require.NoError(t, e.svc.DeletePortForward(e.ctx, "p1"))
				require.NoError(t, e.svc.DeleteRouter(e.ctx, "r1"))
			}
			e.nothingToDo(router.State{})
		}},
		{"in use", "DeleteRouter is ErrInUse while floating IPs or forwards are on it, and so is taking away what they need.", func(t *testing.T, e *env) {
			s := basic()
			e.sync(s)
			for range 2 {
				require.ErrorIs(t, e.svc.DeleteRouter(e.ctx, "r1"), vnet.ErrInUse)
				r := s.Routers[0].Clone()
				r.Gateway = nil
				require.ErrorIs(t, e.svc.EnsureRouter(e.ctx, r), vnet.ErrInUse)
				r = s.Routers[0].Clone()
				r.Interfaces = r.Interfaces[1:]
				require.ErrorIs(t, e.svc.EnsureRouter(e.ctx, r), vnet.ErrInUse)
				e.svc = e.restarted()
			}
			require.NoError(t, e.svc.DeleteFloatingIP(e.ctx, "f1"))
			require.ErrorIs(t, e.svc.DeleteRouter(e.ctx, "r1"), vnet.ErrInUse)
			require.NoError(t, e.svc.DeletePortForward(e.ctx, "p1"))
			require.NoError(t, e.svc.DeleteRouter(e.ctx, "r1"))
		}},
		{"no router, no gateway", "Floating IPs of a router that does not exist are ErrNotFound, of one without a gateway ErrConflict.", func(t *testing.T, e *env) {
			s := basic()
			require.ErrorIs(t, e.svc.EnsureFloatingIP(e.ctx, s.FloatingIPs[0]), vnet.ErrNotFound)
			require.ErrorIs(t, e.svc.EnsurePortForward(e.ctx, s.PortForwards[0]), vnet.ErrNotFound)
			r := s.Routers[0]
			r.Gateway = nil
			require.NoError(t, e.svc.EnsureRouter(e.ctx, r))
			for range 2 {
				require.ErrorIs(t, e.svc.EnsureFloatingIP(e.ctx, s.FloatingIPs[0]), vnet.ErrConflict)
				require.ErrorIs(t, e.svc.EnsurePortForward(e.ctx, s.PortForwards[0]), vnet.ErrConflict)
				e.svc = e.restarted()
			}
		}},
		{"conflicts", "A floating IP or forward whose addresses or ports are another's is ErrConflict and changes nothing.", func(t *testing.T, e *env) {
			s := basic()
			e.sync(s)
			for range 2 {
				n := e.writes()
				for _, f := range []router.FloatingIP{
					{ID: "x", FloatingIP: addr("203.0.113.50"), FixedIP: addr("10.0.0.9")}, // another's address
					{ID: "x", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.0.0.5")}, // has one
					{ID: "x", FloatingIP: addr("203.0.113.2"), FixedIP: addr("10.0.0.9")},  // the gateway's
					{ID: "x", FloatingIP: addr("10.0.0.99"), FixedIP: addr("10.0.0.9")},    // inside
					{ID: "x", FloatingIP: addr("203.0.113.51"), FixedIP: addr("10.9.0.9")}, // not behind
				} {
					f.RouterID = "r1"
					require.ErrorIs(t, e.svc.EnsureFloatingIP(e.ctx, f), vnet.ErrConflict, "%v", f)
				}
				p := s.PortForwards[0]
				p.ID = "x"
				require.ErrorIs(t, e.svc.EnsurePortForward(e.ctx, p), vnet.ErrConflict, "ports of another")
				p.ExternalIP = addr("203.0.113.50")
				require.ErrorIs(t, e.svc.EnsurePortForward(e.ctx, p), vnet.ErrConflict, "a floating IP")
				require.Equal(t, n, e.writes())
				e.svc = e.restarted()
			}
			e.nothingToDo(s)
		}},
		{"invalid input", "Input is refused by field name before anything is done.", func(t *testing.T, e *env) {
			n := e.writes()
			var fe *vnet.FieldError
			require.ErrorAs(t, e.svc.EnsureRouter(e.ctx, router.Router{ID: "a/b"}), &fe)
			require.ErrorAs(t, e.svc.DeleteRouter(e.ctx, ""), &fe)
			s := basic()
			s.FloatingIPs[0].RouterID = "none"
			require.ErrorAs(t, e.svc.Sync(e.ctx, s, vnet.SyncOptions{}), &fe)
			require.Equal(t, n, e.writes())
		}},
		{"delete budget", "A Sync that would delete more than its bounds allow is refused whole.", func(t *testing.T, e *env) {
			s := basic()
			for i := range 20 {
				s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: fmt.Sprint("more", i), RouterID: "r1",
					FloatingIP: netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), FixedIP: netip.AddrFrom4([4]byte{10, 0, 1, byte(100 + i)})})
			}
			e.sync(s)
			n := e.writes()
			var be *vnet.BudgetError
			require.ErrorAs(t, e.svc.Sync(e.ctx, router.State{}, vnet.SyncOptions{}), &be)
			require.ErrorAs(t, e.restarted().Sync(e.ctx, router.State{}, vnet.SyncOptions{}), &be)
			require.Equal(t, n, e.writes())
			e.nothingToDo(s)
			require.NoError(t, e.svc.Sync(e.ctx, router.State{}, vnet.SyncOptions{Force: true}))
		}},
		{"cancelled", "A context that has ended ends the call, and nothing is done.", func(t *testing.T, e *env) {
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			n := e.writes()
			s := basic()
			require.ErrorIs(t, e.Router.EnsureRouter(ctx, s.Routers[0]), context.Canceled)
			require.ErrorIs(t, e.Router.Sync(ctx, s, vnet.SyncOptions{}), context.Canceled)
			require.ErrorIs(t, e.Router.DeleteRouter(ctx, "r1"), context.Canceled)
			require.ErrorIs(t, e.svc.EnsureRouter(ctx, s.Routers[0]), context.Canceled)
			require.Equal(t, n, e.writes())
		}},
		{"many", "The cost of a change depends on the change, and nothing is written where nothing differs.", func(t *testing.T, e *env) {
			s := crowd(1000)
			e.sync(s)
			e.nothingToDo(s)
		}},
		{"killed anywhere", "A new process makes it so from wherever the one before was killed.", func(t *testing.T, e *env) {
			if e.Dying == nil {
				return
			}
			one, two := basic(), basic()
			two.Routers[0].Gateway.MAC = vnet.MAC{2, 0, 0, 0, 1, 9}
			two.Routers[0].Interfaces[1].PortID = "another"
			two.Routers[0].Routes = []router.Route{{Destination: netip.MustParsePrefix("192.168.0.0/16"), NextHop: addr("10.0.0.9")}}
			two.FloatingIPs[0].FixedIP = addr("10.0.1.7")
			two.PortForwards[0].ExternalIP = addr("203.0.113.60")
			down := router.State{Routers: []router.Router{two.Routers[0].Clone()}}
			down.Routers[0].AdminDown = true
			for _, step := range [][2]router.State{{{}, one}, {one, two}, {two, {}}, {{}, down}} {
				for n := rand.IntN(2); ; n += 1 + rand.IntN(3) {
					require.Less(t, n, 1000)
					e.sync(step[0])
					if err := service(t, e.Dying(t, n)).Sync(e.ctx, step[1], vnet.SyncOptions{Force: true}); err == nil {
						break
					}
					e.svc = e.restarted()
					e.sync(step[1])
					e.nothingToDo(step[1])
				}
			}
		}},
		{"killed among many", "A Sync that is killed or cancelled anywhere is finished by the next.", func(t *testing.T, e *env) {
			one, two := crowd(300), crowd(150)
			for i := range two.FloatingIPs {
				if i%3 == 0 {
					two.FloatingIPs[i].FixedIP = netip.AddrFrom4([4]byte{10, 0, 200, byte(i)})
				}
			}
			two.Routers = append(two.Routers, second())
			for i := range 6 {
				s := []router.State{one, two, {}}[i%3]
				b, n := e.Reopen(t), rand.IntN(400)
				if e.Dying != nil && i%2 == 0 {
					b = e.Dying(t, n)
				}
				ctx, cancel := context.WithTimeout(e.ctx, time.Duration(n)*time.Millisecond/4)
				err := service(t, b).Sync(ctx, s, vnet.SyncOptions{Force: true})
				cancel()
				t.Logf("n %d: %v", n, err)
				e.svc = e.restarted()
				require.NoError(t, e.svc.Sync(e.ctx, s, vnet.SyncOptions{Force: true}), "n %d", n)
				e.nothingToDo(s)
			}
		}},
		{"others are left alone", "What carries another owner's mark, or none, is not touched.", func(t *testing.T, e *env) {
			if e.Foreign == nil {
				return
			}
			check := e.Foreign(t)
			e.sync(basic())
			check(t)
			e.nothingToDo(basic())
			e.sync(router.State{})
			check(t)
		}},
		{"moves between routers", "A floating IP that is ensured on another router leaves the first.", func(t *testing.T, e *env) {
			s := basic()
			s.Routers = append(s.Routers, second())
			e.sync(s)
			s.FloatingIPs[0].RouterID = "r2"
			require.NoError(t, e.svc.EnsureFloatingIP(e.ctx, s.FloatingIPs[0]))
			e.nothingToDo(s)
			s.FloatingIPs[0].RouterID = "r1"
			require.NoError(t, e.restarted().EnsureFloatingIP(e.ctx, s.FloatingIPs[0]))
			e.svc = e.restarted()
			e.nothingToDo(s)
			s.FloatingIPs[0].RouterID = "r2"
			e.sync(s)
			e.nothingToDo(s)
		}},
		{"explains", "What stands can be explained, and what does not is ErrNotFound.", func(t *testing.T, e *env) {
			if _, ok := e.Router.(router.Explainer); !ok {
				return
			}
			e.sync(basic())
			for kind, id := range map[string]string{"router": "r1", "floatingip": "f1", "portforward": "p1"} {
				x, err := e.svc.Explain(e.ctx, kind, id)
				require.NoError(t, err)
				require.Contains(t, x.String(), id)
				_, err = e.svc.Explain(e.ctx, kind, "none")
				require.ErrorIs(t, err, vnet.ErrNotFound)
			}
		}},
	}
}

// crowd is a router with n floating IPs.
func crowd(n int) router.State {
	s := basic()
	s.Routers[0].Interfaces[0].Addresses = pfx("10.0.0.1/16")
	s.Routers[0].Interfaces[1].Addresses = pfx("10.1.0.1/16")
	s.FloatingIPs = nil
	for i := range n {
		s.FloatingIPs = append(s.FloatingIPs, router.FloatingIP{ID: fmt.Sprint("f", i), RouterID: "r1",
			FloatingIP: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), FixedIP: netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)})})
	}
	return s
}

// second is a router with the same subnet as the first on a network of its own.
func second() router.Router {
	return router.Router{ID: "r2",
		Interfaces: []router.Interface{{PortID: "r2-in", NetworkID: "other", MAC: vnet.MAC{2, 0, 0, 0, 2, 1}, Addresses: pfx("10.0.0.1/24")}},
		Gateway: &router.Gateway{PortID: "r2-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 2, 3}, Addresses: pfx("203.0.113.3/24"),
			NextHops: []netip.Addr{addr("203.0.113.1")}},
	}
}
