package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
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
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/ovnoverlay"
	"github.com/vnet-go/vnet/ovn"
)

// site is two hypervisors, and the central part of an application.
type site struct {
	*testing.T
	l        *lab.Lab
	c        *lab.Central
	hv       []*lab.Chassis
	owner    vnet.Owner
	fabric   *overlay.Fabric
	plugs    []*ovnoverlay.Plugger
	metadata *metadata.Service
	bin      string
	file     filesource.File
	path     string // of the file
}

func newSite(t *testing.T) *site {
	lab.Need(t, "curl")
	s := &site{T: t, l: lab.New(t), bin: filepath.Join(t.TempDir(), "metadata-agent")}
	out, err := exec.Command("go", "build", "-o", s.bin, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	s.c = s.l.OVNCentral(nil)
	s.hv = s.l.Chassis(s.c, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
	s.owner = vnet.Owner(s.l.Owner(""))
	s.path = filepath.Join(t.TempDir(), "instances.json")
	conn, err := ovn.Dial(t.Context(), s.owner, strings.Split(s.c.NBEndpoints(), ","), &ovn.Options{
		Southbound: strings.Split(s.c.SBEndpoints(), ","), Wait: ovn.WaitHypervisors, Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	for _, hv := range s.hv {
		ch, err := ovn.OpenChassis(t.Context(), s.owner, hv.Endpoint, &ovn.ChassisOptions{Netns: hv.Path})
		require.NoError(t, err)
		t.Cleanup(func() {
			assert.NoError(t, ch.Cleanup(context.Background()))
			ch.Close()
		})
		p, err := ovnoverlay.NewPlugger(conn, ch)
		require.NoError(t, err)
		s.plugs = append(s.plugs, p)
	}
	ob, err := ovnoverlay.New(conn, nil)
	require.NoError(t, err)
	s.fabric, err = overlay.New(ob, nil)
	require.NoError(t, err)
	mb, err := ovnmetadata.New(conn, nil)
	require.NoError(t, err)
	s.metadata, err = metadata.New(mb, nil)
	require.NoError(t, err)
	return s
}

// machine boots one, and writes down who it is.
func (s *site) machine(name, network, ip string, on int) *lab.NS {
	s.Helper()
	vm := s.l.NS(name)
	n := byte(len(s.file.Instances) + 1)
	mac := vnet.MAC{2, 0, 0, 0, 0, n}
	s.file.Instances = append(s.file.Instances, filesource.Entry{
		At:       []filesource.Place{{Network: network, Address: netip.MustParseAddr(ip)}, {Network: network, MAC: mac}, {Network: network, Address: mac.LinkLocal()}},
		Instance: metadata.Instance{UUID: fmt.Sprintf("11111111-0000-4000-8000-%012d", n), Name: name, Hostname: name + ".example.org", ProjectID: "project-" + network},
	})
	b, err := json.Marshal(s.file)
	require.NoError(s, err)
	require.NoError(s, os.WriteFile(s.path, b, 0o600))
	require.NoError(s, s.fabric.EnsurePort(s.Context(), overlay.Port{ID: name, NetworkID: network, MAC: mac, FixedIPs: []netip.Addr{netip.MustParseAddr(ip)}}))
	_, err = s.plugs[on].Plug(s.Context(), overlay.Attachment{PortID: name, Kind: overlay.Veth, Name: "eth0", Netns: vm.Path})
	require.NoError(s, err)
	vm.Configure("eth0", []string{ip + "/24"})
	vm.Route("169.254.169.254/32", "10.0.0.2") // as DHCP option 121 says
	return vm
}

// agent starts the daemon on a hypervisor.
func (s *site) agent(on int, flags ...string) (*exec.Cmd, func()) {
	args := append([]string{"-owner", string(s.owner), "-southbound", s.c.SB[0].SSL, "-ca", s.c.TLS.CA, "-cert", s.c.TLS.ClientCert, "-key", s.c.TLS.ClientKey,
		"-server-name", "localhost", "-vswitch", s.hv[on].Endpoint, "-netns-dir", s.l.NetnsDir(), "-instances", s.path, "-v"}, flags...)
	return s.hv[on].Start(s.bin, args...)
}

// status is that of a page of a hypervisor's daemon, and the page; 0 when
// nobody answers.
func (s *site) status(on int, page string) (code int, body string) {
	out, err := s.hv[on].NS.Exec(s.Context(), "curl", "-sS", "-m", "5", "-w", "\n%{http_code}", "http://127.0.0.1:9698"+page)
	if err != nil {
		return 0, err.Error()
	}
	i := strings.LastIndexByte(out, '\n')
	_, err = fmt.Sscan(out[i+1:], &code)
	require.NoError(s, err)
	return code, out[:i]
}

func (s *site) healthy(on, code int) {
	s.Helper()
	lab.Eventually(s, 60*time.Second, fmt.Sprintf("health %d of %s", code, s.hv[on].ChassisName), func() bool { c, _ := s.status(on, "/healthz"); return c == code })
}

func (s *site) says(vm *lab.NS, base, path, want string) {
	s.Helper()
	lab.Eventually(s, 30*time.Second, want, func() bool {
		got, err := vm.Exec(s.Context(), "curl", "-sSgf", "-m", "5", base+path)
		return err == nil && got == want
	})
}

// spaces are the endpoints that have a namespace on a hypervisor.
func (s *site) spaces(on int) (ids []string) {
	all, err := os.ReadDir(s.l.NetnsDir())
	require.NoError(s, err)
	for _, f := range all {
		if id, ok := strings.CutPrefix(f.Name(), fmt.Sprintf("%s.%s.metadata.", s.owner, s.hv[on].ChassisName)); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *site) stands(on int, ids ...string) {
	s.Helper()
	lab.Eventually(s, 30*time.Second, fmt.Sprintf("%v on %s", ids, s.hv[on].ChassisName), func() bool { return slices.Equal(s.spaces(on), ids) })
}

func (s *site) interfaces(on int, part string) []string {
	return strings.Fields(s.hv[on].Vsctl("--bare", "--columns=name", "find", "Interface", "external_ids:vnet\\:part="+part))
}

// ended sends SIGTERM and waits until the daemon has ended by itself.
func (s *site) ended(cmd *exec.Cmd, stop func()) {
	s.Helper()
	require.NoError(s, cmd.Process.Signal(syscall.SIGTERM))
	lab.Eventually(s, 30*time.Second, "the daemon's end", func() bool { return syscall.Kill(cmd.Process.Pid, 0) != nil })
	stop() // it waits for the exit status
	assert.True(s, cmd.ProcessState.Success(), "%s", cmd.ProcessState)
}

const (
	v4       = "http://169.254.169.254"
	v6       = "http://[fe80::a9fe:a9fe%25eth0]"
	hostname = "/latest/meta-data/hostname"
)

func TestDaemon(t *testing.T) {
	s := newSite(t)
	for i, n := range []string{"a", "b"} { // two tenants with the same addresses
		require.NoError(t, s.fabric.EnsureNetwork(t.Context(), overlay.Network{ID: "net-" + n, Segment: overlay.Segment{Type: overlay.Geneve, ID: uint32(i + 1)}}))
		require.NoError(t, s.metadata.EnsureEndpoint(t.Context(), metadata.Endpoint{ID: "ep-" + n, NetworkID: "net-" + n, PortID: "ep-" + n,
			MAC: vnet.MAC{2, 0xa9, 0xfe, 0, 0, byte(i)}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}))
	}
	a, b := s.machine("a", "net-a", "10.0.0.5", 0), s.machine("b", "net-b", "10.0.0.5", 0)
	c := s.machine("c", "net-a", "10.0.0.6", 1)

	// Not ours: a namespace that looks nearly so, and a device in the switch.
	s.hv[0].VM("foreign", "02:00:00:00:99:01")
	foreign := s.l.NS("foreign-ns")

	first, kill := s.agent(0)
	second, stop2 := s.agent(1, "-keep")
	s.healthy(0, 200)
	s.healthy(1, 200)

	t.Run("every machine gets its own from its own hypervisor", func(t *testing.T) {
		for vm, name := range map[*lab.NS]string{a: "a", b: "b", c: "c"} {
			s.says(vm, v4, hostname, name+".example.org")
			s.says(vm, v6, hostname, name+".example.org")
		}
		s.stands(0, "ep-a", "ep-b")
		s.stands(1, "ep-a")
	})
	t.Run("metrics", func(t *testing.T) {
		code, page := s.status(0, "/metrics")
		require.Equal(t, 200, code)
		for _, want := range []string{"vnet_metadata_requests_total{", "vnet_metadata_endpoints{", "vnet_ovn_", "go_goroutines "} {
			assert.Contains(t, page, want)
		}
		for _, line := range strings.Split(page, "\n") {
			if strings.HasPrefix(line, "vnet_metadata_endpoints{") {
				assert.True(t, strings.HasSuffix(line, " 2"), line)
			}
		}
		code, page = s.status(0, "/healthz")
		assert.Equal(t, 200, code)
		assert.Contains(t, page, `"complete":true`)
	})
	t.Run("machines come and go", func(t *testing.T) {
		d := s.machine("d", "net-b", "10.0.0.7", 1)
		s.says(d, v4, hostname, "d.example.org")
		require.NoError(t, s.plugs[1].Unplug(t.Context(), "d"))
		s.stands(1, "ep-a")
		s.says(b, v4, hostname, "b.example.org")
	})
	t.Run("without the Southbound it goes on", func(t *testing.T) {
		s.c.SB[0].Kill()
		s.healthy(0, 503)
		s.says(a, v4, hostname, "a.example.org")
		s.says(b, v4, hostname, "b.example.org")
		s.c.SB[0].Restart()
		s.healthy(0, 200)
		s.says(a, v4, hostname, "a.example.org")
		s.stands(0, "ep-a", "ep-b")
	})
	t.Run("ovn-controller leaves and comes back", func(t *testing.T) {
		s.hv[0].Leave()
		s.healthy(0, 503)
		assert.Equal(t, []string{"ep-a", "ep-b"}, s.spaces(0))
		s.hv[0].OVNController.Start()
		s.healthy(0, 200)
		s.says(a, v4, hostname, "a.example.org")
		s.says(b, v4, hostname, "b.example.org")
	})
	t.Run("ovs-vswitchd killed and started anew", func(t *testing.T) {
		s.hv[0].Vswitchd.Kill()
		s.hv[0].Vswitchd.Restart()
		s.says(a, v4, hostname, "a.example.org")
		s.says(b, v4, hostname, "b.example.org")
		s.healthy(0, 200)
	})
	t.Run("killed and started anew", func(t *testing.T) {
		before := s.interfaces(0, "metadata")
		require.Len(t, before, 2)
		name := filepath.Join(s.l.NetnsDir(), fmt.Sprintf("%s.hv1.metadata.ep-a", s.owner))
		was, err := os.Stat(name)
		require.NoError(t, err)
		require.NoError(t, first.Process.Kill())
		kill()
		s.stands(0, "ep-a", "ep-b")
		require.NoError(t, s.plugs[0].Unplug(t.Context(), "b")) // while nobody looks
		first, kill = s.agent(0)
		s.healthy(0, 200)
		s.says(a, v4, hostname, "a.example.org")
		s.stands(0, "ep-a")
		is, err := os.Stat(name)
		require.NoError(t, err)
		assert.True(t, os.SameFile(was, is), "the namespace is taken over")
		require.Len(t, s.interfaces(0, "metadata"), 1)
		assert.Contains(t, before, s.interfaces(0, "metadata")[0])
	})
	t.Run("stopped", func(t *testing.T) {
		s.ended(first, kill)
		assert.Empty(t, s.spaces(0))
		assert.Empty(t, s.interfaces(0, "metadata"))
		assert.Len(t, s.interfaces(0, "overlay"), 1, "the machine's stays")
		assert.Contains(t, s.hv[0].Vsctl("list-ports", "br-int"), "v-foreign")
		_, err := os.Stat(foreign.Path)
		assert.NoError(t, err)
		code, _ := s.status(0, "/healthz")
		assert.Zero(t, code)
	})
	t.Run("stopped to be started again", func(t *testing.T) {
		s.ended(second, stop2)
		assert.Equal(t, []string{"ep-a"}, s.spaces(1))
		second, stop2 = s.agent(1)
		s.says(c, v4, hostname, "c.example.org")
		s.ended(second, stop2)
		assert.Empty(t, s.spaces(1))
		assert.Empty(t, s.interfaces(1, "metadata"))
	})
	t.Run("nova", func(t *testing.T) {
		var l net.Listener
		require.NoError(t, s.hv[1].NS.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:8775"); return err }))
		got := make(chan http.Header, 10)
		api := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got <- r.Header.Clone()
			fmt.Fprint(w, "nova says "+r.URL.Path)
		})}
		go func() { _ = api.Serve(l) }()
		defer api.Close()
		secret := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(secret, []byte("very secret\n"), 0o600))
		cmd, stop := s.agent(1, "-nova-url", "http://127.0.0.1:8775", "-nova-secret-file", secret)
		s.says(c, v4, "/openstack/latest/user_data", "nova says /openstack/latest/user_data")
		h := <-got
		assert.Equal(t, "11111111-0000-4000-8000-000000000003", h.Get("X-Instance-ID"))
		assert.Equal(t, "project-net-a", h.Get("X-Tenant-ID"))
		assert.Len(t, h.Get("X-Instance-ID-Signature"), 64)
		s.ended(cmd, stop)
	})
}

// What is wrong with the flags is said, and the daemon ends.
func TestFlags(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "metadata-agent")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	good := filepath.Join(t.TempDir(), "instances.json")
	require.NoError(t, os.WriteFile(good, []byte(`{"instances": []}`), 0o600))
	for want, args := range map[string][]string{
		"-instances is not given": {"-owner", "x"},
		"no such argument":        {"start"},
		"not defined: -nonsense":  {"-nonsense"},
		"-nova-secret-file":       {"-owner", "x", "-instances", good, "-nova-url", "http://127.0.0.1:1"},
		"-ca: ":                   {"-owner", "x", "-instances", good, "-ca", "nowhere.pem"},
		"owner":                   {"-instances", good},
		"southbound":              {"-owner", "x", "-instances", good, "-southbound", "nonsense"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var errs bytes.Buffer
		cmd := exec.CommandContext(ctx, bin, append([]string{"-listen", ""}, args...)...)
		cmd.Stderr = &errs
		err := cmd.Run()
		cancel()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, want)
		assert.Positive(t, exit.ExitCode(), want)
		assert.Contains(t, errs.String(), want)
	}
}
