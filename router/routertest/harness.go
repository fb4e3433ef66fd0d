package routertest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/reach/reachtest"
	"github.com/vnet-go/vnet/router"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns one fresh host, removed when t ends. Called once for each
	// case.
	Make func(t testing.TB) Host
	// NoPackets leaves out all but the first ring, for backends that carry none.
	NoPackets bool
	// Only, if not nil, says which cases of which ring ("contract", "packets",
	// "random") are run.
	Only func(ring, name string) bool
	// Worlds is how many worlds the random ring makes, and Packets how many it
	// sends in each at most. Zero: 40, and 12.
	Worlds, Packets int
}

// Host is one hypervisor with the backend on it.
type Host struct {
	// Overlay makes the networks and ports. Backends without networks have none.
	Overlay overlay.Backend
	// Plugger plugs machines on this host. Nil: Overlay does.
	Plugger overlay.Plugger
	// Router is the backend under test.
	Router router.Backend
	// Reopen returns a new backend over the same platform, as after a restart
	// of the process.
	Reopen func(t testing.TB) router.Backend
	// Dying returns a backend over the same platform whose process ends after n
	// writes: what comes then fails, and nothing is taken back. Nil: the suite
	// kills nobody.
	Dying func(t testing.TB, n int) router.Backend
	// Writes counts what has been written to the platform so far. Nil: the
	// suite cannot see that nothing was written, and does not look.
	Writes func() int
	// Beside makes a backend of another owner on the same host. Nil: there can
	// be none.
	Beside func(t testing.TB) Host
	// Station puts eth0 of a namespace on the physical network that network
	// "out" is on, with the MAC of p. Nil: machines on "out" are at ports of it.
	Station func(t testing.TB, ns *lab.NS, p overlay.Port)
	// Out is the segment of network "out". The zero value is a local one.
	Out overlay.Segment
	// In is what the other networks are made of. Default: local.
	In overlay.SegmentType
	// Serves: routers need this process while they work, so the suite has Serve
	// running.
	Serves bool
	// Told: ports are made with the addresses of the machines at them, for
	// platforms on which machines are not asked across hosts.
	Told bool
	// Lags: packets may go their old way for a moment after a call has returned.
	Lags bool
	// Foreign makes things on the platform that look like the backend's but
	// carry another owner, or none, and returns a check that they stand
	// untouched. Nil: there can be none.
	Foreign func(t testing.TB) func(testing.TB)
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	run := func(ring string, cases []Case) {
		t.Run(ring, func(t *testing.T) {
			for _, c := range cases {
				if h.Only != nil && !h.Only(ring, c.Name) {
					continue
				}
				t.Run(c.Name, func(t *testing.T) {
					e := newEnv(t, h.Make(t))
					c.run(t, e)
					if t.Failed() {
						t.Log("the contract: " + c.Says)
					}
				})
			}
		})
	}
	run("contract", Contract())
	if h.NoPackets {
		return
	}
	run("packets", Packets())
	if h.Worlds == 0 {
		h.Worlds = 40
	}
	if h.Packets == 0 {
		h.Packets = 12
	}
	run("random", Random(h.Worlds, h.Packets))
}

// Case is one thing that is asked of a backend.
type Case struct {
	Name string
	Says string // the sentence of the contract
	run  func(t *testing.T, e *env)
}

// env is one host with networks "in", "in2" and "out".
type env struct {
	Host
	t   testing.TB
	ctx context.Context
	svc *router.Service
	lab *machines
	// silence ends the Serve that runs for the case; nil: none does.
	silence func()
}

func newEnv(t *testing.T, h Host) *env {
	e := &env{Host: h, t: t, ctx: t.Context()}
	e.svc = service(t, h.Router)
	if h.Overlay != nil {
		fabric, err := overlay.New(h.Overlay, nil)
		require.NoError(t, err)
		for _, id := range networks {
			require.NoError(t, fabric.EnsureNetwork(e.ctx, overlay.Network{ID: id, Segment: e.segment(id)}))
		}
	}
	if h.Serves {
		e.silence = e.serve()
		t.Cleanup(e.quiet)
	}
	return e
}

// serve runs Serve until stop is called.
func (e *env) serve() (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.ctx))
	served := make(chan error, 1)
	svc := e.svc
	go func() { served <- svc.Serve(ctx) }()
	return func() {
		cancel()
		select {
		case err := <-served:
			if err != nil && !errors.Is(err, context.Canceled) { // if it was never begun
				e.t.Error(err)
			}
		case <-time.After(patience):
			e.t.Error("Serve does not end with its context")
		}
	}
}

// quiet ends the Serve that runs for the case.
func (e *env) quiet() {
	if e.silence != nil {
		e.silence()
		e.silence = nil
	}
}

var networks = []string{"in", "in2", "out", "other"}

// segment is what a network of the suite is made of.
func (e *env) segment(id string) overlay.Segment {
	if e.Out.Type != "" && (id == "out" || id == reachtest.External) {
		return e.Out
	}
	if e.In == "" || e.In == overlay.Local {
		return overlay.Segment{Type: overlay.Local}
	}
	all := append(slices.Clone(networks), reachtest.External, "n0", "n1", "n2", idle)
	return overlay.Segment{Type: e.In, ID: uint32(1 + slices.Index(all, id))}
}

func service(t testing.TB, b router.Backend) *router.Service {
	s, err := router.New(b, nil)
	require.NoError(t, err)
	return s
}

// restarted is the service of a new process.
func (e *env) restarted() *router.Service { return service(e.t, e.Reopen(e.t)) }

// nothingToDo fails if anything differs from s, or if making it so writes.
func (e *env) nothingToDo(s router.State) {
	e.t.Helper()
	for _, svc := range []*router.Service{e.svc, e.restarted()} {
		p, err := svc.Plan(e.ctx, s)
		require.NoError(e.t, err)
		require.Empty(e.t, p.Changes, p.String())
		n := e.writes()
		require.NoError(e.t, svc.Sync(e.ctx, s, vnet.SyncOptions{}))
		require.Equal(e.t, n, e.writes(), "written by a Sync of what stands")
	}
}

// limited reports whether the backend says that it has a limit; then what it
// does instead is tested.
func (e *env) limited(l router.Limit) bool { return e.svc.Features(e.ctx).Has(l) }

func (e *env) writes() int {
	if e.Writes == nil {
		return 0
	}
	return e.Writes()
}

func (e *env) sync(s router.State) {
	e.t.Helper()
	require.NoError(e.t, e.svc.Sync(e.ctx, s, vnet.SyncOptions{DeleteShare: 1}))
}

func pfx(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, netip.MustParsePrefix(x))
	}
	return out
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// basic is router r1 between "in" (10.0.0.0/24), "in2" (10.0.1.0/24) and
// "out" (203.0.113.0/24), each with an IPv6 subnet, a floating IP and a port
// forward.
func basic() router.State {
	return router.State{
		Routers: []router.Router{{ID: "r1",
			Interfaces: []router.Interface{
				{PortID: "r1-in", NetworkID: "in", MAC: vnet.MAC{2, 0, 0, 0, 1, 1}, Addresses: pfx("10.0.0.1/24", "2001:db8:1::1/64")},
				{PortID: "r1-in2", NetworkID: "in2", MAC: vnet.MAC{2, 0, 0, 0, 1, 2}, Addresses: pfx("10.0.1.1/24", "2001:db8:2::1/64")},
			},
			Gateway: &router.Gateway{PortID: "r1-out", NetworkID: "out", MAC: vnet.MAC{2, 0, 0, 0, 1, 3}, Addresses: pfx("203.0.113.2/24", "2001:db8:f::2/64"),
				NextHops: []netip.Addr{addr("203.0.113.1"), addr("2001:db8:f::1")}},
		}},
		FloatingIPs: []router.FloatingIP{{ID: "f1", RouterID: "r1", FloatingIP: addr("203.0.113.50"), FixedIP: addr("10.0.0.5")}},
		PortForwards: []router.PortForward{{ID: "p1", RouterID: "r1", Protocol: "tcp", ExternalIP: addr("203.0.113.2"), ExternalPort: router.PortRange{First: 2200, Last: 2203},
			InternalIP: addr("10.0.0.6"), InternalPort: router.PortRange{First: 22, Last: 25}}},
	}
}
