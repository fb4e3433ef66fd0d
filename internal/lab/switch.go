package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
)

// SwitchOptions describe one host with Open vSwitch.
type SwitchOptions struct {
	Name     string
	Physical []string // physical networks: wires of that name, each in a bridge "br-NAME"
	// Datapath is "netdev" (the default), or "system" where the kernel has the module.
	Datapath string
	// DPDK runs an ovs-vswitchd that is built with it.
	DPDK bool
}

// Switch is one host with Open vSwitch, in a namespace of its own. Tunnels
// go by a second network that is plugged into br-phy.
type Switch struct {
	*Host
	EncapIP  netip.Addr        // on br-phy
	Endpoint string            // of the Open_vSwitch database, "unix:/..."
	Dir      string            // OVS_RUNDIR: control and management sockets
	Mappings map[string]string // physical network to bridge
	Vswitch  *Daemon           // ovsdb-server
	Vswitchd *Daemon           // ovs-vswitchd

	datapath string
	physical []string
	mac      string // of tunnelDev and br-phy
	others   []*Switch
}

// tunnelDev is the host's device on the network of the tunnels, a port of br-phy.
const tunnelDev = "tun0"

// tunnelMTU leaves 1500 octets for what is carried.
const tunnelMTU = "1600"

// Switches starts hosts with Open vSwitch and returns when their bridges stand
// and each knows the others' tunnel ends.
func (l *Lab) Switches(o ...SwitchOptions) []*Switch {
	l.t.Helper()
	Need(l.t, "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
	var all []*Switch
	for _, o := range o {
		sw := l.newSwitch(o)
		sw.Vswitch.launch()
		all = append(all, sw)
	}
	for _, sw := range all {
		l.must(sw.Vswitch.ready())
		sw.configure()
		sw.Vswitchd.launch()
	}
	for _, sw := range all {
		l.must(sw.Vswitchd.ready())
	}
	acquaint(all)
	return all
}

// acquaint tells all of them where the others are.
func acquaint(all []*Switch) {
	for _, sw := range all {
		sw.others = all
		sw.l.must(sw.neighbours())
	}
}

// neighbours tells a user space switch the other tunnel ends: the first
// packet to an unknown one would be lost.
func (sw *Switch) neighbours() error {
	if sw.datapath != "netdev" {
		return nil
	}
	for _, other := range sw.others {
		if other == sw {
			continue
		}
		if _, err := sw.Vswitchd.Appctl("tnl/neigh/set", "br-phy", other.EncapIP.String(), other.mac); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) newSwitch(o SwitchOptions) *Switch {
	l.t.Helper()
	sw := &Switch{Host: l.Underlay(o.Name)[0], Dir: l.Dir(o.Name), Mappings: map[string]string{}, datapath: o.Datapath, physical: o.Physical}
	if sw.datapath == "" {
		sw.datapath = "netdev"
	}
	n := sw.IP.As4()[3]
	sw.EncapIP = netip.AddrFrom4([4]byte{100, 127, 0, n}) // not used by anything that is tested
	wire := l.Wire("tunnels")
	l.Plug(wire, sw.NS, tunnelDev)
	sw.mac = sw.MAC(tunnelDev).String()
	for _, p := range o.Physical {
		sw.Mappings[p] = "br-" + p
		l.Plug(l.Wire(p), sw.NS, p)
	}
	sw.NS.IP("link", "set", "dev", tunnelDev, "mtu", tunnelMTU)
	wire.IP("link", "set", "dev", sw.end(), "mtu", tunnelMTU)

	db := filepath.Join(sw.Dir, "db.sock")
	sw.Endpoint = "unix:" + db
	file := filepath.Join(sw.Dir, "vswitch.db")
	_, err := l.tool("ovsdb-tool", "create", file, schemaFile("Open_vSwitch"))
	l.must(err)
	sw.Vswitch = l.daemon(sw.NS, sw.Dir, "vswitch", "ovsdb-server", file, "--remote=punix:"+db)
	sw.Vswitch.ready = func() error { return waitSocket(db, sw.Vswitch, startLimit) }
	program := "ovs-vswitchd"
	if o.DPDK {
		program = dpdkSwitch
		Need(l.t, program)
	}
	sw.Vswitchd = l.daemon(sw.NS, sw.Dir, "vswitchd", program, sw.Endpoint)
	sw.Vswitchd.ready = func() error {
		// Waits until all bridges stand. Their devices outlive the process, but not all ends of it.
		if _, err := sw.TryVsctl(fmt.Sprintf("--timeout=%d", int(Patience(startLimit).Seconds())), "set", "Open_vSwitch", ".", "external_ids:lab-pid="+strconv.Itoa(sw.Vswitchd.Pid())); err != nil {
			return err
		}
		if err := run("ip", "-n", sw.NS.Name, "addr", "replace", sw.EncapIP.String()+"/24", "dev", "br-phy"); err != nil {
			return err
		}
		if err := run("ip", "-n", sw.NS.Name, "link", "set", "dev", "br-phy", "up"); err != nil {
			return err
		}
		return sw.neighbours()
	}
	return sw
}

// bridgeArgs are ovs-vsctl's for a bridge with, if it has a name, one device in it.
func bridgeArgs(br, dev, datapath string, more ...string) []string {
	args := append([]string{"--", "add-br", br, "--", "set", "Bridge", br, "datapath_type=" + datapath}, more...)
	if dev != "" {
		args = append(args, "--", "add-port", br, dev)
	}
	return args
}

// configure writes the Open_vSwitch database in one transaction, before
// anything reads it.
func (sw *Switch) configure(more ...string) {
	sw.l.t.Helper()
	args := []string{"--no-wait", "init",
		"--", "set", "Open_vSwitch", ".", "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1"}
	// br-phy keeps the device's address: neighbours know it by that.
	args = append(args, bridgeArgs("br-phy", tunnelDev, sw.datapath, "other_config:hwaddr="+strconv.Quote(sw.mac))...)
	for _, p := range sw.physical {
		args = append(args, bridgeArgs(sw.Mappings[p], p, sw.datapath)...)
	}
	_, err := sw.TryVsctl(append(args, more...)...)
	sw.l.must(err)
}

// CutOff takes the host off the underlay and off the network of the tunnels.
func (sw *Switch) CutOff() { sw.l.t.Helper(); sw.Host.CutOff(); sw.CutTunnels() }

// Join puts it back on both.
func (sw *Switch) Join() { sw.l.t.Helper(); sw.Host.Join(); sw.JoinTunnels() }

// CutTunnels takes the host off the network of the tunnels only.
func (sw *Switch) CutTunnels() {
	sw.l.t.Helper()
	sw.l.Wire("tunnels").IP("link", "set", "dev", sw.end(), "nomaster")
}

// JoinTunnels puts it back.
func (sw *Switch) JoinTunnels() {
	sw.l.t.Helper()
	sw.l.Wire("tunnels").IP("link", "set", "dev", sw.end(), "master", "br")
}

// Ofctl runs ovs-ofctl for a bridge ("dump-flows", then more arguments) and
// fails the test when it fails.
func (sw *Switch) Ofctl(command, bridge string, args ...string) string {
	sw.l.t.Helper()
	out, err := sw.l.tool("ovs-ofctl", append([]string{"-O", "OpenFlow15", command, "unix:" + filepath.Join(sw.Dir, bridge+".mgmt")}, args...)...)
	sw.l.must(err)
	return out
}

// Vsctl runs ovs-vsctl and fails the test when it fails.
func (sw *Switch) Vsctl(args ...string) string {
	sw.l.t.Helper()
	out, err := sw.TryVsctl(args...)
	sw.l.must(err)
	return out
}

// TryVsctl is [Switch.Vsctl] that returns the error.
func (sw *Switch) TryVsctl(args ...string) (string, error) {
	return sw.l.tool("ovs-vsctl", append([]string{"--db=" + sw.Endpoint}, args...)...)
}

// Machine makes the namespace of a virtual machine with a device "eth0" whose
// other end is device dev of the host, in no bridge: plugging it is what the
// library does.
func (sw *Switch) Machine(name string) (vm *NS, dev string) {
	sw.l.t.Helper()
	vm = sw.l.NS(name)
	dev = "v-" + name
	sw.l.Veth(sw.NS, dev, vm, "eth0")
	vm.NoOffload("eth0")
	return vm, dev
}
