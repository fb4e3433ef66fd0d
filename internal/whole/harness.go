package whole

import (
	"net/netip"
	"testing"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// Harness is what a platform brings to be tested.
type Harness struct {
	// Make returns two fresh hosts, "h1" and "h2", as each of some owners has
	// them; they are removed when t ends. The hosts are joined by an underlay
	// and by a physical network for each owner.
	Make func(t testing.TB, owners int) []Site
	// Worlds is how many worlds are made, and Packets how many packets are drawn
	// for each at most, beside those that everybody sends to everybody. Zero: 24,
	// and 12. Streams and owners have a share of the worlds.
	Worlds, Packets int
}

// Site is the hosts as one owner has them.
type Site struct {
	Hosts []Host
	// Central: the backends of the first host write for all of them. The others
	// have a Plugger only.
	Central bool
	// Station puts eth0 of a namespace on the owner's physical network, which is
	// [reachtest.Physical] to the hosts.
	Station func(t testing.TB, ns *lab.NS)
	Limits  Limits
	// Settle returns when all hosts do what has been written, on platforms where
	// that takes a while after the calls. Nil: it does not.
	Settle func(t testing.TB)
}

// Limits of a platform. Each is a sentence of a contract that does not hold
// whole; what it is about is not looked at.
type Limits struct {
	// Shortcuts: connections are held for a network on a host, not for each port.
	// Who is called by a neighbour by way of routers, and answers straight, is let
	// in there, though the neighbour's port has not called this address.
	Shortcuts bool
}

// Host is one hypervisor.
type Host struct {
	Name     string     // as in Port.Host
	Endpoint netip.Addr // its tunnel end, as in RemotePort.Endpoint
	Overlay  overlay.Backend
	Plugger  overlay.Plugger // nil: Overlay does
	SecGroup secgroup.Backend
	Router   router.Backend
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if h.Worlds == 0 {
		h.Worlds = 24
	}
	if h.Packets == 0 {
		h.Packets = 12
	}
	t.Run("worlds", func(t *testing.T) { worlds(t, h) })
	t.Run("streams", func(t *testing.T) { streams(t, h) })
	t.Run("owners", func(t *testing.T) { owners(t, h) })
}
