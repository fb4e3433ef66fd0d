package metadatatest

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns a fresh host with a backend that answers as s says, removed
	// when t ends.
	Make func(t testing.TB, s Setup) Host
	// NoPackets leaves out ring 2, for backends that answer at nothing.
	NoPackets bool
	// Volatile: endpoints are the process's own, so a new backend plans all.
	Volatile bool
}

// Setup is how a backend is to answer.
type Setup struct {
	Instances metadata.Instances
	Server    metadata.ServerOptions
	Nova      *metadata.NovaOptions
	Proxy     metadata.ProxyOptions
}

// Host is one hypervisor with the backend on it.
type Host struct {
	// Metadata is the backend under test. The suite calls Serve.
	Metadata metadata.Backend
	// Reopen returns a new backend over the same platform, as after a restart.
	Reopen func(t testing.TB) metadata.Backend
	// Writes counts objects written so far. Nil: the suite does not look.
	Writes func() int
	// The rest is nil when Harness.NoPackets.

	// Network makes a network, Router (nil unless Features.Router) a router with
	// interfaces.
	Network func(t testing.TB, id string)
	Router  func(t testing.TB, id string, in ...Interface)
	// Plug makes a device with the name and MAC in the network namespace at the
	// path netns and connects it to the network.
	Plug func(t testing.TB, networkID, netns, device string, mac vnet.MAC)
}

// Interface is a router's on a network.
type Interface struct {
	Network   string
	Addresses []netip.Prefix
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("contract", func(t *testing.T) {
		for _, c := range contractCases() {
			t.Run(c.Name, func(t *testing.T) {
				t.Log(c.Says)
				host := h.Make(t, Setup{Instances: &Table{}})
				s, err := metadata.New(host.Metadata, nil)
				if err != nil {
					t.Fatal(err)
				}
				c.run(&bench{T: t, ctx: t.Context(), k: h, h: host, s: s})
			})
		}
	})
	if h.NoPackets {
		return
	}
	t.Run("packets", func(t *testing.T) { runPackets(t, h) })
}

// Case is a check of ring 1.
type Case struct {
	Name string
	Says string // the sentence of the contract
	run  func(*bench)
}

type bench struct {
	*testing.T
	ctx context.Context
	k   Harness
	h   Host
	s   *metadata.Service
}

// Table is [metadata.Instances] as a table, for tests.
type Table struct {
	mu   sync.Mutex
	m    map[metadata.Asker]*metadata.Instance
	down error
}

// Put says who is at a place and address. For a machine's link-local address
// its MAC counts too.
func (x *Table) Put(a metadata.Asker, in *metadata.Instance) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = map[metadata.Asker]*metadata.Instance{}
	}
	x.m[a] = in
}

// Fail makes every lookup fail with err; nil: no more.
func (x *Table) Fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.down = err
}

// Lookup implements [metadata.Instances].
func (x *Table) Lookup(_ context.Context, a metadata.Asker) (*metadata.Instance, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.down != nil {
		return nil, x.down
	}
	if in, ok := x.m[a]; ok {
		return in, nil
	}
	return nil, vnet.ErrNotFound
}
