package secgrouptest

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/secgroup"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns n fresh hosts joined by an underlay, removed when t ends.
	// Called once for each case of ring 1, with n = 1, and once for each group
	// of packet cases.
	Make func(t testing.TB, n int) []Host
	// NoPackets leaves out rings 2 and 3, for backends that carry none.
	NoPackets bool
	// Slow makes the suite wait longer for what must not arrive, and draw less
	// at random: for emulated machines.
	Slow bool
	// Only, if not nil, says which packet cases run, and whether the rings
	// "random" and "sockets" do: for a platform that is slow and another has
	// passed the whole suite.
	Only func(name string) bool
	// Draws is how many random states are tried. Default 40, when Slow 8.
	Draws int
	// Central: the hosts share one backend and one overlay, which are told of
	// everything once; each host's Overlay plugs. A port must be in the overlay
	// before it is filtered.
	Central bool
	// Segment is the type of the networks that machines are on; default VXLAN.
	Segment overlay.SegmentType
	// Settle waits until the data path does what the backend has written, where
	// that is a moment after its calls return. Nil: it is not.
	Settle func()
	// Limits are where the platform does otherwise than the contract says. The
	// suite checks that it does so.
	Limits Limits
}

// Limits of a platform. Each is a sentence of the contract that does not hold.
type Limits struct {
	// OpenerEnds: when what allowed a connection goes, the connection ends with
	// the next packet of who opened it; until then the other side's pass.
	OpenerEnds bool
	// RouterAdvertisements, and MLD queries, of a port with port security pass.
	RouterAdvertisements bool
	// OwnAddressesOnly: a port with port security also receives only what is
	// for its own addresses, for multicast or broadcast.
	OwnAddressesOnly bool
	// Fragments of a datagram but the first match no rule about ports.
	Fragments bool
	// ICMPCodes: echo and timestamp with a code other than 0 are invalid.
	ICMPCodes bool
}

// Host is one hypervisor with the backend on it.
type Host struct {
	Name     string     // as in Port.Host
	Endpoint netip.Addr // its tunnel end, when there are several hosts
	// SecGroup is the backend under test.
	SecGroup secgroup.Backend
	// Reopen returns a new backend over the same platform, as after a restart
	// of the process.
	Reopen func(t testing.TB) secgroup.Backend
	// Writes counts what has been written to the platform so far. Nil: the
	// suite cannot see that nothing was written, and does not look.
	Writes func() int
	// Foreign makes things on the platform that look like the backend's but
	// carry another owner, and returns a check that they stand unchanged. Nil:
	// not looked at.
	Foreign func(t testing.TB) (check func(t testing.TB))
	// Overlay carries the frames; nil when Harness.NoPackets.
	Overlay OverlayBackend
}

// OverlayBackend is what the suite needs of an overlay.
type OverlayBackend interface {
	overlay.Backend
	overlay.Plugger
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("contract", func(t *testing.T) {
		for _, c := range contractCases() {
			t.Run(c.Name, func(t *testing.T) {
				t.Log(c.Says)
				c.run(newBench(t, h))
			})
		}
	})
	if h.NoPackets {
		return
	}
	RunPackets(t, h)
}

// RunPackets runs rings 2 and 3: for a second platform of a backend whose
// first has passed all of [Run].
func RunPackets(t *testing.T, h Harness) {
	w := newWorld(t, h, false)
	t.Run("packets", func(t *testing.T) { runPackets(t, w, h.Only) })
	if h.Only == nil || h.Only("random") {
		t.Run("random", func(t *testing.T) { runRandom(t, w, h) })
	}
	if h.Only == nil || h.Only("sockets") {
		t.Run("sockets", func(t *testing.T) { runSockets(t, h) })
	}
}

// Case is a check of ring 1.
type Case struct {
	Name string
	Says string // the sentence of the contract
	run  func(*bench)
}

// bench is one host with an enforcer over the backend.
type bench struct {
	t   *testing.T
	ctx context.Context
	h   Host
	e   *secgroup.Enforcer

	central bool
}

func newBench(t *testing.T, h Harness) *bench {
	host := h.Make(t, 1)[0]
	b := &bench{t: t, ctx: t.Context(), h: host, central: h.Central}
	b.e = b.over(host.SecGroup)
	if h.Central {
		require.NoError(t, host.Overlay.EnsureNetwork(b.ctx, overlay.Network{ID: "net", Segment: segment(h, 99), MTU: 1400}))
		ports := sample().Ports
		for i := range 30 {
			ports = append(ports, secgroup.Port{ID: fmt.Sprintf("p%02d", i), MAC: mac(200 + i)})
		}
		for i := range 8 {
			ports = append(ports, secgroup.Port{ID: fmt.Sprintf("c%d", i), MAC: mac(100 + i)})
		}
		for _, p := range ports {
			require.NoError(t, host.Overlay.EnsurePort(b.ctx, overlay.Port{ID: p.ID, NetworkID: "net", MAC: p.MAC, FixedIPs: p.FixedIPs, Filtered: !p.DisablePortSecurity}))
		}
	}
	return b
}

// segment is the n-th of the harness' type.
func segment(h Harness, n uint32) overlay.Segment {
	s := overlay.Segment{Type: overlay.VXLAN, ID: n}
	if h.Segment != "" {
		s.Type = h.Segment
	}
	if s.Type == overlay.Local || s.Type == overlay.Flat {
		s.ID = 0
	}
	return s
}

func (b *bench) over(s secgroup.Backend) *secgroup.Enforcer {
	b.t.Helper()
	e, err := secgroup.New(s, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}
