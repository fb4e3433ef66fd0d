package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnet-go/vnet/examples/internal/topology"
)

// OVN on one machine: the two databases and northd, and on every host an Open
// vSwitch with ovn-controller. On real hosts this is an installer's work, and
// done by packages: nothing here is of the library.

// OVNEndpoints are where a cloud's databases answer.
type OVNEndpoints struct {
	Northbound, Southbound string
	Vswitch                string // a host's Open_vSwitch database
}

// OVN returns the endpoints for a host.
func (m *Machine) OVN(host string) OVNEndpoints {
	return OVNEndpoints{"unix:" + m.daemons(centralDir).sock("nb"), "unix:" + m.daemons(centralDir).sock("sb"), "unix:" + m.daemons(host).sock("db")}
}

// OVNRuns reports whether the databases answer.
func (m *Machine) OVNRuns() bool {
	d := m.daemons(centralDir)
	return answers(d.sock("nb")) && answers(d.sock("sb"))
}

const (
	nbSchema = "/usr/share/ovn/ovn-nb.ovsschema"
	sbSchema = "/usr/share/ovn/ovn-sb.ovsschema"
)

// EnsureOVN starts what does not run. What cannot be found is named.
func (m *Machine) EnsureOVN(ctx context.Context, c *topology.Cloud) error {
	if err := programs("openvswitch-switch, ovn-central and ovn-host", "ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl", "ovn-northd", "ovn-controller"); err != nil {
		return err
	}
	central := m.daemons(centralDir)
	err := central.database(ctx, "nb", nbSchema)
	err = errors.Join(err, central.database(ctx, "sb", sbSchema))
	if err != nil {
		return err
	}
	if _, err := central.daemon("northd", "ovn-northd", "--ovnnb-db=unix:"+central.sock("nb"), "--ovnsb-db=unix:"+central.sock("sb")); err != nil {
		return err
	}
	return m.eachSwitch(c, func(h topology.CloudHost) error { return m.ensureChassis(ctx, c, h) })
}

func (m *Machine) ensureChassis(ctx context.Context, c *topology.Cloud, h topology.CloudHost) error {
	var maps []string
	for _, p := range h.PhysicalNets {
		maps = append(maps, p+":"+PhysicalBridge(p))
	}
	args := []string{"--", "set", "Open_vSwitch", "."}
	for k, v := range map[string]string{
		"system-id": h.Name, "hostname": h.Name, "ovn-remote": "unix:" + m.daemons(centralDir).sock("sb"),
		"ovn-encap-type": "geneve", "ovn-encap-ip": h.LocalIP.String(), "ovn-bridge-datapath-type": "netdev",
		"ovn-bridge-mappings": strings.Join(maps, ","),
	} {
		args = append(args, fmt.Sprintf("external_ids:%s=%q", k, v))
	}
	args = append(args, bridgeArgs("br-int", "", "fail_mode=secure", "other_config:disable-in-band=true")...)
	if err := m.ensureSwitch(ctx, c, h, args...); err != nil {
		return err
	}
	d := m.daemons(h.Name)
	_, err := d.daemon("controller", "ovn-controller", "unix:"+d.sock("db"))
	return err
}
