package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const wait = 30 * time.Second

// twoVMs makes switch "s" with vm1 on the first and vm2 on the last of the chassis.
func twoVMs(c *Central, hv []*Chassis) (vm1, vm2 *NS) {
	c.NBCtl("ls-add", "s",
		"--", "lsp-add", "s", "vm1", "--", "lsp-set-addresses", "vm1", "02:00:00:00:00:01 10.0.0.1 fd00::1",
		"--", "lsp-add", "s", "vm2", "--", "lsp-set-addresses", "vm2", "02:00:00:00:00:02 10.0.0.2 fd00::2")
	vm1 = hv[0].VM("vm1", "02:00:00:00:00:01", "10.0.0.1/24", "fd00::1/64")
	vm2 = hv[len(hv)-1].VM("vm2", "02:00:00:00:00:02", "10.0.0.2/24", "fd00::2/64")
	for _, p := range []string{"vm1", "vm2"} {
		c.SBCtl("wait-until", "Port_Binding", p, "up=true")
	}
	c.WaitHV()
	return vm1, vm2
}

func pings(t *testing.T, from *NS, to ...string) {
	t.Helper()
	for _, a := range to {
		Eventually(t, wait, from.Short+" reaches "+a, func() bool { return from.Ping(a, 1) == nil })
	}
}

func TestTwoChassisCarryASwitch(t *testing.T) {
	for _, encap := range []string{"geneve", "vxlan"} {
		t.Run(encap, func(t *testing.T) {
			l := New(t)
			start := time.Now()
			c := l.OVNCentral(nil)
			hv := l.Chassis(c, ChassisOptions{Name: "hv1", Encap: encap}, ChassisOptions{Name: "hv2", Encap: encap})
			t.Logf("chassis after %v", time.Since(start))
			vm1, vm2 := twoVMs(c, hv)
			require.NoError(t, vm1.Ping("10.0.0.2", 3), "the first packets pass")
			pings(t, vm1, "fd00::2")
			t.Logf("both pings after %v", time.Since(start))

			// TCP proves the checksums, a full segment the MTU.
			echo(t, vm1, vm2, "tcp", "10.0.0.2:7", 100_000)
			echo(t, vm1, vm2, "tcp", "[fd00::2]:7", 100_000)

			out, err := hv[0].Exec("ovs-vsctl", "--columns=type", "--bare", "find", "Interface", "type="+encap)
			require.NoError(t, err)
			require.Contains(t, out, encap)
			out, err = c.Trace("--minimal", "s", `inport=="vm1" && eth.src==02:00:00:00:00:01 && eth.dst==02:00:00:00:00:02`)
			require.NoError(t, err)
			require.Contains(t, out, `output("vm2")`)

			hv[1].CutTunnels()
			require.Error(t, vm1.Ping("10.0.0.2", 1))
			hv[1].JoinTunnels()
			pings(t, vm1, "10.0.0.2")
		})
	}
}

// echo sends size bytes to a server in another namespace and reads them back.
func echo(t *testing.T, from, at *NS, network, address string, size int) {
	t.Helper()
	var ln net.Listener
	require.NoError(t, at.Do(func() (err error) { ln, err = net.Listen(network, address); return err }))
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, size)
		for n := 0; n < size; {
			k, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += k
		}
		_, _ = c.Write(buf)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	c, err := from.Dial(ctx, network, address)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(wait)))
	go func() { _, _ = c.Write(make([]byte, size)) }()
	buf := make([]byte, size)
	for n := 0; n < size; {
		k, err := c.Read(buf)
		require.NoError(t, err)
		n += k
	}
}

func TestProviderNetworks(t *testing.T) {
	l := New(t)
	c := l.OVNCentral(nil)
	hv := l.Chassis(c, ChassisOptions{Name: "hv1", Physical: []string{"ex"}})[0]
	c.NBCtl("ls-add", "flat",
		"--", "lsp-add", "flat", "ln1", "--", "lsp-set-type", "ln1", "localnet", "--", "lsp-set-options", "ln1", "network_name=ex", "--", "lsp-set-addresses", "ln1", "unknown",
		"--", "lsp-add", "flat", "vm1", "--", "lsp-set-addresses", "vm1", "02:00:00:00:00:01 203.0.113.10 2001:db8:113::10",
		"--", "ls-add", "tagged",
		"--", "lsp-add", "tagged", "ln2", "", "77", "--", "lsp-set-type", "ln2", "localnet", "--", "lsp-set-options", "ln2", "network_name=ex", "--", "lsp-set-addresses", "ln2", "unknown",
		"--", "lsp-add", "tagged", "vm2", "--", "lsp-set-addresses", "vm2", "02:00:00:00:00:02 203.0.113.10")
	vm1 := hv.VM("vm1", "02:00:00:00:00:01", "203.0.113.10/24", "2001:db8:113::10/64")
	hv.VM("vm2", "02:00:00:00:00:02", "203.0.113.10/24") // the same address: the tag alone tells them apart
	out := l.Station(l.Wire("ex"), "out", "203.0.113.1/24", "2001:db8:113::1/64")
	c.WaitHV()
	pings(t, out, "203.0.113.10", "2001:db8:113::10")
	pings(t, vm1, "203.0.113.1", "2001:db8:113::1")
	echo(t, out, vm1, "tcp", "203.0.113.10:7", 10_000)

	cap := out.Capture("eth0")
	ask := ARPRequest(out.MAC("eth0"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.10"))
	ask.VLAN = 77
	Eventually(t, wait, "answer with the tag", func() bool {
		out.Inject("eth0", ask.Bytes())
		f, ok := cap.Find(time.Second, func(f Frame) bool { return f.EtherType == EtherARP && f.VLAN == 77 })
		return ok && f.SrcMAC.String() == "02:00:00:00:00:02"
	})
}

// Tunnels carry BFD, the user space data path translates: what routers with
// several gateways need of the lab.
func TestGatewayMoves(t *testing.T) {
	l := New(t)
	c := l.OVNCentral(nil)
	hv := l.Chassis(c, ChassisOptions{Name: "gw1", Physical: []string{"ex"}}, ChassisOptions{Name: "gw2", Physical: []string{"ex"}}, ChassisOptions{Name: "hv"})
	vm1, vm2 := twoVMs(c, hv[2:])
	c.NBCtl("lr-add", "r",
		"--", "lrp-add", "r", "in", "02:00:00:00:01:01", "10.0.0.254/24",
		"--", "lsp-add", "s", "s-r", "--", "lsp-set-type", "s-r", "router", "--", "lsp-set-addresses", "s-r", "router", "--", "lsp-set-options", "s-r", "router-port=in",
		"--", "lrp-add", "r", "out", "02:00:00:00:01:02", "203.0.113.254/24",
		"--", "lrp-set-gateway-chassis", "out", "gw1", "20", "--", "lrp-set-gateway-chassis", "out", "gw2", "10",
		"--", "ls-add", "ext",
		"--", "lsp-add", "ext", "ln", "--", "lsp-set-type", "ln", "localnet", "--", "lsp-set-options", "ln", "network_name=ex", "--", "lsp-set-addresses", "ln", "unknown",
		"--", "lsp-add", "ext", "ext-r", "--", "lsp-set-type", "ext-r", "router", "--", "lsp-set-addresses", "ext-r", "router", "--", "lsp-set-options", "ext-r", "router-port=out",
		"--", "lr-nat-add", "r", "snat", "203.0.113.254", "10.0.0.0/24",
		"--", "lr-nat-add", "r", "dnat_and_snat", "203.0.113.50", "10.0.0.2")
	vm1.Route("default", "10.0.0.254")
	vm2.Route("default", "10.0.0.254")
	out := l.Station(l.Wire("ex"), "station", "203.0.113.1/24")
	c.WaitHV()
	pings(t, vm1, "203.0.113.1")
	pings(t, out, "203.0.113.50")
	echo(t, vm1, out, "tcp", "203.0.113.1:7", 10_000)
	host := func() string {
		return c.SBCtl("--bare", "--columns=chassis", "find", "Port_Binding", "logical_port=cr-out")
	}
	first := c.SBCtl("--bare", "--columns=_uuid", "find", "Chassis", "name=gw1")
	Eventually(t, wait, "BFD is up everywhere", func() bool {
		out, err := hv[2].Exec("ovs-vsctl", "--bare", "--columns=bfd_status", "find", "Interface", "type=geneve")
		return err == nil && strings.Count(out, "state=up") >= 2
	})
	Eventually(t, wait, "the gateway of highest priority", func() bool { return host() == first })
	start := time.Now()
	hv[0].CutOff()
	pings(t, vm1, "203.0.113.1")
	t.Logf("traffic again after %v", time.Since(start))
	Eventually(t, wait, "the other one says so", func() bool { h := host(); return h != "" && h != first })
	pings(t, out, "203.0.113.50")
	hv[0].Join()
	Eventually(t, wait, "the gateway of highest priority takes over again", func() bool { return host() == first })
	pings(t, vm1, "203.0.113.1")
}

func TestDaemonsStartAgain(t *testing.T) {
	l := New(t)
	c := l.OVNCentral(nil)
	hv := l.Chassis(c, ChassisOptions{Name: "hv1"}, ChassisOptions{Name: "hv2"})
	vm1, vm2 := twoVMs(c, hv)
	pings(t, vm1, "10.0.0.2", "fd00::2")

	// Flows stay without ovn-controller, and the new one takes over.
	hv[0].OVNController.Kill()
	require.NoError(t, vm1.Ping("10.0.0.2", 3))
	hv[0].OVNController.Start()
	c.WaitHV()
	require.NoError(t, vm1.Ping("10.0.0.2", 3))

	// Without the switch nothing passes; its devices and flows come back with it.
	hv[0].Vswitchd.Kill()
	require.Error(t, vm1.Ping("10.0.0.2", 1))
	hv[0].Vswitchd.Start()
	pings(t, vm1, "10.0.0.2", "fd00::2")
	pings(t, vm2, "10.0.0.1", "fd00::1")

	hv[1].Vswitch.Restart()
	require.NoError(t, vm1.Ping("10.0.0.2", 3))

	c.Northds[0].Kill()
	_, err := c.TryNBCtl("--wait=sb", "--timeout=1", "lsp-add", "s", "vm3")
	require.Error(t, err, "nobody translates")
	c.Northds[0].Start()
	c.NBCtl("--wait=hv", "lsp-set-addresses", "vm3", "02:00:00:00:00:03 10.0.0.3")

	c.SB[0].Restart()
	c.NB[0].Restart()
	hv[1].VM("vm3", "02:00:00:00:00:03", "10.0.0.3/24")
	pings(t, vm1, "10.0.0.3")

	// A chassis that is away hears of changes when it is back.
	hv[0].CutOff()
	c.NBCtl("lsp-set-enabled", "vm3", "disabled")
	require.Error(t, vm1.Ping("10.0.0.2", 1))
	hv[0].Join()
	pings(t, vm1, "10.0.0.2")
	c.WaitHV()
	require.Error(t, vm1.Ping("10.0.0.3", 1))

	out, err := hv[0].Exec("ovn-appctl", "connection-status")
	require.NoError(t, err)
	require.Equal(t, "connected", strings.TrimSpace(out))
	out, err = hv[0].Exec("ovs-appctl", "-t", "ovsdb-server", "ovsdb-server/list-dbs")
	require.NoError(t, err)
	require.Contains(t, out, "Open_vSwitch")
	out, err = hv[0].Exec("ovs-ofctl", "dump-flows", "br-int")
	require.NoError(t, err)
	require.Contains(t, out, "cookie")

	hv[1].OVNController.Stop()
	require.Contains(t, c.SBCtl("show"), "hv2")
	hv[1].OVNController.Start()
	c.WaitHV() // it leaves only what it has seen
	hv[1].Leave()
	require.NotContains(t, c.SBCtl("show"), "hv2")
}

func TestRAFTServersComeAndGo(t *testing.T) {
	l := New(t)
	start := time.Now()
	c := l.OVNCentral(&CentralOptions{Raft: true})
	t.Logf("clusters after %v", time.Since(start))
	has := func(s *Server, ls string) bool {
		out, err := l.tool("ovn-nbctl", "--timeout=5", "--no-leader-only", "--db="+s.Unix, "ls-list")
		return err == nil && strings.Contains(out, "("+ls+")")
	}

	killed, others := c.Leader(c.NB)
	killed.Kill()
	killed.CutOff()
	second, _ := c.Leader(others)
	t.Logf("new leader after %v", time.Since(start))
	c.NBCtl("ls-add", "without-first")
	killed.Join()
	killed.Start()
	Eventually(t, wait, "the killed server has what it missed", func() bool { return has(killed, "without-first") })

	second.CutOff()
	third, _ := c.Leader(c.NB)
	require.NotEqual(t, second, third)
	c.NBCtl("ls-add", "without-second")
	require.False(t, has(second, "without-second"))
	second.Join()
	Eventually(t, wait, "the cut off server has what it missed", func() bool { return has(second, "without-second") })

	third.Pause()
	fourth, _ := c.Leader(c.NB)
	require.NotEqual(t, third, fourth)
	third.Resume()
	Eventually(t, wait, "the server that did not answer follows", func() bool { return third.Role() == "follower" })

	fourth, _ = c.Leader(c.NB)
	require.NoError(t, fourth.Transfer())
	Eventually(t, wait, "the leader hands over", func() bool { return fourth.Role() == "follower" })
	last, _ := c.Leader(c.NB)
	require.NotEqual(t, fourth, last)

	last.CutOff()
	others = c.others(last)
	others[0].Kill()
	others[1].Kill()
	_, err := c.TryNBCtl("--timeout=1", "ls-add", "nobody")
	require.Error(t, err, "one of three is no majority")
	t.Logf("end after %v", time.Since(start))
}

// The clients that OVN brings look for a new leader with pauses of up to 8 seconds.
func TestRAFTLeaderOfSouthboundGoes(t *testing.T) {
	l := New(t)
	c := l.OVNCentral(&CentralOptions{Raft: true})
	hv := l.Chassis(c, ChassisOptions{Name: "hv1"}, ChassisOptions{Name: "hv2"})
	vm1, _ := twoVMs(c, hv)
	require.NoError(t, vm1.Ping("10.0.0.2", 3))
	leader, _ := c.Leader(c.SB)
	leader.Kill()
	require.NoError(t, vm1.Ping("10.0.0.2", 3))
	c.NBCtl("lsp-add", "s", "vm3", "--", "lsp-set-addresses", "vm3", "02:00:00:00:00:03 10.0.0.3")
	hv[1].VM("vm3", "02:00:00:00:00:03", "10.0.0.3/24")
	pings(t, vm1, "10.0.0.3")

	active := c.ActiveNorthd()
	active.Kill()
	require.NotEqual(t, active, c.ActiveNorthd())
	c.NBCtl("lsp-set-enabled", "vm3", "disabled")
	c.WaitHV()
	require.Error(t, vm1.Ping("10.0.0.3", 1))
}

func TestForwardAndTLS(t *testing.T) {
	l := New(t)
	c := l.OVNCentral(nil)
	cms := l.Underlay("cms")[0]
	f := cms.Forward(strings.TrimPrefix(c.NB[0].SSL, "ssl:"))
	cert, err := tls.LoadX509KeyPair(c.TLS.ClientCert, c.TLS.ClientKey)
	require.NoError(t, err)
	ca, err := os.ReadFile(c.TLS.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca))
	conn, err := tls.Dial("tcp", f.Addr, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	defer conn.Close()
	ask := func(limit time.Duration) (string, error) {
		require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
		_, err := conn.Write([]byte(`{"id":1,"method":"list_dbs","params":[]}`))
		require.NoError(t, err)
		return bufio.NewReader(conn).ReadString('}')
	}
	answer, err := ask(wait)
	require.NoError(t, err)
	require.Contains(t, answer, "OVN_Northbound")

	f.Hold()
	got := make(chan string, 1)
	require.NoError(t, conn.SetDeadline(time.Now().Add(wait)))
	_, err = conn.Write([]byte(`{"id":2,"method":"list_dbs","params":[]}`))
	require.NoError(t, err)
	go func() {
		s, _ := bufio.NewReader(conn).ReadString('}')
		got <- s
	}()
	select {
	case s := <-got:
		t.Fatalf("answered while held: %s", s)
	case <-time.After(100 * time.Millisecond):
	}
	f.Release()
	require.Contains(t, <-got, "OVN_Northbound")
	f.Reset()
	_, err = bufio.NewReader(conn).ReadByte()
	require.Error(t, err)

	// Without a certificate of its own a client is refused.
	anonymous, err := tls.Dial("tcp", f.Addr, &tls.Config{RootCAs: pool})
	if err == nil { // in TLS 1.3 the refusal comes after the client's handshake
		_ = anonymous.SetDeadline(time.Now().Add(wait))
		_, err = anonymous.Read(make([]byte, 1))
		anonymous.Close()
	}
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)

	plain, err := cms.Dial(context.Background(), "tcp", strings.TrimPrefix(c.SB[0].TCP, "tcp:"))
	require.NoError(t, err)
	plain.Close()
}

// endsEnv makes TestLabEnds, run in a process of its own, end in one of these ways.
const endsEnv = "VNET_LAB_ENDS"

func TestLabEnds(t *testing.T) {
	how := os.Getenv(endsEnv)
	if how != "" {
		l := New(t)
		hv := l.Chassis(l.OVNCentral(nil), ChassisOptions{Name: "hv1", Physical: []string{"ex"}})[0]
		hv.Machine("vm1")
		fmt.Println("log of the machine is up")
		switch how {
		case "failure":
			t.Fatal("on purpose")
		case "panic":
			panic("on purpose")
		case "crash":
			_ = syscall.Kill(hv.OVNController.Pid(), syscall.SIGKILL)
			Eventually(t, wait, "end", func() bool { return !hv.OVNController.Running() })
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return
	}
	New(t) // root, and not under -short
	for how, says := range map[string]string{"failure": "log of hv1/ovn-controller", "panic": "on purpose", "crash": "hv1/ovn-controller ended by itself", "kill": ""} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestLabEnds$", "-test.v")
			cmd.Env = append(os.Environ(), endsEnv+"="+how)
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "%s", out)
			require.Contains(t, string(out), "log of the machine is up")
			require.Contains(t, string(out), says)
			prefix := fmt.Sprintf("lab%d-", cmd.Process.Pid)
			var left []string
			Eventually(t, wait, "the processes end", func() bool { // the kernel ends them after their parent
				left = withArgument(prefix)
				return len(left) == 0
			})
			if how == "kill" { // the next lab removes the rest
				New(t).Dir("x")
			}
			for _, dir := range []string{netnsDir, labDir, runDir} {
				ents, err := os.ReadDir(dir)
				require.NoError(t, err)
				for _, e := range ents {
					require.False(t, strings.HasPrefix(e.Name(), prefix), filepath.Join(dir, e.Name()))
				}
			}
		})
	}
}

// withArgument returns the command lines that contain s.
func withArgument(s string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), s) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
