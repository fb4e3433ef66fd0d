package dhcptest

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns a fresh host, removed when t ends. Called once for each case
	// of ring 1 and once for each group of packet cases.
	Make func(t testing.TB) Host
	// NoPackets leaves out rings 2 and 3, for backends that answer none.
	NoPackets bool
	// Volatile: the served state is the process's own, so a new backend plans
	// everything.
	Volatile bool
}

// Host is one hypervisor with the backend on it.
type Host struct {
	Name string // as in Reservation.Host
	// DHCP is the backend under test. The suite calls Serve where there is one.
	DHCP dhcp.Backend
	// Reopen returns a new backend over the same platform, as after a restart
	// of the process.
	Reopen func(t testing.TB) dhcp.Backend
	// Writes counts objects written so far. Nil: the suite does not look.
	Writes func() int
	// Network makes the layer 2 of a network on the host, RemoveNetwork takes
	// it away. Nil when Harness.NoPackets, as is Plug.
	Network, RemoveNetwork func(t testing.TB, networkID string)
	// Plug makes a device with the name and MAC in the network namespace at
	// the path netns and connects it to the network.
	Plug func(t testing.TB, networkID, netns, device string, mac vnet.MAC)
	// Port makes the overlay's port of a reservation, on a network of its own
	// making where there is none, and gives the port its addresses, also when
	// it is plugged already. Nil unless Features.Central.
	Port func(t testing.TB, r dhcp.Reservation)
	// RemovePort takes it away.
	RemovePort func(t testing.TB, r dhcp.Reservation)
	// Settle waits until packets meet what has been changed, where a call to
	// the backend does not. May be nil.
	Settle func()
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
	t.Run("packets", func(t *testing.T) { runPackets(t, h) })
	t.Run("clients", func(t *testing.T) { runClients(t, h) })
}

// Case is a check of ring 1.
type Case struct {
	Name string
	Says string // the sentence of the contract
	run  func(*bench)
}

type bench struct {
	t   *testing.T
	ctx context.Context
	k   Harness
	h   Host
	s   *dhcp.Service
}

func newBench(t *testing.T, h Harness) *bench {
	host := h.Make(t)
	b := &bench{t: t, ctx: t.Context(), k: h, h: host, s: service(t, host.DHCP)}
	require.Equal(t, b.s.Features(b.ctx).Central, host.Port != nil, "Host.Port is for Features.Central")
	return b
}

// ports makes the ports that reservations are for, where that matters.
func (b *bench) ports(rs ...dhcp.Reservation) {
	b.t.Helper()
	for _, r := range rs {
		if b.h.Port != nil {
			b.h.Port(b.t, r)
		}
	}
}

func (b *bench) settle() {
	if b.h.Settle != nil {
		b.h.Settle()
	}
}

// limited reports whether the backend says that it has a limit; then what it
// does instead is tested.
func (b *bench) limited(l dhcp.Limit) bool { return b.s.Features(b.ctx).Has(l) }

func service(t testing.TB, b dhcp.Backend) *dhcp.Service {
	t.Helper()
	s, err := dhcp.New(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func mac(n int) vnet.MAC           { return vnet.MAC{0x02, 0xdc, 0, 0, byte(n >> 8), byte(n)} }
