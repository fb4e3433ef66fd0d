package ovnsecgroup_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/ovnsecgroup"
	"github.com/vnet-go/vnet/secgroup/secgrouptest"
)

var draws = flag.Int("draws", 20, "how many random states")

// site is one OVN installation with two chassis, shared by the cases of a test.
type site struct {
	l  *lab.Lab
	c  *lab.Central
	hv []*lab.Chassis
	n  atomic.Int32
}

func newSite(t testing.TB) *site {
	l := lab.New(t)
	s := &site{l: l, c: l.OVNCentral(nil)}
	s.hv = l.Chassis(s.c, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
	t.Cleanup(func() {
		for _, hv := range s.hv {
			log, err := os.ReadFile(hv.OVNController.Log)
			require.NoError(t, err)
			for _, l := range strings.Split(string(log), "\n") {
				if strings.Contains(l, "error parsing") {
					t.Errorf("%s: %s", hv.ChassisName, l)
				}
			}
		}
	})
	// The first packets through a tunnel are lost while its far end is resolved.
	s.c.NBCtl("ls-add", "warm", "--", "lsp-add", "warm", "w1", "--", "lsp-add", "warm", "w2",
		"--", "lsp-set-addresses", "w1", "02:00:00:00:00:01 10.9.9.1", "--", "lsp-set-addresses", "w2", "02:00:00:00:00:02 10.9.9.2")
	var ends []*lab.NS
	for i, hv := range s.hv {
		m := mac(i + 1)
		m[0], m[1] = 2, 0
		ends = append(ends, hv.VM(fmt.Sprint("w", i+1), m.String(), fmt.Sprintf("10.9.9.%d/24", i+1)))
	}
	require.Eventually(t, func() bool { return ends[0].Ping("10.9.9.2", 1) == nil }, time.Minute, 50*time.Millisecond)
	return s
}

// settle empties the caches of the data paths, which follow the tables a
// moment later by themselves: waiting for that takes half a second each.
func (s *site) settle() {
	for _, hv := range s.hv {
		hv.Exec("ovs-appctl", "revalidator/purge")
	}
}

func mac(n int) vnet.MAC { return vnet.MAC{0, 0, 0, 0, byte(n >> 8), byte(n)} }

// install is the installation as one owner has it.
type install struct {
	s     *site
	owner vnet.Owner
	c     *ovn.Conn

	mu   sync.Mutex
	regs []*prometheus.Registry
}

func (s *site) install(t testing.TB) *install {
	i := &install{s: s, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1))))}
	i.c = i.dial(t)
	return i
}

func (i *install) dial(t testing.TB) *ovn.Conn {
	reg := prometheus.NewRegistry()
	i.mu.Lock()
	i.regs = append(i.regs, reg)
	i.mu.Unlock()
	c, err := ovn.Dial(context.Background(), i.owner, strings.Split(i.s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(i.s.c.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: 60 * time.Second, Metrics: reg})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (i *install) backend(t testing.TB) secgroup.Backend {
	b, err := ovnsecgroup.New(i.dial(t), nil)
	require.NoError(t, err)
	return b
}

// operations is how many this owner has sent.
func (i *install) operations() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0.0
	for _, reg := range i.regs {
		n += counted(reg, "vnet_ovn_operations_total")
	}
	return int(n)
}

func counted(reg *prometheus.Registry, name string) float64 {
	n := 0.0
	all, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func (i *install) hosts(t testing.TB, n int) []secgrouptest.Host {
	sg, err := ovnsecgroup.New(i.c, nil)
	require.NoError(t, err)
	var out []secgrouptest.Host
	ov, err := ovnoverlay.New(i.c, nil)
	require.NoError(t, err)
	var plugs []*ovn.Chassis
	for _, hv := range i.s.hv[:n] {
		ch, err := ovn.OpenChassis(context.Background(), i.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
		require.NoError(t, err)
		p, err := ovnoverlay.NewPlugger(i.c, ch)
		require.NoError(t, err)
		plugs = append(plugs, ch)
		out = append(out, secgrouptest.Host{
			Name: hv.ChassisName, SecGroup: sg, Overlay: host{ov, p}, Writes: i.operations,
			Reopen:  func(t testing.TB) secgroup.Backend { return i.backend(t) },
			Foreign: i.s.foreign,
		})
	}
	t.Cleanup(func() {
		ctx := context.Background()
		for _, ch := range plugs {
			list, err := ch.Plugged(ctx)
			if err != nil {
				t.Error(err)
			}
			for _, d := range list {
				if err := ch.Unplug(ctx, vnet.PartOverlay, d.PortID); err != nil {
					t.Error(err)
				}
			}
			ch.Close()
		}
		if err := sg.Sync(ctx, secgroup.State{}, vnet.SyncOptions{Force: true}); err != nil {
			t.Error(err)
		}
		for _, table := range []string{"Port_Group", "Address_Set", "ACL", "Meter"} {
			if left := i.s.c.NBCtl("--bare", "--columns=external_ids", "find", table, "external_ids:vnet\\:owner="+string(i.owner), "external_ids:vnet\\:part=secgroup"); strings.TrimSpace(left) != "" {
				t.Errorf("left in %s: %s", table, left)
			}
		}
		if err := ov.Sync(ctx, overlay.State{}, vnet.SyncOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	return out
}

// foreign makes rows that look like ours.
func (s *site) foreign(t testing.TB) func(testing.TB) {
	s.c.NBCtl("pg-add", "vnet.x.group.web", "--", "acl-add", "vnet.x.group.web", "to-lport", "1002", "outport == @vnet.x.group.web && ip4", "drop",
		"--", "set", "Port_Group", "vnet.x.group.web", "external_ids:vnet\\:owner=x", "external_ids:vnet\\:part=secgroup", "external_ids:vnet\\:kind=group", "external_ids:vnet\\:id=web",
		"--", "create", "Address_Set", "name=vnet.x.members.web_ip4", "addresses=10.0.0.1",
		"--", "create", "Meter", "name=x", "unit=pktps", "bands=@b", "--", "--id=@b", "create", "Meter_Band", "action=drop", "rate=1")
	look := func() string {
		var all string
		for _, name := range []string{"Port_Group vnet.x.group.web", "Address_Set vnet.x.members.web_ip4", "Meter x"} {
			f := strings.Fields(name)
			all += s.c.NBCtl("list", f[0], f[1])
		}
		return all + s.c.NBCtl("acl-list", "vnet.x.group.web")
	}
	before := look()
	t.Cleanup(func() {
		s.c.NBCtl("pg-del", "vnet.x.group.web", "--", "destroy", "Address_Set", "vnet.x.members.web_ip4", "--", "meter-del", "x")
	})
	return func(t testing.TB) { require.Equal(t, before, look()) }
}

// host is the overlay with the plugging of one host.
type host struct {
	overlay.Backend
	overlay.Plugger
}

func harness(s *site) secgrouptest.Harness {
	return secgrouptest.Harness{
		Central: true, Segment: overlay.Geneve, Slow: true, Draws: *draws,
		Limits: secgrouptest.Limits{OpenerEnds: true, RouterAdvertisements: true, ICMPCodes: true, Fragments: true, OwnAddressesOnly: true},
		Settle: s.settle,
		Make:   func(t testing.TB, n int) []secgrouptest.Host { return s.install(t).hosts(t, n) },
	}
}

func TestConformance(t *testing.T) {
	secgrouptest.Run(t, harness(newSite(t)))
}
