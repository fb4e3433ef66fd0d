package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/metadata/filesource"
	"github.com/vnet-go/vnet/overlay"
)

var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "agent-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = filepath.Join(dir, "agent")
		if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// The cloud of these tests:
//
//	  h1          h2
//	a1   a2     b1   b2      on red, 10.1.0.0/24 and 2001:db8:1::/64
//	  \  |       |  /
//	   ===========            tunnels over the underlay
//	    r1 (on h1)
//	       |
//	   =========== provider   outside: world, 198.51.100.1
const cloudText = `
name: agents
underlay: {cidr: 192.0.2.0/24}
hosts: [{name: h1, local_ip: 192.0.2.1}, {name: h2, local_ip: 192.0.2.2}]
physical_networks: [{name: provider}]
networks:
  - name: public
    router:external: true
    provider:network_type: flat
    provider:physical_network: provider
    subnets: [{name: public4, cidr: 198.51.100.0/24, enable_dhcp: false}]
  - name: red
    subnets:
      - {name: red4, cidr: 10.1.0.0/24}
      - {name: red6, cidr: 2001:db8:1::/64, ipv6_ra_mode: slaac, ipv6_address_mode: slaac}
routers:
  - {name: r1, host: h1, external_gateway_info: {network_id: public}, interfaces: [{subnet_id: red4}, {subnet_id: red6}]}
security_groups:
  - name: open
    security_group_rules:
      - {direction: egress}
      - {direction: egress, ethertype: IPv6}
      - {direction: ingress, protocol: icmp}
      - {direction: ingress, ethertype: IPv6, protocol: icmpv6}
      - {direction: ingress, protocol: tcp, port_range_min: 7, port_range_max: 7}
servers:
  - {name: a1, host: h1, networks: [{network: red}], security_groups: [open]}
  - {name: a2, host: h1, networks: [{network: red}], security_groups: [open]}
  - {name: b1, host: h2, networks: [{network: red}], security_groups: [open]}
  - {name: b2, host: h2, networks: [{network: red}], security_groups: [open]}
floatingips:
  - {name: fip, floating_network_id: public, port_id: a1}
outside_servers:
  - {name: world, physical_network: provider, addresses: [198.51.100.1/24]}
`

// site is two hosts with an agent each, and machines.
type site struct {
	*testing.T
	l       *lab.Lab
	backend string
	topo    *topology.Cloud
	hosts   map[string]*host
	vms     map[string]*lab.NS
	world   *lab.NS
	owner   string
}

// host is one of them.
type host struct {
	*lab.Host
	s        *site
	sw       *lab.Switch // on Open vSwitch
	name     string
	tunnelIP netip.Addr
	state    string   // path of the state file or directory
	args     []string // of the agent, for this host's platform

	cmd  *exec.Cmd
	stop func()
}

// newSite makes hosts and machines; the agents are not started.
func newSite(t *testing.T, backend string) *site {
	s := &site{T: t, l: lab.New(t), backend: backend, hosts: map[string]*host{}, vms: map[string]*lab.NS{}}
	text := cloudText
	if backend == topology.OVS {
		text = strings.ReplaceAll(text, "192.0.2.", "100.127.0.") // as in lab.Switches
	}
	var err error
	s.topo, err = topology.Parse("cloud", []byte(text), backend)
	require.NoError(t, err)
	s.owner = s.l.Owner("")
	for _, x := range s.topo.VMs {
		s.vms[x.Name] = s.l.NS(x.Name)
	}
	s.world = s.l.NS("world")
	s.l.Plug(s.l.Wire("provider"), s.world, "eth0")
	s.world.Configure("eth0", []string{"198.51.100.1/24"})
	for _, h := range platformHosts[backend](s, "h1", "h2") {
		dir := t.TempDir()
		h.s, h.state = s, filepath.Join(dir, "state.json")
		h.args = append([]string{"-owner", s.owner, "-host", h.name, "-backend", backend, "-netns-dir", s.l.NetnsDir(), "-tunnel-ip", h.tunnelIP.String(),
			"-dir", filepath.Join(dir, "var"), "-instances", filepath.Join(dir, "instances.json"), "-poll", "20ms", "-v"}, h.args...)
		s.hosts[h.name] = h
		write(t, filepath.Join(dir, "instances.json"), s.instances())
		t.Cleanup(h.cleanup)
	}
	return s
}

// platformHosts make hypervisors, with the flags that agents on them need.
var platformHosts = map[string]func(s *site, names ...string) []*host{
	topology.Linux: func(s *site, names ...string) (out []*host) {
		for i, h := range s.l.Underlay(names...) {
			s.l.Plug(s.l.Wire("provider"), h.NS, "prov0")
			h.Up("prov0")
			out = append(out, &host{Host: h, name: names[i], tunnelIP: h.IP, args: []string{"-physical", "provider=prov0"}})
		}
		return out
	},
	topology.OVS: func(s *site, names ...string) (out []*host) {
		s.world.NoOffload("eth0")
		var o []lab.SwitchOptions
		var peers []string
		for name, end := range s.topo.TunnelEnds() {
			peers = append(peers, name+"="+end.String())
		}
		for _, n := range names {
			o = append(o, lab.SwitchOptions{Name: n, Physical: []string{"provider"}})
		}
		for i, sw := range s.l.Switches(o...) {
			out = append(out, &host{Host: sw.Host, sw: sw, name: names[i], tunnelIP: sw.EncapIP, args: []string{"-vswitch", sw.Endpoint, "-ovs-control", sw.Vswitchd.Ctl,
				"-datapath", "netdev", "-physical", "provider=" + sw.Mappings["provider"], "-peers", strings.Join(peers, ",")}})
		}
		return out
	},
}

// instances is what the machines are told about themselves.
func (s *site) instances() filesource.File {
	var f filesource.File
	for _, v := range s.topo.VMs {
		e := filesource.Entry{Instance: v.Instance}
		for _, nic := range v.NICs {
			for _, ip := range nic.IPs {
				e.At = append(e.At, filesource.Place{Network: nic.NetworkID, Address: ip}, filesource.Place{Router: "r1", Address: ip})
			}
		}
		f.Instances = append(f.Instances, e)
	}
	return f
}

// document is a state as a file has it.
type document struct {
	Revision string `json:"revision,omitempty"`
	Force    string `json:"force,omitempty"`
	desired.State
}

// wanted is what a host is to be.
func (s *site) wanted(name, revision string) document {
	h := s.topo.Host(name)
	d := document{Revision: revision, State: desired.State{States: h.States}}
	for _, v := range s.topo.VMs {
		if v.Host != name {
			continue
		}
		for _, nic := range v.NICs {
			d.Attachments = append(d.Attachments, overlay.Attachment{PortID: nic.PortID, Kind: overlay.Veth, Name: nic.Device, Netns: s.vms[v.Name].Path})
		}
	}
	return d
}

// write replaces a file by v as JSON.
func write(t *testing.T, path string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	require.NoError(t, err)
	writeText(t, path, string(b))
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// start starts a host's agent.
func (h *host) start(flags ...string) {
	h.s.Helper()
	h.cmd, h.stop = h.Start(bin, append(append(slices.Clone(h.args), "-state", h.state), flags...)...)
}

// end sends the agent a signal and waits until it has ended; how is its exit status.
func (h *host) end(sig syscall.Signal) (how *os.ProcessState) {
	h.s.Helper()
	require.NoError(h.s, h.cmd.Process.Signal(sig))
	lab.Eventually(h.s, 30*time.Second, "the agent's end", func() bool { return syscall.Kill(h.cmd.Process.Pid, 0) != nil })
	h.stop() // it waits for the exit status
	return h.cmd.ProcessState
}

// cleanup takes away what the agent has made.
func (h *host) cleanup() {
	if h.cmd != nil {
		h.stop()
	}
	out, err := h.Exec(context.Background(), bin, append(slices.Clone(h.args), "-cleanup")...)
	if err != nil {
		h.s.Errorf("cleanup of %s: %v\n%s", h.name, err, out)
	}
}

// get asks the agent; status 0 when nobody answers.
func (h *host) get(page string) (status int, body string) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) { return h.Dial(ctx, network, addr) }}}
	resp, err := c.Get("http://127.0.0.1:9699" + page)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (h *host) health() (status int, out health) {
	status, body := h.get("/healthz")
	if status != 0 {
		require.NoError(h.s, json.Unmarshal([]byte(body), &out), body)
	}
	return status, out
}

// until waits for what the agent says of itself.
func (h *host) until(what string, ok func(status int, x health) bool) {
	h.s.Helper()
	var last string
	defer func() {
		if h.s.Failed() {
			h.s.Logf("%s said at last: %s", h.name, last)
		}
	}()
	lab.Eventually(h.s, 60*time.Second, h.name+": "+what, func() bool {
		status, x := h.health()
		b, _ := json.Marshal(x)
		last = fmt.Sprint(status, " ", string(b))
		return status != 0 && ok(status, x)
	})
}

// applied waits until a revision is the host's, whole.
func (h *host) applied(revision string) {
	h.s.Helper()
	h.until("revision "+revision, func(status int, x health) bool { return status == 200 && x.Applied == revision && x.Behind.IsZero() })
}

// metric is the sum of a metric over its labels.
func (h *host) metric(name string) (sum float64) {
	h.s.Helper()
	status, body := h.get("/metrics")
	require.Equal(h.s, 200, status, body)
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(h.s, err)
		sum += v
	}
	return sum
}

// up writes all states and starts all agents.
func (s *site) up(revision string) {
	s.Helper()
	for name, h := range s.hosts {
		write(s.T, h.state, s.wanted(name, revision))
		h.start()
	}
	for _, h := range s.hosts {
		h.applied(revision)
	}
}

// segment is one that the platform tunnels.
func (s *site) segment(id uint32) overlay.Segment {
	for _, n := range s.topo.All.Overlay.Networks {
		if n.Segment.Type.Tunnel() {
			return overlay.Segment{Type: n.Segment.Type, ID: id}
		}
	}
	panic("no tunnelled network")
}

// addr is the IPv4 address of a machine.
func (s *site) addr(vm string) netip.Addr {
	for _, a := range s.topo.VM(vm).NICs[0].IPs {
		if a.Is4() {
			return a
		}
	}
	panic("no IPv4 address")
}

// boot gives machines their addresses.
func (s *site) boot(names ...string) {
	s.Helper()
	for _, n := range names {
		s.vms[n].Configure("eth0", []string{s.addr(n).String() + "/24"}, "10.1.0.1")
	}
}

func (s *site) reaches(from *lab.NS, to string) {
	s.Helper()
	lab.Eventually(s, 30*time.Second, from.Short+" reaches "+to, func() bool { return from.Ping(to, 1) == nil })
}

// traffic is a TCP connection and a ping between two machines.
type traffic struct {
	s      *site
	what   string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	lines int
	gap   time.Duration // the longest that an answer took
	err   error
	ping  string
}

// traffic sends between two machines until done is called.
func (s *site) traffic(from, to string) *traffic {
	s.Helper()
	t := &traffic{s: s, what: from + " to " + to}
	var ln net.Listener
	require.NoError(s, s.vms[to].Do(func() (err error) { ln, err = net.Listen("tcp4", ":7"); return err }))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	dst := s.addr(to).String()
	conn, err := s.vms[from].Dial(s.Context(), "tcp", dst+":7")
	require.NoError(s, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = func() { cancel(); ln.Close() }
	s.Cleanup(t.cancel)
	t.wg.Go(func() {
		defer conn.Close()
		for r := bufio.NewReader(conn); ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			begin := time.Now()
			_ = conn.SetDeadline(begin.Add(30 * time.Second))
			_, err := fmt.Fprintln(conn, "x")
			if err == nil {
				_, err = r.ReadString('\n')
			}
			t.mu.Lock()
			if t.err = err; err == nil {
				t.lines++
				t.gap = max(t.gap, time.Since(begin))
			}
			t.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.wg.Go(func() {
		cmd := exec.Command("ping", "-n", "-q", "-i", "0.02", dst)
		var out strings.Builder
		cmd.Stdout = &out
		if err := s.vms[from].Do(cmd.Start); err != nil {
			t.ping = err.Error()
			return
		}
		<-ctx.Done()
		_ = cmd.Process.Signal(syscall.SIGINT) // it tells what it has lost
		_ = cmd.Wait()
		t.ping = out.String()
	})
	return t
}

// done ends it: nothing may have been lost.
func (t *traffic) done() {
	t.s.Helper()
	t.cancel()
	t.wg.Wait()
	require.NoError(t.s, t.err, t.what)
	require.Greater(t.s, t.lines, 10, t.what)
	var sent, came int
	_, stats, _ := strings.Cut(t.ping, "statistics ---\n")
	_, err := fmt.Sscanf(stats, "%d packets transmitted, %d received", &sent, &came)
	require.NoError(t.s, err, t.ping)
	require.LessOrEqual(t.s, sent-came, 1, "%s: at most the last ping was still on its way: %s", t.what, t.ping)
	t.s.Logf("%s: %d lines, the slowest after %v; %s", t.what, t.lines, t.gap.Round(time.Millisecond), strings.Split(t.ping, "\n")[3])
}

// flows waits until the connection has carried more.
func (t *traffic) flows() {
	t.s.Helper()
	count := func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.err != nil && !errors.Is(t.err, net.ErrClosed) {
			t.s.Fatalf("%s: the connection broke: %v", t.what, t.err)
		}
		return t.lines
	}
	from := count()
	lab.Eventually(t.s, 20*time.Second, t.what+" goes on", func() bool { return count() > from+5 })
}

// clone copies a state by way of JSON.
func clone(s desired.State) (out desired.State, err error) {
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, err
}

func mustPrefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
