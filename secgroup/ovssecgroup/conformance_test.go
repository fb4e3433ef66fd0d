package ovssecgroup_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovssecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

// machine is a host with Open vSwitch and the handles opened on it, one a
// process life.
type machine struct {
	*lab.Switch
	owner vnet.Owner
	o     ovs.Options

	mu      sync.Mutex
	handles []*ovs.Switch
}

func (m *machine) open(t testing.TB) *ovs.Switch {
	t.Helper()
	sw, err := ovs.Open(context.Background(), m.owner, &m.o)
	require.NoError(t, err)
	m.mu.Lock()
	m.handles = append(m.handles, sw)
	m.mu.Unlock()
	return sw
}

func (m *machine) backend(t testing.TB) *ovssecgroup.Backend {
	t.Helper()
	b, err := ovssecgroup.New(m.open(t), nil)
	require.NoError(t, err)
	return b
}

func (m *machine) writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, sw := range m.handles {
		n += int(sw.Writes())
	}
	return n
}

func machines(t testing.TB, n int, datapath string) []*machine {
	t.Helper()
	l := lab.New(t)
	var hosts []lab.SwitchOptions
	for i := range n {
		hosts = append(hosts, lab.SwitchOptions{Name: fmt.Sprintf("h%d", i+1), Datapath: datapath})
	}
	owner := vnet.Owner(l.Owner("s"))
	var out []*machine
	for _, sw := range l.Switches(hosts...) {
		m := &machine{Switch: sw, owner: owner, o: ovs.Options{
			Name: sw.Short, Database: sw.Endpoint, RunDir: sw.Dir, Control: sw.Vswitchd.Ctl, Netns: sw.Path, TunnelIP: sw.EncapIP, DatapathType: datapath,
			Timeout: lab.Patience(30 * time.Second)}}
		out = append(out, m)
		t.Cleanup(func() {
			h := m.open(t)
			if err := h.Cleanup(context.Background()); err != nil {
				t.Errorf("cleanup of %s: %v", m.o.Name, err)
			}
			for _, h := range m.handles {
				h.Close()
			}
		})
	}
	return out
}

func harness(datapath string) secgrouptest.Harness {
	var now []*ovs.Switch
	return secgrouptest.Harness{
		Limits: secgrouptest.Limits{ICMPCodes: datapath == "netdev"},
		// What the datapath keeps of flows that were follows a moment after.
		Settle: func() {
			for _, sw := range now {
				_ = sw.Settle(context.Background())
			}
		},
		Make: func(t testing.TB, n int) []secgrouptest.Host {
			var out []secgrouptest.Host
			now = nil
			for _, m := range machines(t, n, datapath) {
				sw := m.open(t)
				now = append(now, sw)
				sg, err := ovssecgroup.New(sw, nil)
				require.NoError(t, err)
				ov, err := ovsoverlay.New(sw, nil)
				require.NoError(t, err)
				out = append(out, secgrouptest.Host{
					Name: m.o.Name, Endpoint: m.EncapIP, SecGroup: sg, Overlay: ov,
					Reopen: func(t testing.TB) secgroup.Backend { return m.backend(t) },
					Writes: m.writes,
					Foreign: func(t testing.TB) func(testing.TB) {
						// Of another owner in a bridge of its own, and of nobody in ours.
						other, err := ovs.Open(context.Background(), m.owner+"2", &m.o)
						require.NoError(t, err)
						t.Cleanup(func() {
							require.NoError(t, other.Cleanup(context.Background()))
							other.Close()
						})
						b, err := ovssecgroup.New(other, nil)
						require.NoError(t, err)
						require.NoError(t, b.Sync(context.Background(), small(), vnet.SyncOptions{}))
						m.Ofctl("add-flow", sw.Bridge(), "table=13,priority=50,reg2=0x7777,actions=drop")
						m.Ofctl("add-flow", sw.Bridge(), "table=73,cookie=0x1234567812345678,priority=60,ip,reg6=0x7777,actions=drop")
						look := func() string {
							return m.Ofctl("dump-flows", other.Bridge(), "--no-stats") + m.Ofctl("dump-flows", sw.Bridge(), "cookie=0/-1", "--no-stats") +
								m.Ofctl("dump-flows", sw.Bridge(), "cookie=0x1234567812345678/-1", "--no-stats")
						}
						before := look()
						require.Equal(t, 2, strings.Count(before, "0x7777"))
						return func(t testing.TB) { require.Equal(t, before, look()) }
					},
				})
			}
			return out
		},
	}
}

func TestConformance(t *testing.T) {
	secgrouptest.Run(t, harness("netdev"))
}

func small() secgroup.State {
	return secgroup.State{Groups: []secgroup.Group{secgroup.DefaultGroup("default")},
		Ports: []secgroup.Port{testPort(1, "", "default"), testPort(2, "far", "default")}}
}

func testPort(n int, host string, groups ...string) secgroup.Port {
	return secgroup.Port{ID: fmt.Sprintf("port-%06d", n), NetworkID: "net", MAC: [6]byte{2, 0x5e, 1, byte(n >> 16), byte(n >> 8), byte(n)},
		FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})},
		Groups:   groups, Host: host}.Canonical()
}

// TestGuestKernelDatapath runs the packets of the suite on the kernel's data path.
func TestGuestKernelDatapath(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	h := harness("system")
	// An emulated processor is slow.
	h.Only = func(name string) bool {
		return slices.Contains([]string{"rule remote group of another host in, IPv6", "related errors", "stateless beside stateful", "rule removed", "member left a remote group", "sockets"}, name)
	}
	secgrouptest.RunPackets(t, h)
}
