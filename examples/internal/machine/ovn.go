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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/rtnl"
)

// OVN on one machine: the two databases and northd, and on every host an Open
// vSwitch with the userspace datapath and ovn-controller, each host's in its
// namespace. They speak over unix sockets, which namespaces do not hold
// apart; tunnels cross the underlay. On real hosts this is an installer's
// work, and done by packages: nothing here is of the library.

// OVNEndpoints are where a cloud's databases answer.
type OVNEndpoints struct {
	Northbound, Southbound string
	Vswitch                string // a host's Open_vSwitch database
}

// OVN returns the endpoints for a host.
func (m *Machine) OVN(host string) OVNEndpoints {
	return OVNEndpoints{"unix:" + m.ovn(centralDir).sock("nb"), "unix:" + m.ovn(centralDir).sock("sb"), "unix:" + m.ovn(host).sock("db")}
}

// OVNRuns reports whether the databases answer.
func (m *Machine) OVNRuns() bool {
	d := m.ovn(centralDir)
	return answers(d.sock("nb")) && answers(d.sock("sb"))
}

// centralDir is no name of a host.
const centralDir = "_central"

// ovnDir is where the daemons of a host, or the central ones, have their
// databases, sockets and logs.
type ovnDir struct {
	m    *Machine
	host string
	dir  string
	ns   string // path of the namespace
}

func (m *Machine) ovn(host string) ovnDir {
	d := ovnDir{m, host, filepath.Join(m.Dir, "ovn", host), m.HostNS(host)}
	if host == centralDir {
		d.ns = m.underlayNS()
	}
	return d
}

func (d ovnDir) sock(name string) string { return filepath.Join(d.dir, name+".sock") }
func (d ovnDir) role(name string) string { return "ovn " + d.host + " " + name }

const (
	nbSchema      = "/usr/share/ovn/ovn-nb.ovsschema"
	sbSchema      = "/usr/share/ovn/ovn-sb.ovsschema"
	vswitchSchema = "/usr/share/openvswitch/vswitch.ovsschema"
)

// EnsureOVN starts what does not run. What cannot be found is named.
func (m *Machine) EnsureOVN(ctx context.Context, c *topology.Cloud) error {
	for _, p := range []string{"ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl", "ovn-northd", "ovn-controller"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w (Debian has it in openvswitch-switch, ovn-central and ovn-host)", err)
		}
	}
	central := m.ovn(centralDir)
	err := central.database(ctx, "nb", nbSchema)
	err = errors.Join(err, central.database(ctx, "sb", sbSchema))
	if err != nil {
		return err
	}
	if _, err := central.daemon("northd", "ovn-northd", "--ovnnb-db=unix:"+central.sock("nb"), "--ovnsb-db=unix:"+central.sock("sb")); err != nil {
		return err
	}
	errs := make([]error, len(c.Hosts))
	var wg sync.WaitGroup
	for i, h := range c.Hosts {
		wg.Go(func() {
			if err := m.ensureChassis(ctx, c, h); err != nil {
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

func (m *Machine) ensureChassis(ctx context.Context, c *topology.Cloud, h topology.CloudHost) error {
	d := m.ovn(h.Name)
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
	var maps []string
	for _, p := range h.PhysicalNets {
		maps = append(maps, p+":br-"+short(p))
	}
	for k, v := range map[string]string{
		"system-id": h.Name, "hostname": h.Name, "ovn-remote": "unix:" + m.ovn(centralDir).sock("sb"),
		"ovn-encap-type": "geneve", "ovn-encap-ip": h.LocalIP.String(), "ovn-bridge-datapath-type": "netdev",
		"ovn-bridge-mappings": strings.Join(maps, ","),
	} {
		args = append(args, fmt.Sprintf("external_ids:%s=%q", k, v))
	}
	bridge := func(br, dev string, more ...string) {
		args = append(args, "--", "--may-exist", "add-br", br, "--", "set", "Bridge", br, "datapath_type=netdev")
		args = append(args, more...)
		if dev != "" {
			args = append(args, "--", "--may-exist", "add-port", br, dev)
		}
	}
	bridge("br-int", "", "fail_mode=secure", "other_config:disable-in-band=true")
	bridge("br-phy", UnderlayDevice, fmt.Sprintf("other_config:hwaddr=%q", mac))
	for _, p := range h.PhysicalNets {
		bridge("br-"+short(p), PhysicalDevice(p))
	}
	if err := vsctl(args...); err != nil {
		return err
	}
	if _, err := d.daemon("vswitchd", "ovs-vswitchd", "unix:"+d.sock("db")); err != nil {
		return err
	}
	if err := vsctl("--timeout=20", "set", "Open_vSwitch", ".", "external_ids:up="+fmt.Sprint(time.Now().UnixNano())); err != nil { // waits for the bridges
		return err
	}
	// Tunnels of the userspace datapath leave by the bridge that has the address.
	err = Do(m.HostNS(h.Name), func() error {
		l, err := netlink.LinkByName("br-phy")
		if err != nil {
			return err
		}
		want := netip.PrefixFrom(h.LocalIP, c.Underlay.Bits())
		a := &netlink.Addr{IPNet: &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), want.Addr().BitLen())}}
		return errors.Join(netlink.AddrReplace(l, a), netlink.LinkSetMTU(l, c.UnderlayMTU), netlink.LinkSetUp(l))
	})
	if err != nil {
		return err
	}
	_, err = d.daemon("controller", "ovn-controller", "unix:"+d.sock("db"))
	return err
}

// database makes a database, whole or not at all, and starts its server.
func (d ovnDir) database(ctx context.Context, name, schema string) error {
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
func (d ovnDir) daemon(name, program string, args ...string) (ended func() bool, err error) {
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

// PruneOVN ends the daemons of hosts that the cloud does not want.
func (m *Machine) PruneOVN(c *topology.Cloud) error {
	entries, _ := os.ReadDir(filepath.Join(m.Dir, "ovn"))
	var errs []error
	for _, e := range entries {
		if e.Name() == centralDir || slices.ContainsFunc(c.Hosts, func(h topology.CloudHost) bool { return h.Name == e.Name() }) {
			continue
		}
		d := m.ovn(e.Name())
		for _, p := range m.Processes("") {
			if strings.HasPrefix(p.Role, d.role("")) {
				errs = append(errs, m.Kill(p.Role))
			}
		}
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
