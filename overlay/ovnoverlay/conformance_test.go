package ovnoverlay_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/overlaytest"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// site is an OVN installation with three chassis on physical network "ex",
// shared by the cases of a test. Each case has an owner of its own.
type site struct {
	l  *lab.Lab
	c  *lab.Central
	hv []*lab.Chassis
	n  atomic.Int32
}

func newSite(t testing.TB, chassis int) *site { return newSiteOf(t, chassis, "geneve") }

func newSiteOf(t testing.TB, chassis int, encap string) *site {
	l := lab.New(t)
	s := &site{l: l, c: l.OVNCentral(nil)}
	var o []lab.ChassisOptions
	for i := range chassis {
		o = append(o, lab.ChassisOptions{Name: fmt.Sprint("hv", i+1), Physical: []string{"ex"}, Encap: encap})
	}
	s.hv = l.Chassis(s.c, o...)
	return s
}

func (s *site) owner() vnet.Owner { return vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1)))) }

func (s *site) dial(t testing.TB, owner vnet.Owner, wait ovn.Wait) *ovn.Conn {
	c, err := ovn.Dial(t.Context(), owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: wait, Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *site) backend(t testing.TB, owner vnet.Owner) *ovnoverlay.Backend {
	b, err := ovnoverlay.New(s.dial(t, owner, ovn.WaitHypervisors), nil)
	require.NoError(t, err)
	return b
}

func (s *site) chassis(t testing.TB, owner vnet.Owner, i int) *ovn.Chassis {
	ch, err := ovn.OpenChassis(t.Context(), owner, s.hv[i].Endpoint, &ovn.ChassisOptions{Netns: s.hv[i].Path})
	require.NoError(t, err)
	t.Cleanup(func() { ch.Close() })
	return ch
}

// writes is the number that the Northbound gave to the last transaction.
func (s *site) writes() (n int) {
	fmt.Sscan(s.c.NBCtl("--bare", "--columns=nb_cfg", "list", "NB_Global"), &n)
	return n
}

func (s *site) hosts(t testing.TB, n int) []overlaytest.Host {
	owner := s.owner()
	var out []overlaytest.Host
	c := s.dial(t, owner, ovn.WaitHypervisors)
	for i := range n {
		ch := s.chassis(t, owner, i)
		p, err := ovnoverlay.NewPlugger(c, ch)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, ch.Cleanup(context.Background())) })
		out = append(out, overlaytest.Host{
			Name: s.hv[i].ChassisName, Endpoint: s.hv[i].EncapIP, Netns: s.hv[i].Path, Overlay: s.backend(t, owner), Plugger: p,
			Reopen: func(t testing.TB) overlay.Backend { return s.backend(t, owner) },
			Writes: s.writes, Foreign: s.foreign,
			Underlay: func(testing.TB) func() [][]byte { return underlay(s.hv[i]) },
		})
	}
	t.Cleanup(func() { require.NoError(t, c.Cleanup(context.Background())) })
	return out
}

// underlay records what crosses the device of the tunnels, but for complaints:
// the kernel of a chassis hears what its switch hears, and sends an ICMP error
// that has the frame in it for tunnelled ones.
func underlay(hv *lab.Chassis) func() [][]byte {
	c := hv.CaptureBoth("tun0")
	return func() (out [][]byte) {
		for _, f := range c.Frames() {
			if f.Proto != lab.ICMP {
				out = append(out, f.Bytes())
			}
		}
		return out
	}
}

// foreign makes networks of another owner and of an administrator.
func (s *site) foreign(t testing.TB) func(testing.TB) {
	mark := func(kind, id string) string {
		return fmt.Sprintf("external_ids:vnet\\:owner=other external_ids:vnet\\:part=overlay external_ids:vnet\\:kind=%s external_ids:vnet\\:id=%s", kind, id)
	}
	args := []string{"ls-add", "other/network/blue", "--", "set", "Logical_Switch", "other/network/blue"}
	args = append(args, strings.Fields(mark("network", "blue"))...)
	args = append(args, "--", "lsp-add", "other/network/blue", "other/blue-0", "--", "lsp-set-addresses", "other/blue-0", "02:00:00:00:00:77 10.0.0.77",
		"--", "set", "Logical_Switch_Port", "other/blue-0")
	args = append(args, strings.Fields(mark("port", "blue-0"))...)
	args = append(args, "--", "ls-add", "blue", "--", "lsp-add", "blue", "blue-0")
	s.c.NBCtl(args...)
	t.Cleanup(func() { s.c.NBCtl("ls-del", "other/network/blue", "--", "ls-del", "blue") })
	look := func() (all string) {
		for _, row := range []string{"Logical_Switch other/network/blue", "Logical_Switch blue", "Logical_Switch_Port other/blue-0", "Logical_Switch_Port blue-0"} {
			f := strings.Fields(row)
			all += s.c.NBCtl("list", f[0], f[1])
		}
		return all
	}
	before := look()
	return func(t testing.TB) { require.Equal(t, before, look()) }
}

// settle waits until all hosts do what is in the Northbound. ovn-controller says
// that it has done a change when ovs-vswitchd has yet to make the patch port to a
// provider's bridge, without which frames go by tunnels.
func (s *site) settle(testing.TB) {
	s.c.WaitHV()
	for _, hv := range s.hv {
		hv.Vsctl("--timeout=30", "set", "Open_vSwitch", ".", "external_ids:settled="+fmt.Sprint(s.n.Add(1))) // waits for ovs-vswitchd
	}
	s.c.WaitHV()
}

func TestConformance(t *testing.T) {
	s := newSite(t, 3)
	overlaytest.Run(t, overlaytest.Harness{PhysicalNetwork: "ex", Worlds: 10, Settle: s.settle,
		Make: func(t testing.TB, n int) []overlaytest.Host { return s.hosts(t, n) }})
}
