package openflow

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
)

// testSwitch is an ovs-vswitchd of the user space data path with one bridge,
// br0, in a namespace of its own. It is what judges this package.
type testSwitch struct {
	t    testing.TB
	lab  *lab.Lab
	ns   *lab.NS
	dir  string
	mgmt string // path of the bridge's socket
}

func newSwitch(t testing.TB) *testSwitch {
	t.Helper()
	l := lab.New(t)
	lab.Need(t, "ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")
	s := &testSwitch{t: t, lab: l, ns: l.NS("switch"), dir: l.Dir("of")}
	s.mgmt = filepath.Join(s.dir, "br0.mgmt")
	s.run("ovsdb-tool", "create", s.path("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema")
	env := []string{"OVS_RUNDIR=" + s.dir, "OVS_LOGDIR=" + s.dir, "OVS_DBDIR=" + s.dir}
	s.ns.Start("env", append(env, "ovsdb-server", "--remote=punix:"+s.path("db.sock"), "--unixctl="+s.path("db.ctl"), "-vconsole:warn", s.path("conf.db"))...)
	s.await(s.path("db.sock"))
	s.vsctl("--no-wait", "init")
	s.ns.Start("env", append(env, "ovs-vswitchd", "--disable-system", "--unixctl="+s.path("vs.ctl"), "-vconsole:err", "unix:"+s.path("db.sock"))...)
	s.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure")
	s.await(s.mgmt)
	return s
}

func (s *testSwitch) path(name string) string { return filepath.Join(s.dir, name) }

func (s *testSwitch) await(path string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { _, err := os.Stat(path); return err == nil }, 30*time.Second, 10*time.Millisecond, path)
}

// run runs a tool that must succeed and returns what it printed.
func (s *testSwitch) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	require.NoError(s.t, err)
	return out
}

func (s *testSwitch) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+s.dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (s *testSwitch) vsctl(args ...string) string {
	s.t.Helper()
	return s.run("ovs-vsctl", append([]string{"--timeout=60", "--db=unix:" + s.path("db.sock")}, args...)...)
}

// ofctl runs ovs-ofctl with the command, the bridge, and the arguments.
func (s *testSwitch) ofctl(command string, args ...string) string {
	s.t.Helper()
	return s.run("ovs-ofctl", append([]string{"-O", "OpenFlow15", command, "unix:" + s.mgmt}, args...)...)
}

// dump is what ovs-ofctl shows of all flows, sorted by it.
func (s *testSwitch) dump() []string {
	s.t.Helper()
	var lines []string
	for _, l := range strings.Split(s.ofctl("dump-flows", "--no-stats", "--no-names"), "\n") {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

func (s *testSwitch) dial() *Conn {
	s.t.Helper()
	c, err := Dial(context.Background(), "unix", s.mgmt, nil)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// port adds a veth whose other end is in a namespace of its own, as port n.
func (s *testSwitch) port(n int) (ns *lab.NS, dev string) {
	s.t.Helper()
	ns = s.lab.NS(fmt.Sprintf("p%d", n))
	dev = fmt.Sprintf("p%d", n)
	s.lab.Veth(s.ns, dev, ns, "eth0")
	s.ns.NoOffload(dev)
	s.ns.Up(dev)
	ns.Up("eth0")
	s.vsctl("add-port", "br0", dev, "--", "set", "interface", dev, fmt.Sprintf("ofport_request=%d", n))
	return ns, dev
}
