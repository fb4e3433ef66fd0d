package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/internal/lab"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/secgroup"
)

// A directory holds the state in parts: here a file each object.
func TestDirectory(t *testing.T) {
	s := newSite(t, topology.Linux)
	h := s.hosts["h1"]
	d := s.wanted("h1", "")
	h.state = filepath.Join(t.TempDir(), "state.d")
	require.NoError(t, os.Mkdir(h.state, 0o700))
	part := func(name string, v any) { t.Helper(); write(t, filepath.Join(h.state, name+".json"), v) }
	type parts = map[string]any
	for _, n := range d.Overlay.Networks {
		part("network-"+n.ID, parts{"overlay": parts{"networks": []any{n}}})
	}
	for _, p := range d.Overlay.Ports {
		part("port-"+p.ID, parts{"overlay": parts{"ports": []any{p}}})
	}
	part("remote", parts{"overlay": parts{"remote_ports": d.Overlay.RemotePorts}})
	part("groups", parts{"secgroup": d.SecGroup})
	part("router", parts{"router": d.Router})
	part("dhcp", parts{"dhcp": d.DHCP})
	part("metadata", parts{"metadata": d.Metadata})
	for _, a := range d.Attachments {
		part("plug-"+a.PortID, parts{"attachments": []any{a}})
	}
	// Neither of these is a part.
	require.NoError(t, os.WriteFile(filepath.Join(h.state, ".port.json"), []byte("{"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(h.state, "README"), []byte("x"), 0o600))
	status := filepath.Join(t.TempDir(), "status.json")
	h.start("-status", status)
	h.until("all of it stands", func(status int, x health) bool { return status == 200 && x.Behind.IsZero() })
	_, x := h.health()
	assert.NotEmpty(t, x.Applied)
	assert.Equal(t, x.Applied, x.Revision)
	s.boot("a1", "a2")
	s.reaches(s.vms["a1"], s.addr("a2").String())
	var told desired.Status
	b, err := os.ReadFile(status)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &told))
	assert.Equal(t, x.Applied, told.Applied)

	flow := s.traffic("a1", "a2")
	// A mistake in one file is told with its name, and all stays.
	port := d.Overlay.Ports[0]
	was := port.NetworkID
	port.NetworkID = "nowhere"
	part("port-"+port.ID, parts{"overlay": parts{"ports": []any{port}}})
	h.until("the mistake is told", func(status int, x health) bool {
		return x.SourceError == `port-`+port.ID+`.json: overlay.ports[0].network_id "nowhere" is no network of the state`
	})
	port.NetworkID = was
	part("port-"+port.ID, parts{"overlay": parts{"ports": []any{port}}})
	h.until("it is mended", func(status int, x health) bool { return status == 200 && x.SourceError == "" && x.Behind.IsZero() })
	// No files at all are no state.
	require.NoError(t, os.Rename(h.state, h.state+".away"))
	h.until("the directory is missed", func(status int, x health) bool { return strings.Contains(x.SourceError, "no such file") })
	require.NoError(t, os.Mkdir(h.state, 0o700))
	h.until("files are missed", func(status int, x health) bool { return strings.Contains(x.SourceError, "there is no .json file") })
	require.NoError(t, os.Remove(h.state))
	require.NoError(t, os.Rename(h.state+".away", h.state))
	h.until("they are back", func(status int, x health) bool { return status == 200 && x.SourceError == "" && x.Behind.IsZero() })
	flow.flows()
	flow.done()
	// A device is unplugged when its part goes.
	require.NoError(t, os.Remove(filepath.Join(h.state, "plug-"+d.Attachments[0].PortID+".json")))
	lab.Eventually(t, 30*time.Second, "eth0 has gone", func() bool {
		_, err := s.vms["a1"].Exec(t.Context(), "ip", "link", "show", "dev", "eth0")
		return err != nil
	})
}

// A state that would remove too much changes nothing, in no subsystem, until
// the operator says that it is meant.
func TestBudget(t *testing.T) { onEach(t, testBudget) }

func testBudget(t *testing.T, backend string) {
	s := newSite(t, backend)
	h := s.hosts["h1"]
	d := s.wanted("h1", "full")
	for i := range 30 {
		d.Overlay.Ports = append(d.Overlay.Ports, overlay.Port{ID: fmt.Sprint("more-", i), NetworkID: d.Overlay.Ports[0].NetworkID, MAC: vnet.MAC{2, 0, 0, 9, 9, byte(i)}, Host: "h1"})
	}
	write(t, h.state, d)
	h.start()
	h.applied("full")
	s.boot("a1", "a2")
	flow := s.traffic("a1", "a2")

	less := s.wanted("h1", "less")
	less.Overlay.Ports[0].AdminDown = true // which is not done either
	less.Router.FloatingIPs = nil
	write(t, h.state, less)
	h.until("the budget is told", func(status int, x health) bool {
		return x.Revision == "less" && x.Applied == "full" && strings.Contains(x.Error, "would delete 30 of ")
	})
	status, body := h.get("/plan")
	require.Equal(t, 200, status)
	var plan struct {
		Revision string
		vnet.Plan
	}
	require.NoError(t, json.Unmarshal([]byte(body), &plan))
	assert.Equal(t, "less", plan.Revision)
	assert.Equal(t, 30+1, plan.Count(vnet.Delete), "%s", plan.Plan)
	flow.flows()
	status, body = h.get("/explain?kind=floatingip&id=fip")
	assert.Equal(t, 200, status, body)

	less.Overlay.Ports[0].AdminDown = false
	less.Force = "full" // of another revision
	write(t, h.state, less)
	time.Sleep(200 * time.Millisecond)
	_, x := h.health()
	assert.Equal(t, "full", x.Applied)
	less.Force = "less"
	write(t, h.state, less)
	h.applied("less")
	flow.flows()

	// And all of it again, by the flag.
	d.Revision = "full again"
	write(t, h.state, d)
	h.applied("full again")
	h.end(syscall.SIGTERM)
	less.Revision, less.Force = "less again", ""
	write(t, h.state, less)
	h.start("-force")
	h.applied("less again")
	flow.done()
}

// Machines come later, move to another namespace, and are started anew.
func TestDevices(t *testing.T) { onEach(t, testDevices) }

func testDevices(t *testing.T, backend string) {
	s := newSite(t, backend)
	h := s.hosts["h1"]
	d := s.wanted("h1", "1")
	later := s.l.NS("later")
	path := later.Path
	s.l.Remove(later)
	a1 := d.Attachments[0]
	d.Attachments[0].Netns = path
	write(t, h.state, d)
	h.start("-retry-max", "200ms", "-max-lag", "0s")
	h.until("a1's port waits", func(status int, x health) bool {
		return status == 503 && len(x.Waiting) == 1 && x.Waiting[a1.PortID] != "" && x.Applied == "1"
	})
	s.vms["a1"] = s.l.NS("later")
	h.applied("1")
	s.boot("a1", "a2")
	s.reaches(s.vms["a1"], s.addr("a2").String())

	// It ends, and starts again in a namespace of the same name.
	s.l.Remove(s.vms["a1"])
	h.until("its device is missed", func(status int, x health) bool { return len(x.Waiting) == 1 })
	s.vms["a1"] = s.l.NS("later")
	h.until("it is back", func(status int, x health) bool { return status == 200 && len(x.Waiting) == 0 })
	s.boot("a1")
	s.reaches(s.vms["a1"], s.addr("a2").String())

	// It moves to another namespace, while no agent looks.
	h.end(syscall.SIGKILL)
	s.vms["a1"] = s.l.NS("moved")
	d.Revision, d.Attachments[0].Netns = "2", s.vms["a1"].Path
	write(t, h.state, d)
	h.start()
	h.applied("2")
	s.boot("a1")
	s.reaches(s.vms["a1"], s.addr("a2").String())

	// One that has renamed its device keeps it: what is said is another matter.
	flow := s.traffic("a2", "a1")
	s.vms["a1"].IP("link", "set", "dev", "eth0", "name", "ens3")
	h.end(syscall.SIGTERM)
	h.start()
	h.until("another device is told", func(status int, x health) bool {
		return strings.Contains(x.Waiting[a1.PortID], "the far end of device")
	})
	flow.flows()
	flow.done()
}

// What somebody has done to the host behind the agent's back is mended.
func TestDrift(t *testing.T) {
	s := newSite(t, topology.Linux)
	h := s.hosts["h1"]
	write(t, h.state, s.wanted("h1", "1"))
	h.start("-resync", "300ms")
	h.applied("1")
	s.boot("a1", "a2")
	s.reaches(s.vms["a1"], s.addr("a2").String())

	h.NS.IP("link", "del", "dev", h.device("a2")) // told by an event
	h.until("the port has a device again", func(status int, x health) bool {
		_, err := s.vms["a2"].Exec(t.Context(), "ip", "link", "show", "dev", "eth0")
		return err == nil
	})
	s.boot("a2")
	s.reaches(s.vms["a1"], s.addr("a2").String())
	for _, table := range []string{"bridge vnet-" + s.owner, "inet vnet-" + s.owner} { // found by a check
		_, err := h.Exec(t.Context(), "nft", "delete table "+table)
		require.NoError(t, err)
	}
	lab.Eventually(t, 30*time.Second, "tables are back", func() bool {
		out, _ := h.Exec(t.Context(), "nft", "list tables")
		return strings.Count(out, "vnet-"+s.owner) == 2
	})
	h.end(syscall.SIGTERM)
	h.start() // from here on there are events only
	h.applied("1")
	for _, kind := range []string{"network:red", "tunnel:red"} {
		dev := h.aliased("overlay:" + kind)
		h.NS.IP("link", "del", "dev", dev)
		lab.Eventually(t, 30*time.Second, kind+" is back", func() bool {
			_, err := h.Exec(t.Context(), "ip", "link", "show", "dev", dev)
			return err == nil
		})
	}
	h.until("all is well", func(status int, x health) bool { return status == 200 && x.Behind.IsZero() })
	s.reaches(s.vms["a1"], s.addr("a2").String())
	assert.NotZero(t, h.metric("vnet_agent_drift_total"))
	s.reaches(s.vms["a1"], "198.51.100.1")
	h.NS.IP("link", "del", "dev", "prov0") // the cable to the outside
	h.until("it is missed", func(status int, x health) bool { return x.Error != "" })
	s.l.Plug(s.l.Wire("provider"), h.NS, "prov0")
	h.until("it is back", func(status int, x health) bool { return status == 200 && x.Behind.IsZero() })
	s.reaches(s.vms["a1"], "198.51.100.1")
}

// device is the name of a machine's device on the host.
func (h *host) device(vm string) string {
	h.s.Helper()
	return h.aliased("overlay:port:" + h.s.topo.VM(vm).NICs[0].PortID)
}

// aliased is the name of the device that is something of ours.
func (h *host) aliased(what string) string {
	h.s.Helper()
	out := h.NS.IP("-o", "link", "show")
	for line := range strings.Lines(out) {
		if _, alias, _ := strings.Cut(strings.TrimSpace(line), "alias "); strings.HasPrefix(alias, "vnet:"+h.s.owner+":"+what) {
			name, _, _ := strings.Cut(strings.TrimSuffix(strings.Fields(line)[1], ":"), "@")
			return name
		}
	}
	h.s.Fatalf("no device is %s on %s:\n%s", what, h.name, out)
	return ""
}

// A router changes to a new network in one revision in which its old one goes:
// the one must come before it, the other can go only after.
func TestNetworkReplaced(t *testing.T) { onEach(t, testNetworkReplaced) }

func testNetworkReplaced(t *testing.T, backend string) {
	s := newSite(t, backend)
	h := s.hosts["h1"]
	d := s.wanted("h1", "1")
	write(t, h.state, d)
	h.start()
	h.applied("1")
	s.boot("a1", "a2")
	flow := s.traffic("a1", "a2")
	next := d
	next.Revision = "2"
	var err error
	next.State, err = clone(d.State)
	require.NoError(t, err)
	blue := overlay.Network{ID: "blue", Segment: s.segment(77)}
	next.Overlay.Networks = append(next.Overlay.Networks, blue)
	r := &next.Router.Routers[0]
	r.Interfaces = append(r.Interfaces, router.Interface{PortID: "r1-blue", NetworkID: "blue", MAC: vnet.MAC{2, 0, 0, 7, 7, 7}, Addresses: mustPrefixes("10.7.0.1/24")})
	write(t, h.state, next)
	h.applied("2")
	// Now blue goes and green comes.
	next.Revision = "3"
	next.Overlay.Networks[len(next.Overlay.Networks)-1] = overlay.Network{ID: "green", Segment: s.segment(78)}
	last := &r.Interfaces[len(r.Interfaces)-1]
	last.PortID, last.NetworkID = "r1-green", "green"
	write(t, h.state, next)
	h.applied("3")
	flow.flows()
	flow.done()
}

// After a restart machines still get leases, advertisements and metadata.
func TestServes(t *testing.T) { onEach(t, testServes) }

func testServes(t *testing.T, backend string) {
	lab.Need(t, "udhcpc", "rdisc6", "curl")
	s := newSite(t, backend)
	s.up("1")
	check := func() {
		t.Helper()
		for _, n := range []string{"a1", "b1"} {
			vm := s.vms[n]
			vm.Up("eth0")
			lab.Eventually(t, 30*time.Second, n+" gets its lease", func() bool {
				out, err := vm.Exec(t.Context(), "udhcpc", "-i", "eth0", "-n", "-q", "-t", "2", "-T", "1", "-s", "/bin/true")
				return err == nil || strings.Contains(out, s.addr(n).String())
			})
			lab.Eventually(t, 30*time.Second, n+" is advertised to", func() bool {
				out, err := vm.Exec(t.Context(), "rdisc6", "-1", "-q", "-r", "1", "-w", "1000", "eth0")
				return err == nil && strings.Contains(out, "2001:db8:1::/64")
			})
		}
		lab.Eventually(t, 30*time.Second, "a1 is told its name", func() bool {
			out, err := s.vms["a1"].Exec(t.Context(), "curl", "-sSgf", "-m", "5", "http://169.254.169.254/latest/meta-data/hostname")
			return err == nil && strings.HasPrefix(out, "a1")
		})
	}
	s.boot("a1", "b1")
	check()
	for _, h := range s.hosts {
		h.end(syscall.SIGTERM)
	}
	for _, h := range s.hosts {
		h.start()
		h.applied("1")
	}
	check()
}

// What cannot work is refused with its reason, and a second agent with it.
func TestRefusals(t *testing.T) {
	s := newSite(t, topology.Linux)
	h := s.hosts["h1"]
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-owner", "Not Ours"}, "-owner: "},
		{[]string{"-backend", "vax"}, `-backend: there is no "vax", but `},
		{nil, "-state: is missing"},
		{[]string{"-state", "x", "-tunnel-ip", "1.2.3"}, "-tunnel-ip: "},
		{[]string{"-state", "x", "-physical", "a"}, `is not NAME=DEVICE`},
		{[]string{"-state", "x", "-peers", "h2=there"}, `is not HOST=ADDRESS`},
		{[]string{"-state", "/x", "-status", "/x/y.json"}, "-status: /x/y.json is in the directory of the state"},
		{[]string{"-state", "x", "-resync", "0s"}, "-resync: 0s is not more than 0"},
	} {
		_, err := h.Exec(t.Context(), bin, append(append([]string(nil), h.args...), c.args...)...)
		require.ErrorContains(t, err, c.want)
	}
	write(t, h.state, s.wanted("h1", "1"))
	h.start()
	h.applied("1")
	_, err := h.Exec(t.Context(), bin, append(append([]string(nil), h.args...), "-state", h.state)...)
	require.ErrorContains(t, err, "another agent of owner "+s.owner+" runs on h1")
	// Without instances nobody could answer for an endpoint.
	h.end(syscall.SIGTERM)
	h.start("-instances", "")
	h.until("the endpoints are refused", func(status int, x health) bool {
		return strings.Contains(x.SourceError, "metadata.endpoints are wanted")
	})
}

// One network that cannot be on this host stops nothing but what needs it.
func TestOneIsNotAll(t *testing.T) {
	s := newSite(t, topology.Linux)
	h := s.hosts["h1"]
	d := s.wanted("h1", "1")
	d.Overlay.Networks = append(d.Overlay.Networks, overlay.Network{ID: "tagged", Segment: overlay.Segment{Type: overlay.Geneve, ID: 100}})
	write(t, h.state, d)
	h.start("-physical", "provider=nosuch", "-max-lag", "0s")
	h.until("what is wrong is told", func(status int, x health) bool {
		return status == 503 && x.Applied == "" && strings.Contains(x.Error, "geneve segments not supported") && strings.Contains(x.Error, "nosuch")
	})
	h.until("the devices are plugged", func(status int, x health) bool { return len(x.Waiting) == 0 })
	s.boot("a1", "a2")
	s.reaches(s.vms["a1"], s.addr("a2").String())
	d.Overlay.Networks = d.Overlay.Networks[:len(d.Overlay.Networks)-1]
	write(t, h.state, d)
	h.end(syscall.SIGTERM)
	h.start()
	h.applied("1")
	s.reaches(s.vms["a1"], "198.51.100.1")
}

// Killed at any point between one state and another, the agent finishes when it
// is started again; what both states allow flows on all the while.
func TestKilledAnywhere(t *testing.T) { onEach(t, testKilledAnywhere) }

func testKilledAnywhere(t *testing.T, backend string) {
	s := newSite(t, backend)
	h := s.hosts["h1"]
	small := s.wanted("h1", "0")
	write(t, h.state, small)
	h.start()
	h.applied("0")
	s.boot("a1", "a2")
	flow := s.traffic("a1", "a2")
	big, err := clone(small.State)
	require.NoError(t, err)
	vm := s.l.NS("more")
	for i := range 5 {
		id := fmt.Sprint("more-", i)
		big.Overlay.Networks = append(big.Overlay.Networks, overlay.Network{ID: id, Segment: s.segment(uint32(100 + i))})
		port := overlay.Port{ID: id, NetworkID: id, MAC: vnet.MAC{2, 0, 0, 8, 8, byte(i)}, FixedIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 8, byte(i), 9})}, Filtered: true}
		big.Overlay.Ports = append(big.Overlay.Ports, port)
		big.SecGroup.Ports = append(big.SecGroup.Ports, secgroup.Port{ID: id, NetworkID: id, MAC: port.MAC, FixedIPs: port.FixedIPs, Groups: []string{"open"}})
		big.Attachments = append(big.Attachments, overlay.Attachment{PortID: id, Kind: overlay.Veth, Name: fmt.Sprint("eth", i), Netns: vm.Path})
		big.Router.Routers = append(big.Router.Routers, router.Router{ID: id, Interfaces: []router.Interface{{PortID: "r-" + id, NetworkID: id,
			MAC: vnet.MAC{2, 0, 0, 8, 9, byte(i)}, Addresses: mustPrefixes(fmt.Sprintf("10.8.%d.1/24", i))}}})
	}
	for i := range 12 {
		h.end(syscall.SIGKILL)
		d := document{Revision: fmt.Sprint(i + 1), State: small.State}
		if i%2 == 0 {
			d.State = big
		}
		d.Force = d.Revision
		write(t, h.state, d)
		h.start()
		time.Sleep(time.Duration(40+rand.IntN(100)) * time.Millisecond) // anywhere in it
	}
	h.end(syscall.SIGKILL)
	last := document{Revision: "last", State: small.State, Force: "last"}
	write(t, h.state, last)
	h.start()
	h.applied("last")
	out := h.NS.IP("-o", "link", "show")
	assert.NotContains(t, out, "more-", "nothing is left of the other state")
	last.State, last.Revision = big, "very last"
	write(t, h.state, last)
	h.applied("very last")
	flow.flows()
	flow.done()
	for i := range 5 {
		vm.Configure(fmt.Sprint("eth", i), []string{fmt.Sprintf("10.8.%d.9/24", i)})
		s.reaches(vm, fmt.Sprintf("10.8.%d.1", i))
	}
}

// The sample of the README works as it says.
func TestSample(t *testing.T) {
	l := lab.New(t)
	h := &host{Host: &lab.Host{NS: l.NS("host")}, s: &site{T: t, l: l, backend: topology.Linux}, name: "host", state: filepath.Join(t.TempDir(), "state.json"),
		args: []string{"-owner", l.Owner(""), "-dir", t.TempDir(), "-netns-dir", l.NetnsDir()}}
	t.Cleanup(h.cleanup)
	text, err := os.ReadFile("state.json")
	require.NoError(t, err)
	vms := []*lab.NS{l.NS("vm1"), l.NS("vm2")}
	for _, vm := range vms {
		text = []byte(strings.ReplaceAll(string(text), "/run/netns/"+vm.Short, vm.Path))
	}
	writeText(t, h.state, string(text))
	h.start()
	h.until("it is well", func(status int, x health) bool { return status == 200 && x.Behind.IsZero() })
	vms[0].Configure("eth0", []string{"10.0.0.10/24"})
	vms[1].Configure("eth0", []string{"10.0.0.11/24"})
	h.s.reaches(vms[0], "10.0.0.11")
}
