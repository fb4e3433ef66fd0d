package whole

import (
	"cmp"
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
	// Worlds is how many worlds are made at random. Zero: 24. Streams and owners
	// have a share of them.
	Worlds int
	// Seed is that of the first world that is the same on all platforms, zero: 1;
	// of these there are at least Worlds, and so many that at least Packets
	// packets are compared. Zero: 2000.
	Seed, Packets int
	// Alone leaves owners out.
	Alone bool
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

// Limits of a platform, beside those in the Features of its backends. Each is a
// sentence of a contract that does not hold whole; what it is about is not
// looked at, and counted.
type Limits struct {
	// Shortcuts: connections are held for a network on a host, not for each port.
	// Who is called by a neighbour by way of routers, and answers straight, is let
	// in there, though the neighbour's port has not called this address.
	Shortcuts bool
	// TrackedAll: where a network has a stateful rule all is tracked, and what is
	// of no connection is dropped, also that of ports without security.
	TrackedAll bool
	// OwnAddressesOnly: a port with port security receives only what is for its
	// own addresses.
	OwnAddressesOnly bool
	// Turns: a packet is looked up seven times at most on its way through a host
	// (MAX_RECIRC_DEPTH of Open vSwitch's userspace data path). What a router
	// answers to who asks by way of another router there, which translates, takes
	// more.
	Turns bool
	// Blinks: while devices come and go on a host, a few packets through its
	// tunnels are lost: at most one in eight of a flow. It is so in the userspace
	// data path of Open vSwitch when nothing of ours changes: veth pairs that no
	// bridge has, made and removed every 20 ms in the host's namespace, cost 19 of
	// 1,484 packets of new flows, and its counter drop_action_of_pipeline is 19
	// after it. On one host they cost none of 1,739.
	Blinks bool
	// SYNOnce: TCP that must not arrive is sent once. This is about a program that
	// tests run on, not about contracts: the connection tracking of ovs-vswitchd
	// 3.1.0's own data path ends it with an assertion (lib/conntrack.c:1063) when
	// a connection that was reset is soon tried again.
	SYNOnce bool
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
	h = h.withDefaults()
	t.Run("worlds", func(t *testing.T) { worlds(t, h) })
	t.Run("streams", func(t *testing.T) { streams(t, h) })
	if !h.Alone {
		t.Run("owners", func(t *testing.T) { owners(t, h) })
	}
	t.Run("same", func(t *testing.T) { Same(t, h) })
}

func (h Harness) withDefaults() Harness {
	h.Worlds, h.Seed, h.Packets = cmp.Or(h.Worlds, 24), cmp.Or(h.Seed, 1), cmp.Or(h.Packets, 2000)
	return h
}
