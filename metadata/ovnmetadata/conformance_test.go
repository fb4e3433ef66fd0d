package ovnmetadata_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/metadatatest"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/ovn"
)

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
	return s
}

// install is the installation as one owner has it.
type install struct {
	s     *site
	owner vnet.Owner
	c     *ovn.Conn
	regs  []*prometheus.Registry
	ch    []*ovn.Chassis
	hosts []*linux.Host
	setup metadatatest.Setup
}

func (s *site) install(t testing.TB, setup metadatatest.Setup) *install {
	ctx := context.Background()
	i := &install{s: s, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1)))), setup: setup}
	i.c = i.dial(t)
	for _, hv := range s.hv {
		ch, err := ovn.OpenChassis(ctx, i.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
		require.NoError(t, err)
		h, err := linux.Open(ctx, i.owner, &linux.Options{Name: hv.ChassisName, Netns: hv.Path, NetnsDir: s.l.NetnsDir()})
		require.NoError(t, err)
		i.ch, i.hosts = append(i.ch, ch), append(i.hosts, h)
	}
	t.Cleanup(func() {
		for n := range i.ch {
			if err := errors.Join(i.ch[n].Cleanup(ctx), i.hosts[n].Cleanup(ctx)); err != nil {
				t.Error(err)
			}
			i.ch[n].Close()
			i.hosts[n].Close()
		}
		c, err := ovn.Dial(ctx, i.owner, strings.Split(s.c.NBEndpoints(), ","), nil)
		require.NoError(t, err)
		defer c.Close()
		if err := c.Cleanup(ctx); err != nil {
			t.Error(err)
		}
	})
	return i
}

func (i *install) dial(t testing.TB) *ovn.Conn {
	reg := prometheus.NewRegistry()
	i.regs = append(i.regs, reg)
	c, err := ovn.Dial(context.Background(), i.owner, strings.Split(i.s.c.NBEndpoints(), ","), &ovn.Options{
		Wait: ovn.WaitHypervisors, Timeout: 60 * time.Second, Metrics: reg})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// agent is a process on a hypervisor.
func (i *install) agent(t testing.TB, n int) *ovnmetadata.Agent {
	sb, err := ovn.Dial(context.Background(), i.owner, nil, &ovn.Options{Southbound: strings.Split(i.s.c.SBEndpoints(), ",")})
	require.NoError(t, err)
	t.Cleanup(func() { sb.Close() })
	a, err := ovnmetadata.NewAgent(sb, i.ch[n], i.hosts[n], &ovnmetadata.AgentOptions{
		Instances: i.setup.Instances, Server: i.setup.Server, Nova: i.setup.Nova, Proxy: i.setup.Proxy, Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	return a
}

// operations is how many this owner has sent.
func (i *install) operations(t testing.TB) int {
	n := 0.0
	for _, reg := range i.regs {
		all, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range all {
			if f.GetName() == "vnet_ovn_operations_total" {
				for _, m := range f.GetMetric() {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return int(n)
}

// whole is a backend with its agents.
type whole struct {
	*ovnmetadata.Backend
	agents []*ovnmetadata.Agent
}

func (w *whole) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(w.agents))
	var wg sync.WaitGroup
	for i, a := range w.agents {
		wg.Go(func() {
			if errs[i] = a.Serve(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (i *install) whole(t testing.TB, c *ovn.Conn) *whole {
	b, err := ovnmetadata.New(c, nil)
	require.NoError(t, err)
	return &whole{b, []*ovnmetadata.Agent{i.agent(t, 0), i.agent(t, 1)}}
}

func (i *install) overlay(t testing.TB, f func(tx *ovn.Tx)) {
	require.NoError(t, i.c.Submit(context.Background(), vnet.PartOverlay, func(tx *ovn.Tx) error { f(tx); return nil }))
}

func (i *install) network(t testing.TB, id string) {
	i.overlay(t, func(tx *ovn.Tx) { ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{Name: i.c.Name("network", id)}) })
}

func (i *install) port(t testing.TB, network, id, address string) {
	i.overlay(t, func(tx *ovn.Tx) {
		r := ovn.Ensure(tx, "port", id, &nbrow.LogicalSwitchPort{Name: i.c.PortName(id), Addresses: []string{address}})
		tx.Hold(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", network), "ports", r.UUID)
	})
}

// plugOn plugs a machine on a chassis.
func (i *install) plugOn(t testing.TB, n int, network, id, netns, device string, mac vnet.MAC) {
	ctx := t.Context()
	i.port(t, network, id, mac.String())
	_, err := i.ch[n].Plug(ctx, ovn.Plug{Part: vnet.PartOverlay, PortID: id, Kind: ovn.DeviceVeth, Name: device, Netns: netns, MAC: mac})
	require.NoError(t, err)
	_, err = i.ch[n].WaitInstalled(ctx, vnet.PartOverlay, id)
	require.NoError(t, err)
}

func TestConformance(t *testing.T) {
	s := newSite(t)
	metadatatest.Run(t, metadatatest.Harness{Make: func(t testing.TB, setup metadatatest.Setup) metadatatest.Host {
		i := s.install(t, setup)
		return metadatatest.Host{
			Metadata: i.whole(t, i.c),
			Reopen:   func(t testing.TB) metadata.Backend { return i.whole(t, i.dial(t)) },
			Writes:   func() int { return i.operations(t) },
			Network:  i.network,
			Plug: func(t testing.TB, network, netns, device string, mac vnet.MAC) {
				n := int(s.n.Add(1)) // one machine here and the next there
				i.plugOn(t, n%2, network, fmt.Sprint("vm-", n), netns, device, mac)
			},
		}
	}})
}
