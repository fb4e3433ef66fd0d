package ovsoverlay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
	"github.com/vnet-go/vnet/overlay/ovsoverlay"
	"github.com/vnet-go/vnet/ovs"
)

// site is hosts with Open vSwitch that all cases of a test use, each with an
// owner of its own.
type site struct {
	l        *lab.Lab
	sw       []*lab.Switch
	datapath string
	n        int
	last     []*host // of the case at work
}

// settle waits until packets meet the flows that stand.
func (s *site) settle(t testing.TB) {
	t.Helper()
	for _, h := range s.last {
		if h.sw.Vswitchd.Running() {
			require.NoError(t, h.open[0].Settle(context.Background()))
		}
	}
}

func newSite(t *testing.T, hosts int, datapath string) *site {
	s := &site{l: lab.New(t), datapath: datapath}
	var o []lab.SwitchOptions
	for i := range hosts {
		o = append(o, lab.SwitchOptions{Name: fmt.Sprintf("h%d", i+1), Physical: []string{"ex"}, Datapath: datapath})
	}
	s.sw = s.l.Switches(o...)
	return s
}

// host is a switch and the handles opened on it, one a process life.
type host struct {
	sw    *lab.Switch
	owner vnet.Owner
	o     ovs.Options

	mu   sync.Mutex
	open []*ovs.Switch
}

func (h *host) handle(t testing.TB) *ovs.Switch {
	t.Helper()
	s, err := ovs.Open(context.Background(), h.owner, &h.o)
	require.NoError(t, err)
	h.mu.Lock()
	h.open = append(h.open, s)
	h.mu.Unlock()
	return s
}

func (h *host) backend(t testing.TB) *ovsoverlay.Backend {
	t.Helper()
	b, err := ovsoverlay.New(h.handle(t), nil)
	require.NoError(t, err)
	return b
}

func (h *host) writes() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.open {
		n += int(s.Writes())
	}
	return n
}

func (s *site) hosts(t testing.TB, n int) (out []*host) {
	s.n++
	owner := vnet.Owner(s.l.Owner(fmt.Sprintf("o%d", s.n)))
	for _, sw := range s.sw[:n] {
		h := &host{sw: sw, owner: owner, o: ovs.Options{Name: sw.Short, Timeout: lab.Patience(30 * time.Second), Database: sw.Endpoint, Control: sw.Vswitchd.Ctl, Netns: sw.Path, DatapathType: s.datapath,
			TunnelIP: sw.EncapIP, PhysicalNetworks: map[string]string{"physnet": sw.Mappings["ex"]}}}
		t.Cleanup(func() {
			if err := h.handle(t).Cleanup(context.Background()); err != nil {
				t.Errorf("cleanup of %s: %v", sw.Short, err)
			}
			for _, s := range h.open {
				s.Close()
			}
		})
		out = append(out, h)
	}
	s.last = out
	return out
}

func (s *site) harness() overlaytest.Harness {
	return overlaytest.Harness{PhysicalNetwork: "physnet", Make: func(t testing.TB, n int) (out []overlaytest.Host) {
		hosts := s.hosts(t, n)
		for _, h := range hosts {
			out = append(out, overlaytest.Host{Name: h.o.Name, Endpoint: h.o.TunnelIP, Netns: h.sw.Path, Overlay: h.backend(t), Writes: h.writes,
				Reopen:   func(t testing.TB) overlay.Backend { return h.backend(t) },
				Foreign:  h.foreign,
				Underlay: h.underlay,
			})
		}
		return out
	}, Settle: func(t testing.TB) { s.settle(t) }}
}

// underlay records what crosses the host's tunnels.
func (h *host) underlay(testing.TB) func() [][]byte {
	c := h.sw.CaptureBoth("tun0")
	return func() (out [][]byte) {
		for _, f := range c.Frames() {
			if f.Proto != lab.ICMP { // a host's own stack hears of tunnels too, before br-phy knows who is where, and complains
				out = append(out, f.Bytes())
			}
		}
		return out
	}
}

// foreign makes a bridge of another owner with the same things, one of
// nobody's, and flows of nobody's in ours.
func (h *host) foreign(t testing.TB) func(testing.TB) {
	other := &host{sw: h.sw, owner: h.owner + "x", o: h.o}
	s := other.handle(t)
	b, err := ovsoverlay.New(s, nil)
	require.NoError(t, err)
	f, err := overlay.New(b, nil)
	require.NoError(t, err)
	require.NoError(t, f.EnsureNetwork(t.Context(), overlay.Network{ID: "blue", Segment: overlay.Segment{Type: overlay.Local}}))
	require.NoError(t, f.EnsurePort(t.Context(), overlay.Port{ID: "blue-0", NetworkID: "blue", MAC: vnet.MAC{2, 5: 9}}))
	h.sw.Vsctl("--may-exist", "add-br", "br-else", "--", "set", "Bridge", "br-else", "datapath_type="+h.o.DatapathType)
	ours := h.open[0].Bridge()
	h.sw.Ofctl("add-flow", ours, "table=60,priority=7,reg1=0x3ffe,actions=drop")
	look := func(t testing.TB) (out string) {
		for _, br := range []string{s.Bridge(), "br-else", "br-phy"} {
			for l := range strings.Lines(h.sw.Ofctl("dump-flows", br, "--no-stats")) {
				if strings.Contains(l, "actions=") {
					out += br + ": " + l
				}
			}
		}
		for l := range strings.Lines(h.sw.Ofctl("dump-flows", ours, "--no-stats")) {
			if strings.Contains(l, "reg1=0x3ffe") {
				out += l
			}
		}
		return out + h.sw.Vsctl("--columns=name,external_ids,fail_mode", "list", "Bridge", "br-else", s.Bridge())
	}
	before := look(t)
	require.Contains(t, before, "reg1=0x3ffe")
	t.Cleanup(func() {
		h.sw.Vsctl("del-br", "br-else")
		require.NoError(t, s.Cleanup(context.Background()))
		s.Close()
	})
	return func(t testing.TB) { require.Equal(t, before, look(t)) }
}

func TestConformance(t *testing.T) { overlaytest.Run(t, newSite(t, 3, "netdev").harness()) }

// The same with the kernel's datapath, which is in the guest.
func TestGuestConformance(t *testing.T) {
	if lab.RanInGuest(t, "openvswitch") {
		return
	}
	h := newSite(t, 3, "system").harness()
	// An emulated processor is slow.
	h.Only = func(ring, name string) bool {
		return ring == "packets" && slices.Contains([]string{"answers", "MTU", "born closed", "traffic flows on", "VLAN network"}, name)
	}
	overlaytest.Run(t, h)
}
