package ovnqos_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/nbrow"
	"github.com/vnet-go/vnet/internal/ovsdb/ovsdbtest"
	"github.com/vnet-go/vnet/ovn"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/ovnqos"
	"github.com/vnet-go/vnet/qos/qostest"
)

// databases are those of an installation without a northd, with one chassis on
// the kernel's data path.
type databases struct {
	nb, sb *ovsdbtest.Server
	mu     sync.Mutex
	n      int
}

func newDatabases(t testing.TB) *databases {
	d := &databases{nb: ovsdbtest.New(t, ovsdbtest.NB), sb: ovsdbtest.New(t, ovsdbtest.SB)}
	d.sb.Run("ovn-sbctl", "--db="+d.sb.Endpoint(), "--id=@e", "create", "Encap", "type=geneve", "ip=192.0.2.9", "chassis_name=hv1",
		"--", "create", "Chassis", "name=hv1", "hostname=hv1", "encaps=@e", "other_config:datapath-type=system")
	return d
}

// owner is one owner's view, which counts what it sends.
type owner struct {
	d    *databases
	name vnet.Owner
	c    *ovn.Conn
	regs []*prometheus.Registry
}

func (d *databases) owner(t testing.TB) *owner {
	d.mu.Lock()
	d.n++
	o := &owner{d: d, name: vnet.Owner(fmt.Sprint("o", d.n))}
	d.mu.Unlock()
	o.c = o.dial(t)
	return o
}

func (o *owner) dial(t testing.TB) *ovn.Conn {
	reg := prometheus.NewRegistry()
	o.regs = append(o.regs, reg)
	c, err := ovn.Dial(t.Context(), o.name, []string{o.d.nb.Endpoint()}, &ovn.Options{Southbound: []string{o.d.sb.Endpoint()}, Metrics: reg})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func backend(t testing.TB, c *ovn.Conn) *ovnqos.Backend {
	b, err := ovnqos.New(c, &ovnqos.Options{Shares: true, Meters: func(context.Context) ([]ovnqos.Meter, error) { return nil, nil }})
	require.NoError(t, err)
	return b
}

func (o *owner) operations() int {
	n := 0.0
	for _, reg := range o.regs {
		all, err := reg.Gather()
		if err != nil {
			panic(err)
		}
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

// ports makes ports on network N, and external networks.
func ports(t testing.TB, to ovn.Target, s qos.State) {
	t.Helper()
	require.NoError(t, to.Submit(t.Context(), vnet.PartOverlay, func(tx *ovn.Tx) error {
		network := func(id string) *nbrow.LogicalSwitch {
			r := ovn.Ensure(tx, "network", id, &nbrow.LogicalSwitch{Name: tx.Conn().Name("network", id)})
			return ovn.At[nbrow.LogicalSwitch](tx, r.UUID)
		}
		sw := network("N")
		for _, p := range s.Ports {
			r := ovn.Ensure(tx, "port", p.ID, &nbrow.LogicalSwitchPort{Name: tx.Conn().PortName(p.ID)})
			tx.Hold(sw, "ports", r.UUID)
		}
		for _, g := range s.Gateways {
			network(g.NetworkID)
		}
		for _, f := range s.FloatingIPs {
			network(f.NetworkID)
		}
		return nil
	}))
}

// foreign makes rows of nobody and of another owner, which look like ours.
func (o *owner) foreign(t testing.TB) func(testing.TB) {
	nbctl := func(args ...string) string {
		return o.d.nb.Run("ovn-nbctl", append([]string{"--db=" + o.d.nb.Endpoint()}, args...)...)
	}
	sw := strings.TrimSpace(nbctl("--bare", "--columns=name", "find", "Logical_Switch", "name="+string(o.name)+"/network/N"))
	id := func(owner string) string {
		return `external_ids={"vnet:owner"=` + owner + `,"vnet:part"=qos,"vnet:kind"=port,"vnet:id"="p1/egress"}`
	}
	nbctl("--id=@a", "create", "QoS", "priority=2002", "direction=from-lport", "match=ip4", "bandwidth:rate=5", id("another"),
		"--", "--id=@b", "create", "QoS", "priority=2002", "direction=from-lport", "match=ip6", "bandwidth:rate=5",
		"--", "add", "Logical_Switch", sw, "qos_rules", "@a", "@b",
		"--", "--id=@c", "create", "Meter_Band", "action=drop", "rate=7", "--", "create", "Meter", "name=x"+string(o.name), "unit=kbps", "bands=@c", id("another"))
	look := func() string {
		return nbctl("find", "QoS", "match=ip4") + nbctl("find", "QoS", "match=ip6") + nbctl("find", "Meter", "name=x"+string(o.name))
	}
	was := look()
	return func(t testing.TB) {
		require.Equal(t, was, look())
	}
}

func TestContract(t *testing.T) {
	d := newDatabases(t)
	qostest.Run(t, qostest.Harness{NoPackets: true, Make: func(t testing.TB) qostest.Site {
		o := d.owner(t)
		return qostest.Site{Backend: backend(t, o.c), Host: "hv1", Writes: o.operations, Foreign: o.foreign,
			Reopen:  func(t testing.TB) qos.Backend { return backend(t, o.dial(t)) },
			Prepare: func(t testing.TB, s qos.State) { ports(t, o.c, s) }}
	}})
}
