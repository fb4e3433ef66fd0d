// Package ovsdbtest runs real ovsdb-servers for tests: standalone ones and
// RAFT clusters, on sockets in a folder of their own, ended by pid.
package ovsdbtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnet-go/vnet/internal/lab"
)

// The schemas that Debian's packages install.
const (
	NB      = "/usr/share/ovn/ovn-nb.ovsschema"
	SB      = "/usr/share/ovn/ovn-sb.ovsschema"
	VSwitch = "/usr/share/openvswitch/vswitch.ovsschema"
)

// Server is one ovsdb-server.
type Server struct {
	t    testing.TB
	Dir  string
	db   string
	args []string // further ones
	cmd  *exec.Cmd
	done chan struct{}
	out  bytes.Buffer
	raft string // its RAFT address
}

// dir is short: the path of a socket has 107 characters at most.
func dir(t testing.TB) string {
	sweep()
	d, err := os.MkdirTemp("", fmt.Sprintf("vnet-ovsdb-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// New starts a standalone server with an empty database of the schema, and
// for the schemas of OVN the one row that says it is in use.
func New(t testing.TB, schema string, args ...string) *Server {
	t.Helper()
	lab.New(t) // leaves the test out of -short runs
	lab.Need(t, "ovsdb-server", "ovsdb-tool", "ovsdb-client")
	s := &Server{t: t, Dir: dir(t), args: args}
	s.db = filepath.Join(s.Dir, "db")
	s.Run("ovsdb-tool", "create", s.db, schema)
	s.Start()
	s.init(schema)
	return s
}

// Empty is New without the row.
func Empty(t testing.TB, schema string, args ...string) *Server {
	t.Helper()
	lab.New(t)
	lab.Need(t, "ovsdb-server", "ovsdb-tool", "ovsdb-client")
	s := &Server{t: t, Dir: dir(t), args: args}
	s.db = filepath.Join(s.Dir, "db")
	s.Run("ovsdb-tool", "create", s.db, schema)
	s.Start()
	return s
}

// sweep ends and removes what test processes that were killed have left.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "vnet-ovsdb-*-*"))
	for _, d := range dirs {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(d), "-")[2])
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(d, "pid")); err == nil {
			n, err := strconv.Atoi(strings.TrimSpace(string(b)))
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n))
			if err == nil && bytes.Contains(args, []byte(d)) { // and not another process of that number
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
		os.RemoveAll(d)
	}
}

func (s *Server) init(schema string) {
	for _, o := range []struct{ db, table, probe string }{
		{"OVN_Northbound", "NB_Global", NB}, {"OVN_Southbound", "SB_Global", SB}, {"Open_vSwitch", "Open_vSwitch", VSwitch},
	} {
		b, err := os.ReadFile(schema)
		if err != nil {
			s.t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"`+o.db+`"`)) {
			s.Transact(fmt.Sprintf(`[%q,{"op":"insert","table":%q,"row":{}}]`, o.db, o.table))
		}
	}
}

// Cluster starts n servers of one RAFT cluster, each with a folder of its own;
// the first has made it.
func Cluster(t testing.TB, schema, db string, n int) []*Server {
	t.Helper()
	lab.New(t)
	lab.Need(t, "ovsdb-server", "ovsdb-tool", "ovsdb-client")
	var all []*Server
	for i := range n {
		s := &Server{t: t, Dir: dir(t)}
		s.db = filepath.Join(s.Dir, "db")
		s.raft = "unix:" + filepath.Join(s.Dir, "raft")
		if i == 0 {
			s.Run("ovsdb-tool", "create-cluster", "--election-timer=1000", s.db, schema, s.raft)
		} else {
			s.Run("ovsdb-tool", "join-cluster", s.db, db, s.raft, all[0].raft)
		}
		s.Start()
		if i == 0 {
			s.init(schema)
		} else {
			lab.Eventually(t, time.Minute, "a server joins the cluster", func() bool {
				out, err := exec.Command("ovs-appctl", "-t", s.ctl(), "cluster/status", db).CombinedOutput()
				return err == nil && strings.Contains(string(out), "Status: cluster member")
			})
		}
		all = append(all, s)
	}
	return all
}

// Leader returns the leader of a cluster.
func Leader(t testing.TB, all []*Server, db string) *Server {
	t.Helper()
	var leader *Server
	lab.Eventually(t, time.Minute, "the cluster has a leader", func() bool {
		for _, s := range all {
			if s.cmd == nil {
				continue
			}
			out, err := exec.Command("ovs-appctl", "-t", s.ctl(), "cluster/status", db).CombinedOutput()
			if err == nil && strings.Contains(string(out), "Role: leader") {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

func (s *Server) ctl() string { return filepath.Join(s.Dir, "ctl") }

// Endpoint is where the server listens.
func (s *Server) Endpoint() string { return "unix:" + filepath.Join(s.Dir, "sock") }

// Start runs the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	os.Remove(s.ctl())
	args := append([]string{"-vconsole:warn", "-vsyslog:off", "--no-chdir", "--pidfile=" + filepath.Join(s.Dir, "pid"), "--unixctl=" + s.ctl(), "--remote=punix:" + filepath.Join(s.Dir, "sock")}, s.args...)
	s.cmd = exec.Command("ovsdb-server", append(args, s.db)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.Env = append(os.Environ(), "OVS_RUNDIR="+s.Dir, "OVN_RUNDIR="+s.Dir, "OVS_LOGDIR="+s.Dir, "OVS_SYSCONFDIR="+s.Dir, "OVS_DBDIR="+s.Dir)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { cmd.Wait(); close(done) }()
	s.t.Cleanup(func() { cmd.Process.Kill(); <-done })
	lab.Eventually(s.t, time.Minute, "ovsdb-server answers", func() bool {
		c, err := net.Dial("unix", filepath.Join(s.Dir, "sock"))
		if err == nil {
			c.Close()
		}
		_, gone := os.Stat(s.ctl())
		return err == nil && gone == nil
	})
}

// Kill ends the server with signal 9 and waits until it is gone.
func (s *Server) Kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		<-s.done
		s.cmd = nil
	}
}

// Freeze stops the server without ending it, so that it accepts and never
// answers; Thaw lets it go on.
func (s *Server) Freeze() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.cmd.Process.Signal(syscall.SIGCONT) }

// Transact does one transaction with ovsdb-client and returns its output.
func (s *Server) Transact(tx string) string {
	s.t.Helper()
	out := s.Run("ovsdb-client", "--timeout=60", "transact", s.Endpoint(), tx)
	if strings.Contains(out, `"error":`) {
		s.t.Fatalf("%s\n%s", tx, out)
	}
	return out
}

// Run runs a program to its end and returns its output.
func (s *Server) Run(name string, args ...string) string {
	s.t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "OVS_RUNDIR="+s.Dir)
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, s.out.String())
	}
	return string(out)
}

// Northd runs a real ovn-northd between two servers until the test ends or
// stop is called.
func Northd(t testing.TB, nb, sb *Server) (stop func()) {
	t.Helper()
	lab.Need(t, "ovn-northd")
	d := dir(t)
	c := exec.Command("ovn-northd", "-vconsole:warn", "-vsyslog:off", "--unixctl="+filepath.Join(d, "ctl"), "--pidfile="+filepath.Join(d, "pid"),
		"--ovnnb-db="+nb.Endpoint(), "--ovnsb-db="+sb.Endpoint())
	c.Env = append(os.Environ(), "OVS_RUNDIR="+d, "OVN_RUNDIR="+d, "OVN_LOGDIR="+d, "OVS_LOGDIR="+d)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	stop = func() { c.Process.Kill(); <-done }
	t.Cleanup(stop)
	return stop
}
