package lab

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Ports of the databases (ovn-nb(5), ovn-sb(5)); the ones for TLS and RAFT are the lab's.
const (
	nbPort, sbPort        = 6641, 6642
	tlsOffset, raftOffset = 10, 20
)

const startLimit = 30 * time.Second // of one daemon, on a loaded machine

// CentralOptions say what databases a lab has.
type CentralOptions struct {
	// Raft makes clusters of three servers for each database, every server on
	// a host of its own, and two northd on a host of their own.
	Raft bool
}

// Central is the Northbound and Southbound databases and northd.
type Central struct {
	NB, SB  []*Server // one, or three in RAFT
	Northds []*Daemon // one, or two of which one is active
	TLS     TLS       // of the servers; clients are asked for a certificate

	l        *Lab
	switches []*Switch
}

// Server is one ovsdb-server with one database.
type Server struct {
	*Daemon
	Host           *Host  // on the underlay; alone there in RAFT
	DB             string // "OVN_Northbound", "OVN_Southbound"
	Unix, TCP, SSL string // endpoints as OVSDB clients take them: "unix:/...", "tcp:192.0.2.1:6641", "ssl:192.0.2.1:6651"
}

// CutOff takes the server's host off the underlay; the unix socket still works.
func (s *Server) CutOff() { s.ns.l.t.Helper(); s.Host.CutOff() }

// Join puts the host back.
func (s *Server) Join() { s.ns.l.t.Helper(); s.Host.Join() }

// CutOff takes a host off the underlay: nothing passes either way, nobody is told.
func (h *Host) CutOff() {
	h.l.t.Helper()
	h.l.Wire("under").IP("link", "set", "dev", h.end(), "nomaster")
	h.cut = true
}

// Join puts it back.
func (h *Host) Join() {
	h.l.t.Helper()
	h.l.Wire("under").IP("link", "set", "dev", h.end(), "master", "br")
	h.cut = false
}

func (h *Host) end() string {
	if len(h.Short) > 15 {
		return h.Short[:15]
	}
	return h.Short
}

// OVNCentral starts the databases and northd and returns when they serve.
func (l *Lab) OVNCentral(o *CentralOptions) *Central {
	l.t.Helper()
	if o == nil {
		o = &CentralOptions{}
	}
	Need(l.t, "ovsdb-server", "ovsdb-tool", "ovsdb-client", "ovs-appctl", "ovn-northd", "ovn-nbctl", "ovn-sbctl", "ovn-trace")
	c := &Central{l: l, TLS: l.newTLS(l.Dir("tls"))}
	if o.Raft {
		hosts := l.Underlay("nb1", "nb2", "nb3", "sb1", "sb2", "sb3", "northd")
		for i := range 3 {
			c.NB = append(c.NB, c.server(hosts[i], "nb", true, i))
			c.SB = append(c.SB, c.server(hosts[3+i], "sb", true, i))
		}
		c.cluster(c.NB, nbPort+raftOffset)
		c.cluster(c.SB, sbPort+raftOffset)
		for i := range 2 {
			c.northd(hosts[6], i+1)
		}
	} else {
		h := l.Underlay("central")[0]
		c.NB = []*Server{c.server(h, "nb", false, 0)}
		c.SB = []*Server{c.server(h, "sb", false, 0)}
		for _, s := range []*Server{c.NB[0], c.SB[0]} {
			_, err := l.tool("ovsdb-tool", "create", s.file(), schemaFile(s.DB))
			l.must(err)
			s.launch()
		}
		c.northd(h, 1)
	}
	for _, s := range append(append([]*Server(nil), c.NB...), c.SB...) {
		l.must(s.ready())
	}
	for _, d := range c.Northds {
		d.Start()
	}
	// A dead peer is found in seconds, as an operator would set it; the tests
	// wait for it.
	c.NBCtl("set", "NB_Global", ".", "options:northd_probe_interval=5000")
	return c
}

func schemaFile(db string) string {
	switch db {
	case "OVN_Northbound":
		return "/usr/share/ovn/ovn-nb.ovsschema"
	case "OVN_Southbound":
		return "/usr/share/ovn/ovn-sb.ovsschema"
	}
	return "/usr/share/openvswitch/vswitch.ovsschema"
}

func (s *Server) file() string { return strings.TrimSuffix(s.Log, ".log") + ".db" }

func (c *Central) server(h *Host, kind string, raft bool, i int) *Server {
	c.l.t.Helper()
	s := &Server{Host: h, DB: "OVN_Northbound"}
	port := nbPort
	if kind == "sb" {
		s.DB, port = "OVN_Southbound", sbPort
	}
	dir := c.l.Dir(h.Short)
	sock := filepath.Join(dir, kind+".sock")
	s.Unix = "unix:" + sock
	s.TCP = fmt.Sprintf("tcp:%s:%d", h.IP, port)
	s.SSL = fmt.Sprintf("ssl:%s:%d", h.IP, port+tlsOffset)
	s.Daemon = c.l.daemon(h.NS, dir, kind, "ovsdb-server", filepath.Join(dir, kind+".db"),
		"--remote=punix:"+sock, fmt.Sprintf("--remote=ptcp:%d:%s", port, h.IP), fmt.Sprintf("--remote=pssl:%d:%s", port+tlsOffset, h.IP),
		"--private-key="+c.TLS.ServerKey, "--certificate="+c.TLS.ServerCert, "--ca-cert="+c.TLS.CA)
	s.Daemon.ready = func() error {
		if err := waitSocket(sock, s.Daemon, startLimit); err != nil {
			return err
		}
		if raft && c.quorum(s) {
			_, err := c.l.tool("ovsdb-client", "--timeout=30", "wait", s.Unix, s.DB, "connected")
			return err
		}
		return nil
	}
	return s
}

// peers returns the servers of the same database.
func (c *Central) peers(s *Server) []*Server {
	if s.DB == "OVN_Northbound" {
		return c.NB
	}
	return c.SB
}

// quorum reports whether enough servers run for a cluster to have a leader.
func (c *Central) quorum(s *Server) bool {
	n := 0
	all := c.peers(s)
	for _, p := range all {
		if p.Running() && !p.stopped {
			n++
		}
	}
	return n > len(all)/2
}

func (c *Central) northd(h *Host, i int) {
	name := "northd" + strconv.Itoa(i)
	dir := c.l.Dir(h.Short)
	d := c.l.daemon(h.NS, dir, name, "ovn-northd", "--ovnnb-db="+endpoints(c.NB, (*Server).tcp), "--ovnsb-db="+endpoints(c.SB, (*Server).tcp))
	d.ready = func() error { return waitSocket(d.Ctl, d, startLimit) }
	c.Northds = append(c.Northds, d)
}

func (s *Server) tcp() string  { return s.TCP }
func (s *Server) unix() string { return s.Unix }

func endpoints(servers []*Server, f func(*Server) string) string {
	var all []string
	for _, s := range servers {
		all = append(all, f(s))
	}
	return strings.Join(all, ",")
}

// NBEndpoints are the unix sockets of the Northbound servers, reachable from
// every namespace, separated by commas.
func (c *Central) NBEndpoints() string { return endpoints(c.NB, (*Server).unix) }

// SBEndpoints is [Central.NBEndpoints] for the Southbound.
func (c *Central) SBEndpoints() string { return endpoints(c.SB, (*Server).unix) }

// NBCtl runs ovn-nbctl and fails the test when it fails.
func (c *Central) NBCtl(args ...string) string {
	c.l.t.Helper()
	out, err := c.TryNBCtl(args...)
	c.l.must(err)
	return out
}

// TryNBCtl is [Central.NBCtl] that returns the error.
func (c *Central) TryNBCtl(args ...string) (string, error) {
	return c.l.tool("ovn-nbctl", append([]string{"--db=" + c.NBEndpoints(), "--timeout=30"}, args...)...)
}

// SBCtl runs ovn-sbctl and fails the test when it fails.
func (c *Central) SBCtl(args ...string) string {
	c.l.t.Helper()
	out, err := c.TrySBCtl(args...)
	c.l.must(err)
	return out
}

// TrySBCtl is [Central.SBCtl] that returns the error.
func (c *Central) TrySBCtl(args ...string) (string, error) {
	return c.l.tool("ovn-sbctl", append([]string{"--db=" + c.SBEndpoints(), "--timeout=30"}, args...)...)
}

// Trace runs ovn-trace: options, the logical switch, and the packet as an expression.
func (c *Central) Trace(args ...string) (string, error) {
	return c.l.tool("ovn-trace", append([]string{"--db=" + c.SBEndpoints()}, args...)...)
}

// WaitHV returns when all chassis have done what is in the Northbound now.
func (c *Central) WaitHV() { c.l.t.Helper(); c.NBCtl("--wait=hv", "sync") }

// ChassisOptions describe one hypervisor.
type ChassisOptions struct {
	Name     string   // unique, at most 10 characters: the namespace, the hostname and the system-id
	Encap    string   // "geneve" (default), "vxlan"
	Physical []string // physical networks, at most 8 characters each: a bridge "br-NAME" with a device plugged into Lab.Wire("NAME")
	Datapath string   // of all bridges, as in [SwitchOptions]
	DPDK     bool     // as in [SwitchOptions]
	// Config are more settings of ovn-controller, external_ids of the
	// Open_vSwitch row, "ovn-cms-options" to "enable-chassis-as-gw" for example.
	Config map[string]string
}

// Chassis is one hypervisor: a [Switch] with ovn-controller. It reaches the
// databases by the underlay (under0) and other chassis by the network of the
// tunnels, so that neither depends on the other's daemons.
type Chassis struct {
	*Switch
	ChassisName   string // name of the Southbound row, the system-id
	OVNController *Daemon

	c *Central
	o ChassisOptions
}

// Chassis starts hypervisors and returns when all of them are in the
// Southbound and can reach each other's tunnel end.
func (l *Lab) Chassis(c *Central, o ...ChassisOptions) []*Chassis {
	l.t.Helper()
	Need(l.t, "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovn-controller")
	var all []*Chassis
	for _, o := range o {
		ch := l.newChassis(c, o)
		ch.Vswitch.launch()
		all = append(all, ch)
	}
	for _, ch := range all {
		l.must(ch.Vswitch.ready())
		ch.configure()
		ch.Vswitchd.launch()
	}
	for _, ch := range all {
		l.must(ch.Vswitchd.ready())
		ch.OVNController.launch() // when br-int stands, or it tries again only after a second
	}
	for _, ch := range all {
		l.must(ch.OVNController.ready())
	}
	for _, ch := range all {
		c.switches = append(c.switches, ch.Switch)
	}
	acquaint(c.switches)
	return all
}

func (l *Lab) newChassis(c *Central, o ChassisOptions) *Chassis {
	l.t.Helper()
	if o.Encap == "" {
		o.Encap = "geneve"
	}
	ch := &Chassis{Switch: l.newSwitch(SwitchOptions{Name: o.Name, Physical: o.Physical, Datapath: o.Datapath, DPDK: o.DPDK}), ChassisName: o.Name, c: c, o: o}
	ch.OVNController = l.daemon(ch.NS, ch.Dir, "ovn-controller", "ovn-controller", ch.Endpoint)
	ch.OVNController.ready = func() error {
		if err := waitSocket(ch.OVNController.Ctl, ch.OVNController, startLimit); err != nil {
			return err
		}
		_, err := c.TrySBCtl("wait-until", "Chassis", ch.ChassisName, "name="+ch.ChassisName)
		return err
	}
	return ch
}

// configure writes the Open_vSwitch database in one transaction, before
// anything reads it.
func (ch *Chassis) configure() {
	ch.l.t.Helper()
	ids := map[string]string{
		"system-id": ch.ChassisName, "hostname": ch.ChassisName,
		"ovn-remote":     endpoints(ch.c.SB, (*Server).tcp),
		"ovn-encap-type": ch.o.Encap, "ovn-encap-ip": ch.EncapIP.String(),
		"ovn-bridge-datapath-type": ch.datapath, "ovn-remote-probe-interval": "5000",
	}
	var maps []string
	for _, p := range ch.o.Physical {
		maps = append(maps, p+":"+ch.Mappings[p])
	}
	if maps != nil {
		ids["ovn-bridge-mappings"] = strings.Join(maps, ",")
	}
	for k, v := range ch.o.Config {
		ids[k] = v
	}
	args := []string{"--", "set", "Open_vSwitch", "."}
	for k, v := range ids {
		args = append(args, "external_ids:"+k+"="+strconv.Quote(v))
	}
	args = append(args, bridgeArgs("br-int", "", ch.datapath, "fail_mode=secure", "other_config:disable-in-band=true")...)
	ch.Switch.configure(args...)
}

// Exec runs a program in the chassis' namespace with its run directories in
// the environment, so that "ovs-ofctl dump-flows br-int" and "ovs-vsctl show"
// find its daemons; so do "ovs-appctl ..." (ovs-vswitchd unless -t says
// otherwise) and "ovn-appctl ..." (ovn-controller).
func (ch *Chassis) Exec(name string, args ...string) (string, error) {
	env := []string{"OVS_RUNDIR=" + ch.Dir, "OVN_RUNDIR=" + ch.Dir, "OVS_DBDIR=" + ch.Dir, name}
	target := ""
	switch name {
	case "ovs-appctl":
		target = "ovs-vswitchd"
	case "ovn-appctl":
		target = "ovn-controller"
	}
	if target != "" {
		if len(args) > 1 && args[0] == "-t" {
			target, args = args[1], args[2:]
		}
		for _, d := range []*Daemon{ch.Vswitch, ch.Vswitchd, ch.OVNController} {
			if d.args[0] == target {
				target = d.Ctl
			}
		}
		env = append(env, "-t", target)
	}
	ctx, cancel := timeout()
	defer cancel()
	return ch.NS.Exec(ctx, "env", append(env, args...)...)
}

// Leave ends ovn-controller as an operator does who takes the chassis away:
// its rows go from the Southbound. Stopping and killing leave them.
func (ch *Chassis) Leave() {
	ch.l.t.Helper()
	d := ch.OVNController
	d.wanted = false
	_, err := d.Appctl("exit")
	ch.l.must(err)
	Eventually(ch.l.t, startLimit, "the chassis leaves", func() bool { return !d.Running() })
}

// Plug plugs a device into br-int as the logical switch port of that name, by
// ovs-vsctl, and does not wait for it to work.
func (ch *Chassis) Plug(dev, port string) {
	ch.l.t.Helper()
	ch.Vsctl("--no-wait", "--may-exist", "add-port", "br-int", dev, "--", "set", "Interface", dev, "external_ids:iface-id="+port)
}

// VM is a machine of that name, plugged as the port of the same name.
func (ch *Chassis) VM(name, mac string, prefixes ...string) *NS {
	ch.l.t.Helper()
	vm, dev := ch.Machine(name)
	vm.IP("link", "set", "dev", "eth0", "address", mac)
	vm.Configure("eth0", prefixes)
	ch.Plug(dev, name)
	return vm
}

// Station makes a namespace with a device "eth0" on a wire, a physical network
// for example, that user space switches understand.
func (l *Lab) Station(wire *NS, name string, prefixes ...string) *NS {
	l.t.Helper()
	n := l.NS(name)
	l.Plug(wire, n, "eth0")
	n.NoOffload("eth0")
	n.Configure("eth0", prefixes)
	return n
}
