package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
	"github.com/vnet-go/vnet/internal/lab"
)

var chaos = flag.Int("chaos", 50, "at how many random points the chaos test kills cloud up")

// h2 is the line of host h2 in the topology that is shipped.
const h2 = "  - {name: h2, bandwidths: [{egress_kbps: 1000000, ingress_kbps: 1000000}]}\n"

var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		self, err := os.Executable()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = self + ".cloud"
		if lab.InGuest() { // which sees what was built for the test that waits for it
			return m.Run()
		}
		defer os.Remove(bin)
		if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// cloud is one cloud that a test brings up, under a name of its own.
type cloud struct {
	t     *testing.T
	name  string
	file  string
	state string

	backend string // empty: linux
}

// newCloud copies a topology under a name that no other test has, and sees to
// it that nothing is left of it.
func newCloud(t *testing.T, file string) *cloud {
	if testing.Short() {
		t.Skip("integration test")
	}
	require.Zero(t, os.Geteuid(), "this test needs root")
	c := &cloud{t: t, name: fmt.Sprintf("t%x", rand.Uint32N(1<<28)), state: t.TempDir()}
	c.file = filepath.Join(t.TempDir(), "topology.yaml")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	c.write(string(text))
	t.Cleanup(func() {
		out, err := c.run("down", "--name", c.name)
		assert.NoError(t, err, out)
		assert.Empty(t, c.left(), "left on the machine")
	})
	return c
}

// write writes the topology, under the test's name.
func (c *cloud) write(text string) {
	i := strings.Index(text, "\nname: ")
	j := i + 1 + strings.Index(text[i+1:], "\n")
	require.NoError(c.t, os.WriteFile(c.file, []byte(text[:i]+"\nname: "+c.name+text[j:]), 0o644))
}

func (c *cloud) edit(old, new string) {
	c.t.Helper()
	text, err := os.ReadFile(c.file)
	require.NoError(c.t, err)
	require.Contains(c.t, string(text), old)
	require.NoError(c.t, os.WriteFile(c.file, []byte(strings.Replace(string(text), old, new, 1)), 0o644))
}

func (c *cloud) machine() *machine.Machine {
	return &machine.Machine{Name: c.name, Dir: filepath.Join(c.state, c.name)}
}

// left is what of the cloud is on the machine: namespaces, processes, files,
// and links of the root namespace that were not there.
func (c *cloud) left() []string { return c.machine().Left([]string{"h1", "h2", "h3"}) }

func (c *cloud) command(args ...string) *exec.Cmd {
	if c.backend != "" && (args[0] == "up" || args[0] == "plan") {
		args = append(args, "--backend", c.backend)
	}
	return exec.Command(bin, append([]string{args[0], "--state-dir", c.state}, args[1:]...)...)
}

// run returns what the command printed and, as the error, what it complained of.
func (c *cloud) run(args ...string) (string, error) {
	cmd := c.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("cloud %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), err
}

func (c *cloud) must(args ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	require.NoError(c.t, err)
	return out
}

// upResult is what `up --json` prints.
type upResult struct {
	Plan   vnet.Plan     `json:"plan"`
	VMs    []vm.State    `json:"vms"`
	Matrix matrix.Report `json:"matrix"`
}

func (c *cloud) up(args ...string) upResult {
	c.t.Helper()
	out := c.must(append([]string{"up", "-f", c.file, "--json"}, args...)...)
	var r upResult
	require.NoError(c.t, json.Unmarshal([]byte(out), &r))
	require.Empty(c.t, r.Matrix.Mismatches)
	require.Positive(c.t, r.Matrix.Answered)
	return r
}

func (c *cloud) plan() vnet.Plan {
	c.t.Helper()
	var p vnet.Plan
	require.NoError(c.t, json.Unmarshal([]byte(c.must("plan", "-f", c.file, "--json")), &p))
	return p
}

func (r upResult) vm(name string) vm.State {
	for _, s := range r.VMs {
		if s.Name == name {
			return s
		}
	}
	return vm.State{}
}

// seen is the answer to one probe.
func (r upResult) seen(t *testing.T, from, proto, dst string, port uint16) vm.Answer {
	t.Helper()
	for _, x := range r.Matrix.Cells {
		if x.From == from && x.Probe.Proto == proto && x.Probe.Dst.String() == dst && x.Probe.Port == port {
			return x.Seen
		}
	}
	t.Fatalf("no probe from %s by %s to %s port %d", from, proto, dst, port)
	return vm.Answer{}
}

// The shipped cloud does what it says it shows, by every command.
func TestShippedCloud(t *testing.T) {
	c := newCloud(t, "topology.yaml")
	fresh := c.plan()
	assert.Positive(t, fresh.Count(vnet.Create))
	assert.Zero(t, fresh.Count(vnet.Delete)+fresh.Count(vnet.Update))

	begin := time.Now()
	r := c.up()
	t.Logf("up took %v", time.Since(begin))
	assert.Less(t, time.Since(begin), time.Minute)

	t.Run("tenants with the same addresses", func(t *testing.T) {
		assert.Equal(t, "web1", r.seen(t, "db1", "tcp", "10.0.0.11", 80).Who)
		assert.Equal(t, "app1", r.seen(t, "app2", "tcp", "10.0.0.11", 80).Who)
	})
	t.Run("floating IPs and port forwarding", func(t *testing.T) {
		assert.Equal(t, "web1", r.seen(t, "world", "tcp", "203.0.113.101", 80).Who)
		assert.Equal(t, "web2", r.seen(t, "web1", "tcp", "203.0.113.102", 80).Who, "hairpin to the neighbour")
		assert.Equal(t, "app2", r.seen(t, "office", "tcp", "203.0.113.104", 8080).Who)
		assert.False(t, r.seen(t, "office", "tcp", "203.0.113.104", 80).OK)
	})
	t.Run("source NAT", func(t *testing.T) {
		assert.True(t, r.seen(t, "db1", "icmp", "203.0.113.10", 0).OK)
		assert.False(t, r.seen(t, "vault1", "icmp", "203.0.113.10", 0).OK)
	})
	t.Run("shared address pair", func(t *testing.T) {
		assert.Equal(t, "web1", r.seen(t, "db1", "tcp", "10.0.0.100", 80).Who)
	})
	t.Run("leases", func(t *testing.T) {
		by := map[string]string{}
		for _, s := range r.VMs {
			for _, l := range s.Leases {
				by[s.Name+" "+l.By] = l.Address.Addr().String()
			}
		}
		assert.Equal(t, "10.0.0.11", by["web1 dhcpv4"])
		assert.Contains(t, by, "web1 slaac")
		assert.Contains(t, by, "app1 dhcpv6")
		assert.Contains(t, by, "vault1 dhcpv4")
		for _, l := range r.vm("web1").Leases {
			if l.By == "dhcpv4" {
				assert.Equal(t, 1450, l.MTU)
				assert.Contains(t, l.Routes, "192.168.200.0/24 via 10.0.0.1")
			}
		}
	})
	t.Run("metadata", func(t *testing.T) {
		for name, ip := range map[string]string{"web1": "10.0.0.11", "app1": "10.0.0.11", "vault1": ""} {
			m := r.vm(name).Metadata
			require.NotNil(t, m, name)
			assert.Equal(t, name, m.Name)
			if ip != "" {
				assert.Equal(t, ip, m.LocalIPv4, name)
			}
		}
		m := r.vm("web1").Metadata
		assert.Equal(t, []string{"alice"}, m.Keys)
		assert.Equal(t, "web", m.Meta["role"])
		assert.Equal(t, "203.0.113.101", m.PublicIPv4)
		assert.Positive(t, m.UserData)
	})
	t.Run("plan is empty", func(t *testing.T) {
		assert.Empty(t, c.plan().Changes)
		assert.Contains(t, c.must("plan", "-f", c.file), "nothing to do")
	})
	t.Run("up again changes nothing", func(t *testing.T) {
		again := c.up()
		assert.Empty(t, again.Plan.Changes)
		assert.Equal(t, r.vm("web1").PID, again.vm("web1").PID, "no machine started again")
	})
	t.Run("status", func(t *testing.T) {
		out := c.must("status")
		for _, s := range []string{"h1", "h2", "all is well", "web1", "10.0.0.11", "fip-web1", "red-router"} {
			assert.Contains(t, out, s)
		}
		var js struct {
			Agent bool
			Hosts map[string]struct{ Leases []json.RawMessage }
		}
		require.NoError(t, json.Unmarshal([]byte(c.must("status", "--json")), &js))
		assert.True(t, js.Agent)
		assert.NotEmpty(t, js.Hosts["h1"].Leases)
	})
	t.Run("matrix", func(t *testing.T) {
		assert.Contains(t, c.must("matrix"), ", 0 not as the model says")
	})
	t.Run("explain", func(t *testing.T) {
		for _, what := range [][]string{{"port", "web1"}, {"network", "red"}, {"router", "red-router"}, {"floatingip", "fip-web1"}, {"rule", "red-web/3"}, {"group", "red-db"},
			{"packet", "web1", "db1", "tcp", "5432"}, {"packet", "world", "203.0.113.101", "tcp", "80"}, {"packet", "app1", "10.0.0.20"}} {
			out := c.must(append([]string{"explain"}, what...)...)
			assert.Greater(t, strings.Count(out, "\n"), 1, "%v: %s", what, out)
			assert.True(t, json.Valid([]byte(c.must(append([]string{"explain", "--json"}, what...)...))))
		}
		_, err := c.run("explain", "port", "nobody")
		assert.Error(t, err)
	})
	t.Run("graph", func(t *testing.T) {
		svg := c.must("graph")
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		assert.Contains(t, svg, "web1")
		assert.Contains(t, c.must("graph", "--format", "mermaid"), "flowchart")
	})
	t.Run("exec", func(t *testing.T) {
		assert.Equal(t, "web1\n", c.must("exec", "web1", "--", "hostname"))
		assert.Contains(t, c.must("exec", "web1", "--", "cat", "/etc/resolv.conf"), "nameserver 203.0.113.10")
		_, err := c.run("exec", "web1", "--", "sh", "-c", "exit 7")
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, 7, exit.ExitCode())
	})
	t.Run("a changed file is applied", func(t *testing.T) {
		// A rule less, another port forwarded, a server more, one gone.
		c.edit("      - {direction: ingress, protocol: icmp}\n", "")
		c.edit("external_port: 8080", "external_port: 8081")
		c.edit("  - name: vault2\n    host: h2\n    networks: [{network: closed}]\n", "  - name: vault3\n    host: h2\n    networks: [{network: closed}]\n")
		p := c.plan()
		assert.NotEmpty(t, p.Changes)
		text := p.String()
		for _, s := range []string{"red-web", "vault3", "vault2", "fip-blue-tcp-8081"} {
			assert.Contains(t, text, s)
		}
		pid := r.vm("web1").PID
		now := c.up()
		assert.Equal(t, pid, now.vm("web1").PID, "a machine that did not change runs on")
		assert.False(t, now.seen(t, "db1", "icmp", "10.0.0.11", 0).OK)
		assert.Equal(t, "app2", now.seen(t, "office", "tcp", "203.0.113.104", 8081).Who)
		assert.Empty(t, c.plan().Changes)
	})
	t.Run("the agent killed", func(t *testing.T) {
		require.NoError(t, c.machine().Kill("agent"))
		assert.Contains(t, c.must("status"), "the agent does not run")
		// What is in the kernel stands without the agent; what was served by it does not.
		for _, ch := range c.up().Plan.Changes {
			assert.Contains(t, []vnet.Part{vnet.PartDHCP, vnet.PartMetadata}, ch.Part, ch.String())
		}
		assert.Empty(t, c.plan().Changes)
	})
	t.Run("a machine killed", func(t *testing.T) {
		require.NoError(t, c.machine().Kill("vm web2"))
		r := c.up()
		assert.Equal(t, vm.Ready, r.vm("web2").Phase)
	})
	t.Run("a host taken out of the file", func(t *testing.T) {
		text, err := os.ReadFile(c.file)
		require.NoError(t, err)
		c.edit(h2, "")
		now, err := os.ReadFile(c.file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(c.file, []byte(strings.ReplaceAll(string(now), "host: h2", "host: h1")), 0o644))
		c.up("--force")
		assert.Empty(t, c.plan().Changes)
		require.NoError(t, os.WriteFile(c.file, text, 0o644))
		c.up("--force")
	})
}

// The same file is the same cloud on OVN, on two hypervisors.
func TestShippedCloudOnOVN(t *testing.T) {
	lab.Need(t, "ovs-vswitchd", "ovn-northd", "ovn-controller")
	c := newCloud(t, "topology.yaml")
	c.backend = topology.OVN
	fresh := c.plan()
	assert.Positive(t, fresh.Count(vnet.Create))
	r := c.up()
	for _, s := range r.VMs {
		assert.Equal(t, vm.Ready, s.Phase, "%s: %v", s.Name, s.Problems)
	}
	assert.Equal(t, "web1", r.seen(t, "db1", "tcp", "10.0.0.11", 80).Who)
	assert.Equal(t, "app1", r.seen(t, "app2", "tcp", "10.0.0.11", 80).Who)
	assert.Equal(t, "web1", r.seen(t, "world", "tcp", "203.0.113.101", 80).Who)
	assert.Equal(t, "web2", r.seen(t, "web1", "tcp", "203.0.113.102", 80).Who, "hairpin to the neighbour")
	assert.Equal(t, "app2", r.seen(t, "office", "tcp", "203.0.113.104", 8080).Who)
	assert.Equal(t, "web1", r.seen(t, "db1", "tcp", "10.0.0.100", 80).Who, "the shared address pair")
	assert.True(t, r.seen(t, "db1", "icmp", "203.0.113.10", 0).OK)
	assert.False(t, r.seen(t, "vault1", "icmp", "203.0.113.10", 0).OK)
	for _, l := range r.vm("web1").Leases {
		if l.By == "dhcpv4" {
			assert.Equal(t, 1442, l.MTU)
		}
	}
	for _, name := range []string{"web1", "app1", "vault1"} {
		require.NotNil(t, r.vm(name).Metadata, name)
		assert.Equal(t, name, r.vm(name).Metadata.Name)
	}
	assert.Equal(t, []string{"alice"}, r.vm("web1").Metadata.Keys)
	assert.Empty(t, c.plan().Changes)
	assert.Contains(t, c.must("status"), "OVN connection tracking")
	for _, what := range [][]string{{"port", "web1"}, {"network", "red"}, {"router", "red-router"}, {"floatingip", "fip-web1"}, {"portforward", "fip-blue-tcp-8080"},
		{"rule", "red-web/3"}, {"group", "red-db"}, {"scope", "red4"}, {"packet", "web1", "db1", "tcp", "5432"}} {
		out := c.must(append([]string{"explain"}, what...)...)
		assert.Greater(t, strings.Count(out, "\n"), 1, "%v: %s", what, out)
	}
	assert.Contains(t, c.must("explain", "packet", "web1", "db1", "tcp", "5432"), `output to "`+c.name+`/db1-red"`, "by ovn-trace")
	assert.NotContains(t, c.must("explain", "packet", "web1", "db1", "tcp", "22"), "output to")
	t.Run("another backend in its place", func(t *testing.T) {
		c.backend = topology.Linux
		_, err := c.run("up", "-f", c.file)
		assert.ErrorContains(t, err, "is up on ovn")
		c.backend = topology.OVN
	})
	t.Run("daemons and the agent killed", func(t *testing.T) {
		m := c.machine()
		require.NoError(t, errors.Join(m.Kill("agent"), m.Kill("ovs h1 vswitchd"), m.Kill("ovs h2 controller"), m.Kill("ovs _central northd")))
		assert.Empty(t, c.up().Plan.Changes, "all of it is in the databases")
	})
	t.Run("a changed file is applied", func(t *testing.T) {
		c.edit("      - {direction: ingress, protocol: icmp}\n", "")
		c.edit("external_port: 8080", "external_port: 8081")
		c.edit("  - name: vault2\n    host: h2\n    networks: [{network: closed}]\n", "  - name: vault3\n    host: h2\n    networks: [{network: closed}]\n")
		pid := r.vm("web1").PID
		now := c.up()
		assert.Equal(t, pid, now.vm("web1").PID, "a machine that did not change runs on")
		assert.False(t, now.seen(t, "db1", "icmp", "10.0.0.11", 0).OK)
		assert.Equal(t, "app2", now.seen(t, "office", "tcp", "203.0.113.104", 8081).Who)
		assert.Empty(t, c.plan().Changes)
		vswitch := c.machine().OVN("h2").Vswitch
		lab.Eventually(t, 20*time.Second, "the device of the server that has gone is unplugged", func() bool {
			out, err := exec.Command("ovs-vsctl", "--db="+vswitch, "--bare", "--columns=external_ids", "list", "Interface").Output()
			return err == nil && strings.Contains(string(out), "vault3-closed") && !strings.Contains(string(out), "vault2-closed")
		})
	})
}

// The same file is the same cloud on Open vSwitch without OVN, on two hosts
// and, with some machines moved, on three.
func TestShippedCloudOnOVS(t *testing.T) {
	lab.Need(t, "ovs-vswitchd")
	c := newCloud(t, "topology.yaml")
	c.backend = topology.OVS
	r := c.up()
	for _, s := range r.VMs {
		assert.Equal(t, vm.Ready, s.Phase, "%s: %v", s.Name, s.Problems)
	}
	assert.Equal(t, "web1", r.seen(t, "db1", "tcp", "10.0.0.11", 80).Who)
	assert.Equal(t, "app1", r.seen(t, "app2", "tcp", "10.0.0.11", 80).Who)
	assert.Equal(t, "web1", r.seen(t, "world", "tcp", "203.0.113.101", 80).Who)
	assert.Equal(t, "web1", r.seen(t, "web1", "tcp", "203.0.113.101", 80).Who, "hairpin to itself")
	assert.Equal(t, "app2", r.seen(t, "office", "tcp", "203.0.113.104", 8080).Who)
	assert.False(t, r.seen(t, "vault1", "icmp", "203.0.113.10", 0).OK)
	for _, name := range []string{"web1", "app1", "vault1"} {
		require.NotNil(t, r.vm(name).Metadata, name)
		assert.Equal(t, name, r.vm(name).Metadata.Name)
	}
	assert.Empty(t, c.plan().Changes)
	assert.Contains(t, c.must("status"), "Open vSwitch connection tracking")
	for _, what := range [][]string{{"port", "web1"}, {"network", "red"}, {"router", "red-router"}, {"floatingip", "fip-web1"}, {"portforward", "fip-blue-tcp-8080"},
		{"rule", "red-web/3"}, {"group", "red-db"}, {"scope", "red4"}, {"packet", "web1", "db1", "tcp", "5432"}} {
		out := c.must(append([]string{"explain"}, what...)...)
		assert.Greater(t, strings.Count(out, "\n"), 1, "%v: %s", what, out)
	}
	trace := func(args ...string) string {
		out := c.must(append([]string{"explain", "packet"}, args...)...)
		assert.Contains(t, out, "ofproto/trace on h1, from port web1-port", "%v", args)
		return out
	}
	arrives := trace("web1", "db1", "tcp", "5432")
	assert.Contains(t, arrives, "ofproto/trace on h2, from the tunnel")
	assert.Contains(t, arrives, "output:NXM_NX_REG3")
	assert.NotContains(t, trace("web1", "db1", "tcp", "22"), "output:NXM_NX_REG3")
	assert.Contains(t, trace("web1", "db1", "icmp"), "icmp_type=8")
	t.Run("the agent killed", func(t *testing.T) {
		require.NoError(t, c.machine().Kill("agent"))
		assert.Empty(t, c.up().Plan.Changes, "all of it is in the switches")
	})
	t.Run("a switch killed", func(t *testing.T) {
		require.NoError(t, errors.Join(c.machine().Kill("ovs h1 vswitchd"), c.machine().Kill("ovs h2 db-server")))
		c.up()
		assert.Empty(t, c.plan().Changes)
	})
	t.Run("a changed file is applied", func(t *testing.T) {
		c.edit("      - {direction: ingress, protocol: icmp}\n", "")
		c.edit("external_port: 8080", "external_port: 8081")
		c.edit("  - name: vault2\n    host: h2\n    networks: [{network: closed}]\n", "  - name: vault3\n    host: h2\n    networks: [{network: closed}]\n")
		pid := r.vm("web1").PID
		now := c.up()
		assert.Equal(t, pid, now.vm("web1").PID, "a machine that did not change runs on")
		assert.False(t, now.seen(t, "db1", "icmp", "10.0.0.11", 0).OK)
		assert.Equal(t, "app2", now.seen(t, "office", "tcp", "203.0.113.104", 8081).Who)
		assert.Empty(t, c.plan().Changes)
	})
	t.Run("on three hosts", func(t *testing.T) {
		c.edit(h2, h2+strings.Replace(h2, "h2", "h3", 1))
		c.edit("  - name: db1\n    host: h2\n", "  - name: db1\n    host: h3\n")
		c.edit("  - name: app2\n    host: h2\n", "  - name: app2\n    host: h3\n")
		now := c.up("--force")
		assert.Equal(t, "web1", now.seen(t, "db1", "tcp", "10.0.0.11", 80).Who)
		assert.Equal(t, "app2", now.seen(t, "office", "tcp", "203.0.113.104", 8081).Who)
		assert.Empty(t, c.plan().Changes)
	})
}

// Killed at any point, up on Open vSwitch again converges, and down leaves nothing.
func TestChaosOnOVS(t *testing.T) {
	lab.Need(t, "ovs-vswitchd")
	testChaos(t, topology.OVS, 2*time.Second)
}

// Killed at any point, up on OVN again converges, and down leaves nothing.
func TestChaosOnOVN(t *testing.T) {
	lab.Need(t, "ovs-vswitchd", "ovn-northd", "ovn-controller")
	testChaos(t, topology.OVN, 3*time.Second)
}

// testChaos kills up within a time.
func testChaos(t *testing.T, backend string, within time.Duration) {
	c := newCloud(t, "../topologies/routed.yaml")
	c.backend = backend
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range (*chaos + 4) / 5 {
		cmd := c.command("up", "-f", c.file)
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(rnd.Float64() * float64(within)))
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		if i%3 == 2 {
			require.NoError(t, c.machine().Kill("agent"))
		}
		if i%2 == 0 {
			c.up()
			assert.Empty(t, c.plan().Changes)
		}
		c.must("down", "--name", c.name)
		require.Empty(t, c.left(), "round %d", i)
	}
}

// Every topology that is shipped comes up as its model says, on every backend.
func TestTopologies(t *testing.T) {
	files, err := filepath.Glob("../topologies/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for i := range len(topology.Backends) * len(files) {
		f, backend := files[i/len(topology.Backends)], topology.Backends[i%len(topology.Backends)]
		t.Run(filepath.Base(f)+" on "+backend, func(t *testing.T) {
			c := newCloud(t, f)
			c.backend = backend
			r := c.up()
			for _, s := range r.VMs {
				assert.Equal(t, vm.Ready, s.Phase, "%s: %v", s.Name, s.Problems)
			}
			assert.Empty(t, c.plan().Changes)
		})
	}
}

// Machines boot with the clients that real ones have.
func TestForeignClients(t *testing.T) {
	for _, client := range []string{"udhcpc", "dhclient", "dhcpcd"} {
		t.Run(client, func(t *testing.T) {
			c := newCloud(t, "../topologies/routed.yaml")
			lab.Need(t, client)
			r := c.up("--client", client)
			for _, name := range []string{"f1", "b1", "b2"} {
				s := r.vm(name)
				assert.Equal(t, client, s.Client)
				require.Equal(t, vm.Ready, s.Phase, "%s: %v", name, s.Problems)
				require.NotEmpty(t, s.Leases, name)
				l := s.Leases[0]
				assert.Equal(t, "dhcpv4", l.By)
				assert.NotEmpty(t, l.Server)
				assert.Equal(t, 3600, l.Seconds)
				assert.Equal(t, map[bool]int{true: 1450, false: 1400}[name == "f1"], l.MTU, name)
				assert.Contains(t, c.must("exec", name, "--", "ip", "link", "show", "eth0"), fmt.Sprintf("mtu %d", l.MTU))
				require.NotNil(t, s.Metadata)
				assert.Equal(t, name, s.Metadata.Name)
				assert.Equal(t, name, s.Hostname)
			}
			f1 := r.vm("f1")
			assert.True(t, slices.Contains(f1.Routes, "10.9.0.0/16 via 10.2.0.1 dev eth0"), "%v", f1.Routes)
			assert.True(t, slices.ContainsFunc(f1.Routes, func(s string) bool { return strings.HasPrefix(s, "default via 10.2.0.1") }), "%v", f1.Routes)
			assert.Equal(t, "198.51.100.1", f1.DNS[0].String())
		})
	}
}

// Killed at any point, up again converges, and down leaves nothing.
func TestChaos(t *testing.T) {
	c := newCloud(t, "topology.yaml")
	begin := time.Now()
	c.up()
	whole := time.Since(begin)
	c.must("down", "--name", c.name)
	require.Empty(t, c.left())
	seed := rand.Uint64()
	t.Logf("seed %d, a whole up takes %v", seed, whole)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range *chaos {
		cmd := c.command("up", "-f", c.file)
		require.NoError(t, cmd.Start())
		// Every other kill is in the first part, where things are made.
		span := whole
		if i%2 == 0 {
			span = min(whole, 800*time.Millisecond)
		}
		at := time.Duration(rnd.Float64() * float64(span))
		time.Sleep(at)
		cmd.Process.Signal(syscall.SIGKILL)
		err := cmd.Wait()
		if i%4 == 3 {
			require.NoError(t, c.machine().Kill("agent"))
		}
		t.Logf("round %d: killed after %v (%v)", i, at.Round(time.Millisecond), err)
		if i%2 == 0 {
			c.up()
			assert.Empty(t, c.plan().Changes)
		}
		c.must("down", "--name", c.name)
		require.Empty(t, c.left(), "round %d: left after a kill at %v", i, at)
	}
}

// A mistake is said with its line, and nothing is made.
func TestMistakesMakeNothing(t *testing.T) {
	c := newCloud(t, "../topologies/lan.yaml")
	c.edit("network: lan", "network: wan")
	_, err := c.run("up", "-f", c.file)
	require.Error(t, err)
	assert.Regexp(t, `topology\.yaml:\d+: servers\[0\]\.networks\[0\]\.network: there is no network "wan"`, err.Error())
	assert.Empty(t, c.left())
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		args []string
		want int
	}{
		{nil, 2}, {[]string{"fly"}, 2}, {[]string{"up"}, 2}, {[]string{"plan"}, 2}, {[]string{"up", "-f", "x", "--backend", "token-ring"}, 2},
		{[]string{"up", "-f", "x", "--client", "telnet"}, 2}, {[]string{"up", "--colour"}, 2}, {[]string{"exec", "web1"}, 2}, {[]string{"explain", "port"}, 2},
		{[]string{"status", "now"}, 2}, {[]string{"graph", "--format", "png"}, 2},
		{[]string{"up", "-f", "/nonexistent"}, 1}, {[]string{"status", "--state-dir", dir}, 1}, {[]string{"matrix", "--state-dir", dir}, 1},
		{[]string{"down", "--state-dir", filepath.Join(dir, "none")}, 0}, {[]string{"help"}, 0}, {[]string{"schema"}, 0},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := exec.CommandContext(ctx, bin, tt.args...).Run()
		cancel()
		got := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		} else {
			require.NoError(t, err)
		}
		assert.Equal(t, tt.want, got, "cloud %s", strings.Join(tt.args, " "))
	}
}

// TestLimits: what the topology limits is limited, on every backend, and
// measured by the machines.
func TestLimits(t *testing.T) {
	lab.Need(t, "ovs-vswitchd", "ovn-northd", "ovn-controller")
	for _, backend := range topology.Backends {
		t.Run(backend, func(t *testing.T) {
			c := newCloud(t, "topology.yaml")
			c.backend = backend
			c.up()
			var taken []matrix.Taken
			require.NoError(t, json.Unmarshal([]byte(c.must("limits", "--name", c.name, "--json")), &taken))
			require.Len(t, taken, 6)
			for _, x := range taken {
				what := fmt.Sprintf("%s %s %s", x.Limit.Kind, x.Limit.ID, x.Limit.Direction)
				require.NotEmpty(t, x.From, what)
				require.Empty(t, x.Seen.Note, what)
				assert.Less(t, x.Seen.Kbps, 1.25*float64(x.Least.Kbps), what)
				assert.Greater(t, x.Seen.Kbps, 0.4*float64(x.Least.Kbps), "TCP through %s", what)
				require.NotNil(t, x.Counted, what)
				assert.NotZero(t, x.Counted.Passed.Packets, what)
			}
			text := c.must("explain", "--name", c.name, "port", "web2-port")
			assert.Contains(t, text, "10000")
		})
	}
}
