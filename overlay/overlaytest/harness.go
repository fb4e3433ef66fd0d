package overlaytest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
)

// Harness is what a backend brings to be tested.
type Harness struct {
	// Make returns n fresh hosts joined by an underlay, removed when t ends.
	// Called once for each case.
	Make func(t testing.TB, n int) []Host
	// NoPackets leaves out rings two and three, for backends that carry none.
	NoPackets bool
	// PhysicalNetwork is the name of a physical network that all hosts are on.
	PhysicalNetwork string
	// Settle returns when all hosts know what stands, on platforms where that
	// takes a while after the call that changed it. Nil: it does not.
	Settle func(t testing.TB)
	// Worlds is how many random topologies are drawn; default 25.
	Worlds int
	// Only, if not nil, says which cases of which ring ("contract", "plugging",
	// "packets", "random") are run, for a backend that runs the suite again in
	// another setting.
	Only func(ring, name string) bool
}

// Host is one hypervisor with the backend on it.
type Host struct {
	Name     string     // as in Port.Host
	Endpoint netip.Addr // its tunnel end, as in RemotePort.Endpoint
	// Overlay is the backend under test. On a central platform all hosts have
	// backends that write to the same place.
	Overlay overlay.Backend
	// Plugger plugs on this host. Nil: Overlay does.
	Plugger overlay.Plugger
	// Reopen returns a new backend over the same platform, as after a restart
	// of the process.
	Reopen func(t testing.TB) overlay.Backend
	// Writes counts what has been written to the platform so far. Nil: the
	// suite cannot see that nothing was written, and does not look.
	Writes func() int
	// Foreign makes things on the platform that look like the backend's but
	// carry another owner, or none, and returns a check that they stand
	// unchanged. Nil: not looked at.
	Foreign func(t testing.TB) (check func(t testing.TB))
	// Netns is the path of the network namespace in which devices are made for
	// kind [overlay.Existing]. Empty when Harness.NoPackets.
	Netns string
	// Underlay starts recording the frames that this host sends and gets on the
	// underlay, and returns a function that says which have been seen. Nil: the
	// suite does not look at what crosses.
	Underlay func(t testing.TB) (seen func() [][]byte)
}

// Case is one check.
type Case struct {
	Name string
	Says string // the sentence of the contract
	// Hosts is how many hosts it takes; zero is one.
	Hosts int
	// Needs are segment types without which the case is about something that
	// the backend refuses.
	Needs []overlay.SegmentType
	// Remote: the case is about hosts being told of each other's ports, which
	// central backends need not be.
	Remote bool
	run    func(*bench)
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	rings := []struct {
		name  string
		cases []Case
	}{{"contract", contractCases()}, {"plugging", pluggingCases()}, {"packets", packetCases()}, {"random", randomCases()}}
	for i, ring := range rings {
		if i >= 2 && h.NoPackets {
			break
		}
		t.Run(ring.name, func(t *testing.T) {
			for _, c := range ring.cases {
				if h.Only != nil && !h.Only(ring.name, c.Name) {
					continue
				}
				t.Run(c.Name, func(t *testing.T) {
					t.Log(c.Says)
					b := newBench(t, h, max(1, c.Hosts))
					f := b.f[0].Features(b.ctx)
					for _, need := range c.Needs {
						if !f.Segments[need] {
							b.refuses(need, f)
							return
						}
					}
					if c.Remote && f.Central {
						return // nothing to tell
					}
					c.run(b)
				})
			}
		})
	}
}

// bench is the hosts of one case, with a fabric over each one's backend.
type bench struct {
	t     *testing.T
	ctx   context.Context
	k     Harness
	hosts []Host
	f     []*overlay.Fabric
	lab   *lab.Lab // of virtual machines; nil without packets
	vms   map[string]*lab.NS
	// plains are the segment ids of plain networks.
	plains map[string]uint32
}

func newBench(t *testing.T, k Harness, n int) *bench {
	b := &bench{t: t, ctx: t.Context(), k: k, hosts: k.Make(t, n), vms: map[string]*lab.NS{}, plains: map[string]uint32{}}
	if len(b.hosts) != n {
		t.Fatalf("the harness made %d hosts, not %d", len(b.hosts), n)
	}
	if !k.NoPackets {
		b.lab = lab.New(t)
	}
	for _, h := range b.hosts {
		b.f = append(b.f, fabric(t, h, h.Overlay))
	}
	return b
}

func fabric(t testing.TB, h Host, o overlay.Backend) *overlay.Fabric {
	t.Helper()
	f, err := overlay.New(o, &overlay.Options{Plugger: h.Plugger})
	require.NoError(t, err)
	return f
}

// reopen starts host i again.
func (b *bench) reopen(i int) *overlay.Fabric {
	b.t.Helper()
	b.f[i] = fabric(b.t, b.hosts[i], b.hosts[i].Reopen(b.t))
	return b.f[i]
}

// refuses checks that networks of a type are refused by name.
func (b *bench) refuses(s overlay.SegmentType, f overlay.Features) {
	b.t.Helper()
	err := b.f[0].EnsureNetwork(b.ctx, b.network("refused", s, 77))
	var u *vnet.UnsupportedError
	require.ErrorAs(b.t, err, &u, "a network of type %s must be refused", s)
	require.NotEmpty(b.t, u.Feature)
	require.Contains(b.t, u.Error(), string(s), "the refusal must name the type")
	require.NotEmpty(b.t, f.Missing[s], "Features must say what would provide %s", s)
	err = b.hosts[0].Overlay.EnsureNetwork(b.ctx, b.network("refused", s, 77))
	require.ErrorIs(b.t, err, vnet.ErrUnsupported, "the backend itself must refuse too")
	p, err := b.f[0].Plan(b.ctx, overlay.State{})
	require.NoError(b.t, err)
	require.True(b.t, p.Empty(), "the refused network left something: %s", p)
}

// network returns a network of a type with a subnet of each family. id is its
// segment id where the type has one.
func (b *bench) network(name string, s overlay.SegmentType, id uint32) overlay.Network {
	n := overlay.Network{ID: name, Segment: overlay.Segment{Type: s}, Subnets: []overlay.Subnet{
		{ID: name + "-4", CIDR: netip.MustParsePrefix("10.0.0.0/16")}, {ID: name + "-6", CIDR: netip.MustParsePrefix("2001:db8:1::/64")}}}
	if s.MaxID() > 0 {
		n.Segment.ID = id
	}
	if s.Physical() {
		n.Segment.PhysicalNetwork = b.k.PhysicalNetwork
	}
	return n
}

// plain returns a network of no special kind: one that stays on the host, or a
// tunnelled one where networks span hosts.
func (b *bench) plain(name string) overlay.Network {
	if b.f[0].Features(b.ctx).Segments[overlay.Local] {
		return b.network(name, overlay.Local, 0)
	}
	if b.plains[name] == 0 {
		b.plains[name] = uint32(1000 + len(b.plains))
	}
	return b.network(name, b.tunnelled(), b.plains[name])
}

// supports reports whether the backend says that it can make n.
func (b *bench) supports(n overlay.Network) bool {
	f, ask := b.f[0].Features(b.ctx), n.Flooding
	return f.Segments[n.Segment.Type] && (f.Flooding.Broadcast || !ask.Broadcast) && (f.Flooding.UnknownUnicast || !ask.UnknownUnicast) &&
		(f.Flooding.NoMulticast || !ask.NoMulticast)
}

// tunnelled is a type of network that hosts share, preferably a tunnel.
func (b *bench) tunnelled() overlay.SegmentType {
	f := b.f[0].Features(b.ctx)
	for _, s := range []overlay.SegmentType{overlay.VXLAN, overlay.Geneve, overlay.VLAN} {
		if f.Segments[s] {
			return s
		}
	}
	b.t.Fatal("the backend has no segment type with ids")
	return ""
}

// port returns port number n of a network, with an address of each family.
func port(id, network string, n int) overlay.Port {
	return overlay.Port{ID: id, NetworkID: network, MAC: mac(n), FixedIPs: ips(n)}
}

func mac(n int) vnet.MAC { return vnet.MAC{0x02, 0x5e, 0x10, 0, byte(n >> 8), byte(n)} }

func ips(n int) []netip.Addr { return []netip.Addr{ip4(n), ip6(n)} }

func ip4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func ip6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", n)) }

// remote is what another host is told of p.
func remote(p overlay.Port, at Host) overlay.RemotePort {
	return overlay.RemotePort{ID: p.ID, NetworkID: p.NetworkID, MAC: p.MAC, IPs: p.FixedIPs, Endpoint: at.Endpoint}
}

// silent checks that f writes nothing on any host.
func (b *bench) silent(what string, f func()) {
	b.t.Helper()
	var before []int
	for _, h := range b.hosts {
		if h.Writes != nil {
			before = append(before, h.Writes())
		}
	}
	f()
	for i, h := range b.hosts {
		if h.Writes != nil {
			require.Equal(b.t, before[i], h.Writes(), "%s wrote something on %s", what, h.Name)
		}
	}
}

func (b *bench) ok(err error) {
	b.t.Helper()
	require.NoError(b.t, err)
}

// planned checks that f has nothing to do to come to s.
func (b *bench) planned(f *overlay.Fabric, s overlay.State) {
	b.t.Helper()
	p, err := f.Plan(b.ctx, s)
	require.NoError(b.t, err)
	require.True(b.t, p.Empty(), "the plan should be empty:\n%s", p)
}

// brief is the plan of f to s: verb, kind and id of each change.
func (b *bench) brief(f *overlay.Fabric, s overlay.State) []string {
	b.t.Helper()
	p, err := f.Plan(b.ctx, s)
	require.NoError(b.t, err)
	out := []string{}
	for _, c := range p.Changes {
		require.Equal(b.t, vnet.PartOverlay, c.Part)
		out = append(out, fmt.Sprintf("%s %s %s", c.Verb, c.Kind, c.ID))
	}
	return out
}

// ensure makes every object of s by itself.
func (b *bench) ensure(f *overlay.Fabric, s overlay.State) {
	b.t.Helper()
	for _, n := range s.Networks {
		b.ok(f.EnsureNetwork(b.ctx, n))
	}
	for _, p := range s.Ports {
		b.ok(f.EnsurePort(b.ctx, p))
	}
	for _, p := range s.RemotePorts {
		b.ok(f.EnsureRemotePort(b.ctx, p))
	}
}

func (b *bench) sync(f *overlay.Fabric, s overlay.State) {
	b.t.Helper()
	b.ok(f.Sync(b.ctx, s, vnet.SyncOptions{}))
}

// vm returns the namespace of a virtual machine, made at the first call.
func (b *bench) vm(name string) *lab.NS {
	b.t.Helper()
	if b.vms[name] == nil {
		b.vms[name] = b.lab.NS(name)
	}
	return b.vms[name]
}

// netns is the path of a virtual machine's namespace; of one that is not there
// when backends carry no packets.
func (b *bench) netns(name string) string {
	if b.lab == nil {
		return "/run/netns/" + name
	}
	return b.vm(name).Path
}

func (b *bench) veth(portID string) overlay.Attachment {
	return overlay.Attachment{PortID: portID, Kind: overlay.Veth, Name: "eth0", Netns: b.netns(portID)}
}

func isField(err error, field string) bool {
	var errs []error
	switch e := err.(type) {
	case nil:
		return false
	case *vnet.FieldError:
		return e.Field == field
	case interface{ Unwrap() []error }:
		errs = e.Unwrap()
	default:
		errs = []error{errors.Unwrap(err)}
	}
	for _, e := range errs {
		if isField(e, field) {
			return true
		}
	}
	return false
}
