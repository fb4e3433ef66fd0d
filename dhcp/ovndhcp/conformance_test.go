package ovndhcp_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/dhcptest"
	"github.com/vnet-go/vnet/dhcp/ovndhcp"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/internal/nbrow"
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

// settle empties the caches of the data paths, which follow the flows a moment
// later by themselves.
func (s *site) settle() {
	for _, hv := range s.hv {
		hv.Exec("ovs-appctl", "revalidator/purge")
	}
}

// Down to the flows that ovn-northd has made.
func TestExplainFlows(t *testing.T) {
	s := newSite(t)
	i := s.install(t)
	c, err := ovn.Dial(t.Context(), i.owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: ovn.WaitNorthd, Timeout: 60 * time.Second})
	require.NoError(t, err)
	defer c.Close()
	b, err := ovndhcp.New(c, nil)
	require.NoError(t, err)
	r := dhcp.Reservation{ID: "p1", NetworkID: "net", MAC: vnet.MustParseMAC("02:00:00:00:00:01"), IPs: []netip.Addr{addr("10.0.0.11")}}
	i.port(t, r)
	require.NoError(t, b.Sync(t.Context(), dhcp.State{Scopes: []dhcp.Scope{web.Canonical()}, Reservations: []dhcp.Reservation{r}}, vnet.SyncOptions{}))
	x, err := b.Explain(t.Context(), "reservation", "p1")
	require.NoError(t, err)
	require.Contains(t, x.String(), "ls_in_dhcp_options, priority 100: inport == ")
}

// install is the installation as one owner has it.
type install struct {
	s     *site
	owner vnet.Owner
	c     *ovn.Conn
	regs  []*prometheus.Registry
	ch    []*ovn.Chassis

	mu    sync.Mutex
	ports map[string]string // by network and MAC
	plugs map[string]*ovn.Chassis
}

func (s *site) install(t testing.TB) *install {
	i := &install{s: s, owner: vnet.Owner(s.l.Owner(fmt.Sprint("o", s.n.Add(1)))), ports: map[string]string{}, plugs: map[string]*ovn.Chassis{}}
	i.c = i.dial(t)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, ch := range i.ch {
			if err := ch.Cleanup(ctx); err != nil {
				t.Error(err)
			}
			ch.Close()
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

func (i *install) host(t testing.TB) dhcptest.Host {
	b, err := ovndhcp.New(i.c, nil)
	require.NoError(t, err)
	return dhcptest.Host{
		Name: "hv1", DHCP: b, Writes: func() int { return i.operations(t) },
		Reopen: func(t testing.TB) dhcp.Backend {
			b, err := ovndhcp.New(i.dial(t), nil)
			require.NoError(t, err)
			return b
		},
		Network: i.network, RemoveNetwork: i.removeNetwork, Plug: i.plug, Port: i.port, RemovePort: i.removePort,
		Settle: i.s.settle,
	}
}

func (i *install) overlay(t testing.TB, f func(tx *ovn.Tx)) {
	require.NoError(t, i.c.Submit(context.Background(), vnet.PartOverlay, func(tx *ovn.Tx) error { f(tx); return nil }))
}

func (i *install) network(t testing.TB, id string) {
	i.overlay(t, func(tx *ovn.Tx) { ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{Name: i.c.Name("network", id)}) })
}

func (i *install) removeNetwork(t testing.TB, id string) {
	i.overlay(t, func(tx *ovn.Tx) { tx.Delete(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", id)) })
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := range i.ports {
		if strings.HasPrefix(k, id+"/") {
			delete(i.ports, k)
		}
	}
}

// put makes a port of the overlay with its addresses.
func (i *install) put(t testing.TB, network, id, address string) {
	i.overlay(t, func(tx *ovn.Tx) {
		r := ovn.Ensure(tx, "port", id, &nbrow.LogicalSwitchPort{Name: i.c.PortName(id)})
		row := ovn.At[nbrow.LogicalSwitchPort](tx, r.UUID)
		tx.Hold(ovn.Find[nbrow.LogicalSwitch](tx, vnet.PartOverlay, "network", network), "ports", r.UUID)
		tx.Members(row, "addresses", []string{address}, slices.DeleteFunc(slices.Clone(row.Addresses), func(s string) bool { return s == address }))
	})
}

func (i *install) port(t testing.TB, r dhcp.Reservation) {
	i.network(t, r.NetworkID)
	i.mu.Lock()
	id, ok := i.ports[r.NetworkID+"/"+r.MAC.String()]
	if !ok {
		id = r.ID
		i.ports[r.NetworkID+"/"+r.MAC.String()] = id
	}
	i.mu.Unlock()
	a := r.MAC.String()
	for _, ip := range r.IPs {
		a += " " + ip.String()
	}
	i.put(t, r.NetworkID, id, a)
}

func (i *install) removePort(t testing.TB, r dhcp.Reservation) {
	i.mu.Lock()
	id := i.ports[r.NetworkID+"/"+r.MAC.String()]
	delete(i.ports, r.NetworkID+"/"+r.MAC.String())
	i.mu.Unlock()
	i.overlay(t, func(tx *ovn.Tx) { tx.Delete(ovn.Find[nbrow.LogicalSwitchPort](tx, vnet.PartOverlay, "port", id)) })
}

// plug puts one machine on the one chassis and the next on the other.
func (i *install) plug(t testing.TB, network, netns, device string, mac vnet.MAC) {
	ctx := t.Context()
	if i.ch == nil {
		for _, hv := range i.s.hv {
			ch, err := ovn.OpenChassis(context.Background(), i.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
			require.NoError(t, err)
			i.ch = append(i.ch, ch)
		}
	}
	n := i.s.n.Add(1)
	id := fmt.Sprint("plugged-", n)
	i.mu.Lock()
	i.ports[network+"/"+mac.String()] = id
	i.mu.Unlock()
	i.put(t, network, id, mac.String())
	ch := i.ch[int(n)%len(i.ch)]
	_, err := ch.Plug(ctx, ovn.Plug{Part: vnet.PartOverlay, PortID: id, Kind: ovn.DeviceVeth, Name: device, Netns: netns, MAC: mac})
	require.NoError(t, err)
	_, err = ch.WaitInstalled(ctx, vnet.PartOverlay, id)
	require.NoError(t, err)
}

func TestConformance(t *testing.T) {
	s := newSite(t)
	dhcptest.Run(t, dhcptest.Harness{Make: func(t testing.TB) dhcptest.Host { return s.install(t).host(t) }})
}
