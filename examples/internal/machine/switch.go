package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// Open vSwitch on one machine: every host has a database and a switch of its
// own, with the userspace datapath, in its namespace. They speak over unix
// sockets, which namespaces do not hold apart; tunnels cross the underlay.

// OVSEndpoint is where a host's Open vSwitch answers.
type OVSEndpoint struct {
	Database string // "unix:PATH"
	RunDir   string // of the management sockets
	Control  string // of ovs-vswitchd
}

// OVS returns the endpoint of a host.
func (m *Machine) OVS(host string) OVSEndpoint {
	d := m.daemons(host)
	return OVSEndpoint{"unix:" + d.sock("db"), d.dir, filepath.Join(d.dir, "vswitchd.ctl")}
}

// OVSRuns reports whether a host's Open vSwitch answers.
func (m *Machine) OVSRuns(host string) bool {
	return answers(m.daemons(host).sock("db")) && answers(m.OVS(host).Control)
}

// PhysicalBridge is the bridge of Open vSwitch that is a physical network on a host.
func PhysicalBridge(name string) string { return "br-" + short(name) }

// centralDir is no name of a host.
const centralDir = "_central"

// daemonDir is where the daemons of a host, or the central ones, have their
// databases, sockets and logs.
type daemonDir struct {
	m    *Machine
	host string
	dir  string
	ns   string // path of the namespace
}

func (m *Machine) daemons(host string) daemonDir {
	d := daemonDir{m, host, filepath.Join(m.Dir, "ovs", host), m.HostNS(host)}
	if host == centralDir {
		d.ns = m.underlayNS()
	}
	return d
}

func (d daemonDir) sock(name string) string { return filepath.Join(d.dir, name+".sock") }
func (d daemonDir) role(name string) string { return "ovs " + d.host + " " + name }

const vswitchSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// programs names what cannot be found, and where Debian has it.
func programs(packages string, names ...string) error {
	for _, p := range names {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w (Debian has it in %s)", err, packages)
		}
	}
	return nil
}

// EnsureOVS starts what does not run. What cannot be found is named.
func (m *Machine) EnsureOVS(ctx context.Context, c *topology.Cloud) error {
	if err := programs("openvswitch-switch", "ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl"); err != nil {
		return err
	}
	for _, h := range c.Hosts {
		if h.DPDK != nil {
			if err := errors.Join(m.prepareDPDK(), m.hasDPDK(h.Name)); err != nil {
				return fmt.Errorf("host %s: %w", h.Name, err)
			}
		}
	}
	return m.eachSwitch(c, func(h topology.CloudHost) error { return m.ensureSwitch(ctx, c, h) })
}

// eachSwitch runs f for all hosts at once, and prepares what is outside.
func (m *Machine) eachSwitch(c *topology.Cloud, f func(topology.CloudHost) error) error {
	errs := make([]error, len(c.Hosts))
	var wg sync.WaitGroup
	for i, h := range c.Hosts {
		wg.Go(func() {
			if err := f(h); err != nil {
				errs[i] = fmt.Errorf("host %s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	for _, o := range c.Outside { // they send into bridges of user space
		errs = append(errs, Do(m.VMNS(o.Name), func() error { return rtnl.NoChecksumOffload("eth0") }))
	}
	return errors.Join(errs...)
}

// bridgeArgs are for ovs-vsctl.
func bridgeArgs(br, dev string, more ...string) []string {
	args := append([]string{"--", "--may-exist", "add-br", br, "--", "set", "Bridge", br, "datapath_type=netdev"}, more...)
	if dev != "" {
		args = append(args, "--", "--may-exist", "add-port", br, dev)
	}
	return args
}

// ensureSwitch starts a host's Open vSwitch, with a bridge for the underlay
// and one for each physical network.
func (m *Machine) ensureSwitch(ctx context.Context, c *topology.Cloud, h topology.CloudHost, more ...string) error {
	d := m.daemons(h.Name)
	if err := d.database(ctx, "db", vswitchSchema); err != nil {
		return err
	}
	vsctl := func(args ...string) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ovs-vsctl", append([]string{"--db=unix:" + d.sock("db")}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ovs-vsctl: %w: %s", err, out)
		}
		return nil
	}
	mac, err := linkMAC(m.HostNS(h.Name), UnderlayDevice)
	if err != nil {
		return err
	}
	args := []string{"--no-wait", "set", "Open_vSwitch", ".", "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1"}
	args = append(args, bridgeArgs("br-phy", UnderlayDevice, fmt.Sprintf("other_config:hwaddr=%q", mac))...)
	for _, p := range h.PhysicalNets {
		args = append(args, bridgeArgs(PhysicalBridge(p), PhysicalDevice(p))...)
	}
	if err := vsctl(append(args, more...)...); err != nil {
		return err
	}
	program := "ovs-vswitchd"
	if h.DPDK != nil {
		program = dpdkSwitch
	}
	if _, err := d.daemon("vswitchd", program, "unix:"+d.sock("db")); err != nil {
		return err
	}
	if err := vsctl("--timeout=20", "set", "Open_vSwitch", ".", "external_ids:up="+fmt.Sprint(time.Now().UnixNano())); err != nil { // waits for the bridges
		return err
	}
	// Tunnels of the userspace datapath leave by the bridge that has the address.
	return Do(m.HostNS(h.Name), func() error {
		l, err := netlink.LinkByName("br-phy")
		if err != nil {
			return err
		}
		want := netip.PrefixFrom(h.LocalIP, c.Underlay.Bits())
		a := &netlink.Addr{IPNet: &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), want.Addr().BitLen())}}
		return errors.Join(netlink.AddrReplace(l, a), netlink.LinkSetMTU(l, c.UnderlayMTU), netlink.LinkSetUp(l))
	})
}

// database makes a database, whole or not at all, and starts its server.
func (d daemonDir) database(ctx context.Context, name, schema string) error {
	if n := len(d.sock(name)); n > 107 {
		return fmt.Errorf("the path %s is too long for a socket: %d characters, 107 are possible; choose another --state-dir", d.sock(name), n)
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(d.dir, name+".db")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		os.Remove(file + ".new")
		if out, err := exec.CommandContext(ctx, "ovsdb-tool", "create", file+".new", schema).CombinedOutput(); err != nil {
			return fmt.Errorf("ovsdb-tool: %w: %s", err, out)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return err
		}
	}
	ended, err := d.daemon(name+"-server", "ovsdb-server", file, "--remote=punix:"+d.sock(name))
	if err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); !answers(d.sock(name)); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ended() || time.Now().After(end) {
			return fmt.Errorf("%s does not come up, see %s", d.role(name+"-server"), filepath.Join(d.dir, name+"-server.log"))
		}
	}
	return nil
}

// daemon starts a program that does not run; ended says whether it has ended since.
func (d daemonDir) daemon(name, program string, args ...string) (ended func() bool, err error) {
	role := d.role(name)
	if len(d.m.Processes(role)) > 0 {
		return func() bool { return false }, nil
	}
	log := filepath.Join(d.dir, name+".log")
	args = append([]string{"--log-file=" + log, "-vconsole:off", "-vsyslog:off", "-vfile:info"}, args...)
	if program != "ovn-controller" { // it has no say in it
		ctl := filepath.Join(d.dir, name+".ctl")
		os.Remove(ctl) // of one that was killed
		args = append([]string{"--unixctl=" + ctl}, args...)
	}
	var env []string
	for _, v := range []string{"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVN_RUNDIR", "OVN_LOGDIR", "OVN_DBDIR"} {
		env = append(env, v+"="+d.dir)
	}
	return d.m.run(role, d.ns, log, env, program, args...)
}

// run starts another program in the background, in a namespace.
func (m *Machine) run(role, netns, log string, env []string, program string, args ...string) (ended func() bool, err error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = filepath.Dir(log)
	cmd.Env = append(m.env(role), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := Do(netns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	return func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}, nil
}

func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func linkMAC(ns, dev string) (mac string, err error) {
	l, err := lookup(ns, dev)
	if err != nil {
		return "", err
	}
	if l == nil {
		return "", fmt.Errorf("no device %s in %s", dev, filepath.Base(ns))
	}
	return l.Attrs().HardwareAddr.String(), nil
}

// endDaemons ends the daemons of a host.
func (m *Machine) endDaemons(host string) error {
	d := m.daemons(host)
	var errs []error
	for _, p := range m.Processes("") {
		if strings.HasPrefix(p.Role, d.role("")) {
			errs = append(errs, m.Kill(p.Role))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}
