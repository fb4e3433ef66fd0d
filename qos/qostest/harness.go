package qostest

import (
	"testing"

	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/qos"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns a fresh site, removed when t ends. Called once for each case
	// of the contract, and once for all traffic.
	Make func(t testing.TB) Site
	// NoPackets leaves out traffic, for backends that carry none.
	NoPackets bool
	// Only, if not nil, says which traffic cases run: for a platform that is
	// slow and another has passed the whole suite.
	Only func(name string) bool
	// Rates are the limits of bandwidth that are measured, in kbit/s. Nil: 1,
	// 10 and 100 Mbit/s.
	Rates []uint32
	// UplinkKbps is how much the uplinks carry that are competed for. Default
	// 20,000; less where the platform is slow.
	UplinkKbps uint32
}

// Site is one installation with the backend on it: of a host, which per-host
// state is about, or of a cloud.
type Site struct {
	Backend qos.Backend
	// Host is what qos.Port.Host and the like say of the host under test; may be empty.
	Host string
	// Prepare makes what a central platform wants to have before: the ports,
	// networks, gateways and floating IPs of s in the overlay and router. Nil:
	// nothing.
	Prepare func(t testing.TB, s qos.State)
	// Reopen returns a new backend over the same platform, as after a restart
	// of the process.
	Reopen func(t testing.TB) qos.Backend
	// Writes counts what has been written to the platform so far. Nil: the
	// suite does not look.
	Writes func() int
	// Foreign makes things on the platform that look like the backend's but
	// carry another owner, and returns a check that they stand unchanged. Nil:
	// not looked at.
	Foreign func(t testing.TB) (check func(t testing.TB))

	// VM makes a machine on one network that all of these are on, with an
	// address of each family. Its port has that id and is plugged on the host
	// under test, or, when remote, on another host, or wherever frames from the
	// host under test can be received without passing a limit.
	VM func(t testing.TB, id string, remote bool) VM
	// Late is as VM, not remote, but plugs when plug is called. Nil: not looked at.
	Late func(t testing.TB, id string) (vm func() VM)
	// Routed makes a router with a gateway on the host under test, once for a
	// site, and behind it two machines, the first with a floating IP. Nil for
	// backends that limit neither.
	Routed func(t testing.TB) Routed
	// Uplink makes two machines on the host under test that leave it by that
	// uplink, and two that receive on the other side, once for each name. Nil for
	// backends without guarantees.
	Uplink func(t testing.TB, name string) Uplinked
	// Settle waits until the data path does what the backend has written. Nil:
	// it does when calls return.
	Settle func()
}

// VM is a machine.
type VM struct {
	NS     *lab.NS
	PortID string
	V4, V6 string // addresses; V6 may be empty
}

// Routed is a router with machines on both sides.
type Routed struct {
	Gateway    qos.Gateway    // without a shape
	FloatingIP qos.FloatingIP // without a shape
	Floating   VM             // has the floating IP
	Plain      VM             // has none
	Outside    VM             // on the external network
}

// Uplinked is two pairs of machines whose traffic shares an uplink.
type Uplinked struct {
	Name     string // of the uplink
	From, To [2]VM
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("contract", func(t *testing.T) {
		for _, c := range contractCases() {
			t.Run(c.Name, func(t *testing.T) {
				t.Log(c.Says)
				c.run(newBench(t, h.Make(t)))
			})
		}
	})
	if !h.NoPackets {
		RunTraffic(t, h)
	}
}

// Case is a check of the contract.
type Case struct {
	Name string
	Says string // the sentence of the contract
	run  func(*bench)
}
